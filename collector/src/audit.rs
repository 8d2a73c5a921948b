//! Checking all that is kept: the ledger against its checkpoints, segments against the ledger.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};

use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{SegmentTaken, Tombstone};
use interlock_recording::ledger::{self, decode, open_checkpoint};
use interlock_recording::merkle::{Frontier, Plan};
use interlock_recording::note::Checkpoint;
use interlock_recording::verify::{Boundary, CheckError, Limits, check_segment};
use interlock_recording::{PublicKey, hex};
use sha2::{Digest as _, Sha256};

use crate::archive::{ArchiveError, SegmentFile};
use crate::intake::Intake;
use crate::store::{LedgerStoreError, now_ns};

/// Problems that are listed; more are counted.
const MAX_PROBLEMS: usize = 1000;
/// Entries that are read at one time.
const PAGE: u32 = 1000;

/// What was found.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// Nothing is wrong.
    pub ok: bool,
    /// Entries in the ledger.
    pub entries: u64,
    /// The newest checkpoint's number of entries.
    pub signed: u64,
    /// Hosts that were ever enrolled.
    pub hosts: u64,
    /// Segments that are kept.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Segments that were deleted, by their tombstones.
    pub deleted: u64,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Problems beyond these.
    pub further_problems: u64,
}

impl Report {
    pub(crate) fn problem(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.further_problems += 1;
        }
    }
}

/// A host, as the ledger tells of it.
#[derive(Debug, Default)]
struct Host {
    key: Option<PublicKey>,
    taken: Vec<(u64, SegmentTaken)>,
    /// By its HEAD: the chain's hash after so many events.
    heads: HashMap<u64, Vec<u8>>,
    deleted: HashMap<u64, Tombstone>,
}

/// Checks everything that is kept. `earlier` is the content of a checkpoint that was kept elsewhere: the
/// ledger must go on from it.
///
/// # Errors
/// The database cannot be read. Whatever is wrong in it is in the report.
pub async fn verify(intake: &Intake, earlier: Option<&[u8]>) -> Result<Report, LedgerStoreError> {
    let mut report = Report::default();
    let began_ns = now_ns();
    let hosts = entries(intake, &mut report).await?;
    if let Some(earlier) = earlier {
        consistency(intake, earlier, &mut report).await?;
    }
    report.hosts = hosts.len() as u64;
    for (id, host) in &hosts {
        segments(intake, id, host, &mut report).await?;
    }
    for agent in intake.store.agents().await? {
        // One that was enrolled while this went on is not looked for.
        if agent.enrolled_ns < began_ns
            && !hosts.contains_key(&agent.host)
            && !is_entered_since(intake, &agent.host, report.entries).await?
        {
            report.problem(format!(
                "host {} is in the database, and the ledger knows nothing of it",
                agent.host
            ));
        }
    }
    report.ok = report.problems.is_empty();
    Ok(report)
}

/// Checks everything, and writes down what is wrong among the findings, each thing once.
///
/// # Errors
/// The database cannot be read or written.
pub async fn watch(intake: &Intake) -> Result<(), LedgerStoreError> {
    let report = verify(intake, None).await?;
    if report.ok {
        tracing::info!("{} segments of {} hosts were checked: whole", report.segments, report.hosts);
        return Ok(());
    }
    let mut write = intake.store.write().await?;
    for problem in &report.problems {
        tracing::error!("{problem}");
        if !write.is_found("", "collector", problem).await? {
            write.add_finding("", "collector", problem, None).await?;
        }
    }
    write.commit().await?;
    intake.connected.change();
    Ok(())
}

