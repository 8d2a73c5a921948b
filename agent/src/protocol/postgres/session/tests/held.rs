//! What waits for approval.

use std::task::Waker;

use super::*;
use crate::approval::{Approver, Person, Vote};
use crate::policy::Scope;

/// A connection to a client that stays.
async fn client() -> (Stream, tokio::net::TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0.into(), client)
}

fn dba(uid: u32) -> Approver {
    let person = Person { uid, login_uid: None, login_session: None, confirmed: false };
    Approver::on_host(person, "d".into(), "".into(), Box::new(["dba".into()]))
}

fn approve(core: &Core, scope: Scope) {
    let list = core.holds.desk.list(&dba(7), false);
    let id = list.first().unwrap().brief()["id"].as_str().unwrap().to_owned();
    let vote = Vote { by: dba(7), reason: "".into(), scope, seconds: 60 };
    core.holds.desk.approve(&id, vote).unwrap();
}

/// Decides what waits, as the relay does.
fn go_on(core: &mut Core, pipe: &mut Pipe, client: &Stream) -> Vec<u8> {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(core.poll_held(&mut cx, client).is_ready());
    core.client(pipe).unwrap();
    pipe.take_outgoing()
}

pub(super) fn bind(portal: &str, value: &str) -> Vec<u8> {
    let mut body = format!("{portal}\0s\0").into_bytes();
    body.extend(b"\0\0\0\x01");
    body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
    body.extend(value.as_bytes());
    body.extend(b"\0\0");
    message(b'B', &body)
}

#[tokio::test]
async fn nothing_goes_before_and_all_after() {
    let (stream, _client) = client().await;
    let bench = Bench::new();
    let mut core = bench.core(false);
    let mut pipe = Pipe::default();
    let held = message(b'Q', b"delete from held\0");
    let rest = [message(b'Q', b"select 2\0"), message(b'Q', b"select 3\0")].concat();
    pipe.append(&[message(b'Q', b"select 1\0"), held.clone(), rest.clone()].concat());
    core.client(&mut pipe).unwrap();
    // What came before it, and a Flush.
    let before = [message(b'Q', b"select 1\0"), message(b'H', b"")].concat();
    assert_eq!(pipe.take_outgoing(), before);
    for _ in 0..3 {
        core.client(&mut pipe).unwrap();
        assert!(pipe.take_outgoing().is_empty() && core.waits());
    }
    assert!(core.take_notice().is_some_and(|notice| notice.starts_with(b"N")));
    approve(&core, Scope::Once);
    assert_eq!(go_on(&mut core, &mut pipe, &stream), [held.clone(), rest].concat());
    // Once is once.
    pipe.append(&held);
    core.client(&mut pipe).unwrap();
    assert!(core.waits());
    assert_eq!(pipe.take_outgoing(), message(b'H', b""));
}

#[tokio::test]
async fn an_approved_bind_runs_to_its_end_and_another_is_another() {
    let (stream, _client) = client().await;
    let bench = Bench::new();
    let mut core = bench.core(false);
    let mut pipe = Pipe::default();
    let parse = message(b'P', b"s\0select held where $1\0\0\0");
    let run = message(b'E', b"c\0\0\0\0\x0a");
    pipe.append(&[parse.clone(), bind("c", "a"), run.clone()].concat());
    core.client(&mut pipe).unwrap();
    // Parse runs nothing.
    assert_eq!(pipe.take_outgoing(), [parse, message(b'H', b"")].concat());
    approve(&core, Scope::Once);
    assert_eq!(go_on(&mut core, &mut pipe, &stream), [bind("c", "a"), run.clone()].concat());
    // More rows of the same portal.
    pipe.append(&run);
    core.client(&mut pipe).unwrap();
    assert_eq!(pipe.take_outgoing(), run);
    // The same statement with the same parameter.
    for portal in ["c", "d"] {
        let mut pipe = Pipe::default();
        pipe.append(&bind(portal, "a"));
        core.client(&mut pipe).unwrap();
        assert!(core.waits(), "{portal}");
        core.holds.held = None;
    }
    assert_eq!(core.holds.desk.waiting(), 0);
}

