//! Makes the Rust types of events and ledger entries from `proto/`, without the need for `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const SOURCES: [&str; 2] =
        ["proto/interlock/recording/v1/recording.proto", "proto/interlock/ledger/v1/ledger.proto"];
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let descriptors = protox::compile(SOURCES, ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
