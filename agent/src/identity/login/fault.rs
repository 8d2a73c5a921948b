//! Why nobody is signed in.

use std::sync::Arc;

use interlock_recording::text::printable;

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The provider cannot be asked.
    #[error("{0} cannot be asked: {1}")]
    Unavailable(Arc<str>, String),
    /// It does not offer this way.
    #[error("{0} {1}")]
    NotOffered(Arc<str>, &'static str),
    /// Whoever was asked said no.
    #[error("the sign-in was denied at {0}")]
    Denied(Arc<str>),
    /// Nobody has signed in in time.
    #[error("nobody signed in at {0} in time: run `interlock login` again")]
    Expired(Arc<str>),
    /// A sign-in, or what it can be refreshed with, counts no more.
    #[error("{0} has ended this sign-in: {1}")]
    Revoked(Arc<str>, String),
    /// Whoever signed in was not asked anew, which they wanted to be.
    #[error("{0} {1}")]
    NotAnew(Arc<str>, String),
    /// The provider refused.
    #[error("{0} refused: {1}")]
    Refused(Arc<str>, String),
    /// What it said does not prove who it is.
    #[error("the answer of {0} cannot be trusted: {1}")]
    Untrusted(Arc<str>, String),
}

impl SignInError {
    /// The provider might be asked again with more success.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable(..) => true,
            // RFC 6749, section 4.1.2.1; some say so at the token endpoint too.
            Self::Refused(_, why) => ["server_error", "temporarily_unavailable", "slow_down"]
                .iter()
                .any(|word| why.starts_with(word)),
            _ => false,
        }
    }
}

/// Text of a provider's, to be shown: short, and nothing that turns or hides text.
pub(super) fn said(text: &str) -> String {
    printable(&text.chars().take(300).collect::<String>()).into_owned()
}

/// What an answer of RFC 6749's says is wrong.
pub(super) fn said_of<T>(answer: &oauth2::StandardErrorResponse<T>) -> String
where
    T: oauth2::ErrorResponseType + AsRef<str>,
{
    let more = answer.error_description().map(String::as_str).unwrap_or_default();
    said(format!("{} {more}", answer.error().as_ref()).trim())
}
