//! The authorization code with PKCE (RFC 6749, 7636, 8252): a browser that comes back to this host.

use oauth2::{AuthUrl, AuthorizationCode, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl};
use zeroize::Zeroizing;

use super::{ANEW, Provider, SignInError, SignedIn, constant_time, said};

/// What has to be known again when a browser comes back.
pub(in crate::identity::login) struct Browser {
    /// Where it comes back to, on this host.
    redirect: RedirectUrl,
    state: Zeroizing<String>,
    nonce: Zeroizing<String>,
    verifier: Zeroizing<String>,
}

/// What a browser has brought back.
pub(in crate::identity::login) struct Brought {
    /// Which of the pages that were opened it comes from.
    pub(in crate::identity::login) state: Zeroizing<String>,
    /// What the provider gives the tokens for.
    pub(in crate::identity::login) code: Zeroizing<String>,
    /// Which provider it comes from (RFC 9207).
    pub(in crate::identity::login) iss: Option<String>,
}

// === impl Provider ===

impl Provider {
    /// Where to send a browser, which comes back to `redirect` on this host. Blocks.
    ///
    /// # Errors
    /// The provider cannot be asked for its metadata, or does not offer this way.
    pub(in crate::identity::login) fn begin_browser(
        &self,
        redirect: String,
        fresh: bool,
    ) -> Result<(String, Browser), SignInError> {
        let endpoints = self.endpoints()?;
        let Some(place) = &endpoints.authorization_endpoint else {
            return Err(self.not_offered("has nothing to open in a browser: use `interlock login --device`"));
        };
        let methods = endpoints.code_challenge_methods_supported.as_deref();
        if methods.is_some_and(|methods| !methods.iter().any(|method| method == "S256")) {
            return Err(self.not_offered("does not know PKCE with S256: use `interlock login --device`"));
        }
        let random = || self.random();
        let browser = Browser {
            redirect: RedirectUrl::new(redirect)
                .map_err(|error| self.untrusted(&format!("where to come back to: {error}")))?,
            state: random()?,
            nonce: random()?,
            verifier: random()?,
        };
        let verifier = PkceCodeVerifier::new(browser.verifier.to_string());
        let client = self.client(&endpoints)?.set_auth_uri(AuthUrl::from_url(place.clone()));
        let client = client.set_redirect_uri(browser.redirect.clone());
        let state = browser.state.to_string();
        let mut request = client
            .authorize_url(move || CsrfToken::new(state))
            .add_scopes(self.scopes())
            .add_extra_param("nonce", browser.nonce.as_str())
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        if fresh {
            request =
                ANEW.iter().fold(request, |request, (name, value)| request.add_extra_param(*name, *value));
        }
        let (url, _) = request.url();
        Ok((url.into(), browser))
    }

    /// Exchanges what the browser has brought. Blocks.
    ///
    /// # Errors
    /// It is not of this sign-in, the provider refuses it, or it does not prove who it is.
    pub(in crate::identity::login) fn finish_browser(
        &self,
        browser: &Browser,
        brought: &Brought,
    ) -> Result<SignedIn, SignInError> {
        if !browser.is_state(&brought.state) {
            return Err(self.untrusted("it belongs to another sign-in (state)"));
        }
        let endpoints = self.endpoints()?;
        // RFC 9207: an answer that another provider gave must not be taken for this one's.
        match brought.iss.as_deref() {
            Some(iss) if *iss != **self.issuer.id() => {
                return Err(self.untrusted(&format!("it comes from {:?}, another provider", said(iss))));
            }
            None if endpoints.authorization_response_iss_parameter_supported => {
                return Err(self.untrusted("it does not say which provider it comes from (iss)"));
            }
            _ => {}
        }
        let client = self.client(&endpoints)?.set_redirect_uri(browser.redirect.clone());
        let tokens = client
            .exchange_code(AuthorizationCode::new(brought.code.to_string()))
            .set_pkce_verifier(PkceCodeVerifier::new(browser.verifier.to_string()))
            .request(&|request| self.send(request))
            .map_err(|error| self.failed(error))?;
        self.accept(&tokens, Some(&browser.nonce))
    }
}

// === impl Browser ===

impl Browser {
    /// Whether a browser that comes with this state is the one that was sent.
    pub(in crate::identity::login) fn is_state(&self, state: &str) -> bool {
        constant_time(&self.state, state)
    }
}
