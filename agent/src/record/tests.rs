//! The recorder against real files: durability, limits, failures, concurrency.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use interlock_recording::log::{Reader, list, segment_name};
use interlock_recording::proto::event::Body;
use interlock_recording::proto::{self, Event};
use interlock_recording::{PublicKey, Report, verify};

use super::*;
use crate::identity::{Ancestor, Ci, ClaimedLogin, Subject};
use crate::operation::{Operation, Protocol};
use crate::policy::{Decision, Destination, EntryId, Observed, Verdict};
use crate::sql::{Kind, Limit, Relation, Script, Statement, Where};

pub(super) fn config(state: &Path) -> Config {
    Config { state: state.join("state"), ..Config::default() }
}

pub(super) fn allow() -> Decision {
    Decision {
        verdict: Verdict::Allow,
        enforced: true,
        rule: None,
        message: None,
        matched: Vec::new(),
        observed: Vec::new(),
        approval: None,
    }
}

fn subject() -> Subject {
    Subject {
        pid: 42,
        uid: 1000,
        user: "deploy".into(),
        login_uid: Some(0),
        login_claimed: Some(ClaimedLogin { uid: 0, user: "root".into(), session: Some(3) }),
        exe: "/usr/bin/psql".into(),
        argv: vec!["psql".into(), String::new()],
        ancestors: vec![Ancestor { pid: 1, exe: "/sbin/init".into(), ..Ancestor::default() }],
        ci: Ci { branch: "main".into(), variables: [("A".into(), "b".into())].into(), ..Ci::default() },
        ..Subject::default()
    }
}

pub(super) fn begin(recorder: &Arc<Recorder>) -> Result<Session, RecordError> {
    recorder.session(&FlowStart {
        subject: &subject(),
        client: SocketAddr::from(([127, 0, 0, 1], 40000)),
        destination: &Destination {
            address: SocketAddr::from(([10, 0, 0, 7], 5432)),
            hosts: vec!["db.internal".into()],
        },
        protocol: "postgres",
        policy_hash: "abc",
        entries: &[EntryId([3; 16])],
    })
}

pub(super) fn query<'a>(text: &'a str, decision: &'a Decision) -> Command<'a> {
    Command {
        step: Step::Query,
        text,
        statement: "",
        portal: "",
        params: &[],
        of: None,
        operation: None,
        decision,
        approval: None,
    }
}

pub(super) fn done(command: CommandId) -> Outcome<'static> {
    Outcome { command, status: Status::Complete("SELECT 1"), duration: Duration::from_micros(5) }
}

pub(super) const END: End<'static> =
    End { reason: EndReason::ClientClosed, detail: "", client_bytes: 10, server_bytes: 20 };

fn check(config: &Config) -> Report {
    let key = PublicKey::load(&config.state.join(KEYS).join("host.pub")).expect("a key");
    verify(&config.state.join(SESSIONS), &key).expect("verifiable")
}

fn events(config: &Config) -> Vec<Event> {
    Reader::new(&config.state.join(SESSIONS))
        .expect("readable")
        .map(|entry| entry.expect("an event").event)
        .collect()
}

fn texts(config: &Config) -> Vec<String> {
    let text = |event: Event| match event.body {
        Some(Body::Command(command)) => Some(command.text),
        _ => None,
    };
    events(config).into_iter().filter_map(text).collect()
}