#[tokio::test]
async fn what_is_decided_is_bound_to_the_operation() {
    let (stream, _client) = client().await;
    let bench = Bench::new();
    let mut core = bench.core(false);
    let digest = |core: &mut Core, bytes: &[u8]| {
        let mut pipe = Pipe::default();
        pipe.append(bytes);
        core.client(&mut pipe).unwrap();
        assert!(core.waits());
        let shown = core.holds.desk.list(&dba(0), false);
        let shown = serde_json::to_value(shown.first().unwrap()).unwrap();
        core.holds.held = None;
        shown["digest"].as_str().unwrap().to_owned()
    };
    let texts = ["select held", "select held ", "select held -- a", "SELECT held"];
    let mut all: Vec<String> =
        texts.iter().map(|text| digest(&mut core, &message(b'Q', format!("{text}\0").as_bytes()))).collect();
    let mut pipe = Pipe::default();
    pipe.append(&message(b'P', b"s\0select held where $1\0\0\0"));
    core.client(&mut pipe).unwrap();
    for value in ["a", "b", ""] {
        all.push(digest(&mut core, &bind("", value)));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 7);
    // An approval that is there for one does not let another through.
    let mut pipe = Pipe::default();
    pipe.append(&message(b'Q', b"select held\0"));
    core.client(&mut pipe).unwrap();
    approve(&core, Scope::Once);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(core.poll_held(&mut cx, &stream).is_ready());
    let mut other = Pipe::default();
    other.append(&message(b'Q', b"delete from held\0"));
    core.client(&mut other).unwrap();
    assert!(core.waits());
    assert_eq!(other.take_outgoing(), message(b'H', b""));
}

#[tokio::test]
async fn where_it_cannot_be_told_which_runs_all_have_a_say() {
    let parse = |text: &str| message(b'P', format!("s\0{text}\0\0\0").as_bytes());
    let sync = message(b'S', b"");
    let bench = Bench::new();
    for (first, second) in [("held lax", "held strict"), ("held strict", "held lax")] {
        let mut core = bench.core(false);
        let mut pipe = Pipe::default();
        let texts = [first, second].map(|text| format!("select $1 as \"{text}\""));
        pipe.append(
            &[parse(&texts[0]), sync.clone(), parse(&texts[1]), sync.clone(), bind("", "x")].concat(),
        );
        core.client(&mut pipe).unwrap();
        assert!(core.waits());
        let shown = core.holds.desk.list(&dba(0), false);
        let shown = serde_json::to_value(shown.first().unwrap()).unwrap();
        let needs = shown["needs"].as_str().unwrap();
        assert!(needs.contains("one of dba") && needs.contains("one of sec"), "{needs}");
        let text = shown["text"].as_str().unwrap();
        assert!(texts.iter().all(|one| text.contains(one)), "{text}");
        assert_eq!(shown["statements"].as_array().unwrap().len(), 2);
        approve(&core, Scope::Session);
        assert_eq!(core.holds.desk.waiting(), 1);
    }
    // What nobody may approve is not approved as something else.
    let decision = |text: &str| {
        let policy = Policy { masks: Arc::new(MaskSet::builder().build(&HashKey::new(&[1; 32]))) };
        let operation = Operation {
            protocol: crate::operation::Protocol::Postgres,
            user: "u".into(),
            database: "d".into(),
            text: text.into(),
            script: Arc::default(),
            params: Arc::default(),
        };
        policy.decide(&operation, &Subject::default())
    };
    assert_eq!(decision("held").held_with(&decision("held never")).approval, None);
    assert_eq!(decision("held").held_with(&decision("held")), decision("held"));
}

#[tokio::test]
async fn who_approved_is_noted_when_the_flow_ends_at_once() {
    let bench = Bench::new();
    let mut core = bench.core(false);
    let mut pipe = Pipe::default();
    pipe.append(&query("delete from held where id = 1"));
    core.client(&mut pipe).unwrap();
    let session = core.log.session().id();
    let shape = core.holds.held.as_ref().and_then(hold::Held::shape);
    assert!(shape.is_some());
    approve(&core, Scope::Shape);
    // The flow has not looked at it yet.
    core.end_holding(None);
    let grant = core.holds.desk.granted(session, shape, &Terms::sample()).unwrap();
    assert_eq!(*grant.by, [Arc::from("d")]);
}

