//! What went wrong, for people and programs (RFC 9457).

use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::administer::AdministerError;
use crate::archive::ArchiveError;
use crate::store::StoreError;

/// What went wrong, and what to do about it.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// What was sent cannot be taken.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("There is no such {what}. It may have been removed."))
    }

    /// Something that is nobody's fault out there. What exactly stands in the log only.
    pub(crate) fn internal(error: impl Display) -> Self {
        tracing::error!("a request failed: {error}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The collector could not do this. Its log says why; try again, and if it goes on ask whoever runs it.",
        )
    }

    /// Whether whoever asked can do something about it.
    pub(crate) fn is_theirs(&self) -> bool {
        self.status.is_client_error()
    }

    pub(crate) fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }

    pub(crate) fn json(&self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if let StoreError::TooLong(limit) = error {
            return Self::invalid(format!(
                "This search took longer than {} seconds and was stopped. Ask for less: one host, a shorter time, whole \
                 words, or more of a name.",
                limit.as_secs()
            ));
        }
        Self::internal(error)
    }
}

impl From<AdministerError> for Problem {
    fn from(error: AdministerError) -> Self {
        match error {
            AdministerError::NotFound(what) => Self::not_found(what),
            AdministerError::Already(_) => Self::new(StatusCode::CONFLICT, format!("{error}.")),
            error => Self::internal(error),
        }
    }
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        Self::internal(error)
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}

/// The outermost layer shows it as JSON or as a page, as fits what was asked for.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
