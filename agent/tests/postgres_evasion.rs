//! Ways around a mask that were found and closed: each takes masked values somewhere from where they
//! would come out in another form, under another name, or as something else than a row.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::wire::*;
use common::{HandMade, Relay, server};
use interlock_agent::identity::Subject;
use interlock_agent::mask::{Detector, HashKey, MaskSet, Transform};
use interlock_agent::operation::Operation;
use interlock_agent::policy::Decision;
use interlock_agent::protocol::{Limits, PolicyHandle, Rules};

/// What must never be seen. No detector finds it, and it is a number too.
const CARD: &str = "7310452986";
/// The same as int8's binary format has it.
const CARD_BINARY: [u8; 8] = 7_310_452_986i64.to_be_bytes();

/// A database with customers in it, and a relay that masks their cards.
fn setup(name: &str) -> (Relay, Client) {
    server().sql(&format!("create database \"{name}\""));
    let mut direct = Client::with(server().address(), &[("database", name)]);
    direct.rows(&format!(
        "create table customers (id int, card text, num bigint);
         insert into customers values (1, '{CARD}', 17);
         create table other (id int, name text);
         insert into other values (1, 'shown')"
    ));
    let masks = MaskSet::builder()
        .column("cards".into(), "public", "customers", "card", Transform::Redact)
        .build(&HashKey::new(&[7; 32]));
    let relay = Relay::start(server().address(), HandMade::masking(masks));
    let client = Client::with(relay.address, &[("database", name)]);
    (relay, client)
}

/// The value did not come, in text, binary or in two halves.
fn nothing_seen(client: &mut Client, what: &str) {
    let raw = client.take_raw();
    for secret in [CARD.as_bytes(), &CARD.as_bytes()[..5], &CARD_BINARY] {
        assert!(
            !raw.windows(secret.len()).any(|window| window == secret),
            "{what}: {}",
            String::from_utf8_lossy(&raw)
        );
    }
}

/// Masks of which some hold for the recording alone.
struct Observed {
    masks: Arc<MaskSet>,
    record: Arc<MaskSet>,
}

impl Rules for Observed {
    fn decide(&self, operation: &Operation, subject: &Subject) -> Decision {
        HandMade::denying(|_| false).decide(operation, subject)
    }

    fn masks(&self) -> &Arc<MaskSet> {
        &self.masks
    }

    fn record_masks(&self) -> &Arc<MaskSet> {
        &self.record
    }
}

/// Asks for each text by itself and looks at what comes.
fn try_each(client: &mut Client, texts: &[&str]) {
    for text in texts {
        let answer = client.ask(&query(text));
        nothing_seen(client, text);
        assert_eq!(answer.last().map(|message| message.tag), Some(b'Z'), "the flow ended: {text}");
    }
}

#[test]
fn columns_under_other_names() {
    let (_relay, mut client) = setup("aliases");
    try_each(
        &mut client,
        &[
            "select x || '' from customers as c(a, x)",
            "select c.x || '' from customers as c(a, x)",
            "select x || '' from (customers cross join (select 1) q) as j(a, x)",
            "select j.x || '' from (customers cross join (select 1) q) as j(a, x)",
            "select id || '' from (select * from customers c(card, id)) s",
            "select id || '' from (select c.* from customers c(card, id)) s",
            "select id || '' from (select * from (customers cross join (select 1) q) as j(card, id)) s",
            "select id || '' from (select j.* from (customers cross join (select 1) q) as j(card, id)) s",
            "with w as (table customers), v(card, id) as (select * from w) select id || '' from v",
            "with w(a, b) as (select '' as b, card from customers) select b || '' from w as z(p)",
            "select x || '' from other o(y, z), customers c(a, x)",
            "select (select x || '') from customers c(a, x)",
            "select id || '' from (customers natural join customers k) as j(card, id)",
        ],
    );
    assert_eq!(client.rows("select x || '' from other as o(a, x)"), [["shown"]]);
    assert_eq!(client.rows("select num + 0 from customers c(a, x)"), [["17"]]);
}

