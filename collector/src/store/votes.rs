//! What was decided here on requests for approval, until their hosts have said what became of it.

use interlock_shipping::v1::{ApprovalAnswer, ApprovalVote};
use prost::Message as _;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::page::rfc3339;
use super::{Store, StoreError, Write, now_ns, plain};

/// Votes are told to hosts for so long: no request is open for longer than a day.
const TOLD_NS: i64 = 25 * 3600 * 1_000_000_000;
/// Characters of why a vote does not count.
const WHY: usize = 1000;

/// Something that was decided here.
#[derive(Debug, Clone, Serialize)]
pub struct Vote {
    /// Its own name.
    pub vote: String,
    /// The account.
    pub account: String,
    /// Approved; else refused.
    pub approve: bool,
    /// What it is to cover.
    pub scope: String,
    /// A shape for so long; 0 for as long as the rules allow.
    pub seconds: i64,
    /// Why.
    pub reason: String,
    /// By which way it came.
    pub via: String,
    /// When.
    #[serde(rename = "given", serialize_with = "rfc3339")]
    pub given_ns: i64,
    /// `given` until the host has answered; then `counted` or `refused`.
    pub state: String,
    /// Why it did not count.
    pub why: String,
    /// How many more approvals were needed after it.
    pub missing: i64,
}

/// Something to be kept that was decided here.
#[derive(Debug)]
pub struct NewVote<'v> {
    /// Its own name.
    pub vote: &'v str,
    /// The request's id.
    pub approval: &'v str,
    /// The host's id.
    pub host: &'v str,
    /// The account.
    pub account: &'v str,
    /// By which way it came.
    pub via: &'v str,
    /// As the host is told it.
    pub told: &'v ApprovalVote,
}

const VOTE: &str = "SELECT vote, account, approve, scope, seconds, reason, via, given_ns, state, why, missing \
     FROM approval_votes";

fn read_vote(row: &AnyRow) -> Result<Vote, StoreError> {
    Ok(Vote {
        vote: row.try_get(0)?,
        account: row.try_get(1)?,
        approve: row.try_get::<i64, _>(2)? != 0,
        scope: row.try_get(3)?,
        seconds: row.try_get(4)?,
        reason: row.try_get(5)?,
        via: row.try_get(6)?,
        given_ns: row.try_get(7)?,
        state: row.try_get(8)?,
        why: row.try_get(9)?,
        missing: row.try_get(10)?,
    })
}

impl Store {
    /// What was decided here on a request, in order.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approval_votes(&self, id: &str) -> Result<Vec<Vote>, StoreError> {
        let text = format!("{VOTE} WHERE approval = $1 ORDER BY given_ns, vote LIMIT 500");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id).fetch_all(self.pool()).await?;
        rows.iter().map(read_vote).collect()
    }

    /// Something that was decided here, by its name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn approval_vote(&self, vote: &str) -> Result<Option<Vote>, StoreError> {
        let text = format!("{VOTE} WHERE vote = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(vote).fetch_optional(self.pool()).await?;
        row.as_ref().map(read_vote).transpose()
    }

    /// What a host is to be told, at most 256, of accounts that can sign in and with groups as they are now; and
    /// the votes that count no more, for their accounts cannot, or are in none of the groups.
    ///
    /// # Errors
    /// The database fails.
    pub async fn waiting_votes(&self, host: &str) -> Result<(Vec<ApprovalVote>, Vec<String>), StoreError> {
        let rows = sqlx::query(
            "SELECT v.told, v.account, COALESCE(u.state, '') FROM approval_votes v LEFT JOIN users u ON u.name = v.account \
             WHERE v.host = $1 AND v.state = 'given' AND v.given_ns > $2 ORDER BY v.given_ns LIMIT 256",
        )
        .bind(host)
        .bind(now_ns() - TOLD_NS)
        .fetch_all(self.pool())
        .await?;
        let (mut votes, mut void) = (Vec::new(), Vec::new());
        for row in rows {
            let (told, account, state): (Vec<u8>, String, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let mut vote =
                ApprovalVote::decode(&*told).map_err(|_| StoreError::Damaged("a decision that is none"))?;
            let groups = self.groups_of(&account).await?;
            let mut is_in = false;
            if let Some(by) = &mut vote.by {
                by.groups.retain(|group| groups.contains(group));
                is_in = !by.groups.is_empty();
            }
            if state == "active" && is_in {
                votes.push(vote);
            } else {
                void.push(vote.vote);
            }
        }
        Ok((votes, void))
    }

    /// The hosts that there is something to be told.
    ///
    /// # Errors
    /// The database fails.
    pub async fn hosts_with_votes(&self) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query(
            "SELECT DISTINCT host FROM approval_votes WHERE state = 'given' AND given_ns > $1 LIMIT 10000",
        )
        .bind(now_ns() - TOLD_NS)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

impl Write<'_> {
    /// Keeps what was decided here, to be told the host; `false` when the account has said the same before.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_vote(&mut self, new: &NewVote<'_>) -> Result<bool, StoreError> {
        let added = sqlx::query(
            "INSERT INTO approval_votes (vote, approval, host, account, approve, scope, seconds, reason, via, given_ns, \
             told, state, why, missing) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'given', '', 0) \
             ON CONFLICT DO NOTHING",
        )
        .bind(new.vote)
        .bind(new.approval)
        .bind(new.host)
        .bind(new.account)
        .bind(i64::from(new.told.approve))
        .bind(&new.told.scope)
        .bind(i64::try_from(new.told.seconds).unwrap_or(i64::MAX))
        .bind(plain(&new.told.reason).as_ref())
        .bind(new.via)
        .bind(now_ns())
        .bind(new.told.encode_to_vec())
        .execute(self.on())
        .await?;
        if added.rows_affected() == 0 {
            return Ok(false);
        }
        self.approval_touched(new.approval).await?;
        Ok(true)
    }

    /// An account's decisions that no host has answered count no more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn void_votes(&mut self, account: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE approval_votes SET state = 'refused', answered_ns = $2, \
             why = 'the account was changed before the host had answered' WHERE account = $1 AND state = 'given'",
        )
        .bind(account)
        .bind(now_ns())
        .execute(self.on())
        .await?;
        Ok(())
    }

    async fn approval_touched(&mut self, id: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE approvals SET changed_ns = $2 WHERE id = $1")
            .bind(id)
            .bind(now_ns())
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Keeps what became of a vote; whether it waited for that.
    ///
    /// # Errors
    /// The database fails.
    pub async fn answer_vote(&mut self, host: &str, answer: &ApprovalAnswer) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE approval_votes SET state = $3, why = $4, missing = $5, answered_ns = $6 \
             WHERE vote = $1 AND host = $2 AND state = 'given'",
        )
        .bind(&answer.vote)
        .bind(host)
        .bind(if answer.counted { "counted" } else { "refused" })
        .bind(plain(&answer.why).chars().take(WHY).collect::<String>())
        .bind(i64::from(answer.missing))
        .bind(now_ns())
        .execute(self.on())
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let row = sqlx::query("SELECT approval FROM approval_votes WHERE vote = $1")
            .bind(&answer.vote)
            .fetch_one(self.on())
            .await?;
        let approval: String = row.try_get(0)?;
        self.approval_touched(&approval).await?;
        Ok(true)
    }
}
