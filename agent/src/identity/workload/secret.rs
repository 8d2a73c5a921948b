//! What tells a token to another machine without telling the token.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use interlock_recording::chain::Hash;
use jiff::Timestamp;
use serde_json::Value;

use super::digest;

/// A text that is no JWT tells nothing by its hash if it is at least so long.
const LONG: usize = 32;

/// Reads all that anybody reads as base64url: who writes a token in another way has the same one.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A hash of all of a token, by which a collector tells it from others. Without the signature nobody can make
/// it up, and it gives none away. `None` for a text that could be guessed.
pub(super) fn digest_of(text: &str) -> Option<Hash> {
    let text = text.trim();
    if let Some((signed, signature)) = text.rsplit_once('.')
        && let Some((header, _)) = signed.split_once('.')
        && let Some(signature) = decoded(signature)
    {
        // Of ECDSA there are two signatures to each, and anybody can make one of the other. The first half is in
        // both.
        let half = if is_ecdsa(header) { signature.len() / 2 } else { signature.len() };
        let signature = signature.get(..half).filter(|part| part.len() >= LONG)?;
        return Some(digest(&[b"interlock token", signed.as_bytes(), signature]));
    }
    (text.len() >= LONG).then(|| digest(&[b"interlock opaque token", text.as_bytes()]))
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    LENIENT.decode(part.replace('+', "-").replace('/', "_")).ok()
}

fn is_ecdsa(header: &str) -> bool {
    let header: Option<Value> = decoded(header).and_then(|header| serde_json::from_slice(&header).ok());
    let algorithm = header.as_ref().and_then(|header| header.get("alg")?.as_str());
    algorithm.is_some_and(|algorithm| algorithm.starts_with("ES"))
}

/// When a JWT that somebody else has verified was issued, if it says so.
pub(super) fn issued(text: &str) -> Option<Timestamp> {
    time_in(text, "iat")
}

/// When it ends, if it says so. Nobody has verified that here: it may only be held longer by it.
pub(super) fn expires(text: &str) -> Option<Timestamp> {
    time_in(text, "exp")
}

fn time_in(text: &str, claim: &str) -> Option<Timestamp> {
    let claims = decoded(text.trim().split('.').nth(1)?)?;
    issued_at(serde_json::from_slice::<Value>(&claims).ok()?.get(claim)?)
}

/// A time as JWTs have it.
pub(super) fn issued_at(claim: &Value) -> Option<Timestamp> {
    let seconds = claim.as_i64().or_else(|| claim.as_f64().map(|seconds| seconds as i64))?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::oidc::fake::{Key, Server};

    #[test]
    fn a_token_is_the_same_however_it_is_written_and_nobody_makes_up_its_hash() {
        let server = Server::start();
        let (ec, ed) = (Key::ec("1"), Key::ed("2"));
        for key in [&ec, &ed] {
            let token = key.sign(&server.claims());
            let hash = digest_of(&token).unwrap();
            let (signed, signature) = token.rsplit_once('.').unwrap();
            for same in [format!(" {}\n", *token), format!("{}==", *token)] {
                assert_eq!(digest_of(&same), Some(hash), "{same}");
            }
            // Bits that are no part of it.
            let mut last = signature.to_owned();
            let end = last.pop().unwrap();
            last.push(if end == 'A' { 'B' } else { char::from_u32(u32::from(end) ^ 1).unwrap() });
            if decoded(&last) == decoded(signature) {
                assert_eq!(digest_of(&format!("{signed}.{last}")), Some(hash));
            }
            // What is known of it without having it, and another signature, do not make it.
            assert_eq!(digest_of(&format!("{signed}.")), None);
            assert_ne!(digest_of(&format!("{signed}.{}", "A".repeat(86))), Some(hash));
            assert_ne!(digest_of(&key.sign(&json!({"sub": "other"}))), Some(hash));
        }
        // The other signature of ECDSA, which anybody can work out from the first.
        let token = ec.sign(&server.claims());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = decoded(signature).unwrap();
        bytes[32..].iter_mut().for_each(|byte| *byte = !*byte);
        let other = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(&bytes);
        assert_eq!(digest_of(&format!("{signed}.{other}")), digest_of(&token));
    }

    #[test]
    fn what_could_be_guessed_is_not_told() {
        assert_eq!(digest_of("of-the-job"), None);
        assert_eq!(digest_of("a.b.c"), None);
        assert_eq!(digest_of(""), None);
        let long = "x".repeat(40);
        assert!(digest_of(&long).is_some() && digest_of(&long) != digest_of(&"y".repeat(40)));
    }

    #[test]
    fn a_token_says_when_it_was_issued() {
        let token = Key::ec("1").sign(&json!({"iat": 1_700_000_000, "exp": 1_700_000_600}));
        assert_eq!(issued(&token).unwrap().as_second(), 1_700_000_000);
        assert_eq!(expires(&token).unwrap().as_second(), 1_700_000_600);
        assert_eq!(issued_at(&json!(1_700_000_000.7)).unwrap().as_second(), 1_700_000_000);
        for none in ["", "a.b.c", "opaque"] {
            assert_eq!((issued(none), expires(none)), (None, None));
        }
        assert!(issued_at(&json!("1")).is_none() && issued_at(&json!(f64::MAX)).is_none());
    }
}