/// A computed column made of the masked one, and one that is not.
const COMPUTED: &str = "select card || '' from customers";
const PLAIN: &str = "select 'plain' || ''";

#[test]
fn a_portals_name_comes_to_mean_a_cursor() {
    let (_relay, mut client) = setup("portal names");
    for cursor in ["select card from customers", COMPUTED] {
        client.ask(&[parse("s", PLAIN), query("begin")].concat());
        client.ask(&[bind("p", "s", &[]), execute("p", 1), sync()].concat());
        client.ask(&query("close p"));
        client.ask(&query(&format!("declare p cursor for {cursor}")));
        client.ask(&[execute("p", 0), sync()].concat());
        client.ask(&query("rollback"));
        nothing_seen(&mut client, "a cursor of a portal's name");
        // The same in one pipeline, and between two cursors.
        client.ask(&query("begin"));
        client.send(
            &[
                bind("p", "s", &[]),
                execute("p", 1),
                query("close p"),
                query(&format!("declare p cursor for {cursor}")),
                execute("p", 0),
                sync(),
                query("rollback"),
            ]
            .concat(),
        );
        for _ in 0..4 {
            client.until_ready();
        }
        nothing_seen(&mut client, "in a pipeline");
        client.ask(&query("begin"));
        client.ask(&query(&format!("declare k cursor for {PLAIN}")));
        client.ask(&[execute("k", 0), sync()].concat());
        client.ask(&query(&format!("close k; declare k cursor for {cursor}")));
        client.ask(&[execute("k", 0), sync()].concat());
        client.ask(&query("rollback"));
        nothing_seen(&mut client, "two cursors");
        // Closed and declared by the extended protocol itself.
        client.ask(&query("begin"));
        let run = |text: &str| [parse("", text), bind("", "", &[]), execute("", 0)].concat();
        let declare = run(&format!("declare p cursor for {cursor}"));
        client.ask(
            &[bind("p", "s", &[]), execute("p", 1), run("close p"), declare, execute("p", 0), sync()]
                .concat(),
        );
        client.ask(&query("rollback"));
        nothing_seen(&mut client, "extended");
        client.ask(&[close(b'S', "s"), sync()].concat());
        client.take_raw();
    }
    // A portal is a cursor to SQL.
    client.ask(&query("begin"));
    client.ask(&[parse("c", COMPUTED), bind("q", "c", &[]), sync()].concat());
    client.ask(&query("fetch all from q"));
    client.ask(&query("rollback"));
    nothing_seen(&mut client, "FETCH from a portal");
}

#[test]
fn a_bind_that_fails_leaves_the_portal_as_it_was() {
    let (_relay, mut client) = setup("failed binds");
    for (refused, what) in [
        (bind("p", "t", &[]), "a Bind of a name in use"),
        ([bind("x", "none", &[]), bind("p", "t", &[])].concat(), "a Bind that is skipped"),
    ] {
        client.ask(&query("begin"));
        client.ask(&[parse("s", COMPUTED), parse("t", PLAIN), bind("p", "s", &[]), sync()].concat());
        client.ask(&query("savepoint a"));
        client.ask(&[refused, sync()].concat());
        client.ask(&query("rollback to a"));
        let answer = client.ask(&[execute("p", 0), sync()].concat());
        assert_eq!(tags(&answer), "DCZ", "{what}");
        client.ask(&query("rollback; deallocate all"));
        nothing_seen(&mut client, what);
    }
}

#[test]
fn names_that_the_server_cuts() {
    let (_relay, mut client) = setup("long names");
    let name = |end: &str| format!("{}{end}", "n".repeat(63));
    client.ask(&[parse(&name("1"), PLAIN), sync()].concat());
    client.ask(&[close(b'S', &name("2")), parse(&name("3"), COMPUTED), sync()].concat());
    let answer = client.ask(&[bind("", &name("1"), &[]), execute("", 0), sync()].concat());
    assert_eq!(tags(&answer), "2DCZ");
    nothing_seen(&mut client, "a statement");
    client.ask(&query("begin"));
    client.ask(&[parse("s", PLAIN), bind(&name("1"), "s", &[]), close(b'P', &name("2")), sync()].concat());
    client.ask(&[bind(&name("3"), &name("3"), &[]), sync()].concat());
    assert_eq!(tags(&client.ask(&[execute(&name("1"), 0), sync()].concat())), "DCZ");
    client.ask(&query("rollback"));
    nothing_seen(&mut client, "a portal");
}

