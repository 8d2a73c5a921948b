//! One simulated agent: enrols, ships what it records, checks what it is told, comes again.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use interlock_recording::Domain;
use interlock_shipping::v1::enrollment_client::EnrollmentClient;
use interlock_shipping::v1::shipping_client::ShippingClient;
use interlock_shipping::v1::to_agent::Message as FromCollector;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{EnrollRequest, Health, Hello, SealedPart, Taken, ToAgent, ToCollector};
use interlock_shipping::{MAX_PART, Token, enrolment_message};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsConnector;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::clock_ns;
use crate::recording::{Numbers, Recording, Shape};

/// Sealed segments on their way without having been taken, as with real agents.
const IN_FLIGHT: u64 = 4;
/// Live messages on their way without having been taken, when shipping as fast as they are.
const LIVE_IN_FLIGHT: usize = 2;

/// What agents do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The collector's port for agents, on the loopback address.
    pub(crate) port: u16,
    pub(crate) token: Token,
    pub(crate) shape: Shape,
    /// Events a second that each records; 0: as fast as they are taken.
    pub(crate) rate: f64,
    /// Events in a live message, when shipping as fast as they are taken.
    pub(crate) batch: u64,
    /// Nothing is shipped live.
    pub(crate) sealed_only: bool,
    /// After about so long each breaks its connection off and comes again.
    pub(crate) reconnect: Option<Duration>,
}

/// What all agents have done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connected: AtomicUsize,
    pub(crate) taken_events: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) segments: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) broken: AtomicU64,
    /// How long live messages waited for their acknowledgement, in steps of a millisecond.
    pub(crate) waits: Waits,
}

/// A histogram in milliseconds; the last holds all that took longer.
#[derive(Debug)]
pub(crate) struct Waits([AtomicU64; 20_001]);

impl Default for Waits {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; 20_001])
    }
}

impl Waits {
    fn note(&self, wait: Duration) {
        let at = usize::try_from(wait.as_millis()).unwrap_or(usize::MAX).min(self.0.len() - 1);
        self.0[at].fetch_add(1, Ordering::Relaxed);
    }

    /// The time in which a share of them were acknowledged, in milliseconds.
    pub(crate) fn share(&self, share: f64) -> usize {
        let all: u64 = self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let mut seen = 0;
        let within = self.0.iter().position(|count| {
            seen += count.load(Ordering::Relaxed);
            seen as f64 >= all as f64 * share
        });
        within.unwrap_or_default()
    }
}

/// What agents are told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Enrol and connect.
    Connect,
    /// Record and ship.
    Ship,
    /// Seal, ship what is left, and end.
    Finish,
}

/// Accepts the certificates of exactly one authority, which a token names.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| interlock_recording::chain::digest(certificate) == self.fingerprint)
            .ok_or_else(|| rustls::Error::General("the authority is another one than the token's".into()))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            roots.into(),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// One agent.
pub(crate) struct Agent {
    number: u32,
    plan: Arc<Plan>,
    counts: Arc<Counts>,
    recording: Recording,
    tls: Option<Arc<ClientConfig>>,
    numbers: Numbers,
    /// All that the collector ever said that it has.
    taken: (u64, u64),
    connecting: Arc<Semaphore>,
    was_connected: bool,
}

fn mark(taken: &Taken) -> (u64, u64) {
    (taken.next_segment, taken.next_index)
}

/// Where a call stands.
struct Call {
    sender: mpsc::Sender<ToCollector>,
    answers: Streaming<ToAgent>,
    /// The next sealed segment to ship, and how much of it has been.
    segment: u64,
    offset: usize,
    /// The next event to ship.
    live: u64,
    /// The open segment whose header was sent.
    header: Option<u64>,
    /// The ends of live messages that have not been acknowledged, and when they were sent.
    waiting: VecDeque<(u64, Instant)>,
}

impl Agent {
    pub(crate) fn new(
        number: u32,
        plan: &Arc<Plan>,
        counts: &Arc<Counts>,
        connecting: &Arc<Semaphore>,
    ) -> Self {
        Self {
            number,
            plan: Arc::clone(plan),
            counts: Arc::clone(counts),
            recording: Recording::new(u64::from(number), plan.shape),
            tls: None,
            numbers: Numbers::new(u64::from(number) ^ 0xabcd),
            taken: (0, 0),
            connecting: Arc::clone(connecting),
            was_connected: false,
        }
    }

