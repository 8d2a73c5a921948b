//! What recording costs: one command with its result, as a flow does it, alone and eight flows at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use interlock_agent::config::Config;
use interlock_agent::identity::Subject;
use interlock_agent::operation::{Operation, Protocol};
use interlock_agent::policy::{Decision, Destination, Verdict};
use interlock_agent::record::{
    self, Command, FlowStart, Outcome, Recorder, ResultColumn, Session, Status, Step,
};
use interlock_agent::sql::{Class, Kind, Relation, Script, Statement};
use interlock_recording::query::{self, Filter};
use interlock_recording::{PublicKey, verify};

const TEXT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";

fn begin(recorder: &Arc<Recorder>) -> Session {
    let start = FlowStart {
        subject: &Subject::default(),
        client: ([127, 0, 0, 1], 1).into(),
        destination: &Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() },
        protocol: "postgres",
        policy_hash: "",
        entries: &[],
    };
    recorder.session(&start).expect("a session")
}

fn operation() -> Operation {
    let table = Relation { schema: None, name: "pgbench_accounts".into() };
    let statement = Statement {
        text: TEXT.into(),
        kind: Kind::Select,
        kinds: [Kind::Select].into(),
        classes: [Class::Read].into(),
        reads: [table].into(),
        ..Statement::default()
    };
    Operation {
        protocol: Protocol::Postgres,
        user: "app".into(),
        database: "app".into(),
        text: TEXT.into(),
        script: Arc::new(Script { statements: vec![statement] }),
        params: Arc::new([]),
    }
}

fn run(session: &Session, times: u64) {
    let decision = Decision {
        verdict: Verdict::Allow,
        enforced: true,
        rule: None,
        message: None,
        matched: Vec::new(),
        observed: Vec::new(),
        approval: None,
    };
    let operation = operation();
    let params = [Some("12345".to_owned())];
    let mut rows = session.result_builder();
    for _ in 0..times {
        let command = Command {
            step: Step::Execute,
            text: TEXT,
            statement: "P0",
            portal: "",
            params: &params,
            of: None,
            operation: Some(&operation),
            decision: &decision,
            approval: None,
        };
        let command = session.command(&command).expect("recorded");
        rows.columns([ResultColumn { name: "abalance", type_oid: 23, format: 0 }]);
        rows.push_row(20, [Some(b"-4711".as_slice())]);
        let status = Status::Complete("SELECT 1");
        session.result(&Outcome { command, status, duration: Duration::from_micros(80) }, Some(&mut rows));
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    // A command and its result.
    group.throughput(Throughput::Elements(2));
    for flows in [1, 8] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config { state: directory.path().join("state"), ..Config::default() };
        config.record.max_bytes = 64 << 30;
        let recorder = Recorder::open(&config).expect("opens");
        let sessions: Vec<_> = (0..flows).map(|_| begin(&recorder)).collect();
        group.bench_function(format!("{flows} flows"), |bencher| {
            bencher.iter_custom(|times| {
                let begun = Instant::now();
                std::thread::scope(|scope| {
                    for session in &sessions {
                        scope.spawn(move || run(session, times / flows + 1));
                    }
                });
                begun.elapsed()
            });
        });
    }
    group.finish();
}

/// Reading it back: events per second.
fn read(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let config = Config { state: directory.path().join("state"), ..Config::default() };
    let recorder = Recorder::open(&config).expect("opens");
    run(&begin(&recorder), 100_000);
    recorder.close().expect("closes");
    let sessions = config.state.join(record::SESSIONS);
    let key = PublicKey::load(&config.state.join(record::KEYS).join("host.pub")).expect("a key");
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(200_000));
    group.bench_function("verify", |bencher| {
        bencher.iter(|| assert!(verify(&sessions, &key).expect("verifiable").ok));
    });
    group.bench_function("list", |bencher| {
        bencher.iter(|| query::sessions(&sessions, &Filter::default(), |_| {}).expect("readable").len());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).sample_size(20);
    targets = append, read
}
criterion_main!(benches);