/// Walks the ledger: its tree is made anew, and compared with every checkpoint and every node.
async fn entries(intake: &Intake, report: &mut Report) -> Result<HashMap<String, Host>, LedgerStoreError> {
    let key = intake.signer.public();
    let mut checkpoints: HashMap<u64, Checkpoint> = HashMap::new();
    for (size, note) in intake.store.checkpoints().await? {
        match open_checkpoint(note.as_bytes(), key) {
            Ok(checkpoint) if checkpoint.size == size => {
                report.signed = report.signed.max(size);
                checkpoints.insert(size, checkpoint);
            }
            Ok(_) => report.problem(format!("the checkpoint that stands over {size} entries is over others")),
            Err(error) => report.problem(format!("the checkpoint over {size} entries: {error}")),
        }
    }
    let mut frontier = Frontier::new();
    let mut hosts: HashMap<String, Host> = HashMap::new();
    loop {
        let page = intake.store.ledger_entries(frontier.size(), PAGE).await?;
        if page.is_empty() {
            break;
        }
        for entry in page {
            if entry.number != frontier.size() {
                report.problem(format!("entry {} of the ledger is missing", frontier.size()));
                return Ok(hosts);
            }
            for (node, hash) in frontier.append(ledger::leaf_hash(&entry.bytes)) {
                if intake.store.ledger_node(node).await? != Some(hash) {
                    report.problem(format!(
                        "entry {} was altered: it does not have the hash that stands in the tree (level {}, node {})",
                        entry.number, node.level, node.index
                    ));
                }
            }
            if let Some(checkpoint) = checkpoints.remove(&frontier.size())
                && checkpoint.root != frontier.root()
            {
                report.problem(format!(
                    "the entries before {} are not those that were signed: their root is another",
                    frontier.size()
                ));
            }
            match decode(&entry.bytes) {
                Ok(decoded) => note(entry.number, decoded.body, &mut hosts),
                Err(error) => report.problem(format!("entry {}: {error}", entry.number)),
            }
        }
    }
    report.entries = frontier.size();
    let mut beyond: Vec<u64> = checkpoints.into_keys().collect();
    beyond.sort_unstable();
    if let Some(size) = beyond.last() {
        report.problem(format!(
            "the ledger ends at entry {}, and a checkpoint is over {size}: its end was removed, or the database \
             was put back to an earlier one",
            report.entries
        ));
    }
    Ok(hosts)
}

fn note(number: u64, body: Option<Body>, hosts: &mut HashMap<String, Host>) {
    match body {
        Some(Body::HostEnrolled(body)) => {
            hosts.entry(hex(&body.host)).or_default().key = PublicKey::from_bytes(&body.public_key);
        }
        Some(Body::SegmentTaken(body)) => {
            hosts.entry(hex(&body.host)).or_default().taken.push((number, body));
        }
        Some(Body::HeadTaken(body)) => {
            hosts.entry(hex(&body.host)).or_default().heads.insert(body.events, body.hash);
        }
        Some(Body::Tombstone(body)) => {
            hosts.entry(hex(&body.host)).or_default().deleted.insert(body.segment, body);
        }
        _ => {}
    }
}

/// The ledger must go on from a checkpoint that was kept elsewhere.
async fn consistency(intake: &Intake, earlier: &[u8], report: &mut Report) -> Result<(), LedgerStoreError> {
    let earlier = match open_checkpoint(earlier, intake.signer.public()) {
        Ok(earlier) => earlier,
        Err(error) => {
            report.problem(format!("the checkpoint that was given: {error}"));
            return Ok(());
        }
    };
    let Some(newest) = intake.store.checkpoint(None).await? else {
        report.problem("there is no checkpoint, and one was given".to_owned());
        return Ok(());
    };
    let newest = match open_checkpoint(newest.to_string().as_bytes(), intake.signer.public()) {
        Ok(newest) => newest,
        // Told already.
        Err(_) => return Ok(()),
    };
    if newest.size < earlier.size {
        report.problem(format!(
            "the checkpoint that was given is over {} entries, the newest here over {}: the ledger was put back",
            earlier.size, newest.size
        ));
        return Ok(());
    }
    let plan = Plan::consistency(earlier.size, newest.size)?;
    let proof = intake.store.prove(&plan).await?;
    if let Err(error) = ledger::verify_consistency(&earlier, &newest, &proof) {
        report.problem(format!("the ledger does not go on from the checkpoint that was given: {error}"));
    }
    Ok(())
}

