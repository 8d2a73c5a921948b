//! Small files that the host signs as a whole: `HEAD` and `SHIPPED`.
//!
//! ```text
//! eight bytes that say what it is  u32 length (little-endian), message  64 bytes signature
//! ```

use std::io;
use std::path::Path;

use prost::Message;

use crate::keys::{Domain, HostKey, PublicKey, SIGNATURE, write_new};

const MAX_FILE: u64 = 4096;

/// What is wrong with a signed file.
#[derive(Debug, thiserror::Error)]
pub enum SignedFileError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// There is none.
    #[error("is missing")]
    Missing,
    /// It does not have its form.
    #[error("is damaged")]
    Damaged,
    /// It is not what the host signed.
    #[error("does not bear the signature of this host's key")]
    Signature,
}

/// A kind of signed file.
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) magic: &'static [u8; 8],
    pub(crate) domain: Domain,
}

impl Form {
    /// Writes the file into `directory`, so that at any moment there is the old one or the new one.
    pub(crate) fn write(&self, directory: &Path, message: &impl Message, key: &HostKey) -> io::Result<()> {
        write_new(directory, self.name, &self.encode(message, key), 0o600)
    }

    pub(crate) fn encode(&self, message: &impl Message, key: &HostKey) -> Vec<u8> {
        let body = message.encode_to_vec();
        let signature = key.sign(self.domain, &body);
        [self.magic.as_slice(), &(body.len() as u32).to_le_bytes(), &body, &signature].concat()
    }

    pub(crate) fn read<M: Message + Default>(
        &self,
        directory: &Path,
        key: &PublicKey,
    ) -> Result<M, SignedFileError> {
        let path = directory.join(self.name);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_FILE => Err(SignedFileError::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SignedFileError::Missing),
            _ => self.parse(&std::fs::read(&path)?, key),
        }
    }

    pub(crate) fn parse<M: Message + Default>(
        &self,
        content: &[u8],
        key: &PublicKey,
    ) -> Result<M, SignedFileError> {
        let split = || {
            let rest = content.strip_prefix(self.magic)?;
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (body, signature) = rest.split_last_chunk::<SIGNATURE>()?;
            (body.len() == u32::from_le_bytes(*length) as usize).then_some((body, signature))
        };
        let (body, signature) = split().ok_or(SignedFileError::Damaged)?;
        if !key.verifies(self.domain, body, signature) {
            return Err(SignedFileError::Signature);
        }
        M::decode(body).map_err(|_| SignedFileError::Damaged)
    }
}
