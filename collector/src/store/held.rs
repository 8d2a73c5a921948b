//! What hosts tell of their requests for approval is taken in here, and what their recordings tell of those that went
//! through unapproved.

use std::collections::HashSet;

use interlock_recording::hex;
use interlock_shipping::MAX_APPROVAL;
use interlock_shipping::v1::{ApprovalRequest, ApprovalStanding};
use prost::Message as _;
use sqlx::Row as _;

use super::approvals::{ApprovalNews, approval_id, clip};
use super::index::{places, portions};
use super::news::ApprovalChange;
use super::{Store, StoreError, Write, now_ns};

/// The tables of this module.
pub(super) const TABLES: &str = "
-- Bytes of what is kept of a request, which count towards its host's quota.
ALTER TABLE approvals ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
UPDATE approvals SET bytes = LENGTH(told) + LENGTH(standing);
-- By itself it answers how much of a host's is kept, and how much came lately.
CREATE INDEX approvals_kept ON approvals (host, received_ns, bytes);
CREATE INDEX approvals_glass ON approvals (host) WHERE state = 'broken_glass' AND reviewed_ns IS NULL;

-- Requests that recordings tell of and have not said the end of: what goes through unapproved is known by them.
CREATE TABLE approval_recorded (
    host TEXT NOT NULL,
    session TEXT NOT NULL,
    request TEXT NOT NULL,
    received_ns BIGINT NOT NULL,
    -- As its host would tell of it (interlock.shipping.v1.ApprovalRequest).
    told {blob} NOT NULL,
    PRIMARY KEY (host, session, request)
);
CREATE INDEX approval_recorded_by_age ON approval_recorded (received_ns);
";

/// Characters of a text that lists show and searches read.
const TEXT: usize = 2000;
/// Characters of a name.
const NAME: usize = 256;
/// Bytes of a row beside what the host told.
const ROW: i64 = 1024;
/// Requests that have ended are kept at least so long, and as long as their session's recording is.
const KEPT_NS: i64 = 30 * 86_400 * 1_000_000_000;
/// No request is open for longer, whatever its host says.
const LONGEST_NS: i64 = 86_400 * 1_000_000_000;
/// Requests of one host that went through unapproved, that nobody has looked into, and that the host has not told of
/// as its own: more are a finding, and stand in the recording.
const GLASS: i64 = 1000;

/// Requests that each host may have kept: of those of the last month more are not taken, and what is older is removed.
pub const KEPT: i64 = 50_000;
/// Users whose requests are counted one by one; those beyond have the fewest.
const USERS: i64 = 1000;

/// Whose share of a host's requests one is: the login user, or the user where none is known. Ids without a name are one:
/// whoever may have many of them (subuid(5)) has no more for it.
const WHOSE: &str = "CASE WHEN SUBSTR(CASE WHEN login_user <> '' THEN login_user ELSE user_name END, 1, 1) \
                     IN ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9') THEN '' \
                     WHEN login_user <> '' THEN login_user ELSE user_name END";

/// Whose share a request is, as [`Store::held_by`] has it.
pub(crate) fn whose(told: &ApprovalRequest) -> String {
    let subject = interlock_recording::proto::Subject::decode(&*told.subject).unwrap_or_default();
    let (user, login) = (clip(&subject.user, NAME), clip(&subject.login_user, NAME));
    let name = if login.is_empty() { user } else { login };
    if name.starts_with(|first: char| first.is_ascii_digit()) { String::new() } else { name }
}

/// How many requests of one user of a host there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldBy {
    /// Of the last month.
    pub rows: i64,
    /// That came since the time that was asked about.
    pub lately: i64,
}

/// Names that are kept of who let one through unapproved.
const NAMES: usize = 64;

/// How much is kept of a host's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldUsage {
    /// Requests that came within the last month.
    pub rows: i64,
    /// Bytes of all, and of what its recording tells of others.
    pub bytes: i64,
    /// Requests that came since the time that was asked about.
    pub lately: i64,
    /// Requests that are open.
    pub open: i64,
}