#[test]
fn everything_that_is_handed_over_is_recorded() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    recorder.policy_loaded("abc", &["/etc/x.yaml".into()]).expect("recorded");
    let session = begin(&recorder).expect("begins");
    session.login(&Login {
        user: "app",
        database: "shop",
        parameters: &[("application_name", "nightly")],
        auth_method: "scram-sha-256",
        server_version: "15.4",
        client_tls: None,
        server_tls: None,
        brokered: Some(super::BrokeredLogin {
            credential: "shop-app",
            client_auth: "any",
            user: "app_rw",
            database: "shop",
        }),
    });
    let statement = |text: &str, kind| Statement {
        text: text.into(),
        kind,
        kinds: [kind].into(),
        reads: [Relation { schema: Some("public".into()), name: "customers".into() }].into(),
        where_clause: Some(Where::AlwaysTrue),
        limit: Some(Limit::Missing),
        ..Statement::default()
    };
    let text = "SELECT 1; DROP TABLE x";
    let operation = Operation {
        protocol: Protocol::Postgres,
        user: "app".into(),
        database: "shop".into(),
        text: text.into(),
        script: Arc::new(Script {
            statements: vec![statement("SELECT 1", Kind::Select), statement("DROP TABLE x", Kind::DropTable)],
        }),
        params: Arc::new([]),
    };
    let decision = Decision {
        verdict: Verdict::Deny,
        enforced: false,
        rule: Some("no-drop".into()),
        message: Some("no".into()),
        matched: vec!["no-drop".into(), "other".into()],
        observed: vec![Observed { rule: "no-drop".into(), verdict: Verdict::Deny }],
        approval: None,
    };
    let params = [Some("a".to_owned()), None, Some("é".repeat(1 << 20))];
    let first = session
        .commands(&[
            Command { operation: Some(&operation), params: &params, ..query(text, &decision) },
            // A masked text: the statements' own texts would show what was masked.
            Command { operation: Some(&operation), ..query("SELECT ****; DROP TABLE x", &decision) },
        ])
        .expect("recorded");
    assert_eq!(first, CommandId(1));
    let mut rows = session.result_builder();
    rows.columns([ResultColumn { name: "n", type_oid: 23, format: 1 }]);
    rows.push_row(8, [Some([0, 0, 0, 1].as_slice())]);
    session.result(&done(first), Some(&mut rows));
    assert_eq!(rows.rows(), 0, "ready for the next result");
    session.end(&END);
    session.notice(&Notice { severity: "ERROR", sqlstate: "", message: "after the end" });
    drop(session);
    recorder.close().expect("closes");
    assert!(matches!(begin(&recorder), Err(RecordError::Closed)));

    let report = check(&config);
    assert!(report.ok, "{report:?}");
    assert_eq!((report.sessions, report.unfinished_sessions, report.unattested), (1, 0, 0));
    assert_eq!(report.open_segments, 0);
    let events = events(&config);
    let bodies: Vec<_> = events.iter().filter_map(|event| event.body.clone()).collect();
    let [
        Body::AgentStarted(_),
        Body::PolicyLoaded(policies),
        Body::FlowStarted(flow),
        Body::Login(login),
        Body::Command(open),
        Body::Command(masked),
        Body::Result(result),
        Body::SessionEnded(end),
        Body::AgentStopped(_),
    ] = bodies.as_slice()
    else {
        panic!("other events: {bodies:?}")
    };
    assert_eq!(policies.files, ["/etc/x.yaml"]);
    let subject = flow.subject.clone().expect("a subject");
    assert_eq!((subject.login_uid, subject.login_session, subject.script), (Some(0), None, None));
    let claimed = subject.login_claimed.clone().expect("a claim");
    assert_eq!((claimed.uid, &*claimed.user, claimed.session), (0, "root", Some(3)));
    assert_eq!(subject.argv, ["psql", ""]);
    assert_eq!(subject.ci.expect("a job").variables["A"], "b");
    assert_eq!((flow.destination.as_str(), flow.protocol.as_str()), ("10.0.0.7:5432", "postgres"));
    assert_eq!(flow.entries, [vec![3; 16]]);
    assert_eq!(login.auth_method, "scram-sha-256");
    assert_eq!(
        [&login.credential, &login.client_auth, &login.login_user, &login.login_database],
        ["shop-app", "any", "app_rw", "shop"]
    );
    assert_eq!((open.command, open.verdict.as_str(), open.enforced), (1, "deny", false));
    assert_eq!((open.rule.as_deref(), open.matched.len()), (Some("no-drop"), 2));
    assert_eq!(open.observed, [proto::Observed { rule: "no-drop".into(), verdict: "deny".into() }]);
    assert_eq!(open.statements[1].text, "DROP TABLE x");
    assert_eq!(open.statements[1].kind, "drop_table");
    assert_eq!(open.statements[0].reads, ["public.customers"]);
    assert_eq!(open.statements[0].r#where, "always_true");
    assert_eq!(open.params[1], proto::BindParameter::default());
    assert_eq!(open.params[2].omitted_bytes, 1 << 20);
    assert_eq!((masked.command, masked.statements[1].text.as_str()), (2, ""));
    let rows = result.rows.clone().expect("rows");
    assert_eq!((rows.count, rows.bytes, result.duration_ns), (1, 8, 5000));
    assert_eq!(rows.rows[0].values[0].data.as_deref(), Some([0, 0, 0, 1].as_slice()));
    assert_eq!((end.reason.as_str(), end.commands, end.refused), ("client_closed", 2, 2));
    assert!(events.windows(2).all(|pair| pair[0].monotonic_ns <= pair[1].monotonic_ns));
}

