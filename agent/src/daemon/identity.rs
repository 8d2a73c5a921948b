//! Verified identities of flows: found when a flow begins, looked for again while it runs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Agent;
use crate::identity::workload::{Found, Misused, Purpose};
use crate::identity::{IdentityKind, Known, LiveSubject, Subject, Verified};
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
        let found = self.look_for_workload(known, purpose).await;
        self.tell_misused(subject, &found.misused);
        subject.put(IdentityKind::Workload, found.identity, &found.why);
    }

    /// Looks, on a thread that may block.
    async fn look_for_workload(self: &Arc<Self>, known: &Known, purpose: Purpose) -> Found {
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
        looked.ok().flatten().unwrap_or_else(|| {
            let why = "workload: it took too long to find out whether there is a token".to_owned();
            Found { why: vec![why], ..Found::default() }
        })
    }

    /// Tells of tokens that are not for who shows them.
    pub(super) fn tell_misused(&self, subject: &Subject, misused: &[Misused]) {
        for misused in misused {
            self.count(|counts| &counts.tokens_refused, 1);
            tracing::warn!(
                issuer = &*misused.issuer_name,
                token_hash = misused.token_hash,
                pid = subject.pid,
                uid = subject.uid,
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
                other_host: misused.other_host.as_ref(),
            };
            if let Err(error) = self.recorder.token_refused(&refused) {
                tracing::error!(%error, "cannot record that a token was refused");
            }
        }
    }

    /// Has the token looked for and verified again, in time for a newer one, and again and again once there is
    /// none, and when another host is found to have had one first. What does not hold any more is taken away;
    /// what expires before, by the flow itself.
    pub(super) fn keep_identity(self: &Arc<Self>, known: Known, live: &Arc<LiveSubject>) -> Keeper {
        if live.current().workload.is_none() {
            return Keeper(None);
        }
        let (agent, live) = (Arc::clone(self), Arc::clone(live));
        let others = self.workloads.bindings().others();
        Keeper(Some(tokio::spawn(async move {
            let next = |identity: &Verified| agent.workloads.next_look(identity, Timestamp::now());
            let look = || {
                let (agent, known) = (Arc::clone(&agent), known.clone());
                async move { agent.look_for_workload(&known, Purpose::Flow).await }
            };
            let tell = |misused: &[Misused]| agent.tell_misused(&live.current(), misused);
            keep(&live, others, next, look, tell).await;
        })))
    }
}

/// Looks again for as long as it lives. Of what is misused it tells once.
async fn keep<L: Future<Output = Found>>(
    live: &LiveSubject,
    mut others: watch::Receiver<()>,
    next: impl Fn(&Verified) -> Duration,
    look: impl Fn() -> L,
    tell: impl Fn(&[Misused]),
) {
    let mut told: Vec<Misused> = Vec::new();
    loop {
        let pause = match &live.current().workload {
            Some(identity) => next(identity).max(PAUSE),
            None => AGAIN,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = others.changed() => {}
        }
        let found = look().await;
        let news: Vec<Misused> =
            found.misused.iter().filter(|misused| !told.contains(misused)).cloned().collect();
        if !news.is_empty() {
            tell(&news);
        }
        told = found.misused;
        live.set(IdentityKind::Workload, found.identity, &found.why);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::identity::config::IdentityConfig;
    use crate::identity::oidc::Issuers;
    use crate::identity::oidc::fake::{Key, Server, config};
    use crate::identity::workload::{OtherHost, Workloads};

    /// The issuer withdraws its key while a flow runs.
    #[tokio::test]
    async fn a_running_flow_loses_what_cannot_be_verified_any_more() {
        let (dir, key, server) = (tempfile::tempdir().unwrap(), Key::ec("1"), Server::start());
        let path = dir.path().join("keys");
        let publish = |key: &Key| {
            std::fs::write(dir.path().join("new"), json!({"keys": [key.jwk()]}).to_string()).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
        };
        publish(&key);
        let issuer = config(&format!(
            "{{name: ci, kind: workload, issuer: '{}', audience: interlock, jwks_file: '{}', token: {{variable: T}}}}",
            server.url,
            path.display()
        ));
        let issuers = Issuers::new(&IdentityConfig { issuers: vec![issuer] }).unwrap();
        let workloads = Workloads::new(Arc::new(issuers), Arc::default()).verifying_after(Duration::ZERO);
        let mut job = Command::new("sh")
            .args(["-c", "echo $$; read x"])
            .env("T", key.sign(&server.claims()).as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(job.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let known = Known { pid: job.id(), ..Known::default() };
        let found = workloads.find(&known, Purpose::Flow);
        let subject = Subject { workload: found.identity, ..Subject::default() };
        let live = LiveSubject::new(Arc::new(subject));
        assert!(live.current().workload.is_some(), "{:?}", found.why);

        publish(&Key::ec("1"));
        let others = workloads.bindings().others();
        let next = |identity: &Verified| workloads.next_look(identity, Timestamp::now());
        let look = || std::future::ready(workloads.find(&known, Purpose::Flow));
        let keeping = keep(&live, others, next, look, |_| {});
        let gone = async {
            while live.current().workload.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! { () = keeping => {}, () = gone => {} }
        let current = live.current();
        assert!(live.generation() > 0 && current.missing[0].contains("key"), "{:?}", current.missing);
        job.kill().unwrap();
        job.wait().unwrap();
    }

    #[tokio::test]
    async fn a_flow_is_told_at_once_that_another_host_had_its_token_first_and_tells_once() {
        let workload = Verified::example(IdentityKind::Workload);
        let subject = Subject { workload: Some(Arc::new(workload)), ..Subject::default() };
        let live = LiveSubject::new(Arc::new(subject));
        let (another, others) = watch::channel(());
        let misused = Misused {
            issuer_name: "ci".into(),
            token_hash: "h".to_owned(),
            reason: "shown elsewhere".to_owned(),
            owner_pid: 0,
            owner_uid: 0,
            other_host: Some(OtherHost { id: "a".to_owned(), name: "b".to_owned() }),
        };
        let (looks, told) = (Mutex::new(0), Mutex::new(Vec::new()));
        let look = || {
            *looks.lock().unwrap() += 1;
            let why = vec!["workload: ci: shown elsewhere".to_owned()];
            std::future::ready(Found { identity: None, why, misused: vec![misused.clone()] })
        };
        // The next look of itself would be in an hour.
        let keeping = keep(
            &live,
            others,
            |_| Duration::from_secs(3600),
            look,
            |misused| {
                told.lock().unwrap().extend_from_slice(misused);
            },
        );
        let several = async {
            for count in 1..=3 {
                another.send_replace(());
                while *looks.lock().unwrap() < count {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert!(live.current().workload.is_none());
            }
        };
        tokio::select! { () = keeping => {}, () = several => {} }
        assert_eq!(*told.lock().unwrap(), std::slice::from_ref(&misused));
    }
}
