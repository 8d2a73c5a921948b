//! Enrolment tokens. Only their hashes are kept.

use interlock_recording::hex;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::{Store, StoreError, Write, now_ns};

/// An enrolment token, as it is listed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EnrolmentToken {
    /// The beginning of its hash, by which it is revoked.
    pub id: String,
    /// What it was made for.
    pub label: String,
    /// By whom.
    pub created_by: String,
    /// When.
    pub created_ns: i64,
    /// Until when it counts.
    pub expires_ns: i64,
    /// For how many hosts it still counts.
    pub uses_left: i64,
}

/// A token does not count.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not known, used up, or expired. Which of these is not told to who shows it.
    #[error("the token is unknown, used up or expired; `interlock-collector tokens create` makes another")]
    Refused,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

impl Write<'_> {
    /// Adds a token.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_enrolment_token(
        &mut self,
        secret: &str,
        label: &str,
        by: &str,
        expires_ns: i64,
        uses: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO enrolment_tokens (secret_sha256, label, created_ns, created_by, expires_ns, uses_left) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(hash(secret))
        .bind(label)
        .bind(now_ns())
        .bind(by)
        .bind(expires_ns)
        .bind(uses)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Uses a token for `host` and gives its hash. A host that was revoked needs one that was made after that.
    /// A host that was enrolled with it last does not use it
    /// up once more: its first answer may have been lost on the way.
    ///
    /// # Errors
    /// The token does not count.
    pub async fn use_enrolment_token(&mut self, secret: &str, host: &str) -> Result<String, TokenError> {
        let hash = hash(secret);
        let again = sqlx::query(
            "SELECT 1 FROM agents a JOIN enrolment_tokens t ON t.secret_sha256 = a.token_sha256 \
             WHERE a.host = $1 AND a.token_sha256 = $2 AND a.state = 'active' AND t.expires_ns > $3",
        )
        .bind(host)
        .bind(&hash)
        .bind(now_ns())
        .fetch_optional(self.on())
        .await
        .map_err(StoreError::from)?;
        if again.is_some() {
            return Ok(hash);
        }
        let used = sqlx::query(
            "UPDATE enrolment_tokens SET uses_left = uses_left - 1 \
             WHERE secret_sha256 = $1 AND uses_left > 0 AND expires_ns > $2 AND NOT EXISTS \
             (SELECT 1 FROM agents a WHERE a.host = $3 AND a.revoked_ns >= enrolment_tokens.created_ns)",
        )
        .bind(&hash)
        .bind(now_ns())
        .bind(host)
        .execute(self.on())
        .await
        .map_err(StoreError::from)?;
        if used.rows_affected() == 1 { Ok(hash) } else { Err(TokenError::Refused) }
    }

    /// Takes a token back by the beginning of its hash; gives how many that were.
    ///
    /// # Errors
    /// The database fails.
    pub async fn revoke_enrolment_token(&mut self, id: &str) -> Result<u64, StoreError> {
        let gone = sqlx::query("DELETE FROM enrolment_tokens WHERE substr(secret_sha256, 1, 12) = $1")
            .bind(id)
            .execute(self.on())
            .await?;
        Ok(gone.rows_affected())
    }
}

impl Store {
    /// Whether a token may count. Only [`Write::use_enrolment_token`] says whether it does; this keeps those
    /// who have none away from the writer.
    ///
    /// # Errors
    /// The database fails.
    pub async fn knows_enrolment_token(&self, secret: &str) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM enrolment_tokens WHERE secret_sha256 = $1 AND expires_ns > $2")
            .bind(hash(secret))
            .bind(now_ns())
            .fetch_optional(self.pool())
            .await?;
        Ok(row.is_some())
    }

    /// The tokens that there are, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn enrolment_tokens(&self) -> Result<Vec<EnrolmentToken>, StoreError> {
        let rows = sqlx::query(
            "SELECT substr(secret_sha256, 1, 12), label, created_by, created_ns, expires_ns, uses_left \
             FROM enrolment_tokens ORDER BY created_ns DESC",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(EnrolmentToken {
                    id: row.try_get(0)?,
                    label: row.try_get(1)?,
                    created_by: row.try_get(2)?,
                    created_ns: row.try_get(3)?,
                    expires_ns: row.try_get(4)?,
                    uses_left: row.try_get(5)?,
                })
            })
            .collect()
    }
}
