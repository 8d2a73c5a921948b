//! Evidence bundles: chosen sessions with all that proves them, in one file that is handed to an auditor.
//!
//! A bundle is a tar archive of plain files under `evidence/`. It holds the segments in which the sessions
//! lie, whole and as the host sealed them; the entries of the collector's ledger that say when they were
//! taken, with proofs that they are in it; the ledger's signed checkpoint; the keys; a page to look at the
//! sessions; and a signed list of all this. `docs/proof.md` describes it so that it can be verified without
//! this crate.

mod archive;
mod read;
mod report;
mod sessions;
mod viewer;
mod write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::chain::Hash;
use crate::hex;
use crate::log::segment_name;
use crate::note::{Note, NoteError};

pub use read::{BundleError, BundleReport, HostReport, SessionReport, Trusted, verify, verify_file};
pub use write::{Request, WriteError, Writer, Written};

/// What stands in every manifest.
const FORMAT: &str = "interlock evidence bundle v1";
/// The first line of what is signed of a manifest.
const SIGNED: &str = "interlock evidence manifest v1";

const MANIFEST: &str = "evidence/manifest.json";
const SIGNATURE: &str = "evidence/manifest.sig";
const CHECKPOINT: &str = "evidence/checkpoint";
const COLLECTOR: &str = "evidence/collector.vkey";
const LEDGER: &str = "evidence/ledger.jsonl";
const CONSISTENCY: &str = "evidence/consistency.jsonl";
const VIEWER: &str = "evidence/viewer.html";

fn host_file(host: &str) -> String {
    format!("evidence/hosts/{host}.pub")
}

fn segment_file(host: &Hash, segment: u64) -> String {
    format!("evidence/segments/{}/{}", hex(host), segment_name(segment, true))
}

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    /// RFC 3339.
    created: String,
    /// Who asked for it, and why.
    requested_by: String,
    reason: String,
    sessions: Vec<ManifestSession>,
    /// Every file but the manifest and its signature.
    files: Vec<ManifestFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestSession {
    /// Hexadecimal.
    session: String,
    host: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The note that is signed of a manifest.
fn manifest_note(sha256: &Hash) -> Result<Note, NoteError> {
    Note::new(format!("{SIGNED}\n{}\n", hex(sha256)))
}

/// A line of `ledger.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerLine {
    index: u64,
    /// The entry's bytes, base64.
    entry: String,
    proof: Vec<Base64Hash>,
}

/// A proof that the ledger of `second` entries goes on from that of `first`: a line of `consistency.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyProof {
    /// The earlier size.
    pub first: u64,
    /// The later one.
    pub second: u64,
    /// The hashes.
    pub proof: Vec<Base64Hash>,
}

/// A hash that is written in base64, as in checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base64Hash(pub Hash);

impl Serialize for Base64Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).ok();
        let hash = bytes.and_then(|bytes| Hash::try_from(bytes).ok());
        hash.map(Self).ok_or_else(|| serde::de::Error::custom("a hash is 32 bytes in base64"))
    }
}

/// Verifies an archive whose form is sound and each of whose small files holds a part of these bytes, split
/// at zero bytes: the entry point for fuzzing.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz_files(bytes: &[u8]) {
    let mut archive = tar::Builder::new(Vec::new());
    let names = [MANIFEST, SIGNATURE, CHECKPOINT, COLLECTOR, LEDGER, CONSISTENCY, VIEWER];
    for (name, content) in names.iter().zip(bytes.split(|byte| *byte == 0)) {
        let _ = archive::append(&mut archive, name, content.len() as u64, content);
    }
    if let Ok(archive) = archive.into_inner() {
        let _ = verify_file(&mut std::io::Cursor::new(archive), &Trusted::default());
    }
}

/// Hashes without their form.
fn plain(proof: &[Base64Hash]) -> Vec<Hash> {
    proof.iter().map(|hash| hash.0).collect()
}
