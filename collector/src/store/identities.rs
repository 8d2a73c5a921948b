//! People whom identity providers know. Each has an account of its own, which no password opens.

use sqlx::Row as _;

use super::{StoreError, Write, now_ns, plain};

/// The tables of this module.
pub(super) const TABLES: &str = "
-- What the provider called the person when the account was made: an account's name has `_` for some of it.
ALTER TABLE identities ADD COLUMN called TEXT NOT NULL DEFAULT '';
";

/// Characters that are kept of what a provider calls somebody.
const CALLED: usize = 1024;

/// The account of someone whom a provider knows.
#[derive(Debug, Clone)]
pub struct KnownIdentity {
    /// The account.
    pub user: String,
    /// Its role, as its groups were at the last sign-in.
    pub role: String,
    /// It can sign in.
    pub active: bool,
}

/// Other names that are tried when the one that was wanted is taken.
const TRIES: u32 = 1000;

impl Write<'_> {
    /// The account of this subject of this issuer.
    ///
    /// # Errors
    /// The database fails.
    pub async fn identity(
        &mut self,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<KnownIdentity>, StoreError> {
        let row = sqlx::query(
            "SELECT u.name, u.role, u.state FROM identities i JOIN users u ON u.name = i.user_name \
             WHERE i.issuer = $1 AND i.subject = $2",
        )
        .bind(issuer)
        .bind(subject)
        .fetch_optional(self.on())
        .await?;
        row.map(|row| {
            Ok(KnownIdentity {
                user: row.try_get(0)?,
                role: row.try_get(1)?,
                active: row.try_get::<String, _>(2)? == "active",
            })
        })
        .transpose()
    }

    /// Adds an account for a subject that has none, as `wanted` or, where that is taken, `wanted~2` and so on;
    /// gives its name.
    ///
    /// # Errors
    /// The database fails, or the subject was given an account at this very moment.
    pub async fn add_identity(
        &mut self,
        provider: &str,
        issuer: &str,
        subject: &str,
        wanted: &str,
        role: &str,
    ) -> Result<String, StoreError> {
        let mut name = wanted.to_owned();
        for number in 2..TRIES {
            let added = sqlx::query(
                "INSERT INTO users (name, password_hash, role, state, totp_step, created_ns, created_by, provider) \
                 VALUES ($1, '*', $2, 'active', 0, $3, $4, $4) ON CONFLICT (name) DO NOTHING",
            )
            .bind(&name)
            .bind(role)
            .bind(now_ns())
            .bind(provider)
            .execute(self.on())
            .await?;
            if added.rows_affected() == 1 {
                sqlx::query("INSERT INTO identities (issuer, subject, user_name) VALUES ($1, $2, $3)")
                    .bind(issuer)
                    .bind(subject)
                    .bind(&name)
                    .execute(self.on())
                    .await?;
                return Ok(name);
            }
            name = format!("{wanted}~{number}");
        }
        Err(StoreError::Damaged("too many accounts of one name"))
    }

    /// Keeps what a provider calls an account's owner, unless it is kept already: the account is called by what it said
    /// first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn keep_called(&mut self, user: &str, called: &str) -> Result<(), StoreError> {
        let called: String = plain(called).chars().take(CALLED).collect();
        sqlx::query("UPDATE identities SET called = $2 WHERE user_name = $1 AND called = ''")
            .bind(user)
            .bind(called)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Sets the role that a provider's groups give an account, which it belongs to from now on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_identity_role(
        &mut self,
        user: &str,
        provider: &str,
        role: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET role = $2, provider = $3 WHERE name = $1 AND provider <> ''")
            .bind(user)
            .bind(role)
            .bind(provider)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Uses something up that counts once; whether it was still to be used. It is remembered until `expires_ns`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn use_once(&mut self, key: &str, expires_ns: i64) -> Result<bool, StoreError> {
        sqlx::query("DELETE FROM used_once WHERE expires_ns < $1").bind(now_ns()).execute(self.on()).await?;
        let fresh = sqlx::query(
            "INSERT INTO used_once (key, expires_ns) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING",
        )
        .bind(key)
        .bind(expires_ns)
        .execute(self.on())
        .await?;
        Ok(fresh.rows_affected() == 1)
    }

    /// Keeps what a provider has proven until the browser comes to fetch it with its own cookie.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_proven(
        &mut self,
        handle_sha256: &str,
        proven: &str,
        expires_ns: i64,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM proven WHERE expires_ns < $1").bind(now_ns()).execute(self.on()).await?;
        sqlx::query("INSERT INTO proven (handle_sha256, proven, expires_ns) VALUES ($1, $2, $3)")
            .bind(handle_sha256)
            .bind(proven)
            .bind(expires_ns)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Takes what was kept, once.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_proven(&mut self, handle_sha256: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT proven FROM proven WHERE handle_sha256 = $1 AND expires_ns > $2")
            .bind(handle_sha256)
            .bind(now_ns())
            .fetch_optional(self.on())
            .await?;
        let gone = sqlx::query("DELETE FROM proven WHERE handle_sha256 = $1")
            .bind(handle_sha256)
            .execute(self.on())
            .await?;
        let proven = row.map(|row| row.try_get(0)).transpose()?;
        Ok(proven.filter(|_| gone.rows_affected() == 1))
    }
}
