//! Microsoft Teams: an Adaptive Card, posted through a workflow's address. Nothing is decided there: the card's button
//! opens the request's page.

use serde_json::{Value, json};
use ureq::http::Request;

use super::config::{Teams as Config, web_address};
use super::send::{Failure, later, status};
use super::shown::Shown;
use crate::http::Client;
use crate::outputs::secret_line;

/// Posts into one channel.
pub(super) struct Teams {
    config: Config,
    client: Client,
}

impl Teams {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let this = Self { config: config.clone(), client: Client::new(config.ca.as_deref())? };
        this.address()?;
        Ok(this)
    }

    /// The workflow's address, which is a secret.
    fn address(&self) -> anyhow::Result<zeroize::Zeroizing<String>> {
        let url = secret_line(&self.config.url)?;
        web_address(&self.config.url.display().to_string(), &url).map_err(anyhow::Error::msg)?;
        Ok(url)
    }

    pub(super) async fn post(&self, shown: &Shown) -> Result<(), Failure> {
        let url = self.address().map_err(|error| later(format_args!("{error:#}")))?;
        let request = Request::post(url.as_str())
            .header("content-type", "application/json")
            .body(message(shown).to_string().into_bytes())
            .map_err(|_| later("the workflow's address is none that can be asked"))?;
        status(&self.client.send(request).await.map_err(later)?)
    }
}

/// Text as it is: a TextBlock would read it as Markdown, with links that somebody else wrote.
fn plain(text: &str, more: Value) -> Value {
    let mut run = json!({"type": "TextRun", "text": text});
    if let (Some(run), Value::Object(more)) = (run.as_object_mut(), more) {
        run.extend(more);
    }
    json!({"type": "RichTextBlock", "inlines": [run]})
}

fn message(shown: &Shown) -> Value {
    let mut body = vec![plain(&shown.title, json!({"weight": "bolder", "size": "large"}))];
    if !shown.outcome.is_empty() {
        body.push(plain(&shown.outcome, json!({"weight": "bolder"})));
    }
    for (name, value) in &shown.facts {
        body.push(json!({"type": "RichTextBlock", "spacing": "small", "inlines": [
            {"type": "TextRun", "text": format!("{name}: "), "weight": "bolder"},
            {"type": "TextRun", "text": value},
        ]}));
    }
    body.push(plain(&shown.text, json!({"fontType": "monospace"})));
    if shown.cut {
        body.push(plain(
            "This is not all of it: the request's page shows the rest.",
            json!({"isSubtle": true}),
        ));
    }
    if !shown.message.is_empty() {
        body.push(plain(&shown.message, json!({"italic": true})));
    }
    let open = if shown.pending() { "Look at it and decide" } else { "Look at it" };
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "msteams": {"width": "Full"},
                "body": body,
                "actions": [{"type": "Action.OpenUrl", "title": open, "url": shown.url}],
            },
        }],
    })
}
