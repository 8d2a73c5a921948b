//! What is PostgreSQL's own: how it is connected to, its settings, and the schema in its words.

use std::time::Duration;

use form_urlencoded::byte_serialize;
use sqlx::{AnyConnection, Executor as _};
use zeroize::Zeroizing;

use super::{Dialect, Store, StoreError};

/// How long it is waited between two looks whether the server is there.
const AGAIN: Duration = Duration::from_secs(3);

/// The schema's steps are made by one collector at a time; they may take longer than statements do.
pub(super) const BEFORE_STEPS: &str = "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; \
     SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_advisory_xact_lock(7307495711320109379)";

/// The words of each command's `search`, which [`super::words`] has put apart with single blanks.
pub(super) const SEARCH: &str = "CREATE INDEX IF NOT EXISTS commands_words ON commands \
     USING GIN (array_to_tsvector(string_to_array(search, ' ')))";

/// A PostgreSQL server to connect to.
pub struct Server {
    /// `postgres://…` without a password.
    pub url: String,
    /// The password.
    pub password: Option<Zeroizing<String>>,
    /// Connections for reading, and as many for writing.
    pub connections: u32,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    /// The URL with the password in it, and never without TLS beyond this host.
    fn with_password(&self) -> Zeroizing<String> {
        let mut url = Zeroizing::new(self.url.clone());
        if !url.contains("sslmode=") {
            let mark = if url.contains('?') { '&' } else { '?' };
            url.push(mark);
            url.push_str(if is_local(&self.url) { "sslmode=prefer" } else { "sslmode=verify-full" });
        }
        if let Some(password) = &self.password {
            // As a parameter: it cannot be taken for another part of the address.
            url.push_str("&password=");
            byte_serialize(password.as_bytes()).for_each(|part| url.push_str(&part.replace('+', "%20")));
        }
        url
    }
}

/// The host of a URL, as it stands there; empty for a Unix-domain socket.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(host) => host.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Whether what is said to this host stays on this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_local(url: &str) -> bool {
    // Another host may be named behind the question mark, and counts then; a path is a Unix-domain socket's.
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let named = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key.starts_with("host"));
    let named: Vec<bool> = named.map(|(_, host)| host.starts_with('/') || is_loopback(&host)).collect();
    let host = host(url);
    named.iter().all(|local| *local) && (is_loopback(host) || host.is_empty())
}

/// Checks a URL from the configuration.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let Some(rest) = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")) else {
        return Err("it begins with postgres://".to_owned());
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    if user.contains(':') || url.contains("password=") {
        return Err(
            "a password stands in it: put that into a file, and name it by store.password_file".into()
        );
    }
    if host(url).is_empty() && !url.contains("host=") {
        // The environment would say which.
        return Err("it names no host (for a Unix-domain socket ?host=/run/postgresql)".into());
    }
    if !is_local(url) {
        let mode = url.split_once("sslmode=").map(|(_, mode)| mode.split('&').next().unwrap_or_default());
        if mode.is_some_and(|mode| mode != "verify-full") {
            return Err(
                "what goes to another host needs sslmode=verify-full (the default), and sslrootcert=FILE \
                        if this host does not know the authority of its certificate"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Settles a new connection: bounds on how long it may hold anything up, and commits that last.
pub(super) async fn settle(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    // A collector that is stopped in the middle of a transaction loses its session, and its locks are free for
    // the others. A commit that only the server's memory knows is none, whatever the role's default is.
    connection
        .execute(sqlx::raw_sql(
            "SET statement_timeout = '60s'; SET lock_timeout = '20s'; \
             SET idle_in_transaction_session_timeout = '20s'; SET application_name = 'interlock-collector'; \
             SET default_transaction_isolation = 'read committed'; SET client_min_messages = warning; \
             SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') IN ('off', 'local')",
        ))
        .await?;
    Ok(())
}

/// A step of the schema as PostgreSQL takes it. Texts are compared by their bytes, as SQLite does.
pub(super) fn step(text: &str) -> String {
    text.replace("{blob}", "BYTEA")
        .replace("{serial}", "BIGSERIAL PRIMARY KEY")
        .replace(" TEXT", " TEXT COLLATE \"C\"")
}

/// Whether trying again later may help: the server cannot be reached, or is starting or stopping.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // Connection exceptions, insufficient resources, operator intervention.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["08", "53", "57"].iter().any(|class| code.starts_with(class)))
        }
        _ => false,
    }
}

