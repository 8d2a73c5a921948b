//! The collector's own authority: it issues the collector's certificate and those of its agents.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use interlock_recording::hex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority is valid.
const AUTHORITY_VALID: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How long an agent's certificate is valid. It is renewed after two thirds of it.
pub const AGENT_VALID: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the collector's own certificate is valid. It is made anew at each start and every day.
const SERVER_VALID: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks that go behind ours are no reason for a certificate not to be valid yet.
const BACKDATED: Duration = DAY;

/// Why there is no certificate.
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
    /// Others can read the key.
    #[error(
        "{path} has mode {mode:03o}: others may have read the key of the collector's authority. If you are sure \
         that nobody has, run `chmod 600` on it; otherwise remove {directory}, and enrol every agent anew"
    )]
    Exposed {
        /// The key.
        path: PathBuf,
        /// The authority's directory.
        directory: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A key, certificate or request is not what it should be.
    #[error("{what}: {error}")]
    Invalid {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        error: String,
    },
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate that has been issued to an agent.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// When it expires, nanoseconds since the Unix epoch.
    pub expires_ns: i64,
}

fn invalid(what: &'static str) -> impl Fn(rcgen::Error) -> AuthorityError {
    move |error| AuthorityError::Invalid { what, error: error.to_string() }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let io = |error| AuthorityError::Io { action: "write", path: path.into(), error };
    let temporary = path.with_extension("tmp");
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(io(error));
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(io)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io)?;
    let directory = path.parent().unwrap_or(path);
    // A key that a loss of power took back would have every agent refused.
    fs::rename(&temporary, path)
        .and_then(|()| fs::File::open(directory)?.sync_all())
        .map_err(|error| AuthorityError::Io { action: "write", path: path.into(), error })
}

fn validity(params: &mut CertificateParams, valid: Duration) -> SystemTime {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + valid).into();
    now + valid
}

fn serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = [0; 16];
    interlock_recording::fill_random(&mut serial)
        .map_err(|error| AuthorityError::Invalid { what: "a serial number", error: error.to_string() })?;
    // Positive, and of the same length always (RFC 5280, section 4.1.2.2).
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

impl Authority {
    /// Reads the authority in `directory`, or makes it there.
    ///
    /// # Errors
    /// Its files cannot be read or written, others can read the key, or they are none.
    pub fn load_or_create(directory: &Path, name: &str) -> Result<Self, AuthorityError> {
        let (key_path, certificate_path) = (directory.join("authority.key"), directory.join("authority.crt"));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |error| AuthorityError::Io { action, path, error }
        };
        match fs::symlink_metadata(&key_path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)
                    .map_err(io("make", directory))?;
                let key = KeyPair::generate().map_err(invalid("the authority's key"))?;
                let mut params = CertificateParams::default();
                params.distinguished_name = DistinguishedName::new();
                params.distinguished_name.push(DnType::CommonName, format!("Interlock collector {name}"));
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
                validity(&mut params, AUTHORITY_VALID);
                let certificate = params.self_signed(&key).map_err(invalid("the authority's certificate"))?;
                // The certificate first: what has a key has both.
                write(&certificate_path, certificate.pem().as_bytes(), 0o644)?;
                write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
            }
            Err(error) => return Err(io("read", &key_path)(error)),
        }
        Self::load(directory)
    }

    /// Reads the authority in `directory`, and makes nothing.
    ///
    /// # Errors
    /// Its files cannot be read, others can read the key, or they are none.
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        let (key_path, certificate_path) = (directory.join("authority.key"), directory.join("authority.crt"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| AuthorityError::Io { action: "read", path, error }
        };
        let mode = fs::symlink_metadata(&key_path).map_err(io(&key_path))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityError::Exposed { path: key_path, directory: directory.into(), mode });
        }
        let key = fs::read_to_string(&key_path).map_err(io(&key_path))?;
        let pem = fs::read_to_string(&certificate_path).map_err(io(&certificate_path))?;
        let key = KeyPair::from_pem(&key).map_err(invalid("authority.key"))?;
        let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).map_err(
            |error: rustls::pki_types::pem::Error| AuthorityError::Invalid {
                what: "authority.crt",
                error: error.to_string(),
            },
        )?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(invalid("authority.crt"))?;
        Ok(Self { issuer, certificate })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the authority's certificate: what an enrolment token names it by.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// A certificate of the collector's own, with its key, for these names and addresses.
    ///
    /// # Errors
    /// A name cannot stand in a certificate.
    pub fn server(
        &self,
        names: &[String],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate().map_err(invalid("the collector's key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Interlock collector");
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .map_err(invalid("agents.names: a name in it is no host name"))?,
                ),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        validity(&mut params, SERVER_VALID);
        let leaf = params.signed_by(&key, &self.issuer).map_err(invalid("the collector's certificate"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // With the authority's: an agent that is being enrolled knows that by its hash only.
        Ok((vec![leaf.der().clone(), self.certificate.clone()], key))
    }

    /// A certificate for the agent on `host`, for the key of this certificate request. Nothing else is
    /// taken from the request.
    ///
    /// # Errors
    /// The request is none, or its signature is not its key's.
    pub fn issue(&self, host: &str, request: &[u8]) -> Result<Issued, AuthorityError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request.to_vec()))
                .map_err(invalid("the certificate request"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let serial = serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let expires = validity(&mut params, AGENT_VALID);
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(invalid("the agent's certificate"))?;
        let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Issued {
            certificate: certificate.der().to_vec(),
            serial: hex(&serial),
            expires_ns: i64::try_from(expires.as_nanos()).unwrap_or(i64::MAX),
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &hex(&self.fingerprint())).finish_non_exhaustive()
    }
}
