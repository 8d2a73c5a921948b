//! The first messages of a TLS handshake, as far as they can be read by whoever passes them on: the
//! client's ClientHello, and the server's answer up to its certificate (RFC 8446, RFC 5246, RFC 6066,
//! RFC 7301).
//!
//! Nothing here is decrypted or verified. Sizes are bounded, and messages may be split over records at
//! any place.

/// Most bytes of records that are read for one handshake message. OpenSSL takes 16 KiB for a ClientHello
/// and 100 KiB for a chain of certificates.
pub const MOST: usize = 128 << 10;
/// Most protocols of a client's ALPN that are kept.
const MOST_PROTOCOLS: usize = 64;

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// No TLS.
    Other,
    /// TLS, or too few bytes to tell.
    NeedMore,
    /// TLS.
    Hello(ClientHello),
    /// It begins as TLS does and goes on as nothing that a server would take.
    Malformed,
}

/// What a client says in the clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name that it asks for.
    pub server_name: Option<String>,
    /// The protocols that it offers, in its order.
    pub alpn: Vec<Vec<u8>>,
    /// It offers TLS 1.3.
    pub tls13: bool,
}

/// What a server says in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// More bytes are needed.
    NeedMore,
    /// TLS 1.3: the rest is encrypted.
    Hidden,
    /// TLS 1.2 and before: its own certificate, in DER; empty when it shows none.
    Certificate {
        /// The protocol's version as on the wire: 0x0303 is TLS 1.2.
        version: u16,
        /// In DER.
        der: Vec<u8>,
    },
    /// It refused, or what it says is no TLS, or a resumed session that shows no certificate.
    Unknown,
}

/// Whether a connection that opens with `bytes` speaks TLS, and what it asks for.
pub fn opening(bytes: &[u8]) -> Opening {
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, 3] => return Opening::NeedMore,
        [HANDSHAKE, 3, ..] => {}
        _ => return Opening::Other,
    }
    match message(bytes, 0) {
        Message::NeedMore if bytes.len() < MOST => Opening::NeedMore,
        Message::Whole(CLIENT_HELLO, body) => client_hello(&body).map_or(Opening::Malformed, Opening::Hello),
        _ => Opening::Malformed,
    }
}

/// What a server's first bytes tell.
pub fn answer(bytes: &[u8]) -> Answer {
    let hello = match message(bytes, 0) {
        Message::Whole(SERVER_HELLO, body) => body,
        Message::NeedMore if bytes.len() < MOST => return Answer::NeedMore,
        _ => return Answer::Unknown,
    };
    let Some(version) = server_version(&hello) else { return Answer::Unknown };
    if version >= TLS13 {
        return Answer::Hidden;
    }
    match message(bytes, 1) {
        Message::Whole(CERTIFICATE, body) => {
            let der = first_certificate(&body);
            der.map_or(Answer::Unknown, |der| Answer::Certificate { version, der })
        }
        Message::NeedMore if bytes.len() < MOST => Answer::NeedMore,
        _ => Answer::Unknown,
    }
}

enum Message {
    NeedMore,
    Whole(u8, Vec<u8>),
    Other,
}

/// The handshake message at place `nth`, put together from as many records as it takes.
fn message(bytes: &[u8], nth: usize) -> Message {
    let mut reader = Reader(bytes);
    let mut plain: Vec<u8> = Vec::new();
    let whole = loop {
        if let Some(found) = nth_message(&plain, nth) {
            break Some(found);
        }
        let Some(kind) = reader.u8() else { break None };
        // An alert in its place is the end of it.
        if kind == ALERT {
            return Message::Other;
        }
        let Some(major) = reader.u8() else { break None };
        if kind != HANDSHAKE || major != 3 {
            return Message::Other;
        }
        let (Some(_), Some(length)) = (reader.u8(), reader.u16()) else { break None };
        // RFC 8446, 5.1: no empty fragments, and at most 2^14 bytes.
        if length == 0 || length > 1 << 14 {
            return Message::Other;
        }
        let fragment = reader.some(usize::from(length));
        plain.extend_from_slice(fragment);
        if plain.len() > MOST {
            return Message::Other;
        }
        if fragment.len() < usize::from(length) {
            break nth_message(&plain, nth);
        }
    };
    match whole {
        None => Message::NeedMore,
        Some(message) if message.len > MOST => Message::Other,
        Some(message) => match plain.get(message.start..message.start + message.len) {
            Some(body) => Message::Whole(message.kind, body.to_vec()),
            None => Message::NeedMore,
        },
    }
}

