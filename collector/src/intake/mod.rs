//! What agents talk to: enrolment, and the taking in of their recordings.

mod admission;
mod approvals;
mod connected;
mod enrol;
mod listen;
mod orders;
mod quota;
mod ship;
mod take;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;

use interlock_recording::note::Signer;
use interlock_shipping::MAX_MESSAGE;
use interlock_shipping::v1::enrollment_server::EnrollmentServer;
use interlock_shipping::v1::shipping_server::ShippingServer;
use tokio::net::TcpListener;

use crate::archive::{Archive, ArchiveError};
use crate::authority::{Authority, AuthorityError};
use crate::store::{LedgerStoreError, Store, StoreError};

pub use admission::Admission;
pub use connected::Connected;
pub use listen::{Peer, PeerInfo};
pub use quota::Quota;
pub use take::{Incident, TakeError};

/// All that taking in needs.
#[derive(Debug)]
pub struct Intake {
    /// The database.
    pub store: Arc<Store>,
    /// The segment files.
    pub archive: Arc<Archive>,
    /// Who issues certificates.
    pub authority: Arc<Authority>,
    /// The ledger's key.
    pub signer: Arc<Signer>,
    /// The key of orders about policies.
    pub policy_signer: Arc<Signer>,
    /// The agents that are there now.
    pub connected: Arc<Connected>,
    /// Other collectors work on the same database.
    pub shared: bool,
    /// Verifying takes a processor: as many at one time as there are.
    pub checks: tokio::sync::Semaphore,
    /// Large segments that are verified and indexed at one time: fewer than `checks`.
    pub large: tokio::sync::Semaphore,
    /// Who may ship no more.
    pub admission: Admission,
    /// What one host may have kept, and how fast it may ship.
    pub quota: Quota,
}

impl Intake {
    /// As many things are verified at one time as there are processors, and two at least; one fewer of them may be
    /// large.
    pub fn turns() -> (tokio::sync::Semaphore, tokio::sync::Semaphore) {
        let checks = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        (tokio::sync::Semaphore::new(checks), tokio::sync::Semaphore::new((checks - 1).min(2)))
    }
}

/// Agents cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for agents (agents.listen): {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// There is no certificate to show.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS cannot be set up.
    #[error("TLS for agents: {0}")]
    Tls(String),
    /// The server failed.
    #[error("the server for agents: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Serves agents on `listener` until `shutdown` resolves. `names` are what agents call the collector.
///
/// # Errors
/// There is no certificate, or the server fails.
pub async fn serve(
    intake: Arc<Intake>,
    listener: TcpListener,
    names: &[String],
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), IntakeError> {
    let connections = listen::accept(listener, Arc::clone(&intake.authority), names)?;
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(std::time::Duration::from_secs(20)))
        // An agent has one call open, and renews its certificate now and then.
        .max_concurrent_streams(Some(8))
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(2 << 20))
        .add_service(
            EnrollmentServer::new(enrol::Enrolment(Arc::clone(&intake))).max_decoding_message_size(64 << 10),
        )
        .add_service(ShippingServer::new(ship::Shipper(intake)).max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(connections, shutdown)
        .await?;
    Ok(())
}
