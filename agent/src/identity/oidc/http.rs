//! Requests to issuers' servers.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openidconnect::url::{Host, Url};
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use zeroize::Zeroizing;

/// How long a request may take, all of it.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 512 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It would be asked without TLS, or there is no such address.
    #[error("{address} {problem}")]
    Address {
        /// Scheme, host and port.
        address: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file of authorities is no use.
    #[error("the certificate authorities in {0}")]
    Authorities(String),
    /// No answer came, or a broken one.
    #[error("{server} cannot be asked: {reason}")]
    Unreachable {
        /// Scheme, host and port.
        server: String,
        /// What went wrong.
        reason: String,
    },
}

/// Asks servers. Redirections are not followed: one could lead a token elsewhere. No proxy is asked: the
/// agent's environment is not the jobs'.
#[derive(Debug, Clone)]
pub struct Http {
    ca: Option<PathBuf>,
}

/// `text` as an address that may be asked: by TLS, or this host's own by name or number.
///
/// # Errors
/// It is none.
pub fn address(text: &str) -> Result<Url, HttpError> {
    let wrong = |address: String, problem| Err(HttpError::Address { address, problem });
    let Ok(url) = Url::parse(text) else {
        // Whatever it is, it may hold a secret.
        return wrong("what stands there".to_owned(), "is no address");
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return wrong(server(&url), "has a user, a password or a fragment in its address");
    }
    match url.scheme() {
        "https" if url.host().is_some() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => wrong(server(&url), "would be asked without TLS"),
        _ => wrong(server(&url), "is no address of a server"),
    }
}

/// It is this host itself.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// Scheme, host and port: without path and query, in which secrets may stand.
pub(super) fn server(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

impl Http {
    /// Trusts the authorities in the PEM file `ca`, or without it those of the system.
    pub fn new(ca: Option<&Path>) -> Self {
        Self { ca: ca.map(Path::to_owned) }
    }

    /// Asks for `url`. Blocks.
    ///
    /// # Errors
    /// No answer came in [`TIMEOUT`], it is too long, or its status is not 200.
    pub(super) fn get(&self, url: &Url) -> Result<Vec<u8>, HttpError> {
        let request = Request::builder().uri(url.as_str()).header("Accept", "application/json");
        let failed = |reason: String| HttpError::Unreachable { server: server(url), reason };
        let request = request.body(Vec::new()).map_err(|error| failed(error.to_string()))?;
        let answer = self.send(request)?;
        match answer.status().as_u16() {
            200 => Ok(answer.into_body().to_vec()),
            status => Err(failed(format!("it answers with status {status}"))),
        }
    }

    /// Sends `request` and reads the answer, whatever its status. The answer may hold a token. Blocks.
    ///
    /// # Errors
    /// The address may not be asked, no answer came in [`TIMEOUT`], or it is longer than 512 KiB.
    pub fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Zeroizing<Vec<u8>>>, HttpError> {
        let url = address(&request.uri().to_string())?;
        let failed = |error: &dyn std::fmt::Display| HttpError::Unreachable {
            server: server(&url),
            reason: error.to_string(),
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("interlock/", env!("CARGO_PKG_VERSION")))
            .tls_config(self.tls(&url)?)
            .build()
            .new_agent();
        let (parts, mut body) = agent.run(request).map_err(|error| failed(&error))?.into_parts();
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
        let read = body.as_reader().take(MAX_ANSWER as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| failed(&error))?;
        if bytes.len() > MAX_ANSWER {
            return Err(failed(&format_args!("its answer has more than {MAX_ANSWER} bytes")));
        }
        Ok(Response::from_parts(parts, bytes))
    }

    /// Read anew each time, so that authorities can be exchanged while the agent runs.
    fn tls(&self, url: &Url) -> Result<TlsConfig, HttpError> {
        let roots: Vec<Certificate<'static>> = match &self.ca {
            _ if url.scheme() == "http" => Vec::new(),
            Some(path) => {
                let wrong = |what: String| HttpError::Authorities(format!("{} {what}", path.display()));
                let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
                let roots: Vec<_> = ureq::tls::parse_pem(&pem)
                    .filter_map(|item| match item {
                        Ok(PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect();
                if roots.is_empty() {
                    return Err(wrong("are none: put PEM certificates there".to_owned()));
                }
                roots
            }
            None => {
                let system = rustls_native_certs::load_native_certs().certs;
                system.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
            }
        };
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_asked_without_tls() {
        for text in
            ["https://id.example/x", "http://127.0.0.1:1/x?y=z", "http://[::1]/", "http://localhost:80"]
        {
            assert!(address(text).is_ok(), "{text}");
        }
        for text in [
            "http://id.example",
            "http://10.0.0.1",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://0.0.0.0",
            "https://u:p@id.example",
            "https://u@id.example",
            "https://id.example/#f",
            "file:///etc/passwd",
            "ftp://id.example",
            "id.example",
            "",
        ] {
            let error = address(text).unwrap_err().to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
