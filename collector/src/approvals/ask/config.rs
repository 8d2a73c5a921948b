//! `approvals:` of the configuration.

use std::path::PathBuf;

use serde::Deserialize;

use crate::outputs::config::{is_loopback, server};

/// Approvals of commands that hosts hold.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// Where approvers are asked, beside the collector's inbox.
    pub ask: Vec<Ask>,
}

/// A way to ask approvers.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ask {
    /// A message with buttons in a channel of Slack.
    Slack(Slack),
    /// A card in a channel of Microsoft Teams.
    Teams(Teams),
    /// Mail with a link.
    Email(Email),
    /// HTTP requests with JSON, signed as Standard Webhooks says.
    Webhook(Webhook),
}

/// A channel of Slack.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// Its name: its place in what is told is kept by it.
    pub name: String,
    /// Groups whose requests are told; all when left out.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The channel's id, such as `C0123456789`. The app must be in it.
    pub channel: String,
    /// The workspace's id, such as `T0123456789`: nobody of another one is listened to.
    pub team: String,
    /// The app's id, such as `A0123456789`: nothing that comes by another one is listened to.
    pub app: String,
    /// A file with the app's bot token (`xoxb-…`). Read again for each request.
    pub token: PathBuf,
    /// A file with the app's signing secret, by which its buttons' requests are known. Read again for each request.
    pub signing_secret: PathBuf,
    /// The address of Slack's Web API.
    #[serde(default = "slack_api")]
    pub api: String,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
}

/// A channel of Microsoft Teams.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Teams {
    /// Its name: its place in what is told is kept by it.
    pub name: String,
    /// Groups whose requests are told; all when left out.
    #[serde(default)]
    pub groups: Vec<String>,
    /// A file with the address of the workflow that posts into the channel: whoever has it can post there. Read again
    /// for each request.
    pub url: PathBuf,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
}

/// Mail.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// Its name: its place in what is told is kept by it.
    pub name: String,
    /// Groups whose requests are told; all when left out.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The mail server: `tls://HOST:465`, `starttls://HOST:587` (it must offer STARTTLS), or `tcp://HOST:PORT` on this
    /// host.
    pub server: String,
    /// The sender's address.
    pub from: String,
    /// The receivers' addresses.
    #[serde(default)]
    pub to: Vec<String>,
    /// Each member of the groups that may decide is written to as well, by the verified address of their account: one
    /// mail a person.
    #[serde(default)]
    pub members: bool,
    /// Domains of these addresses, such as `example.com`; members with others are not written to. All when left out.
    #[serde(default)]
    pub domains: Vec<String>,
    /// The user to sign in to the server as.
    pub user: Option<String>,
    /// A file with the password, on its first line. Read again for each message.
    pub password: Option<PathBuf>,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
}

/// HTTP requests, signed.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its name: its place in what is told is kept by it.
    pub name: String,
    /// Groups whose requests are told; all when left out.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Where to. It is not shown anywhere: secrets can stand in its path.
    pub url: String,
    /// A file with the secrets that requests are signed with, as of `outputs`. Read again for each request.
    pub secret: PathBuf,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
}

fn slack_api() -> String {
    "https://slack.com/api".to_owned()
}

impl Ask {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Slack(ask) => &ask.name,
            Self::Teams(ask) => &ask.name,
            Self::Email(ask) => &ask.name,
            Self::Webhook(ask) => &ask.name,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Slack(_) => "slack",
            Self::Teams(_) => "teams",
            Self::Email(_) => "email",
            Self::Webhook(_) => "webhook",
        }
    }

    pub(super) fn groups(&self) -> &[String] {
        match self {
            Self::Slack(ask) => &ask.groups,
            Self::Teams(ask) => &ask.groups,
            Self::Email(ask) => &ask.groups,
            Self::Webhook(ask) => &ask.groups,
        }
    }

    /// The name by which its place is kept among those of outputs, whose names have no colon.
    pub fn place(&self) -> String {
        format!("ask:{}", self.name())
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Slack(slack) => {
                let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
                if slack.channel.len() < 8 || !slack.channel.chars().all(fits) {
                    return Err(format!(
                        "channel: {:?} is no channel's id, such as C0123456789 (it stands at the end of the channel's \
                         details)",
                        slack.channel
                    ));
                }
                for (key, id, first, place) in [
                    ("team", &slack.team, 'T', "it stands in the address of the workspace in a browser"),
                    ("app", &slack.app, 'A', "it stands under Basic Information of the app"),
                ] {
                    if id.len() < 8 || !id.starts_with(first) || !id.chars().all(fits) {
                        return Err(format!("{key}: {id:?} is no id such as {first}0123456789 ({place})"));
                    }
                }
                web_address("api", &slack.api)
            }
            Self::Teams(_) => Ok(()),
            Self::Email(email) => email.check(),
            Self::Webhook(webhook) => web_address("url", &webhook.url),
        }
    }
}

