//! A masked column's value does not reach the client, whichever way it is asked for.

mod common;

use std::sync::Arc;

use common::wire::*;
use common::{HandMade, Relay, server};
use interlock_agent::mask::{HashKey, MaskSet, Transform};
use interlock_agent::protocol::Limits;

/// What must never be seen: a name and a number, which no detector finds.
const NAME: &str = "Wilhelmina";
const SALARY: &str = "987654";

/// A database with customers in it, and a relay that masks two of their columns.
fn setup(name: &str) -> (Relay, Client) {
    server().sql(&format!("create database \"{name}\""));
    let mut direct = Client::with(server().address(), &[("database", name)]);
    direct.rows(&format!(
        "create table customers (id int primary key, name text, salary int check (salary < 1000000), note text);
         insert into customers values (1, '{NAME}', {SALARY}, 'plain'), (2, null, null, null);
         create view renamed as select id, name as called, salary as salary from customers;
         create view stacked as select id, called, salary from renamed;
         create table other (id int, name text);
         insert into other values (1, 'shown');
         create table parent (id int, secret text) partition by range (id);
         create table part (like parent);
         alter table parent attach partition part for values from (0) to (10);
         insert into parent values (1, '{NAME}');
         create schema elsewhere;
         analyze"
    ));
    let masks = MaskSet::builder()
        .column("names".into(), "public", "customers", "name", Transform::Null)
        .column("salaries".into(), "public", "customers", "salary", Transform::Null)
        .column("secrets".into(), "public", "parent", "secret", Transform::Null)
        .build(&HashKey::new(&[7; 32]));
    let relay = Relay::start(server().address(), HandMade::masking(masks));
    let client = Client::with(relay.address, &[("database", name)]);
    (relay, client)
}

/// Neither value came, in text or binary.
fn nothing_seen(client: &mut Client, what: &str) {
    let raw = client.take_raw();
    let salary = SALARY.parse::<i32>().unwrap().to_be_bytes();
    for secret in [NAME.as_bytes(), SALARY.as_bytes(), &salary] {
        assert!(
            !raw.windows(secret.len()).any(|window| window == secret),
            "{what}: {}",
            String::from_utf8_lossy(&raw)
        );
    }
}

#[test]
fn by_origin_whatever_the_alias() {
    let (_relay, mut client) = setup("origin");
    assert_eq!(
        client.rows("select id, name as x, salary, note from customers order by id"),
        [["1", "NULL", "NULL", "plain"], ["2", "NULL", "NULL", "NULL"]]
    );
    assert_eq!(client.rows("select name from other"), [["shown"]]);
    assert_eq!(
        client.rows("select o.name, c.name from other o join customers c using (id)"),
        [["shown", "NULL"]]
    );
    for text in [
        "select * from customers",
        "table customers",
        "select (c).* from (select c from customers c) s",
        "with w as (select * from customers) select * from w",
        "select name from only customers union all select name from other where false",
        "update customers set note = 'x' returning *",
        "select * from renamed",
        "select called from renamed",
        "select * from stacked",
        "select * from parent",
        "select * from part",
        "begin; declare c cursor for select * from customers; fetch all from c; fetch backward all from c; commit",
        "prepare p as select * from customers; execute p",
        "begin; alter table customers rename to clients; select * from clients; rollback",
        "begin; alter table customers rename column name to nom; select * from customers; rollback",
        "begin; create table copied as select * from customers; select * from copied; rollback",
    ] {
        client.ask(&query(text));
        nothing_seen(&mut client, text);
    }
}

