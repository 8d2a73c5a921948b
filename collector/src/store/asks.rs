//! Approvers who are asked elsewhere: what was sent where, and whose accounts the people in chats have.

use serde::Serialize;
use sqlx::Row as _;

use super::page::rfc3339;
use super::{Store, StoreError, TokenOwner, Write, now_ns, plain};

/// The tables of this module.
pub(super) const TABLES: &str = "
-- Messages about requests for approval that can be changed, or answered, when more comes.
CREATE TABLE approval_messages (
    ask TEXT NOT NULL,
    approval TEXT NOT NULL,
    -- The channel, and the message in it, as the chat calls them.
    place TEXT NOT NULL,
    reference TEXT NOT NULL,
    sent_ns BIGINT NOT NULL,
    PRIMARY KEY (ask, approval)
);
CREATE INDEX approval_messages_by_age ON approval_messages (sent_ns);

-- People in chats who have confirmed, signed in to the collector, that an account is theirs.
CREATE TABLE chat_links (
    chat TEXT NOT NULL,
    team TEXT NOT NULL,
    person TEXT NOT NULL,
    name TEXT NOT NULL,
    account TEXT NOT NULL,
    linked_ns BIGINT NOT NULL,
    PRIMARY KEY (chat, team, person)
);
CREATE INDEX chat_links_of ON chat_links (account);

-- What a person in a chat was given to confirm it with, once.
CREATE TABLE chat_link_tokens (
    token_sha256 TEXT PRIMARY KEY,
    chat TEXT NOT NULL,
    team TEXT NOT NULL,
    person TEXT NOT NULL,
    name TEXT NOT NULL,
    expires_ns BIGINT NOT NULL
);

-- Signed requests of chats that were taken: none is taken twice.
CREATE TABLE chat_seen (
    digest TEXT PRIMARY KEY,
    at_ns BIGINT NOT NULL
);
";

/// Messages can be changed for so long: no request is open for longer than a day, and what went through unapproved is
/// looked into within weeks.
const KEPT_NS: i64 = 40 * 86_400 * 1_000_000_000;

/// Someone in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    /// Which chat, such as `slack`.
    pub chat: String,
    /// The workspace.
    pub team: String,
    /// Their id in it.
    pub person: String,
    /// What the chat calls them. They can choose it themselves.
    pub name: String,
}

/// A person in a chat whose account is known.
#[derive(Debug, Clone, Serialize)]
pub struct ChatLink {
    /// Who.
    #[serde(flatten)]
    pub person: Person,
    /// Since when.
    #[serde(rename = "linked", serialize_with = "rfc3339")]
    pub linked_ns: i64,
}

/// A message about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// The channel.
    pub place: String,
    /// The message in it.
    pub reference: String,
}

impl Store {
    /// What an asker has sent about a request.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approval_message(&self, ask: &str, id: &str) -> Result<Option<SentMessage>, StoreError> {
        let row =
            sqlx::query("SELECT place, reference FROM approval_messages WHERE ask = $1 AND approval = $2")
                .bind(ask)
                .bind(id)
                .fetch_optional(self.pool())
                .await?;
        row.map(|row| Ok(SentMessage { place: row.try_get(0)?, reference: row.try_get(1)? })).transpose()
    }

    /// The account that is linked to a person in a chat, if it is one that can sign in.
    ///
    /// # Errors
    /// The database fails.
    pub async fn chat_account(
        &self,
        chat: &str,
        team: &str,
        person: &str,
    ) -> Result<Option<(String, TokenOwner)>, StoreError> {
        let row = sqlx::query(
            "SELECT u.name, u.role, u.provider, u.last_sign_in_ns, u.recovery_until_ns, COALESCE(i.issuer, '') \
             FROM chat_links l JOIN users u ON u.name = l.account LEFT JOIN identities i ON i.user_name = u.name \
             WHERE l.chat = $1 AND l.team = $2 AND l.person = $3 AND u.state = 'active'",
        )
        .bind(chat)
        .bind(plain(team).as_ref())
        .bind(plain(person).as_ref())
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| {
            let owner = TokenOwner {
                role: row.try_get(1)?,
                provider: row.try_get(2)?,
                last_sign_in_ns: row.try_get(3)?,
                recovery_until_ns: row.try_get(4)?,
                issuer: row.try_get(5)?,
            };
            Ok((row.try_get(0)?, owner))
        })
        .transpose()
    }

    /// The people in chats that an account is linked to.
    ///
    /// # Errors
    /// The database fails.
    pub async fn chat_links(&self, account: &str) -> Result<Vec<ChatLink>, StoreError> {
        let rows = sqlx::query(
            "SELECT chat, team, person, name, linked_ns FROM chat_links WHERE account = $1 ORDER BY linked_ns LIMIT 100",
        )
        .bind(account)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let person = Person {
                    chat: row.try_get(0)?,
                    team: row.try_get(1)?,
                    person: row.try_get(2)?,
                    name: row.try_get(3)?,
                };
                Ok(ChatLink { person, linked_ns: row.try_get(4)? })
            })
            .collect()
    }

    /// Whose a token is that counts still.
    ///
    /// # Errors
    /// The database fails.
    pub async fn chat_link_token(&self, token_sha256: &str) -> Result<Option<Person>, StoreError> {
        let row = sqlx::query(
            "SELECT chat, team, person, name FROM chat_link_tokens WHERE token_sha256 = $1 AND expires_ns > $2",
        )
        .bind(token_sha256)
        .bind(now_ns())
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| {
            Ok(Person {
                chat: row.try_get(0)?,
                team: row.try_get(1)?,
                person: row.try_get(2)?,
                name: row.try_get(3)?,
            })
        })
        .transpose()
    }
}

