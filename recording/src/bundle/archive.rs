//! The archive: a tar file in which everything but names and contents is fixed, so that nothing can be
//! hidden in it and no byte of it can be changed unseen.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::chain::Hash;

/// More files than any bundle has.
const MAX_FILES: usize = 1 << 20;
const BLOCK: u64 = 512;

/// A header has room for 11 octal digits.
const MAX_FILE: u64 = (1 << 33) - 1;

/// The header of every file; `None` when the name or the size does not fit.
fn header(name: &str, bytes: u64) -> Option<Header> {
    if bytes > MAX_FILE {
        return None;
    }
    let mut header = Header::new_ustar();
    header.set_path(name).ok()?;
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Some(header)
}

/// Whether a file of this name may be in a bundle, and can be unpacked anywhere without harm.
fn is_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with("evidence/")
        && name.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
}

/// Appends a file of `bytes` bytes, and gives its hash.
pub(super) fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    bytes: u64,
    content: impl Read,
) -> io::Result<Hash> {
    let header = header(name, bytes)
        .filter(|_| is_name(name))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no file's name")))?;
    let mut hashing = Hashing { inner: content.take(bytes), hash: Sha256::new(), read: 0 };
    archive.append(&header, &mut hashing)?;
    if hashing.read != bytes {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} is shorter than it was")));
    }
    Ok(hashing.hash.finalize().into())
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        self.read += read as u64;
        Ok(read)
    }
}

/// A file in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    offset: u64,
    pub(super) bytes: u64,
    pub(super) sha256: Hash,
}

/// An archive's files by name, and what is wrong with its form.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) files: BTreeMap<String, Place>,
    pub(super) problems: Vec<String>,
}

/// Anything that can be read and sought in.
pub(super) trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// Reads the whole archive once. Takes memory for names alone.
///
/// # Errors
/// The file cannot be read. What is wrong with the archive's form is in the answer; after it nothing more
/// was read.
pub(super) fn list(file: &mut impl Source) -> io::Result<Files> {
    let mut found = Files::default();
    let end = file.seek(SeekFrom::End(0))?;
    let mut at = 0;
    loop {
        file.seek(SeekFrom::Start(at))?;
        let mut block = [0; BLOCK as usize];
        if end - at < BLOCK {
            found
                .problems
                .push(format!("the archive ends at byte {end} without its end mark: it was cut off"));
            return Ok(found);
        }
        file.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            // Two such blocks end the archive.
            let rest = end - at - BLOCK;
            if rest != BLOCK || !zeros(file, rest)? {
                found.problems.push("something stands behind the archive's end, or its end is cut".into());
            }
            return Ok(found);
        }
        let given = Header::from_byte_slice(&block);
        let name = given.path_bytes();
        let size = given.entry_size().unwrap_or(u64::MAX);
        let name = std::str::from_utf8(&name).unwrap_or_default();
        // Byte for byte what the writer makes: no links, no devices, no second way to say a name.
        let same = is_name(name) && header(name, size).is_some_and(|made| made.as_bytes() == &block);
        if !same {
            let shown = name.escape_debug();
            found.problems.push(format!("\"{shown}\" at byte {at} of the archive is no file of a bundle"));
            return Ok(found);
        }
        let offset = at + BLOCK;
        let padded = size.checked_next_multiple_of(BLOCK).and_then(|padded| offset.checked_add(padded));
        let Some(next) = padded.filter(|next| *next <= end) else {
            found.problems.push(format!("the archive ends within {name}: it was cut off"));
            return Ok(found);
        };
        let mut hash = Sha256::new();
        let mut content = Read::by_ref(file).take(size);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !zeros(file, next - offset - size)? {
            found.problems.push(format!("something stands behind {name} in the archive"));
        }
        let place = Place { offset, bytes: size, sha256: hash.finalize().into() };
        if found.files.insert(name.to_owned(), place).is_some() {
            found.problems.push(format!("{name} is there twice"));
            return Ok(found);
        }
        if found.files.len() > MAX_FILES {
            found.problems.push(format!("there are more than {MAX_FILES} files"));
            return Ok(found);
        }
        at = next;
    }
}

/// Whether the next `bytes` bytes are all zero.
fn zeros(file: &mut impl Read, bytes: u64) -> io::Result<bool> {
    let mut rest = file.take(bytes);
    let mut buffer = [0; 4096];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) if buffer.iter().take(read).any(|byte| *byte != 0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One file of the archive, as a file of its own.
pub(super) struct Part<'f, F> {
    file: &'f mut F,
    place: Place,
    at: u64,
}

impl<'f, F: Source> Part<'f, F> {
    pub(super) fn new(file: &'f mut F, place: Place) -> Self {
        Self { file, place, at: 0 }
    }

    /// Its content, if it is no larger than `limit`.
    pub(super) fn content(mut self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        if self.place.bytes > limit {
            return Ok(None);
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        Ok(Some(content))
    }
}

impl<F: Source> Read for Part<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.place.bytes.saturating_sub(self.at);
        let length = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..length).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        self.file.seek(SeekFrom::Start(self.place.offset + self.at))?;
        let read = self.file.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<F: Source> Seek for Part<'_, F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.place.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
