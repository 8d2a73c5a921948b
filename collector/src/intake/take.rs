//! Taking in what an agent ships: verified first, then stored, indexed and entered in the ledger in one
//! transaction, and only then acknowledged.

use std::collections::HashMap;
use std::io::BufReader;

use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{Finding, SegmentTaken};
use interlock_recording::verify::{CheckError, Limits, check_records, check_segment};
use interlock_recording::{Problem, ProblemKind, PublicKey};
use interlock_shipping::v1::Live;

use super::Intake;
use crate::archive::{ArchiveError, Incoming};
use crate::store::{Agent, Batch, LedgerStoreError, LiveRun, StoreError, TakenSegment};

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

fn key(agent: &Agent) -> Result<PublicKey, StoreError> {
    PublicKey::from_bytes(&agent.public_key).ok_or(StoreError::Damaged("a host's key that is none"))
}

/// What `check_segment` hands events to.
struct Sift<'s> {
    /// Events before this index are indexed already.
    known: u64,
    /// The chain's hashes after live records that were taken: index of the next event to hash.
    live: &'s HashMap<u64, [u8; 32]>,
    batch: Batch,
    /// The times of the earliest and the latest event, by the host's clock.
    span: (i64, i64),
}

impl Intake {
    /// Takes a sealed segment that has come in whole.
    ///
    /// # Errors
    /// See [`TakeError`]. An incident has been written down when it is returned.
    pub(super) async fn take_segment(
        &self,
        host: &str,
        number: u64,
        incoming: Incoming,
    ) -> Result<(), TakeError> {
        let agent = self.store.agent(host).await?.ok_or(TakeError::Revoked)?;
        if number != agent.sealed.segment {
            return Err(TakeError::Order(format!("segment {} was due, {number} came", agent.sealed.segment)));
        }
        let public = key(&agent)?;
        let marks = self.store.live_marks(host).await?;
        let mut live: HashMap<u64, [u8; 32]> = marks.iter().map(|(_, end)| (end.index, end.hash)).collect();
        // Over all that ever came live, whatever has become of the records.
        live.insert(agent.live.index, agent.live.hash);
        let from = agent.sealed;
        let known = agent.live.index;
        let fingerprint = public.fingerprint();
        let turn = self.checks.acquire().await.map_err(|error| TakeError::Internal(error.to_string()))?;
        let checked = tokio::task::spawn_blocking(move || {
            let mut sift = Sift { known, live: &live, batch: Batch::new(), span: (i64::MAX, 0) };
            let file = BufReader::new(incoming.reader()?);
            let checked = check_segment(file, &public, Some(&from), &Limits::default(), |checked| {
                let next = checked.event.index + 1;
                let at_ns = i64::try_from(checked.event.wall_ns).unwrap_or(i64::MAX);
                sift.span = (sift.span.0.min(at_ns), sift.span.1.max(at_ns));
                if sift.live.get(&next).is_some_and(|hash| *hash != checked.hash) {
                    return Err(checked.event.index);
                }
                if checked.event.index >= sift.known {
                    sift.batch.add(&checked.event, number);
                }
                Ok(())
            });
            let (batch, span) = (sift.batch, sift.span);
            Ok::<_, ArchiveError>((checked, batch, span, incoming))
        });
        let (checked, batch, span, incoming) =
            checked.await.map_err(|error| TakeError::Internal(error.to_string()))??;
        drop(turn);
        let end = checked.as_ref().map_or(u64::MAX, |checked| checked.next.position.index);
        let beyond = marks.iter().find(|(segment, mark)| *segment <= number && mark.index > end);
        let checked = match (checked, beyond) {
            (Ok(_), Some((_, mark))) => Err(CheckError::Each(mark.index - 1)),
            (checked, _) => checked,
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => {
                let error = match error {
                    CheckError::Problem(problem) => incident(problem, number),
                    CheckError::Io(error) => return Err(TakeError::Internal(error.to_string())),
                    CheckError::Each(event) => TakeError::Incident(Incident {
                        kind: word(ProblemKind::Altered),
                        detail: format!(
                            "events up to {event} were rewritten after they had been shipped live: the sealed \
                             segment {number} does not hold them"
                        ),
                        segment: Some(number),
                        event: Some(event),
                    }),
                };
                if let TakeError::Incident(incident) = &error {
                    // Evidence: it is kept beside the segments.
                    self.archive.keep_disputed(incoming, host, number).await?;
                    self.report(&agent, incident).await?;
                }
                return Err(error);
            }
        };

        let file = (incoming.sha256(), incoming.bytes());
        let prepared = self.archive.prepare(incoming, host, number).await?;

        let mut write = self.store.write().await?;
        self.still(&mut write, &agent).await?;
        // Under the lock: no other call can have had a segment of this number taken, so nothing that stands in
        // the ledger is overwritten.
        self.archive.keep(prepared).await?;
        let entry = write
            .append(vec![Body::SegmentTaken(SegmentTaken {
                host: fingerprint.to_vec(),
                segment: number,
                first_index: checked.first_index,
                events: checked.events,
                header_sha256: checked.header_sha256.to_vec(),
                file_sha256: file.0.to_vec(),
                file_bytes: file.1,
                final_hash: checked.next.position.hash.to_vec(),
            })])
            .await?;
        write
            .add_segment(
                host,
                &TakenSegment {
                    number,
                    first_index: checked.first_index,
                    events: checked.events,
                    bytes: file.1,
                    file_sha256: file.0,
                    first_ns: span.0,
                    last_ns: span.1,
                    entry,
                    next: checked.next,
                },
            )
            .await?;
        write.index(host, &batch).await?;
        write.commit().await?;
        self.connected.change();
        Ok(())
    }

