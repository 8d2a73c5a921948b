//! Moving from the embedded database and directory to PostgreSQL and S3.
//!
//! Nothing is taken from the source. What is copied is noted in the same transaction, so that it can be broken off
//! at any time and gone on with; a source that went on in between is refused. Before the target counts, the source
//! is told where it was moved to, and does not serve any more.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::Path;

use anyhow::Context as _;
use interlock_recording::hex;
use tokio::task::JoinSet;

use crate::archive::{Archive, SegmentFile};
use crate::config::Config;
use crate::intake::Intake;
use crate::objects::Objects;
use crate::store::Store;
use crate::{audit, keys, serve};

/// Segments that are put at one time.
const AT_ONCE: usize = 4;

/// What was moved.
#[derive(Debug, Default)]
pub struct Moved {
    /// Rows of the database.
    pub rows: i64,
    /// Segments.
    pub segments: u64,
    /// Files that were not what they should be.
    pub disputed: u64,
    /// Entries of the ledger.
    pub entries: u64,
}

/// Where a source stands: a target that was begun from another place is not gone on with.
async fn mark(source: &Store) -> anyhow::Result<String> {
    let (size, root) = source.ledger_root().await?;
    Ok(format!("{size} {} {}", hex(&root), source.last_audit().await?))
}

