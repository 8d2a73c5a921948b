//! Places in a host's log, and what is judged of each event: the same for whoever verifies a directory and
//! for a collector that takes segments in.

use prost::Message as _;

use super::ProblemKind;
use super::weight::weight;
use crate::chain::{Hash, genesis, link};
use crate::keys::PublicKey;
use crate::proto::event::Body;
use crate::proto::{Event, SegmentHeader};

/// Where a host's log stands after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The next event's index.
    pub index: u64,
    /// The chain's hash after the event before.
    pub hash: Hash,
}

/// Where a host's log stands between two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// The next segment's number.
    pub segment: u64,
    /// Where its first event stands.
    pub position: Position,
    /// SHA-256 of the header of the segment before; none before the first.
    pub header_sha256: Option<Hash>,
}

impl Position {
    /// Before the first event of a host's log.
    pub fn genesis(host: &PublicKey) -> Self {
        Self { index: 0, hash: genesis(host) }
    }
}

impl Boundary {
    /// Before the first segment of a host's log.
    pub fn genesis(host: &PublicKey) -> Self {
        Self { segment: 0, position: Position::genesis(host), header_sha256: None }
    }

    /// Where a segment says that it begins; `None` when its hashes are none.
    pub fn before(header: &SegmentHeader) -> Option<Self> {
        let header_sha256 = match header.previous_header_sha256.as_slice() {
            [] => None,
            hash => Some(hash.try_into().ok()?),
        };
        let hash = header.previous_hash.as_slice().try_into().ok()?;
        let position = Position { index: header.first_index, hash };
        Some(Self { segment: header.segment, position, header_sha256 })
    }
}

/// A record's event, and what is wrong with it at the place where it stands.
pub(super) struct Judged {
    pub(super) event: Option<Event>,
    pub(super) wrong: Option<(ProblemKind, String)>,
    /// Where the log stands after it. From here on each event is judged by itself, so that whatever is
    /// wrong with the ones after it can be found too.
    pub(super) next: Position,
}

/// Judges the record `bytes` with the hash `stored`, which stands at `position`. `memory` bounds what the
/// event may take up when it is decoded.
pub(super) fn judge(position: &Position, bytes: &[u8], stored: &Hash, memory: u64) -> Judged {
    let due = position.index;
    let chained = link(&position.hash, bytes) == *stored;
    let decoded = if weight(bytes) > memory {
        Err("it would take up more memory than any event does".to_owned())
    } else {
        Event::decode(bytes).map_err(|error| error.to_string())
    };
    let wrong = match &decoded {
        Ok(event) if event.index == due && chained => None,
        Ok(event) if event.index == due => Some((
            ProblemKind::Altered,
            "the event was altered: it does not give the hash that stands with it".to_owned(),
        )),
        Ok(event) if event.index > due => Some((
            ProblemKind::Missing,
            format!("event {} stands here: the events before it are missing or moved", event.index),
        )),
        Ok(event) => Some((
            ProblemKind::Reordered,
            format!("event {} stands here: it was moved or is there twice", event.index),
        )),
        Err(error) => Some((ProblemKind::Altered, format!("the event cannot be decoded: {error}"))),
    };
    let event = decoded.ok();
    let index = event.as_ref().map_or(due, |event| event.index.max(due)).saturating_add(1);
    Judged { event, wrong, next: Position { index, hash: *stored } }
}

/// Follows a session from event to event. `next` is the `sequence` that is due, `None` before the session
/// has begun; gives the one that is due after `event`, `None` when the session has ended.
///
/// # Errors
/// The event does not stand where it belongs; says why.
pub fn session_step(next: Option<u64>, event: &Event) -> Result<Option<u64>, String> {
    match (next, &event.body) {
        (None, Some(Body::FlowStarted(_))) if event.sequence == 0 => {}
        (None, _) => return Err("the session has not begun".into()),
        (Some(due), _) if event.sequence == due => {}
        (Some(due), _) => {
            return Err(format!("the session's event {due} is due, {} stands here", event.sequence));
        }
    }
    let ended = matches!(event.body, Some(Body::SessionEnded(_)));
    Ok((!ended).then(|| event.sequence.saturating_add(1)))
}
