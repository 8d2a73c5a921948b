//! Tests of whole files: what the issue shows works as shown, and what is wrong is told.

use std::sync::Arc;

use super::*;
use crate::identity::Subject;
use crate::sql::{Limit, Relation, Where};

/// As in the documentation's first example.
pub(super) const EXAMPLE: &str = r#"
version: 1
mode: enforce                       # or observe
processes:                          # any of these; keys within one entry must all hold
  - unit: gitlab-runner.service
  - {user: deploy, exe: /usr/local/bin/nightly-report}
destinations:                       # what the rules below speak about; everything when left out
  - {host: db.internal, port: 5432, protocol: postgres}
egress: deny                        # allow | record | deny: whatever else these processes open
rules:
  - name: no-drop
    match: {sql: {kind: [drop_table, drop_database, truncate]}}
    action: deny                    # allow | deny | hold
    message: Tables are dropped by migrations only.
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: hold
  - name: bulk-read-off-main
    match: {sql: {class: read, tables: [public.customers], limit: missing}}
    when: subject.ci.branch != "main"
    action: deny
masks:
  - {name: cards, columns: [public.customers.card_number], with: {partial: {keep_last: 4}}}
  - {name: leaks, detect: [payment_card, email, private_key, aws_access_key], with: redact}
"#;

