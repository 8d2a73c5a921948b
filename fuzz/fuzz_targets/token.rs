//! Tokens of OpenID Connect issuers, their keys and metadata, on hostile bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| interlock_agent::identity::oidc::exercise(bytes));
