//! Held commands that are decided on at the collector: real psql, PostgreSQL, agent and collector.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::time::Duration;

use interlock_tests::browser::Browser;
use interlock_tests::collector::Network;
use interlock_tests::process::{Finished, LIMIT};
use interlock_tests::{Collector, Postgres, Stage, wait_for};
use serde_json::Value;

const RULES: &str = r#"
rules:
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: hold
    approval: {groups: dba, scopes: [once, shape]}
  - name: two
    match: {sql: {kind: truncate}}
    action: hold
    approval: {groups: dba, needed: 2}
  - name: brief
    match: {sql: {kind: drop_table}}
    action: hold
    approval: {groups: dba, within: 30s}
  - name: here-only
    match: {sql: {kind: create_table}}
    action: hold
    approval: {groups: dba, via: host}
"#;

const DECIDE: &str = "approvals: {collector: decide, link: \"https://interlock.example\"}";
const PASSWORD: &str = "a password for tests";
const LONG: Duration = Duration::from_secs(60);

/// A host whose agent is enrolled, its collector, and people at that.
struct Inbox {
    stage: Stage,
    collector: Collector,
    root: Browser,
}

impl Inbox {
    fn new(configuration: &str) -> Self {
        let collector = Collector::start().unwrap();
        let stage = stage(configuration);
        collector.enrol(&stage.agent).unwrap();
        let root = Browser::set_up(&collector).unwrap();
        Self { stage, collector, root }
    }

    /// Somebody in the group, signed in.
    fn member(&self, name: &str) -> Browser {
        let new = [("name", name), ("role", "viewer"), ("password", PASSWORD)];
        self.root.submit("/admin/users", &new).unwrap();
        self.collector.run(&["users", "owner", name, "--groups", "dba"]).unwrap().expect_success();
        self.root.another(name, PASSWORD).unwrap()
    }

    /// What the collector lists in a state, once it is so many.
    fn listed(&self, by: &Browser, state: &str, count: usize) -> Vec<Value> {
        let mut items = Vec::new();
        wait_for("requests at the collector", LONG, || {
            let page: Value = by
                .get(&format!("/api/v1/approvals?state={state}"))
                .map_or(Value::Null, |page| serde_json::from_str(&page).unwrap());
            items = page["items"].as_array().cloned().unwrap_or_default();
            items.len() == count
        })
        .unwrap_or_else(|error| panic!("{error}: {state} {items:?}"));
        items
    }

    fn waiting(&self, by: &Browser) -> String {
        self.listed(by, "pending", 1).remove(0)["id"].as_str().unwrap().to_owned()
    }

    fn rows(&self) -> String {
        self.stage.postgres.admin("SELECT count(*) FILTER (WHERE v = 'n') FROM t").unwrap()
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.stage.agent.events().unwrap();
        events.into_iter().filter(|event| event["event"] == kind).collect()
    }
}

fn stage(configuration: &str) -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres
        .admin("CREATE TABLE t (id int, v text); INSERT INTO t SELECT n, 'n' FROM generate_series(1, 100) n")
        .unwrap();
    Stage::start_with(postgres, RULES, configuration).unwrap()
}

/// Somebody presses the button of a request's page; an error has what was answered.
fn decide(by: &Browser, id: &str, what: &str, reason: &str) -> anyhow::Result<String> {
    by.submit_to(&format!("/approvals/{id}"), &format!("/approvals/{id}/{what}"), &[("reason", reason)])
}

/// Runs a client while `meanwhile` looks after what it waits for.
fn during<R>(
    client: impl FnOnce() -> anyhow::Result<Finished> + Send,
    meanwhile: impl FnOnce() -> R,
) -> (Finished, R) {
    std::thread::scope(|scope| {
        let running = scope.spawn(client);
        let result = meanwhile();
        (running.join().unwrap().unwrap(), result)
    })
}

