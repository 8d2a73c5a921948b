//! The segments that were taken in: byte for byte as the agents sealed them, as files in the state directory or
//! as objects in storage that speaks S3.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interlock_recording::SessionId;
use interlock_recording::proto::Event;
use interlock_recording::segment::{FrameError, SegmentError, SegmentReader, read_frame};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::cache::Cache;
use crate::objects::Objects;
use crate::store::{SessionPlace, Store, StoreError};

/// Where segments lie.
#[derive(Debug)]
pub struct Archive {
    segments: PathBuf,
    incoming: PathBuf,
    disputed: PathBuf,
    /// In the place of `segments` and `disputed`.
    objects: Option<(Objects, Cache)>,
}

/// Which segment, and what its file must be.
#[derive(Debug, Clone)]
pub struct SegmentFile {
    /// The host's id, hexadecimal.
    pub host: String,
    /// The segment.
    pub number: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

impl SegmentFile {
    /// A host's segment as the database or the ledger has it.
    ///
    /// # Errors
    /// The hash is none.
    pub fn new(host: &str, number: u64, bytes: u64, sha256: &[u8]) -> Result<Self, StoreError> {
        let sha256 = sha256.try_into().map_err(|_| StoreError::Damaged("a hash that is none"))?;
        Ok(Self { host: host.to_owned(), number, bytes, sha256 })
    }
}

/// A file that came in and lasts, and is only to be given its place.
#[derive(Debug)]
pub struct Prepared {
    incoming: Incoming,
    file: SegmentFile,
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
    #[error("segment {segment} of host {host} {error}")]
    Segment {
        /// The host.
        host: String,
        /// The segment.
        segment: u64,
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
    /// The storage refuses, or cannot be reached.
    #[error("the segments' storage: cannot {action} {name}: {error}")]
    Object {
        /// What was tried.
        action: &'static str,
        /// On which object.
        name: String,
        /// What it said.
        error: String,
    },
    /// It is not there.
    #[error("{name} is missing")]
    Missing {
        /// The file or object.
        name: String,
    },
    /// It is not what was taken.
    #[error("{name} is not the one that was taken: it was altered")]
    Altered {
        /// The file or object.
        name: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such session.
    #[error("there is no session {0}")]
    NoSession(String),
    /// A thread of ours ended without a result.
    #[error("a part of the collector failed: {0}")]
    Internal(String),
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
            objects: None,
        };
        make(&archive.segments)?;
        make(&archive.disputed)?;
        make(&archive.incoming)?;
        Ok(archive)
    }

    /// An archive of objects; `state` has what is coming in, and copies of what was looked at, up to `cache` bytes.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub(crate) fn of_objects(state: &Path, objects: Objects, cache: u64) -> Result<Self, ArchiveError> {
        let incoming = state.join("incoming");
        make(&incoming)?;
        let copies = state.join("cache");
        make(&copies)?;
        let cache = Cache::new(&copies, cache);
        let (segments, disputed) = (state.join("segments"), state.join("disputed"));
        Ok(Self { segments, incoming, disputed, objects: Some((objects, cache)) })
    }

    /// The objects, when it is not a directory.
    pub(crate) fn objects(&self) -> Option<&Objects> {
        self.objects.as_ref().map(|(objects, _)| objects)
    }

    /// Removes what was coming in when the collector was last ended. Nothing may be coming in now.
    ///
    /// # Errors
    /// It cannot be read or removed.
    pub fn clear(&self) -> Result<(), ArchiveError> {
        if let Some((_, cache)) = &self.objects {
            cache.clear().map_err(io_error("empty", &self.incoming.with_file_name("cache")))?;
        }
        for entry in fs::read_dir(&self.incoming).map_err(io_error("read", &self.incoming))? {
            let path = entry.map_err(io_error("read", &self.incoming))?.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// The file of a segment in a directory. `host` is a host's id, hexadecimal.
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

    /// Has a file that came in last: on the disk, or among the objects. It is no segment before
    /// [`Archive::keep`].
    ///
    /// # Errors
    /// It cannot be flushed, or put.
    pub async fn prepare(
        &self,
        incoming: Incoming,
        host: &str,
        number: u64,
    ) -> Result<Prepared, ArchiveError> {
        let (bytes, sha256) = (incoming.bytes(), incoming.sha256());
        let file = SegmentFile { host: host.to_owned(), number, bytes, sha256 };
        if let Some((objects, _)) = &self.objects {
            let path = objects.segment(host, number, &sha256);
            objects.put(&path, incoming.reader()?, bytes, sha256).await?;
            return Ok(Prepared { incoming, file });
        }
        let flushed = tokio::task::spawn_blocking(move || incoming.flush().map(|()| incoming));
        let incoming = flushed.await.map_err(|error| ArchiveError::Internal(error.to_string()))??;
        Ok(Prepared { incoming, file })
    }

    /// Keeps what was prepared as a host's segment. It lasts when this returns. Nothing may be kept under this
    /// number yet but what a crash has left.
    ///
    /// # Errors
    /// It cannot be moved.
    pub async fn keep(self: &Arc<Self>, prepared: Prepared) -> Result<(), ArchiveError> {
        if self.objects.is_some() {
            // It has its place by its own hash.
            return Ok(());
        }
        let directory = self.segments.join(&prepared.file.host);
        let name = interlock_recording::log::segment_name(prepared.file.number, true);
        let placed =
            tokio::task::spawn_blocking(move || Self::place(prepared.incoming, &directory, &name)).await;
        placed.map_err(|error| ArchiveError::Internal(error.to_string()))?
    }

    /// A segment's file, to be read. Of one among the objects it is a copy with the right size and hash.
    ///
    /// # Errors
    /// It is missing, cannot be read, or is not what it must be.
    pub async fn fetch(&self, segment: &SegmentFile) -> Result<File, ArchiveError> {
        if let Some((_, cache)) = &self.objects {
            if let Some(file) = cache.get(&segment.sha256) {
                return Ok(file);
            }
            let mut incoming = self.copy(segment).await?;
            let file = incoming.reader()?;
            if cache.add(&segment.sha256, segment.bytes, &incoming.path) {
                // It was moved.
                incoming.file = None;
            }
            return Ok(file);
        }
        let path = self.path(&segment.host, segment.number);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ArchiveError::Missing { name: path.display().to_string() },
            _ => io_error("read", &path)(error),
        })
    }

