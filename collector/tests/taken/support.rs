//! A collector in this process, and agents made by hand that say whatever a test wants.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use interlock_collector::config::Config;
use interlock_collector::intake::{self, Intake, Quota};
use interlock_collector::serve;
use interlock_collector::store::now_ns;
use interlock_recording::{Domain, HostKey};
use interlock_shipping::v1::enrollment_client::EnrollmentClient;
use interlock_shipping::v1::shipping_client::ShippingClient;
use interlock_shipping::v1::to_agent::Message as FromCollector;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{
    EnrollReply, EnrollRequest, Hello, Live, SealedPart, Taken, ToAgent, ToCollector,
};
use interlock_shipping::{MAX_PART, Token, enrolment_message};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::kept;

pub(crate) use crate::kept::run_sql;

/// A collector; it ends with this.
pub(crate) struct Collector {
    pub(crate) intake: Arc<Intake>,
    pub(crate) config: Config,
    port: u16,
    server: tokio::task::JoinHandle<()>,
    _kept: kept::Kept,
}

impl Collector {
    pub(crate) async fn start(state: &Path) -> Self {
        let (config, kept) = kept::config(state).await;
        Self::start_with(config, kept).await
    }

    pub(crate) async fn start_with(config: Config, kept: kept::Kept) -> Self {
        Self::start_as(config, kept, Quota::new(0, 0)).await
    }

    /// With these bounds for each host.
    pub(crate) async fn start_as(config: Config, kept: kept::Kept, quota: Quota) -> Self {
        let mut parts = serve::open(&config).await.expect("opened");
        Arc::get_mut(&mut parts.intake).expect("nobody else has it yet").quota = quota;
        parts.intake.archive.clear().expect("cleared");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (intake, names) = (Arc::clone(&parts.intake), serve::names(&config));
        let server = tokio::spawn(async move {
            intake::serve(intake, listener, &names, std::future::pending()).await.expect("served");
        });
        Self { intake: parts.intake, config, port, server, _kept: kept }
    }

    /// A collector that is another process and listens on `port`; `intake` works on the same database.
    #[allow(dead_code, reason = "not all of these tests have other processes")]
    pub(crate) fn elsewhere(intake: Arc<Intake>, config: Config, port: u16, kept: kept::Kept) -> Self {
        Self { intake, config, port, server: tokio::spawn(async {}), _kept: kept }
    }

    /// A token for one host.
    pub(crate) async fn token(&self) -> Token {
        self.token_for(1, 3600).await
    }

    pub(crate) async fn token_for(&self, uses: i64, seconds: i64) -> Token {
        let mut secret = [0; 24];
        interlock_recording::fill_random(&mut secret).expect("random");
        let token = Token::new(&secret, self.intake.authority.fingerprint());
        let mut write = self.intake.store.write().await.expect("writes");
        let expires_ns = now_ns() + seconds * 1_000_000_000;
        write.add_enrolment_token(&token.secret, "test", "test", expires_ns, uses).await.expect("added");
        write.commit().await.expect("committed");
        token
    }

    /// A connection, with a client certificate or without.
    pub(crate) async fn connect(&self, identity: Option<&Identity>) -> Channel {
        self.try_connect(identity).await.expect("connected")
    }

