//! Checkpoints that are kept beside the database, so that a database that was put back is noticed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use interlock_recording::ledger::{open_checkpoint, verify_consistency};
use interlock_recording::merkle::Plan;
use interlock_recording::note::Checkpoint;

use crate::intake::Intake;
use crate::store::{LedgerStoreError, StoreError};

/// The newest checkpoint's file in the state directory.
pub(crate) const KEPT: &str = "ledger.checkpoint";
/// And in the directory that others watch over.
const LATEST: &str = "latest";

/// Keeps checkpoints: the newest in the state directory, and each in a directory that others watch over.
///
/// Collectors that share a database keep each what they have seen, and one of them keeps some beside the segments,
/// for those that start with an empty state directory.
#[derive(Debug)]
pub struct Keeper {
    own: PathBuf,
    export: Option<PathBuf>,
    /// What was kept last, and when it was last kept beside the segments.
    kept: Option<(Checkpoint, String)>,
    stored: Option<Instant>,
}

/// How often a checkpoint is kept beside the segments.
const STORED: Duration = Duration::from_secs(60);

/// No checkpoint was kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The collector must not go on.
    #[error("{0}")]
    Final(String),
    /// The database or the ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
}

impl From<StoreError> for KeepError {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<interlock_recording::ledger::LedgerError> for KeepError {
    fn from(error: interlock_recording::ledger::LedgerError) -> Self {
        Self::Ledger(error.into())
    }
}

/// Writes a file so that there is the old one or the new one, on the disk.
fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// What is said when the ledger went back.
fn back(size: u64, kept: u64) -> KeepError {
    KeepError::Final(format!(
        "the ledger ({size} entries) does not go on from the checkpoint that was kept over {kept}: the database was put \
         back to an earlier one, or another server took its place that did not have everything. Nothing is taken \
         until it has been looked into: restore its newest copy"
    ))
}

impl Keeper {
    /// Keeps checkpoints in the state directory, and in `export`.
    pub fn new(state: &Path, export: Option<PathBuf>) -> Self {
        Self { own: state.to_owned(), export, kept: None, stored: None }
    }

