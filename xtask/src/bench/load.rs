//! Both ends of the TLS measurements, each in a process of its own: a server that speaks as much of
//! PostgreSQL as a log-in and a COPY need, and clients for it.
//!
//! PostgreSQL itself takes longer to start a process for a connection than a proxy takes for TLS on both
//! legs, and would hide what is measured. Nor would nginx get to it: PostgreSQL takes TLS without an
//! SSLRequest only with ALPN, which nginx's stream proxy does not send to its servers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};

/// PostgreSQL's name in ALPN.
const ALPN: &[u8] = b"postgresql";
/// What PostgreSQL gathers before it writes, and so the size of its TLS records.
const SEND: usize = 8 << 10;
/// Sessions that the server keeps to be resumed.
const SESSIONS: usize = 4096;
/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(60);
/// The server's threads are many and do little.
const STACK: usize = 256 << 10;

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Not at all.
    Plain,
    /// TLS 1.3, each time with a whole handshake.
    Tls13,
    /// TLS 1.3, resumed.
    Tls13Resumed,
    /// TLS 1.2, each time with a whole handshake.
    Tls12,
    /// TLS 1.2, resumed.
    Tls12Resumed,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Plain, Self::Tls13, Self::Tls13Resumed, Self::Tls12, Self::Tls12Resumed];

    /// As clap reads it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls13 => "tls13",
            Self::Tls13Resumed => "tls13-resumed",
            Self::Tls12 => "tls12",
            Self::Tls12Resumed => "tls12-resumed",
        }
    }

    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::Plain => "no TLS",
            Self::Tls13 => "TLS 1.3, full",
            Self::Tls13Resumed => "TLS 1.3, resumed",
            Self::Tls12 => "TLS 1.2, full",
            Self::Tls12Resumed => "TLS 1.2, resumed",
        }
    }

    pub(super) fn resumes(self) -> bool {
        matches!(self, Self::Tls13Resumed | Self::Tls12Resumed)
    }

    /// `None`: no TLS.
    fn version(self) -> Option<&'static SupportedProtocolVersion> {
        match self {
            Self::Plain => None,
            Self::Tls13 | Self::Tls13Resumed => Some(&version::TLS13),
            Self::Tls12 | Self::Tls12Resumed => Some(&version::TLS12),
        }
    }
}

/// The server that `bench` measures TLS with.
#[derive(clap::Args)]
pub(crate) struct Server {
    /// Directory with server.crt and server.key.
    files: PathBuf,
    /// A port for each kind of connection, in their order.
    ports: Vec<u16>,
}

/// The client that `bench` measures TLS with.
#[derive(clap::Args)]
pub(crate) struct Client {
    port: u16,
    kind: Kind,
    /// The authority that the server's certificate must be of.
    root: PathBuf,
    #[command(subcommand)]
    work: Work,
}

#[derive(clap::Subcommand)]
enum Work {
    /// Connects, logs in and leaves, over and over. Prints how often, how many handshakes of its own and
    /// of the server's leg were resumed, and the seconds that it took.
    Connect { seconds: u32, threads: usize },
    /// Reads a COPY of so many megabytes. Prints the bytes and the seconds.
    Copy { megabytes: u64 },
    /// Opens so many connections, says so, and holds them until it is ended.
    Idle { connections: usize },
}

/// Raises the limit on open files as far as it goes.
fn many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

// === impl Server ===

