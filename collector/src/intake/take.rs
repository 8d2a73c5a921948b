//! Taking in what an agent ships: verified first, then stored, indexed and entered in the ledger in one
//! transaction, and only then acknowledged.

use std::collections::HashMap;
use std::io::BufReader;

use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{Finding, SegmentTaken};
use interlock_recording::proto::Event;
use interlock_recording::segment::SegmentReader;
use interlock_recording::verify::{
    CheckError, Checked, CheckedSegment, Limits, Position, check_records, check_segment,
};
use interlock_recording::{Problem, ProblemKind, PublicKey};
use interlock_shipping::v1::Live;
use prost::Message as _;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::Intake;
use crate::archive::{ArchiveError, Incoming};
use crate::store::{Agent, Batch, LedgerStoreError, LiveRun, NotTaken, StoreError, Take, TakenSegment, What};

/// Something that is wrong with what an agent shipped.
#[derive(Debug, Clone)]
pub struct Incident {
    /// What kind of thing, in the words of `interlock sessions verify`.
    pub kind: String,
    /// What exactly.
    pub detail: String,
    /// In which segment.
    pub segment: Option<u64>,
    /// At which event.
    pub event: Option<u64>,
}

/// What was shipped is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It is not what was due; the agent is to begin its call anew.
    #[error("{0}")]
    Order(String),
    /// The host is not to ship.
    #[error("the collector has revoked this host")]
    Revoked,
    /// It contradicts what the host shipped before, or itself: evidence, which is kept, and looked into.
    #[error("{}", .0.detail)]
    Incident(Incident),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A thread of ours ended without a result.
    #[error("a part of the collector failed: {0}")]
    Internal(String),
}

fn word(kind: ProblemKind) -> String {
    serde_json::to_value(kind).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn incident(problem: Problem, segment: u64) -> TakeError {
    TakeError::Incident(Incident {
        kind: word(problem.kind),
        detail: problem.detail,
        segment: Some(segment),
        event: problem.event,
    })
}

fn disputed(reason: String) -> TakeError {
    TakeError::Incident(Incident { kind: "disputed".into(), detail: reason, segment: None, event: None })
}

impl From<NotTaken> for TakeError {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Revoked => Self::Revoked,
            NotTaken::Disputed(reason) => disputed(reason),
            NotTaken::Moved => Self::Order(error.to_string()),
            NotTaken::Failed(error) => Self::Internal(error.to_string()),
        }
    }
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, TakeError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| TakeError::Internal(error.to_string()))??)
}

/// Waits for one's turn.
async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, TakeError> {
    turns.acquire().await.map_err(|error| TakeError::Internal(error.to_string()))
}

/// What a segment's events take, in bytes, as far as it says; what it says too little is found when it is checked.
fn weight(incoming: &Incoming) -> Result<u64, ArchiveError> {
    let opened = SegmentReader::new(BufReader::new(incoming.reader()?));
    // What is no segment is found soon enough, too.
    let body = opened.ok().and_then(|reader| reader.footer().map(|signed| signed.footer.body_bytes));
    Ok(body.unwrap_or_default().max(incoming.bytes()))
}

fn key(agent: &Agent) -> Result<PublicKey, StoreError> {
    PublicKey::from_bytes(&agent.public_key).ok_or(StoreError::Damaged("a host's key that is none"))
}

/// Events that are indexed in one transaction. Of a segment with more, the events are indexed in parts before it is
/// taken as a whole, so that others are not kept waiting.
const PART_EVENTS: u64 = 2048;
/// Bytes of such events.
const PART_BYTES: u64 = 8 << 20;
/// A segment whose events take more than this, in bytes, is large: twice what agents make by default.
const LARGE: u64 = 16 << 20;

/// What `check_segment` hands events to.
struct Sift {
    /// Events before this index are indexed already.
    known: u64,
    /// The chain's hashes after records that were taken: index of the next event to hash.
    live: HashMap<u64, [u8; 32]>,
    /// The events to be indexed; none when there are too many for one transaction.
    batch: Option<Batch>,
    bytes: u64,
    /// The times of the earliest and the latest event, by the host's clock.
    span: (i64, i64),
}

