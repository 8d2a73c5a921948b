//! Every decoder of PostgreSQL's messages and start-up packets, on hostile bytes.
#![no_main]

use interlock_agent::protocol::postgres::{codec, looks_like, startup};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    codec::exercise(bytes);
    let _ = looks_like(bytes);
    if let Ok(Some((startup::Packet::Startup(startup), length))) = startup::read(bytes) {
        assert!(length <= bytes.len());
        let _ = startup.parameters().count();
        let _ = startup.options();
    }
});