#[test]
fn approved_at_the_collector_the_command_goes_on() {
    let inbox = Inbox::new(DECIDE);
    let bob = inbox.member("bob");
    // Who asks is root, on the host and here.
    inbox.collector.run(&["users", "owner", "root", "--groups", "dba"]).unwrap().expect_success();
    let (finished, id) = during(
        || inbox.stage.psql("UPDATE t SET v = 'x';\nSELECT 'after';\n"),
        || {
            let item = inbox.listed(&bob, "pending", 1).remove(0);
            assert_eq!(
                (&item["text"], &item["rules"]),
                (&"UPDATE t SET v = 'x';".into(), &"unbounded-write".into())
            );
            let id = item["id"].as_str().unwrap().to_owned();
            let page = bob.get(&format!("/approvals/{id}")).unwrap();
            for part in ["What will happen", "no WHERE: every row", "1 of dba", "psql", "Approve", "Refuse"] {
                assert!(page.contains(part), "{part}: {page}");
            }
            assert!(!inbox.stage.postgres.was_sent("UPDATE t SET v"));
            let own = decide(&inbox.root, &id, "approve", "it is mine").unwrap_err().to_string();
            assert!(own.contains("own request"), "{own}");
            decide(&bob, &id, "approve", "ticket 17").unwrap();
            id
        },
    );
    assert!(finished.stdout.contains("after") && !finished.stderr.contains("ERROR"), "{}", finished.both());
    assert!(finished.stderr.contains("https://interlock.example/approvals/"), "{}", finished.stderr);
    assert_eq!(inbox.rows(), "0");
    let [voted] = &inbox.events("approval_voted")[..] else { panic!() };
    assert_eq!((&voted["by"]["account"], &voted["by"]["via"]), (&"bob".into(), &"collector".into()));
    assert_eq!(
        (&voted["reason"], &voted["by"]["groups"]),
        (&"ticket 17".into(), &serde_json::json!(["dba"]))
    );
    assert!(voted["by"]["authenticated"].is_string() && voted["by"]["uid"].is_null(), "{voted}");
    inbox.listed(&bob, "approved", 1);
    let one: Value = serde_json::from_str(&bob.get(&format!("/api/v1/approvals/{id}")).unwrap()).unwrap();
    assert_eq!(
        (&one["votes"][0]["vote"], &one["votes"][0]["state"]),
        (&voted["by"]["vote"], &"counted".into())
    );
    assert_eq!(one["counted"][0]["by"]["name"], "bob");
    let shown = inbox.collector.json(&["approvals", "show", &id]).unwrap();
    assert_eq!(shown["digest"], one["digest"]);
    // It stands in the ledger, which is whole.
    inbox.collector.run(&["verify"]).unwrap().expect_success();
    let ledger =
        inbox.collector.query("SELECT kind FROM ledger_entries WHERE kind = 'approval_given'").unwrap();
    assert_eq!(ledger.len(), 1);
    // The same again: what was alike is shown beside it.
    let (finished, ()) = during(
        || inbox.stage.psql("UPDATE t SET v = 'y';\n"),
        || {
            let id = inbox.waiting(&bob);
            assert!(bob.get(&format!("/approvals/{id}")).unwrap().contains("approved</span>"));
            decide(&bob, &id, "deny", "not twice").unwrap();
        },
    );
    assert!(finished.stderr.contains("denied by bob: not twice"), "{}", finished.stderr);
    let verified = inbox.stage.agent.interlock(&["sessions", "verify"]).unwrap();
    assert!(verified.success(), "{}", verified.both());
}

#[test]
fn asked_for_beforehand_and_approved_at_the_collector_the_command_goes_on() {
    let inbox = Inbox::new(DECIDE);
    let bob = inbox.member("bob");
    let mut told = |words: &[&str]| {
        let id = inbox.waiting(&bob);
        match words {
            ["approve"] => {
                let page = bob.get(&format!("/approvals/{id}")).unwrap();
                for part in [
                    "Asked for beforehand",
                    "in their own words",
                    "ticket 17",
                    "bin/psql",
                    "Its values",
                    "no WHERE: every row",
                ] {
                    assert_eq!(page.contains(part), part != "Its values", "{part}: {page}");
                }
                let one = bob.get(&format!("/api/v1/approvals/{id}")).unwrap();
                let one: Value = serde_json::from_str(&one).unwrap();
                assert_eq!(
                    (&one["beforehand"]["reason"], &one["message"]),
                    (&"ticket 17".into(), &"".into())
                );
                assert!(one["beforehand"]["program_claimed"].as_str().unwrap().ends_with("/psql"), "{one}");
                assert!(one["subject"]["exe"].as_str().unwrap().ends_with("/interlock"), "{one}");
                decide(&bob, &id, "approve", "ticket 17").unwrap();
            }
            ["deny"] => drop(decide(&bob, &id, "deny", "not that").unwrap()),
            ["gone"] => drop(inbox.listed(&bob, "pending", 1)),
            other => panic!("{other:?}"),
        }
    };
    let said = interlock_tests::mcp::agent(
        &inbox.stage,
        None,
        r#"
m = Mcp()
wait = lambda id: m.tool("approval_status", id=id, wait_seconds=60)["request"]
id = m.ask("UPDATE t SET v = 'x'")["request"]["id"]
tell("approve")
now = wait(id)
print(now["state"], now["by"])
done = psql("UPDATE t SET v = 'x'")
print(done.returncode, "waits" in done.stderr)
id = m.ask("DELETE FROM t")["request"]["id"]
tell("deny")
now = wait(id)
print(now["state"], now["by"])
id = m.ask("DELETE FROM t -- 2")["request"]["id"]
tell("gone")
"#,
        &mut told,
    )
    .unwrap();
    assert_eq!(said, "approved ['bob']\n0 False\ndenied ['bob']\n");
    assert_eq!(inbox.rows(), "0");
    // The collector hears how each has ended, also of who has gone.
    for state in ["approved", "denied", "withdrawn"] {
        inbox.listed(&bob, state, 1);
    }
    let [voted] = &inbox.events("approval_voted")[..] else { panic!() };
    assert_eq!((&voted["by"]["account"], &voted["by"]["via"]), (&"bob".into(), &"collector".into()));
    let commands = inbox.stage.agent.commands().unwrap();
    let used: Vec<_> = commands.iter().filter(|one| one["approval"]["beforehand"] == true).collect();
    assert_eq!(used.len(), 1, "{commands:?}");
}

