//! With no rule and no mask the relay cannot be told from the server, byte for byte.

mod common;

use common::wire::*;
use common::{HandMade, Relay, psql, server};

fn relay() -> Relay {
    Relay::start(server().address(), HandMade::denying(|_| false))
}

/// Runs the same script of sends and waits directly and through the relay, and compares all that comes.
/// Each script has a database with an empty table `scratch` to itself.
fn same(name: &str, script: impl Fn(&mut Client)) {
    let relay = relay();
    server().sql(&format!("create database \"{name}\""));
    let connect = |address| Client::with(address, &[("database", name)]);
    // Made once: its object id stands in the results.
    connect(server().address()).rows("create table scratch (a int primary key, b text)");
    let run = |address| {
        connect(server().address()).rows("truncate scratch");
        let mut client = connect(address);
        script(&mut client);
        client.raw
    };
    let direct = run(server().address());
    let relayed = run(relay.address);
    assert!(!direct.is_empty());
    let differs = (0..direct.len().max(relayed.len())).find(|&at| direct.get(at) != relayed.get(at));
    let around = |bytes: &[u8]| {
        let at = differs.unwrap_or_default();
        let part = bytes.get(at.saturating_sub(80)..(at + 80).min(bytes.len())).unwrap_or_default();
        String::from_utf8_lossy(part).into_owned()
    };
    assert_eq!(differs, None, "{name}\n direct {:?}\nrelayed {:?}", around(&direct), around(&relayed));
}

#[test]
fn simple_queries() {
    same("simple", |client| {
        for text in [
            "select 1",
            "",
            ";",
            "-- nothing",
            "select 1; select 2 as b; select null::text",
            "select 1/0",
            "syntax error here",
            "select 1; select 1/0; select 3",
            "begin; select 1",
            "select 1/0",
            "select 2",
            "rollback",
            "do $$ begin raise notice 'hello %', 1; raise warning 'w' using hint = 'h', detail = 'd'; end $$",
            "set application_name = 'x'",
            "set client_encoding = 'LATIN1'; select 'caf\u{e9}'",
            "reset client_encoding",
            "select repeat('x', 3000000)",
            "select g, repeat('y', 100) from generate_series(1, 5000) g",
            "insert into scratch values (1, 'a') returning *",
            "insert into scratch values (1, 'b')",
            "explain (costs off) select * from scratch",
            "declare c cursor for select 1",
            "begin; declare c cursor for select * from generate_series(1, 5); fetch 2 from c; move 1 in c; fetch all from c; commit",
            "prepare p as select $1::int; execute p(5); deallocate p",
            "execute p(5)",
        ] {
            client.ask(&query(text));
        }
    });
}

