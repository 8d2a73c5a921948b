use std::collections::BTreeMap;
use std::sync::mpsc;

use serde_json::json;

use super::*;
use crate::identity::config::IdentityConfig;

fn verified(subject: &str, claims: Value) -> Verified {
    let claims: BTreeMap<String, Value> = serde_json::from_value(claims).unwrap();
    Verified {
        issuer_name: "okta".into(),
        issuer: "https://id.example".into(),
        subject: subject.to_owned(),
        name: subject.to_owned(),
        groups: vec!["dba".to_owned()],
        claims,
        recorded: std::collections::BTreeMap::new(),
        expires: Timestamp::now() + Duration::from_secs(3600),
        authenticated: None,
        ..Verified::example(IdentityKind::Person)
    }
}

fn config() -> IdentityConfig {
    let text = r#"{"issuers": [{"name": "okta", "kind": "person", "issuer": "https://id.example", "client_id": "x"}]}"#;
    serde_json::from_str(text).unwrap()
}

/// Logins, and what they tell the recording.
fn logins() -> (Arc<Logins>, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let journal = move |event: &PersonEvent<'_>| {
        let line = match &event.what {
            What::SignedOut { reason, .. } => format!("out {reason}"),
            What::GroupsChanged { before } => format!("groups {}", before.join(" ")),
            other => other.word().to_owned(),
        };
        tell.lock().unwrap().send(line).map_err(|error| error.to_string())
    };
    (Logins::new(&Issuers::new(&config()).unwrap(), Box::new(journal)).unwrap(), told)
}

fn bind(logins: &Logins, place: Place, person: Verified, seconds: i64) {
    let mut inner = logins.inner();
    inner.serial += 1;
    let now = Timestamp::now();
    let bound = Bound {
        provider: Arc::clone(&logins.providers[0]),
        subject: Arc::default(),
        since: now,
        until: now + jiff::SignedDuration::from_secs(seconds),
        refresh: None,
        checked: Instant::now(),
        next: None,
        serial: inner.serial,
        witness: None,
        signed: Arc::new(person.clone()),
        person: Arc::new(person),
    };
    inner.bound.insert(place, bound);
    drop(inner);
    logins.changed(place);
}

#[test]
fn one_person_by_subject_or_verified_address() {
    let mail = |address: &str, verified: Value| json!({"email": address, "email_verified": verified});
    let alice = PersonKey::of(&verified("a", mail("alice@example.com", true.into())));
    let again = PersonKey::of(&verified("a", json!({})));
    let elsewhere = Verified {
        issuer: "https://other.example".into(),
        ..verified("7", mail("Alice@Example.com", true.into()))
    };
    assert!(alice.is(&again) && alice.is(&PersonKey::of(&elsewhere)));
    // The same name at another provider is another person, and so is one who only says to have that address.
    let namesake = Verified { issuer: "https://other.example".into(), ..verified("a", json!({})) };
    assert!(!alice.is(&PersonKey::of(&namesake)));
    for verified_claim in [json!(false), json!("false"), Value::Null, json!(1)] {
        let claimed = PersonKey::of(&verified("m", mail("alice@example.com", verified_claim)));
        assert!(!alice.is(&claimed));
    }
    let nobody = PersonKey::of(&verified("x", mail("", true.into())));
    let other = PersonKey::of(&verified("y", mail("", true.into())));
    assert!(!nobody.is(&other));
}

#[test]
fn how_long_ago_somebody_signed_in_is_what_the_provider_says() {
    let now = Timestamp::now();
    let at = |ago: i64| Verified {
        authenticated: Some(now - jiff::SignedDuration::from_secs(ago)),
        ..verified("a", json!({}))
    };
    assert_eq!(signed_in_ago(&at(299), now), Some(Duration::from_secs(299)));
    assert_eq!(signed_in_ago(&at(-30), now), Some(Duration::ZERO));
    // A time to come is none, and without a time nobody can tell.
    assert_eq!(signed_in_ago(&at(-3600), now), None);
    assert_eq!(signed_in_ago(&verified("a", json!({})), now), None);
}

#[test]
fn a_person_counts_for_the_session_alone_and_until_the_end() {
    let (logins, told) = logins();
    let place = Place::Session { session: 7, login_uid: 1000 };
    let own = Seat::of(std::process::id(), None).unwrap();
    let seat = |login| Seat { login, ..own };
    assert!(logins.person(&seat(Some((7, 1000)))).is_none());
    let before = logins.generation();
    bind(&logins, place, verified("a", json!({})), 3600);
    assert!(logins.generation() > before && logins.count() == 1);
    assert_eq!(logins.person(&seat(Some((7, 1000)))).unwrap().subject, "a");
    for other in [None, Some((8, 1000)), Some((7, 1001))] {
        assert!(logins.person(&seat(other)).is_none(), "{other:?}");
    }
    let before = logins.generation();
    let (person, recorded) = logins.sign_out(place).unwrap();
    assert_eq!((person.subject.as_str(), recorded), ("a", Ok(())));
    assert!(logins.person(&seat(Some((7, 1000)))).is_none() && logins.generation() > before);
    assert!(logins.sign_out(place).is_none());
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["out logout"]);
    // Time is over: at once, whoever looks after it or not.
    bind(&logins, place, verified("a", json!({})), -1);
    assert!(logins.person(&seat(Some((7, 1000)))).is_none() && logins.count() == 0);
}

#[test]
fn the_nearest_process_counts_before_the_login_session() {
    let (logins, _told) = logins();
    let own = Seat::of(std::process::id(), None).unwrap();
    let seat = Seat { login: Some((7, 1000)), ..own };
    bind(&logins, Place::Session { session: 7, login_uid: 1000 }, verified("session", json!({})), 3600);
    bind(&logins, Place::Tree { pid: own.pid, start: own.start }, verified("tree", json!({})), 3600);
    assert_eq!(logins.person(&seat).unwrap().subject, "tree");
    let parent = place::line(&own)[1];
    bind(&logins, parent, verified("parent", json!({})), 3600);
    assert_eq!(logins.person(&seat).unwrap().subject, "tree");
    logins.sign_out(Place::Tree { pid: own.pid, start: own.start });
    assert_eq!(logins.person(&seat).unwrap().subject, "parent");
    logins.sign_out(parent);
    assert_eq!(logins.person(&seat).unwrap().subject, "session");
}

#[test]
fn nothing_secret_is_shown() {
    let (logins, _told) = logins();
    let shown = format!("{logins:?}");
    assert!(shown.contains("okta"), "{shown}");
    let brought = Brought { state: "s3".into(), code: "c0de".into(), iss: None, error: None };
    let shown = format!("{brought:?}");
    assert!(!shown.contains("s3") && !shown.contains("c0de"), "{shown}");
}
