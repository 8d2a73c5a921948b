//! Reads a process and its ancestors from /proc.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use procfs::process::Process;

use crate::intercept::FlowProcess;

use super::{Ancestor, Ci, Subject, cgroup, ci, hash::Hashes, secrets, users};

/// Longest command line that is kept, in bytes and in arguments.
const MAX_ARGV: (usize, usize) = (16 << 10, 256);

/// Most ancestors that are followed.
const MAX_ANCESTORS: usize = 32;

/// Most programs that are remembered as they began.
const MAX_PROGRAMS: usize = 8192;

/// Nanoseconds per clock tick of /proc/PID/stat's start time.
const TICK_NS: u64 = 1_000_000_000 / 100;

/// What the kernel side noted when the process called connect(). It is there even if the process is not.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Thread group id.
    pub pid: u32,
    /// Nanoseconds since boot; zero when the kernel side could not tell.
    pub start_time_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
}

/// Reads processes; remembers what is dear to compute.
#[derive(Debug, Default)]
pub struct Reader {
    hashes: Hashes,
    /// What the kernel side told of programs as they began, by process id.
    programs: Mutex<HashMap<u32, Began>>,
}

/// A program as it began.
#[derive(Debug)]
struct Began {
    start_time_ns: u64,
    parent: u32,
    exe: PathBuf,
    argv: Vec<String>,
    ended: bool,
}

impl From<&FlowProcess> for Known {
    fn from(process: &FlowProcess) -> Self {
        Self { pid: process.tgid, start_time_ns: process.start_time_ns, uid: process.uid, gid: process.gid }
    }
}

impl Reader {
    /// Takes note that a designated process began a program, in case it is gone when its flow is looked at.
    pub fn began(&self, known: &Known, parent: u32, exe: PathBuf, argv: Vec<String>) {
        let began =
            Began { start_time_ns: known.start_time_ns, parent, exe, argv: arguments(argv), ended: false };
        let mut programs = self.programs();
        if programs.len() >= MAX_PROGRAMS {
            programs.retain(|_, began| !began.ended);
        }
        if programs.len() < MAX_PROGRAMS {
            programs.insert(known.pid, began);
        }
    }

