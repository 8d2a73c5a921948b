//! The commands against a recording that an agent has made.

use super::super::tests::{END, allow, begin, config, done, query};
use super::super::{Recorder, ResultColumn, SessionId};
use super::*;
use crate::policy::Decision;

fn made(directory: &Path) -> (Config, SessionId) {
    let config = config(directory);
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    session.login(&super::super::Login {
        user: "app",
        database: "shop",
        parameters: &[],
        auth_method: "trust",
        server_version: "15",
        client_tls: None,
        server_tls: None,
        brokered: None,
    });
    let command = session.command(&query("SELECT card\nFROM customers", &allow())).expect("recorded");
    let mut rows = session.result_builder();
    rows.columns([ResultColumn { name: "card", type_oid: 25, format: 0 }]);
    rows.push_row(9, [Some(b"****1111".as_slice())]);
    rows.masked("cards", 1);
    session.result(&done(command), Some(&mut rows));
    let deny = Decision {
        verdict: crate::policy::Verdict::Deny,
        rule: Some("no-drop".into()),
        message: Some("Tables are dropped by migrations only.".into()),
        ..allow()
    };
    session.command(&query("DROP TABLE customers \u{1b}[2J", &deny)).expect("recorded");
    session.end(&END);
    begin(&recorder).expect("begins").end(&END);
    (config, session.id())
}

fn shown(run: impl FnOnce(&mut Vec<u8>) -> anyhow::Result<ExitCode>) -> String {
    let mut output = Vec::new();
    run(&mut output).expect("runs");
    String::from_utf8(output).expect("text")
}

fn named(prefix: &str) -> Which {
    Which { id: Some(prefix.to_owned()), last: false }
}

fn objects(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn sessions_are_listed_by_what_they_did() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, id) = made(directory.path());
    let count = |filter: Filter| {
        let text = shown(|output| list(output, &config.state, &filter, Form::Json));
        objects(&text).len()
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(count(Filter::default()), 2);
    assert_eq!(count(Filter { db_user: some("APP"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { user: some("deploy"), ..Filter::default() }), 2);
    assert_eq!(count(Filter { user: some("1000"), exe: some("psql"), ..Filter::default() }), 2);
    assert_eq!(count(Filter { user: some("dep"), ..Filter::default() }), 0);
    assert_eq!(
        count(Filter { destination: some("db.internal"), database: some("shop"), ..Filter::default() }),
        1
    );
    assert_eq!(count(Filter { verdict: some("deny"), rule: some("no-drop"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { text: some("from CUSTOMERS"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { verdict: some("hold"), ..Filter::default() }), 0);
    assert_eq!(count(Filter { until: Some(1), ..Filter::default() }), 0);
    assert_eq!(count(Filter { since: Some(super::super::log::wall_ns() + 1), ..Filter::default() }), 0);
    let table = shown(|output| list(output, &config.state, &Filter::default(), Form::Table(None)));
    assert!(table.contains("app@shop") && !table.contains(&id.to_string()), "{table}");
    // What is shown of an id is enough to name the session by.
    for line in table.lines().skip(1) {
        let prefix = line.split(' ').next().expect("an id");
        let session = super::find(&config.state.join(SESSIONS), &named(prefix), &Complaints::default());
        assert!(session.expect("found").1.session.starts_with(prefix), "{table}");
    }
    let wide = shown(|output| list(output, &config.state, &Filter::default(), Form::Wide));
    assert!(wide.contains(&id.to_string()), "{wide}");
}

#[test]
fn a_session_is_shown_by_the_beginning_of_its_id() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, id) = made(directory.path());
    let style = show::Style::new(false);
    let id = id.to_string();
    let text = shown(|output| super::show(output, &config.state, &named(&id), false, style, None));
    for part in
        ["psql", "[1] query  allow", "FROM customers", "****1111", "masked: cards 1", "no-drop", "migrations"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains('\u{1b}'));
    // Both were begun within the same hour.
    let ambiguous = super::show(&mut Vec::new(), &config.state, &named(&id[..6]), false, style, None);
    assert!(ambiguous.expect_err("ambiguous").to_string().contains("2 sessions"));
    let unknown = super::show(&mut Vec::new(), &config.state, &named("ffff"), false, style, None);
    assert!(unknown.expect_err("unknown").to_string().contains("no session"));

    let last = Which { id: None, last: true };
    let text = shown(|output| super::show(output, &config.state, &last, false, style, None));
    assert!(!text.contains(&id) && text.contains("ended"), "another one began later: {text}");

    let pace = show::Pace::new(1000.0, Duration::from_millis(1));
    let json = shown(|output| super::show(output, &config.state, &named(&id), true, style, Some(pace)));
    let names: Vec<_> = objects(&json).iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["flow_started", "login", "command", "result", "command", "session_ended"]);
    assert!(json.contains("\\u001b[2J"));
}

#[test]
fn exports_pick_commands_with_their_results() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, _) = made(directory.path());
    let all =
        objects(&shown(|output| export(output, &config.state, &Filter::default(), None, Format::Jsonl)));
    assert_eq!(all.first().map(|event| event["event"].clone()), Some("agent_started".into()));
    assert_eq!(all.len(), 10);
    let filter = Filter { text: Some("select".into()), ..Filter::default() };
    let picked = objects(&shown(|output| export(output, &config.state, &filter, None, Format::Jsonl)));
    assert_eq!(picked.len(), 2);
    assert_eq!(picked[0]["verdict"], "allow");
    assert_eq!(picked[1]["rows"]["rows"][0][0], "****1111");
    let csv = shown(|output| export(output, &config.state, &filter, None, Format::Csv));
    assert!(csv.contains(",command,deploy,/usr/bin/psql,10.0.0.7:5432,app,shop,1,query,"), "{csv}");
}

#[test]
fn connections_beside_sessions_are_found_by_who_and_where_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    let subject =
        crate::identity::Subject { user: "deploy".into(), exe: "/usr/bin/curl".into(), ..Default::default() };
    for (destination, verdict) in
        [("10.0.0.9:443", crate::policy::Egress::Deny), ("10.0.0.8:53", crate::policy::Egress::Record)]
    {
        let connection = super::super::EgressConnection {
            subject: &subject,
            destination: destination.parse().expect("an address"),
            ip_protocol: 6,
            verdict,
            entry: None,
            count: 1,
        };
        recorder.egress(&connection).expect("recorded");
    }
    recorder.close().expect("closes");
    let some = |text: &str| Some(text.to_owned());
    for (filter, count) in [
        (Filter::default(), 2),
        (Filter { verdict: some("deny"), ..Filter::default() }, 1),
        (
            Filter { user: some("deploy"), exe: some("curl"), destination: some(":53"), ..Filter::default() },
            1,
        ),
        (Filter { user: some("root"), ..Filter::default() }, 0),
        (Filter { database: some("shop"), ..Filter::default() }, 0),
        (Filter { until: Some(1), ..Filter::default() }, 0),
    ] {
        let listed = shown(|output| egress(output, &config.state, &filter, Form::Json));
        assert_eq!(objects(&listed).len(), count, "{filter:?}");
        let exported = shown(|output| export(output, &config.state, &filter, None, Format::Jsonl));
        let exported = objects(&exported).iter().filter(|event| event["event"] == "egress").count();
        assert_eq!(exported, count, "{filter:?}");
    }
    let table = shown(|output| egress(output, &config.state, &Filter::default(), Form::Table(None)));
    assert!(table.contains("10.0.0.9:443  tcp       deny"), "{table}");
}