    /// Checks that the ledger goes on from what was kept.
    ///
    /// # Errors
    /// It does not, or what was kept cannot be read.
    pub async fn check(&self, intake: &Intake) -> anyhow::Result<()> {
        let key = intake.signer.public();
        let exported = self.export.as_ref().map(|directory| directory.join(LATEST));
        let mut all = Vec::new();
        for place in [Some(self.own.join(KEPT)), exported].into_iter().flatten() {
            match fs::read(&place) {
                Ok(content) => all.push((place.display().to_string(), content)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", place.display())),
            }
        }
        if let Some(objects) = intake.archive.objects()
            && let Some(note) = objects.newest_checkpoint().await?
        {
            all.push((format!("{}/checkpoints", objects.place()), note.into_bytes()));
        }
        for (place, content) in all {
            let wrong = |why: String| {
                anyhow::anyhow!(
                    "the ledger does not go on from the checkpoint in {place}: {why}. The database was put back to an \
                     earlier one, or altered. Restore its newest copy; if there is none, and it has been looked \
                     into, move this file away"
                )
            };
            let kept = open_checkpoint(&content, key).map_err(|error| wrong(error.to_string()))?;
            // Signed to be compared with, and taken back: the ledger signs when it is found to go on.
            let mut write = intake.store.write().await?;
            let newest = write.sign_checkpoint(&intake.signer).await?;
            drop(write);
            let newest = open_checkpoint(newest.as_bytes(), key)?;
            if newest.size < kept.size {
                return Err(wrong(format!("it has {} entries, that one is over {}", newest.size, kept.size)));
            }
            let proof = intake.store.prove(&Plan::consistency(kept.size, newest.size)?).await?;
            verify_consistency(&kept, &newest, &proof).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(())
    }

    /// Signs a checkpoint over what has come to the ledger, and keeps it.
    ///
    /// # Errors
    /// See [`KeepError`]: the ledger went back, or it could not be done this time.
    pub async fn sign(&mut self, intake: &Intake) -> Result<(), KeepError> {
        let mut write = intake.store.write().await?;
        let note = match write.sign_checkpoint(&intake.signer).await {
            Err(error @ LedgerStoreError::RolledBack { .. }) => {
                return Err(KeepError::Final(error.to_string()));
            }
            note => note?,
        };
        // Kept first: another one that is kept over as many entries ends it before this one counts.
        self.advance(intake, note, true).await?;
        write.commit().await?;
        self.store(intake).await;
        Ok(())
    }

    /// Keeps the newest checkpoint that another collector signed.
    ///
    /// # Errors
    /// See [`KeepError`].
    pub async fn follow(&mut self, intake: &Intake) -> Result<(), KeepError> {
        let Some(note) = intake.store.checkpoint(None).await? else { return Ok(()) };
        let note = note.to_string();
        let newest = open_checkpoint(note.as_bytes(), intake.signer.public())?;
        if let Some((kept, _)) = &self.kept
            && newest.size < kept.size
        {
            // The one that was kept may have been signed and not entered: its entries must be there.
            let size = intake.store.ledger_size().await?;
            return if size < kept.size { Err(back(size, kept.size)) } else { Ok(()) };
        }
        self.advance(intake, note, false).await
    }

    /// Keeps a checkpoint that goes on from the one before.
    async fn advance(&mut self, intake: &Intake, note: String, export: bool) -> Result<(), KeepError> {
        if self.kept.as_ref().is_some_and(|(_, kept)| *kept == note) {
            return Ok(());
        }
        let newest = open_checkpoint(note.as_bytes(), intake.signer.public())?;
        if let Some((kept, _)) = &self.kept {
            if newest.size < kept.size {
                return Err(back(newest.size, kept.size));
            }
            let plan = Plan::consistency(kept.size, newest.size).map_err(LedgerStoreError::from)?;
            let proof = match intake.store.prove(&plan).await {
                Err(LedgerStoreError::Tree(_)) => return Err(back(newest.size, kept.size)),
                proof => proof?,
            };
            if verify_consistency(kept, &newest, &proof).is_err() {
                return Err(back(newest.size, kept.size));
            }
        }
        let keeper = if export { self.keep(&note) } else { self.keep_here(&note) };
        keeper.map_err(|error| KeepError::Final(format!("{error:#}")))?;
        self.kept = Some((newest, note));
        Ok(())
    }

    /// Keeps what was signed beside the segments, now and then. What cannot be put now is put later.
    async fn store(&mut self, intake: &Intake) {
        let (Some(objects), Some((kept, note))) = (intake.archive.objects(), &self.kept) else { return };
        if self.stored.is_some_and(|stored| stored.elapsed() < STORED) {
            return;
        }
        self.stored = Some(Instant::now());
        if let Err(error) = objects.keep_checkpoint(kept.size, note).await {
            tracing::warn!("a checkpoint was not kept beside the segments: {error}");
        }
    }

    fn keep_here(&self, note: &str) -> anyhow::Result<()> {
        replace(&self.own, KEPT, note.as_bytes())
            .with_context(|| format!("cannot keep the checkpoint in {}", self.own.display()))
    }

    /// Keeps a checkpoint. A directory for others that cannot be written is told in the log, and the next one is
    /// tried again.
    ///
    /// # Errors
    /// The state directory cannot be written, or another checkpoint was kept over as many entries: somebody
    /// else signs with this ledger's key, or the database was put back.
    pub fn keep(&self, note: &str) -> anyhow::Result<()> {
        self.keep_here(note)?;
        let Some(export) = &self.export else { return Ok(()) };
        let line = |note: &str, number: usize| note.lines().nth(number).unwrap_or_default().to_owned();
        let size = line(note, 1);
        let name = format!("checkpoint-{size}");
        if let Ok(there) = fs::read_to_string(export.join(&name)) {
            anyhow::ensure!(
                line(&there, 2) == line(note, 2),
                "{} holds another checkpoint over {size} entries: two ledgers are signed with this key. Nothing is \
                 overwritten; find out which is the right one",
                export.join(&name).display()
            );
            return Ok(());
        }
        let written =
            replace(export, &name, note.as_bytes()).and_then(|()| replace(export, LATEST, note.as_bytes()));
        if let Err(error) = written {
            tracing::error!("a checkpoint was not written into {} (checkpoints): {error}", export.display());
        }
        Ok(())
    }
}
