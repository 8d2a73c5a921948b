//! Tests of the tools around policies, through the statements' own texts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::read::Trust;
use super::set::PolicySet;
use super::tests::EXAMPLE;
use super::*;
use crate::identity::Subject;
use crate::mask::HashKey;

const PACKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");

fn asker() -> Asker {
    Asker {
        user: "app".into(),
        database: "shop".into(),
        subject: Subject::default(),
        params: Arc::default(),
        now: Timestamp::UNIX_EPOCH,
    }
}

fn pack(name: &str) -> FlowPolicy {
    let set = PolicySet::load_trusting(&Path::new(PACKS).join(name), Trust::Anyone).unwrap();
    set.flow_of_all(&Subject::default(), &Asker::destination())
}

fn explained(flow: &FlowPolicy, text: &str) -> Value {
    explain(flow, &asker(), text).to_json()
}

/// A policy directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

const POLICY: &str =
    "version: 1\nprocesses: [{run: x}]\nrules: [{name: r, action: deny, match: {sql: {kind: truncate}}}]\n";

#[test]
fn the_packs_are_well_formed_and_their_cases_pass() {
    let (set, warnings) = super::check::check_trusting(Path::new(PACKS), Trust::Anyone).unwrap();
    assert!(warnings.iter().all(|warning| warning.message.contains("not to root")), "{warnings:?}");
    assert_eq!(set.files().len(), 4);
    let report = run_tests(Path::new(PACKS)).unwrap();
    assert!(report.cases.len() >= 80);
    assert_eq!(report.failed(), 0, "{report}");
    // One may be used without another: each refuses what it cannot read, and replication.
    for file in set.files() {
        let flow = pack(file.file_name().unwrap().to_str().unwrap());
        assert_eq!(explained(&flow, "SELECT FROM WHERE")["verdict"], "deny", "{}", file.display());
    }
}

#[test]
fn no_way_of_writing_it_gets_a_statement_past_the_guardrails() {
    let flow = pack("postgres-guardrails.yaml");
    for text in [
        "drop table orders",
        "DROP/**/TABLE/**/orders",
        "/* /* nested */ */ DROP TABLE orders",
        "-- comment\nDROP TABLE orders",
        "; ; DROP TABLE orders",
        "SELECT 1; SELECT ';'; DROP TABLE \"Orders\"",
        "SELECT $$;$$; TRUNCATE orders",
        "SELECT E'\\';'; TRUNCATE orders --'",
        "DROP TABLE IF EXISTS a, b CASCADE",
        "DROP TABLE U&\"\\006Frders\"",
        "DO 'begin drop table orders; end'",
        "DO $x$ BEGIN IF true THEN PERFORM 1; TRUNCATE orders; END IF; END $x$",
        "DO $$ BEGIN EXECUTE 'dr' || 'op table orders'; END $$",
        "DO $$ BEGIN EXECUTE format('drop table %I', x) USING 1; END $$",
        "PREPARE p AS DELETE FROM orders WHERE 1=1",
        "EXPLAIN (ANALYZE) UPDATE orders SET a = 1",
        "WITH RECURSIVE x AS (DELETE FROM orders RETURNING *) SELECT 1",
        "DELETE FROM orders WHERE NOT false",
        "DELETE FROM orders WHERE 'a' = 'a' OR id = 5",
        "DELETE FROM ONLY orders AS o WHERE o.id = o.id OR o.id IS NULL OR true",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'begin drop table orders; end'",
        "CREATE RULE r AS ON INSERT TO a DO ALSO DELETE FROM orders",
        "COPY orders TO PROGRAM 'id'",
        "COPY (SELECT 1) TO '/tmp/x'",
        "SELECT pg_read_file($1)",
        "SELECT \"pg_catalog\".\"pg_read_file\"('x')",
        "SELECT * FROM dblink('host=x', 'select 1') AS t(a int)",
        "SELECT lo_export(1, '/tmp/x')",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x'",
        "SET SESSION AUTHORIZATION postgres",
        "SET standard_conforming_strings TO 'off'",
        "SELECT set_config('standard_conforming_' || 'strings', 'off', false)",
        "ALTER ROLE app SET standard_conforming_strings = off",
        "SELECT pg_catalog.pg_terminate_backend(1)",
        "SELECT 1 FROM",
        "SELECT 'unterminated",
    ] {
        assert_eq!(explained(&flow, text)["verdict"], "deny", "{text}");
    }
    for text in [
        "SELECT 'DROP TABLE orders'",
        "SELECT 1 -- DROP TABLE orders",
        "SELECT \"drop table\" FROM t",
        "VACUUM orders",
    ] {
        assert_eq!(explained(&flow, text)["verdict"], "allow", "{text}");
    }
}

