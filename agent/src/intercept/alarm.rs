//! What happens when a task of the agent fails that interception cannot do without.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, Map, MapData};
use interlock_agent_common::Agent;
use tokio::sync::watch;

use super::{error::InterceptError, object::Pins};

/// Tells the kernel side that no agent is alive, and whoever waits that it is over.
pub(super) struct Alarm {
    agent: Mutex<Array<MapData, Agent>>,
    raised: watch::Sender<bool>,
}

impl Alarm {
    pub(super) fn new(pins: &Pins) -> Result<Self, InterceptError> {
        let agent = Array::try_from(Map::Array(pins.map("AGENT")?)).map_err(InterceptError::map("AGENT"))?;
        Ok(Self { agent: Mutex::new(agent), raised: watch::Sender::new(false) })
    }

    /// What would be redirected is refused when this returns.
    fn raise(&self) {
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = agent.set(0, Agent::default(), 0) {
            tracing::error!(%error, "cannot tell the kernel side that the agent has failed");
        }
        self.raised.send_replace(true);
    }

    pub(super) async fn raised(&self) {
        // The sender is this one's own, so it is not dropped.
        let _ = self.raised.subscribe().wait_for(|raised| *raised).await;
    }
}

/// Raises the alarm when a task panics that holds it. To be made where it is dropped before what must
/// not be missed: what would be redirected is to be refused before its listener is closed.
pub(super) struct Guard(pub(super) Arc<Alarm>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.raise();
        }
    }
}
