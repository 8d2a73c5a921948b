//! `HEAD`: the host's signed word on how far its log went.
//!
//! ```text
//! "ILKHEAD1"  u32 length (little-endian), Checkpoint  64 bytes signature
//! ```

use std::io;
use std::path::Path;

use crate::keys::{Domain, HostKey, PublicKey};
use crate::proto::Checkpoint;
use crate::signed::{Form, SignedFileError};

/// The file's name in the directory of recordings.
pub const HEAD: &str = "HEAD";

const FORM: Form = Form { name: HEAD, magic: b"ILKHEAD1", domain: Domain::Checkpoint };

/// Writes `HEAD` into `directory`, so that at any moment there is the old one or the new one.
///
/// # Errors
/// The file cannot be written.
pub fn write(directory: &Path, checkpoint: &Checkpoint, key: &HostKey) -> io::Result<()> {
    FORM.write(directory, checkpoint, key)
}

/// The content of a `HEAD` file.
pub fn encode(checkpoint: &Checkpoint, key: &HostKey) -> Vec<u8> {
    FORM.encode(checkpoint, key)
}

/// Reads `HEAD` from `directory` and checks its signature.
///
/// # Errors
/// There is none, it is damaged, or `key`'s owner did not sign it.
pub fn read(directory: &Path, key: &PublicKey) -> Result<Checkpoint, SignedFileError> {
    FORM.read(directory, key)
}

/// Reads a checkpoint from a file's content.
///
/// # Errors
/// As for [`read`].
pub fn parse(content: &[u8], key: &PublicKey) -> Result<Checkpoint, SignedFileError> {
    FORM.parse(content, key)
}
