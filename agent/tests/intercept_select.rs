//! Each selector, several together, and what somebody would try to get out of them.
#![allow(clippy::unwrap_used, reason = "a failure of any step is a failure of the test")]

mod intercept_support;

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use intercept_support::{Bed, Client, Entry, answer, entry, real_server, selection};
use interlock_agent::intercept::{Interceptor, Pattern};

struct Try {
    bed: Bed,
    interceptor: Arc<Interceptor>,
    /// Connects to a real server, and says who answers.
    script: String,
    port: u16,
    folder: tempfile::TempDir,
}

fn attempt() -> Try {
    let bed = Bed::new();
    let interceptor = Arc::new(bed.attach());
    serve_forever(&interceptor);
    let (real, _) = real_server("127.0.0.1:0");
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Try {
        bed,
        interceptor,
        script: format!("say(attempt(('127.0.0.1', {})))", real.port()),
        port: real.port(),
        folder,
    }
}

fn serve_forever(interceptor: &Arc<Interceptor>) {
    let weak = Arc::downgrade(interceptor);
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Some(interceptor) = weak.upgrade() {
            if let Ok(mut flow) =
                tokio::time::timeout(std::time::Duration::from_millis(100), interceptor.accept()).await
            {
                let _ = flow.stream.write_all(b"proxy").await;
            }
        }
    });
}

impl Try {
    /// Within this test's cgroup, and to its server only: other processes are left alone.
    fn entry(&self, id: u8) -> Entry {
        Entry { destinations: vec![Pattern { net: None, port: Some(self.port) }], ..entry(id) }
    }

    fn apply(&self, entries: impl IntoIterator<Item = Entry>) {
        self.interceptor.apply(&selection(entries)).unwrap();
    }

    async fn says(&self, mut client: Client) -> String {
        client.line().await
    }

