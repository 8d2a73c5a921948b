//! Why nothing is shipped, in words for whoever has to mend it.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use tonic::{Code, Status};

use super::printable;

/// Why nothing is shipped.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is no connection to the collector.
    #[error("cannot reach the collector {address}: {reason}")]
    Unreachable {
        /// The collector's address.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// Its certificate is not accepted.
    #[error("{address} is not accepted as the collector: {reason}")]
    Collector {
        /// The collector's address.
        address: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// It does not accept this host.
    #[error("the collector refuses this host: {0}")]
    Refused(String),
    /// The connection or the call ended.
    #[error("the connection to the collector broke: {0}")]
    Broke(String),
    /// The collector took nothing for so long.
    #[error("the collector has taken nothing for {} s, although it was sent something", .0.as_secs())]
    Stalled(Duration),
    /// What the collector says cannot be true.
    #[error("{0}. Nothing is removed here")]
    Contradiction(String),
    /// The recording on this host is not as it must be.
    #[error("the recording on this host cannot be shipped: {0}")]
    Recording(String),
    /// What is kept of the enrolment cannot be used.
    #[error("{0}")]
    Enrolment(String),
}

impl Fault {
    /// Trying again soon would change nothing.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Contradiction(_) | Self::Recording(_) | Self::Enrolment(_) => true,
            Self::Unreachable { .. } | Self::Collector { .. } | Self::Broke(_) | Self::Stalled(_) => false,
        }
    }

    /// The connection to `address` or its TLS failed.
    pub(super) fn connecting(address: &str, error: &io::Error) -> Self {
        let address = address.to_owned();
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(certificate)) => {
                Self::Collector { address, reason: certificate_words(certificate) }
            }
            Some(rustls::Error::AlertReceived(alert)) => Self::alert(*alert),
            Some(other) => Self::Unreachable {
                address,
                reason: format!(
                    "TLS 1.3 cannot be agreed on ({}): is this the collector's port for agents?",
                    printable(&other.to_string())
                ),
            },
            None => Self::Unreachable { address, reason: error.to_string() },
        }
    }

    /// The collector ended TLS with an alert.
    pub(super) fn alert(alert: AlertDescription) -> Self {
        Self::Refused(format!(
            "it broke TLS off with the alert {alert:?}. This host's certificate may have been revoked or have \
             expired, or this host's clock be wrong; with a new token, `interlock enroll URL --token-file -` makes \
             it known again"
        ))
    }

    /// A call failed.
    pub(super) fn of_call(status: &Status) -> Self {
        let words = printable(status.message());
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused(words),
            Code::FailedPrecondition | Code::DataLoss | Code::OutOfRange => {
                Self::Contradiction(format!("the collector takes nothing more: {words}"))
            }
            Code::Unimplemented => Self::Refused(format!(
                "it does not know what this agent asks ({words}): one of them is too old"
            )),
            code => {
                let words = if words.is_empty() { code.to_string() } else { words };
                Self::Broke(match cause(status) {
                    Some(cause) => format!("{words} ({})", printable(&cause)),
                    None => words,
                })
            }
        }
    }
}

/// What is wrong with the collector's certificate, and what to do.
fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet by this host's clock. Set the clock (`timedatectl`), then try \
             again"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired by this host's clock. Look at the clock of this host first, then at \
             the collector"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for other names. Use the name that the collector is set up for, or add this \
             one to `agents.names` in the collector's configuration"
                .to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not from the collector's authority: either another server answers there, or \
             the collector has a new authority, and this host must be enrolled anew"
                .to_owned()
        }
        CertificateError::Other(other) => printable(&other.to_string()),
        other => printable(&other.to_string()),
    }
}

/// What lies at the bottom of a failure, where that is more than what is said on top.
fn cause(status: &Status) -> Option<String> {
    let mut source = status.source()?;
    while let Some(next) = source.source() {
        source = next;
    }
    Some(source.to_string()).filter(|cause| !status.message().contains(cause.as_str()))
}
