//! Who the owners of accounts are elsewhere, and the groups that they are in.

use serde::Serialize;
use sqlx::Row as _;

use super::{Store, StoreError, Write, plain};

/// Who the owner of an account is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OwnerOf {
    /// Groups of the account, whose requests for approval it may decide on.
    pub groups: Vec<String>,
    /// E-mail address; empty when it is not known.
    pub email: String,
    /// Login names on hosts.
    pub logins: Vec<String>,
    /// The issuer that the account is of; empty for one of the collector's own.
    pub issuer: String,
    /// Its subject there.
    pub subject: String,
    /// What its provider called its owner when the account was made; empty when that is not known.
    pub called: String,
}

impl OwnerOf {
    /// Whether it is whom an issuer knows as this subject.
    pub fn is(&self, issuer: &str, subject: &str) -> bool {
        !self.issuer.is_empty() && self.issuer == issuer && self.subject == subject
    }
}

impl Store {
    /// The groups of an account.
    ///
    /// # Errors
    /// The database fails.
    pub async fn groups_of(&self, user: &str) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query(
            "SELECT group_name FROM account_groups WHERE user_name = $1 ORDER BY group_name LIMIT 1000",
        )
        .bind(user)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Who the owner of an account is.
    ///
    /// # Errors
    /// The database fails.
    pub async fn owner_of(&self, user: &str) -> Result<OwnerOf, StoreError> {
        let mut owner = OwnerOf { groups: self.groups_of(user).await?, ..OwnerOf::default() };
        let row = sqlx::query("SELECT email, logins FROM account_people WHERE user_name = $1")
            .bind(user)
            .fetch_optional(self.pool())
            .await?;
        if let Some(row) = row {
            owner.email = row.try_get(0)?;
            let logins: String = row.try_get(1)?;
            owner.logins = logins.split(' ').filter(|login| !login.is_empty()).map(str::to_owned).collect();
        }
        let row = sqlx::query("SELECT issuer, subject, called FROM identities WHERE user_name = $1")
            .bind(user)
            .fetch_optional(self.pool())
            .await?;
        if let Some(row) = row {
            (owner.issuer, owner.subject, owner.called) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        }
        Ok(owner)
    }

    /// The accounts that are in one of these groups and can sign in, by name, at most 1000.
    ///
    /// # Errors
    /// The database fails.
    pub async fn members(&self, groups: &[String]) -> Result<Vec<String>, StoreError> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = super::page::Sql::new(
            "SELECT DISTINCT g.user_name FROM account_groups g JOIN users u ON u.name = g.user_name",
        );
        sql.and("u.state = 'active'").and("g.group_name").one_of(groups);
        sql.push(" ORDER BY g.user_name LIMIT 1000");
        sql.all(self.searchers()).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

impl Write<'_> {
    /// Takes the accounts of a provider out of all groups but these; gives out of how many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn keep_groups(&mut self, provider: &str, groups: &[String]) -> Result<u64, StoreError> {
        let rows = sqlx::query(
            "SELECT DISTINCT g.group_name FROM account_groups g JOIN users u ON u.name = g.user_name \
             WHERE u.provider = $1",
        )
        .bind(provider)
        .fetch_all(self.on())
        .await?;
        let mut gone = 0;
        for row in &rows {
            let group: String = row.try_get(0)?;
            if groups.contains(&group) {
                continue;
            }
            gone += sqlx::query(
                "DELETE FROM account_groups WHERE group_name = $1 \
                 AND user_name IN (SELECT name FROM users WHERE provider = $2)",
            )
            .bind(&group)
            .bind(provider)
            .execute(self.on())
            .await?
            .rows_affected();
        }
        Ok(gone)
    }

    /// Sets an account's groups.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_groups(&mut self, user: &str, groups: &[String]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM account_groups WHERE user_name = $1").bind(user).execute(self.on()).await?;
        for group in groups {
            sqlx::query(
                "INSERT INTO account_groups (user_name, group_name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(user)
            .bind(plain(group).as_ref())
            .execute(self.on())
            .await?;
        }
        Ok(())
    }

    /// Sets an account's e-mail address, of which nobody has made sure yet.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_email(&mut self, user: &str, email: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO account_people (user_name, email, logins) VALUES ($1, $2, '') \
             ON CONFLICT (user_name) DO UPDATE SET email = excluded.email, email_verified = 0",
        )
        .bind(user)
        .bind(plain(email).as_ref())
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Sets the login names that the owner of an account has on hosts.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_logins(&mut self, user: &str, logins: &[String]) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO account_people (user_name, email, logins) VALUES ($1, '', $2) \
             ON CONFLICT (user_name) DO UPDATE SET logins = excluded.logins",
        )
        .bind(user)
        .bind(plain(&logins.join(" ")).as_ref())
        .execute(self.on())
        .await?;
        Ok(())
    }
}
