//! Tokens for programs. Only their hashes are kept.

use serde::{Serialize, Serializer};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::page::{Sql, rfc3339, rfc3339_or_null};
use super::{Store, StoreError, Write, now_ns};

/// A token, as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct ApiToken {
    /// Its public name, by which it is revoked.
    pub id: String,
    /// What it is for.
    pub label: String,
    /// Whose it is.
    pub owner: String,
    /// What it may do.
    pub role: String,
    /// What it is for: some of what its role may, or `*` for all of it.
    #[serde(serialize_with = "scopes")]
    pub scopes: String,
    /// Since when there is one.
    #[serde(rename = "created", serialize_with = "rfc3339")]
    pub created_ns: i64,
    /// Until when it counts.
    #[serde(rename = "expires", serialize_with = "rfc3339")]
    pub expires_ns: i64,
    /// When it was last used, to the minute.
    #[serde(rename = "last_used", serialize_with = "rfc3339_or_null")]
    pub last_used_ns: Option<i64>,
}

fn scopes<S: Serializer>(scopes: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(scopes.split(' '))
}

/// The owner of a token, now.
#[derive(Debug, Clone)]
pub struct TokenOwner {
    /// Their role.
    pub role: String,
    /// The provider that their account comes from; empty for one of the collector's own.
    pub provider: String,
    /// The issuer that the account is of; empty for one of the collector's own.
    pub issuer: String,
    /// Until when their password counts although passwords are turned off.
    pub recovery_until_ns: i64,
    /// When they last signed in.
    pub last_sign_in_ns: Option<i64>,
}

/// A token to be made.
#[derive(Debug)]
pub struct NewApiToken<'t> {
    /// SHA-256 of it, hexadecimal.
    pub token_sha256: &'t str,
    /// Its public name.
    pub id: &'t str,
    /// What it is for.
    pub label: &'t str,
    /// Whose it is.
    pub owner: &'t str,
    /// What it may do.
    pub role: &'t str,
    /// Some of what its role may, with blanks between, or `*` for all of it.
    pub scopes: &'t str,
    /// Until when it counts.
    pub expires_ns: i64,
}

const COLUMNS: &str = "SELECT t.id, t.label, t.owner, t.role, t.created_ns, t.expires_ns, t.last_used_ns, t.scopes \
     FROM api_tokens t";

fn read(row: &AnyRow) -> Result<ApiToken, StoreError> {
    Ok(ApiToken {
        id: row.try_get(0)?,
        label: row.try_get(1)?,
        owner: row.try_get(2)?,
        role: row.try_get(3)?,
        created_ns: row.try_get(4)?,
        expires_ns: row.try_get(5)?,
        last_used_ns: row.try_get(6)?,
        scopes: row.try_get(7)?,
    })
}

impl Store {
    /// The newest 500 tokens: one owner's, or all.
    ///
    /// # Errors
    /// The database fails.
    pub async fn api_tokens(&self, owner: Option<&str>) -> Result<Vec<ApiToken>, StoreError> {
        let mut sql = Sql::new(COLUMNS);
        if let Some(owner) = owner {
            sql.and("t.owner = ").text(owner);
        }
        sql.push(" ORDER BY t.created_ns DESC LIMIT 500");
        sql.all(self.searchers()).await?.iter().map(read).collect()
    }

    /// The token with this hash, if it counts now, and its owner: a token whose owner has been disabled counts no
    /// longer.
    ///
    /// # Errors
    /// The database fails.
    pub async fn api_token(&self, token_sha256: &str) -> Result<Option<(ApiToken, TokenOwner)>, StoreError> {
        let row = sqlx::query(
            "SELECT t.id, t.label, t.owner, t.role, t.created_ns, t.expires_ns, t.last_used_ns, t.scopes, \
             u.role, u.provider, u.last_sign_in_ns, u.recovery_until_ns, COALESCE(i.issuer, '') \
             FROM api_tokens t JOIN users u ON u.name = t.owner LEFT JOIN identities i ON i.user_name = u.name \
             WHERE t.token_sha256 = $1 AND t.expires_ns > $2 AND u.state = 'active'",
        )
        .bind(token_sha256)
        .bind(now_ns())
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| {
            let owner = TokenOwner {
                role: row.try_get(8)?,
                provider: row.try_get(9)?,
                last_sign_in_ns: row.try_get(10)?,
                recovery_until_ns: row.try_get(11)?,
                issuer: row.try_get(12)?,
            };
            Ok((read(&row)?, owner))
        })
        .transpose()
    }

    /// Notes that a token was used.
    ///
    /// # Errors
    /// The database fails.
    pub async fn api_token_used(&self, id: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE api_tokens SET last_used_ns = $2 WHERE id = $1")
            .bind(id)
            .bind(now_ns())
            .execute(write.on())
            .await?;
        write.commit().await
    }
}

impl Write<'_> {
    /// Adds a token.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_api_token(&mut self, token: &NewApiToken<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO api_tokens (token_sha256, id, label, owner, role, created_ns, expires_ns, scopes) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(token.token_sha256)
        .bind(token.id)
        .bind(token.label)
        .bind(token.owner)
        .bind(token.role)
        .bind(now_ns())
        .bind(token.expires_ns)
        .bind(token.scopes)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Takes a token back, of one owner or anyone's; whether there was one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn revoke_api_token(&mut self, id: &str, owner: Option<&str>) -> Result<bool, StoreError> {
        let gone = sqlx::query("DELETE FROM api_tokens WHERE id = $1 AND (owner = $2 OR $2 = '')")
            .bind(id)
            .bind(owner.unwrap_or_default())
            .execute(self.on())
            .await?;
        Ok(gone.rows_affected() == 1)
    }

    /// Takes all of an owner's tokens back; gives how many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn revoke_api_tokens(&mut self, owner: &str) -> Result<u64, StoreError> {
        let gone =
            sqlx::query("DELETE FROM api_tokens WHERE owner = $1").bind(owner).execute(self.on()).await?;
        Ok(gone.rows_affected())
    }
}