pub(super) fn set(text: &str) -> PolicySet {
    parse_str("policy.yaml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(super) fn errors(text: &str) -> String {
    parse_str("policy.yaml", text).map(|_| ()).unwrap_err().to_string()
}

pub(super) fn destination() -> Destination {
    Destination { address: "10.0.0.5:5432".parse().unwrap(), hosts: vec!["db.internal".into()] }
}

/// All rules, for a made-up flow.
pub(super) fn flow(text: &str) -> FlowPolicy {
    set(text).flow_of_all(&Subject::default(), &destination())
}

/// A policy of these rules.
pub(super) fn rules(rules: &str) -> FlowPolicy {
    flow(&format!("version: 1\nprocesses: [{{run: x}}]\n{rules}"))
}

pub(super) fn statement(kind: Kind, change: impl FnOnce(&mut Statement)) -> Statement {
    let mut statement = Statement {
        text: word(kind),
        kind,
        kinds: [kind].into(),
        classes: kind.classes().iter().copied().collect(),
        ..Statement::default()
    };
    change(&mut statement);
    statement
}

pub(super) fn word(kind: Kind) -> String {
    serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned()
}

pub(super) fn table(name: &str) -> Relation {
    match name.split_once('.') {
        Some((schema, name)) => Relation { schema: Some(schema.into()), name: name.into() },
        None => Relation { schema: None, name: name.into() },
    }
}

pub(super) fn operation(statements: Vec<Statement>) -> Operation {
    Operation { script: Arc::new(Script { statements }), ..sample_operation() }
}

pub(super) fn decide(flow: &FlowPolicy, statements: Vec<Statement>) -> Decision {
    flow.decide(&operation(statements), &Subject::default())
}

pub(super) fn verdict(flow: &FlowPolicy, statements: Vec<Statement>) -> (Verdict, Option<String>) {
    let decision = decide(flow, statements);
    (decision.verdict, decision.rule.map(|rule| rule.to_string()))
}

pub(super) fn denied(rule: &str) -> (Verdict, Option<String>) {
    (Verdict::Deny, Some(rule.to_owned()))
}

pub(super) const PASSED: (Verdict, Option<String>) = (Verdict::Allow, None);

#[test]
fn the_example_works_as_shown() {
    let set = set(EXAMPLE);
    let selection = set.selection();
    assert_eq!(selection.entries.len(), 2);
    let [unit, user] = &selection.entries[..] else { unreachable!() };
    assert_eq!(unit.unit.as_deref(), Some("gitlab-runner.service"));
    assert!(unit.descendants && unit.egress == Egress::Deny && unit.resolvers);
    assert_eq!(user.exe.as_deref(), Some(std::path::Path::new("/usr/local/bin/nightly-report")));
    assert!(user.impossible, "users are not looked up here");
    assert_eq!(user.destinations.len(), 1);
    assert_eq!((user.destinations[0].net, user.destinations[0].port), (None, Some(5432)));

    let mut subject = Subject::default();
    let flow = set.flow(&[unit.id], &subject, &destination());
    assert_eq!(flow.treatment(), Treatment::Intercept(Protocol::Postgres));
    assert!(flow.is_static());
    for kind in [Kind::DropTable, Kind::DropDatabase, Kind::Truncate] {
        assert_eq!(verdict(&flow, vec![statement(kind, |_| {})]), denied("no-drop"));
    }
    let decision = decide(&flow, vec![statement(Kind::DropTable, |_| {})]);
    assert_eq!(decision.message.as_deref(), Some("Tables are dropped by migrations only."));
    assert!(!decision.passes());
    for bound in [Where::Missing, Where::AlwaysTrue] {
        let delete = statement(Kind::Delete, |s| s.where_clause = Some(bound));
        assert_eq!(verdict(&flow, vec![delete]), (Verdict::Hold, Some("unbounded-write".into())));
    }
    let delete = statement(Kind::Delete, |s| s.where_clause = Some(Where::Present));
    assert_eq!(verdict(&flow, vec![delete]), PASSED);

    let read = |name, limit| {
        statement(Kind::Select, |s| {
            s.reads = [table(name)].into();
            s.limit = Some(limit);
        })
    };
    assert_eq!(verdict(&flow, vec![read("customers", Limit::Missing)]), denied("bulk-read-off-main"));
    assert_eq!(verdict(&flow, vec![read("public.customers", Limit::Missing)]), denied("bulk-read-off-main"));
    assert_eq!(verdict(&flow, vec![read("sales.customers", Limit::Missing)]), PASSED);
    assert_eq!(verdict(&flow, vec![read("customers", Limit::Present)]), PASSED);
    subject.ci.branch = "main".into();
    let main = flow.decide(&operation(vec![read("customers", Limit::Missing)]), &subject);
    assert_eq!((main.verdict, main.rule), (Verdict::Allow, None));

    let masks = flow.masks();
    assert_eq!(&*masks.column("public", "customers", "card_number").unwrap().name().clone(), "cards");
    assert!(masks.has_detectors());
    assert_eq!(masks.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["cards", "leaks"]);
}

#[test]
fn flows_go_by_entry_and_destination() {
    let two = set(&format!("{EXAMPLE}\n"));
    let id = two.selection().entries[0].id;
    let to = |address: &str, hosts: &[&str]| Destination {
        address: address.parse().unwrap(),
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
    };
    let treatment = |set: &PolicySet, to: &Destination| set.flow(&[id], &Subject::default(), to).treatment();
    assert_eq!(treatment(&two, &to("10.0.0.5:5433", &["db.internal"])), Treatment::Egress(Egress::Deny));
    assert_eq!(treatment(&two, &to("10.0.0.9:5432", &[])), Treatment::Egress(Egress::Deny));
    let unknown = two.flow(&[EntryId([0; 16])], &Subject::default(), &destination());
    assert_eq!(unknown.treatment(), Treatment::Egress(Egress::Deny));
    assert_eq!(verdict(&unknown, vec![statement(Kind::Select, |_| {})]), denied(EGRESS_RULE));

    let all = set("version: 1\nprocesses: [{unit: gitlab-runner.service}]\negress: record");
    assert_eq!(all.selection().entries[0].id, id, "the id stands for the keys alone");
    assert_eq!(treatment(&all, &destination()), Treatment::Intercept(Protocol::Postgres));
    assert_eq!(treatment(&all, &to("10.0.0.5:443", &[])), Treatment::Detect(Egress::Record));
    let nets = "version: 1\nprocesses: [{unit: gitlab-runner.service}]\ndestinations: {cidr: [10.0.0.0/8, \"fd00::1\"], port: [5432, \"6000-6002\"]}";
    let nets = set(nets);
    assert_eq!(
        treatment(&nets, &to("[::ffff:10.1.1.1]:5432", &[])),
        Treatment::Intercept(Protocol::Postgres)
    );
    assert_eq!(treatment(&nets, &to("[fd00::1]:6002", &[])), Treatment::Detect(Egress::Allow));
    assert_eq!(treatment(&nets, &to("[fd00::2]:6002", &[])), Treatment::Egress(Egress::Allow));
    assert_eq!(nets.selection().entries[0].destinations.len(), 8);
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_where() {
    let text = r"version: 2
mod: enforce
processes:
  - unit: gitlab-runner
  - {}
destinations:
  - {host: '10.0.0.1', port: 70000}
  - {cidr: 10.0.0.1/8}
egress: denied
rules:
  - name: a
    match: {sql: {kind: [drop_tabel, write], class: drop_table, tables: 'a.b.c'}}
    action: dney
  - name: a
    action: deny
    when: subject.ci.brnch == 'x'
  - match: {}
    action: allow
masks:
  - {name: m, with: partial}
  - {name: n, detect: creditcard, with: redakt}
";
    let errors = errors(text);
    for line in [
        "policy.yaml:1:10: the number 2 is no version that this agent reads; write `version: 1`",
        "policy.yaml:2:1: `mod` is no key that can stand here; did you mean `mode`?",
        "policy.yaml:4:11: `gitlab-runner` is no name of a systemd unit; did you mean `gitlab-runner.service`?",
        "policy.yaml:7:12: `10.0.0.1` is an address; write `cidr: 10.0.0.1`",
        "policy.yaml:7:30: the number 70000 is no port",
        "policy.yaml:8:12: `10.0.0.1/8` has bits set beyond its prefix; did you mean `10.0.0.0/8`?",
        "policy.yaml:9:9: `denied` is not what can become of a connection; write one of allow, record, deny",
        "policy.yaml:12:26: `drop_tabel` is not a kind of statement; did you mean `drop_table`?",
        "policy.yaml:12:38: `write` is not a kind of statement; it is a class: write `class: write`",
        "policy.yaml:12:53: `drop_table` is not a class of statements; it is a kind: write `kind: drop_table`",
        "policy.yaml:12:73: `a.b.c` has 3 parts",
        "policy.yaml:13:13: `dney` is not an action; did you mean `deny`?",
        "policy.yaml:16:11: `when`: `subject.ci` has no field `brnch`; did you mean `branch`?",
        "policy.yaml:17:5: `name` is missing",
        "policy.yaml:20:21: `partial` needs what to keep",
        "policy.yaml:21:23: `creditcard` is not a detector; did you mean `payment_card`?",
        "policy.yaml:21:41: `redakt` is no way of masking",
    ] {
        assert!(errors.contains(line), "{line}\nis not in\n{errors}");
    }
}

#[test]
fn what_only_the_whole_tells_is_told_too() {
    let errors = errors(
        "version: 1\nprocesses: [{}, {unit: a.service, slice: b.slice}]\ndestinations: [{protocol: postgres}]\n\
         rules: [{name: a, action: deny}, {name: a, action: deny}]\n\
         masks: [{name: m, with: redact}, {name: n, detect: email, with: {partial: {}}}]",
    );
    for what in [
        "policy.yaml:2:13: this entry would take in every process",
        "policy.yaml:2:17: `unit` and `slice`",
        "policy.yaml:3:16: this destination is every address",
        "policy.yaml:4:41: `a` is already the name of the rule at policy.yaml:4",
        "policy.yaml:5:9: this mask takes in nothing",
        "`partial` keeps nothing",
    ] {
        assert!(errors.contains(what), "{what}\nis not in\n{errors}");
    }
}

#[test]
fn keys_that_are_there_but_empty_open_nothing() {
    for text in [
        "rules: [{name: a, action: deny, match: {sql: {tables: }}}]",
        "rules: [{name: a, action: deny, match: {sql: {tables: []}}}]",
        "rules: [{name: a, action: deny, match: {sql: }}]",
        "rules: [{name: a, action: deny, match: }]",
        "rules: [{name: a, action: deny, when: }]",
        "rules: [{name: a, action: }]",
        "destinations: []",
        "destinations:",
        "egress:",
        "default:",
        "mode:",
        "masks: [{name: m, detect: [], with: redact}]",
    ] {
        let text = format!("version: 1\n{text}");
        assert!(parse_str("p", &text).is_err(), "{text}");
    }
}

#[test]
fn yaml_that_would_explode_is_refused() {
    let mut bomb = "a: &a0 [x, x]\n".to_owned();
    for level in 1..30 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", ")));
    }
    assert!(parse_str("p", &bomb).is_err());
    assert!(parse_str("p", &"[".repeat(5000)).is_err());
    assert!(parse_str("p", &format!("version: 1\n#{}", "x".repeat(2 << 20))).is_err());
    assert!(errors("version: 1\nversion: 1").contains("policy.yaml:2:1"), "a key twice");
    assert!(errors("version: 1\n---\nversion: 1").contains("YAML"), "two documents");
    assert!(errors("").contains("empty"));
    assert!(errors("- a").contains("expected a mapping"));
}

