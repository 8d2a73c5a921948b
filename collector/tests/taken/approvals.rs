//! What agents tell of requests for approval, and how decisions come to them.

use interlock_collector::administer::By;
use interlock_collector::approvals::{self, Account, Decision};
use interlock_collector::intake::Intake;
use interlock_collector::store::approval_id;
use interlock_recording::hex;
use interlock_recording::{HostKey, PublicKey};
use interlock_shipping::v1::to_agent::Message as FromCollector;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{
    ApprovalAnswer, ApprovalName, ApprovalQuorum, ApprovalRequest, ApprovalStanding, ApprovalVote,
    ApprovalsOpen,
};

use crate::support::{Call, Collector};

pub(crate) fn request(nth: u8) -> ApprovalRequest {
    let quorum = ApprovalQuorum {
        rule: "r".into(),
        groups: vec!["dba".into()],
        needed: 1,
        ..ApprovalQuorum::default()
    };
    ApprovalRequest {
        request: format!("aaaaaaa{nth}"),
        digest: vec![nth; 32],
        text: "DELETE FROM t".into(),
        scopes: vec!["once".into()],
        quorums: vec![quorum],
        left_ns: 600_000_000_000,
        collector: "decide".into(),
        ..ApprovalRequest::default()
    }
}

fn host_of(key: &PublicKey) -> String {
    hex(&key.fingerprint())
}