#[tokio::test]
async fn what_cannot_be_shown_whole_is_refused() {
    let bench = Bench::new();
    let prepares: Vec<u8> =
        (0..5).flat_map(|name| query(&format!("prepare p{name} as select '{}'", "x".repeat(4000)))).collect();
    let executes = |count| {
        let all: String = (0..count).map(|name| format!("; execute p{name}")).collect();
        query(&format!("select 'held'{all}"))
    };
    for (message, fits) in [
        (query(&"select held;".repeat(25)), true),
        (query(&"select held;".repeat(26)), false),
        (query(&format!("select 'held{}'", "x".repeat(16_000))), true),
        (query(&format!("select 'held{}'", "x".repeat(17_000))), false),
        (executes(4), true),
        (executes(5), false),
    ] {
        let mut core = bench.core(false);
        core.limits.statement = 1 << 20;
        let mut pipe = Pipe::default();
        pipe.append(&prepares);
        core.client(&mut pipe).unwrap();
        pipe.take_outgoing();
        pipe.append(&message);
        core.client(&mut pipe).unwrap();
        let out = pipe.take_outgoing();
        assert_eq!(core.waits(), fits, "{out:?}");
        assert_eq!(out.windows(17).any(|window| window == b"interlock refused"), !fits);
    }
}

/// Approves a shape after `before` and says whether the same text is held after `between` as well. Of each
/// message there is what the server answers.
async fn held_again(bench: &Bench, before: &[(Vec<u8>, Vec<u8>)], between: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let (stream, _client) = client().await;
    let mut core = bench.core(false);
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    let relay = |core: &mut Core, up: &mut Pipe, down: &mut Pipe, all: &[(Vec<u8>, Vec<u8>)]| {
        for (asked, answer) in all {
            up.append(asked);
            core.client(up).unwrap();
            assert!(!core.waits());
            down.append(answer);
            core.server(down).unwrap();
            up.take_outgoing();
            down.take_outgoing();
        }
    };
    relay(&mut core, &mut up, &mut down, before);
    let held = query("delete from held where id = 1");
    let status = core.status;
    up.append(&held);
    core.client(&mut up).unwrap();
    assert!(core.waits());
    approve(&core, Scope::Shape);
    assert_eq!(go_on(&mut core, &mut up, &stream), held);
    down.append(&done("DELETE 1", status));
    core.server(&mut down).unwrap();
    // As it is, it is the same shape.
    up.append(&held);
    core.client(&mut up).unwrap();
    assert!(!core.waits());
    down.append(&done("DELETE 1", status));
    core.server(&mut down).unwrap();
    up.take_outgoing();
    relay(&mut core, &mut up, &mut down, between);
    up.append(&held);
    core.client(&mut up).unwrap();
    core.waits()
}

pub(super) fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

pub(super) fn done(tag: &str, status: u8) -> Vec<u8> {
    [message(b'C', format!("{tag}\0").as_bytes()), message(b'Z', &[status])].concat()
}

fn failed(status: u8) -> Vec<u8> {
    [message(b'E', b"SERROR\0VERROR\0C22012\0Mx\0\0"), message(b'Z', &[status])].concat()
}

#[tokio::test]
async fn a_shape_does_not_reach_over_what_changes_its_meaning() {
    let bench = Bench::new();
    let ran = |text: &str, status| (query(text), done("X", status));
    let set = ran("set local search_path = s", b'T');
    let begin = ran("begin", b'T');
    let call = (message(b'F', b"\0\0\x08\x1e\0\0\0\0\0\0"), {
        [message(b'V', b"\xff\xff\xff\xff"), message(b'Z', b"I")].concat()
    });
    for (before, between, again) in [
        (vec![], vec![ran("select 1", b'I')], false),
        (vec![ran("set search_path = s", b'I')], vec![ran("select 1", b'I')], false),
        (vec![], vec![ran("set search_path = s", b'I')], true),
        // By the number of a function: set_config.
        (vec![], vec![call.clone()], true),
        (vec![call], vec![ran("select 1", b'I')], false),
        // Transactions without a change.
        (vec![begin.clone()], vec![ran("commit", b'I')], false),
        (vec![], vec![begin.clone(), ran("rollback", b'I')], false),
        // What was changed is undone.
        (vec![begin.clone(), set.clone()], vec![ran("select 1", b'T')], false),
        (vec![begin.clone(), set.clone()], vec![ran("commit", b'I')], true),
        (vec![begin.clone(), set.clone()], vec![ran("rollback", b'I')], true),
        (vec![begin, ran("savepoint a", b'T'), set], vec![ran("rollback to a", b'T')], true),
    ] {
        assert_eq!(held_again(&bench, &before, &between).await, again, "{before:?} {between:?}");
    }
}

