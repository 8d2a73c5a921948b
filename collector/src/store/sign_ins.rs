//! Signed-in browsers. Only hashes of their tokens are kept.

use serde::Serialize;
use sqlx::Row as _;

use super::page::rfc3339;
use super::{Store, StoreError, Write, now_ns};

/// A signed-in browser.
#[derive(Debug, Clone, Serialize)]
pub struct SignIn {
    /// The beginning of its token's hash, by which it is ended.
    pub id: String,
    /// Who signed in.
    pub user: String,
    /// Their role now.
    #[serde(skip)]
    pub role: String,
    /// The provider that their account comes from; empty for one of the collector's own.
    #[serde(skip)]
    pub provider: String,
    /// The issuer that the account is of; empty for one of the collector's own.
    #[serde(skip)]
    pub issuer: String,
    /// Until when their password counts although passwords are turned off.
    #[serde(skip)]
    pub recovery_until_ns: i64,
    /// When.
    #[serde(rename = "created", serialize_with = "rfc3339")]
    pub created_ns: i64,
    /// Until when at the latest.
    #[serde(rename = "expires", serialize_with = "rfc3339")]
    pub expires_ns: i64,
    /// When it was last used, to the minute.
    #[serde(rename = "last_used", serialize_with = "rfc3339")]
    pub last_used_ns: i64,
    /// From which address.
    pub address: String,
    /// With which browser, as it says.
    pub user_agent: String,
    /// When its owner has shown who they are; 0 when that is not known.
    #[serde(skip)]
    pub authenticated_ns: i64,
}

/// A browser that signs in.
#[derive(Debug)]
pub struct NewSignIn<'s> {
    /// SHA-256 of its token, hexadecimal.
    pub token_sha256: &'s str,
    /// Who.
    pub user: &'s str,
    /// Until when at the latest.
    pub expires_ns: i64,
    /// From which address.
    pub address: &'s str,
    /// With which browser, as it says.
    pub user_agent: &'s str,
    /// When they have shown who they are; 0 when that is not known.
    pub authenticated_ns: i64,
}

const COLUMNS: &str = "SELECT substr(s.token_sha256, 1, 16), s.user_name, u.role, s.created_ns, s.expires_ns, \
     s.last_used_ns, s.address, s.user_agent, u.provider, u.recovery_until_ns, COALESCE(i.issuer, ''), s.authenticated_ns \
     FROM sign_ins s JOIN users u ON u.name = s.user_name LEFT JOIN identities i ON i.user_name = u.name";

fn read(row: &sqlx::any::AnyRow) -> Result<SignIn, StoreError> {
    Ok(SignIn {
        id: row.try_get(0)?,
        user: row.try_get(1)?,
        role: row.try_get(2)?,
        created_ns: row.try_get(3)?,
        expires_ns: row.try_get(4)?,
        last_used_ns: row.try_get(5)?,
        address: row.try_get(6)?,
        user_agent: row.try_get(7)?,
        provider: row.try_get(8)?,
        recovery_until_ns: row.try_get(9)?,
        issuer: row.try_get(10)?,
        authenticated_ns: row.try_get(11)?,
    })
}

impl Store {
    /// The sign-in whose token has this hash, if it counts now: not ended, not expired, used within
    /// `idle_ns`, its account active.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sign_in(&self, token_sha256: &str, idle_ns: i64) -> Result<Option<SignIn>, StoreError> {
        let now = now_ns();
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE s.token_sha256 = $1 AND s.expires_ns > $2 AND s.last_used_ns > $3 AND u.state = 'active'"
        )))
        .bind(token_sha256)
        .bind(now)
        .bind(now.saturating_sub(idle_ns))
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// A user's sign-ins that count, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sign_ins(&self, user: &str, idle_ns: i64) -> Result<Vec<SignIn>, StoreError> {
        let now = now_ns();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE s.user_name = $1 AND s.expires_ns > $2 AND s.last_used_ns > $3 \
             ORDER BY s.created_ns DESC LIMIT 200"
        )))
        .bind(user)
        .bind(now)
        .bind(now.saturating_sub(idle_ns))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Notes that a sign-in was used.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sign_in_used(&self, token_sha256: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE sign_ins SET last_used_ns = $2 WHERE token_sha256 = $1")
            .bind(token_sha256)
            .bind(now_ns())
            .execute(write.on())
            .await?;
        write.commit().await
    }
}

impl Write<'_> {
    /// Adds a sign-in; those that have expired go.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_sign_in(&mut self, new: &NewSignIn<'_>) -> Result<(), StoreError> {
        let now = now_ns();
        sqlx::query("DELETE FROM sign_ins WHERE expires_ns < $1").bind(now).execute(self.on()).await?;
        sqlx::query(
            "INSERT INTO sign_ins (token_sha256, user_name, created_ns, expires_ns, last_used_ns, address, \
             user_agent, authenticated_ns) VALUES ($1, $2, $3, $4, $3, $5, $6, $7)",
        )
        .bind(new.token_sha256)
        .bind(new.user)
        .bind(now)
        .bind(new.expires_ns)
        .bind(new.address)
        .bind(new.user_agent)
        .bind(new.authenticated_ns)
        .execute(self.on())
        .await?;
        sqlx::query("UPDATE users SET last_sign_in_ns = $2 WHERE name = $1")
            .bind(new.user)
            .bind(now)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Notes that the owner of a sign-in has shown who they are once more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sign_in_again(&mut self, user: &str, id: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE sign_ins SET authenticated_ns = $3 WHERE user_name = $1 AND substr(token_sha256, 1, 16) = $2",
        )
        .bind(user)
        .bind(id)
        .bind(now_ns())
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Ends one of a user's sign-ins; whether there was one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn end_sign_in(&mut self, user: &str, id: &str) -> Result<bool, StoreError> {
        let gone =
            sqlx::query("DELETE FROM sign_ins WHERE user_name = $1 AND substr(token_sha256, 1, 16) = $2")
                .bind(user)
                .bind(id)
                .execute(self.on())
                .await?;
        Ok(gone.rows_affected() > 0)
    }

    /// Ends a user's sign-ins but for one (none is excepted when `but` is empty); gives how many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn end_sign_ins(&mut self, user: &str, but: &str) -> Result<u64, StoreError> {
        let gone =
            sqlx::query("DELETE FROM sign_ins WHERE user_name = $1 AND substr(token_sha256, 1, 16) <> $2")
                .bind(user)
                .bind(but)
                .execute(self.on())
                .await?;
        Ok(gone.rows_affected())
    }
}
