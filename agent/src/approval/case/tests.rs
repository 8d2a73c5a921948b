//! Whatever happens in whatever order, a request has one outcome, and none by the wrong people.

use std::time::Duration;

use proptest::prelude::*;

use super::super::person::Person;
use super::*;

fn person(uid: u32, login_uid: Option<u32>, login_session: Option<u32>) -> Person {
    Person { uid, login_uid, login_session, confirmed: true }
}

/// Somebody whose process has set its login itself.
fn claims(uid: u32, login_uid: u32, login_session: u32) -> Person {
    Person { uid, login_uid: Some(login_uid), login_session: Some(login_session), confirmed: false }
}

fn approver(person: Person, groups: &[&str]) -> Approver {
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    Approver::on_host(person, format!("u{}", person.uid).into(), "".into(), groups)
}

/// A person of their own with a login.
fn somebody(uid: u32, groups: &[&str]) -> Approver {
    approver(person(uid, Some(uid), Some(uid)), groups)
}

fn vote(by: Approver) -> Vote {
    Vote { by, reason: "".into(), scope: Scope::Once, seconds: 0 }
}

fn quorum(groups: &[&str], needed: usize, all_of: bool) -> Quorum {
    Quorum {
        rule: "r".into(),
        groups: groups.iter().map(|group| Arc::from(*group)).collect(),
        needed,
        all_of,
        via: Box::default(),
    }
}

fn case(quorums: Vec<Quorum>, change: impl FnOnce(&mut Terms), now: Instant) -> Case {
    let mut terms = Terms { quorums: quorums.into(), scopes: Box::new([Scope::Once]), ..Terms::sample() };
    change(&mut terms);
    let names = vec!["u1".to_owned()];
    let person = person(1, Some(1), Some(1));
    let requester = Requester { person, names, unseen: false, actors: Vec::new(), verified: None };
    Case::new(Arc::new(terms), requester, true, now + Duration::from_secs(60))
}

#[test]
fn nobody_decides_on_their_own_request() {
    let now = Instant::now();
    // The same user; sudo -u; another session of one's own; su from the same session; without a login.
    for own in [
        person(1, Some(9), Some(9)),
        person(2, Some(1), Some(8)),
        person(0, Some(1), Some(8)),
        person(2, Some(2), Some(1)),
        person(2, None, None),
    ] {
        let mut case = case(vec![quorum(&["dba"], 1, false)], |_| (), now);
        assert!(case.approve(vote(approver(own, &["dba"])), now).is_err(), "{own:?}");
        assert!(case.deny(approver(own, &["dba"]), "no".into(), now).is_err(), "{own:?}");
        assert!(case.outcome().is_none() && case.votes().is_empty());
        assert_eq!(case.approve(vote(somebody(2, &["dba"])), now), Ok(0));
    }
    // A login without a user of the requester's: a service.
    let service = person(500, None, None);
    assert_eq!(service.same(&person(1, Some(1), Some(1))), None);
    assert_eq!(service.same(&person(0, Some(500), None)), Some("the same login user"));
    assert_eq!(service.same(&person(500, Some(1), None)), Some("the same user"));
}

#[test]
fn a_claimed_login_counts_against_and_never_for() {
    let now = Instant::now();
    let new = || case(vec![quorum(&["dba"], 1, false)], |terms| terms.break_glass = true, now);
    // Another login than the requester's, claimed by a process without one.
    let mut one = new();
    let other = claims(2, 3, 9);
    assert_eq!(one.approve(vote(approver(other, &["dba"])), now), Err(NotCounted::NoLogin));
    assert_eq!(one.deny(approver(other, &["dba"]), "no".into(), now), Err(NotCounted::NoLogin));
    // The requester's own, to break the glass; it still keeps from approving.
    for own in [claims(2, 1, 9), claims(2, 9, 1)] {
        assert_eq!(one.break_glass(approver(own, &[]), "x".into(), now), Err(NotCounted::NotOwn));
        assert!(matches!(one.approve(vote(approver(own, &["dba"])), now), Err(NotCounted::Own(_))));
    }
    assert!(one.outcome().is_none());
    // The same user needs no login, and a login that root has set is enough.
    for own in [claims(1, 9, 9), person(2, Some(1), Some(9)), person(2, Some(9), Some(1))] {
        assert_eq!(new().break_glass(approver(own, &[]), "x".into(), now), Ok(()));
    }
}

