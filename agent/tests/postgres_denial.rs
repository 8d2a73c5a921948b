//! What a rule refuses does not reach the server, and leaves the session as a failed statement would.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::wire::*;
use common::{HandMade, Relay, server};
use interlock_agent::operation::Operation;
use interlock_agent::protocol::{Limits, PolicyHandle, Rules};
use interlock_agent::sql::Kind;

const REFUSED: &str = "interlock: refused by rule \"no-drop\": Tables are dropped by migrations only.";

/// Some statement of the operation says `forbidden`.
fn forbidden(operation: &Operation) -> bool {
    operation.text.contains("forbidden")
        || operation.script.statements.iter().any(|statement| statement.text.contains("forbidden"))
}

fn relay() -> Relay {
    Relay::start(server().address(), HandMade::denying(forbidden))
}

/// The error in an answer, if there is one.
fn outcome_of(answer: &[Message]) -> String {
    answer.iter().find_map(|message| message.field(b'M').filter(|_| message.tag == b'E')).unwrap_or_default()
}

/// FunctionCall with arguments in text format and a result in text format.
fn call(function: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend((arguments.len() as u16).to_be_bytes());
    for argument in arguments {
        body.extend((argument.len() as u32).to_be_bytes());
        body.extend(*argument);
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

fn refused(answer: &[Message]) -> u8 {
    let (code, message, status) = outcome(answer);
    assert_eq!((code.as_str(), message.as_str()), ("42501", REFUSED));
    status
}

#[test]
fn simple_query() {
    let relay = relay();
    let mut client = Client::connect(relay.address);
    let answer = client.ask(&query("select 'forbidden'"));
    assert_eq!(tags(&answer), "EZ");
    assert_eq!(refused(&answer), b'I');
    assert_eq!(answer[0].field(b'S').unwrap(), "ERROR");
    assert_eq!(answer[0].field(b'V').unwrap(), "ERROR");
    assert_eq!(answer[0].field(b'P'), None);
    // The connection lives on, and a string of several statements is refused whole.
    assert_eq!(client.rows("select 1"), [["1"]]);
    assert_eq!(tags(&client.ask(&query("select 2; select 'forbidden'"))), "EZ");
    assert!(!server().log().contains("select 'forbidden'"), "the text reached the server");
    assert!(server().log().contains("interlock refused this command by rule no_drop"));
}

#[test]
fn transactions_are_aborted_on_the_server_too() {
    let relay = relay();
    let mut client = Client::connect(relay.address);
    client.ask(&query("create temp table t (a int)"));
    client.ask(&query("begin"));
    client.ask(&query("insert into t values (1)"));
    assert_eq!(refused(&client.ask(&query("select 'forbidden'"))), b'E');
    assert_eq!(client.error("select 1").0, "25P02");
    // Refused in a failed transaction as well.
    assert_eq!(refused(&client.ask(&query("select 'forbidden'"))), b'E');
    assert_eq!(tags(&client.ask(&query("commit"))), "CZ");
    assert_eq!(client.rows("select count(*) from t"), [["0"]]);
    // To a savepoint and on.
    client.ask(&query("begin; insert into t values (2); savepoint s"));
    assert_eq!(refused(&client.ask(&query("select 'forbidden'"))), b'E');
    client.ask(&query("rollback to s"));
    client.ask(&query("commit"));
    assert_eq!(client.rows("select count(*) from t"), [["1"]]);
}

#[test]
fn extended_queries_in_a_pipeline() {
    let relay = relay();
    let mut client = Client::connect(relay.address);
    let run = |text: &str| [parse("", text), bind("", "", &[]), describe(b'P', ""), execute("", 0)].concat();
    client.send(
        &[
            run("select 1"),
            run("select 'forbidden'"),
            run("select 3"),
            sync(),
            run("select 4"),
            sync(),
            query("select 'forbidden'"),
            query("select 5"),
        ]
        .concat(),
    );
    let first = client.until_ready();
    assert_eq!(tags(&first), "12TDCEZ");
    assert_eq!(refused(&first), b'I');
    assert_eq!(tags(&client.until_ready()), "12TDCZ");
    assert_eq!(refused(&client.until_ready()), b'I');
    assert_eq!(client.until_ready()[1].texts(), ["5"]);
}

#[test]
fn within_a_skipped_pipeline() {
    // After an error the server ignores all up to Sync: a refusal there says nothing.
    let relay = relay();
    let mut client = Client::connect(relay.address);
    let answer = client.ask(
        &[parse("", "x y"), parse("", "select 'forbidden'"), query("select 'forbidden'"), sync()].concat(),
    );
    assert_eq!(tags(&answer), "EZ");
    assert_eq!(outcome(&answer).0, "42601");
    assert_eq!(client.rows("select 1"), [["1"]]);
}

#[test]
fn a_refused_parse_prepares_nothing() {
    let relay = relay();
    let mut client = Client::connect(relay.address);
    assert_eq!(refused(&client.ask(&[parse("s", "select 'forbidden'"), sync()].concat())), b'I');
    let answer = client.ask(&[bind("", "s", &[]), sync()].concat());
    assert_eq!(outcome(&answer).0, "26000");
    // The name is free.
    assert_eq!(tags(&client.ask(&[parse("s", "select 1"), sync()].concat())), "1Z");
}

#[test]
fn by_parameters_at_bind() {
    let relay = Relay::start(
        server().address(),
        HandMade::denying(|operation| operation.params.iter().any(|value| value.as_deref() == Some("42"))),
    );
    let mut client = Client::connect(relay.address);
    client.ask(&[parse("", "select $1::int4"), describe(b'S', ""), sync()].concat());
    assert_eq!(tags(&client.ask(&[bind("", "", &[Some("41")]), execute("", 0), sync()].concat())), "2DCZ");
    let answer = client.ask(&[bind("", "", &[Some("42")]), execute("", 0), sync()].concat());
    assert_eq!((refused(&answer), tags(&answer)), (b'I', "EZ".to_owned()));
    // The unnamed statement is still there, as after a failed Bind.
    assert_eq!(tags(&client.ask(&[bind("", "", &[Some("43")]), execute("", 0), sync()].concat())), "2DCZ");
    // In binary, by the type that the server described.
    let mut body = [cstr(""), cstr("")].concat();
    body.extend([0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 42, 0, 0]);
    assert_eq!(refused(&client.ask(&[message(b'B', &body), execute("", 0), sync()].concat())), b'I');
}

#[test]
fn a_reload_reaches_running_flows() {
    let generation = Arc::new(AtomicU64::new(0));
    let strict = Arc::clone(&generation);
    let policy = PolicyHandle::new(Arc::clone(&generation), move || {
        let on = strict.load(Ordering::Acquire) > 0;
        HandMade::denying(move |operation| on && forbidden(operation)) as Arc<dyn Rules>
    });
    let relay = Relay::with(server().address(), policy, Limits::default(), |_| ());
    let mut client = Client::connect(relay.address);
    client.ask(&query("begin"));
    client.ask(&[parse("s", "select 'forbidden'"), bind("p", "s", &[]), sync()].concat());
    assert_eq!(tags(&client.ask(&[execute("p", 0), sync()].concat())), "DCZ");
    client.ask(&[bind("q", "s", &[]), sync()].concat());
    generation.store(1, Ordering::Release);
    // Bound before, run after.
    assert_eq!(refused(&client.ask(&[execute("q", 0), sync()].concat())), b'E');
    client.ask(&query("rollback"));
    // Prepared before, bound after.
    assert_eq!(refused(&client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat())), b'I');
}

/// Rules that refuse what `denies` takes in once they are switched on.
fn switched(denies: impl Fn(&Operation) -> bool + Clone + Send + Sync + 'static) -> (Relay, Arc<AtomicU64>) {
    let generation = Arc::new(AtomicU64::new(0));
    let strict = Arc::clone(&generation);
    let policy = PolicyHandle::new(Arc::clone(&generation), move || {
        let on = strict.load(Ordering::Acquire) > 0;
        let denies = denies.clone();
        HandMade::denying(move |operation| on && denies(operation)) as Arc<dyn Rules>
    });
    (Relay::with(server().address(), policy, Limits::default(), |_| ()), generation)
}

fn kind(kind: Kind) -> impl Fn(&Operation) -> bool + Clone {
    move |operation| operation.script.statements.iter().any(|one| one.kinds.contains(&kind))
}

#[test]
fn one_namespace_for_both_ways_of_preparing() {
    let (relay, on) = switched(kind(Kind::Truncate));
    let mut client = Client::connect(relay.address);
    client.ask(&query("create temp table t (a int); insert into t values (1)"));
    client.ask(&query("prepare by_sql as select 1; prepare other as select 2"));
    // TRUNCATE cannot be prepared in SQL.
    assert_eq!(tags(&client.ask(&[parse("by_parse", "truncate t"), sync()].concat())), "1Z");
    on.store(1, Ordering::Release);
    assert_eq!(refused(&client.ask(&query("execute by_parse"))), b'I');
    assert_eq!(refused(&client.ask(&query("EXECUTE \"by_parse\""))), b'I');
    assert_eq!(refused(&client.ask(&query("explain analyze execute by_parse"))), b'I');
    assert_eq!(
        refused(
            &client.ask(&[parse("", "execute by_parse"), bind("", "", &[]), execute("", 0), sync()].concat())
        ),
        b'I'
    );
    assert_eq!(refused(&client.ask(&[bind("", "by_parse", &[]), execute("", 0), sync()].concat())), b'I');
    // A Parse that fails because the name is taken replaces nothing.
    let answer = client.ask(&[parse("by_parse", "select 1"), sync()].concat());
    assert_eq!(outcome(&answer).0, "42P05");
    assert_eq!(refused(&client.ask(&[bind("", "by_parse", &[]), execute("", 0), sync()].concat())), b'I');
    // Nor one whose fate is not known yet.
    client.send(
        &[
            parse("x", "no such"),
            parse("by_parse", "select 1"),
            sync(),
            bind("", "by_parse", &[]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    );
    client.until_ready();
    assert_eq!(refused(&client.until_ready()), b'I');
    assert_eq!(client.rows("select a from t"), [["1"]]);
    // Once the name is free it can stand for something else.
    client.ask(&query("deallocate by_parse"));
    assert_eq!(tags(&client.ask(&[parse("by_parse", "select 1"), sync()].concat())), "1Z");
    assert_eq!(tags(&client.ask(&[bind("", "by_parse", &[]), execute("", 0), sync()].concat())), "2DCZ");
    assert_eq!(client.rows("execute by_parse"), [["1"]]);
    client.ask(&query("discard all"));
    assert_eq!(outcome(&client.ask(&query("execute by_sql"))).0, "26000");
}

#[test]
fn names_that_nothing_was_prepared_under() {
    let relay = Relay::start(server().address(), HandMade::denying(kind(Kind::Unparsed)));
    let mut client = Client::connect(relay.address);
    assert_eq!(refused(&client.ask(&query("execute nothing"))), b'I');
    assert_eq!(refused(&client.ask(&[bind("", "nothing", &[]), sync()].concat())), b'I');
    assert_eq!(refused(&client.ask(&[execute("nothing", 0), sync()].concat())), b'I');
    assert_eq!(client.rows("prepare p as select 3; execute p"), [["3"]]);
    assert_eq!(client.rows("execute p"), [["3"]]);
    client.ask(&query("begin; declare c cursor for select 4"));
    assert_eq!(tags(&client.ask(&[execute("c", 0), sync()].concat())), "DCZ");
    assert_eq!(refused(&client.ask(&query("selec 1"))), b'E');
}

#[test]
fn settings_in_a_pipeline() {
    // What follows a change of the lexer's settings is judged only once the server has confirmed it.
    let relay = Relay::start(server().address(), HandMade::denying(kind(Kind::Unparsed)));
    let hidden = r"select 'a\'; drop table t; --'";
    for change in [
        "set standard_conforming_strings = off",
        "set standard_conforming_strings to 'off'",
        "select set_config('standard_conforming_strings', 'off', false)",
        "set client_encoding = 'SJIS'",
        "set names 'BIG5'",
        "do $$ begin set standard_conforming_strings = off; end $$",
    ] {
        let mut client = Client::connect(relay.address);
        client.send(&[query(change), query(hidden)].concat());
        client.until_ready();
        assert_eq!(refused(&client.until_ready()), b'I', "{change}");
        let mut client = Client::connect(relay.address);
        client.send(
            &[
                parse("", change),
                bind("", "", &[]),
                execute("", 0),
                parse("", hidden),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
        assert_eq!(refused(&client.until_ready()), b'I', "{change}");
        // Prepared first, run in front of it.
        let mut client = Client::connect(relay.address);
        client.ask(&[parse("s", change), sync()].concat());
        client.send(&[bind("", "s", &[]), execute("", 0), parse("", hidden), sync()].concat());
        assert_eq!(refused(&client.until_ready()), b'I', "{change}");
    }
    // By code of which the text of what runs it says nothing.
    let mut client = Client::connect(relay.address);
    for made in [
        "create function pg_temp.off() returns text language sql as $$ select set_config('standard_conforming_strings', 'off', false) $$",
        "create temp view v as select pg_temp.off()",
        "create temp table t (a text default pg_temp.off())",
        "prepare s as select pg_temp.off()",
    ] {
        assert_eq!(outcome_of(&client.ask(&query(made))), "", "{made}");
    }
    for change in [
        "select pg_temp.off()",
        "select * from v",
        "insert into t default values",
        "execute s",
        "begin; declare k cursor for select pg_temp.off(); fetch k",
        "do $$ begin execute 'set standard_conf' || chr(111) || 'rming_strings = off'; end $$",
    ] {
        client.send(&[query(change), query(hidden)].concat());
        client.until_ready();
        let status = refused(&client.until_ready());
        assert!(matches!(status, b'I' | b'E'), "{change}");
        client.ask(&query("rollback"));
        client.ask(&query("reset standard_conforming_strings"));
    }
    // By the function call message.
    let mut client = Client::connect(relay.address);
    client.send(&[call(2078, &[b"standard_conforming_strings", b"off", b"f"]), query(hidden)].concat());
    client.until_ready();
    assert_eq!(refused(&client.until_ready()), b'I');
    // The server answers a Flush without reporting what changed: it does so before ReadyForQuery.
    let mut client = Client::connect(relay.address);
    client.send(
        &[
            parse("", "set standard_conforming_strings = off"),
            bind("", "", &[]),
            execute("", 0),
            message(b'H', b""),
        ]
        .concat(),
    );
    while client.next().expect("the connection lives").tag != b'C' {}
    client.send(&query(hidden));
    assert_eq!(refused(&client.until_ready()), b'I');
    // What can be read in one way alone is read in the meantime.
    let mut client = Client::connect(relay.address);
    client.send(&[query("select pg_sleep(0)"), query("select 'it''s'")].concat());
    client.until_ready();
    assert_eq!(tags(&client.until_ready()), "TDCZ");
    // A rollback brings the harmful value back before the server says so.
    let mut client = Client::connect(relay.address);
    client.ask(&query("do $$ begin perform set_config('standard_conforming_strings', 'off', false); end $$"));
    assert_eq!(refused(&client.ask(&query(hidden))), b'I');
}

#[test]
fn rules_see_all_parameters_or_none_pass() {
    let rules = Limits { parameters: 1000, ..Limits::default() };
    let denies = HandMade::denying_by_params(|operation| {
        operation.params.iter().flatten().any(|value| value == "secret")
    });
    let policy = PolicyHandle::fixed(denies);
    let relay = Relay::with(server().address(), policy, rules, |_| ());
    let mut client = Client::connect(relay.address);
    let run = |first: &str, second: &str| {
        let text = parse("", "select length($1::text), length($2::text)");
        [text, bind("", "", &[Some(first), Some(second)]), execute("", 0), sync()].concat()
    };
    assert_eq!(tags(&client.ask(&run("a", "b"))), "12DCZ");
    assert_eq!(refused(&client.ask(&run("a", "secret"))), b'I');
    assert_eq!(outcome(&client.ask(&run(&"x".repeat(5000), "secret"))).0, "54000");
    assert_eq!(outcome(&client.ask(&run(&"x".repeat(1000), "secret"))).0, "54000");
    // An Execute that is judged once more is judged with the parameters of its Bind.
    client.ask(&query("begin"));
    let text = parse("", "select $1::text from generate_series(1, 3)");
    assert_eq!(
        tags(&client.ask(&[text, bind("p", "", &[Some("fine")]), execute("p", 1), sync()].concat())),
        "12DsZ"
    );
    assert_eq!(tags(&client.ask(&[execute("p", 1), sync()].concat())), "DsZ");
}

#[test]
fn parameters_that_grow_take_no_memory() {
    // Eight bytes that stand for a number of 131,069 digits, many times over.
    let relay = Relay::start(server().address(), HandMade::denying(|_| false));
    let mut client = Client::connect(relay.address);
    let count = 2000_u16;
    let mut text = b"\0select 1\0".to_vec();
    text.extend(count.to_be_bytes());
    (0..count).for_each(|_| text.extend(1700_u32.to_be_bytes()));
    let mut values = b"\0\0\0\x01\0\x01".to_vec();
    values.extend(count.to_be_bytes());
    (0..count).for_each(|_| values.extend([0, 0, 0, 8, 0, 0, 0x7f, 0xff, 0, 0, 0, 0]));
    values.extend([0, 0]);
    let before = resident();
    client.ask(&[message(b'P', &text), message(b'B', &values), sync()].concat());
    assert!(resident() < before + (64 << 20), "{} to {}", before, resident());
}

/// This process's memory, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second field is a number") * 4096
}

#[test]
fn what_a_name_may_run_is_bounded() {
    let relay = Relay::start(server().address(), HandMade::denying(kind(Kind::Unparsed)));
    let mut client = Client::connect(relay.address);
    // Each fails but the first, and leaves nothing behind.
    for number in 0..300 {
        client.ask(&query(&format!("prepare s as select {number}, 'a' as a{number}")));
    }
    assert_eq!(client.rows("execute s"), [["0", "a"]]);
    // All that might run under a name, in one batch, before the server has said which do.
    let mut batch: Vec<u8> =
        (0..300).flat_map(|n| query(&format!("prepare t as select {n} as b{n}"))).collect();
    batch.extend(query("execute t"));
    client.send(&batch);
    let answers: Vec<_> = (0..301).map(|_| client.until_ready()).collect();
    assert_eq!(refused(answers.last().unwrap()), b'I');
    assert_eq!(client.rows("execute t"), [["0"]]);
}

#[test]
fn a_session_that_a_reviewer_ends_is_told_why_and_over() {
    let relay = relay();
    let mut client = Client::connect(relay.address);
    client.ask(&query("create temp table t (a int)"));
    client.ask(&query("begin"));
    relay.cut_off.send_replace(Some("customer data, ticket 4711".into()));
    let error = client.next().expect("an error");
    assert!(client.next().is_none(), "the connection goes on");
    assert_eq!((error.field(b'S').as_deref(), error.field(b'C').as_deref()), (Some("FATAL"), Some("57P01")));
    let message = error.field(b'M').unwrap();
    assert_eq!(message, "interlock: a reviewer has ended this session: customer data, ticket 4711");
    let ended = || {
        let stored = String::from_utf8_lossy(&relay.stored()).into_owned();
        stored.contains("cut_off") && stored.contains("ticket 4711")
    };
    for _ in 0..1000 {
        if ended() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the recording does not say why the session ended");
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let policy = PolicyHandle::fixed(HandMade::denying(|_| false));
    let relay = Relay::with(server().address(), policy, Limits::default(), |config| {
        config.record.max_bytes = 64 << 10;
    });
    let mut client = Client::connect(relay.address);
    client.ask(&query("create temp table t (a int)"));
    client.ask(&query("begin"));
    let insert = format!("insert into t values (1) /* {} */", "x".repeat(1000));
    let (code, status) = (0..1000)
        .find_map(|_| {
            let answer = client.ask(&query(&insert));
            let error = answer.iter().find(|message| message.tag == b'E')?;
            Some((error.field(b'C').unwrap(), answer.last().unwrap().body[0]))
        })
        .expect("the recording has a limit");
    assert_eq!((code.as_str(), status), ("53100", b'E'));
    // The same for a pipeline, which is refused whole.
    let run = [parse("", &insert), bind("", "", &[]), execute("", 0), sync()].concat();
    // (When a segment is sealed, there is room again for a little: the server then says 25P02.)
    let refused = (0..100).any(|_| outcome(&client.ask(&run)).0 == "53100");
    assert!(refused, "no pipeline is refused");
}

#[test]
fn function_calls() {
    let relay = Relay::start(
        server().address(),
        HandMade::denying(|operation| {
            operation.script.statements.iter().any(|statement| {
                statement.kind == Kind::FunctionCall
                    && statement.functions.iter().any(|one| one.name == "lo_creat")
            })
        }),
    );
    let mut client = Client::connect(relay.address);
    let call = call(957, &[b"1"]);
    let answer = client.ask(&call);
    assert_eq!((refused(&answer), tags(&answer)), (b'I', "EZ".to_owned()));
    client.ask(&query("begin"));
    assert_eq!(refused(&client.ask(&call)), b'E');
    client.ask(&query("rollback"));
    assert_eq!(client.rows("select count(*) from pg_largeobject_metadata"), [["0"]]);
}

#[test]
fn replication_connections() {
    let relay = Relay::start(
        server().address(),
        HandMade::denying(|operation| {
            operation.script.statements.iter().any(|one| one.kind == Kind::Replication)
        }),
    );
    for value in ["true", "database", "1", "on"] {
        let mut client = Client::open(relay.address);
        client.startup(&[("replication", value)]);
        let answer = client.next().unwrap();
        assert_eq!(answer.field(b'S').unwrap(), "FATAL", "{value}");
        assert_eq!(answer.field(b'M').unwrap(), REFUSED);
        assert_eq!(client.next(), None);
    }
    Client::with(relay.address, &[("replication", "off")]);
    // Allowed, it works.
    let open = Relay::start(server().address(), HandMade::denying(|_| false));
    let mut client = Client::with(open.address, &[("replication", "database")]);
    assert_eq!(tags(&client.ask(&query("IDENTIFY_SYSTEM"))), "TDCZ");
    client.ask(&query("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL test_decoding"));
    client.ask(&query("select 1"));
}

#[test]
fn the_way_a_text_is_read() {
    // While the server reads texts in another way than the analyser, they are unparsed.
    let relay = Relay::start(
        server().address(),
        HandMade::denying(|operation| {
            operation.script.statements.iter().any(|one| one.kind == Kind::Unparsed)
        }),
    );
    let doubtful = query(r"select '\'");
    let mut client = Client::with(relay.address, &[("options", "-c standard_conforming_strings=off")]);
    assert_eq!(refused(&client.ask(&doubtful)), b'I');
    // This one reads the same either way.
    assert_eq!(client.rows("select 1"), [["1"]]);
    let mut client = Client::with(relay.address, &[("client_encoding", "SJIS")]);
    assert_eq!(refused(&client.ask(&query("select '\u{8868}'"))), b'I');
    let mut client = Client::connect(relay.address);
    // What turns it off is seen by the server's own report.
    client.ask(&query("do $$ begin perform set_config('standard_conforming_strings', 'off', false); end $$"));
    assert_eq!(refused(&client.ask(&doubtful)), b'I');
    // Not the encoding that it claims to be in.
    let mut client = Client::connect(relay.address);
    assert_eq!(refused(&client.ask(&message(b'Q', b"select '\xff'\0"))), b'I');
}

#[test]
fn limits() {
    let limits = Limits { statement: 1000, prepared: 3, ..Limits::default() };
    let policy = PolicyHandle::fixed(HandMade::denying(|_| false));
    let relay = Relay::with(server().address(), policy, limits, |_| ());
    let mut client = Client::connect(relay.address);
    let long = format!("select '{}'", "x".repeat(100_000));
    assert_eq!(client.error(&long).0, "54000");
    let answer = client.ask(&[parse("", &long), bind("", "", &[]), sync()].concat());
    assert_eq!((outcome(&answer).0.as_str(), tags(&answer).as_str()), ("54000", "EZ"));
    for name in ["a", "b", "c"] {
        assert_eq!(tags(&client.ask(&[parse(name, "select 1"), sync()].concat())), "1Z");
    }
    assert_eq!(outcome(&client.ask(&[parse("d", "select 1"), sync()].concat())).0, "54000");
    // A failed Parse takes no place, and a closed statement gives its own back.
    client.ask(&[close(b'S', "a"), sync()].concat());
    for name in ["d", "e", "f"] {
        assert_eq!(outcome(&client.ask(&[parse(name, "x y"), sync()].concat())).0, "42601");
    }
    assert_eq!(tags(&client.ask(&[parse("d", "select 1"), sync()].concat())), "1Z");
    // Parameters beyond the limit are forwarded whole.
    let limits = Limits { parameters: 100, ..Limits::default() };
    let relay =
        Relay::with(server().address(), PolicyHandle::fixed(HandMade::denying(|_| false)), limits, |_| ());
    let mut client = Client::connect(relay.address);
    let large = "p".repeat(1_000_000);
    let answer = client.ask(
        &[parse("", "select length($1)"), bind("", "", &[Some(&large)]), execute("", 0), sync()].concat(),
    );
    assert_eq!(answer[2].texts(), ["1000000"]);
}
