//! The desk: bounds, races, what reaches the flow that waits.

use std::future::poll_fn;

use super::super::person::Person;
use super::*;
use crate::policy::{Quorum, Scope};

fn bounds() -> Bounds {
    Bounds {
        held: 5,
        held_per_user: 3,
        asked_per_user: 1000,
        bytes: 1000,
        remind: Duration::from_secs(60),
        remote: Remote::Decide,
        link: None,
    }
}

fn request(uid: u32, change: impl FnOnce(&mut Request)) -> Request {
    let mut request = Request {
        subject: Arc::new(Subject { uid, ..Subject::default() }),
        server: ([127, 0, 0, 1], 5432).into(),
        hosts: Vec::new(),
        session: SessionId::new(1, [1; 10]),
        shown: Shown::default(),
        digest: [0; 32],
        terms: Arc::new(Terms::sample()),
        shape: None,
        likeness: [0; 32],
        cancel: None,
        bytes: 100,
    };
    change(&mut request);
    request
}

fn dba(uid: u32) -> Approver {
    let person = Person { uid, login_uid: None, login_session: None, confirmed: false };
    Approver::on_host(person, format!("u{uid}").into(), "".into(), ["dba".into()].into())
}

fn vote(uid: u32) -> Vote {
    Vote { by: dba(uid), reason: "".into(), scope: Scope::Once, seconds: 0 }
}