#[test]
fn names_that_code_on_the_server_makes() {
    let (_relay, mut client) = setup("hidden names");
    client.ask(&query("begin"));
    try_each(
        &mut client,
        &[
            "do $$ declare c refcursor := 'c'; begin open c for select card || '' from customers; end $$",
            "fetch all from c",
            "close c; declare c cursor for select 'plain' || ''",
            "do $$ declare c refcursor := 'c'; begin close c; open c for select card || '' from customers; end $$",
            "fetch all from c",
            "rollback",
            "prepare s as select 'x'::text",
            "do $$ begin execute 'deallocate s'; execute 'prep' || chr(97) || 're s as select card || '''' from customers'; end $$",
            "execute s",
            "prepare s as select 'x'::text",
            "execute s",
        ],
    );
    client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat());
    nothing_seen(&mut client, "a Bind of a hidden statement");
    // What is made anew is known again.
    client.ask(&query("deallocate s"));
    client.ask(&query("prepare s as select 'x'::text"));
    assert_eq!(client.rows("execute s"), [["x"]]);
    assert_eq!(
        client.ask(&[parse("u", PLAIN), bind("", "u", &[]), execute("", 0), sync()].concat())[2].texts(),
        ["plain"]
    );
    // A text that the server rejects as well makes nothing unknown.
    client.ask(&query("selec 1"));
    assert_eq!(client.rows("execute s"), [["x"]]);
    client.ask(&query("begin; declare d cursor for select 1 + 1"));
    client.ask(&query("fetch d"));
    client.ask(&query("rollback"));
}

#[test]
fn every_statement_of_a_text_that_is_not_read() {
    let (_relay, mut client) = setup("unread");
    let blanks = " ".repeat(4 << 20);
    try_each(
        &mut client,
        &[
            &format!("{blanks}select 1; {COMPUTED}; {COMPUTED}"),
            &format!("{blanks}select 1; select 2; {COMPUTED}"),
        ],
    );
}

#[test]
fn ordinary_portals_are_judged_and_described_once() {
    let (_relay, mut client) = setup("ordinary");
    let run = [bind("", "s", &[]), execute("", 0)].concat();
    client.ask(&[parse("s", PLAIN), sync()].concat());
    let answer = client.ask(&[run.repeat(3), sync()].concat());
    assert_eq!(tags(&answer), "2DC2DC2DCZ");
    client.ask(&query("begin"));
    let all = parse("g", "select i || '' from generate_series(1, 3) i");
    let answer = client.ask(
        &[all, bind("g", "g", &[]), execute("g", 1), execute("g", 1), describe(b'P', "g"), sync()].concat(),
    );
    assert_eq!(tags(&answer), "12DsDsTZ");
    let answer = client.ask(&[run, execute("g", 0), close(b'P', "g"), sync()].concat());
    assert_eq!(tags(&answer), "2DCDC3Z");
    assert_eq!(answer[3].texts(), ["3"]);
}

