//! Tokens that two hosts show: the first one to tell of it has it.

use std::time::Duration;

use interlock_collector::intake::Intake;
use interlock_collector::store::{BoundToken as Row, FirstHost, now_ns};
use interlock_recording::{HostKey, PublicKey, hex};
use interlock_shipping::v1::to_agent::Message as FromCollector;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{BoundToken, TokenWord, TokensBound};

use crate::support::{Call, Collector, run_sql};

fn host_of(key: &PublicKey) -> String {
    hex(&key.fingerprint())
}

fn token(nth: u8, seconds: u64) -> BoundToken {
    BoundToken {
        digest: vec![nth; 32],
        token_hash: hex(&[nth; 32]),
        issuer: "https://id.example".into(),
        left_ns: seconds * 1_000_000_000,
    }
}

async fn tells(call: &Call, tokens: &[BoundToken]) {
    call.say(Message::TokensBound(TokensBound { tokens: tokens.to_vec() })).await;
}

/// What is said of them, in the order of their digests.
async fn words(call: &mut Call) -> Vec<TokenWord> {
    match call.hear().await.expect("a message") {
        FromCollector::TokenWords(words) => words.words,
        other => panic!("{other:?}"),
    }
}

async fn found(intake: &Intake, kind: &str) -> Vec<(String, String)> {
    let page = intake.store.findings(true, None, 1000).await.expect("findings");
    let of_kind = page.items.into_iter().filter(|finding| finding.kind == kind);
    let mut found: Vec<_> = of_kind.map(|finding| (finding.host, finding.detail)).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_host_to_tell_a_token_has_it_and_both_are_found() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let (one, two) = (HostKey::from_seed(&[61; 32]), HostKey::from_seed(&[62; 32]));
    let first = collector.enrol(&collector.token().await, &one).await.expect("enrolled");
    let second = collector.enrol(&collector.token().await, &two).await.expect("enrolled");
    let (mut call, _) = collector.call(&first).await.expect("called");
    let (mut other, _) = collector.call(&second).await.expect("called");
    tells(&call, &[token(2, 600), token(1, 600)]).await;
    let said = words(&mut call).await;
    assert!(
        said.len() == 2 && said.iter().all(|word| word.word == "own" && word.host.is_empty()),
        "{said:?}"
    );
    tells(&other, &[token(3, 600), token(1, 600)]).await;
    let said = words(&mut other).await;
    let one_of = |digest: u8| said.iter().find(|word| word.digest == [digest; 32]).expect("said");
    let (stolen, own) = (one_of(1), one_of(3));
    assert_eq!((stolen.word.as_str(), own.word.as_str()), ("other", "own"));
    assert_eq!((&stolen.host, stolen.host_name.as_str()), (&host_of(one.public()), "bastion"));
    let expected = |host: &HostKey, words: &str| (host_of(host.public()), words.to_owned());
    let hash = hex(&[1; 32]);
    let findings = found(&collector.intake, "token_on_two_hosts").await;
    assert_eq!(findings.len(), 2, "{findings:?}");
    for (host, words) in [expected(&one, "shown on this host first"), expected(&two, "had it first")] {
        let (_, detail) = findings.iter().find(|(found, _)| *found == host).expect("a finding");
        assert!(detail.contains(&words) && detail.contains(&hash), "{detail}");
    }
    // Told again, it is the same, and found once; the first host goes on.
    tells(&other, &[token(1, 900)]).await;
    assert_eq!(words(&mut other).await[0].word, "other");
    tells(&call, &[token(1, 900)]).await;
    assert_eq!(words(&mut call).await[0].word, "own");
    assert_eq!(found(&collector.intake, "token_on_two_hosts").await.len(), 2);
    // In the next call, and when the first host is not there.
    drop((call, other));
    let (mut other, _) = collector.call(&second).await.expect("called");
    tells(&other, &[token(1, 600)]).await;
    assert_eq!(words(&mut other).await[0].word, "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_agent_tells_is_found_and_takes_nothing() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let key = HostKey::from_seed(&[63; 32]);
    let identity = collector.enrol(&collector.token().await, &key).await.expect("enrolled");
    let (mut call, _) = collector.call(&identity).await.expect("called");
    let odd = [
        vec![BoundToken { digest: vec![1; 31], ..token(1, 600) }],
        vec![BoundToken { token_hash: "A".repeat(64), ..token(1, 600) }],
        vec![BoundToken { token_hash: String::new(), ..token(1, 600) }],
        vec![BoundToken { issuer: "x".repeat(600), ..token(1, 600) }],
        vec![token(1, 600); 257],
    ];
    for odd in odd {
        tells(&call, &odd).await;
    }
    // In its place it is taken; what would hide in a page, or last for ever, is not.
    let last = BoundToken { issuer: "https://id\u{202e}".into(), left_ns: u64::MAX, ..token(9, 1) };
    tells(&call, &[last]).await;
    assert_eq!(words(&mut call).await[0].word, "own");
    assert_eq!(found(&collector.intake, "tokens").await.len(), 1);
    let host = host_of(key.public());
    assert_eq!(collector.intake.store.bound_tokens(&host).await.expect("counted"), 1);
    let month = now_ns() + 32 * 24 * 3600 * 1_000_000_000;
    let mut write = collector.intake.store.write().await.expect("writes");
    let row = |nth: u8, until_ns: i64| Row {
        digest: hex(&[nth; 32]),
        token_hash: hex(&[nth; 32]),
        issuer: "https://id.example".into(),
        until_ns,
    };
    // Another host may have it when that month is over, and not before.
    assert_ne!(write.bind_token("other", &row(9, month)).await.expect("asked"), FirstHost::Own);
    assert_eq!(write.bind_token(&host, &row(8, 1)).await.expect("asked"), FirstHost::Own);
    assert_eq!(write.bind_token("other", &row(8, month)).await.expect("asked"), FirstHost::Own);
    assert!(matches!(
        write.bind_token(&host, &row(8, month)).await.expect("asked"),
        FirstHost::Other { host, .. } if host == "other"
    ));
    assert_eq!(write.bind_token(&host, &row(7, 1)).await.expect("asked"), FirstHost::Own);
    assert_eq!(write.prune_bound_tokens().await.expect("removed"), 1);
    write.commit().await.expect("committed");
}

/// Many hosts show one token at the same moment: one has it, and all the others are told who.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_is_first() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    for round in 0..5_u8 {
        let tries = (0..8).map(|host| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut write = store.write().await.expect("writes");
                let mut firsts = Vec::new();
                for nth in 0..4 {
                    let token = Row {
                        digest: hex(&[round * 16 + nth; 32]),
                        token_hash: hex(&[nth; 32]),
                        issuer: "https://id.example".into(),
                        until_ns: i64::MAX,
                    };
                    let host = format!("host {host}");
                    firsts.push(match write.bind_token(&host, &token).await.expect("asked") {
                        FirstHost::Own => host,
                        FirstHost::Other { host, .. } => host,
                        FirstHost::Unknown => panic!("nobody has it"),
                    });
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                write.commit().await.expect("committed");
                firsts
            })
        });
        let mut all = Vec::new();
        for one in tries.collect::<Vec<_>>() {
            all.push(one.await.expect("a task"));
        }
        assert!(all.windows(2).all(|two| two[0] == two[1]), "{all:?}");
    }
}