#[test]
fn no_search_path_hides_a_table() {
    let flow = parse_str("p", EXAMPLE).unwrap().flow_of_all(&Subject::default(), &Asker::destination());
    for text in [
        "SELECT * FROM customers",
        "TABLE public.customers",
        "SELECT name FROM \"customers\" c",
        "SELECT 1 WHERE EXISTS (SELECT FROM customers)",
        "COPY customers TO STDOUT",
        "SELECT * FROM (SELECT * FROM public.customers) AS c",
        "SELECT * FROM customers LIMIT ALL",
        "SET search_path = public; SELECT * FROM customers",
    ] {
        let object = explained(&flow, text);
        let rule = &object["rule"];
        // COPY of a table is no query and so has no LIMIT to miss.
        if object["limit"] == Value::Null && object["statements"] == Value::Null {
            continue;
        }
        assert_eq!(rule, "bulk-read-off-main", "{text}: {object}");
    }
    assert_eq!(explained(&flow, "SELECT * FROM customers LIMIT 5")["verdict"], "allow");
    assert_eq!(explained(&flow, "SELECT * FROM sales.customers")["verdict"], "allow");
}

#[test]
fn explanations_have_the_documented_words() {
    let flow = parse_str("p", EXAMPLE).unwrap().flow_of_all(&Subject::default(), &Asker::destination());
    let one = explained(&flow, "DELETE FROM public.orders;");
    for key in [
        "text",
        "kind",
        "kinds",
        "classes",
        "reads",
        "writes",
        "functions",
        "where",
        "limit",
        "verdict",
        "rule",
        "message",
        "matched",
        "observed",
        "masks",
    ] {
        assert!(one.get(key).is_some(), "{key} is missing in {one}");
    }
    assert_eq!(one["kind"], "delete");
    assert_eq!(one["writes"], serde_json::json!(["public.orders"]));
    assert_eq!(
        (&one["where"], &one["verdict"], &one["rule"]),
        (&"missing".into(), &"hold".into(), &"unbounded-write".into())
    );
    let two = explained(&flow, "SELECT 1; DROP TABLE orders");
    assert_eq!(two["statements"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&two["statements"][0]["verdict"], &two["statements"][1]["rule"]),
        (&"allow".into(), &"no-drop".into())
    );
    assert_eq!((&two["verdict"], &two["rule"]), (&"deny".into(), &"no-drop".into()));
    assert_eq!(two["kinds"], serde_json::json!(["select", "drop_table"]));
    let none = explained(&flow, "-- nothing");
    assert_eq!(
        (&none["kind"], &none["verdict"], &none["statements"]),
        (&Value::Null, &"allow".into(), &serde_json::json!([]))
    );
    assert_eq!(explained(&flow, "SELEKT")["kind"], "unparsed");
    let words = explain(&flow, &asker(), "SELECT 1; DROP TABLE orders").to_string();
    assert!(
        words.contains("deny by rule no-drop") && words.contains("The whole string (2 statements)"),
        "{words}"
    );
}

#[test]
fn files_are_split_as_the_server_would() {
    let split = |text: &'static str| split(text);
    assert_eq!(split("select 1; select 2"), ["select 1;", "select 2"]);
    assert_eq!(
        split("select ';'; select $a$;$$;$a$; select \";\""),
        ["select ';';", "select $a$;$$;$a$;", "select \";\""]
    );
    assert_eq!(
        split("-- a;\nselect 1 /* ; /* ; */ ; */; select 2;"),
        ["-- a;\nselect 1 /* ; /* ; */ ; */;", "select 2;"]
    );
    assert_eq!(split("select E'\\';'; x"), ["select E'\\';';", "x"]);
    let atomic =
        "create function f() returns int begin atomic select 1; select case when true then 2 end; end;";
    assert_eq!(split(atomic), [atomic]);
    assert_eq!(split("begin; select 1; end; select 2"), ["begin;", "select 1;", "end;", "select 2"]);
    assert_eq!(
        split("create rule r as on insert to a do also (delete from b; delete from c); select 1").len(),
        2
    );
    assert_eq!(split(" ;; -- only\n ; "), [""; 0]);
    assert_eq!(
        split("select 1; select 'open; select 2; select 3"),
        ["select 1;", "select 'open; select 2; select 3"]
    );
    assert_eq!(split("asdf; select \u{1}; select 1"), ["asdf;", "select \u{1};", "select 1"]);
    assert_eq!(split("select 1; select a\0b; select 2").first(), Some(&"select 1;"));
    assert_eq!(split(""), [""; 0]);
}