#[test]
fn extended_queries() {
    same("extended", |client| {
        client.ask(
            &[
                parse("", "select $1::int + 1"),
                bind("", "", &[Some("41")]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
        client.ask(&[parse("s", "select $1::text"), describe(b'S', "s"), sync()].concat());
        client.ask(&[bind_as("", "s", &[Some("x")], 1), execute("", 0), sync()].concat());
        client.ask(&[bind("", "s", &[None]), execute("", 0), close(b'S', "s"), sync()].concat());
        client.ask(&[bind("", "s", &[None]), execute("", 0), sync()].concat());
        // An error skips to the next Sync, a Query in between included.
        client.send(
            &[
                parse("", "select 1/0"),
                bind("", "", &[]),
                execute("", 0),
                query("select 1"),
                parse("", "x y"),
                sync(),
                query("select 2"),
            ]
            .concat(),
        );
        client.until_ready();
        client.until_ready();
        // Portals in parts.
        client.ask(&[query("begin")].concat());
        client.ask(
            &[
                parse("g", "select * from generate_series(1, 10)"),
                bind("p", "g", &[]),
                execute("p", 3),
                execute("p", 3),
                execute("p", 0),
                execute("p", 0),
                close(b'P', "p"),
                sync(),
            ]
            .concat(),
        );
        client.ask(&query("commit"));
        client
            .ask(&[parse("e", ""), bind("", "e", &[]), describe(b'P', ""), execute("", 0), sync()].concat());
        // Statements of both kinds share their names.
        client.ask(&query("prepare q as select 7"));
        client.ask(&[bind("", "q", &[]), execute("", 0), sync()].concat());
        client.ask(&query("execute g"));
        client.ask(&[describe(b'S', "none"), sync()].concat());
        client.ask(&[parse("s", "select 1"), parse("s", "select 2"), sync()].concat());
        client.ask(&[close(b'S', "none"), close(b'P', "none"), message(b'H', &[]), sync()].concat());
    });
}

#[test]
fn copy() {
    same("copy", |client| {
        let data = |rows: &str| message(b'd', rows.as_bytes());
        let done = message(b'c', &[]);
        client.ask(
            &[
                query("copy scratch from stdin"),
                data("1\tone\n2\ttwo\n"),
                data("3\tthr"),
                data("ee\n"),
                done.clone(),
            ]
            .concat(),
        );
        client.ask(&query("copy scratch to stdout"));
        client.ask(&query("copy (select * from scratch order by a desc) to stdout (format csv, header)"));
        client.ask(&query("copy scratch to stdout (format binary)"));
        client.ask(&query("select 1; copy scratch to stdout; select 2"));
        // Fails on its data; what follows it in the pipeline does not.
        client.send(
            &[query("copy scratch from stdin"), data("x\ty\n"), done.clone(), query("select 5")].concat(),
        );
        client.until_ready();
        client.until_ready();
        client.ask(&[query("copy scratch from stdin"), message(b'f', &cstr("no more"))].concat());
        // As libpq sends it: Sync before the data is swallowed.
        client.ask(
            &[
                parse("", "copy scratch from stdin"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
                data("9\tnine\n"),
                done.clone(),
                sync(),
            ]
            .concat(),
        );
        client.ask(
            &[
                parse("", "copy scratch from stdin"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
                data("z\tnine\n"),
                done.clone(),
                sync(),
            ]
            .concat(),
        );
        client.ask(
            &[
                parse("", "copy scratch to stdout"),
                bind("", "", &[]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
        // Outside of a COPY it is ignored.
        client.ask(&[data("stray"), done.clone(), query("select 6")].concat());
        client.ask(&query("copy nowhere from stdin"));
        client.send(
            &[
                query("copy scratch from stdin; select 8; copy scratch from stdin"),
                data("4\tfour\n"),
                done.clone(),
                data("5\tfive\n"),
                done,
            ]
            .concat(),
        );
        client.until_ready();
        client.ask(&query("select count(*) from scratch"));
    });
}

#[test]
fn function_calls() {
    same("function call", |client| {
        // abs(int4), one binary argument, binary result.
        let call = |oid: u32| {
            let mut body = oid.to_be_bytes().to_vec();
            body.extend([0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xfb, 0, 1]);
            message(b'F', &body)
        };
        client.ask(&call(1397));
        client.ask(&call(999_999));
        client.ask(&query("begin"));
        client.ask(&call(999_999));
        client.ask(&call(1397));
        client.ask(&query("rollback"));
    });
}

#[test]
fn pipelines() {
    same("pipeline", |client| {
        let mut all = Vec::new();
        for number in 0..500 {
            let number = number.to_string();
            all.extend(parse("", "select $1::text, repeat('z', 2000)"));
            all.extend(bind("", "", &[Some(&number)]));
            all.extend(describe(b'P', ""));
            all.extend(execute("", 0));
            all.extend(sync());
        }
        let mut writer = client.stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &all).unwrap());
        for _ in 0..500 {
            client.until_ready();
        }
        sender.join().unwrap();
    });
}

#[test]
fn large_values() {
    same("large", |client| {
        let large = "v".repeat(20 << 20);
        client.ask(
            &[parse("", "select length($1), md5($1)"), bind("", "", &[Some(&large)]), execute("", 0), sync()]
                .concat(),
        );
        let mut bytes = query("copy scratch (a, b) from stdin");
        bytes.extend(message(b'd', b"1\t"));
        for chunk in large.as_bytes().chunks(1 << 20) {
            bytes.extend(message(b'd', chunk));
        }
        bytes.extend(message(b'd', b"\n"));
        bytes.extend(message(b'c', &[]));
        client.ask(&bytes);
        client.ask(&query("select * from scratch"));
        client.ask(&query("copy scratch to stdout"));
    });
}

#[test]
fn every_split_of_a_conversation() {
    // Bytes may come in any portions.
    let relay = relay();
    let script = [
        query("select 1; select 'two'"),
        parse("", "select $1::int"),
        bind("", "", &[Some("5")]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
        query("select 1/0"),
    ]
    .concat();
    let run = |portion: usize| {
        let mut client = Client::connect(relay.address);
        for part in script.chunks(portion) {
            client.send(part);
        }
        (0..3).for_each(|_| drop(client.until_ready()));
        client.raw
    };
    let whole = run(script.len());
    for portion in [1, 2, 3, 7, 19, 64] {
        assert_eq!(run(portion), whole, "portions of {portion}");
    }
}

#[test]
fn notifications() {
    same("notify", |client| {
        client.ask(&query("listen news"));
        client.ask(&query("select pg_notify('news', 'payload') where pg_backend_pid() is null"));
        client.ask(&query("unlisten news"));
    });
    let relay = relay();
    let mut listener = Client::connect(relay.address);
    listener.ask(&query("listen news"));
    Client::connect(relay.address).ask(&query("notify news, 'hello'"));
    let news = listener.next().unwrap();
    assert_eq!(news.tag, b'A');
    assert!(news.body.ends_with(b"news\0hello\0"));
}

#[test]
fn cancel_requests() {
    let relay = relay();
    let mut sleeper = Client::connect(relay.address);
    sleeper.send(&query("select pg_sleep(30)"));
    let mut observer = Client::connect(relay.address);
    let sleeping =
        "select count(*) from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active'";
    while observer.rows(sleeping) != [["1"]] {
        std::thread::yield_now();
    }
    let mut request = 16u32.to_be_bytes().to_vec();
    request.extend(80_877_102u32.to_be_bytes());
    request.extend(&sleeper.key);
    let mut canceller = Client::open(relay.address);
    canceller.send(&request);
    assert_eq!(canceller.next(), None);
    assert_eq!(outcome(&sleeper.until_ready()).0, "57014");
    assert_eq!(sleeper.rows("select 1"), [["1"]]);
}

#[test]
fn openings() {
    let relay = relay();
    // psql asks for TLS first.
    assert_eq!(psql(relay.port(), "select 'in'"), ("in\n".into(), String::new()));
    // Both requests, then the start-up message and a command before the log-in is through.
    let mut client = Client::open(relay.address);
    for code in [80_877_104u32, 80_877_103] {
        client.send(&[8u32.to_be_bytes(), code.to_be_bytes()].concat());
        let mut answer = [0];
        std::io::Read::read_exact(&mut client.stream, &mut answer).unwrap();
        assert_eq!(answer, *b"N");
    }
    client.startup(&[]);
    client.send(&query("select 'early'"));
    client.until_ready();
    assert_eq!(client.until_ready()[1].texts(), ["early"]);

    // What is no start-up packet of version 3 is told so.
    for opening in [&[0, 0, 0, 9, 0, 2, 0, 0, 0][..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Client::open(relay.address);
        client.send(opening);
        let answer = client.next().unwrap();
        assert_eq!((answer.tag, answer.field(b'C')), (b'E', Some("08P01".into())));
        assert_eq!(client.next(), None);
    }
    // What begins as TLS and is none gets an alert.
    let mut client = Client::open(relay.address);
    client.send(&[0x16, 3, 1, 0, 4, 2, 0, 0, 0]);
    let mut answer = [0];
    std::io::Read::read_exact(&mut client.stream, &mut answer).unwrap();
    assert_eq!(answer, [21]);
    // A log-in that the server refuses.
    let mut client = Client::open(relay.address);
    client.startup(&[("database", "nowhere")]);
    assert_eq!(client.next().map(|message| message.tag), Some(b'R'));
    assert_eq!(client.next().unwrap().field(b'C').unwrap(), "3D000");
    assert_eq!(client.next(), None);
}

#[test]
fn endings() {
    let relay = relay();
    let mut client = Client::connect(relay.address);
    client.send(&message(b'X', &[]));
    assert_eq!(client.next(), None);

    // A client that only shuts its sending side still gets its answer.
    let mut client = Client::connect(relay.address);
    client.send(&query("select 'last words'"));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(tags(&client.until_ready()), "TDCZ");
    assert_eq!(client.next(), None);

    // The server says why it goes.
    let mut client = Client::connect(relay.address);
    let pid = client.rows("select pg_backend_pid()")[0][0].clone();
    server().sql(&format!("select pg_terminate_backend({pid})"));
    assert_eq!(client.next().unwrap().field(b'C').unwrap(), "57P01");
    assert_eq!(client.next(), None);

    // Messages that no server accepts.
    for hostile in
        [&b"Q\0\0\0\x01"[..], b"Q\xff\xff\xff\xff", b"\x01\0\0\0\x04", b"B\0\0\0\x05x", b"E\0\0\0\x06aa"]
    {
        let mut client = Client::connect(relay.address);
        client.send(hostile);
        let answer = client.next().unwrap();
        assert_eq!((answer.tag, answer.field(b'S')), (b'E', Some("FATAL".into())), "{hostile:?}");
        assert_eq!(client.next(), None);
    }
}
