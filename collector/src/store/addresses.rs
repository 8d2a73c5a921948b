//! Addresses by which members of groups can be written to.

use sqlx::Row as _;

use super::page::Sql;
use super::{Store, StoreError, Write};

/// The tables of this module.
pub(super) const TABLES: &str = "
-- Somebody has made sure that the e-mail address is its owner's: the provider, by its own word, or an administrator,
-- who has set it. Others count against an account only.
ALTER TABLE account_people ADD COLUMN email_verified BIGINT NOT NULL DEFAULT 0;
UPDATE account_people SET email_verified = 1
    WHERE email <> '' AND user_name IN (SELECT name FROM users WHERE provider = '');
";

impl Store {
    /// The accounts that are in one of these groups and can sign in, with the addresses that were verified: accounts of
    /// providers whose owners have signed in since `since_ns`. By name, at most 1000.
    ///
    /// # Errors
    /// The database fails.
    pub async fn member_addresses(
        &self,
        groups: &[String],
        since_ns: i64,
    ) -> Result<Vec<(String, String)>, StoreError> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(
            "SELECT DISTINCT u.name, p.email FROM account_groups g JOIN users u ON u.name = g.user_name \
             JOIN account_people p ON p.user_name = u.name",
        );
        sql.and("u.state = 'active'").and("p.email_verified = 1").and("p.email <> ''");
        sql.and("(u.provider = '' OR u.last_sign_in_ns >= ").number(since_ns).push(")");
        sql.and("g.group_name").one_of(groups).push(" ORDER BY u.name LIMIT 1000");
        sql.all(self.searchers()).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

impl Write<'_> {
    /// Somebody has made sure of an account's e-mail address, as it stands.
    ///
    /// # Errors
    /// The database fails.
    pub async fn verify_email(&mut self, user: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE account_people SET email_verified = 1 WHERE user_name = $1 AND email <> ''")
            .bind(user)
            .execute(self.on())
            .await?;
        Ok(())
    }
}