#[test]
fn a_login_that_who_asks_only_claims_counts_against_whoever_has_it() {
    let now = Instant::now();
    let new = |person: Person, unseen: bool| {
        let mut case = case(vec![quorum(&["dba"], 1, false)], |terms| terms.break_glass = true, now);
        case.requester.person = person;
        case.requester.unseen = unseen;
        case
    };
    // From a shell of before the agent's first start, by sudo as a service's user.
    let mut one = new(claims(500, 1, 7), false);
    for own in [person(1, Some(1), Some(9)), person(0, Some(1), Some(9)), person(2, Some(2), Some(7))] {
        assert!(
            matches!(one.approve(vote(approver(own, &["dba"])), now), Err(NotCounted::Own(_))),
            "{own:?}"
        );
        assert!(matches!(one.deny(approver(own, &["dba"]), "no".into(), now), Err(NotCounted::Own(_))));
        assert_eq!(one.break_glass(approver(own, &["dba"]), "x".into(), now), Err(NotCounted::NotOwn));
    }
    // Who has none, or only claims one, may be the same.
    for none in [person(2, None, None), claims(2, 2, 2)] {
        assert_eq!(one.approve(vote(approver(none, &["dba"])), now), Err(NotCounted::NoLogin), "{none:?}");
    }
    assert_eq!(one.approve(vote(somebody(2, &["dba"])), now), Ok(0));
    // Nobody approves what a process asks for that was gone before it could be looked at; refusals count.
    let mut gone = new(person(500, None, None), true);
    assert_eq!(gone.approve(vote(somebody(2, &["dba"])), now), Err(NotCounted::Unseen));
    assert_eq!(gone.deny(somebody(2, &["dba"]), "no".into(), now), Ok(()));
}

#[test]
fn as_many_as_are_needed_and_each_once() {
    let now = Instant::now();
    let mut case = case(vec![quorum(&["dba", "sec"], 2, false)], |_| (), now);
    assert!(matches!(case.approve(vote(somebody(2, &["staff"])), now), Err(NotCounted::NotEntitled(_))));
    assert_eq!(case.approve(vote(somebody(2, &["dba"])), now), Ok(1));
    assert_eq!(case.approve(vote(somebody(2, &["dba"])), now), Err(NotCounted::Twice(1)));
    // As root from the same login.
    let root = approver(person(0, Some(2), Some(7)), &["dba", "root"]);
    assert_eq!(case.approve(vote(root), now), Err(NotCounted::Twice(1)));
    assert_eq!(case.approve(vote(somebody(3, &["sec"])), now), Ok(0));
    assert!(case.outcome().is_some_and(Outcome::passes));
}

#[test]
fn one_of_each_group_and_each_somebody_else() {
    let now = Instant::now();
    let mut case = case(vec![quorum(&["dba", "sec"], 2, true)], |_| (), now);
    // Two of one group are not enough; one in both stands for the one that is missing.
    assert_eq!(case.approve(vote(somebody(2, &["dba", "sec"])), now), Ok(1));
    assert_eq!(case.approve(vote(somebody(3, &["dba"])), now), Ok(0));
    // In the other order as well.
    let mut case = self::case(vec![quorum(&["dba", "sec"], 2, true)], |_| (), now);
    assert_eq!(case.approve(vote(somebody(2, &["dba"])), now), Ok(1));
    assert_eq!(case.approve(vote(somebody(3, &["dba", "sec"])), now), Ok(0));
    let mut case = self::case(vec![quorum(&["dba", "sec"], 2, true)], |_| (), now);
    assert_eq!(case.approve(vote(somebody(2, &["dba"])), now), Ok(1));
    assert_eq!(case.approve(vote(somebody(3, &["dba"])), now), Ok(1));
    assert_eq!(case.approve(vote(somebody(4, &["sec"])), now), Ok(0));
    // Of two rules both.
    let both = vec![quorum(&["dba"], 1, false), quorum(&["sec"], 1, false)];
    let mut case = self::case(both, |_| (), now);
    assert_eq!(case.approve(vote(somebody(2, &["dba"])), now), Ok(1));
    assert_eq!(case.approve(vote(somebody(3, &["sec"])), now), Ok(0));
}