#[test]
fn subjects_are_made_of_pairs() {
    let made =
        subject([("user", "deploy"), ("uid", "7"), ("ci.variables.A.B", "x"), ("argv", "a"), ("argv", "b")])
            .unwrap();
    assert_eq!((made.user.as_str(), made.uid), ("deploy", 7));
    assert_eq!(made.ci.variables.get("A.B").map(String::as_str), Some("x"));
    assert_eq!(made.argv, ["a", "b"]);
    assert!(subject([("ci.brnch", "x")]).unwrap_err().contains("did you mean `ci.branch`"));
    assert!(subject([("uid", "root")]).unwrap_err().contains("number"));
    // Every field of the expressions can be given, and so tried out.
    for field in
        super::facts::VARIABLES[0].1.iter().filter(|field| !["ci", "person", "workload"].contains(*field))
    {
        assert!(subject([(*field, "1")]).is_ok(), "{field}");
    }
    for field in
        super::facts::IDENTITY_FIELDS.iter().filter(|field| !["claims", "authenticated"].contains(*field))
    {
        for kind in ["person", "workload"] {
            assert!(subject([(format!("{kind}.{field}").as_str(), "1")]).is_ok(), "{field}");
        }
    }
    for field in super::facts::CI_FIELDS.iter().filter(|field| **field != "variables") {
        assert!(subject([(format!("ci.{field}").as_str(), "1")]).is_ok(), "{field}");
    }
}

fn warnings(rules: &str) -> Vec<String> {
    let directory = directory(&[("p.yaml", &format!("version: 1\nprocesses: [{{run: x}}]\n{rules}"))]);
    let (_, warnings) = check(directory.path()).unwrap_or_else(|errors| panic!("{errors}"));
    warnings.iter().filter(|w| !w.message.contains("not to root")).map(ToString::to_string).collect()
}

#[test]
fn what_cannot_be_meant_is_warned_of() {
    let sql = |name: &str, action: &str, sql: &str| {
        format!("- {{name: {name}, action: {action}, match: {{sql: {{{sql}}}}}}}\n")
    };
    let two = |a: String, b: String| warnings(&format!("rules:\n{a}{b}"));
    for (broad, narrow) in [
        ("class: write", "kind: delete"),
        ("kind: [delete, update]", "kind: delete, where: missing"),
        ("tables: public.*", "writes: [public.a, 'public.b*']"),
        ("functions: 'pg_*'", "functions: [pg_read_file, 'pg_ls_*']"),
        ("where: missing", "where: always_true"),
        ("columns: ssn", "columns: public.a.ssn"),
    ] {
        let shadowed = two(sql("a", "deny", broad), sql("b", "hold", narrow));
        assert!(
            shadowed.iter().any(|w| w.contains("`b` never decides: `a`")),
            "{broad} / {narrow}: {shadowed:?}"
        );
        let other = two(sql("a", "hold", broad), sql("b", "deny", narrow));
        assert!(!other.iter().any(|w| w.contains("never decides")), "{broad} / {narrow}: {other:?}");
        let reverse = two(sql("a", "deny", narrow), sql("b", "hold", broad));
        assert!(!reverse.iter().any(|w| w.contains("never decides")), "{broad} / {narrow}: {reverse:?}");
    }
    for (rules, what) in [
        ("rules: [{name: a, action: deny}]", "has no condition"),
        ("rules: [{name: a, action: deny, match: {sql: {}}}]", "has no condition"),
        ("rules: [{name: a, action: allow, match: {sql: {kind: select}}}]", "allows what is allowed anyway"),
        (
            "rules: [{name: a, action: deny, match: {sql: {kind: replication, where: missing}}}]",
            "has no WHERE",
        ),
        ("rules: [{name: a, action: deny, match: {sql: {kind: cancel, limit: missing}}}]", "has no LIMIT"),
        (
            "rules: [{name: a, action: deny, match: {sql: {kind: function_call, tables: x}}}]",
            "names no tables",
        ),
        (
            "rules: [{name: a, action: deny, match: {time: {from: \"8:00\", to: \"8:00\"}}}]",
            "begins when it ends",
        ),
        ("destinations: [{host: db}]", "every connection of these processes"),
    ] {
        let found = warnings(rules);
        assert!(found.iter().any(|warning| warning.contains(what)), "{rules}: {found:?}");
    }
    assert_eq!(
        warnings(
            "default: deny\nrules: [{name: a, action: allow, match: {sql: {kind: select, where: missing}}}]"
        ),
        [""; 0]
    );
    for (sql, pattern) in [
        ("tables: [Public.Customers]", "Public.Customers"),
        ("functions: [PG_Read_File]", "PG_Read_File"),
        ("columns: people.SSN", "people.SSN"),
        ("columns_read: '\"Odd\".Name'", "Name"),
    ] {
        let found = warnings(&format!("rules: [{{name: a, action: deny, match: {{sql: {{{sql}}}}}}}]"));
        assert!(found.iter().any(|w| w.contains(pattern) && w.contains("lower case")), "{sql}: {found:?}");
    }
    let mask = "masks: [{name: m, columns: [Customers.ssn], with: redact}]";
    assert!(warnings(mask).iter().any(|w| w.contains("mask `m`")));
    for sql in ["tables: '\"Public\".\"Customers\"'", "settings: Search_Path", "tables: public.customers"] {
        let found = warnings(&format!("rules: [{{name: a, action: deny, match: {{sql: {{{sql}}}}}}}]"));
        assert_eq!(found, [""; 0], "{sql}");
    }
    // A DO block can hold them side by side.
    for sql in [
        "kind: truncate, where: missing",
        "kind: unparsed, dynamic: true",
        "kind: drop_table, limit: missing",
    ] {
        let found = warnings(&format!("rules: [{{name: a, action: deny, match: {{sql: {{{sql}}}}}}}]"));
        assert_eq!(found, [""; 0], "{sql}");
    }
    let directory =
        directory(&[("p.yaml", "version: 1\nprocesses: [{user: no-such-user}]"), ("q.yaml", "version: 1")]);
    let (_, found) = check(directory.path()).unwrap();
    assert!(found.iter().any(|w| w.message.contains("no user `no-such-user`")), "{found:?}");
    assert!(found.iter().any(|w| w.message.contains("takes in no process")), "{found:?}");
}

