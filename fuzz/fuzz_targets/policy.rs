//! Policy files of any content are read or refused, and nothing else.
#![no_main]

use interlock_agent::policy::parse_str;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = parse_str("fuzz.yaml", text) {
        assert!(!errors.to_string().is_empty());
    }
});
