//! Slack: a message with buttons in a channel, changed as more comes; and what people do with the buttons.
//!
//! Values of whoever asks stand in Block Kit's plain and raw texts only, which Slack does not read as its markup; in
//! the one text that it does read (`text`, for notifications) they are escaped.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ureq::http::Request;

use super::config::Slack as Config;
use super::cover::Cover;
use super::run::serves;
use super::send::{Failure, later};
use super::shown::{Shown, tame};
use crate::http::Client;
use crate::outputs::secret_line;
use crate::store::{SentMessage, WholeApproval, now_ns};

/// A request of Slack's older or newer than this is not taken, seconds: as Slack says.
const AGE: i64 = 300;
/// So long a signed request is remembered, so that it is not taken twice, nanoseconds.
pub(crate) const REMEMBERED_NS: i64 = 3 * AGE * 1_000_000_000;

/// One channel, and the app that posts there.
#[derive(Debug, Clone)]
pub struct Slack {
    config: Config,
    client: Client,
}

/// Why a request is not taken for Slack's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSlack {
    /// It has no signature, or one of another secret.
    #[error("the request is not signed by Slack with this app's signing secret")]
    Signature,
    /// It was signed too long ago, or by a clock that is wrong.
    #[error("the request was signed more than five minutes ago, or a clock is wrong")]
    Age,
}

