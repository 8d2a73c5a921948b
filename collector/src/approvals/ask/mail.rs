//! Mail: plain text with a link. Nothing is decided by opening the link, which mail scanners do too: the page asks who it
//! is, and for a click.

use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{SmtpTransport, Transport as _};

use super::config::Email;
use super::members::Member;
use super::send::{Failure, later};
use super::shown::Shown;
use crate::outputs::config::server;
use crate::outputs::secret_line;

/// For each step with the server.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends mail through one server.
pub(super) struct Mail {
    config: Email,
    /// As a part of addresses of messages.
    collector: String,
}

impl Mail {
    pub(super) fn new(config: &Email, collector: &str) -> anyhow::Result<Self> {
        let fits = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
        let this = Self { config: config.clone(), collector: collector.chars().map(fits).collect() };
        this.transport()?;
        Ok(this)
    }

    fn transport(&self) -> anyhow::Result<SmtpTransport> {
        let address = server(&self.config.server).ok_or_else(|| anyhow::anyhow!("server is no address"))?;
        let mut tls = TlsParameters::builder(address.host.clone());
        if let Some(path) = &self.config.ca {
            let pem = std::fs::read(path)
                .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
            let wrong = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", path.display());
            tls = tls
                .add_root_certificate(Certificate::from_pem(&pem).map_err(|error| wrong(&error))?)
                .certificate_store(lettre::transport::smtp::client::CertificateStore::None);
        }
        let tls = match address.scheme.as_str() {
            "tls" => Tls::Wrapper(tls.build_rustls()?),
            "starttls" => Tls::Required(tls.build_rustls()?),
            _ => Tls::None,
        };
        let mut transport = SmtpTransport::builder_dangerous(address.host)
            .port(address.port.unwrap_or_default())
            .tls(tls)
            .hello_name(ClientId::Domain(self.collector.clone()))
            .timeout(Some(TIMEOUT));
        if let (Some(user), Some(path)) = (&self.config.user, &self.config.password) {
            let password = secret_line(path)?;
            transport = transport.credentials(Credentials::new(user.clone(), password.to_string()));
        }
        Ok(transport.build())
    }

    fn message(&self, shown: &Shown, answer: bool, member: Option<&Member>) -> anyhow::Result<Message> {
        // Each person's mails are a thread of their own.
        let whose = member.map(|member| format!("-{}", member.thread)).unwrap_or_default();
        let about = |what: &str| format!("<{what}-{}{whose}@{}>", shown.id, self.collector);
        let state = if shown.pending() { "Approval" } else { &shown.state };
        // One line, in which nothing controls: it was made so.
        let subject = format!("[Interlock] {state} {}: {}", shown.request, shown.title);
        let mut message = Message::builder()
            .from(self.config.from.parse::<Mailbox>()?)
            .subject(subject)
            .header(ContentType::TEXT_PLAIN);
        match member {
            Some(member) => message = message.to(Mailbox::new(None, member.address.clone())),
            None => {
                for address in &self.config.to {
                    message = message.to(address.parse::<Mailbox>()?);
                }
            }
        }
        message = if answer {
            message
                .message_id(Some(about("ended")))
                .in_reply_to(about("approval"))
                .references(about("approval"))
        } else {
            message.message_id(Some(about("approval")))
        };
        Ok(message.body(body(shown))?)
    }

    /// Sends one mail to all who are named in the configuration; `answer` when there was one before.
    pub(super) async fn send(&self, shown: &Shown, answer: bool) -> Result<(), Failure> {
        if self.config.to.is_empty() {
            return Ok(());
        }
        self.send_to(shown, answer, None).await
    }

    /// Sends one mail to a member of the groups, or to all who are named in the configuration.
    pub(super) async fn send_to(
        &self,
        shown: &Shown,
        answer: bool,
        member: Option<&Member>,
    ) -> Result<(), Failure> {
        let message =
            self.message(shown, answer, member).map_err(|error| Failure::Refused(format!("{error:#}")))?;
        let transport = self.transport().map_err(|error| later(format_args!("{error:#}")))?;
        let sent = tokio::task::spawn_blocking(move || transport.send(&message)).await.map_err(later)?;
        sent.map(drop).map_err(|error| {
            let code = error.status().map(u16::from);
            let why = match code {
                Some(code) => format!("the mail server answers with {code}"),
                None => format!("the mail server cannot be asked: {error}"),
            };
            match code {
                // No mailbox, not allowed, syntax, refused: of this very mail. Others, such as 535 for a wrong password,
                // are of the configuration.
                Some(550..=554) => Failure::Refused(why),
                _ => later(why),
            }
        })
    }
}

fn body(shown: &Shown) -> String {
    let mut text = format!("{}\n\n", shown.title);
    if !shown.outcome.is_empty() {
        text.push_str(&format!("{}\n\n", shown.outcome));
    }
    for (name, value) in &shown.facts {
        text.push_str(&format!("{name:<12} {value}\n"));
    }
    // Each line of it is marked, so that none of it can pass for a line of this message.
    text.push('\n');
    for line in shown.text.lines() {
        text.push_str(&format!("> {line}\n"));
    }
    if shown.cut {
        text.push_str("(This is not all of it: the request's page shows the rest.)\n");
    }
    if !shown.message.is_empty() {
        text.push_str(&format!("\nThe rule says: {}\n", shown.message));
    }
    let what = if shown.pending() { "Look at it and decide, signed in" } else { "Look at it" };
    text.push_str(&format!("\n{what}:\n{}\n", shown.url));
    text
}