#[test]
fn verify_says_whole_or_not_by_its_exit_code() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, _) = made(directory.path());
    let run = |state: &Path| {
        let command = Command::Verify { key: None, json: true };
        super::run(Args { state: Some(state.into()), command }, &|| bail!("not needed")).expect("runs")
    };
    assert_eq!(run(&config.state), ExitCode::SUCCESS);
    let path = config.state.join(SESSIONS).join(log::segment_name(0, true));
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    assert_eq!(run(&config.state), ExitCode::FAILURE);
    assert_eq!(run(&directory.path().join("nowhere")), ExitCode::from(UNVERIFIED));
}

#[test]
fn a_damaged_recording_is_told_in_part_and_by_the_exit_code() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, id) = made(directory.path());
    let path = config.state.join(SESSIONS).join(log::segment_name(0, true));
    let bytes = std::fs::read(&path).expect("read");
    // The last quarter is gone: what stands before it can still be read.
    std::fs::write(&path, &bytes[..bytes.len() * 3 / 4]).expect("written");
    let exported = export(&mut Vec::new(), &config.state, &Filter::default(), None, Format::Jsonl);
    assert_eq!(exported.expect("goes on"), ExitCode::FAILURE);
    let listed = list(&mut Vec::new(), &config.state, &Filter::default(), Form::Json);
    assert_eq!(listed.expect("goes on"), ExitCode::FAILURE);
    let complaints = Complaints::default();
    assert_eq!(complaints.code(), ExitCode::SUCCESS);
    let found = find(&config.state.join(SESSIONS), &named(&id.to_string()), &complaints);
    assert!(found.is_err() || complaints.code() == ExitCode::FAILURE);
}

#[test]
fn times_are_absolute_or_ago() {
    assert_eq!(time("1970-01-01T00:00:01Z"), Ok(1_000_000_000));
    let hour_ago = || super::super::log::wall_ns() - 3_600_000_000_000;
    let (before, parsed, after) = (hour_ago(), time("1h").expect("a time"), hour_ago());
    assert!((before..=after).contains(&parsed));
    for wrong in ["", "h", "1x", "-1h", "yesterday", "99999999999999w"] {
        assert!(time(wrong).is_err(), "{wrong}");
    }
}
