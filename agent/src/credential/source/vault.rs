//! HashiCorp Vault and OpenBao, by their HTTP API: KV engines of both versions, and engines that make a
//! login with a lease.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::http::{Answer, Server, shown, text};
use super::{Fetched, SourceError, Validity, after, password, read_text};
use crate::credential::config::{ApproleConfig, VaultAuth, VaultConfig};
use crate::credential::secret::Secret;

/// A secret in Vault.
#[derive(Debug)]
pub(in super::super) struct Vault {
    config: VaultConfig,
    server: Server,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    lease: Option<Lease>,
}

/// What an AppRole's log-in gave.
#[derive(Debug)]
struct Token {
    value: Secret,
    renewable: bool,
    /// `None`: it does not expire.
    until: Option<(Instant, Duration)>,
}

impl Token {
    /// More than a third of its life is left.
    fn is_fresh(&self) -> bool {
        self.until.is_none_or(|(until, whole)| until.saturating_duration_since(Instant::now()) > whole / 3)
    }
}

/// What the login that was fetched last lives by.
#[derive(Debug)]
struct Lease {
    id: String,
    renewable: bool,
    whole: Duration,
}

impl Vault {
    pub(super) fn new(config: &VaultConfig) -> Result<Self, SourceError> {
        let plain = |path: &str| {
            !path.is_empty()
                && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.:~+=@".contains(&b))
                && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
        };
        if !plain(&config.path) {
            return Err(SourceError::forbidden(
                format!("{:?} is no path of Vault's", config.path),
                "write it as in the API, without `/v1/` before it: `secret/data/shop`",
            ));
        }
        if let VaultAuth::Approle(approle) = &config.auth
            && !plain(&approle.mount)
        {
            return Err(SourceError::forbidden(
                format!("{:?} is no mount of an auth method", approle.mount),
                "write it as in `approle`",
            ));
        }
        if config.refresh_seconds == 0 {
            return Err(SourceError::forbidden("`refresh_seconds: 0`", "write at least 1"));
        }
        let server = Server::new(&config.address, config.ca.as_deref(), &[])?;
        Ok(Self { config: config.clone(), server, state: Mutex::default() })
    }

    /// Which secret, to be shown.
    pub(super) fn place(&self) -> String {
        format!("{} at {}", self.config.path, self.server.address())
    }

