//! What is asked about commands that are not sent yet: what the policies say of them, and approval.
//!
//! Who asks is told by the kernel and /proc, never by what they say: the process at the other end of the
//! control socket, and the one that started it, whose commands the answer is about.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use interlock_recording::SessionId;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Agent;
use crate::approval::ahead::{Asker, Opened, Tree};
use crate::approval::{Beforehand, Desk, Event, Id, Outcome, Request, Ticket, Withdrawal};
use crate::control::{Command, Peer};
use crate::identity::workload::Purpose;
use crate::identity::{Stat, Subject, TICK_NS};
use crate::operation::{Operation, Protocol};
use crate::policy::{self, Decision, Destination, Egress, EntryId, FlowPolicy, Terms, Treatment, Verdict};
use crate::protocol::postgres::intended::Intended;
use crate::record::{ApprovalAsked, ApprovalDecided, ApprovalRequested, PolicyExplained, Recorder};

/// Bytes of a text that is explained.
const TEXT: usize = 256 << 10;
/// Bytes of a database's or a user's name: a server takes no longer ones.
const NAME: usize = 63;
/// Bytes of a program's path, as the kernel bounds it.
const PATH: usize = 4095;
/// What one user may have explained within a minute.
const QUESTIONS: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// Users whose questions are counted.
const USERS: usize = 1024;
/// How often it is seen whether who asked is still there.
const LOOK: Duration = Duration::from_secs(2);

/// Who asks.
struct Asking {
    subject: Arc<Subject>,
    /// The same as the policies see who sends it: with the program that will, by the asker's word.
    sender: Arc<Subject>,
    /// The entries that take in the sender.
    entries: Vec<EntryId>,
    /// That program, as the kernel would name it.
    program: Option<Arc<Path>>,
}

/// What somebody means to send, as the policies see it.
struct Judged {
    intended: Intended,
    destination: Destination,
    flow: FlowPolicy,
    operation: Operation,
    decision: Decision,
}

/// When each user has asked lately.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<u32, VecDeque<Instant>>>);

impl Questions {
    /// Counts one, unless there were as many as there may be.
    fn count(&self, uid: u32, now: Instant) -> bool {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = |at: &Instant| now.duration_since(*at) < MINUTE;
        if users.len() >= USERS {
            users.retain(|_, asked| asked.back().is_some_and(lately));
        }
        let asked = users.entry(uid).or_default();
        while asked.front().is_some_and(|at| !lately(at)) {
            asked.pop_front();
        }
        let room = asked.len() < QUESTIONS;
        if room {
            asked.push_back(now);
        }
        room
    }
}

/// The process that started another, as the one whose commands that asks about.
fn tree(subject: &Subject) -> Result<Tree, String> {
    let told = "the process that started you cannot be told: ask from a process that the job itself started";
    let own = i32::try_from(subject.pid).ok().and_then(|pid| Stat::of(pid).ok());
    let own = own.filter(|stat| stat.start == subject.start_time_ns / TICK_NS).ok_or(told)?;
    let stat = Stat::of(own.parent).map_err(|_| told)?;
    let parent = subject.ancestors.first();
    let pid = u32::try_from(own.parent).map_err(|_| told)?;
    // pid 1 has all that nobody else looks after.
    if pid <= 1 || stat.start > own.start || parent.is_none_or(|parent| parent.pid != pid) {
        return Err(told.to_owned());
    }
    if parent.is_some_and(|parent| parent.uid != subject.uid) {
        return Err(
            "the process that started you is another user's: an approval would be for its commands, so ask \
                    from a process that the job itself started"
                .to_owned(),
        );
    }
    Ok(Tree { pid, start_time_ns: stat.start.saturating_mul(TICK_NS) })
}

fn name(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > NAME || text.contains('\0') {
        return Err(format!("the {what} has 1 to {NAME} bytes"));
    }
    Ok(())
}

