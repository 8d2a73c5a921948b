//! Asking again whether a sign-in still counts (RFC 6749, section 6), and giving it back (RFC 7009).

use std::sync::Arc;

use oauth2::basic::BasicErrorResponseType;
use oauth2::{RefreshToken, RequestTokenError, RevocationUrl, StandardRevocableToken, TokenResponse as _};
use zeroize::Zeroizing;

use super::{Provider, SignInError, said, said_of};
use crate::identity::Verified;
use crate::identity::verified;

/// What became of a sign-in that was asked about again.
pub(in crate::identity::login) struct Refreshed {
    /// Groups, name and when they signed in, if the provider has said.
    pub(in crate::identity::login) person: Option<Verified>,
    /// What it has signed of them, if it has anew.
    pub(in crate::identity::login) signed: Option<Verified>,
    /// What to ask with the next time; the same as before when the provider gave no other.
    pub(in crate::identity::login) refresh: Option<Zeroizing<String>>,
}

impl Provider {
    /// Asks whether a sign-in still counts, and for the groups of now. `before` is what was signed of the person
    /// last: what was said of them besides has to be said anew. Blocks.
    ///
    /// # Errors
    /// It does not count any more ([`SignInError::Revoked`]), or the provider cannot be asked.
    pub(in crate::identity::login) fn refresh(
        &self,
        token: &str,
        before: &Verified,
    ) -> Result<Refreshed, SignInError> {
        let endpoints = self.endpoints()?;
        let tokens = self
            .client(&endpoints)?
            .exchange_refresh_token(&RefreshToken::new(token.to_owned()))
            .request(&|request| self.send(request))
            .map_err(|error| match error {
                RequestTokenError::ServerResponse(answer)
                    if matches!(answer.error(), BasicErrorResponseType::InvalidGrant) =>
                {
                    SignInError::Revoked(Arc::clone(self.name()), said_of(&answer))
                }
                error => self.failed(error),
            })?;
        let refresh = Some(tokens.refresh_token().map_or_else(
            || Zeroizing::new(token.to_owned()),
            |token| Zeroizing::new(token.secret().clone()),
        ));
        let signed = match &tokens.extra_fields().id_token {
            None => None,
            Some(id_token) => {
                let person = self.verify(id_token)?;
                self.check_hash(id_token, &person, tokens.access_token().secret())?;
                if person.subject != before.subject {
                    return Err(self.untrusted("it is about somebody else than before"));
                }
                Some(person)
            }
        };
        let access = tokens.access_token().secret();
        let person = match &signed {
            Some(signed) if !self.lacks(signed) => Some(signed.clone()),
            Some(signed) => {
                let more = self.userinfo(&endpoints, signed, access)?;
                Some(more.map_or_else(|| signed.clone(), |more| self.issuer.with_more(signed, more)))
            }
            None => {
                let newer = self.userinfo(&endpoints, before, access)?;
                let claim = self.issuer.config().groups_claim.as_str();
                // Groups that nobody says anything about any more may have been left long ago.
                if !self.lacks(before)
                    && newer.as_ref().is_none_or(|newer| verified::claim(newer, claim).is_none())
                {
                    return Err(self.untrusted(
                        "it names the groups in the first ID token alone: have it give one on refreshing too, or \
                         name the groups in the userinfo answer",
                    ));
                }
                newer.map(|newer| self.issuer.with_newer(before, newer))
            }
        };
        person.as_ref().map_or(Ok(()), |person| self.check_groups(person))?;
        // Refreshing is no sign-in.
        let person = person.map(|person| Verified { authenticated: before.authenticated, ..person });
        Ok(Refreshed { person, signed, refresh })
    }

    /// Gives a token back, where the provider takes it. Blocks.
    pub(in crate::identity::login) fn revoke(&self, token: &str) {
        let revoked = self.endpoints().and_then(|endpoints| {
            let Some(place) = &endpoints.revocation_endpoint else { return Ok(()) };
            // The library sends a token over TLS alone; to this host itself it may go without.
            let client = self.client(&endpoints)?;
            let client = client.set_revocation_url(RevocationUrl::from_url(place.clone()));
            let token = StandardRevocableToken::RefreshToken(RefreshToken::new(token.to_owned()));
            let Ok(request) = client.revoke_token(token) else { return Ok(()) };
            request
                .request(&|request| self.send(request))
                .map_err(|error| SignInError::Unavailable(Arc::clone(self.name()), said(&error.to_string())))
        });
        if let Err(error) = revoked {
            tracing::debug!(%error, "a refresh token was not given back");
        }
    }
}
