//! Both legs at once, with rustls as the client and the server.

use std::future::poll_fn;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, client};

use super::*;

struct Bed {
    _directory: tempfile::TempDir,
    engine: Arc<Engine>,
    server: SocketAddr,
    /// Clients that trust the host's authority and nobody else.
    trusting: Arc<ClientConfig>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Bed {
    /// A server for `db.example` that sends back what it gets. `tls` is the agent's configuration, with
    /// ROOT for the file of the server's authority.
    async fn start(tls: &str, alpn: &[&[u8]]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["db.example".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let root = directory.path().join("root.crt");
        std::fs::write(&root, authority.pem()).unwrap();

        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
                    let (mut read, mut write) = tokio::io::split(stream);
                    let _ = write.write_all(format!("{name}\n").as_bytes()).await;
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        let engine =
            Engine::open(&config_of(directory.path(), &tls.replace("ROOT", &root.to_string_lossy())));
        let engine = engine.unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(engine.authority().pem().as_bytes()).unwrap()).unwrap();
        let trusting = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { _directory: directory, engine, server, trusting: Arc::new(trusting) }
    }

    fn flow(&self) -> FlowTls {
        let destination = Destination { address: self.server, hosts: Vec::new() };
        self.engine.flow(&Subject::default(), &destination, Vec::new(), TlsTreatment::default())
    }

    /// A client and the agent's two legs. The client asks for `name` and offers `alpn`.
    async fn connect(
        &self,
        name: &'static str,
        alpn: &[&[u8]],
    ) -> (io::Result<client::TlsStream<TcpStream>>, Result<(Stream, Stream), ConnectError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let (config, alpn) = (Arc::clone(&self.trusting), alpn.iter().map(|p| p.to_vec()).collect());
        let client = tokio::spawn(async move {
            let stream = TcpStream::connect(proxy).await.unwrap();
            let name = ServerName::try_from(name).unwrap();
            TlsConnector::from(config).with_alpn(alpn).connect(name, stream).await
        });
        let (stream, _) = listener.accept().await.unwrap();
        let hello = FlowTls::hello(stream).await.unwrap();
        let flow = self.flow();
        let upstream = TcpStream::connect(self.server).await.unwrap();
        let legs = match flow.connect(upstream, hello.server_name.as_deref(), &hello.alpn).await {
            Ok(upstream) => {
                let client = flow.accept(hello, &upstream).await;
                client
                    .map(|client| (client, upstream))
                    .map_err(|error| ConnectError::Handshake { address: proxy, reason: error.to_string() })
            }
            Err(error) => {
                drop(flow.accept_to_refuse(hello).await);
                Err(error)
            }
        };
        (client.await.unwrap(), legs)
    }
}

fn config_of(directory: &Path, tls: &str) -> Config {
    Config {
        state: directory.join("state"),
        run: directory.to_owned(),
        tls: serde_saphyr::from_str(&format!("system_roots: false\n{tls}")).unwrap(),
        ..Config::default()
    }
}

#[tokio::test]
async fn names_and_protocols_are_mirrored() {
    let bed = Bed::start("roots: [ROOT]", &[b"two", b"one"]).await;
    let (client, legs) = bed.connect("db.example", &[b"one", b"three"]).await;
    let (mut client, (on_client, mut upstream)) = (client.unwrap(), legs.unwrap());
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"one"[..]));
    let mut name = [0; 11];
    upstream.read_exact(&mut name).await.unwrap();
    assert_eq!(&name, b"db.example\n", "the server was not asked for the client's name");
    let leg = upstream.leg().unwrap();
    assert_eq!((leg.alpn.as_deref(), leg.version), (Some("one"), "TLSv1.3"));
    assert_eq!(leg.verified.as_ref().unwrap().names, ["db.example"]);
    assert!(!leg.verified.as_ref().unwrap().by_host, "it is the client's word alone");
    let shown = client.get_ref().1.peer_certificates().unwrap();
    let shown = Certificate::read(&shown[0]).unwrap();
    assert_eq!(on_client.server_end_point(), shown.end_point.as_deref());
    assert_eq!(shown.names.dns, ["db.example"]);
    // Closed by the client in good order.
    client.shutdown().await.unwrap();
    let mut on_client = on_client;
    assert_eq!(on_client.read(&mut [0; 9]).await.unwrap(), 0);
    assert!(!on_client.cut_short());
}

