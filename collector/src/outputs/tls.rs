//! TLS as a client, for outputs that are no HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Trusts the authorities in `ca`, or without it those of the system; shows `certificate` when there is one.
///
/// # Errors
/// A file cannot be read or does not hold what it must.
pub(super) fn connector(
    ca: Option<&Path>,
    certificate: Option<(&PathBuf, &PathBuf)>,
) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in pem(path)? {
                roots.add(certificate).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let tls = match certificate {
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| anyhow::anyhow!("{} is no private key in PEM: {error}", key.display()))?;
            builder.with_client_auth_cert(pem(certificate)?, private)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(tls)))
}

fn pem(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let wrong = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| wrong(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&error))?;
    anyhow::ensure!(!certificates.is_empty(), "{} holds no certificate", path.display());
    Ok(certificates)
}