impl Agent {
    /// Who asks, and what takes them in.
    async fn asking(&self, peer: &Peer, program: Option<&Path>) -> Result<Asking, String> {
        let gone = || format!("process {} is not the one that asks (any more)", peer.pid);
        if !peer.is_there() {
            return Err(gone());
        }
        let known = self.identity.known(peer.pid).ok_or_else(gone)?;
        let agent = self.me.upgrade().ok_or("the agent is stopping")?;
        let mut subject = self.identify(known.clone()).await.ok_or("your process cannot be looked at")?;
        agent.find_workload(&known, &mut subject, Purpose::Question).await;
        agent.find_person(&known, &mut subject);
        let entries = self.interceptor.entries_of(&subject, program).map_err(|error| error.to_string())?;
        if !peer.is_there() {
            return Err(gone());
        }
        let subject = Arc::new(subject);
        let Some(program) = program else {
            return Ok(Asking { sender: Arc::clone(&subject), subject, entries, program: None });
        };
        if !program.is_absolute() || program.as_os_str().len() > PATH {
            return Err(format!("the program is an absolute path of up to {PATH} bytes"));
        }
        // The kernel knows no symbolic links. What is not there cannot send anything.
        let real = tokio::task::block_in_place(|| program.canonicalize());
        let program: Arc<Path> = real.as_deref().unwrap_or(program).into();
        let sender = Arc::new(Subject {
            exe: program.to_path_buf(),
            exe_sha256: String::new(),
            script: None,
            script_claimed: None,
            ..Subject::clone(&subject)
        });
        Ok(Asking { subject, sender, entries, program: Some(program) })
    }

    /// The same, for what is the asker's own.
    async fn asker(&self, peer: &Peer, program: Option<&Path>) -> Result<(Asker, Asking), String> {
        let asking = self.asking(peer, program).await?;
        let tree = tree(&asking.subject)?;
        Ok((Asker { subject: Arc::clone(&asking.subject), tree }, asking))
    }

    fn judge(&self, command: Command, asking: &Asking) -> Result<Judged, String> {
        let Asking { sender: subject, entries, program, .. } = asking;
        if command.text.len() > TEXT {
            return Err(format!("a text of up to {} KiB can be asked about", TEXT >> 10));
        }
        name("database", &command.database)?;
        name("database user", &command.db_user)?;
        let address = command.server;
        let destination = Destination { address, hosts: self.policies.hosts().names_of(address.ip()) };
        let flow = self.policies.current().flow(entries, subject, &destination);
        let intended = Intended {
            server: address,
            database: command.database.into(),
            db_user: command.db_user.into(),
            time_zone: command.time_zone.map(Into::into),
            text: command.text.into(),
            params: command.params,
            program: program.clone(),
        };
        let operation = intended.operation(&self.scripts);
        let decision = match intended.params.is_empty() {
            true => flow.decide_unbound(&operation, subject),
            false => flow.decide(&operation, subject),
        };
        Ok(Judged { intended, destination, flow, operation, decision })
    }

    /// Tells what the policies say of a command.
    pub(super) async fn explain(&self, peer: &Peer, command: Command) -> Result<Value, String> {
        if !self.questions.count(peer.uid, Instant::now()) {
            return Err(format!(
                "you have asked {QUESTIONS} times within a minute: wait, and ask less often"
            ));
        }
        let program = command.program.clone();
        let asking = self.asking(peer, program.as_deref()).await?;
        tokio::task::block_in_place(|| {
            let judged = self.judge(command, &asking)?;
            let (told, verdict) = explained(&judged, &asking);
            let text = judged.intended.recordable(judged.flow.record_masks());
            let rule = judged.decision.rule.as_deref().filter(|_| !judged.decision.passes());
            let record = PolicyExplained {
                subject: &asking.subject,
                program: asking.program.as_deref(),
                destination: &judged.destination,
                database: &judged.intended.database,
                db_user: &judged.intended.db_user,
                text: &text,
                verdict,
                rule: rule.unwrap_or_default(),
            };
            self.recorder
                .policy_explained(&record)
                .map_err(|error| format!("nothing is told that cannot be recorded: {error}"))?;
            Ok(told)
        })
    }