    /// Each agent has an address of its own, as hosts do.
    fn address(&self) -> SocketAddr {
        let [_, high, middle, low] = (self.number + 2).to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(127, 1 + high, middle, low), 0))
    }

    async fn connect(&self, tls: Arc<ClientConfig>) -> Result<Channel> {
        let (connector, port, from) = (TlsConnector::from(tls), self.plan.port, self.address());
        let _turn = self.connecting.acquire().await?;
        let channel = Endpoint::from_static("https://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let connector = connector.clone();
                async move {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind(from)?;
                    let stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
                    stream.set_nodelay(true)?;
                    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                    connector.connect(name, stream).await.map(TokioIo::new)
                }
            }))
            .await?;
        Ok(channel)
    }

    async fn enrol(&mut self) -> Result<()> {
        let provider = Arc::new(ring::default_provider());
        let builder = |provider: &Arc<CryptoProvider>| {
            ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
        };
        let pinned =
            Arc::new(Pinned { fingerprint: self.plan.token.authority, provider: Arc::clone(&provider) });
        let mut tls =
            builder(&provider)?.dangerous().with_custom_certificate_verifier(pinned).with_no_client_auth();
        tls.alpn_protocols = vec![interlock_shipping::ALPN.to_vec()];
        let channel = self.connect(Arc::new(tls)).await?;
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        let secret = self.plan.token.secret.clone();
        let message = enrolment_message(&secret, &request);
        let host = &self.recording.key;
        let reply = EnrollmentClient::new(channel)
            .enroll(EnrollRequest {
                secret,
                certificate_request: request,
                host_key: host.public().as_bytes().to_vec(),
                signature: host.sign(Domain::Enrolment, &message).to_vec(),
                host_name: format!("load-{}", self.number),
                version: "load".into(),
            })
            .await?;
        let certificate = reply.into_inner().certificate.context("no certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(certificate.authority))?;
        let mut tls = builder(&provider)?.with_root_certificates(roots).with_client_auth_cert(
            vec![CertificateDer::from(certificate.certificate)],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
        tls.alpn_protocols = vec![interlock_shipping::ALPN.to_vec()];
        tls.resumption = rustls::client::Resumption::disabled();
        self.tls = Some(Arc::new(tls));
        Ok(())
    }

    /// Does what it is told to until it is told to finish, and all of its recording was taken.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Result<(u64, u64)> {
        let mut tries = 0;
        loop {
            let done = match self.tls {
                None => self.enrol().await.map(|()| false),
                Some(_) => self.call(&mut phase).await,
            };
            match done {
                Ok(true) => break,
                Ok(false) => tries = 0,
                Err(error) => {
                    // What a collector must never do is no broken connection.
                    if error.downcast_ref::<Contradiction>().is_some() {
                        return Err(error.context(format!("agent {}", self.number)));
                    }
                    tries += 1;
                    self.counts.broken.fetch_add(1, Ordering::Relaxed);
                    ensure!(tries < 100, "agent {}: {error:#}", self.number);
                    let wait = 200 + self.numbers.next(1000);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
            }
        }
        self.counts.sessions.fetch_add(self.recording.sessions, Ordering::Relaxed);
        self.counts.bytes.fetch_add(self.recording.bytes, Ordering::Relaxed);
        Ok((self.recording.open_segment(), self.recording.events()))
    }

    /// One call; gives whether everything is done.
    async fn call(&mut self, phase: &mut watch::Receiver<Phase>) -> Result<bool> {
        let channel = self.connect(Arc::clone(self.tls.as_ref().context("not enrolled")?)).await?;
        let (sender, queue) = mpsc::channel(2);
        let hello = Hello {
            version: "load".into(),
            host_name: format!("load-{}", self.number),
            kernel: "load".into(),
            oldest_segment: self.taken.0,
            now_ns: clock_ns(),
            head: self.recording.head(),
        };
        sender.send(ToCollector { message: Some(Message::Hello(hello)) }).await?;
        let mut client = ShippingClient::new(channel);
        let answers = client.ship(tokio_stream::wrappers::ReceiverStream::new(queue)).await?.into_inner();
        let mut call =
            Call { sender, answers, segment: 0, offset: 0, live: 0, header: None, waiting: VecDeque::new() };
        let Some(ToAgent { message: Some(FromCollector::Taken(first)) }) = call.answers.message().await?
        else {
            bail!("the first answer does not say where to go on");
        };
        self.taken(&mut call, &first)?;
        (call.segment, call.live) = mark(&first);
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.was_connected, true) {
            self.counts.connected.fetch_add(1, Ordering::Relaxed);
        }
        self.ship(call, phase).await
    }

    async fn ship(&mut self, mut call: Call, phase: &mut watch::Receiver<Phase>) -> Result<bool> {
        let paced = self.plan.rate > 0.0;
        let mut second = tokio::time::interval_at(
            tokio::time::Instant::now() + Duration::from_millis(self.numbers.next(1000)),
            Duration::from_secs(1),
        );
        let mut health = tokio::time::interval_at(
            tokio::time::Instant::now() + Duration::from_millis(self.numbers.next(10_000)),
            Duration::from_secs(10),
        );
        let until = self.plan.reconnect.map(|about| {
            let about = about.as_millis() as u64;
            tokio::time::Instant::now() + Duration::from_millis(about / 2 + self.numbers.next(about))
        });
        let breaks = async move {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(breaks);
        let mut due = 0.0;
        let mut sealed = false;
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Finish && !std::mem::replace(&mut sealed, true) {
                self.recording.seal()?;
            }
            let all = (self.recording.open_segment(), self.recording.events());
            if sealed && self.taken == all {
                return Ok(true);
            }
            // When nothing is shipped live it takes several to fill a segment.
            while now == Phase::Ship && !paced && self.wants_more(&call) {
                self.recording.grow(self.plan.batch)?;
            }
            let has_more = now != Phase::Connect && self.has_more(&call);
            tokio::select! {
                answer = call.answers.message() => match answer? {
                    Some(ToAgent { message: Some(FromCollector::Taken(taken)) }) => self.taken(&mut call, &taken)?,
                    Some(_) => {}
                    None => bail!("the collector ended the call"),
                },
                permit = call.sender.clone().reserve_owned(), if has_more => {
                    let permit = permit.context("the call has ended")?;
                    if let Some(message) = self.message(&mut call) {
                        self.counts.messages.fetch_add(1, Ordering::Relaxed);
                        permit.send(ToCollector { message: Some(message) });
                    }
                }
                _ = second.tick(), if paced && now == Phase::Ship => {
                    due += self.plan.rate;
                    let whole = due as u64;
                    due -= whole as f64;
                    self.recording.grow(whole)?;
                }
                _ = health.tick() => {
                    let report = Health { now_ns: clock_ns(), spool_limit: 1 << 30, ..Health::default() };
                    let _ = call.sender.try_send(ToCollector { message: Some(Message::Health(report)) });
                }
                () = &mut breaks, if now == Phase::Ship => return Ok(false),
                changed = phase.changed() => changed?,
            }
        }
    }

    /// There is room on the way for more than what is recorded.
    fn wants_more(&self, call: &Call) -> bool {
        if self.plan.sealed_only {
            self.recording.open_segment() - self.taken.0 < IN_FLIGHT
        } else {
            call.waiting.len() < LIVE_IN_FLIGHT && !self.has_more(call)
        }
    }

    fn has_more(&self, call: &Call) -> bool {
        if call.segment < self.recording.open_segment() {
            return call.offset > 0 || call.segment - self.taken.0 < IN_FLIGHT;
        }
        !self.plan.sealed_only && call.live < self.recording.events()
    }

    fn message(&self, call: &mut Call) -> Option<Message> {
        if call.segment < self.recording.open_segment() {
            let (file, end) = self.recording.sealed(call.segment)?;
            let rest = file.get(call.offset..)?;
            let data = rest.get(..rest.len().min(MAX_PART))?.to_vec();
            let offset = call.offset as u64;
            let segment = call.segment;
            call.offset += data.len();
            let last = call.offset == file.len();
            if last {
                (call.segment, call.offset) = (call.segment + 1, 0);
                call.live = call.live.max(end);
                self.counts.segments.fetch_add(1, Ordering::Relaxed);
            }
            return Some(Message::Sealed(SealedPart { segment, offset, data: data.into(), last }));
        }
        let (live, next) = self.recording.live(call.live, call.header != Some(call.segment))?;
        call.header = Some(call.segment);
        call.live = next;
        call.waiting.push_back((next, Instant::now()));
        Some(Message::Live(live))
    }

    /// Checks what the collector says that it has: never less than before, never more than there is.
    fn taken(&mut self, call: &mut Call, taken: &Taken) -> Result<()> {
        let now = mark(taken);
        let all = (self.recording.open_segment(), self.recording.events());
        if now.0 < self.taken.0 || now.1 < self.taken.1 || now.0 > all.0 || now.1 > all.1 {
            return Err(Contradiction { now, before: self.taken, all }.into());
        }
        self.counts.taken_events.fetch_add(now.1 - self.taken.1, Ordering::Relaxed);
        self.taken = now;
        self.recording.forget(now.0);
        while let Some((_, sent)) = call.waiting.front().copied().filter(|(end, _)| *end <= now.1) {
            self.counts.waits.note(sent.elapsed());
            call.waiting.pop_front();
        }
        Ok(())
    }
}

/// The collector said what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("the collector says that it has {now:?} (segment, event), had {before:?}, and there are {all:?}")]
pub(crate) struct Contradiction {
    now: (u64, u64),
    before: (u64, u64),
    all: (u64, u64),
}
