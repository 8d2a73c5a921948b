//! Commands that went through unapproved, by the recordings: whatever becomes of what a host tells of its requests (a
//! connection that breaks, an agent that is killed, a host that tells nothing), each stands under what needs a review.

use std::collections::{HashMap, HashSet};

use interlock_recording::SessionId;
use interlock_recording::proto::{ApprovalDecided, ApprovalRequested, Subject, VerifiedIdentity};
use interlock_shipping::v1::{ApprovalBy, ApprovalParam, ApprovalQuorum, ApprovalRequest, ApprovalStanding};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::approvals::clip;
use super::batch::Batch;
use super::held::{decoded, fitting, is_request};
use super::index::{places, portions};
use super::{StoreError, Write, now_ns};

/// Rules of one request that are kept, groups of one rule, and characters of a name.
const RULES: usize = 64;
const GROUPS: usize = 64;
const NAME: usize = 256;
/// Characters of a reason.
const REASON: usize = 1000;
/// Bytes of a text, of the texts that it runs, and of parameters; of what approvers it needs.
const TEXTS: usize = 16 << 10;
const QUORUMS: usize = 32 << 10;
/// Texts that it runs, and bytes that one parameter takes beside its value.
const RUNS: usize = 64;
const PARAM: usize = 8;
/// Requests of one host that are waited for the end of, as many as an agent may have open; of more the oldest are
/// forgotten: what becomes of them is then listed by what their end tells.
const WAITING: i64 = 20_000;
/// Requests that one statement forgets.
const FORGOTTEN: usize = 200;

/// Requests that are kept with one round of statements.
const TOGETHER: usize = 256;

/// What was asked for in which session and by which name, as it is kept.
type AskedFor = HashMap<(String, String), Vec<u8>>;

/// What a recording tells of a request.
#[derive(Debug)]
pub(super) enum Recorded {
    /// It was made.
    Asked(SessionId, i64, Box<ApprovalRequested>),
    /// It has ended.
    Decided(SessionId, i64, Box<ApprovalDecided>),
}

impl Recorded {
    fn session(&self) -> SessionId {
        match self {
            Self::Asked(session, ..) | Self::Decided(session, ..) => *session,
        }
    }
}

/// A text as far as it is kept.
fn cut(text: &str) -> String {
    if text.len() <= TEXTS {
        return text.to_owned();
    }
    let kept = text.get(..text.floor_char_boundary(TEXTS)).unwrap_or_default();
    format!("{kept}\n-- the rest of the text is in the recording")
}

/// A request as its host would have told of it.
fn as_told(session: SessionId, at_ns: i64, asked: &ApprovalRequested) -> ApprovalRequest {
    let quorum = |quorum: &interlock_recording::proto::Quorum| ApprovalQuorum {
        rule: clip(&quorum.rule, NAME),
        groups: quorum.groups.iter().take(GROUPS).map(|group| clip(group, NAME)).collect(),
        needed: quorum.needed,
        all_of: quorum.all_of,
        via: quorum.via.iter().take(2).map(|via| clip(via, NAME)).collect(),
    };
    // It is kept beside the recording, which has all of it: a request that takes little room there must not take much
    // here.
    let mut room = TEXTS;
    let mut fits = |text: &str| {
        let fits = text.len() <= room;
        room = room.saturating_sub(text.len());
        fits
    };
    let runs: Vec<String> =
        asked.runs.iter().map_while(|text| fits(text).then(|| text.clone())).take(RUNS).collect();
    let mut room = TEXTS;
    let params: Vec<ApprovalParam> = asked
        .params
        .iter()
        .map_while(|param| {
            room = room.checked_sub(PARAM + param.value.as_ref().map_or(0, String::len))?;
            Some(ApprovalParam { value: param.value.clone() })
        })
        .collect();
    let omitted_params = asked.omitted_params.saturating_add((asked.params.len() - params.len()) as u64);
    let mut room = QUORUMS;
    let quorums = asked.quorums.iter().take(RULES).map(quorum).take_while(|quorum| {
        let fits = quorum.encoded_len() <= room;
        room = room.saturating_sub(quorum.encoded_len());
        fits
    });
    let at = u64::try_from(at_ns).unwrap_or_default();
    fitting(ApprovalRequest {
        request: asked.request.clone(),
        digest: asked.digest.clone(),
        session: session.as_bytes().to_vec(),
        asked_ns: at,
        deadline_ns: at.saturating_add(asked.within_ns),
        step: clip(&asked.step, NAME),
        text: cut(&asked.text),
        params,
        omitted_params,
        runs,
        command: asked.command,
        quorums: quorums.collect(),
        fresh_seconds: asked.fresh_ns / 1_000_000_000,
        approver_verified: asked.approver_verified,
        redacted: asked.redacted,
        ..ApprovalRequest::default()
    })
}

