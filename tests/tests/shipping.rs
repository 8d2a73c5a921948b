//! Recordings that leave the host: nothing lost and nothing twice, whoever is killed or cut off.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use interlock_tests::client;
use interlock_tests::collector::Network;
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Agent, Cgroup, Collector, Postgres, Stage, wait_for};
use serde_json::Value;

const RULES: &str = r#"
rules:
  - name: no-drop
    match: {sql: {kind: [drop_table]}}
    action: deny
"#;

/// Small segments, so that there are many.
const SMALL: &str = "record: {segment_bytes: 64KiB}\nship: {keep: 1GiB}";

const LONG: Duration = Duration::from_secs(120);

fn status(agent: &Agent) -> Value {
    agent.json(&["status", "--json"]).unwrap().remove(0)
}

/// Waits until the collector has all that the agent has recorded. Nothing may be recorded meanwhile.
fn all_there(stage: &Stage, collector: &Collector) {
    let shipped = wait_for("everything at the collector", LONG, || {
        let status = status(&stage.agent);
        status["flows"]["open"] == 0 && status["shipping"]["next_event"] == status["recording"]["events"]
    });
    assert!(
        shipped.is_ok(),
        "{shipped:?}: {}\n-- the collector's log\n{}",
        status(&stage.agent)["shipping"],
        collector.log()
    );
}

/// Stops the agent in good order and compares, event by event, what the host has kept with what the
/// collector holds.
fn compare(stage: &mut Stage, collector: &Collector) {
    all_there(stage, collector);
    stage.agent.stop();
    let host = collector.agent().unwrap()["host"].as_str().unwrap().to_owned();
    // The agent ships what it recorded last before it ends.
    let theirs = collector.segments(&host).unwrap();
    let mut ours: Vec<_> = fs::read_dir(stage.agent.state().join("sessions"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg" || extension == "open"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    ours.sort();
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&theirs), names(&ours));
    assert!(theirs == ours, "a segment is not the same byte for byte");
    // What can be searched: each command once, in order.
    let commands = stage.agent.commands().unwrap();
    let texts = |values: &[Value], name: &str| -> Vec<String> {
        values.iter().map(|value| value[name].as_str().unwrap_or_default().to_owned()).collect()
    };
    let found = collector.query("SELECT text, session FROM commands ORDER BY event").unwrap();
    let found: Vec<_> = found.iter().map(|row| row[0].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(found.len(), commands.len());
    assert_eq!(found, texts(&commands, "text"));
    let sessions = stage.agent.json(&["sessions", "list", "--json"]).unwrap();
    let known = collector.query("SELECT id FROM sessions ORDER BY id").unwrap();
    let known: HashSet<_> = known.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        known,
        sessions.iter().map(|session| session["session"].as_str().unwrap().to_owned()).collect()
    );
    assert_eq!(collector.query("SELECT * FROM findings").unwrap(), Vec::<Value>::new());
    collector.run(&["verify"]).unwrap().expect_success();
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

/// Inserts marks, each once, until `seconds` are over or the agent goes.
fn load(stage: &Stage, round: usize, seconds: u32) -> thread::JoinHandle<Finished> {
    let script = "INSERT INTO marks VALUES ('mark :round :client_id :n');\n\\set n :n + 1\n";
    let mut command = client::start(Some(&stage.clients), stage.postgres.programs().join("pgbench"));
    client::environment(&mut command, &stage.postgres);
    let (seconds, round) = (seconds.to_string(), format!("round={round}"));
    command.args(["-n", "-c", "4", "-T", &seconds, "-D", "n=0", "-D", &round, "-f", "-"]);
    thread::spawn(move || finish(&mut command, script, LONG).unwrap())
}

fn marks(stage: &Stage) -> u64 {
    stage.postgres.admin("SELECT count(*) FROM marks").unwrap().parse().unwrap()
}

fn more_marks(stage: &Stage, than: u64) {
    wait_for("load", LONG, || marks(stage) > than).unwrap();
}

#[test]
fn what_is_recorded_can_be_found_at_the_collector() {
    let collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), RULES, SMALL).unwrap();
    // Before it is enrolled: that is shipped too.
    stage.psql("SELECT 'before';").unwrap().expect_success();
    let told = stage.agent.interlock(&["enroll", "--status"]).unwrap();
    assert!(!told.success() && told.stdout.contains("not enrolled"), "{}", told.both());
    collector.enrol(&stage.agent).unwrap();
    let said = stage.psql("SELECT 'after'; DROP TABLE x;").unwrap();
    assert!(said.stderr.contains("no-drop"), "{}", said.both());
    all_there(&stage, &collector);
    let found = collector.query("SELECT text, verdict, rule FROM commands WHERE verdict = 'deny'").unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0][2], "no-drop");
    let told = stage.agent.interlock(&["enroll", "--status"]).unwrap().expect_success();
    assert!(told.contains("collector.test") && told.contains("all is there"), "{told}");
    assert!(stage.agent.interlock(&["status"]).unwrap().stdout.contains(&collector.url()));
    let known = collector.agent().unwrap();
    assert_eq!(known["policy_hash"], status(&stage.agent)["policies"]["hash"]);
    assert!(known["clock_ahead_ns"].as_i64().unwrap().abs() < 3_600_000_000_000);
    // The token counted once.
    let token = collector.query("SELECT uses_left FROM enrolment_tokens").unwrap();
    assert_eq!(token[0][0], 0);
    compare(&mut stage, &collector);
    let listed = collector.run(&["ledger", "list"]).unwrap().expect_success();
    for part in ["collector.test, key", "segment 0: events 0 to", "SHA-256"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    // Without the agent the command line still knows.
    let told = stage.agent.interlock(&["enroll", "--status"]).unwrap().expect_success();
    assert!(told.contains("no agent runs"), "{told}");
    stage.agent.launch().unwrap();
    stage.psql("SELECT 'again';").unwrap().expect_success();
    compare(&mut stage, &collector);
}

