//! Moving from the embedded default.

use std::path::Path;
use std::sync::Arc;

use interlock_collector::config::Config;
use interlock_collector::{audit, migrate, serve};
use interlock_recording::HostKey;

use crate::intake::sealed;
use crate::kept;
use crate::made;
use crate::process::{run, write_config};
use crate::support::Collector;

/// A collector with a directory, and some recordings.
async fn embedded(state: &Path) -> Config {
    let config = Config { state: state.into(), name: Some("collector.test".into()), ..Config::default() };
    let collector = Collector::start_with(config.clone(), kept::servers().await).await;
    let host = HostKey::from_seed(&[42; 32]);
    let identity = collector.enrol(&collector.token().await, &host).await.expect("enrolled");
    let spool = tempfile::tempdir().expect("a directory");
    let mut log = made::recording(spool.path());
    log.command("SELECT 'Größe', 'a_b' FROM t -- \0 zero");
    log.head();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    for number in 0..2 {
        call.ship(number, &sealed(spool.path(), number)).await.expect("taken");
    }
    call.live(crate::intake::open(spool.path(), 2)).await.expect("taken");
    drop(call);
    let mut write = collector.intake.store.write().await.expect("writes");
    assert!(write.add_user("anna", "hash", "admin", "set-up").await.expect("added"));
    write.audit("anna", "user.add", "anna", "", "").await.expect("written");
    write.sign_checkpoint(&collector.intake.signer).await.expect("signed");
    write.commit().await.expect("committed");
    // Evidence that no segment is.
    let disputed = state.join("disputed").join("aa");
    std::fs::create_dir_all(&disputed).expect("made");
    std::fs::write(disputed.join("000000000007-00.seg"), "forged").expect("written");
    config
}

/// The target, with the source's keys.
fn give_keys(from: &Path, to: &Config) {
    let keys = to.keys.as_ref().expect("keys");
    for file in ["keys/ledger.key", "keys/policies.key", "authority/authority.key", "authority/authority.crt"]
    {
        let name = Path::new(file).file_name().expect("a name");
        std::fs::copy(from.join(file), keys.join(name)).expect("copied");
    }
}

async fn moves(from: &Config, to: &Config) -> anyhow::Result<migrate::Moved> {
    migrate::run(from, to, &mut |_| {}).await
}

fn files(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).expect("read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if !path.extension().is_some_and(|end| end == "db" || end.to_string_lossy().starts_with("db-"))
        {
            all.push((path.clone(), std::fs::read(&path).expect("read")));
        }
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_moved_and_the_source_stays() {
    let (source, target) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let from = embedded(source.path()).await;
    let (to, _kept) = kept::config(target.path()).await;
    let before = files(source.path());
    // Other keys than the source's sign nothing.
    let error = moves(&from, &to).await.expect_err("other keys");
    assert!(format!("{error:#}").contains("keys/ledger.key"), "{error:#}");
    give_keys(source.path(), &to);

    // Broken off: the segments' storage is not there.
    let mut away = to.clone();
    away.segments.as_mut().expect("segments").s3.endpoint = Some("http://127.0.0.1:1".into());
    moves(&from, &away).await.expect_err("nothing there");
    let error = serve::open(&to).await.err().expect("not whole");
    assert!(format!("{error:#}").contains("is being moved"), "{error:#}");

    let file = target.path().join("to.yaml");
    write_config(&to, &file, &to.state, 1, 2);
    let finished = {
        let from = target.path().join("from.yaml");
        std::fs::write(&from, format!("name: collector.test\nstate: {}\n", source.path().display()))
            .expect("written");
        run(&from, &["migrate", "--to", file.to_str().expect("a path")])
    };
    let said = finished.expect_success();
    assert!(said.contains("moved and checked"), "{said}");

    let embedded = serve::open(&from).await.expect("as it was").intake;
    let moved = serve::open(&to).await.expect("opened").intake;
    assert_eq!(
        embedded.store.ledger_root().await.expect("a root"),
        moved.store.ledger_root().await.expect("a root")
    );
    let report = audit::verify(&moved, None).await.expect("a report");
    assert!(report.ok && report.segments == 2, "{report:?}");
    let session = interlock_recording::SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    let of = async |intake: &Arc<interlock_collector::intake::Intake>| {
        intake.archive.session_events(&intake.store, &session, None, 1000).await.expect("events")
    };
    assert_eq!(of(&embedded).await, of(&moved).await, "live records too");
    // What comes next has numbers of its own.
    let mut write = moved.store.write().await.expect("writes");
    write.audit("anna", "user.remove", "bert", "", "").await.expect("written");
    write.commit().await.expect("committed");
    assert!(!moved.store.users().await.expect("users").is_empty());
    drop(embedded);
    let after: Vec<_> = files(source.path());
    let only = |all: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<_> {
        all.iter().filter(|(path, _)| !path.ends_with("lock")).cloned().collect()
    };
    assert!(only(&before) == only(&after), "the source is as it was");

    // What was left behind does not go on.
    let old = target.path().join("from.yaml");
    let refused = run(&old, &["serve"]).expect_failure();
    assert!(refused.contains("was moved to postgres"), "{refused}");
    assert!(run(&old, &["audit", "--json"]).expect_success().contains("user.add"), "it can be looked at");
    let left = serve::open(&from).await.expect("opened").intake;
    let mut write = left.store.write().await.expect("writes");
    let started = interlock_recording::ledger::proto::LedgerStarted::default();
    let entry = interlock_recording::ledger::proto::entry::Body::LedgerStarted(started);
    let error = write.append(vec![entry]).await.expect_err("no entry");
    assert!(error.to_string().contains("was moved to"), "{error}");
    drop(write);
    drop(left);
    assert!(moved.store.fact("migration of all").await.expect("read").is_none());

    // Nothing is moved over it.
    let error = moves(&from, &to).await.expect_err("it is not empty");
    assert!(format!("{error:#}").contains("before"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_went_on_and_a_target_in_use_are_refused() {
    let (source, target) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let from = embedded(source.path()).await;
    let (to, _kept) = kept::config(target.path()).await;
    give_keys(source.path(), &to);
    let mut away = to.clone();
    away.segments.as_mut().expect("segments").s3.endpoint = Some("http://127.0.0.1:1".into());
    moves(&from, &away).await.expect_err("nothing there");
    let store = serve::open(&from).await.expect("opened").intake;
    let mut write = store.store.write().await.expect("writes");
    write.audit("anna", "user.add", "bert", "", "").await.expect("written");
    write.commit().await.expect("committed");
    drop(store);
    let error = moves(&from, &to).await.expect_err("it went on");
    assert!(format!("{error:#}").contains("gone on"), "{error:#}");

    let used = tempfile::tempdir().expect("a directory");
    let (to, _kept) = kept::config(used.path()).await;
    give_keys(source.path(), &to);
    drop(serve::open(&to).await.expect("in use"));
    let error = moves(&from, &to).await.expect_err("in use");
    assert!(format!("{error:#}").contains("has a ledger already"), "{error:#}");
    serve::open(&to).await.expect("still in use");
}
