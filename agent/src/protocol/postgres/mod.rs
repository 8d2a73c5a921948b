//! The PostgreSQL frontend/backend protocol, version 3 (PostgreSQL manual, part "Frontend/Backend
//! Protocol"; as of servers 10 to 18).
//!
//! [`serve`] stands between client and server: start-up in [`startup`], then one poll loop for both
//! directions (`session`). See `docs/postgres.md` for what is decoded and refused, and how.

pub(crate) mod auth;
pub mod codec;
pub(crate) mod intended;
mod operation;
mod request;
mod session;
pub mod startup;
pub mod values;

pub use session::{serve, turn_away};
pub use startup::{Detection, looks_like};