impl Sift {
    fn event(&mut self, checked: &Checked<'_>, segment: u64) -> Result<(), u64> {
        let next = checked.event.index + 1;
        let at_ns = i64::try_from(checked.event.wall_ns).unwrap_or(i64::MAX);
        self.span = (self.span.0.min(at_ns), self.span.1.max(at_ns));
        if self.live.get(&next).is_some_and(|hash| *hash != checked.hash) {
            return Err(checked.event.index);
        }
        if checked.event.index >= self.known
            && let Some(batch) = &mut self.batch
        {
            batch.add(&checked.event, segment);
            self.bytes += checked.bytes.len() as u64;
            if batch.events() > PART_EVENTS || self.bytes > PART_BYTES {
                self.batch = None;
            }
        }
        Ok(())
    }
}

/// A segment that came in, and what has become of it.
struct Arrived {
    checked: Result<CheckedSegment, CheckError<u64>>,
    sift: Sift,
    incoming: Incoming,
}

impl Intake {
    /// Takes a sealed segment that has come in whole, of `agent`, which is where it is and whose turn it is.
    ///
    /// # Errors
    /// See [`TakeError`]. An incident has been written down when it is returned.
    pub(super) async fn take_segment(
        &self,
        agent: &mut Agent,
        number: u64,
        incoming: Incoming,
    ) -> Result<(), TakeError> {
        if number != agent.sealed.segment {
            return Err(TakeError::Order(format!("segment {} was due, {number} came", agent.sealed.segment)));
        }
        let public = key(agent)?;
        let (weight, incoming) = blocking(move || Ok((weight(&incoming)?, incoming))).await?;
        // However many large ones come, the others find a processor.
        let large = if weight > LARGE { Some(turn(&self.large).await?) } else { None };
        let marks = self.store.live_marks(&agent.host).await?;
        let mut live: HashMap<u64, [u8; 32]> = marks.iter().map(|(_, end)| (end.index, end.hash)).collect();
        // Over all that ever came live, whatever has become of the records.
        live.insert(agent.live.index, agent.live.hash);
        let known = agent.indexed.map_or(agent.live.index, |indexed| {
            // What was indexed of this segment must be in it, too.
            live.insert(indexed.index, indexed.hash);
            indexed.index.max(agent.live.index)
        });
        let (from, clock, key) = (agent.sealed, agent.clock, public.clone());
        let check = turn(&self.checks).await?;
        let arrived = blocking(move || {
            let batch = Some(Batch::after(clock));
            let mut sift = Sift { known, live, batch, bytes: 0, span: (i64::MAX, 0) };
            let file = BufReader::new(incoming.reader()?);
            let checked = check_segment(file, &key, Some(&from), &Limits::default(), |checked| {
                sift.event(&checked, number)
            });
            Ok(Arrived { checked, sift, incoming })
        });
        let Arrived { checked, sift, incoming } = arrived.await?;
        drop(check);
        let end = checked.as_ref().map_or(u64::MAX, |checked| checked.next.position.index);
        // What was taken or indexed of it must be in it.
        let taken = marks.iter().filter(|(segment, _)| *segment <= number).map(|(_, end)| end.index);
        let beyond = taken.chain(agent.indexed.map(|indexed| indexed.index)).find(|known| *known > end);
        let checked = match (checked, beyond) {
            (Ok(_), Some(known)) => Err(CheckError::Each(known - 1)),
            (checked, _) => checked,
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => return Err(self.not_taken(agent, number, incoming, error).await),
        };

        let file = (incoming.sha256(), incoming.bytes());
        let (batch, incoming) = match sift.batch {
            Some(batch) => (batch, incoming),
            None => self.index_in_parts(agent, number, known, incoming).await?,
        };
        drop(large);
        // It is this host's turn, and the last segment was taken in an earlier one: nothing that stands in the
        // ledger is overwritten, but what a crash has left in this place is. Among objects each has a name of its own.
        let prepared = self.archive.prepare(incoming, &agent.host, number).await?;
        self.archive.keep(prepared).await?;
        let clock = batch.clock().copied();
        let taken = self.store.take(Take {
            host: agent.host.clone(),
            was: agent.standing(),
            batch,
            what: What::Segment {
                segment: Box::new(TakenSegment {
                    number,
                    first_index: checked.first_index,
                    events: checked.events,
                    bytes: file.1,
                    file_sha256: file.0,
                    first_ns: sift.span.0,
                    last_ns: sift.span.1,
                    entry: 0,
                    next: checked.next,
                }),
                entry: SegmentTaken {
                    host: public.fingerprint().to_vec(),
                    segment: number,
                    first_index: checked.first_index,
                    events: checked.events,
                    header_sha256: checked.header_sha256.to_vec(),
                    file_sha256: file.0.to_vec(),
                    file_bytes: file.1,
                    final_hash: checked.next.position.hash.to_vec(),
                },
            },
        });
        taken.await?;
        agent.sealed = checked.next;
        if agent.live.index < checked.next.position.index {
            agent.live = checked.next.position;
        }
        agent.indexed = None;
        agent.clock = clock.unwrap_or_default();
        self.connected.change();
        Ok(())
    }

