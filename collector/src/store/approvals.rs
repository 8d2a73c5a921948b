//! Requests for approval, as hosts tell of them, and what was decided on them here.
//!
//! A request is known by its name on the host and a digest of host and operation: names come again, and another
//! host may give any name to its own.

use std::collections::HashSet;

use interlock_recording::hex;
use interlock_shipping::v1::{ApprovalRequest, ApprovalStanding};
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::journal::NewRow;
use super::page::{Sql, containing, rfc3339, rfc3339_or_null};
use super::{JournalKind, Page, Store, StoreError, Write, now_ns, plain};

/// Characters of a text that lists show and searches read.
const TEXT: usize = 2000;
/// Bytes of a name.
const NAME: usize = 256;
/// Requests of the past that are shown beside one that is alike.
const ALIKE: i64 = 8;
/// Requests that have ended are kept at least so long, and as long as their session's recording is.
const KEPT_NS: i64 = 30 * 86_400 * 1_000_000_000;

/// No request is open for longer, whatever its host says.
const LONGEST_NS: i64 = 86_400 * 1_000_000_000;

/// What has come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalNews {
    /// It was made.
    Made,
    /// Somebody has approved; more are needed.
    Changed,
    /// It is decided, or not wanted any more.
    Ended,
    /// It went through unapproved, and somebody has looked into it.
    Reviewed,
}

impl ApprovalNews {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Changed => "changed",
            Self::Ended => "ended",
            Self::Reviewed => "reviewed",
        }
    }

    /// The one of this word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Made, Self::Changed, Self::Ended, Self::Reviewed].into_iter().find(|news| news.word() == word)
    }
}

/// A request as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct Approval {
    /// Its number here, in the order in which they came.
    #[serde(skip)]
    pub number: i64,
    /// Its id here.
    pub id: String,
    /// The host's id.
    pub host: String,
    /// The host's name.
    pub host_name: String,
    /// Its name on the host.
    pub request: String,
    /// `pending`, or how it ended.
    pub state: String,
    /// When it was asked, by the host's clock.
    #[serde(rename = "asked", serialize_with = "rfc3339")]
    pub asked_ns: i64,
    /// Until when it is open.
    #[serde(rename = "deadline", serialize_with = "rfc3339")]
    pub deadline_ns: i64,
    /// When it ended.
    #[serde(rename = "ended", serialize_with = "rfc3339_or_null")]
    pub ended_ns: Option<i64>,
    /// The session.
    pub session: String,
    /// Who asks.
    pub user: String,
    /// The login user; empty when there is none.
    pub login_user: String,
    /// The program, or the script.
    pub exe: String,
    /// The server.
    pub destination: String,
    /// The database.
    pub database: String,
    /// The database user.
    pub db_user: String,
    /// The rules that hold it, with commas between.
    pub rules: String,
    /// Who has to approve, in words.
    pub needs: String,
    /// The beginning of its text.
    pub text: String,
    /// What the host lets the collector do: show or decide.
    pub collector: String,
    /// Who has looked into it, of one that went through unapproved.
    pub reviewed_by: Option<String>,
    /// When.
    #[serde(rename = "reviewed", serialize_with = "rfc3339_or_null")]
    pub reviewed_ns: Option<i64>,
    /// What they have said.
    pub review: Option<String>,
}

/// All of a request.
#[derive(Debug, Clone)]
pub struct WholeApproval {
    /// As it is listed.
    pub item: Approval,
    /// The digest of the operation.
    pub digest: Vec<u8>,
    /// What the host told.
    pub told: ApprovalRequest,
    /// How it stands.
    pub standing: ApprovalStanding,
}

/// Which requests are wanted.
#[derive(Debug, Clone, Default)]
pub struct ApprovalFilter {
    /// Those that members of one of these groups may decide on; all when `None`.
    pub groups: Option<Vec<String>>,
    /// `pending`, `decided` (all others), `unreviewed`, or one outcome.
    pub state: Option<String>,
    /// With this in their text.
    pub text: Option<String>,
    /// Of these hosts.
    pub hosts: Option<Vec<String>>,
    /// Of this user, or login user.
    pub user: Option<String>,
    /// Held by this rule.
    pub rule: Option<String>,
    /// Asked then or later.
    pub since_ns: Option<i64>,
    /// Asked before then.
    pub until_ns: Option<i64>,
}

