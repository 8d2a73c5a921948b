//! Orders about policies, as they come from the collector.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use interlock_recording::chain::Hash;
use interlock_recording::order::MAX_ORDER;
use interlock_shipping::MAX_MESSAGE;
use interlock_shipping::v1::shipping_client::ShippingClient;
use interlock_shipping::v1::{FetchPoliciesRequest, PolicyOrder, PolicyState};

use super::connect::Connection;
use super::enrolment::Enrolment;
use super::shipper::Shipper;
use super::{Fault, blocking, printable};
use crate::policy::{Candidate, CentralStatus, Offered, PolicyFile};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How often files that could not be had are asked for again, and an order is offered again that waits.
const AGAIN: Duration = Duration::from_secs(10);

/// Who takes orders. Both block.
pub(crate) trait Orders: Send + Sync + Debug {
    /// Looks at an order: the sets that are needed for it, if it is to be put in force.
    fn offer(&self, offered: Offered) -> Option<(Box<Candidate>, Vec<Hash>)>;
    /// It was refused for a cause that may pass: it is to be offered again later.
    fn waits(&self, order: &[u8]) -> bool;
    /// Puts it in force, or says why not.
    fn obey(&self, order: &[u8], candidate: &Candidate, files: Vec<Vec<PolicyFile>>);
}

/// An order whose files could not be had yet, or that could not be taken for a cause that may pass. The
/// collector tells an order once in a call.
#[derive(Debug, Default)]
pub(super) struct Pending(Option<(Instant, PolicyOrder)>);

impl Pending {
    /// The order, when it is time to try it again.
    pub(super) fn due(&mut self) -> Option<PolicyOrder> {
        self.0.take_if(|(tried, _)| tried.elapsed() >= AGAIN).map(|(_, order)| order)
    }

    /// Takes an order.
    pub(super) async fn take(
        &mut self,
        shipper: &Shipper,
        enrolment: &Enrolment,
        connection: &Connection,
        order: PolicyOrder,
    ) -> Result<(), Fault> {
        // A later order counts instead of one that waits.
        self.0 = None;
        let Some(orders) = shipper.orders() else { return Ok(()) };
        let mut bytes = order.order.clone();
        // One byte too many is enough for it to be refused.
        bytes.truncate(MAX_ORDER + 1);
        let offered = Offered {
            order: bytes.clone(),
            told: printable(&order.key),
            pinned: enrolment.policy_key.clone(),
            authority: enrolment.fingerprint(),
        };
        let (asked, same) = (std::sync::Arc::clone(orders), bytes.clone());
        let (wanted, waits) = blocking(move || (asked.offer(offered), asked.waits(&same))).await?;
        let Some((candidate, missing)) = wanted else {
            self.0 = waits.then(|| (Instant::now(), order));
            return Ok(());
        };
        let mut sets = Vec::new();
        for content in missing {
            match fetch(connection, content).await {
                Ok(files) => sets.push(files),
                Err(fault) => {
                    tracing::warn!("the policies of a collector's order cannot be had yet: {fault}");
                    self.0 = Some((Instant::now(), order));
                    return Ok(());
                }
            }
        }
        let orders = std::sync::Arc::clone(orders);
        let obeyed = move || {
            orders.obey(&bytes, &candidate, sets);
            orders.waits(&bytes)
        };
        self.0 = blocking(obeyed).await?.then(|| (Instant::now(), order));
        Ok(())
    }
}

async fn fetch(connection: &Connection, content: Hash) -> Result<Vec<PolicyFile>, Fault> {
    let mut client = ShippingClient::new(connection.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let request = FetchPoliciesRequest { content_sha256: content.to_vec() };
    let answer = tokio::time::timeout(ANSWER, client.fetch_policies(request)).await;
    let answer = answer.map_err(|_| Fault::Stalled(ANSWER))?;
    let files = answer.map_err(|status| connection.fault(&status))?.into_inner().files;
    Ok(files.into_iter().map(|file| (file.name, file.text)).collect())
}

/// What the collector is told of it.
pub(super) fn state(status: &CentralStatus) -> PolicyState {
    let (refused, refusal) = status.refused.clone().unwrap_or_default();
    PolicyState {
        accepts: status.accepts.clone(),
        issue: status.issue,
        seen: status.seen,
        refused,
        refusal: refusal.chars().take(1000).collect(),
    }
}