#[test]
fn computed_from_masked_columns() {
    let (_relay, mut client) = setup("computed");
    for text in [
        "select upper(name), salary + 0, name || '' from customers",
        "select name::varchar(20), salary::text, (select name from customers limit 1) from customers",
        "select row_to_json(c) from customers c",
        "select to_jsonb(customers) from customers",
        "select customers from customers",
        "select c::text from customers c",
        "select string_agg(name, ','), max(salary), array_agg(salary), json_agg(customers) from customers",
        "select coalesce(name, 'x') from customers",
        "select case when id = 1 then name end from customers",
        "select n from (select name || '' as n from customers) s",
        "with w as (select name || '' as n from customers) select n from w",
        "select name from customers union select name from other",
        "select x from customers, lateral (select name || '' as x) l",
        "update customers set note = name where id = 1 returning name || ''",
        "values ((select name from customers where id = 1))",
        "select most_common_vals, histogram_bounds from pg_stats where tablename = 'customers'",
        "select query_to_xml('select * from customers', true, true, '')",
        "select table_to_xml('customers', true, true, '')",
        "begin; declare c cursor for select upper(name), name || '' from customers; fetch all from c; commit",
        "prepare p as select name || '' from customers; execute p",
    ] {
        client.ask(&query(text));
        nothing_seen(&mut client, text);
    }
    assert_eq!(
        client.rows("select count(*), length(note) from customers where id = 1 group by note"),
        [["1", "10"]]
    );
}

#[test]
fn extended_queries() {
    let (_relay, mut client) = setup("extended masks");
    let select = "select id, name, salary from customers where id = $1";
    // Described by the portal, by the statement alone, and not at all; in text and binary.
    for format in [0, 1] {
        let run = [bind_as("", "s", &[Some("1")], format), execute("", 0), sync()].concat();
        client.ask(&[parse("s", select), describe(b'S', "s"), sync()].concat());
        assert_eq!(tags(&client.ask(&run)), "2DCZ");
        nothing_seen(&mut client, "described by the statement");
        client.ask(
            &[bind_as("", "s", &[Some("1")], format), describe(b'P', ""), execute("", 0), sync()].concat(),
        );
        nothing_seen(&mut client, "described by the portal");
        client.ask(&[close(b'S', "s"), parse("s", select), sync()].concat());
        assert_eq!(tags(&client.ask(&run)), "2DCZ");
        nothing_seen(&mut client, "never described");
        client.ask(&[close(b'S', "s"), sync()].concat());
    }
    // In parts, and by a cursor that SQL made.
    client.ask(&query("begin"));
    client.ask(
        &[
            parse("a", "select * from customers"),
            bind("p", "a", &[]),
            execute("p", 1),
            execute("p", 0),
            sync(),
        ]
        .concat(),
    );
    client.ask(&query("declare c cursor for select name || '' from customers"));
    client.ask(&[execute("c", 0), sync()].concat());
    client.ask(&query("commit"));
    nothing_seen(&mut client, "portals");
    // By the other way's name.
    client.ask(&query("prepare q as select name || '' from customers"));
    client.ask(&[bind("", "q", &[]), execute("", 0), sync()].concat());
    client.ask(&[parse("r", "select name || '' from customers"), sync()].concat());
    client.ask(&query("execute r"));
    nothing_seen(&mut client, "names of the other way");
}

#[test]
fn a_statement_that_comes_to_mean_another_table() {
    let (_relay, mut client) = setup("shadow");
    client.ask(&query("create temp table customers (id int, name text, salary int, note text)"));
    client.ask(&query("insert into pg_temp.customers values (1, 'decoy', 1, 'x')"));
    let run = [bind("", "s", &[]), execute("", 0), sync()].concat();
    client.ask(&[parse("s", "select name, salary from customers"), describe(b'S', "s"), sync()].concat());
    assert_eq!(client.ask(&run)[1].texts(), ["decoy", "1"]);
    client.ask(&query("drop table pg_temp.customers"));
    let answer = client.ask(&run);
    assert_eq!(answer[1].texts(), ["NULL", "NULL"]);
    nothing_seen(&mut client, "after the drop");
}

