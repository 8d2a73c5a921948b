//! What the collector brings is checked as what anybody brings, and what it is told comes in order.

use std::collections::BTreeMap;

use super::super::desk::{Bounds, Ticket};
use super::super::person::Person;
use super::*;
use crate::policy::{Quorum, Way};

/// What a desk of tests may do.
pub(crate) fn desk(remote: Remote) -> Arc<Desk> {
    let bounds = Bounds {
        held: 50,
        asked_per_user: 1000,
        held_per_user: 50,
        bytes: 1 << 20,
        remind: Duration::from_secs(60),
        remote,
        link: None,
    };
    Desk::new(bounds)
}

/// What `alice`, who has become `deploy`, asks for.
pub(crate) fn request(terms: Terms) -> Request {
    let subject = Subject {
        uid: 1,
        user: "deploy".into(),
        login_uid: Some(2),
        login_user: "alice".into(),
        ..Subject::default()
    };
    Request {
        subject: Arc::new(subject),
        server: ([127, 0, 0, 1], 5432).into(),
        hosts: Vec::new(),
        session: interlock_recording::SessionId::new(1, [1; 10]),
        shown: Shown { text: "delete from t".into(), ..Shown::default() },
        digest: [7; 32],
        terms: Arc::new(terms),
        shape: None,
        likeness: [1; 32],
        cancel: None,
        bytes: 1,
    }
}

fn ask(desk: &Arc<Desk>, terms: Terms) -> Ticket {
    let ticket = desk.ask(request(terms)).unwrap();
    desk.recorded(ticket.id());
    ticket
}

fn vote(ticket: &Ticket, id: &str, name: &str) -> RemoteVote {
    RemoteVote {
        request: ticket.id().to_string(),
        digest: [7; 32],
        approve: true,
        scope: Scope::Once,
        seconds: u64::MAX,
        reason: "".into(),
        account: Account { name: name.into(), vote: id.into(), ..Account::default() },
        groups: ["dba".into()].into(),
    }
}

fn refused(answer: &Answered) -> &str {
    answer.refused.as_deref().unwrap_or("it counted")
}

fn needs(needed: usize) -> Terms {
    let quorum = Quorum { needed, ..Quorum::sample("dba") };
    Terms { quorums: Box::new([quorum]), ..Terms::sample() }
}

#[tokio::test]
async fn a_vote_counts_once_however_often_it_comes() {
    let desk = desk(Remote::Decide);
    let mut ticket = ask(&desk, needs(2));
    let first = desk.remote(vote(&ticket, "v1", "bob"));
    assert_eq!(first, Answered { refused: None, missing: 1 });
    // Told again over another connection; with another content; from the same person by another name.
    assert_eq!(desk.remote(vote(&ticket, "v1", "bob")), first);
    let denies = RemoteVote { approve: false, ..vote(&ticket, "v1", "carol") };
    assert_eq!(desk.remote(denies), first);
    let twice = desk.remote(vote(&ticket, "v2", "okta:bob@example.com"));
    assert!(refused(&twice).contains("approved it already"), "{twice:?}");
    let twice = vote(&ticket, "v3", "root2");
    let twice = RemoteVote { account: Account { logins: vec!["bob".into()], ..twice.account }, ..twice };
    assert!(refused(&desk.remote(twice)).contains("approved it already"));
    assert_eq!(desk.waiting(), 1);
    assert_eq!(desk.remote(vote(&ticket, "v4", "carol")), Answered { refused: None, missing: 0 });
    let events: Vec<_> = std::iter::from_fn(|| ticket.take()).collect();
    assert!(matches!(
        &*events,
        [Event::Vote(_), Event::Vote(_), Event::Over(Outcome::Approved { scope: Scope::Once, .. })]
    ));
    // Late.
    let late = desk.remote(vote(&ticket, "v5", "dave"));
    assert!(refused(&late).contains("approved already"), "{late:?}");
    // What was answered stays so.
    assert_eq!(desk.remote(vote(&ticket, "v1", "bob")), first);
}

