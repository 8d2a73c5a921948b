//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), as PostgreSQL speaks it: user names in the
//! exchange count for nothing (the start-up message has named the user), channel binding is
//! `tls-server-end-point`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::credential::verifier::{KEY, Verifier, hash, mac, same};

/// Why an exchange cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScramError {
    /// What was sent is no such message.
    Malformed(&'static str),
    /// The client thinks that we do not bind channels, but we offered it: somebody may stand between.
    Downgraded,
    /// The client wants to act as somebody else.
    AuthorizationIdentity,
    /// The proof of another channel.
    OtherChannel,
    /// The password is not the one that the verifier was made of, or the user does not exist.
    WrongPassword,
}

/// The exchange after the client's first message.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    verifier: &'a Verifier,
    /// What `c=` must hold, in base64.
    binding: String,
    /// Both nonces.
    nonce: String,
    /// `client-first-message-bare`.
    client_first: String,
    server_first: String,
}

impl<'a> Exchange<'a> {
    /// Reads `client-first-message`. `plus` is whether the client chose the mechanism that binds the
    /// channel; `binding` is the channel's, where there is one; `nonce` is ours.
    pub(crate) fn begin(
        verifier: &'a Verifier,
        message: &[u8],
        plus: bool,
        binding: Option<&[u8]>,
        nonce: &str,
    ) -> Result<Self, ScramError> {
        let text = text(message)?;
        let mut parts = text.splitn(3, ',');
        let (flag, identity, bare) = match (parts.next(), parts.next(), parts.next()) {
            (Some(flag), Some(identity), Some(bare)) => (flag, identity, bare),
            _ => return Err(ScramError::Malformed("the first message has not three parts")),
        };
        let bound = match (flag, binding) {
            ("n", _) if !plus => None,
            ("y", Some(_)) if !plus => return Err(ScramError::Downgraded),
            ("y", None) if !plus => None,
            ("p=tls-server-end-point", Some(binding)) if plus => Some(binding),
            _ => {
                return Err(ScramError::Malformed("the channel binding flag does not go with the mechanism"));
            }
        };
        if !identity.is_empty() {
            return Err(match identity.starts_with("a=") {
                true => ScramError::AuthorizationIdentity,
                false => ScramError::Malformed("unknown attribute in the first message's header"),
            });
        }
        let mut attributes = bare.split(',');
        let mut next = |name: &str| attributes.next().and_then(|part| part.strip_prefix(name));
        if next("n=").is_none() {
            return Err(ScramError::Malformed("the first message names no user"));
        }
        let theirs = next("r=").filter(|nonce| is_nonce(nonce));
        let theirs = theirs.ok_or(ScramError::Malformed("the first message has no printable nonce"))?;
        let header = format!("{flag},,");
        let mut bind_input = header.into_bytes();
        bind_input.extend_from_slice(bound.unwrap_or_default());
        let nonce = format!("{theirs}{nonce}");
        let server_first = format!("r={nonce},s={},i={}", verifier.salt, verifier.iterations);
        Ok(Self {
            verifier,
            binding: STANDARD.encode(bind_input),
            nonce,
            client_first: bare.to_owned(),
            server_first,
        })
    }

    /// `server-first-message`.
    pub(crate) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Reads `client-final-message`, and gives `server-final-message` when the proof holds.
    pub(crate) fn finish(&self, message: &[u8]) -> Result<String, ScramError> {
        let text = text(message)?;
        let (without_proof, proof) =
            text.rsplit_once(",p=").ok_or(ScramError::Malformed("the final message has no proof"))?;
        let mut attributes = without_proof.split(',');
        let mut next = |name: &str| attributes.next().and_then(|part| part.strip_prefix(name));
        let binding = next("c=").ok_or(ScramError::Malformed("the final message has no channel binding"))?;
        let nonce = next("r=").ok_or(ScramError::Malformed("the final message has no nonce"))?;
        if binding != self.binding {
            return Err(ScramError::OtherChannel);
        }
        if nonce != self.nonce {
            return Err(ScramError::Malformed("the final message has another nonce"));
        }
        let proof: Option<[u8; KEY]> =
            STANDARD.decode(proof).ok().and_then(|proof| <[u8; KEY]>::try_from(proof).ok());
        let proof = proof.ok_or(ScramError::Malformed("the proof is not 32 bytes in base64"))?;

        let auth = [
            self.client_first.as_bytes(),
            b",",
            self.server_first.as_bytes(),
            b",",
            without_proof.as_bytes(),
        ];
        let signature = mac(&self.verifier.stored_key, &auth);
        let mut client_key = proof;
        client_key.iter_mut().zip(&signature).for_each(|(key, byte)| *key ^= byte);
        let fits = same(&hash(&client_key), &self.verifier.stored_key);
        // An unknown user takes the same time.
        let server_signature = mac(&self.verifier.server_key, &auth);
        if !fits || self.verifier.mock {
            return Err(ScramError::WrongPassword);
        }
        Ok(format!("v={}", STANDARD.encode(server_signature)))
    }
}

/// A nonce of our own: 18 random bytes in base64, as PostgreSQL makes them.
pub(crate) fn nonce() -> std::io::Result<String> {
    let mut random = [0; 18];
    interlock_recording::fill_random(&mut random)?;
    Ok(STANDARD.encode(random))
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(ScramError::Malformed("the message is no text")),
    }
}

fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;

    fn verifier(password: &str) -> Verifier {
        Verifier::parse(&postgres_protocol::password::scram_sha_256(password.as_bytes())).unwrap()
    }

    /// A whole exchange with the client that the agent itself uses.
    fn exchange(verifier: &Verifier, password: &str, binding: Option<&[u8]>) -> Result<(), ScramError> {
        let theirs = match binding {
            Some(binding) => ChannelBinding::tls_server_end_point(binding.to_vec()),
            None => ChannelBinding::unsupported(),
        };
        let mut client = ScramSha256::new(password.as_bytes(), theirs);
        let ours = Exchange::begin(verifier, client.message(), binding.is_some(), binding, "ours")?;
        client.update(ours.server_first().as_bytes()).unwrap();
        let last = ours.finish(client.message())?;
        client.finish(last.as_bytes()).unwrap();
        Ok(())
    }

    /// The exchange of RFC 7677, section 3.
    #[test]
    fn as_in_rfc_7677() {
        let verifier = Verifier::parse(
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        )
        .unwrap();
        let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let exchange =
            Exchange::begin(&verifier, first, false, None, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0").unwrap();
        assert_eq!(
            exchange.server_first(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(exchange.finish(last).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn the_right_password_and_channel_pass_and_no_others() {
        let right = verifier("tr0ub4dor");
        assert_eq!(exchange(&right, "tr0ub4dor", None), Ok(()));
        assert_eq!(exchange(&right, "tr0ub4dor", Some(b"certificate hash")), Ok(()));
        assert_eq!(exchange(&right, "wrong", None), Err(ScramError::WrongPassword));
        assert_eq!(exchange(&right, "", None), Err(ScramError::WrongPassword));
        // A password that SASLprep changes.
        assert_eq!(exchange(&verifier("I\u{ad}X"), "IX", None), Ok(()));
        let unknown = Verifier::mock(&[1; KEY], "bob");
        assert_eq!(exchange(&unknown, "tr0ub4dor", None), Err(ScramError::WrongPassword));

        let mut client =
            ScramSha256::new(b"tr0ub4dor", ChannelBinding::tls_server_end_point(b"theirs".to_vec()));
        let ours = Exchange::begin(&right, client.message(), true, Some(b"ours"), "n").unwrap();
        client.update(ours.server_first().as_bytes()).unwrap();
        assert_eq!(ours.finish(client.message()), Err(ScramError::OtherChannel));
    }

    #[test]
    fn an_unknown_user_with_keys_of_zeros_is_refused_even_with_a_proof_that_fits() {
        // The client key that hashes to the mock's stored key is not known to anybody; were it, the mark
        // still refuses.
        let mut mock = verifier("x");
        mock.mock = true;
        assert_eq!(exchange(&mock, "x", None), Err(ScramError::WrongPassword));
    }

    #[test]
    fn channel_binding_flags() {
        let verifier = verifier("x");
        let begin = |message: &str, plus, binding: Option<&[u8]>| {
            Exchange::begin(&verifier, message.as_bytes(), plus, binding, "n").map(drop)
        };
        let bound = Some(&b"hash"[..]);
        assert_eq!(begin("n,,n=,r=a", false, None), Ok(()));
        assert_eq!(begin("n,,n=,r=a", false, bound), Ok(()));
        assert_eq!(begin("y,,n=,r=a", false, None), Ok(()));
        assert_eq!(begin("y,,n=,r=a", false, bound), Err(ScramError::Downgraded));
        assert_eq!(begin("p=tls-server-end-point,,n=,r=a", true, bound), Ok(()));
        for (message, plus, binding) in [
            ("p=tls-server-end-point,,n=,r=a", false, bound),
            ("p=tls-server-end-point,,n=,r=a", true, None),
            ("p=tls-unique,,n=,r=a", true, bound),
            ("n,,n=,r=a", true, bound),
            ("y,,n=,r=a", true, bound),
            ("x,,n=,r=a", false, None),
            ("", false, None),
            ("n,", false, None),
            ("n,,r=a", false, None),
            ("n,,m=x,n=,r=a", false, None),
            ("n,,n=,r=", false, None),
            ("n,,n=,r=a b", false, None),
            ("n,,n=\0,r=a", false, None),
        ] {
            assert!(matches!(begin(message, plus, binding), Err(ScramError::Malformed(_))), "{message:?}");
        }
        assert_eq!(begin("n,a=root,n=,r=a", false, None), Err(ScramError::AuthorizationIdentity));
    }

    proptest! {
        #[test]
        fn hostile_messages_neither_panic_nor_pass(
            first in "(n,,n=u,r=[a-z]{1,8}|[npy,=a-z]{0,30})",
            last in "(c=biws,r=[a-z]{0,12},p=[A-Za-z0-9+/]{43}=|[crp=,A-Za-z0-9+/]{0,80})",
            raw in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let verifier = Verifier::parse(
                "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                 wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
            ).unwrap();
            let _ = Exchange::begin(&verifier, &raw, true, Some(b"x"), "n");
            if let Ok(exchange) = Exchange::begin(&verifier, first.as_bytes(), false, None, "n") {
                prop_assert!(exchange.finish(last.as_bytes()).is_err());
                prop_assert!(exchange.finish(&raw).is_err());
            }
        }
    }
}
