//! What deciding costs: on a statement that was parsed before (a hit of the statement cache), and with
//! the parsing of one that was not (a miss).

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use interlock_agent::identity::Subject;
use interlock_agent::operation::{Operation, Protocol};
use interlock_agent::policy::{Destination, FlowPolicy, parse_str};
use interlock_agent::sql::{self, Cache};

/// A policy like the issue's first example, with a condition in CEL.
const CONDITION: &str = r#"
version: 1
processes: [{run: "*"}]
rules:
  - name: bulk-read-off-main
    match: {sql: {class: read, tables: [public.accounts], where: present}}
    when: subject.ci.branch != "main"
    action: deny
"#;

const READ: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
const UPDATE: &str = "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2";
const REFUSED: &str = "DELETE FROM pgbench_accounts WHERE 1 = 1";

fn flow(text: &str) -> FlowPolicy {
    let destination = Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() };
    let set = parse_str("bench.yaml", text).expect("the policies of the benches are well-formed");
    set.flow_of_all(&Subject::default(), &destination)
}

fn operation(text: &str, script: Arc<sql::Script>) -> Operation {
    Operation {
        protocol: Protocol::Postgres,
        user: "app".into(),
        database: "app".into(),
        text: text.into(),
        script,
        params: Arc::default(),
    }
}

fn decide(c: &mut Criterion) {
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let read = |name: &str| std::fs::read_to_string(packs.join(name)).unwrap_or_default();
    let guardrails = flow(&read("postgres-guardrails.yaml"));
    let read_only = flow(&read("read-only-automation.yaml"));
    let condition = flow(CONDITION);
    let subject = Subject::default();

    let mut group = c.benchmark_group("policy");
    for (policy, flow, texts) in [
        ("guardrails", &guardrails, &[("read", READ), ("update", UPDATE), ("refused", REFUSED)][..]),
        ("read-only", &read_only, &[("read", READ)][..]),
        ("condition in CEL", &condition, &[("read", "SELECT * FROM accounts WHERE a = 1")][..]),
    ] {
        for (name, text) in texts {
            let operation = operation(text, Arc::new(sql::analyze(text)));
            group.bench_function(format!("decide/{policy}/{name}"), |b| {
                b.iter(|| black_box(flow.decide(black_box(&operation), &subject)));
            });
        }
    }
    let cache = Cache::new(1000, 1 << 20);
    group.bench_function("statement known: cache and decide", |b| {
        b.iter(|| {
            let operation = operation(READ, cache.analyze(black_box(READ)));
            black_box(guardrails.decide(&operation, &subject))
        });
    });
    group.bench_function("statement new: parse and decide", |b| {
        b.iter(|| {
            let operation = operation(READ, Arc::new(sql::analyze(black_box(READ))));
            black_box(guardrails.decide(&operation, &subject))
        });
    });
    group.bench_function("flow: narrow the policies", |b| {
        let set = parse_str("bench.yaml", &read("postgres-guardrails.yaml")).unwrap_or_default();
        let destination = Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() };
        b.iter(|| black_box(set.flow_of_all(&subject, &destination)));
    });
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
