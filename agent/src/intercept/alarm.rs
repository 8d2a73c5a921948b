//! What happens when a task of the agent fails that interception cannot do without.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, Map};
use interlock_agent_common::Agent;
use tokio::sync::watch;

use super::{error::InterceptError, object::Pins};

/// Tells the kernel side that no agent is alive, and whoever waits that it is over.
pub(super) struct Alarm {
    refuse: Box<dyn Fn() + Send + Sync>,
    raised: watch::Sender<bool>,
}

impl Alarm {
    pub(super) fn new(pins: &Pins) -> Result<Self, InterceptError> {
        let agent: Array<_, Agent> =
            Array::try_from(Map::Array(pins.map("AGENT")?)).map_err(InterceptError::map("AGENT"))?;
        let agent = Mutex::new(agent);
        Ok(Self::with(move || {
            let mut agent = agent.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = agent.set(0, Agent::default(), 0) {
                tracing::error!(%error, "cannot tell the kernel side that the agent has failed");
            }
        }))
    }

    fn with(refuse: impl Fn() + Send + Sync + 'static) -> Self {
        Self { refuse: Box::new(refuse), raised: watch::Sender::new(false) }
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
            (self.0.refuse)();
            self.0.raised.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Listener(Arc<Mutex<Vec<&'static str>>>);

    impl Drop for Listener {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("closed");
        }
    }

    async fn serve(_listener: Listener, alarm: Arc<Alarm>, fails: bool) {
        let _guard = Guard(alarm);
        tokio::task::yield_now().await;
        assert!(!fails, "a mistake in the agent");
    }

    #[tokio::test]
    async fn a_panic_refuses_before_the_listener_is_closed() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&told);
        let alarm = Arc::new(Alarm::with(move || note.lock().unwrap().push("refused")));
        // One that ends, or is told to, is none.
        tokio::spawn(serve(Listener(Arc::default()), Arc::clone(&alarm), false)).await.unwrap();
        let ended = tokio::spawn(serve(Listener(Arc::default()), Arc::clone(&alarm), true));
        ended.abort();
        ended.await.unwrap_err();
        assert!(!*alarm.raised.borrow());
        tokio::spawn(serve(Listener(Arc::clone(&told)), Arc::clone(&alarm), true)).await.unwrap_err();
        alarm.raised().await;
        assert_eq!(*told.lock().unwrap(), ["refused", "closed"]);
    }
}
