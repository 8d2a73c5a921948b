//! What Slack, or who pretends to be it, sends when somebody clicks.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| interlock_collector::approvals::ask::slack::exercise(bytes));