#[tokio::test]
async fn nobody_decides_on_their_own_request_as_an_account_either() {
    let desk = desk(Remote::Decide);
    let ticket = ask(&desk, Terms::sample());
    let account = |name: &str, email: &str, login: &str| Account {
        name: name.into(),
        email: email.into(),
        logins: vec![login.into()],
        ..Account::default()
    };
    for (nth, own) in [
        account("alice", "", ""),
        account("deploy", "", ""),
        account("okta:alice@example.com", "", ""),
        account("boss", "Alice@example.com", ""),
        account("boss", "", "alice"),
        account("boss", "", "EXAMPLE\\Deploy"),
    ]
    .into_iter()
    .enumerate()
    {
        for approve in [true, false] {
            let vote = RemoteVote {
                approve,
                reason: "mine".into(),
                account: Account { vote: format!("v{nth}{approve}"), ..own.clone() },
                ..vote(&ticket, "", "")
            };
            let answer = desk.remote(vote);
            assert!(refused(&answer).contains("own request"), "{own:?}: {answer:?}");
        }
    }
    assert_eq!(desk.waiting(), 1);
    assert_eq!(desk.remote(vote(&ticket, "v", "bob")).refused, None);
}

#[tokio::test]
async fn one_person_at_both_places_is_one() {
    let desk = desk(Remote::Decide);
    let ticket = ask(&desk, needs(2));
    let id = ticket.id().to_string();
    let person = Person { uid: 7, login_uid: Some(8), login_session: Some(1), confirmed: true };
    let by = Approver::on_host(person, "svc".into(), "bob".into(), ["dba".into()].into());
    let host = |by| Vote { by, reason: "".into(), scope: Scope::Once, seconds: 0 };
    assert_eq!(desk.approve(&id, host(by.clone())).unwrap(), 1);
    for (vote_id, name) in [("a", "bob"), ("b", "svc")] {
        let answer = desk.remote(vote(&ticket, vote_id, name));
        assert!(refused(&answer).contains("approved it already"), "{answer:?}");
    }
    // And the other way round.
    let ticket = ask(&desk, needs(2));
    assert_eq!(desk.remote(vote(&ticket, "c", "bob")).missing, 1);
    assert!(desk.approve(&ticket.id().to_string(), host(by)).is_err());
}

#[tokio::test]
async fn what_the_administrator_has_not_opened_is_closed() {
    for (remote, approves, denies) in [
        (Remote::Off, "there is no request", "there is no request"),
        (Remote::Show, "takes no approvals from its collector", "it counted"),
        (Remote::Decide, "it counted", "it counted"),
    ] {
        let desk = desk(remote);
        let ticket = ask(&desk, Terms::sample());
        let approve = desk.remote(vote(&ticket, "v1", "bob"));
        assert!(refused(&approve).contains(approves), "{remote:?}: {approve:?}");
        let ticket = ask(&desk, Terms::sample());
        let deny = RemoteVote { approve: false, reason: "no".into(), ..vote(&ticket, "v2", "bob") };
        let deny = desk.remote(deny);
        assert!(refused(&deny).contains(denies), "{remote:?}: {deny:?}");
    }
}

