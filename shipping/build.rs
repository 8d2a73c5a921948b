//! Makes the messages and the service from `proto/`, without the need for `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const SOURCE: &str = "proto/interlock/shipping/v1/shipping.proto";
    println!("cargo::rerun-if-changed={SOURCE}");
    let descriptors = protox::compile([SOURCE], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_transport(false)
        .bytes(".interlock.shipping.v1.SealedPart.data")
        .bytes(".interlock.shipping.v1.Live.records")
        .compile_fds(descriptors)?;
    Ok(())
}
