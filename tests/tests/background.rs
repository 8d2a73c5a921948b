//! Approvals where nobody sits in front of a process: of who asks, and of who decides.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::process::Command;

use interlock_tests::cgroup::Cgroup;
use interlock_tests::client;
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage, wait_for};
use serde_json::Value;

const RULES: &str = r#"
rules:
  - name: writes
    match: {sql: {kind: insert}}
    action: hold
    approval: {groups: games, break_glass: true}
  - name: deletes
    match: {sql: {kind: delete}}
    action: hold
    approval: {groups: games, approver: verified}
"#;

fn stage(configuration: &str) -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres.admin("CREATE TABLE t (v text)").unwrap();
    Stage::start_with(postgres, RULES, configuration).unwrap()
}

/// `interlock approvals …` as `games`, who is in the group, from a cgroup of this name.
fn games(stage: &Stage, unit: &str, arguments: &[&str]) -> Finished {
    let cgroup = Cgroup::new().unwrap();
    let unit = cgroup.child(unit).unwrap();
    let interlock = stage.agent.command();
    let mut command = unit.command("setpriv");
    command.args(["--reuid=5", "--regid=60", "--clear-groups"]).arg(interlock.get_program());
    command.args(interlock.get_args()).arg("approvals").args(arguments);
    finish(&mut command, "", LIMIT).unwrap()
}

/// psql as a designated process, from a cgroup of this name.
fn psql(stage: &Stage, unit: &str, sql: &str) -> Finished {
    let unit = stage.clients.child(unit).unwrap();
    let mut command: Command = unit.command("psql");
    client::environment(&mut command, &stage.postgres);
    finish(command.args(["-X", "-c", sql]), "", LIMIT).unwrap()
}

/// The one that waits.
fn one(stage: &Stage) -> String {
    let mut list: Vec<Value> = Vec::new();
    wait_for("the request", LIMIT, || {
        list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
        list.len() == 1
    })
    .unwrap();
    list[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn what_cron_and_a_users_manager_start_approves_nothing() {
    let stage = stage("");
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| psql(&stage, "cron.service", "INSERT INTO t VALUES ('x')"));
        let id = one(&stage);
        for (unit, told) in [
            ("cron.service", "cron (unit cron.service)"),
            ("atd.service", "atd (unit atd.service)"),
            ("user@5.service", "the user's service manager (unit user@5.service)"),
        ] {
            let refused = games(&stage, unit, &["approve", &id]).expect_failure();
            assert!(refused.contains(told) && refused.contains("a session of your own"), "{refused}");
        }
        // Who decides from elsewhere is told who else may stand behind it.
        let shown = games(&stage, "session", &["show", &id]).expect_success();
        assert!(shown.contains("started by cron (unit cron.service): whoever may become root"), "{shown}");
        games(&stage, "session", &["approve", &id]).expect_success();
        asks.join().unwrap().expect_success();
    });
    assert_eq!(stage.postgres.admin("SELECT count(*) FROM t").unwrap(), "1");
    // Where somebody may sit nothing is said; a refusal counts from wherever it comes.
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| psql(&stage, "shell", "INSERT INTO t VALUES ('y')"));
        let id = one(&stage);
        let shown = games(&stage, "session", &["show", &id]).expect_success();
        assert!(!shown.contains("may stand behind it"), "{shown}");
        games(&stage, "cron.service", &["deny", &id, "--reason", "no"]).expect_success();
        asks.join().unwrap().expect_failure();
    });
}

#[test]
fn a_rule_wants_a_verified_person() {
    let stage = stage("");
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| psql(&stage, "shell", "DELETE FROM t"));
        let id = one(&stage);
        let refused = games(&stage, "session", &["approve", &id]).expect_failure();
        assert!(refused.contains("sign in with `interlock login`"), "{refused}");
        games(&stage, "session", &["deny", &id, "--reason", "no"]).expect_success();
        let refused = asks.join().unwrap().expect_failure();
        assert!(refused.contains("one of games, verified by an identity provider"), "{refused}");
    });
    let asked =
        stage.agent.events().unwrap().into_iter().find(|event| event["event"] == "approval_requested");
    assert_eq!(asked.unwrap()["approver_verified"], true);
}

#[test]
fn who_asks_too_often_is_refused() {
    let stage = stage("approvals: {max_asked_per_user: 2}");
    let insert = "INSERT INTO t VALUES ('x')";
    let ask = |name: &str| psql(&stage, name, insert);
    for name in ["a", "b"] {
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| ask(name));
            let id = one(&stage);
            if name == "a" {
                games(&stage, "session", &["deny", &id, "--reason", "no"]).expect_success();
                asks.join().unwrap().expect_failure();
            } else {
                // Who asks lets it through, which asks nobody.
                stage
                    .agent
                    .interlock(&["approvals", "break-glass", &id, "--reason", "fire"])
                    .unwrap()
                    .expect_success();
                asks.join().unwrap().expect_success();
            }
        });
    }
    let refused = ask("c").expect_failure();
    assert!(refused.contains("asked for approval 2 times within ten minutes"), "{refused}");
    assert!(refused.contains("max_asked_per_user"), "{refused}");
    assert_eq!(stage.postgres.admin("SELECT count(*) FROM t").unwrap(), "1");
}
