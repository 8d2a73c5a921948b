//! The recording format: events, chain, signatures, verification, export.

mod id;

pub use id::{ParseSessionIdError, SessionId};
