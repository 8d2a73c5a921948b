//! Stopping what the server is at when a session is ended from outside: a server does not notice that its
//! client has gone before it has something to send (PostgreSQL manual, "Canceling Requests in Progress").

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::encrypt;
use crate::tls::{FlowTls, Leg};

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a process id and the longest secret key (protocol 3.2).
const LONGEST: usize = 4 + 256;
/// The code of a CancelRequest.
const CODE: [u8; 4] = [4, 210, 22, 46];

/// What a CancelRequest for a session needs.
pub(super) struct Cancel {
    /// Process id and secret key, as in BackendKeyData.
    key: Zeroizing<Box<[u8]>>,
    /// The leg to the server, if it is encrypted.
    leg: Option<Leg>,
}

impl Cancel {
    /// `key` is the body of BackendKeyData. `None` when it is longer than any.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        (key.len() <= LONGEST).then(|| Self { key: Zeroizing::new(key.into()), leg: None })
    }

    /// Process id and secret key, as in BackendKeyData.
    pub(super) fn key(&self) -> &Zeroizing<Box<[u8]>> {
        &self.key
    }

    /// A request goes encrypted as the session does.
    pub(super) fn encrypted_as(&mut self, leg: &Leg) {
        let (server_name, alpn) = (leg.server_name.clone(), leg.alpn.clone());
        // The certificates are not needed for it, and large.
        self.leg = Some(Leg { server_name, alpn, certificate: None, verified: None, ..leg.clone() });
    }

    /// Has `server` stop what it does for the session. It is asked once, and its answer is the end of the
    /// connection.
    pub(super) async fn send(&self, tls: &FlowTls, server: SocketAddr) {
        let asked = tokio::time::timeout(LIMIT, async {
            let mut stream = encrypt::again(tls, server, self.leg.as_ref()).await?;
            stream.write_all(&self.packet()).await?;
            stream.flush().await?;
            let mut nothing = [0];
            stream.read(&mut nothing).await
        });
        match asked.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%server, "what the session was at may go on there: {error}"),
            Err(_) => tracing::warn!(%server, "what the session was at may go on there: no answer in 2 s"),
        }
    }

    fn packet(&self) -> Zeroizing<Vec<u8>> {
        let length = u32::try_from(8 + self.key.len()).unwrap_or(u32::MAX);
        Zeroizing::new([&length.to_be_bytes(), &CODE[..], &self.key].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::startup::{self, Packet};

    #[test]
    fn requests_are_what_servers_read_with_short_keys_and_long() {
        for key in [&[0, 0, 0, 7, 1, 2, 3, 4][..], &[&[0, 0, 0, 7][..], &[9; 32]].concat()] {
            let packet = Cancel::new(key).unwrap().packet();
            let Ok(Some((Packet::Cancel { process }, length))) = startup::read(&packet) else {
                panic!("no cancel request")
            };
            assert_eq!((process, length, &packet[8..]), (7, packet.len(), key));
        }
        assert!(Cancel::new(&[0; LONGEST + 1]).is_none());
    }
}
