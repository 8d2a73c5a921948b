//! Tests of whole files: what the issue shows works as shown, and what is wrong is told.

use std::sync::Arc;

use super::*;
use crate::identity::Subject;
use crate::sql::{Bound, Column, Function, Limit, Relation, Where};

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

fn errors(text: &str) -> String {
    parse_str("policy.yaml", text).map(|_| ()).unwrap_err().to_string()
}

fn destination() -> Destination {
    Destination { address: "10.0.0.5:5432".parse().unwrap(), hosts: vec!["db.internal".into()] }
}

/// All rules, for a made-up flow.
fn flow(text: &str) -> FlowPolicy {
    set(text).flow_of_all(&Subject::default(), &destination())
}

/// A policy of these rules.
fn rules(rules: &str) -> FlowPolicy {
    flow(&format!("version: 1\nprocesses: [{{run: x}}]\n{rules}"))
}

fn statement(kind: Kind, change: impl FnOnce(&mut Statement)) -> Statement {
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

fn word(kind: Kind) -> String {
    serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned()
}

fn table(name: &str) -> Relation {
    match name.split_once('.') {
        Some((schema, name)) => Relation { schema: Some(schema.into()), name: name.into() },
        None => Relation { schema: None, name: name.into() },
    }
}

fn operation(statements: Vec<Statement>) -> Operation {
    Operation { script: Arc::new(Script { statements }), ..sample_operation() }
}

fn decide(flow: &FlowPolicy, statements: Vec<Statement>) -> Decision {
    flow.decide(&operation(statements), &Subject::default())
}

fn verdict(flow: &FlowPolicy, statements: Vec<Statement>) -> (Verdict, Option<String>) {
    let decision = decide(flow, statements);
    (decision.verdict, decision.rule.map(|rule| rule.to_string()))
}

fn denied(rule: &str) -> (Verdict, Option<String>) {
    (Verdict::Deny, Some(rule.to_owned()))
}

const PASSED: (Verdict, Option<String>) = (Verdict::Allow, None);

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
fn the_strictest_of_all_statements_decides() {
    let flow = rules(
        "rules:\n- {name: ok, action: allow, match: {sql: {kind: select}}}\n\
         - {name: held, action: hold, match: {sql: {kind: delete}}}\n\
         - {name: no, action: deny, match: {sql: {kind: drop_table}}}\n\
         - {name: never, action: deny, match: {sql: {kind: drop_table}}}",
    );
    let select = || statement(Kind::Select, |_| {});
    let delete = || statement(Kind::Delete, |_| {});
    let drop = || statement(Kind::DropTable, |_| {});
    assert_eq!(verdict(&flow, vec![select()]), (Verdict::Allow, Some("ok".into())));
    assert_eq!(verdict(&flow, vec![select(), delete()]), (Verdict::Hold, Some("held".into())));
    let decision = decide(&flow, vec![select(), drop(), delete()]);
    assert_eq!(decision.rule.as_deref(), Some("no"), "the first of equals");
    let matched: Vec<&str> = decision.matched.iter().map(|rule| &**rule).collect();
    assert_eq!(matched, ["ok", "held", "no", "never"]);
    assert_eq!(verdict(&flow, vec![]), PASSED);
}

#[test]
fn a_kind_anywhere_in_a_statement_counts() {
    let flow = rules("rules: [{name: no, action: deny, match: {sql: {kind: delete, where: missing}}}]");
    let hidden = statement(Kind::Select, |s| {
        s.kinds.insert(Kind::Delete);
        s.where_clause = Some(Where::AlwaysTrue);
    });
    assert_eq!(verdict(&flow, vec![hidden]), denied("no"));
    // The keys must hold for the same statement.
    let apart = vec![
        statement(Kind::Delete, |s| s.where_clause = Some(Where::Present)),
        statement(Kind::Update, |s| s.where_clause = Some(Where::Missing)),
    ];
    assert_eq!(verdict(&flow, apart), PASSED);
}

#[test]
fn what_is_allowed_must_be_certain() {
    let flow = rules(
        "default: deny\nrules: [{name: reads, action: allow, match: {sql: {class: read, tables: public.orders}}}]",
    );
    let read = |change: fn(&mut Statement)| {
        let mut statement = statement(Kind::Select, |s| s.reads = [table("public.orders")].into());
        change(&mut statement);
        verdict(&flow, vec![statement])
    };
    let no = denied(DEFAULT_RULE);
    assert_eq!(read(|_| {}), (Verdict::Allow, Some("reads".into())));
    assert_eq!(read(|s| s.reads = [table("orders")].into()), no, "of which schema?");
    assert_eq!(read(|s| s.reads.extend([table("public.salaries")])), no, "and another table");
    assert_eq!(read(|s| s.classes.extend([Class::External])), no, "and a file");
    assert_eq!(read(|s| s.dynamic = true), no, "and who knows what");
    assert_eq!(read(|s| s.kinds.extend([Kind::Unparsed])), no, "and what cannot be read");
    assert_eq!(read(|s| s.writes.extend([table("public.log")])), no);
    let two = vec![
        statement(Kind::Select, |s| s.reads = [table("public.orders")].into()),
        statement(Kind::DropTable, |_| {}),
    ];
    assert_eq!(verdict(&flow, two), no, "each statement needs its own rule");
    let decision = decide(&flow, vec![statement(Kind::DropTable, |_| {})]);
    assert_eq!(decision.message.as_deref(), Some("no rule of policy.yaml allows this"));
    let many: Vec<_> =
        (0..200).map(|_| statement(Kind::Select, |s| s.reads = [table("public.orders")].into())).collect();
    assert_eq!(verdict(&flow, many.clone()).0, Verdict::Allow);
    let mut one_more = many;
    one_more[130] = statement(Kind::Delete, |_| {});
    assert_eq!(verdict(&flow, one_more), no);
    assert_eq!(verdict(&flow, vec![]), PASSED, "nothing is asked for");
}

#[test]
fn a_condition_without_an_answer_fails_closed() {
    let when = "when: 'operation.params[0] == \"x\"'";
    let deny = rules(&format!("rules: [{{name: no, action: deny, {when}}}]"));
    assert_eq!(verdict(&deny, vec![statement(Kind::Select, |_| {})]), denied("no"));
    let allow = rules(&format!("default: deny\nrules: [{{name: ok, action: allow, {when}}}]"));
    assert_eq!(verdict(&allow, vec![statement(Kind::Select, |_| {})]), denied(DEFAULT_RULE));
    // At Parse the parameters are not known, and the rules on them wait.
    let operation = operation(vec![statement(Kind::Select, |_| {})]);
    assert_eq!(deny.decide_unbound(&operation, &Subject::default()).verdict, Verdict::Allow);
    assert_eq!(allow.decide_unbound(&operation, &Subject::default()).verdict, Verdict::Allow);
    assert!(deny.depends_on_params() && !deny.is_static());
}

#[test]
fn the_where_that_counts_is_that_of_what_the_rule_is_about() {
    let both = |read, write| {
        vec![statement(Kind::Update, |s| {
            s.classes.insert(Class::Read);
            s.reads = [table("public.orders")].into();
            s.writes = [table("public.orders")].into();
            (s.where_read, s.where_write) = (Some(read), Some(write));
            s.where_clause = Some(Where::Missing);
        })]
    };
    let (all, some) = (Where::Missing, Where::Present);
    for (keys, read, write, refused) in [
        ("class: read", all, some, true),
        ("class: read", some, all, false),
        ("reads: orders", all, some, true),
        ("reads: orders", some, all, false),
        ("kind: [update, delete]", all, some, false),
        ("kind: [update, delete]", some, all, true),
        ("writes: orders", all, some, false),
        ("class: write", some, all, true),
        ("tables: orders", all, some, true),
        ("tables: orders", some, all, true),
        ("class: [read, write]", all, some, true),
    ] {
        let flow = rules(&format!(
            "rules: [{{name: no, action: deny, match: {{sql: {{{keys}, where: missing}}}}}}]"
        ));
        let expected = if refused { denied("no") } else { PASSED };
        assert_eq!(verdict(&flow, both(read, write)), expected, "{keys} {read:?} {write:?}");
    }
}

#[test]
fn columns_that_are_read_are_told_from_those_written() {
    let flow = rules("rules: [{name: no, action: deny, match: {sql: {columns_read: people.ssn}}}]");
    let column = |name: &str| [Column { relation: Some(table("people")), name: name.into() }].into();
    assert_eq!(verdict(&flow, vec![statement(Kind::Update, |s| s.columns_written = column("ssn"))]), PASSED);
    assert_eq!(
        verdict(&flow, vec![statement(Kind::Update, |s| s.columns_read = column("ssn"))]),
        denied("no")
    );
    let flow = rules("rules: [{name: no, action: deny, match: {sql: {settings: Search_Path}}}]");
    let set = statement(Kind::Set, |s| s.settings = ["search_path".to_owned()].into());
    assert_eq!(verdict(&flow, vec![set]), denied("no"), "case does not count");
}

#[test]
fn a_limit_by_parameter_is_judged_when_it_is_bound() {
    let bounded = |bound| {
        vec![statement(Kind::Select, |s| {
            s.limit = Some(Limit::Present);
            s.limit_rows = [bound].into();
        })]
    };
    let asked = |params: &[Option<&str>]| Operation {
        params: params.iter().map(|p| p.map(str::to_owned)).collect::<Vec<_>>().into(),
        ..operation(bounded(Bound::Parameter(2)))
    };
    let missing = rules("rules: [{name: no, action: deny, match: {sql: {limit: missing}}}]");
    let over = rules("rules: [{name: no, action: deny, match: {sql: {limit_over: 100}}}]");
    for flow in [&missing, &over] {
        assert!(flow.is_static() && !flow.is_static_for(&asked(&[]).script));
        assert!(flow.is_static_for(&operation(bounded(Bound::Rows(1))).script));
        assert_eq!(flow.decide(&asked(&[]), &Subject::default()).verdict, Verdict::Allow, "at Parse");
        let bound = |second| flow.decide(&asked(&[Some("1"), second]), &Subject::default()).verdict;
        assert_eq!(bound(None), Verdict::Deny, "NULL is no bound");
        assert_eq!(bound(Some("all")), Verdict::Deny);
        for few in ["100", " 7 ", "9.5", "\\x00000064", "\\x0000000000000064", "\0\0\0\u{64}"] {
            assert_eq!(bound(Some(few)), Verdict::Allow, "{few:?}");
        }
        assert_eq!(flow.decide(&asked(&[Some("1")]), &Subject::default()).verdict, Verdict::Deny);
    }
    let many = |flow: &FlowPolicy| flow.decide(&asked(&[None, Some("101")]), &Subject::default()).verdict;
    assert_eq!((many(&missing), many(&over)), (Verdict::Allow, Verdict::Deny));
    assert_eq!(verdict(&over, bounded(Bound::Rows(100))), PASSED);
    assert_eq!(verdict(&over, bounded(Bound::Rows(999_999_999_999))), denied("no"));
    assert_eq!(
        verdict(&over, vec![statement(Kind::Select, |s| s.limit = Some(Limit::Missing))]),
        denied("no")
    );
    assert_eq!(verdict(&over, vec![statement(Kind::Update, |_| {})]), PASSED, "it gives no rows");
}

#[test]
fn replication_needs_a_rule_of_its_own() {
    let replication = || vec![statement(Kind::Replication, |_| {})];
    let none = rules("");
    assert_eq!(verdict(&none, replication()), denied(REPLICATION_RULE));
    assert_eq!(verdict(&none, vec![statement(Kind::Cancel, |_| {})]), PASSED);
    let by_class = rules("rules: [{name: ok, action: allow, match: {sql: {class: admin}}}]");
    assert_eq!(verdict(&by_class, replication()), denied(REPLICATION_RULE));
    let by_name = rules("rules: [{name: ok, action: allow, match: {sql: {kind: replication}}}]");
    assert_eq!(verdict(&by_name, replication()), (Verdict::Allow, Some("ok".into())));
    let other = rules("rules: [{name: ok, action: allow, match: {user: backup, sql: {kind: replication}}}]");
    assert_eq!(verdict(&other, replication()), denied(REPLICATION_RULE));
    let observed =
        rules("rules: [{name: ok, mode: observe, action: allow, match: {sql: {kind: replication}}}]");
    assert_eq!(verdict(&observed, replication()), denied(REPLICATION_RULE));
    let whole = rules("mode: observe");
    let decision = decide(&whole, replication());
    assert!(decision.passes() && !decision.enforced);
    assert_eq!(decision.without_observing().0, Verdict::Deny);
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
fn conditions_know_what_explanations_say_of_columns_and_lexing() {
    let flow = rules(
        "rules:\n- {name: writes, action: deny, when: '\"t.salary\" in operation.columns_written'}\n\
         - {name: reads, action: deny, when: '\"t.salary\" in operation.columns_read'}\n\
         - {name: lexing, action: deny, when: operation.changes_lexing}",
    );
    for (text, rule) in [
        ("UPDATE t SET salary = 1 WHERE id = 2", Some("writes")),
        ("SELECT salary FROM t", Some("reads")),
        ("SET standard_conforming_strings = off", Some("lexing")),
        ("SELECT id FROM t", None),
    ] {
        let found = decide(&flow, crate::sql::analyze(text).statements);
        assert_eq!(found.rule.as_deref(), rule, "{text}");
    }
}

#[test]
fn columns_functions_settings_and_names() {
    let flow = rules(
        "rules:\n- {name: cards, action: deny, match: {sql: {columns: public.customers.card_number}}}\n\
         - {name: files, action: deny, match: {sql: {functions: [pg_read_*, dblink]}}}\n\
         - {name: path, action: deny, match: {sql: {settings: search_path}}}\n\
         - {name: intern, action: deny, match: {user: intern_*, database: [prod, live]}}",
    );
    let column = |relation: Option<&str>, name: &str| crate::sql::Column {
        relation: relation.map(table),
        name: name.into(),
    };
    let star = statement(Kind::Select, |s| {
        s.reads = [table("customers")].into();
        s.columns_read = [column(None, "*")].into();
    });
    assert_eq!(verdict(&flow, vec![star]), denied("cards"));
    let dump = statement(Kind::Select, |s| s.reads = [table("*")].into());
    assert_eq!(verdict(&flow, vec![dump]), denied("cards"));
    let read = statement(Kind::Select, |s| {
        s.functions = [Function { schema: Some("pg_catalog".into()), name: "pg_read_file".into() }].into();
    });
    assert_eq!(verdict(&flow, vec![read]), denied("files"));
    let set = |setting: &str| vec![statement(Kind::Set, |s| s.settings = [setting.to_owned()].into())];
    assert_eq!(verdict(&flow, set("search_path")), denied("path"));
    assert_eq!(verdict(&flow, set("*")), denied("path"), "the text does not tell which");
    assert_eq!(verdict(&flow, set("work_mem")), PASSED);
    let as_user = |user: &str, database: &str| {
        let operation = Operation {
            user: user.into(),
            database: database.into(),
            ..operation(vec![statement(Kind::Select, |_| {})])
        };
        flow.decide(&operation, &Subject::default()).verdict
    };
    assert_eq!(as_user("intern_1", "prod"), Verdict::Deny);
    assert_eq!(as_user("intern_1", "test"), Verdict::Allow);
    assert_eq!(as_user("anna", "prod"), Verdict::Allow);
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
