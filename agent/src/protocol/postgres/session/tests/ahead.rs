//! Commands that were approved before they were sent.

use super::held::{bind, done, query};
use super::*;
use crate::approval::ahead::{Asker, Opened, Tree, Wanted};
use crate::approval::{Id, Request, Shown, Ticket};
use crate::identity::Ancestor;
use crate::policy::Scope;

const TREE: Tree = Tree { pid: 70, start_time_ns: 7_000_000_000 };

fn subject() -> Arc<Subject> {
    let parent = Ancestor { pid: TREE.pid, start_time_ns: TREE.start_time_ns, ..Ancestor::default() };
    let exe = "/usr/bin/app".into();
    Arc::new(Subject { pid: 71, ancestors: vec![parent], exe, ..Subject::default() })
}

/// A session of the tree, with an approval on its desk.
fn core(bench: &Bench, text: &str, params: &[&str], scope: Scope) -> (Core, Id, Ticket) {
    let mut core = bench.core(false);
    core.subject = subject();
    core.holds.surroundings =
        hold::Holds::new(Arc::clone(&core.holds.desk), destination(), &[utf8()]).surroundings;
    // As it was read when it was judged.
    core.scripts.analyze(text);
    let wanted = Wanted {
        server: destination().address,
        database: "d".into(),
        db_user: "u".into(),
        time_zone: None,
        text: text.into(),
        params: params.iter().map(|value| Some((*value).to_owned())).collect(),
        shape: Some(core.scripts.template(text)),
        program: None,
    };
    let request = Request {
        subject: subject(),
        server: destination().address,
        hosts: Vec::new(),
        session: core.log.session().id(),
        shown: Shown::default(),
        digest: [0; 32],
        terms: Arc::new(Terms::sample()),
        shape: None,
        likeness: [0; 32],
        cancel: None,
        bytes: 0,
    };
    let asker = Asker { subject: subject(), tree: TREE };
    let opened = core.holds.desk.ask_ahead(asker, wanted, Arc::new(Terms::sample()), request).unwrap();
    let Opened::New(ticket) = opened else { panic!() };
    let id = ticket.id();
    core.holds.desk.ahead().approved(id, scope, 60, vec!["d".into()]);
    (core, id, ticket)
}

fn destination() -> Destination {
    Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() }
}

fn utf8() -> (String, String) {
    ("client_encoding".to_owned(), "UTF8".to_owned())
}

/// Whether what is sent goes on without waiting.
fn passes(core: &mut Core, messages: &[u8]) -> bool {
    let mut pipe = Pipe::default();
    pipe.append(messages);
    core.client(&mut pipe).unwrap();
    let passed = !core.waits();
    assert_eq!(pipe.take_outgoing().windows(4).any(|window| window == b"held"), passed);
    core.holds.held = None;
    passed
}

fn parse(text: &str) -> Vec<u8> {
    message(b'P', format!("s\0{text}\0\0\0").as_bytes())
}

#[tokio::test]
async fn it_goes_on_once_and_says_by_what() {
    let bench = Bench::new();
    let (mut core, id, _ticket) = core(&bench, "delete from held", &[], Scope::Once);
    for other in [
        "delete from held ",
        "delete from held;",
        "delete from held -- x",
        "DELETE from held",
        "delete from held; select 1",
    ] {
        assert!(!passes(&mut core, &query(other)), "{other}");
    }
    assert!(passes(&mut core, &query("delete from held")));
    assert!(!passes(&mut core, &query("delete from held")), "twice");
    let status =
        serde_json::to_value(core.holds.desk.ahead().of(&Asker { subject: subject(), tree: TREE })).unwrap();
    assert_eq!((&status[0]["id"], &status[0]["state"]), (&id.to_string().into(), &"used".into()));
}

#[tokio::test]
async fn the_extended_protocol_runs_the_same_command() {
    let bench = Bench::new();
    // Without parameters it is the same whichever way it comes.
    let (mut without, _, _ticket) = core(&bench, "delete from held", &[], Scope::Once);
    let bound =
        [parse("delete from held"), message(b'B', b"c\0s\0\0\0\0\0\0\0"), message(b'E', b"c\0\0\0\0\0")]
            .concat();
    assert!(passes(&mut without, &bound));
    let text = "delete from held where a = $1";
    let (mut with, _, _ticket) = core(&bench, text, &["x"], Scope::Once);
    assert!(!passes(&mut with, &query("delete from held where a = 'x'")));
    assert!(!passes(&mut with, &query(text)), "without its parameter");
    for value in ["", "y", "x "] {
        let mut pipe = Pipe::default();
        pipe.append(&[parse(text), bind("c", value)].concat());
        with.client(&mut pipe).unwrap();
        assert!(with.waits(), "{value:?}");
        with.holds.held = None;
    }
    assert!(passes(&mut with, &[parse(text), bind("c", "x")].concat()));
    // Its Execute goes on by the same; another Bind does not.
    let mut pipe = Pipe::default();
    pipe.append(&message(b'E', b"c\0\0\0\0\0"));
    with.client(&mut pipe).unwrap();
    assert!(!with.waits());
    pipe.append(&bind("d", "x"));
    with.client(&mut pipe).unwrap();
    assert!(with.waits());
}

#[tokio::test]
async fn a_value_that_another_renders_as_is_not_taken_for_it() {
    let bench = Bench::new();
    let text = "delete from held where a = $1";
    // Binary bytes of a type that is not known, and bytes that are no UTF-8.
    for (asked, format, value) in
        [("\\x6162", 1, &b"ab"[..]), ("\u{fffd}", 0, &b"\xff"[..]), ("\\x6162", 0, b"\\x6162")]
    {
        let (mut core, _, _ticket) = core(&bench, text, &[asked], Scope::Once);
        let mut body = b"c\0s\0\0\x01\0".to_vec();
        body.push(format);
        body.extend(b"\0\x01");
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value);
        body.extend(b"\0\0");
        let mut pipe = Pipe::default();
        pipe.append(&[parse(text), message(b'B', &body)].concat());
        core.client(&mut pipe).unwrap();
        assert!(core.waits(), "{asked}");
    }
}

