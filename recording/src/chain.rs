//! The hash chain over the host's events, and the fixed beginning of an event.

use sha2::{Digest as _, Sha256};

use crate::SessionId;
use crate::keys::PublicKey;
use crate::wire::Writer;

/// A SHA-256 digest.
pub type Hash = [u8; 32];

const GENESIS: &[u8] = b"interlock recording v1 genesis\0";

/// An event may not be larger than this, in bytes.
pub const MAX_EVENT: usize = 64 << 20;

/// The hash that stands before the first event of a host's log.
pub fn genesis(host: &PublicKey) -> Hash {
    Sha256::new().chain_update(GENESIS).chain_update(host.as_bytes()).finalize().into()
}

/// The chain's hash after `event`: SHA-256 over the hash before it and the event's exact bytes.
pub fn link(previous: &Hash, event: &[u8]) -> Hash {
    Sha256::new().chain_update(previous).chain_update(event).finalize().into()
}

/// SHA-256 of some bytes.
pub fn digest(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// What is known of an event only at the moment when it takes its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Position in the host's log.
    pub index: u64,
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Nanoseconds since boot.
    pub monotonic_ns: u64,
    /// Position in the session; not written into events of the host.
    pub sequence: u64,
}

// The beginning of an event as the agent writes it: fields 1 to 3 (fixed64), then for events of a session
// field 4 (16 bytes) and field 5 (fixed64). All are of fixed size, so that they can be filled in last.
const INDEX: usize = 1;
const WALL: usize = 10;
const MONOTONIC: usize = 19;
const SEQUENCE: usize = 46;

/// Begins an event at the end of `buffer`, for a session or for the host. The body's field is appended
/// next, then [`stamp`] fills in the rest.
pub fn begin(buffer: &mut Vec<u8>, session: Option<SessionId>) {
    let mut writer = Writer::new(buffer);
    writer.always_fixed64(1, 0);
    writer.always_fixed64(2, 0);
    writer.always_fixed64(3, 0);
    if let Some(session) = session {
        writer.always_bytes(4, session.as_bytes());
        writer.always_fixed64(5, 0);
    }
}

/// Fills in an event that [`begin`] began.
pub fn stamp(event: &mut [u8], stamp: &Stamp) {
    let mut put = |at: usize, value: u64| {
        if let Some(place) = event.get_mut(at..at + 8) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    };
    put(INDEX, stamp.index);
    put(WALL, stamp.wall_ns);
    put(MONOTONIC, stamp.monotonic_ns);
    if event.get(27) == Some(&0x22) {
        put_sequence(event, stamp.sequence);
    }
}

fn put_sequence(event: &mut [u8], sequence: u64) {
    if let Some(place) = event.get_mut(SEQUENCE..SEQUENCE + 8) {
        place.copy_from_slice(&sequence.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto;

    #[test]
    fn stamps_land_in_their_fields() {
        let session = SessionId::new(7, [9; 10]);
        for session in [None, Some(session)] {
            let mut bytes = Vec::new();
            begin(&mut bytes, session);
            // A host's event whose body happens to be long enough to reach where a sequence would stand.
            Writer::new(&mut bytes).message(13, |body| body.string(1, &"h".repeat(64)));
            stamp(&mut bytes, &Stamp { index: u64::MAX, wall_ns: 2, monotonic_ns: 3, sequence: 4 });
            let event = proto::Event::decode(bytes.as_slice()).expect("decodes");
            assert_eq!((event.index, event.wall_ns, event.monotonic_ns), (u64::MAX, 2, 3));
            assert_eq!(event.sequence, if session.is_some() { 4 } else { 0 });
            assert_eq!(SessionId::from_slice(&event.session), session);
            let Some(proto::event::Body::PolicyLoaded(body)) = event.body else { panic!("the body is lost") };
            assert_eq!(body.hash, "h".repeat(64));
        }
    }
}
