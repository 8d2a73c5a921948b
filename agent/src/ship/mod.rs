//! Ships the recording to a collector on another host.
//!
//! [`Shipper::run`] is one task of the agent. It reads the recording's files and nothing else, so commands
//! never wait for it: sealed segments go whole, in parts; of the open segment go the records that the newest
//! signed `HEAD` covers, so that what was shipped never has to be taken back. What the collector says that it
//! has taken may be removed here. `docs/shipping.md` tells the whole procedure.

mod address;
mod approvals;
mod backoff;
mod call;
pub(crate) mod cli;
mod connect;
mod enrol;
mod enrolment;
mod fault;
mod orders;
mod sessions;
mod shipper;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod tokens;
mod wire;

pub use address::{Address, ParseAddressError};
pub use approvals::exercise;
pub use enrolment::Store;
pub use fault::Fault;
pub(crate) use orders::Orders;
pub use sessions::{Registered, Sessions};
pub use shipper::{Report, Shipper};
pub use status::{Lag, ShipStatus, Shipping};

/// Where what is kept of the enrolment lies below the state directory.
const DIRECTORY: &str = "ship";

/// Runs what works on files where nobody else waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Fault::Recording(format!("a task failed: {error}")))
}

/// Waits until the agent is about to end; also when nobody is left who could say so.
async fn asked_to_finish(finishing: &mut tokio::sync::watch::Receiver<bool>) {
    drop(finishing.wait_for(|finishing| *finishing).await);
}

/// What another host says, for logs and errors: of bounded length, and nothing that a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().take(1000).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
