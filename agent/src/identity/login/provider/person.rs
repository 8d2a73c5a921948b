//! Who a provider's tokens are about: what it has signed, and what it says of them besides.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use oauth2::TokenResponse as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::{Provider, SignInError, Tokens, constant_time, said};
use crate::identity::oidc::Endpoints;
use crate::identity::verified::Claims;
use crate::identity::{GroupsKnown, Verified};

/// An ID token that was made longer ago than this is not of this sign-in.
const OLDEST: Duration = Duration::from_secs(10 * 60);

/// Groups of one person that are looked at; nobody is signed in with more, rather than with a part of them.
const MOST_GROUPS: usize = 2000;

/// The longest answer about a person that is read, in bytes.
const MAX_USERINFO: usize = 128 << 10;

/// Who has signed in.
pub(in crate::identity::login) struct SignedIn {
    pub(in crate::identity::login) person: Verified,
    /// The same with nothing but what the provider has signed.
    pub(in crate::identity::login) signed: Verified,
    pub(in crate::identity::login) refresh: Option<Zeroizing<String>>,
}

impl Provider {
    /// That somebody has proven who they are no earlier than at `since`, by the provider's word.
    ///
    /// # Errors
    /// They have not, or it does not say.
    pub(in crate::identity::login) fn check_fresh(
        &self,
        person: &Verified,
        since: Timestamp,
    ) -> Result<(), SignInError> {
        let name = Arc::clone(self.name());
        // The clocks may be apart, and `auth_time` is in whole seconds.
        let skew = Duration::from_secs(u64::from(self.issuer.config().clock_skew_seconds).max(1));
        match person.authenticated {
            None => Err(SignInError::NotAnew(
                name,
                "does not say when you have shown who you are (auth_time), so nothing there is a fresh sign-in"
                    .to_owned(),
            )),
            Some(at) if at < since && since.duration_since(at).unsigned_abs() > skew => {
                Err(SignInError::NotAnew(
                    name,
                    format!(
                        "has not asked you anew (the last time was {at:.0}): sign out there, or open the address in a \
                         private window, and try again; --browser may ask where --device does not"
                    ),
                ))
            }
            Some(_) => Ok(()),
        }
    }

    /// Who the tokens are about.
    pub(super) fn accept(&self, tokens: &Tokens, nonce: Option<&str>) -> Result<SignedIn, SignInError> {
        let Some(id_token) = &tokens.extra_fields().id_token else {
            return Err(self.untrusted("it has no ID token: is the scope openid allowed?"));
        };
        let person = self.verify(id_token)?;
        let claim = |name: &str| person.claims.get(name);
        match (nonce, claim("nonce").map(Value::as_str)) {
            (Some(asked), Some(Some(said))) if constant_time(asked, said) => {}
            (Some(_), _) => return Err(self.untrusted("its ID token is of another sign-in (nonce)")),
            // The device flow has none: the token comes from the provider itself.
            (None, _) => {}
        }
        let made = claim("iat").and_then(Value::as_i64).and_then(|made| Timestamp::from_second(made).ok());
        let skew = Duration::from_secs(self.issuer.config().clock_skew_seconds.into());
        let now = Timestamp::now();
        if made.is_none_or(|made| now > made && now.duration_since(made).unsigned_abs() > OLDEST + skew) {
            return Err(self.untrusted("its ID token was not made just now (iat)"));
        }
        self.check_hash(id_token, &person, tokens.access_token().secret())?;
        let signed = person.clone();
        let more = if self.lacks(&signed) {
            let endpoints = self.endpoints()?;
            self.userinfo(&endpoints, &signed, tokens.access_token().secret())?
        } else {
            None
        };
        let person = more.map_or(person, |more| self.issuer.with_more(&signed, more));
        self.check_groups(&person)?;
        let refresh = tokens.refresh_token().map(|token| Zeroizing::new(token.secret().clone()));
        Ok(SignedIn { person, signed, refresh })
    }

    pub(super) fn verify(&self, token: &Zeroizing<String>) -> Result<Verified, SignInError> {
        self.issuer.verify(token).map_err(|error| self.untrusted(&error.to_string()))
    }

    /// OpenID Connect Core, section 3.1.3.8: the ID token names the access token that came with it.
    pub(super) fn check_hash(
        &self,
        id_token: &str,
        person: &Verified,
        access: &str,
    ) -> Result<(), SignInError> {
        let Some(said) = person.claims.get("at_hash") else { return Ok(()) };
        let wrong = || self.untrusted("its ID token is about another access token (at_hash)");
        let header = id_token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let header: Value =
            header.and_then(|header| serde_json::from_slice(&header).ok()).ok_or_else(wrong)?;
        let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let digest = match algorithm.get(2..) {
            _ if algorithm == "EdDSA" => Sha512::digest(access).to_vec(),
            Some("256") => Sha256::digest(access).to_vec(),
            Some("384") => Sha384::digest(access).to_vec(),
            Some("512") => Sha512::digest(access).to_vec(),
            _ => return Err(wrong()),
        };
        let half = URL_SAFE_NO_PAD.encode(digest.get(..digest.len() / 2).unwrap_or_default());
        let same = said.as_str().is_some_and(|said| constant_time(said.trim_end_matches('='), &half));
        if same { Ok(()) } else { Err(wrong()) }
    }

    pub(super) fn check_groups(&self, person: &Verified) -> Result<(), SignInError> {
        if person.groups_known == GroupsKnown::Partly {
            return Err(self.untrusted(
                "it does not tell all groups of the person (some are no text, too long, or stand elsewhere): \
                 have it name only those that concern Interlock, as texts, in the token",
            ));
        }
        if person.groups.len() > MOST_GROUPS {
            return Err(self.untrusted(&format!(
                "it names more than {MOST_GROUPS} groups of the person: have it name those that concern Interlock"
            )));
        }
        Ok(())
    }

    /// The token does not say in which groups they are.
    pub(super) fn lacks(&self, person: &Verified) -> bool {
        person.groups.is_empty()
    }

    /// What the provider says of a person beyond the ID token. `None` where it has no such place.
    pub(super) fn userinfo(
        &self,
        endpoints: &Endpoints,
        person: &Verified,
        access: &str,
    ) -> Result<Option<Claims>, SignInError> {
        let Some(place) = &endpoints.userinfo_endpoint else { return Ok(None) };
        let unavailable = |error: String| SignInError::Unavailable(Arc::clone(self.name()), said(&error));
        let request = oauth2::http::Request::get(place.as_str())
            .header("Accept", "application/json")
            .header("Authorization", format!("Bearer {access}"))
            .body(Vec::new())
            .map_err(|error| unavailable(error.to_string()))?;
        let answer = self.issuer.http().send(request).map_err(|error| unavailable(error.to_string()))?;
        match answer.status().as_u16() {
            200 => {}
            401 | 403 => {
                let word =
                    format!("it does not tell more of the person (status {})", answer.status().as_u16());
                return Err(SignInError::Revoked(Arc::clone(self.name()), word));
            }
            status => return Err(unavailable(format!("it answers with status {status}"))),
        }
        if answer.body().len() > MAX_USERINFO {
            return Err(self.untrusted("what it says of the person is too long"));
        }
        let more: Claims = serde_json::from_slice(answer.body())
            .map_err(|_| self.untrusted("what it says of the person is no JSON object"))?;
        // OpenID Connect Core, section 5.3.2.
        if more.get("sub").and_then(Value::as_str) != Some(&person.subject) {
            return Err(self.untrusted("what it says is about somebody else (sub)"));
        }
        Ok(Some(more))
    }
}