impl Store {
    /// Connects to a PostgreSQL server. With `patient`, until it is there.
    ///
    /// # Errors
    /// It cannot be connected to; with `patient`, for another reason than that it is not there. Or it is not one
    /// that recordings can be kept in, or a newer version made the schema.
    pub async fn open_server(server: &Server, patient: bool) -> Result<Self, StoreError> {
        loop {
            let opened = Self::connect(&server.with_password(), Dialect::Postgres, server.connections).await;
            let error = match opened {
                Err(StoreError::Database(error)) if patient && is_away(&error) => error,
                Err(error) => return Err(error),
                Ok(store) => {
                    store.check_server().await?;
                    return Ok(store);
                }
            };
            tracing::warn!("PostgreSQL ({}) is not there: {error}. It is tried again", server.url);
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn check_server(&self) -> Result<(), StoreError> {
        use sqlx::Row as _;
        let row = sqlx::query(
            "SELECT current_setting('server_encoding'), current_setting('fsync'), \
             CAST(current_setting('server_version_num') AS BIGINT)",
        )
        .fetch_one(self.pool())
        .await?;
        let (encoding, fsync): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if encoding != "UTF8" {
            return Err(StoreError::Unfit(format!(
                "the database's encoding is {encoding}: make one with ENCODING 'UTF8' (and TEMPLATE template0)"
            )));
        }
        if row.try_get::<i64, _>(2)? < 130_000 {
            return Err(StoreError::Unfit("PostgreSQL 13 or newer is needed".into()));
        }
        if fsync != "on" {
            tracing::warn!(
                "PostgreSQL runs with fsync={fsync}: a loss of power takes back what agents were told is kept"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, password: &str) -> Server {
        Server { url: url.into(), password: Some(Zeroizing::new(password.into())), connections: 1 }
    }

    #[test]
    fn other_hosts_are_verified() {
        let url = server("postgres://interlock@db.example.com/interlock", "a+b&c/ü").with_password();
        assert_eq!(
            url.as_str(),
            "postgres://interlock@db.example.com/interlock?sslmode=verify-full&password=a%2Bb%26c%2F%C3%BC"
        );
        let url = server("postgres://interlock@127.0.0.1:5433/interlock", "x").with_password();
        assert!(url.contains("sslmode=prefer"));
        for refused in [
            "postgres://u@db.example.com/i?sslmode=require",
            "postgres://u@db/i?sslmode=disable",
            "postgres://u@127.0.0.1/i?sslmode=disable&host=db.example.com",
            "postgres://u:secret@127.0.0.1/i",
            "postgres://u@127.0.0.1/i?password=secret",
            "mysql://u@127.0.0.1/i",
            "postgres:///i",
        ] {
            assert!(check_url(refused).is_err(), "{refused}");
        }
        assert_eq!(check_url("postgres://u@db.example.com/i?sslrootcert=/ca.pem"), Ok(()));
        assert_eq!(check_url("postgres://u@[::1]:5432/i?sslmode=disable"), Ok(()));
        assert_eq!(check_url("postgres:///i?host=%2Frun%2Fpostgresql&sslmode=disable"), Ok(()));
    }

    #[test]
    fn passwords_are_not_printed() {
        assert!(!format!("{:?}", server("postgres://u@h/d", "secret")).contains("secret"));
    }

    #[test]
    fn texts_are_compared_by_bytes() {
        assert_eq!(step("a TEXT NOT NULL, b {blob}"), "a TEXT COLLATE \"C\" NOT NULL, b BYTEA");
    }
}