/// Waits until a request is in this state here.
pub(crate) async fn until(intake: &Intake, id: &str, state: &str) {
    for _ in 0..3000 {
        let found = intake.store.approval(id).await.expect("looked");
        if found.as_ref().is_some_and(|found| found.item.state == state) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{id} never was {state}");
}

/// Bob, who is in the group, decides.
pub(crate) async fn decides(intake: &Intake, id: &str, approve: bool) -> String {
    let mut write = intake.store.write().await.expect("writes");
    write.add_user("bob", "*", "viewer", "test").await.expect("added");
    write.set_groups("bob", &["dba".to_owned()]).await.expect("set");
    write.commit().await.expect("committed");
    let bob = Account::of(&intake.store, "bob", None).await.expect("an account");
    let decision =
        Decision { approve, scope: "once".into(), minutes: None, reason: "looked at".into(), via: "test" };
    approvals::decide(intake, By { who: "bob", address: "" }, &bob, id, &decision).await.expect("decided")
}

async fn vote(call: &mut Call) -> ApprovalVote {
    match call.hear().await.expect("a message") {
        FromCollector::ApprovalVote(vote) => vote,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn answered(intake: &Intake, vote: &str, state: &str) {
    for _ in 0..3000 {
        let found = intake.store.approval_vote(vote).await.expect("looked").expect("there");
        if found.state == state {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the vote never was {state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_comes_by_the_call_and_again_by_the_next_one() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let key = HostKey::from_seed(&[21; 32]);
    let host = host_of(key.public());
    let identity = collector.enrol(&collector.token().await, &key).await.expect("enrolled");
    let (mut call, _) = collector.call(&identity).await.expect("called");
    let told = request(1);
    let id = approval_id(&host, &told.request, &told.digest);
    call.say(Message::ApprovalRequest(told.clone())).await;
    until(&collector.intake, &id, "pending").await;
    let given = decides(&collector.intake, &id, true).await;
    let first = vote(&mut call).await;
    assert_eq!(
        (&first.vote, &first.request, &first.digest, first.approve),
        (&given, &told.request, &told.digest, true)
    );
    let by = first.by.clone().expect("somebody");
    assert_eq!((by.name.as_str(), by.groups.as_slice()), ("bob", &["dba".to_owned()][..]));
    // The connection breaks before the agent has answered: it is told again, and the answer counts once.
    drop(call);
    let (mut call, _) = collector.call(&identity).await.expect("called");
    assert_eq!(vote(&mut call).await, first);
    // What nobody was told is no answer.
    let answer =
        |vote: &str, counted| ApprovalAnswer { vote: vote.into(), counted, ..ApprovalAnswer::default() };
    call.say(Message::ApprovalAnswer(answer("0000", true))).await;
    call.say(Message::ApprovalAnswer(answer(&given, true))).await;
    answered(&collector.intake, &given, "counted").await;
    call.say(Message::ApprovalAnswer(answer(&given, false))).await;
    let standing = ApprovalStanding {
        request: told.request.clone(),
        digest: told.digest.clone(),
        state: "approved".into(),
        ..ApprovalStanding::default()
    };
    call.say(Message::ApprovalStanding(standing)).await;
    until(&collector.intake, &id, "approved").await;
    answered(&collector.intake, &given, "counted").await;
    let waiting = collector.intake.store.waiting_votes(&host).await.expect("looked");
    assert!(waiting.0.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_on_the_host_is_open_here_and_nothing_else() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let (one, two) = (HostKey::from_seed(&[22; 32]), HostKey::from_seed(&[23; 32]));
    let first = collector.enrol(&collector.token().await, &one).await.expect("enrolled");
    let second = collector.enrol(&collector.token().await, &two).await.expect("enrolled");
    let (call, _) = collector.call(&first).await.expect("called");
    let (other, _) = collector.call(&second).await.expect("called");
    let id = |key: &HostKey, nth: u8| {
        let told = request(nth);
        approval_id(&host_of(key.public()), &told.request, &told.digest)
    };
    for nth in 1..4 {
        call.say(Message::ApprovalRequest(request(nth))).await;
        other.say(Message::ApprovalRequest(request(nth))).await;
    }
    for nth in 1..4 {
        until(&collector.intake, &id(&one, nth), "pending").await;
        until(&collector.intake, &id(&two, nth), "pending").await;
    }
    let open = [2, 3].map(|nth| ApprovalName { request: request(nth).request, digest: request(nth).digest });
    call.say(Message::ApprovalsOpen(ApprovalsOpen { open: open.to_vec() })).await;
    until(&collector.intake, &id(&one, 1), "withdrawn").await;
    // An agent that was started anew has none; another host's are its own.
    drop(call);
    let (call, _) = collector.call(&first).await.expect("called");
    call.say(Message::ApprovalsOpen(ApprovalsOpen::default())).await;
    for nth in 2..4 {
        until(&collector.intake, &id(&one, nth), "withdrawn").await;
    }
    assert_eq!(collector.intake.store.open_approvals(None).await.expect("counted"), 3);
    // What cannot be is found, and the recording is taken in all the same.
    let odd = [
        ApprovalRequest { request: "../../et".into(), ..request(5) },
        ApprovalRequest { digest: vec![5; 31], ..request(5) },
        ApprovalRequest { quorums: Vec::new(), ..request(5) },
        ApprovalRequest { text: "x".repeat(600 << 10), ..request(5) },
        ApprovalRequest {
            quorums: vec![ApprovalQuorum { groups: vec!["g".into(); 1025], ..ApprovalQuorum::default() }],
            ..request(5)
        },
    ];
    for odd in odd {
        other.say(Message::ApprovalRequest(odd)).await;
    }
    let state = |state: &str| ApprovalStanding {
        request: request(1).request,
        digest: request(1).digest,
        state: state.into(),
        ..ApprovalStanding::default()
    };
    other.say(Message::ApprovalStanding(state("undecided"))).await;
    other.say(Message::ApprovalStanding(state("denied"))).await;
    until(&collector.intake, &id(&two, 1), "denied").await;
    let page = collector.intake.store.findings(true, None, 100).await.expect("findings");
    let odd: Vec<_> = page.items.iter().filter(|finding| finding.kind == "approvals").collect();
    assert_eq!(odd.len(), 4, "{odd:?}");
    assert_eq!(collector.intake.store.open_approvals(None).await.expect("counted"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_counts_by_what_its_account_is_when_the_host_is_told() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    let key = HostKey::from_seed(&[24; 32]);
    let host = host_of(key.public());
    let identity = collector.enrol(&collector.token().await, &key).await.expect("enrolled");
    let (call, _) = collector.call(&identity).await.expect("called");
    let id = |nth: u8| approval_id(&host, &request(nth).request, &request(nth).digest);
    for nth in 1..5 {
        let mut told = request(nth);
        told.quorums[0].groups.push("oncall".into());
        call.say(Message::ApprovalRequest(told)).await;
        until(&collector.intake, &id(nth), "pending").await;
    }
    // The host is away when they are given.
    drop(call);
    let refused = async |vote: &str, part: &str| {
        answered(&collector.intake, vote, "refused").await;
        let vote = store.approval_vote(vote).await.expect("looked").expect("there");
        assert!(vote.why.contains(part), "{}", vote.why);
    };
    let groups = async |groups: &[&str]| {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        let mut write = store.write().await.expect("writes");
        write.set_groups("bob", &groups).await.expect("set");
        write.commit().await.expect("committed");
    };
    // It leaves the groups.
    let left = decides(&collector.intake, &id(1), true).await;
    groups(&["other"]).await;
    let (call, _) = collector.call(&identity).await.expect("called");
    refused(&left, "in none of the groups").await;
    drop(call);
    // It is disabled: also when it is let in again before the host hears of it.
    let disabled = decides(&collector.intake, &id(2), true).await;
    for active in [false, true] {
        let mut write = store.write().await.expect("writes");
        assert!(write.set_user("bob", "viewer", active).await.expect("set"));
        write.commit().await.expect("committed");
    }
    refused(&disabled, "account was changed").await;
    // It is another's password by now.
    let reset = decides(&collector.intake, &id(3), true).await;
    let mut write = store.write().await.expect("writes");
    write.set_password("bob", "other").await.expect("set");
    write.commit().await.expect("committed");
    refused(&reset, "account was changed").await;
    // It has left one of two groups: the host is told of the other alone. Nothing that was void is told.
    groups(&["dba", "oncall"]).await;
    let bob = Account::of(store, "bob", None).await.expect("an account");
    let decision =
        Decision { approve: true, scope: "once".into(), minutes: None, reason: "yes".into(), via: "test" };
    let by = By { who: "bob", address: "" };
    let given = approvals::decide(&collector.intake, by, &bob, &id(4), &decision).await.expect("decided");
    groups(&["oncall"]).await;
    let (mut call, _) = collector.call(&identity).await.expect("called");
    let told = vote(&mut call).await;
    assert_eq!(told.vote, given);
    assert_eq!(told.by.expect("somebody").groups, ["oncall"]);
    // A host has no word on what was void.
    for vote in [&left, &disabled, &reset] {
        call.say(Message::ApprovalAnswer(ApprovalAnswer {
            vote: vote.clone(),
            counted: true,
            ..ApprovalAnswer::default()
        }))
        .await;
    }
    let answer = ApprovalAnswer { vote: given.clone(), counted: true, ..ApprovalAnswer::default() };
    call.say(Message::ApprovalAnswer(answer)).await;
    answered(&collector.intake, &given, "counted").await;
    for vote in [left, disabled, reset] {
        answered(&collector.intake, &vote, "refused").await;
    }
}
