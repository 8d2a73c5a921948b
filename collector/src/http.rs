//! Requests of the collector to other servers: identity providers, webhooks, log sinks.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};

/// How long a request may take, all of it.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer that is read, bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The file of certificate authorities is no use.
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

/// Sends requests. Cheap to clone; connections are kept and used again.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
}

impl Client {
    /// Trusts the authorities in the PEM file `ca`, or without it those of the system.
    ///
    /// # Errors
    /// `ca` cannot be read or holds no certificate.
    pub fn new(ca: Option<&Path>) -> Result<Self, HttpError> {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots(ca)?)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            // A redirection could lead a token elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("interlock-collector/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build()
            .new_agent();
        Ok(Self { agent })
    }

    /// Sends `request` and reads the answer, whatever its status. Blocks: see [`Client::send`].
    ///
    /// # Errors
    /// No answer came in 15 s, or it is longer than 1 MiB.
    pub fn send_blocking(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let server = server(&request);
        let failed = |reason: String| HttpError::Unreachable { server: server.clone(), reason };
        let answer = self.agent.run(request).map_err(|error| failed(error.to_string()))?;
        let (parts, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        let read = body.as_reader().take(MAX_ANSWER + 1).read_to_end(&mut bytes);
        read.map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > MAX_ANSWER {
            return Err(failed(format!("its answer has more than {MAX_ANSWER} bytes")));
        }
        Ok(Response::from_parts(parts, bytes))
    }

    /// Sends `request` and reads the answer, whatever its status.
    ///
    /// # Errors
    /// As [`Client::send_blocking`].
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let (client, server) = (self.clone(), server(&request));
        tokio::task::spawn_blocking(move || client.send_blocking(request))
            .await
            .unwrap_or_else(|error| Err(HttpError::Unreachable { server, reason: error.to_string() }))
    }
}

/// Without path and query, in which secrets may stand.
fn server(request: &Request<Vec<u8>>) -> String {
    let uri = request.uri();
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default())
}

fn roots(ca: Option<&Path>) -> Result<Vec<Certificate<'static>>, HttpError> {
    let Some(path) = ca else {
        let system = rustls_native_certs::load_native_certs().certs;
        return Ok(system.iter().map(|der| Certificate::from_der(der).to_owned()).collect());
    };
    let wrong = |what: String| HttpError::Authorities(format!("{} {what}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(wrong("are none: put PEM certificates there".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with `answer`; gives the address.
    fn server(answer: Vec<u8>) -> (String, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/secret?token=1", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            let _ = stream.write_all(&answer);
        });
        (address, thread)
    }

    fn get(answer: Vec<u8>) -> Result<Response<Vec<u8>>, HttpError> {
        let (address, thread) = server(answer);
        let request = Request::builder().uri(address).body(Vec::new()).unwrap();
        let answer = Client::new(None).unwrap().send_blocking(request);
        thread.join().unwrap();
        answer
    }

    #[test]
    fn answers_are_given_as_they_are_and_redirections_not_followed() {
        for status in [200, 302, 500] {
            let answer = format!(
                "HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\nhi"
            );
            let answer = get(answer.into_bytes()).unwrap();
            assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (status, &b"hi"[..]));
        }
    }

    #[test]
    fn what_is_too_long_or_broken_is_an_error_without_the_secret() {
        let mut long = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n".to_vec();
        long.resize(2_000_044, b'x');
        for answer in [long, b"garbage\r\n\r\n".to_vec()] {
            let error = get(answer).unwrap_err().to_string();
            assert!(error.contains("127.0.0.1") && !error.contains("token"), "{error}");
        }
    }
}
