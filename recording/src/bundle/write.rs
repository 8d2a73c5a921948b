//! Making a bundle. Everything is verified as it goes in: a bundle that is not whole is not made.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::sessions::Sessions;
use super::viewer::Page;
use super::{
    Base64Hash, CHECKPOINT, COLLECTOR, CONSISTENCY, ConsistencyProof, FORMAT, LEDGER, LedgerLine, MANIFEST,
    Manifest, ManifestFile, ManifestSession, SIGNATURE, VIEWER, archive, host_file, manifest_note,
    segment_file,
};
use crate::chain::{Hash, digest};
use crate::keys::PublicKey;
use crate::ledger::proto::SegmentTaken;
use crate::ledger::proto::entry::Body;
use crate::ledger::{self, LedgerError};
use crate::merkle;
use crate::note::{Checkpoint, NoteError, Signer};
use crate::segment::{SegmentError, SegmentReader};
use crate::verify::{Boundary, CheckError, Limits, Problem, check_segment};
use crate::{SessionId, hex, json};

/// What a bundle is made of and for.
#[derive(Debug, Clone)]
pub struct Request {
    /// When, nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// Who asked for it.
    pub requested_by: String,
    /// Why.
    pub reason: String,
    /// The sessions, each with the id of its host.
    pub sessions: Vec<(Hash, SessionId)>,
}

/// What became of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Segments in it.
    pub segments: u64,
    /// Events of the chosen sessions.
    pub events: u64,
    /// SHA-256 of its manifest, which is what was signed.
    pub manifest_sha256: Hash,
}

/// A bundle cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It cannot be written, or something that belongs in it cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The checkpoint is not the signer's, or something cannot be signed.
    #[error("the checkpoint {0}")]
    Checkpoint(#[from] LedgerError),
    /// An entry is not in the ledger at the checkpoint.
    #[error("entry {index}: {error}")]
    Entry {
        /// Its index.
        index: u64,
        /// What is wrong.
        error: LedgerError,
    },
    /// A segment is not whole, or not what the ledger says.
    #[error("segment {segment} of host {host}: {detail}", host = hex(host))]
    Segment {
        /// The host.
        host: Hash,
        /// Its number.
        segment: u64,
        /// What is wrong.
        detail: String,
    },
    /// A session would not be whole.
    #[error("session {session} would not be whole: {detail}")]
    Session {
        /// The session.
        session: SessionId,
        /// What is missing.
        detail: String,
    },
    /// What was given does not make a bundle.
    #[error("{0}")]
    Unsound(&'static str),
}

impl From<NoteError> for WriteError {
    fn from(error: NoteError) -> Self {
        Self::Checkpoint(error.into())
    }
}

/// Writes a bundle, piece by piece. First come the ledger's entries: for each host its `HostEnrolled`, for
/// each segment its `SegmentTaken`, and whatever else should be in it (`LedgerStarted`, findings,
/// tombstones, revocations). Then come the segments, by host and number: all from the one in which a chosen
/// session begins to the one in which it ends; of a session without an end, to the one in which the agent
/// started next.
pub struct Writer<'s, W: Write> {
    archive: tar::Builder<W>,
    signer: &'s Signer,
    checkpoint: Checkpoint,
    manifest: Manifest,
    entries: BTreeMap<u64, LedgerLine>,
    consistency: Vec<ConsistencyProof>,
    hosts: BTreeMap<Hash, Host>,
    taken: BTreeMap<(Hash, u64), (u64, SegmentTaken)>,
    sessions: Sessions,
    page: Page,
    written: Written,
}

struct Host {
    key: PublicKey,
    name: String,
    /// Where the last segment that is in the bundle ends.
    end: Option<Boundary>,
}

