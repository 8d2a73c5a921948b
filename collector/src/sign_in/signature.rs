//! XML signatures, of the one shape that SAML has: around nothing but the element that they stand in, which
//! they name by its ID.
//!
//! No library does this without libxml2 and OpenSSL, or 150 packages of algorithms that must not be used here.
//! So there is the least that is needed, and what is verified is given back as the bytes that were signed: who
//! reads those cannot read something else (signature wrapping).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use roxmltree::Node;
use x509_parser::prelude::FromDer as _;

use super::xml::{XmlError, canonical, elements, is, text, the};

pub(super) const DS: &str = "http://www.w3.org/2000/09/xmldsig#";
const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";

/// A key that an identity provider signs with, from its certificate.
#[derive(Debug, Clone)]
pub(super) struct Key {
    kind: Kind,
    public: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
}

fn wrong(text: impl Into<String>) -> XmlError {
    XmlError(text.into())
}

impl Key {
    /// The key of a certificate. Who has issued it and until when it holds means nothing in SAML: it counts
    /// because it stands in the provider's metadata.
    pub(super) fn from_certificate(der: &[u8]) -> Result<Self, XmlError> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|error| wrong(format!("a certificate is none: {error}")))?;
        let info = certificate.public_key();
        let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let kind =
            match (info.algorithm.algorithm.to_id_string().as_str(), curve.map(|oid| oid.to_id_string())) {
                ("1.2.840.113549.1.1.1", _) => Kind::Rsa,
                ("1.2.840.10045.2.1", Some(curve)) if curve == "1.2.840.10045.3.1.7" => Kind::P256,
                ("1.2.840.10045.2.1", Some(curve)) if curve == "1.3.132.0.34" => Kind::P384,
                (other, _) => {
                    return Err(wrong(format!(
                        "a certificate has a key that is neither RSA nor on P-256 or P-384 ({other})"
                    )));
                }
            };
        Ok(Self { kind, public: info.subject_public_key.data.to_vec() })
    }

    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match (algorithm, self.kind) {
            ("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", Kind::Rsa) => {
                &signature::RSA_PKCS1_2048_8192_SHA256
            }
            ("http://www.w3.org/2001/04/xmldsig-more#rsa-sha384", Kind::Rsa) => {
                &signature::RSA_PKCS1_2048_8192_SHA384
            }
            ("http://www.w3.org/2001/04/xmldsig-more#rsa-sha512", Kind::Rsa) => {
                &signature::RSA_PKCS1_2048_8192_SHA512
            }
            ("http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", Kind::P256) => {
                &signature::ECDSA_P256_SHA256_FIXED
            }
            ("http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", Kind::P384) => {
                &signature::ECDSA_P384_SHA384_FIXED
            }
            _ => return false,
        };
        UnparsedPublicKey::new(algorithm, &self.public).verify(message, signature).is_ok()
    }
}

const ALGORITHMS: [&str; 5] = [
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384",
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512",
    "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256",
    "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384",
];

/// Base64 with line breaks.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, XmlError> {
    let plain: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(plain).map_err(|_| wrong("something is no base64"))
}

fn algorithm<'n>(node: Node<'n, '_>) -> &'n str {
    node.attribute("Algorithm").unwrap_or_default()
}

/// The prefixes of an exclusive canonicalisation's InclusiveNamespaces; anything else in it is refused.
fn inclusive<'n>(node: Node<'n, '_>) -> Result<Vec<&'n str>, XmlError> {
    let mut prefixes = Vec::new();
    for child in elements(node) {
        if !is(child, EXCLUSIVE, "InclusiveNamespaces") || !prefixes.is_empty() {
            return Err(wrong("its canonicalisation has parameters that are not known"));
        }
        prefixes = child.attribute("PrefixList").unwrap_or_default().split_ascii_whitespace().collect();
        if prefixes.len() > 20 {
            return Err(wrong("its canonicalisation names too many prefixes"));
        }
    }
    Ok(prefixes)
}

