//! Connections of browsers and API clients: plain on loopback, TLS anywhere.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use axum::serve::{Listener, ListenerExt as _};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{State, router};
use crate::config::WebTls;

/// Handshakes that go on at one time, and how long one may take.
const HANDSHAKES: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);
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
    let service = router(state).into_make_service_with_connect_info::<SocketAddr>();
    match tls {
        None => axum::serve(listener, service).with_graceful_shutdown(shutdown).await?,
        Some(tls) => {
            let listener = TlsListener::new(listener, tls.clone())?.tap_io(|_| {});
            axum::serve(listener, service).with_graceful_shutdown(shutdown).await?;
        }
    }
    Ok(())
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

/// Gives connections whose handshake is done.
struct TlsListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    fn new(listener: TcpListener, files: WebTls) -> anyhow::Result<Self> {
        let current = RwLock::new((Shown::load(&files)?, Shown::changed(&files)));
        let shown = Arc::new(Shown { files, current });
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(32);
        tokio::spawn(async move {
            let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
            let mut reload = tokio::time::interval(RELOAD);
            loop {
                let (stream, peer) = tokio::select! {
                    () = sender.closed() => return,
                    _ = reload.tick() => {
                        shown.reload();
                        continue;
                    }
                    accepted = listener.accept() => match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            tracing::warn!("a connection of a browser was not accepted: {error}");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            continue;
                        }
                    },
                };
                let (acceptor, sender, handshakes) =
                    (acceptor.clone(), sender.clone(), Arc::clone(&handshakes));
                tokio::spawn(async move {
                    let Ok(_turn) = handshakes.acquire_owned().await else { return };
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        let _ = sender.send((stream, peer)).await;
                    }
                });
            }
        });
        Ok(Self { address, accepted })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The task that accepts goes only when this is dropped.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
