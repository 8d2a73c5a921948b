//! `HEAD`: the host's signed word on how far its log went.
//!
//! ```text
//! "ILKHEAD1"  u32 length (little-endian), Checkpoint  64 bytes signature
//! ```

use std::io;
use std::path::Path;

use prost::Message as _;

use crate::keys::{Domain, HostKey, PublicKey, SIGNATURE, write_new};
use crate::proto::Checkpoint;

/// The file's name in the directory of recordings.
pub const HEAD: &str = "HEAD";

const MAGIC: &[u8; 8] = b"ILKHEAD1";
const MAX_FILE: u64 = 4096;

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// There is none.
    #[error("is missing")]
    Missing,
    /// It does not have a checkpoint's form.
    #[error("is damaged")]
    Damaged,
    /// It is not what the host signed.
    #[error("does not bear the signature of this host's key")]
    Signature,
}

/// Writes `HEAD` into `directory`, so that at any moment there is the old one or the new one.
///
/// # Errors
/// The file cannot be written.
pub fn write(directory: &Path, checkpoint: &Checkpoint, key: &HostKey) -> io::Result<()> {
    write_new(directory, HEAD, &encode(checkpoint, key), 0o600)
}

/// The content of a `HEAD` file.
pub fn encode(checkpoint: &Checkpoint, key: &HostKey) -> Vec<u8> {
    let body = checkpoint.encode_to_vec();
    let signature = key.sign(Domain::Checkpoint, &body);
    [MAGIC.as_slice(), &(body.len() as u32).to_le_bytes(), &body, &signature].concat()
}

/// Reads `HEAD` from `directory` and checks its signature.
///
/// # Errors
/// There is none, it is damaged, or `key`'s owner did not sign it.
pub fn read(directory: &Path, key: &PublicKey) -> Result<Checkpoint, CheckpointError> {
    let path = directory.join(HEAD);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(CheckpointError::Damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CheckpointError::Missing),
        _ => parse(&std::fs::read(&path)?, key),
    }
}

/// Reads a checkpoint from a file's content.
///
/// # Errors
/// As for [`read`].
pub fn parse(content: &[u8], key: &PublicKey) -> Result<Checkpoint, CheckpointError> {
    let split = || {
        let rest = content.strip_prefix(MAGIC)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (body, signature) = rest.split_last_chunk::<SIGNATURE>()?;
        (body.len() == u32::from_le_bytes(*length) as usize).then_some((body, signature))
    };
    let (body, signature) = split().ok_or(CheckpointError::Damaged)?;
    if !key.verifies(Domain::Checkpoint, body, signature) {
        return Err(CheckpointError::Signature);
    }
    Checkpoint::decode(body).map_err(|_| CheckpointError::Damaged)
}