    /// The same past all copies: what is really kept.
    ///
    /// # Errors
    /// As for [`Archive::fetch`].
    pub async fn fetch_kept(&self, segment: &SegmentFile) -> Result<File, ArchiveError> {
        match &self.objects {
            Some(_) => self.copy(segment).await?.reader(),
            None => self.fetch(segment).await,
        }
    }

    async fn copy(&self, segment: &SegmentFile) -> Result<Incoming, ArchiveError> {
        let mut incoming = self.begin()?;
        if let (Some((objects, _)), Some(file)) = (&self.objects, &mut incoming.file) {
            let path = objects.segment(&segment.host, segment.number, &segment.sha256);
            objects.read(&path, segment.bytes, segment.sha256, file).await?;
        }
        Ok(incoming)
    }

    fn place(mut incoming: Incoming, directory: &Path, name: &str) -> Result<(), ArchiveError> {
        if !directory.exists() {
            make(directory)?;
            directory.parent().map_or(Ok(()), sync)?;
        }
        fs::rename(&incoming.path, directory.join(name)).map_err(io_error("move", &incoming.path))?;
        incoming.file = None;
        sync(directory)
    }

    /// Removes a segment, if it is there.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove(&self, host: &str, number: u64, sha256: &[u8]) -> Result<(), ArchiveError> {
        if let Some((objects, cache)) = &self.objects {
            cache.remove(sha256);
            return objects.remove(&objects.segment(host, number, sha256)).await;
        }
        let path = self.path(host, number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Keeps a file that is not what it should be, as evidence. It is no part of the host's recording.
    ///
    /// # Errors
    /// It cannot be put, flushed or moved.
    pub async fn keep_disputed(
        &self,
        incoming: Incoming,
        host: &str,
        segment: u64,
    ) -> Result<(), ArchiveError> {
        let (bytes, sha256) = (incoming.bytes(), incoming.sha256());
        if let Some((objects, _)) = &self.objects {
            let path = objects.disputed(host, segment, &sha256);
            return objects.put(&path, incoming.reader()?, bytes, sha256).await;
        }
        let directory = self.disputed.join(host);
        let kept = tokio::task::spawn_blocking(move || {
            incoming.flush()?;
            Self::place(
                incoming,
                &directory,
                &format!("{segment:012}-{}.seg", interlock_recording::hex(&sha256)),
            )
        });
        kept.await.map_err(|error| ArchiveError::Internal(error.to_string()))?
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
        // Records that are sealed between two looks would be in neither: it is looked again then.
        loop {
            let boundary = store.sealed_before(&place.host).await?;
            self.read(store, &place, id, first, limit, &mut events).await?;
            if store.sealed_before(&place.host).await? == boundary {
                return Ok(events);
            }
            events.clear();
        }
    }

    async fn read(
        &self,
        store: &Store,
        place: &SessionPlace,
        id: SessionId,
        first: u64,
        limit: usize,
        events: &mut Vec<Event>,
    ) -> Result<(), ArchiveError> {
        let mut sealed = None;
        for segment in store.segments(&place.host, place.first_segment, place.last_segment).await? {
            sealed = Some(segment.number);
            if segment.deleted || segment.first_index + segment.events <= first || events.len() >= limit {
                continue;
            }
            let kept = SegmentFile::new(&place.host, segment.number, segment.bytes, &segment.file_sha256)?;
            let file = self.fetch(&kept).await?;
            let (host, number, room) = (place.host.clone(), segment.number, limit - events.len());
            let read = move || -> Result<Vec<Event>, ArchiveError> {
                let mut found = Vec::new();
                let mut reader = SegmentReader::new(file).map_err(|error| ArchiveError::Segment {
                    host: host.clone(),
                    segment: number,
                    error,
                })?;
                while found.len() < room {
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
            let found = tokio::task::spawn_blocking(read).await;
            events.extend(found.map_err(|error| ArchiveError::Internal(error.to_string()))??);
        }
        let mut from = first;
        while events.len() < limit {
            let Some(run) = store.live_run(&place.host, from).await? else { break };
            from = run.first_index + run.events;
            if sealed.is_some_and(|sealed| run.segment <= sealed) {
                continue;
            }
            let (mut rest, mut buffer, mut offset) = (run.records.as_slice(), Vec::new(), 0);
            while events.len() < limit {
                let frame = read_frame(&mut rest, &mut buffer, &mut offset, None).map_err(|error| {
                    ArchiveError::Record { host: place.host.clone(), segment: run.segment, error }
                })?;
                let Some(frame) = frame else { break };
                pick(frame.event, id, first, events);
            }
        }
        Ok(())
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

    /// Has it on the disk.
    ///
    /// # Errors
    /// It cannot be flushed.
    pub fn flush(&self) -> Result<(), ArchiveError> {
        match &self.file {
            Some(file) => file.sync_all().map_err(io_error("flush", &self.path)),
            None => Ok(()),
        }
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
