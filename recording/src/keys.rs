//! The host's key: made at the agent's first start, it signs what the host has recorded.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::chain::{Hash, digest};

/// Bytes of a signature (RFC 8032).
pub(crate) const SIGNATURE: usize = 64;

/// The host's private key.
pub struct HostKey {
    key: SigningKey,
    public: PublicKey,
}

/// The host's public key: all that is needed to verify a recording.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// What a signature is over; keeps a signature over one thing from passing for one over another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A segment's footer.
    Footer,
    /// The checkpoint in `HEAD`.
    Checkpoint,
    /// What a host asks of a collector when it is enrolled.
    Enrolment,
    /// What `SHIPPED` says.
    Shipped,
}

/// A key could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("cannot {action} the key {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file does not hold a key of the right kind.
    #[error("{path} does not hold an ed25519 {kind} key in PEM form")]
    Form {
        /// The file.
        path: PathBuf,
        /// `private` or `public`.
        kind: &'static str,
    },
    /// The private key can be read by others.
    #[error(
        "the private key {path} has mode {mode:03o}: others may have read it. If you are sure that nobody has, \
         run `chmod 600` on it; otherwise move the state directory away, so that a new key is made"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl Domain {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Footer => b"interlock recording v1 segment footer\0",
            Self::Checkpoint => b"interlock recording v1 checkpoint\0",
            Self::Enrolment => b"interlock enrolment v1\0",
            Self::Shipped => b"interlock recording v1 shipped\0",
        }
    }
}

/// Reads the private key `name` in `directory` (PKCS#8 PEM, mode 0600).
pub(crate) fn load(directory: &Path, name: &str) -> Result<SigningKey, KeyError> {
    let path = directory.join(name);
    let io = |error| KeyError::Io { action: "read", path: path.clone(), error };
    let mode = fs::symlink_metadata(&path).map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path, mode });
    }
    let pem = fs::read_to_string(&path).map_err(io)?;
    SigningKey::from_pkcs8_pem(&pem).map_err(|_| KeyError::Form { path: path.clone(), kind: "private" })
}

/// Reads the private key `name` in `directory`, or makes it (PKCS#8 PEM, mode 0600) from the system's
/// randomness.
pub(crate) fn load_or_create(directory: &Path, name: &str) -> Result<SigningKey, KeyError> {
    let path = directory.join(name);
    let io = |action| {
        let path = path.clone();
        move |error| KeyError::Io { action, path, error }
    };
    let form = || KeyError::Form { path: path.clone(), kind: "private" };
    match load(directory, name) {
        Err(KeyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            fill_random(&mut seed).map_err(io("make"))?;
            let key = SigningKey::from_bytes(&seed);
            let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| form())?;
            write_new(directory, name, pem.as_bytes(), 0o600).map_err(io("write"))?;
            Ok(key)
        }
        loaded => loaded,
    }
}

/// Writes the public half of a key beside it, unless it stands there.
pub(crate) fn write_public(directory: &Path, name: &str, content: &str) -> Result<(), KeyError> {
    let path = directory.join(name);
    if fs::read(&path).ok().as_deref() == Some(content.as_bytes()) {
        return Ok(());
    }
    write_new(directory, name, content.as_bytes(), 0o644).map_err(|error| KeyError::Io {
        action: "write",
        path,
        error,
    })
}

// === impl HostKey ===

impl HostKey {
    /// A key from its 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey(key.verifying_key());
        Self { key, public }
    }

    /// Reads `host.key` in `directory`, or makes it (PKCS#8 PEM, mode 0600) from the system's randomness,
    /// with `host.pub` beside it.
    ///
    /// # Errors
    /// The file cannot be read or written, is no key, or can be read by others.
    pub fn load_or_create(directory: &Path) -> Result<Self, KeyError> {
        let key = load_or_create(directory, "host.key")?;
        let public = PublicKey(key.verifying_key());
        write_public(directory, "host.pub", &public.to_pem())?;
        Ok(Self { key, public })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `message` as one of `domain`.
    pub fn sign(&self, domain: Domain, message: &[u8]) -> [u8; SIGNATURE] {
        self.key.sign(&[domain.prefix(), message].concat()).to_bytes()
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostKey").field(&self.public).finish()
    }
}

// === impl PublicKey ===

impl PublicKey {
    /// Reads a public key (`host.pub`, SubjectPublicKeyInfo in PEM form).
    ///
    /// # Errors
    /// The file cannot be read or is no such key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let pem = fs::read_to_string(path).map_err(|error| KeyError::Io {
            action: "read",
            path: path.into(),
            error,
        })?;
        Self::from_pem(&pem).ok_or_else(|| KeyError::Form { path: path.into(), kind: "public" })
    }

    /// A public key in PEM form; `None` when it is none.
    pub fn from_pem(pem: &str) -> Option<Self> {
        VerifyingKey::from_public_key_pem(pem).ok().map(Self)
    }

    /// The key in PEM form (SubjectPublicKeyInfo), as in `host.pub`.
    pub fn to_pem(&self) -> String {
        // An ed25519 key's form is of fixed size, so there is nothing that could fail.
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// A public key from its 32 bytes; `None` when they are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes.try_into().ok()?).ok().map(Self)
    }

    /// The key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// SHA-256 of the key's 32 bytes: the host's id in headers and checkpoints.
    pub fn fingerprint(&self) -> Hash {
        digest(self.as_bytes())
    }

    /// Whether `signature` is this host's over `message` in `domain`. Strict: of the signatures that RFC
    /// 8032 allows only the canonical one is taken.
    pub fn verifies(&self, domain: Domain, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        let message = [domain.prefix(), message].concat();
        self.0.verify_strict(&message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.fingerprint()))
    }
}

/// Hexadecimal digits of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Fills `buffer` with the system's randomness; waits, early at boot, until the system has some.
///
/// # Errors
/// The system call fails.
pub fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

/// Writes `directory/name` so that after a crash there is the old file or the whole new one.
pub(crate) fn write_new(directory: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let made = HostKey::load_or_create(directory.path()).expect("made");
        let read = HostKey::load_or_create(directory.path()).expect("read");
        assert_eq!(made.public(), read.public());
        let path = directory.path().join("host.key");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        let public = PublicKey::load(&directory.path().join("host.pub")).expect("read");
        assert_eq!(&public, made.public());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(matches!(
            HostKey::load_or_create(directory.path()),
            Err(KeyError::Exposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_signature_counts_in_its_domain_only() {
        let key = HostKey::from_seed(&[1; 32]);
        let signature = key.sign(Domain::Footer, b"x");
        assert!(key.public().verifies(Domain::Footer, b"x", &signature));
        assert!(!key.public().verifies(Domain::Checkpoint, b"x", &signature));
        assert!(!key.public().verifies(Domain::Footer, b"y", &signature));
        assert!(!HostKey::from_seed(&[2; 32]).public().verifies(Domain::Footer, b"x", &signature));
        assert!(!format!("{key:?}").contains("0101"), "the secret is not printed");
    }
}
