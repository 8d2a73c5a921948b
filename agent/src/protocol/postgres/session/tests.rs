//! The session without sockets: hostile bytes, and bytes in any portions.

use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::mask::{Detector, HashKey, MaskSet, Transform};
use crate::operation::Operation;
use crate::policy::{Decision, Destination, Quorum, Terms, Verdict};
use crate::protocol::postgres::startup::{self, Packet};
use crate::record::{FlowStart, Recorder};

/// Refuses what says `forbidden`, and holds what says `held`: what says `strict` too for others to approve, and
/// what says `never` for nobody.
struct Policy {
    masks: Arc<MaskSet>,
}

impl Rules for Policy {
    fn decide(&self, operation: &Operation, _subject: &Subject) -> Decision {
        let denied = operation.text.contains("forbidden");
        let held = operation.text.contains("held");
        Decision {
            verdict: match (denied, held) {
                (true, _) => Verdict::Deny,
                (_, true) => Verdict::Hold,
                _ => Verdict::Allow,
            },
            enforced: true,
            rule: (denied || held).then(|| "rule".into()),
            message: None,
            matched: Vec::new(),
            observed: Vec::new(),
            approval: (held && !operation.text.contains("never")).then(|| {
                let mut terms = Terms::sample();
                if operation.text.contains("strict") {
                    let quorum = |quorum: &mut Quorum| quorum.groups = Box::new(["sec".into()]);
                    terms.quorums.iter_mut().for_each(quorum);
                }
                Arc::new(terms)
            }),
        }
    }

    fn can_hold(&self) -> bool {
        true
    }

    fn masks(&self) -> &Arc<MaskSet> {
        &self.masks
    }
}

struct Bench {
    recorder: Arc<Recorder>,
    _state: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let config = Config { state: state.path().join("state"), ..Config::default() };
        Self { recorder: Recorder::open(&config).unwrap(), _state: state }
    }

    /// A session that is past its log-in, with a detector on if `masked`.
    fn core(&self, masked: bool) -> Core {
        let masks = if masked {
            MaskSet::builder().detector("mail".into(), Detector::Email, Transform::Redact)
        } else {
            MaskSet::builder()
        };
        let flow: Arc<dyn Rules> = Arc::new(Policy { masks: Arc::new(masks.build(&HashKey::new(&[1; 32]))) });
        let address = ([127, 0, 0, 1], 5432).into();
        let destination = Destination { address, hosts: Vec::new() };
        let start = FlowStart {
            subject: &Subject::default(),
            client: address,
            destination: &destination,
            protocol: "postgres",
            policy_hash: "",
            entries: &[],
        };
        let packet = b"\0\0\0\x10\0\x03\0\0user\0u\0\0";
        let Ok(Some((Packet::Startup(startup), _))) = startup::read(packet) else { panic!() };
        let desk = crate::approval::Desk::new(Config::default().approvals.bounds());
        let mut core = Core::new(Opened {
            subject: Arc::default(),
            policy: PolicyHandle::fixed(Arc::clone(&flow)),
            generation: 0,
            flow,
            limits: Limits { statement: 4096, parameters: 512, row: 4096, ..Limits::default() },
            scripts: Arc::new(sql::Cache::new(100, 1 << 20)),
            log: Log::new(self.recorder.session(&start).unwrap()),
            user: "u".into(),
            database: "d".into(),
            replication: false,
            lexing: Lexing::at_start(&startup),
            parameters: Box::default(),
            received: 0,
            legs: Legs::default(),
            brokered: None,
            holds: hold::Holds::new(desk, destination, &[]),
        });
        core.phase = Phase::Ready;
        core
    }
}

/// Feeds `bytes` in portions that end at `cuts`; gives all that would be written, and whether the flow
/// was ended.
fn feed(
    pipe: &mut Pipe,
    bytes: &[u8],
    cuts: &[usize],
    mut step: impl FnMut(&mut Pipe) -> Result<(), SessionError>,
) -> (Vec<u8>, bool) {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut at = 0;
    let mut out = Vec::new();
    for cut in cuts {
        pipe.append(&bytes[at..cut]);
        at = cut;
        let ended = step(pipe).is_err();
        out.extend(pipe.take_outgoing());
        if ended {
            return (out, true);
        }
    }
    (out, false)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A message of the client, well formed or not.
fn client_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(message(b'Q', b"select 1\0")),
        Just(message(b'Q', b"select 'forbidden'\0")),
        Just(message(b'P', b"s\0select $1\0\0\0")),
        Just(message(b'P', b"\0select 'forbidden'\0\0\0")),
        Just(message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x01x\0\0")),
        Just(message(b'D', b"P\0")),
        Just(message(b'D', b"Ss\0")),
        Just(message(b'E', b"\0\0\0\0\0")),
        Just(message(b'C', b"Ss\0")),
        Just(message(b'S', b"")),
        Just(message(b'H', b"")),
        Just(message(b'd', b"data")),
        Just(message(b'c', b"")),
        Just(message(b'F', b"\0\0\x03\xbd\0\0\0\0\0\0")),
        prop::collection::vec(any::<u8>(), 5000..5100).prop_map(|body| message(b'Q', &body)),
        prop::collection::vec(any::<u8>(), 0..30).prop_map(|body| message(b'B', &body)),
    ]
}

