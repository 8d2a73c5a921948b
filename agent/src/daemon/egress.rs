//! What the kernel side reports: connections that it decided on alone, and programs that begin.
//!
//! Connections are recorded by one task, those that are alike within a moment as one. While it cannot
//! keep up it takes no more reports: the kernel's buffer fills, and what would have to be recorded is
//! refused. While it cannot record it says so to the kernel side, which then refuses at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Agent;
use crate::identity::{Known, Subject};
use crate::intercept::{Egressed, Event, RefusalReason};
use crate::policy::Egress;
use crate::record::{EgressConnection, RecordError};

/// How long reports that are alike are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// Different connections that are gathered at most.
const GATHERED: usize = 4096;
/// Different refused connections of one process that are recorded by themselves in one go. Nothing was let
/// go, so of the rest their number is enough.
const REFUSED: usize = 256;

/// Connections that are recorded as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Alike {
    connection: Egressed,
    verdict: Egress,
    reason: Option<RefusalReason>,
}

/// Connections that are not recorded yet, and how many of each.
#[derive(Debug, Default)]
struct Gathered {
    connections: HashMap<Alike, u64>,
    /// Refused ones by process id.
    refused: HashMap<u32, usize>,
    /// Refused ones that are only counted.
    more: HashMap<u32, u64>,
}

impl Gathered {
    fn add(&mut self, alike: Alike) {
        if let Some(count) = self.connections.get_mut(&alike) {
            *count += 1;
            return;
        }
        if alike.verdict == Egress::Deny {
            let pid = alike.connection.process.tgid;
            let own = self.refused.entry(pid).or_default();
            *own += 1;
            if *own > REFUSED || self.connections.len() >= GATHERED {
                *self.more.entry(pid).or_default() += 1;
                return;
            }
        }
        self.connections.insert(alike, 1);
    }
}

/// Takes reports until the agent ends, and then records what is left.
pub(super) async fn serve(
    agent: Arc<Agent>,
    mut events: mpsc::Receiver<Event>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut gathered = Gathered::default();
    let mut tick = tokio::time::interval(GATHER);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(event) = events.recv(), if gathered.connections.len() < GATHERED => {
                note(&agent, event, &mut gathered);
            }
            _ = tick.tick() => record(&agent, &mut gathered).await,
            () = async { drop(stopping.wait_for(|stop| *stop).await) } => break,
        }
    }
    while let Ok(event) = events.try_recv() {
        note(&agent, event, &mut gathered);
    }
    record(&agent, &mut gathered).await;
}

/// Takes note of a report.
fn note(agent: &Agent, event: Event, gathered: &mut Gathered) {
    let (connection, verdict, reason) = match event {
        Event::Exec { process, program, parent, filename, argv, .. } => {
            let argv = argv.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
            return agent.identity.began(&Known::from(&process), program, parent, filename, argv);
        }
        Event::Exit { tgid, start_time_ns } => return agent.identity.ended(tgid, start_time_ns),
        Event::EgressRecorded(connection) => (connection, Egress::Record, None),
        Event::EgressDenied(connection) => (connection, Egress::Deny, None),
        Event::Refused { connection, reason } => (connection, Egress::Deny, Some(reason)),
    };
    gathered.add(Alike { connection, verdict, reason });
}

/// Records what was gathered. What cannot be recorded stays.
async fn record(agent: &Arc<Agent>, gathered: &mut Gathered) {
    gathered.refused.clear();
    for (pid, count) in gathered.more.drain() {
        tracing::info!(pid, count, "refused, and not recorded one by one");
    }
    let mut subjects: HashMap<Known, Arc<Subject>> = HashMap::new();
    let mut slow: HashSet<u32> = HashSet::new();
    let connections = std::mem::take(&mut gathered.connections);
    let mut failure = None;
    for (alike, count) in connections {
        // What was refused can wait; what has gone is recorded if there is any room at all.
        if failure.is_some() && alike.verdict == Egress::Deny {
            gathered.connections.insert(alike, count);
            continue;
        }
        let known = Known::from(&alike.connection.process);
        let subject = match subjects.get(&known) {
            Some(subject) => Arc::clone(subject),
            None => {
                // One whose processes cannot be looked at keeps the others waiting only once.
                let looked =
                    if slow.contains(&known.uid) { None } else { agent.identify(known.clone()).await };
                if looked.is_none() {
                    slow.insert(known.uid);
                }
                let subject = Arc::new(looked.unwrap_or_else(|| agent.identity.unseen(&known)));
                subjects.insert(known, Arc::clone(&subject));
                subject
            }
        };
        if let Err((error, recorded)) = alike.record(agent, &subject, count) {
            failure = Some(error);
            if !recorded {
                gathered.connections.insert(alike, count);
            }
        }
    }
    match (failure, agent.egress_fails.load(std::sync::atomic::Ordering::Relaxed)) {
        (Some(error), false) => {
            tracing::error!(%error, "connections cannot be recorded: those that must be are refused");
            agent.say_whether_recording(false);
        }
        (None, true) if agent.recorder.status().refusing.is_none() => agent.say_whether_recording(true),
        _ => {}
    }
}

impl Alike {
    /// Fails where there is no room for new work, and says whether it was recorded all the same.
    fn record(&self, agent: &Agent, subject: &Subject, count: u64) -> Result<(), (RecordError, bool)> {
        let Self { connection, verdict, reason } = self;
        if *verdict == Egress::Deny {
            tracing::info!(
                pid = subject.pid,
                exe = %subject.exe.display(),
                destination = %connection.destination,
                reason = reason.map_or_else(|| "egress: deny".to_owned(), |reason| format!("{reason:?}")),
                count,
                "refused"
            );
        }
        let connection = EgressConnection {
            subject,
            destination: connection.destination,
            ip_protocol: u8::try_from(connection.protocol).unwrap_or(u8::MAX),
            verdict: *verdict,
            entry: connection.entries.first().copied(),
            count,
        };
        let recorder = &agent.recorder;
        if *verdict == Egress::Deny {
            return recorder.egress(&connection).map_err(|error| (error, false));
        }
        recorder.egress_first(&connection).map_err(|error| (error, recorder.egress_gone(&connection).is_ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::FlowProcess;

    fn to(port: u16, verdict: Egress) -> Alike {
        let process = FlowProcess {
            tgid: 7,
            start_time_ns: 1,
            uid: 1000,
            gid: 1000,
            cgroup_id: 1,
            netns: 1,
            exec_id: 1,
        };
        let destination = ([192, 0, 2, 1], port).into();
        let connection = Egressed { process, entries: Vec::new(), destination, protocol: 17 };
        Alike { connection, verdict, reason: None }
    }

    #[test]
    fn what_was_let_go_is_all_kept_and_what_was_refused_is_summed_up() {
        let mut gathered = Gathered::default();
        for port in 0..1000 {
            gathered.add(to(port, Egress::Deny));
            gathered.add(to(port, Egress::Record));
            gathered.add(to(1, Egress::Record));
        }
        let kept = |verdict| gathered.connections.keys().filter(|alike| alike.verdict == verdict).count();
        assert_eq!((kept(Egress::Record), kept(Egress::Deny)), (1000, REFUSED));
        assert_eq!(gathered.connections[&to(1, Egress::Record)], 1001);
        assert_eq!(gathered.more[&7], 1000 - REFUSED as u64);
    }
}