    /// Indexes the events of a large segment from `known` on, but for the last part, which is given back. The segment
    /// has been verified.
    async fn index_in_parts(
        &self,
        agent: &mut Agent,
        number: u64,
        known: u64,
        incoming: Incoming,
    ) -> Result<(Batch, Incoming), TakeError> {
        // One part waits while another is written.
        let (sender, mut parts) = mpsc::channel::<(Batch, Position)>(1);
        let clock = agent.clock;
        let reading = tokio::task::spawn_blocking(move || {
            let damaged = |error: &dyn std::fmt::Display| {
                TakeError::Internal(format!("a segment that was verified cannot be read again: {error}"))
            };
            let mut reader =
                SegmentReader::new(BufReader::new(incoming.reader()?)).map_err(|error| damaged(&error))?;
            let (mut batch, mut bytes) = (Batch::after(clock), 0);
            while let Some(frame) = reader.next_frame().map_err(|error| damaged(&error))? {
                let event = Event::decode(frame.event).map_err(|error| damaged(&error))?;
                if event.index < known {
                    continue;
                }
                batch.add(&event, number);
                bytes += frame.event.len() as u64;
                if batch.events() >= PART_EVENTS || bytes >= PART_BYTES {
                    let end = Position { index: event.index + 1, hash: frame.hash };
                    let next = Batch::after(batch.clock().copied().unwrap_or_default());
                    if sender.blocking_send((std::mem::replace(&mut batch, next), end)).is_err() {
                        break;
                    }
                    bytes = 0;
                }
            }
            Ok::<_, TakeError>((batch, incoming))
        });
        while let Some((batch, end)) = parts.recv().await {
            let clock = batch.clock().copied();
            let part = Take { host: agent.host.clone(), was: agent.standing(), batch, what: What::Part(end) };
            self.store.take(part).await?;
            agent.indexed = Some(end);
            agent.clock = clock.unwrap_or_default();
        }
        reading.await.map_err(|error| TakeError::Internal(error.to_string()))?
    }

    /// A segment is not what it should be.
    async fn not_taken(
        &self,
        agent: &Agent,
        number: u64,
        incoming: Incoming,
        error: CheckError<u64>,
    ) -> TakeError {
        let error = match error {
            CheckError::Problem(problem) => incident(problem, number),
            CheckError::Io(error) => TakeError::Internal(error.to_string()),
            CheckError::Each(event) => TakeError::Incident(Incident {
                kind: word(ProblemKind::Altered),
                detail: format!(
                    "events up to {event} were rewritten after they had been shipped: the sealed segment {number} \
                     does not hold them"
                ),
                segment: Some(number),
                event: Some(event),
            }),
        };
        let TakeError::Incident(incident) = &error else { return error };
        // Evidence: it is kept beside the segments.
        match self.archive.keep_disputed(incoming, &agent.host, number).await {
            Ok(()) => self.report(agent, incident).await.err().unwrap_or(error),
            Err(failed) => failed.into(),
        }
    }