#[tokio::test]
async fn what_failed_or_is_not_answered_is_not_the_same() {
    let bench = Bench::new();
    let shape = |before: &[(Vec<u8>, Vec<u8>)]| {
        let mut core = bench.core(false);
        let (mut up, mut down) = (Pipe::default(), Pipe::default());
        for (asked, answer) in before {
            up.append(asked);
            core.client(&mut up).unwrap();
            down.append(answer);
            core.server(&mut down).unwrap();
        }
        core.holds.surroundings.digest().copied()
    };
    let set = || query("set local search_path = s");
    let parsed = |text: &str| {
        let parse = message(b'P', format!("\0{text}\0\0\0").as_bytes());
        [parse, message(b'B', b"\0\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0")].concat()
    };
    let alone = shape(&[(set(), done("SET", b'I'))]);
    assert!(alone.is_some() && alone == shape(&[(set(), done("SET", b'I'))]));
    assert_eq!(shape(&[(set(), Vec::new())]), None);
    for other in [
        vec![],
        vec![(set(), failed(b'I'))],
        vec![(query("begin"), done("BEGIN", b'T')), (set(), done("SET", b'T'))],
        vec![(query("begin"), done("BEGIN", b'T')), (query("x"), failed(b'E')), (set(), failed(b'E'))],
        // Skipped, for what came before it has failed.
        vec![
            (parsed("select 1"), message(b'E', b"SERROR\0VERROR\0C22012\0Mx\0\0")),
            (parsed("set local search_path = s"), Vec::new()),
            (message(b'S', b""), message(b'Z', b"I")),
        ],
    ] {
        let other = shape(&other);
        assert!(other.is_some() && other != alone);
    }
}

/// A portal that is approved at its Bind, in a transaction.
async fn approved_portal(bench: &Bench, stream: &Stream) -> (Core, Pipe, Pipe) {
    let mut core = bench.core(false);
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    answered(&mut core, &mut up, &mut down, &query("begin"), &done("BEGIN", b'T'));
    up.append(&[message(b'P', b"s\0select held where $1\0\0\0"), bind("c", "a")].concat());
    core.client(&mut up).unwrap();
    assert!(core.waits());
    approve(&core, Scope::Once);
    up.take_outgoing();
    assert_eq!(go_on(&mut core, &mut up, stream), bind("c", "a"));
    down.append(&[message(b'1', b""), message(b'2', b"")].concat());
    core.server(&mut down).unwrap();
    (core, up, down)
}

/// Sends what nothing holds, and what the server says to it.
fn answered(core: &mut Core, up: &mut Pipe, down: &mut Pipe, asked: &[u8], answer: &[u8]) {
    up.append(asked);
    core.client(up).unwrap();
    assert!(!core.waits());
    down.append(answer);
    core.server(down).unwrap();
    up.take_outgoing();
    down.take_outgoing();
}

