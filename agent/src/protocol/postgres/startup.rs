//! The packets that open a connection (PostgreSQL manual, "Start-up" and "Message Formats"): they have
//! no type byte, only a length and a code.

use super::codec::{CodecError, Reader};

/// The longest start-up packet that the server accepts (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_PACKET: usize = 10_000;

const CANCEL: u32 = (1234 << 16) | 5678;
const SSL: u32 = (1234 << 16) | 5679;
const GSSENC: u32 = (1234 << 16) | 5680;

/// What the first bytes of a connection say about its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detection {
    /// It is this protocol.
    Yes,
    /// It is not.
    No,
    /// It may be; more bytes are needed.
    NeedMore,
}

/// Whether a connection that opens with `bytes` speaks PostgreSQL: a start-up packet, a request for
/// encryption, or a cancel request.
pub fn looks_like(bytes: &[u8]) -> Detection {
    let Some(word) = bytes.first_chunk::<8>() else {
        // The length is below 10,000 and so begins with two zero bytes.
        return if bytes.iter().take(2).all(|&byte| byte == 0) { Detection::NeedMore } else { Detection::No };
    };
    let length = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
    let code = u32::from_be_bytes([word[4], word[5], word[6], word[7]]);
    let matches = match code {
        SSL | GSSENC => length == 8,
        CANCEL => (16..=1024).contains(&length),
        _ => (8..=10_000).contains(&length) && matches!(code >> 16, 2 | 3),
    };
    if matches { Detection::Yes } else { Detection::No }
}

/// The packet that opens a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    GssEnc,
    /// Asks to cancel what another connection runs: its process id (the key is a secret).
    Cancel {
        /// The server process.
        process: i32,
    },
    /// Opens a session.
    Startup(Startup<'a>),
}

/// Why a connection cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// A TLS handshake where none was agreed on.
    #[error("the client began TLS after it was told that there is none")]
    Tls,
    /// The length is out of bounds.
    #[error("invalid length of start-up packet: {0}")]
    Length(u32),
    /// Another major version than 3.
    #[error("unsupported frontend protocol {major}.{minor}: only 3.x can be followed")]
    Version {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
    /// The body is malformed.
    #[error("malformed start-up packet: {0}")]
    Malformed(#[from] CodecError),
}

/// A StartupMessage's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Startup<'a> {
    parameters: &'a [u8],
}

/// Reads the packet at the front of `bytes` and says how long it is; `None` when it is not whole yet.
///
/// # Errors
/// It cannot become a packet that a server accepts.
pub fn read(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, StartupError> {
    if bytes.first() == Some(&0x16) {
        return Err(StartupError::Tls);
    }
    let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() else { return Ok(None) };
    let word = u32::from_be_bytes([a, b, c, d]);
    let length = usize::try_from(word).map_err(|_| StartupError::Length(word))?;
    if !(8..=MAX_PACKET).contains(&length) {
        return Err(StartupError::Length(word));
    }
    let Some(packet) = bytes.get(4..length) else { return Ok(None) };
    let mut reader = Reader::new(packet);
    let code = reader.oid()?;
    let packet = match code {
        SSL => Packet::Ssl,
        GSSENC => Packet::GssEnc,
        CANCEL => Packet::Cancel { process: reader.i32()? },
        _ if code >> 16 != 3 => {
            return Err(StartupError::Version { major: code >> 16, minor: code & 0xffff });
        }
        _ => {
            let startup = Startup { parameters: reader.rest() };
            startup.check()?;
            Packet::Startup(startup)
        }
    };
    Ok(Some((packet, length)))
}

impl<'a> Startup<'a> {
    fn check(&self) -> Result<(), CodecError> {
        let mut reader = Reader::new(self.parameters);
        loop {
            if reader.cstr()?.is_empty() {
                return reader.end();
            }
            reader.cstr()?;
        }
    }

    /// Names and values, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut reader = Reader::new(self.parameters);
        std::iter::from_fn(move || {
            let name = reader.cstr().ok().filter(|name| !name.is_empty())?;
            Some((name, reader.cstr().ok()?))
        })
    }

    /// A parameter's value. The last one counts, as on the server.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.parameters().filter(|(key, _)| *key == name.as_bytes()).last().map(|(_, value)| value)
    }

    /// The connection is in replication mode: `replication` is a true boolean or `database`.
    pub fn replication(&self) -> bool {
        // What the server does not read as false may be true in some version of it.
        self.get("replication").is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            !(value == b"0"
                || (!value.is_empty() && b"false".starts_with(&value))
                || (!value.is_empty() && b"no".starts_with(&value))
                || value == b"off"
                || value == b"of")
        })
    }

    /// Settings given in `options` (`-c name=value`, `--name=value`, `-cname=value`), names in lower
    /// case with `-` read as `_`, as the server does.
    pub fn options(&self) -> Vec<(String, String)> {
        let words = split_options(self.get("options").unwrap_or_default());
        let mut settings = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix("--") {
                Some(setting) => setting.to_owned(),
                None => match word.strip_prefix("-c") {
                    Some("") => words.next().unwrap_or_default(),
                    Some(setting) => setting.to_owned(),
                    None => continue,
                },
            };
            if let Some((name, value)) = setting.split_once('=') {
                settings.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
            }
        }
        settings
    }
}