    /// Takes live records of `agent`, which is where it is and whose turn it is.
    ///
    /// # Errors
    /// See [`TakeError`]. An incident has been written down when it is returned.
    pub(super) async fn take_live(&self, agent: &mut Agent, live: Live) -> Result<(), TakeError> {
        if live.first_index != agent.live.index || live.segment != agent.sealed.segment {
            // A host that was put back does not know where it was.
            self.check_head(agent, &live.head).await?;
        }
        if live.first_index != agent.live.index {
            return Err(TakeError::Order(format!(
                "event {} was due, live records from {} on came",
                agent.live.index, live.first_index
            )));
        }
        if live.segment != agent.sealed.segment {
            return Err(TakeError::Order(format!(
                "live records of segment {} came while segment {} was due",
                live.segment, agent.sealed.segment
            )));
        }
        if agent.indexed.is_some() {
            return Err(TakeError::Order(format!(
                "segment {} is due sealed: the collector was ended while it took it in",
                agent.sealed.segment
            )));
        }
        let public = key(agent)?;
        let (from, clock) = (agent.live, agent.clock);
        let segment = live.segment;
        let check = turn(&self.checks).await?;
        let (checked, batch, live) = blocking(move || {
            let mut batch = Batch::after(clock);
            let checked =
                check_records(&live.records, &live.head, &public, &from, &Limits::default(), |checked| {
                    batch.add(&checked.event, segment);
                    Ok::<_, std::convert::Infallible>(())
                });
            Ok((checked, batch, live))
        })
        .await?;
        drop(check);
        let checked = match checked {
            Ok(checked) => checked,
            Err(CheckError::Problem(problem)) => {
                let error = incident(problem, segment);
                if let TakeError::Incident(incident) = &error {
                    self.report(agent, incident).await?;
                }
                return Err(error);
            }
            Err(CheckError::Io(error)) => return Err(TakeError::Internal(error.to_string())),
            Err(CheckError::Each(never)) => match never {},
        };
        if batch.events() == 0 {
            return Ok(());
        }
        let run = LiveRun {
            segment,
            first_index: from.index,
            events: batch.events(),
            header: (!live.header.is_empty()).then_some(live.header),
            records: live.records.to_vec(),
            end_hash: checked.next.hash,
        };
        let clock = batch.clock().copied();
        let what = What::Live { run, next: checked.next, head: live.head };
        self.store.take(Take { host: agent.host.clone(), was: agent.standing(), batch, what }).await?;
        agent.live = checked.next;
        agent.clock = clock.unwrap_or_default();
        self.connected.change();
        Ok(())
    }

    /// Checks the HEAD that a host says hello with: one that ends before what came already was put back.
    ///
    /// # Errors
    /// See [`TakeError`]. An incident has been written down when it is returned.
    pub(super) async fn check_head(&self, agent: &Agent, head: &[u8]) -> Result<(), TakeError> {
        if head.is_empty() {
            return Ok(());
        }
        let public = key(agent)?;
        let checked = check_records(&[], head, &public, &agent.live, &Limits::default(), |_| {
            Ok::<_, std::convert::Infallible>(())
        });
        match checked {
            Ok(_) | Err(CheckError::Io(_)) => Ok(()),
            Err(CheckError::Problem(problem)) => {
                let error = incident(problem, agent.sealed.segment);
                if let TakeError::Incident(incident) = &error {
                    self.report(agent, incident).await?;
                }
                Err(error)
            }
            Err(CheckError::Each(never)) => match never {},
        }
    }

    /// Writes an incident down: among the findings, in the ledger, and as the reason for which nothing more is
    /// taken from this host.
    pub(super) async fn report(&self, agent: &Agent, incident: &Incident) -> Result<(), TakeError> {
        let mut write = self.store.write().await?;
        // What was compared with a place where the agent does not stand any more shows nothing.
        let now = write.agent(&agent.host).await?.ok_or(TakeError::Revoked)?;
        if !now.active {
            return Err(TakeError::Revoked);
        }
        if let Some(reason) = now.dispute {
            return Err(disputed(reason));
        }
        if now.standing() != agent.standing() {
            return Err(TakeError::Order("another call of this agent has gone on meanwhile".into()));
        }
        tracing::error!(host = agent.host, name = agent.name, kind = incident.kind, "{}", incident.detail);
        let public = key(agent)?;
        let entry = write
            .append(vec![Body::Finding(Finding {
                host: public.fingerprint().to_vec(),
                kind: incident.kind.clone(),
                detail: incident.detail.clone(),
                segment: incident.segment,
                event: incident.event,
            })])
            .await?;
        write.add_finding(&agent.host, &incident.kind, &incident.detail, Some(entry)).await?;
        write.dispute(&agent.host, &incident.detail).await?;
        write.commit().await?;
        self.connected.change();
        Ok(())
    }
}