    pub(super) fn fetch(&self) -> Result<Fetched, SourceError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let path = format!("/v1/{}", self.config.path);
        let had = state.token.is_some();
        let mut answer = self.with_token(&mut state, |token| self.send("GET", &path, Some(token), None))?;
        if answer.status == 403 && had {
            // The token may have been revoked.
            state.token = None;
            answer = self.with_token(&mut state, |token| self.send("GET", &path, Some(token), None))?;
        }
        if answer.status != 200 {
            return Err(self.refused(&answer));
        }
        let json = answer.json().ok_or_else(|| self.wrong("its answer is not JSON"))?;
        self.read(&mut state, json.value())
    }

    fn read(&self, state: &mut State, json: &Value) -> Result<Fetched, SourceError> {
        let data = json.get("data").ok_or_else(|| self.wrong("its answer has no data"))?;
        // KV version 2 has the secret one level deeper, beside what it knows of it.
        let data = match (data.get("data"), data.get("metadata")) {
            (Some(inner), Some(_)) if inner.is_object() => inner,
            (Some(Value::Null), Some(_)) => return Err(self.wrong("its last version is deleted")),
            _ => data,
        };
        let field = |name: &str| {
            text(data, name).ok_or_else(|| self.wrong(&format!("it has no text field {name:?}")))
        };
        let lease = text(json, "lease_id").filter(|id| !id.is_empty()).map(str::to_owned);
        let seconds = json.get("lease_duration").and_then(Value::as_u64).unwrap_or_default();
        let user = match (&self.config.user_field, &lease) {
            (Some(name), _) => Some(field(name)?.to_owned()),
            (None, Some(_)) => text(data, "username").map(str::to_owned),
            (None, None) => None,
        };
        let password =
            password(field(&self.config.field)?.as_bytes(), &format!("the secret {}", self.place()))?;
        let validity = match lease {
            Some(id) if seconds > 0 => {
                let whole = Duration::from_secs(seconds);
                let renewable = json.get("renewable").and_then(Value::as_bool).unwrap_or_default();
                state.lease = Some(Lease { id, renewable, whole });
                self.validity(state, whole)
            }
            _ => {
                state.lease = None;
                Validity::refreshed_after(Duration::from_secs(self.config.refresh_seconds))
            }
        };
        Ok(Fetched { user, password, validity })
    }

    /// A lease lives no longer than the token that it was made with.
    fn validity(&self, state: &State, lease: Duration) -> Validity {
        let token = state.token.as_ref().and_then(|token| token.until);
        let left =
            token.map_or(lease, |(until, _)| lease.min(until.saturating_duration_since(Instant::now())));
        Validity::lasting(left)
    }

    /// Has token and lease last longer. `None` when they do not any more, or for half their time at most.
    pub(super) fn renew(&self) -> Option<Validity> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = state.lease.as_ref().filter(|lease| lease.renewable)?;
        let (id, whole) = (lease.id.clone(), lease.whole);
        if state.token.as_ref().is_some_and(|token| !token.is_fresh()) && !self.renew_token(&mut state) {
            // What hangs on it goes with it.
            return None;
        }
        let body = json!({ "lease_id": id, "increment": whole.as_secs() }).to_string();
        let answer = self
            .with_token(&mut state, |token| {
                self.send("PUT", "/v1/sys/leases/renew", Some(token), Some(body.as_bytes()))
            })
            .ok()?;
        let json = answer.json().filter(|_| answer.status == 200)?;
        let given = json.value().get("lease_duration").and_then(Value::as_u64)?;
        let given = Duration::from_secs(given);
        let validity = self.validity(&state, given);
        let lasts = validity.expires?.saturating_duration_since(Instant::now());
        (lasts > whole / 2).then_some(validity)
    }

    /// Ends what was fetched only to see whether it can be: the token of an AppRole, and with it what was
    /// made by it; else the lease. `false` when something is left that ends by itself later.
    pub(super) fn give_back(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = state.lease.take();
        if let Some(token) = state.token.take()
            && let Ok(value) = std::str::from_utf8(token.value.expose())
        {
            let answer = self.send("POST", "/v1/auth/token/revoke-self", Some(value), Some(b"{}"));
            return answer.is_ok_and(|answer| answer.status < 300);
        }
        let Some(lease) = lease else { return true };
        let body = json!({ "lease_id": lease.id }).to_string();
        let answer = self.with_token(&mut state, |token| {
            self.send("PUT", "/v1/sys/leases/revoke", Some(token), Some(body.as_bytes()))
        });
        answer.is_ok_and(|answer| answer.status < 300)
    }

    /// Runs `ask` with a token that is good for a while.
    fn with_token(
        &self,
        state: &mut State,
        ask: impl FnOnce(&str) -> Result<Answer, SourceError>,
    ) -> Result<Answer, SourceError> {
        let approle = match &self.config.auth {
            VaultAuth::TokenFile(path) => return ask(&read_text(path)?),
            VaultAuth::Approle(approle) => approle,
        };
        let fresh = state.token.as_ref().is_some_and(Token::is_fresh);
        if !fresh && !self.renew_token(state) {
            state.token = Some(self.log_in(approle)?);
        }
        let token = state.token.as_ref().map(|token| std::str::from_utf8(token.value.expose()));
        match token {
            Some(Ok(token)) => ask(token),
            _ => Err(self.wrong("its token is no text")),
        }
    }

    fn log_in(&self, approle: &ApproleConfig) -> Result<Token, SourceError> {
        let secret_id = read_text(&approle.secret_id_file)?;
        let body = Zeroizing::new(json!({ "role_id": approle.role_id, "secret_id": *secret_id }).to_string());
        let path = format!("/v1/auth/{}/login", approle.mount);
        let answer = self.send("POST", &path, None, Some(body.as_bytes()))?;
        if answer.status != 200 {
            return Err(self.refused(&answer));
        }
        let json = answer.json();
        let given = json.as_ref().and_then(|json| token(json.value()));
        given.ok_or_else(|| self.wrong("its log-in gives no token"))
    }

    /// `false` when it cannot last for long any more.
    fn renew_token(&self, state: &mut State) -> bool {
        let Some(known) = state.token.as_ref().filter(|token| token.renewable) else { return false };
        let Ok(value) = std::str::from_utf8(known.value.expose()) else { return false };
        let Ok(answer) = self.send("PUT", "/v1/auth/token/renew-self", Some(value), Some(b"{}")) else {
            return false;
        };
        let json = answer.json().filter(|_| answer.status == 200);
        let Some(renewed) = json.as_ref().and_then(|json| token(json.value())) else { return false };
        let whole = known.until.map(|(_, whole)| whole);
        let lasts = renewed.until.map(|(_, lasts)| lasts);
        let good = match (whole, lasts) {
            (Some(whole), Some(lasts)) => lasts > whole / 2,
            _ => true,
        };
        if good {
            state.token = Some(renewed);
        }
        good
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&[u8]>,
    ) -> Result<Answer, SourceError> {
        let mut headers = vec![("x-vault-request", "true")];
        headers.extend(self.config.namespace.as_deref().map(|name| ("x-vault-namespace", name)));
        headers.extend(token.map(|token| ("x-vault-token", token)));
        headers.extend(body.map(|_| ("content-type", "application/json")));
        self.server.send(method, path, &headers, body)
    }

    fn refused(&self, answer: &Answer) -> SourceError {
        let json = answer.json();
        let errors = json.as_ref().and_then(|json| json.value().get("errors")?.as_array());
        let errors: Vec<&str> = errors.into_iter().flatten().filter_map(Value::as_str).collect();
        let help = match answer.status {
            400 | 403 => {
                "see that the agent's token or AppRole is good and that its policy lets it read this path"
            }
            404 => "see `path`: of a KV engine of version 2 it has `data/` after the mount",
            503 => "unseal it",
            _ => "see its own log",
        };
        SourceError::new(
            shown(&format!(
                "Vault does not give {}: status {} {}",
                self.place(),
                answer.status,
                errors.join(", ")
            )),
            help,
        )
    }

    fn wrong(&self, what: &str) -> SourceError {
        SourceError::new(
            format!("the secret {} cannot be used: {what}", self.place()),
            "see `path`, `field` and `user_field`",
        )
    }
}

