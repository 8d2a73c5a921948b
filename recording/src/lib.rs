//! The recording format: events, chain, signatures, verification, export.
//!
//! A host has one log. Each event in it is chained to the one before by SHA-256; runs of events lie in
//! segment files, which are compressed and signed when they are sealed; `HEAD` holds the host's signed
//! word on how far the log went. `docs/recording.md` describes it so that it can be verified without
//! this crate.

pub mod asciicast;
pub mod bundle;
pub mod chain;
pub mod checkpoint;
pub mod csv;
mod id;
pub mod json;
mod keys;
pub mod ledger;
pub mod log;
pub mod merkle;
pub mod note;
pub mod order;
/// The events, made from `proto/interlock/recording/v1/recording.proto`, where each field is described.
#[expect(missing_docs, clippy::doc_markdown, reason = "the descriptions stand in the .proto file")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/interlock.recording.v1.rs"));

    /// The ledger's entries, made from `proto/interlock/ledger/v1/ledger.proto`.
    pub mod ledger {
        include!(concat!(env!("OUT_DIR"), "/interlock.ledger.v1.rs"));
    }
}
pub mod ocsf;
pub mod query;
pub mod segment;
pub mod shipped;
mod signed;
pub mod terminal;
pub mod text;
pub mod verify;
pub mod wire;

pub use id::{ParseSessionIdError, SessionId};
pub use keys::{Domain, HostKey, KeyError, PublicKey, fill_random, hex};
pub use signed::SignedFileError;
#[cfg(feature = "fuzz")]
pub use verify::fuzz_segment;
pub use verify::{Problem, ProblemKind, Report, VerifyError, verify};
