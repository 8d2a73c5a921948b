//! The same questions have the same answers on both databases.

use interlock_collector::config::Config;
use interlock_collector::sample::{HOSTILE, SampleHost, SampleSession};
use interlock_collector::serve;
use interlock_collector::store::{CommandFilter, SessionFilter, Store, now_ns};
use interlock_recording::proto::event::Body;
use interlock_recording::proto::{IdentityChanged, VerifiedIdentity};

use crate::kept;

fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "SELECT name, größe FROM public.users WHERE café = 'São Paulo'",
        "delete from orders; DELETE FROM order_items WHERE id=1",
        "UPDATE t SET a_b = 'x-y', c = $1 /* ÅNGSTRÖM */",
        "select 1.5e10, 'it''s', E'\\n', \"Quoted Name\"",
        "SELECT 你好 FROM таблица WHERE Ёж = 'ёж' OR ΆΛΦΑ = 'άλφα'",
        "INSERT INTO log VALUES ('naïve façade', 'e\u{301}te\u{301}')",
        "drop table users_2024 cascade",
        "",
        "!!! --- ???",
    ]
    .map(str::to_owned)
    .into();
    texts.push(HOSTILE.to_owned());
    texts.push(format!("SELECT '{}'", "long ".repeat(4000)));
    texts.push(format!("SELECT {}", "w".repeat(3000)));
    texts
}

const QUESTIONS: &[&str] = &[
    "select",
    "SELECT",
    "delete from",
    "\"delete from\"",
    "\"from delete\"",
    "\"from orders delete\"",
    "größe",
    "grosse",
    "grösse",
    "GRÖSSE",
    "cafe",
    "café",
    "sao",
    "\"são paulo\"",
    "a_b",
    "a",
    "b",
    "x-y",
    "\"x y\"",
    "angstrom",
    "ord*",
    "order*",
    "\"delete fr\"*",
    "users*",
    "users_2024",
    "2024",
    "1.5e10",
    "\"1 5e10\"",
    "你好",
    "你",
    "таблица",
    "ёж",
    "еж",
    "Άλφα",
    "αλφα",
    "naive facade",
    "ete",
    "été",
    "script",
    "\"img src\"",
    "calc",
    "שלום",
    "long",
    "\"long long\"",
    "www*",
    "'",
    "--",
    "public.users",
    "\"public users\"",
    "NOT",
    "drop OR delete",
    "zzz",
    "na:ive",
    "(select)",
    "quoted",
    "\"quoted name\"",
    "t*",
    "_",
    "$1",
    "'1' & '2'",
    "select:*",
    "!select",
    "x\\y",
    "\\",
];

pub(crate) async fn fill(store: &Store) {
    let mut host = SampleHost::enrol(store, "bastion", 5).await.expect("enrolled");
    for (number, text) in texts().into_iter().enumerate() {
        let session = SampleSession {
            started_ns: now_ns() - 1_000_000_000 * (100 - number as i64),
            exe: format!("/usr/bin/tool{}", number % 3),
            commands: vec![
                (text, if number % 4 == 0 { "deny" } else { "allow" }, "rule one", ""),
                ("SELECT 1".into(), "allow", "", if number % 2 == 0 { "deny" } else { "" }),
            ],
            ended: number % 2 == 0,
            ..SampleSession::default()
        };
        host.session(store, &session).await.expect("recorded");
    }
}