#[test]
fn errors_and_notices_of_every_sort() {
    let (_relay, mut client) = setup("errors");
    let raise = |what: &str| {
        format!("do $$ declare v text; begin select card into v from customers; raise {what}; end $$")
    };
    let raised = [
        "notice using message = v, errcode = 'ZZ999'",
        "exception using message = v, errcode = '42P01'",
        "exception using message = 'syntax error at or near \"' || v || '\"', errcode = '42601'",
        "exception 'x' using table = v",
        "exception 'x' using column = v",
        "exception 'x' using constraint = v",
        "exception 'x' using datatype = v",
        "exception 'x' using schema = v",
        "notice using message = 'x', errcode = substr(v, 1, 5)",
        "warning using message = 'x', errcode = substr(v, 1, 5)",
        "exception using message = 'x', errcode = substr(v, 1, 5)",
        "exception using message = 'x', hint = v, detail = v",
    ]
    .map(raise);
    let texts: Vec<&str> = raised.iter().map(String::as_str).collect();
    try_each(&mut client, &texts);
    try_each(
        &mut client,
        &[
            "select current_setting(card) from customers",
            "select ('\"' || card || '\"')::regclass from customers",
            "select ('a.b.c.d' || card)::regclass from customers",
            "select card::regoper from customers",
            "select ('\"' || card || '\"')::regtype from customers",
            "select to_tsquery('(' || card) from customers",
            "select chr(card::bigint::int) from customers",
            "select get_bit('\\x00'::bytea, card::bigint) from customers",
            "select get_byte('\\x00'::bytea, substr(card, 1, 5)::int) from customers",
            "select to_char(now(), 'x') || ('{' || card)::json from customers",
            "select setseed(card::float8) from customers",
            "select xmlparse(document '<' || card) from customers",
            "select nextval('\"' || card || '\"') from customers",
            "select has_table_privilege(card, 'select') from customers",
            "select card::int2 from customers",
            "select extract(epoch from card::interval) || card::date from customers",
            "do $$ declare v text; begin select card into v from customers; execute 'select \"' || v || '\"'; end $$",
            "do $$ declare v text; begin select card into v from customers; execute 'selec ' || v; end $$",
            "do $$ declare v text; begin select card into v from customers; execute 'select * from \"' || v || '\"'; end $$",
            "do $$ declare v text; begin select card into v from customers; assert false, v; end $$",
            "create temp table u (card text unique); insert into u select card from customers; insert into u select card from customers",
            "create temp view opt as select card, id from customers where id > 5 with check option",
            "update opt set id = 1",
            "begin; select count(card) from customers; insert into opt select card, 1 from customers",
            "rollback",
        ],
    );
}

#[test]
fn plain_errors_stay_readable() {
    let (_relay, mut client) = setup("readable");
    client.ask(&query("create table keyed (id int primary key, c_id int not null, card text)"));
    client.ask(&query("insert into keyed values (1, 1, 'x')"));
    for (text, state, message) in [
        ("select 1 / 0 from customers", "22012", "division by zero"),
        ("select nme from customers", "42703", "column \"nme\" does not exist"),
        ("select * from customers join nowhere using (id)", "42P01", "relation \"nowhere\" does not exist"),
        ("select foo(card) from customers", "42883", "function foo(text) does not exist"),
        ("select card + 1 from customers", "42883", "operator does not exist: text + integer"),
        ("select card frm customers", "42601", "syntax error at or near \"customers\""),
        (
            "insert into keyed select id, id, card from customers",
            "23505",
            "duplicate key value violates unique constraint \"keyed_pkey\"",
        ),
        (
            "insert into keyed select id + 1, null, card from customers",
            "23502",
            "null value in column \"c_id\" of relation \"keyed\" violates not-null constraint",
        ),
        (
            "select ('x' || card)::int from customers",
            "22P02",
            "invalid input syntax for type integer: [redacted]",
        ),
        ("select 'x'::int", "22P02", "invalid input syntax for type integer: \"x\""),
    ] {
        let (found_state, found, _) = client.error(text);
        assert_eq!((found_state.as_str(), found.as_str()), (state, message), "{text}");
        nothing_seen(&mut client, text);
    }
    client.ask(&query("create role reader"));
    client.ask(&query("set role reader"));
    assert_eq!(client.error("select card from customers").1, "permission denied for table customers");
}

