//! The task that ships: one connection to the collector after another.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::backoff::Backoff;
use super::call::{self, Ended};
use super::enrolment::{Enrolment, Mark, Stamp, Store};
use super::orders::Orders;
use super::status::Shipping;
use super::{Fault, asked_to_finish, blocking, connect, source};
use crate::approval::Desk;
use crate::identity::workload::Bindings;
use crate::policy::CentralStatus;
use crate::record::{Kept, RecordError, Recorder};

/// How often it is looked whether the host has been enrolled, or enrolled anew.
const LOOK: Duration = Duration::from_secs(1);

/// What a collector is told of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// SHA-256 over the policies in force, hexadecimal.
    pub policy_hash: String,
    /// Flows that are open.
    pub flows: u64,
    /// New commands are refused.
    pub full: bool,
    /// How this host stands with the collector's orders about policies.
    pub policy: CentralStatus,
}

type MakeReport = dyn Fn() -> Report + Send + Sync;

/// Ships one agent's recording.
pub struct Shipper {
    store: Store,
    recorder: Arc<Recorder>,
    shipping: Arc<Shipping>,
    keep: u64,
    report: Box<MakeReport>,
    /// Who takes orders about policies.
    orders: Option<Arc<dyn Orders>>,
    /// Requests for approval that the collector is told of.
    desk: Option<Arc<Desk>>,
    /// Tokens that the collector is told of.
    tokens: Option<Arc<Bindings>>,
    /// The authority of the collector that has taken a segment which this agent sent. As each follows from
    /// the one before by its hash, what that collector had before is this recording, too, and not another
    /// one of the same host.
    confirmed: Mutex<Option<Vec<u8>>>,
}

impl fmt::Debug for Shipper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shipper").field("store", &self.store).finish_non_exhaustive()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn not_read(error: RecordError) -> Fault {
    Fault::Recording(error.to_string())
}

impl Shipper {
    /// Ships what `recorder` writes. `keep` bytes of what the collector has taken stay here; `report` is
    /// asked every now and then.
    pub fn new(
        store: Store,
        recorder: Arc<Recorder>,
        shipping: Arc<Shipping>,
        keep: u64,
        report: impl Fn() -> Report + Send + Sync + 'static,
    ) -> Self {
        let (report, confirmed) = (Box::new(report), Mutex::default());
        Self { store, recorder, shipping, keep, report, orders: None, desk: None, tokens: None, confirmed }
    }

    /// With somebody who takes orders about policies; without, they are passed over.
    #[must_use]
    pub(crate) fn with_orders(self, orders: Arc<dyn Orders>) -> Self {
        Self { orders: Some(orders), ..self }
    }

    /// With requests for approval.
    #[must_use]
    pub(crate) fn with_approvals(self, desk: Arc<Desk>) -> Self {
        Self { desk: Some(desk), ..self }
    }

    /// With the tokens that are bound here.
    #[must_use]
    pub(crate) fn with_tokens(self, tokens: Arc<Bindings>) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    pub(super) fn tokens(&self) -> Option<&Arc<Bindings>> {
        self.tokens.as_ref()
    }

    pub(super) fn approvals(&self) -> Option<&Arc<Desk>> {
        self.desk.as_ref()
    }

    pub(super) fn orders(&self) -> Option<&Arc<dyn Orders>> {
        self.orders.as_ref()
    }

    /// Ships until `finishing` becomes `true`, and then what is left, as long as the collector takes it.
    pub async fn run(self, mut finishing: watch::Receiver<bool>) {
        let mut backoff = Backoff::default();
        while !*finishing.borrow() {
            let stamp = self.store.stamp();
            let mut progressed = false;
            let fault = match self.once(stamp, &mut finishing, &mut progressed).await {
                Ok(Some(Ended::Finished)) => return,
                Ok(Some(Ended::Changed)) => {
                    backoff.reset();
                    continue;
                }
                Ok(None) => {
                    self.shipping.not_enrolled();
                    None
                }
                Err(fault) => Some(fault),
            };
            let pause = match &fault {
                Some(fault) => {
                    if self.shipping.failed(fault) {
                        tracing::warn!("nothing is shipped: {fault}");
                    }
                    if progressed {
                        backoff.reset();
                    }
                    backoff.pause(fault.is_lasting())
                }
                None => Duration::MAX,
            };
            if self.pause(pause, stamp, &mut finishing).await {
                // Who enrolled the host anew does not want to wait.
                backoff.reset();
            }
        }
    }

    /// Waits; gives whether that was cut short by a change of the enrolment.
    async fn pause(
        &self,
        pause: Duration,
        stamp: Option<Stamp>,
        finishing: &mut watch::Receiver<bool>,
    ) -> bool {
        let mut left = pause;
        while !left.is_zero() {
            let step = left.min(LOOK);
            tokio::select! {
                () = tokio::time::sleep(step) => {}
                // The sender may be gone, too.
                () = asked_to_finish(finishing) => return false,
            }
            left = left.saturating_sub(step);
            if self.store.stamp() != stamp {
                return true;
            }
        }
        false
    }