/// Whether these can be a request's name and its operation's digest.
pub fn is_request(request: &str, digest: &[u8]) -> bool {
    request.len() == 8 && request.bytes().all(|byte| byte.is_ascii_alphanumeric()) && digest.len() == 32
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

impl Store {
    /// How much is kept of a host's requests, and how many came since `since_ns`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn held_usage(&self, host: &str, since_ns: i64) -> Result<HeldUsage, StoreError> {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(CASE WHEN received_ns > $3 THEN 1 ELSE 0 END), 0) AS BIGINT), \
             CAST(COALESCE(SUM(bytes), 0) AS BIGINT), \
             CAST(COALESCE(SUM(CASE WHEN received_ns > $2 THEN 1 ELSE 0 END), 0) AS BIGINT), \
             (SELECT COUNT(*) FROM approvals WHERE host = $1 AND state = 'pending'), \
             (SELECT CAST(COALESCE(SUM(CAST(LENGTH(told) AS BIGINT) + $4), 0) AS BIGINT) FROM approval_recorded WHERE host = $1) \
             FROM approvals WHERE host = $1",
        )
        .bind(host)
        .bind(since_ns)
        .bind(now_ns().saturating_sub(KEPT_NS))
        .bind(ROW)
        .fetch_one(self.pool())
        .await?;
        let (told, recorded): (i64, i64) = (row.try_get(1)?, row.try_get(4)?);
        Ok(HeldUsage {
            rows: row.try_get(0)?,
            bytes: told.saturating_add(recorded),
            lately: row.try_get(2)?,
            open: row.try_get(3)?,
        })
    }

    /// How many requests of each of a host's users there are, of those users that have the most.
    ///
    /// # Errors
    /// The database fails.
    pub async fn held_by(
        &self,
        host: &str,
        since_ns: i64,
    ) -> Result<std::collections::HashMap<String, HeldBy>, StoreError> {
        let text = format!(
            "SELECT {WHOSE}, COUNT(*), CAST(SUM(CASE WHEN received_ns > $2 THEN 1 ELSE 0 END) AS BIGINT) \
             FROM approvals WHERE host = $1 AND received_ns > $3 GROUP BY 1 ORDER BY 2 DESC LIMIT {USERS}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(host)
            .bind(since_ns)
            .bind(now_ns().saturating_sub(KEPT_NS))
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, HeldBy { rows: row.try_get(1)?, lately: row.try_get(2)? })))
            .collect()
    }
}

/// A request's row, and how it stands.
struct NewHeld<'n> {
    host: &'n str,
    told: &'n ApprovalRequest,
    standing: &'n ApprovalStanding,
    /// It is the host's own telling: what only the recording, or its end alone, had told of gives way to it.
    whole: bool,
}

