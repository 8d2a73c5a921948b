//! What a verified identity costs for each operation: asking whether anything has changed behind the flow, and
//! deciding with nobody, a workload, or both behind it, by rules that name no identity and by rules that do.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use interlock_agent::identity::{LiveSubject, Subject};
use interlock_agent::operation::{Operation, Protocol};
use interlock_agent::policy::{Destination, FlowPolicy, parse_str, subject};
use interlock_agent::sql;

/// Rules that look at the statement alone.
const PLAIN: &str = r#"
version: 1
processes: [{run: "*"}]
rules:
  - {name: no-drops, match: {sql: {kind: [drop_table, truncate]}}, action: deny}
"#;

/// The same, and rules about who it is.
const IDENTITY: &str = r#"
version: 1
processes: [{run: "*"}]
require_identity: any
rules:
  - {name: no-drops, match: {sql: {kind: [drop_table, truncate]}}, action: deny}
  - name: writes-from-main
    match: {sql: {class: [write, ddl]}, not_identity: {kind: workload, project: shop/*, branch: main}}
    action: deny
  - {name: contractors, match: {identity: {kind: person, groups: [contractors, trainees]}}, action: deny}
"#;

/// The same in CEL.
const CONDITION: &str = r#"
version: 1
processes: [{run: "*"}]
rules:
  - name: reads-off-main
    when: subject.workload.branch != "main"
    action: deny
"#;

const WORKLOAD: &[(&str, &str)] = &[
    ("workload.issuer", "github"),
    ("workload.subject", "repo:shop/api:ref:refs/heads/main"),
    ("workload.project", "shop/api"),
    ("workload.branch", "main"),
];

const PERSON: &[(&str, &str)] = &[
    ("person.issuer", "okta"),
    ("person.subject", "ann"),
    ("person.groups", "dba"),
    ("person.groups", "dev"),
];

const TEXT: &str = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 2";

fn flow(text: &str, subject: &Subject) -> FlowPolicy {
    let destination = Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() };
    let set = parse_str("bench.yaml", text).expect("the policies of the benches are well-formed");
    set.flow_of_all(subject, &destination)
}

fn costs(c: &mut Criterion) {
    let operation = Operation {
        protocol: Protocol::Postgres,
        user: "app".into(),
        database: "app".into(),
        text: TEXT.into(),
        script: Arc::new(sql::analyze(TEXT)),
        params: Arc::default(),
    };
    let who = |pairs: &[&[(&str, &str)]]| {
        subject(pairs.concat()).expect("the subjects of the benches are well-formed")
    };
    let nobody = Subject::default();
    let (workload, both) = (who(&[WORKLOAD]), who(&[WORKLOAD, PERSON]));
    let mut group = c.benchmark_group("identity");
    for (policy, text) in [("none named", PLAIN), ("match: identity", IDENTITY), ("when (CEL)", CONDITION)] {
        for (name, subject) in [("nobody", &nobody), ("workload", &workload), ("workload and person", &both)]
        {
            let flow = flow(text, subject);
            group.bench_function(format!("decide/{policy}/{name}"), |b| {
                b.iter(|| black_box(flow.decide(black_box(&operation), subject)));
            });
        }
    }
    for (name, subject) in [("nobody", &nobody), ("workload and person", &both)] {
        let live = LiveSubject::new(Arc::new(subject.clone()));
        group.bench_function(format!("has anything changed/{name}"), |b| {
            b.iter(|| black_box(live.generation()));
        });
    }
    group.finish();
}

criterion_group!(benches, costs);
criterion_main!(benches);
