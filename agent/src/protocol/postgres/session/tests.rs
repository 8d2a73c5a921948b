//! The session without sockets: hostile bytes, and bytes in any portions.

mod ahead;
mod held;

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
