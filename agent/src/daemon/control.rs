//! What the control socket's requests do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::Agent;
use crate::approval::{self, Approver, REASON, Vote};
use crate::control::{Handler, Peer, Request};
use crate::identity::login::Seat;

/// How long the name service may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Handler for Agent {
    async fn handle(&self, peer: Peer, request: Request) -> Result<Value, String> {
        match request {
            Request::Status => self.status(),
            Request::Reload => {
                let changed = tokio::task::block_in_place(|| self.reload())?;
                let policies = self.policies.current();
                Ok(json!({
                    "changed": changed,
                    "hash": policies.hash(),
                    "files": policies.files(),
                    "rules": policies.rule_count(),
                    "masks": policies.mask_count(),
                }))
            }
            Request::Run { name } => {
                let known = self
                    .policies
                    .current()
                    .selection()
                    .entries
                    .iter()
                    .any(|entry| entry.run.as_deref().is_some_and(|run| run == "*" || run == name));
                if !known {
                    return Err(format!(
                        "no policy designates a run named {name:?}: add `processes: [{{run: {name}}}]` (or \
                         `{{run: \"*\"}}`) to a file in {}",
                        self.config.policies.display()
                    ));
                }
                let gone = || format!("process {} is not the one that asks (any more)", peer.pid);
                // Before and after: in between its id can have become another process's.
                if !peer.is_there() {
                    return Err(gone());
                }
                self.interceptor
                    .designate_run(peer.pid, &name)
                    .map_err(|error| format!("process {} could not be designated: {error}", peer.pid))?;
                if !peer.is_there() {
                    return Err(gone());
                }
                tracing::info!(pid = peer.pid, uid = peer.uid, name, "designated a run");
                Ok(json!({ "pid": peer.pid, "run": name }))
            }
            Request::Explain { command } => self.explain(&peer, command).await,
            Request::AskAhead { command, reason: why } => {
                self.ask_ahead(&peer, command, &reason(&why)?).await
            }
            Request::AskedAhead { id } => self.asked_ahead(&peer, id).await,
            Request::CallOff { id } => self.call_off(&peer, &id).await,
            request @ (Request::SignIn { .. }
            | Request::SignInWait { .. }
            | Request::SignInBrought { .. }
            | Request::SignOut
            | Request::Whoami) => self.sign_in(&peer, request).await,
            request => {
                // Looked at while the process is there, as is seen afterwards.
                let login = self.identity.login_by_root(peer.pid);
                let verified = Seat::of(peer.pid, login).ok().and_then(|seat| self.logins.person(&seat));
                let by = person(peer, login).await?;
                let by = match verified {
                    Some(person) => {
                        let groups = self.logins.approver_groups(&person.issuer_name);
                        by.verified(person, groups)
                    }
                    None => by,
                };
                self.approval(by, request)
            }
        }
    }
}

/// Who stands behind a peer that sees requests for approval, or decides on them.
async fn person(peer: Peer, login: Option<u32>) -> Result<Approver, String> {
    let (pid, uid) = (peer.pid, peer.uid);
    // Groups may come over the network.
    let looked = tokio::task::spawn_blocking(move || {
        let gone = || format!("process {pid} is not the one that asks (any more)");
        if !peer.is_there() {
            return Err(gone());
        }
        let by = approval::approver(pid, uid, login).and_then(|by| approval::seated(by, pid));
        let by = by.map_err(|error| format!("cannot tell who you are: {error}"))?;
        if peer.is_there() { Ok(by) } else { Err(gone()) }
    });
    let looked = tokio::time::timeout(PATIENCE, looked).await;
    let failed = "cannot tell who you are: the host's name service does not answer";
    looked.map_err(|_| failed.to_owned())?.map_err(|error| error.to_string())?
}

/// A reason as it is kept: one line, and not a long one.
fn reason(text: &str) -> Result<Arc<str>, String> {
    let text = text.trim();
    if text.len() > REASON {
        return Err(format!("a reason has up to {REASON} bytes, and this one {}", text.len()));
    }
    Ok(interlock_recording::text::printable(text).into())
}

impl Agent {
    /// What concerns approvals.
    fn approval(&self, by: Approver, request: Request) -> Result<Value, String> {
        let desk = &self.approvals;
        let text = |error: approval::DeskError| error.to_string();
        let done = match request {
            Request::Approvals { past } => {
                json!(desk.list(&by, past).iter().map(approval::Listed::brief).collect::<Vec<_>>())
            }
            Request::Approval { id } => json!(desk.show(&id, &by).map_err(text)?),
            Request::Approve { id, reason: why, scope, seconds } => {
                let seconds = seconds.unwrap_or(u64::MAX);
                let vote = Vote { by, reason: reason(&why)?, scope, seconds };
                let missing = desk.approve(&id, vote).map_err(text)?;
                json!({ "request": id, "missing": missing })
            }
            Request::Deny { id, reason: why } => {
                desk.deny(&id, &by, reason(&why)?).map_err(text)?;
                json!({ "request": id })
            }
            Request::BreakGlass { id, reason: why } => {
                desk.break_glass(&id, &by, reason(&why)?).map_err(text)?;
                json!({ "request": id })
            }
            _ => Value::Null,
        };
        Ok(done)
    }

    fn status(&self) -> Result<Value, String> {
        let policies = self.policies.current();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let recording = self.recorder.status();
        let shipping = self.shipping.status(recording.events, recording.used_bytes);
        let (bound, elsewhere) = self.workloads.bindings().counts();
        let interception = self.interceptor.status().map_err(|error| error.to_string())?;
        Ok(json!({
            "serving": true,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "since": format!("{:.0}", self.since),
            "policies": {
                "directory": self.config.policies,
                "hash": policies.hash(),
                "files": policies.files(),
                "rules": policies.rule_count(),
                "masks": policies.mask_count(),
                "rejected": self.policies.last_error(),
                "not_in_force": self.applied().failure,
                "central": self.central.status(),
            },
            "flows": {
                "open": count(&self.counts.open),
                "total": count(&self.counts.flows),
                "commands": count(&self.counts.commands),
                "refused": count(&self.counts.refused),
                "tokens_refused": count(&self.counts.tokens_refused),
            },
            "tokens": { "bound": bound, "on_other_hosts": elsewhere },
            "approvals": { "waiting": self.approvals.waiting() },
            "people": { "signed_in": self.logins.count(), "issuers": self.logins.names() },
            "credentials": self.credentials.status(),
            "interception": interception,
            "recording": recording,
            "shipping": shipping,
        }))
    }
}
