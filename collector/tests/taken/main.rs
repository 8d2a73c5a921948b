//! What agents ship, what becomes of it, and what it proves: over real TLS and HTTP/2.
#![expect(clippy::panic, reason = "a test fails by it")]

mod approvals;
mod evidence;
mod fair;
mod held;
mod hostile;
mod identities;
mod intake;
mod kept;
#[path = "../../../recording/tests/support/mod.rs"]
mod made;
mod order;
mod retention;
mod settled;
mod support;
mod tokens;