#[tokio::test]
async fn a_rule_says_where_approvals_count() {
    let desk = desk(Remote::Decide);
    let via = |way| Quorum { via: Box::new([way]), ..Quorum::sample("dba") };
    let of = |quorums: &[Quorum]| Terms { quorums: quorums.into(), ..Terms::sample() };
    let ticket = ask(&desk, of(&[via(Way::Host)]));
    let answer = desk.remote(vote(&ticket, "v1", "bob"));
    assert!(refused(&answer).contains("only on the host"), "{answer:?}");
    // A refusal counts from wherever it comes.
    let deny = RemoteVote { approve: false, reason: "no".into(), ..vote(&ticket, "v2", "bob") };
    assert_eq!(desk.remote(deny).refused, None);
    let ticket = ask(&desk, of(&[via(Way::Collector)]));
    let person = Person { uid: 7, login_uid: Some(7), login_session: Some(1), confirmed: true };
    let by = Approver::on_host(person, "bob".into(), "bob".into(), ["dba".into()].into());
    let host = Vote { by, reason: "".into(), scope: Scope::Once, seconds: 0 };
    let error = desk.approve(&ticket.id().to_string(), host.clone()).unwrap_err().to_string();
    assert!(error.contains("only at the collector"), "{error}");
    assert_eq!(desk.remote(vote(&ticket, "v3", "bob")), Answered { refused: None, missing: 0 });
    // Each rule for itself: an approval of the collector's is none for the one that wants the host.
    let ticket = ask(&desk, of(&[via(Way::Host), via(Way::Collector)]));
    assert_eq!(desk.remote(vote(&ticket, "v4", "carol")), Answered { refused: None, missing: 1 });
    assert_eq!(desk.remote(vote(&ticket, "v5", "dave")), Answered { refused: None, missing: 1 });
    assert_eq!(desk.approve(&ticket.id().to_string(), host).unwrap(), 0);
}

#[tokio::test]
async fn a_sign_in_must_be_as_fresh_as_the_rule_says() {
    let desk = desk(Remote::Decide);
    let fresh = || Terms { fresh: Some(Duration::from_secs(600)), ..needs(9) };
    let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap();
    let second = 1_000_000_000;
    let ticket = ask(&desk, fresh());
    for (nth, (authenticated, counts)) in [
        (None, false),
        (Some(0), false),
        (Some(now - 601 * second), false),
        (Some(now - 500 * second), true),
        (Some(now + 30 * second), true),
        // One that says it was tomorrow never ends to be fresh.
        (Some(now + 86_400 * second), false),
        (Some(u64::MAX), false),
    ]
    .into_iter()
    .enumerate()
    {
        let vote = vote(&ticket, &format!("v{nth}"), &format!("u{nth}"));
        let account = Account { authenticated_ns: authenticated, ..vote.account };
        let answer = desk.remote(RemoteVote { account, ..vote });
        assert_eq!(answer.refused.is_none(), counts, "{authenticated:?}: {answer:?}");
        assert!(counts || refused(&answer).contains("sign in again"), "{answer:?}");
    }
    let person = Person { uid: 7, login_uid: Some(7), login_session: Some(1), confirmed: true };
    let by = Approver::on_host(person, "bob".into(), "bob".into(), ["dba".into()].into());
    let host = Vote { by, reason: "".into(), scope: Scope::Once, seconds: 0 };
    let error = desk.approve(&ticket.id().to_string(), host).unwrap_err().to_string();
    assert!(error.contains("within 10 min") && error.contains("at the collector"), "{error}");
}

#[tokio::test]
async fn what_is_not_for_this_very_operation_is_refused() {
    let desk = desk(Remote::Decide);
    let ticket = ask(&desk, Terms::sample());
    let other = RemoteVote { digest: [8; 32], ..vote(&ticket, "v1", "bob") };
    assert!(refused(&desk.remote(other)).contains("another operation"));
    let stranger = RemoteVote { groups: ["staff".into()].into(), ..vote(&ticket, "v2", "bob") };
    assert!(refused(&desk.remote(stranger)).contains("there is no request"));
    let unknown = RemoteVote { request: "zzzzzzzz".into(), ..vote(&ticket, "v3", "bob") };
    assert!(refused(&desk.remote(unknown)).contains("there is no request"));
    for (nth, request) in ["", "../../etc/passwd", "éééé", &"x".repeat(9000)].into_iter().enumerate() {
        let vote = RemoteVote { request: request.into(), ..vote(&ticket, &format!("w{nth}"), "bob") };
        assert!(desk.remote(vote).refused.is_some_and(|why| why.len() < 200));
    }
    // Nobody has been shown it.
    let early = desk.ask(request(Terms::sample())).unwrap();
    assert!(refused(&desk.remote(vote(&early, "v4", "bob"))).contains("another operation"));
    // After its time.
    let brief = Terms { within: Duration::from_millis(1), ..Terms::sample() };
    let ticket = ask(&desk, brief);
    std::thread::sleep(Duration::from_millis(2));
    let late = desk.remote(vote(&ticket, "v5", "bob"));
    assert!(refused(&late).contains("expired already"), "{late:?}");
}

