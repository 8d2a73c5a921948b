//! A collector that verifies what it takes, or does what no collector should.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use interlock_recording::verify::{Boundary, Limits, Position, check_records, check_segment};
use interlock_recording::{Domain, PublicKey};
use interlock_shipping::v1::enrollment_server::{Enrollment, EnrollmentServer};
use interlock_shipping::v1::shipping_server::{Shipping, ShippingServer};
use interlock_shipping::v1::to_agent::Message as ToAgentMessage;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{
    ApprovalVote, Certificate, EndSession, EnrollReply, EnrollRequest, Health, Hello, Live, RenewRequest,
    SealedPart, Taken, ToAgent, ToCollector,
};
use interlock_shipping::{ALPN, MAX_LIVE, MAX_MESSAGE, MAX_PART, Token, enrolment_message};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ship::Address;

/// How it behaves.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Manner {
    Honest,
    /// Takes nothing.
    Silent,
    /// Says at once that it has what there is not.
    AheadAtOnce,
    /// Says so later.
    Ahead,
    /// Says that it has less than before.
    Back,
    /// Says that it has segments, but not their events.
    Torn,
    /// Says no word of where to go on.
    Speechless,
    /// Sends messages without end.
    Endless,
    /// Cuts the call after so many messages.
    Cut(usize),
    /// Refuses the call.
    Refuse(tonic::Code, &'static str),
    /// Ends a session.
    End([u8; 16]),
}

/// What it has.
#[derive(Debug)]
pub(super) struct Has {
    pub(super) manner: Manner,
    pub(super) segments: Vec<Vec<u8>>,
    pub(super) sealed: Option<Boundary>,
    pub(super) live: Option<Position>,
    /// The bytes of each event, in order.
    pub(super) events: Vec<Vec<u8>>,
    pub(super) live_messages: usize,
    pub(super) hellos: Vec<Hello>,
    pub(super) health: Vec<Health>,
    /// What it was told of requests for approval.
    pub(super) approvals: Vec<Message>,
    /// What it answers to that: the last first.
    pub(super) votes: Vec<ApprovalVote>,
    /// What no honest agent does.
    pub(super) wrong: Vec<String>,
    pub(super) renewals: usize,
    pub(super) largest: usize,
    key: Option<PublicKey>,
    /// Seconds until the certificates that it issues expire, and since when they count.
    pub(super) valid: (i64, i64),
    /// What it answers to enrolment otherwise than it should.
    pub(super) enrolment: Enrolment,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Enrolment {
    Honest,
    OtherAuthority,
    OtherKey,
    Refused,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    has: Mutex<Has>,
}

#[derive(Clone)]
pub(super) struct Fake {
    inner: Arc<Inner>,
    pub(super) at: SocketAddr,
}

/// How its own certificate is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub(super) name: &'static str,
    /// Seconds from now.
    pub(super) from: i64,
    pub(super) until: i64,
    /// The authority's certificate is shown with it.
    pub(super) shows_authority: bool,
    /// Agents' certificates of this authority are taken.
    pub(super) takes_its_own: bool,
}

impl Default for Own {
    fn default() -> Self {
        Self { name: "127.0.0.1", from: -3600, until: 3600, shows_authority: true, takes_its_own: true }
    }
}

/// So many seconds from now.
fn at(seconds: i64) -> SystemTime {
    let (now, by) = (SystemTime::now(), Duration::from_secs(seconds.unsigned_abs()));
    if seconds < 0 { now - by } else { now + by }
}

fn authority() -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let certificate = params.self_signed(&key).unwrap();
    let der = certificate.der().clone();
    (Issuer::new(params, key), der)
}

