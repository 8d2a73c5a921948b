//! Real clients get through an agent exactly what they get without one.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use interlock_tests::client::{self, Client};
use interlock_tests::postgres::Auth;
use interlock_tests::process::Finished;
use interlock_tests::{Cgroup, Postgres, Stage};

/// Rules of the usual kind, none of which concerns what the scripts do.
const RULES: &str = r#"
rules:
  - name: no-drop-database
    match: {sql: {kind: [drop_database]}}
    action: deny
    message: Databases are dropped by migrations only.
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: deny
  - name: salaries
    match: {sql: {class: read, tables: [public.salaries]}}
    action: deny
"#;

/// Runs a client twice, directly and designated, and compares all that it printed.
#[track_caller]
fn same_as_direct(run: impl Fn(&Postgres, Option<&Cgroup>) -> anyhow::Result<Finished>) -> Stage {
    let stage = Stage::start(RULES).unwrap();
    let direct = run(&stage.postgres, None).unwrap();
    assert!(direct.success(), "the script fails without an agent too\n{}", direct.both());
    assert!(stage.agent.commands().unwrap().is_empty(), "the direct connection was recorded");
    let through = run(&stage.postgres, Some(&stage.clients)).unwrap();
    for (name, direct, through) in [
        ("standard output", &direct.stdout, &through.stdout),
        ("standard error", &direct.stderr, &through.stderr),
    ] {
        let (direct, through) = (without_pids(direct), without_pids(through));
        let differing = direct.lines().zip(through.lines()).find(|(direct, through)| direct != through);
        assert!(
            direct == through,
            "{name} differs; first at\n  direct  {:?}\n  through {:?}\n-- direct, all\n{direct}\n-- through, all\n{through}",
            differing.map(|pair| pair.0),
            differing.map(|pair| pair.1),
        );
    }
    assert_eq!(direct.status.code(), through.status.code());
    assert!(
        !stage.agent.events().unwrap().is_empty(),
        "nothing was recorded: it did not go through the agent"
    );
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
    stage
}

/// psql names the backend that a notification comes from; each connection has another.
fn without_pids(text: &str) -> String {
    let mut parts = text.split("with PID ");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str("with PID …");
        kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    kept
}

#[test]
fn psql() {
    same_as_direct(|server, cgroup| Client::Psql.run(server, cgroup, include_str!("../scripts/psql.sql")));
}

#[test]
fn psycopg2() {
    same_as_direct(|server, cgroup| {
        Client::Python.run(server, cgroup, include_str!("../scripts/psycopg2.py"))
    });
}

#[test]
fn psycopg3() {
    same_as_direct(|server, cgroup| {
        Client::Python.run(server, cgroup, include_str!("../scripts/psycopg3.py"))
    });
}

#[test]
fn asyncpg() {
    same_as_direct(|server, cgroup| {
        Client::Python.run(server, cgroup, include_str!("../scripts/asyncpg.py"))
    });
}

#[test]
fn node_postgres() {
    same_as_direct(|server, cgroup| Client::Node.run(server, cgroup, include_str!("../scripts/node.js")));
}

#[test]
fn jdbc() {
    same_as_direct(|server, cgroup| client::java(server, cgroup, include_str!("../scripts/Main.java")));
}

#[test]
fn pgbench_in_all_its_modes() {
    let stage = Stage::start(RULES).unwrap();
    client::pgbench(&stage.postgres, Some(&stage.clients), &["-i", "-q", "-s", "1"], "")
        .unwrap()
        .expect_success();
    for mode in ["simple", "extended", "prepared"] {
        let finished = client::pgbench(
            &stage.postgres,
            Some(&stage.clients),
            &["-n", "-c", "4", "-j", "2", "-t", "100", "-M", mode],
            "",
        );
        let printed = finished.unwrap().expect_success();
        assert!(printed.contains("number of transactions actually processed: 400/400"), "{mode}: {printed}");
        assert!(printed.contains("number of failed transactions: 0"), "{mode}: {printed}");
    }
    // 3 × 400 transactions moved money; the books must balance.
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history), \
                (SELECT count(*) FROM pgbench_history)";
    assert_eq!(stage.postgres.admin(sums).unwrap(), "t|1200");
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn every_way_to_log_in() {
    for auth in [Auth::Scram, Auth::Md5, Auth::Password, Auth::Trust] {
        let postgres = Postgres::start_with(auth, &[]).unwrap();
        let stage = Stage::start_with(postgres, RULES, "").unwrap();
        let printed = stage.psql("SELECT current_user || ' is in';").unwrap().expect_success();
        assert!(printed.contains("app is in"), "{auth:?}: {printed}");
        let wrong = stage.postgres.url().replace("tr0ub4dor", "wrong");
        let mut command = stage.clients.command(stage.postgres.programs().join("psql"));
        let finished = interlock_tests::process::finish(
            command.args(["-X", "-c", "SELECT 1", &wrong]),
            "",
            interlock_tests::process::LIMIT,
        )
        .unwrap();
        if auth == Auth::Trust {
            finished.expect_success();
        } else {
            let printed = finished.expect_failure();
            assert!(
                printed.contains("password authentication failed for user \"app\""),
                "{auth:?}: {printed}"
            );
        }
        // No recording and no log holds a password, right or wrong.
        for secret in [interlock_tests::postgres::PASSWORD, "wrong-and-3"] {
            assert!(!stage.agent.log().contains(secret), "{auth:?}");
            let events = serde_json::to_string(&stage.agent.events().unwrap()).unwrap();
            assert!(!events.contains(secret), "{auth:?}: {events}");
        }
    }
}
