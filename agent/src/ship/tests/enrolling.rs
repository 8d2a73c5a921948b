//! Enrolling, renewing, and what goes wrong there.

use super::fake::Enrolment as Answer;
use super::*;
use interlock_shipping::Token;

async fn refused(own: Own, change: impl FnOnce(&Fake), token: Option<Token>) -> String {
    let stage = Stage::with(own, |_| {}).await;
    change(&stage.fake);
    let token = token.unwrap_or_else(|| stage.fake.token());
    let error = enrol::enrol(stage.fake.address(), &token, &stage.host_key()).await.unwrap_err();
    assert!(stage.fake.has().hellos.is_empty());
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_collector_of_the_token_is_accepted() {
    let other = Token::new(&[5; 24], [1; 32]);
    for (own, token, words) in [
        (Own::default(), Some(other), "token is of another collector"),
        (Own { shows_authority: false, ..Own::default() }, None, "token is of another collector"),
        (Own { name: "elsewhere.example", ..Own::default() }, None, "for other names"),
        (Own { from: 600, ..Own::default() }, None, "not valid yet by this host's clock"),
        (Own { from: -900, until: -600, ..Own::default() }, None, "expired by this host's clock"),
    ] {
        let error = refused(own, |_| {}, token).await;
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_cannot_be_right_is_not_kept() {
    for (answer, words) in [
        (Answer::OtherAuthority, "not the one that the token names"),
        (Answer::OtherKey, "for another key"),
        (Answer::Refused, "used up or expired"),
    ] {
        let error = refused(Own::default(), |fake| fake.has().enrolment = answer, None).await;
        assert!(error.contains(words), "{words}: {error}");
    }
    // A certificate that does not count by our clock is told now, not when it is used.
    let error = refused(Own::default(), |fake| fake.has().valid = (600, -300), None).await;
    assert!(error.contains("Set the clock"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_told_with_the_address() {
    let stage = Stage::new().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: super::super::Address = nobody.local_addr().unwrap().to_string().parse().unwrap();
    drop(nobody);
    let error = enrol::enrol(address.clone(), &stage.fake.token(), &stage.host_key()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("cannot reach the collector {address}")), "{error}");
    // A server of another kind.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: super::super::Address = other.local_addr().unwrap().to_string().parse().unwrap();
    let server = std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = enrol::enrol(address, &stage.fake.token(), &stage.host_key()).await.unwrap_err();
    server.join().unwrap();
    assert!(error.to_string().contains("is this the collector's port for agents?"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_from_the_collector_is_fit_to_be_shown() {
    let stage = Stage::new().await;
    stage.enrol().await;
    let kept = stage.store.load().unwrap().unwrap();
    assert_eq!((kept.collector.as_str(), kept.ledger_key.as_str()), ("fake\u{fffd}[31m", "fake+1+2"));
    // No key leaves the host: what is kept is a key that the collector has never seen.
    assert!(!kept.key.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_before_it_expires() {
    let mut stage = Stage::new().await;
    // Two thirds of its life are over.
    stage.fake.has().valid = (600, 6000);
    stage.enrol().await;
    let before = stage.store.load().unwrap().unwrap();
    stage.start();
    until("the renewal", || stage.fake.has().renewals == 1).await;
    until("a call with the new certificate", || stage.fake.has().hellos.len() == 2).await;
    let after = stage.store.load().unwrap().unwrap();
    assert!(before.certificate != after.certificate && *before.key != *after.key);
    stage.record(10, 100);
    stage.all_there().await;
    assert_eq!(stage.fake.has().renewals, 1, "once is enough");
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_not_let_in_says_so_and_goes_on_once_enrolled_anew() {
    // The collector does not take certificates of this kind any more.
    let mut stage = Stage::with(Own { takes_its_own: false, ..Own::default() }, |_| {}).await;
    stage.enrol().await;
    stage.start();
    // The network may lose the alert with the connection: then the next try tells.
    until("the refusal", || stage.error().is_some_and(|error| error.contains("refuses this host"))).await;
    let error = stage.error().unwrap();
    assert!(error.contains("interlock enroll"), "{error}");
    stage.record(100, 100);
    // Another collector; the shipper does not wait for its next try.
    stage.fake = Fake::start(Own::default()).await;
    stage.enrol().await;
    stage.all_there().await;
    assert!(stage.error().is_none());
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolling_and_leaving_are_noticed_while_the_agent_runs() {
    let mut stage = Stage::new().await;
    stage.start();
    stage.record(10, 100);
    assert!(!stage.shipping.status(0, 0).enrolled);
    stage.enrol().await;
    stage.all_there().await;
    assert!(stage.shipping.status(0, 0).enrolled);
    stage.store.remove().unwrap();
    until("the end of shipping", || !stage.shipping.status(0, 0).enrolled).await;
    let before = stage.fake.has().events.len();
    stage.record(10, 100);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.fake.has().events.len(), before);
    stage.finish().await;
}