#[test]
fn what_a_session_leaves_for_later() {
    let (_relay, mut client) = setup("left");
    client.ask(&query("listen x; create sequence q"));
    try_each(
        &mut client,
        &[
            "select set_config('application_name', card, false) from customers",
            "select set_config('a.b', card, false) from customers",
            "select set_config('a.b', v, false) from (select upper(card) v from customers) s",
            "select set_config('a.b', (select card from customers), false)",
            "update pg_settings set setting = (select card from customers) where name = 'application_name'",
            "do $$ declare v text; begin select card into v from customers; perform set_config('a.b', v, false); end $$",
            "do $$ declare v text; begin select card into v from customers; execute 'select set_config(''a.b'', $1, false)' using v; end $$",
            "prepare s as select set_config('a.b', card, false) from customers",
            "execute s",
            "show a.b",
            "select current_setting('a.b', true)",
            "show application_name",
            "select pg_notify('x', card) from customers",
            "select pg_notify('x' || card, '') from customers",
            "select pg_advisory_lock(card::bigint) from customers",
            "select c.* from customers, lateral pg_try_advisory_xact_lock(card::bigint) c",
            "select (classid::bigint << 32) + objid::bigint from pg_locks where locktype = 'advisory'",
            "select setval('q', card::bigint) from customers",
            "select last_value from q",
            "select lo_from_bytea(4711, card::bytea) from customers",
            "select convert_from(lo_get(4711), 'UTF8')",
            "do $$ begin execute 'select set_config(''application_name'', ca' || 'rd, false) from customers'; end $$",
            "select 1",
            "do $$ begin execute 'select pg_notify(''x'', ca' || 'rd) from customers'; end $$",
            "select 1",
        ],
    );
    assert_eq!(client.error("select set_config('a.b', card, false) from customers").0, "42501");
    // Where no masked value is handed on, nothing is refused.
    assert_eq!(
        client.rows("select pg_try_advisory_xact_lock(id), card from customers"),
        [["t", "[redacted]"]]
    );
    client.ask(&query("set application_name = 'mine'"));
    assert_eq!(client.rows("show application_name"), [["mine"]]);
}

#[test]
fn function_call_messages() {
    let (_relay, mut client) = setup("calls");
    for (function, arguments) in [
        (2924, ["select card from customers", "f", "f", ""]),
        (2923, ["customers", "f", "f", ""]),
        (2933, ["public", "f", "f", ""]),
    ] {
        let answer = client.ask(&function_call(function, &arguments));
        assert_eq!(answer[0].field(b'C').unwrap(), "42501");
        nothing_seen(&mut client, "a function call");
    }
    client.ask(&query("begin"));
    assert_eq!(tags(&client.ask(&function_call(957, &["-1"]))), "VZ", "lo_creat");
    client.ask(&query("rollback"));
    // A rule on the table holds for them as for SQL.
    let relay = Relay::start(
        server().address(),
        HandMade::denying(|operation| {
            operation.script.statements.iter().any(|statement| {
                statement.columns_read.iter().any(|column| matches!(&*column.name, "num" | "*"))
                    || statement.reads.iter().any(|relation| relation.name == "*")
            })
        }),
    );
    let mut client = Client::with(relay.address, &[("database", "calls")]);
    for (function, arguments, tags_of_answer) in [
        (2924, ["select num from customers", "f", "f", ""], "EZ"),
        (2924, ["select '\\', num from customers --'", "f", "f", ""], "EZ"),
        (2924, ["select id from customers", "f", "f", ""], "VZ"),
        (2923, ["customers", "f", "f", ""], "EZ"),
        (2923, ["16384", "f", "f", ""], "EZ"),
        (2933, ["public", "f", "f", ""], "EZ"),
    ] {
        let answer = client.ask(&function_call(function, &arguments));
        assert_eq!(tags(&answer), tags_of_answer, "{arguments:?}");
    }
}

#[test]
fn copies_in_an_encoding_that_splits_letters() {
    let (_relay, mut client) = setup("encodings");
    let copy = "copy (select U&'\\8868', card, U&'\\30dd' from customers) to stdout (delimiter '|')";
    client.ask(&[parse("s", copy), sync()].concat());
    client.ask(&query("set client_encoding = 'SJIS'"));
    client.send(&[bind("", "s", &[]), execute("", 0), sync()].concat());
    client.until_ready();
    nothing_seen(&mut client, "set before");
    let mut client = Client::with(client.stream.peer_addr().unwrap(), &[("database", "encodings")]);
    client.send(&query(&format!("set client_encoding = 'SJIS'; {copy}")));
    client.until_ready();
    nothing_seen(&mut client, "set in the same text");
}