/// Moves what a collector with the configuration `from` has to where `to` says. `tell` is told how far it is.
///
/// # Errors
/// The collector runs, something cannot be read or written, the target has something else in it, or what is
/// there at the end is not what was moved.
pub async fn run(from: &Config, to: &Config, tell: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<Moved> {
    anyhow::ensure!(from.store.is_none(), "the collector to move keeps its data in PostgreSQL already");
    let (Some(database), Some(segments)) = (&to.store, &to.segments) else {
        anyhow::bail!("the configuration to move to has no `store` and `segments`");
    };
    anyhow::ensure!(
        to.keys.is_some(),
        "the configuration to move to has no `keys`: name a directory for them"
    );
    let _lock = serve::lock(from).context("stop the collector first")?;
    let source = serve::open_existing(from).await?;
    let (store, name) = (&source.intake.store, &source.name);
    anyhow::ensure!(
        to.name.as_ref().is_none_or(|wanted| wanted == name),
        "the collector's name is {name:?}, which stands in every proof: set `name: {name}` in the configuration to \
         move to"
    );
    keys::same(to, &source.intake, name).with_context(|| {
        let state = from.state.display();
        format!("copy {state}/keys/ledger.key, {state}/keys/policies.key, {state}/authority/authority.key and authority.crt to where `keys` says")
    })?;

    let target = Store::open_server(&database.server()?, false)
        .await
        .with_context(|| format!("cannot work with {} (store.database)", database.database))?;
    let objects = Objects::new(&segments.s3).context("segments.s3")?;
    if let Some(place) = store.moved_to().await? {
        anyhow::ensure!(
            target.fact("migration").await?.is_some(),
            "the collector was moved to {place} before: it cannot be moved twice. Only if nothing was ever started \
             there, `interlock-collector migrate --undo` has it be here again"
        );
    }
    let mark = mark(store).await?;
    begin(&target, &mark, &objects).await?;

    let mut moved = Moved::default();
    for table in store.tables().await? {
        let all = store.row_count(&table).await?;
        while store.copy_rows(&table, &target).await? > 0 {
            tell(format!("{}: {} of {all} rows", table.name, target.row_count(&table).await?));
        }
        target.end_copy(&table).await?;
        let there = target.row_count(&table).await?;
        anyhow::ensure!(
            there == all,
            "{}: {there} rows are there, and the source has {all}: something else writes into the target",
            table.name
        );
        moved.rows += all;
    }
    moved.segments = move_segments(&source.intake, &objects, tell).await?;
    moved.disputed = move_disputed(&from.state, &objects).await?;
    if let Some(note) = store.checkpoint(None).await? {
        let note = note.to_string();
        let size =
            interlock_recording::ledger::open_checkpoint(note.as_bytes(), source.intake.signer.public())?
                .size;
        objects.keep_checkpoint(size, &note).await?;
    }

    tell("everything is there; it is checked against the ledger".to_owned());
    let (size, root) = store.ledger_root().await?;
    anyhow::ensure!(
        target.ledger_root().await? == (size, root),
        "the ledger that was moved has another root than the source's"
    );
    let parts = serve::put_together(to, target).await?;
    check(&source.intake, &parts.intake).await?;
    // First the source: between the two neither serves, and this can be run again.
    let mut write = store.write().await?;
    write.set_moved(&database.database).await?;
    write.commit().await?;
    parts.intake.store.end_migration(&format!("done {mark}")).await?;
    moved.entries = size;
    Ok(moved)
}

/// Has a collector that was moved be where it was; where to it had been moved.
///
/// # Errors
/// It was not moved, or its database fails.
pub async fn undo(config: &Config, who: &str) -> anyhow::Result<String> {
    anyhow::ensure!(
        config.store.is_none(),
        "name the configuration that the collector was moved from, not the one with `store`"
    );
    let _lock = serve::lock(config)?;
    let store = serve::open_existing(config).await?.intake.store.clone();
    let place = store.moved_to().await?.context("this collector was not moved")?;
    let mut write = store.write().await?;
    write.undo_moved().await?;
    write.audit(who, "migrate.undo", &place, "", "").await?;
    write.commit().await?;
    Ok(place)
}

/// Marks the target as one that is being moved to, unless something else is in it.
async fn begin(target: &Store, mark: &str, objects: &Objects) -> anyhow::Result<()> {
    let begun = target.fact("migration").await?;
    let again = begun.is_some();
    if let Some(other) = begun.filter(|begun| begun != mark) {
        let done = other.starts_with("done");
        anyhow::ensure!(
            !done,
            "the target holds a collector that was moved there before: nothing is moved over it"
        );
        anyhow::bail!(
            "a move into this database was begun from another state of a collector, which has gone on since: empty the \
             database (and {}), and begin anew",
            objects.place()
        );
    }
    let mut write = target.write().await?;
    write.set_fact_once("ledger", "1").await?;
    write.lock_ledger().await?;
    // A ledger without our mark is somebody else's.
    anyhow::ensure!(
        again || write.ledger_is_empty().await?,
        "the target's database has a ledger already: nothing is moved over it"
    );
    write.set_fact_once("migration", mark).await?;
    Ok(write.commit().await?)
}

async fn move_segments(
    source: &Intake,
    objects: &Objects,
    tell: &mut (dyn FnMut(String) + Send),
) -> anyhow::Result<u64> {
    let (mut moved, mut going) = (0, JoinSet::new());
    for agent in source.store.agents().await? {
        for segment in source.store.segments(&agent.host, 0, u64::MAX).await? {
            if segment.deleted {
                continue;
            }
            if going.len() >= AT_ONCE
                && let Some(done) = going.join_next().await
            {
                done??;
                moved += 1;
                if moved % 100 == 0 {
                    tell(format!("segments: {moved}"));
                }
            }
            let file = SegmentFile::new(&agent.host, segment.number, segment.bytes, &segment.file_sha256)?;
            going.spawn(move_segment(source.archive.clone(), objects.clone(), file));
        }
    }
    while let Some(done) = going.join_next().await {
        done??;
        moved += 1;
    }
    tell(format!("segments: {moved}, all"));
    Ok(moved)
}

async fn move_segment(
    from: std::sync::Arc<Archive>,
    to: Objects,
    segment: SegmentFile,
) -> anyhow::Result<()> {
    let path = to.segment(&segment.host, segment.number, &segment.sha256);
    // All are read when everything is there.
    if to.has(&path, segment.bytes).await? {
        return Ok(());
    }
    let file = from.fetch_kept(&segment).await?;
    to.put(&path, file, segment.bytes, segment.sha256).await?;
    Ok(())
}

/// Files that were not what they should be are evidence too.
async fn move_disputed(state: &Path, objects: &Objects) -> anyhow::Result<u64> {
    let mut moved = 0;
    let directory = state.join("disputed");
    for host in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let host = host?;
        let id = host.file_name().to_string_lossy().into_owned();
        for file in fs::read_dir(host.path())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            let number: u64 =
                name.split('-').next().and_then(|number| number.parse().ok()).unwrap_or_default();
            let path = file.path();
            let hashed = tokio::task::spawn_blocking(move || {
                let mut content = File::open(&path)?;
                let (bytes, sha256) = audit::hash(&mut content)?;
                content.rewind()?;
                Ok::<_, io::Error>((content, bytes, sha256))
            });
            let (content, bytes, sha256) = hashed.await??;
            objects.put(&objects.disputed(&id, number, &sha256), content, bytes, sha256).await?;
            moved += 1;
        }
    }
    Ok(moved)
}

/// Everything is checked against the ledger where it is now. What was not whole before may be so still.
async fn check(source: &Intake, target: &Intake) -> anyhow::Result<()> {
    let now = audit::verify(target, None).await?;
    if now.ok {
        return Ok(());
    }
    let before = audit::verify(source, None).await?;
    let known: HashSet<&String> = before.problems.iter().collect();
    if let Some(new) = now.problems.iter().find(|problem| !known.contains(problem)) {
        anyhow::bail!("what was moved is not whole: {new}");
    }
    for problem in &now.problems {
        tracing::warn!("as before: {problem}");
    }
    Ok(())
}
