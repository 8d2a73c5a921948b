//! A collector's ledger as small as can be, and bundles of it.

use std::collections::HashMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use interlock_recording::bundle::{Request, WriteError, Writer};
use interlock_recording::chain::{Hash, digest};
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{HostEnrolled, LedgerStarted, SegmentTaken};
use interlock_recording::ledger::{self, Stored};
use interlock_recording::log::segment_name;
use interlock_recording::merkle::{Frontier, Node, Plan};
use interlock_recording::note::{Checkpoint, KeyKind, Signer};
use interlock_recording::verify::{Limits, check_segment};
use interlock_recording::{PublicKey, SessionId};

pub(crate) const ORIGIN: &str = "collector.test/ledger";
/// When the first entry was appended; each later one a second after.
pub(crate) const BEGUN_NS: u64 = 1_700_000_100_000_000_000;

pub(crate) struct Collector {
    pub(crate) signer: Signer,
    pub(crate) entries: Vec<Stored>,
    tree: Frontier,
    nodes: HashMap<Node, Hash>,
}

impl Collector {
    pub(crate) fn new(seed: u8) -> Self {
        let signer = Signer::from_seed(ORIGIN, KeyKind::Note, &[seed; 32]).expect("a key");
        let public_key = signer.public().as_bytes().to_vec();
        let mut new = Self { signer, entries: Vec::new(), tree: Frontier::new(), nodes: HashMap::new() };
        new.append(Body::LedgerStarted(LedgerStarted { origin: ORIGIN.into(), public_key }));
        new
    }

    pub(crate) fn append(&mut self, body: Body) {
        let at_ns = BEGUN_NS + self.entries.len() as u64 * 1_000_000_000;
        self.store(ledger::encode(at_ns, body).expect("sound"));
    }

    pub(crate) fn store(&mut self, stored: Stored) {
        self.nodes.extend(self.tree.append(stored.leaf));
        self.entries.push(stored);
    }

    pub(crate) fn enrol(&mut self, host: &PublicKey, name: &str) {
        self.append(Body::HostEnrolled(HostEnrolled {
            host: host.fingerprint().to_vec(),
            public_key: host.as_bytes().to_vec(),
            name: name.into(),
            who: "admin".into(),
        }));
    }

    /// Takes a sealed segment as a collector does.
    pub(crate) fn take(&mut self, directory: &Path, number: u64, host: &PublicKey) {
        let bytes = fs::read(directory.join(segment_name(number, true))).expect("read");
        let checked = check_segment(Cursor::new(&bytes), host, None, &Limits::default(), |_| {
            Ok::<_, std::convert::Infallible>(())
        })
        .expect("whole");
        self.append(Body::SegmentTaken(SegmentTaken {
            host: host.fingerprint().to_vec(),
            segment: checked.segment,
            first_index: checked.first_index,
            events: checked.events,
            header_sha256: checked.header_sha256.to_vec(),
            file_sha256: digest(&bytes).to_vec(),
            file_bytes: bytes.len() as u64,
            final_hash: checked.next.position.hash.to_vec(),
        }));
    }

    pub(crate) fn size(&self) -> u64 {
        self.tree.size()
    }

    pub(crate) fn root(&self) -> Hash {
        self.tree.root()
    }

    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        let checkpoint = Checkpoint {
            origin: ORIGIN.into(),
            size: self.tree.size(),
            root: self.tree.root(),
            extensions: Vec::new(),
        };
        let mut note = checkpoint.note().expect("a note");
        note.sign(&self.signer, 0);
        note.to_string().into_bytes()
    }

    pub(crate) fn proof(&self, plan: &Plan) -> Vec<Hash> {
        plan.finish(|node| self.nodes.get(&node).copied()).expect("stored")
    }

    pub(crate) fn inclusion(&self, index: u64) -> Vec<Hash> {
        self.proof(&Plan::inclusion(index, self.size()).expect("a leaf"))
    }

    /// A bundle of these sessions and segments, with all of the ledger's entries.
    pub(crate) fn bundle(
        &self,
        sessions: &[(Hash, SessionId)],
        segments: &[Vec<u8>],
        earlier: Option<(u64, Hash)>,
    ) -> Result<Vec<u8>, WriteError> {
        let request = Request {
            created_ns: BEGUN_NS + 1_000_000_000_000,
            requested_by: "auditor@example.test".into(),
            reason: "case 7".into(),
            sessions: sessions.to_vec(),
        };
        let mut writer = Writer::new(Vec::new(), request, &self.signer, &self.checkpoint())?;
        for (index, entry) in (0..).zip(&self.entries) {
            writer.entry(index, &entry.bytes, &self.inclusion(index))?;
        }
        if let Some((size, root)) = earlier {
            let plan = Plan::consistency(size, self.size()).expect("sizes");
            writer.consistency(size, &root, &self.proof(&plan))?;
        }
        for segment in segments {
            writer.segment(Cursor::new(segment))?;
        }
        Ok(writer.finish()?.0)
    }
}
