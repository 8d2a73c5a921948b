//! Collectors that share PostgreSQL and S3: what one collector with a directory does, they do too.
#![expect(clippy::panic, reason = "a test fails by it")]

#[path = "../taken/evidence.rs"]
mod evidence;
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
mod process;
#[path = "../taken/retention.rs"]
mod retention;
mod scale;
mod search;
#[path = "../taken/support.rs"]
mod support;
