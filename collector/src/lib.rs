//! The collector: receives agents' recordings, keeps, proves, searches and shows them.

pub mod cli;
