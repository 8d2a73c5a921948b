//! What is read of TLS that is passed on, on hostile bytes.
#![no_main]

use interlock_agent::tls::{Certificate, hello};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = hello::opening(bytes);
    let _ = hello::answer(bytes);
    let _ = Certificate::read(bytes);
    // Most of what begins otherwise is no TLS.
    let mut record = vec![22, 3, 1];
    let length = u16::try_from(bytes.len()).unwrap_or(1 << 14).min(1 << 14);
    record.extend(length.to_be_bytes());
    record.extend(bytes);
    let _ = hello::opening(&record);
    let _ = hello::answer(&record);
});
