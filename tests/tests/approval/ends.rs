//! How a held command ends without anybody deciding on it, or in spite of it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use interlock_tests::client::Client;
use interlock_tests::process::{LIMIT, finish};
use interlock_tests::wait_for;

use super::{DAEMON, GAMES, RULES, by, during, of_kind, one, rows, stage, stage_with, waiting};

#[test]
fn cancelled_in_the_servers_own_words() {
    let stage = stage(RULES);
    let (finished, ()) = during(
        || {
            stage.python(
                r#"
import os, threading, time, subprocess, signal
import psycopg
c = psycopg.connect(os.environ["PGURL"], autocommit=True)
seen = threading.Event()
c.add_notice_handler(lambda notice: seen.set())
threading.Thread(target=lambda: (seen.wait(), c.cancel())).start()
try:
    c.execute("DELETE FROM t")
except psycopg.errors.QueryCanceled as e:
    print(e.sqlstate, str(e).strip())
print(c.execute("SELECT 'lives on'").fetchone()[0])
# Ctrl-C in psql.
p = subprocess.Popen(["psql", "-X", "-q", os.environ["PGURL"], "-c", "DELETE FROM t"], stderr=subprocess.PIPE, text=True)
line = p.stderr.readline()
p.send_signal(signal.SIGINT)
print(line.strip()[:30], p.stderr.read().strip().splitlines()[-1])
"#,
            )
        },
        || (),
    );
    let printed = finished.expect_success();
    assert!(printed.starts_with("57014 canceling statement due to user request\nlives on\n"), "{printed}");
    assert!(printed.trim_end().ends_with("ERROR:  canceling statement due to user request"), "{printed}");
    assert_eq!(rows(&stage), "100");
    waiting(&stage, 0);
}

#[test]
fn deny_wins_when_the_policy_changes_meanwhile() {
    let stage = stage(RULES);
    let (finished, ()) = during(
        || stage.psql("DELETE FROM t;\nSELECT 'lives on';\n"),
        || {
            let id = one(&stage);
            stage
                .write_policy(
                    "rules:\n  - {name: no-deletes, match: {sql: {kind: delete}}, action: deny, message: Not any more.}\n",
                )
                .unwrap();
            stage.agent.reload().unwrap().expect_success();
            by(&stage, GAMES, &["approve", &id]).expect_success();
        },
    );
    assert!(
        finished.stderr.contains("no-deletes") && finished.stderr.contains("Not any more."),
        "{}",
        finished.both()
    );
    assert!(finished.stdout.contains("lives on"));
    assert_eq!(rows(&stage), "100");
}

#[test]
fn other_terms_are_asked_for_anew() {
    let stage = stage(RULES);
    let (finished, ()) = during(
        || stage.psql("DELETE FROM t;\n"),
        || {
            let id = one(&stage);
            stage.write_policy(&RULES.replace("groups: games", "groups: daemon")).unwrap();
            stage.agent.reload().unwrap().expect_success();
            by(&stage, GAMES, &["approve", &id]).expect_success();
            wait_for("the next request", LIMIT, || {
                let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
                list.first().is_some_and(|entry| entry["id"] != id.as_str())
            })
            .unwrap();
            let id = one(&stage);
            by(&stage, GAMES, &["approve", &id]).expect_failure();
            by(&stage, DAEMON, &["deny", &id, "--reason", "no"]).expect_success();
        },
    );
    assert!(finished.stderr.contains("denied by daemon: no"), "{}", finished.both());
    assert_eq!(rows(&stage), "100");
}