impl Write<'_> {
    /// Notes what was sent about a request.
    ///
    /// # Errors
    /// The database fails.
    pub async fn note_message(&mut self, ask: &str, id: &str, sent: &SentMessage) -> Result<(), StoreError> {
        let now = now_ns();
        sqlx::query("DELETE FROM approval_messages WHERE sent_ns < $1")
            .bind(now.saturating_sub(KEPT_NS))
            .execute(self.on())
            .await?;
        sqlx::query(
            "INSERT INTO approval_messages (ask, approval, place, reference, sent_ns) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (ask, approval) DO UPDATE SET place = excluded.place, reference = excluded.reference, \
             sent_ns = excluded.sent_ns",
        )
        .bind(ask)
        .bind(id)
        .bind(plain(&sent.place).as_ref())
        .bind(plain(&sent.reference).as_ref())
        .bind(now)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Takes a signed request of a chat; `false` when it was taken before. Digests older than `age_ns` are forgotten:
    /// such requests are refused for their age.
    ///
    /// # Errors
    /// The database fails.
    pub async fn see(&mut self, digest: &str, age_ns: i64) -> Result<bool, StoreError> {
        let now = now_ns();
        sqlx::query("DELETE FROM chat_seen WHERE at_ns < $1")
            .bind(now.saturating_sub(age_ns))
            .execute(self.on())
            .await?;
        let seen = sqlx::query(
            "INSERT INTO chat_seen (digest, at_ns) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING",
        )
        .bind(digest)
        .bind(now)
        .execute(self.on())
        .await?;
        Ok(seen.rows_affected() == 1)
    }

    /// Gives a person in a chat a token to confirm with whose account is theirs. Any other that they had counts no
    /// longer.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_chat_link_token(
        &mut self,
        token_sha256: &str,
        of: &Person,
        expires_ns: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM chat_link_tokens WHERE expires_ns < $1 OR chat = $2 AND team = $3 AND person = $4",
        )
        .bind(now_ns())
        .bind(&of.chat)
        .bind(plain(&of.team).as_ref())
        .bind(plain(&of.person).as_ref())
        .execute(self.on())
        .await?;
        sqlx::query(
            "INSERT INTO chat_link_tokens (token_sha256, chat, team, person, name, expires_ns) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token_sha256)
        .bind(&of.chat)
        .bind(plain(&of.team).as_ref())
        .bind(plain(&of.person).as_ref())
        .bind(plain(&of.name).as_ref())
        .bind(expires_ns)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Uses a token up and links the person that it is of to an account; `None` when the token does not count, or the
    /// person is linked to an account already.
    ///
    /// # Errors
    /// The database fails.
    pub async fn link_chat(
        &mut self,
        token_sha256: &str,
        account: &str,
    ) -> Result<Option<Person>, StoreError> {
        let row = sqlx::query(
            "DELETE FROM chat_link_tokens WHERE token_sha256 = $1 AND expires_ns > $2 RETURNING chat, team, person, name",
        )
        .bind(token_sha256)
        .bind(now_ns())
        .fetch_optional(self.on())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let person = Person {
            chat: row.try_get(0)?,
            team: row.try_get(1)?,
            person: row.try_get(2)?,
            name: row.try_get(3)?,
        };
        let linked = sqlx::query(
            "INSERT INTO chat_links (chat, team, person, name, account, linked_ns) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (chat, team, person) DO NOTHING",
        )
        .bind(&person.chat)
        .bind(&person.team)
        .bind(&person.person)
        .bind(&person.name)
        .bind(account)
        .bind(now_ns())
        .execute(self.on())
        .await?;
        Ok((linked.rows_affected() == 1).then_some(person))
    }

    /// Ends a link of an account; whether there was one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn unlink_chat(
        &mut self,
        account: &str,
        chat: &str,
        team: &str,
        person: &str,
    ) -> Result<bool, StoreError> {
        let gone = sqlx::query(
            "DELETE FROM chat_links WHERE account = $1 AND chat = $2 AND team = $3 AND person = $4",
        )
        .bind(account)
        .bind(chat)
        .bind(team)
        .bind(person)
        .execute(self.on())
        .await?;
        Ok(gone.rows_affected() == 1)
    }

    /// Ends all links of an account; gives how many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn unlink_chats(&mut self, account: &str) -> Result<u64, StoreError> {
        let gone =
            sqlx::query("DELETE FROM chat_links WHERE account = $1").bind(account).execute(self.on()).await?;
        Ok(gone.rows_affected())
    }
}
