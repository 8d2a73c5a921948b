//! Bounds of what one host can have kept of its requests for approval, and commands that went through unapproved: they
//! need a review whatever became of what their hosts told.

use std::collections::HashSet;
use std::path::Path;

use interlock_collector::administer::By;
use interlock_collector::approvals::{self, Account, DecideError};
use interlock_collector::intake::Quota;
use interlock_collector::store::{ApprovalFilter, Store, WholeApproval, approval_id};
use interlock_recording::proto::Subject;
use interlock_recording::{HostKey, hex};
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{
    ApprovalBeforehand, ApprovalBy, ApprovalCounted, ApprovalEstimate, ApprovalName, ApprovalParam,
    ApprovalQuorum, ApprovalRequest, ApprovalStanding, ApprovalStatement, ApprovalsOpen, Live,
};
use prost::Message as _;

use crate::approvals::{answered, decides, request, until};
use crate::intake::{enrolled, host, open, sealed};
use crate::kept;
use crate::made::{self, Log};
use crate::support::Collector;

async fn bounded(state: &Path, quota: Quota) -> Collector {
    let (config, kept) = kept::config(state).await;
    Collector::start_as(config, kept, quota).await
}

fn id(told: &ApprovalRequest) -> String {
    approval_id(&hex(&host().public().fingerprint()), &told.request, &told.digest)
}

fn standing(of: &ApprovalRequest, state: &str) -> ApprovalStanding {
    ApprovalStanding {
        request: of.request.clone(),
        digest: of.digest.clone(),
        state: state.into(),
        ..ApprovalStanding::default()
    }
}

async fn findings(store: &Store, kind: &str) -> Vec<String> {
    let page = store.findings(true, None, 1000).await.expect("findings");
    let of_kind = page.items.into_iter().filter(|finding| finding.kind == kind);
    let mut details: Vec<String> = of_kind.map(|finding| finding.detail).collect();
    details.reverse();
    details
}

