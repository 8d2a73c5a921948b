//! Looks who traces the processes of running flows.
//!
//! Whoever begins to trace a process that has connected can have it send what they like. What such a process is
//! taken for is taken away from the flow for good: what a tracer has left behind in it nobody can tell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::Agent;
use crate::identity::login::Seat;
use crate::identity::tracer::{self, tracer_of};
use crate::identity::workload::Misused;
use crate::identity::{IdentityKind, Known, LiveSubject, Stat, TICK_NS};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// Most processes that are looked at in one round; where there are more, others come next time.
const ROUND: usize = 4096;

/// Flows whose processes are looked at.
#[derive(Debug, Default)]
pub(super) struct Traced(Mutex<Flows>);

#[derive(Debug, Default)]
struct Flows {
    last: u64,
    all: HashMap<u64, Flow>,
    /// Where the next round begins.
    from: u64,
}

#[derive(Debug, Clone)]
struct Flow {
    known: Known,
    seat: Seat,
    live: Weak<LiveSubject>,
}

/// A flow is looked at as long as this lives.
#[derive(Debug)]
pub(super) struct Looked {
    agent: Weak<Agent>,
    id: u64,
}

impl Drop for Looked {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.upgrade() {
            agent.traced.lock().all.remove(&self.id);
        }
    }
}

impl Traced {
    fn lock(&self) -> MutexGuard<'_, Flows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flows by their processes, as many as are looked at in one round.
    fn round(&self) -> HashMap<(u32, u64), Vec<Flow>> {
        let mut flows = self.lock();
        let from = flows.from;
        let mut ids: Vec<u64> = flows.all.keys().copied().collect();
        ids.sort_unstable_by_key(|id| (*id < from, *id));
        let mut round: HashMap<_, Vec<Flow>> = HashMap::new();
        flows.from = 0;
        for id in ids {
            let Some(flow) = flows.all.get(&id).cloned() else { continue };
            let process = (flow.known.pid, flow.known.start_time_ns);
            if round.len() >= ROUND && !round.contains_key(&process) {
                flows.from = id;
                break;
            }
            round.entry(process).or_default().push(flow);
        }
        round
    }
}

impl Flow {
    /// What stands behind it now, if anything that can be taken away does.
    fn verified(&self) -> Option<Arc<LiveSubject>> {
        let live = self.live.upgrade()?;
        let current = live.current();
        (current.person.is_some() || current.workload.is_some()).then_some(live)
    }
}

impl Agent {
    /// Has the process of a flow looked at from now on.
    pub(super) fn look_for_tracers(
        self: &Arc<Self>,
        known: &Known,
        seat: Seat,
        live: &Arc<LiveSubject>,
    ) -> Looked {
        let mut flows = self.traced.lock();
        flows.last += 1;
        let id = flows.last;
        flows.all.insert(id, Flow { known: known.clone(), seat, live: Arc::downgrade(live) });
        Looked { agent: Arc::downgrade(self), id }
    }

    /// Looks again and again.
    pub(super) async fn watch_for_tracers(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if !self.traced.lock().all.is_empty() {
                let _ = self.in_background(Self::take_from_traced).await;
            }
        }
    }

    /// One look.
    fn take_from_traced(&self) {
        for ((pid, start_time_ns), flows) in self.traced.round() {
            let flows: Vec<_> = flows.into_iter().filter_map(|flow| Some((flow.verified()?, flow))).collect();
            if flows.is_empty() {
                continue;
            }
            let Some(tracer) = tracer_of(pid) else { continue };
            // Another process of the same id is traced.
            let same = i32::try_from(pid).is_ok_and(|pid| {
                Stat::of(pid).is_ok_and(|stat| start_time_ns == 0 || stat.start == start_time_ns / TICK_NS)
            });
            if same {
                flows.iter().for_each(|(live, flow)| self.take_from(live, flow, tracer));
            }
        }
    }

    /// Takes away what the one who traces has not by itself.
    fn take_from(&self, live: &LiveSubject, flow: &Flow, tracer: u32) {
        let (before, why) = (live.current(), tracer::why(tracer));
        if before.person.is_some()
            && self.logins.person(&flow.seat).is_none()
            && live.bar(IdentityKind::Person, &format!("person: {why}"))
        {
            tracing::warn!(pid = flow.known.pid, tracer, "a running flow loses its person: {why}");
        }
        let Some(workload) = &before.workload else { return };
        if self.workloads.is_outside(&flow.known, tracer, workload)
            && live.bar(IdentityKind::Workload, &format!("workload: {}: {why}", workload.issuer_name))
        {
            let misused = Misused {
                issuer_name: Arc::clone(&workload.issuer_name),
                token_hash: workload.token_hash.clone(),
                reason: why,
                owner_pid: flow.known.pid,
                owner_uid: flow.known.uid,
                other_host: None,
            };
            self.tell_misused(&before, &[misused]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_looked_at_once_and_many_come_by_turns() {
        let traced = Traced::default();
        let add = |id: u64, pid: u32| {
            let (known, seat) = (Known { pid, ..Known::default() }, Seat::noted(pid, 0, None));
            traced.lock().all.insert(id, Flow { known, seat, live: Weak::new() });
        };
        add(1, 7);
        add(2, 7);
        let round = traced.round();
        assert_eq!((round.len(), round[&(7, 0)].len()), (1, 2));
        assert!(round[&(7, 0)][0].verified().is_none());
        for n in 0..ROUND as u64 + 10 {
            add(10 + n, 100 + n as u32);
        }
        let first = traced.round();
        let second = traced.round();
        assert_eq!(first.len(), ROUND);
        let last = 100 + ROUND as u32 + 9;
        assert!(!first.contains_key(&(last, 0)) && second.contains_key(&(last, 0)));
        assert!(second.len() == ROUND, "and then from the beginning");
    }
}