#[test]
fn a_wrong_token_or_collector_enrols_nobody() {
    let [one, other] = [0, 1].map(|_| Collector::start().unwrap());
    let agent =
        Agent::prepare(interlock_tests::agent::binary().unwrap(), &[], "", Cgroup::new().unwrap()).unwrap();
    let enrol = |url: &str, token: &str| {
        let mut command = agent.command();
        command.env("INTERLOCK_TOKEN", token);
        finish(command.args(["enroll", url]), "", LIMIT).unwrap().expect_failure()
    };
    let token = one.token().unwrap();
    let said = enrol(&other.url(), &token);
    assert!(said.contains("The token is of another collector"), "{said}");
    let used = {
        // The same authority, but a secret that the collector does not know.
        let mut parts: Vec<_> = token.split('.').collect();
        let secret = "A".repeat(parts[1].len());
        parts[1] = &secret;
        parts.join(".")
    };
    let said = enrol(&one.url(), &used);
    assert!(said.contains("unknown, used up or expired") && said.contains("tokens create"), "{said}");
    let said = enrol(&one.url().replace("127.0.0.1", "127.0.0.2"), &token);
    assert!(said.contains("cannot reach") || said.contains("other names"), "{said}");
    let said = enrol(&one.url(), "ilk1.x");
    assert!(said.contains("not a whole enrolment token") && !said.contains("ilk1.x"), "{said}");
    let said = enrol("http://c", &token);
    assert!(said.contains("is no collector's address"), "{said}");
    let told = agent.interlock(&["enroll", "--status"]).unwrap();
    assert!(told.stdout.contains("not enrolled"), "{}", told.both());
    // The token has not been used by all this.
    one.enrol(&agent).unwrap();
    assert!(one.run(&["tokens", "list"]).unwrap().success());
}