fn stands(told: &ApprovalRequest, at_ns: i64, decided: &ApprovalDecided) -> ApprovalStanding {
    let by = decided.by.as_ref().map(|by| ApprovalBy {
        name: clip(&by.user, NAME),
        login: clip(&by.login_user, NAME),
        via: clip(&by.via, NAME),
        groups: by.groups.iter().take(GROUPS).map(|group| clip(group, NAME)).collect(),
        issuer: clip(&by.person_issuer, 2 * NAME),
        subject: clip(&by.person_subject, 2 * NAME),
        // They keep whoever broke the glass from reviewing it.
        names: [&by.login_claimed, &by.person_name, &by.person_subject]
            .into_iter()
            .chain(&by.person_names)
            .chain(by.account.iter().flat_map(|account| account.logins.iter().chain([&account.email])))
            .filter(|name| !name.is_empty())
            .take(GROUPS)
            .map(|name| clip(name, NAME))
            .collect(),
    });
    ApprovalStanding {
        request: told.request.clone(),
        digest: told.digest.clone(),
        state: "broken_glass".to_owned(),
        by,
        reason: clip(&decided.reason, REASON),
        at_ns: u64::try_from(at_ns).unwrap_or_default(),
        ..ApprovalStanding::default()
    }
}

impl Write<'_> {
    /// Takes what a host's recording tells of requests; sessions that are another host's are passed over.
    pub(super) async fn take_recorded(
        &mut self,
        host: &str,
        batch: &Batch,
        strangers: &HashSet<(&str, SessionId)>,
    ) -> Result<(), StoreError> {
        let mut over = Vec::new();
        let mut asked_for = HashMap::new();
        for recorded in &batch.recorded {
            let session = recorded.session();
            if strangers.contains(&(host, session)) {
                continue;
            }
            match recorded {
                Recorded::Asked(_, at_ns, asked) if is_request(&asked.request, &asked.digest) => {
                    let told = as_told(session, *at_ns, asked);
                    // Again of the same name is another one.
                    asked_for.insert((session.to_string(), told.request.clone()), told.encode_to_vec());
                    if asked_for.len() >= TOGETHER {
                        self.keep_recorded(host, &mut asked_for).await?;
                    }
                }
                Recorded::Asked(..) => {}
                Recorded::Decided(_, at_ns, decided) => {
                    let request = clip(&decided.request, 16);
                    if decided.needs_review {
                        self.keep_recorded(host, &mut asked_for).await?;
                        self.recorded_glass(host, session, *at_ns, decided).await?;
                    }
                    asked_for.remove(&(session.to_string(), request.clone()));
                    over.push((session.to_string(), request));
                }
            }
        }
        self.keep_recorded(host, &mut asked_for).await?;
        for some in over.chunks(FORGOTTEN) {
            let which: Vec<String> = (0..some.len())
                .map(|at| format!("session = ${} AND request = ${}", 2 * at + 2, 2 * at + 3))
                .collect();
            let text = format!("DELETE FROM approval_recorded WHERE host = $1 AND ({})", which.join(" OR "));
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(host);
            for (session, request) in some {
                query = query.bind(session).bind(request);
            }
            query.execute(self.on()).await?;
        }
        Ok(())
    }

    /// Keeps what was asked for until its end comes, and forgets the oldest of too many.
    async fn keep_recorded(&mut self, host: &str, asked_for: &mut AskedFor) -> Result<(), StoreError> {
        if asked_for.is_empty() {
            return Ok(());
        }
        let now = now_ns();
        let all: Vec<((String, String), Vec<u8>)> = asked_for.drain().collect();
        for portion in portions(&all) {
            let text = format!(
                "INSERT INTO approval_recorded (host, session, request, received_ns, told) VALUES {} \
                 ON CONFLICT (host, session, request) DO UPDATE \
                 SET told = excluded.told, received_ns = excluded.received_ns",
                places(portion.len(), 5)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
            for ((session, request), told) in portion {
                query = query.bind(host).bind(session).bind(request).bind(now).bind(told);
            }
            query.execute(self.on()).await?;
        }
        let row = sqlx::query("SELECT COUNT(*) FROM approval_recorded WHERE host = $1")
            .bind(host)
            .fetch_one(self.on())
            .await?;
        let more = row.try_get::<i64, _>(0)?.saturating_sub(WAITING);
        if more > 0 {
            let text = format!(
                "DELETE FROM approval_recorded WHERE host = $1 AND (session, request) IN \
                 (SELECT session, request FROM approval_recorded WHERE host = $1 \
                  ORDER BY received_ns, session, request LIMIT {more})"
            );
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(host).execute(self.on()).await?;
        }
        Ok(())
    }

    /// A recording tells of a command that went through unapproved.
    async fn recorded_glass(
        &mut self,
        host: &str,
        session: SessionId,
        at_ns: i64,
        decided: &ApprovalDecided,
    ) -> Result<(), StoreError> {
        let name = session.to_string();
        let request = clip(&decided.request, 16);
        let recorded = sqlx::query(
            "SELECT told FROM approval_recorded WHERE host = $1 AND session = $2 AND request = $3",
        )
        .bind(host)
        .bind(&name)
        .bind(&request)
        .fetch_optional(self.on())
        .await?;
        let mut told = match recorded {
            Some(row) => decoded(row.try_get(0)?)?,
            // What was asked stands in a part of the recording that is not here: what is told of it may be.
            None => {
                let known = sqlx::query(
                    "SELECT digest FROM approvals WHERE host = $1 AND session = $2 AND request = $3 \
                     ORDER BY number DESC LIMIT 1",
                )
                .bind(host)
                .bind(&name)
                .bind(&request)
                .fetch_optional(self.on())
                .await?;
                let digest = match known {
                    Some(row) => row.try_get(0)?,
                    None => Sha256::digest(format!("{name} {request}").as_bytes()).to_vec(),
                };
                ApprovalRequest {
                    request,
                    digest,
                    session: session.as_bytes().to_vec(),
                    asked_ns: u64::try_from(at_ns).unwrap_or_default(),
                    ..ApprovalRequest::default()
                }
            }
        };
        let standing = stands(&told, at_ns, decided);
        if self.change_standing(host, &standing).await? {
            return Ok(());
        }
        self.tell_who(host, &name, &mut told, decided).await?;
        self.put_glass(host, &told, &standing).await?;
        Ok(())
    }

    /// Fills in from the session who asks, and where to.
    async fn tell_who(
        &mut self,
        host: &str,
        session: &str,
        told: &mut ApprovalRequest,
        decided: &ApprovalDecided,
    ) -> Result<(), StoreError> {
        let row = sqlx::query(
            "SELECT user_name, login_user, exe, destination, host_names, db_user, database_name FROM sessions \
             WHERE id = $1 AND host = $2",
        )
        .bind(session)
        .bind(host)
        .fetch_optional(self.on())
        .await?;
        let mut subject = Subject::default();
        if let Some(row) = row {
            subject.user = row.try_get(0)?;
            subject.login_user = row.try_get(1)?;
            subject.exe = row.try_get(2)?;
            told.server = row.try_get(3)?;
            let hosts: String = row.try_get(4)?;
            told.hosts = hosts.split_whitespace().take(RULES).map(str::to_owned).collect();
            told.db_user = row.try_get(5)?;
            told.database = row.try_get(6)?;
        }
        // Only who asks can break the glass: they are who must not review it.
        if let Some(by) = &decided.by
            && !by.person_issuer.is_empty()
        {
            subject.person = Some(VerifiedIdentity {
                issuer_name: clip(&by.person_issuer_name, NAME),
                issuer: clip(&by.person_issuer, 2 * NAME),
                subject: clip(&by.person_subject, 2 * NAME),
                name: clip(&by.person_name, NAME),
                ..VerifiedIdentity::default()
            });
        }
        told.subject = subject.encode_to_vec();
        Ok(())
    }
}
