//! What becomes of a collector's orders about policies.

use std::sync::{Arc, Weak};

use interlock_recording::chain::Hash;

use super::Agent;
use crate::policy::{Candidate, Offer, Offered, PolicyFile, Refused};
use crate::record::RecordError;
use crate::ship::Orders;

/// Takes orders for an agent, as long as that runs.
pub(super) struct Obeying(pub(super) Weak<Agent>);

impl std::fmt::Debug for Obeying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Obeying").finish_non_exhaustive()
    }
}

impl Orders for Obeying {
    fn offer(&self, offered: Offered) -> Option<(Box<Candidate>, Vec<Hash>)> {
        let agent = self.0.upgrade()?;
        let order = offered.order.clone();
        match agent.central.offer(offered) {
            Ok(Offer::Wanted(candidate, missing)) => Some((candidate, missing)),
            Ok(Offer::Known | Offer::NotAccepted) => None,
            Err(refused) => {
                agent.refuse_order(&order, None, refused);
                None
            }
        }
    }

    fn waits(&self, order: &[u8]) -> bool {
        self.0.upgrade().is_some_and(|agent| agent.central.waits(order))
    }

    fn obey(&self, order: &[u8], candidate: &Candidate, files: Vec<Vec<PolicyFile>>) {
        let Some(agent) = self.0.upgrade() else { return };
        match agent.policies.obey(&agent.central, candidate, files) {
            Ok(()) => {
                agent.applied().current = false;
                // Tried again every second when it fails, and told by `interlock status`.
                let _ = agent.put_in_force();
                if let Err(error) = agent.record_policies() {
                    tracing::error!(%error, "cannot record that policies changed");
                }
                let status = agent.central.status();
                tracing::info!(
                    issue = status.issue,
                    enforce = status.enforce,
                    observe = status.observe,
                    "policies of the collector's order are in force"
                );
            }
            Err(refused) => agent.refuse_order(order, Some(candidate), refused),
        }
    }
}

impl Agent {
    fn refuse_order(&self, order: &[u8], candidate: Option<&Candidate>, refused: Refused) {
        let reason = match refused.issue {
            0 => format!("an order of the collector was refused: {}", refused.why),
            issue => format!("order {issue} of the collector was refused: {}", refused.why),
        };
        if !self.central.refuse(order, candidate, refused) {
            return;
        }
        tracing::error!("the earlier policies stay in force: {reason}");
        if let Err(error) = self.recorder.policy_rejected(&reason) {
            tracing::error!(%error, "cannot record that policies were rejected");
        }
    }

    /// Records which policies are in force.
    pub(super) fn record_policies(&self) -> Result<(), RecordError> {
        let current = self.policies.current();
        let central = current.central().map(Arc::as_ref);
        let staged = self.config.central_policies != crate::policy::Accepts::Enforce;
        self.recorder.policies_loaded(current.hash(), current.files(), central, staged)
    }

    /// Sees to it that what is kept of the collector's order stays what it is.
    pub(super) fn look_after_orders(&self) {
        if self.central.look_after() {
            let reason = "what is kept of the collector's order on this host was changed or removed while the agent \
                          ran; it was written again";
            tracing::error!("{reason}");
            if let Err(error) = self.recorder.policy_rejected(reason) {
                tracing::error!(%error, "cannot record it");
            }
        }
    }
}