/// The token of an answer to a log-in or a renewal.
fn token(json: &Value) -> Option<Token> {
    let auth = json.get("auth")?;
    let value = Secret::new(text(auth, "client_token")?.as_bytes()).ok()?;
    let seconds = auth.get("lease_duration").and_then(Value::as_u64).unwrap_or_default();
    let whole = Duration::from_secs(seconds);
    let until = (seconds > 0).then(|| after(whole)).flatten().map(|until| (until, whole));
    let renewable = auth.get("renewable").and_then(Value::as_bool).unwrap_or_default();
    Some(Token { value, renewable, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VaultConfig {
        VaultConfig {
            address: "http://127.0.0.1:8200".into(),
            path: "secret/data/shop".into(),
            field: "password".into(),
            user_field: None,
            auth: VaultAuth::TokenFile("/token".into()),
            namespace: None,
            ca: None,
            refresh_seconds: 60,
        }
    }

    fn read(json: &Value) -> Result<Fetched, SourceError> {
        let vault = Vault::new(&config()).unwrap();
        let mut state = State::default();
        vault.read(&mut state, json)
    }

    #[test]
    fn both_versions_of_the_kv_engine() {
        let first =
            read(&json!({ "data": { "password": "p" }, "lease_duration": 2_764_800, "lease_id": "" }));
        let first = first.unwrap();
        assert_eq!((first.password.expose(), first.user), (&b"p"[..], None));
        assert!(first.validity.expires.is_none(), "no lease");
        let second = read(&json!({ "data": { "data": { "password": "q" }, "metadata": { "version": 2 } } }));
        assert_eq!(second.unwrap().password.expose(), b"q");
        for (answer, what) in [
            (json!({ "data": { "data": null, "metadata": {} } }), "deleted"),
            (json!({ "data": { "username": "hunter2" } }), "no text field \"password\""),
            (json!({ "data": { "password": 7 } }), "no text field"),
            (json!({ "data": { "password": "" } }), "no password"),
            (json!({}), "no data"),
        ] {
            let error = read(&answer).unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_lease_gives_the_user_and_the_time() {
        let fetched = read(&json!({
            "lease_id": "database/creds/app/x", "lease_duration": 3600, "renewable": true,
            "data": { "username": "v-app-1", "password": "p" },
        }))
        .unwrap();
        assert_eq!(fetched.user.as_deref(), Some("v-app-1"));
        assert!(fetched.validity.refresh < fetched.validity.expires && fetched.validity.expires.is_some());
    }

    #[test]
    fn paths_and_addresses_are_checked() {
        for path in ["", "/v1/x", "a//b", "a/../b", "a?x", "a b"] {
            assert!(Vault::new(&VaultConfig { path: path.into(), ..config() }).is_err(), "{path}");
        }
        assert!(Vault::new(&VaultConfig { address: "http://vault:8200".into(), ..config() }).is_err());
    }
}
