//! Telling an agent what it is ordered, and taking in how it stands with that.

use std::time::Duration;

use interlock_shipping::v1::{PolicyOrder, PolicyState};

use super::Intake;
use crate::policies::{self, PolicyError};
use crate::store::PolicyStanding;

/// How an agent stands with its orders is noted anew at least this often.
const NOTED: Duration = Duration::from_secs(60);
/// Characters that are kept of why an agent refuses an order.
const REFUSAL: usize = 1000;

/// What was told in one call, and what was heard.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The state of what may change orders that was looked at last.
    epoch: Option<String>,
    issue: u64,
    said: Option<(PolicyStanding, Option<tokio::time::Instant>)>,
}

impl Told {
    /// The order that the agent is to be told of now, if there is one.
    pub(super) async fn next(
        &mut self,
        intake: &Intake,
        host: &str,
    ) -> Result<Option<PolicyOrder>, PolicyError> {
        let epoch = intake.store.policy_epoch().await?;
        if self.epoch.as_ref() == Some(&epoch) {
            return Ok(None);
        }
        let order = policies::order_for(intake, host).await?;
        self.epoch = Some(epoch);
        let Some(order) = order.filter(|order| order.issue != self.issue) else { return Ok(None) };
        self.issue = order.issue;
        Ok(Some(PolicyOrder {
            order: order.note.into_bytes(),
            key: intake.policy_signer.public().to_string(),
        }))
    }

    /// Takes in how the agent stands.
    pub(super) async fn hear(
        &mut self,
        intake: &Intake,
        host: &str,
        state: &PolicyState,
    ) -> Result<(), PolicyError> {
        let short = |text: &str, most| text.chars().take(most).collect::<String>();
        let said = PolicyStanding {
            accepts: short(&state.accepts, 16),
            // What does not fit into the database no order of ours can have.
            issue: state.issue.min(i64::MAX as u64),
            seen: state.seen.min(i64::MAX as u64),
            refused: state.refused.min(i64::MAX as u64),
            refusal: short(&state.refusal, REFUSAL),
        };
        let fresh = |at: &Option<tokio::time::Instant>| at.is_some_and(|at| at.elapsed() < NOTED);
        if self.said.as_ref().is_some_and(|(last, at)| *last == said && fresh(at)) {
            return Ok(());
        }
        let newest = intake.store.policy_order(host).await?.map_or(0, |order| order.issue);
        let mut write = intake.store.write().await?;
        write.policy_standing(host, &said).await?;
        let detail = "this host has seen a later order about its policies than the newest that was issued here: the \
                      collector was put back to an earlier state, and the host refuses its orders. Look into it, then \
                      run `interlock-collector policies reissue`";
        let kind = "policy_orders_rolled_back";
        if said.seen > newest && !write.is_found(host, kind, detail).await? {
            write.add_finding(host, kind, detail, None).await?;
        }
        write.commit().await?;
        self.said = Some((said, Some(tokio::time::Instant::now())));
        Ok(())
    }
}
