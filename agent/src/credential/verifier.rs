//! What a script's own password is checked against: a SCRAM verifier, as PostgreSQL keeps it.

use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// SHA-256's output in bytes, and so every key's.
pub(crate) const KEY: usize = 32;

/// Iterations that a verifier may ask for.
const ITERATIONS: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// Bytes of a verifier's salt. PostgreSQL makes 16.
const SALT: std::ops::RangeInclusive<usize> = 1..=1024;

/// Iterations that PostgreSQL asks for unless it is told otherwise; what an unknown user is shown.
const USUAL_ITERATIONS: u32 = 4096;

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (RFC 5803, as in `pg_authid`). From it a
/// password can be checked, but not told.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verifier {
    pub(crate) iterations: u32,
    /// In base64, as it is sent.
    pub(crate) salt: Box<str>,
    pub(crate) stored_key: [u8; KEY],
    pub(crate) server_key: [u8; KEY],
    /// Stands for a user who does not exist: no password fits it.
    pub(crate) mock: bool,
}

impl Verifier {
    /// Reads it. `None` when it is no such verifier.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.trim().strip_prefix("SCRAM-SHA-256$")?;
        let (first, keys) = rest.split_once('$')?;
        let (iterations, salt) = first.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|count| ITERATIONS.contains(count))?;
        let bytes = STANDARD.decode(salt).ok()?;
        let key = |text: &str| <[u8; KEY]>::try_from(STANDARD.decode(text).ok()?).ok();
        let salt = SALT.contains(&bytes.len()).then(|| salt.into())?;
        Some(Self {
            iterations,
            salt,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
            mock: false,
        })
    }

    /// One that looks like a user's to who asks, the same each time under the same `key`, so that nobody
    /// learns from outside which users there are (`mock_scram_secret` in PostgreSQL).
    pub(crate) fn mock(key: &[u8; KEY], user: &str) -> Self {
        let salt = mac(key, &[b"salt ", user.as_bytes()]);
        Self {
            iterations: USUAL_ITERATIONS,
            salt: STANDARD.encode(salt.get(..16).unwrap_or_default()).into(),
            stored_key: [0; KEY],
            server_key: [0; KEY],
            mock: true,
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// The verifiers of an entry: one for whoever it takes in, or one for each user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verifiers {
    /// Of every user that the entry takes in.
    One(Verifier),
    /// By user.
    ByUser(HashMap<String, Verifier>),
}

impl Verifiers {
    /// Reads a file of them: one verifier alone, or lines of a user's name and a verifier. Blank lines
    /// and those that begin with `#` count for nothing.
    ///
    /// # Errors
    /// The number of the first line that is neither, with what is wrong; never what stands there.
    pub(crate) fn parse_file(text: &str) -> Result<Self, String> {
        let lines = || {
            text.lines()
                .map(str::trim)
                .enumerate()
                .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        };
        if let Some((_, first)) = lines().next()
            && lines().nth(1).is_none()
            && let Some(one) = Verifier::parse(first)
        {
            return Ok(Self::One(one));
        }
        let mut users = HashMap::new();
        for (index, line) in lines() {
            let number = index + 1;
            let parts = line.rsplit_once(char::is_whitespace);
            let (user, verifier) = parts.ok_or_else(|| format!("line {number} has not two parts"))?;
            let verifier = Verifier::parse(verifier)
                .ok_or_else(|| format!("line {number} does not end with a SCRAM-SHA-256 verifier"))?;
            if users.insert(user.trim().trim_matches('"').to_owned(), verifier).is_some() {
                return Err(format!("line {number} names a user for the second time"));
            }
        }
        if users.is_empty() { Err("it holds no verifier".to_owned()) } else { Ok(Self::ByUser(users)) }
    }

    /// The verifier of a user; `None` for one who does not exist.
    pub(crate) fn of(&self, user: &str) -> Option<&Verifier> {
        match self {
            Self::One(one) => Some(one),
            Self::ByUser(users) => users.get(user),
        }
    }
}

/// HMAC-SHA-256 of the parts, one after the other.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; KEY] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> [u8; KEY] {
    Sha256::digest(bytes).into()
}

/// Whether two keys are the same, in a time that does not tell where they differ.
pub(crate) fn same(one: &[u8; KEY], other: &[u8; KEY]) -> bool {
    let differing = one.iter().zip(other).fold(0_u8, |all, (a, b)| black_box(all | (a ^ b)));
    black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the right form; its keys are of no password.
    const TEXT: &str = "SCRAM-SHA-256$4096:MTIzNDU2Nzg5MDEyMzQ1Ng==$\
        AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn verifiers_are_read() {
        let verifier = Verifier::parse(TEXT).unwrap();
        assert_eq!((verifier.iterations, &*verifier.salt), (4096, "MTIzNDU2Nzg5MDEyMzQ1Ng=="));
        assert_eq!(verifier.stored_key[31], 31);
        assert_eq!(format!("{verifier:?}"), "Verifier(..)");
        for bad in [
            "",
            "md5aabbccdd",
            "SCRAM-SHA-256$0:MTIz$AAEC:AAEC",
            "SCRAM-SHA-256$4096:$AAEC:AAEC",
            &TEXT.replace("4096", "99999999"),
            &TEXT.replace(":AAEC", ":"),
            &TEXT.replace("$AAEC", "$"),
        ] {
            assert_eq!(Verifier::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_holds_one_or_one_for_each_user() {
        let one = Verifiers::parse_file(&format!("# of all\n{TEXT}\n")).unwrap();
        assert!(one.of("anybody").is_some());
        let many = Verifiers::parse_file(&format!("app {TEXT}\n\n\"the reports\"  {TEXT}\n")).unwrap();
        assert!(many.of("app").is_some() && many.of("the reports").is_some());
        assert!(many.of("root").is_none());
        for (text, what) in [
            ("", "no verifier"),
            ("app", "line 1"),
            ("app hunter2", "line 1"),
            (&*format!("app {TEXT}\napp {TEXT}"), "second time"),
        ] {
            let error = Verifiers::parse_file(text).unwrap_err();
            assert!(error.contains(what) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_unknown_user_looks_the_same_each_time() {
        let key = [7; KEY];
        assert_eq!(Verifier::mock(&key, "bob"), Verifier::mock(&key, "bob"));
        assert_ne!(Verifier::mock(&key, "bob"), Verifier::mock(&key, "eve"));
        assert_ne!(Verifier::mock(&[8; KEY], "bob"), Verifier::mock(&key, "bob"));
    }

    #[test]
    fn keys_are_compared_whole() {
        let key = [1; KEY];
        assert!(same(&key, &[1; KEY]));
        for place in 0..KEY {
            let mut other = key;
            other[place] ^= 0x80;
            assert!(!same(&key, &other));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "(?s)(SCRAM-SHA-256\\$)?[0-9:$=A-Za-z \n\"]{0,120}") {
            let _ = Verifier::parse(&text);
            let _ = Verifiers::parse_file(&text);
        }
    }
}