async fn answers(store: &Store) -> Vec<String> {
    let mut all = Vec::new();
    for question in QUESTIONS {
        let filter = CommandFilter { text: Some((*question).to_owned()), ..CommandFilter::default() };
        let page = store.commands(&filter, None, 100).await.expect(question);
        let found: Vec<(i64, i64)> = page.items.iter().map(|item| (item.event, item.text_length)).collect();
        all.push(format!("{question}: {found:?} {:?}", page.next));
        let filter = SessionFilter { text: Some((*question).to_owned()), ..SessionFilter::default() };
        let (mut cursor, mut exes) = (None, Vec::new());
        loop {
            let page = store.sessions(&filter, cursor.as_deref(), 2).await.expect(question);
            exes.extend(page.items.iter().map(|item| (item.exe.clone(), item.last_event)));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        all.push(format!("{question}: {exes:?}"));
    }
    let session = |change: &dyn Fn(&mut SessionFilter)| {
        let mut filter = SessionFilter::default();
        change(&mut filter);
        filter
    };
    for filter in [
        session(&|_| {}),
        session(&|filter| filter.exe = Some("TOOL1".into())),
        session(&|filter| filter.exe = Some("tool".into())),
        session(&|filter| filter.verdict = Some("deny".into())),
        session(&|filter| filter.verdict = Some("allow".into())),
        session(&|filter| filter.rule = Some("rule one".into())),
        session(&|filter| filter.observed = Some("deny".into())),
        session(&|filter| filter.open = true),
        session(&|filter| filter.destination = Some("10.0".into())),
        session(&|filter| {
            filter.user = Some("deploy".into());
            filter.database = Some("shop".into());
            filter.since_ns = Some(0);
        }),
        session(&|filter| filter.user = Some("a\0b".into())),
    ] {
        let page = store.sessions(&filter, None, 5).await.expect("sessions");
        let found: Vec<i64> = page.items.iter().map(|item| item.last_event).collect();
        all.push(format!("{filter:?}: {found:?} {}", page.next.is_some()));
    }
    for filter in [
        CommandFilter { verdict: Some("deny".into()), ..CommandFilter::default() },
        CommandFilter { rule: Some("rule one".into()), kind: Some("".into()), ..CommandFilter::default() },
        CommandFilter { observed: Some("deny".into()), until_ns: Some(i64::MAX), ..CommandFilter::default() },
    ] {
        let page = store.commands(&filter, None, 7).await.expect("commands");
        let found: Vec<i64> = page.items.iter().map(|item| item.event).collect();
        all.push(format!("{filter:?}: {found:?} {}", page.next.is_some()));
    }
    all.push(format!("{:?}", store.totals().await.expect("totals").events));
    let rules = store.rule_counts(None).await.expect("rules");
    all.extend(rules.iter().map(|rule| format!("{} {} {}", rule.rule, rule.verdict, rule.count)));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_questions_have_the_same_answers() {
    let (state, own) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (config, _kept) = kept::config(state.path()).await;
    let shared = serve::open(&config).await.expect("opened").intake;
    let config =
        Config { state: own.path().into(), name: Some("collector.test".into()), ..Config::default() };
    let embedded = serve::open(&config).await.expect("opened").intake;
    fill(&embedded.store).await;
    fill(&shared.store).await;
    let (embedded, shared) = (answers(&embedded.store).await, answers(&shared.store).await);
    let apart: Vec<_> = embedded.iter().zip(&shared).filter(|(one, other)| one != other).collect();
    assert!(apart.is_empty(), "SQLite, PostgreSQL: {apart:#?}");
}

/// Sessions that are found by who stood behind them, as they come and go.
async fn found_by_who_came_later(store: &Store) -> Vec<usize> {
    let person = |name: &str| {
        Some(VerifiedIdentity {
            kind: "person".into(),
            name: name.into(),
            subject: format!("{name}@corp.example"),
            issuer_name: "okta".into(),
            ..VerifiedIdentity::default()
        })
    };
    let changed = |person: Option<VerifiedIdentity>| {
        Body::IdentityChanged(IdentityChanged { person, ..IdentityChanged::default() })
    };
    let mut host = SampleHost::enrol(store, "gateway", 6).await.expect("enrolled");
    let session = SampleSession { ended: false, started_ns: now_ns(), ..SampleSession::default() };
    let id = host.session(store, &session).await.expect("recorded");
    let mut sequence = session.bodies().len() as u64;
    let mut found = Vec::new();
    // The same again and again, as with each new token; somebody else within the same batch; nobody.
    for come in [
        vec![changed(person("anna"))],
        vec![changed(person("anna")), changed(None), changed(person("100%_o'neil"))],
        vec![changed(person("anna"))],
        vec![changed(None)],
    ] {
        let count = come.len() as u64;
        host.record(store, id, session.started_ns, sequence, come).await.expect("recorded");
        sequence += count;
        for who in ["ANNA@corp.example", "100%_o'neil", "of okta", "; ", "bob", "100%%"] {
            let filter = SessionFilter { identity: Some(who.into()), ..SessionFilter::default() };
            found.push(store.sessions(&filter, None, 10).await.expect(who).items.len());
        }
    }
    // Over and over: what is kept of it does not grow without end.
    for number in 0..40 {
        let come = (0..40).map(|one| changed(person(&format!("person-{number}-{one}-{}", "x".repeat(200)))));
        let come: Vec<Body> = come.collect();
        host.record(store, id, session.started_ns, sequence, come).await.expect("recorded");
        sequence += 40;
    }
    let filter = SessionFilter { identity: Some("person-0-1-".into()), ..SessionFilter::default() };
    found.push(store.sessions(&filter, None, 10).await.expect("sessions").items.len());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_for_somebody_finds_sessions_that_they_came_into_later() {
    let (state, own) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (config, _kept) = kept::config(state.path()).await;
    let shared = serve::open(&config).await.expect("opened").intake;
    let config =
        Config { state: own.path().into(), name: Some("collector.test".into()), ..Config::default() };
    let embedded = serve::open(&config).await.expect("opened").intake;
    for intake in [embedded, shared] {
        let found = found_by_who_came_later(&intake.store).await;
        let later = [1, 1, 1, 1, 0, 0];
        assert_eq!(found, [&[1, 0, 1, 0, 0, 0][..], &later, &later, &later, &[1]].concat());
    }
}
