//! What another host sends is looked at before anything is done with it.

use interlock_shipping::v1::ApprovalAccount;

use super::*;

fn vote() -> ApprovalVote {
    ApprovalVote {
        vote: "v-1".into(),
        request: "k7m2q9xd".into(),
        digest: vec![1; 32],
        approve: true,
        scope: "once".into(),
        by: Some(ApprovalAccount { name: "bob".into(), groups: vec!["dba".into()], ..Default::default() }),
        ..ApprovalVote::default()
    }
}

#[test]
fn a_vote_that_is_not_in_order_is_no_vote() {
    assert!(decision(vote()).is_ok());
    let account = |change: fn(&mut ApprovalAccount)| {
        let mut vote = vote();
        change(vote.by.as_mut().unwrap());
        vote
    };
    for (bad, why) in [
        (ApprovalVote { vote: String::new(), ..vote() }, "without a name"),
        (ApprovalVote { vote: "x".repeat(65), ..vote() }, "without a name"),
        (ApprovalVote { vote: "a b".into(), ..vote() }, "without a name"),
        (ApprovalVote { digest: vec![1; 31], ..vote() }, "no operation"),
        (ApprovalVote { scope: "always".into(), ..vote() }, "the scope is"),
        (ApprovalVote { by: None, ..vote() }, "nobody's"),
        (ApprovalVote { reason: "x".repeat(MAX_REASON + 1), ..vote() }, "too long"),
        (account(|by| by.name.clear()), "no name"),
        (account(|by| by.name = "x".repeat(IDENTITY + 1)), "too large"),
        (account(|by| by.groups = vec!["g".into(); MAX_NAMES + 1]), "too large"),
        (account(|by| by.logins = vec!["l".repeat(WORD + 1)]), "too large"),
    ] {
        let told = decision(bad.clone()).unwrap_err();
        assert!(told.contains(why), "{bad:?}: {told}");
    }
    let hostile = ApprovalVote { reason: " fine\u{1b}]0;\u{202e}\n".into(), ..vote() };
    let reason = decision(hostile).unwrap().reason;
    assert!(!reason.contains(interlock_recording::text::is_unprintable), "{reason:?}");
    // A refusal has no scope.
    assert!(decision(ApprovalVote { approve: false, scope: String::new(), ..vote() }).is_ok());
}

#[test]
fn what_is_asked_for_beforehand_is_told_apart_from_what_the_rule_says() {
    let beforehand = crate::approval::Beforehand {
        reason: "ticket 17".into(),
        tree_pid: 70,
        tree_exe: "/usr/bin/claude".into(),
        usable_seconds: 900,
        time_zone: Some("UTC".into()),
        program: "/usr/bin/psql".into(),
    };
    let shown = crate::approval::Shown {
        message: "Ask the DBAs.".into(),
        beforehand: Some(beforehand),
        ..crate::approval::Shown::default()
    };
    let opened = Opened {
        name: (crate::approval::Id::parse("k7m2q9xd").unwrap(), [1; 32]),
        asked: jiff::Timestamp::now(),
        deadline: jiff::Timestamp::now(),
        session: interlock_recording::SessionId::new(1, [1; 10]),
        shown,
        subject: Arc::new(crate::identity::Subject {
            exe: "/usr/bin/interlock".into(),
            ..Default::default()
        }),
        server: ([127, 0, 0, 1], 5432).into(),
        hosts: Vec::new(),
        terms: Arc::new(Terms::sample()),
        scopes: vec![Scope::Once],
        likeness: [2; 32],
        remote: crate::approval::Remote::Show,
    };
    let told = request(&opened);
    let subject = interlock_recording::proto::Subject::decode(&*told.subject).unwrap();
    assert_eq!((&*told.message, &*subject.exe), ("Ask the DBAs.", "/usr/bin/interlock"));
    assert!(told.session.is_empty(), "there is none yet");
    let expected = ApprovalBeforehand {
        reason: "ticket 17".into(),
        tree_pid: 70,
        tree_exe: "/usr/bin/claude".into(),
        usable_seconds: 900,
        time_zone: "UTC".into(),
        program: "/usr/bin/psql".into(),
    };
    assert_eq!(told.beforehand, Some(expected));
}

#[test]
fn whoever_decided_is_told_by_issuer_and_subject() {
    let person = crate::approval::Person { uid: 7, login_uid: None, login_session: None, confirmed: false };
    let mut by_host = Approver::on_host(person, "deploy".into(), "".into(), Box::default());
    assert_eq!((by(&by_host).issuer, by(&by_host).subject), (String::new(), String::new()));
    let verified = crate::identity::Verified {
        issuer: "https://id.example".into(),
        subject: "00u1".into(),
        ..crate::identity::Verified::example(crate::identity::IdentityKind::Person)
    };
    by_host.verified = Some(Arc::new(verified));
    assert_eq!((&*by(&by_host).issuer, &*by(&by_host).subject), ("https://id.example", "00u1"));
}

#[test]
fn a_request_is_never_larger_than_a_collector_takes() {
    let terms = Arc::new(Terms::sample());
    let long = "x".repeat(4000);
    let ancestor = crate::identity::Ancestor { exe: long.clone().into(), ..Default::default() };
    let subject = crate::identity::Subject {
        ancestors: vec![ancestor; 500],
        argv: vec![long; 120],
        user: "deploy".into(),
        ..Default::default()
    };
    let opened = Opened {
        name: (crate::approval::Id::parse("k7m2q9xd").unwrap(), [1; 32]),
        asked: jiff::Timestamp::now(),
        deadline: jiff::Timestamp::now(),
        session: interlock_recording::SessionId::new(1, [1; 10]),
        shown: crate::approval::Shown::default(),
        subject: Arc::new(subject),
        server: ([127, 0, 0, 1], 5432).into(),
        hosts: Vec::new(),
        terms,
        scopes: vec![Scope::Once],
        likeness: [2; 32],
        remote: crate::approval::Remote::Show,
    };
    let told = request(&opened);
    assert!(told.encoded_len() < MAX_APPROVAL);
    let subject = interlock_recording::proto::Subject::decode(&*told.subject).unwrap();
    assert_eq!(subject.user, "deploy");
    assert!(subject.missing.iter().any(|what| what.contains("too long")));
}