#[tokio::test]
async fn not_in_a_session_that_changed_what_texts_mean() {
    let bench = Bench::new();
    let text = "delete from held";
    for before in [
        "set search_path = s",
        "set role r",
        "create temp table t (a int)",
        "select set_config('role', 'r', false)",
    ] {
        let (mut core, _, _ticket) = core(&bench, text, &[], Scope::Once);
        let (mut up, mut down) = (Pipe::default(), Pipe::default());
        up.append(&query(before));
        core.client(&mut up).unwrap();
        assert!(!passes(&mut core, &query(text)), "{before}, not answered");
        down.append(&done("SET", b'I'));
        core.server(&mut down).unwrap();
        assert!(!passes(&mut core, &query(text)), "{before}");
    }
    // What drivers set by themselves.
    for (text_before, harmless) in [
        ("set extra_float_digits = 3", true),
        ("set application_name = 'PostgreSQL JDBC Driver'", true),
        ("set timezone = 'UTC'", false),
        ("set extra_float_digits = 3; set search_path = s", false),
    ] {
        let (mut core, _, _ticket) = core(&bench, text, &[], Scope::Once);
        let (mut up, mut down) = (Pipe::default(), Pipe::default());
        up.append(&query(text_before));
        core.client(&mut up).unwrap();
        down.append(&done("SET", b'I'));
        core.server(&mut down).unwrap();
        assert_eq!(passes(&mut core, &query(text)), harmless, "{text_before}");
    }
    // What changes nothing is no matter, nor is a transaction.
    let (mut harmless, _, _ticket) = core(&bench, text, &[], Scope::Once);
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    up.append(&query("begin"));
    harmless.client(&mut up).unwrap();
    down.append(&done("BEGIN", b'T'));
    harmless.server(&mut down).unwrap();
    assert!(passes(&mut harmless, &query(text)));
    // Start-up parameters.
    for (name, value, usual) in [
        ("options", "-c search_path=s", false),
        ("search_path", "s", false),
        ("role", "r", false),
        ("TimeZone", "Asia/Tokyo", false),
        ("DateStyle", "ISO, DMY", false),
        ("DateStyle", "ISO", true),
        ("application_name", "psql", true),
        ("extra_float_digits", "2", true),
        ("timezone", "Asia/Tokyo", false),
    ] {
        let (mut core, _, _ticket) = core(&bench, text, &[], Scope::Once);
        let parameters = [utf8(), (name.to_owned(), value.to_owned())];
        core.holds.surroundings =
            hold::Holds::new(Arc::clone(&core.holds.desk), destination(), &parameters).surroundings;
        assert_eq!(passes(&mut core, &query(text)), usual, "{name}={value}");
    }
    // Bytes beyond ASCII mean something else in another encoding.
    let (mut core, _, _ticket) = core(&bench, "delete from held where a = 'é'", &[], Scope::Once);
    core.lexing.reported(b"client_encoding", b"LATIN1");
    assert!(!passes(&mut core, &query("delete from held where a = 'é'")));
    core.lexing.reported(b"client_encoding", b"UTF8");
    assert!(passes(&mut core, &query("delete from held where a = 'é'")));
}

#[tokio::test]
async fn others_and_other_terms_wait() {
    let bench = Bench::new();
    // The text that is asked for has stricter terms by now.
    let (mut strict, _, _ticket) = core(&bench, "delete from held strict", &[], Scope::Once);
    assert!(!passes(&mut strict, &query("delete from held strict")));
    let (mut other, _, _ticket) = core(&bench, "delete from held", &[], Scope::Once);
    other.subject = Arc::default();
    assert!(!passes(&mut other, &query("delete from held")));
    other.subject = subject();
    other.database = "e".into();
    assert!(!passes(&mut other, &query("delete from held")));
    (other.database, other.user) = ("d".into(), "e".into());
    assert!(!passes(&mut other, &query("delete from held")));
    other.user = "u".into();
    assert!(passes(&mut other, &query("delete from held")));
    // A refusal is not overcome.
    let (mut denied, _, _ticket) = core(&bench, "delete from held forbidden", &[], Scope::Once);
    let mut pipe = Pipe::default();
    pipe.append(&query("delete from held forbidden"));
    denied.client(&mut pipe).unwrap();
    assert!(!denied.waits() && !pipe.take_outgoing().windows(4).any(|window| window == b"held"));
}

#[tokio::test]
async fn a_session_begins_with_it_and_a_shape_has_its_time() {
    let bench = Bench::new();
    let (mut session, _, _ticket) = core(&bench, "delete from held", &[], Scope::Session);
    assert!(!passes(&mut session, &query("delete from held2")));
    assert!(passes(&mut session, &query("delete from held")));
    assert!(passes(&mut session, &query("delete from held2")));
    let (mut shape, id, _ticket) = core(&bench, "delete from held where a = 1", &[], Scope::Shape);
    for text in ["delete from held where a = 1", "delete from held where a = 2"] {
        assert!(passes(&mut shape, &query(text)), "{text}");
    }
    assert!(!passes(&mut shape, &query("delete from held where b = 1")));
    shape.holds.desk.call_off(&id.to_string(), &Asker { subject: subject(), tree: TREE }).unwrap();
    assert!(!passes(&mut shape, &query("delete from held where a = 1")));
}
