//! Policies that a collector keeps: staged, enforced, rolled back; and what becomes of orders that should not
//! count.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use interlock_tests::process::{LIMIT, finish};
use interlock_tests::{Agent, Collector, Postgres, Stage, wait_for};
use serde_json::Value;

/// The host's own: a floor.
const LOCAL: &str = r#"
rules:
  - name: no-drop
    match: {sql: {kind: [drop_table]}}
    action: deny
"#;

const ENFORCE: &str = "central_policies: enforce";
const LONG: Duration = Duration::from_secs(60);

fn status(agent: &Agent) -> Value {
    agent.json(&["status", "--json"]).unwrap().remove(0)["policies"].clone()
}

fn until_status(stage: &Stage, what: &str, holds: impl Fn(&Value) -> bool) {
    let waited = wait_for(what, LONG, || holds(&status(&stage.agent)["central"]));
    assert!(waited.is_ok(), "{what}: {}\n-- the agent's log\n{}", status(&stage.agent), stage.agent.log());
}

/// A policy of the stage's processes.
fn policy(stage: &Stage, rules: &str) -> String {
    format!(
        "version: 1\nprocesses: [{{cgroup: {}}}]\ndestinations: [{{port: {}}}]\nrules:\n{rules}",
        stage.clients.below_mount().display(),
        stage.postgres.port()
    )
}

/// The client is told by which rule.
fn refused(stage: &Stage, sql: &str, rule: &str) {
    let said = stage.psql(sql).unwrap();
    assert!(said.stderr.contains(rule), "{}", said.both());
}

/// It goes through.
fn passes(stage: &Stage, sql: &str) {
    let said = stage.psql(sql).unwrap();
    assert!(said.success() && said.stderr.is_empty(), "{}", said.both());
}

fn deny(name: &str, kind: &str) -> String {
    format!("  - {{name: {name}, match: {{sql: {{kind: {kind}}}}}, action: deny}}\n")
}

/// Pushes a policy as the next version of `set`.
fn push(collector: &Collector, set: &str, text: &str) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("20-central.yaml"), text).unwrap();
    let directory = directory.path().to_str().unwrap();
    let checker = interlock_tests::agent::binary().unwrap();
    let pushed = collector
        .json(&[
            "policies",
            "push",
            directory,
            "--set",
            set,
            "--reason",
            "a test",
            "--json",
            "--checker",
            checker.to_str().unwrap(),
        ])
        .unwrap();
    pushed["version"]["version"].as_u64().unwrap()
}

fn policies(collector: &Collector, arguments: &[&str]) -> String {
    let arguments = [&["policies"], arguments, &["--reason", "a test"]].concat();
    collector.run(&arguments).unwrap().expect_success()
}

/// Enrols the agent with a token that gives labels.
fn enrol(collector: &Collector, agent: &Agent, label: &str) {
    let made = collector.json(&["tokens", "create", "--host-label", label, "--json"]).unwrap();
    let mut command = agent.command();
    command.args(["enroll", &collector.url(), "--token-file", "-"]);
    finish(&mut command, made["token"].as_str().unwrap(), LIMIT).unwrap().expect_success();
}

fn stands(collector: &Collector) -> Value {
    collector.json(&["policies", "status", "--json"]).unwrap()["hosts"][0].clone()
}

