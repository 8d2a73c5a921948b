//! The device authorization grant (RFC 8628): a code that is typed on any device.

use std::sync::Arc;
use std::time::Duration;

use oauth2::basic::BasicErrorResponseType;
use oauth2::{
    DeviceAuthorizationUrl, DeviceCodeErrorResponseType, HttpResponse, RequestTokenError,
    StandardDeviceAuthorizationResponse,
};

use super::{ANEW, Provider, SignInError, SignedIn, blocking};
use crate::identity::oidc::http::HttpError;

/// The longest that a device code is waited for, whatever the provider says.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// Between two questions after a device code, at least and at most, whatever the provider says.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A device code that waits for somebody to sign in.
pub(in crate::identity::login) struct Device {
    details: StandardDeviceAuthorizationResponse,
}

// === impl Device ===

impl Device {
    /// Where to sign in.
    pub(in crate::identity::login) fn url(&self) -> String {
        self.details.verification_uri().to_string()
    }

    /// The same with the code in it, if the provider has such an address.
    pub(in crate::identity::login) fn complete_url(&self) -> Option<String> {
        self.details.verification_uri_complete().map(|url| url.secret().to_owned())
    }

    /// What to type there.
    pub(in crate::identity::login) fn code(&self) -> &str {
        self.details.user_code().secret()
    }

    /// For how long it counts.
    pub(in crate::identity::login) fn lasts(&self) -> Duration {
        self.details.expires_in().min(LONGEST)
    }
}

// === impl Provider ===

impl Provider {
    /// Asks for a device code. Blocks.
    ///
    /// # Errors
    /// The provider cannot be asked, has no device flow, or refuses.
    pub(in crate::identity::login) fn begin_device(&self, fresh: bool) -> Result<Device, SignInError> {
        let endpoints = self.endpoints()?;
        let Some(place) = &endpoints.device_authorization_endpoint else {
            return Err(self.not_offered("has no device flow: use `interlock login --browser`"));
        };
        let client = self.client(&endpoints)?;
        let client = client.set_device_authorization_url(DeviceAuthorizationUrl::from_url(place.clone()));
        let mut request = client.exchange_device_code().add_scopes(self.scopes());
        if fresh {
            // RFC 8628 has no such parameters; providers that do not know them ignore them.
            request =
                ANEW.iter().fold(request, |request, (name, value)| request.add_extra_param(*name, *value));
        }
        let details: StandardDeviceAuthorizationResponse =
            request.request(&|request| self.send(request)).map_err(|error| self.failed(error))?;
        let plain = |text: &str| !text.is_empty() && text.len() <= 2048 && !text.contains(unfit);
        let shown = [Some(details.verification_uri().as_str()), Some(details.user_code().secret())];
        let complete = details.verification_uri_complete().map(|url| url.secret().as_str());
        if shown.into_iter().chain([complete]).flatten().any(|text| !plain(text)) {
            return Err(self.untrusted("its code or address cannot be shown"));
        }
        // Shown to people to open: nothing that runs something.
        for url in [Some(details.verification_uri().as_str()), complete].into_iter().flatten() {
            if !oauth2::url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) {
                return Err(self.untrusted("the address to sign in at is none of the web"));
            }
        }
        Ok(Device { details })
    }

    /// Waits until somebody has signed in with the code, or it is clear that nobody will.
    ///
    /// # Errors
    /// Nobody did, or it does not prove who.
    pub(in crate::identity::login) async fn finish_device(
        self: &Arc<Self>,
        device: Device,
    ) -> Result<SignedIn, SignInError> {
        let lasts = device.lasts();
        let interval = device.details.interval().clamp(INTERVAL.0, INTERVAL.1);
        let provider = Arc::clone(self);
        let endpoints = blocking(move || provider.endpoints()).await?;
        let client = self.client(&endpoints)?;
        let asker = Arc::clone(self);
        let ask = move |request| {
            let provider = Arc::clone(&asker);
            async move { blocking_http(move || provider.send(request)).await }
        };
        // The library waits as long as the provider says; what it says is bounded here.
        let wait = |said: Duration| tokio::time::sleep(said.clamp(interval, INTERVAL.1));
        tokio::time::sleep(interval).await;
        let asked =
            client.exchange_device_access_token(&device.details).request_async(&ask, wait, Some(lasts));
        let tokens = match tokio::time::timeout(lasts, asked).await {
            Err(_) => return Err(SignInError::Expired(Arc::clone(self.name()))),
            Ok(tokens) => tokens,
        };
        let tokens = tokens.map_err(|error| match error {
            RequestTokenError::ServerResponse(answer) => match answer.error() {
                DeviceCodeErrorResponseType::ExpiredToken => SignInError::Expired(Arc::clone(self.name())),
                DeviceCodeErrorResponseType::Basic(BasicErrorResponseType::Extension(word))
                    if word == "access_denied" =>
                {
                    SignInError::Denied(Arc::clone(self.name()))
                }
                DeviceCodeErrorResponseType::AccessDenied => SignInError::Denied(Arc::clone(self.name())),
                _ => self.refused(&answer),
            },
            error => self.broken(error),
        })?;
        let provider = Arc::clone(self);
        blocking(move || provider.accept(&tokens, None)).await
    }
}

fn unfit(c: char) -> bool {
    interlock_recording::text::is_unprintable(c)
}

async fn blocking_http(
    work: impl FnOnce() -> Result<HttpResponse, HttpError> + Send + 'static,
) -> Result<HttpResponse, HttpError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(HttpError::Unreachable { server: "the provider".to_owned(), reason: error.to_string() })
    })
}
