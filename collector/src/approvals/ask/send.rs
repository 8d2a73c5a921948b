//! One way to ask, ready to be used.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::config::Ask;
use super::hook::Hook;
use super::mail::Mail;
use super::shown::Shown;
use super::slack::Slack;
use super::teams::Teams;
use crate::store::{ApprovalNews, SentMessage};

/// It was not sent.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may go another time; the receiver may have said when.
    Later(String, Option<Duration>),
    /// The receiver does not take this very message.
    Refused(String),
}

pub(super) fn later(error: impl std::fmt::Display) -> Failure {
    Failure::Later(error.to_string(), None)
}

/// What becomes of what an HTTP server answers, where its status is all that counts.
pub(super) fn status(answer: &ureq::http::Response<Vec<u8>>) -> Result<(), Failure> {
    let status = answer.status().as_u16();
    let why = format!("the receiver answers with status {status}");
    match status {
        200..=299 => Ok(()),
        400 | 413 | 415 | 422 => Err(Failure::Refused(why)),
        _ => Err(Failure::Later(why, crate::outputs::later(answer.headers()))),
    }
}

/// The way.
pub(super) enum Sender {
    Slack(Slack),
    Teams(Teams),
    Mail(Mail),
    Hook(Hook),
}

impl Sender {
    /// Makes it ready. Nothing is sent yet.
    ///
    /// # Errors
    /// A file that it needs is no use.
    pub(super) fn new(ask: &Ask, collector: &str) -> anyhow::Result<Self> {
        Ok(match ask {
            Ask::Slack(slack) => Self::Slack(Slack::new(slack)?),
            Ask::Teams(teams) => Self::Teams(Teams::new(teams)?),
            Ask::Email(email) => Self::Mail(Mail::new(email, collector)?),
            Ask::Webhook(webhook) => Self::Hook(Hook::new(webhook, collector)?),
        })
    }

    /// Posts a message of its own, to which nothing follows.
    pub(super) async fn post(&self, shown: &Shown) -> Result<(), Failure> {
        match self {
            Self::Slack(slack) => slack.post(shown).await.map(drop),
            Self::Teams(teams) => teams.post(shown).await,
            Self::Mail(mail) => mail.send(shown, false).await,
            Self::Hook(_) => Ok(()),
        }
    }

    /// Tells what has come of a request. `sent` is what was sent about it before; what is to be kept of what is sent
    /// now comes back.
    pub(super) async fn tell(
        &self,
        shown: &Shown,
        news: ApprovalNews,
        sent: Option<&SentMessage>,
    ) -> Result<Option<SentMessage>, Failure> {
        // What has ended before anybody was asked is asked of nobody; what went through unapproved is told always.
        let wanted = shown.pending() || shown.state == "broken_glass";
        match (self, sent) {
            (Self::Hook(hook), _) => hook.tell(shown, news).await.map(|()| None),
            (_, None) if !wanted => Ok(None),
            (Self::Slack(slack), None) => slack.post(shown).await.map(Some),
            (Self::Slack(slack), Some(sent)) => slack.update(shown, sent).await.map(|()| None),
            // Cards cannot be changed and mail cannot be taken back: only the end is told, in another message.
            // When one row of the journal was late, the next tells the same: it is told once.
            (Self::Teams(_) | Self::Mail(_), Some(sent)) if shown.pending() || *sent == told(shown) => {
                Ok(None)
            }
            (Self::Teams(teams), _) => teams.post(shown).await.map(|()| Some(told(shown))),
            (Self::Mail(mail), sent) => mail.send(shown, sent.is_some()).await.map(|()| Some(told(shown))),
        }
    }
}

/// How a request stood when it was told of, where nothing can be changed by it.
pub(super) fn told(shown: &Shown) -> SentMessage {
    let stood = Sha256::digest(format!("{} {}", shown.state, shown.outcome).as_bytes());
    SentMessage { place: String::new(), reference: interlock_recording::hex(&stood) }
}