/// A command as `sessions … --json` prints it, and the same as `policy explain --json` does.
fn both_ways(text: &str, recorded_text: &str) -> (serde_json::Value, serde_json::Value) {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    let flow = crate::policy::PolicySet::default().flow_of_all(
        &Default::default(),
        &crate::policy::Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() },
    );
    let asker = crate::policy::Asker {
        user: "app".into(),
        database: "shop".into(),
        subject: Default::default(),
        params: Arc::new([]),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let explained = crate::policy::explain(&flow, &asker, text);
    let operation = asker.operation(text, crate::sql::analyze(text));
    let command = Command { operation: Some(&operation), ..query(recorded_text, &explained.decision) };
    session.command(&command).expect("recorded");
    let events: Vec<_> = Reader::new(&config.state.join(SESSIONS)).expect("opens").flatten().collect();
    let event = events.iter().rev().find(|entry| interlock_recording::json::name(&entry.event) == "command");
    (interlock_recording::json::event(&event.expect("a command").event), explained.to_json())
}

#[test]
fn recordings_and_explanations_use_the_same_words() {
    for text in [
        "UPDATE public.a SET x = b.y FROM b WHERE a.id = b.id",
        "SET search_path = 'x'; SELECT count(*) FROM a LIMIT 3",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "SET standard_conforming_strings = off",
        "SELEC 1",
        "COPY a (x) TO STDOUT WITH (FORMAT csv, DELIMITER ';')",
    ] {
        let (recorded, explained) = both_ways(text, text);
        let pairs = match explained["statements"].as_array() {
            None => vec![(&recorded, &explained)],
            Some(statements) => {
                let recorded = recorded["statements"].as_array().expect("several");
                assert_eq!(recorded.len(), statements.len());
                recorded.iter().zip(statements).collect()
            }
        };
        for (recorded, explained) in pairs {
            for (key, value) in explained.as_object().expect("an object") {
                // What is decided stands with the command; masks stand with the result, and how a COPY
                // travels is in its text.
                let decision = ["verdict", "enforced", "rule", "message", "matched", "observed"];
                if decision.contains(&key.as_str()) || key == "masks" || key == "copy" {
                    continue;
                }
                assert_eq!(recorded.get(key), Some(value), "{key} of {text}");
            }
        }
        for key in ["text", "verdict", "enforced", "rule", "message", "matched", "observed"] {
            assert_eq!(recorded[key], explained[key], "{key} of {text}");
        }
    }
    let (_, copy) = both_ways("COPY a TO STDOUT WITH (FORMAT csv, DELIMITER ';')", "");
    assert_eq!((copy["copy"]["delimiter"].as_str(), copy["copy"]["quote"].as_str()), (Some(";"), Some("\"")));
}