impl Email {
    fn check(&self) -> Result<(), String> {
        let address = server(&self.server)
            .filter(|server| server.port.is_some())
            .ok_or("server: it is no address such as starttls://mail.example.com:587, with a port")?;
        match address.scheme.as_str() {
            "tls" | "starttls" => {}
            "tcp" if is_loopback(&address.host) => {}
            "tcp" => {
                return Err(format!(
                    "server: commands and the password would cross the network to {} in the clear: take tls:// or \
                     starttls://",
                    address.host
                ));
            }
            other => {
                return Err(format!(
                    "server: it begins with {other}://, and tls, starttls and tcp are known"
                ));
            }
        }
        if self.to.is_empty() && !self.members {
            return Err("to: nobody is asked".into());
        }
        if !self.domains.is_empty() && !self.members {
            return Err("domains are those of members' addresses: it goes with members: true".into());
        }
        let is_domain = |domain: &String| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
            (1..=253).contains(&domain.len()) && domain.bytes().all(fits)
        };
        if let Some(domain) = self.domains.iter().find(|domain| !is_domain(domain)) {
            return Err(format!("domains: {domain:?} is no domain such as example.com"));
        }
        for address in self.to.iter().chain([&self.from]) {
            if address.parse::<lettre::message::Mailbox>().is_err() {
                return Err(format!("{address:?} is no mail address"));
            }
        }
        if self.user.is_some() != self.password.is_some() {
            return Err("user and password go together".into());
        }
        Ok(())
    }
}

/// HTTPS, or on this host.
pub(super) fn web_address(key: &str, url: &str) -> Result<(), String> {
    // The address itself is not shown: secrets can stand in it.
    let server = server(url).ok_or_else(|| {
        format!("{key}: it is no address: https://, a host, and no user name or password in it")
    })?;
    match server.scheme.as_str() {
        "https" => Ok(()),
        "http" if is_loopback(&server.host) => Ok(()),
        _ => Err(format!(
            "{key}: commands would cross the network to {} in the clear: take https://",
            server.host
        )),
    }
}

/// Checks what the types do not say. `url` is the address that people use, if it is configured.
///
/// # Errors
/// A value cannot be worked with.
pub fn check(approvals: &Approvals, url: Option<&str>) -> Result<(), String> {
    for (at, ask) in approvals.ask.iter().enumerate() {
        let name = ask.name();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if !(1..=60).contains(&name.len()) || !name.chars().all(fits) {
            return Err(format!(
                "approvals: {name:?} is no name: 1 to 60 small letters (a to z), digits, `-` and `_`"
            ));
        }
        if approvals.ask.iter().take(at).any(|other| other.name() == name) {
            return Err(format!("approvals: there are two called {name:?}"));
        }
        ask.check().map_err(|message| format!("approvals: {name}: {message}"))?;
        if url.is_none() {
            return Err(format!(
                "approvals: {name}: messages lead to the collector's pages: set web.url to the address that people use"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Result<(), String> {
        let approvals: Approvals = serde_saphyr::from_str(&format!("{{ask: [{text}]}}"))
            .map_err(|error| error.without_snippet().to_string())?;
        check(&approvals, Some("https://collector.example"))
    }

    #[test]
    fn what_cannot_be_worked_with_is_refused_with_its_name() {
        let slack = "{kind: slack, name: a, channel: C0123456789, team: T0123456789, app: A0123456789, token: /t, signing_secret: /s}";
        let mail = "kind: email, name: m, from: 'Interlock <a@b.example>', to: [c@d.example]";
        assert_eq!(check_text(slack), Ok(()));
        assert_eq!(check_text(&format!("{{{mail}, server: 'starttls://h:587'}}")), Ok(()));
        assert_eq!(check_text(&format!("{{{mail}, server: 'tcp://[::1]:25'}}")), Ok(()));
        let members =
            "{kind: email, name: m, from: 'a@b', server: 'tls://h:465', members: true, domains: [d.example]}";
        assert_eq!(check_text(members), Ok(()));
        for (text, says) in [
            (format!("{slack}, {slack}"), "two called"),
            (slack.replace("C0123456789", "'#dba'"), "no channel's id"),
            (slack.replace("T0123456789", "''"), "team:"),
            (slack.replace("A0123456789", "T0123456789"), "app:"),
            (slack.replace("app: A0123456789, ", ""), "app"),
            (slack.replace("/t", "/t, colour: red"), "colour"),
            (slack.replace("/t", "/t, api: 'http://slack.example/s3cret'"), "in the clear"),
            (slack.replace("name: a", "name: 'a:b'"), "no name"),
            (slack.replace("slack", "irc"), "irc"),
            (format!("{{{mail}, server: 'tcp://h:25'}}"), "in the clear"),
            (format!("{{{mail}, server: 'tls://h'}}"), "with a port"),
            (format!("{{{mail}, server: 'tls://h:465', domains: [d.example]}}"), "members: true"),
            (
                format!("{{{mail}, server: 'tls://h:465', members: true, domains: ['@d.example']}}"),
                "no domain",
            ),
            ("{kind: email, name: m, from: 'a@b', server: 'tls://h:465'}".into(), "nobody is asked"),
            (format!("{{{mail}, server: 'tls://h:465', user: u}}"), "go together"),
            (
                "{kind: email, name: m, server: 'tls://h:465', from: 'a@b', to: [\"a@b\\nBcc: x@y\"]}".into(),
                "no mail address",
            ),
            ("{kind: webhook, name: w, url: 'https://u:s3cret@h/', secret: /s}".into(), "no address"),
        ] {
            let message = check_text(&text).expect_err(&text);
            assert!(message.contains(says) && !message.contains("s3cret"), "{text}: {message}");
        }
        let approvals: Approvals = serde_saphyr::from_str(&format!("{{ask: [{slack}]}}")).unwrap();
        assert!(check(&approvals, None).is_err_and(|message| message.contains("web.url")));
    }
}
