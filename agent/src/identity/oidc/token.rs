//! Taking a signed token apart (RFC 7515, RFC 7519), before anything in it is believed.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use openidconnect::core::CoreJwsSigningAlgorithm as Alg;
use serde_json::{Map, Value};

use super::{MAX_TOKEN, json};
use crate::identity::verified::Claims;

/// The longest signature, in bytes: RSA with 8192 bits.
const MAX_SIGNATURE: usize = 1024;

/// Why something is no token that is looked at any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN`].
    #[error("it has more than {MAX_TOKEN} bytes")]
    Long,
    /// It has not three parts, or they are no base64url.
    #[error("it is no signed JWT")]
    NoJwt,
    /// It is encrypted, compressed, or holds another token.
    #[error("it is encrypted, or a token in a token")]
    Nested,
    /// Its header or claims are no JSON object, or have a name twice.
    #[error("its {0} are no JSON object in which each name stands once")]
    Json(&'static str),
    /// Its header brings its own key, or says where to get one.
    #[error("its header brings a key of its own ({0})")]
    OwnKey(&'static str),
    /// Its header demands what is not known here.
    #[error("its header demands what is not known here (crit)")]
    Critical,
    /// It is not signed with a public key.
    #[error("it is not signed by an algorithm with a public key")]
    Algorithm,
    /// Its header says it is something else.
    #[error("its header says that it is no JWT (typ)")]
    Type,
}

/// A token taken apart. Nothing in it is proven. It is neither cloned nor shown.
pub(super) struct Parts<'t> {
    /// What signs it.
    pub(super) algorithm: Alg,
    /// Which key signs it, as it says.
    pub(super) key_id: Option<String>,
    /// What is signed.
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
    pub(super) claims: Claims,
}

/// The algorithms that count: with a public key, and only those that the library verifies.
pub(super) fn algorithm(word: &str) -> Option<Alg> {
    Some(match word {
        "RS256" => Alg::RsaSsaPkcs1V15Sha256,
        "RS384" => Alg::RsaSsaPkcs1V15Sha384,
        "RS512" => Alg::RsaSsaPkcs1V15Sha512,
        "PS256" => Alg::RsaSsaPssSha256,
        "PS384" => Alg::RsaSsaPssSha384,
        "PS512" => Alg::RsaSsaPssSha512,
        "ES256" => Alg::EcdsaP256Sha256,
        "ES384" => Alg::EcdsaP384Sha384,
        "EdDSA" => Alg::EdDsa,
        _ => return None,
    })
}

impl<'t> Parts<'t> {
    pub(super) fn of(token: &'t str) -> Result<Self, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Empty);
        }
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Long);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::NoJwt)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::NoJwt)?;
        match claims.matches('.').count() {
            0 => {}
            // JWE has five parts (RFC 7516).
            2 => return Err(TokenError::Nested),
            _ => return Err(TokenError::NoJwt),
        }
        let decode = |text: &str| BASE64.decode(text).map_err(|_| TokenError::NoJwt);
        let header = json::object(&decode(header)?).map_err(|_| TokenError::Json("header"))?;
        let (algorithm, key_id) = check(&header)?;
        let signature = decode(signature)?;
        if signature.is_empty() || signature.len() > MAX_SIGNATURE {
            return Err(TokenError::NoJwt);
        }
        let claims = json::object(&decode(claims)?).map_err(|_| TokenError::Json("claims"))?;
        Ok(Self {
            algorithm,
            key_id,
            signed: signed.as_bytes(),
            signature,
            claims: claims.into_iter().collect(),
        })
    }
}

fn check(header: &Map<String, Value>) -> Result<(Alg, Option<String>), TokenError> {
    for name in ["jwk", "jku", "x5u", "x5c"] {
        if header.contains_key(name) {
            return Err(TokenError::OwnKey(name));
        }
    }
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(TokenError::Critical);
    }
    if ["cty", "enc", "zip", "epk"].iter().any(|name| header.contains_key(*name)) {
        return Err(TokenError::Nested);
    }
    match header.get("typ") {
        None => {}
        // Access tokens (`at+jwt`) and others are not made to say who someone is.
        Some(Value::String(typ)) if typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("JOSE") => {}
        Some(_) => return Err(TokenError::Type),
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(algorithm);
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) if id.len() <= 1024 => Some(id.clone()),
        Some(_) => return Err(TokenError::Json("header's members")),
    };
    Ok((algorithm.ok_or(TokenError::Algorithm)?, key_id))
}
