//! What agents and collectors say to one another: enrolment and the shipping of recordings.
//!
//! The messages are described in `proto/interlock/shipping/v1/shipping.proto`.

/// The messages and the services, made from the `.proto` file.
#[expect(missing_docs, clippy::doc_markdown, reason = "the descriptions stand in the .proto file")]
#[expect(clippy::large_enum_variant, reason = "one message at a time is read or written, none is kept")]
pub mod v1 {
    tonic::include_proto!("interlock.shipping.v1");
}
mod person;
mod token;

pub use person::{NAME_CLAIMS, Name, Names, may_be_one};
pub use token::{ParseTokenError, Token};

/// Bytes of a sealed segment's file in one message, at most.
pub const MAX_PART: usize = 256 << 10;
/// Bytes of live records in one message, at most.
pub const MAX_LIVE: usize = 1 << 20;
/// A message's size in bytes, at most: the largest ones and what is around them.
pub const MAX_MESSAGE: usize = MAX_LIVE + (64 << 10);
/// A request for approval, in bytes, at most.
pub const MAX_APPROVAL: usize = 512 << 10;
/// A reason for a decision, in bytes, at most.
pub const MAX_REASON: usize = 1000;
/// Groups and login names of one account that an agent looks at, at most.
pub const MAX_NAMES: usize = 256;
/// Tokens in one message, at most.
pub const MAX_TOKENS: usize = 256;
/// The application protocol of the collector's port for agents (HTTP/2, RFC 9113).
pub const ALPN: &[u8] = b"h2";
/// What the host key signs at enrolment: SHA-256 of the token's secret, then of the certificate request.
pub fn enrolment_message(secret: &str, certificate_request: &[u8]) -> [u8; 64] {
    use sha2::{Digest as _, Sha256};
    let mut message = [0; 64];
    let (of_secret, of_request) = message.split_at_mut(32);
    of_secret.copy_from_slice(&Sha256::digest(secret.as_bytes()));
    of_request.copy_from_slice(&Sha256::digest(certificate_request));
    message
}
