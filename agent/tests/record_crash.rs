//! What an append has acknowledged survives the process's death at any moment, and a disk that takes no
//! more.
//!
//! The test starts itself as a child that appends under load and prints each acknowledged command; it
//! kills the child at a random moment, looks at what is left, and lets the next child go on with it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use interlock_agent::config::Config;
use interlock_agent::identity::Subject;
use interlock_agent::policy::{Decision, Destination, Verdict};
use interlock_agent::record::{self, CommandId, FlowStart, Outcome, Recorder, Session, Status, Step};
use interlock_recording::log::Reader;
use interlock_recording::proto::event::Body;
use interlock_recording::{PublicKey, Report, fill_random, verify};

const ROUNDS: u32 = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "child", state, round] => child(Path::new(state), round),
        [_, rest @ ..] if rest.contains(&"--list") => {}
        _ => {
            killed();
            disk_full();
            println!("2 passed, 0 failed");
        }
    }
}

// === The child ===

fn config(state: &Path) -> Config {
    let mut config = Config { state: state.to_owned(), ..Config::default() };
    // Small segments: much of the time one is being begun or sealed.
    config.record.segment_bytes = 64 << 10;
    config
}

fn child(state: &Path, round: &str) {
    let mut config = config(state);
    if round == "full" {
        config.record.segment_bytes = 64 << 20;
    }
    let recorder = Recorder::open(&config).unwrap();
    let sessions: Vec<_> = (0..4).map(|_| session(&recorder)).collect();
    std::thread::scope(|scope| {
        for (flow, session) in sessions.iter().enumerate() {
            scope.spawn(move || {
                let decision = Decision {
                    verdict: Verdict::Allow,
                    enforced: true,
                    rule: None,
                    message: None,
                    matched: Vec::new(),
                    observed: Vec::new(),
                    approval: None,
                };
                for number in 0..100_000 {
                    let text = format!("{round}/{flow}/{number}");
                    match session.command(&command(&text, &decision)) {
                        Ok(id) => {
                            say(&format!("ack {text}"));
                            session.result(&done(id), None);
                        }
                        Err(error) => {
                            say(&format!("refused {error}"));
                            return;
                        }
                    }
                }
            });
        }
    });
}

fn say(line: &str) {
    io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn session(recorder: &std::sync::Arc<Recorder>) -> Session {
    recorder
        .session(&FlowStart {
            subject: &Subject::default(),
            client: ([127, 0, 0, 1], 1).into(),
            destination: &Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() },
            protocol: "postgres",
            policy_hash: "",
            entries: &[],
        })
        .unwrap()
}

fn command<'a>(text: &'a str, decision: &'a Decision) -> record::Command<'a> {
    let (statement, portal) = ("", "");
    record::Command {
        step: Step::Query,
        text,
        statement,
        portal,
        params: &[],
        of: None,
        operation: None,
        decision,
        approval: None,
    }
}

fn done(command: CommandId) -> Outcome<'static> {
    Outcome { command, status: Status::Complete("SELECT 1"), duration: Duration::ZERO }
}

// === The parent ===

fn start(state: &Path, round: &str) -> Child {
    let me = std::env::current_exe().unwrap();
    Command::new(me).arg("child").arg(state).arg(round).stdout(Stdio::piped()).spawn().unwrap()
}

fn check(state: &Path) -> Report {
    let key = PublicKey::load(&state.join(record::KEYS).join("host.pub")).unwrap();
    verify(&state.join(record::SESSIONS), &key).unwrap()
}

fn recorded(state: &Path) -> Vec<String> {
    Reader::new(&state.join(record::SESSIONS))
        .unwrap()
        .filter_map(|entry| match entry.unwrap().event.body {
            Some(Body::Command(command)) => Some(command.text),
            _ => None,
        })
        .collect()
}

fn killed() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = start(&state, &round.to_string());
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let mut random = [0; 2];
        fill_random(&mut random).unwrap();
        // From the first moments of an agent's life until it has begun a few segments.
        let acks = u16::from_le_bytes(random) as usize % 3000;
        for _ in 0..acks {
            line.clear();
            output.read_line(&mut line).unwrap();
            acknowledged
                .extend(line.strip_prefix("ack ").and_then(|ack| ack.strip_suffix('\n')).map(str::to_owned));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was still in the pipe was acknowledged as well; a line without its end was not.
        loop {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                break;
            }
            acknowledged
                .extend(line.strip_prefix("ack ").and_then(|ack| ack.strip_suffix('\n')).map(str::to_owned));
        }
        // The very first start may have been killed before there was a key.
        if state.join(record::KEYS).join("host.pub").exists() && state.join(record::SESSIONS).exists() {
            let report = check(&state);
            assert!(report.ok, "round {round}, as the kill left it: {report:#?}");
        }
    }
    drop(Recorder::open(&config(&state)).unwrap());
    let report = check(&state);
    assert!(report.ok && report.open_segments == 0 && report.unattested == 0, "{report:#?}");
    let recorded = recorded(&state);
    let set: BTreeSet<_> = recorded.iter().cloned().collect();
    assert_eq!(set.len(), recorded.len(), "no command is there twice");
    let lost: Vec<_> = acknowledged.difference(&set).take(5).collect();
    assert!(lost.is_empty(), "acknowledged, but not recorded: {lost:?}");
    assert!(acknowledged.len() > 1000, "the children did get to work: {}", acknowledged.len());
    println!("killed {ROUNDS} times: {} acknowledged commands, all recorded", acknowledged.len());
}

/// A limit on the size of files makes write(2) write a part, then fail, as a full disk does.
fn disk_full() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let me = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\"", "sh"])
        .arg(me)
        .arg("child")
        .arg(&state)
        .arg("full")
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let refused = output.lines().filter(|line| line.starts_with("refused cannot write")).count();
    assert_eq!(refused, 4, "every flow is refused");
    let report = check(&state);
    assert!(report.ok, "as the full disk left it: {report:#?}");
    assert!(
        report.notes.is_empty(),
        "the record that was written in part was taken back: {:?}",
        report.notes
    );
    let recorded: BTreeSet<_> = recorded(&state).into_iter().collect();
    let acknowledged: Vec<_> = output.lines().filter_map(|line| line.strip_prefix("ack ")).collect();
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    assert!(acknowledged.iter().all(|text| recorded.contains(*text)));
    drop(Recorder::open(&config(&state)).unwrap());
    assert!(check(&state).ok, "and goes on");
    println!("disk full: {} acknowledged commands, all recorded", acknowledged.len());
}
