//! What the verification of a bundle finds, and what it goes by.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::ConsistencyProof;
use crate::keys::PublicKey;
use crate::ledger::LedgerError;
use crate::note::VerifierKey;
use crate::verify::Problem;

/// What whoever verifies has from elsewhere. Without any of it a bundle can only be shown to agree with
/// itself.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    /// Keys of collectors: one of them must be the bundle's.
    pub collectors: Vec<VerifierKey>,
    /// Keys of hosts: where there are any, every host in the bundle must be one of them.
    pub hosts: Vec<PublicKey>,
    /// Keys of witnesses: where there are any, one of them must have signed the checkpoint.
    pub witnesses: Vec<VerifierKey>,
    /// A checkpoint (signed note) of the same ledger that was kept: the bundle's must be of the same history.
    pub checkpoint: Option<Vec<u8>>,
    /// Proofs for that, beside those in the bundle.
    pub proofs: Vec<ConsistencyProof>,
}

/// A bundle could not be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be opened.
    #[error("cannot read {path}: {error}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It cannot be read.
    #[error("cannot read the bundle: {0}")]
    Io(#[from] io::Error),
    /// It is of a form that this version does not know.
    #[error("the bundle is of the format {0:?}, which this version does not read")]
    Format(String),
    /// The checkpoint that was kept is none of this ledger's.
    #[error("the checkpoint to compare with: {0}")]
    Known(LedgerError),
    /// Nothing shows whether the ledger at one checkpoint goes on from that at the other.
    #[error(
        "the checkpoint to compare with is of {known} entries, the bundle's of {bundle}, and there is no proof \
         that one goes on from the other. Ask the collector for the consistency proof from {} to {}",
        .known.min(.bundle), .known.max(.bundle)
    )]
    NoConsistency {
        /// The size of the checkpoint that was kept.
        known: u64,
        /// The size of the bundle's.
        bundle: u64,
    },
}

/// What the verification of a bundle found.
#[derive(Debug, Clone, Serialize)]
pub struct BundleReport {
    /// Nothing is wrong.
    pub ok: bool,
    /// The collector's key as the bundle has it: `name+id+base64`.
    pub collector_key: String,
    /// It is one of the keys that were given.
    pub collector_trusted: bool,
    /// When the bundle was made, for whom and why, as the collector has signed it.
    pub created: String,
    /// See `created`.
    pub requested_by: String,
    /// See `created`.
    pub reason: String,
    /// Entries in the ledger at the checkpoint, and the root over them (hexadecimal).
    pub ledger_entries: u64,
    /// See `ledger_entries`.
    pub ledger_root: String,
    /// Witnesses among the keys that were given who have signed the checkpoint, and when (RFC 3339).
    pub witnesses: Vec<(String, String)>,
    /// The hosts.
    pub hosts: Vec<HostReport>,
    /// The chosen sessions.
    pub sessions: Vec<SessionReport>,
    /// Segments in the bundle, and all events in them.
    pub segments: u64,
    /// See `segments`.
    pub events: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Problems beyond those that are listed.
    pub further_problems: u64,
    /// What is remarkable but not wrong.
    pub notes: Vec<String>,
}

/// A host in a bundle.
#[derive(Debug, Clone, Serialize)]
pub struct HostReport {
    /// SHA-256 of its public key.
    pub host: String,
    /// Its name, as it was enrolled.
    pub name: String,
    /// When it was enrolled, by the collector's clock.
    pub enrolled: String,
    /// Its key is one of those that were given.
    pub trusted: bool,
}

/// A session in a bundle.
#[derive(Debug, Clone, Serialize)]
pub struct SessionReport {
    /// Its id.
    pub session: String,
    /// Its host.
    pub host: String,
    /// It is whole.
    pub whole: bool,
    /// When it began and when its last event was, by the host's clock.
    pub started: String,
    /// See `started`.
    pub last: String,
    /// Why it ended; `None` where the agent's own end cut it off.
    pub ended: Option<String>,
    /// When the collector had taken all of it, by the collector's clock: it existed by then.
    pub taken: Option<String>,
    /// Its events, and the commands among them.
    pub events: u64,
    /// See `events`.
    pub commands: u64,
}
