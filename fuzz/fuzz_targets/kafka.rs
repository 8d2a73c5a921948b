//! What Kafka brokers answer, on hostile bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| interlock_collector::outputs::exercise(bytes));
