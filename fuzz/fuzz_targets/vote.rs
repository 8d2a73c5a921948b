//! Decisions on requests for approval as a collector tells them, on hostile bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| interlock_agent::ship::exercise(bytes));