#[test]
fn what_is_held_ends_with_the_agent() {
    for kill in [true, false] {
        let mut stage = stage(RULES);
        let mut client = Client::Psql.command(&stage.postgres, Some(&stage.clients));
        let client = client.args(["-c", "DELETE FROM t"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let running = client.spawn().unwrap();
        one(&stage);
        if kill {
            stage.agent.kill();
        } else {
            stage.agent.stop();
        }
        let output = running.wait_with_output().unwrap();
        assert!(!output.status.success());
        if !kill {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(told.contains("agent on this host is stopping"), "{told}");
        }
        stage.agent.launch().unwrap();
        assert_eq!(waiting(&stage, 0).len(), 0);
        assert!(!stage.postgres.was_sent("DELETE FROM t"));
        assert_eq!(rows(&stage), "100");
        if !kill {
            let [decided] = &of_kind(&stage, "approval_decided")[..] else { panic!() };
            assert_eq!(decided["outcome"], "withdrawn");
        }
    }
}

#[test]
fn a_client_that_goes_withdraws_it() {
    let stage = stage(RULES);
    let mut client = Client::Psql.command(&stage.postgres, Some(&stage.clients));
    let mut running =
        client.args(["-c", "DELETE FROM t"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let id = one(&stage);
    running.kill().unwrap();
    running.wait().unwrap();
    waiting(&stage, 0);
    let late = by(&stage, GAMES, &["approve", &id]).expect_failure();
    assert!(late.contains("withdrawn already"), "{late}");
    assert_eq!(rows(&stage), "100");
    let [decided] = &of_kind(&stage, "approval_decided")[..] else { panic!() };
    assert_eq!(
        (&decided["outcome"], &decided["reason"]),
        (&"withdrawn".into(), &"the client has gone".into())
    );
}

#[test]
fn a_server_that_loses_patience_is_explained() {
    let stage = stage_with(RULES, "", &["idle_in_transaction_session_timeout=300"]);
    let finished = stage.psql("BEGIN;\nDELETE FROM t;\n").unwrap();
    let told = &finished.stderr;
    assert!(told.contains("idle-in-transaction timeout"), "{told}");
    assert!(told.contains("while the agent held a command back for approval"), "{told}");
    assert!(told.contains("idle_in_transaction_session_timeout"), "{told}");
    waiting(&stage, 0);
}

#[test]
fn five_hundred_at_once_and_no_more_than_may() {
    let configuration = "approvals: {max_held: 501, max_held_per_user: 500, max_asked_per_user: 502}";
    let stage = stage_with(RULES, configuration, &["max_connections=520"]);
    let (finished, ()) = during(
        || {
            let script = r#"
import asyncio, os, asyncpg
async def one(n):
    c = await asyncpg.connect(os.environ["PGURL"])
    try:
        await c.execute(f"UPDATE t SET v = '{n}'")
        return "done"
    except asyncpg.PostgresError as e:
        return e.sqlstate
    finally:
        await c.close()
async def main():
    first = [asyncio.create_task(one(n)) for n in range(500)]
    while not os.path.exists(os.environ["GO"]):
        await asyncio.sleep(0.05)
    print("beyond", await one(-1))
    results = await asyncio.gather(*first)
    print({r: results.count(r) for r in sorted(set(results))})
asyncio.run(main())
"#
            .replace("os.environ[\"GO\"]", &format!("{:?}", stage.agent.state().join("go")));
            let mut command = Client::Python.command(&stage.postgres, Some(&stage.clients));
            finish(&mut command, &script, 5 * LIMIT)
        },
        || {
            let list = waiting(&stage, 500);
            std::fs::write(stage.agent.state().join("go"), "").unwrap();
            wait_for("the refusal of one too many", LIMIT, || {
                stage.agent.texts("hold").is_ok_and(|texts| texts.iter().any(|text| text.contains("-1")))
            })
            .unwrap();
            let ids: Vec<_> = list.iter().filter_map(|entry| entry["id"].as_str()).collect();
            let (approved, denied) = ids.split_at(250);
            // As `interlock approvals` asks, without a process for each.
            let script = format!(
                r#"
import json, socket
def ask(request):
    s = socket.socket(socket.AF_UNIX)
    s.connect({socket:?})
    s.sendall(json.dumps(request).encode() + b"\n")
    answer = json.loads(s.makefile().readline())
    assert "done" in answer, answer
for id in {approved:?}:
    ask({{"request": "approve", "id": id, "reason": "", "scope": "once", "seconds": None}})
for id in {denied:?}:
    ask({{"request": "deny", "id": id, "reason": "no"}})
"#,
                socket = stage.agent.run().join("control.sock")
            );
            let mut command = Command::new("python3");
            command.args(["-c", &script]).uid(GAMES.0).gid(GAMES.1);
            finish(&mut command, "", 3 * LIMIT).unwrap().expect_success();
        },
    );
    assert_eq!(finished.expect_success(), "beyond 53400\n{'42501': 250, 'done': 250}\n");
}
