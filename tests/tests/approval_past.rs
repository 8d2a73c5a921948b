//! What became of similar requests, over the agent's end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage, wait_for};
use serde_json::Value;

/// A user that every Debian has, in the group of its own name.
const GAMES: (u32, u32) = (5, 60);

const RULES: &str = r#"
rules:
  - name: writes
    match: {sql: {kind: [update, delete]}}
    action: hold
    approval: {groups: games}
"#;

fn by(stage: &Stage, arguments: &[&str]) -> Finished {
    let mut command = stage.agent.command();
    command.arg("approvals").args(arguments).uid(GAMES.0).gid(GAMES.1);
    finish(&mut command, "", LIMIT).unwrap()
}

/// Has a statement held, looks at its request, and refuses it.
fn refused(stage: &Stage, sql: &str) -> Value {
    std::thread::scope(|scope| {
        let client = scope.spawn(|| stage.psql(sql).unwrap());
        let mut id = String::new();
        wait_for("a request", LIMIT, || {
            let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
            id = list.first().and_then(|one| one["id"].as_str()).unwrap_or_default().to_owned();
            !id.is_empty()
        })
        .unwrap();
        let shown = by(stage, &["show", &id, "--json"]).expect_success();
        by(stage, &["deny", &id, "--reason", "no"]).expect_success();
        assert!(client.join().unwrap().stderr.contains("was denied"));
        serde_json::from_str(&shown).unwrap()
    })
}

#[test]
fn similar_requests_are_known_to_the_next_agent() {
    let postgres = Postgres::start().unwrap();
    postgres.admin("CREATE TABLE t (id int, v text)").unwrap();
    let mut stage = Stage::start_with(postgres, RULES, "").unwrap();
    let first = refused(&stage, "DELETE FROM t WHERE v = 'a secret';\n");
    assert_eq!(first["similar"], serde_json::json!([]));
    let file = stage.agent.state().join("approvals.past");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains(first["id"].as_str().unwrap()), "{kept}");
    assert!(!kept.contains("DELETE") && !kept.contains("secret"), "no text is kept: {kept}");

    // However it ends.
    stage.agent.kill();
    stage.agent.launch().unwrap();
    let second = refused(&stage, "DELETE FROM t WHERE v = 'other';\n");
    let [similar] = second["similar"].as_array().unwrap().as_slice() else { panic!("{second}") };
    assert_eq!((&similar["id"], &similar["outcome"]), (&first["id"], &"denied".into()));
    assert_eq!((&similar["by"], &similar["user"]), (&serde_json::json!(["games"]), &"root".into()));
    // Another statement is not similar.
    assert_eq!(refused(&stage, "UPDATE t SET v = 'x';\n")["similar"], serde_json::json!([]));

    // The newest stand first, with those of this agent before them; in words as well.
    stage.agent.stop();
    stage.agent.launch().unwrap();
    let third = refused(&stage, "DELETE FROM t WHERE v = 'third';\n");
    let ids = |of: &Value| -> Vec<Value> {
        of["similar"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect()
    };
    assert_eq!(ids(&third), [second["id"].clone(), first["id"].clone()]);
    let fourth = refused(&stage, "DELETE FROM t WHERE v = 'fourth';\n");
    assert_eq!(ids(&fourth), [third["id"].clone(), second["id"].clone(), first["id"].clone()]);

    // A file that is damaged costs what cannot be read, and nothing else.
    stage.agent.stop();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, [b"\xff{\n\0", whole.as_slice(), b"{\"id\":"].concat()).unwrap();
    stage.agent.launch().unwrap();
    let fifth = refused(&stage, "DELETE FROM t WHERE v = 'fifth';\n");
    assert!(ids(&fifth).contains(&fourth["id"]), "{fifth}");
    stage.agent.stop();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    stage.agent.launch().unwrap();
    assert_eq!(refused(&stage, "DELETE FROM t WHERE v = 'sixth';\n")["similar"], serde_json::json!([]));
    assert!(stage.agent.log().contains("earlier requests for approval"), "{}", stage.agent.log());
}
