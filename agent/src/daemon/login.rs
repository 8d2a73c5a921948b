//! What `interlock login`, `logout` and `whoami` ask for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Agent;
use crate::control::{Peer, Request};
use crate::identity::login::{Caller, Place, Seat};
use crate::identity::workload::Purpose;
use crate::identity::{IdentityKind, Known, Subject, Verified};

/// Where the kernel says which processes may steer others of the same user (Yama).
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Where a process that has connected sits.
pub(super) fn seat(known: &Known, subject: &Subject) -> Seat {
    Seat::noted(known.pid, known.start_time_ns, subject.login_session.zip(subject.login_uid))
}

impl Agent {
    /// Puts the person who has signed in where a process belongs into its subject, or why there is none.
    pub(super) fn find_person(&self, known: &Known, subject: &mut Subject) {
        if !self.logins.is_offered() {
            subject.no_issuer.push(IdentityKind::Person);
            return;
        }
        let person = self.logins.person(&seat(known, subject));
        let why = self.logins.why_nobody(person.is_some());
        subject.put(IdentityKind::Person, person, &why);
    }

    /// What concerns people's sign-ins.
    pub(super) async fn sign_in(&self, peer: &Peer, request: Request) -> Result<Value, String> {
        let logins = &self.logins;
        let seat = |login| Seat::of(peer.pid, login).map_err(|_| gone(peer));
        let answer = match request {
            Request::SignIn { issuer, way, fresh } => {
                let caller = self.caller(peer).await?;
                let begun = logins.begin(caller, issuer.as_deref(), way, fresh).await?;
                json!(begun)
            }
            Request::SignInWait { id } => {
                let signed_in = logins.wait(&seat(None)?, &id).await?;
                signed_in.map_or(Value::Null, with_notes)
            }
            Request::SignInBrought { id, brought } => {
                with_notes(logins.brought(&seat(None)?, &id, brought).await?)
            }
            Request::SignOut => {
                let login = self.identity.login_by_root(peer.pid);
                let seat = seat(login)?;
                if !peer.is_there() {
                    return Err(gone(peer));
                }
                let standing = logins.standing(&seat);
                let logins = Arc::clone(logins);
                // It waits for the disk.
                let done = tokio::task::spawn_blocking(move || {
                    standing.and_then(|standing| logins.sign_out(standing.place))
                });
                match done.await.map_err(|error| error.to_string())? {
                    None => json!({ "person": null }),
                    Some((person, Ok(()))) => json!({ "person": { "name": person.name } }),
                    Some((_, Err(error))) => {
                        return Err(format!("you are signed out, and it could not be recorded: {error}"));
                    }
                }
            }
            _ => self.whoami(peer).await?,
        };
        if peer.is_there() { Ok(answer) } else { Err(gone(peer)) }
    }

    /// All that is known of who asks.
    async fn subject_of(&self, peer: &Peer) -> Result<(Seat, Arc<Subject>), String> {
        // Looked at while the process is there, as is seen afterwards.
        let known = self.identity.known(peer.pid).ok_or_else(|| gone(peer))?;
        let login = self.identity.login_by_root(peer.pid);
        let seat = Seat::of(peer.pid, login).map_err(|_| gone(peer))?;
        let agent = self.me.upgrade().ok_or("the agent is stopping")?;
        let mut subject = agent.identify(known.clone()).await.ok_or("your process cannot be looked at")?;
        agent.find_workload(&known, &mut subject, Purpose::Question).await;
        agent.find_person(&known, &mut subject);
        if peer.is_there() { Ok((seat, Arc::new(subject))) } else { Err(gone(peer)) }
    }

    async fn caller(&self, peer: &Peer) -> Result<Caller, String> {
        let (seat, subject) = self.subject_of(peer).await?;
        let login = seat.login.map(|(_, login_uid)| login_uid);
        let (place, no_session) =
            Place::of_caller(peer.pid, peer.uid, login).map_err(|error| error.to_string())?;
        if !peer.is_there() {
            return Err(gone(peer));
        }
        Ok(Caller { seat, uid: peer.uid, subject, place, no_session })
    }

    async fn whoami(&self, peer: &Peer) -> Result<Value, String> {
        let (seat, subject) = self.subject_of(peer).await?;
        let standing = self.logins.standing(&seat);
        let mut answer = json!({
            "pid": subject.pid,
            "uid": subject.uid,
            "user": subject.user,
            "login_uid": subject.login_uid,
            "login_user": subject.login_user,
            "login_session": subject.login_session,
            "person": null,
            "workload": subject.workload.as_deref().map(workload),
            "issuers": self.logins.names(),
        });
        let mut put =
            |key: &str, value: Value| drop(answer.as_object_mut().map(|all| all.insert(key.into(), value)));
        match &standing {
            Some(standing) => {
                let person = &standing.person;
                put(
                    "person",
                    json!({
                        "issuer_name": person.issuer_name,
                        "issuer": person.issuer,
                        "subject": person.subject,
                        "name": person.name,
                        "groups": person.groups,
                        "authenticated": person.authenticated.map(|at| format!("{at:.0}")),
                        "since": format!("{:.0}", standing.since),
                        "until": format!("{:.0}", standing.until),
                        "checked": standing.checked,
                        "place": standing.place.to_string(),
                    }),
                );
                put("notes", json!(notes()));
            }
            None => put("no_person", no_person(&self.logins.names(), &subject).into()),
        }
        let why = subject.missing.iter().find(|missing| missing.starts_with("workload: "));
        if let Some(why) = why.filter(|_| subject.workload.is_none()) {
            put("no_workload", format!("none: {}", why.trim_start_matches("workload: ")).into());
        }
        Ok(answer)
    }
}

fn gone(peer: &Peer) -> String {
    format!("process {} is not the one that asks (any more)", peer.pid)
}

fn workload(workload: &Verified) -> Value {
    json!({
        "issuer_name": workload.issuer_name,
        "issuer": workload.issuer,
        "subject": workload.subject,
        "name": workload.name,
        "groups": workload.groups,
        "until": format!("{:.0}", workload.expires),
    })
}

/// Why no person is seen, and how one would be.
fn no_person(issuers: &[Arc<str>], subject: &Subject) -> String {
    let session = match subject.login_session {
        Some(session) => format!("in login session {session}"),
        None => "for this process, or one that it descends from (it has no login session that the agent has seen begin)".to_owned(),
    };
    match issuers {
        [] => "none: people cannot sign in on this host (agent.yaml has no issuer with `kind: person`)"
            .to_owned(),
        [one] => format!("none: nobody has signed in {session}; run `interlock login` (at {one})"),
        several => format!(
            "none: nobody has signed in {session}; run `interlock login --issuer NAME` (one of {})",
            several.join(", ")
        ),
    }
}

/// What weakens a sign-in on this host.
fn notes() -> Vec<String> {
    let scope = std::fs::read_to_string(PTRACE_SCOPE).unwrap_or_default();
    if matches!(scope.trim(), "" | "0") {
        vec!["the kernel lets any process of your user steer those of this session (ptrace); kernel.yama.ptrace_scope=1 \
              closes that"
            .to_owned()]
    } else {
        Vec::new()
    }
}

fn with_notes(mut answer: Value) -> Value {
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("notes".to_owned(), json!(notes()));
    }
    answer
}