impl<'s, W: Write> Writer<'s, W> {
    /// Begins a bundle. `checkpoint` is the signed note with the witnesses' signatures; `signer` is the
    /// ledger's key, which must have signed it and signs the bundle's manifest.
    ///
    /// # Errors
    /// The checkpoint is not the signer's, no session is chosen, or the bundle cannot be written.
    pub fn new(
        output: W,
        request: Request,
        signer: &'s Signer,
        checkpoint: &[u8],
    ) -> Result<Self, WriteError> {
        if request.sessions.is_empty() {
            return Err(WriteError::Unsound("no session is chosen"));
        }
        let opened = ledger::open_checkpoint(checkpoint, signer.public())?;
        let mut sessions: Vec<ManifestSession> = request
            .sessions
            .iter()
            .map(|(host, session)| ManifestSession { session: session.to_string(), host: hex(host) })
            .collect();
        sessions.sort();
        sessions.dedup();
        let created = json::time(request.created_ns);
        let mut writer = Self {
            archive: tar::Builder::new(output),
            signer,
            page: Page::new(signer.public(), &opened, &created, &request.requested_by, &request.reason),
            checkpoint: opened,
            manifest: Manifest {
                format: FORMAT.to_owned(),
                created,
                requested_by: request.requested_by,
                reason: request.reason,
                sessions,
                files: Vec::new(),
            },
            entries: BTreeMap::new(),
            consistency: Vec::new(),
            hosts: BTreeMap::new(),
            taken: BTreeMap::new(),
            sessions: Sessions::new(request.sessions),
            written: Written { segments: 0, events: 0, manifest_sha256: [0; 32] },
        };
        writer.small(CHECKPOINT, checkpoint)?;
        writer.small(COLLECTOR, format!("{}\n", signer.public()).as_bytes())?;
        Ok(writer)
    }

    fn small(&mut self, name: &str, content: &[u8]) -> Result<Hash, WriteError> {
        self.file(name, content.len() as u64, content)
    }

    fn file(&mut self, name: &str, bytes: u64, content: impl Read) -> Result<Hash, WriteError> {
        let sha256 = archive::append(&mut self.archive, name, bytes, content)?;
        self.manifest.files.push(ManifestFile { name: name.to_owned(), bytes, sha256: hex(&sha256) });
        Ok(sha256)
    }

    /// Puts in entry `index` of the ledger: its bytes as they are stored, and the proof that it is in the
    /// ledger at the checkpoint.
    ///
    /// # Errors
    /// The proof does not show it, the entry contradicts one that is there, or the bundle cannot be written.
    pub fn entry(&mut self, index: u64, bytes: &[u8], proof: &[Hash]) -> Result<(), WriteError> {
        let entry = ledger::verify_entry(bytes, index, proof, &self.checkpoint)
            .map_err(|error| WriteError::Entry { index, error })?;
        let unsound = |what| WriteError::Entry { index, error: LedgerError::Unsound(what) };
        match entry.body {
            Some(Body::HostEnrolled(body)) => {
                let key = PublicKey::from_bytes(&body.public_key).ok_or(unsound("its key is none"))?;
                let host = Host { key, name: body.name, end: None };
                // Enrolled again under the same key: the first stands.
                let id = host.key.fingerprint();
                if let std::collections::btree_map::Entry::Vacant(place) = self.hosts.entry(id) {
                    let pem = place.insert(host).key.to_pem();
                    self.small(&host_file(&hex(&id)), pem.as_bytes())?;
                }
            }
            Some(Body::SegmentTaken(body)) => {
                let host = Hash::try_from(body.host.as_slice()).map_err(|_| unsound("its host is none"))?;
                let key = (host, body.segment);
                if self.taken.insert(key, (entry.at_ns, body)).is_some() && !self.entries.contains_key(&index)
                {
                    return Err(unsound("the segment was taken twice"));
                }
            }
            _ => {}
        }
        let proof = proof.iter().map(|hash| Base64Hash(*hash)).collect();
        self.entries.insert(index, LedgerLine { index, entry: STANDARD.encode(bytes), proof });
        Ok(())
    }

    /// Puts in a proof that the ledger goes on from an earlier checkpoint of it, for whoever kept that one.
    ///
    /// # Errors
    /// The proof does not show it.
    pub fn consistency(&mut self, first: u64, first_root: &Hash, proof: &[Hash]) -> Result<(), WriteError> {
        let (second, root) = (self.checkpoint.size, &self.checkpoint.root);
        merkle::verify_consistency(first, first_root, second, root, proof).map_err(LedgerError::from)?;
        let proof = proof.iter().map(|hash| Base64Hash(*hash)).collect();
        self.consistency.push(ConsistencyProof { first, second, proof });
        Ok(())
    }