#[test]
fn a_directory_is_read_in_order_and_all_or_nothing() {
    let named = |name: &str| POLICY.replace("name: r", &format!("name: {name}"));
    let directory = directory(&[
        ("20-b.yml", &named("b")),
        ("10-a.yaml", &named("a")),
        ("10-a.test.yaml", "not: [a policy"),
        (".hidden.yaml", "not: [a policy"),
        ("README.md", "x"),
    ]);
    let set = PolicySet::load_trusting(directory.path(), Trust::Anyone).unwrap();
    let names: Vec<_> = set.files().iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["10-a.yaml", "20-b.yml"]);
    assert_eq!(set.selection().entries.len(), 1, "equal entries are one");
    assert_eq!(set.hash().len(), 64);
    fs::write(directory.path().join("30-c.yaml"), named("a")).unwrap();
    fs::write(directory.path().join("40-d.yaml"), "version: 3").unwrap();
    let errors = PolicySet::load_trusting(directory.path(), Trust::Anyone).unwrap_err().to_string();
    assert!(errors.contains("30-c.yaml:3:16: `a` is already the name of the rule at"), "{errors}");
    assert!(errors.contains("40-d.yaml:1:10"), "{errors}");
    fs::write(directory.path().join("40-d.yaml"), [0xff, 0xfe]).unwrap();
    let errors = PolicySet::load_trusting(directory.path(), Trust::Anyone).unwrap_err().to_string();
    assert!(errors.contains("UTF-8"), "{errors}");
    let missing = PolicySet::load(Path::new("/no/such/directory")).unwrap_err().to_string();
    assert!(missing.contains("create it"), "{missing}");
    assert!(PolicySet::load_trusting(&directory.path().join("10-a.yaml"), Trust::Anyone).is_ok(), "one file");
}

