//! Approvers who are asked elsewhere: what was sent where, and whose accounts the people in chats have.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

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
    -- The app whose word it is who somebody is.
    app TEXT NOT NULL,
    team TEXT NOT NULL,
    person TEXT NOT NULL,
    name TEXT NOT NULL,
    account TEXT NOT NULL,
    linked_ns BIGINT NOT NULL,
    expires_ns BIGINT NOT NULL,
    PRIMARY KEY (chat, app, team, person)
);
-- An account has one in each workspace.
CREATE UNIQUE INDEX chat_links_of ON chat_links (account, chat, app, team);
CREATE INDEX audit_of_chat_links ON audit (target, id) WHERE action IN ('account.link', 'account.unlink');

-- What a person in a chat was given to confirm it with, once.
CREATE TABLE chat_link_tokens (
    token_sha256 TEXT PRIMARY KEY,
    -- SHA-256 of the token and of the code that is shown to them alone.
    code_sha256 TEXT NOT NULL,
    chat TEXT NOT NULL,
    app TEXT NOT NULL,
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
    /// The app whose word it is that it is them.
    pub app: String,
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
    /// Until when.
    #[serde(rename = "until", serialize_with = "rfc3339")]
    pub expires_ns: i64,
}

/// What was done about the links of an account.
#[derive(Debug, Clone)]
pub struct ChatLinkChange {
    /// When.
    pub at_ns: i64,
    /// A link was made; else one was ended.
    pub made: bool,
    /// Of whom.
    pub detail: String,
    /// From which address.
    pub address: String,
}

/// What came of a token with which somebody links a person in a chat to their account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Linked {
    /// They are linked.
    Done(Person),
    /// The token does not count.
    Gone,
    /// The code is another one. The token is used up.
    Code,
    /// The person is linked to an account already.
    Taken,
    /// The account is linked to another person of this workspace already.
    Another,
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
        app: &str,
        team: &str,
        person: &str,
    ) -> Result<Option<(String, TokenOwner)>, StoreError> {
        let row = sqlx::query(
            "SELECT u.name, u.role, u.provider, u.last_sign_in_ns, u.recovery_until_ns, COALESCE(i.issuer, '') \
             FROM chat_links l JOIN users u ON u.name = l.account LEFT JOIN identities i ON i.user_name = u.name \
             WHERE l.chat = $1 AND l.app = $2 AND l.team = $3 AND l.person = $4 AND l.expires_ns > $5 AND u.state = 'active'",
        )
        .bind(chat)
        .bind(plain(app).as_ref())
        .bind(plain(team).as_ref())
        .bind(plain(person).as_ref())
        .bind(now_ns())
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
            "SELECT chat, app, team, person, name, linked_ns, expires_ns FROM chat_links \
             WHERE account = $1 AND expires_ns > $2 ORDER BY linked_ns LIMIT 100",
        )
        .bind(account)
        .bind(now_ns())
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(link).collect()
    }

    /// The links of all accounts, by account, at most 10,000.
    ///
    /// # Errors
    /// The database fails.
    pub async fn all_chat_links(&self) -> Result<Vec<(String, ChatLink)>, StoreError> {
        let rows = sqlx::query(
            "SELECT chat, app, team, person, name, linked_ns, expires_ns, account FROM chat_links \
             WHERE expires_ns > $1 ORDER BY account, linked_ns LIMIT 10000",
        )
        .bind(now_ns())
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok((row.try_get("account")?, link(row)?))).collect()
    }

    /// What was done last about the links of an account, the newest first: at most twenty.
    ///
    /// # Errors
    /// The database fails.
    pub async fn chat_link_changes(&self, account: &str) -> Result<Vec<ChatLinkChange>, StoreError> {
        let rows = sqlx::query(
            "SELECT at_ns, action, detail, address FROM audit \
             WHERE target = $1 AND action IN ('account.link', 'account.unlink') ORDER BY id DESC LIMIT 20",
        )
        .bind(account)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let action: String = row.try_get(1)?;
                Ok(ChatLinkChange {
                    at_ns: row.try_get(0)?,
                    made: action == "account.link",
                    detail: row.try_get(2)?,
                    address: row.try_get(3)?,
                })
            })
            .collect()
    }

    /// Whose a token is that counts still.
    ///
    /// # Errors
    /// The database fails.
    pub async fn chat_link_token(&self, token_sha256: &str) -> Result<Option<Person>, StoreError> {
        let row = sqlx::query(
            "SELECT chat, app, team, person, name FROM chat_link_tokens WHERE token_sha256 = $1 AND expires_ns > $2",
        )
        .bind(token_sha256)
        .bind(now_ns())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(person).transpose()
    }
}