#[test]
fn a_host_that_must_be_enrolled_does_not_start_before_it_is() {
    let collector = Collector::start().unwrap();
    let mut stage = Stage::start(RULES).unwrap();
    stage.agent.stop();
    let config = fs::read_to_string(stage.agent.config()).unwrap();
    fs::write(stage.agent.config(), format!("{config}ship: {{required: true}}\n")).unwrap();
    stage.agent.spawn().unwrap();
    assert!(!stage.agent.wait(LIMIT).unwrap().success());
    assert!(stage.agent.log().contains("interlock enroll URL"), "{}", stage.agent.log());
    assert!(stage.psql("SELECT 1;").unwrap().expect_failure().contains("Connection refused"));
    collector.enrol(&stage.agent).unwrap();
    // A collector that is away is no reason.
    collector.run(&["agents", "list"]).unwrap().expect_success();
    drop(collector);
    stage.agent.launch().unwrap();
    stage.psql("SELECT 1;").unwrap().expect_success();
    wait_for("the error in the status", LONG, || {
        status(&stage.agent)["shipping"]["error"].as_str().is_some_and(|e| e.contains("cannot reach"))
    })
    .unwrap();
    assert!(stage.agent.interlock(&["status"]).unwrap().stdout.contains("NOT SHIPPING since"));
    // Who leaves ships no more.
    stage.agent.interlock(&["enroll", "--leave"]).unwrap().expect_success();
    wait_for("the end of shipping", LIMIT, || status(&stage.agent)["shipping"]["enrolled"] == false).unwrap();
}

#[test]
fn kill_9_on_both_sides_under_load_loses_nothing_and_repeats_nothing() {
    let mut collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), RULES, SMALL).unwrap();
    stage.postgres.admin("CREATE TABLE marks (mark text)").unwrap();
    collector.enrol(&stage.agent).unwrap();
    for round in 0..6 {
        let before = marks(&stage);
        let clients = load(&stage, round, 90);
        for step in 1..4 {
            more_marks(&stage, before + 300 * step);
            collector.kill();
            more_marks(&stage, marks(&stage) + 100);
            collector.launch().unwrap();
            let connected = || status(&stage.agent)["shipping"]["connected_since"].is_string();
            // In the middle of what has gathered meanwhile, or after it.
            wait_for("a new connection", LONG, connected).unwrap();
        }
        more_marks(&stage, marks(&stage) + 200);
        stage.agent.kill();
        let finished = clients.join().unwrap();
        assert!(!finished.timed_out, "{}", finished.both());
        if round % 2 == 0 {
            collector.kill();
        }
        stage.agent.launch().unwrap();
        if round % 2 == 0 {
            collector.launch().unwrap();
        }
    }
    compare(&mut stage, &collector);
    // What the server keeps was recorded, and can be found.
    let found = collector.query("SELECT text FROM commands").unwrap();
    let found: Vec<_> = found.iter().filter_map(|row| row[0].as_str()?.split('\'').nth(1)).collect();
    let once: HashSet<_> = found.iter().copied().collect();
    assert_eq!(once.len(), found.len(), "a command was taken twice");
    let kept = stage.postgres.admin("SELECT mark FROM marks").unwrap();
    let lost: Vec<_> = kept.lines().filter(|mark| !once.contains(mark)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} marks are not at the collector: {:?}",
        lost.len(),
        once.len(),
        lost.first()
    );
    assert!(kept.lines().count() > 5000, "this test shows nothing");
}