impl Write<'_> {
    /// Takes in a request that a host has open; whether it is a new one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_approval(&mut self, host: &str, told: &ApprovalRequest) -> Result<bool, StoreError> {
        let standing = ApprovalStanding {
            request: told.request.clone(),
            digest: told.digest.clone(),
            state: "pending".to_owned(),
            ..ApprovalStanding::default()
        };
        if !self.put_held(&NewHeld { host, told, standing: &standing, whole: true }).await? {
            // Told before.
            return Ok(false);
        }
        let id = approval_id(host, &told.request, &told.digest);
        self.approval_news(host, &id, ApprovalNews::Made, &ApprovalChange::of(&standing)).await?;
        Ok(true)
    }

    /// Writes a request's row; `false` when there is one that stays.
    async fn put_held(&mut self, new: &NewHeld<'_>) -> Result<bool, StoreError> {
        let NewHeld { host, told, standing, whole } = new;
        let id = approval_id(host, &told.request, &told.digest);
        let subject = interlock_recording::proto::Subject::decode(&*told.subject).unwrap_or_default();
        let exe = subject.script.as_deref().unwrap_or(&subject.exe);
        let session = interlock_recording::SessionId::from_slice(&told.session);
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
        let (told_bytes, standing_bytes) = (told.encode_to_vec(), standing.encode_to_vec());
        let bytes = length(&told_bytes).saturating_add(length(&standing_bytes)).saturating_add(ROW);
        let put = sqlx::query(
            "INSERT INTO approvals (id, host, request, digest, likeness, session, asked_ns, received_ns, deadline_ns, \
             state, user_name, login_user, exe, destination, database_name, db_user, rules, text, collector, told, \
             standing, needs, changed_ns, bytes, ended_ns) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $22, $10, $11, \
             $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $8, $23, $24) \
             ON CONFLICT (id) DO UPDATE SET likeness = excluded.likeness, session = excluded.session, \
             asked_ns = excluded.asked_ns, user_name = excluded.user_name, login_user = excluded.login_user, \
             exe = excluded.exe, destination = excluded.destination, database_name = excluded.database_name, \
             db_user = excluded.db_user, rules = excluded.rules, text = excluded.text, collector = excluded.collector, \
             told = excluded.told, needs = excluded.needs, changed_ns = excluded.changed_ns, bytes = excluded.bytes \
             WHERE approvals.collector = '' AND ($25 = 1 OR approvals.needs = '')",
        )
        .bind(&id)
        .bind(*host)
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
        .bind(told_bytes)
        .bind(standing_bytes)
        .bind(clip(&needs.join(", and "), 4 * NAME))
        .bind(&standing.state)
        .bind(bytes)
        .bind((standing.state != "pending").then_some(now))
        .bind(i64::from(*whole))
        .execute(self.on())
        .await?;
        if put.rows_affected() == 0 {
            return Ok(false);
        }
        let mut groups: Vec<String> =
            told.quorums.iter().flat_map(|quorum| &quorum.groups).map(|group| clip(group, NAME)).collect();
        groups.sort_unstable();
        groups.dedup();
        for portion in portions(&groups) {
            let text = format!(
                "INSERT INTO approval_groups (group_name, approval) VALUES {} ON CONFLICT DO NOTHING",
                places(portion.len(), 2)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
            for group in portion {
                query = query.bind(group).bind(&id);
            }
            query.execute(self.on()).await?;
        }
        Ok(true)
    }

    /// Takes in how a host's request stands. One that has ended stays so, unless its glass was broken: that is kept
    /// also of one that nothing else is known of. Whether anything changed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_standing(&mut self, host: &str, told: &ApprovalStanding) -> Result<bool, StoreError> {
        if self.change_standing(host, told).await? {
            return Ok(true);
        }
        if told.state == "broken_glass" { self.unknown_glass(host, told).await } else { Ok(false) }
    }

    /// The same of one that is known.
    pub(super) async fn change_standing(
        &mut self,
        host: &str,
        told: &ApprovalStanding,
    ) -> Result<bool, StoreError> {
        let id = approval_id(host, &told.request, &told.digest);
        let ended = told.state != "pending";
        if told.state == "broken_glass" {
            self.add_names(host, &id, told).await?;
        }
        if !ended && !self.has_more_votes(host, &id, told).await? {
            return Ok(false);
        }
        let bytes = told.encode_to_vec();
        let changed = sqlx::query(
            "UPDATE approvals SET state = $2, standing = $3, ended_ns = $4, changed_ns = $6, \
             bytes = CAST(LENGTH(told) AS BIGINT) + $8 WHERE id = $1 AND host = $5 \
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
        .bind(length(&bytes).saturating_add(ROW))
        .execute(self.on())
        .await?;
        if changed.rows_affected() == 0 {
            return Ok(false);
        }
        let news = if ended { ApprovalNews::Ended } else { ApprovalNews::Changed };
        self.approval_news(host, &id, news, &ApprovalChange::of(told)).await?;
        Ok(true)
    }

    /// Adds to who is kept as having let a request through what else they are called: the host and its recording tell of
    /// it, in no order, and one may know more. It only ever keeps somebody from reviewing it, and not once it has been.
    async fn add_names(&mut self, host: &str, id: &str, told: &ApprovalStanding) -> Result<(), StoreError> {
        let Some(more) = &told.by else { return Ok(()) };
        let row = sqlx::query(
            "SELECT standing FROM approvals WHERE id = $1 AND host = $2 AND state = 'broken_glass' \
             AND reviewed_ns IS NULL",
        )
        .bind(id)
        .bind(host)
        .fetch_optional(self.on())
        .await?;
        let Some(row) = row else { return Ok(()) };
        let mut kept = ApprovalStanding::decode(row.try_get::<Vec<u8>, _>(0)?.as_slice())
            .map_err(|_| StoreError::Damaged("a request for approval that is none"))?;
        let by = kept.by.get_or_insert_default();
        let before = by.clone();
        for (own, other) in [(&mut by.name, &more.name), (&mut by.login, &more.login)] {
            if own.is_empty() {
                own.clone_from(other);
            }
        }
        if by.subject.is_empty() {
            by.issuer.clone_from(&more.issuer);
            by.subject.clone_from(&more.subject);
        }
        if by.via.is_empty() {
            by.via.clone_from(&more.via);
            by.groups.clone_from(&more.groups);
        }
        for name in [&more.name, &more.login].into_iter().chain(&more.names) {
            let known = name.is_empty() || *name == by.name || *name == by.login || by.names.contains(name);
            if !known && by.names.len() < NAMES {
                by.names.push(name.clone());
            }
        }
        if *by == before {
            return Ok(());
        }
        let bytes = kept.encode_to_vec();
        sqlx::query(
            "UPDATE approvals SET standing = $2, changed_ns = $3, bytes = CAST(LENGTH(told) AS BIGINT) + $4 WHERE id = $1",
        )
        .bind(id)
        .bind(&bytes)
        .bind(now_ns())
        .bind(length(&bytes).saturating_add(ROW))
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Whether one that is open has more approvals than it had: nothing else changes while it is, and so often at most
    /// it is told of.
    async fn has_more_votes(
        &mut self,
        host: &str,
        id: &str,
        told: &ApprovalStanding,
    ) -> Result<bool, StoreError> {
        let row =
            sqlx::query("SELECT standing FROM approvals WHERE id = $1 AND host = $2 AND state = 'pending'")
                .bind(id)
                .bind(host)
                .fetch_optional(self.on())
                .await?;
        let Some(row) = row else { return Ok(false) };
        let before = ApprovalStanding::decode(row.try_get::<Vec<u8>, _>(0)?.as_slice())
            .map_err(|_| StoreError::Damaged("a request for approval that is none"))?;
        Ok(told.votes.len() > before.votes.len())
    }

    /// Keeps that a request went through unapproved which its host has not told of; whether that is news.
    async fn unknown_glass(&mut self, host: &str, standing: &ApprovalStanding) -> Result<bool, StoreError> {
        let recorded = sqlx::query(
            "SELECT told FROM approval_recorded WHERE host = $1 AND request = $2 ORDER BY received_ns DESC LIMIT 10",
        )
        .bind(host)
        .bind(&standing.request)
        .fetch_all(self.on())
        .await?;
        let mut told = None;
        for row in recorded {
            let bytes: Vec<u8> = row.try_get(0)?;
            let recorded = decoded(&bytes)?;
            if recorded.digest == standing.digest {
                told = Some(recorded);
            }
        }
        let told = told.unwrap_or_else(|| ApprovalRequest {
            request: standing.request.clone(),
            digest: standing.digest.clone(),
            asked_ns: standing.at_ns,
            ..ApprovalRequest::default()
        });
        self.put_glass(host, &told, standing).await
    }

    /// Keeps a request that went through unapproved, by what the recording or its end tells of it.
    pub(super) async fn put_glass(
        &mut self,
        host: &str,
        told: &ApprovalRequest,
        standing: &ApprovalStanding,
    ) -> Result<bool, StoreError> {
        let id = approval_id(host, &told.request, &told.digest);
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM approvals WHERE id = $2), \
             (SELECT COUNT(*) FROM approvals WHERE host = $1 AND state = 'broken_glass' AND reviewed_ns IS NULL)",
        )
        .bind(host)
        .bind(&id)
        .fetch_one(self.on())
        .await?;
        let (known, unreviewed): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if known == 0 && unreviewed >= GLASS {
            let detail = format!(
                "{GLASS} commands of this host went through unapproved and wait for a review: further ones are not listed \
                 under approvals, and stand in its recording"
            );
            self.note(host, "approvals", &detail).await?;
            return Ok(false);
        }
        if !self.put_held(&NewHeld { host, told, standing, whole: false }).await? {
            return Ok(false);
        }
        self.approval_news(host, &id, ApprovalNews::Ended, &ApprovalChange::of(standing)).await?;
        Ok(true)
    }

    /// A host has these requests open and no others: the others have ended, it is not known how. Gives how many.
    ///
    /// # Errors
    /// The database fails.
    pub async fn close_approvals(&mut self, host: &str, open: &HashSet<String>) -> Result<u64, StoreError> {
        let standing = ApprovalStanding {
            state: "withdrawn".to_owned(),
            reason: "it is open on the host no more: its agent was started anew, or it ended while the agent was not connected"
                .to_owned(),
            ..ApprovalStanding::default()
        };
        let about = ApprovalChange::of(&standing).about(ApprovalNews::Ended);
        let standing = standing.encode_to_vec();
        let now = now_ns();
        let set = "UPDATE approvals SET state = 'withdrawn', standing = $2, ended_ns = $3, changed_ns = $3 \
                   WHERE host = $1 AND state = 'pending'";
        let mut closed = 0;
        if open.is_empty() {
            let done = sqlx::query(set).bind(host).bind(&standing).bind(now).execute(self.on()).await?;
            closed = done.rows_affected();
        } else {
            let rows = sqlx::query("SELECT id FROM approvals WHERE host = $1 AND state = 'pending'")
                .bind(host)
                .fetch_all(self.on())
                .await?;
            let ids: Result<Vec<String>, sqlx::Error> = rows.iter().map(|row| row.try_get(0)).collect();
            let ids: Vec<String> = ids?.into_iter().filter(|id| !open.contains(id)).collect();
            for some in ids.chunks(CLOSED) {
                let marks: Vec<String> = (0..some.len()).map(|at| format!("${}", at + 4)).collect();
                let text = format!("{set} AND id IN ({})", marks.join(", "));
                let mut query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(host).bind(&standing).bind(now);
                for id in some {
                    query = query.bind(id);
                }
                closed += query.execute(self.on()).await?.rows_affected();
            }
        }
        if closed > 0 {
            // Nothing else of this host has changed at this very time: its messages come one after another.
            let of = "SELECT id FROM approvals WHERE host = $1 AND state = 'withdrawn' AND changed_ns = $2 \
                      AND ended_ns = $2 ORDER BY number";
            self.journal_all(host, of, now, &about).await?;
        }
        Ok(closed)
    }

    /// Removes requests that ended long ago and whose session's recording was deleted, or that are more than
    /// [`KEPT`] of their host, the oldest first; gives how many, at most 1000. Never those that are open or wait for a
    /// review.
    ///
    /// # Errors
    /// The database fails.
    pub async fn prune_approvals(&mut self) -> Result<u64, StoreError> {
        sqlx::query("DELETE FROM approval_recorded WHERE received_ns < $1")
            .bind(now_ns().saturating_sub(2 * LONGEST_NS))
            .execute(self.on())
            .await?;
        let gone = "SELECT id FROM approvals WHERE received_ns < $1 AND (state <> 'broken_glass' OR reviewed_ns IS NOT NULL) \
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = approvals.session) ORDER BY received_ns LIMIT 1000";
        let before = now_ns().saturating_sub(KEPT_NS);
        let done = self.remove_approvals(gone, &[], before).await?;
        if done > 0 {
            return Ok(done);
        }
        self.remove_over(before).await
    }

    /// Removes of hosts that have more than they may what ended and came before then, the oldest first.
    async fn remove_over(&mut self, before: i64) -> Result<u64, StoreError> {
        let over = sqlx::query("SELECT host, COUNT(*) FROM approvals GROUP BY host HAVING COUNT(*) > $1")
            .bind(KEPT)
            .fetch_all(self.on())
            .await?;
        for row in over {
            let (host, rows): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let gone = format!(
                "SELECT id FROM approvals WHERE received_ns < $1 AND host = $2 AND state <> 'pending' \
                 AND (state <> 'broken_glass' OR reviewed_ns IS NOT NULL) ORDER BY received_ns, number LIMIT {}",
                rows.saturating_sub(KEPT).clamp(0, 1000)
            );
            let done = self.remove_approvals(&gone, &[&host], before).await?;
            if done > 0 {
                return Ok(done);
            }
        }
        Ok(0)
    }

    /// Removes the requests that a query finds, and what belongs to them.
    async fn remove_approvals(&mut self, gone: &str, of: &[&str], before: i64) -> Result<u64, StoreError> {
        let mut done = 0;
        for (table, column) in
            [("approval_votes", "approval"), ("approval_groups", "approval"), ("approvals", "id")]
        {
            let text = format!("DELETE FROM {table} WHERE {column} IN ({gone})");
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(before);
            for host in of {
                query = query.bind((*host).to_owned());
            }
            done = query.execute(self.on()).await?.rows_affected();
        }
        Ok(done)
    }
}

/// Requests that one statement closes.
const CLOSED: usize = 1000;

/// A request as it is kept.
pub(super) fn decoded(bytes: &[u8]) -> Result<ApprovalRequest, StoreError> {
    ApprovalRequest::decode(bytes).map_err(|_| StoreError::Damaged("a request for approval that is none"))
}

/// Leaves out of a request what makes it larger than one may be.
pub(super) fn fitting(mut told: ApprovalRequest) -> ApprovalRequest {
    if told.encoded_len() > MAX_APPROVAL {
        told.omitted_params = told.omitted_params.saturating_add(told.params.len() as u64);
        told.params.clear();
        told.runs.clear();
        told.text = clip(&told.text, 16 << 10);
    }
    told
}

#[cfg(test)]
mod tests;
