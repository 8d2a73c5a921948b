//! What a certificate says. Everything in it may be hostile.

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::RsaSsaPssParams;

/// The longest name that is kept for people, in characters.
const MOST_SHOWN: usize = 200;

/// Names that a certificate is valid for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The last common name of the subject.
    pub common: Option<String>,
    /// DNS names, wildcards among them.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ip: Vec<IpAddr>,
    /// Mail addresses.
    pub email: Vec<String>,
    /// URIs.
    pub uri: Vec<String>,
}

/// What is known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject, for people: printable, of bounded length.
    pub subject: String,
    /// Its issuer, likewise.
    pub issuer: String,
    /// SHA-256 over the whole of it.
    pub sha256: [u8; 32],
    /// SHA-256 over its public key, as pins have it.
    pub key_sha256: [u8; 32],
    /// The names it is valid for.
    pub names: Names,
    /// Seconds since the Unix epoch from which on it is valid.
    pub not_before: i64,
    /// Seconds since the Unix epoch until which it is valid.
    pub not_after: i64,
    /// Its hash for `tls-server-end-point` (RFC 5929); `None` where its signature names no hash.
    pub end_point: Option<Vec<u8>>,
}

/// It cannot be read as an X.509 certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no X.509 certificate")]
pub struct Unreadable;

impl Certificate {
    /// Reads one in DER.
    ///
    /// # Errors
    /// It is none.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| Unreadable)?;
        let validity = parsed.validity();
        Ok(Self {
            subject: shown(&parsed.subject().to_string()),
            issuer: shown(&parsed.issuer().to_string()),
            sha256: Sha256::digest(der).into(),
            key_sha256: Sha256::digest(parsed.tbs_certificate.subject_pki.raw).into(),
            names: names(&parsed),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            end_point: end_point(&parsed, der),
        })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = if self.subject.is_empty() { "without a subject" } else { &self.subject };
        write!(f, "{subject}, issued by {}, SHA-256 {}", self.issuer, hex(&self.sha256))
    }
}

fn names(parsed: &X509Certificate<'_>) -> Names {
    let common = parsed.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
    let mut names = Names { common: common.map(str::to_owned), ..Names::default() };
    let Ok(Some(alternative)) = parsed.subject_alternative_name() else { return names };
    for name in &alternative.value.general_names {
        match name {
            GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => names.email.push((*name).to_owned()),
            GeneralName::URI(name) => names.uri.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => names.ip.extend(address(bytes)),
            _ => {}
        }
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// RFC 5929, 4.1: the hash of the certificate's signature; SHA-256 in the place of MD5 and SHA-1.
fn end_point(parsed: &X509Certificate<'_>, der: &[u8]) -> Option<Vec<u8>> {
    let algorithm = &parsed.signature_algorithm;
    let mut oid = algorithm.algorithm.to_id_string();
    if oid == "1.2.840.113549.1.1.10" {
        let parameters = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
        oid = parameters.hash_algorithm_oid().to_id_string();
    }
    match oid.as_str() {
        // MD5, SHA-1 and SHA-256 with RSA; SHA-1 and SHA-256 with ECDSA; SHA-1 and SHA-256 alone.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Some(Sha256::digest(der).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Sha384::digest(der).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Sha512::digest(der).to_vec())
        }
        _ => None,
    }
}

/// Text of a stranger, for logs and errors.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(MOST_SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Lower case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names = ["db.example".to_owned(), "10.0.0.1".to_owned(), "*.db.example".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "db\nexample");
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_hashes() {
        let der = make(&rcgen::PKCS_ECDSA_P256_SHA256);
        let read = Certificate::read(&der).unwrap();
        assert_eq!(read.names.dns, ["db.example", "*.db.example"]);
        assert_eq!(read.names.ip, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(read.names.common.as_deref(), Some("db\nexample"));
        assert_eq!(read.subject, "CN=db\u{fffd}example");
        assert_eq!(read.end_point.as_deref(), Some(&Sha256::digest(&der)[..]));
        let der = make(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(Certificate::read(&der).unwrap().end_point.as_deref(), Some(&Sha384::digest(&der)[..]));
        assert_eq!(Certificate::read(&make(&rcgen::PKCS_ED25519)).unwrap().end_point, None);
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes(cut in 0_usize..600, at in 0_usize..600, byte: u8) {
            let mut der = make(&rcgen::PKCS_ECDSA_P256_SHA256);
            if let Some(place) = der.get_mut(at) {
                *place = byte;
            }
            der.truncate(cut);
            let _ = Certificate::read(&der);
        }
    }
}
