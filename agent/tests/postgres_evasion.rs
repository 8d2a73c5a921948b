//! Ways around a mask that were found and closed: each takes masked values somewhere from where they
//! would come out in another form, under another name, or as something else than a row.

mod common;

use common::wire::*;
use common::{HandMade, Relay, server};
use interlock_agent::mask::{HashKey, MaskSet, Transform};

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

/// Asks for each text by itself and looks at what comes.
fn try_each(client: &mut Client, texts: &[&str]) {
    for text in texts {
        client.ask(&query(text));
        nothing_seen(client, text);
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