fn link(row: &AnyRow) -> Result<ChatLink, StoreError> {
    Ok(ChatLink {
        person: person(row)?,
        linked_ns: row.try_get("linked_ns")?,
        expires_ns: row.try_get("expires_ns")?,
    })
}

fn person(row: &AnyRow) -> Result<Person, StoreError> {
    Ok(Person {
        chat: row.try_get("chat")?,
        app: row.try_get("app")?,
        team: row.try_get("team")?,
        person: row.try_get("person")?,
        name: row.try_get("name")?,
    })
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
        code_sha256: &str,
        of: &Person,
        expires_ns: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM chat_link_tokens WHERE expires_ns < $1 \
             OR chat = $2 AND app = $3 AND team = $4 AND person = $5",
        )
        .bind(now_ns())
        .bind(&of.chat)
        .bind(plain(&of.app).as_ref())
        .bind(plain(&of.team).as_ref())
        .bind(plain(&of.person).as_ref())
        .execute(self.on())
        .await?;
        sqlx::query(
            "INSERT INTO chat_link_tokens (token_sha256, code_sha256, chat, app, team, person, name, expires_ns) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(token_sha256)
        .bind(code_sha256)
        .bind(&of.chat)
        .bind(plain(&of.app).as_ref())
        .bind(plain(&of.team).as_ref())
        .bind(plain(&of.person).as_ref())
        .bind(plain(&of.name).as_ref())
        .bind(expires_ns)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Uses a token up, whatever comes of it, and links the person that it is of to an account until `expires_ns`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn link_chat(
        &mut self,
        token_sha256: &str,
        code_sha256: &str,
        account: &str,
        expires_ns: i64,
    ) -> Result<Linked, StoreError> {
        let now = now_ns();
        let row = sqlx::query(
            "DELETE FROM chat_link_tokens WHERE token_sha256 = $1 AND expires_ns > $2 \
             RETURNING chat, app, team, person, name, code_sha256",
        )
        .bind(token_sha256)
        .bind(now)
        .fetch_optional(self.on())
        .await?;
        let Some(row) = row else { return Ok(Linked::Gone) };
        let (person, code) = (person(&row)?, row.try_get::<String, _>("code_sha256")?);
        // Of random bytes, and once: how long it takes to compare says nothing.
        if code != code_sha256 {
            return Ok(Linked::Code);
        }
        sqlx::query("DELETE FROM chat_links WHERE expires_ns <= $1").bind(now).execute(self.on()).await?;
        let other = sqlx::query(
            "SELECT 1 FROM chat_links WHERE account = $1 AND chat = $2 AND app = $3 AND team = $4",
        )
        .bind(account)
        .bind(&person.chat)
        .bind(&person.app)
        .bind(&person.team)
        .fetch_optional(self.on())
        .await?;
        if other.is_some() {
            return Ok(Linked::Another);
        }
        let linked = sqlx::query(
            "INSERT INTO chat_links (chat, app, team, person, name, account, linked_ns, expires_ns) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(&person.chat)
        .bind(&person.app)
        .bind(&person.team)
        .bind(&person.person)
        .bind(&person.name)
        .bind(account)
        .bind(now)
        .bind(expires_ns)
        .execute(self.on())
        .await?;
        Ok(if linked.rows_affected() == 1 { Linked::Done(person) } else { Linked::Taken })
    }

    /// Ends a link of an account; whether there was one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn unlink_chat(
        &mut self,
        account: &str,
        chat: &str,
        app: &str,
        team: &str,
        person: &str,
    ) -> Result<bool, StoreError> {
        let gone = sqlx::query(
            "DELETE FROM chat_links WHERE account = $1 AND chat = $2 AND app = $3 AND team = $4 AND person = $5",
        )
        .bind(account)
        .bind(chat)
        .bind(app)
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
