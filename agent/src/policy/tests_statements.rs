//! Tests of what rules make of statements.

use super::tests::{PASSED, decide, denied, operation, rules, statement, table, verdict};
use super::*;
use crate::identity::Subject;
use crate::sql::{Bound, Column, Function, Limit, Where};

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
