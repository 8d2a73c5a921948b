//! The host's own authority: whoever trusts it accepts the certificates that the agent shows clients.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SignatureAlgorithm, SigningKey,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::config::Config;

/// How long the authority is valid: ten years.
const VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others than the agent's user can read the key.
    #[error(
        "{path} has mode {mode:03o}, so others than its owner can get at the key of the host's authority. \
         Remove it and {certificate}: a new authority is made at the next start, and is to be trusted in the \
         place of this one"
    )]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's mode.
        mode: u32,
    },
    /// The files are not those of an authority.
    #[error("{path} is not the {what} of an authority ({error}): remove both files, and a new one is made")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        error: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make the host's authority: {0}")]
    Make(String),
}

/// A key pair that leaves nothing of its encoded form in memory.
pub(crate) struct Secret(KeyPair);

impl Secret {
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(Self)
    }

    /// PKCS #8.
    pub(crate) fn der(&self) -> &[u8] {
        self.0.serialized_der()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for Secret {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Secret {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// The host's authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, Secret>,
    pem: String,
}

impl Authority {
    /// Where the authority's certificate is kept, in PEM.
    pub fn certificate_path(state: &Path) -> PathBuf {
        directory(state).join("authority.crt")
    }

    /// Where its key is kept, in PEM.
    pub fn key_path(state: &Path) -> PathBuf {
        directory(state).join("authority.key")
    }

    /// Reads the authority from the state directory, or makes one there.
    ///
    /// # Errors
    /// Its files cannot be read or written, others can read the key, or they are no authority's.
    pub fn load_or_create(config: &Config) -> Result<Self, AuthorityError> {
        let (key, certificate) = (Self::key_path(&config.state), Self::certificate_path(&config.state));
        let metadata = match fs::metadata(&key) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::create(&key, &certificate),
            Err(error) => return Err(AuthorityError::Io { action: "read", path: key, error }),
        };
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityError::Exposed { path: key, certificate, mode });
        }
        let read = |path: &Path| match fs::read_to_string(path) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(error) => Err(AuthorityError::Io { action: "read", path: path.to_owned(), error }),
        };
        let secret = KeyPair::from_pem(&read(&key)?);
        let secret = secret.map_err(|error| AuthorityError::Invalid {
            path: key,
            what: "key",
            error: error.to_string(),
        })?;
        let pem = read(&certificate)?.to_string();
        let invalid =
            |error: String| AuthorityError::Invalid { path: certificate.clone(), what: "certificate", error };
        let public = Zeroizing::new(secret.public_key_raw().to_vec());
        let issuer =
            Issuer::from_ca_cert_pem(&pem, Secret(secret)).map_err(|error| invalid(error.to_string()))?;
        // A key of another certificate would sign what nobody could verify.
        let (_, block) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        let parsed = block.parse_x509().map_err(|error| invalid(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != public.as_slice() {
            return Err(invalid("it is for another key".to_owned()));
        }
        Ok(Self { issuer, pem })
    }

    fn create(key: &Path, certificate: &Path) -> Result<Self, AuthorityError> {
        let make = |error: rcgen::Error| AuthorityError::Make(error.to_string());
        let secret = Secret::generate().map_err(make)?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let params = authority(&format!("Interlock host authority {}", host.trim_end()), VALID);
        let made = params.self_signed(&secret).map_err(make)?;
        let pem = made.pem();
        if let Some(directory) = key.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
                AuthorityError::Io { action: "make the directory", path: directory.to_owned(), error }
            })?;
        }
        // The key last: a certificate without one is made anew.
        write(certificate, pem.as_bytes(), 0o644)?;
        write(key, Zeroizing::new(secret.0.serialize_pem()).as_bytes(), 0o600)?;
        tracing::info!(certificate = %certificate.display(), "made an authority for this host");
        Ok(Self { issuer: Issuer::new(params, secret), pem })
    }

    /// One that is kept nowhere, and that nobody trusts.
    pub(super) fn untrusted() -> Result<Self, AuthorityError> {
        let make = |error: rcgen::Error| AuthorityError::Make(error.to_string());
        let secret = Secret::generate().map_err(make)?;
        let params = authority("Interlock: the server was not verified", VALID);
        let pem = params.self_signed(&secret).map_err(make)?.pem();
        Ok(Self { issuer: Issuer::new(params, secret), pem })
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, Secret> {
        &self.issuer
    }
}

fn directory(state: &Path) -> PathBuf {
    state.join("tls")
}

fn authority(name: &str, valid: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // The longest common name that RFC 5280 allows.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let now = now();
    set_validity(&mut params, now.saturating_sub(3600), now.saturating_add(valid.as_secs()));
    params
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Makes a certificate valid from one time until another, in seconds since the Unix epoch.
pub(super) fn set_validity(params: &mut CertificateParams, from: u64, until: u64) {
    // Certificates know no year after 9999.
    let last = 253_402_300_799;
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.min(last));
    params.not_before = at(from);
    params.not_after = at(until);
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let failed = |error| AuthorityError::Io { action: "write", path: path.to_owned(), error };
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(failed)?;
    // Whatever the umask says.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> Config {
        Config { state: directory.join("state"), run: directory.to_owned(), ..Config::default() }
    }

    #[test]
    fn made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let made = Authority::load_or_create(&config).unwrap();
        let again = Authority::load_or_create(&config).unwrap();
        assert_eq!(made.pem(), again.pem());
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(Authority::key_path(&config.state)), 0o600);
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.pem().as_bytes()).unwrap();
        let parsed = pem.parse_x509().unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca && constraints.path_len_constraint == Some(0));
        assert!(parsed.subject().to_string().contains("Interlock host authority"));
        assert!(!format!("{made:?}").contains("PRIVATE"), "{made:?}");
    }

    #[test]
    fn an_exposed_or_foreign_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        drop(Authority::load_or_create(&config).unwrap());
        let key = Authority::key_path(&config.state);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Authority::load_or_create(&config),
            Err(AuthorityError::Exposed { mode: 0o640, .. })
        ));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, Secret::generate().unwrap().0.serialize_pem()).unwrap();
        let error = Authority::load_or_create(&config).unwrap_err().to_string();
        assert!(error.contains("another key"), "{error}");
        fs::write(&key, "nonsense").unwrap();
        assert!(Authority::load_or_create(&config).is_err());
    }
}
