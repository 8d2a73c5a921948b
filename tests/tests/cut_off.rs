//! A reviewer ends a session while it goes on: at the collector's page, by the agent, at the server.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::thread;
use std::time::Duration;

use interlock_tests::postgres::Auth;
use interlock_tests::process::{Finished, finish};
use interlock_tests::tls::Bed;
use interlock_tests::{Browser, Collector, Stage, client, wait_for};

const LONG: Duration = Duration::from_secs(120);

/// What nobody waits for in a test.
const QUERY: &str = "SELECT count(*) FROM generate_series(1, 1000000000000) AS endless";

fn runs(stage: &Stage) -> bool {
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%endless%' AND pid <> pg_backend_pid() \
                   AND state = 'active'";
    stage.postgres.admin(running).unwrap().trim() != "0"
}

/// psql with a query that does not end by itself.
fn endless(stage: &Stage, sslmode: &str) -> thread::JoinHandle<Finished> {
    let mut command = client::start(Some(&stage.clients), stage.postgres.programs().join("psql"));
    client::environment(&mut command, &stage.postgres);
    command.env("PGSSLMODE", sslmode).env("PGCHANNELBINDING", "disable");
    command.args(["-v", "ON_ERROR_STOP=1", "-c", QUERY]);
    thread::spawn(move || finish(&mut command, "", LONG).unwrap())
}

fn is_cut_off_everywhere(stage: &Stage, sslmode: &str) {
    let collector = Collector::start().unwrap();
    let browser = Browser::set_up(&collector).unwrap();
    collector.enrol(&stage.agent).unwrap();
    let client = endless(stage, sslmode);
    wait_for("the query", LONG, || runs(stage)).unwrap();
    let live = "SELECT session FROM commands WHERE text LIKE '%endless%'";
    wait_for("the live session", LONG, || !collector.query(live).unwrap().is_empty()).unwrap();
    let session = collector.query(live).unwrap()[0][0].as_str().unwrap().to_owned();
    // It is seen as it happens.
    let page = browser.get(&format!("/sessions/{session}")).unwrap();
    assert!(page.contains("endless") && page.contains(&format!("/sessions/{session}/end")), "{page}");
    let path = format!("/sessions/{session}/end");
    browser.submit(&path, &[("reason", "it was not agreed on")]).unwrap();
    let finished = client.join().unwrap();
    assert!(!finished.success() && finished.stderr.contains("it was not agreed on"), "{}", finished.both());
    // Not only has the client lost its connection: the server is at it no more.
    wait_for("the end of the query", LONG, || !runs(stage)).unwrap();
    // The recording says how it ended; so does the trail of what is done in the collector.
    let ended = "SELECT 1 FROM sessions WHERE ended_ns IS NOT NULL AND end_reason = 'cut_off'";
    wait_for("the session's end", LONG, || collector.query(ended).unwrap().len() == 1).unwrap();
    let trail = browser.get("/api/v1/audit").unwrap();
    assert!(trail.contains(&session) && trail.contains("it was not agreed on"), "{trail}");
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn a_session_is_ended_at_the_page_and_stops_at_the_server() {
    is_cut_off_everywhere(&Stage::start("rules: []").unwrap(), "disable");
}

#[test]
fn so_it_does_under_tls() {
    let bed = Bed::start(Auth::Scram).unwrap();
    is_cut_off_everywhere(&bed.stage, "require");
}