#[test]
fn what_was_masked_does_not_come_back_as_a_name_or_a_reason() {
    let (recorded, _) =
        both_ways("SELECT \"a@example.com\", name FROM t", "SELECT \"[redacted]\", name FROM t");
    assert_eq!(recorded["columns_read"], serde_json::json!(["t.name"]));
    assert_eq!(recorded["columns_omitted"], 1);
    let (recorded, _) = both_ways("SELECT 4111111111111111x'", "SELECT [redacted]x'");
    assert_eq!((recorded["kind"].as_str(), recorded.get("error")), (Some("unparsed"), None));
    let wide: Vec<String> = (0..1100).map(|n| format!("c{n}")).collect();
    let (recorded, _) = both_ways(&format!("SELECT {} FROM t", wide.join(", ")), "");
    assert_eq!(recorded["columns_read"].as_array().map(Vec::len), Some(1000));
    assert_eq!(recorded["columns_omitted"], 100);
}

#[test]
fn a_command_is_in_the_file_when_the_append_returns() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    for number in 0..50 {
        let text = format!("SELECT {number}");
        let command = session.command(&query(&text, &allow())).expect("recorded");
        session.result(&done(command), None);
        assert_eq!(texts(&config).last(), Some(&text), "read by another, while the agent runs");
    }
}

#[test]
fn flows_that_append_at_once_leave_one_chain() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = config(directory.path());
    config.record.segment_bytes = 64 << 10;
    let recorder = Recorder::open(&config).expect("opens");
    std::thread::scope(|scope| {
        for flow in 0..8 {
            let recorder = &recorder;
            scope.spawn(move || {
                let session = begin(recorder).expect("begins");
                for number in 0..1000 {
                    let text = format!("{flow}/{number}");
                    let command = session.command(&query(&text, &allow())).expect("recorded");
                    session.result(&done(command), None);
                }
                session.end(&END);
            });
        }
    });
    let live = check(&config);
    assert!(live.ok, "{live:?}");
    recorder.close().expect("closes");
    let report = check(&config);
    assert!(report.ok, "{report:?}");
    assert_eq!(report.events, 2 + 8 * 2002);
    assert!(report.segments > 1, "segments were begun on the way");
    let mut texts = texts(&config);
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 8000);
    assert_eq!(recorder.status().used_bytes, {
        let listing = list(&config.state.join(SESSIONS)).expect("listed");
        listing.segments.iter().map(|segment| segment.bytes).sum::<u64>()
    });
}

#[test]
fn sync_works_from_every_kind_of_runtime() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = config(directory.path());
    config.record.sync = true;
    let recorder = Recorder::open(&config).expect("opens");
    let work = async || begin(&recorder).and_then(|session| session.command(&query("SELECT 1", &allow())));
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(1).build().expect("a runtime").block_on(work()).expect("recorded");
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(work())
        .expect("recorded");
    assert_eq!(texts(&config).len(), 2);
}

#[test]
fn a_full_recording_refuses_commands_but_keeps_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = config(directory.path());
    config.record.max_bytes = 256 << 10;
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    let mut noise = 1_u64;
    let mut text = String::new();
    let mut refusals = 0;
    let refused = loop {
        // Text that does not compress, so that sealing makes no room.
        text.clear();
        for _ in 0..200 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push(char::from(b' ' + (noise >> 33) as u8 % 95));
        }
        match session.command(&query(&text, &allow())) {
            Ok(command) => session.result(&done(command), None),
            // Sealing may still make a little room.
            Err(_) if refusals < 20 => {
                refusals += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, RecordError::Full { .. }), "{refused}");
    let long = "x".repeat(1000);
    assert!(session.command(&query(&long, &allow())).is_err());
    assert!(recorder.status().refusing.is_some_and(|why| why.contains("max_bytes")));
    session.end(&END);
    recorder.close().expect("closes");
    let report = check(&config);
    assert!(report.ok, "{report:?}");
    assert_eq!((report.unfinished_sessions, recorder.status().lost), (0, 0));
    assert!(recorder.status().used_bytes <= config.record.max_bytes);
    let ends = events(&config);
    let end = ends.iter().find_map(|event| match &event.body {
        Some(Body::SessionEnded(end)) => Some(end.clone()),
        _ => None,
    });
    assert!(end.is_some_and(|end| end.refused > 0 && end.commands > 100));

    // More room, and it goes on.
    drop(session);
    drop(recorder);
    config.record.max_bytes = 1 << 20;
    let recorder = Recorder::open(&config).expect("opens");
    begin(&recorder).expect("there is room again");
    drop(recorder);
    assert!(check(&config).ok);
}