struct Found {
    kind: u8,
    start: usize,
    len: usize,
}

/// Where the message at place `nth` lies. Its front is there, and it is whole or too long to be read.
fn nth_message(plain: &[u8], nth: usize) -> Option<Found> {
    let mut at = 0;
    for place in 0..=nth {
        let mut reader = Reader(plain.get(at..)?);
        let kind = reader.u8()?;
        let len = reader.u24()?;
        let start = at + 4;
        if place == nth {
            return (len > MOST || plain.len() >= start + len).then_some(Found { kind, start, len });
        }
        at = start + len;
    }
    None
}

fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.u16()?;
    reader.take(32)?;
    reader.vector8()?; // session id
    reader.vector16()?; // cipher suites
    reader.vector8()?; // compression methods
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    if !reader.0.is_empty() {
        return None;
    }
    let mut seen = [false; 3];
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut data = Reader(extensions.vector16()?);
        let place = match kind {
            SERVER_NAME => 0,
            ALPN => 1,
            SUPPORTED_VERSIONS => 2,
            _ => continue,
        };
        // Of two that differ a server might take the other one.
        if std::mem::replace(seen.get_mut(place)?, true) {
            return None;
        }
        match kind {
            SERVER_NAME => {
                let mut list = Reader(data.vector16()?);
                while !list.0.is_empty() {
                    let kind = list.u8()?;
                    let name = list.vector16()?;
                    if kind == 0 {
                        let name = std::str::from_utf8(name).ok()?;
                        let sound = !name.is_empty() && name.len() <= 255 && name.is_ascii();
                        if !sound || hello.server_name.is_some() || name.chars().any(|c| c.is_control()) {
                            return None;
                        }
                        hello.server_name = Some(name.to_ascii_lowercase());
                    }
                }
            }
            ALPN => {
                let mut list = Reader(data.vector16()?);
                while !list.0.is_empty() {
                    let protocol = list.vector8()?;
                    if protocol.is_empty() || hello.alpn.len() == MOST_PROTOCOLS {
                        return None;
                    }
                    hello.alpn.push(protocol.to_vec());
                }
            }
            _ => {
                let mut list = Reader(data.vector8()?);
                while !list.0.is_empty() {
                    hello.tls13 |= list.u16()? == TLS13;
                }
            }
        }
        if !data.0.is_empty() {
            return None;
        }
    }
    Some(hello)
}

fn server_version(body: &[u8]) -> Option<u16> {
    let mut reader = Reader(body);
    let legacy = reader.u16()?;
    reader.take(32)?;
    reader.vector8()?;
    reader.u16()?;
    reader.u8()?;
    if !(0x0300..=TLS12).contains(&legacy) {
        return None;
    }
    if reader.0.is_empty() {
        return Some(legacy);
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut data = Reader(extensions.vector16()?);
        if kind == SUPPORTED_VERSIONS {
            return data.u16();
        }
    }
    Some(legacy)
}