impl Fake {
    pub(super) async fn start(own: Own) -> Self {
        let (issuer, authority_certificate) = authority();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match own.name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(own.name.try_into().unwrap()),
        }];
        (params.not_before, params.not_after) = (at(own.from).into(), at(own.until).into());
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let mut chain = vec![leaf.der().clone()];
        if own.shows_authority {
            chain.push(authority_certificate.clone());
        }
        let clients = if own.takes_its_own { authority_certificate.clone() } else { authority().1 };
        let mut roots = RootCertStore::empty();
        roots.add(clients).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let has = Has {
            manner: Manner::Honest,
            segments: Vec::new(),
            sealed: None,
            live: None,
            events: Vec::new(),
            live_messages: 0,
            hellos: Vec::new(),
            health: Vec::new(),
            approvals: Vec::new(),
            votes: Vec::new(),
            wrong: Vec::new(),
            renewals: 0,
            largest: 0,
            key: None,
            valid: (3600, 60),
            enrolment: Enrolment::Honest,
        };
        let inner = Arc::new(Inner { issuer, authority: authority_certificate, has: Mutex::new(has) });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let fake = Self { inner, at: listener.local_addr().unwrap() };
        tokio::spawn(fake.clone().serve(listener, TlsAcceptor::from(Arc::new(config))));
        fake
    }

    async fn serve(self, listener: TcpListener, acceptor: TlsAcceptor) {
        let (sender, connections) = mpsc::channel::<io::Result<tokio::io::DuplexStream>>(8);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
                    let _ = sender.send(Ok(theirs)).await;
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut ours).await;
                });
            }
        });
        let served = tonic::transport::Server::builder()
            .add_service(EnrollmentServer::new(self.clone()))
            .add_service(ShippingServer::new(self).max_decoding_message_size(MAX_MESSAGE))
            .serve_with_incoming(ReceiverStream::new(connections))
            .await;
        served.unwrap();
    }

    pub(super) fn has(&self) -> MutexGuard<'_, Has> {
        self.inner.has.lock().unwrap()
    }

    pub(super) fn behave(&self, manner: Manner) {
        self.has().manner = manner;
    }

    pub(super) fn address(&self) -> Address {
        format!("https://{}", self.at).parse().unwrap()
    }

    pub(super) fn token(&self) -> Token {
        use sha2::Digest as _;
        Token::new(&[5; 24], sha2::Sha256::digest(&self.inner.authority).into())
    }

    fn issue(&self, request: &[u8]) -> Certificate {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request.to_vec()))
                .unwrap();
        let (until, since) = self.has().valid;
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(-since).into(), at(until).into());
        let certificate = params.signed_by(&request.public_key, &self.inner.issuer).unwrap();
        Certificate { certificate: certificate.der().to_vec(), authority: self.inner.authority.to_vec() }
    }

    fn taken(has: &Has) -> ToAgent {
        let next_segment = has.sealed.map_or(0, |sealed| sealed.segment);
        let next_index = has.live.map_or(0, |live| live.index);
        ToAgent { message: Some(ToAgentMessage::Taken(Taken { next_segment, next_index, now_ns: 0 })) }
    }

    /// Takes one message; gives the answer, if there is one.
    fn take(&self, message: Message, arriving: &mut Vec<u8>) -> Option<ToAgent> {
        let mut has = self.has();
        if let Some(key) = &has.key {
            let (sealed, live) = (Boundary::genesis(key), Position::genesis(key));
            has.sealed.get_or_insert(sealed);
            has.live.get_or_insert(live);
        }
        match message {
            Message::Hello(hello) => {
                has.hellos.push(hello);
                Some(Self::taken(&has))
            }
            Message::Health(health) => {
                has.health.push(health);
                None
            }
            Message::Sealed(part) => self.part(&mut has, &part, arriving),
            Message::Live(live) => self.live(&mut has, &live),
            told @ (Message::ApprovalRequest(_)
            | Message::ApprovalStanding(_)
            | Message::ApprovalsOpen(_)
            | Message::ApprovalAnswer(_)
            | Message::TokensBound(_)) => {
                has.approvals.push(told);
                let vote = has.votes.pop()?;
                Some(ToAgent { message: Some(ToAgentMessage::ApprovalVote(vote)) })
            }
        }
    }

    fn part(&self, has: &mut Has, part: &SealedPart, arriving: &mut Vec<u8>) -> Option<ToAgent> {
        has.largest = has.largest.max(part.data.len());
        let silent = has.manner == Manner::Silent;
        let due = has.sealed.map_or(0, |sealed| sealed.segment);
        if part.data.len() > MAX_PART
            || part.offset != arriving.len() as u64
            || part.segment != due && !silent
        {
            let said = format!("part of {} at {} with {} here", part.segment, part.offset, arriving.len());
            has.wrong.push(said);
        }
        arriving.extend_from_slice(&part.data);
        if !part.last {
            return None;
        }
        let file = std::mem::take(arriving);
        if silent {
            has.segments.push(file);
            return None;
        }
        let (from, known) = (has.sealed.unwrap(), has.live.unwrap().index);
        let key = has.key.clone().unwrap();
        let mut new = Vec::new();
        let checked =
            check_segment(io::Cursor::new(&file), &key, Some(&from), &Limits::default(), |checked| {
                if checked.event.index >= known {
                    new.push(checked.bytes.to_vec());
                }
                Ok::<_, std::convert::Infallible>(())
            });
        match checked {
            Ok(checked) => {
                has.sealed = Some(checked.next);
                if checked.next.position.index > known {
                    has.live = Some(checked.next.position);
                }
                has.events.extend(new);
                has.segments.push(file);
            }
            Err(error) => has.wrong.push(error.to_string()),
        }
        Some(Self::taken(has))
    }

    fn live(&self, has: &mut Has, live: &Live) -> Option<ToAgent> {
        has.largest = has.largest.max(live.records.len());
        has.live_messages += 1;
        if has.manner == Manner::Silent {
            return None;
        }
        let from = has.live.unwrap();
        if live.first_index != from.index || live.records.len() > MAX_LIVE || live.records.is_empty() {
            has.wrong.push(format!("live from {} when {} was due", live.first_index, from.index));
        }
        let key = has.key.clone().unwrap();
        let mut new = Vec::new();
        let checked = check_records(&live.records, &live.head, &key, &from, &Limits::default(), |checked| {
            new.push(checked.bytes.to_vec());
            Ok::<_, std::convert::Infallible>(())
        });
        match checked {
            Ok(checked) if checked.head.events >= checked.next.index => {
                has.live = Some(checked.next);
                has.events.extend(new);
            }
            Ok(_) => has.wrong.push("live records beyond HEAD".to_owned()),
            Err(error) => has.wrong.push(error.to_string()),
        }
        Some(Self::taken(has))
    }

    /// What it says after its first answer when it is not honest.
    fn misbehave(manner: &Manner, answer: &mut ToAgent, first: bool) {
        let Some(ToAgentMessage::Taken(taken)) = &mut answer.message else { return };
        match manner {
            Manner::AheadAtOnce => taken.next_segment += 1000,
            Manner::Ahead if !first => {
                taken.next_segment += 2;
                taken.next_index += 1_000_000;
            }
            Manner::Back if !first && taken.next_segment > 1 => {
                taken.next_index = 0;
                taken.next_segment = 0;
            }
            Manner::Torn => (taken.next_segment, taken.next_index) = (1, 0),
            _ => {}
        }
    }
}

