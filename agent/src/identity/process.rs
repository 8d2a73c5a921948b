//! Reads a process and its ancestors from /proc.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use procfs::process::Process;

use crate::intercept::{FlowProcess, Program, Resolver};

use super::ancestors::{Ancestors, Stat};
use super::{Ci, ClaimedLogin, Subject, cgroup, ci, hash::Hashes, secrets, users};

/// Longest command line that is kept, in bytes and in arguments.
const MAX_ARGV: (usize, usize) = (16 << 10, 256);

/// Most bytes of a command line or an environment that are looked at. A process can claim any number:
/// `prctl(PR_SET_MM_MAP)` makes all of its memory its environment.
const MAX_MEMORY: u64 = 128 << 10;

/// As long as most command lines and environments are, in bytes.
const USUAL_MEMORY: usize = 8 << 10;

/// How long the mount table is taken to be as it was.
const MOUNTS: Duration = Duration::from_secs(1);

/// Most programs that are remembered as they began.
const MAX_PROGRAMS: usize = 8192;

/// Nanoseconds per clock tick of /proc/PID/stat's start time.
pub(crate) const TICK_NS: u64 = 1_000_000_000 / 100;

/// What the kernel side noted when the process called connect(). It is there even if the process is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Thread group id.
    pub pid: u32,
    /// Nanoseconds since boot; zero when the kernel side could not tell.
    pub start_time_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Which of its programs it was: see [`Program::exec_id`].
    pub exec_id: u64,
}

/// Says what the kernel side knows of the program of a process.
pub type ProgramOf = Box<dyn Fn(u32) -> Option<Program> + Send + Sync>;

/// Reads processes; remembers what is dear to compute.
pub struct Reader {
    kernel: ProgramOf,
    hashes: Hashes,
    names: users::Names,
    mounts: Mutex<Option<(Instant, Arc<Resolver>)>>,
    pub(super) ancestors: Ancestors,
    /// What the kernel side told of programs as they began, by process id.
    programs: Mutex<HashMap<u32, Began>>,
}

/// A program as it began.
#[derive(Debug)]
struct Began {
    program: Program,
    parent: u32,
    exe: PathBuf,
    argv: Vec<String>,
    ended: bool,
}