    /// Puts in a segment, as it was taken. It is read twice.
    ///
    /// # Errors
    /// It is not whole, its entries are not there, it is not the one that they speak of, it is not in
    /// order, or the bundle cannot be written.
    pub fn segment(&mut self, mut file: impl Read + Seek) -> Result<(), WriteError> {
        file.seek(SeekFrom::Start(0))?;
        let reader = SegmentReader::new(&mut file).map_err(|error| match error {
            SegmentError::Io(error) => WriteError::Io(error),
            _ => WriteError::Unsound("a segment is damaged"),
        })?;
        let number = reader.header().segment;
        let id = Hash::try_from(reader.header().host.as_slice())
            .map_err(|_| WriteError::Unsound("a segment names no host"))?;
        drop(reader);
        let refused =
            |detail: &str| WriteError::Segment { host: id, segment: number, detail: detail.to_owned() };
        let host = self.hosts.get_mut(&id).ok_or_else(|| refused("the entry of its host is not there"))?;
        let (at_ns, taken) =
            self.taken.get(&(id, number)).ok_or_else(|| refused("its own entry is not there"))?;
        let from = host.end.filter(|end| end.segment == number);
        match host.end {
            Some(end) if end.segment > number => return Err(refused("it comes after a later one")),
            Some(_) if from.is_none() => self.sessions.gap(&id),
            _ => {}
        }
        file.seek(SeekFrom::Start(0))?;
        let (sessions, page) = (&mut self.sessions, &mut self.page);
        let mut events = 0;
        let checked = check_segment(&mut file, &host.key, from.as_ref(), &Limits::default(), |checked| {
            if sessions.event(&id, number, &checked.event) {
                events += 1;
                page.event(&id, &host.name, &checked.event)?;
            }
            Ok::<_, io::Error>(())
        })
        .map_err(|error| match error {
            CheckError::Problem(Problem { detail, .. }) => refused(&detail),
            CheckError::Io(error) | CheckError::Each(error) => WriteError::Io(error),
        })?;
        if !is_taken(&checked, taken) {
            return Err(refused("it is not the one that its entry speaks of"));
        }
        page.taken(&id, number, *at_ns);
        host.end = Some(checked.next);
        let (bytes, sha256) = (taken.file_bytes, taken.file_sha256.clone());
        self.written.events += events;
        self.written.segments += 1;
        file.seek(SeekFrom::Start(0))?;
        if self.file(&segment_file(&id, number), bytes, &mut file)?.as_slice() != sha256.as_slice()
            || file.read(&mut [0])? != 0
        {
            return Err(refused("its file is not the one that its entry speaks of"));
        }
        Ok(())
    }

    /// Completes the bundle, and gives back what it was written to.
    ///
    /// # Errors
    /// A chosen session is not whole, or the bundle cannot be written.
    pub fn finish(mut self) -> Result<(W, Written), WriteError> {
        let sessions = std::mem::replace(&mut self.sessions, Sessions::new([]));
        for (host, session, state) in sessions.finish() {
            if let Some(detail) = state.wrong {
                return Err(WriteError::Session { session, detail });
            }
            self.page.session(&host, &session, &state);
        }
        let mut lines = Vec::new();
        for line in self.entries.values() {
            serde_json::to_writer(&mut lines, line).map_err(io::Error::from)?;
            lines.push(b'\n');
        }
        self.small(LEDGER, &lines)?;
        if !self.consistency.is_empty() {
            lines.clear();
            for line in &self.consistency {
                serde_json::to_writer(&mut lines, line).map_err(io::Error::from)?;
                lines.push(b'\n');
            }
            self.small(CONSISTENCY, &lines)?;
        }
        let page = std::mem::take(&mut self.page).html()?;
        self.small(VIEWER, &page)?;
        let mut manifest = serde_json::to_vec_pretty(&self.manifest).map_err(io::Error::from)?;
        manifest.push(b'\n');
        let sha256 = digest(&manifest);
        let mut note = manifest_note(&sha256)?;
        note.sign(self.signer, 0);
        archive::append(&mut self.archive, MANIFEST, manifest.len() as u64, manifest.as_slice())?;
        let note = note.to_string();
        archive::append(&mut self.archive, SIGNATURE, note.len() as u64, note.as_bytes())?;
        self.written.manifest_sha256 = sha256;
        let mut output = self.archive.into_inner()?;
        output.flush()?;
        Ok((output, self.written))
    }
}

/// Whether a segment is the one that its entry speaks of, as far as its own content tells.
pub(super) fn is_taken(checked: &crate::verify::CheckedSegment, taken: &SegmentTaken) -> bool {
    checked.segment == taken.segment
        && checked.first_index == taken.first_index
        && checked.events == taken.events
        && checked.header_sha256.as_slice() == taken.header_sha256.as_slice()
        && checked.next.position.hash.as_slice() == taken.final_hash.as_slice()
}