#[test]
fn entries_of_several_files_are_united() {
    let one = "version: 1\nprocesses: [{run: x}]\ndestinations: {port: 5432}\negress: record\n";
    let two = "version: 1\nprocesses: [{run: x}, {run: y}]\ndestinations: [{cidr: 10.0.0.0/8, port: 5432}, {port: 6432}]\negress: allow\nresolvers: deny\n";
    let directory = directory(&[("a.yaml", one), ("b.yaml", two)]);
    let set = PolicySet::load_trusting(directory.path(), Trust::Anyone).unwrap();
    let selection = set.selection();
    let [x, y] = &selection.entries[..] else { panic!("{selection:?}") };
    assert_eq!((x.egress, x.resolvers, x.destinations.len()), (Egress::Record, false, 2));
    assert_eq!((y.egress, y.resolvers, y.destinations.len()), (Egress::Allow, false, 2));
    assert_ne!(x.id, y.id);
    let many: String = (0..65).map(|n| format!("  - {{run: r{n}}}\n")).collect();
    let errors = parse_str("p", &format!("version: 1\nprocesses:\n{many}")).unwrap_err().to_string();
    assert!(errors.contains("more than 64"), "{errors}");
}

#[test]
fn an_empty_directory_is_worth_a_warning() {
    let directory = directory(&[]);
    let (_, warnings) = super::check::check_trusting(directory.path(), Trust::Anyone).unwrap();
    assert!(warnings.iter().any(|w| w.message.contains("no process is designated")), "{warnings:?}");
    let errors = check(Path::new("/nosuch")).unwrap_err().to_string();
    assert!(errors.starts_with("/nosuch: cannot be read"), "{errors}");
}

/// Only root may change policies by which root's agent goes.
#[test]
fn files_that_others_can_change_are_refused() {
    let directory = directory(&[("p.yaml", POLICY)]);
    let file = directory.path().join("p.yaml");
    let refused = |what: &str| {
        let errors = PolicySet::load_trusting(directory.path(), Trust::Root).unwrap_err().to_string();
        assert!(errors.contains(what), "{errors}");
    };
    if !rustix::process::geteuid().is_root() {
        return refused("chown root:root");
    }
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    assert!(PolicySet::load(directory.path()).is_ok());
    mode(&file, 0o666);
    refused(&format!("chmod o-w {}", file.display()));
    // `policy check` says so too, and does not pass what the agent refuses.
    let errors = check(directory.path()).unwrap_err().to_string();
    assert!(errors.starts_with(&format!("{}: can be changed by everybody", file.display())), "{errors}");
    let noted = super::check::check_trusting(directory.path(), Trust::Anyone).unwrap().1;
    assert!(noted[0].message.contains("everybody"));
    mode(&file, 0o664);
    refused("chmod g-w");
    std::os::unix::fs::chown(&file, None, Some(12345)).unwrap();
    refused("chmod g-w");
    mode(&file, 0o644);
    assert!(PolicySet::load(directory.path()).is_ok());
    std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
    refused("chown root:root");
    std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
    // What a link points to counts.
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("x");
    fs::write(&target, POLICY.replace("name: r", "name: linked")).unwrap();
    std::os::unix::fs::symlink(&target, directory.path().join("q.yaml")).unwrap();
    assert!(PolicySet::load(directory.path()).is_ok());
    mode(&target, 0o646);
    refused("q.yaml");
    mode(&target, 0o644);
    // And the directories that the target lies in.
    mode(elsewhere.path(), 0o777);
    refused(&format!("chmod o-w {}", elsewhere.path().display()));
    mode(elsewhere.path(), 0o700);
    assert!(PolicySet::load(directory.path()).is_ok());
    mode(directory.path(), 0o777);
    refused("chmod o-w");
    mode(directory.path(), 0o700);
    // A pipe under a policy's name does not stop the agent.
    nix_fifo(&directory.path().join("z.yaml"));
    refused("no regular file");
}

fn nix_fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600), 0)
        .unwrap();
}

#[test]
fn a_store_replaces_policies_whole_or_not_at_all() {
    let directory = directory(&[("p.yaml", POLICY)]);
    let state = tempfile::tempdir().unwrap();
    let store = PolicyStore::load(directory.path(), state.path(), std::collections::BTreeSet::new()).unwrap();
    let generation = store.generation();
    let first = store.current();
    assert_eq!(generation.load(Ordering::Acquire), 1);
    assert!(!store.reload().unwrap(), "nothing has changed");
    fs::write(directory.path().join("p.yaml"), "version: 1\nrules: [{name: r}]").unwrap();
    let errors = store.reload().unwrap_err();
    assert!(errors.to_string().contains("p.yaml:2:9: `action` is missing"), "{errors}");
    assert_eq!(store.last_error(), Some(errors.to_string()));
    assert_eq!((store.current().hash(), generation.load(Ordering::Acquire)), (first.hash(), 1));
    fs::write(directory.path().join("p.yaml"), format!("{POLICY}egress: deny\n")).unwrap();
    assert!(store.reload().unwrap());
    assert_eq!((store.last_error(), generation.load(Ordering::Acquire)), (None, 2));
    assert_eq!(store.current().selection().entries[0].egress, Egress::Deny);
    fs::remove_file(directory.path().join("p.yaml")).unwrap();
    assert!(store.reload().unwrap());
    assert!(store.current().selection().entries.is_empty());
}

