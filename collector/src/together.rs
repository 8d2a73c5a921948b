//! Collectors that work together on one database: who does what only one is to do, and what is passed on to the
//! one that an agent is connected to.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use interlock_recording::hex;

use crate::intake::Intake;
use crate::store::{Store, StoreError};

/// How long who leads may do so without saying so again.
const LEASE: Duration = Duration::from_secs(15);
/// What all of them do in one's place.
const NAME: &str = "chores";
/// How often it is looked for what is to be passed on.
const RELAY: Duration = Duration::from_secs(1);
/// How long it is waited for another collector to pass something on.
const PASSED_ON: Duration = Duration::from_secs(5);

/// Whether this collector is the one that signs checkpoints, deletes what is old, and checks what is kept. It
/// is harmless when two think so: everything they do is done in transactions that look again.
#[derive(Debug)]
pub(crate) struct Lead {
    holder: String,
    until: Mutex<Option<Instant>>,
}

impl Lead {
    /// A collector that does not lead yet.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut holder = [0; 16];
        interlock_recording::fill_random(&mut holder)?;
        Ok(Self { holder: hex(&holder), until: Mutex::new(None) })
    }

    /// Goes on leading, or tries to; gives whether it leads.
    ///
    /// # Errors
    /// The database fails. Then nobody leads until it answers again.
    pub(crate) async fn renew(&self, store: &Store) -> Result<bool, StoreError> {
        let asked = Instant::now();
        // A collector with a database of its own waits for nobody, such as one that was killed.
        let held = !store.is_shared() || store.lease(NAME, &self.holder, LEASE).await?;
        if let Ok(mut until) = self.until.lock() {
            if held && until.is_none() {
                tracing::debug!("this collector signs, deletes and checks now");
            }
            *until = held.then(|| asked + LEASE);
        }
        Ok(held)
    }

    /// Whether it leads now.
    pub(crate) fn is_held(&self) -> bool {
        self.until.lock().is_ok_and(|until| until.is_some_and(|until| Instant::now() < until))
    }

    /// Lets another one lead at once.
    pub(crate) async fn release(&self, store: &Store) {
        if self.is_held() {
            // Without it the lease runs out.
            let _ = store.release(NAME, &self.holder).await;
        }
    }
}

/// Passes on what other collectors have left for agents that are connected here, and has pages look for what
/// others took in. Does not end.
pub(crate) async fn relay(intake: Arc<Intake>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(RELAY).await;
        match pass_on(&intake).await {
            Ok(()) => failing = false,
            Err(error) if failing => tracing::debug!("{error}"),
            Err(error) => {
                failing = true;
                tracing::error!("what other collectors have for agents cannot be read: {error}");
            }
        }
        intake.connected.change();
    }
}

async fn pass_on(intake: &Intake) -> Result<(), StoreError> {
    for host in intake.store.hosts_with_votes().await? {
        intake.connected.tell_votes(&host);
    }
    for order in intake.store.orders().await? {
        if !intake.connected.is_there(&order.host) {
            continue;
        }
        let mut write = intake.store.write().await?;
        // Claimed first, told before it is committed: at worst an agent is told twice to end what has ended.
        if write.claim_order(order.id).await?
            && intake.connected.end_session(&order.host, order.session, &order.reason)
        {
            write.commit().await?;
        }
    }
    Ok(())
}

impl Intake {
    /// Has the agent of `host` end a session, whichever collector it is connected to; gives whether it was told.
    ///
    /// # Errors
    /// The database fails.
    pub async fn end_session(&self, host: &str, session: [u8; 16], reason: &str) -> Result<bool, StoreError> {
        if self.connected.end_session(host, session, reason) {
            return Ok(true);
        }
        if !self.shared {
            return Ok(false);
        }
        let order = self.store.order(host, session, reason).await?;
        let until = tokio::time::Instant::now() + PASSED_ON;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if self.store.was_told(order).await? {
                return Ok(true);
            }
        }
        // It cannot be told any more once it was taken back.
        Ok(!self.store.withdraw(order).await?)
    }
}
