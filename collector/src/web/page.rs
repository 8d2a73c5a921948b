//! Pages: templates, safe to show, and what stands on all of them.

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use interlock_recording::text::is_unprintable;

use super::State;
use super::guard::Actor;
use super::problem::Problem;
use super::role::{ADMIN, AUDIT, VALUES};

/// What stands on every page for those who are signed in.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) title: String,
    /// Which part of the navigation this is.
    pub(super) at: &'static str,
    pub(super) actor: Actor,
    /// Findings that nobody has taken note of; 0 for who does not see findings.
    pub(super) findings: i64,
    /// Requests that wait and that they may decide on.
    pub(super) approvals: i64,
    /// What was done, or went wrong.
    pub(super) notice: Option<Notice>,
}

/// What was done, or went wrong.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    pub(super) good: bool,
    pub(super) text: String,
}

impl Notice {
    pub(super) fn bad(problem: &Problem) -> Self {
        Self { good: false, text: problem.detail.clone() }
    }

    /// What a page says after it was come back to.
    pub(super) fn done(code: Option<&str>) -> Option<Self> {
        let text = match code? {
            "password" => "Your password is changed. All other browsers are signed out.",
            "totp" => "From now on you need a one-time code to sign in.",
            "totp-removed" => "One-time codes are no longer needed to sign in.",
            "signed-out" => "That browser is signed out.",
            "linked" => "It is linked: you can decide from there.",
            "unlinked" => "It is linked no more. It counts at once.",
            "others-signed-out" => "All other browsers are signed out.",
            "token-revoked" => "The token is revoked. It counts no longer.",
            "user-added" => "The account is added.",
            "user-changed" => "The account is changed. It counts at once.",
            "user-password" => {
                "The password is set. The account is signed out everywhere, and its codes and tokens are gone."
            }
            "agent-revoked" => "The agent is revoked. Nothing more is taken from it.",
            "policy-added" => "The version is added. It counts for nobody before it is assigned.",
            "policy-assigned" => "It is changed. Hosts are ordered so within seconds.",
            "host-labelled" => "The host's labels are changed.",
            "acknowledged" => "The finding is acknowledged.",
            "hold-added" => "The hold is in force. Nothing within it is deleted.",
            "hold-released" => "The hold is released.",
            "approval-approved" => "It is approved, and the host lets the command go on.",
            "approval-counted" => "Your approval counts. More are needed.",
            "approval-denied" => "It is refused. Whoever asks is told why.",
            "approval-given" => {
                "It is kept. The host has not answered yet; what it says is shown here when it does."
            }
            "approval-reviewed" => "The review is closed.",
            "user-owner" => "The account's groups and names are changed. They count at once.",
            "ended" => {
                "The agent has been told to end the session. Its end is shown here when it has been recorded."
            }
            _ => return None,
        };
        Some(Self { good: true, text: text.into() })
    }
}

impl Layout {
    pub(super) async fn new(
        state: &State,
        actor: Actor,
        at: &'static str,
        title: impl Into<String>,
        notice: Option<Notice>,
    ) -> Result<Self, Problem> {
        let findings = if actor.may(VALUES) { state.store.open_findings().await? } else { 0 };
        let groups = state.store.groups_of(&actor.name).await?;
        let approvals = if groups.is_empty() { 0 } else { state.store.open_approvals(Some(&groups)).await? };
        Ok(Self { title: title.into(), at, actor, findings, approvals, notice })
    }

    // Asked in templates.

    pub(super) fn sees_findings(&self) -> bool {
        self.actor.may(VALUES)
    }

    pub(super) fn audits(&self) -> bool {
        self.actor.may(AUDIT)
    }

    pub(super) fn administers(&self) -> bool {
        self.actor.may(ADMIN)
    }

    pub(super) fn status(&self) -> StatusCode {
        match &self.notice {
            Some(notice) if !notice.good => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::OK,
        }
    }
}

/// A page out of its template.
pub(super) fn show(status: StatusCode, template: &impl Template) -> Result<Response, Problem> {
    let text = template.render().map_err(Problem::internal)?;
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Ok((status, kind, safe(text)).into_response())
}

/// The page with everything that turns, hides or controls the text around it as an escape. Templates have
/// none of it, so what there is came from data; done here, no value can be forgotten.
fn safe(text: String) -> String {
    let stays = |character: char| matches!(character, '\n' | '\t') || !is_unprintable(character);
    if text.chars().all(stays) {
        return text;
    }
    let mut shown = String::with_capacity(text.len() + 64);
    for character in text.chars() {
        if stays(character) { shown.push(character) } else { shown.extend(character.escape_default()) }
    }
    shown
}

/// Back to a page after something was done.
pub(super) fn done(path: &str, code: &str) -> Response {
    Redirect::to(&format!("{path}?done={code}")).into_response()
}

/// A page that says what went wrong.
#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'p> {
    title: &'p str,
    detail: &'p str,
}

/// Shows a problem as a page.
pub(super) fn problem(problem: &Problem) -> Response {
    let page = ProblemPage { title: problem.title(), detail: &problem.detail };
    show(problem.status, &page).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_turns_or_hides_text_is_on_a_page() {
        let text = safe("<p>a\u{202e}b\u{1b}[1m\r\n\tc</p>".into());
        assert_eq!(text, "<p>a\\u{202e}b\\u{1b}[1m\\r\n\tc</p>");
        assert_eq!(safe("שלום".into()), "שלום");
    }
}
