//! The configuration with the files that it names read, and the clients' side of TLS made of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::config::{ClientLeg, ServerLeg, TlsConfig, Upstream, Verify};
use super::verify::{Trust, Verifier};

/// Servers whose sessions are kept to be resumed. When there are more they are all forgotten.
const MOST_SERVERS: usize = 256;
/// Sessions kept of each.
const SESSIONS: usize = 8;

/// Something in `tls:` cannot be used; the message says what and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tls: {0}")]
pub struct SettingsError(String);

/// What holds for connections to certain servers.
#[derive(Debug)]
pub(super) struct Entry {
    host: Option<String>,
    net: Option<IpNet>,
    port: Option<u16>,
    pub(super) verify: Verify,
    pub(super) server_name: Option<ServerName<'static>>,
    pub(super) client_leg: ClientLeg,
    pub(super) server_leg: ServerLeg,
    pins: Arc<[[u8; 32]]>,
    trust: Arc<Trust>,
    certificate: Option<Arc<CertifiedKey>>,
}

/// All of `tls:`, read.
#[derive(Debug)]
pub(super) struct Settings {
    entries: Vec<Arc<Entry>>,
    otherwise: Arc<Entry>,
    provider: Arc<CryptoProvider>,
    clients: Mutex<HashMap<Server, Client>>,
}

/// The agent as the client of a server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) config: Arc<ClientConfig>,
    pub(super) verifier: Arc<Verifier>,
}

/// A server, as sessions with it are kept apart from those with others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    address: SocketAddr,
    names: Vec<ServerName<'static>>,
}

impl Settings {
    pub(super) fn read(config: &TlsConfig, provider: &Arc<CryptoProvider>) -> Result<Self, SettingsError> {
        let mut system = Vec::new();
        if config.system_roots {
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::warn!(%error, "some of the system's authorities cannot be read");
            }
            system = found.certs;
        }
        let crls = read_all(&config.crls, "crls", |text| {
            CertificateRevocationListDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>()
        })?;
        let own = certificates(&config.roots, "roots")?;
        let general = Arc::new(trust(&system, &own, &crls, provider)?);
        let mut entries = Vec::new();
        for (number, upstream) in (1..).zip(&config.upstreams) {
            let entry = entry(upstream, &general, &crls, provider).map_err(|SettingsError(error)| {
                SettingsError(format!("upstreams, entry {number}: {error}"))
            })?;
            entries.push(Arc::new(entry));
        }
        let otherwise = Entry {
            host: None,
            net: None,
            port: None,
            verify: Verify::Full,
            server_name: None,
            client_leg: ClientLeg::AsAsked,
            server_leg: ServerLeg::AsAsked,
            pins: Arc::default(),
            trust: general,
            certificate: None,
        };
        Ok(Self {
            entries,
            otherwise: Arc::new(otherwise),
            provider: Arc::clone(provider),
            clients: Mutex::default(),
        })
    }

    /// The entry that holds for a server, given the names that its address is known to have.
    pub(super) fn entry(&self, address: SocketAddr, names: &[Arc<str>]) -> &Arc<Entry> {
        self.entries.iter().find(|entry| entry.takes(address, names)).unwrap_or(&self.otherwise)
    }

    /// Some entry that may hold for a server says that it must be reached by TLS. `names` are those that
    /// its address may have: also such as have not been looked up yet.
    pub(super) fn may_have_to_encrypt(&self, address: SocketAddr, names: &[Arc<str>]) -> bool {
        self.entries.iter().any(|entry| entry.server_leg == ServerLeg::Tls && entry.takes(address, names))
    }

    /// The names that must be looked up.
    pub(super) fn hosts(&self) -> BTreeSet<Arc<str>> {
        self.entries.iter().filter_map(|entry| entry.host.as_deref()).map(Arc::from).collect()
    }

    /// The client's side of a connection to a server that must have any of these names.
    pub(super) fn client(
        &self,
        entry: &Entry,
        address: SocketAddr,
        names: Vec<ServerName<'static>>,
    ) -> Result<Client, rustls::Error> {
        let server = Server { address, names };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&server) {
            return Ok(client.clone());
        }
        let verifier = Arc::new(Verifier {
            trust: Arc::clone(&entry.trust),
            verify: entry.verify,
            pins: Arc::clone(&entry.pins),
            names: server.names.clone(),
        });
        let shared: Arc<Verifier> = Arc::clone(&verifier);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(shared);
        let mut config = match &entry.certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certificate))))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let client = Client { config: Arc::new(config), verifier };
        if clients.len() >= MOST_SERVERS {
            clients.clear();
        }
        clients.insert(server, client.clone());
        Ok(client)
    }
}