#[test]
fn the_state_directory_is_private_and_one_agents() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    let second = Recorder::open(&config).expect_err("in use");
    assert!(second.to_string().contains("in use by another agent"), "{second}");
    for path in [&config.state, &config.state.join(SESSIONS), &config.state.join(KEYS)] {
        assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o777, 0o700);
    }
    drop(recorder);
    fs::set_permissions(&config.state, fs::Permissions::from_mode(0o750)).expect("changed");
    let open = Recorder::open(&config).expect_err("others can look in");
    assert!(open.to_string().contains("chmod 700"), "{open}");
}

/// What a crash leaves, made by copying the directory while the agent runs.
fn crash(config: &Config, to: &Path) -> Config {
    let copy = Config { state: to.join("copy"), ..config.clone() };
    for part in ["", SESSIONS, KEYS] {
        files::private_directory(&copy.state.join(part)).expect("made");
        for entry in fs::read_dir(config.state.join(part)).expect("read") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_file() {
                let to = copy.state.join(part).join(entry.file_name());
                fs::copy(entry.path(), &to).expect("copied");
            }
        }
    }
    copy
}

#[test]
fn a_torn_end_is_cut_and_the_chain_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    session.command(&query("SELECT 1", &allow())).expect("recorded");
    recorder.log.flush().expect("written");
    recorder.log.checkpoint().expect("signed");
    let crashed = crash(&config, directory.path());
    let path = crashed.state.join(SESSIONS).join(segment_name(0, false));
    let whole = fs::read(&path).expect("read");
    // Every length of a torn record: a whole one is appended and cut.
    let mut record = Vec::new();
    interlock_recording::segment::put_frame(&mut record, b"an event", &[1; 32]);
    for length in [1, 3, 4, 5, 12, record.len() - 1] {
        fs::write(&path, [&whole, &record[..length]].concat()).expect("written");
        let state = tempfile::tempdir().expect("a directory");
        let again = crash(&crashed, state.path());
        assert!(check(&again).ok, "torn is not tampered with");
        drop(Recorder::open(&again).expect("recovers"));
        let report = check(&again);
        assert!(report.ok, "{report:?}");
        let recovered = events(&again).into_iter().find_map(|event| match event.body {
            Some(Body::Recovered(recovered)) => Some(recovered.cut_bytes),
            _ => None,
        });
        assert_eq!(recovered, Some(length as u64));
        assert_eq!(texts(&again), ["SELECT 1"]);
    }
    // A whole record that does not belong there is no torn one.
    fs::write(&path, [whole.as_slice(), &record].concat()).expect("written");
    let error = Recorder::open(&crashed).expect_err("altered");
    assert!(error.to_string().contains("interlock sessions verify"), "{error}");
    // An end in length only, as a crash of the host may leave it.
    fs::write(&path, [whole.as_slice(), &[0; 500]].concat()).expect("written");
    drop(Recorder::open(&crashed).expect("recovers"));
    assert!(check(&crashed).ok);
}

#[test]
fn an_end_that_head_proves_must_be_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    session.command(&query("SELECT 1", &allow())).expect("recorded");
    recorder.log.checkpoint().expect("signed");
    let crashed = crash(&config, directory.path());
    let path = crashed.state.join(SESSIONS).join(segment_name(0, false));
    let whole = fs::read(&path).expect("read");
    fs::write(&path, &whole[..whole.len() - 10]).expect("written");
    let error = Recorder::open(&crashed).expect_err("truncated");
    assert!(error.to_string().contains("its end is missing"), "{error}");
    fs::remove_file(crashed.state.join(SESSIONS).join("HEAD")).expect("removed");
    let error = Recorder::open(&crashed).expect_err("no HEAD");
    assert!(error.to_string().contains("HEAD is missing"), "{error}");
}

