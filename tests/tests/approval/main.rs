//! Held commands: approved, denied, expired, withdrawn; by whom, and by whom not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

mod ends;
mod people;
mod statements;

use std::os::unix::process::CommandExt as _;

use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage, wait_for};
use serde_json::Value;

/// Users that every Debian has, each in the group of its own name.
const GAMES: (u32, u32) = (5, 60);
const DAEMON: (u32, u32) = (1, 1);

const RULES: &str = r#"
rules:
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: hold
    approval: {groups: games, scopes: [once, shape, session]}
"#;

fn stage_with(rules: &str, configuration: &str, settings: &[&str]) -> Stage {
    let postgres = Postgres::start_with(interlock_tests::postgres::Auth::Scram, settings).unwrap();
    postgres
        .admin("CREATE TABLE t (id int, v text); INSERT INTO t SELECT n, 'n' FROM generate_series(1, 100) n")
        .unwrap();
    Stage::start_with(postgres, rules, configuration).unwrap()
}

fn stage(rules: &str) -> Stage {
    stage_with(rules, "", &[])
}

/// `interlock approvals …` as another user.
fn by(stage: &Stage, (uid, gid): (u32, u32), arguments: &[&str]) -> Finished {
    let mut command = stage.agent.command();
    command.arg("approvals").args(arguments).uid(uid).gid(gid);
    finish(&mut command, "", LIMIT).unwrap()
}

/// Requests that wait, once there are as many as that.
fn waiting(stage: &Stage, count: usize) -> Vec<Value> {
    let mut list = Vec::new();
    wait_for("requests", LIMIT, || {
        list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
        list.len() == count
    })
    .unwrap_or_else(|error| panic!("{error}: {list:?}"));
    list
}

/// The one that waits.
fn one(stage: &Stage) -> String {
    waiting(stage, 1).remove(0)["id"].as_str().unwrap().to_owned()
}

/// Runs a client while `meanwhile` looks after what it waits for.
fn during<R: Send>(
    client: impl FnOnce() -> anyhow::Result<Finished> + Send,
    meanwhile: impl FnOnce() -> R,
) -> (Finished, R) {
    std::thread::scope(|scope| {
        let running = scope.spawn(client);
        let result = meanwhile();
        (running.join().unwrap().unwrap(), result)
    })
}

fn rows(stage: &Stage) -> String {
    stage.postgres.admin("SELECT count(*) FILTER (WHERE v = 'n') FROM t").unwrap()
}

fn of_kind(stage: &Stage, kind: &str) -> Vec<Value> {
    stage.agent.events().unwrap().into_iter().filter(|event| event["event"] == kind).collect()
}
