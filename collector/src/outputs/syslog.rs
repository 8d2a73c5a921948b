//! Syslog: RFC 5424 messages over TCP with octet counting (RFC 6587) or TLS (RFC 5425).

use std::fmt::Write as _;
use std::time::Duration;

use interlock_recording::json::time;
use interlock_recording::text::printable;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config;
use super::message::Message;
use super::send::Failure;
use super::tls;

/// Syslog acknowledges nothing: what was sent so long ago, on a connection that still holds, counts as there. By
/// then the connection has ended if the server's system did not take it.
pub(super) const SETTLES: Duration = Duration::from_secs(30);
/// After so long the connection ends when the server's system has not acknowledged what was sent: a network that
/// swallows everything ends none by itself for a quarter of an hour. Well below [`SETTLES`].
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// For a connection, a handshake, or writing a batch.
const TIMEOUT: Duration = Duration::from_secs(15);
/// For ending a connection.
const FINISH: Duration = Duration::from_secs(1);
/// The SD-ID. Its number is the one that RFC 5612 leaves for those who have none.
const SD_ID: &str = "interlock@32473";
/// Bytes of one parameter that is no text of a command.
const PARAMETER: usize = 512;
/// Parameters that stand before the others.
const FIRST: [&str; 8] = ["id", "kind", "verdict", "rule", "session", "host_name", "user", "db_user"];
/// What stands where something was cut off.
const CUT: &str = "[cut off]";

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Sends messages to one server, on one connection.
pub(super) struct Syslog {
    config: config::Syslog,
    collector: String,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    connection: Option<Box<dyn Stream>>,
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Later(error.to_string(), None)
}

impl Syslog {
    pub(super) fn new(config: &config::Syslog, collector: &str) -> anyhow::Result<Self> {
        let server =
            config::server(&config.server).ok_or_else(|| anyhow::anyhow!("syslog.server is no address"))?;
        let shown = config.certificate.as_ref().zip(config.key.as_ref());
        let encrypted = server.scheme == "tls";
        let tls = encrypted.then(|| tls::connector(config.ca.as_deref(), shown)).transpose()?;
        Ok(Self {
            config: config.clone(),
            collector: collector.to_owned(),
            host: server.host,
            port: server.port.unwrap_or_default(),
            tls,
            connection: None,
        })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let place = format!("{}:{}", self.host, self.port);
        let late = |what: &str| format!("{place}: {what} took longer than {} s", TIMEOUT.as_secs());
        let stream = timeout(TIMEOUT, TcpStream::connect((self.host.as_str(), self.port)))
            .await
            .map_err(|_| late("connecting"))?
            .map_err(|error| format!("{place} cannot be connected to: {error}"))?;
        watch(&stream).map_err(|error| format!("{place}: {error}"))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name =
            ServerName::try_from(self.host.clone()).map_err(|_| format!("{} is no name", self.host))?;
        let stream = timeout(TIMEOUT, tls.connect(name, stream))
            .await
            .map_err(|_| late("the TLS handshake"))?
            .map_err(|error| format!("{place}: TLS: {error}"))?;
        Ok(Box::new(stream))
    }

    pub(super) async fn send(&mut self, messages: &[&Message]) -> Result<(), Failure> {
        self.holds().await?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        for message in messages {
            let text = format(message, &self.config, &self.collector);
            bytes.extend_from_slice(format!("{} ", text.len()).as_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        let written = timeout(TIMEOUT, async {
            connection.write_all(&bytes).await?;
            connection.flush().await
        });
        match written.await {
            Ok(Ok(())) => {
                self.connection = Some(connection);
                Ok(())
            }
            Ok(Err(error)) => Err(failed(format_args!("the connection broke: {error}"))),
            Err(_) => Err(failed(format_args!("the receiver has taken nothing for {} s", TIMEOUT.as_secs()))),
        }
    }

    /// Ends the connection; whether the server has read all: then it ends its side too.
    pub(super) async fn finish(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else { return false };
        let ended = timeout(FINISH, async {
            connection.shutdown().await?;
            let mut said = [0; 512];
            while connection.read(&mut said).await? > 0 {}
            Ok::<_, std::io::Error>(())
        });
        matches!(ended.await, Ok(Ok(())))
    }

    /// Fails when there was a connection and the server has ended it.
    pub(super) async fn holds(&mut self) -> Result<(), Failure> {
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let mut said = [0; 512];
        for _ in 0..64 {
            // Servers say nothing; what one says is passed over, but not for ever.
            match timeout(Duration::ZERO, connection.read(&mut said)).await {
                Err(_) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Ok(Ok(0)) => return Err(failed("the receiver ended the connection")),
                Ok(Err(error)) => return Err(failed(format_args!("the connection broke: {error}"))),
                Ok(Ok(_)) => {}
            }
        }
        Err(failed("the receiver sends without end: it is no syslog server"))
    }
}

/// Has the system end a connection whose other side does not acknowledge what was sent.
fn watch(stream: &TcpStream) -> std::io::Result<()> {
    let most = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, most)?)
}

