//! How requests ended that an earlier agent on this host had: so that approvers see what became of similar ones.
//!
//! A file in the state directory, root's alone, of which each line is one request: when it was asked, by which user,
//! how it ended, by whom, and a digest by which similar ones are found. No text is in it, and nothing is decided by
//! it: a line that cannot be read is left out, and without the file approvers see less.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::desk::Id;
use super::listed::{Similar, decided_by};
use super::past::Past;
use super::person::Approver;

/// The file's name.
const FILE: &str = "approvals.past";
/// Requests that are kept. The file is written anew when it has twice as many.
const KEPT: usize = 256;
/// Bytes of it that are read.
const MOST: u64 = 1 << 20;
/// Bytes of a line. One that would be longer is not kept.
const LINE: usize = 4096;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    likeness: String,
    /// Milliseconds since the Unix epoch.
    asked_ms: i64,
    uid: u32,
    user: String,
    outcome: String,
    by: Vec<Arc<str>>,
    /// Who may see it: the groups that its rules named.
    groups: Vec<Arc<str>>,
}

/// What is remembered, and where.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// From before this agent.
    before: Vec<Line>,
    file: Option<Mutex<Lines>>,
}

/// The file.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: File,
    /// The newest of it.
    last: VecDeque<String>,
    count: usize,
}

impl Memory {
    /// What the file in `directory` says. Where it cannot be read or written nothing is remembered beyond this
    /// agent, and the log says so.
    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let before = read(&path).unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                path = %path.display(),
                "how earlier requests for approval ended cannot be read: approvers do not see it"
            );
            Vec::new()
        });
        let last = before.iter().filter_map(|line| serde_json::to_string(line).ok()).collect();
        match Lines::write(path, last) {
            Ok(lines) => Self { before, file: Some(Mutex::new(lines)) },
            Err(error) => {
                tracing::warn!(%error, "how requests for approval end will not be known to the next agent");
                Self { before, file: None }
            }
        }
    }

    /// A request has ended.
    pub(super) fn add(&self, past: &Remembered) {
        let (Some(file), Some(line)) = (&self.file, past.0.as_ref()) else { return };
        let mut lines = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = lines.add(line.clone()) {
            tracing::warn!(%error, path = %lines.path.display(), "how a request for approval ended is not kept");
        }
    }

    /// Similar ones of earlier agents that `viewer` may see, the newest first.
    pub(super) fn similar<'m>(
        &'m self,
        likeness: &[u8; 32],
        viewer: &'m Approver,
    ) -> impl Iterator<Item = Similar> + 'm {
        let likeness = interlock_recording::hex(likeness);
        let sees = |line: &Line| {
            viewer.person().is_some_and(|person| person.uid == 0 || person.uid == line.uid)
                || viewer.groups.iter().any(|group| line.groups.contains(group))
        };
        self.before.iter().rev().filter(move |line| line.likeness == likeness && sees(line)).filter_map(
            |line| {
                Some(Similar {
                    id: Id::parse(&line.id)?,
                    asked: Timestamp::from_millisecond(line.asked_ms).ok()?,
                    user: line.user.clone(),
                    outcome: word(&line.outcome)?,
                    by: line.by.clone(),
                })
            },
        )
    }
}

/// A line for the file, made while the desk is looked at and written when it is not.
pub(super) struct Remembered(Option<String>);

impl Remembered {
    pub(super) fn of(past: &Past) -> Self {
        let request = &past.request;
        let line = Line {
            id: past.id.to_string(),
            likeness: interlock_recording::hex(&request.likeness),
            asked_ms: past.asked.as_millisecond(),
            uid: request.subject.uid,
            user: request.subject.user.clone(),
            outcome: past.outcome.word().to_owned(),
            by: decided_by(&past.outcome, &past.by),
            groups: request.terms.groups().into_iter().cloned().collect(),
        };
        Self(serde_json::to_string(&line).ok().filter(|line| line.len() < LINE))
    }
}

/// How a request can have ended.
fn word(outcome: &str) -> Option<&'static str> {
    ["approved", "broken_glass", "denied", "expired", "withdrawn"].into_iter().find(|word| *word == outcome)
}

