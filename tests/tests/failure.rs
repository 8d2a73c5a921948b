//! When things go wrong: kill -9 under load, a full disk, tampering. Fail closed, and nothing lost.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use interlock_tests::client::{self, Client};
use interlock_tests::{Postgres, Stage, wait_for};
use serde_json::Value;

const RULES: &str = r#"
rules:
  - name: no-drop
    match: {sql: {kind: [drop_table]}}
    action: deny
"#;

#[test]
fn kill_9_under_load_loses_no_command_that_reached_the_server() {
    let mut stage = Stage::start(RULES).unwrap();
    stage.postgres.admin("CREATE TABLE marks (mark text)").unwrap();
    for round in 0..3 {
        // Each statement bears a mark of its own: in its text by the simple protocol, in its parameters by
        // the extended one.
        let simple = "INSERT INTO marks VALUES ('simple :round :client_id :n');\n\\set n :n + 1\n";
        let extended = "INSERT INTO marks VALUES (concat_ws(' ', 'extended', :round::text, :client_id::text, :n::text));\n\
                        \\set n :n + 1\n";
        let load: Vec<_> = [("simple", simple), ("prepared", extended)]
            .into_iter()
            .map(|(mode, script)| {
                let mut command =
                    client::start(Some(&stage.clients), stage.postgres.programs().join("pgbench"));
                client::environment(&mut command, &stage.postgres);
                let round = format!("round={round}");
                command.args(["-n", "-c", "4", "-T", "60", "-M", mode, "-D", "n=0", "-D", &round, "-f", "-"]);
                thread::spawn(move || {
                    interlock_tests::process::finish(&mut command, script, Duration::from_secs(90))
                })
            })
            .collect();
        wait_for("load", Duration::from_secs(30), || {
            stage.postgres.admin(&format!("SELECT count(*) > {} FROM marks", 500 * (round + 1))).unwrap()
                == "t"
        })
        .unwrap();
        stage.agent.kill();
        for client in load {
            let finished = client.join().unwrap().unwrap();
            assert!(!finished.timed_out, "a client went on without the agent: {}", finished.both());
            assert!(!finished.success(), "a client did not notice: {}", finished.both());
        }
        // Refused at once: designated processes have no way around a dead agent.
        let refused = stage.psql("SELECT 'around the agent';").unwrap();
        assert!(refused.expect_failure().contains("Connection refused"));
        // Nobody else notices.
        Client::Psql.run(&stage.postgres, None, "SELECT 1;").unwrap().expect_success();
        stage.agent.launch().unwrap();
        stage.psql("SELECT 'after the restart';").unwrap().expect_success();
    }
    // The marks that recordings hold.
    let commands = stage.agent.commands().unwrap();
    let mut recorded = HashSet::new();
    for command in &commands {
        if let Some(mark) = command["text"]
            .as_str()
            .and_then(|text| text.split('\'').find(|part| part.starts_with("simple ")))
        {
            recorded.insert(mark.to_owned());
        }
        let params = command["params"].as_array().into_iter().flatten().filter_map(|param| param.as_str());
        let params: Vec<_> = params.collect();
        if params.len() == 3 {
            recorded.insert(format!("extended {}", params.join(" ")));
        }
    }
    // What the server was sent, committed or not, and what it keeps.
    let sent = stage.postgres.statements();
    let sent = sent.iter().filter_map(|text| text.split('\'').find(|part| part.starts_with("simple ")));
    let kept = stage.postgres.admin("SELECT mark FROM marks").unwrap();
    let (mut simple, mut extended) = (0, 0);
    for mark in sent.chain(kept.lines()) {
        assert!(recorded.contains(mark), "the server was sent `{mark}`, which no recording holds");
        if mark.starts_with("simple") { simple += 1 } else { extended += 1 }
    }
    assert!(simple > 200 && extended > 200, "{simple} and {extended} marks: this test shows nothing");
    assert!(!stage.postgres.was_sent("around the agent"));
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn stopped_in_good_order_it_refuses_too_until_detached() {
    let mut stage = Stage::start(RULES).unwrap();
    stage.agent.stop();
    let refused = stage.psql("SELECT 1;").unwrap();
    assert!(refused.expect_failure().contains("Connection refused"));
    let status = stage.agent.interlock(&["status"]).unwrap();
    assert!(!status.success(), "status must not say that it serves: {}", status.both());
    stage.agent.interlock(&["detach"]).unwrap().expect_success();
    assert!(stage.agent.pins().is_none(), "pins are left");
    stage.psql("SELECT 1;").unwrap().expect_success();
}

#[test]
fn a_restart_leaves_no_moment_without_control() {
    let mut stage = Stage::start(RULES).unwrap();
    // Connects again and again over restarts: what gets through must have gone through an agent.
    let mut command = stage.clients.command("/bin/bash");
    client::environment(&mut command, &stage.postgres);
    let psql = stage.postgres.programs().join("psql");
    command.args([
        "-c",
        &format!("for i in $(seq 400); do {} -X -q -A -t -c \"SELECT 'try-$i'\"; done 2>&1", psql.display()),
    ]);
    let clients =
        thread::spawn(move || interlock_tests::process::finish(&mut command, "", Duration::from_secs(120)));
    for round in 0..4 {
        // Some have come through this agent.
        let before = stage.agent.texts("allow").unwrap().len();
        wait_for("the clients", Duration::from_secs(60), || {
            clients.is_finished() || stage.agent.texts("allow").unwrap().len() > before + 5
        })
        .unwrap();
        if round % 2 == 0 {
            stage.agent.stop();
        } else {
            stage.agent.kill();
        }
        stage.agent.launch().unwrap();
    }
    let printed = clients.join().unwrap().unwrap().both();
    let recorded = stage.agent.texts("allow").unwrap();
    let answered: Vec<_> = printed.lines().filter(|line| line.starts_with("try-")).collect();
    assert!(answered.len() > 50, "{printed}");
    for answer in answered {
        assert!(
            recorded.iter().any(|text| text == &format!("SELECT '{answer}'")),
            "{answer} went around the agent"
        );
    }
}

#[test]
fn after_a_restart_of_the_host_the_last_selection_holds_whatever_else_fails() {
    let mut stage = Stage::start(RULES).unwrap();
    stage.psql("SELECT 1;").unwrap().expect_success();
    stage.agent.stop();
    // Nothing is pinned then.
    stage.agent.interlock(&["detach"]).unwrap().expect_success();
    stage.psql("SELECT 'open until the agent starts';").unwrap().expect_success();
    stage.agent.write_policy("50-test.yaml", "version: one").unwrap();
    stage.agent.spawn().unwrap();
    wait_for("the agent to give up", Duration::from_secs(30), || {
        stage.agent.log().contains("cannot load the policies")
    })
    .unwrap();
    let refused = stage.psql("SELECT 'around the agent';").unwrap();
    assert!(refused.expect_failure().contains("Connection refused"));
    assert!(!stage.postgres.was_sent("around the agent"));
    stage.agent.kill();
    stage.write_policy(RULES).unwrap();
    stage.agent.launch().unwrap();
    stage.psql("SELECT 1;").unwrap().expect_success();
}

#[test]
fn policies_that_the_kernel_side_does_not_take_are_not_forgotten() {
    let stage = Stage::start(RULES).unwrap();
    let in_force = || stage.agent.json(&["status", "--json"]).unwrap()[0]["policies"]["not_in_force"].clone();
    assert!(in_force().is_null());
    let long = format!("version: 1\nprocesses: [{{exe: /{}}}]\n", "x".repeat(600));
    stage.agent.write_policy("60-long.yaml", &long).unwrap();
    let said = stage.agent.reload().unwrap();
    assert!(said.expect_failure().contains("could not be put in force"));
    assert!(in_force().as_str().unwrap().contains("longer than"), "{}", in_force());
    // Still, and asking again does not make it good.
    stage.agent.reload().unwrap().expect_failure();
    stage.psql("SELECT 'as before';").unwrap().expect_success();
    assert!(stage.agent.texts("allow").unwrap().iter().any(|text| text.contains("as before")));
    stage.agent.write_policy("60-long.yaml", "version: 1\nprocesses: [{exe: /x}]\n").unwrap();
    stage.agent.reload().unwrap().expect_success();
    assert!(in_force().is_null());
}

#[test]
fn a_full_recording_refuses_new_work() {
    let postgres = Postgres::start().unwrap();
    let mut stage = Stage::start_with(postgres, RULES, "record: {max_bytes: 1000000}").unwrap();
    // Others: one whose protocol is not known, and one that is not looked at.
    let servers = [0, 1].map(|_| {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let [other, elsewhere] = servers.each_ref().map(|listener| listener.local_addr().unwrap().port());
    let clients = stage.clients.below_mount().display().to_string();
    let policy = format!(
        "version: 1\nprocesses: [{{cgroup: {clients}}}]\ndestinations: [{{port: {other}}}]\negress: record\n"
    );
    stage.agent.write_policy("60-others.yaml", &policy).unwrap();
    stage.agent.reload().unwrap().expect_success();
    let greet = |stage: &Stage, port: u16| {
        stage.shell(&format!("echo 'GET / HTTP/1.0' > /dev/tcp/127.0.0.1/{port}")).unwrap()
    };
    let reached = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
    greet(&stage, other).expect_success();
    greet(&stage, elsewhere).expect_success();
    wait_for("both to be reached", Duration::from_secs(10), || servers[0].accept().is_ok()).unwrap();
    assert_eq!(reached(&servers[1]), 1);
    let mut sql = String::new();
    let mut state = 1_u32;
    for n in 0..200 {
        // Text that does not compress well: segments are compressed when they are sealed.
        let filler: String = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b'0' + (state >> 25) as u8 % 75).to_ascii_lowercase()
            })
            .filter(|c| !matches!(c, '\'' | '\\'))
            .collect();
        sql.push_str(&format!("SELECT 'full-{n}', length('{filler}');\n"));
    }
    let finished = stage.psql(&sql).unwrap();
    assert!(finished.stderr.contains("could not be recorded"), "{}", finished.stderr);
    let log = stage.agent.log();
    assert!(log.contains("max_bytes"), "the log does not tell the operator what to do: {log}");
    let answered = finished.stdout.lines().filter(|line| line.starts_with("full-")).count();
    assert!(answered > 5 && answered < 100, "{answered} of 200 answered");
    // What the server was sent is what was recorded, no more.
    let recorded = stage.agent.texts("allow").unwrap();
    for statement in stage.postgres.statements().iter().filter(|text| text.contains("full-")) {
        assert!(
            recorded.iter().any(|text| text.contains(&statement[..20])),
            "{} is not recorded",
            &statement[..20]
        );
    }
    let bytes: u64 =
        files(&stage.agent.state()).iter().map(|path| fs::metadata(path).map_or(0, |data| data.len())).sum();
    assert!(bytes < 1_500_000, "{bytes} bytes in the state directory");
    let refused = stage.psql("SELECT 'one more';").unwrap();
    refused.expect_failure();
    assert!(!stage.postgres.was_sent("one more"));
    // What else is to be recorded and cannot be is refused, by the proxy and by the kernel side. (What is
    // short may still find room, when a segment has been sealed.)
    let (mut refused, mut arrived) = (0, [1, 1]);
    for _ in 0..2000 {
        greet(&stage, other);
        refused += usize::from(!greet(&stage, elsewhere).success());
        for (arrived, server) in arrived.iter_mut().zip(&servers) {
            *arrived += reached(server) as u64;
        }
        if refused > 3 {
            break;
        }
    }
    assert!(refused > 3, "{refused} refused, {arrived:?} arrived");
    // Both directions of a flow through the proxy may still be under way.
    stage.agent.stop();
    let events = stage.agent.events().unwrap();
    for ((port, server), arrived) in [other, elsewhere].into_iter().zip(&servers).zip(arrived) {
        let of_this = |event: &&Value| {
            event["destination"] == format!("127.0.0.1:{port}") && event["verdict"] != "deny"
        };
        let recorded: u64 = events.iter().filter(of_this).filter_map(|event| event["count"].as_u64()).sum();
        // The first that the kernel side lets go and that cannot be recorded has gone when that is found
        // out; it waits for room.
        let waiting = u64::from(port == elsewhere);
        let arrived = arrived + reached(server) as u64;
        assert!(arrived <= recorded + waiting, "{arrived} arrived at {port}, {recorded} are recorded");
    }
}

fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// A recording of some sessions, sealed by stopping the agent.
fn recorded() -> Stage {
    let mut stage = Stage::start(RULES).unwrap();
    for n in 0..5 {
        stage.psql(&format!("SELECT 'session {n}';\nSELECT generate_series(1, 50);\nDROP TABLE x;")).unwrap();
    }
    stage.agent.stop();
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
    stage
}

#[test]
fn verify_finds_a_changed_byte_anywhere() {
    let stage = recorded();
    let sessions = stage.agent.state().join("sessions");
    let recordings: Vec<_> = files(&sessions)
        .into_iter()
        .filter(|path| fs::metadata(path).is_ok_and(|data| data.len() > 0))
        .collect();
    assert!(!recordings.is_empty());
    for path in recordings.iter().filter(|path| !path.to_string_lossy().contains("lock")) {
        let good = fs::read(path).unwrap();
        for at in [0, good.len() / 3, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(path, &bad).unwrap();
            let finished = stage.agent.interlock(&["sessions", "verify"]).unwrap();
            assert!(
                !finished.success() && !finished.timed_out,
                "byte {at} of {} changed unseen",
                path.display()
            );
        }
        fs::write(path, &good).unwrap();
    }
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn verify_finds_what_is_cut_off_or_taken_away() {
    let stage = recorded();
    let sessions = stage.agent.state().join("sessions");
    for path in files(&sessions).into_iter().filter(|path| !path.to_string_lossy().contains("lock")) {
        let good = fs::read(&path).unwrap();
        for keep in [0, good.len() / 2, good.len().saturating_sub(1)] {
            if keep == good.len() {
                continue;
            }
            fs::write(&path, &good[..keep]).unwrap();
            let finished = stage.agent.interlock(&["sessions", "verify"]).unwrap();
            assert!(!finished.success(), "{} cut to {keep} of {} bytes unseen", path.display(), good.len());
        }
        fs::remove_file(&path).unwrap();
        let finished = stage.agent.interlock(&["sessions", "verify"]).unwrap();
        assert!(!finished.success(), "{} taken away unseen", path.display());
        fs::write(&path, &good).unwrap();
    }
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn hostile_bytes_neither_crash_the_agent_nor_pass() {
    let stage = Stage::start(RULES).unwrap();
    let attempts: &[&str] = &[
        // Nonsense, a length of 2 GiB, a startup packet of another protocol, an HTTP request.
        r"printf '\x00\x00\x00\x00\x00\x00\x00\x00'",
        r"printf '\x7f\xff\xff\xff\x00\x03\x00\x00'",
        r"printf '\x00\x00\x00\x08\x00\x02\x00\x00'",
        r"printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'",
        r"head -c 100000 /dev/zero",
        r"head -c 100000 /dev/urandom",
        r"printf '\x00\x00\x00\x09\x00\x03\x00\x00\x00'",
    ];
    for attempt in attempts {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/$PGPORT; {{ {attempt}; }} >&3; timeout 5 cat <&3 | head -c 10000 | tr -cd '[:print:]'"
        );
        let finished = stage.shell(&script).unwrap();
        assert!(!finished.timed_out, "{attempt}: {}", finished.both());
        // An error in the protocol's words, the agent's or the server's own, or no word at all.
        let printed = &finished.stdout;
        assert!(printed.is_empty() || printed.contains("FATAL"), "{attempt}: {}", finished.both());
        assert!(stage.postgres.statements().is_empty(), "{attempt} reached the server as a statement");
        assert!(
            stage.agent.pid().is_some_and(|pid| PathBuf::from(format!("/proc/{pid}")).exists()),
            "{attempt}"
        );
        assert!(!stage.agent.log().contains("panicked"), "{attempt}: {}", stage.agent.log());
    }
    stage.psql("SELECT 'still serves';").unwrap().expect_success();
}

#[test]
fn an_unreachable_server_is_told_in_the_protocols_words() {
    let mut stage = Stage::start(RULES).unwrap();
    stage.postgres.stop();
    let printed = stage.psql("SELECT 1;").unwrap().expect_failure();
    assert!(printed.contains("refused"), "{printed}");
    assert!(printed.contains(&stage.postgres.port().to_string()), "it does not say which server: {printed}");
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let stage = Stage::start(RULES).unwrap();
    let script = r#"
import os, socket, psycopg
c = psycopg.connect(os.environ["PGURL"], autocommit=True)
c.pgconn.send_query(b"SELECT 'answered' FROM pg_sleep(0.1)")
while c.pgconn.flush():
    pass
socket.socket(fileno=os.dup(c.pgconn.socket)).shutdown(socket.SHUT_WR)
print(c.pgconn.get_result().get_value(0, 0).decode())
"#;
    assert_eq!(stage.python(script).unwrap().expect_success().trim(), "answered");
    assert_eq!(stage.agent.texts("allow").unwrap(), ["SELECT 'answered' FROM pg_sleep(0.1)"]);
}

#[test]
fn clients_that_say_nothing_end() {
    let stage = Stage::start(RULES).unwrap();
    let script = r#"
import os, socket, struct
s = socket.create_connection(("127.0.0.1", int(os.environ["PGPORT"])))
s.close()
s = socket.create_connection(("127.0.0.1", int(os.environ["PGPORT"])))
s.shutdown(socket.SHUT_WR)
s.settimeout(10)
while s.recv(4096):
    pass
print("ended")
"#;
    assert_eq!(stage.python(script).unwrap().expect_success().trim(), "ended");
}
