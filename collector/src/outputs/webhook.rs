//! Webhooks: HTTP requests with JSON, signed as [Standard Webhooks](https://www.standardwebhooks.com) says.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use interlock_recording::json::time;
use interlock_recording::text::SafeJson;
use serde::Serialize as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ureq::http::Request;
use zeroize::Zeroizing;

use super::config::Webhook;
use super::message::Message;
use super::send::{Failure, later, secret_file};
use crate::http::Client;
use crate::store::now_ns;

/// The shortest secret, bytes: what Standard Webhooks asks for.
const SECRET: usize = 24;

/// Sends requests to one address.
pub(super) struct Hook {
    config: Webhook,
    collector: String,
    client: Client,
}

impl Hook {
    pub(super) fn new(config: &Webhook, collector: &str) -> anyhow::Result<Self> {
        // So that a secret that cannot be read is found at the start.
        secrets(&config.secret)?;
        let client = Client::new(config.ca.as_deref())?;
        Ok(Self { config: config.clone(), collector: collector.to_owned(), client })
    }

    pub(super) fn batch(&self) -> usize {
        usize::from(self.config.batch)
    }

    pub(super) async fn send(&self, messages: &[&Message]) -> Result<(), Failure> {
        let body =
            body(messages, &self.collector).map_err(|error| Failure::Later(error.to_string(), None))?;
        let request = signed_request(&self.config.url, &self.config.secret, &id(messages), body)
            .map_err(|error| Failure::Later(format!("{error:#}"), None))?;
        let answer =
            self.client.send(request).await.map_err(|error| Failure::Later(error.to_string(), None))?;
        let status = answer.status().as_u16();
        match status {
            200..=299 => Ok(()),
            400 | 413 | 415 | 422 => {
                Err(Failure::Refused(format!("the receiver answers with status {status}")))
            }
            300..=399 => Err(Failure::Later(
                format!(
                    "the receiver answers with status {status}: redirections are not followed, set webhook.url"
                ),
                None,
            )),
            _ => Err(Failure::Later(
                format!("the receiver answers with status {status}"),
                later(answer.headers()),
            )),
        }
    }
}

/// A request with a body of JSON, signed with each secret in the file `secret`.
///
/// # Errors
/// The file or the address is of no use.
pub(crate) fn signed_request(
    url: &str,
    secret: &Path,
    id: &str,
    body: Vec<u8>,
) -> anyhow::Result<Request<Vec<u8>>> {
    let secrets = secrets(secret)?;
    let seconds = now_ns() / 1_000_000_000;
    let request = Request::post(url)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", signature(&secrets, id, seconds, &body))
        .body(body);
    request.map_err(|_| anyhow::anyhow!("the webhook's url is no address that can be asked"))
}

/// Reads the secrets in a file, to see whether they are some.
///
/// # Errors
/// They are not.
pub(crate) fn check_secrets(path: &Path) -> anyhow::Result<()> {
    secrets(path).map(drop)
}

/// One request's body. It is the same each time that the same messages are sent.
fn body(messages: &[&Message], collector: &str) -> serde_json::Result<Vec<u8>> {
    let newest = messages.iter().map(|message| message.time_ns()).max().unwrap_or_default();
    let data: Vec<Value> = messages.iter().map(|message| Value::Object(message.json(collector))).collect();
    let value = json!({"type": "interlock.messages", "timestamp": time(newest.unsigned_abs()), "data": data});
    let mut text = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, SafeJson))?;
    Ok(text)
}

/// The request's id, made from those of its messages: the same id, the same messages.
fn id(messages: &[&Message]) -> String {
    let mut hash = Sha256::new();
    for message in messages {
        hash.update(message.id.as_bytes());
        hash.update(b"\n");
    }
    let hash = interlock_recording::hex(&hash.finalize());
    format!("msg_{}", hash.get(..32).unwrap_or_default())
}

/// `v1,` and the HMAC by each secret.
fn signature(secrets: &[Zeroizing<Vec<u8>>], id: &str, seconds: i64, body: &[u8]) -> String {
    let signed = secrets.iter().filter_map(|secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    });
    signed.collect::<Vec<_>>().join(" ")
}

/// The secrets in a file, one on each line.
fn secrets(path: &Path) -> anyhow::Result<Vec<Zeroizing<Vec<u8>>>> {
    let text = secret_file(path)?;
    let mut secrets = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line = line.trim();
        let secret = STANDARD.decode(line.strip_prefix("whsec_").unwrap_or(line)).map(Zeroizing::new);
        match secret {
            Ok(secret) if secret.len() >= SECRET => secrets.push(secret),
            _ => anyhow::bail!(
                "{}: line {number} is no secret: `whsec_` and at least {SECRET} random bytes in base64, such as \
                 `echo whsec_$(openssl rand -base64 32)` makes",
                path.display()
            ),
        }
    }
    anyhow::ensure!(!secrets.is_empty(), "{} holds no secret", path.display());
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of the specification's reference implementations.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(
            &[Zeroizing::new(secret)],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_long_secret_and_may_be_several() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            secrets(&path).map(|secrets| secrets.len()).map_err(|error| error.to_string())
        };
        let one = format!("whsec_{}", STANDARD.encode([7; 32]));
        assert_eq!(write(&format!("{one}\n\n{one}\n"), 0o600), Ok(2));
        assert!(write(&one, 0o644).is_err_and(|error| error.contains("chmod")));
        let short = STANDARD.encode([7; 8]);
        assert!(write(&short, 0o600).is_err_and(|error| error.contains("line 1") && !error.contains(&short)));
        assert!(write("", 0o600).is_err_and(|error| error.contains("no secret")));
    }
}