/// A message of the server, well formed or not.
fn server_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0")),
        Just(message(b'D', b"\0\x01\0\0\0\x01x")),
        Just(message(b'D', b"\0\x01\0\0\0\x0fann@example.com")),
        Just(message(b'C', b"SELECT 1\0")),
        Just(message(b'E', b"SERROR\0VERROR\0C42601\0Mno ann@example.com\0\0")),
        Just(message(b'E', b"SERROR\0C22012\0Mx\0\0")),
        Just(message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mann@example.com\0\0")),
        Just(message(b'Z', b"I")),
        Just(message(b'Z', b"T")),
        Just(message(b'1', b"")),
        Just(message(b'2', b"")),
        Just(message(b'3', b"")),
        Just(message(b'n', b"")),
        Just(message(b's', b"")),
        Just(message(b't', b"\0\x01\0\0\0\x19")),
        Just(message(b'G', b"\0\0\0")),
        Just(message(b'H', b"\0\0\0")),
        Just(message(b'd', b"1\tann@example.com\n")),
        Just(message(b'c', b"")),
        Just(message(b'V', b"\0\0\0\x01x")),
        Just(message(b'A', b"\0\0\0\x01c\0ann@example.com\0")),
        Just(message(b'S', b"client_encoding\0UTF8\0")),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(tag, body)| message(tag, &body)),
    ]
}

#[test]
fn portions_make_no_difference_and_nothing_panics() {
    let bench = Bench::new();
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 300, ..ProptestConfig::default() });
    let strategy = (
        prop::collection::vec(client_message(), 0..12),
        prop::collection::vec(server_message(), 0..16),
        prop::collection::vec(any::<usize>(), 0..12),
        any::<bool>(),
    );
    runner
        .run(&strategy, |(client, server, cuts, masked)| {
            let (client, server) = (client.concat(), server.concat());
            let run = |cuts: &[usize]| {
                let mut core = bench.core(masked);
                let up = feed(&mut Pipe::default(), &client, cuts, |pipe| core.client(pipe));
                let down = feed(&mut Pipe::default(), &server, cuts, |pipe| core.server(pipe));
                (up, down)
            };
            let (up, down) = run(&cuts);
            let (up_whole, down_whole) = run(&[]);
            // When the flow is ended, what was let go before depends on how the bytes came.
            prop_assert_eq!(up.1, up_whole.1);
            if !up.1 {
                prop_assert_eq!(up.0, up_whole.0);
            }
            prop_assert_eq!(down.1, down_whole.1);
            if !down.1 {
                prop_assert_eq!(down.0, down_whole.0);
            }
            Ok(())
        })
        .unwrap();
}

proptest! {
    #[test]
    fn refused_texts_never_pass(client in prop::collection::vec(client_message(), 0..12), cuts in prop::collection::vec(any::<usize>(), 0..12)) {
        static BENCH: std::sync::LazyLock<Bench> = std::sync::LazyLock::new(Bench::new);
        let mut core = BENCH.core(false);
        let (out, _) = feed(&mut Pipe::default(), &client.concat(), &cuts, |pipe| core.client(pipe));
        prop_assert!(!out.windows(9).any(|window| window == b"forbidden"));
    }
}

#[test]
fn answers_to_nothing_end_the_flow() {
    let bench = Bench::new();
    for answer in [
        message(b'D', b"\0\0"),
        message(b'Z', b"I"),
        message(b'C', b"\0"),
        message(b'1', b""),
        message(b'R', b"\0\0\0\0"),
    ] {
        let mut core = bench.core(false);
        let (out, ended) = feed(&mut Pipe::default(), &answer, &[], |pipe| core.server(pipe));
        assert!(ended && out.is_empty(), "{answer:?}");
    }
}

#[test]
fn a_flow_is_small() {
    fn size<F>(_: fn(FlowContext) -> F) -> usize {
        size_of::<F>()
    }
    // With its two read buffers of 4 KiB an idle flow stays below 16 KiB.
    let size = size(serve);
    assert!(size < 6 << 10, "{size} bytes");
}

mod held {
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
        Approver { person, name: "d".into(), login: "".into(), groups: Box::new(["dba".into()]), via: "host" }
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

    fn bind(portal: &str, value: &str) -> Vec<u8> {
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
        let mut all: Vec<String> = texts
            .iter()
            .map(|text| digest(&mut core, &message(b'Q', format!("{text}\0").as_bytes())))
            .collect();
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
        let prepares: Vec<u8> = (0..5)
            .flat_map(|name| query(&format!("prepare p{name} as select '{}'", "x".repeat(4000))))
            .collect();
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
    async fn held_again(
        bench: &Bench,
        before: &[(Vec<u8>, Vec<u8>)],
        between: &[(Vec<u8>, Vec<u8>)],
    ) -> bool {
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
                (up.take_outgoing(), down.take_outgoing());
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

    fn query(text: &str) -> Vec<u8> {
        message(b'Q', format!("{text}\0").as_bytes())
    }

    fn done(tag: &str, status: u8) -> Vec<u8> {
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
            out.windows(17).any(|window| window == b"interlock refused")
                && !out.windows(4).any(|w| w == b"held")
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
            out.windows(17).any(|window| window == b"interlock refused")
                && !out.windows(4).any(|w| w == b"held")
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
}