fn first_certificate(body: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(body);
    let length = reader.u24()?;
    let mut list = Reader(reader.take(length)?);
    if list.0.is_empty() {
        return Some(Vec::new());
    }
    let length = list.u24()?;
    list.take(length).map(<[u8]>::to_vec)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// As many bytes as there are, up to `most`.
    fn some(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(most).unwrap_or((self.0, &[]));
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes: [u8; 2] = self.take(2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    }

    fn u24(&mut self) -> Option<usize> {
        let high = self.u8()?;
        let low = self.u16()?;
        Some(usize::from(high) << 16 | usize::from(low))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What rustls sends first.
    pub(in crate::tls) fn real(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let roots = rustls::RootCertStore::empty();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of `size` bytes.
    fn split(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for fragment in bytes[5..].chunks(size) {
            out.extend([HANDSHAKE, 3, 1]);
            out.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
            out.extend(fragment);
        }
        out
    }

    fn expected() -> ClientHello {
        ClientHello {
            server_name: Some("db.example".to_owned()),
            alpn: vec![b"postgresql".to_vec(), b"h2".to_vec()],
            tls13: true,
        }
    }

    #[test]
    fn a_real_hello_whole_and_split() {
        let bytes = real("db.example", &[b"postgresql", b"h2"]);
        assert_eq!(opening(&bytes), Opening::Hello(expected()));
        for size in [1, 2, 3, 7, 100] {
            let records = split(&bytes, size);
            assert_eq!(opening(&records), Opening::Hello(expected()), "{size}");
            for cut in 0..records.len() {
                assert_eq!(opening(&records[..cut]), Opening::NeedMore, "{size} {cut}");
            }
        }
        // Whatever follows is not looked at.
        let more = [&bytes[..], b"garbage"].concat();
        assert_eq!(opening(&more), Opening::Hello(expected()));
    }

    #[test]
    fn no_name_for_an_address() {
        let Opening::Hello(hello) = opening(&real("127.0.0.1", &[])) else { panic!() };
        assert_eq!(hello, ClientHello { server_name: None, alpn: Vec::new(), tls13: true });
    }

    #[test]
    fn other_protocols_and_nonsense() {
        assert_eq!(opening(b""), Opening::NeedMore);
        assert_eq!(opening(b"GET / HTTP/1.1"), Opening::Other);
        assert_eq!(opening(&[0, 0, 0, 8, 4, 210, 22, 47]), Opening::Other);
        assert_eq!(opening(&[22, 2, 0, 0, 1, 1]), Opening::Other, "SSL 2");
        assert_eq!(opening(&[22, 3, 1, 0, 0]), Opening::Malformed, "an empty record");
        assert_eq!(opening(&[22, 3, 1, 0x40, 1]), Opening::Malformed, "a record that is too long");
        assert_eq!(opening(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Opening::Malformed, "another message");
        assert_eq!(opening(&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]), Opening::Malformed, "a huge message");
        let mut two = real("db.example", &[]);
        two.extend([HANDSHAKE, 3, 3, 0, 0]);
        assert!(matches!(opening(&two), Opening::Hello(_)));
    }

    #[test]
    fn a_servers_answer() {
        // ServerHello of TLS 1.2 without extensions, then Certificate with one of three bytes.
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0xc0, 0x2b, 0]);
        let mut messages = vec![SERVER_HELLO, 0, 0, u8::try_from(body.len()).unwrap()];
        messages.extend(&body);
        messages.extend([CERTIFICATE, 0, 0, 9, 0, 0, 6, 0, 0, 3, 1, 2, 3]);
        let mut bytes = vec![HANDSHAKE, 3, 3];
        bytes.extend(u16::try_from(messages.len()).unwrap().to_be_bytes());
        bytes.extend(&messages);
        let certificate = Answer::Certificate { version: TLS12, der: vec![1, 2, 3] };
        assert_eq!(answer(&bytes), certificate);
        for cut in 0..bytes.len() {
            assert_eq!(answer(&bytes[..cut]), Answer::NeedMore, "{cut}");
        }
        assert_eq!(answer(&split(&bytes, 5)), certificate);
        assert_eq!(answer(&[ALERT, 3, 3, 0, 2, 2, 40]), Answer::Unknown);
        // The same with supported_versions.
        body.extend([0, 6, 0, 43, 0, 2, 3, 4]);
        let mut bytes = vec![HANDSHAKE, 3, 3, 0, u8::try_from(body.len() + 4).unwrap(), SERVER_HELLO, 0, 0];
        bytes.push(u8::try_from(body.len()).unwrap());
        bytes.extend(&body);
        assert_eq!(answer(&bytes), Answer::Hidden);
    }

    proptest! {
        #[test]
        fn hostile_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0_usize..300,
            byte: u8,
            size in 1_usize..40,
        ) {
            let _ = opening(&bytes);
            let _ = answer(&bytes);
            bytes.splice(0..0, [HANDSHAKE, 3, 1]);
            let _ = opening(&bytes);
            let _ = answer(&bytes);
            let mut hello = real("db.example", &[b"postgresql"]);
            if let Some(place) = hello.get_mut(at) {
                *place = byte;
            }
            let whole = opening(&hello);
            if hello[..5] == real("db.example", &[b"postgresql"])[..5] {
                prop_assert_eq!(opening(&split(&hello, size)), whole);
            }
        }
    }
}
