//! A client that speaks the protocol in the raw.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A message, type and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut rest = self.body.as_slice();
        while let Some((&found, after)) = rest.split_first() {
            let end = after.iter().position(|&byte| byte == 0)?;
            if found == code {
                return Some(String::from_utf8_lossy(&after[..end]).into_owned());
            }
            rest = &after[end + 1..];
        }
        None
    }

    /// The values of a DataRow.
    pub fn values(&self) -> Vec<Option<Vec<u8>>> {
        let count = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let mut at = 2;
        (0..count)
            .map(|_| {
                let length = i32::from_be_bytes(self.body[at..at + 4].try_into().unwrap());
                at += 4;
                let length = usize::try_from(length).ok()?;
                at += length;
                Some(self.body[at - length..at].to_vec())
            })
            .collect()
    }

    /// The values of a DataRow as text.
    pub fn texts(&self) -> Vec<String> {
        self.values()
            .into_iter()
            .map(|value| value.map_or("NULL".into(), |value| String::from_utf8_lossy(&value).into_owned()))
            .collect()
    }
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

pub fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &cstr(text))
}

pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[cstr(name), cstr(text), vec![0, 0]].concat())
}

/// Text parameters, all results in `format`.
pub fn bind_as(portal: &str, statement: &str, params: &[Option<&str>], format: u8) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement), vec![0, 0]].concat();
    body.extend(u16::try_from(params.len()).unwrap().to_be_bytes());
    for param in params {
        match param {
            Some(text) => {
                body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                body.extend(text.as_bytes());
            }
            None => body.extend([0xff; 4]),
        }
    }
    body.extend([0, 1, 0, format]);
    message(b'B', &body)
}

pub fn bind(portal: &str, statement: &str, params: &[Option<&str>]) -> Vec<u8> {
    bind_as(portal, statement, params, 0)
}

pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[vec![kind], cstr(name)].concat())
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[vec![kind], cstr(name)].concat())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[cstr(portal), rows.to_be_bytes().to_vec()].concat())
}

/// A FunctionCall with arguments in text.
pub fn function_call(function: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend(u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub struct Client {
    pub stream: TcpStream,
    /// All bytes from the server since the log-in.
    pub raw: Vec<u8>,
    read: usize,
    /// Process id and key for cancelling.
    pub key: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::with(address, &[])
    }

    pub fn with(address: SocketAddr, parameters: &[(&str, &str)]) -> Self {
        let mut client = Self::open(address);
        client.startup(parameters);
        let answer = client.until_ready();
        let key = answer.iter().find(|message| message.tag == b'K').map(|message| message.body.clone());
        assert_eq!(answer.last().unwrap().tag, b'Z', "{answer:?}");
        client.key = key.unwrap_or_default();
        client.raw.clear();
        client.read = 0;
        client
    }

    /// Forgets what was read; gives it.
    pub fn take_raw(&mut self) -> Vec<u8> {
        assert_eq!(self.read, self.raw.len(), "not all was read");
        self.read = 0;
        std::mem::take(&mut self.raw)
    }

    /// Without a start-up message.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, raw: Vec::new(), read: 0, key: Vec::new() }
    }

    pub fn startup(&mut self, parameters: &[(&str, &str)]) {
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for (name, value) in [("user", "postgres")].iter().chain(parameters) {
            body.extend(cstr(name));
            body.extend(cstr(value));
        }
        body.push(0);
        let mut packet = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
        packet.extend(body);
        self.send(&packet);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            let rest = &self.raw[self.read..];
            if let Some(&[tag, a, b, c, d]) = rest.first_chunk::<5>() {
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap() + 1;
                if let Some(whole) = rest.get(5..length) {
                    let message = Message { tag, body: whole.to_vec() };
                    self.read += length;
                    return Some(message);
                }
            }
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.raw.extend(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}; so far {:?}", String::from_utf8_lossy(&self.raw)),
            }
        }
    }

    /// All messages up to a ReadyForQuery, or the connection's end.
    pub fn until_ready(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.next() {
            let ready = message.tag == b'Z';
            all.push(message);
            if ready {
                break;
            }
        }
        all
    }

    /// Sends, and reads up to ReadyForQuery.
    pub fn ask(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.send(bytes);
        self.until_ready()
    }

    /// The rows of a simple query, as text.
    pub fn rows(&mut self, text: &str) -> Vec<Vec<String>> {
        let answer = self.ask(&query(text));
        if let Some(error) = answer.iter().find(|message| message.tag == b'E') {
            panic!("{text}: {:?}", error.field(b'M'));
        }
        answer.iter().filter(|message| message.tag == b'D').map(Message::texts).collect()
    }

    /// The error of a simple query: SQLSTATE and message, and the status after it.
    pub fn error(&mut self, text: &str) -> (String, String, u8) {
        outcome(&self.ask(&query(text)))
    }
}

/// The first error in an answer, and the status at its end.
pub fn outcome(answer: &[Message]) -> (String, String, u8) {
    let error =
        answer.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("no error: {answer:?}"));
    let status = answer.last().filter(|last| last.tag == b'Z').map_or(0, |last| last.body[0]);
    (error.field(b'C').unwrap(), error.field(b'M').unwrap(), status)
}

/// The types of messages, as a string.
pub fn tags(answer: &[Message]) -> String {
    answer.iter().map(|message| char::from(message.tag)).collect()
}