impl Server {
    /// Serves until it is killed.
    pub(crate) fn serve(&self) -> Result<()> {
        many_files()?;
        ensure!(self.ports.len() == Kind::ALL.len(), "a port for each of {:?}", Kind::ALL);
        let rows = Arc::new(rows());
        let mut listening = Vec::new();
        for (kind, port) in Kind::ALL.into_iter().zip(&self.ports) {
            let listener = TcpListener::bind(("127.0.0.1", *port))?;
            let config = self.config(kind)?;
            let rows = Arc::clone(&rows);
            listening.push(thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let (config, rows) = (config.clone(), Arc::clone(&rows));
                    // A client that goes in the midst of it is the measurement's to report.
                    let _ = thread::Builder::new()
                        .stack_size(STACK)
                        .spawn(move || drop(answer(client, config, &rows)));
                }
            }));
        }
        for thread in listening {
            let _ = thread.join();
        }
        Ok(())
    }

    fn config(&self, kind: Kind) -> Result<Option<Arc<ServerConfig>>> {
        let Some(version) = kind.version() else { return Ok(None) };
        let chain =
            CertificateDer::pem_file_iter(self.files.join("server.crt"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(self.files.join("server.key"))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        if kind.resumes() {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
            config.send_tls13_tickets = 1;
        } else {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Some(Arc::new(config)))
    }
}

fn answer(mut client: TcpStream, config: Option<Arc<ServerConfig>>, rows: &[u8]) -> Result<()> {
    client.set_nodelay(true)?;
    let Some(config) = config else { return converse(&mut client, "none", rows) };
    let mut tls = ServerConnection::new(config)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut client)?;
    }
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    let mut stream = rustls::StreamOwned::new(tls, client);
    converse(&mut stream, if resumed { "resumed" } else { "full" }, rows)
}