impl From<&FlowProcess> for Known {
    fn from(process: &FlowProcess) -> Self {
        Self {
            pid: process.tgid,
            start_time_ns: process.start_time_ns,
            uid: process.uid,
            gid: process.gid,
            exec_id: process.exec_id,
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads processes, and believes of what they can change about themselves only what the kernel side
    /// says too.
    pub fn new(kernel: ProgramOf) -> Self {
        Self {
            kernel,
            hashes: Hashes::default(),
            names: users::Names::default(),
            mounts: Mutex::default(),
            ancestors: Ancestors::default(),
            programs: Mutex::default(),
        }
    }

    /// The login user of the process that has this id now, if the kernel side has seen root set it.
    pub fn login_by_root(&self, pid: u32) -> Option<u32> {
        let now = (self.kernel)(pid)?;
        let stat = Stat::of(i32::try_from(pid).ok()?).ok()?;
        now.login.filter(|_| stat.start == now.start_time_ns / TICK_NS)
    }

    /// What is known of a process that is there, as of one that connected.
    pub fn known(&self, pid: u32) -> Option<Known> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let (status, stat) = (process.status().ok()?, Stat::of(process.pid).ok()?);
        let program = self.program(pid).filter(|program| program.start_time_ns / TICK_NS == stat.start);
        let (start_time_ns, exec_id) =
            program.map_or((stat.start * TICK_NS, 0), |program| (program.start_time_ns, program.exec_id));
        Some(Known { pid, start_time_ns, uid: status.ruid, gid: status.rgid, exec_id })
    }

    /// What the kernel side knows of the program of a process.
    pub(super) fn program(&self, pid: u32) -> Option<Program> {
        (self.kernel)(pid)
    }

    /// The mount table, by which files are told apart.
    fn resolver(&self) -> io::Result<Arc<Resolver>> {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        match &*mounts {
            Some((read, resolver)) if read.elapsed() < MOUNTS => Ok(Arc::clone(resolver)),
            _ => {
                let resolver = Arc::new(Resolver::new()?);
                *mounts = Some((Instant::now(), Arc::clone(&resolver)));
                Ok(resolver)
            }
        }
    }

    /// Whether a path of this host is the file that the kernel saw.
    pub(super) fn is_file(&self, path: &Path, seen: Option<interlock_agent_common::FileId>) -> bool {
        let found = self.resolver().and_then(|resolver| resolver.resolve(path));
        path.is_absolute() && seen.is_some() && found.ok() == seen
    }

    /// Takes note that a designated process began a program, in case it is gone when its flow is looked at.
    pub fn began(&self, known: &Known, program: Program, parent: u32, exe: PathBuf, argv: Vec<String>) {
        let began = Began { program, parent, exe, argv: arguments(argv), ended: false };
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
            && began.program.start_time_ns == start_time_ns
        {
            began.ended = true;
        }
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Began>> {
        self.programs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Only what the kernel side told, and the names to it.
    fn told(&self, known: &Known) -> Subject {
        let mut missing = Vec::new();
        let mut name = |found: io::Result<String>, what: &str| {
            found.unwrap_or_else(|error| {
                missing.push(format!("{what}: the name service cannot tell: {error}"));
                String::new()
            })
        };
        Subject {
            pid: known.pid,
            start_time_ns: known.start_time_ns,
            uid: known.uid,
            user: name(self.names.user(known.uid), "user"),
            gid: known.gid,
            group: name(self.names.group(known.gid), "group"),
            missing,
            ..Subject::default()
        }
    }

    /// What the kernel side told of a process, where it cannot be looked at.
    pub fn unseen(&self, known: &Known) -> Subject {
        let mut subject = self.told(known);
        subject.missing.push("process: it could not be looked at".to_owned());
        subject
    }

    /// Everything that can be found out about a process. Never fails: what could not be read is named
    /// in [`Subject::missing`].
    pub fn subject(&self, known: &Known) -> Subject {
        let mut subject = self.told(known);
        if let Some(process) = same_process(known) {
            self.read(&process, known, &mut subject);
            // The process may have gone, and its id been taken by another, while it was read.
            if same_process(known).is_some() {
                return subject;
            }
            subject = self.told(known);
        }
        let began = self
            .programs()
            .get(&known.pid)
            .filter(|began| began.is(known))
            .map(|began| (began.program, began.exe.clone(), began.argv.clone()));
        if let Some((program, path, argv)) = began {
            if self.is_file(&path, program.script) {
                subject.script = Some(path);
            } else if self.is_file(&path, program.exe) {
                subject.exe = path.canonicalize().unwrap_or(path);
            }
            subject.argv = argv;
            subject.login_uid = program.login;
            let name = program.login.and_then(|uid| self.names.user(uid).ok());
            subject.login_user = name.unwrap_or_default();
        }
        self.parents(self.parent_of(known).unwrap_or(0), &mut subject);
        subject.missing.push("process: it ended before it could be looked at".to_owned());
        subject
    }

    fn parent_of(&self, known: &Known) -> Option<i32> {
        let programs = self.programs();
        let began = programs.get(&known.pid).filter(|began| began.is(known))?;
        i32::try_from(began.parent).ok()
    }

    fn read(&self, process: &Process, known: &Known, subject: &mut Subject) {
        let mut missing = BTreeSet::new();
        let pid = process.pid;
        let now = (self.kernel)(known.pid).filter(|now| now.start_time_ns == known.start_time_ns);
        // The program that connected may have made way for another in the same process.
        let program = now.filter(|now| now.exec_id == known.exec_id).unwrap_or_default();
        match process.exe() {
            Ok(exe) if self.is_file(&exe, program.exe) => subject.exe = exe,
            Ok(_) => drop(missing.insert("exe: not the file that the kernel saw begin")),
            Err(_) => drop(missing.insert("exe")),
        }
        match self.hash(pid, &program) {
            Ok(hash) => subject.exe_sha256 = hash,
            Err(_) => drop(missing.insert("exe_sha256")),
        }
        match process.cwd() {
            Ok(cwd) => subject.cwd = cwd,
            Err(_) => drop(missing.insert("cwd")),
        }
        match command_line(pid) {
            Ok(argv) => {
                match script(&subject.exe, &argv, &subject.cwd) {
                    Some(path) if self.is_file(&path, program.script) => subject.script = Some(path),
                    claimed => subject.script_claimed = claimed,
                }
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
        let login = audit_id(pid, "loginuid");
        if login.is_some() && login == now.and_then(|now| now.login) {
            subject.login_uid = login;
            subject.login_session = audit_id(pid, "sessionid");
            match login.map(|uid| self.names.user(uid)).transpose() {
                Ok(name) => subject.login_user = name.unwrap_or_default(),
                Err(_) => drop(missing.insert("login_uid: the name service cannot tell its name")),
            }
        } else if let Some(uid) = login {
            missing.insert("login_uid: not seen to be set by root");
            let user = self.names.user(uid).unwrap_or_default();
            subject.login_claimed = Some(ClaimedLogin { uid, user, session: audit_id(pid, "sessionid") });
        }

        match memory(pid, "environ") {
            Ok(environment) => subject.ci = ci::from_environment(&environment).unwrap_or_default(),
            Err(_) => drop(missing.insert("environment")),
        }
        self.parents(Stat::of(pid).map_or(0, |stat| stat.parent), subject);
        subject.missing.extend(missing.into_iter().map(str::to_owned));
    }

    /// The hash of a process's executable, if that is the file that the kernel saw.
    fn hash(&self, pid: i32, program: &Program) -> io::Result<String> {
        let file = File::open(format!("/proc/{pid}/exe"))?;
        if program.exe.is_none() || self.resolver()?.identify(&file).ok() != program.exe {
            return Err(io::Error::other("another file than the kernel saw"));
        }
        self.hashes.of(file)
    }
}

impl Began {
    /// Whether it is the program that connected.
    fn is(&self, known: &Known) -> bool {
        self.program.start_time_ns == known.start_time_ns && self.program.exec_id == known.exec_id
    }
}

/// The process, if it is still the one that connected.
fn same_process(known: &Known) -> Option<Process> {
    let pid = i32::try_from(known.pid).ok()?;
    let process = Process::new(pid).ok()?;
    let stat = Stat::of(pid).ok()?;
    (known.start_time_ns == 0 || stat.start == known.start_time_ns / TICK_NS).then_some(process)
}

pub(super) fn arguments(mut argv: Vec<String>) -> Vec<String> {
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

pub(super) fn audit_id(pid: i32, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok()?;
    text.trim().parse().ok().filter(|id| *id != u32::MAX)
}

pub(super) fn ci_of(pid: i32) -> Option<Ci> {
    ci::from_environment(&memory(pid, "environ").ok()?)
}

/// The beginning of what a file in /proc shows of a process's memory.
pub(super) fn memory(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    // Room for most at once: nothing tells the size beforehand, and each read costs a look at the memory
    // of the other process.
    let mut bytes = Vec::with_capacity(USUAL_MEMORY);
    File::open(format!("/proc/{pid}/{name}"))?.take(MAX_MEMORY).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn command_line(pid: i32) -> io::Result<Vec<String>> {
    let line = memory(pid, "cmdline")?;
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    if line.is_empty() {
        return Ok(Vec::new());
    }
    // As many as are kept, and one to tell that there were more.
    let arguments = line.split(|byte| *byte == 0).take(MAX_ARGV.1 + 1);
    Ok(arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEC: u64 = 3;

    fn known(pid: u32) -> Known {
        let stat = Process::new(pid as i32).unwrap().stat().unwrap();
        Known { pid, start_time_ns: stat.starttime * TICK_NS + 1, uid: 0, gid: 0, exec_id: EXEC }
    }

    fn me() -> Known {
        known(std::process::id())
    }

    /// A kernel side that has seen what /proc shows.
    fn honest() -> Reader {
        Reader::new(Box::new(|pid| {
            let exe = Resolver::new().unwrap().resolve(Path::new(&format!("/proc/{pid}/exe"))).ok();
            let login = audit_id(pid as i32, "loginuid");
            let start_time_ns = known(pid).start_time_ns;
            Some(Program { start_time_ns, exec_id: EXEC, exe, script: None, login })
        }))
    }

    fn blind() -> Reader {
        Reader::new(Box::new(|_| None))
    }

    #[test]
    fn this_process_is_read_whole() {
        let subject = honest().subject(&me());
        assert_eq!(subject.missing, Vec::<String>::new());
        assert_eq!(subject.exe, std::env::current_exe().unwrap());
        assert_eq!(subject.cwd, std::env::current_dir().unwrap());
        assert_eq!(subject.exe_sha256.len(), 64);
        assert!(!subject.argv.is_empty() && !subject.ancestors.is_empty());
    }

    #[test]
    fn another_process_of_the_same_id_is_not_taken_for_it() {
        let known = Known { start_time_ns: 5 * TICK_NS, ..me() };
        let subject = blind().subject(&known);
        assert!(subject.exe.as_os_str().is_empty() && subject.argv.is_empty());
        assert_eq!(subject.missing.len(), 1);
    }

    #[test]
    fn what_the_kernel_has_not_seen_is_not_believed() {
        let honest = honest().subject(&me());
        // Another file stands there than the one that was executed.
        let subject = Reader::new(Box::new(|pid| {
            let exe = Resolver::new().unwrap().resolve(Path::new("/bin/sh")).ok();
            let start_time_ns = known(pid).start_time_ns;
            Some(Program { start_time_ns, exec_id: EXEC, exe, ..Program::default() })
        }))
        .subject(&me());
        assert!(subject.exe.as_os_str().is_empty() && subject.exe_sha256.is_empty(), "{subject:?}");
        assert!(subject.ancestors.iter().all(|ancestor| ancestor.exe != honest.exe));
        assert!(subject.login_user.is_empty() && subject.login_uid.is_none());
        assert!(subject.missing.iter().any(|missing| missing.starts_with("exe:")), "{subject:?}");
        // The connection was another program's in the same process.
        let subject = self::honest().subject(&Known { exec_id: EXEC - 1, ..me() });
        assert!(subject.exe.as_os_str().is_empty() && subject.exe_sha256.is_empty(), "{subject:?}");
    }

    #[test]
    fn a_login_is_by_root_if_the_kernel_has_seen_that() {
        let pid = std::process::id();
        assert_eq!(blind().login_by_root(pid), None);
        let seen = |start_time_ns: u64, login| {
            let program = Program { start_time_ns, login, ..Program::default() };
            Reader::new(Box::new(move |_| Some(program))).login_by_root(pid)
        };
        assert_eq!(seen(me().start_time_ns, Some(4_242)), Some(4_242));
        assert_eq!(seen(me().start_time_ns, None), None);
        // Another process had the id before.
        assert_eq!(seen(5 * TICK_NS, Some(4_242)), None);
    }

    #[test]
    fn a_login_that_root_was_not_seen_to_set_is_a_claim() {
        // One that sets its own, where none is set and the kernel has such.
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "echo 1 > /proc/self/loginuid 2>/dev/null; echo; read x"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        let pid = child.id();
        let uid = audit_id(pid as i32, "loginuid");
        let subject = blind().subject(&known(pid));
        assert_eq!((subject.login_uid, &*subject.login_user, subject.login_session), (None, "", None));
        let claimed = subject.login_claimed;
        assert_eq!(claimed.as_ref().map(|claimed| claimed.uid), uid);
        if let (Some(claimed), Some(uid)) = (claimed, uid) {
            assert_eq!(claimed.session, audit_id(pid as i32, "sessionid"));
            assert_eq!(claimed.user, users::user_name(uid).unwrap().unwrap_or_default());
            // Another login than the one that root set is no better.
            let start_time_ns = known(pid).start_time_ns;
            let other = Program { start_time_ns, login: Some(uid + 1), ..Program::default() };
            let subject = Reader::new(Box::new(move |_| Some(other))).subject(&known(pid));
            assert_eq!((subject.login_uid, subject.login_claimed), (None, Some(claimed)));
            let seen = Program { login: Some(uid), ..other };
            let subject = Reader::new(Box::new(move |_| Some(seen))).subject(&known(pid));
            assert_eq!((subject.login_uid, subject.login_claimed), (Some(uid), None));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_script_is_one_if_the_kernel_saw_it_executed() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().canonicalize().unwrap().join("report");
        std::fs::write(&script, "read x\n").unwrap();
        let mut child = std::process::Command::new("/bin/bash")
            .arg(&script)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let known = known(child.id());
        let seen = |seen: bool| {
            let script = script.clone();
            let reader = Reader::new(Box::new(move |pid| {
                let resolver = Resolver::new().unwrap();
                let exe = resolver.resolve(Path::new(&format!("/proc/{pid}/exe"))).ok();
                let script = seen.then(|| resolver.resolve(&script).unwrap());
                let start_time_ns = self::known(pid).start_time_ns;
                Some(Program { start_time_ns, exec_id: EXEC, exe, script, login: None })
            }));
            // Until the new program is there.
            loop {
                let subject = reader.subject(&known);
                if subject.script.is_some() || subject.script_claimed.is_some() {
                    break (subject.script, subject.script_claimed);
                }
            }
        };
        assert_eq!(seen(true), (Some(script.clone()), None));
        assert_eq!(seen(false), (None, Some(script.clone())));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn memory_is_read_within_bounds() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read x"])
            .arg("y".repeat(100_000))
            .arg("z".repeat(100_000))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        // It is there a moment after the program.
        while memory(pid, "cmdline").unwrap().is_empty() {}
        assert_eq!(memory(pid, "cmdline").unwrap().len() as u64, MAX_MEMORY);
        assert_eq!(command_line(pid).unwrap()[..3], ["/bin/sh", "-c", "read x"]);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_has_gone_is_known_by_how_it_began() {
        let reader = blind();
        let known = Known { pid: 4_194_305, start_time_ns: 7, uid: 0, gid: 0, exec_id: EXEC };
        let argv = vec!["sh".to_owned(), "--password=hunter2".to_owned()];
        let exe = Resolver::new().unwrap().resolve(Path::new("/bin/sh")).ok();
        let login = Some(0);
        let program = Program { start_time_ns: 7, exec_id: EXEC, exe, login, ..Program::default() };
        reader.began(&known, program, std::process::id(), "/bin/sh".into(), argv.clone());
        reader.ended(known.pid, known.start_time_ns);
        let subject = reader.subject(&known);
        assert_eq!(subject.exe, Path::new("/bin/sh").canonicalize().unwrap());
        assert_eq!(subject.argv, ["sh", "--password=****"]);
        assert_eq!(subject.login_uid, Some(0), "what root was seen to set is known though it has gone");
        assert_eq!(subject.ancestors.first().map(|parent| parent.pid), Some(std::process::id()));
        // Another process of the same id is none of it.
        let other = reader.subject(&Known { start_time_ns: 8, ..known });
        assert!(other.exe.as_os_str().is_empty() && other.ancestors.is_empty());
        // Nor is a path that names another file than was executed.
        reader.began(&known, program, std::process::id(), "/bin/true".into(), argv);
        assert!(reader.subject(&known).exe.as_os_str().is_empty());
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