#[tokio::test]
async fn what_is_held_is_bounded_and_given_back() {
    let desk = Desk::new(bounds());
    let mut held: Vec<_> = (0..3).map(|_| desk.ask(request(1, |_| ())).unwrap()).collect();
    assert!(matches!(desk.ask(request(1, |_| ())), Err(DeskError::UserFull(3))));
    assert!(matches!(desk.ask(request(2, |request| request.bytes = 701)), Err(DeskError::Bytes)));
    held.extend((0..2).map(|_| desk.ask(request(2, |_| ())).unwrap()));
    assert!(matches!(desk.ask(request(3, |_| ())), Err(DeskError::Full(5))));
    // By a decision, and by leaving.
    desk.deny(&held[0].id().to_string(), &dba(9), "no".into()).unwrap();
    held.remove(1);
    held.push(desk.ask(request(1, |request| request.bytes = 700)).unwrap());
    assert_eq!(desk.waiting(), 4);
    drop(held);
    assert_eq!((desk.waiting(), desk.inner().bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_who_decide_at_once_one_has_decided() {
    let desk = Desk::new(bounds());
    for round in 0..200 {
        let key: Zeroizing<Box<[u8]>> = Zeroizing::new(Box::new([round; 8]));
        let server = ([127, 0, 0, 1], 5432).into();
        let cancel = CancelKey { server, key: key.clone(), running: Arc::default() };
        let mut ticket = desk.ask(request(1, |request| request.cancel = Some(cancel))).unwrap();
        let id = ticket.id().to_string();
        let counted = std::thread::scope(|scope| {
            let desk = &desk;
            let (id, key) = (&id, &key);
            let deeds = [
                scope.spawn(move || desk.approve(id, vote(2)).is_ok()),
                scope.spawn(move || desk.approve(id, vote(3)).is_ok()),
                scope.spawn(move || desk.deny(id, &dba(4), "no".into()).is_ok()),
                scope.spawn(move || desk.cancel(server, key)),
            ];
            deeds.into_iter().map(|deed| deed.join().unwrap()).filter(|counted| *counted).count()
        });
        assert_eq!(counted, 1);
        let mut over = 0;
        while let Some(event) = ticket.take() {
            over += usize::from(matches!(event, Event::Over(_)));
        }
        assert_eq!(over, 1);
    }
    assert!(desk.inner().past.iter().all(|past| past.request.cancel.is_none()));
}

#[tokio::test]
async fn nothing_counts_after_the_time_and_the_flow_is_told() {
    let desk = Desk::new(bounds());
    let brief = Terms { within: Duration::from_millis(5), ..Terms::sample() };
    let brief = Arc::new(brief);
    // By the timer alone.
    let mut ticket = desk.ask(request(1, |request| request.terms = Arc::clone(&brief))).unwrap();
    assert!(matches!(poll_fn(|cx| ticket.poll(cx)).await, Event::Over(Outcome::Expired)));
    // Before the timer was looked at.
    let mut ticket = desk.ask(request(1, |request| request.terms = brief)).unwrap();
    let id = ticket.id().to_string();
    std::thread::sleep(Duration::from_millis(6));
    let late = desk.approve(&id, vote(2)).unwrap_err().to_string();
    assert!(late.contains("expired already"), "{late}");
    assert!(matches!(poll_fn(|cx| ticket.poll(cx)).await, Event::Over(Outcome::Expired)));
}

#[tokio::test]
async fn a_claimed_login_shows_nothing() {
    let desk = Desk::new(bounds());
    let subject = Subject { uid: 1, login_uid: Some(1), login_session: Some(1), ..Subject::default() };
    let _ticket = desk.ask(request(1, |request| request.subject = Arc::new(subject))).unwrap();
    let sees = |confirmed| {
        let person = Person { uid: 2, login_uid: Some(1), login_session: Some(1), confirmed };
        !desk.list(&Approver::on_host(person, "u2".into(), "".into(), Box::default()), true).is_empty()
    };
    assert!(!sees(false) && sees(true));
}

#[tokio::test]
async fn who_may_not_decide_does_not_learn_of_it() {
    let desk = Desk::new(bounds());
    let quorum = Quorum::sample("sec");
    let terms = Terms { quorums: [quorum].into(), ..Terms::sample() };
    let ticket = desk.ask(request(1, |request| request.terms = Arc::new(terms))).unwrap();
    let id = ticket.id().to_string();
    assert!(desk.list(&dba(2), true).is_empty());
    assert!(matches!(desk.show(&id, &dba(2)), Err(DeskError::Unknown(_))));
    assert!(matches!(desk.approve(&id, vote(2)), Err(DeskError::Unknown(_))));
    // Whoever asks sees it and decides nothing; so does root.
    for uid in [0, 1] {
        assert_eq!(desk.list(&dba(uid), false).len(), 1);
        assert!(matches!(desk.approve(&id, vote(uid)), Err(DeskError::NotCounted(_))));
    }
    for id in ["", "k7m2q9x", "K7M2Q9XU", "../../etc", "éééé"] {
        assert!(matches!(desk.show(id, &dba(0)), Err(DeskError::Unknown(_))), "{id}");
    }
}

#[tokio::test]
async fn a_grant_covers_its_terms_and_no_other() {
    let desk = Desk::new(bounds());
    let terms = Arc::new(Terms::sample());
    let (one, other) = (SessionId::new(1, [1; 10]), SessionId::new(1, [2; 10]));
    let shape = Some(Shape([1; 32]));
    let id = Id::new().unwrap();
    let grant = |covered| Grant { request: id, by: Arc::new([]), terms: Arc::clone(&terms), covered };
    desk.grant(grant(Covered::Session(one)));
    assert!(desk.granted(one, None, &terms).is_some() && desk.granted(other, shape, &terms).is_none());
    let stricter = Terms { reason_required: true, ..Terms::clone(&terms) };
    assert!(desk.granted(one, None, &stricter).is_none());
    desk.session_ended(one);
    assert!(desk.granted(one, None, &terms).is_none());
    desk.grant(grant(Covered::Shape(Shape([1; 32]), Instant::now() + Duration::from_secs(60))));
    assert!(desk.granted(other, shape, &terms).is_some());
    assert!(
        desk.granted(other, Some(Shape([2; 32])), &terms).is_none()
            && desk.granted(other, None, &terms).is_none()
    );
    desk.inner().grants.clear();
    desk.grant(grant(Covered::Shape(Shape([1; 32]), Instant::now())));
    assert!(desk.granted(other, shape, &terms).is_none());
}

#[tokio::test]
async fn who_asks_too_often_is_refused_and_nobody_else() {
    let desk = Desk::new(Bounds { asked_per_user: 3, ..bounds() });
    let terms = Arc::new(Terms { break_glass: true, ..Terms::sample() });
    let of = |uid: u32, login_uid: Option<u32>| {
        let subject = Arc::new(Subject { uid, login_uid, ..Subject::default() });
        desk.ask(request(uid, |request| {
            request.subject = subject;
            request.terms = Arc::clone(&terms);
        }))
    };
    // Clients that leave at once, as whichever user.
    for uid in [7, 8] {
        drop(of(uid, Some(7)).unwrap());
    }
    let ticket = of(7, Some(7)).unwrap();
    for (uid, login) in [(7, Some(7)), (7, None), (8, Some(7))] {
        let refused = of(uid, login).unwrap_err();
        assert!(matches!(refused, DeskError::Rate(3)), "{refused}");
        assert!(refused.to_string().contains("max_asked_per_user"), "{refused}");
    }
    // Others ask, those too that the first has become.
    assert!(of(8, None).is_ok() && of(8, Some(9)).is_ok());
    // What waits can be decided, and the glass be broken.
    let asked = of(9, None).unwrap();
    desk.approve(&asked.id().to_string(), vote(2)).unwrap();
    let own = Person { uid: 7, login_uid: None, login_session: None, confirmed: true };
    let own = Approver::on_host(own, "u7".into(), "".into(), Box::default());
    desk.break_glass(&ticket.id().to_string(), &own, "fire".into()).unwrap();
}

#[tokio::test]
async fn approvers_see_what_has_started_who_asks() {
    let desk = Desk::new(bounds());
    let asked = |cgroup: &str| {
        let subject = Subject { uid: 1, user: "deploy".into(), cgroup: cgroup.into(), ..Subject::default() };
        desk.ask(request(1, |request| request.subject = Arc::new(subject))).unwrap()
    };
    for (cgroup, told) in [
        (
            "/system.slice/cron.service",
            Some("started by cron (unit cron.service): whoever may become deploy may stand behind it"),
        ),
        ("/user.slice/x.scope", None),
    ] {
        let ticket = asked(cgroup);
        let shown = serde_json::to_value(desk.show(&ticket.id().to_string(), &dba(2)).unwrap()).unwrap();
        assert_eq!(shown["started_by"].as_str(), told);
    }
}