async fn found(store: &Store, kind: &str, part: &str) {
    for _ in 0..3000 {
        if findings(store, kind).await.iter().any(|detail| detail.contains(part)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{part} was never found: {:?}", findings(store, kind).await);
}

async fn unreviewed(store: &Store) -> Vec<String> {
    let filter = ApprovalFilter { state: Some("unreviewed".into()), ..ApprovalFilter::default() };
    let page = store.approvals(&filter, None, 2000).await.expect("listed");
    page.items.into_iter().map(|item| item.id).collect()
}

async fn whole(store: &Store, id: &str) -> WholeApproval {
    store.approval(id).await.expect("looked").expect("there")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bound_of_what_an_agent_tells_is_one() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    let identity = enrolled(&collector).await;
    let (call, _) = collector.call(&identity).await.expect("called");
    let quorum = || request(1).quorums.remove(0);
    let groups = |count: usize| (0..count).map(|at| format!("g{at}")).collect::<Vec<_>>();
    let long = "x".repeat(17 << 10);
    let beforehand = |told: ApprovalBeforehand| ApprovalRequest { beforehand: Some(told), ..request(5) };
    let quorums = |quorums: Vec<ApprovalQuorum>| ApprovalRequest { quorums, ..request(5) };
    let odd = [
        ApprovalRequest { request: "../../et".into(), ..request(5) },
        ApprovalRequest { request: "aaaaaaa".into(), ..request(5) },
        ApprovalRequest { digest: vec![5; 31], ..request(5) },
        ApprovalRequest { text: "x".repeat(600 << 10), ..request(5) },
        quorums(Vec::new()),
        quorums(vec![ApprovalQuorum { groups: Vec::new(), ..quorum() }]),
        quorums(vec![quorum(); 65]),
        quorums(vec![ApprovalQuorum { groups: groups(1025), ..quorum() }]),
        quorums(vec![ApprovalQuorum { groups: groups(40), ..quorum() }; 26]),
        quorums(vec![ApprovalQuorum { groups: vec!["g".repeat(257)], ..quorum() }]),
        quorums(vec![ApprovalQuorum { groups: vec![String::new()], ..quorum() }]),
        quorums(vec![ApprovalQuorum { rule: "r".repeat(257), ..quorum() }]),
        quorums(vec![ApprovalQuorum { via: vec!["host".into(); 3], ..quorum() }]),
        ApprovalRequest { session: vec![1; 15], ..request(5) },
        // It is what an index goes by: PostgreSQL would fail, and the call with it.
        ApprovalRequest { likeness: vec![1; 4000], ..request(5) },
        ApprovalRequest { collector: "everything".into(), ..request(5) },
        ApprovalRequest { scopes: vec!["always".into()], ..request(5) },
        ApprovalRequest { scopes: vec!["once".into(); 4], ..request(5) },
        ApprovalRequest { step: "s".repeat(257), ..request(5) },
        ApprovalRequest { transaction: "t".repeat(257), ..request(5) },
        ApprovalRequest { server: long.clone(), ..request(5) },
        ApprovalRequest { database: long.clone(), ..request(5) },
        ApprovalRequest { db_user: long.clone(), ..request(5) },
        ApprovalRequest { hosts: vec![long.clone()], ..request(5) },
        ApprovalRequest { started_by: long.clone(), ..request(5) },
        beforehand(ApprovalBeforehand { reason: "r".repeat(4001), ..ApprovalBeforehand::default() }),
        beforehand(ApprovalBeforehand { tree_exe: long.clone(), ..ApprovalBeforehand::default() }),
        beforehand(ApprovalBeforehand { program: long.clone(), ..ApprovalBeforehand::default() }),
        beforehand(ApprovalBeforehand { time_zone: "z".repeat(257), ..ApprovalBeforehand::default() }),
        ApprovalRequest {
            estimate: Some(ApprovalEstimate { rows: None, why_not: long.clone() }),
            ..request(5)
        },
        ApprovalRequest { hosts: vec!["h".into(); 257], ..request(5) },
        ApprovalRequest { statements: vec![ApprovalStatement::default(); 257], ..request(5) },
        ApprovalRequest { params: vec![ApprovalParam::default(); 65_536], ..request(5) },
    ];
    for odd in &odd {
        call.say(Message::ApprovalRequest(odd.clone())).await;
    }
    // What may be, also at its largest, and with numbers that no clock says.
    let largest = ApprovalRequest {
        text: "é\0\u{202e}".repeat(50 << 10),
        quorums: vec![ApprovalQuorum { groups: groups(16), ..quorum() }; 64],
        asked_ns: u64::MAX,
        deadline_ns: u64::MAX,
        left_ns: u64::MAX,
        fresh_seconds: u64::MAX,
        shape_for_seconds: u64::MAX,
        command: u64::MAX,
        omitted_params: u64::MAX,
        subject: vec![0xff; 1000],
        ..request(6)
    };
    call.say(Message::ApprovalRequest(largest.clone())).await;
    until(&collector.intake, &id(&largest), "pending").await;
    for odd in &odd {
        assert!(!store.has_approval(&id(odd)).await.expect("looked"), "{}", odd.encoded_len());
    }
    let details = findings(store, "approvals").await;
    assert_eq!(details.len(), 6, "each is said once: {details:#?}");
    let item = whole(store, &id(&largest)).await.item;
    let day = 86_400_000_000_000;
    assert!(item.deadline_ns <= interlock_collector::store::now_ns() + day, "clamped to a day");

    // How one stands.
    let by = |by: ApprovalBy| ApprovalStanding { by: Some(by), ..standing(&largest, "denied") };
    let vote =
        |vote: ApprovalCounted| ApprovalStanding { votes: vec![vote], ..standing(&largest, "approved") };
    let none = ApprovalBy::default;
    let odd = [
        standing(&largest, "undecided"),
        ApprovalStanding { request: "a".into(), ..standing(&largest, "denied") },
        ApprovalStanding { digest: Vec::new(), ..standing(&largest, "denied") },
        ApprovalStanding { reason: "r".repeat(4001), ..standing(&largest, "denied") },
        ApprovalStanding { scope: "s".repeat(257), ..standing(&largest, "denied") },
        ApprovalStanding { votes: vec![ApprovalCounted::default(); 257], ..standing(&largest, "denied") },
        by(ApprovalBy { name: long.clone(), ..none() }),
        by(ApprovalBy { login: long.clone(), ..none() }),
        by(ApprovalBy { issuer: long.clone(), ..none() }),
        by(ApprovalBy { subject: long.clone(), ..none() }),
        by(ApprovalBy { via: "v".repeat(257), ..none() }),
        by(ApprovalBy { groups: groups(1025), ..none() }),
        by(ApprovalBy { groups: vec![long.clone()], ..none() }),
        by(ApprovalBy { names: vec![long.clone()], ..none() }),
        by(ApprovalBy { names: groups(1025), ..none() }),
        vote(ApprovalCounted { reason: "r".repeat(4001), ..ApprovalCounted::default() }),
        vote(ApprovalCounted { scope: "s".repeat(257), ..ApprovalCounted::default() }),
        vote(ApprovalCounted { by: Some(ApprovalBy { name: long, ..none() }), ..ApprovalCounted::default() }),
        // Each part is in order, and all of it is not.
        ApprovalStanding {
            votes: vec![ApprovalCounted { reason: "r".repeat(4000), ..ApprovalCounted::default() }; 40],
            ..standing(&largest, "approved")
        },
    ];
    for odd in odd {
        call.say(Message::ApprovalStanding(odd)).await;
    }
    let opened = |name: &str, digest: Vec<u8>| {
        Message::ApprovalsOpen(ApprovalsOpen { open: vec![ApprovalName { request: name.into(), digest }] })
    };
    call.say(opened("odd", vec![1; 32])).await;
    // A second list in one call.
    call.say(opened("aaaaaaaa", vec![1; 32])).await;
    found(store, "approvals", "twice in one call").await;
    assert_eq!(whole(store, &id(&largest)).await.item.state, "pending", "none of it counted");
    assert_eq!(findings(store, "approvals").await.len(), 9);
    // Nobody waits for a time that a host says.
    let before = store.approvals_state().await.expect("read");
    call.say(Message::ApprovalStanding(standing(&largest, "denied"))).await;
    until(&collector.intake, &id(&largest), "denied").await;
    assert_ne!(store.approvals_state().await.expect("read"), before);
    // A decision on what is gone is none of the host's to answer for others.
    assert!(store.agents().await.expect("agents")[0].dispute.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_so_many_requests_a_day_and_no_other_pays_for_it() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = bounded(state.path(), Quota::new(0, 0).with_requests(3)).await;
    let store = &collector.intake.store;
    let identity = enrolled(&collector).await;
    let other = HostKey::from_seed(&[43; 32]);
    let neighbour = collector.enrol(&collector.token().await, &other).await.expect("enrolled");
    let (call, _) = collector.call(&identity).await.expect("called");
    for nth in 1..6 {
        call.say(Message::ApprovalRequest(request(nth))).await;
    }
    found(store, "approvals", "agents.requests_per_day_per_host").await;
    call.say(Message::ApprovalStanding(standing(&request(1), "denied"))).await;
    until(&collector.intake, &id(&request(1)), "denied").await;
    // Ended ones count too, and what is there is told again without a word.
    drop(call);
    let (mut call, _) = collector.call(&identity).await.expect("called");
    for nth in [2, 3, 6] {
        call.say(Message::ApprovalRequest(request(nth))).await;
    }
    // Decisions on those that are there go on.
    let given = decides(&collector.intake, &id(&request(2)), true).await;
    loop {
        if let interlock_shipping::v1::to_agent::Message::ApprovalVote(vote) =
            call.hear().await.expect("a message")
        {
            assert_eq!(vote.vote, given);
            break;
        }
    }
    let answer = interlock_shipping::v1::ApprovalAnswer {
        vote: given.clone(),
        counted: true,
        ..interlock_shipping::v1::ApprovalAnswer::default()
    };
    call.say(Message::ApprovalAnswer(answer)).await;
    answered(&collector.intake, &given, "counted").await;
    for nth in 1..7 {
        let there = store.has_approval(&id(&request(nth))).await.expect("looked");
        assert_eq!(there, nth < 4, "{nth}");
    }
    assert_eq!(findings(store, "approvals").await.len(), 1);
    let (call, _) = collector.call(&neighbour).await.expect("called");
    call.say(Message::ApprovalRequest(request(7))).await;
    let theirs = approval_id(&hex(&other.public().fingerprint()), &request(7).request, &request(7).digest);
    until(&collector.intake, &theirs, "pending").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_a_share_of_it_and_no_other_pays_for_it() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = bounded(state.path(), Quota::new(0, 0).with_requests(4000)).await;
    let store = &collector.intake.store;
    let identity = enrolled(&collector).await;
    let by = |user: &str, login: &str, told: ApprovalRequest| {
        let subject = Subject { user: user.into(), login_user: login.into(), ..Subject::default() };
        ApprovalRequest { subject: subject.encode_to_vec(), ..told }
    };
    let this = hex(&host().public().fingerprint());
    let mut write = store.write().await.expect("writes");
    for at in 0..1000 {
        // As whichever user: it is one who has logged in.
        let user = format!("user{}", at % 7);
        let told = by(&user, "mallory", ApprovalRequest { request: format!("{at:08}"), ..request(9) });
        assert!(write.take_approval(&this, &told).await.expect("taken"));
    }
    write.commit().await.expect("committed");
    let (call, _) = collector.call(&identity).await.expect("called");
    call.say(Message::ApprovalRequest(by("deploy", "mallory", request(1)))).await;
    found(store, "approvals", "of mallory came").await;
    call.say(Message::ApprovalRequest(by("mallory", "", request(2)))).await;
    call.say(Message::ApprovalRequest(by("deploy", "alice", request(3)))).await;
    until(&collector.intake, &id(&request(3)), "pending").await;
    for (nth, there) in [(1, false), (2, false), (3, true)] {
        assert_eq!(store.has_approval(&id(&request(nth))).await.expect("looked"), there, "{nth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_requests_count_towards_what_a_host_may_have_kept() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    made::recording(spool.path());
    let first = sealed(spool.path(), 0);
    let keep = 250_000 + first.len() as u64;
    let collector = bounded(state.path(), Quota::new(keep, 0)).await;
    let store = &collector.intake.store;
    let identity = enrolled(&collector).await;
    let (mut call, _) = collector.call(&identity).await.expect("called");
    let large = |nth: u8| ApprovalRequest { text: "x".repeat(100_000), ..request(nth) };
    for nth in 1..5 {
        call.say(Message::ApprovalRequest(large(nth))).await;
    }
    found(store, "approvals", "agents.keep_gib_per_host").await;
    assert!(store.has_approval(&id(&large(2))).await.expect("looked"));
    assert!(!store.has_approval(&id(&large(3))).await.expect("looked"));
    // There is room for less, and for the recording.
    call.ship(0, &first).await.expect("taken");
    let usage = store.held_usage(&hex(&host().public().fingerprint()), 0).await.expect("read");
    assert_eq!((usage.rows, usage.open, usage.lately), (2, 2, 2));
    assert!((200_000..210_000).contains(&usage.bytes), "{usage:?}");
    let small = ApprovalRequest { text: "x".repeat(40_000), ..request(5) };
    call.say(Message::ApprovalRequest(small.clone())).await;
    until(&collector.intake, &id(&small), "pending").await;
    // Full, it takes how they ended, and no more of the recording.
    call.say(Message::ApprovalStanding(ApprovalStanding {
        reason: "r".repeat(4000),
        ..standing(&small, "broken_glass")
    }))
    .await;
    until(&collector.intake, &id(&small), "broken_glass").await;
    let filled = ApprovalRequest { text: "x".repeat(2000), ..request(6) };
    call.say(Message::ApprovalRequest(filled.clone())).await;
    until(&collector.intake, &id(&filled), "pending").await;
    let more = call.ship(1, &vec![7; 60_000]).await.expect_err("over the bound");
    assert_eq!(more.code(), tonic::Code::ResourceExhausted, "{more}");
}

#[tokio::test]
async fn many_are_closed_at_once_and_each_is_told_of() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    let identity = enrolled(&collector).await;
    drop(identity);
    let host = hex(&host().public().fingerprint());
    let mut write = store.write().await.expect("writes");
    write.add_output("siem").await.expect("added");
    write.commit().await.expect("committed");
    let mut write = store.write().await.expect("writes");
    let named = |at: usize| ApprovalRequest { request: format!("{at:08}"), ..request(1) };
    for at in 0..2500 {
        assert!(write.take_approval(&host, &named(at)).await.expect("taken"));
    }
    let other = "0".repeat(64);
    assert!(write.take_approval(&other, &named(1)).await.expect("taken"));
    write.commit().await.expect("committed");
    let ids = |range: std::ops::Range<usize>| {
        let id = |at| approval_id(&host, &named(at).request, &named(at).digest);
        range.map(id).collect::<HashSet<String>>()
    };
    let mut write = store.write().await.expect("writes");
    assert_eq!(write.close_approvals(&host, &ids(0..100)).await.expect("closed"), 2400);
    assert_eq!(write.close_approvals(&host, &HashSet::new()).await.expect("closed"), 100);
    assert_eq!(write.close_approvals(&host, &HashSet::new()).await.expect("closed"), 0);
    write.commit().await.expect("committed");
    let mut told: Vec<String> = Vec::new();
    let mut place = store.outputs().await.expect("outputs")[0].place;
    loop {
        let rows = store.journal(place, 1000).await.expect("read");
        let Some(last) = rows.last() else { break };
        place = last.place;
        told.extend(rows.iter().map(|row| {
            let (id, news, change) = row.approval().expect("of a request");
            assert_eq!(change.state == "withdrawn", news.word() == "ended");
            format!("{id} {}", news.word())
        }));
    }
    let ended: HashSet<String> =
        told.iter().filter_map(|about| about.strip_suffix(" ended")).map(str::to_owned).collect();
    assert_eq!(ended, ids(0..2500));
    assert_eq!(told.len(), 2501 + 2500);
    assert_eq!(store.open_approvals(None).await.expect("counted"), 1, "another host's are its own");
    assert_eq!(whole(store, &approval_id(&host, "00000007", &[1; 32])).await.item.state, "withdrawn");
}

/// The events of a request that went through unapproved, as an agent records them.
struct Glass<'d> {
    log: Log<'d>,
    shipped: usize,
}

impl<'d> Glass<'d> {
    fn new(spool: &'d Path) -> Self {
        let mut log = Log::new(spool);
        log.event(true, 20, |body| {
            body.message(1, |subject| {
                subject.string(4, "deploy");
                subject.string(8, "alice");
                subject.string(10, "/usr/bin/psql");
            });
            body.string(3, "10.0.0.7:5432");
        });
        Self { log, shipped: 0 }
    }

    fn asked(&mut self, told: &ApprovalRequest) {
        self.log.event(true, 40, |body| {
            body.string(1, &told.request);
            body.string(2, "query");
            body.string(3, &told.text);
            body.bytes(9, &told.digest);
            body.message(10, |quorum| {
                quorum.string(1, "r");
                quorum.string(2, "dba");
                quorum.uint(3, 1);
            });
        });
    }

    fn broken(&mut self, told: &ApprovalRequest) {
        self.log.event(true, 42, |body| {
            body.string(1, &told.request);
            body.string(2, "broken_glass");
            body.message(3, |by| {
                by.string(1, "deploy");
                by.string(4, "alice");
                by.string(7, "host");
            });
            body.string(4, "the shop is down");
            body.bool(7, true);
        });
    }

    /// What was recorded since.
    fn live(&mut self) -> Live {
        self.log.head();
        let all = open(self.log.directory, 0);
        let records = all.records.slice(self.shipped..);
        let first = self.shipped == 0;
        self.shipped = all.records.len();
        let header = if first { all.header.clone() } else { Vec::new() };
        Live { header, records, ..all }
    }
}

async fn members(collector: &Collector) {
    let mut write = collector.intake.store.write().await.expect("writes");
    for name in ["alice", "bob"] {
        write.add_user(name, "*", "viewer", "test").await.expect("added");
        write.set_groups(name, &["dba".to_owned()]).await.expect("set");
    }
    write.commit().await.expect("committed");
}

async fn review(collector: &Collector, who: &str, id: &str) -> Result<(), DecideError> {
    let account = Account::of(&collector.intake.store, who, None).await.expect("an account");
    let by = By { who, address: "" };
    approvals::review(&collector.intake, by, &account, id, "it was in order").await
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_glass_that_the_host_never_told_of_needs_a_review_by_its_recording() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    let identity = enrolled(&collector).await;
    members(&collector).await;
    let told = request(1);
    let mut glass = Glass::new(spool.path());
    glass.asked(&told);
    // The agent is killed, or its connection cut, between what it records: nothing is held in memory for it.
    let (mut call, _) = collector.call(&identity).await.expect("called");
    call.live(glass.live()).await.expect("taken");
    assert!(unreviewed(store).await.is_empty());
    drop(call);
    glass.broken(&told);
    let (mut call, taken) = collector.call(&identity).await.expect("called");
    let live = Live { first_index: taken.next_index, ..glass.live() };
    call.live(live).await.expect("taken");
    assert_eq!(unreviewed(store).await, [id(&told)]);
    let one = whole(store, &id(&told)).await;
    assert_eq!(
        (
            one.item.user.as_str(),
            one.item.login_user.as_str(),
            one.item.text.as_str(),
            one.item.needs.as_str()
        ),
        ("deploy", "alice", "DELETE FROM t", "1 of dba")
    );
    assert_eq!(
        (one.item.destination.as_str(), one.standing.reason.as_str()),
        ("10.0.0.7:5432", "the shop is down")
    );
    assert_eq!(findings(store, "broken_glass").await.len(), 1);
    // Who broke it does not look into it; another member does.
    assert!(matches!(review(&collector, "alice", &id(&told)).await, Err(DecideError::Own)));
    // What comes of the agent's own telling, late: it stays what it is, and is whole then.
    call.say(Message::ApprovalsOpen(ApprovalsOpen::default())).await;
    let late = ApprovalRequest {
        subject: Subject { user: "deploy".into(), login_user: "alice".into(), ..Subject::default() }
            .encode_to_vec(),
        message: "ask first".into(),
        ..told.clone()
    };
    call.say(Message::ApprovalRequest(late.clone())).await;
    call.say(Message::ApprovalStanding(standing(&told, "withdrawn"))).await;
    call.say(Message::ApprovalStanding(standing(&told, "broken_glass"))).await;
    let after = request(2);
    call.say(Message::ApprovalRequest(after.clone())).await;
    until(&collector.intake, &id(&after), "pending").await;
    let one = whole(store, &id(&told)).await;
    assert_eq!((one.item.state.as_str(), one.told.message.as_str()), ("broken_glass", "ask first"));
    // Told once more, it cannot be told otherwise.
    call.say(Message::ApprovalRequest(ApprovalRequest { text: "SELECT 1".into(), ..late })).await;
    call.say(Message::ApprovalStanding(standing(&after, "denied"))).await;
    until(&collector.intake, &id(&after), "denied").await;
    assert_eq!(whole(store, &id(&told)).await.told.text, "DELETE FROM t");
    assert!(matches!(review(&collector, "alice", &id(&told)).await, Err(DecideError::Own)));
    review(&collector, "bob", &id(&told)).await.expect("reviewed");
    assert!(unreviewed(store).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_glass_is_marked_over_whatever_was_thought_of_it() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    let identity = enrolled(&collector).await;
    members(&collector).await;
    let mut glass = Glass::new(spool.path());
    // Told, and then the agent is another one that has none open: by the recording alone it is known what became of it.
    let told = request(1);
    let (call, _) = collector.call(&identity).await.expect("called");
    call.say(Message::ApprovalRequest(ApprovalRequest {
        session: interlock_recording::SessionId::new(1_700_000_000_000, made::SESSION).as_bytes().to_vec(),
        ..told.clone()
    }))
    .await;
    until(&collector.intake, &id(&told), "pending").await;
    drop(call);
    let (mut call, _) = collector.call(&identity).await.expect("called");
    call.say(Message::ApprovalsOpen(ApprovalsOpen::default())).await;
    until(&collector.intake, &id(&told), "withdrawn").await;
    // Without what was asked, which stands in a part that never came.
    glass.broken(&told);
    call.live(glass.live()).await.expect("taken");
    assert_eq!(unreviewed(store).await, [id(&told)]);

    // How one ended, without the request: until its groups are known nobody looks into it, and it stands there.
    let alone = request(2);
    call.say(Message::ApprovalStanding(standing(&alone, "broken_glass"))).await;
    until(&collector.intake, &id(&alone), "broken_glass").await;
    assert_eq!(unreviewed(store).await, [id(&alone), id(&told)]);
    let nobody = review(&collector, "bob", &id(&alone)).await.expect_err("not known");
    assert!(nobody.to_string().contains("not known yet"), "{nobody}");
    // Another digest is another command, and another end none.
    call.say(Message::ApprovalStanding(standing(&request(3), "denied"))).await;
    glass.asked(&alone);
    glass.broken(&alone);
    let live = Live { first_index: 2, ..glass.live() };
    call.live(live).await.expect("taken");
    assert_eq!(unreviewed(store).await, [id(&alone), id(&told)]);
    assert!(!store.has_approval(&id(&request(3))).await.expect("looked"));
    assert_eq!(whole(store, &id(&alone)).await.item.needs, "1 of dba");
    review(&collector, "bob", &id(&alone)).await.expect("reviewed");
    // A collector that is started anew has it still.
    let Collector { config, .. } = &collector;
    let again = interlock_collector::serve::open(config).await.expect("opened");
    assert_eq!(unreviewed(&again.intake.store).await, [id(&told)]);
}

#[tokio::test]
async fn a_host_that_breaks_all_glass_fills_no_list_without_end() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    let host = "ab".repeat(32);
    let mut write = store.write().await.expect("writes");
    let named = |at: usize| ApprovalRequest { request: format!("{at:08}"), ..request(1) };
    for at in 0..1002 {
        write.take_standing(&host, &standing(&named(at), "broken_glass")).await.expect("taken");
    }
    // What was told of is marked all the same.
    write.take_approval(&host, &named(5000)).await.expect("taken");
    assert!(write.take_standing(&host, &standing(&named(5000), "broken_glass")).await.expect("taken"));
    write.commit().await.expect("committed");
    assert_eq!(unreviewed(store).await.len(), 1001);
    assert!(findings(store, "approvals").await[0].contains("stand in its recording"));
}