impl Slack {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        secret_line(&config.token)?;
        secret_line(&config.signing_secret)?;
        Ok(Self { config: config.clone(), client: Client::new(config.ca.as_deref())? })
    }

    /// Its name in the configuration.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether somebody did something by this app, in its workspace.
    pub(crate) fn is_of(&self, by: &By) -> bool {
        self.config.app == by.app && self.config.team == by.team
    }

    /// Whether it posts into this channel.
    pub(crate) fn posts_in(&self, channel: &str) -> bool {
        self.config.channel == channel
    }

    /// Whether it is asked about this request.
    pub(crate) fn serves(&self, approval: &WholeApproval) -> bool {
        serves(&self.config.groups, approval)
    }

    /// Calls a method of the Web API.
    async fn call(&self, method: &str, body: &Value) -> Result<Value, Failure> {
        let token = secret_line(&self.config.token).map_err(|error| later(format_args!("{error:#}")))?;
        let request = Request::post(format!("{}/{method}", self.config.api.trim_end_matches('/')))
            .header("content-type", "application/json; charset=utf-8")
            .header("authorization", format!("Bearer {}", token.as_str()))
            .body(body.to_string().into_bytes())
            .map_err(|_| later("the app's token is none that can be sent"))?;
        let answer = self.client.send(request).await.map_err(later)?;
        let status = answer.status().as_u16();
        if status != 200 {
            let wait = crate::outputs::later(answer.headers());
            return Err(Failure::Later(format!("Slack answers {method} with status {status}"), wait));
        }
        let said: Value = serde_json::from_slice(answer.body())
            .map_err(|_| later(format_args!("Slack's answer to {method} is none of its API's")))?;
        if said["ok"] == true {
            return Ok(said);
        }
        let error = tame(said["error"].as_str().unwrap_or("no reason"), 60);
        let why = match error.as_str() {
            "not_in_channel" | "channel_not_found" => {
                format!("Slack: {error}: invite the app into channel {}", self.config.channel)
            }
            "missing_scope" => "Slack: missing_scope: the app needs chat:write".to_owned(),
            "invalid_auth" | "not_authed" | "token_revoked" | "account_inactive" => {
                format!("Slack: {error}: the app's token does not count (any more)")
            }
            _ => format!("Slack answers {method} with {error}"),
        };
        Err(match error.as_str() {
            "invalid_blocks" | "invalid_blocks_format" | "msg_too_long" | "msg_blocks_too_long" => {
                Failure::Refused(why)
            }
            "message_not_found" | "cant_update_message" | "edit_window_closed" => Failure::Refused(why),
            _ => later(why),
        })
    }

    pub(super) async fn post(&self, shown: &Shown) -> Result<SentMessage, Failure> {
        let mut message = message(shown);
        put(&mut message, "channel", self.config.channel.as_str().into());
        let said = self.call("chat.postMessage", &message).await?;
        match (said["channel"].as_str(), said["ts"].as_str()) {
            (Some(place), Some(reference)) => {
                Ok(SentMessage { place: place.to_owned(), reference: reference.to_owned() })
            }
            _ => Err(later("Slack's answer to chat.postMessage does not name the message")),
        }
    }

    pub(super) async fn update(&self, shown: &Shown, sent: &SentMessage) -> Result<(), Failure> {
        let mut message = message(shown);
        put(&mut message, "channel", sent.place.as_str().into());
        put(&mut message, "ts", sent.reference.as_str().into());
        self.call("chat.update", &message).await.map(drop)
    }

    /// Says something to one person in a channel, that nobody else sees. `link` has no value of anybody's in it.
    pub(crate) async fn whisper(
        &self,
        channel: &str,
        person: &str,
        text: &str,
        link: Option<(&str, &str)>,
    ) -> Result<(), String> {
        let mut blocks = vec![section(text)];
        if let Some((label, url)) = link {
            blocks.push(json!({"type": "actions", "elements": [
                {"type": "button", "action_id": "open", "text": plain(label), "url": url},
            ]}));
        }
        let body = json!({"channel": channel, "user": person, "text": escape(text), "blocks": blocks});
        self.call("chat.postEphemeral", &body).await.map(drop).map_err(|failure| match failure {
            Failure::Later(why, _) | Failure::Refused(why) => why,
        })
    }

    /// Asks a person why, before they decide.
    pub(crate) async fn ask_why(&self, trigger: &str, about: &About, title: &str) -> Result<(), String> {
        let approve = about.approve.is_some();
        let view = json!({
            "type": "modal",
            "callback_id": "decide",
            "private_metadata": about.written(),
            "title": plain(if approve { "Approve" } else { "Refuse" }),
            "submit": plain(if approve { "Approve" } else { "Refuse" }),
            "close": plain("Not now"),
            "blocks": [
                section(title),
                {
                    "type": "input",
                    "block_id": "why",
                    "label": plain("Why"),
                    "element": {"type": "plain_text_input", "action_id": "reason", "multiline": true, "max_length": 500},
                },
            ],
        });
        let body = json!({"trigger_id": trigger, "view": view});
        self.call("views.open", &body).await.map(drop).map_err(|failure| match failure {
            Failure::Later(why, _) | Failure::Refused(why) => why,
        })
    }

    /// Whether a request was signed by Slack for this app, not long ago. Nothing of the body is read before.
    ///
    /// # Errors
    /// It was not, or the secret cannot be read.
    pub(crate) fn verify(&self, timestamp: &str, signature: &str, body: &[u8]) -> anyhow::Result<()> {
        let secret = secret_line(&self.config.signing_secret)?;
        Ok(verify(secret.trim().as_bytes(), timestamp, signature, body, now_ns() / 1_000_000_000)?)
    }
}

/// Checks a signature: <https://docs.slack.dev/authentication/verifying-requests-from-slack>
fn verify(secret: &[u8], timestamp: &str, signature: &str, body: &[u8], now: i64) -> Result<(), NotSlack> {
    // Digits alone: the text is signed, not the number.
    let digits = (1..=12).contains(&timestamp.len()) && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let at: i64 =
        if digits { timestamp.parse().map_err(|_| NotSlack::Age)? } else { return Err(NotSlack::Age) };
    if now.abs_diff(at) > AGE.unsigned_abs() {
        return Err(NotSlack::Age);
    }
    let given = signature.strip_prefix("v0=").ok_or(NotSlack::Signature)?;
    let given = unhex(given).ok_or(NotSlack::Signature)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| NotSlack::Signature)?;
    mac.update(b"v0:");
    mac.update(timestamp.as_bytes());
    mac.update(b":");
    mac.update(body);
    // In constant time.
    mac.verify_slice(&given).map_err(|_| NotSlack::Signature)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * Sha256::output_size() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What somebody is about to decide; it goes to Slack and comes back with their reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// The request.
    pub(crate) id: String,
    /// The channel in which they were asked.
    pub(crate) channel: String,
    /// What they approve; else they refuse.
    pub(crate) approve: Option<Cover>,
}

