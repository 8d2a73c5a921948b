//! SCRAM as a client (RFC 5802) with SHA-256 (RFC 7677) or SHA-512, without channel binding, which Kafka has not.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interlock_recording::fill_random;
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

/// The most rounds that a broker may ask for: a hostile one could keep a processor busy for hours otherwise. Kafka's
/// own brokers store 4096 to 16384.
const MOST_ROUNDS: u32 = 1_000_000;
/// The fewest: those of RFC 7677. With fewer, whoever plays the broker finds the password sooner.
const LEAST_ROUNDS: u32 = 4096;

/// Why it does not come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScramError {
    /// The broker does not speak SCRAM.
    #[error("its answer is none of SCRAM's")]
    Garbled,
    /// Too many rounds, or too few.
    #[error("it asks for {0} rounds, and {LEAST_ROUNDS} to {MOST_ROUNDS} are done")]
    Rounds(u32),
    /// The broker does not know the password either.
    #[error("it does not prove that it knows the password: it may be another server that plays the broker")]
    Forged,
    /// The system gave no random bytes.
    #[error("there are no random bytes")]
    Random,
}

/// The hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// An exchange that has begun.
pub(super) struct Scram {
    hash: Hash,
    nonce: String,
    /// The first message without what comes before `n=`.
    first: String,
}

/// What the broker must prove in the end.
pub(super) struct Expected(hmac::Tag);

impl Scram {
    /// Begins as `user`.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn new(hash: Hash, user: &str) -> Result<Self, ScramError> {
        let mut random = [0; 18];
        fill_random(&mut random).map_err(|_| ScramError::Random)?;
        Ok(Self::with_nonce(hash, user, STANDARD.encode(random)))
    }

    fn with_nonce(hash: Hash, user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { hash, first: format!("n={user},r={nonce}"), nonce }
    }

    /// The first message.
    pub(super) fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first).into_bytes()
    }

    /// The last message, given the broker's first, and what its last must prove. Takes some milliseconds of the processor.
    ///
    /// # Errors
    /// The broker's message is none, or asks for too much.
    pub(super) fn last(&self, password: &str, server: &[u8]) -> Result<(Vec<u8>, Expected), ScramError> {
        let server = std::str::from_utf8(server).map_err(|_| ScramError::Garbled)?;
        let mut fields = server.split(',');
        let mut field =
            |name: &str| fields.next().and_then(|field| field.strip_prefix(name)).ok_or(ScramError::Garbled);
        let (nonce, salt, rounds) = (field("r=")?, field("s=")?, field("i=")?);
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Garbled)?;
        let rounds: u32 = rounds.parse().map_err(|_| ScramError::Garbled)?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Garbled);
        }
        let Some(count) = NonZeroU32::new(rounds).filter(|_| (LEAST_ROUNDS..=MOST_ROUNDS).contains(&rounds))
        else {
            return Err(ScramError::Rounds(rounds));
        };
        let mut salted = Zeroizing::new(vec![0; self.hash.digest().output_len()]);
        pbkdf2::derive(self.hash.pbkdf2(), count, &salt, password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(self.hash.hmac(), &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest(), client_key.as_ref());
        let server_key = hmac::sign(&salted, b"Server Key");
        let bare = format!("c=biws,r={nonce}");
        let all = format!("{},{server},{bare}", self.first);
        let signature = hmac::sign(&hmac::Key::new(self.hash.hmac(), stored_key.as_ref()), all.as_bytes());
        let proof: Zeroizing<Vec<u8>> = Zeroizing::new(
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect(),
        );
        let expected = hmac::sign(&hmac::Key::new(self.hash.hmac(), server_key.as_ref()), all.as_bytes());
        Ok((format!("{bare},p={}", STANDARD.encode(&*proof)).into_bytes(), Expected(expected)))
    }
}

impl Expected {
    /// Checks the broker's last message. (Its content is no secret that a comparison could tell.)
    ///
    /// # Errors
    /// It proves nothing.
    pub(super) fn check(&self, server: &[u8]) -> Result<(), ScramError> {
        let proof = std::str::from_utf8(server)
            .ok()
            .and_then(|server| server.split(',').next()?.strip_prefix("v="))
            .ok_or(ScramError::Garbled)?;
        let proof = STANDARD.decode(proof).map_err(|_| ScramError::Garbled)?;
        if proof == self.0.as_ref() { Ok(()) } else { Err(ScramError::Forged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn begun() -> Scram {
        Scram::with_nonce(Hash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO".into())
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let scram = begun();
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, expected) = scram.last("pencil", SERVER.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(last).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(expected.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert_eq!(
            expected.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="),
            Err(ScramError::Garbled)
        );
        assert_eq!(expected.check(b"v=AAAA"), Err(ScramError::Forged));
        assert_eq!(expected.check(b"e=other-error"), Err(ScramError::Garbled));
    }

    #[test]
    fn a_broker_cannot_keep_it_busy_or_take_its_own_nonce() {
        let asks = |server: &str| begun().last("pencil", server.as_bytes()).map(|_| ());
        assert_eq!(asks(&SERVER.replace("4096", "4000000000")), Err(ScramError::Rounds(4_000_000_000)));
        assert_eq!(asks(&SERVER.replace("4096", "1")), Err(ScramError::Rounds(1)));
        assert_eq!(asks(&SERVER.replace("rOpr", "xOpr")), Err(ScramError::Garbled));
        assert_eq!(
            asks("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
            Err(ScramError::Garbled)
        );
        assert_eq!(asks("m=ext,r=x"), Err(ScramError::Garbled));
    }

    #[test]
    fn names_are_escaped() {
        let scram = Scram::with_nonce(Hash::Sha512, "a,b=c", "x".into());
        assert_eq!(scram.first(), b"n,,n=a=2Cb=3Dc,r=x");
    }
}
