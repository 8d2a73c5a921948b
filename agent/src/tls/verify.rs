//! Verifying a server's certificate.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::certificate::{Certificate, shown};
use super::config::Verify;

/// What certificates are verified against.
#[derive(Debug)]
pub(super) struct Trust {
    /// Authorities and revocation lists; `None` where there is no authority.
    pub(super) chains: Option<Arc<WebPkiServerVerifier>>,
    /// SHA-256 of certificates that are trusted by themselves.
    pub(super) own: HashSet<[u8; 32]>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Verifies the certificates of one server.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Arc<Trust>,
    pub(super) verify: Verify,
    pub(super) pins: Arc<[[u8; 32]]>,
    /// Names, any of which the certificate must have.
    pub(super) names: Vec<ServerName<'static>>,
}

/// A certificate that was refused, and why.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Which one; `None` when it cannot be read.
    pub certificate: Option<Box<Certificate>>,
    /// What is wrong with it.
    pub fault: Fault,
    /// In words.
    reason: String,
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has expired, or is not valid yet.
    Time,
    /// It is for other names.
    Name,
    /// No trusted authority has issued it.
    Issuer,
    /// It was revoked, or that cannot be told.
    Revoked,
    /// Its key is not a pinned one.
    Pin,
    /// Anything else.
    Other,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match &self.certificate {
            Some(certificate) => write!(f, " ({certificate})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// What an administrator can do about it.
    pub fn hint(&self) -> &'static str {
        match self.fault {
            Fault::Time => "Renew the server's certificate.",
            Fault::Name => {
                "Connect by a name that the certificate has, or set `server_name:` (or `verify: ca`) for this \
                 server under `tls: upstreams:` in the agent's configuration."
            }
            Fault::Issuer => {
                "Add the authority's file to `tls: roots:` in the agent's configuration, or pin the server's \
                 key there (`verify: pin`)."
            }
            Fault::Revoked => "See the revocation lists under `tls: crls:` in the agent's configuration.",
            Fault::Pin => {
                "If the server's key was changed on purpose, change `pins:` under `tls: upstreams:` in the \
                 agent's configuration."
            }
            Fault::Other => "See `tls: upstreams:` in the agent's configuration.",
        }
    }

    /// The refusal in an error of rustls, if it is one.
    pub(super) fn find(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => other.downcast_ref(),
            _ => None,
        }
    }
}

impl Verifier {
    /// Verifies a certificate, given those that lead to its authority.
    pub(super) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refused> {
        let certificate = Certificate::read(end_entity).ok().map(Box::new);
        let refuse = |fault, reason: String| Refused { certificate: certificate.clone(), fault, reason };
        let Some(read) = &certificate else {
            return Err(refuse(Fault::Other, "it is no X.509 certificate".to_owned()));
        };
        if !self.pins.is_empty() && !self.pins.contains(&read.key_sha256) {
            let pin = super::certificate::hex(&read.key_sha256);
            return Err(refuse(Fault::Pin, format!("its key, SHA-256 {pin}, is not a pinned one")));
        }
        let checks_name = match self.verify {
            Verify::None | Verify::Pin => return Ok(()),
            Verify::Ca => false,
            Verify::Full => true,
        };
        let own = self.trust.own.contains(&read.sha256);
        if own {
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            if now < read.not_before || now > read.not_after {
                return Err(refuse(Fault::Time, "it has expired, or is not valid yet".to_owned()));
            }
            if !checks_name {
                return Ok(());
            }
        }
        let mut wrong_name = None;
        for name in &self.names {
            let verified = match &self.trust.chains {
                _ if own => ParsedCertificate::try_from(end_entity)
                    .and_then(|parsed| verify_server_name(&parsed, name)),
                Some(chains) => {
                    chains.verify_server_cert(end_entity, intermediates, name, &[], now).map(drop)
                }
                None => Err(CertificateError::UnknownIssuer.into()),
            };
            match verified {
                Ok(()) => return Ok(()),
                // The name is what is looked at last.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => {
                    if !checks_name {
                        return Ok(());
                    }
                    wrong_name = Some(name);
                }
                Err(error) => {
                    let (fault, reason) = words(&error);
                    return Err(refuse(fault, reason));
                }
            }
        }
        let wanted = wrong_name.map_or_else(String::new, |name| name.to_str().into_owned());
        let has = &read.names;
        let listed: Vec<_> = has.dns.iter().cloned().chain(has.ip.iter().map(ToString::to_string)).collect();
        let listed = match (&has.common, listed.is_empty()) {
            (_, false) => format!("it is for {}", shown(&listed.join(", "))),
            (Some(common), true) => {
                format!("it has only a common name, {}, which is not looked at", shown(common))
            }
            (None, true) => "it has no name".to_owned(),
        };
        Err(refuse(Fault::Name, format!("it is not valid for {}: {listed}", shown(&wanted))))
    }
}

fn words(error: &Error) -> (Fault, String) {
    let Error::InvalidCertificate(certificate) = error else {
        return (Fault::Other, shown(&error.to_string()));
    };
    let (fault, text) = match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (Fault::Time, "it has expired, or one that leads to its authority has")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (Fault::Time, "it is not valid yet")
        }
        CertificateError::Revoked => (Fault::Revoked, "it was revoked"),
        CertificateError::UnknownRevocationStatus => {
            (Fault::Revoked, "it cannot be told whether it was revoked")
        }
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            (Fault::Revoked, "its authority's revocation list is out of date")
        }
        CertificateError::UnknownIssuer => {
            (Fault::Issuer, "no authority that the agent trusts has issued it")
        }
        CertificateError::BadSignature => (Fault::Issuer, "the signature on it is wrong"),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            (Fault::Issuer, "it is an authority's own certificate")
        }
        other => return (Fault::Other, shown(&other.to_string())),
    };
    (fault, text.to_owned())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.judge(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refused) => {
                Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused)))))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