#[test]
fn a_full_spool_refuses_and_goes_on_when_the_collector_is_back() {
    let mut collector = Collector::start().unwrap();
    let configuration = "record: {max_bytes: 1000000}\nship: {keep: 1GiB}";
    let mut stage = Stage::start_with(Postgres::start().unwrap(), RULES, configuration).unwrap();
    stage.postgres.admin("CREATE TABLE marks (mark text)").unwrap();
    collector.enrol(&stage.agent).unwrap();
    stage.psql("SELECT 1;").unwrap().expect_success();
    let mut state = 1_u32;
    for round in 0..2 {
        collector.stop();
        // Sealing compresses, and makes room: it is filled up until it stays full.
        let mut full = false;
        for batch in 0..20 {
            let mut sql = String::new();
            for n in 0..200 {
                // Text that does not compress well.
                let filler: String = (0..20_000)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        char::from(b'a' + (state >> 24) as u8 % 26)
                    })
                    .collect();
                sql.push_str(&format!(
                    "INSERT INTO marks SELECT 'full-{round}-{batch}-{n}' WHERE length('{filler}') > 0;\n"
                ));
            }
            let finished = stage.psql(&sql).unwrap();
            assert!(finished.stderr.contains("could not be recorded"), "{}", finished.stderr);
            std::thread::sleep(Duration::from_secs(2));
            full = status(&stage.agent)["recording"]["refusing"].is_string();
            if full {
                break;
            }
        }
        assert!(full, "it did not stay full: {}", status(&stage.agent)["recording"]);
        collector.launch().unwrap();
        wait_for("room", LONG, || status(&stage.agent)["recording"]["refusing"].is_null()).unwrap();
        wait_for("commands to be taken", LONG, || {
            stage.psql(&format!("INSERT INTO marks VALUES ('room-{round}');")).unwrap().success()
        })
        .unwrap();
    }
    all_there(&stage, &collector);
    stage.agent.stop();
    collector.run(&["verify"]).unwrap().expect_success();
    // What is left here verifies, too, and says where the rest is.
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
    let listed = stage.agent.interlock(&["sessions", "list"]).unwrap();
    assert!(listed.stderr.contains("shipped to collector.test"), "{}", listed.both());
    let found = collector.query("SELECT text FROM commands WHERE verdict = 'allow'").unwrap();
    let found: Vec<_> = found.iter().filter_map(|row| row[0].as_str()?.split('\'').nth(1)).collect();
    let kept = stage.postgres.admin("SELECT mark FROM marks").unwrap();
    for mark in kept.lines() {
        assert_eq!(found.iter().filter(|found| **found == mark).count(), 1, "{mark}");
    }
    assert!(kept.lines().count() > 20, "{kept}");
}

#[test]
fn a_network_that_is_cut_is_noticed_and_made_up_for() {
    let collector = Collector::start_in(Some(Network::new().unwrap())).unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), RULES, SMALL).unwrap();
    stage.postgres.admin("CREATE TABLE marks (mark text)").unwrap();
    collector.enrol(&stage.agent).unwrap();
    let network = collector.network().unwrap();
    let connected = |stage: &Stage| status(&stage.agent)["shipping"]["connected_since"].is_string();
    for round in 0..2 {
        wait_for("shipping", LONG, || connected(&stage)).unwrap();
        let clients = load(&stage, round, 20);
        more_marks(&stage, marks(&stage) + 200);
        network.cut().unwrap();
        // Commands go on, and nobody tells the agent: it finds out by itself.
        more_marks(&stage, marks(&stage) + 200);
        wait_for("the cut to be noticed", LONG, || !connected(&stage)).unwrap();
        let shipping = status(&stage.agent)["shipping"].clone();
        assert!(shipping["lag"]["events"].as_u64().unwrap() > 0, "{shipping}");
        assert!(shipping["lag"]["seconds"].as_u64().unwrap() > 0, "{shipping}");
        clients.join().unwrap().expect_success();
        network.mend().unwrap();
    }
    compare(&mut stage, &collector);
}

#[test]
fn a_revoked_host_goes_on_recording_and_ships_again_when_it_is_enrolled_anew() {
    let collector = Collector::start().unwrap();
    let mut stage = Stage::start_with(Postgres::start().unwrap(), RULES, SMALL).unwrap();
    collector.enrol(&stage.agent).unwrap();
    stage.psql("SELECT 'before';").unwrap().expect_success();
    all_there(&stage, &collector);
    let host = collector.agent().unwrap()["host"].as_str().unwrap().to_owned();
    collector.run(&["agents", "revoke", &host, "--reason", "lost"]).unwrap().expect_success();
    wait_for("the refusal", LONG, || {
        status(&stage.agent)["shipping"]["error"].as_str().is_some_and(|error| error.contains("revoked"))
    })
    .unwrap();
    stage.psql("SELECT 'meanwhile';").unwrap().expect_success();
    assert!(!stage.agent.interlock(&["enroll", "--status"]).unwrap().success());
    thread::sleep(Duration::from_secs(2));
    assert_eq!(collector.query("SELECT 1 FROM commands WHERE text LIKE '%meanwhile%'").unwrap().len(), 0);
    collector.enrol(&stage.agent).unwrap();
    compare(&mut stage, &collector);
    assert_eq!(collector.query("SELECT 1 FROM commands WHERE text LIKE '%meanwhile%'").unwrap().len(), 1);
}