impl About {
    fn written(&self) -> String {
        let approve = self.approve.map(Cover::written);
        json!({"id": self.id, "channel": self.channel, "approve": approve}).to_string()
    }

    fn read(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let approve = match &value["approve"] {
            Value::Null => None,
            approve => Some(Cover::read(approve.as_str()?)?),
        };
        Some(Self { id: short(&value["id"])?, channel: short(&value["channel"])?, approve })
    }
}

/// What somebody did in Slack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Did {
    /// Clicked a button of a message.
    Clicked {
        about: About,
        /// With it a modal can be opened for three seconds.
        trigger: String,
    },
    /// Said why.
    Said { about: About, reason: String },
}

/// Somebody who did something in Slack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct By {
    /// The app through which.
    pub(crate) app: String,
    /// The workspace.
    pub(crate) team: String,
    pub(crate) person: String,
    /// What they are called there; for people to read only.
    pub(crate) name: String,
}

/// Reads what Slack sends when somebody does something: `None` when it is nothing that is acted upon.
pub(crate) fn read(body: &[u8]) -> Option<(By, Did)> {
    let payload = form_urlencoded::parse(body).find(|(name, _)| name == "payload")?.1;
    let payload: Value = serde_json::from_str(&payload).ok()?;
    let user = &payload["user"];
    let (of, at) = (short(&user["team_id"]), short(&payload["team"]["id"]));
    // Somebody of another workspace, in a channel that both share.
    if of.is_some() && at.is_some() && of != at {
        return None;
    }
    let (app, team) = (short(&payload["api_app_id"])?, of.or(at)?);
    let name = ["username", "name"].into_iter().find_map(|key| user[key].as_str()).unwrap_or_default();
    let by = By { app, team, person: short(&user["id"])?, name: tame(name, 80) };
    let did = match payload["type"].as_str()? {
        "block_actions" => {
            let action = payload["actions"].as_array()?.first()?;
            let (approve, id) = match action["action_id"].as_str()? {
                "approve" => (Some(Cover::Once), short(&action["value"])?),
                "deny" => (None, short(&action["value"])?),
                // Of a menu: what is approved, and of which request.
                "cover" => {
                    let chosen = short(&action["selected_option"]["value"])?;
                    let (cover, id) = chosen.split_once(':')?;
                    (Some(Cover::read(cover)?), id.to_owned())
                }
                _ => return None,
            };
            let channel =
                short(&payload["channel"]["id"]).or_else(|| short(&payload["container"]["channel_id"]))?;
            let about = About { id, channel, approve };
            Did::Clicked { about, trigger: short(&payload["trigger_id"])? }
        }
        "view_submission" if payload["view"]["callback_id"] == "decide" => {
            let view = &payload["view"];
            let about = About::read(view["private_metadata"].as_str()?)?;
            let reason = view["state"]["values"]["why"]["reason"]["value"].as_str().unwrap_or_default();
            Did::Said { about, reason: reason.to_owned() }
        }
        _ => return None,
    };
    Some((by, did))
}

/// Reads arbitrary bytes as what Slack sends, as a form and as the JSON in it: the entry for fuzzing.
pub fn exercise(bytes: &[u8]) {
    let _ = read(bytes);
    if let Ok(payload) = std::str::from_utf8(bytes) {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", payload).finish();
        let _ = read(form.as_bytes());
    }
}

