//! Loads and attaches the eBPF programs; original destinations; process tracking.

mod selection;

pub use selection::{Entry, Pattern, Selection};
