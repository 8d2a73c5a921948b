//! Requests for approval, as hosts tell of them, and what was decided on them here.
//!
//! A request is known by its name on the host and a digest of host and operation: names come again, and another
//! host may give any name to its own.

use interlock_recording::hex;
use interlock_shipping::v1::{ApprovalRequest, ApprovalStanding};
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::news::ApprovalChange;
use super::page::{Sql, containing, rfc3339, rfc3339_or_null};
use super::{Page, Store, StoreError, Write, now_ns, plain};

/// Requests of the past that are shown beside one that is alike.
const ALIKE: i64 = 8;

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

/// A text for the database, of so many characters at most.
pub(super) fn clip(text: &str, most: usize) -> String {
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

    /// Whether there is one of this id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn has_approval(&self, id: &str) -> Result<bool, StoreError> {
        let row =
            sqlx::query("SELECT 1 FROM approvals WHERE id = $1").bind(id).fetch_optional(self.pool()).await?;
        Ok(row.is_some())
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
}

impl Write<'_> {
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
        self.approval_news(host, id, ApprovalNews::Reviewed, &ApprovalChange::reviewed(by, review)).await?;
        Ok(true)
    }
}
