//! Verifying a bundle, with nothing but it and public keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::archive::{self, Files, Part, Source};
pub use super::report::{BundleError, BundleReport, HostReport, SessionReport, Trusted};
use super::sessions::Sessions;
use super::write::is_taken;
use super::{
    CHECKPOINT, COLLECTOR, CONSISTENCY, ConsistencyProof, FORMAT, LEDGER, LedgerLine, MANIFEST, Manifest,
    SIGNATURE, VIEWER, host_file, manifest_note, plain, segment_file,
};
use crate::chain::Hash;
use crate::keys::PublicKey;
use crate::ledger::proto::SegmentTaken;
use crate::ledger::proto::entry::Body;
use crate::ledger::{self, LedgerError};
use crate::note::{Checkpoint, KeyKind, MAX_NOTE, Note, VerifierKey};
use crate::verify::{Boundary, CheckError, Limits, Problem, ProblemKind, check_segment};
use crate::{SessionId, hex, json};

/// No file but segments and the page is larger than this, in bytes.
const MAX_SMALL: u64 = 64 << 20;
/// Problems beyond this many are counted, not kept.
const MAX_PROBLEMS: usize = 1000;
/// Notes beyond this many are left out.
const MAX_NOTES: usize = 1000;
/// Clocks that are this much apart are worth a note (nanoseconds).
const CLOCKS_NS: u64 = 300_000_000_000;

/// Verifies the bundle in the file `path`. Memory does not grow with its segments.
///
/// # Errors
/// It cannot be read, is of an unknown format, or cannot be compared with the checkpoint that was given.
/// Whatever is wrong with it is in the report.
pub fn verify(path: &Path, trusted: &Trusted) -> Result<BundleReport, BundleError> {
    let mut file =
        std::fs::File::open(path).map_err(|error| BundleError::Open { path: path.into(), error })?;
    verify_file(&mut file, trusted)
}

/// Verifies the bundle in `file`.
///
/// # Errors
/// As for [`verify`].
pub fn verify_file(
    file: &mut (impl std::io::Read + std::io::Seek),
    trusted: &Trusted,
) -> Result<BundleReport, BundleError> {
    let mut reader = Reader {
        files: archive::list(file)?,
        file,
        trusted,
        known: [MANIFEST, SIGNATURE].map(str::to_owned).into(),
        report: BundleReport {
            ok: false,
            collector_key: String::new(),
            collector_trusted: false,
            created: String::new(),
            requested_by: String::new(),
            reason: String::new(),
            ledger_entries: 0,
            ledger_root: String::new(),
            witnesses: Vec::new(),
            hosts: Vec::new(),
            sessions: Vec::new(),
            segments: 0,
            events: 0,
            problems: Vec::new(),
            further_problems: 0,
            notes: Vec::new(),
        },
    };
    for problem in std::mem::take(&mut reader.files.problems) {
        reader.problem(ProblemKind::Altered, None, problem);
    }
    reader.run()?;
    let mut report = reader.report;
    report.ok = report.problems.is_empty();
    Ok(report)
}

struct Reader<'r, F> {
    file: &'r mut F,
    files: Files,
    trusted: &'r Trusted,
    /// Names of files that have their place in the bundle.
    known: BTreeSet<String>,
    report: BundleReport,
}

/// What the ledger's entries in the bundle say.
#[derive(Default)]
struct Entries {
    hosts: BTreeMap<Hash, PublicKey>,
    taken: BTreeMap<(Hash, u64), (u64, SegmentTaken)>,
    deleted: BTreeSet<(Hash, u64)>,
}

