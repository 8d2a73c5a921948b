//! Taking in by groups: what many agents ship is written in one transaction and made durable by one flush, and each
//! of them is told only after that. This is the one place through which recordings get into the database.
//!
//! Whoever finds nobody writing begins to; what comes meanwhile waits and makes the next group. A host has at most
//! one thing in a group, so one that ships much gets no more turns than one that ships little.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use interlock_recording::ledger::proto::SegmentTaken;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::verify::{Boundary, Position};
use tokio::sync::oneshot;

use super::{Agent, Batch, HealthReport, LedgerStoreError, LiveRun, Store, StoreError, TakenSegment, Write};

/// Things that are written together, at most.
const MOST: usize = 128;
/// Events in a group after which nothing more is added to it: others wait while it is written.
const MOST_EVENTS: u64 = 4096;

/// Where an agent's recording stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Where the next sealed segment must begin.
    pub sealed: Boundary,
    /// Where the next live records must begin.
    pub live: Position,
    /// How far the segment that is due is indexed, where that is beyond the live records.
    pub indexed: Option<Position>,
}

/// What an agent shipped, verified.
#[derive(Debug)]
pub struct Take {
    /// The host's id.
    pub host: String,
    /// Where its recording stood when this was verified. It must still stand there.
    pub was: Standing,
    /// Its events that are to be indexed.
    pub batch: Batch,
    /// What it is.
    pub what: What,
}

/// What is taken.
#[derive(Debug)]
pub enum What {
    /// Live records.
    Live {
        /// The records.
        run: LiveRun,
        /// Where the log stands after them.
        next: Position,
        /// The HEAD that covers them.
        head: Vec<u8>,
    },
    /// A sealed segment, whose file is kept durably already.
    Segment {
        /// The segment; its entry's number is filled in here.
        segment: Box<TakenSegment>,
        /// Its entry.
        entry: SegmentTaken,
    },
    /// Events of a sealed segment that is being indexed before it is taken as a whole, up to a place.
    Part(Position),
}

/// It was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotTaken {
    /// The host is not to ship.
    #[error("the collector has revoked this host")]
    Revoked,
    /// Nothing more of its recording is taken, and why.
    #[error("{0}")]
    Disputed(String),
    /// Its recording does not stand any more where it stood when this was verified.
    #[error("another call of this agent has gone on meanwhile")]
    Moved,
    /// The database or the ledger failed.
    #[error(transparent)]
    Failed(#[from] Arc<LedgerStoreError>),
}

/// What is to be written.
#[derive(Debug)]
enum Job {
    Take(Box<Take>),
    Health { host: String, report: HealthReport },
    Seen { host: String, version: String, kernel: String },
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    answer: oneshot::Sender<Result<(), NotTaken>>,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Group(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Somebody writes.
    busy: bool,
}

impl Job {
    fn host(&self) -> &str {
        match self {
            Self::Take(take) => &take.host,
            Self::Health { host, .. } | Self::Seen { host, .. } => host,
        }
    }

    fn events(&self) -> u64 {
        match self {
            Self::Take(take) => take.batch.events(),
            Self::Health { .. } | Self::Seen { .. } => 0,
        }
    }
}

impl Group {
    /// Adds to what waits; gives whether nobody writes.
    fn add(&self, waiting: Waiting) -> bool {
        // Whoever panicked while holding it left it as it should be: nothing in here stops halfway.
        let mut queue = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        queue.waiting.push_back(waiting);
        !std::mem::replace(&mut queue.busy, true)
    }

    /// The next group; none ends the writing.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut group, mut later) = (Vec::new(), VecDeque::new());
        let (mut hosts, mut events) = (HashSet::new(), 0);
        while group.len() < MOST && events < MOST_EVENTS {
            let Some(waiting) = queue.waiting.pop_front() else { break };
            if hosts.insert(waiting.job.host().to_owned()) {
                events += waiting.job.events();
                group.push(waiting);
            } else {
                later.push_back(waiting);
            }
        }
        while let Some(waiting) = later.pop_back() {
            queue.waiting.push_front(waiting);
        }
        queue.busy = !group.is_empty();
        (!group.is_empty()).then_some(group)
    }
}

/// A writing that goes on. If it is ended from outside whoever comes next begins anew.
struct Writing<'g> {
    group: &'g Group,
    ended: bool,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.group.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).busy = false;
        }
    }
}

impl Store {
    /// Takes what an agent shipped. It is there durably when this returns `Ok`.
    ///
    /// # Errors
    /// See [`NotTaken`]; nothing of it was written then.
    pub async fn take(self: &Arc<Self>, take: Take) -> Result<(), NotTaken> {
        self.write_in_group(Job::Take(Box::new(take))).await
    }