/// The id of a host's request here.
pub fn approval_id(host: &str, request: &str, digest: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [b"interlock approval".as_slice(), host.as_bytes(), digest] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: String = hex(&hash.finalize()).chars().take(16).collect();
    format!("{request}-{digest}")
}

fn clip(text: &str, most: usize) -> String {
    plain(text).chars().take(most).collect()
}

const COLUMNS: &str = "SELECT p.number, p.id, p.host, COALESCE(a.name, ''), p.request, p.state, p.asked_ns, p.deadline_ns, \
     p.ended_ns, p.session, p.user_name, p.login_user, p.exe, p.destination, p.database_name, p.db_user, p.rules, \
     p.text, p.collector, p.reviewed_by, p.reviewed_ns, p.review, p.needs";
const FROM: &str = " FROM approvals p LEFT JOIN agents a ON a.host = p.host";

fn read(row: &AnyRow) -> Result<Approval, StoreError> {
    let (state, deadline_ns): (String, i64) = (row.try_get(5)?, row.try_get(7)?);
    // Its host has not said so yet, but nothing that comes now counts.
    let over = state == "pending" && deadline_ns <= now_ns();
    Ok(Approval {
        number: row.try_get(0)?,
        id: row.try_get(1)?,
        host: row.try_get(2)?,
        host_name: row.try_get(3)?,
        request: row.try_get(4)?,
        state: if over { "expired".to_owned() } else { state },
        asked_ns: row.try_get(6)?,
        deadline_ns,
        ended_ns: row.try_get::<Option<i64>, _>(8)?.or(over.then_some(deadline_ns)),
        session: row.try_get(9)?,
        user: row.try_get(10)?,
        login_user: row.try_get(11)?,
        exe: row.try_get(12)?,
        destination: row.try_get(13)?,
        database: row.try_get(14)?,
        db_user: row.try_get(15)?,
        rules: row.try_get(16)?,
        text: row.try_get(17)?,
        collector: row.try_get(18)?,
        reviewed_by: row.try_get(19)?,
        reviewed_ns: row.try_get(20)?,
        review: row.try_get(21)?,
        needs: row.try_get(22)?,
    })
}

/// That members of one of these groups may decide on it.
fn visible(sql: &mut Sql, groups: Option<&[String]>) {
    match groups {
        None => {}
        Some([]) => drop(sql.and("1 = 0")),
        Some(groups) => {
            sql.and("EXISTS (SELECT 1 FROM approval_groups g WHERE g.approval = p.id AND g.group_name");
            sql.one_of(groups).push(")");
        }
    }
}