/// Splits on white space; a backslash takes the next byte as it is (`pg_split_opts`).
fn split_options(options: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(options);
    let mut words = Vec::new();
    let mut word = String::new();
    let mut escaped = false;
    for c in text.chars() {
        if escaped {
            word.push(c);
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c.is_ascii_whitespace() || c == '\x0b' {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(8 + rest.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn detection() {
        let startup = packet(3 << 16, b"user\0u\0\0");
        assert_eq!(looks_like(&startup), Detection::Yes);
        assert_eq!(looks_like(&startup[..3]), Detection::NeedMore);
        assert_eq!(looks_like(&packet(SSL, b"")), Detection::Yes);
        assert_eq!(looks_like(&packet(GSSENC, b"")), Detection::Yes);
        assert_eq!(looks_like(&packet(CANCEL, &[0; 8])), Detection::Yes);
        assert_eq!(looks_like(&packet(CANCEL, &[0; 36])), Detection::Yes);
        assert_eq!(looks_like(b"GET / HTTP/1.1\r\n"), Detection::No);
        assert_eq!(looks_like(&[0x16, 3, 1]), Detection::No);
        assert_eq!(looks_like(b""), Detection::NeedMore);
    }

    #[test]
    fn startup_parameters() {
        let bytes = packet(
            (3 << 16) | 2,
            b"user\0joe\0database\0shop\0replication\0database\0options\0-c search_path=a\\ b --standard-conforming-strings=off -cx=1 -d 5\0\0",
        );
        let (Packet::Startup(startup), length) = read(&bytes).unwrap().unwrap() else { panic!() };
        assert_eq!(length, bytes.len());
        assert_eq!(startup.get("user"), Some(&b"joe"[..]));
        assert!(startup.replication());
        let options = startup.options();
        let expected = [("search_path", "a b"), ("standard_conforming_strings", "off"), ("x", "1")];
        assert_eq!(options, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Ok(None));
        }
    }

    #[test]
    fn refused_openings() {
        assert_eq!(read(&[0x16, 3, 1]), Err(StartupError::Tls));
        assert_eq!(read(&packet(2 << 16, b"x")), Err(StartupError::Version { major: 2, minor: 0 }));
        assert_eq!(read(&[0, 0, 0, 4]), Err(StartupError::Length(4)));
        assert_eq!(read(&[0, 1, 0, 0]), Err(StartupError::Length(65536)));
        assert!(matches!(read(&packet(3 << 16, b"user\0joe\0")), Err(StartupError::Malformed(_))));
        assert!(matches!(read(&packet(3 << 16, b"user\0joe\0\0x")), Err(StartupError::Malformed(_))));
    }

    #[test]
    fn replication_spellings() {
        for (value, expected) in [
            ("true", true),
            ("on", true),
            ("1", true),
            ("database", true),
            ("off", false),
            ("F", false),
            ("no", false),
            ("0", false),
        ] {
            let bytes = packet(3 << 16, format!("user\0u\0replication\0{value}\0\0").as_bytes());
            let (Packet::Startup(startup), _) = read(&bytes).unwrap().unwrap() else { panic!() };
            assert_eq!(startup.replication(), expected, "{value}");
        }
    }
}