    /// Asks for approval of a command before it is sent.
    pub(super) async fn ask_ahead(
        &self,
        peer: &Peer,
        command: Command,
        reason: &str,
    ) -> Result<Value, String> {
        if reason.is_empty() {
            return Err("say in `reason` why this is to run: those who decide read it".to_owned());
        }
        let program = command.program.clone();
        let (asker, asking) = self.asker(peer, program.as_deref()).await?;
        tokio::task::block_in_place(|| {
            let judged = self.judge(command, &asking)?;
            let script = Arc::clone(&judged.operation.script);
            judged.intended.check(&script).map_err(|unfit| unfit.to_string())?;
            let (told, verdict) = explained(&judged, &asking);
            let terms = match (&judged.decision.approval, verdict) {
                (Some(terms), "hold") => Arc::clone(terms),
                // Nothing to ask anybody: it passes, or nobody may approve it.
                _ => return Ok(json!({"asked": false, "explanation": told})),
            };
            let masks = judged.flow.record_masks();
            let reason = masks.mask_text(reason).into_owned();
            let parent = asker.subject.ancestors.first().map(|parent| parent.exe.to_string_lossy());
            let shown = judged.intended.shown(&script, masks).map_err(|unfit| unfit.to_string())?;
            let message = judged.decision.message.as_deref().unwrap_or_default().to_owned();
            let program = asking.program.as_ref().map(|program| program.to_string_lossy().into_owned());
            let mut shown = crate::approval::Shown { message, ..shown };
            shown.beforehand = Some(Beforehand {
                reason: reason.clone(),
                tree_pid: asker.tree.pid,
                tree_exe: parent.unwrap_or_default().into_owned(),
                usable_seconds: terms.within.as_secs(),
                time_zone: judged.intended.time_zone.clone(),
                program: program.unwrap_or_default(),
            });
            self.put_on_desk(&asker, &judged, &shown, &terms, &reason)
        })
    }

    fn put_on_desk(
        &self,
        asker: &Asker,
        judged: &Judged,
        shown: &crate::approval::Shown,
        terms: &Arc<Terms>,
        reason: &str,
    ) -> Result<Value, String> {
        let Judged { intended, destination, operation, .. } = judged;
        let wanted = intended.wanted(&operation.script, &self.scripts);
        let digest = intended.digest(&asker.subject, asker.tree);
        // The glass is broken for a command that waits, not for one that may never come.
        let open = Arc::new(Terms { break_glass: false, ..Terms::clone(terms) });
        let mut request = Request {
            subject: Arc::clone(&asker.subject),
            server: destination.address,
            hosts: destination.hosts.clone(),
            session: SessionId::from_slice(&[0; 16]).ok_or("no session")?,
            bytes: 0,
            shown: shown.clone(),
            digest,
            terms: Arc::clone(&open),
            // Only that it has one: it is told by its text where it is used.
            shape: wanted.shape.as_ref().map(|_| crate::approval::Shape(digest)),
            likeness: intended.likeness(&self.scripts),
            cancel: None,
        };
        request.bytes = request.shown_bytes() + wanted.bytes();
        let (subject, tree) = (Arc::clone(&asker.subject), asker.tree);
        let opened = self.approvals.ask_ahead(asker.clone(), wanted, Arc::clone(terms), request);
        let id = match opened.map_err(|error| error.to_string())? {
            Opened::Known(id) => id,
            Opened::New(ticket) => {
                let id = ticket.id();
                let name = id.to_string();
                let asked = ApprovalAsked {
                    request: ApprovalRequested { request: &name, shown, digest: &digest, terms: &open },
                    subject: &subject,
                    destination,
                    reason,
                    usable: terms.within,
                    tree: (tree.pid, tree.start_time_ns),
                    program: intended.program.as_deref(),
                };
                if let Err(error) = self.recorder.approval_asked(&asked) {
                    self.approvals.ahead().unrecorded(id);
                    return Err(format!("nobody is asked, for it cannot be recorded: {error}"));
                }
                tracing::info!(request = name, user = subject.user, "approval is asked for beforehand");
                self.approvals.recorded(id);
                let (desk, recorder) = (Arc::clone(&self.approvals), Arc::clone(&self.recorder));
                tokio::spawn(attend(desk, recorder, ticket, tree, self.shutdown.subscribe()));
                id
            }
        };
        let status = self.approvals.ahead().status(id, asker);
        Ok(json!({"asked": true, "request": status}))
    }

