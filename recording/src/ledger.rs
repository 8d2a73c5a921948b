//! The collector's **ledger**: one append-only Merkle log over all that the collector has taken in.
//! Its entries are [`Entry`] messages; their bytes are hashed as they are stored. `docs/proof.md` describes
//! how it is proven.

use prost::Message as _;

use crate::chain::{Hash, digest};
use crate::keys::PublicKey;
use crate::merkle::{self, MerkleError};
use crate::note::{Checkpoint, NoteError, VerifierKey};
/// The entries, made from `proto/interlock/ledger/v1/ledger.proto`, where each field is described.
pub use crate::proto::ledger as proto;
use proto::Entry;
use proto::entry::Body;

/// An entry may not be larger than this, in bytes.
pub const MAX_ENTRY: usize = 64 << 10;

/// What is wrong with an entry, or with what a proof says of the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The entry is over the limit.
    #[error("an entry of {0} bytes is over the limit of {MAX_ENTRY}")]
    Size(usize),
    /// The entry cannot be decoded.
    #[error("the entry cannot be decoded: {0}")]
    Damaged(#[from] prost::DecodeError),
    /// The entry contradicts itself.
    #[error("the entry is not sound: {0}")]
    Unsound(&'static str),
    /// A checkpoint is not what it should be.
    #[error("the checkpoint {0}")]
    Checkpoint(#[from] NoteError),
    /// Two checkpoints are of different ledgers.
    #[error("the checkpoints are of different ledgers: {first} and {second}")]
    Origin {
        /// One ledger's origin.
        first: String,
        /// The other's.
        second: String,
    },
    /// A proof does not hold.
    #[error(transparent)]
    Proof(#[from] MerkleError),
}

/// An entry as it is stored and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// Their hash in the tree.
    pub leaf: Hash,
}

/// An entry, appended at `at_ns` (nanoseconds since the Unix epoch), in the form in which it is stored.
///
/// # Errors
/// It is over the limit, or not sound (see [`decode`]).
pub fn encode(at_ns: u64, body: Body) -> Result<Stored, LedgerError> {
    let entry = Entry { at_ns, body: Some(body) };
    sound(&entry)?;
    let bytes = entry.encode_to_vec();
    if bytes.len() > MAX_ENTRY {
        return Err(LedgerError::Size(bytes.len()));
    }
    let leaf = leaf_hash(&bytes);
    Ok(Stored { bytes, leaf })
}

/// Reads an entry. One without a body is of a kind that this version does not know.
///
/// # Errors
/// It is over the limit, cannot be decoded, or has hashes, hosts or keys of a wrong length.
pub fn decode(bytes: &[u8]) -> Result<Entry, LedgerError> {
    if bytes.len() > MAX_ENTRY {
        return Err(LedgerError::Size(bytes.len()));
    }
    let entry = Entry::decode(bytes)?;
    sound(&entry)?;
    Ok(entry)
}

/// The hash of an entry's leaf.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    merkle::leaf_hash(entry)
}

fn sound(entry: &Entry) -> Result<(), LedgerError> {
    let hashes: &[&Vec<u8>] = match &entry.body {
        Some(Body::SegmentTaken(taken)) => {
            if taken.first_index.checked_add(taken.events).is_none() {
                return Err(LedgerError::Unsound("its events go beyond every number"));
            }
            &[&taken.host, &taken.header_sha256, &taken.file_sha256, &taken.final_hash]
        }
        Some(Body::HostEnrolled(body)) => {
            if digest(&body.public_key).as_slice() != body.host.as_slice()
                || PublicKey::from_bytes(&body.public_key).is_none()
            {
                return Err(LedgerError::Unsound("the host's id is not that of its key"));
            }
            &[]
        }
        Some(Body::LedgerStarted(body)) => &[&body.public_key],
        Some(Body::HostRevoked(body)) => &[&body.host],
        Some(Body::DisputeSettled(body)) => &[&body.host],
        Some(Body::HeadTaken(body)) => &[&body.host, &body.hash, &body.head_sha256],
        // Not everything that goes wrong can be laid at a host's door.
        Some(Body::Finding(body)) if body.host.is_empty() => &[],
        Some(Body::Finding(body)) => &[&body.host],
        Some(Body::Tombstone(body)) => &[&body.host, &body.file_sha256],
        Some(Body::PolicyVersionAdded(body)) => &[&body.content_sha256],
        Some(Body::PolicyOrdered(body)) => &[&body.host, &body.order_sha256],
        Some(Body::HostLabelled(body)) => &[&body.host],
        Some(Body::ApprovalGiven(body)) => &[&body.host, &body.digest],
        Some(Body::GlassReviewed(body)) => &[&body.host, &body.digest],
        Some(Body::HoldSet(_) | Body::HoldReleased(_) | Body::BundleMade(_) | Body::PolicyAssigned(_))
        | None => &[],
    };
    if hashes.iter().all(|hash| hash.len() == size_of::<Hash>()) {
        Ok(())
    } else {
        Err(LedgerError::Unsound("a hash in it is not of 32 bytes"))
    }
}

/// Verifies that these bytes are entry `index` of the ledger at `checkpoint`, and reads them.
///
/// # Errors
/// The proof does not show it, or the entry cannot be read.
pub fn verify_entry(
    bytes: &[u8],
    index: u64,
    proof: &[Hash],
    checkpoint: &Checkpoint,
) -> Result<Entry, LedgerError> {
    merkle::verify_inclusion(&leaf_hash(bytes), index, checkpoint.size, proof, &checkpoint.root)?;
    decode(bytes)
}

/// Verifies that the ledger at `second` is that at `first` with nothing but entries added at its end: what a
/// witness asks before it signs, and whoever kept an earlier checkpoint.
///
/// # Errors
/// It is not, or the proof does not show it.
pub fn verify_consistency(
    first: &Checkpoint,
    second: &Checkpoint,
    proof: &[Hash],
) -> Result<(), LedgerError> {
    if first.origin != second.origin {
        return Err(LedgerError::Origin { first: first.origin.clone(), second: second.origin.clone() });
    }
    Ok(merkle::verify_consistency(first.size, &first.root, second.size, &second.root, proof)?)
}

/// Opens a checkpoint of the ledger whose key this is: it must be that key's signature, and its name the
/// origin.
///
/// # Errors
/// It is not.
pub fn open_checkpoint(content: &[u8], key: &VerifierKey) -> Result<Checkpoint, LedgerError> {
    let (checkpoint, _) = Checkpoint::open(content, key.name(), std::slice::from_ref(key))?;
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostKey;
    use crate::merkle::{Frontier, Plan};
    use crate::note::{KeyKind, Signer};
    use std::collections::HashMap;

    fn taken(segment: u64) -> Body {
        Body::SegmentTaken(proto::SegmentTaken {
            host: vec![1; 32],
            segment,
            first_index: segment * 10,
            events: 10,
            header_sha256: vec![2; 32],
            file_sha256: vec![3; 32],
            file_bytes: 4096,
            final_hash: vec![4; 32],
        })
    }

    #[test]
    fn entries_are_sound_or_refused() {
        let key = HostKey::from_seed(&[1; 32]);
        let host = proto::HostEnrolled {
            host: key.public().fingerprint().to_vec(),
            public_key: key.public().as_bytes().to_vec(),
            name: "a".into(),
            who: "b".into(),
        };
        let stored = encode(5, Body::HostEnrolled(host.clone())).expect("sound");
        assert_eq!(decode(&stored.bytes).expect("decodes").body, Some(Body::HostEnrolled(host.clone())));
        let other = HostKey::from_seed(&[2; 32]).public().as_bytes().to_vec();
        let exchanged = proto::HostEnrolled { public_key: other, ..host.clone() };
        assert!(encode(5, Body::HostEnrolled(exchanged)).is_err());
        let long = proto::HostEnrolled { name: "n".repeat(MAX_ENTRY), ..host };
        assert!(matches!(encode(5, Body::HostEnrolled(long)), Err(LedgerError::Size(_))));
        let Body::SegmentTaken(mut segment) = taken(1) else { panic!("a segment") };
        segment.first_index = u64::MAX;
        assert!(encode(5, Body::SegmentTaken(segment.clone())).is_err());
        (segment.first_index, segment.final_hash) = (0, vec![0; 31]);
        assert!(encode(5, Body::SegmentTaken(segment)).is_err());
        // A kind that a later version adds.
        let unknown = [&stored.bytes[..9], &[0xfa, 0x07, 1, 0]].concat();
        assert_eq!(decode(&unknown).expect("decodes"), Entry { at_ns: 5, body: None });
    }

    /// The way a collector keeps the ledger, and what an auditor makes of it.
    #[test]
    fn back_dated_dropped_and_rewritten_entries_do_not_prove() {
        let signer = Signer::from_seed("c.test/ledger", KeyKind::Note, &[7; 32]).expect("a key");
        let mut tree = Frontier::new();
        let mut nodes = HashMap::new();
        let mut entries = Vec::new();
        let mut checkpoints = Vec::new();
        for number in 0..12 {
            let stored = encode(1000 + number, taken(number)).expect("sound");
            nodes.extend(tree.append(stored.leaf));
            entries.push(stored);
            let checkpoint = Checkpoint {
                origin: "c.test/ledger".into(),
                size: tree.size(),
                root: tree.root(),
                extensions: Vec::new(),
            };
            let mut note = checkpoint.note().expect("a note");
            note.sign(&signer, 0);
            checkpoints.push(open_checkpoint(note.to_string().as_bytes(), signer.public()).expect("opens"));
        }
        let lookup = |node| nodes.get(&node).copied();
        let last = &checkpoints[11];
        let proof = Plan::inclusion(4, 12).and_then(|plan| plan.finish(lookup)).expect("a proof");
        assert_eq!(verify_entry(&entries[4].bytes, 4, &proof, last).expect("proven").at_ns, 1004);
        let backdated = encode(900, taken(4)).expect("sound");
        assert!(verify_entry(&backdated.bytes, 4, &proof, last).is_err());
        assert!(verify_entry(&entries[5].bytes, 4, &proof, last).is_err());
        assert!(verify_entry(&entries[4].bytes, 4, &proof, &checkpoints[10]).is_err(), "an older tree");
        let proof = Plan::consistency(5, 12).and_then(|plan| plan.finish(lookup)).expect("a proof");
        verify_consistency(&checkpoints[4], last, &proof).expect("goes on from it");
        assert!(verify_consistency(last, &checkpoints[4], &proof).is_err(), "rolled back");
        let mut rewritten = last.clone();
        rewritten.root[0] ^= 1;
        assert!(verify_consistency(&checkpoints[4], &rewritten, &proof).is_err());
        let other = Checkpoint { origin: "d.test".into(), ..last.clone() };
        assert!(matches!(
            verify_consistency(&checkpoints[4], &other, &proof),
            Err(LedgerError::Origin { .. })
        ));
    }
}
