//! Keys that sign notes, and how they are written.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::{NoteError, NoteSignature};
use crate::chain::digest;
use crate::keys::{KeyError, SIGNATURE, load, load_or_create, write_public};

/// A key's name may not be longer than this, in bytes.
const MAX_NAME: usize = 255;

/// What a key signs, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The note's text (`ed25519`).
    Note,
    /// A time and a checkpoint's text: a witness (`cosignature/v1`).
    Witness,
}

impl KeyKind {
    fn byte(self) -> u8 {
        match self {
            Self::Note => 1,
            Self::Witness => 4,
        }
    }
}

/// The public half of a key that signs notes. Written as `name+id+base64`, which is what people exchange.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    pub(super) name: String,
    pub(super) id: [u8; 4],
    kind: KeyKind,
    key: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, kind: KeyKind, key: VerifyingKey) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Key("a name has no blanks and no plus sign, and at most 255 bytes"));
        }
        let whole = digest(&[name.as_bytes(), b"\n", &[kind.byte()], key.as_bytes()].concat());
        let [a, b, c, d, ..] = whole;
        Ok(Self { name: name.to_owned(), id: [a, b, c, d], kind, key })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id: the beginning of a hash over its name and itself.
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// What it signs.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether the signature (without the key's id) is this key's over a note's text. A witness's signature
    /// holds the time when it was made, which is given.
    pub(super) fn verifies(&self, text: &str, bytes: &[u8]) -> Option<Option<u64>> {
        let (time, signature) = match self.kind {
            KeyKind::Note => (None, bytes),
            KeyKind::Witness => {
                let (time, signature) = bytes.split_first_chunk::<8>()?;
                (Some(u64::from_be_bytes(*time)), signature)
            }
        };
        let signature = Signature::from_bytes(signature.try_into().ok()?);
        let message = time.map_or_else(|| text.to_owned(), |time| cosigned(time, text));
        self.key.verify_strict(message.as_bytes(), &signature).ok().map(|()| time)
    }
}

/// What a witness signs.
fn cosigned(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [[self.kind.byte()].as_slice(), self.key.as_bytes()].concat();
        write!(f, "{}+{}+{}", self.name, crate::hex(&self.id), STANDARD.encode(key))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("it has three parts"));
        };
        let bytes = STANDARD.decode(key).map_err(|_| NoteError::Key("its last part is not base64"))?;
        let (kind, key) = match bytes.split_first() {
            Some((1, key)) => (KeyKind::Note, key),
            Some((4, key)) => (KeyKind::Witness, key),
            _ => return Err(NoteError::Key("its kind is not known: ed25519 (1) and cosignature/v1 (4) are")),
        };
        let key = key
            .try_into()
            .ok()
            .and_then(|key| VerifyingKey::from_bytes(key).ok())
            .ok_or(NoteError::Key("it holds no ed25519 key"))?;
        let made = Self::new(name, kind, key)?;
        if crate::hex(&made.id) != id {
            return Err(NoteError::Key("its id is not that of its name and key"));
        }
        Ok(made)
    }
}

/// A key that signs notes.
pub struct Signer {
    key: SigningKey,
    public: VerifierKey,
}

impl Signer {
    /// A key from its 32 secret bytes.
    ///
    /// # Errors
    /// The name has blanks or a plus sign in it, or is empty or too long.
    pub fn from_seed(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let key = SigningKey::from_bytes(seed);
        let public = VerifierKey::new(name, kind, key.verifying_key())?;
        Ok(Self { key, public })
    }

    /// Reads `FILE.key` in `directory`, or makes it (PKCS#8 PEM, mode 0600) from the system's randomness,
    /// with the verifier key in `FILE.vkey` beside it. The key signs under `name`.
    ///
    /// # Errors
    /// A file cannot be read or written, is no key, or can be read by others; or `name` is no key's name.
    pub fn load_or_create(directory: &Path, file: &str, name: &str) -> Result<Self, SignerError> {
        let key = load_or_create(directory, &format!("{file}.key"))?;
        let public = VerifierKey::new(name, KeyKind::Note, key.verifying_key())
            .map_err(|error| SignerError::Name { name: name.to_owned(), error })?;
        write_public(directory, &format!("{file}.vkey"), &format!("{public}\n"))?;
        Ok(Self { key, public })
    }

    /// Reads `FILE.key` in `directory`, and makes nothing. The key signs under `name`.
    ///
    /// # Errors
    /// The file cannot be read, is no key, or can be read by others; or `name` is no key's name.
    pub fn load(directory: &Path, file: &str, name: &str) -> Result<Self, SignerError> {
        let key = load(directory, &format!("{file}.key"))?;
        let public = VerifierKey::new(name, KeyKind::Note, key.verifying_key())
            .map_err(|error| SignerError::Name { name: name.to_owned(), error })?;
        Ok(Self { key, public })
    }

    /// The public half.
    pub fn public(&self) -> &VerifierKey {
        &self.public
    }

    /// `time_s`, seconds since the Unix epoch, is what a witness states.
    pub(super) fn sign(&self, text: &str, time_s: u64) -> NoteSignature {
        let mut bytes = Vec::with_capacity(8 + SIGNATURE);
        let signature = match self.public.kind {
            KeyKind::Note => self.key.sign(text.as_bytes()),
            KeyKind::Witness => {
                bytes.extend_from_slice(&time_s.to_be_bytes());
                self.key.sign(cosigned(time_s, text).as_bytes())
            }
        };
        bytes.extend_from_slice(&signature.to_bytes());
        NoteSignature { name: self.public.name.clone(), id: self.public.id, bytes }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public).finish()
    }
}

/// A key that signs notes could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The name under which it is to sign.
    #[error("{name:?} {error}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        error: NoteError,
    },
}
