//! What the control socket's requests do.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Agent;
use crate::control::{Handler, Peer, Request};

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
        }
    }
}

impl Agent {
    fn status(&self) -> Result<Value, String> {
        let policies = self.policies.current();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let recording = self.recorder.status();
        let shipping = self.shipping.status(recording.events, recording.used_bytes);
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
            },
            "credentials": self.credentials.status(),
            "interception": interception,
            "recording": recording,
            "shipping": shipping,
        }))
    }
}
