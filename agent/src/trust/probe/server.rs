//! A server on loopback that a client is pointed to: it has a certificate of the authority and sees
//! whether the client goes on after it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};
use zeroize::Zeroizing;

use crate::trust::Authority;

/// The name that the certificate bears.
pub(super) const NAME: &str = "localhost";

/// How long one step of a connection may take.
const STEP: Duration = Duration::from_secs(10);

/// PostgreSQL's requests that come before a start-up message: 8 bytes, the code in the last four.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// What the server saw of a client, the weightiest of all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// It did not connect.
    #[default]
    Nothing,
    /// It connected and went away.
    Left,
    /// It refused the certificate, with this alert.
    Refused(String),
    /// It took the certificate and sent something.
    Accepted,
}

/// The server's certificate and key.
#[derive(Debug, Clone)]
pub(super) struct Identity(Arc<ServerConfig>);

impl Identity {
    /// A certificate for [`NAME`], signed by the authority, valid for two days.
    pub(super) fn mint(authority: &Authority, key: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(key).map(Zeroizing::new).with_context(|| {
            format!("cannot read the authority's key {}, which needs root", key.display())
        })?;
        let authority_key = KeyPair::from_pem(&text).context("the authority's key is damaged")?;
        let issuer = Issuer::from_ca_cert_pem(&authority.pem, authority_key)
            .context("the authority's certificate is damaged")?;
        let mut params = CertificateParams::new([NAME.to_owned(), "127.0.0.1".to_owned()])?;
        let date = |days: i64| -> anyhow::Result<_> {
            let time = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(24 * days))?;
            let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
            let (month, day) = (u8::try_from(date.month())?, u8::try_from(date.day())?);
            Ok(rcgen::date_time_ymd(i32::from(date.year()), month, day))
        };
        (params.not_before, params.not_after) = (date(-1)?, date(2)?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf_key = KeyPair::generate()?;
        let leaf = params.signed_by(&leaf_key, &issuer)?;
        let chain = std::iter::once(leaf.der().clone())
            .chain(authority.certificates.iter().map(|one| CertificateDer::from(one.0.clone())))
            .collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Self(Arc::new(config)))
    }
}

/// A server for one client. When dropped it stops.
#[derive(Debug)]
pub(super) struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(identity: &Identity) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::Nothing)));
        let thread = thread::spawn({
            let (stop, seen, identity) = (Arc::clone(&stop), Arc::clone(&seen), identity.clone());
            move || {
                while !stop.load(Ordering::Acquire) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            let this = serve(stream, &identity, &stop);
                            let mut all = seen.lock().unwrap_or_else(PoisonError::into_inner);
                            *all = this.max(std::mem::take(&mut *all));
                        }
                        Err(_) => thread::sleep(Duration::from_millis(5)),
                    }
                }
            }
        });
        Ok(Self { port, stop, seen, thread: Some(thread) })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What was seen until now; the client has ended.
    pub(super) fn seen(mut self) -> Seen {
        self.end();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(mut stream: TcpStream, identity: &Identity, stop: &AtomicBool) -> Seen {
    let prepared = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(Duration::from_millis(200))))
        .and_then(|()| stream.set_write_timeout(Some(STEP)));
    let end = Instant::now() + STEP;
    let going_on = || Instant::now() < end && !stop.load(Ordering::Acquire);
    let Ok(connection) = ServerConnection::new(Arc::clone(&identity.0)) else { return Seen::Left };
    if prepared.is_err() {
        return Seen::Left;
    }
    let postgres = match negotiate(&mut stream, &going_on) {
        Ok(postgres) => postgres,
        Err(_) => return Seen::Left,
    };
    talk(stream, connection, postgres, &going_on)
}

/// Answers PostgreSQL's requests for encryption; whether there were any.
fn negotiate(stream: &mut TcpStream, going_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut postgres = false;
    // GSSENCRequest may come first; more than that is no client.
    for _ in 0..3 {
        let mut first = [0; 8];
        let read = again(going_on, || stream.peek(&mut first))?;
        let is_request = first.starts_with(&[0, 0, 0, 8]);
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if !is_request {
            return Ok(postgres);
        }
        let mut request = [0; 8];
        stream.read_exact(&mut request)?;
        postgres = true;
        match request {
            SSL_REQUEST => {
                stream.write_all(b"S")?;
                return Ok(true);
            }
            GSS_REQUEST => stream.write_all(b"N")?,
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
    Err(ErrorKind::InvalidData.into())
}

fn talk(
    mut stream: TcpStream,
    mut connection: ServerConnection,
    postgres: bool,
    going_on: &dyn Fn() -> bool,
) -> Seen {
    while connection.is_handshaking() {
        if let Err(error) = again(going_on, || connection.complete_io(&mut stream)) {
            return refusal(&error);
        }
    }
    // Some clients look at the certificate only after the handshake: what counts is that they go on.
    let mut bytes = [0; 4096];
    let mut tls = Stream::new(&mut connection, &mut stream);
    match again(going_on, || tls.read(&mut bytes)) {
        Ok(0) => Seen::Left,
        Ok(_) => {
            // Without an answer the client would only wait; whether it comes through does not matter.
            let answer: &[u8] = if postgres {
                b"E\0\0\0\x38SFATAL\0C57P03\0Minterlock trust status asks no more\0\0"
            } else {
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            };
            let _ = tls.write_all(answer);
            connection.send_close_notify();
            let _ = connection.complete_io(&mut stream);
            Seen::Accepted
        }
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &io::Error) -> Seen {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => Seen::Refused(format!("{alert:?}")),
        _ => Seen::Left,
    }
}

/// Tries again after each time-out of the socket for as long as it may go on.
fn again<T>(going_on: &dyn Fn() -> bool, mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match work() {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) && going_on() => {}
            result => return result,
        }
    }
}