    /// Notes how an agent is.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_health(self: &Arc<Self>, host: &str, report: HealthReport) -> Result<(), NotTaken> {
        self.write_in_group(Job::Health { host: host.to_owned(), report }).await
    }

    /// Notes that an agent said hello.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_hello(
        self: &Arc<Self>,
        host: &str,
        version: String,
        kernel: String,
    ) -> Result<(), NotTaken> {
        self.write_in_group(Job::Seen { host: host.to_owned(), version, kernel }).await
    }

    async fn write_in_group(self: &Arc<Self>, job: Job) -> Result<(), NotTaken> {
        let (answer, answered) = oneshot::channel();
        if self.group.add(Waiting { job, answer }) {
            let store = Arc::clone(self);
            // A task of its own: a call that ends does not end the writing of what others wait for.
            tokio::spawn(async move {
                let mut writing = Writing { group: &store.group, ended: false };
                while let Some(group) = store.group.next() {
                    store.write_group(group).await;
                }
                writing.ended = true;
            });
        }
        answered.await.unwrap_or_else(|_| {
            Err(Arc::new(LedgerStoreError::Store(StoreError::Damaged("a writer that ended"))).into())
        })
    }

    /// Writes a group, and tells everybody in it how it went for them.
    async fn write_group(&self, group: Vec<Waiting>) {
        let mut jobs: Vec<&Job> = group.iter().map(|waiting| &waiting.job).collect();
        let written = match self.try_group(&jobs).await {
            // What failed may be the fault of one: then the others must not suffer from it.
            Err(error) if group.len() > 1 => {
                tracing::warn!("a group of {} is written one by one: {error}", group.len());
                let mut written = Vec::new();
                for job in jobs.drain(..) {
                    let one = self.try_group(&[job]).await;
                    written.push(one.map_err(Arc::new).map(|mut one| one.pop().unwrap_or(Ok(()))));
                }
                written.into_iter().map(|one| one.unwrap_or_else(|error| Err(error.into()))).collect()
            }
            Err(error) => vec![Err(Arc::new(error).into())],
            Ok(written) => written,
        };
        for (waiting, written) in group.into_iter().zip(written) {
            // Whoever asked may have gone.
            let _ = waiting.answer.send(written);
        }
    }

    /// Writes a group in one transaction. What is refused is refused before anything of it is written, so that
    /// nothing has to be taken back for it.
    async fn try_group(&self, group: &[&Job]) -> Result<Vec<Result<(), NotTaken>>, LedgerStoreError> {
        let mut write = self.write().await?;
        let mut written: Vec<Result<(), NotTaken>> = Vec::with_capacity(group.len());
        let (mut takes, mut reports) = (Vec::new(), Vec::new());
        let mut hosts: Vec<&str> = group.iter().map(|job| job.host()).collect();
        hosts.sort_unstable();
        let agents = write.agents(&hosts).await?;
        for job in group {
            written.push(match job {
                Job::Take(take) => {
                    let still = still(agents.get(&take.host), take);
                    if still.is_ok() {
                        takes.push(take.as_ref());
                    }
                    still
                }
                Job::Health { host, report } => {
                    reports.push((host.as_str(), report));
                    Ok(())
                }
                Job::Seen { host, version, kernel } => {
                    write.seen(host, version, kernel).await?;
                    Ok(())
                }
            });
        }
        write.health_of_all(&reports).await?;
        write.take_all(&takes).await?;
        write.commit().await?;
        Ok(written)
    }
}

/// Checks that the agent is where it was when what it shipped was verified: another collector, or another call of
/// the same agent, may have gone on meanwhile.
fn still(agent: Option<&Agent>, take: &Take) -> Result<(), NotTaken> {
    let agent = agent.ok_or(NotTaken::Revoked)?;
    if !agent.active {
        return Err(NotTaken::Revoked);
    }
    if let Some(reason) = &agent.dispute {
        return Err(NotTaken::Disputed(reason.clone()));
    }
    if agent.standing() != take.was {
        return Err(NotTaken::Moved);
    }
    Ok(())
}

impl Write<'_> {
    async fn take_all(&mut self, takes: &[&Take]) -> Result<(), LedgerStoreError> {
        let mut entries = Vec::new();
        let mut segments = Vec::new();
        let mut runs = Vec::new();
        for take in takes {
            match &take.what {
                What::Live { run, next, head } => runs.push((take.host.as_str(), run, next, head.as_slice())),
                What::Segment { segment, entry } => {
                    segments.push((take, segment.as_ref().clone()));
                    entries.push(Body::SegmentTaken(entry.clone()));
                }
                What::Part(end) => self.indexed(&take.host, end).await?,
            }
        }
        self.add_runs(&runs).await?;
        if !entries.is_empty() {
            let first = self.append(entries).await?;
            for (number, (take, mut segment)) in (first..).zip(segments) {
                segment.entry = number;
                self.add_segment(&take.host, &segment).await?;
            }
        }
        let batches: Vec<(&str, &Batch)> =
            takes.iter().map(|take| (take.host.as_str(), &take.batch)).collect();
        self.index_all(&batches).await?;
        for (host, batch) in batches {
            if let Some(clock) = batch.clock() {
                self.set_clock(host, clock).await?;
            }
        }
        Ok(())
    }
}
