//! Which hosts may not ship any more, looked up for all that are connected at once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::{Store, StoreError};

/// How old the answer may be.
const FRESH: Duration = Duration::from_secs(1);

/// The hosts that were revoked or whose recordings have ended, as the database last had them: whoever does that may
/// be another process.
#[derive(Debug, Default)]
pub struct Admission(Mutex<Option<(Instant, HashSet<String>)>>);

impl Admission {
    /// Whether a host that was let in may still ship.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn is_active(&self, store: &Store, host: &str) -> Result<bool, StoreError> {
        let mut known = self.0.lock().await;
        if let Some((at, inactive)) = &*known
            && at.elapsed() < FRESH
        {
            return Ok(!inactive.contains(host));
        }
        let inactive = store.inactive_hosts().await?;
        let active = !inactive.contains(host);
        *known = Some((Instant::now(), inactive));
        Ok(active)
    }
}
