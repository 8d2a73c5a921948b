//! What a verification finds.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Nothing is wrong.
    pub ok: bool,
    /// The host whose key the recording was verified against: SHA-256 of the public key.
    pub host: String,
    /// Segments.
    pub segments: u64,
    /// Segments that are not sealed yet.
    pub open_segments: u64,
    /// Events.
    pub events: u64,
    /// Events before these, which the host has signed to have shipped to a collector and removed here.
    pub shipped_events: u64,
    /// Events at the end, beyond the last signed checkpoint: written in the second before the agent was
    /// last seen. Their chain holds, but nothing signed proves yet that none is missing after them.
    pub unattested: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// Sessions without an end: still going on, or cut off when the agent was killed.
    pub unfinished_sessions: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Problems beyond those that are listed.
    pub further_problems: u64,
    /// What is remarkable but not wrong.
    pub notes: Vec<String>,
}

/// Something wrong with a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of thing.
    pub kind: ProblemKind,
    /// The file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The event's index in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<u64>,
    /// The event's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What exactly is wrong.
    pub detail: String,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Something is not as it was written.
    Altered,
    /// Events or segments are not there.
    Missing,
    /// Events or segments are not where they belong, or there twice.
    Reordered,
    /// The end is not there.
    Truncated,
    /// `HEAD` was put back to an earlier one.
    RolledBack,
    /// A signature is not this host's.
    Signature,
    /// A file cannot be read.
    Unreadable,
    /// A proof does not show what it should.
    Proof,
    /// Something is there that does not belong there.
    Unexpected,
}

/// A recording could not be verified at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the directory of recordings {path}: {error}")]
pub struct VerifyError {
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}
