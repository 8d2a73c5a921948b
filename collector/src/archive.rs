//! The segment files that were taken in: byte for byte as the agents sealed them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use interlock_recording::SessionId;
use interlock_recording::proto::Event;
use interlock_recording::segment::{FrameError, SegmentError, SegmentReader, read_frame};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::store::{Store, StoreError};

/// Where the files lie.
#[derive(Debug)]
pub struct Archive {
    segments: PathBuf,
    incoming: PathBuf,
    disputed: PathBuf,
}

/// A file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The system refused.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A segment cannot be read.
    #[error("{path} {error}")]
    Segment {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        error: SegmentError,
    },
    /// A record cannot be read.
    #[error("segment {segment} of host {host}: {error}")]
    Record {
        /// The host.
        host: String,
        /// The segment.
        segment: u64,
        /// What is wrong.
        error: FrameError,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such session.
    #[error("there is no session {0}")]
    NoSession(String),
}

/// A file that is coming in. It is removed again unless it is kept.
#[derive(Debug)]
pub struct Incoming {
    file: Option<File>,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |error| ArchiveError::Io { action, path, error }
}

fn make(path: &Path) -> Result<(), ArchiveError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the directory", path))
}

fn sync(directory: &Path) -> Result<(), ArchiveError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(io_error("flush", directory))
}

