//! An evidence bundle of any content is verified or refused, in bounded memory; none that nobody made is
//! whole.
#![no_main]

use std::io::Cursor;

use interlock_recording::bundle::{Trusted, verify_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(report) = verify_file(&mut Cursor::new(bytes), &Trusted::default()) {
        assert!(!report.ok);
    }
    // As one file of an archive whose form is sound: most bytes would not get past that.
    interlock_recording::bundle::fuzz_files(bytes);
});
