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
