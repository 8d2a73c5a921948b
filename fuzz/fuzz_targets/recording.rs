//! A segment of any content is read or refused, in bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| interlock_recording::fuzz_segment(bytes));