#[test]
fn copies() {
    let (_relay, mut client) = setup("copies");
    for text in [
        "copy customers to stdout",
        "copy public.customers to stdout (format csv, header)",
        "copy customers (salary, name) to stdout",
        "copy customers to stdout (format binary)",
        "copy (select id, name, salary from customers) to stdout",
        "copy (select * from customers) to stdout",
        "copy (select upper(name), salary + 0 from customers) to stdout (format csv)",
        "copy (select row_to_json(c) from customers c) to stdout",
        "copy part to stdout",
        "copy (delete from customers where id = 9 returning *) to stdout",
    ] {
        client.ask(&query(text));
        nothing_seen(&mut client, text);
        client.ask(&[parse("", text), bind("", "", &[]), execute("", 0), sync()].concat());
        nothing_seen(&mut client, text);
    }
    let rows = client.ask(&query("copy other to stdout"));
    assert_eq!(rows[1].body, b"1\tshown\n");
}

#[test]
fn errors_that_quote_values() {
    let (_relay, mut client) = setup("errors");
    for text in [
        "select name::int from customers",
        "select (name || '')::date from customers",
        "update customers set salary = salary + 1000000",
        "insert into customers select * from customers",
        "select ('{' || name || '}')::json from customers",
        "do $$ declare n text; begin select name into n from customers where id = 1; raise notice '%', n; end $$",
        "do $$ declare n text; begin select name into n from customers where id = 1; raise exception '%', n; end $$",
        "do $$ declare n text; begin select name into n from customers where id = 1; raise exception 'x' using detail = n, hint = n; end $$",
        "create unique index on customers ((1))",
    ] {
        client.ask(&query(text));
        nothing_seen(&mut client, text);
    }
}

#[test]
fn the_agents_own_query_is_not_seen() {
    let (_relay, mut client) = setup("invisible");
    assert_eq!(tags(&client.ask(&query("select 1"))), "TDCZ");
    client.ask(&query("create table fresh (a int)"));
    assert_eq!(tags(&client.ask(&query("select 2"))), "TDCZ");
    // Whatever the search path, and within no transaction of the client's.
    client.ask(&query("create function elsewhere.eq(oid, oid) returns bool language sql as 'select false'"));
    client
        .ask(&query("create operator elsewhere.= (leftarg = oid, rightarg = oid, function = elsewhere.eq)"));
    client.ask(&query("set search_path = elsewhere, public, pg_catalog"));
    client.ask(&query("set standard_conforming_strings = on"));
    assert_eq!(client.rows("select name from public.customers where id = 1"), [["NULL"]]);
    assert_eq!(tags(&client.ask(&query("begin isolation level serializable"))), "CZ");
    assert_eq!(tags(&client.ask(&query("set transaction read only"))), "CZ");
    client.ask(&query("rollback"));
}

#[test]
fn an_unreadable_catalog_refuses() {
    let (relay, _) = setup("unreadable");
    let mut client =
        Client::with(relay.address, &[("database", "unreadable"), ("options", "-c statement_timeout=1")]);
    // One millisecond is too short for the catalog, or it is not: either way nothing is shown.
    for _ in 0..5 {
        client.ask(&query("select name from customers"));
    }
    nothing_seen(&mut client, "statement_timeout");
}

#[test]
fn long_rows_end_the_flow() {
    server().sql("create database long");
    let masks = MaskSet::builder()
        .column("names".into(), "public", "*", "name", Transform::Null)
        .build(&HashKey::new(&[7; 32]));
    let limits = Limits { row: 100_000, ..Limits::default() };
    let policy = interlock_agent::protocol::PolicyHandle::fixed(HandMade::masking(masks));
    let relay = Relay::with(server().address(), policy, limits, |_| ());
    let mut client = Client::with(relay.address, &[("database", "long")]);
    client.ask(&query("create table t (name text, big text)"));
    client.ask(&query("insert into t values ('x', repeat('y', 200000))"));
    client.send(&query("select * from t"));
    let answer = client.until_ready();
    let error = answer.iter().find(|message| message.tag == b'E').unwrap();
    assert_eq!(error.field(b'S').unwrap(), "FATAL");
    assert!(error.field(b'M').unwrap().contains("longer than 100000 bytes"), "{error:?}");
    let _ = Arc::clone(&relay.recorder);
}
