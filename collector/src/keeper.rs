//! Checkpoints that are kept beside the database, so that a database that was put back is noticed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use interlock_recording::ledger::{open_checkpoint, verify_consistency};
use interlock_recording::merkle::Plan;

use crate::intake::Intake;

/// The newest checkpoint's file in the state directory.
pub(crate) const KEPT: &str = "ledger.checkpoint";
/// And in the directory that others watch over.
const LATEST: &str = "latest";

/// Keeps checkpoints: the newest in the state directory, and each in a directory that others watch over.
#[derive(Debug)]
pub struct Keeper {
    own: PathBuf,
    export: Option<PathBuf>,
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

impl Keeper {
    /// Keeps checkpoints in the state directory, and in `export`.
    pub fn new(state: &Path, export: Option<PathBuf>) -> Self {
        Self { own: state.to_owned(), export }
    }

    /// Checks that the ledger goes on from what was kept.
    ///
    /// # Errors
    /// It does not, or what was kept cannot be read.
    pub async fn check(&self, intake: &Intake) -> anyhow::Result<()> {
        let key = intake.signer.public();
        let exported = self.export.as_ref().map(|directory| directory.join(LATEST));
        for place in [Some(self.own.join(KEPT)), exported].into_iter().flatten() {
            let content = match fs::read(&place) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", place.display())),
            };
            let wrong = |why: String| {
                anyhow::anyhow!(
                    "the ledger does not go on from the checkpoint in {}: {why}. The database was put back to an \
                     earlier one, or altered. Restore its newest copy; if there is none, and it has been looked \
                     into, move this file away",
                    place.display()
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

    /// Keeps a checkpoint. A directory for others that cannot be written is told in the log, and the next one is
    /// tried again.
    ///
    /// # Errors
    /// The state directory cannot be written, or another checkpoint was kept over as many entries: somebody
    /// else signs with this ledger's key, or the database was put back.
    pub fn keep(&self, note: &str) -> anyhow::Result<()> {
        replace(&self.own, KEPT, note.as_bytes())
            .with_context(|| format!("cannot keep the checkpoint in {}", self.own.display()))?;
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