#[tokio::test]
async fn an_approved_portal_is_approved_where_it_was_and_for_whom() {
    let (stream, _client) = client().await;
    let bench = Bench::new();
    let run = message(b'E', b"c\0\0\0\0\x0a");
    let call = message(b'F', b"\0\0\x08\x1e\0\0\0\0\0\0");
    let ran = |text: &str| (query(text), done("X", b'T'));
    for (between, again) in [
        (None, false),
        (Some(ran("savepoint a")), false),
        (Some(ran("set local search_path = mallory, public")), true),
        (Some(ran("set local app.mode = 'all'")), true),
        (Some(ran("set role other")), true),
        (Some(ran("create or replace function mallory.f() returns int language sql as 'select 2'")), true),
        // A function can set what it likes.
        (Some(ran("select f()")), true),
        (Some((query("set local search_path = s"), Vec::new())), true),
        (Some((call, [message(b'V', b"\xff\xff\xff\xff"), message(b'Z', b"T")].concat())), true),
    ] {
        let (mut core, mut up, mut down) = approved_portal(&bench, &stream).await;
        if let Some((asked, answer)) = &between {
            answered(&mut core, &mut up, &mut down, asked, answer);
        }
        up.append(&run);
        core.client(&mut up).unwrap();
        assert_eq!(core.waits(), again, "{between:?}");
        if !again {
            assert_eq!(up.take_outgoing(), run);
        } else {
            // Whoever gives up and tries again is asked about again.
            core.holds.held = None;
            core.client(&mut up).unwrap();
            assert!(core.waits(), "{between:?}");
        }
    }
    // Another person behind it, before it begins and after.
    for begun in [false, true] {
        let (mut core, mut up, _) = approved_portal(&bench, &stream).await;
        if begun {
            up.append(&run);
            core.client(&mut up).unwrap();
            assert_eq!(up.take_outgoing(), run);
        }
        core.subject = Arc::new(Subject { login_uid: Some(7), ..Subject::default() });
        up.append(&run);
        core.client(&mut up).unwrap();
        assert!(core.waits());
    }
}

#[tokio::test]
async fn a_portal_that_has_begun_goes_on_until_something_changes() {
    let (stream, _client) = client().await;
    let bench = Bench::new();
    let run = message(b'E', b"c\0\0\0\0\x0a");
    let rows = [message(b's', b"")].concat();
    let (mut core, mut up, mut down) = approved_portal(&bench, &stream).await;
    answered(&mut core, &mut up, &mut down, &run, &rows);
    answered(&mut core, &mut up, &mut down, &message(b'S', b""), &message(b'Z', b"T"));
    answered(&mut core, &mut up, &mut down, &query("select 1"), &done("SELECT 1", b'T'));
    answered(&mut core, &mut up, &mut down, &run, &rows);
    answered(&mut core, &mut up, &mut down, &message(b'S', b""), &message(b'Z', b"T"));
    answered(&mut core, &mut up, &mut down, &query("set local search_path = s"), &done("SET", b'T'));
    up.append(&run);
    core.client(&mut up).unwrap();
    assert!(core.waits());
    approve(&core, Scope::Once);
    up.take_outgoing();
    assert_eq!(go_on(&mut core, &mut up, &stream), run);
    // Approved for what it is now, it goes on.
    up.append(&run);
    core.client(&mut up).unwrap();
    assert!(!core.waits());
}

/// What approvers are shown of the one that waits.
fn shown(core: &Core) -> serde_json::Value {
    serde_json::to_value(core.holds.desk.list(&dba(0), false).first().unwrap()).unwrap()
}

#[tokio::test]
async fn a_mask_hides_no_predicate_from_approvers() {
    let bench = Bench::new();
    let hides = "-----BEGIN PRIVATE KEY-----\nOR region = 'eu'";
    let with = |end: &str| format!("update held set n = 1 where id = 17\n{hides}{end}");
    let parse = message(b'P', format!("s\0{}\0\0\0", with(" or id = $1")).as_bytes());
    for asked in [
        query(&with("")),
        query(&format!("select 1; {}; select 2", with(""))),
        query(&format!("do $$begin {}; end$$", with(""))),
        [parse, bind("", "7")].concat(),
        [query(&format!("prepare p as {}", with("").replace("held", "t"))), query("execute p -- held")]
            .concat(),
    ] {
        let mut core = bench.core(false);
        let masks = MaskSet::builder().detector("keys".into(), Detector::PrivateKey, Transform::Redact);
        core.flow = Arc::new(Policy { masks: Arc::new(masks.build(&HashKey::new(&[1; 32]))) });
        let mut pipe = Pipe::default();
        pipe.append(&asked);
        core.client(&mut pipe).unwrap();
        assert!(core.waits());
        let shown = shown(&core);
        let all = format!("{} {}", shown["text"], shown["runs"]);
        assert!(all.contains("OR region = 'eu'"), "{shown}");
        assert_eq!(shown["redacted"], true);
    }
}

