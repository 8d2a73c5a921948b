//! Collectors that share PostgreSQL and S3: what one collector with a directory does, they do too.
#![expect(clippy::panic, reason = "a test fails by it")]

#[path = "../taken/approvals.rs"]
mod approvals;
#[path = "../taken/evidence.rs"]
mod evidence;
#[path = "../taken/held.rs"]
mod held;
#[path = "../taken/hostile.rs"]
mod hostile;
#[path = "../taken/identities.rs"]
mod identities;
#[path = "../taken/intake.rs"]
mod intake;
mod kept;
#[path = "../../../recording/tests/support/mod.rs"]
mod made;
mod moved;
mod outputs;
mod pages;
mod process;
#[path = "../outputs/receivers.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "here only the HTTP server is told")]
mod receivers;
#[path = "../taken/retention.rs"]
mod retention;
mod scale;
mod search;
mod statements;
#[path = "../taken/support.rs"]
mod support;
#[path = "../taken/tokens.rs"]
mod tokens;