#[test]
fn changes_of_every_kind_are_told() {
    let directory = directory(&[("p.yaml", POLICY)]);
    let (told, changes) = mpsc::channel();
    let watcher = Watcher::watch(directory.path(), move || told.send(()).unwrap()).unwrap();
    let file = directory.path().join("p.yaml");
    let changed = |what: &str| {
        changes.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| panic!("{what} was not told"));
    };
    fs::write(&file, format!("{POLICY}# more\n")).unwrap();
    changed("writing");
    let new = directory.path().join(".p.yaml.new");
    fs::write(&new, POLICY).unwrap();
    fs::rename(&new, &file).unwrap();
    changed("replacing by renaming");
    fs::write(directory.path().join("q.yaml"), "version: 1").unwrap();
    changed("adding");
    fs::remove_file(&file).unwrap();
    changed("removing");
    drop(watcher);
}

#[test]
fn keyed_hashes_need_the_key() {
    let text = "version: 1\nmasks: [{name: m, columns: ssn, with: hash}]";
    let transform = |set: &PolicySet| {
        let flow = set.flow_of_all(&Subject::default(), &Asker::destination());
        flow.masks().column("a", "b", "ssn").unwrap().transform()
    };
    use crate::mask::Transform;
    assert_eq!(transform(&parse_str("p", text).unwrap()), Transform::Redact);
    assert_eq!(transform(&parse_str("p", text).unwrap().with_key(HashKey::new(&[1; 32]))), Transform::Hash);
}

#[test]
fn failing_cases_say_what_came_instead() {
    let cases = "version: 1\ncases:\n- {statement: TRUNCATE t, expect: {verdict: allow, rule: null, matched: []}}\n\
                 - {name: good, statement: TRUNCATE t, expect: {verdict: deny, rule: r}}\n";
    let directory = directory(&[("p.yaml", POLICY), ("p.test.yaml", cases), ("other.yaml", "not: [loaded")]);
    let report = run_tests(directory.path()).unwrap();
    assert_eq!((report.cases.len(), report.failed()), (2, 1));
    let words = report.to_string();
    for part in [
        "p.test.yaml:3:3: TRUNCATE t",
        "- expected allow",
        "+ got      deny",
        "- expected none",
        "+ got      r",
        "- expected []",
        "+ got      [r]",
        "1 passed, 1 failed",
    ] {
        assert!(words.contains(part), "{part} is not in\n{words}");
    }
    fs::write(
        directory.path().join("p.test.yaml"),
        "version: 1\ncases: [{expect: {verdict: deny}}, {statment: x, expect: {}}]",
    )
    .unwrap();
    let errors = run_tests(directory.path()).unwrap_err().to_string();
    for part in ["either a `statement` or a `kind`", "did you mean `statement`", "`verdict` is missing"] {
        assert!(errors.contains(part), "{part} is not in\n{errors}");
    }
}

#[test]
fn deciding_when_nothing_matches_allocates_nothing() {
    let flow = pack("postgres-guardrails.yaml");
    let script = Arc::new(crate::sql::analyze("SELECT a FROM t WHERE b = 1"));
    let operation = Operation { script, ..sample_operation() };
    let decision = flow.decide(&operation, &Subject::default());
    assert_eq!((decision.matched.capacity(), decision.observed.capacity()), (0, 0));
    assert!(flow.is_static());
}

#[test]
fn the_host_names_of_destinations_are_known() {
    let set = parse_str("p", EXAMPLE).unwrap();
    assert_eq!(set.host_names().iter().map(|name| &**name).collect::<Vec<_>>(), ["db.internal"]);
    let looked_up = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&looked_up);
    let hosts = Hosts::with_lookup(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(vec!["10.0.0.5".parse().unwrap()])
    });
    hosts.set_names(set.host_names());
    hosts.refresh();
    assert_eq!(looked_up.load(Ordering::Relaxed), 1);
    assert_eq!(hosts.names_of("10.0.0.5".parse().unwrap()).len(), 1);
}
