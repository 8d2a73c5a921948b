//! Notes, checkpoints, keys and ledger entries of any content are read or refused; what is read is written
//! the same again.
#![no_main]

use interlock_recording::{ledger, note};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    note::fuzz(bytes);
    let _ = ledger::decode(bytes);
});