#[test]
fn scopes_reasons_and_glass_are_as_the_rules_say() {
    let now = Instant::now();
    let open = |change: fn(&mut Terms)| case(vec![quorum(&["dba"], 2, false)], change, now);
    let mut one = open(|_| ());
    let session = Vote { scope: Scope::Session, ..vote(somebody(2, &["dba"])) };
    assert!(matches!(one.approve(session.clone(), now), Err(NotCounted::Scope(_))));
    let own = approver(person(1, Some(1), Some(1)), &[]);
    assert_eq!(one.break_glass(own.clone(), "fire".into(), now), Err(NotCounted::NoBreakGlass));

    let mut one = open(|terms| {
        terms.scopes = Box::new([Scope::Once, Scope::Shape, Scope::Session]);
        terms.reason_required = true;
        terms.break_glass = true;
    });
    assert_eq!(one.approve(session.clone(), now), Err(NotCounted::NoReason));
    assert_eq!(one.break_glass(somebody(2, &["dba"]), "fire".into(), now), Err(NotCounted::NotOwn));
    assert_eq!(one.break_glass(own.clone(), "".into(), now), Err(NotCounted::NoReason));
    let session = Vote { reason: "ok".into(), ..session };
    assert_eq!(one.approve(session, now), Ok(1));
    // What both have meant is the one command alone.
    let shape = Vote { scope: Scope::Shape, reason: "ok".into(), seconds: 60, ..vote(somebody(3, &["dba"])) };
    assert_eq!(one.approve(shape, now), Ok(0));
    assert!(matches!(one.outcome(), Some(Outcome::Approved { scope: Scope::Once, .. })));
    assert_eq!(one.break_glass(own, "fire".into(), now), Err(NotCounted::Over("approved")));
}

/// Something that happens to a request.
#[derive(Debug, Clone)]
enum Deed {
    Approve(u32),
    Deny(u32),
    Glass(u32),
    Withdraw,
    Expire,
    Wait(u64),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (1..6_u32).prop_map(Deed::Approve),
        1 => (1..6_u32).prop_map(Deed::Deny),
        1 => (1..6_u32).prop_map(Deed::Glass),
        1 => Just(Deed::Withdraw),
        1 => Just(Deed::Expire),
        3 => (0..40_u64).prop_map(Deed::Wait),
    ];
    prop::collection::vec(deed, 0..20)
}

