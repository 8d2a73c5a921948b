//! Makes the Rust types of the events from `proto/`, without the need for `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const SOURCE: &str = "proto/interlock/recording/v1/recording.proto";
    println!("cargo::rerun-if-changed={SOURCE}");
    let descriptors = protox::compile([SOURCE], ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