#[test]
fn observed_rules_shadow_no_enforced_ones() {
    let flow = rules(
        "rules:\n- {name: watch, mode: observe, action: deny, match: {sql: {class: write}}}\n\
         - {name: hold, action: hold, match: {sql: {kind: delete}}}",
    );
    let delete = decide(&flow, vec![statement(Kind::Delete, |_| {})]);
    assert_eq!(
        (delete.verdict, delete.enforced, delete.rule.as_deref()),
        (Verdict::Hold, true, Some("hold"))
    );
    assert_eq!(delete.observed, [Observed { rule: "watch".into(), verdict: Verdict::Deny }]);
    assert!(!delete.passes());
    let insert = decide(&flow, vec![statement(Kind::Insert, |_| {})]);
    assert_eq!(
        (insert.verdict, insert.enforced, insert.rule.as_deref()),
        (Verdict::Allow, false, None),
        "what passed is no refusal; what would have been stands beside it"
    );
    assert!(insert.passes());
    assert_eq!(insert.observed, [Observed { rule: "watch".into(), verdict: Verdict::Deny }]);
    assert_eq!(insert.without_observing(), (Verdict::Deny, Some(&"watch".into())));
    let allowed = rules("rules: [{name: ok, mode: observe, action: allow}]");
    assert!(
        decide(&allowed, vec![statement(Kind::Select, |_| {})]).enforced,
        "nothing would have been refused"
    );
    // An observed rule that allows opens nothing.
    let closed = rules("default: deny\nrules: [{name: ok, mode: observe, action: allow}]");
    assert!(!decide(&closed, vec![statement(Kind::Select, |_| {})]).passes());
    let whole = rules("mode: observe\ndefault: deny\nmasks: [{name: m, detect: email, with: redact}]");
    assert!(decide(&whole, vec![statement(Kind::Select, |_| {})]).passes());
    assert!(whole.masks().is_empty(), "nothing is enforced");
    assert!(!whole.record_masks().is_empty(), "but what is masked is not stored");
}