#[test]
fn what_comes_late_or_is_not_opened_does_not_count() {
    let inbox = Inbox::new(DECIDE);
    let (bob, carol) = (inbox.member("bob"), inbox.member("carol"));
    // After its time.
    let (finished, id) =
        during(|| inbox.stage.psql("DROP TABLE t;\nSELECT 'lives on';\n"), || inbox.waiting(&bob));
    assert!(finished.stderr.contains("nobody approved") && finished.stdout.contains("lives on"));
    inbox.listed(&bob, "expired", 1);
    let page = bob.get(&format!("/approvals/{id}")).unwrap();
    assert!(!page.contains("/approve\""), "{page}");
    let late =
        bob.submit_to("/account", &format!("/approvals/{id}/approve"), &[("reason", "late")]).unwrap_err();
    assert!(late.to_string().contains("expired already"), "{late}");
    // A rule that is for the host alone.
    let (finished, ()) = during(
        || inbox.stage.psql("CREATE TABLE u (id int);\n"),
        || {
            let id = inbox.waiting(&bob);
            assert!(bob.get(&format!("/approvals/{id}")).unwrap().contains("only on the host"));
            let given = bob.submit_to("/account", &format!("/approvals/{id}/approve"), &[]).unwrap_err();
            assert!(given.to_string().contains("only on the host"), "{given}");
            decide(&bob, &id, "deny", "no").unwrap();
        },
    );
    assert!(finished.stderr.contains("denied by bob"), "{}", finished.stderr);
    // Two at the same time, where one refusal and one approval are given: it has one end, and both are told it.
    for round in 0..3 {
        let (finished, (one, two)) = during(
            || inbox.stage.psql(&format!("UPDATE t SET v = 'round {round}';\n")),
            || {
                let id = inbox.waiting(&bob);
                std::thread::scope(|scope| {
                    let approves = scope.spawn(|| decide(&bob, &id, "approve", "yes").is_ok());
                    let refuses = scope.spawn(|| decide(&carol, &id, "deny", "no").is_ok());
                    (approves.join().unwrap(), refuses.join().unwrap())
                })
            },
        );
        let went_on = !finished.stderr.contains("ERROR");
        assert!(one != two && one == went_on, "{one} {two} {}", finished.both());
    }
    // Both of two, and each once.
    let (finished, ()) = during(
        || inbox.stage.psql("TRUNCATE t;\nSELECT 'went on';\n"),
        || {
            let id = inbox.waiting(&bob);
            decide(&bob, &id, "approve", "").unwrap();
            assert!(bob.get(&format!("/approvals/{id}")).unwrap().contains("1 more needed"));
            let twice = decide(&bob, &id, "approve", "").unwrap_err().to_string();
            assert!(twice.contains("approved it already"), "{twice}");
            decide(&carol, &id, "approve", "").unwrap();
        },
    );
    assert!(finished.stdout.contains("went on"), "{}", finished.both());
}

