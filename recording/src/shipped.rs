//! `SHIPPED`: the host's signed word that a collector has the segments up to some place, so that they may
//! be removed here. Without it a recording that does not begin with segment 0 is one with segments missing.
//!
//! ```text
//! "ILKSHIP1"  u32 length (little-endian), Shipped  64 bytes signature
//! ```
//! Whoever has the host's key can sign anything here: what was shipped only the collector's copy proves.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::chain::Hash;
use crate::keys::{Domain, HostKey, PublicKey};
use crate::log;
use crate::proto::Shipped;
use crate::segment::{SegmentError, SegmentReader};
use crate::signed::{Form, SignedFileError};
use crate::verify::{Boundary, Position};

/// The file's name in the directory of recordings.
pub const SHIPPED: &str = "SHIPPED";
/// A collector's name may not be longer than this, in bytes.
const MAX_COLLECTOR: usize = 255;

const FORM: Form = Form { name: SHIPPED, magic: b"ILKSHIP1", domain: Domain::Shipped };

/// `SHIPPED` is not written, or nothing is removed by it.
#[derive(Debug, thiserror::Error)]
pub enum ShippedError {
    /// The file that is there is not the host's.
    #[error("{SHIPPED} {0}")]
    File(#[from] SignedFileError),
    /// A file or the directory cannot be read or written.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A segment is not one to go by.
    #[error("{path} {error}")]
    Segment {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        error: SegmentError,
    },
    /// What was acknowledged is not what is here.
    #[error("segment {segment} is not the one that the collector has: {reason}. Nothing is removed")]
    Differs {
        /// The segment's number.
        segment: u64,
        /// In what.
        reason: &'static str,
    },
    /// The collector's name does not fit.
    #[error("a collector's name has at most {MAX_COLLECTOR} bytes")]
    Name,
}

/// Reads `SHIPPED` from `directory` and checks its signature and its form.
///
/// # Errors
/// There is none, it is damaged, another host's, or `key`'s owner did not sign it.
pub fn read(directory: &Path, key: &PublicKey) -> Result<(Shipped, Boundary), SignedFileError> {
    let shipped: Shipped = FORM.read(directory, key)?;
    let boundary = boundary(&shipped).ok_or(SignedFileError::Damaged)?;
    if shipped.host != key.fingerprint() {
        return Err(SignedFileError::Signature);
    }
    Ok((shipped, boundary))
}

fn boundary(shipped: &Shipped) -> Option<Boundary> {
    let hash = shipped.previous_hash.as_slice().try_into().ok()?;
    let header_sha256 = shipped.previous_header_sha256.as_slice().try_into().ok()?;
    let position = Position { index: shipped.first_index, hash };
    // Something was shipped, or there would be no such file.
    (shipped.segment > 0).then_some(Boundary {
        segment: shipped.segment,
        position,
        header_sha256: Some(header_sha256),
    })
}

/// Signs that `collector` has every sealed segment up to number `segment`, the last of which ends in the
/// chain's hash `final_hash`, as the collector acknowledged it. `wall_ns` is the time (nanoseconds since the
/// Unix epoch). When this returns, the file is on disk and [`prune`] may follow. One that says the same or
/// more already is left as it is.
///
/// # Errors
/// The segment that is here is not the one that was acknowledged, the segment after it does not go on from
/// it, the `SHIPPED` that is there is not this host's, or a file cannot be read or written.
pub fn write(
    directory: &Path,
    collector: &str,
    segment: u64,
    final_hash: &Hash,
    wall_ns: u64,
    key: &HostKey,
) -> Result<(), ShippedError> {
    if collector.len() > MAX_COLLECTOR {
        return Err(ShippedError::Name);
    }
    match read(directory, key.public()) {
        Ok((_, there)) if there.segment > segment => return Ok(()),
        Ok(_) | Err(SignedFileError::Missing) => {}
        Err(error) => return Err(error.into()),
    }
    let differs = |reason| ShippedError::Differs { segment, reason };
    // What the host signed when it sealed, not what an open segment's header says: nothing protects that.
    let sealed = open(&directory.join(log::segment_name(segment, true)))?;
    let header = sealed.header();
    let footer = sealed
        .footer()
        .filter(|footer| footer.verifies(key.public()))
        .map(|signed| &signed.footer)
        .filter(|footer| footer.header_sha256 == sealed.header_sha256() && header.segment == segment)
        .ok_or(differs("it does not bear the signature of this host's key"))?;
    if footer.final_hash != final_hash {
        return Err(differs("it ends in another hash"));
    }
    let end = Boundary {
        segment: segment.saturating_add(1),
        position: Position { index: header.first_index.saturating_add(footer.events), hash: *final_hash },
        header_sha256: Some(sealed.header_sha256()),
    };
    let following = [true, false].map(|sealed| directory.join(log::segment_name(end.segment, sealed)));
    let next = match following.iter().find(|path| path.exists()) {
        Some(path) => open(path)?,
        None => return Err(differs("there is no segment after it, and the last one stays")),
    };
    if Boundary::before(next.header()) != Some(end) {
        return Err(differs("the segment after it does not go on where it ends"));
    }
    let shipped = Shipped {
        host: key.public().fingerprint().to_vec(),
        segment: end.segment,
        first_index: end.position.index,
        previous_hash: end.position.hash.to_vec(),
        previous_header_sha256: sealed.header_sha256().to_vec(),
        collector: collector.to_owned(),
        wall_ns,
    };
    FORM.write(directory, &shipped, key).map_err(|error| ShippedError::Io {
        action: "write",
        path: directory.join(SHIPPED),
        error,
    })
}

fn open(path: &Path) -> Result<SegmentReader<'static>, ShippedError> {
    SegmentReader::open(path).map_err(|error| ShippedError::Segment { path: path.to_owned(), error })
}

/// Removes the sealed segments that `SHIPPED` lets go, the oldest first, and gives how many bytes that
/// made free. Killed on the way, it goes on when it is called again. Without `SHIPPED` nothing is removed.
///
/// # Errors
/// `SHIPPED` is not this host's, or a file cannot be removed.
pub fn prune(directory: &Path, key: &PublicKey) -> Result<u64, ShippedError> {
    let shipped = match read(directory, key) {
        Ok((shipped, _)) => shipped,
        Err(SignedFileError::Missing) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |error| ShippedError::Io { action, path, error }
    };
    let listing = log::list(directory).map_err(io("read", directory))?;
    let mut freed = 0;
    for file in listing.segments.iter().filter(|file| file.sealed && file.number < shipped.segment) {
        fs::remove_file(&file.path).map_err(io("remove", &file.path))?;
        freed += file.bytes;
    }
    if freed > 0 {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("flush", directory))?;
    }
    Ok(freed)
}