impl Store {
    /// Requests before `cursor`, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approvals(
        &self,
        filter: &ApprovalFilter,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<Page<Approval>, StoreError> {
        if filter.hosts.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Page::empty());
        }
        let mut sql = Sql::new(COLUMNS);
        sql.push(FROM);
        visible(&mut sql, filter.groups.as_deref());
        let now = now_ns();
        match filter.state.as_deref() {
            None => {}
            Some("pending") => drop(sql.and("p.state = 'pending' AND p.deadline_ns > ").number(now)),
            Some("decided") => {
                sql.and("(p.state <> 'pending' OR p.deadline_ns <= ").number(now).push(")");
            }
            Some("unreviewed") => drop(sql.and("p.state = 'broken_glass' AND p.reviewed_ns IS NULL")),
            Some("expired") => {
                sql.and("(p.state = 'expired' OR p.state = 'pending' AND p.deadline_ns <= ")
                    .number(now)
                    .push(")");
            }
            Some(state) => drop(sql.and("p.state = ").text(state)),
        }
        if let Some(text) = &filter.text {
            sql.and("(p.text LIKE ")
                .text(&containing(text))
                .push(" ESCAPE '\\' OR p.request = ")
                .text(text)
                .push(")");
        }
        if let Some(hosts) = &filter.hosts {
            sql.and("p.host").one_of(hosts);
        }
        if let Some(user) = &filter.user {
            sql.and("(p.user_name = ").text(user).push(" OR p.login_user = ").text(user).push(")");
        }
        if let Some(rule) = &filter.rule {
            sql.and("(',' || p.rules || ',') LIKE ")
                .text(&containing(&format!(",{rule},")))
                .push(" ESCAPE '\\'");
        }
        if let Some(since) = filter.since_ns {
            sql.and("p.received_ns >= ").number(since);
        }
        if let Some(until) = filter.until_ns {
            sql.and("p.received_ns < ").number(until);
        }
        if let Some(cursor) = cursor {
            sql.and("p.number < ").number(cursor);
        }
        sql.push(" ORDER BY p.number DESC LIMIT ").number(limit as i64 + 1);
        let items: Result<Vec<_>, _> = sql.all(self.searchers()).await?.iter().map(read).collect();
        Ok(Page::cut(items?, limit, |item| item.number.to_string()))
    }

    /// How many wait that members of these groups may decide on (all, when `None`); 1000 stands for that many or
    /// more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn open_approvals(&self, groups: Option<&[String]>) -> Result<i64, StoreError> {
        let mut sql = Sql::new("SELECT 1 FROM approvals p");
        visible(&mut sql, groups);
        sql.and("p.state = 'pending' AND p.deadline_ns > ").number(now_ns());
        sql.push(" LIMIT 1000");
        Ok(i64::try_from(sql.all(self.searchers()).await?.len()).unwrap_or_default())
    }

    /// All of one, by its id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approval(&self, id: &str) -> Result<Option<WholeApproval>, StoreError> {
        let text = format!("{COLUMNS}, p.digest, p.told, p.standing{FROM} WHERE p.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(plain(id).as_ref())
            .fetch_optional(self.pool())
            .await?;
        row.map(|row| {
            let (told, standing): (Vec<u8>, Vec<u8>) = (row.try_get(24)?, row.try_get(25)?);
            let damaged = |_| StoreError::Damaged("a request for approval that is none");
            Ok(WholeApproval {
                item: read(&row)?,
                digest: row.try_get(23)?,
                told: ApprovalRequest::decode(&*told).map_err(damaged)?,
                standing: ApprovalStanding::decode(&*standing).map_err(damaged)?,
            })
        })
        .transpose()
    }

    /// The ids of those that have this name on their hosts, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approvals_named(&self, request: &str) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("SELECT id FROM approvals WHERE request = $1 ORDER BY number DESC LIMIT 10")
            .bind(plain(request).as_ref())
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Others that are alike, the newest first, of those that members of these groups may decide on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approvals_alike(
        &self,
        one: &WholeApproval,
        groups: Option<&[String]>,
    ) -> Result<Vec<Approval>, StoreError> {
        let mut sql = Sql::new(COLUMNS);
        sql.push(FROM);
        visible(&mut sql, groups);
        sql.and("p.likeness = ").text(&hex(&one.told.likeness));
        sql.and("p.id <> ").text(&one.item.id);
        sql.push(" ORDER BY p.number DESC LIMIT ").number(ALIKE);
        sql.all(self.searchers()).await?.iter().map(read).collect()
    }

    /// Whether a member of one of these groups may decide on it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approval_is_for(&self, id: &str, groups: &[String]) -> Result<bool, StoreError> {
        if groups.is_empty() {
            return Ok(false);
        }
        let mut sql = Sql::new("SELECT 1 FROM approval_groups g");
        sql.and("g.approval = ").text(id).and("g.group_name").one_of(groups);
        Ok(sql.optional(self.searchers()).await?.is_some())
    }

    /// Differs when anything of any request has changed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approvals_state(&self) -> Result<(i64, i64), StoreError> {
        let row = sqlx::query("SELECT COALESCE(MAX(changed_ns), 0), COALESCE(MAX(number), 0) FROM approvals")
            .fetch_one(self.pool())
            .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// How many of a host's requests are kept.
    ///
    /// # Errors
    /// The database fails.
    pub async fn kept_approvals_of(&self, host: &str) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM approvals WHERE host = $1")
            .bind(host)
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get(0)?)
    }

    /// How many of a host's requests are open.
    ///
    /// # Errors
    /// The database fails.
    pub async fn open_approvals_of(&self, host: &str) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM approvals WHERE host = $1 AND state = 'pending'")
            .bind(host)
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get(0)?)
    }
}

