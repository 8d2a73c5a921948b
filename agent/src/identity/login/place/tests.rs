use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

/// A shell that runs what it is told, and ends with this.
struct Shell {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// One in a login session of its own, as `pam_loginuid` begins one. `None` where the kernel has no audit or
    /// this is not root.
    fn logged_in(uid: u32) -> Option<(Self, Seat)> {
        let mut shell = Self::new();
        let session = shell.run(&format!(
            "echo {uid} 2>/dev/null > /proc/self/loginuid && cat /proc/self/sessionid && echo"
        ));
        let session = session.parse().ok()?;
        let seat = Seat { login: Some((session, uid)), ..shell.seat() };
        Some((shell, seat))
    }

    fn new() -> Self {
        let mut child = Command::new("/bin/bash")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The first line that a command says.
    fn run(&mut self, command: &str) -> String {
        self.line(&format!("{command} || echo failed"))
    }

    fn line(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Starts something that stays for as long as the shell does; its process id.
    fn start(&mut self, command: &str) -> u32 {
        let pid = self.line(command).parse().unwrap();
        // Until it is what was asked for.
        while Seat::of(pid, None).is_err() {}
        pid
    }

    fn seat(&self) -> Seat {
        Seat::of(self.child.id(), None).unwrap()
    }

    fn tree(&self) -> Place {
        let seat = self.seat();
        Place::Tree { pid: seat.pid, start: seat.start }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn of(pid: u32, login: Option<u32>) -> Seat {
    Seat::of(pid, login).unwrap()
}

#[test]
fn a_tree_is_what_descends_from_its_root() {
    let (mut shell, other) = (Shell::new(), Shell::new());
    let tree = shell.tree();
    assert!(tree.has(&shell.seat()));
    let child = shell.start("sleep 100 & echo $!");
    let grandchild = shell.start("bash -c 'sleep 100 & echo $!; wait' &");
    assert!(tree.has(&of(child, None)) && tree.has(&of(grandchild, None)));
    assert!(!tree.has(&other.seat()) && !other.tree().has(&of(child, None)));
    // What made the shell is not of it.
    assert!(!tree.has(&of(std::process::id(), None)));
}

#[test]
fn nobody_joins_a_tree() {
    let mut shell = Shell::new();
    let mut other = Shell::new();
    // By a double fork a process gets another parent, and that is no process of the tree.
    let orphan = other.start("(setsid sleep 100 & echo $!)");
    assert!(!shell.tree().has(&of(orphan, None)));
    // One that leaves the tree in this way is of it no more.
    let leaver = shell.start("(setsid sleep 100 & echo $!)");
    while Stat::of(leaver as i32).unwrap().parent == shell.child.id() as i32 {}
    let orphaned = || Stat::of(leaver as i32).unwrap().parent != shell.child.id() as i32;
    assert!(orphaned());
    let left = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        !shell.tree().has(&of(leaver, None))
    });
    assert!(left);
    for pid in [orphan, leaver] {
        let _ = Command::new("kill").arg(pid.to_string()).status();
    }
}

#[test]
fn another_process_of_the_same_id_is_not_taken_for_it() {
    let shell = Shell::new();
    let seat = shell.seat();
    // The root's id has gone to another process since.
    let tree = Place::Tree { pid: seat.pid, start: seat.start.wrapping_sub(1) };
    assert!(!tree.has(&seat) && !tree.is_there(&mut None));
    // So has the id of the process that is asked about.
    let earlier = Seat { start: seat.start.wrapping_sub(1), ..seat };
    assert!(!shell.tree().has(&earlier) && line(&earlier).is_empty());
    let tree = shell.tree();
    assert!(tree.is_there(&mut None));
    drop(shell);
    assert!(!tree.is_there(&mut None) && !tree.has(&seat));
}

#[test]
fn a_login_session_is_kept_by_whatever_it_starts() {
    let Some((mut shell, seat)) = Shell::logged_in(4242) else { return };
    let place = Place::Session { session: seat.login.unwrap().0, login_uid: 4242 };
    assert!(place.has(&seat));
    for command in [
        "sleep 100 & echo $!",
        "nohup sleep 100 > /dev/null & echo $!",
        "(setsid sleep 100 & echo $!)",
        "setpriv --reuid=5 --regid=60 --clear-groups sleep 100 & echo $!",
        "su -s /bin/sh games -c 'sleep 100 & echo $!; wait' &",
    ] {
        let pid = shell.start(command);
        assert!(place.has(&of(pid, Some(4242))), "{command}");
        // As the kernel side tells it: another login user, or none, is none of it.
        assert!(!place.has(&of(pid, Some(5))) && !place.has(&of(pid, None)), "{command}");
        let _ = Command::new("kill").arg(pid.to_string()).status();
    }
    let mut witness = None;
    assert!(place.is_there(&mut witness));
    assert!(witness.is_some());
}

#[test]
fn a_login_session_is_not_joined_and_ends() {
    let Some((shell, seat)) = Shell::logged_in(4242) else { return };
    let place = Place::Session { session: seat.login.unwrap().0, login_uid: 4242 };
    // The same user's next login, and a process that sets the same login user by itself, get other numbers.
    let (_again, second) = Shell::logged_in(4242).unwrap();
    assert_ne!(second.login, seat.login);
    assert!(!place.has(&second));
    // A number that is set cannot be set to another's.
    let (mut third, _) = Shell::logged_in(4243).unwrap();
    let number = third.run(&format!("echo {} > /proc/self/sessionid", seat.login.unwrap().0));
    assert_eq!(number, "failed");
    let mut witness = Some(shell.child.id() as i32);
    assert!(place.is_there(&mut witness));
    drop(shell);
    assert!(!place.is_there(&mut witness));
}

#[test]
fn where_a_caller_signs_in() {
    let own = rustix::process::getuid().as_raw();
    let mut shell = Shell::new();
    let caller = shell.start("sleep 100 & echo $!");
    // No login session that the kernel side has seen: the shell's tree.
    let (place, why) = Place::of_caller(caller, own, None).unwrap();
    assert_eq!(place, shell.tree());
    assert!(why.is_some());
    // Its parent is another user's.
    let error = Place::of_caller(caller, own + 1, None).unwrap_err();
    assert!(matches!(error, PlaceError::NotOwn { .. }), "{error}");
    if let Some((mut shell, seat)) = Shell::logged_in(4242) {
        let caller = shell.start("sleep 100 & echo $!");
        let session = Place::Session { session: seat.login.unwrap().0, login_uid: 4242 };
        assert_eq!(Place::of_caller(caller, own, Some(4242)).unwrap(), (session, None));
        // What the kernel side has not seen root set is a claim.
        for claimed in [None, Some(5)] {
            let (place, why) = Place::of_caller(caller, own, claimed).unwrap();
            assert_eq!((place, why), (shell.tree(), Some(NoSession::Unconfirmed)));
        }
    }
    let gone = Place::of_caller(u32::MAX, own, None).unwrap_err();
    assert!(matches!(gone, PlaceError::Gone { .. }), "{gone}");
}

#[test]
fn a_service_managers_session_is_known_by_its_cgroup() {
    for (path, manager) in [
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-p1.scope\n", true),
        ("1:name=systemd:/user.slice/user-1000.slice/user@1000.service/init.scope\n0::/\n", true),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", false),
        ("0::/system.slice/cron.service\n", false),
        ("0::/user.slice/user@x.service/y\n", false),
        ("", false),
    ] {
        assert_eq!(of_manager(path), manager, "{path}");
    }
}
