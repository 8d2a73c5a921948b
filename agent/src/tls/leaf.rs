//! Certificates that the agent shows clients: for one server's each, of short life, kept and renewed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType,
    string::Ia5String,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::authority::{Authority, AuthorityError, Secret, now, set_validity};
use super::certificate::{Certificate, Names};

/// How long a leaf is valid, in seconds.
const VALID: u64 = 24 * 3600;
/// It is made anew when less than this is left of it, in seconds.
const RENEW: u64 = 6 * 3600;
/// Most leaves that are kept. When there are more they are all made anew.
const MOST_KEPT: usize = 1024;
/// Sessions that clients may resume, for each leaf.
const SESSIONS: usize = 64;

/// Which certificate a leaf stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// SHA-256 of the server's certificate.
    server: [u8; 32],
    trusted: bool,
    /// The protocol that was agreed on by ALPN.
    alpn: Option<Vec<u8>>,
}

/// What a client is shown.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) config: Arc<ServerConfig>,
    pub(super) certificate: Arc<Certificate>,
}

/// Makes leaves and keeps them.
#[derive(Debug)]
pub(super) struct Leaves {
    authority: Authority,
    /// Signs where the server was not verified: a client that verifies refuses, as it would without us.
    untrusted: Authority,
    provider: Arc<CryptoProvider>,
    kept: Mutex<HashMap<Key, Leaf>>,
}

impl Leaves {
    pub(super) fn new(authority: Authority, provider: Arc<CryptoProvider>) -> Result<Self, AuthorityError> {
        Ok(Self { authority, untrusted: Authority::untrusted()?, provider, kept: Mutex::default() })
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The leaf that stands for a server's certificate. Sessions of one are not resumed under another, so
    /// a client that resumes one meets the server that it verified.
    pub(super) fn standing_for(
        &self,
        server: &Certificate,
        trusted: bool,
        alpn: Option<&[u8]>,
    ) -> Result<Leaf, AuthorityError> {
        let key = Key { server: server.sha256, trusted, alpn: alpn.map(<[u8]>::to_vec) };
        let now = now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = kept.get(&key)
            && left(leaf, now) > RENEW.min(left_of(server, now) / 2)
        {
            return Ok(leaf.clone());
        }
        // A server's certificate that has not been looked at may have expired long ago.
        let until = if trusted { until(server, now) } else { now + VALID };
        let leaf = self.make(&server.names, trusted, until, alpn)?;
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(key, leaf.clone());
        Ok(leaf)
    }

    /// A leaf for a connection that ends with an error message: the server is left out of it.
    pub(super) fn for_refusal(&self, names: &Names, alpn: Option<&[u8]>) -> Result<Leaf, AuthorityError> {
        self.make(names, true, now() + VALID, alpn)
    }

    fn make(
        &self,
        names: &Names,
        trusted: bool,
        until: u64,
        alpn: Option<&[u8]>,
    ) -> Result<Leaf, AuthorityError> {
        let failed = |error: &dyn std::fmt::Display| AuthorityError::Make(error.to_string());
        let secret = Secret::generate().map_err(|error| failed(&error))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(common) = &names.common {
            params.distinguished_name.push(DnType::CommonName, common.as_str());
        }
        params.subject_alt_names = alternative(names);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // Clocks of containers and clients may be behind.
        set_validity(&mut params, now().saturating_sub(3600), until);
        let authority = if trusted { &self.authority } else { &self.untrusted };
        let made = params.signed_by(&secret, authority.issuer()).map_err(|error| failed(&error))?;
        let der = made.der().clone();
        let certificate = Certificate::read(&der).map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret.der()));
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key).map_err(|error| failed(&error))?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![der], key))));
        config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.send_tls13_tickets = 1;
        Ok(Leaf { config: Arc::new(config), certificate: Arc::new(certificate) })
    }
}

/// Seconds that are left of a leaf.
fn left(leaf: &Leaf, now: u64) -> u64 {
    left_of(&leaf.certificate, now)
}

fn left_of(certificate: &Certificate, now: u64) -> u64 {
    u64::try_from(certificate.not_after).unwrap_or_default().saturating_sub(now)
}

/// No longer than the server's own.
fn until(server: &Certificate, now: u64) -> u64 {
    now + left_of(server, now).clamp(1, VALID)
}

fn alternative(names: &Names) -> Vec<SanType> {
    // What is no ASCII cannot be such a name.
    let text = |name: &String| Ia5String::try_from(name.as_str()).ok();
    let dns = names.dns.iter().filter_map(text).map(SanType::DnsName);
    let email = names.email.iter().filter_map(text).map(SanType::Rfc822Name);
    let uri = names.uri.iter().filter_map(text).map(SanType::URI);
    let ip = names.ip.iter().copied().map(|ip: IpAddr| SanType::IpAddress(ip));
    dns.chain(ip).chain(email).chain(uri).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn leaves() -> (tempfile::TempDir, Leaves) {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { state: directory.path().join("state"), ..Config::default() };
        let authority = Authority::load_or_create(&config).unwrap();
        (directory, Leaves::new(authority, Arc::new(rustls::crypto::ring::default_provider())).unwrap())
    }

    fn server(days: u64) -> Certificate {
        let key = Secret::generate().unwrap();
        let mut params = CertificateParams::new(["db.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "db");
        set_validity(&mut params, now() - 60, now() + days * 24 * 3600);
        Certificate::read(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn a_leaf_has_the_servers_names_and_no_longer_life() {
        let (_directory, leaves) = leaves();
        let server = server(100);
        let leaf = leaves.standing_for(&server, true, None).unwrap();
        assert_eq!(leaf.certificate.names, server.names);
        assert!(leaf.certificate.issuer.contains("Interlock host authority"));
        assert!(left(&leaf, now()) <= VALID);
        assert!(leaf.certificate.end_point.is_some());
        let again = leaves.standing_for(&server, true, None).unwrap();
        assert!(Arc::ptr_eq(&leaf.config, &again.config), "kept");
        let other = leaves.standing_for(&server, true, Some(b"postgresql")).unwrap();
        assert!(!Arc::ptr_eq(&leaf.config, &other.config));
        let mut short = server;
        short.not_after = i64::try_from(now() + 100).unwrap();
        short.sha256 = [1; 32];
        let leaf = leaves.standing_for(&short, true, None).unwrap();
        assert!(left(&leaf, now()) <= 100);
    }

    #[test]
    fn nobody_trusts_a_leaf_for_what_was_not_verified() {
        let (_directory, leaves) = leaves();
        let leaf = leaves.standing_for(&server(1), false, None).unwrap();
        assert!(!leaf.certificate.issuer.contains("host authority"), "{}", leaf.certificate.issuer);
    }

    #[test]
    fn the_number_of_leaves_is_bounded() {
        let (_directory, leaves) = leaves();
        let mut server = server(1);
        for number in 0..MOST_KEPT + 10 {
            server.sha256[..8].copy_from_slice(&number.to_be_bytes());
            leaves.standing_for(&server, true, None).unwrap();
        }
        assert!(leaves.kept.lock().unwrap().len() <= MOST_KEPT);
    }
}