#[test]
fn numbers_in_binary_copies() {
    server().sql("create database numbers");
    let masks = MaskSet::builder()
        .detector("cards".into(), Detector::PaymentCard, Transform::Redact)
        .build(&HashKey::new(&[7; 32]));
    let relay = Relay::start(server().address(), HandMade::masking(masks));
    let mut client = Client::with(relay.address, &[("database", "numbers")]);
    client.ask(&query("create table t as select 4111111111111111 as big, 4111111111111111::numeric as num"));
    for what in ["t", "(select big, num from t)"] {
        let text = format!("copy {what} to stdout (format binary)");
        let answer = client.ask(&query(&text));
        assert_eq!(tags(&answer), "HddcCZ");
        // Two columns, both NULL.
        assert!(answer[1].body.ends_with(&[0, 2, 255, 255, 255, 255, 255, 255, 255, 255]), "{what}");
    }
    let plain = "copy (select now(), 1.5::float8, 12345678901::bigint, 0.25) to stdout (format binary)";
    let answer = client.ask(&query(plain));
    assert!(!answer[1].body.windows(4).any(|length| length == [255; 4]), "{:?}", answer[1]);
}

#[test]
fn what_is_only_observed_is_not_stored_either() {
    server().sql("create database observed");
    let masks = MaskSet::builder()
        .detector("mail".into(), Detector::Email, Transform::Redact)
        .build(&HashKey::new(&[7; 32]));
    let policy = Observed { masks: Arc::default(), record: Arc::new(masks) };
    let relay = Relay::start(server().address(), Arc::new(policy));
    let mut client = Client::with(relay.address, &[("database", "observed")]);
    let mail = "ann.secret@example.com";
    for text in [
        "select 'ann.' || 'secret@example.com'",
        "select ('ann.' || 'secret@example.com')::int",
        "do $$ begin raise notice '%', 'ann.' || 'secret@example.com'; end $$",
        "select 1 as \"ann.secret@example.com\"",
    ] {
        client.ask(&query(text));
        let raw = client.take_raw();
        assert!(
            raw.windows(mail.len()).any(|window| window == mail.as_bytes()),
            "the client sees it: {text}"
        );
    }
    // A binary parameter of a type that is not known.
    let value = "bob.secret@example.com";
    let mut body = [cstr(""), cstr("s"), vec![0, 1, 0, 1, 0, 1]].concat();
    body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
    body.extend(value.as_bytes());
    body.extend([0, 0]);
    client.ask(&[parse("s", "select $1::text"), sync()].concat());
    client.ask(&[message(b'B', &body), execute("", 0), sync()].concat());
    client.send(&message(b'X', &[]));
    assert_eq!(client.next(), None);
    relay.recorder.close().unwrap();
    let recorded = relay.stored();
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(!recorded.windows(hex.len()).any(|window| window == hex.as_bytes()));
    assert!(recorded.windows(8).any(|window| window == b"redacted"));
    assert!(!recorded.windows(mail.len()).any(|window| window == mail.as_bytes()));
}