/// The server's side of the protocol. `leg` is told to the client: it cannot see the server's leg itself.
fn converse(stream: &mut (impl Read + Write), leg: &str, rows: &[u8]) -> Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    body(stream, length)?;
    let mut greeting = message(b'R', &0_i32.to_be_bytes());
    for (name, value) in [
        ("server_version", "18.0"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
        ("leg", leg),
    ] {
        greeting.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    greeting.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
    greeting.extend(message(b'Z', b"I"));
    stream.write_all(&greeting)?;
    stream.flush()?;
    loop {
        let mut tag = [0];
        if stream.read(&mut tag)? == 0 {
            return Ok(());
        }
        stream.read_exact(&mut length)?;
        let text = body(stream, length)?;
        let wanted: u64 = match tag {
            [b'Q'] => {
                let digits = text.iter().filter(|byte| byte.is_ascii_digit()).copied().collect();
                String::from_utf8(digits)?.parse()?
            }
            _ => return Ok(()),
        };
        stream.write_all(&message(b'H', &[0, 0, 1, 0, 0]))?;
        for _ in 0..wanted {
            for chunk in rows.chunks(SEND) {
                stream.write_all(chunk)?;
            }
        }
        let mut end = message(b'c', b"");
        end.extend(message(b'C', b"COPY 1\0"));
        end.extend(message(b'Z', b"I"));
        stream.write_all(&end)?;
        stream.flush()?;
    }
}

fn body(stream: &mut impl Read, length: [u8; 4]) -> Result<Vec<u8>> {
    let length = u32::from_be_bytes(length).checked_sub(4).context("a message without a length")?;
    ensure!(length < 1 << 16, "a message of {length} bytes");
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32 + 4;
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// About a megabyte of rows, each a message of its own, as COPY sends them.
fn rows() -> Vec<u8> {
    let mut rows = Vec::new();
    let mut number = 1_u64;
    while rows.len() < 1 << 20 {
        // Any numbers will do that are not all the same (Knuth's generator).
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (a, b) = (number >> 40, number >> 20 & 0xfffff);
        let row = format!(
            "{a}\torder no. {b} of the autumn sale, sent by rail\t{}.{:02}\topen\n",
            b % 999,
            a % 100
        );
        rows.extend(message(b'd', row.as_bytes()));
    }
    rows
}

// === impl Client ===

impl Client {
    pub(crate) fn run(&self) -> Result<()> {
        many_files()?;
        let result = match self.work {
            Work::Connect { seconds, threads } => self.connect(seconds, threads)?,
            Work::Copy { megabytes } => self.copy(megabytes)?,
            Work::Idle { connections } => self.idle(connections)?,
        };
        println!("{result}");
        Ok(())
    }

    fn config(&self) -> Result<Option<Arc<ClientConfig>>> {
        let Some(version) = self.kind.version() else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.root)? {
            roots.add(root?)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        if !self.kind.resumes() {
            config.resumption = Resumption::disabled();
        }
        Ok(Some(Arc::new(config)))
    }

    fn connect(&self, seconds: u32, threads: usize) -> Result<String> {
        let begun = Instant::now();
        let until = begun + Duration::from_secs(u64::from(seconds));
        let work = || -> Result<[u64; 3]> {
            let config = self.config()?;
            let mut counts = [0; 3];
            while Instant::now() < until {
                let mut connection = self.log_in(config.as_ref())?;
                connection.stream.write_all(&message(b'X', b""))?;
                connection.stream.flush()?;
                counts[0] += 1;
                counts[1] += u64::from(connection.resumed);
                counts[2] += u64::from(connection.server_resumed);
            }
            Ok(counts)
        };
        let counts = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut sum = [0; 3];
            for thread in threads {
                let Ok(counts) = thread.join() else { bail!("a thread failed") };
                sum.iter_mut().zip(counts?).for_each(|(sum, count)| *sum += count);
            }
            Ok(sum)
        })?;
        let [connections, resumed, server_resumed] = counts;
        Ok(format!("{connections} {resumed} {server_resumed} {}", begun.elapsed().as_secs_f64()))
    }

    fn copy(&self, megabytes: u64) -> Result<String> {
        let mut connection = self.log_in(self.config()?.as_ref())?;
        let query = format!("COPY sample{megabytes} TO STDOUT\0");
        let begun = Instant::now();
        connection.stream.write_all(&message(b'Q', query.as_bytes()))?;
        connection.stream.flush()?;
        let bytes = connection.until_ready()?;
        Ok(format!("{bytes} {}", begun.elapsed().as_secs_f64()))
    }

    fn idle(&self, connections: usize) -> Result<String> {
        let config = self.config()?;
        let _held: Vec<_> = (0..connections).map(|_| self.log_in(config.as_ref())).collect::<Result<_>>()?;
        println!("open");
        loop {
            thread::park();
        }
    }

    /// A connection that has got as far as ReadyForQuery.
    fn log_in(&self, config: Option<&Arc<ClientConfig>>) -> Result<Connection> {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let mut resumed = false;
        let mut stream: Box<dyn Stream> = match config {
            None => Box::new(tcp),
            Some(config) => {
                let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut tcp)?;
                }
                resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                Box::new(rustls::StreamOwned::new(tls, tcp))
            }
        };
        let start = [&196_608_i32.to_be_bytes()[..], b"user\0app\0database\0shop\0\0"].concat();
        // Of the start-up message alone there is no tag.
        stream.write_all(message(b' ', &start).get(1..).unwrap_or_default())?;
        stream.flush()?;
        let mut connection = Connection { stream, resumed, server_resumed: false };
        connection.until_ready()?;
        Ok(connection)
    }
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    /// The client's own handshake was a resumption.
    resumed: bool,
    /// The one with the server was, as the server says.
    server_resumed: bool,
}

impl Connection {
    /// Reads up to ReadyForQuery; how many bytes.
    fn until_ready(&mut self) -> Result<u64> {
        let mut buffer = vec![0; 64 << 10];
        let (mut filled, mut all) = (0, 0);
        loop {
            let read = self.stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
            ensure!(read > 0, "the connection has ended");
            filled += read;
            all += read as u64;
            let mut rest = buffer.get(..filled).unwrap_or_default();
            while let Some((&[tag, a, b, c, d], _)) = rest.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
                let Some(body) = rest.get(5..length) else { break };
                rest = rest.get(length..).unwrap_or_default();
                match tag {
                    b'Z' => return Ok(all),
                    b'S' => self.server_resumed |= body == b"leg\0resumed\0",
                    b'E' => bail!("{}", String::from_utf8_lossy(body).replace('\0', " ")),
                    _ => {}
                }
            }
            let left = rest.len();
            buffer.copy_within(filled - left..filled, 0);
            filled = left;
        }
    }
}