#[test]
fn a_subject_that_could_not_be_found_out_may_match() {
    let text = "version: 1\nrules: [{name: no, action: deny, match: {subject: {exe: /usr/bin/psql, ci: {branch: 'dev*'}}}}]";
    let set = set(text);
    let denies = |subject: &Subject| {
        let flow = set.flow_of_all(subject, &destination());
        !flow.decide(&operation(vec![statement(Kind::Select, |_| {})]), subject).passes()
    };
    let mut subject = Subject { exe: "/usr/bin/psql".into(), ..Subject::default() };
    assert!(!denies(&subject));
    subject.missing.push("environment".into());
    assert!(denies(&subject));
    subject.ci.branch = "dev-1".into();
    assert!(denies(&subject));
    subject.exe = "/bin/sh".into();
    assert!(!denies(&subject));
    subject.script = Some("/usr/bin/psql".into());
    assert!(denies(&subject), "a script counts by its own path");
}

#[test]
fn a_script_that_a_process_claims_to_run_is_denied_but_not_allowed() {
    let rules = |action: &str, default: &str| {
        let text = format!(
            "version: 1\ndefault: {default}\nrules: [{{name: r, action: {action}, match: {{subject: {{exe: /opt/report.py}}}}}}]"
        );
        set(&text)
    };
    let passes = |set: &PolicySet, subject: &Subject| {
        let flow = set.flow_of_all(subject, &destination());
        flow.decide(&operation(vec![statement(Kind::Select, |_| {})]), subject).passes()
    };
    let seen = Subject {
        exe: "/usr/bin/python3".into(),
        script: Some("/opt/report.py".into()),
        ..Subject::default()
    };
    let claimed = Subject { script: None, script_claimed: Some("/opt/report.py".into()), ..seen.clone() };
    let other = Subject { script_claimed: None, ..claimed.clone() };
    let (deny, allow) = (rules("deny", "allow"), rules("allow", "deny"));
    assert_eq!([&seen, &claimed, &other].map(|subject| passes(&deny, subject)), [false, false, true]);
    assert_eq!([&seen, &claimed, &other].map(|subject| passes(&allow, subject)), [true, false, false]);
    // What is missing counts for itself alone.
    let unseen = Subject { exe: "".into(), missing: vec!["exe: another".into()], ..other.clone() };
    assert_eq!([passes(&deny, &unseen), passes(&allow, &unseen)], [false, false]);
    let elsewhere = Subject { missing: vec!["login_uid: not seen".into()], exe: "".into(), ..other };
    assert!(passes(&deny, &elsewhere));
}

