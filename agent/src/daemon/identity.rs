//! Verified identities of flows: found when a flow begins, looked for again while it runs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::Agent;
use crate::identity::workload::{self, Found, Purpose};
use crate::identity::{IdentityKind, Known, LiveSubject, Subject};
use crate::record::TokenRefused;

/// How long a flow waits for its workload to be found out: a request to an issuer may take ten seconds.
const PATIENCE: Duration = Duration::from_secs(12);

/// How often a job that had a token is looked at again when it has none.
const AGAIN: Duration = Duration::from_secs(5);

/// The least time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks for newer tokens as long as it lives.
#[derive(Debug)]
pub(super) struct Keeper(Option<JoinHandle<()>>);

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Agent {
    /// Puts the workload that a process belongs to into its subject, or why there is none.
    pub(super) async fn find_workload(
        self: &Arc<Self>,
        known: &Known,
        subject: &mut Subject,
        purpose: Purpose,
    ) {
        if self.workloads.is_empty() {
            subject.no_issuer.push(IdentityKind::Workload);
            return;
        }
        let found = self.look_for_workload(known, subject, purpose).await;
        subject.put(IdentityKind::Workload, found.identity, &found.why);
    }

    /// Looks, on a thread that may block, and tells of tokens that are not for who shows them.
    async fn look_for_workload(
        self: &Arc<Self>,
        known: &Known,
        subject: &Subject,
        purpose: Purpose,
    ) -> Found {
        let readers = self.readers.of(known.uid);
        let (agent, process) = (Arc::clone(self), known.clone());
        let looked = tokio::time::timeout(PATIENCE, async move {
            let permit = readers.acquire_owned().await.ok()?;
            tokio::task::spawn_blocking(move || {
                let found = agent.workloads.find(&process, purpose);
                drop(permit);
                found
            })
            .await
            .ok()
        })
        .await;
        let Some(found) = looked.ok().flatten() else {
            let why = "workload: it took too long to find out whether there is a token".to_owned();
            return Found { why: vec![why], ..Found::default() };
        };
        for misused in &found.misused {
            self.count(|counts| &counts.tokens_refused, 1);
            tracing::warn!(
                issuer = &*misused.issuer_name,
                token_hash = misused.token_hash,
                pid = known.pid,
                uid = known.uid,
                "a token is refused where it was shown: {}",
                misused.reason
            );
            let refused = TokenRefused {
                subject,
                issuer_name: &misused.issuer_name,
                token_hash: &misused.token_hash,
                reason: misused.reason.clone(),
                owner_pid: misused.owner_pid,
                owner_uid: misused.owner_uid,
            };
            if let Err(error) = self.recorder.token_refused(&refused) {
                tracing::error!(%error, "cannot record that a token was refused");
            }
        }
        found
    }

    /// Has the token looked for and verified again, in time for a newer one, and again and again once there is
    /// none. What does not hold any more is taken away; what expires before, by the flow itself.
    pub(super) fn keep_identity(self: &Arc<Self>, known: Known, live: &Arc<LiveSubject>) -> Keeper {
        if live.current().workload.is_none() {
            return Keeper(None);
        }
        let (agent, live) = (Arc::clone(self), Arc::clone(live));
        Keeper(Some(tokio::spawn(async move {
            loop {
                let now = Timestamp::now();
                let pause = match &live.current().workload {
                    Some(identity) => workload::next_look(identity, now).max(PAUSE),
                    None => AGAIN,
                };
                tokio::time::sleep(pause).await;
                let subject = live.current();
                let found = agent.look_for_workload(&known, &subject, Purpose::Flow).await;
                live.set(IdentityKind::Workload, found.identity, &found.why);
            }
        })))
    }
}