    /// How the asker's own requests stand.
    pub(super) async fn asked_ahead(&self, peer: &Peer, id: Option<String>) -> Result<Value, String> {
        let (asker, _) = self.asker(peer, None).await?;
        let ahead = self.approvals.ahead();
        let Some(id) = id else { return Ok(json!(ahead.of(&asker))) };
        let status = Id::parse(&id).and_then(|id| ahead.status(id, &asker));
        let unknown = || format!("you have asked for no {}", id.chars().take(20).collect::<String>());
        Ok(json!(status.ok_or_else(unknown)?))
    }

    /// Calls one of them off.
    pub(super) async fn call_off(&self, peer: &Peer, id: &str) -> Result<Value, String> {
        let (asker, _) = self.asker(peer, None).await?;
        self.approvals.call_off(id, &asker).map_err(|error| error.to_string())?;
        Ok(json!({ "id": id }))
    }
}

/// What whoever means to send it is told, and the word for it in the recording.
fn explained(judged: &Judged, asking: &Asking) -> (Value, &'static str) {
    let Judged { intended, flow, decision, .. } = judged;
    let word = match flow.treatment() {
        _ if asking.entries.is_empty() => "not_read",
        Treatment::Egress(Egress::Deny) => "refused",
        Treatment::Egress(_) => "not_read",
        Treatment::Intercept(Protocol::Postgres) | Treatment::Detect(_) => match decision.verdict {
            Verdict::Allow => "allow",
            Verdict::Hold => "hold",
            Verdict::Deny => "deny",
        },
    };
    if matches!(word, "not_read" | "refused") {
        return (json!({"verdict": word, "statements": []}), word);
    }
    let now = Timestamp::now();
    let asker = policy::Asker {
        user: Arc::clone(&intended.db_user),
        database: Arc::clone(&intended.database),
        subject: Subject::clone(&asking.sender),
        params: intended.params.as_slice().into(),
        now,
    };
    (policy::explain(flow, &asker, &intended.text).for_sender(flow, now), word)
}

/// Sees to a request until it is decided, and records what comes of it.
async fn attend(
    desk: Arc<Desk>,
    recorder: Arc<Recorder>,
    mut ticket: Ticket,
    tree: Tree,
    mut stopping: watch::Receiver<bool>,
) {
    let id = ticket.id();
    let request = id.to_string();
    let since = Instant::now();
    let mut by: Vec<Arc<str>> = Vec::new();
    let mut look = tokio::time::interval(LOOK);
    let mut stopped = false;
    let outcome = loop {
        let event = tokio::select! {
            biased;
            event = poll_fn(|cx| ticket.poll(cx)) => event,
            _ = stopping.wait_for(|stop| *stop), if !stopped => {
                stopped = true;
                ticket.withdraw(Withdrawal::Because("the agent is stopping".into()));
                continue;
            }
            _ = look.tick() => {
                let there = i32::try_from(tree.pid).ok().and_then(|pid| Stat::of(pid).ok());
                if there.is_none_or(|stat| stat.start != tree.start_time_ns / TICK_NS) {
                    ticket.withdraw(Withdrawal::Because("who asked has ended".into()));
                }
                continue;
            }
        };
        match event {
            Event::Vote(vote) => {
                if let Err(error) = recorder.approval_voted(&request, &vote) {
                    tracing::error!(%error, request, "an approval cannot be recorded and does not count");
                    return desk.ahead().unrecorded(id);
                }
                by.push(vote.by.name);
                desk.ahead().voted(id, &by);
            }
            Event::Over(outcome) => break outcome,
        }
    };
    let decided = ApprovalDecided { request: &request, outcome: &outcome, waited: since.elapsed() };
    let recorded = recorder.approval_decided(&decided);
    if let Err(error) = &recorded {
        tracing::error!(%error, request, "how a request for approval ended cannot be recorded");
    }
    tracing::info!(request, outcome = outcome.word(), "a request made beforehand has ended");
    match (&outcome, recorded) {
        (Outcome::Approved { scope, seconds }, Ok(())) => desk.ahead().approved(id, *scope, *seconds, by),
        (outcome, Err(_)) if outcome.passes() => desk.ahead().unrecorded(id),
        (outcome, _) => desk.ahead().over(id, outcome),
    }
}
