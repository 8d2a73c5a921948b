//! Who a process is, is what the kernel saw, not what the process says of itself.
#![allow(clippy::unwrap_used, reason = "a failure of any step is a failure of the test")]

mod intercept_support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use intercept_support::{Bed, Client, selection};
use interlock_agent::identity::{Known, Reader, Subject};
use interlock_agent::intercept::{InterceptError, Interceptor};

fn reader(interceptor: &Interceptor) -> Reader {
    let programs = interceptor.programs().unwrap();
    Reader::new(Box::new(move |pid| programs.of(pid)))
}

/// As a flow of this process would name it now.
fn known(interceptor: &Interceptor, pid: u32) -> Known {
    let program = interceptor.programs().unwrap().of(pid).unwrap();
    Known { pid, start_time_ns: program.start_time_ns, uid: 0, gid: 0, exec_id: program.exec_id }
}

fn look(interceptor: &Interceptor, client: &Client) -> Subject {
    reader(interceptor).subject(&known(interceptor, client.child.id()))
}

fn executable(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.canonicalize().unwrap()
}

fn spawn(program: &str, arguments: &[&str]) -> Client {
    let mut command = Command::new(program);
    command.args(arguments);
    Client::spawn(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_and_scripts_are_those_that_were_executed() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = executable(&dir.path().join("approved"), "#!/bin/bash\necho ready; read x\n");
    let bash = Path::new("/bin/bash").canonicalize().unwrap();

    let stages = interceptor.status().unwrap().exec_stages;
    let mut client = spawn(script.to_str().unwrap(), &[]);
    client.line().await;
    let subject = look(&interceptor, &client);
    // Where the kernel does not show the stages of an exec, this too is only what the process says.
    let (known, claimed) = if stages { (Some(&script), None) } else { (None, Some(&script)) };
    assert_eq!(
        (&subject.exe, subject.script.as_ref(), subject.script_claimed.as_ref()),
        (&bash, known, claimed)
    );
    assert_eq!(subject.exe_sha256.len(), 64);
    assert!(!subject.missing.iter().any(|missing| missing.starts_with("exe")), "{subject:?}");

    // By its interpreter: it may have been told to run something else.
    let mut client = spawn("/bin/bash", &[script.to_str().unwrap()]);
    client.line().await;
    let subject = look(&interceptor, &client);
    assert_eq!((subject.exe, subject.script, subject.script_claimed), (bash, None, Some(script.clone())));

    // Arguments that a process has given itself.
    let overwrite = format!(
        r#"
import ctypes, sys
start = int(open('/proc/self/stat').read().rsplit(')')[1].split()[45])
ctypes.memmove(start, b"python3\0{}\0", {})
print('ready', flush=True); sys.stdin.readline()"#,
        script.display(),
        script.as_os_str().len() + 9
    );
    let mut client = spawn("/usr/bin/python3", &["-c", &overwrite]);
    client.line().await;
    let subject = look(&interceptor, &client);
    assert_eq!(subject.script, None);
    assert_eq!(subject.script_claimed, Some(script), "what this test is about: {subject:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_its_own_does_not_make_it_another_program() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let approved = executable(&dir.path().join("report"), "not executed");
    let mut client = spawn(
        "unshare",
        &[
            "-m",
            "/bin/sh",
            "-c",
            r#"mount --bind /bin/bash "$0" && exec "$0" -c 'echo ready; read x; true'"#,
            approved.to_str().unwrap(),
        ],
    );
    client.line().await;
    let shown = std::fs::read_link(format!("/proc/{}/exe", client.child.id())).unwrap();
    assert_eq!(shown, approved, "what this test is about");
    let subject = look(&interceptor, &client);
    assert_eq!(subject.exe, Path::new(""), "{subject:?}");
    assert!(subject.missing.iter().any(|missing| missing.starts_with("exe:")), "{subject:?}");
    // It is the file all the same, whatever its name.
    let mut bash = spawn("/bin/bash", &["-c", "echo ready; read x; true"]);
    bash.line().await;
    let honest = look(&interceptor, &bash);
    assert_eq!(subject.exe_sha256, honest.exe_sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_in_the_same_process_is_another() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let mut client = spawn("/bin/bash", &["-c", "echo ready; read x; exec /bin/sh -c 'echo ready; read x'"]);
    client.line().await;
    let connected = known(&interceptor, client.child.id());
    client.tell("");
    client.line().await;
    let subject = reader(&interceptor).subject(&connected);
    assert!(subject.exe.as_os_str().is_empty() && subject.exe_sha256.is_empty(), "{subject:?}");
    let subject = look(&interceptor, &client);
    assert_eq!(subject.exe, Path::new("/bin/sh").canonicalize().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_counts_if_root_has_set_it() {
    if std::fs::read_to_string("/proc/self/loginuid").is_ok_and(|id| id.trim() != u32::MAX.to_string()) {
        // Started by somebody who has logged in, nobody but root could set another.
        return;
    }
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let set = "echo 0 > /proc/self/loginuid; sh -c 'read l < /proc/self/loginuid; echo $l; read x'; true";
    // As somebody who was started by a service would.
    let mut client = spawn("setpriv", &["--reuid=65534", "--clear-groups", "sh", "-c", set]);
    assert_eq!(client.line().await, "0", "what this test is about");
    let child = child_of(client.child.id());
    let subject = reader(&interceptor).subject(&known(&interceptor, child));
    assert_eq!((subject.login_uid, subject.login_user.as_str()), (None, ""), "{subject:?}");
    assert!(subject.missing.iter().any(|missing| missing.starts_with("login_uid:")), "{subject:?}");
    let claimed = subject.login_claimed.unwrap();
    assert_eq!((claimed.uid, claimed.user.as_str()), (0, "root"), "it counts against whoever that is");
    // As sshd does.
    let log_in = "echo 65534 > /proc/self/loginuid; setpriv --reuid=65534 --clear-groups \
                  sh -c 'read l < /proc/self/loginuid; echo $l; read x'; true";
    let mut client = spawn("sh", &["-c", log_in]);
    assert_eq!(client.line().await, "65534");
    let child = child_of(client.child.id());
    let subject = reader(&interceptor).subject(&known(&interceptor, child));
    assert_eq!((subject.login_uid, subject.login_user.as_str()), (Some(65_534), "nobody"), "{subject:?}");
}

fn child_of(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_not_tracked() {
    let bed = Bed::new();
    std::fs::create_dir(bed.cgroup.join("others")).unwrap();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let programs = interceptor.programs().unwrap();
    // A child that has ended, and is not waited for.
    let script = "child = subprocess.Popen(['/bin/true']); os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT); say(child.pid); sys.stdin.readline()";
    let mut client = bed.client(script);
    let dead: u32 = client.line().await.parse().unwrap();
    assert_eq!(programs.of(dead), None);
    std::fs::write(bed.cgroup.join("others/cgroup.procs"), dead.to_string()).unwrap();
    std::fs::write(bed.cgroup.join("clients/cgroup.procs"), dead.to_string()).unwrap();
    assert_eq!(programs.of(dead), None, "it was moved, which is no sign of life");
    assert!(matches!(interceptor.designate_run(dead, "job"), Err(InterceptError::Gone(_))));
    assert_eq!(programs.of(dead), None);
    drop(client);
}