#[test]
fn time_windows_hold_at_their_time() {
    let flow = rules("rules: [{name: night, action: deny, match: {time: {from: \"22:00\", to: \"06:00\"}}}]");
    let at = |time: &str| {
        let operation = operation(vec![statement(Kind::Select, |_| {})]);
        flow.decide_at(&operation, &Subject::default(), time.parse().unwrap()).verdict
    };
    assert_eq!(at("2026-01-05T23:00:00Z"), Verdict::Deny);
    assert_eq!(at("2026-01-05T12:00:00Z"), Verdict::Allow);
    assert!(!flow.is_static() && !flow.depends_on_params());
}

#[test]
fn masks_have_conditions_and_a_plaintext_refusal_names_the_policy() {
    let text = "version: 1\nplaintext: deny\nmasks:\n- {name: all, columns: ssn, with: null}\n\
                - {name: ci, detect: email, with: hash, when: 'subject.ci.system != \"\"'}";
    let set = set(text);
    let mut subject = Subject::default();
    let flow = set.flow_of_all(&subject, &destination());
    assert_eq!(flow.masks().names().len(), 1);
    assert!(flow.masks().column("any", "people", "ssn").is_some());
    assert!(flow.refuses_plaintext().unwrap().contains("policy.yaml"));
    subject.ci.system = "gitlab".into();
    let flow = set.flow_of_all(&subject, &destination());
    assert_eq!(flow.masks().names().len(), 2);
    assert!(Arc::ptr_eq(flow.masks(), set.flow_of_all(&subject, &destination()).masks()), "compiled once");
}

#[test]
fn what_becomes_of_tls_is_the_strictest_that_any_policy_says() {
    let tls = |targets: &str| {
        let text = format!("version: 1\nprocesses: [{{user: 0}}]\ndestinations: {targets}\n");
        set(&text).flow_of_all(&Subject::default(), &destination()).tls()
    };
    assert_eq!(tls("[{port: 5432}]"), TlsTreatment::WhereKnown);
    assert_eq!(tls("[{port: 5432, tls: passthrough}]"), TlsTreatment::Passthrough);
    assert_eq!(tls("[{port: 5432, tls: passthrough}, {port: 5432}]"), TlsTreatment::WhereKnown);
    assert_eq!(tls("[{port: 5432, tls: intercept}, {port: 5432}]"), TlsTreatment::Intercept);
    assert_eq!(tls("[{port: 5432, tls: intercept}, {port: 5432, tls: deny}]"), TlsTreatment::Deny);
    assert_eq!(tls("[{port: 5433, tls: deny}, {port: 5432, tls: passthrough}]"), TlsTreatment::Passthrough);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse_str("p", &text);
    }

    #[test]
    fn no_change_to_a_policy_panics(at in 0usize..1600, with in "[\\[\\]{}:,&*!|>'\"# \n\ta-z0-9-]{0,6}", cut in 0usize..40) {
        let mut text = EXAMPLE.to_owned();
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &with);
        let _ = parse_str("p", &text);
    }
}