type Reply = Result<ToAgent, Status>;

#[tonic::async_trait]
impl Enrollment for Fake {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let request = request.into_inner();
        let key = PublicKey::from_bytes(&request.host_key).unwrap();
        let message = enrolment_message(&request.secret, &request.certificate_request);
        let signature = request.signature.as_slice().try_into().unwrap();
        assert!(key.verifies(Domain::Enrolment, &message, signature));
        assert_eq!(request.secret, self.token().secret);
        let enrolment = self.has().enrolment;
        if enrolment == Enrolment::Refused {
            return Err(Status::permission_denied("the token is unknown, used up or expired"));
        }
        self.has().key = Some(key);
        let mut certificate = self.issue(&request.certificate_request);
        match enrolment {
            Enrolment::OtherAuthority => certificate.authority = authority().1.to_vec(),
            Enrolment::OtherKey => certificate.certificate = self.inner.authority.to_vec(),
            Enrolment::Honest | Enrolment::Refused => {}
        }
        Ok(Response::new(EnrollReply {
            certificate: Some(certificate),
            collector: "fake\u{1b}[31m".to_owned(),
            ledger_key: "fake+1+2".to_owned(),
            policy_key: String::new(),
        }))
    }
}

#[tonic::async_trait]
impl Shipping for Fake {
    type ShipStream = ReceiverStream<Reply>;

    async fn ship(
        &self,
        request: Request<Streaming<ToCollector>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let manner = self.has().manner.clone();
        if let Manner::Refuse(code, message) = manner {
            return Err(Status::new(code, message));
        }
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let fake = self.clone();
        tokio::spawn(async move {
            let mut arriving = Vec::new();
            let mut first = true;
            for count in 0.. {
                if manner == Manner::Cut(count) {
                    let _ = sender.send(Err(Status::unavailable("cut"))).await;
                    return;
                }
                let Ok(Some(ToCollector { message: Some(message) })) = messages.message().await else {
                    return;
                };
                if manner == Manner::Speechless {
                    let end = EndSession { session: vec![1; 3], reason: String::new() };
                    let _ = sender.send(Ok(ToAgent { message: Some(ToAgentMessage::EndSession(end)) })).await;
                    continue;
                }
                let Some(mut answer) = fake.take(message, &mut arriving) else { continue };
                Self::misbehave(&manner, &mut answer, first);
                if sender.send(Ok(answer)).await.is_err() {
                    return;
                }
                if let Manner::End(session) = manner
                    && first
                {
                    let end = EndSession { session: session.to_vec(), reason: "enough".to_owned() };
                    let _ = sender.send(Ok(ToAgent { message: Some(ToAgentMessage::EndSession(end)) })).await;
                }
                first = false;
                if manner == Manner::Endless {
                    let end = EndSession { session: vec![7; 16], reason: "x".repeat(1000) };
                    let endless = ToAgent { message: Some(ToAgentMessage::EndSession(end)) };
                    while sender.send(Ok(endless.clone())).await.is_ok() {}
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_policies(
        &self,
        _: Request<interlock_shipping::v1::FetchPoliciesRequest>,
    ) -> Result<Response<interlock_shipping::v1::PolicyFiles>, Status> {
        Err(Status::not_found("it orders nothing"))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let mut has = self.has();
        has.renewals += 1;
        has.valid = (3600, 60);
        drop(has);
        Ok(Response::new(self.issue(&request.into_inner().certificate_request)))
    }
}