impl Write<'_> {
    /// Notes for outputs, and for whatever asks people in other ways, what has come of a request.
    async fn approval_news(&mut self, host: &str, id: &str, news: ApprovalNews) -> Result<(), StoreError> {
        let about = format!("{id} {}", news.word());
        self.journal(NewRow {
            kind: JournalKind::Approval,
            host,
            segment: 0,
            first: 0,
            last: 0,
            about: &about,
        })
        .await
    }

    /// Takes in a request that a host has open; whether it is a new one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_approval(&mut self, host: &str, told: &ApprovalRequest) -> Result<bool, StoreError> {
        let id = approval_id(host, &told.request, &told.digest);
        let subject = interlock_recording::proto::Subject::decode(&*told.subject).unwrap_or_default();
        let exe = subject.script.as_deref().unwrap_or(&subject.exe);
        let session = interlock_recording::SessionId::from_slice(&told.session);
        let int = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let now = now_ns();
        let rules: Vec<&str> = told.quorums.iter().map(|quorum| quorum.rule.as_str()).collect();
        let needs = told.quorums.iter().map(|quorum| {
            let groups = quorum.groups.join(if quorum.all_of { " and " } else { " or " });
            format!("{} of {groups}", quorum.needed)
        });
        let needs: Vec<String> = needs.collect();
        let destination = match told.hosts.first() {
            Some(name) => format!("{name} ({})", told.server),
            None => told.server.clone(),
        };
        let standing = ApprovalStanding {
            request: told.request.clone(),
            digest: told.digest.clone(),
            state: "pending".to_owned(),
            ..ApprovalStanding::default()
        };
        let added = sqlx::query(
            "INSERT INTO approvals (id, host, request, digest, likeness, session, asked_ns, received_ns, deadline_ns, \
             state, user_name, login_user, exe, destination, database_name, db_user, rules, text, collector, told, \
             standing, needs, changed_ns) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', $10, $11, $12, $13, $14, \
             $15, $16, $17, $18, $19, $20, $21, $7) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&id)
        .bind(host)
        .bind(clip(&told.request, 16))
        .bind(&told.digest)
        .bind(hex(&told.likeness))
        .bind(session.map(|session| session.to_string()).unwrap_or_default())
        .bind(int(told.asked_ns))
        .bind(now)
        .bind(now.saturating_add(int(told.left_ns).min(LONGEST_NS)))
        .bind(clip(&subject.user, NAME))
        .bind(clip(&subject.login_user, NAME))
        .bind(clip(exe, NAME))
        .bind(clip(&destination, NAME))
        .bind(clip(&told.database, NAME))
        .bind(clip(&told.db_user, NAME))
        .bind(clip(&rules.join(","), 4 * NAME))
        .bind(clip(&told.text, TEXT))
        .bind(clip(&told.collector, 16))
        .bind(told.encode_to_vec())
        .bind(standing.encode_to_vec())
        .bind(clip(&needs.join(", and "), 4 * NAME))
        .execute(self.on())
        .await?;
        if added.rows_affected() == 0 {
            // Told before.
            return Ok(false);
        }
        let mut groups: Vec<&String> = told.quorums.iter().flat_map(|quorum| &quorum.groups).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            sqlx::query(
                "INSERT INTO approval_groups (group_name, approval) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(clip(group, NAME))
            .bind(&id)
            .execute(self.on())
            .await?;
        }
        self.approval_news(host, &id, ApprovalNews::Made).await?;
        Ok(true)
    }

    /// Takes in how a host's request stands. One that has ended stays so, unless its glass was broken. Whether anything changed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_standing(&mut self, host: &str, told: &ApprovalStanding) -> Result<bool, StoreError> {
        let id = approval_id(host, &told.request, &told.digest);
        let ended = told.state != "pending";
        let bytes = told.encode_to_vec();
        let changed = sqlx::query(
            "UPDATE approvals SET state = $2, standing = $3, ended_ns = $4, changed_ns = $6 WHERE id = $1 AND host = $5 \
             AND (state = 'pending' AND standing <> $3 OR $7 = 1 AND state <> 'broken_glass')",
        )
        .bind(&id)
        .bind(&told.state)
        .bind(&bytes)
        .bind(ended.then(now_ns))
        .bind(host)
        .bind(now_ns())
        // What went through unapproved needs a review, whatever was thought of it.
        .bind(i64::from(told.state == "broken_glass"))
        .execute(self.on())
        .await?;
        if changed.rows_affected() == 0 {
            return Ok(false);
        }
        let news = if ended { ApprovalNews::Ended } else { ApprovalNews::Changed };
        self.approval_news(host, &id, news).await?;
        Ok(true)
    }

    /// A host has these requests open and no others: the others have ended, it is not known how. Gives how many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn close_approvals(&mut self, host: &str, open: &HashSet<String>) -> Result<usize, StoreError> {
        let rows = sqlx::query("SELECT id FROM approvals WHERE host = $1 AND state = 'pending'")
            .bind(host)
            .fetch_all(self.on())
            .await?;
        let standing = ApprovalStanding {
            state: "withdrawn".to_owned(),
            reason: "it is open on the host no more: its agent was started anew, or it ended while the agent was not connected"
                .to_owned(),
            ..ApprovalStanding::default()
        };
        let standing = standing.encode_to_vec();
        let mut closed = 0;
        for row in rows {
            let id: String = row.try_get(0)?;
            if open.contains(&id) {
                continue;
            }
            sqlx::query(
                "UPDATE approvals SET state = 'withdrawn', standing = $2, ended_ns = $3, changed_ns = $3 WHERE id = $1",
            )
            .bind(&id)
            .bind(&standing)
            .bind(now_ns())
            .execute(self.on())
            .await?;
            self.approval_news(host, &id, ApprovalNews::Ended).await?;
            closed += 1;
        }
        Ok(closed)
    }

    /// Notes that somebody has looked into one that went through unapproved; whether nobody had.
    ///
    /// # Errors
    /// The database fails.
    pub async fn review_approval(
        &mut self,
        host: &str,
        id: &str,
        by: &str,
        review: &str,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE approvals SET reviewed_by = $2, reviewed_ns = $3, review = $4, changed_ns = $3 \
             WHERE id = $1 AND state = 'broken_glass' AND reviewed_ns IS NULL",
        )
        .bind(id)
        .bind(by)
        .bind(now_ns())
        .bind(plain(review).as_ref())
        .execute(self.on())
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        self.approval_news(host, id, ApprovalNews::Reviewed).await?;
        Ok(true)
    }

    /// Removes requests that ended long ago and whose session's recording was deleted; gives how many, at most
    /// 1000.
    ///
    /// # Errors
    /// The database fails.
    pub async fn prune_approvals(&mut self) -> Result<u64, StoreError> {
        let gone = "SELECT id FROM approvals WHERE received_ns < $1 AND (state <> 'broken_glass' OR reviewed_ns IS NOT NULL) \
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = approvals.session) ORDER BY received_ns LIMIT 1000";
        let mut done = 0;
        for (table, column) in
            [("approval_votes", "approval"), ("approval_groups", "approval"), ("approvals", "id")]
        {
            let text = format!("DELETE FROM {table} WHERE {column} IN ({gone})");
            let removed =
                sqlx::query(sqlx::AssertSqlSafe(text)).bind(now_ns() - KEPT_NS).execute(self.on()).await?;
            done = removed.rows_affected();
        }
        Ok(done)
    }
}