    /// A script that connects, at a path of this test's folder.
    fn script_file(&self, name: &str, interpreter: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let text = match interpreter {
            "sh" => format!("#!/bin/sh\npython3 -c '{}'\n", self.one_liner()),
            "bash" => format!("#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{}; cat <&3; echo\n", self.port),
            _ => format!("#!/usr/bin/env python3\n{}\n", self.one_liner()),
        };
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn one_liner(&self) -> String {
        format!(
            "import socket; print(socket.create_connection((\"127.0.0.1\", {})).recv(9).decode(), flush=True)",
            self.port
        )
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Client {
        let mut command = self.bed.command_in("clients", program.to_str().unwrap());
        command.args(arguments).current_dir(self.folder.path());
        Client::spawn(command)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_user_and_group() {
    let test = attempt();
    // Python is not everybody's to execute on every host; perl and sh are.
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3; echo", test.port);
    let as_user = |uid: u32, gid: u32| {
        let mut command = test.bed.command_in("clients", "setpriv");
        command.args([
            &format!("--reuid={uid}"),
            &format!("--regid={gid}"),
            "--clear-groups",
            "bash",
            "-c",
            &connect,
        ]);
        Client::spawn(command)
    };
    let only = |uid, gid| Entry { uid, gid, cgroup: Some(test.bed.path("")), ..test.entry(1) };
    test.apply([only(Some(54321), None)]);
    assert_eq!(test.says(as_user(54321, 54321)).await, "proxy");
    assert_eq!(test.says(as_user(54322, 54321)).await, "real");
    test.apply([only(None, Some(54321))]);
    assert_eq!(test.says(as_user(54322, 54321)).await, "proxy");
    assert_eq!(test.says(as_user(54321, 54322)).await, "real");
    test.apply([only(Some(54321), Some(54321))]);
    assert_eq!(test.says(as_user(54321, 54321)).await, "proxy");
    assert_eq!(test.says(as_user(54321, 54322)).await, "real");
    assert_eq!(test.says(as_user(54322, 54321)).await, "real");
    // An entry that can hold for nobody takes nobody in.
    test.apply([Entry { impossible: true, ..only(None, None) }]);
    assert_eq!(test.says(as_user(54321, 54321)).await, "real");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_cannot_shake_off_its_user() {
    let test = attempt();
    test.apply([Entry { uid: Some(54321), ..test.entry(1) }]);
    // Designated when it runs a program as that user; root again afterwards (it keeps the saved id).
    let script = format!(
        "import os\nos.setresuid(54321, 54321, 0); subprocess.run(['true']); os.setresuid(0, 0, 0)\n{}",
        test.script
    );
    assert_eq!(test.says(test.bed.client(&script)).await, "proxy");
    // Another name for the user in a user namespace changes nothing.
    let inner = test.one_liner();
    let mut command = test.bed.command_in("clients", "setpriv");
    command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "unshare", "-r", "bash", "-c"]);
    command.arg(format!("id -u; exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3; echo", test.port));
    let mut client = Client::spawn(command);
    assert_eq!(client.line().await, "0");
    assert_eq!(client.line().await, "proxy");
    drop(inner);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_cgroup_whenever_it_is_made() {
    let test = attempt();
    let early = test.bed.cgroup.join("early");
    fs::create_dir(&early).unwrap();
    test.apply([
        Entry { cgroup: Some(test.bed.path("early")), ..test.entry(1) },
        Entry { cgroup: Some(test.bed.path("late")), ..test.entry(2) },
        Entry { unit: Some("nightly.service".into()), ..test.entry(3) },
    ]);
    assert_eq!(test.says(test.bed.client(&test.script)).await, "real");
    for child in
        ["early", "early/below/and/further/down", "late", "slice/nightly.service", "nightly.service/payload"]
    {
        fs::create_dir_all(test.bed.cgroup.join(child)).unwrap();
        assert_eq!(test.says(test.bed.client_in(child, &test.script)).await, "proxy", "{child}");
    }
    fs::create_dir(test.bed.cgroup.join("nightly.service.not")).unwrap();
    assert_eq!(test.says(test.bed.client_in("nightly.service.not", &test.script)).await, "real");
    // Made again.
    fs::remove_dir(test.bed.cgroup.join("late")).unwrap();
    fs::create_dir(test.bed.cgroup.join("late")).unwrap();
    assert_eq!(test.says(test.bed.client_in("late", &test.script)).await, "proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_the_cgroup_helps_nobody() {
    let test = attempt();
    test.apply([test_clients(&test)]);
    let out = test.bed.cgroup.join("others");
    fs::create_dir(&out).unwrap();
    let leave = format!("open('{}/cgroup.procs', 'w').write('0')", out.display());
    let script = format!("{leave}\n{}", test.script);
    assert_eq!(test.says(test.bed.client(&script)).await, "proxy");
    // Only ever moved in and out, by another.
    let mut outsider = test.bed.client_in("others", &format!("sys.stdin.readline()\n{}", test.script));
    let pid = outsider.child.id();
    fs::write(test.bed.cgroup.join("clients/cgroup.procs"), pid.to_string()).unwrap();
    fs::write(out.join("cgroup.procs"), pid.to_string()).unwrap();
    outsider.tell("");
    assert_eq!(outsider.line().await, "proxy");
    // Whoever was never in it is not concerned.
    assert_eq!(test.says(test.bed.client_in("others", &test.script)).await, "real");
    // Without `descendants` a process that has left is free.
    test.apply([Entry { descendants: false, ..test_clients(&test) }.with_id(9)]);
    assert_eq!(test.says(test.bed.client(&script)).await, "real");
}

trait WithId {
    fn with_id(self, id: u8) -> Self;
}

impl WithId for Entry {
    fn with_id(mut self, id: u8) -> Self {
        self.id.0 = [id; 16];
        self
    }
}

fn test_clients(test: &Try) -> Entry {
    Entry { cgroup: Some(test.bed.path("clients")), ..test.entry(1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn descendants_stay_designated() {
    let test = attempt();
    test.apply([test_clients(&test)]);
    let out = test.bed.cgroup.join("others");
    fs::create_dir(&out).unwrap();
    // Twice forked, its own session, parents gone, another cgroup, another user, another program.
    let script = format!(
        r#"
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open('{}/cgroup.procs', 'w').write('0')
        while os.getppid() != 1 and time.sleep(0.01) is None and not orphaned(): pass
        os.setuid(54321)
        os.execvp('bash', ['bash', '-c', 'exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3; echo'])
    os._exit(0)
os._exit(0)"#,
        out.display(),
        test.port
    )
    .replace(
        "if os.fork() == 0:\n    os.setsid()",
        "first = os.getpid()\ndef orphaned():\n    try: os.kill(first, 0); return False\n    except ProcessLookupError: return True\nif os.fork() == 0:\n    os.setsid()",
    );
    assert_eq!(test.says(test.bed.client(&script)).await, "proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_already_is_taken_in_with_its_descendants() {
    let test = attempt();
    let script = test.script_file("report", "python");
    // A parent in the cgroup, its child outside of it: both there before the selection.
    let out = test.bed.cgroup.join("others");
    fs::create_dir(&out).unwrap();
    let code = format!(
        "pid = os.fork()\nif pid == 0:\n    open('{}/cgroup.procs', 'w').write('0'); say('ready'); sys.stdin.readline()\n    {}\n    os._exit(0)\nos.waitpid(pid, 0)",
        out.display(),
        test.script
    );
    let mut family = test.bed.client(&code);
    assert_eq!(family.line().await, "ready");
    // A script that waits before it connects.
    fs::write(
        &script,
        format!("#!/usr/bin/env python3\nprint('ready', flush=True); input()\n{}\n", test.one_liner()),
    )
    .unwrap();
    let mut running = test.run(&script, &[]);
    assert_eq!(running.line().await, "ready");
    test.apply([test_clients(&test), Entry { exe: Some(script.clone()), ..test.entry(2) }]);
    family.tell("");
    assert_eq!(family.line().await, "proxy");
    running.tell("");
    assert_eq!(running.line().await, "proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_executable() {
    let test = attempt();
    let bash = test.folder.path().join("my-bash");
    fs::copy("/bin/bash", &bash).unwrap();
    test.apply([Entry { exe: Some(bash.clone()), ..test.entry(1) }]);
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3; echo", test.port);
    let link = test.folder.path().join("link");
    std::os::unix::fs::symlink(&bash, &link).unwrap();
    let hard = test.folder.path().join("hard");
    fs::hard_link(&bash, &hard).unwrap();
    for path in [
        &bash,
        &link,
        &hard,
        &PathBuf::from("./my-bash"),
        &PathBuf::from(
            "../".to_owned() + test.folder.path().file_name().unwrap().to_str().unwrap() + "/my-bash",
        ),
    ] {
        assert_eq!(test.says(test.run(path, &["-c", &connect])).await, "proxy", "{}", path.display());
    }
    assert_eq!(test.says(test.run(Path::new("/bin/bash"), &["-c", &connect])).await, "real");
    // What it starts.
    assert_eq!(
        test.says(test.run(&bash, &["-c", &format!("/bin/bash -c '{connect}' & wait")])).await,
        "proxy"
    );
    // Replaced a moment ago, by a rename as installers do.
    let fresh = test.folder.path().join("fresh");
    fs::copy("/bin/bash", &fresh).unwrap();
    fs::rename(&fresh, &bash).unwrap();
    assert_eq!(test.says(test.run(&bash, &["-c", &connect])).await, "proxy", "by its path");
    test.interceptor.refresh().unwrap();
    assert_eq!(test.says(test.run(Path::new("./my-bash"), &["-c", &connect])).await, "proxy", "by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_an_executable_however_it_is_started() {
    let test = attempt();
    for interpreter in ["python", "sh", "bash"] {
        let script = test.script_file(&format!("nightly-{interpreter}"), interpreter);
        let name = script.file_name().unwrap().to_str().unwrap().to_owned();
        test.apply([Entry { exe: Some(script.clone()), ..test.entry(1) }]);
        let link = test.folder.path().join(format!("link-{interpreter}"));
        std::os::unix::fs::symlink(&name, &link).unwrap();
        let hard = test.folder.path().join(format!("hard-{interpreter}"));
        fs::hard_link(&script, &hard).unwrap();
        for path in [script.clone(), link, hard, Path::new(".").join(&name)] {
            assert_eq!(test.says(test.run(&path, &[])).await, "proxy", "{}", path.display());
        }
        let command = if interpreter == "python" { "python3" } else { interpreter };
        for arguments in [&[name.as_str()][..], &["-u", &name][..]] {
            let arguments = if interpreter == "sh" { &arguments[arguments.len() - 1..] } else { arguments };
            assert_eq!(
                test.says(test.run(Path::new(command), arguments)).await,
                "proxy",
                "{command} {arguments:?}"
            );
        }
        // A script that starts the script.
        let outer = test.folder.path().join(format!("outer-{interpreter}"));
        fs::write(&outer, format!("#!{}\n", script.display())).unwrap();
        fs::set_permissions(&outer, fs::Permissions::from_mode(0o755)).unwrap();
        if interpreter == "bash" {
            assert_eq!(test.says(test.run(&outer, &[])).await, "proxy", "as an interpreter");
        }
    }
    // Another script of the same interpreter is not concerned.
    let other = test.script_file("other", "python");
    assert_eq!(test.says(test.run(&other, &[])).await, "real");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_of_an_entry_must_hold() {
    let test = attempt();
    let script = test.script_file("report", "bash");
    let both =
        Entry { uid: Some(54321), exe: Some(script.clone()), unit: Some("clients".into()), ..test.entry(1) };
    test.apply([both]);
    assert_eq!(test.says(test.run(&script, &[])).await, "real", "another user");
    let as_user = |child: &str, program: &str| {
        let mut command = test.bed.command_in(child, "setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups", program]).arg(&script);
        Client::spawn(command)
    };
    assert_eq!(test.says(as_user("clients", "bash")).await, "proxy");
    fs::create_dir(test.bed.cgroup.join("others")).unwrap();
    assert_eq!(test.says(as_user("others", "bash")).await, "real", "another unit");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_run() {
    let test = attempt();
    let named = Entry { run: Some("nightly".into()), ..test.entry(1) };
    let any = Entry { run: Some("*".into()), uid: Some(0), ..test.entry(2) };
    test.apply([named.clone()]);
    let wait = format!("sys.stdin.readline()\nif os.fork() == 0:\n    {}\nelse: os.wait()", test.script);
    let mut client = test.bed.client(&wait);
    assert_eq!(test.interceptor.designate_run(client.child.id(), "nightly").unwrap(), [named.id]);
    client.tell("");
    assert_eq!(client.line().await, "proxy");
    let mut client = test.bed.client(&wait);
    assert_eq!(test.interceptor.designate_run(client.child.id(), "hourly").unwrap(), []);
    client.tell("");
    assert_eq!(client.line().await, "real");
    // An entry that comes later finds the run that is there, and `*` any.
    let mut client = test.bed.client(&wait);
    test.interceptor.designate_run(client.child.id(), "hourly").unwrap();
    test.apply([any]);
    client.tell("");
    assert_eq!(client.line().await, "proxy");
    assert_eq!(test.says(test.bed.client(&test.script)).await, "real");
    // A process from outside is moved in.
    let mut outside = Command::new("sleep");
    let mut outside = outside.arg("60").process_group(0).spawn().unwrap();
    let home = fs::read_to_string("/proc/1/cgroup").unwrap();
    assert!(home.contains("0::/"), "{home}");
    let root = interlock_agent::intercept::cgroup_root().unwrap();
    fs::write(root.join("cgroup.procs"), outside.id().to_string()).unwrap();
    test.interceptor.designate_run(outside.id(), "x").unwrap();
    let now = fs::read_to_string(format!("/proc/{}/cgroup", outside.id())).unwrap();
    assert!(now.contains("/interlock-run"), "{now}");
    outside.kill().unwrap();
    outside.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_of_the_same_id_is_another_process() {
    let test = attempt();
    test.apply([test_clients(&test)]);
    fs::create_dir(test.bed.cgroup.join("others")).unwrap();
    // A designated process ends; the next one is given its id, by another that has nothing to do with it.
    let mut first = test.bed.client("say(os.getpid()); sys.stdin.readline()");
    let pid: u32 = first.line().await.parse().unwrap();
    first.tell("");
    assert!(first.wait().success());
    let again = format!(
        r#"
for _ in range(200):
    open('/proc/sys/kernel/ns_last_pid', 'w').write(str({pid} - 1))
    child = os.fork()
    if child == 0:
        if os.getpid() == {pid}:
            {}
        os._exit(0)
    os.waitpid(child, 0)
    if child == {pid}: break
else: say('not given')"#,
        test.script
    );
    assert_eq!(test.says(test.bed.client_in("others", &again)).await, "real");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_selection_decides_at_once() {
    let test = attempt();
    for _ in 0..20 {
        test.apply([test_clients(&test).with_id(1)]);
        assert_eq!(test.says(test.bed.client_in("clients", &test.script)).await, "proxy");
        test.apply([]);
        assert_eq!(test.says(test.bed.client_in("clients", &test.script)).await, "real");
    }
}

/// A pinned map, to be filled as a hostile user would.
fn pinned<K: aya::Pod, V: aya::Pod>(bed: &Bed, name: &str) -> aya::maps::HashMap<aya::maps::MapData, K, V> {
    let layout = std::fs::read_dir(&bed.pins).unwrap().next().unwrap().unwrap().path();
    let map = aya::maps::MapData::from_pin(layout.join("maps").join(name)).unwrap();
    aya::maps::HashMap::try_from(aya::maps::Map::HashMap(map)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_cgroups_than_can_be_noted_let_nobody_out() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let unit = Entry { unit: Some("nightly.service".to_owned()), ..entry(1) };
    interceptor.apply(&selection([unit])).unwrap();
    interceptor.refresh().unwrap();
    let mut cgroups = pinned::<u64, [u64; 2]>(&bed, "CGROUPS");
    let gone = 1_u64 << 60;
    let mut filled = 0;
    while cgroups.insert(gone + filled, [0, 1], 0).is_ok() {
        filled += 1;
    }
    assert!(filled > 1000);
    std::fs::create_dir(bed.cgroup.join("nightly.service")).unwrap();
    std::fs::create_dir(bed.cgroup.join("others")).unwrap();
    assert!(interceptor.status().unwrap().cgroups_lost);
    let script = "for _ in sys.stdin: say(attempt(('192.0.2.7', 5432)))";
    let mut client = bed.client_in("nightly.service", script);
    client.tell("");
    answer(&interceptor).await;
    assert_eq!(client.line().await, "proxy");
    // Everybody else is taken in too, but only for now.
    let quick = "s = socket.socket(); s.setblocking(False)\nsay(errno.errorcode[s.connect_ex(('192.0.2.7', 5432))], s.getsockname()[0])";
    assert!(bed.client_in("others", quick).line().await.ends_with("127.0.0.1"));
    answer(&interceptor).await;
    interceptor.refresh().unwrap();
    assert!(!interceptor.status().unwrap().cgroups_lost, "those that are gone have made room");
    client.tell("");
    answer(&interceptor).await;
    assert_eq!(client.line().await, "proxy");
    assert!(!bed.client_in("others", quick).line().await.ends_with("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_after_the_switch_does_not_undo_it() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("report.py");
    std::fs::write(&script, "import sys\nsys.stdin.readline()\n").unwrap();
    interceptor.apply(&selection([])).unwrap();
    let mut command = std::process::Command::new("python3");
    command.arg(&script);
    let running = Client::spawn(command);
    // No room to note who runs it.
    let mut arguments = pinned::<u32, [u64; 3]>(&bed, "ARGUMENTS");
    let mut filled = 0;
    while arguments.insert((1 << 30) + filled, [0; 3], 0).is_ok() {
        filled += 1;
    }
    let exe = Entry { exe: Some(script.clone()), ..entry(1) };
    interceptor.apply(&selection([exe.clone()])).unwrap_err();
    interceptor.refresh().unwrap();
    let files = pinned::<[u64; 2], u64>(&bed, "EXES");
    assert_eq!(files.keys().count(), 1, "the new selection's files are there");
    for n in 0..filled {
        arguments.remove(&((1 << 30) + n)).unwrap();
    }
    interceptor.apply(&selection([exe])).unwrap();
    assert!(arguments.get(&running.child.id(), 0).is_ok(), "it is found at the next try");
    // Somebody who only reads it is not.
    assert_eq!(arguments.keys().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_processes_fit_again_unknown_ones_are_strangers_again() {
    use interlock_agent_common::Process;
    let bed = Bed::new();
    fs::create_dir(bed.cgroup.join("others")).unwrap();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let quick = "s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.7', 5432)); say(s.getsockname()[0])";
    let mut processes = pinned::<u32, Process>(&bed, "PROCESSES");
    // Ids that no process can have.
    let mut filled = 0;
    while processes.insert((1 << 30) + filled, Process::default(), 0).is_ok() {
        filled += 1;
    }
    assert_eq!(
        bed.client_in("others", quick).line().await,
        "127.0.0.1",
        "whose descendant it is nobody knows"
    );
    interceptor.refresh().unwrap();
    assert!(interceptor.status().unwrap().overflow, "there is no room yet");
    for n in 0..filled {
        processes.remove(&((1 << 30) + n)).unwrap();
    }
    interceptor.refresh().unwrap();
    assert!(!interceptor.status().unwrap().overflow);
    // Started by one that was not there meanwhile: this test's process is the agent, and exempt.
    assert_ne!(bed.client_in("others", quick).line().await, "127.0.0.1");
    assert_eq!(bed.client(quick).line().await, "127.0.0.1");
}