#[test]
fn views_of_masked_columns() {
    let (relay, mut client) = setup("views");
    try_each(
        &mut client,
        &[
            "begin; create temp view v as select card as x from customers; select x from v; rollback",
            "begin; create temp view v as select card as x from customers; select x || '' from v; rollback",
            "begin; create temp view v as select card as x from customers; copy (select x from v) to stdout",
            "rollback",
            "begin; create temp view v as select card as x from customers; select set_config('a.b', x, false) from v",
            "rollback",
            "show a.b",
            "begin; create temp view v as select card as x from customers; alter view v rename to u; select x || '' from u; rollback",
            "begin; create temp view v as select card as x from customers; savepoint a; select 1; rollback to a; select x || '' from v; rollback",
            "begin; create temp table v as select card as x from customers; create temp view u as select x as y from v; select y from u; rollback",
            "begin; create temp table v (x text); insert into v select card from customers; select x, x || '' from v; rollback",
            "create temp view w as select card as x, ''::text as card from customers",
            "select x, x || '' from w",
            "create temp view j as select to_jsonb(c) as doc from customers c",
            "select doc from j",
            "create temp view k as select reverse(reverse(card)) as card from customers",
            "select card from k",
            "create view known as select name as id, name from other",
            "select id from known",
            "begin",
            "create or replace view known as select card as id, '' || id as name from customers",
            "select id, id || '' from known",
            "copy (select id from known) to stdout",
            "rollback",
            "create table family (card text, id int, num bigint); alter table customers inherit family",
            "select card from family",
            "select card || '' from family",
            "alter table customers no inherit family",
        ],
    );
    // Another connection makes a view while this one is within a transaction, and before it begins one.
    let mut other = Client::with(relay.address, &[("database", "views")]);
    client.ask(&query("begin; select 1"));
    other.ask(&query("create view fresh as select card as x from customers"));
    try_each(
        &mut client,
        &[
            "select x from fresh",
            "select x || '' from fresh",
            "copy (select x from fresh) to stdout",
            "create temp view over_it as select x as y from fresh; select y from over_it",
            "commit",
            "select x from fresh",
            "select x || '' from fresh",
        ],
    );
    other.ask(&query("create or replace view fresh as select ''::text as x"));
    assert_eq!(client.rows("select x from fresh"), [[""]]);
    other.ask(&query("create or replace view fresh as select card as x from customers"));
    try_each(&mut client, &["select x from fresh"]);
    // What holds nothing masked is shown at once.
    client.ask(&query("begin; create temp table mine as select * from other"));
    assert_eq!(client.rows("select name, name || '' as x from mine"), [["shown", "shown"]]);
    client.ask(&query("create temp view mine_too as select m.name as n from mine m"));
    assert_eq!(client.rows("select n from mine_too"), [["shown"]]);
    client.ask(&query("rollback"));
    // A view's plain columns have the mask itself.
    client.ask(&query("create view renamed as select id, card as number from customers"));
    assert_eq!(client.rows("select id, number from renamed"), [["1", "[redacted]"]]);
}

#[test]
fn portals_of_older_policies() {
    let (_, mut direct) = setup("reload");
    direct.ask(&query("update customers set card = 'ann@example.com'"));
    let detecting = || MaskSet::builder().detector("mail".into(), Detector::Email, Transform::Redact);
    let column = |builder: interlock_agent::mask::Builder| {
        builder.column("cards".into(), "public", "customers", "card", Transform::Redact)
    };
    for (old, new) in [
        (MaskSet::builder(), detecting()),
        (MaskSet::builder(), column(MaskSet::builder())),
        (MaskSet::builder().detector("ip".into(), Detector::IpAddress, Transform::Redact), detecting()),
    ] {
        let key = HashKey::new(&[7; 32]);
        let (old, new): (Arc<dyn Rules>, Arc<dyn Rules>) =
            (HandMade::masking(old.build(&key)), HandMade::masking(new.build(&key)));
        let generation = Arc::new(AtomicU64::new(0));
        let now = Arc::clone(&generation);
        let policy = PolicyHandle::new(Arc::clone(&generation), move || {
            Arc::clone(if now.load(Ordering::Acquire) == 0 { &old } else { &new })
        });
        let relay = Relay::with(server().address(), policy, Limits::default(), |_| ());
        let mut client = Client::with(relay.address, &[("database", "reload")]);
        client.ask(&query("begin"));
        client.ask(
            &[parse("s", "select card from customers"), bind("p", "s", &[]), describe(b'P', "p"), sync()]
                .concat(),
        );
        generation.store(1, Ordering::Release);
        client.ask(&[execute("p", 0), sync()].concat());
        let raw = client.take_raw();
        assert!(!raw.windows(3).any(|window| window == b"ann"), "{}", String::from_utf8_lossy(&raw));
    }
}