impl Entry {
    fn takes(&self, address: SocketAddr, names: &[Arc<str>]) -> bool {
        let ip = address.ip().to_canonical();
        self.net.as_ref().is_none_or(|net| net.contains(&ip))
            && self.port.is_none_or(|port| port == address.port())
            && self.host.as_ref().is_none_or(|host| names.iter().any(|name| **name == **host))
    }
}

fn entry(
    upstream: &Upstream,
    general: &Arc<Trust>,
    crls: &[CertificateRevocationListDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Entry, SettingsError> {
    let wrong = |message: String| Err(SettingsError(message));
    if upstream.host.is_none() && upstream.cidr.is_none() && upstream.port.is_none() {
        return wrong("name a `host`, `cidr` or `port`".to_owned());
    }
    let net = match &upstream.cidr {
        None => None,
        Some(text) => {
            let net = text.parse::<IpNet>().or_else(|_| text.parse().map(|ip: std::net::IpAddr| ip.into()));
            match net {
                Ok(net) => Some(net),
                Err(_) => {
                    return wrong(format!("`cidr: {text}` is no network: write 10.0.0.0/8 or 10.0.0.1"));
                }
            }
        }
    };
    let pins = upstream.pins.iter().map(|text| pin(text)).collect::<Result<Arc<[_]>, _>>()?;
    if upstream.verify == Verify::Pin && pins.is_empty() {
        return wrong("`verify: pin` needs `pins`".to_owned());
    }
    let server_name = match &upstream.server_name {
        None => None,
        Some(text) => match ServerName::try_from(text.clone()) {
            Ok(name) => Some(name),
            Err(_) => return wrong(format!("`server_name: {text}` is no host name and no address")),
        },
    };
    let trust = if upstream.roots.is_empty() {
        Arc::clone(general)
    } else {
        Arc::new(trust(&[], &certificates(&upstream.roots, "roots")?, crls, provider)?)
    };
    let certificate = match (&upstream.client_certificate, &upstream.client_key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(Arc::new(own(certificate, key, provider)?)),
        _ => return wrong("`client_certificate` and `client_key` go together".to_owned()),
    };
    Ok(Entry {
        host: upstream.host.as_ref().map(|host| host.trim_end_matches('.').to_ascii_lowercase()),
        net,
        port: upstream.port,
        verify: upstream.verify,
        server_name,
        client_leg: upstream.client_leg,
        // The leg that leaves the host is not to be the worse for the other one.
        server_leg: match upstream.client_leg {
            ClientLeg::Plaintext => ServerLeg::Tls,
            ClientLeg::AsAsked => upstream.server_leg,
        },
        pins,
        trust,
        certificate,
    })
}

/// SHA-256 in hexadecimal, or in base64 as curl and browsers write it.
fn pin(text: &str) -> Result<[u8; 32], SettingsError> {
    let bare = text.trim_start_matches("sha256/").trim_start_matches('/');
    let digits = bare.replace(':', "");
    let bytes = if digits.len() == 64 { unhex(&digits) } else { unbase64(bare) };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        SettingsError(format!(
            "`{text}` is no pin: write the SHA-256 of the public key in base64 or hexadecimal"
        ))
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(word >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn trust(
    system: &[CertificateDer<'static>],
    own: &[CertificateDer<'static>],
    crls: &[CertificateRevocationListDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Trust, SettingsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system.iter().chain(own).cloned());
    let chains = if roots.is_empty() {
        None
    } else {
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if !crls.is_empty() {
            // Authorities of which there is no list are as without lists.
            builder = builder
                .with_crls(crls.iter().cloned())
                .allow_unknown_revocation_status()
                .enforce_revocation_expiration();
        }
        Some(builder.build().map_err(|error| SettingsError(format!("crls: {error}")))?)
    };
    Ok(Trust {
        chains,
        own: own.iter().map(|der| Sha256::digest(der).into()).collect::<HashSet<_>>(),
        algorithms: provider.signature_verification_algorithms,
    })
}

fn certificates(files: &[PathBuf], key: &str) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    read_all(files, key, |text| CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>())
}

fn read_all<T>(
    files: &[PathBuf],
    key: &str,
    parse: impl Fn(&[u8]) -> Result<Vec<T>, rustls::pki_types::pem::Error>,
) -> Result<Vec<T>, SettingsError> {
    let mut all = Vec::new();
    for file in files {
        let wrong =
            |error: &dyn std::fmt::Display| SettingsError(format!("{key}: {}: {error}", file.display()));
        let text = fs::read(file).map_err(|error| wrong(&error))?;
        let mut some = parse(&text).map_err(|error| wrong(&error))?;
        if some.is_empty() {
            return Err(wrong(&"there is nothing of the kind in it, in PEM"));
        }
        all.append(&mut some);
    }
    Ok(all)
}

/// A certificate of the agent's own.
fn own(
    certificate: &Path,
    key: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<CertifiedKey, SettingsError> {
    let chain = certificates(&[certificate.to_owned()], "client_certificate")?;
    let wrong =
        |error: &dyn std::fmt::Display| SettingsError(format!("client_key: {}: {error}", key.display()));
    let mode = fs::metadata(key).map_err(|error| wrong(&error))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = key.display();
        return Err(wrong(&format_args!("others can read it (mode {mode:03o}): run `chmod 600 {path}`")));
    }
    let text = Zeroizing::new(fs::read(key).map_err(|error| wrong(&error))?);
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(&error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    fn read(yaml: &str) -> Result<Settings, SettingsError> {
        let config: TlsConfig = serde_saphyr::from_str(yaml).unwrap();
        Settings::read(&config, &provider())
    }

    #[test]
    fn the_first_entry_that_takes_a_server_in_counts() {
        let settings = read(
            "system_roots: false\nupstreams:\n\
             - {host: DB.example., port: 5432, verify: ca}\n\
             - {cidr: 10.0.0.0/8, client_leg: plaintext}\n\
             - {cidr: '::1', verify: none}\n",
        )
        .unwrap();
        let of = |address: &str, names: &[&str]| {
            let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
            Arc::clone(settings.entry(address.parse().unwrap(), &names))
        };
        assert_eq!(of("10.1.1.1:5432", &["db.example"]).verify, Verify::Ca);
        let entry = of("10.1.1.1:5433", &["db.example"]);
        assert_eq!((entry.verify, entry.client_leg), (Verify::Full, ClientLeg::Plaintext));
        assert_eq!(entry.server_leg, ServerLeg::Tls, "it follows from the other leg");
        assert_eq!(of("[::1]:1", &[]).verify, Verify::None);
        assert_eq!(of("192.0.2.1:5432", &[]).verify, Verify::Full);
        let maybe = |address: &str| settings.may_have_to_encrypt(address.parse().unwrap(), &[]);
        assert!(maybe("10.1.1.1:5433") && !maybe("192.0.2.1:5432"));
        assert_eq!(settings.hosts().into_iter().collect::<Vec<_>>(), ["db.example".into()]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (yaml, said) in [
            ("upstreams: [{verify: ca}]", "name a `host`"),
            ("upstreams: [{port: 1, verify: pin}]", "needs `pins`"),
            ("upstreams: [{port: 1, pins: [abc]}]", "is no pin"),
            ("upstreams: [{port: 1, cidr: nowhere}]", "is no network"),
            ("upstreams: [{port: 1, server_name: 'a b'}]", "is no host name"),
            ("upstreams: [{port: 1, client_key: /k}]", "go together"),
            ("roots: [/nonexistent]", "/nonexistent"),
            ("roots: [/dev/null]", "nothing of the kind"),
        ] {
            let error = read(&format!("system_roots: false\n{yaml}")).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn pins_in_all_spellings() {
        let hash: [u8; 32] = Sha256::digest(b"key").into();
        let hex = super::super::certificate::hex(&hash);
        let colons = hex.as_bytes().chunks(2).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>();
        assert_eq!(pin(&hex), Ok(hash));
        assert_eq!(pin(&colons.join(":")), Ok(hash));
        // printf key | openssl dgst -sha256 -binary | base64
        assert_eq!(pin("sha256//LHDhK3oGRvkiefQnx7OOczTY5Tic/xZ6HcMOc/gmtoM="), Ok(hash));
    }
}
