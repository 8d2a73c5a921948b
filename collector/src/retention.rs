//! Retention: what is older than its rule says is deleted, and a tombstone in the ledger says so.

use std::time::Duration;

use interlock_recording::ledger::proto::Tombstone;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::{PublicKey, hex};

use crate::archive::ArchiveError;
use crate::config::Retention;
use crate::intake::Intake;
use crate::store::{Agent, Expired, LedgerStoreError, StoreError, now_ns};

/// Segments that are looked at at one time.
const PAGE: u32 = 100;

/// Deleting failed.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
    /// A file cannot be removed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// The rule for a host: the first that names it, or that names none.
fn rule<'r>(rules: &'r [Retention], agent: &Agent) -> Option<&'r Retention> {
    rules.iter().find(|rule| {
        rule.hosts.is_empty() || rule.hosts.iter().any(|host| *host == agent.name || *host == agent.host)
    })
}

/// Deletes what is older than its rule says and under no legal hold; gives how many segments that were. A
/// recording without a rule is kept for ever.
///
/// # Errors
/// The database, the ledger or the archive fails; what was deleted until then has its tombstone.
pub async fn apply(intake: &Intake, rules: &[Retention]) -> Result<u64, RetentionError> {
    let mut deleted = 0;
    for agent in intake.store.agents().await? {
        let Some(rule) = rule(rules, &agent) else { continue };
        let keep = Duration::from_secs(u64::from(rule.keep_days) * 24 * 3600);
        let before = now_ns().saturating_sub(i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX));
        loop {
            let expired = intake.store.expired(&agent.host, before, PAGE).await?;
            if expired.is_empty() {
                break;
            }
            let mut gone = 0;
            for segment in expired {
                gone += u64::from(delete(intake, &agent, &segment, rule).await?);
            }
            deleted += gone;
            if gone == 0 {
                break;
            }
        }
    }
    Ok(deleted)
}

/// Deletes one segment: first its tombstone, then its file. A collector that ends in between finds the file
/// when it next starts.
async fn delete(
    intake: &Intake,
    agent: &Agent,
    expired: &Expired,
    rule: &Retention,
) -> Result<bool, RetentionError> {
    let key =
        PublicKey::from_bytes(&agent.public_key).ok_or(StoreError::Damaged("a host's key that is none"))?;
    let mut write = intake.store.write().await?;
    // What comes of this host waits, and so does whoever sets a hold.
    write.agent(&expired.host).await?;
    write.lock_ledger().await?;
    // A hold may have been set since the list was made.
    if write.is_held(&expired.host, expired.segment.number).await? {
        return Ok(false);
    }
    write
        .append(vec![Body::Tombstone(Tombstone {
            host: key.fingerprint().to_vec(),
            segment: expired.segment.number,
            file_sha256: expired.segment.file_sha256.clone(),
            reason: format!("older than {} days", rule.keep_days),
            who: "retention".to_owned(),
            rule: rule.name.clone(),
        })])
        .await?;
    write.delete_segment(&expired.host, &expired.segment).await?;
    let detail = format!("segment {}, rule {}", expired.segment.number, rule.name);
    write.audit("retention", "segment.delete", &expired.host, &detail, "").await?;
    write.commit().await?;
    intake.archive.remove(&expired.host, expired.segment.number, &expired.segment.file_sha256).await?;
    Ok(true)
}

/// Removes what is left of segments whose tombstones say that they are deleted, and objects that were put and never
/// taken because the host's segment of this number became another one. What comes after the last segment
/// that was taken stays: it may be about to be taken, or the database may have been put back.
///
/// # Errors
/// The database fails, or something cannot be removed.
pub async fn sweep(intake: &Intake) -> Result<(), RetentionError> {
    for agent in intake.store.agents().await? {
        let Some(objects) = intake.archive.objects() else {
            for segment in intake.store.segments(&agent.host, 0, u64::MAX).await? {
                if segment.deleted {
                    intake.archive.remove(&agent.host, segment.number, &segment.file_sha256).await?;
                }
            }
            continue;
        };
        for object in objects.list(&agent.host).await? {
            let Some(number) = object.segment else { continue };
            let kept = intake.store.segments(&agent.host, number, number).await?;
            let Some(kept) = kept.first() else { continue };
            if kept.deleted || hex(&kept.file_sha256) != object.sha256 {
                objects.remove(&object.path).await?;
            }
        }
    }
    Ok(())
}
