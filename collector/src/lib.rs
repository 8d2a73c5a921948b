//! The collector: receives agents' recordings, keeps, proves, searches and shows them.

pub mod archive;
pub mod cli;
pub mod intake;
pub mod store;
pub mod web;
