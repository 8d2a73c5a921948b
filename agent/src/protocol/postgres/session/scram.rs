//! SCRAM through two TLS connections (RFC 5802, RFC 5929; PostgreSQL manual, "SASL Authentication").
//!
//! Channel binding proves to the server that the client's TLS connection ends at the server itself. With
//! the agent between them it does not, so SCRAM-SHA-256-PLUS is taken out of what the server offers. A
//! client that can bind and was not offered it says so in its first message (`y`), and inside the proof
//! of its password, where nobody can change it; the server, who did offer it, then takes that for an
//! attack. The agent refuses such a client itself, in words that say what to set.

use crate::protocol::SessionError;
use crate::protocol::postgres::codec::{self, Reader};

const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// Where the SCRAM exchange of a log-in stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sasl {
    /// The leg to the server is encrypted, so the server can be offering channel binding.
    encrypted: bool,
    /// Channel binding was taken out of the offer, and the client has not answered it yet.
    stripped: bool,
}

impl Sasl {
    pub(super) fn new(encrypted: bool) -> Self {
        Self { encrypted, stripped: false }
    }

    /// Takes AuthenticationSASL; gives the body that goes to the client in its place, if another does.
    pub(super) fn offered(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, SessionError> {
        if !self.encrypted {
            return Ok(None);
        }
        let malformed = |error: codec::CodecError| SessionError::Backend(error.to_string());
        let mut reader = Reader::new(body);
        let mut changed = reader.i32().map_err(malformed)?.to_be_bytes().to_vec();
        let mut left = 0;
        loop {
            let mechanism = reader.cstr().map_err(malformed)?;
            if mechanism.is_empty() {
                break;
            }
            if mechanism == PLUS {
                self.stripped = true;
            } else {
                codec::put_cstr(&mut changed, mechanism);
                left += 1;
            }
        }
        if self.stripped && left == 0 {
            return Err(refused("the server takes SCRAM with channel binding alone"));
        }
        changed.push(0);
        Ok(self.stripped.then_some(changed))
    }

    /// Takes the client's next message of the log-in.
    pub(super) fn answered(&mut self, body: &[u8]) -> Result<(), SessionError> {
        if !std::mem::take(&mut self.stripped) {
            return Ok(());
        }
        let mut reader = Reader::new(body);
        let mechanism = reader.cstr()?;
        if mechanism == PLUS {
            return Err(SessionError::Frontend("channel binding was chosen, but not offered".to_owned()));
        }
        reader.i32()?;
        if reader.rest().first() == Some(&b'y') {
            return Err(refused("the client insists on SCRAM channel binding where it is to be had"));
        }
        Ok(())
    }
}

fn refused(what: &str) -> SessionError {
    SessionError::Refused {
        code: "28000",
        reason: format!(
            "{what}, and it cannot pass through the agent on this host, which stands between two TLS connections"
        ),
        hint: "Have the agent hold the password (`credentials:` in its configuration), or set `client_leg: \
               plaintext` for this server under `tls: upstreams:` there (the leg to the server stays \
               encrypted; the client needs sslmode=prefer), or set channel_binding=disable in the client."
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    fn first(mechanism: &[u8], data: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        codec::put_cstr(&mut body, mechanism);
        body.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        body.extend(data);
        body
    }

    #[test]
    fn binding_is_not_offered_on_a_leg_that_the_agent_ends() {
        let mut sasl = Sasl::new(true);
        assert_eq!(sasl.offered(OFFER).unwrap().unwrap(), b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        sasl.answered(&first(b"SCRAM-SHA-256", b"n,,n=,r=abc")).unwrap();
        // The second message of the exchange is no SASLInitialResponse.
        sasl.answered(b"c=biws,r=abc,p=def").unwrap();
        assert_eq!(Sasl::new(false).offered(OFFER).unwrap(), None);
        assert_eq!(Sasl::new(true).offered(b"\0\0\0\x0aSCRAM-SHA-256\0\0").unwrap(), None);
    }

    #[test]
    fn a_client_that_would_bind_is_told_what_to_set() {
        let mut sasl = Sasl::new(true);
        sasl.offered(OFFER).unwrap();
        let error = sasl.answered(&first(b"SCRAM-SHA-256", b"y,,n=,r=abc")).unwrap_err();
        let SessionError::Refused { code: "28000", hint, .. } = error else { panic!("{error}") };
        for word in ["credentials:", "client_leg: plaintext", "channel_binding=disable"] {
            assert!(hint.contains(word), "{hint}");
        }
        sasl.offered(OFFER).unwrap();
        assert!(sasl.answered(&first(PLUS, b"p=tls-server-end-point,,n=,r=abc")).is_err());
    }

    #[test]
    fn nothing_is_left_to_offer() {
        let error = Sasl::new(true).offered(b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0").unwrap_err();
        assert!(matches!(error, SessionError::Refused { .. }));
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes(offer: Vec<u8>, answer: Vec<u8>) {
            let mut sasl = Sasl::new(true);
            let _ = sasl.offered(&offer);
            let _ = Sasl { encrypted: true, stripped: true }.answered(&answer);
        }
    }
}