/// The longest beginning of `text` of at most `bytes` bytes.
fn beginning(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Text in which nothing moves, hides or ends a line, cut off after `bytes` bytes.
fn tame(text: &str, bytes: usize) -> String {
    let shown = printable(text);
    if shown.len() <= bytes {
        return shown.into_owned();
    }
    format!("{}{CUT}", beginning(&shown, bytes.saturating_sub(CUT.len())))
}

/// A field of the header: printable US-ASCII without blanks.
fn header(text: &str, bytes: usize) -> String {
    let fits = |c: &char| c.is_ascii_graphic();
    let text: String = text.chars().filter(fits).take(bytes).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// One message, without its length.
fn format(message: &Message, config: &config::Syslog, collector: &str) -> String {
    let mut text = String::new();
    let priority = u16::from(config.facility) * 8 + message.severity() as u16;
    // Six digits of a second are what RFC 5424 has room for.
    let at = time(message.time_ns().unsigned_abs());
    let at = at.strip_suffix("000Z").map_or_else(
        || at.get(..26).map_or_else(|| "-".to_owned(), |at| format!("{at}Z")),
        |at| format!("{at}Z"),
    );
    let _ = write!(
        text,
        "<{priority}>1 {at} {} interlock-collector - {} [{SD_ID}",
        header(collector, 255),
        message.name()
    );
    let long = config.max_bytes / 3;
    let mut object = message.json(collector);
    // What is looked for most stands first: there is room for so much and no more.
    let first = FIRST.iter().filter_map(|name| object.remove_entry(*name)).collect::<Vec<_>>();
    for (name, value) in first.into_iter().chain(object) {
        if matches!(name.as_str(), "collector" | "time") {
            continue;
        }
        let value = match value {
            Value::Null => continue,
            Value::String(value) => value,
            Value::Array(values) => values
                .iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(" "),
            other => other.to_string(),
        };
        let bytes = if matches!(name.as_str(), "text" | "detail") { long } else { PARAMETER };
        let room = (config.max_bytes * 3 / 4).saturating_sub(text.len());
        if value.is_empty() || room < name.len() + 64 {
            continue;
        }
        let _ = write!(text, " {name}=\"");
        // Escaping makes it twice as long at most.
        for character in tame(&value, bytes.min(room / 2)).chars() {
            if matches!(character, '"' | '\\' | ']') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('"');
    }
    text.push_str("] \u{feff}");
    let room = config.max_bytes.saturating_sub(text.len());
    text.push_str(&tame(&message.line(), room));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outputs::message::Body;
    use crate::sample::HOSTILE;
    use crate::store::AuditEntry;

    fn config() -> config::Syslog {
        serde_saphyr::from_str("{server: 'tcp://localhost:514'}").unwrap()
    }

    fn message(detail: &str) -> Message {
        let entry = AuditEntry {
            id: 7,
            at_ns: 1_700_000_000_123_456_789,
            actor: "alice".into(),
            action: "sign_in".into(),
            target: String::new(),
            detail: detail.into(),
            address: "10.0.0.1".into(),
        };
        Message { id: "audit:7".into(), body: Body::Audit(entry) }
    }

    #[test]
    fn a_message_is_as_rfc_5424_says() {
        let text = format(&message(r#"a "b" \ ]c"#), &config(), "collector.example");
        assert_eq!(
            text,
            "<109>1 2023-11-14T22:13:20.123456Z collector.example interlock-collector - audit \
             [interlock@32473 id=\"audit:7\" kind=\"audit\" action=\"sign_in\" actor=\"alice\" \
             address=\"10.0.0.1\" detail=\"a \\\"b\\\" \\\\ \\]c\" entry=\"7\"] \u{feff}alice: sign_in  a \"b\" \\ ]c"
        );
    }

    #[tokio::test]
    async fn a_silent_network_ends_a_connection_before_what_was_sent_counts() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        watch(&stream).unwrap();
        let most = rustix::net::sockopt::tcp_user_timeout(&stream).unwrap();
        assert!(most > 0 && Duration::from_millis(most.into()) < SETTLES / 2, "{most}");
    }

    #[test]
    fn hostile_text_neither_ends_a_line_nor_a_message() {
        let forged = format!("x\"] forged\n<34>1 2023-11-14T22:13:20Z h su - - - root{HOSTILE}");
        for length in [1, 500, 20_000] {
            let text = format(&message(&forged.repeat(length)), &config(), "c\r\no\u{202e}l lector");
            assert!(text.len() <= 8192, "{}", text.len());
            assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text}");
            let (head, _) = text.split_once(" interlock-collector - audit [").unwrap();
            assert!(head.ends_with(" collector"), "{head}");
            // No quote or bracket ends the structured data before its end.
            let data = text.split_once('[').unwrap().1;
            let mut inside = false;
            let mut escaped = false;
            let mut end = None;
            for (at, character) in data.char_indices() {
                match character {
                    _ if escaped => escaped = false,
                    '\\' if inside => escaped = true,
                    '"' => inside = !inside,
                    ']' if !inside => {
                        end = Some(at);
                        break;
                    }
                    _ => {}
                }
            }
            assert!(data[end.unwrap()..].starts_with("] \u{feff}alice: sign_in"), "{data}");
        }
    }
}