#[tokio::test]
async fn a_connection_that_is_cut_ends_as_one() {
    let bed = Bed::start("roots: [ROOT]", &[]).await;
    let (client, legs) = bed.connect("db.example", &[]).await;
    let (mut client, (mut on_client, _upstream)) = (client.unwrap(), legs.unwrap());
    let (tcp, _) = client.get_mut();
    tcp.shutdown().await.unwrap();
    assert_eq!(on_client.read(&mut [0; 9]).await.unwrap(), 0);
    assert!(on_client.cut_short(), "no goodbye came");
    poll_fn(|cx| on_client.poll_end(cx, false)).await.unwrap();
    let error = client.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "nor did we send one");
}

#[tokio::test]
async fn sessions_are_resumed_on_both_legs() {
    let bed = Bed::start("roots: [ROOT]", &[]).await;
    let mut resumed = Vec::new();
    for _ in 0..3 {
        let (client, legs) = bed.connect("db.example", &[]).await;
        let (mut client, (mut on_client, mut upstream)) = (client.unwrap(), legs.unwrap());
        resumed.push((on_client.leg().unwrap().resumed, upstream.leg().unwrap().resumed));
        // The tickets come with what is read first.
        upstream.read_exact(&mut [0; 11]).await.unwrap();
        on_client.write_all(b"x").await.unwrap();
        on_client.flush().await.unwrap();
        client.read_exact(&mut [0; 1]).await.unwrap();
        assert!(upstream.leg().unwrap().certificate.is_some(), "a resumed session has its certificate");
    }
    assert_eq!(resumed, [(false, false), (true, true), (true, true)]);
}

#[tokio::test]
async fn a_server_that_is_not_verified_is_refused() {
    for (tls, name, fault) in [
        ("roots: [ROOT]", "other.example", Fault::Name),
        ("{}", "db.example", Fault::Issuer),
        ("roots: [ROOT]\nupstreams: [{cidr: 127.0.0.1, pins: ['aa']}]", "db.example", Fault::Pin),
    ] {
        let tls = tls.replace("'aa'", &"aa".repeat(32)).replace("{}", "roots: []");
        let bed = Bed::start(&tls, &[]).await;
        let (client, legs) = bed.connect(name, &[]).await;
        let Err(ConnectError::Certificate { refused, .. }) = legs else { panic!("{legs:?}") };
        assert_eq!(refused.fault, fault, "{refused}");
        assert!(refused.certificate.is_some() && !refused.hint().is_empty());
        client.expect("the client can be told");
    }
}

#[tokio::test]
async fn a_leaf_is_no_better_than_what_was_verified() {
    let bed = Bed::start("upstreams: [{cidr: 127.0.0.1, verify: none}]", &[]).await;
    let (client, _) = bed.connect("db.example", &[]).await;
    assert!(client.is_err(), "who verifies must refuse");
    let bed = Bed::start("roots: [ROOT]\nupstreams: [{cidr: 127.0.0.1, verify: ca}]", &[]).await;
    let (client, legs) = bed.connect("other.example", &[]).await;
    assert!(client.is_err(), "who verifies names must refuse");
    assert!(legs.unwrap_err().to_string().contains("does not accept the agent's certificate"));
    bed.connect("db.example", &[]).await.0.unwrap();
}

#[tokio::test]
async fn what_was_refused_is_remembered_of_that_process_alone() {
    let bed = Bed::start("roots: [ROOT]", &[]).await;
    bed.flow().remember_refusal();
    assert!(bed.flow().must_encrypt());
    let destination = Destination { address: bed.server, hosts: Vec::new() };
    let other = Subject { pid: 7, ..Subject::default() };
    assert!(!bed.engine.flow(&other, &destination, Vec::new(), TlsTreatment::default()).must_encrypt());
    for pid in 0..2 * u32::try_from(MOST_REFUSED).unwrap() {
        let subject = Subject { pid, ..Subject::default() };
        bed.engine.flow(&subject, &destination, Vec::new(), TlsTreatment::default()).remember_refusal();
    }
    assert!(bed.engine.refused.lock().unwrap().len() <= MOST_REFUSED);
}

#[tokio::test]
async fn garbage_in_the_place_of_a_hello_is_answered_by_an_alert() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    client.write_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00").await.unwrap();
    FlowTls::hello(stream).await.unwrap_err();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
}