/// An id: short, and of nothing but what ids have.
fn short(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    ((1..=200).contains(&text.len()) && text.bytes().all(fits)).then(|| text.to_owned())
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

/// Text that Slack shows as it is.
fn plain(text: &str) -> Value {
    json!({"type": "plain_text", "text": if text.is_empty() { " " } else { text }, "emoji": false})
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": plain(&tame(text, 2900))})
}

/// Text that Slack reads as its markup: with these three nothing in it is a mention or a link
/// (<https://docs.slack.dev/messaging/formatting-message-text>).
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A menu of what is more than the one command. Slack asks once more before it sends what was chosen.
fn menu(shown: &Shown) -> Value {
    let option = |cover: &Cover| json!({"text": plain(&cover.label()), "value": format!("{}:{}", cover.written(), shown.id)});
    let options: Vec<Value> = shown.covers.iter().map(option).collect();
    let text = "For minutes: the same text with other constants too, by the same user, program and job, to the same \
                database. For the session: whatever the same rules hold in it until it ends, which nobody has seen yet. \
                Nobody is asked about these.";
    json!({
        "type": "static_select",
        "action_id": "cover",
        "placeholder": plain("Approve for longer"),
        "options": options,
        "confirm": {
            "title": plain("Approve more than this?"),
            "text": plain(text),
            "confirm": plain("Approve"),
            "deny": plain("Not now"),
            "style": "danger",
        },
    })
}

fn message(shown: &Shown) -> Value {
    let mut blocks = vec![json!({"type": "header", "text": plain(&shown.title)})];
    if !shown.outcome.is_empty() {
        blocks.push(section(&shown.outcome));
    }
    // A section has ten fields at most.
    for facts in shown.facts.chunks(10) {
        let fields: Vec<Value> =
            facts.iter().map(|(name, value)| plain(&format!("{name}\n{value}"))).collect();
        blocks.push(json!({"type": "section", "fields": fields}));
    }
    let text = if shown.text.is_empty() { " " } else { &shown.text };
    blocks.push(json!({"type": "rich_text", "elements": [
        {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": text}]},
    ]}));
    if shown.cut {
        blocks.push(section("This is not all of it: the request's page shows the rest."));
    }
    if !shown.message.is_empty() {
        blocks.push(section(&format!("The rule says: {}", shown.message)));
    }
    let mut buttons = Vec::new();
    let button = |action: &str, label: &str, style: &str| json!({"type": "button", "action_id": action, "value": shown.id, "text": plain(label), "style": style});
    if shown.open && shown.once {
        buttons.push(button("approve", "Approve once", "primary"));
    }
    if shown.open && !shown.covers.is_empty() {
        buttons.push(menu(shown));
    }
    if shown.pending() {
        buttons.push(button("deny", "Refuse", "danger"));
    }
    buttons
        .push(json!({"type": "button", "action_id": "open", "text": plain("Look at it"), "url": shown.url}));
    blocks.push(json!({"type": "actions", "elements": buttons}));
    let text = if shown.outcome.is_empty() { &shown.title } else { &shown.outcome };
    json!({"text": escape(text), "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
}

/// What a signed request is remembered by.
pub(crate) fn digest(signature: &str) -> String {
    // Of one spelling: digits of a signature can be written in two ways.
    interlock_recording::hex(&Sha256::digest(signature.to_ascii_lowercase().as_bytes()))
}

/// How long a person has to confirm that an account is theirs.
pub(crate) const LINK: Duration = Duration::from_secs(600);
/// How long that counts: then they confirm it anew.
pub(crate) const LINKED: Duration = Duration::from_secs(180 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_slack() {
        // The example of Slack's documentation.
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let secret = b"8f742231b10e8888abcd99yyyzzz85a5";
        let (at, signed) =
            ("1531420618", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503");
        let now = 1_531_420_618;
        assert_eq!(verify(secret, at, signed, body, now), Ok(()));
        assert_eq!(verify(secret, at, signed, body, now + 300), Ok(()));
        assert_eq!(verify(secret, at, signed, body, now + 301), Err(NotSlack::Age));
        assert_eq!(verify(secret, at, signed, body, now - 301), Err(NotSlack::Age));
        assert_eq!(verify(b"another", at, signed, body, now), Err(NotSlack::Signature));
        assert_eq!(verify(secret, at, signed, &body[1..], now), Err(NotSlack::Signature));
        assert_eq!(verify(secret, "1531420617", signed, body, now), Err(NotSlack::Signature));
        assert_eq!(verify(secret, "+1531420618", signed, body, now), Err(NotSlack::Age));
        assert_eq!(verify(secret, "", signed, body, now), Err(NotSlack::Age));
        for wrong in ["", "v0=", "v1=a2", &signed[..60], &signed.replace('a', "é"), &signed.to_uppercase()] {
            assert_eq!(verify(secret, at, wrong, body, now), Err(NotSlack::Signature), "{wrong}");
        }
    }

    fn form(payload: &Value) -> Vec<u8> {
        form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", &payload.to_string())
            .finish()
            .into_bytes()
    }

    #[test]
    fn what_people_do_is_read_and_nothing_else() {
        let click = json!({
            "type": "block_actions", "api_app_id": "A1", "team": {"id": "T1"}, "user": {"id": "U1", "username": "al\u{202e}ice", "team_id": "T1"},
            "trigger_id": "1.2.abc", "channel": {"id": "C1"},
            "actions": [{"action_id": "approve", "value": "abcdefgh-0123"}],
        });
        let (by, did) = read(&form(&click)).unwrap();
        assert_eq!((by.app.as_str(), by.team.as_str(), by.person.as_str()), ("A1", "T1", "U1"));
        assert!(!by.name.contains('\u{202e}'), "{by:?}");
        let about = About { id: "abcdefgh-0123".into(), channel: "C1".into(), approve: Some(Cover::Once) };
        assert_eq!(did, Did::Clicked { about: about.clone(), trigger: "1.2.abc".into() });
        let said = json!({
            "type": "view_submission", "api_app_id": "A1", "team": {"id": "T1"}, "user": {"id": "U1", "team_id": "T1"},
            "view": {"callback_id": "decide", "private_metadata": about.written(),
                     "state": {"values": {"why": {"reason": {"value": "because"}}}}},
        });
        assert_eq!(read(&form(&said)).unwrap().1, Did::Said { about, reason: "because".into() });
        for (path, value) in [
            ("/actions/0/action_id", json!("open")),
            ("/actions/0/value", json!("../admin")),
            ("/actions/0/value", json!("x".repeat(300))),
            ("/user/team_id", json!("T2")),
            ("/api_app_id", json!("")),
            ("/user/id", json!(7)),
            ("/user/id", json!("")),
            ("/type", json!("shortcut")),
            ("/actions", json!([])),
        ] {
            let mut wrong = click.clone();
            *wrong.pointer_mut(path).unwrap() = value;
            assert_eq!(read(&form(&wrong)), None, "{path}");
        }
        // A menu's choice, whole and of a known word.
        let mut chosen = click;
        let choose = |value: &str| json!([{"action_id": "cover", "selected_option": {"value": value}}]);
        for (value, approve) in [
            ("shape-15:abcdefgh-0123", Some(Cover::Shape(15))),
            ("session:abcdefgh-0123", Some(Cover::Session)),
            ("once:abcdefgh-0123", Some(Cover::Once)),
            ("shape-0:abcdefgh-0123", None),
            ("shape-99999999999:abcdefgh-0123", None),
            ("always:abcdefgh-0123", None),
            ("session", None),
            ("", None),
        ] {
            chosen["actions"] = choose(value);
            let read = read(&form(&chosen)).map(|(_, did)| did);
            let about = approve.map(|cover| About {
                id: "abcdefgh-0123".into(),
                channel: "C1".into(),
                approve: Some(cover),
            });
            assert_eq!(
                read,
                about.clone().map(|about| Did::Clicked { about, trigger: "1.2.abc".into() }),
                "{value}"
            );
            assert_eq!(about.as_ref().and_then(|about| About::read(&about.written())), about);
        }
        let refused = About { id: "a".into(), channel: "C1".into(), approve: None };
        assert_eq!(About::read(&refused.written()), Some(refused));
        assert_eq!(About::read(r#"{"id": "a", "channel": "C1", "approve": true}"#), None);
        assert_eq!(read(b"payload=%7B"), None);
        assert_eq!(read(&[0xff; 10]), None);
    }

    #[test]
    fn nothing_that_somebody_wrote_is_markup() {
        assert_eq!(escape("<!channel> &lt; <http://x|y>"), "&lt;!channel&gt; &amp;lt; &lt;http://x|y&gt;");
    }
}