    /// The same, with one that may not be there.
    pub(crate) async fn try_connect(
        &self,
        identity: Option<&Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.intake.authority.certificate().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let mut tls = match identity {
            Some(identity) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from(identity.certificate.clone())],
                    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der())),
                )
                .expect("a certificate"),
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![interlock_shipping::ALPN.to_vec()];
        let (connector, port) = (TlsConnector::from(Arc::new(tls)), self.port);
        Endpoint::from_static("https://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let connector = connector.clone();
                async move {
                    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                    let name = ServerName::try_from("localhost").expect("a name");
                    connector.connect(name, stream).await.map(TokioIo::new)
                }
            }))
            .await
    }

    /// Enrols a host.
    pub(crate) async fn enrol(&self, token: &Token, host: &HostKey) -> Result<Identity, Status> {
        let key = KeyPair::generate().expect("a key");
        let reply = self.enrol_with(token, host, host, &key).await?;
        let certificate = reply.certificate.expect("a certificate").certificate;
        Ok(Identity { key, certificate })
    }

    /// Enrols `host`, signed by `signer`.
    pub(crate) async fn enrol_with(
        &self,
        token: &Token,
        host: &HostKey,
        signer: &HostKey,
        key: &KeyPair,
    ) -> Result<EnrollReply, Status> {
        self.enrol_as(token, host, signer, key, "bastion").await
    }

    /// Enrols `host` under a name.
    pub(crate) async fn enrol_as(
        &self,
        token: &Token,
        host: &HostKey,
        signer: &HostKey,
        key: &KeyPair,
        name: &str,
    ) -> Result<EnrollReply, Status> {
        let request = request(key);
        let message = enrolment_message(&token.secret, &request);
        let reply = EnrollmentClient::new(self.connect(None).await)
            .enroll(EnrollRequest {
                secret: token.secret.clone(),
                certificate_request: request,
                host_key: host.public().as_bytes().to_vec(),
                signature: signer.sign(Domain::Enrolment, &message).to_vec(),
                host_name: name.into(),
                version: "0.1".into(),
            })
            .await?;
        Ok(reply.into_inner())
    }

    /// Begins a call; gives what the collector has.
    pub(crate) async fn call(&self, identity: &Identity) -> Result<(Call, Taken), Status> {
        self.call_with(identity, Vec::new(), 0).await
    }

    /// Begins a call with this HEAD, and this oldest segment.
    pub(crate) async fn call_with(
        &self,
        identity: &Identity,
        head: Vec<u8>,
        oldest_segment: u64,
    ) -> Result<(Call, Taken), Status> {
        let channel = self.try_connect(Some(identity)).await;
        let mut client =
            ShippingClient::new(channel.map_err(|error| Status::unavailable(error.to_string()))?);
        let (sender, receiver) = mpsc::channel(64);
        let hello = Message::Hello(Hello { version: "0.1".into(), head, oldest_segment, ..Hello::default() });
        sender.send(ToCollector { message: Some(hello) }).await.expect("sent");
        let replies = client.ship(tokio_stream::wrappers::ReceiverStream::new(receiver)).await?.into_inner();
        let mut call = Call { sender, replies };
        let taken = call.taken().await?;
        Ok((call, taken))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A certificate request for this key.
pub(crate) fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).expect("a request").der().to_vec()
}

/// An agent's certificate and key.
pub(crate) struct Identity {
    pub(crate) key: KeyPair,
    pub(crate) certificate: Vec<u8>,
}

/// An agent's call.
pub(crate) struct Call {
    sender: mpsc::Sender<ToCollector>,
    replies: Streaming<ToAgent>,
}

impl Call {
    pub(crate) async fn say(&self, message: Message) {
        // A collector that has hung up is found when it is listened to.
        let _ = self.sender.send(ToCollector { message: Some(message) }).await;
    }

    pub(crate) async fn hear(&mut self) -> Result<FromCollector, Status> {
        match self.replies.message().await? {
            Some(reply) => Ok(reply.message.expect("a message")),
            None => Err(Status::ok("ended")),
        }
    }

    pub(crate) async fn taken(&mut self) -> Result<Taken, Status> {
        match self.hear().await? {
            FromCollector::Taken(taken) => Ok(taken),
            FromCollector::PolicyOrder(_) => panic!("policies were ordered"),
            FromCollector::EndSession(end) => panic!("a session was to be ended: {}", end.reason),
            FromCollector::ApprovalVote(vote) => panic!("something was decided: {}", vote.vote),
            FromCollector::TokenWords(words) => panic!("tokens were judged: {}", words.words.len()),
        }
    }

    /// Ships a segment's file.
    pub(crate) async fn ship(&mut self, segment: u64, file: &[u8]) -> Result<Taken, Status> {
        let parts: Vec<_> = file.chunks(MAX_PART.min(1000)).collect();
        let mut offset = 0;
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            let data = part.to_vec().into();
            self.say(Message::Sealed(SealedPart { segment, offset, data, last })).await;
            offset += part.len() as u64;
        }
        self.taken().await
    }

    pub(crate) async fn live(&mut self, live: Live) -> Result<Taken, Status> {
        self.say(Message::Live(live)).await;
        self.taken().await
    }
}