/// A collector that believes what it is told.
#[derive(Default)]
struct Believer {
    told: Told,
    open: BTreeMap<Id, usize>,
    over: BTreeMap<Id, &'static str>,
    complete: bool,
}

impl Believer {
    fn listen(&mut self, desk: &Desk) {
        while let Some(news) = desk.next_news(&mut self.told) {
            match news {
                News::Request(opened) => drop(self.open.insert(opened.name.0, 0)),
                News::Standing(standing) => {
                    let id = standing.name.0;
                    match standing.outcome {
                        Some((outcome, _)) => {
                            self.open.remove(&id);
                            assert!(
                                self.over.insert(id, outcome.word()).is_none_or(|was| was == outcome.word())
                            );
                        }
                        None => assert!(self.open.insert(id, standing.votes.len()).is_some(), "told before"),
                    }
                }
                News::All(all) => {
                    assert!(!std::mem::replace(&mut self.complete, true), "once in a call");
                    assert!(all.iter().all(|(id, _)| self.open.contains_key(id)), "all were told");
                    self.open.retain(|id, _| all.iter().any(|(open, _)| open == id));
                }
            }
        }
    }

    /// The call is broken off: it keeps what it believes.
    fn reconnects(&mut self) {
        (self.told, self.complete) = (Told::default(), false);
    }
}

#[tokio::test]
async fn a_collector_that_listens_knows_how_it_stands() {
    let desk = desk(Remote::Decide);
    let mut collector = Believer::default();
    let early = desk.ask(request(Terms::sample())).unwrap();
    let one = ask(&desk, needs(2));
    collector.listen(&desk);
    assert!(collector.complete && collector.open.keys().eq([&one.id()]), "not what is not on disk");
    desk.recorded(early.id());
    desk.remote(vote(&one, "v1", "bob"));
    collector.listen(&desk);
    assert_eq!((collector.open.get(&one.id()), collector.open.len()), (Some(&1), 2));
    // What happens while nobody listens.
    let (two, three) = (ask(&desk, Terms::sample()), ask(&desk, needs(3)));
    desk.remote(vote(&two, "v2", "bob"));
    desk.remote(vote(&three, "v3", "bob"));
    let gone = one.id();
    drop(one);
    collector.reconnects();
    collector.listen(&desk);
    assert_eq!(collector.open, BTreeMap::from([(early.id(), 0), (three.id(), 1)]));
    assert_eq!(collector.over, BTreeMap::from([(two.id(), "approved"), (gone, "withdrawn")]));
    // One that was started anew.
    let mut anew = Believer::default();
    anew.listen(&desk);
    assert_eq!(anew.open, collector.open);
    drop(three);
    collector.listen(&desk);
    assert_eq!(collector.over.len(), 3);
    // An agent that was started anew has nothing open.
    collector.reconnects();
    collector.listen(&self::desk(Remote::Decide));
    assert!(collector.open.is_empty());
    // Turned off, it is told nothing but that nothing is open.
    let off = self::desk(Remote::Off);
    let _ticket = ask(&off, Terms::sample());
    let mut told = Told::default();
    assert!(matches!(off.next_news(&mut told), Some(News::All(all)) if all.is_empty()));
    assert!(off.next_news(&mut told).is_none());
}

#[tokio::test]
async fn what_is_remembered_for_the_collector_is_bounded() {
    let desk = desk(Remote::Decide);
    let ticket = ask(&desk, needs(9));
    for nth in 0..ANSWERED + 10 {
        desk.remote(RemoteVote { digest: [0; 32], ..vote(&ticket, &format!("v{nth}"), "bob") });
    }
    for _ in 0..ENDED + 10 {
        drop(ask(&desk, Terms::sample()));
    }
    let inner = desk.inner();
    assert_eq!((inner.shared.answered.len(), inner.shared.ended.len()), (ANSWERED, ENDED));
}