#[test]
fn a_policy_is_staged_then_enforced_then_rolled_back_and_the_floor_holds() {
    let collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), LOCAL, ENFORCE).unwrap();
    stage.postgres.admin("CREATE TABLE marks (mark text)").unwrap();
    enrol(&collector, &stage.agent, "env=prod");
    assert_eq!(stands(&collector)["labels"]["env"], "prod");

    // An agent's check finds what the collector's own does not.
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), policy(&stage, &deny("a", "no_such_kind"))).unwrap();
    let checker = interlock_tests::agent::binary().unwrap();
    let told = collector.run(&[
        "policies",
        "push",
        directory.path().to_str().unwrap(),
        "--set",
        "base",
        "--reason",
        "x",
        "--checker",
        checker.to_str().unwrap(),
    ]);
    assert!(told.unwrap().expect_failure().contains("no_such_kind"));

    let truncate = policy(&stage, &deny("no-truncate", "truncate"));
    assert_eq!(push(&collector, "base", &truncate), 1);
    assert_eq!(push(&collector, "base", &truncate), 1, "the same files make no version");
    // Of other hosts.
    policies(&collector, &["assign", "env=dev", "base@1", "--mode", "enforce"]);
    policies(&collector, &["assign", "env=prod", "base@1"]);
    until_status(&stage, "the staged order", |central| central["observe"] == "base@1");
    assert_eq!(status(&stage.agent)["central"]["enforce"], Value::Null);
    passes(&stage, "TRUNCATE marks;");
    let command = stage.agent.commands().unwrap().pop().unwrap();
    assert_eq!(command["verdict"], "allow", "{command}");
    assert_eq!(command["enforced"], false, "{command}");
    assert_eq!(command["observed"][0]["rule"], "no-truncate@base.1", "{command}");
    assert_eq!(command["observed"][0]["verdict"], "deny", "{command}");
    // Reviewers see how often it would have fired.
    wait_for("the count", LONG, || {
        let found = collector
            .query("SELECT count FROM rule_counts WHERE rule = 'no-truncate@base.1' AND observed = 1")
            .unwrap();
        found.first().is_some_and(|row| row[0].as_u64() > Some(0))
    })
    .unwrap();

    // An open session goes by it as well.
    let told = policies(&collector, &["promote", "env=prod"]);
    assert!(told.contains("enforced base@1"), "{told}");
    until_status(&stage, "the promoted order", |central| central["enforce"] == "base@1");
    refused(&stage, "TRUNCATE marks;", "no-truncate@base");
    // Version 2 does without the rule, and would allow what the host's own file denies.
    let open = policy(&stage, "  - {name: drops, match: {sql: {kind: drop_table}}, action: allow}\n");
    assert_eq!(push(&collector, "base", &open), 2);
    policies(&collector, &["assign", "env=prod", "base@2", "--mode", "enforce"]);
    until_status(&stage, "the second version", |central| central["enforce"] == "base@2");
    passes(&stage, "TRUNCATE marks;");
    refused(&stage, "DROP TABLE marks;", "no-drop");

    policies(&collector, &["rollback", "env=prod"]);
    until_status(&stage, "the roll-back", |central| central["enforce"] == "base@1");
    refused(&stage, "TRUNCATE marks;", "no-truncate@base");
    let told = stage.agent.interlock(&["status"]).unwrap().expect_success();
    assert!(told.contains("enforced: base@1"), "{told}");
    let told = stage.agent.interlock(&["policy", "show"]).unwrap().expect_success();
    assert!(told.contains("no-truncate@base  deny    enforce  base@1/20-central.yaml:"), "{told}");
    let explain = ["policy", "explain", "--protocol", "postgres", "TRUNCATE marks"];
    let told = stage.agent.interlock(&explain).unwrap().expect_success();
    assert!(told.contains("no-truncate@base"), "{told}");
    wait_for("word of it", LONG, || {
        let stands = stands(&collector);
        stands["stands"]["issue"] == stands["order"]["issue"] && stands["stands"]["accepts"] == "enforce"
    })
    .unwrap();

    // With the collector away it goes on, also over a restart.
    drop(collector);
    stage.agent.kill();
    stage.agent.launch().unwrap();
    refused(&stage, "TRUNCATE marks;", "no-truncate@base");
    let loaded: Vec<Value> =
        stage.agent.events().unwrap().into_iter().filter(|event| event["event"] == "policy_loaded").collect();
    let last = loaded.last().unwrap();
    assert_eq!(last["central"][0]["set"], "base", "{last}");
    assert_eq!(last["central"][0]["mode"], "enforce", "{last}");
    assert!(last["issue"].as_u64() >= Some(4), "{last}");
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn a_host_that_accepts_nothing_obeys_nothing_and_one_that_observes_enforces_nothing() {
    let collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), LOCAL, "").unwrap();
    enrol(&collector, &stage.agent, "env=prod");
    push(&collector, "base", &policy(&stage, &deny("no-listen", "listen")));
    policies(&collector, &["assign", "*", "base@1", "--mode", "enforce"]);
    wait_for("word of it", LONG, || {
        let stands = stands(&collector);
        stands["order"]["enforce"] == "base@1" && stands["stands"]["accepts"] == "off"
    })
    .unwrap();
    passes(&stage, "LISTEN a;");
    assert_eq!(status(&stage.agent)["central"]["issue"], 0);
    assert!(!stage.agent.state().join("central-policies.json").exists());

    let config = fs::read_to_string(stage.agent.config()).unwrap();
    fs::write(stage.agent.config(), format!("{config}central_policies: observe\n")).unwrap();
    stage.agent.stop();
    stage.agent.launch().unwrap();
    until_status(&stage, "the order", |central| central["enforce"] == "base@1");
    passes(&stage, "LISTEN a;");
    let command = stage.agent.commands().unwrap().pop().unwrap();
    assert_eq!(command["observed"][0]["rule"], "no-listen@base.1", "{command}");
}