impl Archive {
    /// The archive in a state directory.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn open(state: &Path) -> Result<Self, ArchiveError> {
        let archive = Self {
            segments: state.join("segments"),
            incoming: state.join("incoming"),
            disputed: state.join("disputed"),
        };
        make(&archive.segments)?;
        make(&archive.disputed)?;
        make(&archive.incoming)?;
        Ok(archive)
    }

    /// Removes what was coming in when the collector was last ended. Nothing may be coming in now.
    ///
    /// # Errors
    /// It cannot be read or removed.
    pub fn clear(&self) -> Result<(), ArchiveError> {
        for entry in fs::read_dir(&self.incoming).map_err(io_error("read", &self.incoming))? {
            let path = entry.map_err(io_error("read", &self.incoming))?.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// The file of a segment. `host` is a host's id, hexadecimal.
    pub fn path(&self, host: &str, segment: u64) -> PathBuf {
        self.segments.join(host).join(interlock_recording::log::segment_name(segment, true))
    }

    /// Begins to take in a file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn begin(&self) -> Result<Incoming, ArchiveError> {
        let mut random = [0; 16];
        interlock_recording::fill_random(&mut random).map_err(io_error("name a file in", &self.incoming))?;
        let path = self.incoming.join(interlock_recording::hex(&random));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("make", &path))?;
        Ok(Incoming { file: Some(file), path, hash: Sha256::new(), bytes: 0 })
    }

    /// A file without a name, for what is made here and sent on; it goes with its last handle.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self) -> Result<File, ArchiveError> {
        let mut incoming = self.begin()?;
        let file = incoming.file.take();
        fs::remove_file(&incoming.path).map_err(io_error("remove", &incoming.path))?;
        file.ok_or_else(|| io_error("make", &self.incoming)(io::ErrorKind::NotFound.into()))
    }

    /// Keeps a file that came in as a host's segment. It is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be flushed or moved.
    pub fn keep(&self, incoming: Incoming, host: &str, segment: u64) -> Result<(), ArchiveError> {
        let name = interlock_recording::log::segment_name(segment, true);
        Self::place(incoming, &self.segments.join(host), &name)
    }

    fn place(mut incoming: Incoming, directory: &Path, name: &str) -> Result<(), ArchiveError> {
        if let Some(file) = &incoming.file {
            file.sync_all().map_err(io_error("flush", &incoming.path))?;
        }
        if !directory.exists() {
            make(directory)?;
            directory.parent().map_or(Ok(()), sync)?;
        }
        fs::rename(&incoming.path, directory.join(name)).map_err(io_error("move", &incoming.path))?;
        incoming.file = None;
        sync(directory)
    }

    /// Removes the file of a segment, if it is there.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, host: &str, segment: u64) -> Result<(), ArchiveError> {
        let path = self.path(host, segment);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Keeps a file that is not what it should be, as evidence. It is no part of the host's recording.
    ///
    /// # Errors
    /// It cannot be flushed or moved.
    pub fn keep_disputed(&self, incoming: Incoming, host: &str, segment: u64) -> Result<(), ArchiveError> {
        let directory = self.disputed.join(host);
        let name = format!("{segment:012}-{}.seg", interlock_recording::hex(&incoming.sha256()));
        Self::place(incoming, &directory, &name)
    }

    /// The events of a session in order, those after event `after` alone, at most `limit`: of sealed
    /// segments and of live records. What it gives has been verified when it was taken in.
    ///
    /// # Errors
    /// There is no such session, or its recording cannot be read.
    pub async fn session_events(
        &self,
        store: &Store,
        session: &str,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Event>, ArchiveError> {
        let place = store.session_place(session).await?;
        let (Some(place), Some(id)) = (place, session.parse::<SessionId>().ok()) else {
            return Err(ArchiveError::NoSession(session.to_owned()));
        };
        let first = after.map_or(place.first_event, |after| {
            u64::try_from(after).map_or(0, |after| after.saturating_add(1)).max(place.first_event)
        });
        let mut events = Vec::new();
        let segments = store.segments(&place.host, place.first_segment, place.last_segment).await?;
        let mut sealed = None;
        for segment in segments {
            sealed = Some(segment.number);
            if segment.deleted || segment.first_index + segment.events <= first || events.len() >= limit {
                continue;
            }
            let path = self.path(&place.host, segment.number);
            let (host, number) = (place.host.clone(), segment.number);
            let read = move || -> Result<Vec<Event>, ArchiveError> {
                let mut found = Vec::new();
                let mut reader = SegmentReader::open(&path)
                    .map_err(|error| ArchiveError::Segment { path: path.clone(), error })?;
                loop {
                    let frame = reader.next_frame().map_err(|error| ArchiveError::Record {
                        host: host.clone(),
                        segment: number,
                        error,
                    })?;
                    let Some(frame) = frame else { break };
                    pick(frame.event, id, first, &mut found);
                }
                Ok(found)
            };
            // A task that panicked has nothing to give.
            let found = tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Ok(Vec::new()))?;
            events.extend(found);
        }
        if events.len() < limit {
            for run in store.live_records(&place.host, first).await? {
                if sealed.is_some_and(|sealed| run.segment <= sealed) {
                    continue;
                }
                let (mut rest, mut buffer, mut offset) = (run.records.as_slice(), Vec::new(), 0);
                loop {
                    let frame = read_frame(&mut rest, &mut buffer, &mut offset, None).map_err(|error| {
                        ArchiveError::Record { host: place.host.clone(), segment: run.segment, error }
                    })?;
                    let Some(frame) = frame else { break };
                    pick(frame.event, id, first, &mut events);
                }
            }
        }
        events.truncate(limit);
        Ok(events)
    }
}

/// Takes the event if it is the session's and not before `first`.
fn pick(bytes: &[u8], id: SessionId, first: u64, events: &mut Vec<Event>) {
    if let Ok(event) = Event::decode(bytes)
        && event.index >= first
        && event.session == id.as_bytes()
    {
        events.push(event);
    }
}

impl Incoming {
    /// Appends a part.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, part: &[u8]) -> Result<(), ArchiveError> {
        if let Some(file) = &mut self.file {
            file.write_all(part).map_err(io_error("write", &self.path))?;
        }
        self.hash.update(part);
        self.bytes += part.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of what there is so far.
    pub fn sha256(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Reads it from its beginning.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn reader(&self) -> Result<File, ArchiveError> {
        File::open(&self.path).map_err(io_error("read", &self.path))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // A file that was kept is not here any more.
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