impl<F: Source> Reader<'_, F> {
    fn problem(&mut self, kind: ProblemKind, file: Option<&str>, detail: impl Into<String>) {
        let detail = detail.into();
        self.push(Problem { kind, file: file.map(str::to_owned), event: None, session: None, detail });
    }

    fn push(&mut self, problem: Problem) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(problem);
        } else {
            self.report.further_problems += 1;
        }
    }

    fn note(&mut self, note: String) {
        if self.report.notes.len() < MAX_NOTES {
            self.report.notes.push(note);
        }
    }

    /// A small file's content; what is wrong with it is said.
    fn content(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, BundleError> {
        self.known.insert(name.to_owned());
        let Some(place) = self.files.files.get(name) else {
            self.problem(ProblemKind::Missing, Some(name), "the file is missing");
            return Ok(None);
        };
        let content = Part::new(self.file, *place).content(limit)?;
        if content.is_none() {
            self.problem(ProblemKind::Altered, Some(name), "the file is larger than any such file");
        }
        Ok(content)
    }

    fn run(&mut self) -> Result<(), BundleError> {
        let manifest = self.manifest()?;
        let Some(key) = self.collector()? else { return Ok(()) };
        self.signature(&key)?;
        let Some(checkpoint) = self.checkpoint(&key)? else { return Ok(()) };
        self.history(&key, &checkpoint)?;
        let entries = self.entries(&checkpoint, &key)?;
        self.hosts(&entries)?;
        let chosen = manifest.as_ref().map(|manifest| self.chosen(manifest)).unwrap_or_default();
        self.segments(&entries, Sessions::new(chosen))?;
        // What the page shows nobody verifies here, only that it is the collector's.
        self.known.insert(VIEWER.to_owned());
        let strangers: Vec<String> =
            self.files.files.keys().filter(|name| !self.known.contains(*name)).cloned().collect();
        for name in strangers {
            self.problem(ProblemKind::Unexpected, Some(&name), "the file has no place in the bundle");
        }
        Ok(())
    }

    /// Reads the manifest and compares the files with it.
    fn manifest(&mut self) -> Result<Option<Manifest>, BundleError> {
        let Some(content) = self.content(MANIFEST, MAX_SMALL)? else { return Ok(None) };
        let manifest: Manifest = match serde_json::from_slice(&content) {
            Ok(manifest) => manifest,
            Err(error) => {
                let format = serde_json::from_slice::<serde_json::Value>(&content).ok();
                let format = format.and_then(|value| value.get("format")?.as_str().map(str::to_owned));
                if let Some(format) = format.filter(|format| format != FORMAT) {
                    return Err(BundleError::Format(format));
                }
                self.problem(ProblemKind::Altered, Some(MANIFEST), format!("it cannot be read: {error}"));
                return Ok(None);
            }
        };
        if manifest.format != FORMAT {
            return Err(BundleError::Format(manifest.format));
        }
        let mut listed = BTreeSet::new();
        for file in &manifest.files {
            if !listed.insert(file.name.as_str()) {
                self.problem(ProblemKind::Altered, Some(MANIFEST), format!("it lists {:?} twice", file.name));
            }
            match self.files.files.get(&file.name) {
                None => self.problem(ProblemKind::Missing, Some(&file.name), "the file is missing"),
                Some(place) if place.bytes != file.bytes || hex(&place.sha256) != file.sha256 => {
                    let detail = "the file is not the one that the manifest lists";
                    self.problem(ProblemKind::Altered, Some(&file.name), detail);
                }
                Some(_) => {}
            }
        }
        let unlisted: Vec<String> = self
            .files
            .files
            .keys()
            .filter(|name| ![MANIFEST, SIGNATURE].contains(&name.as_str()) && !listed.contains(name.as_str()))
            .cloned()
            .collect();
        for name in unlisted {
            self.problem(ProblemKind::Unexpected, Some(&name), "the manifest does not list the file");
        }
        self.report.created.clone_from(&manifest.created);
        self.report.requested_by.clone_from(&manifest.requested_by);
        self.report.reason.clone_from(&manifest.reason);
        Ok(Some(manifest))
    }

    /// The key that everything must be signed by: a trusted one, if any is given.
    fn collector(&mut self) -> Result<Option<VerifierKey>, BundleError> {
        let content = self.content(COLLECTOR, MAX_NOTE as u64)?;
        let own = content.map(|content| {
            let text = std::str::from_utf8(&content).unwrap_or_default();
            let key = VerifierKey::from_str(text).ok();
            key.filter(|key| key.kind() == KeyKind::Note && format!("{key}\n") == text)
        });
        let own = match own {
            Some(None) => {
                self.problem(ProblemKind::Altered, Some(COLLECTOR), "it holds no verifier key");
                None
            }
            own => own.flatten(),
        };
        if let Some(own) = &own {
            self.report.collector_key = own.to_string();
            if self.trusted.collectors.contains(own) {
                self.report.collector_trusted = true;
            } else if self.trusted.collectors.is_empty() {
                self.note(format!(
                    "no trusted key of the collector was given: its key came out of the bundle itself, and anybody \
                     can make a bundle with a key of their own. Compare {own} with what the collector's operator \
                     tells you by another way, or name that with --collector-key"
                ));
            } else {
                let detail =
                    format!("the bundle is of the collector {own}, which is none of those that were given");
                self.problem(ProblemKind::Signature, Some(COLLECTOR), detail);
            }
        }
        let known = self.trusted.collectors.first().cloned();
        Ok(own.filter(|_| self.report.collector_trusted || known.is_none()).or(known))
    }

    fn signature(&mut self, key: &VerifierKey) -> Result<(), BundleError> {
        let Some(content) = self.content(SIGNATURE, MAX_NOTE as u64)? else { return Ok(()) };
        let Some(place) = self.files.files.get(MANIFEST) else { return Ok(()) };
        let sha256 = place.sha256;
        let checked = Note::parse(&content).and_then(|note| {
            note.verify(std::slice::from_ref(key))?;
            Ok(manifest_note(&sha256)?.text() == note.text())
        });
        match checked {
            Ok(true) => {}
            Ok(false) => {
                self.problem(ProblemKind::Altered, Some(MANIFEST), "it is not the one that was signed");
            }
            Err(error) => self.problem(ProblemKind::Signature, Some(SIGNATURE), format!("it {error}")),
        }
        Ok(())
    }

    fn checkpoint(&mut self, key: &VerifierKey) -> Result<Option<Checkpoint>, BundleError> {
        let Some(content) = self.content(CHECKPOINT, MAX_NOTE as u64)? else { return Ok(None) };
        let checkpoint = match ledger::open_checkpoint(&content, key) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.problem(ProblemKind::Signature, Some(CHECKPOINT), error.to_string());
                return Ok(None);
            }
        };
        self.report.ledger_entries = checkpoint.size;
        self.report.ledger_root = hex(&checkpoint.root);
        if !self.trusted.witnesses.is_empty() {
            match Note::parse(&content).and_then(|note| note.verify(&self.trusted.witnesses)) {
                Ok(signed) => {
                    let time = |time_s: Option<u64>| {
                        time_s.map_or_else(String::new, |time| json::time(time.saturating_mul(1_000_000_000)))
                    };
                    self.report.witnesses =
                        signed.into_iter().map(|signed| (signed.name, time(signed.time_s))).collect();
                }
                Err(error) => {
                    let detail = format!("the checkpoint {error}");
                    self.problem(ProblemKind::Signature, Some(CHECKPOINT), detail);
                }
            }
        }
        Ok(Some(checkpoint))
    }

    /// Compares the checkpoint with one that was kept.
    fn history(&mut self, key: &VerifierKey, checkpoint: &Checkpoint) -> Result<(), BundleError> {
        let mut proofs: Vec<ConsistencyProof> = Vec::new();
        if self.files.files.contains_key(CONSISTENCY)
            && let Some(content) = self.content(CONSISTENCY, MAX_SMALL)?
        {
            match lines(&content) {
                Ok(lines) => proofs = lines,
                Err(detail) => self.problem(ProblemKind::Altered, Some(CONSISTENCY), detail),
            }
        }
        let Some(known) = &self.trusted.checkpoint else { return Ok(()) };
        let known = ledger::open_checkpoint(known, key).map_err(BundleError::Known)?;
        let (first, second) =
            if known.size <= checkpoint.size { (&known, checkpoint) } else { (checkpoint, &known) };
        let trivial = Vec::new();
        let of = |proof: &ConsistencyProof| (proof.first, proof.second) == (first.size, second.size);
        let given = self.trusted.proofs.iter().chain(&proofs).find(|proof| of(proof));
        let given = match given {
            Some(given) => plain(&given.proof),
            None if first.size == second.size || first.size == 0 => trivial,
            None => {
                return Err(BundleError::NoConsistency { known: known.size, bundle: checkpoint.size });
            }
        };
        if let Err(error) = ledger::verify_consistency(first, second, &given) {
            let detail = format!(
                "the ledger of {} entries is not the one that was seen with {}: its history was rewritten ({error})",
                checkpoint.size, known.size
            );
            self.problem(ProblemKind::RolledBack, Some(CHECKPOINT), detail);
        } else if known.size > checkpoint.size {
            let behind = known.size - checkpoint.size;
            self.note(format!(
                "the bundle's checkpoint is {behind} entries older than the one that was given"
            ));
        }
        Ok(())
    }

    fn entries(&mut self, checkpoint: &Checkpoint, key: &VerifierKey) -> Result<Entries, BundleError> {
        let mut entries = Entries::default();
        let Some(content) = self.content(LEDGER, MAX_SMALL)? else { return Ok(entries) };
        let lines: Vec<LedgerLine> = match lines(&content) {
            Ok(lines) => lines,
            Err(detail) => {
                self.problem(ProblemKind::Altered, Some(LEDGER), detail);
                return Ok(entries);
            }
        };
        let mut before: Option<(u64, u64)> = None;
        for line in lines {
            let entry = STANDARD
                .decode(&line.entry)
                .map_err(|_| LedgerError::Unsound("it is not base64"))
                .and_then(|bytes| ledger::verify_entry(&bytes, line.index, &plain(&line.proof), checkpoint));
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let detail = format!("entry {} is not proven: {error}", line.index);
                    self.problem(ProblemKind::Proof, Some(LEDGER), detail);
                    continue;
                }
            };
            match before {
                Some((index, _)) if index >= line.index => {
                    let detail = format!("entry {} stands behind entry {index}", line.index);
                    self.problem(ProblemKind::Reordered, Some(LEDGER), detail);
                }
                Some((index, at_ns)) if at_ns > entry.at_ns => self.note(format!(
                    "entry {} of the ledger is earlier than entry {index} before it: the collector's clock was set \
                     back",
                    line.index
                )),
                _ => {}
            }
            before = Some((line.index, entry.at_ns));
            let at = json::time(entry.at_ns);
            if let Err(detail) = self.entry(entry.at_ns, entry.body, &at, key, &mut entries) {
                self.problem(ProblemKind::Altered, Some(LEDGER), format!("entry {}: {detail}", line.index));
            }
        }
        Ok(entries)
    }

    fn entry(
        &mut self,
        at_ns: u64,
        body: Option<Body>,
        at: &str,
        key: &VerifierKey,
        entries: &mut Entries,
    ) -> Result<(), String> {
        let hash = |bytes: &[u8]| Hash::try_from(bytes).map_err(|_| "it names no host".to_owned());
        match body {
            Some(Body::LedgerStarted(body)) => {
                if body.origin != key.name() || body.public_key != key.as_bytes() {
                    return Err("the ledger was begun under another key or name".into());
                }
            }
            Some(Body::HostEnrolled(body)) => {
                let host = PublicKey::from_bytes(&body.public_key).ok_or("it holds no key")?;
                let id = host.fingerprint();
                if entries.hosts.insert(id, host.clone()).is_none() {
                    let trusted = self.trusted.hosts.contains(&host);
                    let enrolled = at.to_owned();
                    let report = HostReport { host: hex(&id), name: body.name, enrolled, trusted };
                    self.report.hosts.push(report);
                }
            }
            Some(Body::SegmentTaken(body)) => {
                let place = (hash(&body.host)?, body.segment);
                if entries.taken.insert(place, (at_ns, body)).is_some() {
                    return Err("the segment was taken twice".into());
                }
            }
            Some(Body::HostRevoked(body)) => {
                let host = hex(&body.host);
                self.note(format!("host {host} was revoked on {at} by {:?}: {:?}", body.who, body.reason));
            }
            Some(Body::DisputeSettled(body)) => {
                let what = if body.resumed { "goes on" } else { "has ended for ever" };
                self.note(format!(
                    "the dispute about host {} was settled on {at} by {:?}, and its recording {what}: {:?}",
                    hex(&body.host),
                    body.who,
                    body.reason
                ));
            }
            Some(Body::Tombstone(body)) => {
                entries.deleted.insert((hash(&body.host)?, body.segment));
                self.note(format!(
                    "segment {} of host {} was deleted on {at} by {:?}: {:?}",
                    body.segment,
                    hex(&body.host),
                    body.who,
                    body.reason
                ));
            }
            Some(Body::Finding(body)) => {
                let host = hex(&body.host);
                self.note(format!(
                    "the collector found on {at}, host {host}: {:?}: {:?}",
                    body.kind, body.detail
                ));
            }
            Some(
                Body::HeadTaken(_)
                | Body::HoldSet(_)
                | Body::HoldReleased(_)
                | Body::BundleMade(_)
                | Body::PolicyVersionAdded(_)
                | Body::PolicyAssigned(_)
                | Body::PolicyOrdered(_)
                | Body::HostLabelled(_)
                | Body::ApprovalGiven(_)
                | Body::GlassReviewed(_),
            ) => {}
            None => self.note(format!("an entry of {at} is of a kind that this version does not know")),
        }
        Ok(())
    }

    /// The hosts' keys are those of the ledger, and those that were given.
    fn hosts(&mut self, entries: &Entries) -> Result<(), BundleError> {
        for (id, key) in &entries.hosts {
            let name = host_file(&hex(id));
            if let Some(pem) = self.content(&name, MAX_NOTE as u64)?
                && pem != key.to_pem().as_bytes()
            {
                self.problem(ProblemKind::Altered, Some(&name), "it is not the key that the ledger enrolled");
            }
            if !self.trusted.hosts.is_empty() && !self.trusted.hosts.contains(key) {
                let detail = "the host's key is none of those that were given";
                self.problem(ProblemKind::Signature, Some(&name), detail);
            }
        }
        if !self.report.collector_trusted && self.trusted.hosts.is_empty() && !entries.hosts.is_empty() {
            self.note(
                "the hosts' keys came out of the bundle as well: compare their ids with those that were noted when \
                 the agents were installed, or name the keys with --host-key"
                    .into(),
            );
        }
        Ok(())
    }

    fn chosen(&mut self, manifest: &Manifest) -> Vec<(Hash, SessionId)> {
        let mut chosen = Vec::new();
        for named in &manifest.sessions {
            let host = unhex(&named.host);
            match (host, named.session.parse::<SessionId>()) {
                (Some(host), Ok(session)) => chosen.push((host, session)),
                _ => {
                    let detail = "a session that it names is none".to_owned();
                    self.problem(ProblemKind::Altered, Some(MANIFEST), detail);
                }
            }
        }
        if chosen.is_empty() {
            self.problem(ProblemKind::Missing, Some(MANIFEST), "it names no session");
        }
        chosen
    }

    fn segments(&mut self, entries: &Entries, mut sessions: Sessions) -> Result<(), BundleError> {
        let mut end: Option<(Hash, Boundary)> = None;
        for ((host, number), (at_ns, taken)) in &entries.taken {
            let name = segment_file(host, *number);
            self.known.insert(name.clone());
            let Some(place) = self.files.files.get(&name).copied() else {
                if !entries.deleted.contains(&(*host, *number)) {
                    self.problem(ProblemKind::Missing, Some(&name), "the segment is missing");
                }
                continue;
            };
            self.report.segments += 1;
            if place.sha256.as_slice() != taken.file_sha256.as_slice() || place.bytes != taken.file_bytes {
                let detail = "the file is not the one that the collector took";
                self.problem(ProblemKind::Altered, Some(&name), detail);
            }
            let Some(key) = entries.hosts.get(host) else {
                let detail = "no entry of the ledger enrols its host";
                self.problem(ProblemKind::Proof, Some(&name), detail);
                continue;
            };
            let from =
                end.take().filter(|(of, end)| of == host && end.segment == *number).map(|(_, end)| end);
            if from.is_none() {
                sessions.gap(host);
            }
            let mut events = 0;
            let part = Part::new(self.file, place);
            let checked = check_segment(part, key, from.as_ref(), &Limits::default(), |checked| {
                events += 1;
                sessions.event(host, *number, &checked.event);
                Ok::<_, std::convert::Infallible>(())
            });
            self.report.events += events;
            match checked {
                Ok(checked) => {
                    if !is_taken(&checked, taken) {
                        let detail = "it is not the segment that its entry in the ledger speaks of";
                        self.problem(ProblemKind::Proof, Some(&name), detail);
                    }
                    if checked.closed_ns > at_ns.saturating_add(CLOCKS_NS) {
                        self.note(format!(
                            "{name} was sealed on {} by its host's clock, and taken on {}: the clocks are apart",
                            json::time(checked.closed_ns),
                            json::time(*at_ns)
                        ));
                    }
                    end = Some((*host, checked.next));
                }
                Err(CheckError::Problem(problem)) => self.push(Problem { file: Some(name), ..problem }),
                Err(CheckError::Io(error)) => return Err(error.into()),
                Err(CheckError::Each(never)) => match never {},
            }
        }
        self.sessions(entries, sessions);
        Ok(())
    }

    fn sessions(&mut self, entries: &Entries, sessions: Sessions) {
        for (host, session, state) in sessions.finish() {
            if let Some(detail) = &state.wrong {
                self.push(Problem {
                    kind: ProblemKind::Missing,
                    file: None,
                    event: None,
                    session: Some(session.to_string()),
                    detail: format!("the session is not whole: {detail}"),
                });
            }
            if state.cut_off {
                self.note(format!("session {session} has no end of its own: its agent ended before it did"));
            }
            let (first, last) = state.segments;
            let taken = entries.taken.range((host, first)..=(host, last.max(first)));
            let taken = taken.map(|(_, (at_ns, _))| *at_ns).max().filter(|_| state.begun);
            self.report.sessions.push(SessionReport {
                session: session.to_string(),
                host: hex(&host),
                whole: state.wrong.is_none(),
                started: json::time(state.started_ns),
                last: json::time(state.last_ns),
                ended: state.ended,
                taken: taken.map(json::time),
                events: state.events,
                commands: state.commands,
            });
        }
    }
}

/// The values in a file of one JSON object a line.
fn lines<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<Vec<T>, String> {
    let text = content.strip_suffix(b"\n").unwrap_or(content);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(at, line)| serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", at + 1)))
        .collect()
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (place, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *place = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}