#[tokio::test]
async fn what_hides_more_than_constants_is_not_held() {
    let bench = Bench::new();
    for (text, redacted) in [
        ("select held", Some(false)),
        ("select held where e = 'bob@x.com'", Some(true)),
        ("alter role held password 'hunter2'", Some(true)),
        ("alter role held password hunter2", None),
        ("do language plpython3u $$held('bob@x.com')$$", None),
        ("select held where e = 'bob@x.com", None),
    ] {
        let mut core = bench.core(true);
        let mut pipe = Pipe::default();
        pipe.append(&query(text));
        core.client(&mut pipe).unwrap();
        assert_eq!(core.waits(), redacted.is_some(), "{text}");
        match redacted {
            Some(redacted) => assert_eq!(shown(&core)["redacted"], redacted, "{text}"),
            None => {
                let out = String::from_utf8_lossy(&pipe.take_outgoing()).into_owned();
                assert!(out.contains("interlock refused"), "{out}");
            }
        }
    }
    // A parameter that is masked counts too.
    let mut core = bench.core(true);
    let mut pipe = Pipe::default();
    pipe.append(&[message(b'P', b"s\0select held where $1\0\0\0"), bind("", "bob@x.com")].concat());
    core.client(&mut pipe).unwrap();
    assert_eq!(shown(&core)["redacted"], true);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_asked_for() {
    let state = tempfile::tempdir().unwrap();
    let mut config = Config { state: state.path().join("state"), ..Config::default() };
    config.record.max_bytes = 64 << 10;
    let bench = Bench { recorder: Recorder::open(&config).unwrap(), _state: state };
    let mut core = bench.core(false);
    let mut pipe = Pipe::default();
    let long = message(b'Q', format!("select '{}'\0", "x".repeat(4000)).as_bytes());
    for text in [long, message(b'Q', b"select 1\0")] {
        let full = (0..1000).any(|_| {
            pipe.append(&text);
            core.client(&mut pipe).unwrap();
            pipe.take_outgoing() != text
        });
        assert!(full);
    }
    pipe.append(&message(b'Q', b"select held\0"));
    core.client(&mut pipe).unwrap();
    let out = pipe.take_outgoing();
    assert!(!core.waits() && core.holds.desk.waiting() == 0);
    assert!(
        out.windows(17).any(|window| window == b"interlock refused") && !out.windows(4).any(|w| w == b"held")
    );
}

#[tokio::test]
async fn a_client_that_goes_is_seen_with_bytes_unread() {
    let (stream, mut client) = client().await;
    let bench = Bench::new();
    let mut core = bench.core(false);
    let mut pipe = Pipe::default();
    pipe.append(&message(b'Q', b"select held\0"));
    core.client(&mut pipe).unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut client, b"unread").await.unwrap();
    let mut gone = std::pin::pin!(poll_fn(|cx| core.poll_held(cx, &stream)));
    let pending = poll_fn(|cx| Poll::Ready(gone.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    drop(client);
    gone.await;
    assert!(!core.waits());
    core.client(&mut pipe).unwrap();
    let out = pipe.take_outgoing();
    assert!(
        out.windows(17).any(|window| window == b"interlock refused") && !out.windows(4).any(|w| w == b"held")
    );
}

proptest! {
    #[test]
    fn held_texts_never_pass_unasked(
        client in prop::collection::vec(prop_oneof![
            3 => client_message(),
            1 => Just(message(b'Q', b"select 'held'\0")),
            1 => Just(message(b'P', b"s\0select 'held', $1\0\0\0")),
            1 => Just(bind("", "x")),
        ], 0..12),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        static BENCH: std::sync::LazyLock<Bench> = std::sync::LazyLock::new(Bench::new);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let mut core = BENCH.core(false);
        let (out, _) = feed(&mut Pipe::default(), &client.concat(), &cuts, |pipe| core.client(pipe));
        // Parse alone may have it: what is bound to it waits.
        let mut at = &out[..];
        while let Some(header) = codec_header(at) {
            let (one, rest) = at.split_at(header.min(at.len()));
            prop_assert!(one[0] == b'P' || !one.windows(4).any(|window| window == b"held"));
            at = rest;
        }
    }
}

fn codec_header(bytes: &[u8]) -> Option<usize> {
    crate::protocol::postgres::codec::Header::read(bytes).ok().flatten().map(|header| header.total())
}