proptest! {
    #[test]
    fn there_is_one_outcome_and_none_after_the_time(deeds in deeds(), needed in 1..4_usize, glass in any::<bool>()) {
        let began = Instant::now();
        let mut case = case(vec![quorum(&["dba"], needed, false)], |terms| terms.break_glass = glass, began);
        let mut now = began;
        let mut first: Option<&'static str> = None;
        let mut voters = std::collections::BTreeSet::new();
        for deed in deeds {
            let before = case.outcome().map(Outcome::word);
            let late = now >= case.deadline();
            let counted = match deed {
                Deed::Approve(uid) => {
                    let counted = case.approve(vote(somebody(uid, &["dba"])), now).is_ok();
                    if counted {
                        prop_assert!(voters.insert(uid) && uid != 1);
                    }
                    counted
                }
                Deed::Deny(uid) => {
                    let counted = case.deny(somebody(uid, &["dba"]), "no".into(), now).is_ok();
                    prop_assert!(!counted || uid != 1);
                    counted
                }
                Deed::Glass(uid) => {
                    let counted = case.break_glass(somebody(uid, &[]), "fire".into(), now).is_ok();
                    prop_assert!(!counted || (glass && uid == 1));
                    counted
                }
                Deed::Withdraw => case.withdraw(Withdrawal::Cancelled, now),
                Deed::Expire => { case.expire(now); false }
                Deed::Wait(seconds) => { now += Duration::from_secs(seconds); false }
            };
            let after = case.outcome().map(Outcome::word);
            prop_assert!(!(counted && (before.is_some() || late)), "nothing counts after the end");
            prop_assert!(before.is_none() || before == after, "an outcome stays");
            if first.is_none() {
                first = after;
            }
            prop_assert_eq!(first, after);
            if late {
                prop_assert!(after != Some("approved") || before == Some("approved"));
            }
        }
        if first == Some("approved") {
            prop_assert_eq!(voters.len(), needed);
        }
    }
}

#[test]
fn nobody_approves_from_where_nobody_sits() {
    let now = Instant::now();
    let mut case = case(vec![quorum(&["dba"], 1, false)], |terms| terms.break_glass = true, now);
    let by = |uid: u32| Approver {
        background: Some("cron (unit cron.service)".into()),
        ..somebody(uid, &["dba"])
    };
    let refused = case.approve(vote(by(2)), now).unwrap_err();
    assert!(refused.to_string().contains("started by cron (unit cron.service)"), "{refused}");
    // Who may not decide at all is told that.
    assert!(matches!(case.approve(vote(by(1)), now), Err(NotCounted::Own(_))));
    assert_eq!((case.votes().len(), case.missing()), (0, 1));
    assert_eq!(case.approve(vote(somebody(2, &["dba"])), now), Ok(0));
}

#[test]
fn a_verified_person_where_the_rules_want_one() {
    let now = Instant::now();
    let new = |fresh: Option<u64>| {
        let wants = |terms: &mut Terms| {
            terms.verified = true;
            terms.fresh = fresh.map(Duration::from_secs);
        };
        case(vec![quorum(&["dba"], 1, false)], wants, now)
    };
    let account = |issuer: &str| {
        let account = super::super::person::Account {
            name: "okta:carol".into(),
            issuer: issuer.into(),
            subject: "00u1".into(),
            ..Default::default()
        };
        Approver { who: Who::Account(Box::new(account)), name: "okta:carol".into(), ..somebody(9, &["dba"]) }
    };
    let verified = crate::identity::Verified::example(crate::identity::IdentityKind::Person);
    let signed_in = Approver { verified: Some(verified.into()), ..somebody(2, &["dba"]) };
    let mut case = new(None);
    for nobody in [somebody(2, &["dba"]), account("")] {
        assert!(matches!(case.approve(vote(nobody.clone()), now), Err(NotCounted::Unverified(_))));
        // A refusal is the safe side.
        assert_eq!(new(None).deny(nobody, "no".into(), now), Ok(()));
    }
    assert_eq!(case.approve(vote(signed_in.clone()), now), Ok(0));
    assert_eq!(new(None).approve(vote(account("https://issuer.example")), now), Ok(0));
    // With `fresh` it must be of late as well.
    for old in [signed_in, account("https://issuer.example")] {
        assert!(matches!(new(Some(600)).approve(vote(old.clone()), now), Err(NotCounted::Stale(..))));
        let late = Approver { signed_in: Some(Duration::from_secs(601)), ..old.clone() };
        assert!(matches!(new(Some(600)).approve(vote(late), now), Err(NotCounted::Stale(..))));
        let of_late = Approver { signed_in: Some(Duration::from_secs(10)), ..old };
        assert_eq!(new(Some(600)).approve(vote(of_late), now), Ok(0));
    }
}
