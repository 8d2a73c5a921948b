//! Asking GitHub Actions for a job's token.
//!
//! The address stands in the job's environment, which the job can write: the agent asks only hosts that
//! agent.yaml names, by TLS, follows no redirection, and shows what comes back to nobody.

use openidconnect::url::Url;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::digest;
use super::tree::stem;
use crate::identity::oidc::{Issuer, MAX_TOKEN, http};

/// The longest address, in bytes.
const MAX_URL: usize = 4096;

/// A request for a token, as the job's environment tells it.
pub(super) struct Request {
    url: Url,
    bearer: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Answer {
    value: String,
}

impl Request {
    /// `url` and `bearer` are the job's `ACTIONS_ID_TOKEN_REQUEST_URL` and `_TOKEN`.
    pub(super) fn new(issuer: &Issuer, url: &str, bearer: &str) -> Result<Self, String> {
        let hosts = &issuer.config().token.request_hosts;
        let parsed = if url.len() > MAX_URL { None } else { http::address(url).ok() };
        let Some(mut url) = parsed else {
            return Err("the job's address for tokens is none that may be asked".to_owned());
        };
        if !hosts.iter().any(|allowed| takes(allowed, &url)) {
            let host = url.host_str().unwrap_or_default().chars().take(200).collect::<String>();
            return Err(format!(
                "a token may not be asked for at {host}: `token.request_hosts` has not that host"
            ));
        }
        if bearer.len() > MAX_TOKEN || !bearer.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("what the job has to ask for tokens with is no token".to_owned());
        }
        if let Some(audience) = issuer.audiences().first() {
            url.query_pairs_mut().append_pair("audience", audience);
        }
        Ok(Self { url, bearer: Zeroizing::new(bearer.to_owned()) })
    }

    /// Tells who may ask from others, whatever they add to the address, and on every host alike.
    pub(super) fn bearer_hash(&self, issuer: &Issuer) -> [u8; 32] {
        digest(&[b"bearer", issuer.id().as_bytes(), stem(&self.bearer).as_bytes()])
    }

    /// Tells it from other requests.
    pub(super) fn hash(&self, issuer: &Issuer) -> [u8; 32] {
        let issuer = issuer.name().as_bytes();
        digest(&[b"request", issuer, self.url.as_str().as_bytes(), self.bearer.as_bytes()])
    }

    /// Asks. Blocks.
    pub(super) fn ask(&self, issuer: &Issuer) -> Result<Zeroizing<String>, String> {
        let bearer = Zeroizing::new(format!("Bearer {}", *self.bearer));
        let request = ureq::http::Request::builder()
            .uri(self.url.as_str())
            .header("Authorization", bearer.as_str())
            .header("Accept", "application/json; api-version=2.0")
            .body(Vec::new())
            .map_err(|_| "the job's address for tokens cannot be asked".to_owned())?;
        let answer = issuer.http().send(request).map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            200 => {}
            status => {
                return Err(format!("asked for the job's token, the server answers with status {status}"));
            }
        }
        match serde_json::from_slice::<Answer>(answer.body()) {
            Ok(Answer { value }) => Ok(Zeroizing::new(value)),
            // The error could hold some of it.
            Err(_) => Err("asked for the job's token, the server gives none".to_owned()),
        }
    }
}

/// An entry of `request_hosts` takes in an address: by its host, the port as well where that is no usual one.
fn takes(allowed: &str, url: &Url) -> bool {
    let (host, port) = match allowed.rsplit_once(':') {
        // Not the colons of an IPv6 address.
        Some((host, port)) if !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, port.parse::<u16>().ok())
        }
        _ => (allowed, None),
    };
    // The usual one is not told.
    if port.is_some() && port != url.port_or_known_default() || port.is_none() && url.port().is_some() {
        return false;
    }
    let Some(asked) = url.host_str() else { return false };
    match host.strip_prefix("*.") {
        Some(domain) => asked
            .strip_suffix(domain)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|labels| !labels.is_empty()),
        None => asked.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_that_are_named_are_asked() {
        let all = |allowed: &str, urls: &[&str]| {
            urls.iter().map(|url| takes(allowed, &Url::parse(url).unwrap())).collect::<Vec<_>>()
        };
        let github = "*.actions.githubusercontent.com";
        let good = [
            "https://pipelines.actions.githubusercontent.com/x?y",
            "https://a.b.actions.githubusercontent.com:443/",
        ];
        assert_eq!(all(github, &good), [true, true]);
        let bad = [
            "https://actions.githubusercontent.com/",
            "https://evilactions.githubusercontent.com/",
            "https://x.actions.githubusercontent.com.evil.example/",
            "https://evil.example/x.actions.githubusercontent.com",
            "https://evil.example?x.actions.githubusercontent.com",
            "https://x.actions.githubusercontent.com:8443/",
            "https://169.254.169.254/",
        ];
        assert_eq!(all(github, &bad), [false; 7]);
        assert_eq!(
            all("127.0.0.1:8080", &["http://127.0.0.1:8080/", "http://127.0.0.1:8081/", "http://127.0.0.1/"]),
            [true, false, false]
        );
        assert_eq!(all("[::1]:8080", &["http://[::1]:8080/"]), [true]);
    }
}