    /// Takes note that such a process has ended. What is known of it is kept until room is needed.
    pub fn ended(&self, pid: u32, start_time_ns: u64) {
        if let Some(began) = self.programs().get_mut(&pid)
            && began.start_time_ns == start_time_ns
        {
            began.ended = true;
        }
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Began>> {
        self.programs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Everything that can be found out about a process. Never fails: what could not be read is named
    /// in [`Subject::missing`].
    pub fn subject(&self, known: &Known) -> Subject {
        let mut subject = Subject {
            pid: known.pid,
            start_time_ns: known.start_time_ns,
            uid: known.uid,
            user: users::user_name(known.uid),
            gid: known.gid,
            group: users::group_name(known.gid),
            ..Subject::default()
        };
        if let Some(process) = same_process(known) {
            self.read(&process, &mut subject);
            // The process may have gone, and its id been taken by another, while it was read.
            if same_process(known).is_some() {
                return subject;
            }
            subject = Subject { missing: Vec::new(), ..bare(subject) };
        }
        if let Some(began) = self.programs().get(&known.pid)
            && began.start_time_ns == known.start_time_ns
        {
            subject.exe.clone_from(&began.exe);
            subject.argv.clone_from(&began.argv);
        }
        self.parents(self.parent_of(known).unwrap_or(0), &mut subject);
        subject.missing.push("process: it ended before it could be looked at".to_owned());
        subject
    }

    fn parent_of(&self, known: &Known) -> Option<i32> {
        let programs = self.programs();
        let began = programs.get(&known.pid).filter(|began| began.start_time_ns == known.start_time_ns)?;
        i32::try_from(began.parent).ok()
    }

    /// Follows the ancestors from `parent` on.
    fn parents(&self, mut parent: i32, subject: &mut Subject) {
        while parent > 0 && subject.ancestors.len() < MAX_ANCESTORS {
            let Ok(process) = Process::new(parent) else { break };
            let Ok(stat) = process.stat() else { break };
            subject.ancestors.push(Ancestor {
                pid: parent.unsigned_abs(),
                uid: process.status().map_or(u32::MAX, |status| status.ruid),
                exe: process.exe().unwrap_or_default(),
                argv: arguments(process.cmdline().unwrap_or_default()),
            });
            // A job's children may have cleared their environment; the nearest that names it counts.
            if subject.ci.system.is_empty()
                && let Some(job) = ci_of(&process)
            {
                subject.ci = job;
            }
            parent = stat.ppid;
        }
    }

    fn read(&self, process: &Process, subject: &mut Subject) {
        let mut missing = BTreeSet::new();
        let pid = process.pid;
        match process.exe() {
            Ok(exe) => subject.exe = exe,
            Err(_) => drop(missing.insert("exe")),
        }
        match self.hashes.of(Path::new(&format!("/proc/{pid}/exe"))) {
            Ok(hash) => subject.exe_sha256 = hash,
            Err(_) => drop(missing.insert("exe_sha256")),
        }
        match process.cwd() {
            Ok(cwd) => subject.cwd = cwd,
            Err(_) => drop(missing.insert("cwd")),
        }
        match process.cmdline() {
            Ok(argv) => {
                subject.script = script(&subject.exe, &argv, &subject.cwd);
                subject.argv = arguments(argv);
            }
            Err(_) => drop(missing.insert("argv")),
        }
        match cgroup_of(process) {
            Some(path) => {
                subject.unit = cgroup::unit(&path).to_owned();
                subject.container = cgroup::container(&path).to_owned();
                subject.cgroup = path;
            }
            None => drop(missing.insert("cgroup")),
        }
        // 4294967295 is "not set".
        subject.login_uid = audit_id(pid, "loginuid");
        subject.login_session = audit_id(pid, "sessionid");
        subject.login_user = subject.login_uid.map(users::user_name).unwrap_or_default();

        subject.ci = ci_of(process).unwrap_or_default();
        self.parents(process.stat().map_or(0, |stat| stat.ppid), subject);
        subject.missing = missing.into_iter().map(str::to_owned).collect();
    }
}

/// The process, if it is still the one that connected.
fn same_process(known: &Known) -> Option<Process> {
    let process = Process::new(i32::try_from(known.pid).ok()?).ok()?;
    let stat = process.stat().ok()?;
    (known.start_time_ns == 0 || stat.starttime == known.start_time_ns / TICK_NS).then_some(process)
}

/// Keeps only what the kernel side told.
fn bare(subject: Subject) -> Subject {
    let Subject { pid, start_time_ns, uid, user, gid, group, .. } = subject;
    Subject { pid, start_time_ns, uid, user, gid, group, ..Subject::default() }
}

fn arguments(mut argv: Vec<String>) -> Vec<String> {
    argv.truncate(MAX_ARGV.1);
    let mut argv = secrets::mask_arguments(argv);
    let mut left = MAX_ARGV.0;
    for argument in &mut argv {
        if argument.len() > left {
            let cut = (0..=left).rev().find(|at| argument.is_char_boundary(*at)).unwrap_or(0);
            argument.truncate(cut);
            argument.push('…');
        }
        left = left.saturating_sub(argument.len());
    }
    argv
}

/// The script that an interpreter runs: its first argument that is not an option, where that is a file.
fn script(exe: &Path, argv: &[String], cwd: &Path) -> Option<PathBuf> {
    /// Interpreters, and their options that are followed by something else than a file to run.
    const INTERPRETERS: [(&str, &[&str]); 12] = [
        ("sh", &["-c"]),
        ("bash", &["-c"]),
        ("dash", &["-c"]),
        ("zsh", &["-c"]),
        ("ksh", &["-c"]),
        ("python", &["-c", "-m"]),
        ("perl", &["-e", "-E"]),
        ("ruby", &["-e"]),
        ("node", &["-e", "-p"]),
        ("php", &["-r"]),
        ("lua", &["-e"]),
        ("tclsh", &[]),
    ];
    let name = exe.file_name()?.to_str()?;
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let (_, inline) = INTERPRETERS.iter().find(|(interpreter, _)| *interpreter == plain)?;
    let argument = argv.iter().skip(1).find(|argument| !argument.starts_with('-'))?;
    if argv.iter().skip(1).take_while(|a| *a != argument).any(|a| inline.contains(&&**a)) {
        return None;
    }
    let path = cwd.join(argument);
    let path = path.canonicalize().unwrap_or(path);
    path.is_file().then_some(path)
}

fn cgroup_of(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?;
    groups.into_iter().find(|group| group.hierarchy == 0).map(|group| group.pathname)
}

fn audit_id(pid: i32, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok()?;
    text.trim().parse().ok().filter(|id| *id != u32::MAX)
}

fn ci_of(process: &Process) -> Option<Ci> {
    ci::from_environment(&std::fs::read(format!("/proc/{}/environ", process.pid)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Known {
        let stat = Process::myself().unwrap().stat().unwrap();
        Known { pid: std::process::id(), start_time_ns: stat.starttime * TICK_NS + 1, uid: 0, gid: 0 }
    }

    #[test]
    fn this_process_is_read_whole() {
        let subject = Reader::default().subject(&me());
        assert_eq!(subject.missing, Vec::<String>::new());
        assert_eq!(subject.exe, std::env::current_exe().unwrap());
        assert_eq!(subject.cwd, std::env::current_dir().unwrap());
        assert_eq!(subject.exe_sha256.len(), 64);
        assert!(!subject.argv.is_empty() && !subject.ancestors.is_empty());
    }

    #[test]
    fn another_process_of_the_same_id_is_not_taken_for_it() {
        let known = Known { start_time_ns: 5 * TICK_NS, ..me() };
        let subject = Reader::default().subject(&known);
        assert!(subject.exe.as_os_str().is_empty() && subject.argv.is_empty());
        assert_eq!(subject.missing.len(), 1);
    }

    #[test]
    fn a_process_that_has_gone_is_known_by_how_it_began() {
        let reader = Reader::default();
        let known = Known { pid: 4_194_305, start_time_ns: 7, uid: 0, gid: 0 };
        let argv = vec!["psql".to_owned(), "--password=hunter2".to_owned()];
        reader.began(&known, std::process::id(), "/usr/bin/psql".into(), argv);
        reader.ended(known.pid, known.start_time_ns);
        let subject = reader.subject(&known);
        assert_eq!(subject.exe, Path::new("/usr/bin/psql"));
        assert_eq!(subject.argv, ["psql", "--password=****"]);
        assert_eq!(subject.ancestors.first().map(|parent| parent.pid), Some(std::process::id()));
        // Another process of the same id is none of it.
        let other = reader.subject(&Known { start_time_ns: 8, ..known });
        assert!(other.exe.as_os_str().is_empty() && other.ancestors.is_empty());
    }

    #[test]
    fn scripts_are_found_behind_their_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let file = file.canonicalize().unwrap();
        let argv = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let find = |exe: &str, line: &str| script(Path::new(exe), &argv(line), dir.path());
        assert_eq!(find("/usr/bin/perl", "perl -e report x"), None);
        assert_eq!(find("/usr/bin/bash", "bash -x report x"), Some(file.clone()));
        assert_eq!(find("/usr/bin/python3.11", "python3 ./report"), Some(file));
        assert_eq!(find("/usr/bin/bash", "bash -c report"), None);
        assert_eq!(find("/usr/bin/psql", "psql report"), None);
    }
}
