//! Evidence bundles: chosen sessions with all that proves them, for an auditor who trusts nobody here.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use interlock_recording::SessionId;
use interlock_recording::bundle::{Request, WriteError, Writer, Written};
use interlock_recording::chain::Hash;
use interlock_recording::ledger::proto::BundleMade;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::merkle::Plan;
use interlock_recording::note::Checkpoint;

use crate::archive::{ArchiveError, SegmentFile};
use crate::intake::Intake;
use crate::store::{LedgerStoreError, StoreError, StoredEntry, now_ns};

/// Sessions in one bundle.
const MAX_SESSIONS: usize = 1000;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// There is no such session.
    #[error("there is no session {0}")]
    NoSession(String),
    /// None, or too many, were chosen.
    #[error("a bundle holds 1 to {MAX_SESSIONS} sessions, not {0}")]
    Count(usize),
    /// A part of the session has not come in sealed.
    #[error(
        "session {session} is not complete here yet: {missing}. An agent seals its recording every ten minutes, \
         and when it stops"
    )]
    Unsealed {
        /// The session.
        session: String,
        /// What is missing.
        missing: String,
    },
    /// A part of it was deleted.
    #[error("session {session} cannot be proven any more: segment {segment} was deleted ({reason})")]
    Deleted {
        /// The session.
        session: String,
        /// The segment.
        segment: u64,
        /// Why.
        reason: &'static str,
    },
    /// The bundle cannot be written.
    #[error("the bundle cannot be written: {0}")]
    Write(#[from] WriteError),
    /// A segment cannot be read.
    #[error("a segment cannot be read: {0}")]
    Archive(#[from] ArchiveError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
    /// A thread of ours ended without a result.
    #[error("a part of the collector failed: {0}")]
    Internal(String),
}

/// An entry and the proof of it.
type Proven = (StoredEntry, Vec<Hash>);

/// Writes a bundle of `sessions` to `output`. That it was made, by whom and why stands in the ledger, and the
/// bundle is proven by a checkpoint over that.
///
/// # Errors
/// See [`EvidenceError`].
pub async fn write<W: Write + Send + 'static>(
    intake: &Intake,
    sessions: &[String],
    who: &str,
    reason: &str,
    output: W,
) -> Result<(W, Written), EvidenceError> {
    if sessions.is_empty() || sessions.len() > MAX_SESSIONS {
        return Err(EvidenceError::Count(sessions.len()));
    }
    let store = &intake.store;
    let mut chosen = Vec::new();
    // By host and number, so that each comes once and in order.
    let mut wanted: BTreeMap<(String, u64), (u64, SegmentFile)> = BTreeMap::new();
    for session in sessions {
        let missing = || EvidenceError::NoSession(session.clone());
        let id: SessionId = session.parse().map_err(|_| missing())?;
        let place = store.session_place(session).await?.ok_or_else(missing)?;
        let agent = store.agent(&place.host).await?.ok_or_else(missing)?;
        let host = interlock_recording::PublicKey::from_bytes(&agent.public_key).ok_or_else(missing)?;
        chosen.push((host.fingerprint(), id));
        let last = if place.ended {
            place.last_segment
        } else {
            // Its end is where the agent started next.
            store.next_start(&place.host, place.last_event).await?.ok_or_else(|| EvidenceError::Unsealed {
                session: session.clone(),
                missing: "it still goes on".to_owned(),
            })?
        };
        let segments = store.segments(&place.host, place.first_segment, last).await?;
        let mut due = place.first_segment;
        for segment in segments {
            if segment.deleted {
                return Err(EvidenceError::Deleted {
                    session: session.clone(),
                    segment: segment.number,
                    reason: "its tombstone stands in the ledger",
                });
            }
            if segment.number != due {
                break;
            }
            due += 1;
            let file = SegmentFile::new(&place.host, segment.number, segment.bytes, &segment.file_sha256)?;
            wanted.insert((place.host.clone(), segment.number), (segment.entry, file));
        }
        if due <= last {
            return Err(EvidenceError::Unsealed {
                session: session.clone(),
                missing: format!("segment {due} has not come in sealed"),
            });
        }
    }

    let mut transaction = store.write().await?;
    let made = BundleMade {
        who: who.to_owned(),
        sessions: chosen.iter().map(|(_, id)| id.as_bytes().to_vec()).collect(),
        reason: reason.to_owned(),
    };
    let made = transaction.append(vec![Body::BundleMade(made)]).await?;
    transaction.audit(who, "bundle.make", &sessions.join(" "), reason, "").await?;
    let checkpoint = transaction.sign_checkpoint(&intake.signer).await?;
    transaction.commit().await?;

    let size = Checkpoint::open(
        checkpoint.as_bytes(),
        intake.signer.public().name(),
        std::slice::from_ref(intake.signer.public()),
    )
    .map_err(LedgerStoreError::from)?
    .0
    .size;
    let mut hosts: Vec<&str> = wanted.keys().map(|(host, _)| host.as_str()).collect();
    hosts.dedup();
    let mut numbers: Vec<u64> = wanted.values().map(|(entry, _)| *entry).chain([0, made]).collect();
    for host in hosts {
        // Enrolments, revocations, findings and tombstones of the host belong to its story.
        numbers.extend(store.host_entries(host).await?);
    }
    numbers.sort_unstable();
    numbers.dedup();
    let mut entries: Vec<Proven> = Vec::with_capacity(numbers.len());
    for number in numbers {
        let Some(entry) = store.ledger_entries(number, 1).await?.pop().filter(|entry| entry.number == number)
        else {
            return Err(StoreError::Damaged("a ledger with an entry missing").into());
        };
        let plan = Plan::inclusion(number, size).map_err(LedgerStoreError::from)?;
        let proof = store.prove(&plan).await?;
        entries.push((entry, proof));
    }

    let request = Request {
        created_ns: now_ns().unsigned_abs(),
        requested_by: who.to_owned(),
        reason: reason.to_owned(),
        sessions: chosen,
    };
    let (signer, archive) = (Arc::clone(&intake.signer), Arc::clone(&intake.archive));
    let runtime = tokio::runtime::Handle::current();
    let written = tokio::task::spawn_blocking(move || -> Result<(W, Written), EvidenceError> {
        let mut writer = Writer::new(output, request, &signer, checkpoint.as_bytes())?;
        for (entry, proof) in &entries {
            writer.entry(entry.number, &entry.bytes, proof)?;
        }
        for (_, file) in wanted.values() {
            writer.segment(runtime.block_on(archive.fetch(file))?)?;
        }
        Ok(writer.finish()?)
    });
    written.await.map_err(|error| EvidenceError::Internal(error.to_string()))?
}