/// Verifies the signature that stands directly in `signed` by one of `keys`, and gives the bytes that it is of.
pub(super) fn verify(
    signed: Node<'_, '_>,
    signature: Node<'_, '_>,
    keys: &[Key],
) -> Result<String, XmlError> {
    if signature.parent() != Some(signed) || !is(signature, DS, "Signature") {
        return Err(wrong("a signature stands elsewhere than in what it signs"));
    }
    let parts: Vec<&str> = elements(signature)
        .map(|part| if part.tag_name().namespace() == Some(DS) { part.tag_name().name() } else { "" })
        .collect();
    if !matches!(
        parts.as_slice(),
        ["SignedInfo", "SignatureValue"] | ["SignedInfo", "SignatureValue", "KeyInfo"]
    ) {
        return Err(wrong("a signature has other parts than it should"));
    }
    let info = the(signature, DS, "SignedInfo")?;
    let parts: Vec<&str> = elements(info).map(|part| part.tag_name().name()).collect();
    if parts != ["CanonicalizationMethod", "SignatureMethod", "Reference"] {
        return Err(wrong("a signature does not sign exactly one thing"));
    }
    let (method, how) = (the(info, DS, "CanonicalizationMethod")?, the(info, DS, "SignatureMethod")?);
    let reference = the(info, DS, "Reference")?;
    if algorithm(method) != EXCLUSIVE {
        return Err(wrong("a signature is not made over the exclusive canonical form"));
    }
    if !ALGORITHMS.contains(&algorithm(how)) || elements(how).next().is_some() {
        return Err(wrong(format!(
            "{:?} is not taken as a signature: let the provider sign with RSA or ECDSA and SHA-256",
            super::said(algorithm(how))
        )));
    }

    // Its one reference is to the element that it stands in.
    let id = signed.attribute("ID").filter(|id| !id.is_empty());
    let named = reference.attribute("URI").and_then(|uri| uri.strip_prefix('#'));
    if id.is_none() || named != id {
        return Err(wrong("a signature is of something else than what it stands in"));
    }
    let parts: Vec<&str> = elements(reference).map(|part| part.tag_name().name()).collect();
    if parts != ["Transforms", "DigestMethod", "DigestValue"] {
        return Err(wrong("a signature's reference has other parts than it should"));
    }
    let transforms: Vec<Node<'_, '_>> = elements(the(reference, DS, "Transforms")?).collect();
    let [first, second] = transforms.as_slice() else {
        return Err(wrong("a signature has other transformations than it should"));
    };
    let right = is(*first, DS, "Transform") && is(*second, DS, "Transform");
    if !right
        || algorithm(*first) != ENVELOPED
        || algorithm(*second) != EXCLUSIVE
        || elements(*first).next().is_some()
    {
        return Err(wrong("a signature has other transformations than it should"));
    }
    let hash = match algorithm(the(reference, DS, "DigestMethod")?) {
        "http://www.w3.org/2001/04/xmlenc#sha256" => &digest::SHA256,
        "http://www.w3.org/2001/04/xmldsig-more#sha384" => &digest::SHA384,
        "http://www.w3.org/2001/04/xmlenc#sha512" => &digest::SHA512,
        other => {
            return Err(wrong(format!(
                "{:?} is not taken as a digest: let the provider use SHA-256",
                super::said(other)
            )));
        }
    };
    let bytes = canonical(signed, Some(signature), &inclusive(*second)?)?;
    let expected = base64(&text(the(reference, DS, "DigestValue")?)?)?;
    if digest::digest(hash, bytes.as_bytes()).as_ref() != expected.as_slice() {
        return Err(wrong("what is signed was altered"));
    }

    let message = canonical(info, None, &inclusive(method)?)?;
    let value = base64(&text(the(signature, DS, "SignatureValue")?)?)?;
    // Which key it says it was made with (KeyInfo) is of no interest.
    if !keys.iter().any(|key| key.verifies(algorithm(how), message.as_bytes(), &value)) {
        return Err(wrong("a signature is by none of the certificates in the provider's metadata"));
    }
    Ok(bytes)
}
