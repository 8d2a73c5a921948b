//! Watches the selected executables where the kernel cannot show the stages of an exec.
//!
//! The kernel asks before a watched file is opened, and waits for the answer (fanotify(7), "permission
//! events"). So the kernel side knows who executes the file, or runs it by an interpreter, before
//! that process can do anything. Without an agent nobody is asked: until the next one starts, scripts
//! are known by the path given to exec alone.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use interlock_agent_common::{Argument, FileId, PROCESS_INTERPRETER, Process, Stages};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
};

use super::{error::InterceptError, file_id::Resolver, object::Pins, sys};

/// `struct fanotify_event_metadata`: length (4), version (1), reserved (1), metadata length (2), mask
/// (8), file descriptor (4), process id (4).
const METADATA: usize = 24;

/// How long to wait when the agent is out of file descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// The files, by what `stat` tells of them.
type Files = Arc<Mutex<HashMap<(u64, u64), FileId>>>;

/// The watch; it ends when this is dropped.
pub(super) struct Watch {
    group: File,
    files: Files,
    /// Closed on drop, which ends the thread.
    _stop: OwnedFd,
}

impl Watch {
    pub(super) fn start(pins: &Pins) -> Result<Self, InterceptError> {
        let failed = || InterceptError::io("cannot watch executables");
        let group = File::from(sys::open_watch().map_err(failed())?);
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(io::Error::from)
            .map_err(failed())?;
        let files = Files::default();
        let watcher = Watcher {
            group: group.try_clone().map_err(failed())?,
            files: Arc::clone(&files),
            staged: table(pins, "STAGED")?,
            arguments: table(pins, "ARGUMENTS")?,
            processes: table(pins, "PROCESSES")?,
        };
        // A thread of its own: what it answers to may be waited for by any other.
        thread::Builder::new()
            .name("exec-watch".to_owned())
            .spawn(move || watcher.run(&stopped))
            .map_err(failed())?;
        Ok(Self { group, files, _stop: stop })
    }

    /// Watches the files that stand at these paths now, too.
    pub(super) fn add(&self, paths: &HashMap<PathBuf, u64>) -> Result<(), InterceptError> {
        let failed = || InterceptError::io("cannot watch executables");
        if paths.is_empty() {
            return Ok(());
        }
        let resolver = Resolver::new().map_err(failed())?;
        for path in paths.keys() {
            // One that is not there yet is watched once it is.
            let (Ok(file), Ok(stat)) = (resolver.resolve(path), stat(path)) else { continue };
            if lock(&self.files).insert(stat, file).is_none() {
                sys::watch_file(self.group.as_fd(), path)
                    .map_err(InterceptError::io(format!("cannot watch {}", path.display())))?;
            }
        }
        Ok(())
    }
}

fn stat(path: &Path) -> io::Result<(u64, u64)> {
    // Opened for its path only: that asks nobody.
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn lock(files: &Files) -> MutexGuard<'_, HashMap<(u64, u64), FileId>> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

fn table<V: aya::Pod>(
    pins: &Pins,
    name: &'static str,
) -> Result<BpfHashMap<MapData, u32, V>, InterceptError> {
    BpfHashMap::try_from(Map::HashMap(pins.map(name)?)).map_err(InterceptError::map(name))
}

/// Whether an error comes from a want that may pass.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR))
}

struct Watcher {
    group: File,
    files: Files,
    staged: BpfHashMap<MapData, u32, Stages>,
    arguments: BpfHashMap<MapData, u32, Argument>,
    processes: BpfHashMap<MapData, u32, Process>,
}

impl Watcher {
    fn run(mut self, stopped: &OwnedFd) {
        let mut buffer = vec![0; 64 * METADATA];
        loop {
            let mut fds = [PollFd::new(&self.group, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::error!("executables are not watched any more: {error}"),
            }
            if fds.last().is_some_and(|fd| !fd.revents().is_empty()) {
                return;
            }
            let length = match self.group.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if is_passing(&error) => {
                    tracing::warn!("whoever opens a selected executable waits: {error}");
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return tracing::error!("executables are not watched any more: {error}"),
            };
            for event in buffer.get(..length).unwrap_or_default().chunks_exact(METADATA) {
                self.answer(event);
            }
        }
    }

    fn answer(&mut self, event: &[u8]) {
        let word = |at: usize| -> Option<[u8; 4]> { event.get(at..at + 4)?.try_into().ok() };
        let (Some(fd), Some(pid), Some(mask)) = (word(16), word(20), word(8)) else { return };
        let fd = i32::from_ne_bytes(fd);
        let Some(file) = sys::event_file(fd) else { return };
        let to_execute = u64::from(u32::from_ne_bytes(mask)) & libc::FAN_OPEN_EXEC_PERM != 0;
        let noted = self.note(&file, u32::from_ne_bytes(pid), to_execute);
        if let Err(error) = &noted {
            tracing::error!("a selected executable may not run, for its process cannot be noted: {error}");
        }
        let response = if noted.is_ok() { libc::FAN_ALLOW } else { libc::FAN_DENY };
        let mut answer = [0; 8];
        for (to, from) in answer.iter_mut().zip(fd.to_ne_bytes().into_iter().chain(response.to_ne_bytes())) {
            *to = from;
        }
        if let Err(error) = self.group.write_all(&answer) {
            tracing::debug!("nobody waits for the answer any more: {error}");
        }
    }

    fn note(&mut self, file: &OwnedFd, pid: u32, to_execute: bool) -> Result<(), InterceptError> {
        if pid == std::process::id() {
            return Ok(());
        }
        let stat = rustix::fs::fstat(file)
            .map_err(io::Error::from)
            .map_err(InterceptError::io("cannot tell which file it is"))?;
        let Some(script) = lock(&self.files).get(&(stat.st_dev, stat.st_ino)).copied() else { return Ok(()) };
        if to_execute {
            let mut stages = self.staged.get(&pid, 0).unwrap_or_default();
            // Another in the same exec, or one whose exec has failed: the last ones count.
            stages.images.rotate_right(1);
            if let Some(first) = stages.images.first_mut() {
                *first = script;
            }
            return self.staged.insert(pid, stages, 0).map_err(InterceptError::map("STAGED"));
        }
        // The kernel side tracks every process that was started or swept; others are not known to be
        // interpreters, and most are not.
        match self.processes.get(&pid, 0) {
            Ok(process) if process.flags & PROCESS_INTERPRETER != 0 => {
                let argument = Argument { exec_id: process.exec_id, script };
                self.arguments.insert(pid, argument, 0).map_err(InterceptError::map("ARGUMENTS"))
            }
            _ => Ok(()),
        }
    }
}
