//! Statements of any content are understood or said to be unparsed, and secrets in them are found.
#![no_main]

use interlock_agent::sql;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let script = sql::analyze(text);
    assert!(script.statements.len() <= text.len() + 1);
    let _ = sql::redact_secrets(text);
});