/// A host's segments: each file as the ledger has it, and one chain through all of them.
async fn segments(
    intake: &Intake,
    id: &str,
    host: &Host,
    report: &mut Report,
) -> Result<(), LedgerStoreError> {
    let Some(key) = &host.key else {
        report.problem(format!("host {id}: the ledger has segments of it, and no enrolment"));
        return Ok(());
    };
    let mut kept: HashMap<u64, _> = intake
        .store
        .segments(id, 0, u64::MAX)
        .await?
        .into_iter()
        .map(|segment| (segment.number, segment))
        .collect();
    let mut expected = Some(Boundary::genesis(key));
    for (entry, taken) in &host.taken {
        let number = taken.segment;
        let row = kept.remove(&number);
        if let Some(from) = &expected
            && (from.segment != number || from.position.index != taken.first_index)
        {
            report.problem(format!(
                "host {id}: the ledger's entry {entry} (segment {number}) does not go on from \
                                    the one before"
            ));
        }
        if host.deleted.contains_key(&number) {
            report.deleted += 1;
            expected = boundary(taken);
            continue;
        }
        match row {
            Some(row) if row.entry == *entry && !row.deleted => {}
            // Retention may have been there since the ledger was read.
            Some(row) if row.entry == *entry && is_entered_since(intake, id, report.entries).await? => {}
            Some(_) => report.problem(format!(
                "host {id}, segment {number}: the database says something else of it than the ledger"
            )),
            None => {
                report.problem(format!("host {id}, segment {number}: the database knows nothing of it"));
            }
        }
        let kept = SegmentFile::new(id, number, taken.file_bytes, &taken.file_sha256)?;
        let file = match intake.archive.fetch_kept(&kept).await {
            // Retention may have been there since the ledger was read.
            Err(_) if is_deleted(intake, id, number).await? => {
                report.deleted += 1;
                expected = boundary(taken);
                continue;
            }
            file => file,
        };
        let (key, entry, from) = (key.clone(), taken.clone(), expected);
        let end = taken.first_index.saturating_add(taken.events);
        let heads: HashMap<u64, Vec<u8>> = host
            .heads
            .iter()
            .filter(|(events, _)| **events > taken.first_index && **events <= end)
            .map(|(events, hash)| (*events, hash.clone()))
            .collect();
        let checked =
            tokio::task::spawn_blocking(move || check(file, &key, &entry, from.as_ref(), &heads)).await;
        match checked {
            Ok(Ok(events)) => {
                report.segments += 1;
                report.events += events;
            }
            // Retention may have been there since the ledger was read.
            Ok(Err(_)) if is_deleted(intake, id, number).await? => report.deleted += 1,
            Ok(Err(error)) => report.problem(format!("host {id}, segment {number}: {error}")),
            Err(error) => report.problem(format!("host {id}, segment {number}: its check failed: {error}")),
        }
        expected = boundary(taken);
    }
    live(intake, id, host, expected.as_ref(), report).await?;
    // Those that were taken while this went on are not looked for.
    let mut strangers: Vec<u64> =
        kept.into_values().filter(|row| row.entry < report.entries).map(|row| row.number).collect();
    strangers.sort_unstable();
    for number in strangers {
        report.problem(format!("host {id}, segment {number}: it is in the database, and not in the ledger"));
    }
    Ok(())
}

/// Whether something other than a segment was entered about a host after the first `entries`: what was read of the
/// database since may be of later than the ledger.
async fn is_entered_since(intake: &Intake, host: &str, entries: u64) -> Result<bool, LedgerStoreError> {
    Ok(intake.store.host_entries(host).await?.iter().any(|number| *number >= entries))
}

