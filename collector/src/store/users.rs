//! Local accounts.

use std::fmt;

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::page::{rfc3339, rfc3339_or_null};
use super::{Dialect, Store, StoreError, Write, now_ns};

/// An account, as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// The identity provider that it comes from; empty for one of the collector's own.
    pub provider: String,
    /// It can sign in.
    pub active: bool,
    /// It needs one-time codes.
    pub totp: bool,
    /// Since when there is one.
    #[serde(rename = "created", serialize_with = "rfc3339")]
    pub created_ns: i64,
    /// Who made it.
    pub created_by: String,
    /// When someone last signed in with it.
    #[serde(rename = "last_sign_in", serialize_with = "rfc3339_or_null")]
    pub last_sign_in_ns: Option<i64>,
}

/// What an account's owner must show.
pub struct Credentials {
    /// The password's hash, in PHC form.
    pub password_hash: String,
    /// It can sign in.
    pub active: bool,
    /// Until when its password counts although passwords are turned off.
    pub recovery_until_ns: i64,
    /// The secret of its one-time codes, hexadecimal.
    pub totp_secret: Option<String>,
    /// One that is not confirmed yet.
    pub totp_pending: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials { … }")
    }
}

/// The fact that holds the hash of the set-up link's token, and until when it counts.
const SETUP: &str = "setup_token";

const COLUMNS: &str =
    "SELECT name, role, state, totp_secret, created_ns, created_by, last_sign_in_ns, provider FROM users";

fn read(row: &AnyRow) -> Result<User, StoreError> {
    Ok(User {
        name: row.try_get(0)?,
        role: row.try_get(1)?,
        active: row.try_get::<String, _>(2)? == "active",
        totp: row.try_get::<Option<String>, _>(3)?.is_some(),
        created_ns: row.try_get(4)?,
        created_by: row.try_get(5)?,
        last_sign_in_ns: row.try_get(6)?,
        provider: row.try_get(7)?,
    })
}

impl Store {
    /// All accounts by name, at most 1000.
    ///
    /// # Errors
    /// The database fails.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY name LIMIT 1000")))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(read).collect()
    }

    /// An account by its name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE name = $1")))
            .bind(name)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// What the owner of an account of the collector's own must show.
    ///
    /// # Errors
    /// The database fails.
    pub async fn credentials(&self, name: &str) -> Result<Option<Credentials>, StoreError> {
        let row = sqlx::query(
            "SELECT password_hash, state, totp_secret, totp_pending, recovery_until_ns FROM users \
             WHERE name = $1 AND provider = ''",
        )
        .bind(name)
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| {
            Ok(Credentials {
                password_hash: row.try_get(0)?,
                active: row.try_get::<String, _>(1)? == "active",
                totp_secret: row.try_get(2)?,
                totp_pending: row.try_get(3)?,
                recovery_until_ns: row.try_get(4)?,
            })
        })
        .transpose()
    }

    /// Whether there is any account.
    ///
    /// # Errors
    /// The database fails.
    pub async fn has_users(&self) -> Result<bool, StoreError> {
        Ok(sqlx::query("SELECT 1 FROM users LIMIT 1").fetch_optional(self.pool()).await?.is_some())
    }

    /// Whether the set-up link with this hash counts.
    ///
    /// # Errors
    /// The database fails.
    pub async fn setup_counts(&self, token_sha256: &str) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT value FROM facts WHERE name = $1")
            .bind(SETUP)
            .fetch_optional(self.pool())
            .await?;
        let value: String = row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
        Ok(setup_matches(&value, token_sha256))
    }
}

/// Whether the fact's value (hash, blank, expiry) is this hash's and has not expired.
fn setup_matches(value: &str, token_sha256: &str) -> bool {
    value.split_once(' ').is_some_and(|(hash, expires)| {
        hash == token_sha256 && expires.parse::<i64>().is_ok_and(|expires| expires > now_ns())
    })
}

