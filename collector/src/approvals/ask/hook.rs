//! HTTP requests to programs of one's own, signed as the webhooks of outputs are.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::config::Webhook;
use super::send::{Failure, later, status};
use super::shown::Shown;
use crate::http::Client;
use crate::outputs::signed_request;
use crate::store::ApprovalNews;

/// Sends requests to one address.
pub(super) struct Hook {
    config: Webhook,
    collector: String,
    client: Client,
}

impl Hook {
    pub(super) fn new(config: &Webhook, collector: &str) -> anyhow::Result<Self> {
        crate::outputs::check_secrets(&config.secret)?;
        let client = Client::new(config.ca.as_deref())?;
        Ok(Self { config: config.clone(), collector: collector.to_owned(), client })
    }

    pub(super) async fn tell(&self, shown: &Shown, news: ApprovalNews) -> Result<(), Failure> {
        let kind = match news {
            ApprovalNews::Made => "approval.requested",
            ApprovalNews::Changed => "approval.voted",
            ApprovalNews::Ended => "approval.ended",
            ApprovalNews::Reviewed => "approval.reviewed",
        };
        let mut data = shown.json();
        if let Some(data) = data.as_object_mut() {
            data.insert("collector".into(), self.collector.as_str().into());
        }
        let data = json!({"type": kind, "data": data});
        let body = data.to_string().into_bytes();
        // The same each time that the same is told.
        let hash = interlock_recording::hex(&Sha256::digest(&body));
        let id = format!("msg_{}", hash.get(..32).unwrap_or_default());
        let request = signed_request(&self.config.url, &self.config.secret, &id, body)
            .map_err(|error| later(format_args!("{error:#}")))?;
        status(&self.client.send(request).await.map_err(later)?)
    }
}
