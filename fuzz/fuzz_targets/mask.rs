//! All detectors on values of any content: what is masked is masked for good, and text stays text.
#![no_main]

use interlock_agent::mask::{Detector, Fired, HashKey, MaskSet, Transform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let masks = Detector::ALL
        .iter()
        .fold(MaskSet::builder(), |set, (detector, _)| {
            set.detector("all".into(), *detector, Transform::Redact)
        })
        .build(&HashKey::new(&[7; 32]));
    let mut out = Vec::new();
    if masks.detect(bytes, &mut out, &mut Fired::default()) && std::str::from_utf8(bytes).is_ok() {
        assert!(std::str::from_utf8(&out).is_ok());
    }
});