async fn is_deleted(intake: &Intake, host: &str, number: u64) -> Result<bool, LedgerStoreError> {
    let segments = intake.store.segments(host, number, number).await?;
    Ok(segments.first().is_some_and(|segment| segment.deleted))
}

/// What came live and is not sealed yet: all that the ledger knows of must be there.
async fn live(
    intake: &Intake,
    id: &str,
    host: &Host,
    sealed: Option<&Boundary>,
    report: &mut Report,
) -> Result<(), LedgerStoreError> {
    let Some(sealed) = sealed else { return Ok(()) };
    let Some(last) = host.heads.keys().copied().max().filter(|last| *last > sealed.position.index) else {
        return Ok(());
    };
    let marks = intake.store.live_marks(id).await?;
    if intake.store.sealed_before(id).await? > sealed.segment {
        // They have come sealed while this went on.
        return Ok(());
    }
    let reached = marks.iter().map(|(_, end)| end.index).max().unwrap_or(sealed.position.index);
    if reached < last {
        report.problem(format!(
            "host {id}: the ledger has its HEAD over {last} events, and the live records end at {reached}: they \
             were removed"
        ));
    }
    for (_, end) in marks {
        if host.heads.get(&end.index).is_some_and(|hash| hash.as_slice() != end.hash) {
            report.problem(format!("host {id}: live records before event {} were altered", end.index));
        }
    }
    Ok(())
}

/// Where the next segment begins, by the ledger.
fn boundary(taken: &SegmentTaken) -> Option<Boundary> {
    Some(Boundary {
        segment: taken.segment.checked_add(1)?,
        position: interlock_recording::verify::Position {
            index: taken.first_index.checked_add(taken.events)?,
            hash: taken.final_hash.as_slice().try_into().ok()?,
        },
        header_sha256: Some(taken.header_sha256.as_slice().try_into().ok()?),
    })
}

/// A file's size in bytes and SHA-256.
pub(crate) fn hash(file: &mut impl Read) -> io::Result<(u64, [u8; 32])> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 128 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hash.finalize().into())),
            Ok(read) => {
                hash.update(buffer.get(..read).unwrap_or_default());
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Checks a segment's file; gives its number of events.
fn check(
    file: Result<File, ArchiveError>,
    key: &PublicKey,
    taken: &SegmentTaken,
    from: Option<&Boundary>,
    heads: &HashMap<u64, Vec<u8>>,
) -> Result<u64, String> {
    let altered = || "its file is not the one that was taken: it was altered".to_owned();
    let mut file = match file {
        Ok(file) => file,
        Err(ArchiveError::Missing { .. }) => {
            return Err("its file is missing, and no tombstone says why".to_owned());
        }
        Err(ArchiveError::Altered { .. }) => return Err(altered()),
        Err(error) => return Err(format!("its file cannot be read: {error}")),
    };
    let unreadable = |error: io::Error| format!("its file cannot be read: {error}");
    let (bytes, hash) = hash(&mut file).map_err(unreadable)?;
    if bytes != taken.file_bytes || hash.as_slice() != taken.file_sha256 {
        return Err(altered());
    }
    file.rewind().map_err(unreadable)?;
    let checked = check_segment(BufReader::new(file), key, from, &Limits::default(), |checked| {
        let next = checked.event.index + 1;
        match heads.get(&next) {
            Some(hash) if hash.as_slice() != checked.hash => Err(next),
            _ => Ok(()),
        }
    });
    match checked {
        Err(CheckError::Each(next)) => Err(format!(
            "its events before {next} are not those that the host's HEAD had when they came live"
        )),
        Ok(checked) => Ok(checked.events),
        Err(CheckError::Problem(problem)) => Err(problem.detail),
        Err(CheckError::Io(error)) => Err(error.to_string()),
    }
}