/// The newest lines of a file, as far as they are what they must be.
fn read(path: &Path) -> io::Result<Vec<Line>> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let about = file.metadata()?;
    if !about.is_file() || about.mode() & 0o022 != 0 || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is not a file that only the agent's user can write"));
    }
    let mut kept = VecDeque::new();
    for line in BufReader::new(file.take(MOST)).split(b'\n') {
        let line = line?;
        let told = serde_json::from_slice::<Line>(&line).ok().filter(|_| line.len() < LINE);
        let Some(told) = told.filter(|told| word(&told.outcome).is_some() && Id::parse(&told.id).is_some())
        else {
            continue;
        };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(told);
    }
    Ok(kept.into())
}

impl Lines {
    /// Writes the file anew.
    fn write(path: PathBuf, last: VecDeque<String>) -> io::Result<Self> {
        let fresh = path.with_extension("new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&fresh)?;
        let text: String = last.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, &path)?;
        Ok(Self { path, file, count: last.len(), last })
    }

    fn add(&mut self, line: String) -> io::Result<()> {
        // In one piece, so that an end in its midst leaves one line that cannot be read and no more.
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.count += 1;
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
        if self.count >= 2 * KEPT {
            *self = Self::write(self.path.clone(), self.last.clone())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::approval::Person;

    fn line(number: usize, likeness: u8) -> Line {
        Line {
            id: format!("{number:0>8}"),
            likeness: interlock_recording::hex(&[likeness; 32]),
            asked_ms: 0,
            uid: 7,
            user: "app".into(),
            outcome: "denied".into(),
            by: vec!["ann".into()],
            groups: vec!["dba".into()],
        }
    }

    fn text(line: &Line) -> String {
        serde_json::to_string(line).unwrap()
    }

    fn viewer(uid: u32, group: &str) -> Approver {
        let person = Person { uid, login_uid: None, login_session: None, confirmed: false };
        Approver::on_host(person, "x".into(), "".into(), [group.into()].into())
    }

    fn seen(memory: &Memory, uid: u32, group: &str) -> usize {
        memory.similar(&[1; 32], &viewer(uid, group)).count()
    }

    #[test]
    fn the_next_agent_knows_it_and_shows_it_to_whom_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path());
        memory.add(&Remembered(Some(text(&line(1, 1)))));
        memory.add(&Remembered(Some(text(&line(2, 2)))));
        assert_eq!(seen(&memory, 0, ""), 0, "this agent's own are on its desk");
        let memory = Memory::open(directory.path());
        assert_eq!([seen(&memory, 0, ""), seen(&memory, 7, ""), seen(&memory, 8, "dba")], [1, 1, 1]);
        assert_eq!(seen(&memory, 8, "staff"), 0);
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn it_does_not_grow_and_the_newest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path());
        for number in 0..5 * KEPT {
            memory.add(&Remembered(Some(text(&line(number, 1)))));
            let lines = fs::read_to_string(directory.path().join(FILE)).unwrap().lines().count();
            assert!(lines <= 2 * KEPT, "{lines}");
        }
        let memory = Memory::open(directory.path());
        assert_eq!(memory.before.len(), KEPT);
        let newest = memory.similar(&[1; 32], &viewer(0, "")).next().unwrap();
        assert_eq!(newest.id.to_string(), format!("{:0>8}", 5 * KEPT - 1));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let good = text(&line(1, 1));
        let no_outcome = text(&Line { outcome: "celebrated".into(), ..line(2, 1) });
        let no_id = text(&Line { id: "../../x".into(), ..line(3, 1) });
        let long = text(&Line { user: "x".repeat(LINE), ..line(4, 1) });
        let mut bytes = format!("\0\0\n{no_outcome}\n{{}}\n{good}\n[]\n{no_id}\n{long}\n").into_bytes();
        bytes.extend(b"\xff\xfe\n");
        bytes.extend(&good.as_bytes()[..40]);
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let memory = Memory::open(directory.path());
        assert_eq!(memory.before, [line(1, 1)]);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{good}\n"), "it is whole again");
        // One that is far too large is read up to a limit.
        fs::write(&path, format!("{}\n{good}\n", "x".repeat(2 << 20))).unwrap();
        assert!(Memory::open(directory.path()).before.is_empty());
    }

    #[test]
    fn what_others_can_write_or_a_link_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, format!("{}\n", text(&line(1, 1)))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Memory::open(directory.path()).before.is_empty());
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, format!("{}\n", text(&line(1, 1)))).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(Memory::open(directory.path()).before.is_empty());
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink(), "the link is replaced");
        // Nowhere to write to.
        let memory = Memory::open(Path::new("/proc/nowhere"));
        memory.add(&Remembered(Some(String::new())));
        assert!(memory.file.is_none());
    }
}