fn kept(stage: &Stage) -> std::path::PathBuf {
    stage.agent.state().join("central-policies.json")
}

#[test]
fn what_is_kept_on_the_host_counts_only_as_it_was_signed() {
    let collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), LOCAL, ENFORCE).unwrap();
    enrol(&collector, &stage.agent, "env=prod");
    push(&collector, "base", &policy(&stage, &deny("no-listen", "listen")));
    policies(&collector, &["assign", "*", "base@1", "--mode", "enforce"]);
    until_status(&stage, "the order", |central| central["enforce"] == "base@1");
    let path = kept(&stage);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let whole = fs::read_to_string(&path).unwrap();

    // While the agent runs: written again, and recorded.
    fs::remove_file(&path).unwrap();
    wait_for("the file", LONG, || path.exists()).unwrap();
    refused(&stage, "LISTEN a;", "no-listen@base");
    let rejected = |stage: &Stage| {
        stage.agent.events().unwrap().iter().filter(|event| event["event"] == "policy_rejected").count()
    };
    assert_eq!(rejected(&stage), 1);

    // While it does not: another text, another order. It does not start, and designated processes stay refused.
    drop(collector);
    stage.agent.stop();
    for (from, to) in [("no-listen", "no-notice"), ("issue ", "issue 9"), ("base 1", "base 2")] {
        let altered = whole.replacen(from, to, 1);
        assert_ne!(altered, whole, "{from}");
        write_private(&path, &altered);
        assert!(stage.agent.launch().is_err(), "{from}");
        stage.agent.stop();
        assert!(!stage.psql("SELECT 1;").unwrap().success());
    }
    assert!(stage.agent.log().contains("central-policies.json"), "{}", stage.agent.log());
    write_private(&path, &whole);
    stage.agent.launch().unwrap();
    refused(&stage, "LISTEN a;", "no-listen@base");
    // Removed by who administers the host: its own files rule.
    stage.agent.stop();
    fs::remove_file(&path).unwrap();
    stage.agent.launch().unwrap();
    passes(&stage, "LISTEN a;");
    refused(&stage, "DROP TABLE x;", "no-drop");
    assert_eq!(status(&stage.agent)["central"]["issue"], 0);
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_collector_that_was_put_back_is_refused_until_it_orders_anew() {
    let mut collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), LOCAL, ENFORCE).unwrap();
    enrol(&collector, &stage.agent, "env=prod");
    push(&collector, "base", &policy(&stage, &deny("no-listen", "listen")));
    policies(&collector, &["assign", "*", "base@1", "--mode", "enforce"]);
    until_status(&stage, "the order", |central| central["issue"] == 1);
    collector.stop();
    let backup = tempfile::tempdir().unwrap();
    let files = ["collector.db", "collector.db-wal", "collector.db-shm"];
    let copy = |from: &Path, to: &Path| {
        for file in files {
            if from.join(file).exists() {
                fs::copy(from.join(file), to.join(file)).unwrap();
            }
        }
    };
    copy(&collector.state(), backup.path());
    collector.launch().unwrap();
    push(&collector, "base", &policy(&stage, &deny("no-notify", "notify")));
    policies(&collector, &["assign", "*", "base@2", "--mode", "enforce"]);
    until_status(&stage, "the second order", |central| central["issue"] == 2);
    // A version that agents cannot load: refused, and the earlier policies stay.
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), policy(&stage, &deny("a", "no_such_kind"))).unwrap();
    let directory = directory.path().to_str().unwrap();
    policies(&collector, &["push", directory, "--set", "base", "--unchecked"]);
    policies(&collector, &["assign", "*", "base@3"]);
    until_status(&stage, "the refusal", |central| central["refused"][0] == 3);
    assert_eq!(status(&stage.agent)["central"]["enforce"], "base@2");
    assert!(stage.agent.interlock(&["status"]).unwrap().both().contains("no_such_kind"));
    wait_for("word of it", LONG, || stands(&collector)["stands"]["refused"] == 3).unwrap();
    let told = collector.run(&["policies", "promote", "*", "--reason", "x"]).unwrap().expect_failure();
    assert!(told.contains("refuse it"), "{told}");

    // Put back to when order 1 was the newest. The agent's own recording is behind it, too: the collector takes it
    // again from there.
    collector.stop();
    for file in files {
        let _ = fs::remove_file(collector.state().join(file));
    }
    copy(backup.path(), &collector.state());
    fs::remove_file(collector.state().join("ledger.checkpoint")).unwrap();
    collector.launch().unwrap();
    until_status(&stage, "the refusal of the older order", |central| {
        central["refused"][1].as_str().is_some_and(|why| why.contains("older than order 3"))
    });
    assert_eq!(status(&stage.agent)["central"]["enforce"], "base@2", "what was in force stays");
    refused(&stage, "NOTIFY a;", "no-notify@base");
    wait_for("the finding", LONG, || {
        let found = collector.query("SELECT kind FROM findings").unwrap();
        found.iter().any(|row| row[0] == "policy_orders_rolled_back")
    })
    .unwrap();
    let host = collector.agent().unwrap()["host"].as_str().unwrap().to_owned();
    policies(&collector, &["reissue", &host]);
    until_status(&stage, "the new order", |central| central["issue"] == 4 && central["enforce"] == "base@1");
    refused(&stage, "LISTEN a;", "no-listen@base");
    stage.agent.stop();
}

#[test]
fn an_agent_that_is_killed_while_orders_come_has_one_of_them_whole() {
    let collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), LOCAL, ENFORCE).unwrap();
    enrol(&collector, &stage.agent, "env=prod");
    for version in 1..=2 {
        push(&collector, "base", &policy(&stage, &deny(&format!("no-listen-{version}"), "listen")));
    }
    for round in 0..6 {
        let version = format!("base@{}", round % 2 + 1);
        policies(&collector, &["assign", "*", &version, "--mode", "enforce"]);
        // As the order arrives, sooner or later.
        std::thread::sleep(Duration::from_millis(400 * round));
        stage.agent.kill();
        stage.agent.launch().unwrap();
        until_status(&stage, "the order", |central| central["enforce"] == version.as_str());
        refused(&stage, "LISTEN a;", &format!("no-listen-{}@base", round % 2 + 1));
    }
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}
