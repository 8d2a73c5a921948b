//! The collector: receives agents' recordings, keeps, proves, searches and shows them.
//!
//! `intake` is what agents talk to, `web` what people talk to; between them stand the `store` (one database)
//! and the `archive` (segment files as they came). `docs/collector.md` describes the whole.

pub mod administer;
pub mod approvals;
pub mod archive;
pub mod audit;
pub mod authority;
mod cache;
pub mod cli;
pub mod config;
pub mod evidence;
mod gate;
pub mod http;
pub mod intake;
pub mod keeper;
pub mod keys;
pub mod migrate;
mod objects;
pub mod outputs;
pub mod policies;
pub mod retention;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
pub mod serve;
pub mod sign_in;
pub mod storage;
pub mod store;
mod together;
pub mod web;