/// Those that have ended take room until they are removed.
const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 19999) \
     INSERT INTO bound_tokens (digest, host, token_hash, issuer, bound_ns, until_ns) \
     SELECT CAST(i AS TEXT), 'greedy', '', '', 0, 1 FROM n";

#[tokio::test(flavor = "multi_thread")]
async fn one_host_fills_its_own_room_alone() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    run_sql(state.path(), MANY).await;
    let row = |nth: u8| Row {
        digest: hex(&[nth; 32]),
        token_hash: hex(&[nth; 32]),
        issuer: "https://id.example".into(),
        until_ns: 1,
    };
    let mut write = store.write().await.expect("writes");
    assert_eq!(write.bind_token("greedy", &row(1)).await.expect("asked"), FirstHost::Own);
    assert_eq!(write.bind_token("greedy", &row(2)).await.expect("asked"), FirstHost::Unknown);
    assert_eq!(write.bind_token("greedy", &row(1)).await.expect("asked"), FirstHost::Own, "it has that one");
    assert_eq!(write.bind_token("other", &row(2)).await.expect("asked"), FirstHost::Own);
    assert_eq!(write.prune_bound_tokens().await.expect("removed"), 20_001);
    assert_eq!(write.bind_token("greedy", &row(2)).await.expect("asked"), FirstHost::Own);
    write.commit().await.expect("committed");
}