impl Write<'_> {
    /// Sets the token of the set-up link; those before count no longer.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_setup(&mut self, token_sha256: &str, expires_ns: i64) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(SETUP)
        .bind(format!("{token_sha256} {expires_ns}"))
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Uses the set-up link up; whether it counted and there is no account yet.
    ///
    /// # Errors
    /// The database fails.
    pub async fn use_setup(&mut self, token_sha256: &str) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT value FROM facts WHERE name = $1")
            .bind(SETUP)
            .fetch_optional(self.on())
            .await?;
        let value: String = row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
        if !setup_matches(&value, token_sha256) {
            return Ok(false);
        }
        // Whoever removes it is the one who uses it.
        let gone = sqlx::query("DELETE FROM facts WHERE name = $1 AND value = $2")
            .bind(SETUP)
            .bind(&value)
            .execute(self.on())
            .await?;
        let someone = sqlx::query("SELECT 1 FROM users LIMIT 1").fetch_optional(self.on()).await?;
        Ok(gone.rows_affected() == 1 && someone.is_none())
    }

    /// Adds an account; `false` when there is one of that name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_user(
        &mut self,
        name: &str,
        password_hash: &str,
        role: &str,
        by: &str,
    ) -> Result<bool, StoreError> {
        let added = sqlx::query(
            "INSERT INTO users (name, password_hash, role, state, totp_step, created_ns, created_by) \
             VALUES ($1, $2, $3, 'active', 0, $4, $5) ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(password_hash)
        .bind(role)
        .bind(now_ns())
        .bind(by)
        .execute(self.on())
        .await?;
        Ok(added.rows_affected() == 1)
    }

    /// Sets a password's hash; whether there is the account, and it is one of the collector's own.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_password(&mut self, name: &str, password_hash: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE users SET password_hash = $2 WHERE name = $1 AND provider = ''")
            .bind(name)
            .bind(password_hash)
            .execute(self.on())
            .await?;
        self.void_votes(name).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Sets an account's role and whether it can sign in; whether there is the account.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_user(&mut self, name: &str, role: &str, active: bool) -> Result<bool, StoreError> {
        if self.dialect == Dialect::Postgres {
            // Two who take each other's rights at the same time must not leave nobody with any.
            sqlx::query("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE").execute(self.on()).await?;
        }
        let done = sqlx::query("UPDATE users SET role = $2, state = $3 WHERE name = $1")
            .bind(name)
            .bind(role)
            .bind(if active { "active" } else { "disabled" })
            .execute(self.on())
            .await?;
        self.void_votes(name).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Until then the account's password counts although passwords are turned off.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_recovery(&mut self, name: &str, until_ns: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET recovery_until_ns = $2 WHERE name = $1 AND provider = ''")
            .bind(name)
            .bind(until_ns)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// How many administrators can sign in.
    ///
    /// # Errors
    /// The database fails.
    pub async fn active_admins(&mut self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM users WHERE role = 'admin' AND state = 'active'")
            .fetch_one(self.on())
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Keeps a secret of one-time codes until a code confirms it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn propose_totp(&mut self, name: &str, secret: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET totp_pending = $2 WHERE name = $1")
            .bind(name)
            .bind(secret)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// From now on the account needs codes of this secret, if it is the one that was kept; `step` was used.
    ///
    /// # Errors
    /// The database fails.
    pub async fn confirm_totp(&mut self, name: &str, secret: &str, step: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE users SET totp_secret = totp_pending, totp_pending = NULL, totp_step = $3 \
             WHERE name = $1 AND totp_pending = $2",
        )
        .bind(name)
        .bind(secret)
        .bind(step)
        .execute(self.on())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The account needs no codes any more; whether it did.
    ///
    /// # Errors
    /// The database fails.
    pub async fn remove_totp(&mut self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE users SET totp_secret = NULL, totp_pending = NULL WHERE name = $1 AND totp_secret IS NOT NULL",
        )
        .bind(name)
        .execute(self.on())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Uses up the code of a time step; `false` when it or a later one was used before.
    ///
    /// # Errors
    /// The database fails.
    pub async fn use_totp_step(&mut self, name: &str, step: i64) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE users SET totp_step = $2 WHERE name = $1 AND totp_step < $2")
            .bind(name)
            .bind(step)
            .execute(self.on())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}
