//! Which host had a token first.

use sqlx::Row as _;

use super::{Store, StoreError, Write, now_ns, plain};

pub(super) const TABLES: &str = "
-- Tokens of workloads, as agents tell them: the first host to tell one has it until it ends.
CREATE TABLE bound_tokens (
    -- SHA-256 over the whole token, hexadecimal.
    digest TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    -- What tells it from others in recordings.
    token_hash TEXT NOT NULL,
    issuer TEXT NOT NULL,
    bound_ns BIGINT NOT NULL,
    until_ns BIGINT NOT NULL
);
CREATE INDEX bound_tokens_by_host ON bound_tokens (host);
CREATE INDEX bound_tokens_by_end ON bound_tokens (until_ns);
";

/// A token that a host has bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundToken {
    /// SHA-256 over the whole token, hexadecimal.
    pub digest: String,
    /// What tells it from others in recordings.
    pub token_hash: String,
    /// Its issuer.
    pub issuer: String,
    /// Until when it counts.
    pub until_ns: i64,
}

/// Who had a token first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstHost {
    /// The host that tells it.
    Own,
    /// Another one.
    Other {
        /// Its id.
        host: String,
        /// Its name.
        name: String,
    },
    /// That cannot be told: so much is kept of this host that no more is.
    Unknown,
}

/// Tokens of one host that are kept. Those that have ended count, too, until they are removed: nobody fills the
/// store by tokens that end at once.
const MOST: i64 = 20_000;

/// What is told again with another end is written again when it is later by this much: each way takes its time.
const SLACK: i64 = 60 * 1_000_000_000;

impl Write<'_> {
    /// Says who had a token first: `host`, if nobody has it yet. Of several that ask at the same time it is one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn bind_token(&mut self, host: &str, token: &BoundToken) -> Result<FirstHost, StoreError> {
        let now = now_ns();
        match self.first_host(&token.digest).await? {
            Some((first, _, until)) if first == host && until >= token.until_ns.saturating_sub(SLACK) => {
                return Ok(FirstHost::Own);
            }
            Some((first, name, until)) if first != host && until > now => {
                return Ok(FirstHost::Other { host: first, name });
            }
            Some(_) => {}
            None if self.is_full(host).await? => return Ok(FirstHost::Unknown),
            None => {}
        }
        // The key is unique: who comes second while this is being written waits, and finds it taken.
        let done = sqlx::query(
            "INSERT INTO bound_tokens (digest, host, token_hash, issuer, bound_ns, until_ns) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (digest) DO UPDATE \
             SET host = $2, token_hash = $3, issuer = $4, until_ns = $6, \
             bound_ns = CASE WHEN bound_tokens.host = $2 THEN bound_tokens.bound_ns ELSE $5 END \
             WHERE bound_tokens.host = $2 OR bound_tokens.until_ns <= $5",
        )
        .bind(&token.digest)
        .bind(host)
        .bind(plain(&token.token_hash).as_ref())
        .bind(plain(&token.issuer).as_ref())
        .bind(now)
        .bind(token.until_ns)
        .execute(self.on())
        .await?;
        if done.rows_affected() == 1 {
            return Ok(FirstHost::Own);
        }
        Ok(match self.first_host(&token.digest).await? {
            Some((host, name, _)) => FirstHost::Other { host, name },
            None => FirstHost::Unknown,
        })
    }

    async fn first_host(&mut self, digest: &str) -> Result<Option<(String, String, i64)>, StoreError> {
        let row = sqlx::query(
            "SELECT b.host, COALESCE(a.name, ''), b.until_ns FROM bound_tokens b \
             LEFT JOIN agents a ON a.host = b.host WHERE b.digest = $1",
        )
        .bind(digest)
        .fetch_optional(self.on())
        .await?;
        row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose()
    }

    async fn is_full(&mut self, host: &str) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) FROM (SELECT 1 FROM bound_tokens WHERE host = $1 LIMIT $2) AS bound",
        )
        .bind(host)
        .bind(MOST)
        .fetch_one(self.on())
        .await?;
        Ok(row.try_get::<i64, _>(0)? >= MOST)
    }

    /// Removes tokens that have ended; how many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn prune_bound_tokens(&mut self) -> Result<u64, StoreError> {
        let gone = sqlx::query("DELETE FROM bound_tokens WHERE until_ns <= $1").bind(now_ns());
        Ok(gone.execute(self.on()).await?.rows_affected())
    }
}

impl Store {
    /// How many tokens are kept of a host.
    ///
    /// # Errors
    /// The database fails.
    pub async fn bound_tokens(&self, host: &str) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM bound_tokens WHERE host = $1")
            .bind(host)
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get(0)?)
    }
}