    /// One connection. `None` when the host is not enrolled.
    async fn once(
        &self,
        stamp: Option<Stamp>,
        finishing: &mut watch::Receiver<bool>,
        progressed: &mut bool,
    ) -> Result<Option<Ended>, Fault> {
        let store = self.store.clone();
        let Some((enrolment, mark)) = blocking(move || {
            let enrolment = store.load()?;
            Ok(enrolment.map(|enrolment| {
                let mark = store.mark(&enrolment);
                (enrolment, mark)
            }))
        })
        .await??
        else {
            return Ok(None);
        };
        self.shipping.enrolled(&enrolment, mark);
        let config = connect::enrolled(&enrolment)?;
        let connecting = connect::connect(&enrolment.address, config);
        let connection = tokio::select! {
            connection = connecting => connection?,
            () = asked_to_finish(finishing) => return Ok(Some(Ended::Finished)),
        };
        let called = call::ship(self, &enrolment, stamp, &connection, finishing, progressed).await;
        called.map(Some)
    }

    pub(super) fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    pub(super) fn shipping(&self) -> &Shipping {
        &self.shipping
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn report(&self) -> Report {
        (self.report)()
    }

    /// What a call begins with: the lowest number among the segments that are here, and HEAD. What is wrong with
    /// HEAD is found when it is shipped by.
    pub(super) async fn introduction(&self) -> Result<(u64, Vec<u8>), Fault> {
        let recorder = Arc::clone(&self.recorder);
        let read = move || {
            let head = source::head(recorder.directory(), recorder.public_key());
            let head = head.map(source::Head::into_content).unwrap_or_default();
            source::extent(recorder.directory()).map(|extent| (extent.oldest, head))
        };
        blocking(read).await?
    }

    /// The collector has answered, and said where to go on.
    pub(super) async fn begins(&self, enrolment: &Enrolment, taken: Mark) -> Result<(), Fault> {
        let store = self.store.clone();
        let before = {
            let enrolment = enrolment.clone();
            blocking(move || store.mark(&enrolment)).await?
        };
        if taken.segment < before.segment {
            tracing::warn!(
                had = before.segment,
                has = taken.segment,
                "the collector has lost segments that it had taken; they are shipped again, as they are still here"
            );
        }
        let recorder = Arc::clone(&self.recorder);
        let begun = blocking(move || source::begun(recorder.directory(), taken.segment)).await??;
        if let Some(begun) = begun {
            self.shipping.since(begun, taken.event);
        }
        let recorder = Arc::clone(&self.recorder);
        let kept = blocking(move || recorder.kept(taken.segment)).await?.map_err(not_read)?;
        self.shipping.kept(kept);
        self.shipping.connected();
        tracing::info!(
            collector = %enrolment.address,
            segment = taken.segment,
            event = taken.event,
            "shipping to the collector"
        );
        self.note(enrolment, taken).await
    }

    /// The collector has taken more segments.
    pub(super) async fn taken(&self, enrolment: &Enrolment, taken: Mark) -> Result<(), Fault> {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(enrolment.authority.clone());
        self.note(enrolment, taken).await?;
        self.prune(enrolment, taken).await
    }

    fn is_confirmed(&self, enrolment: &Enrolment) -> bool {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&enrolment.authority)
    }

    async fn note(&self, enrolment: &Enrolment, taken: Mark) -> Result<(), Fault> {
        self.shipping.taken(taken);
        let (store, enrolment) = (self.store.clone(), enrolment.clone());
        // What is there without the note is shipped and removed all the same.
        if let Err(error) = blocking(move || store.save_mark(&enrolment, taken)).await? {
            tracing::warn!("cannot note how far the recording is shipped: {error}");
        }
        Ok(())
    }

    /// Removes what was taken when commands want the room.
    pub(super) async fn make_room(&self, enrolment: &Enrolment, taken: Mark) -> Result<(), Fault> {
        if self.recorder.wants_room() && self.is_confirmed(enrolment) && self.shipping.keeps_some() {
            self.prune(enrolment, taken).await?;
        }
        Ok(())
    }

    /// Removes what need not stay. That this fails keeps nothing from being shipped.
    async fn prune(&self, enrolment: &Enrolment, taken: Mark) -> Result<(), Fault> {
        let (recorder, keep) = (Arc::clone(&self.recorder), self.keep);
        let collector = enrolment.collector.clone();
        let removed = blocking(move || recorder.remove_taken(taken.segment, keep, &collector)).await?;
        let error = match removed {
            Ok(kept) => {
                if kept.removed > 0 {
                    let Kept { removed, oldest, .. } = kept;
                    tracing::debug!(segments = removed, oldest, "removed segments that are shipped");
                }
                self.shipping.kept(kept);
                None
            }
            Err(error) => Some(format!("segments that are shipped cannot be removed: {error}")),
        };
        if let Some(error) = self.shipping.not_removed(error) {
            tracing::error!("{error}");
        }
        Ok(())
    }

    /// The certificate was renewed.
    pub(super) async fn renewed(&self, renewed: Enrolment, stamp: Option<Stamp>) -> Result<(), Fault> {
        let store = self.store.clone();
        let kept = blocking(move || store.save(&renewed, stamp)).await?;
        match kept {
            Ok(true) => tracing::info!("this host's certificate was renewed"),
            // Enrolled anew meanwhile.
            Ok(false) => {}
            Err(error) => {
                return Err(Fault::Enrolment(format!("cannot keep the renewed certificate: {error}")));
            }
        }
        Ok(())
    }
}