    /// Takes live records.
    ///
    /// # Errors
    /// See [`TakeError`]. An incident has been written down when it is returned.
    pub(super) async fn take_live(&self, host: &str, live: Live) -> Result<(), TakeError> {
        let agent = self.store.agent(host).await?.ok_or(TakeError::Revoked)?;
        if live.first_index != agent.live.index || live.segment != agent.sealed.segment {
            // A host that was put back does not know where it was.
            self.check_head(&agent, &live.head).await?;
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
        let public = key(&agent)?;
        let from = agent.live;
        let segment = live.segment;
        let turn = self.checks.acquire().await.map_err(|error| TakeError::Internal(error.to_string()))?;
        let checked = tokio::task::spawn_blocking(move || {
            let mut batch = Batch::new();
            let checked =
                check_records(&live.records, &live.head, &public, &from, &Limits::default(), |checked| {
                    batch.add(&checked.event, segment);
                    Ok::<_, std::convert::Infallible>(())
                });
            (checked, batch, live)
        });
        let (checked, batch, live) = checked.await.map_err(|error| TakeError::Internal(error.to_string()))?;
        drop(turn);
        let checked = match checked {
            Ok(checked) => checked,
            Err(CheckError::Problem(problem)) => {
                let error = incident(problem, segment);
                if let TakeError::Incident(incident) = &error {
                    self.report(&agent, incident).await?;
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
        let mut write = self.store.write().await?;
        self.still(&mut write, &agent).await?;
        write.add_live(host, &run, &checked.next, &live.head).await?;
        write.index(host, &batch).await?;
        write.commit().await?;
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

    /// Checks that the agent is where it was when what it shipped was verified: another collector, or
    /// another call of the same agent, may have gone on meanwhile.
    async fn still(&self, write: &mut crate::store::Write<'_>, was: &Agent) -> Result<(), TakeError> {
        let now = write.agent(&was.host).await?.ok_or(TakeError::Revoked)?;
        if !now.active {
            return Err(TakeError::Revoked);
        }
        if let Some(reason) = now.dispute {
            return Err(TakeError::Incident(Incident {
                kind: "disputed".into(),
                detail: reason,
                segment: None,
                event: None,
            }));
        }
        if now.sealed != was.sealed || now.live != was.live {
            return Err(TakeError::Order("another call of this agent has gone on meanwhile".into()));
        }
        Ok(())
    }

    /// Writes an incident down: among the findings, in the ledger, and as the reason for which nothing more is
    /// taken from this host.
    pub(super) async fn report(&self, agent: &Agent, incident: &Incident) -> Result<(), TakeError> {
        let mut write = self.store.write().await?;
        // What was compared with a place where the agent does not stand any more shows nothing.
        self.still(&mut write, agent).await?;
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