#[test]
fn a_collector_that_is_not_let_cannot_approve() {
    let inbox = Inbox::new("");
    let bob = inbox.member("bob");
    let (finished, ()) = during(
        || inbox.stage.psql("UPDATE t SET v = 'x';\n"),
        || {
            let id = inbox.waiting(&bob);
            let page = bob.get(&format!("/approvals/{id}")).unwrap();
            assert!(page.contains("takes no approvals from its collector"), "{page}");
            decide(&bob, &id, "deny", "no").unwrap();
        },
    );
    assert!(finished.stderr.contains("denied by bob: no"), "{}", finished.stderr);
    assert_eq!(inbox.rows(), "100");
    // Turned off, nothing is told.
    let off = Inbox::new("approvals: {collector: off}");
    let bob = off.member("bob");
    let (finished, ()) = during(
        || off.stage.psql("DROP TABLE t;\n"),
        || {
            wait_for("the request on the host", LIMIT, || {
                !off.stage.agent.json(&["approvals", "list", "--json"]).unwrap().is_empty()
            })
            .unwrap();
            off.listed(&bob, "pending", 0);
        },
    );
    assert!(finished.stderr.contains("nobody approved"), "{}", finished.stderr);
    assert!(!off.events("approval_requested").is_empty());
    off.listed(&bob, "decided", 0);
}

#[test]
fn a_collector_that_was_killed_is_right_again_and_so_is_one_whose_agent_was() {
    let mut inbox = Inbox::new(DECIDE);
    let bob = inbox.member("bob");
    let finished = std::thread::scope(|scope| {
        let (stage, collector) = (&inbox.stage, &mut inbox.collector);
        let running = scope.spawn(|| stage.psql("UPDATE t SET v = 'x';\n"));
        let listed = |by: &Browser| {
            let mut found = String::new();
            wait_for("the request", LONG, || {
                let page = by.get("/api/v1/approvals?state=pending").unwrap_or_default();
                let page: Value = serde_json::from_str(&page).unwrap_or_default();
                found = page["items"][0]["id"].as_str().unwrap_or_default().to_owned();
                !found.is_empty()
            })
            .unwrap();
            found
        };
        let id = listed(&bob);
        collector.kill();
        collector.launch().unwrap();
        assert_eq!(listed(&bob), id);
        // It may be back before the agent is.
        decide(&bob, &id, "approve", "still fine").unwrap();
        running.join().unwrap().unwrap()
    });
    assert!(!finished.stderr.contains("ERROR"), "{}", finished.both());
    assert_eq!((inbox.rows(), inbox.events("approval_voted").len()), ("0".into(), 1));
    // The agent dies with what it holds, and nothing of it ever counts.
    let id = std::thread::scope(|scope| {
        let clients = &inbox.stage;
        let running = scope.spawn(|| clients.psql("DELETE FROM t;\n").unwrap());
        let id = inbox.waiting(&bob);
        // By the id that its status tells.
        let status = inbox.stage.agent.json(&["status", "--json"]).unwrap().remove(0);
        let pid = status["pid"].as_u64().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        running.join().unwrap();
        id
    });
    decide(&bob, &id, "approve", "it is gone").unwrap();
    inbox.stage.agent.launch().unwrap();
    inbox.listed(&bob, "withdrawn", 1);
    wait_for("what became of the vote", LONG, || {
        bob.get(&format!("/api/v1/approvals/{id}")).unwrap().contains("\"state\":\"refused\"")
    })
    .unwrap();
    assert_eq!(inbox.stage.postgres.admin("SELECT count(*) FROM t").unwrap(), "100");
}

#[test]
fn cut_off_from_the_collector_nothing_is_approved() {
    let collector = Collector::start_in(Some(Network::new().unwrap())).unwrap();
    let stage = stage(DECIDE);
    collector.enrol(&stage.agent).unwrap();
    let state = |wanted: &str| {
        let mut said = String::new();
        wait_for("the request at the collector", LONG, || {
            let listed = collector.run(&["approvals", "list", "--status", wanted, "--json"]).unwrap();
            said = listed.both();
            listed.stdout.contains("DROP TABLE t")
        })
        .unwrap_or_else(|error| panic!("{error}: {wanted}: {said} {}", collector.log()));
    };
    let (finished, ()) = during(
        || stage.psql("DROP TABLE t;\n"),
        || {
            state("pending");
            collector.network().unwrap().cut().unwrap();
        },
    );
    assert!(finished.stderr.contains("nobody approved"), "{}", finished.stderr);
    collector.network().unwrap().mend().unwrap();
    state("expired");
    assert_eq!(stage.postgres.admin("SELECT count(*) FROM t").unwrap(), "100");
}
