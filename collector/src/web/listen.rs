//! Connections of browsers and API clients: plain on loopback, TLS anywhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::{State, router};
use crate::config::WebTls;
use crate::gate::Gate;

/// Connections from one address, and in all. More are closed at once.
const CONNECTIONS: (usize, usize) = (1024, 4096);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(15);
/// How often it is looked whether the certificate was exchanged.
const RELOAD: Duration = Duration::from_secs(60);

/// The certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// A file cannot be read, or holds no such thing.
    #[error("web.tls: {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("web.tls: {0}")]
    Pair(rustls::Error),
}

/// Serves pages and API on `listener` until `shutdown` resolves.
///
/// # Errors
/// The certificate cannot be used, or the listener fails.
pub async fn serve(
    state: State,
    listener: TcpListener,
    tls: Option<&WebTls>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let router = router(state);
    let tls = tls.map(Tls::new).transpose()?;
    let gate = Gate::new(CONNECTIONS.0, CONNECTIONS.1);
    let mut reload = tokio::time::interval(RELOAD);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut shutdown => return Ok(()),
            _ = reload.tick() => {
                if let Some(tls) = &tls {
                    tls.shown.reload();
                }
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of files, as a rule: some will be closed.
                    tracing::warn!("a connection of a browser was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(pass) = gate.enter(peer.ip()) else { continue };
        let (router, acceptor) = (router.clone(), tls.as_ref().map(|tls| tls.acceptor.clone()));
        tokio::spawn(async move {
            let _pass = pass;
            let _ = stream.set_nodelay(true);
            match acceptor {
                None => connection(stream, peer, router).await,
                Some(acceptor) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        connection(stream, peer, router).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection. Whoever takes too long over a request's head is cut off.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: axum::Router,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .keep_alive_interval(HEAD)
        .keep_alive_timeout(HEAD);
    // A browser that has gone, as a rule.
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, "a connection of a browser ended: {error}");
    }
}

/// Opens the certificate and its key.
///
/// # Errors
/// One cannot be read or is of no use, or they do not belong together.
pub fn check_files(files: &WebTls) -> anyhow::Result<()> {
    Shown::load(files)?;
    Ok(())
}

/// TLS, and the certificate that it shows.
struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
}

impl Tls {
    fn new(files: &WebTls) -> anyhow::Result<Self> {
        let current = RwLock::new((Shown::load(files)?, Shown::changed(files)));
        let shown = Arc::new(Shown { files: files.clone(), current });
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), shown })
    }
}

/// The certificate that is shown, and when its files were last changed.
#[derive(Debug)]
struct Shown {
    files: WebTls,
    current: RwLock<(Arc<CertifiedKey>, Option<SystemTime>)>,
}

impl Shown {
    fn load(files: &WebTls) -> Result<Arc<CertifiedKey>, CertificateError> {
        let wrong = |path: &PathBuf, error: &dyn std::fmt::Display| CertificateError::File {
            path: path.clone(),
            error: error.to_string(),
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| wrong(&files.certificate, &error))?;
        if chain.is_empty() {
            return Err(wrong(&files.certificate, &"it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
        let key =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(CertificateError::Pair)?;
        Ok(Arc::new(key))
    }

    fn changed(files: &WebTls) -> Option<SystemTime> {
        let time = |path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        time(&files.certificate).max(time(&files.key))
    }

    /// Reads the files again if they were changed. Files that cannot be used leave the earlier ones in force.
    fn reload(&self) {
        let changed = Self::changed(&self.files);
        if self.current.read().is_ok_and(|current| current.1 == changed) {
            return;
        }
        match Self::load(&self.files) {
            Ok(key) => {
                if let Ok(mut current) = self.current.write() {
                    *current = (key, changed);
                }
                tracing::info!("the certificate for browsers was read again");
            }
            Err(error) => tracing::error!("{error}; the certificate before it stays in force"),
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().ok().map(|current| Arc::clone(&current.0))
    }
}
