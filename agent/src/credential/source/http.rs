//! Requests to secret stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Request;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use zeroize::Zeroizing;

use super::json::SecretJson;
use super::{MAX_SECRET, SourceError};

/// How long a request may take, all of it.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer in bytes: a secret of the largest size, escaped, and what goes with it.
const MAX_ANSWER: usize = 8 * MAX_SECRET;

/// A secret store's address.
#[derive(Debug, Clone)]
pub(super) struct Server {
    address: String,
    ca: Option<PathBuf>,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// The body, when it is JSON.
    pub(super) fn json(&self) -> Option<SecretJson> {
        SecretJson::parse(&self.body)
    }

    /// The body as a text of one line.
    pub(super) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok().map(str::trim)
    }
}

impl Server {
    /// `plain` are hosts besides this one that may be spoken to without TLS.
    pub(super) fn new(address: &str, ca: Option<&Path>, plain: &[&str]) -> Result<Self, SourceError> {
        let address = address.trim_end_matches('/');
        let uri: Option<ureq::http::Uri> = address.parse().ok();
        let scheme = uri.as_ref().and_then(|uri| uri.scheme_str()).unwrap_or_default();
        let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
        let own = |host: &str| {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        let problem = match scheme {
            _ if host.is_empty() || address.contains(['@', '?', '#']) => "is no address of a server",
            "https" => "",
            "http" if own(host) || plain.contains(&host) => "",
            "http" => "would have secrets go over the network in clear text",
            _ => "is no address of a server",
        };
        if !problem.is_empty() {
            return Err(SourceError::forbidden(
                format!("{address:?} {problem}"),
                "write `https://host:port`; `http://` is for this host alone",
            ));
        }
        Ok(Self { address: address.to_owned(), ca: ca.map(Path::to_owned) })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Host and port as the `Host` header has them.
    pub(super) fn authority(&self) -> &str {
        self.address.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default())
    }

    /// Sends a request and reads the answer. Redirections are not followed: they could lead a token
    /// elsewhere.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, SourceError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            SourceError::new(
                format!("{} cannot be asked: {error}", self.address),
                "see that it runs and can be reached from this host, and that its certificate is trusted (`ca`)",
            )
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("interlock/", env!("CARGO_PKG_VERSION")))
            .tls_config(self.tls()?)
            .build()
            .new_agent();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = match body {
            Some(body) => {
                request.body(body).map_err(|error| unreachable(&error)).map(|request| agent.run(request))
            }
            None => request.body(()).map_err(|error| unreachable(&error)).map(|request| agent.run(request)),
        };
        let mut answer = answer?.map_err(|error| unreachable(&error))?;
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER + 64));
        let reader = answer.body_mut().as_reader();
        std::io::Read::read_to_end(&mut std::io::Read::take(reader, MAX_ANSWER as u64 + 1), &mut body)
            .map_err(|error| unreachable(&error))?;
        if body.len() > MAX_ANSWER {
            return Err(unreachable(&format_args!("its answer has more than {MAX_ANSWER} bytes")));
        }
        Ok(Answer { status: answer.status().as_u16(), body })
    }

    /// Read anew each time, so that authorities can be exchanged while the agent runs.
    fn tls(&self) -> Result<TlsConfig, SourceError> {
        let roots: Vec<Certificate<'static>> = match &self.ca {
            Some(path) => {
                let wrong = |what: String| {
                    SourceError::new(
                        format!("the certificate authorities in {} {what}", path.display()),
                        "put PEM certificates there",
                    )
                };
                let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
                let items: Vec<PemItem<'static>> =
                    ureq::tls::parse_pem(&pem).filter_map(Result::ok).collect();
                let roots: Vec<_> = items
                    .into_iter()
                    .filter_map(|item| match item {
                        PemItem::Certificate(certificate) => Some(certificate),
                        _ => None,
                    })
                    .collect();
                if roots.is_empty() {
                    return Err(wrong("are none".to_owned()));
                }
                roots
            }
            None if self.address.starts_with("http:") => Vec::new(),
            None => rustls_native_certs::load_native_certs()
                .certs
                .iter()
                .map(|der| Certificate::from_der(der).to_owned())
                .collect(),
        };
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }
}

/// A text field of a JSON object.
pub(super) fn text<'j>(json: &'j Value, field: &str) -> Option<&'j str> {
    json.get(field).and_then(Value::as_str)
}

/// What a server gave as the reason, fit to be shown: printable, short.
pub(super) fn shown(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_over_the_network_by_tls_alone() {
        for address in
            ["https://vault.internal:8200", "http://127.0.0.1:8200/", "http://[::1]:8200", "http://localhost"]
        {
            assert!(Server::new(address, None, &[]).is_ok(), "{address}");
        }
        for address in [
            "http://vault.internal:8200",
            "http://10.0.0.1",
            "vault:8200",
            "",
            "ftp://h",
            "https://",
            "https://u:p@h",
        ] {
            assert!(Server::new(address, None, &[]).is_err(), "{address}");
        }
        assert!(Server::new("http://169.254.169.254", None, &["169.254.169.254"]).is_ok());
        assert_eq!(Server::new("https://h:1/x/", None, &[]).unwrap().authority(), "h:1");
    }

    #[test]
    fn a_missing_authority_is_told() {
        let server = Server::new("https://localhost:1", Some(Path::new("/nonexistent.pem")), &[]).unwrap();
        let error = server.send("GET", "/", &[], None).map(drop).unwrap_err();
        assert!(error.problem.contains("/nonexistent.pem"), "{error}");
    }
}