#[test]
fn sealing_can_be_cut_off_at_each_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = config(directory.path());
    config.record.segment_seconds = 3600;
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    session.command(&query("SELECT 1", &allow())).expect("recorded");
    let job = recorder.log.rotate(true).expect("rotated").expect("a segment to seal");
    session.command(&query("SELECT 2", &allow())).expect("recorded");
    let sessions = |config: &Config| config.state.join(SESSIONS);
    let (open, sealed) = (segment_name(0, false), segment_name(0, true));
    recorder.log.checkpoint().expect("signed");

    type Step<'s> = (&'s str, &'s dyn Fn(&Config));
    let steps: [Step<'_>; 5] = [
        ("before", &|_| {}),
        ("with half a sealed file", &|config| {
            fs::write(sessions(config).join(format!("{sealed}.tmp")), b"ILKSEAL1half").expect("written");
        }),
        ("with the whole sealed file, not in place", &|config| {
            let kept = fs::read(sessions(config).join(&open)).expect("read");
            files::seal(&sessions(config), &recorder.log.key, &job).expect("sealed");
            fs::rename(sessions(config).join(&sealed), sessions(config).join(format!("{sealed}.tmp")))
                .expect("renamed");
            fs::write(sessions(config).join(&open), kept).expect("written");
        }),
        ("with both", &|config| {
            let kept = fs::read(sessions(config).join(&open)).expect("read");
            files::seal(&sessions(config), &recorder.log.key, &job).expect("sealed");
            fs::write(sessions(config).join(&open), kept).expect("written");
        }),
        ("with half a new segment and half a HEAD", &|config| {
            fs::write(sessions(config).join(format!("{}.tmp", segment_name(2, false))), b"ILK")
                .expect("written");
            fs::write(sessions(config).join("HEAD.tmp"), b"ILK").expect("written");
        }),
    ];
    for (name, step) in steps {
        let state = tempfile::tempdir().expect("a directory");
        let crashed = crash(&config, state.path());
        step(&crashed);
        assert!(check(&crashed).ok, "{name}: as the crash left it: {:?}", check(&crashed));
        let again = Recorder::open(&crashed).expect("recovers");
        begin(&again).expect("goes on").command(&query("SELECT 3", &allow())).expect("recorded");
        drop(again);
        let report = check(&crashed);
        assert!(report.ok && report.open_segments == 0, "{name}: {report:?}");
        assert_eq!(texts(&crashed), ["SELECT 1", "SELECT 2", "SELECT 3"], "{name}");
        let listing = list(&sessions(&crashed)).expect("listed");
        assert!(listing.strangers.is_empty() && listing.superseded.is_empty(), "{name}: {listing:?}");
    }
}

#[test]
fn a_disk_that_cannot_be_written_refuses_and_recovers() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(directory.path());
    let recorder = Recorder::open(&config).expect("opens");
    let session = begin(&recorder).expect("begins");
    session.command(&query("before", &allow())).expect("recorded");
    recorder.log.break_disk(true);
    let error = session.command(&query("while", &allow())).expect_err("cannot be written");
    assert!(matches!(error, RecordError::Io { .. }), "{error}");
    assert!(recorder.status().refusing.is_some());
    assert!(session.command(&query("refused at once", &allow())).is_err());
    recorder.log.break_disk(false);
    recorder.log.flush().expect("written again");
    session.command(&query("after", &allow())).expect("recorded");
    session.end(&END);
    recorder.close().expect("closes");
    let report = check(&config);
    assert!(report.ok, "{report:?}");
    assert_eq!(texts(&config), ["before", "while", "after"]);
    let withdrawn = events(&config).into_iter().find_map(|event| match event.body {
        Some(Body::CommandsWithdrawn(withdrawn)) => Some((withdrawn.first, withdrawn.last)),
        _ => None,
    });
    assert_eq!(withdrawn, Some((2, 2)), "the recording says that it was not forwarded");
}
