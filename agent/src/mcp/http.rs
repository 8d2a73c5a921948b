//! The same over streamable HTTP, for clients that do not start it themselves.
//!
//! Whoever shows the token is served. A browser is not: requests with an `Origin` are refused, and so are those for
//! a `Host` that is not this one, so that no page can reach it under another name (DNS rebinding).

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use interlock_recording::{fill_random, hex};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::tools::Server;
use crate::cli::output;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// How long a client may take to send a request's head.
const HEAD: Duration = Duration::from_secs(10);
/// The largest request, in bytes.
const BODY: usize = 1 << 20;
/// A token has at least this many bytes, and at most.
const TOKEN: (usize, usize) = (16, 512);
/// The variable that a token may stand in.
const VARIABLE: &str = "INTERLOCK_MCP_TOKEN";
/// Where it is served.
const PATH: &str = "/mcp";

type Service = StreamableHttpService<Server, NeverSessionManager>;
type Answer = Response<BoxBody<Bytes, Infallible>>;

/// What clients have to show. Only its hash is kept.
#[derive(Debug, Clone, Copy)]
struct Token([u8; 32]);

impl Token {
    fn of(text: &str) -> anyhow::Result<Self> {
        let fits =
            (TOKEN.0..=TOKEN.1).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(fits, "a token has {} to {} visible ASCII characters", TOKEN.0, TOKEN.1);
        Ok(Self(Sha256::digest(text).into()))
    }

    /// A request shows it. What is compared are hashes, whose bytes tell nobody how near a guess was.
    fn is_shown(&self, request: &Request<Incoming>) -> bool {
        let mut shown = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (shown.next(), shown.next()) else { return false };
        self.is_in(value.as_bytes())
    }

    fn is_in(&self, header: &[u8]) -> bool {
        let Some((scheme, token)) = header.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && <[u8; 32]>::from(Sha256::digest(token)) == self.0
    }
}

/// Serves until it is ended.
pub(super) async fn serve(
    server: Server,
    address: SocketAddr,
    file: Option<PathBuf>,
    hosts: Vec<String>,
) -> anyhow::Result<()> {
    ensure!(
        address.ip().is_loopback() || !hosts.is_empty(),
        "{address} is no loopback address: whoever reaches it and has the token asks as you. If that is meant, name \
         the host that clients reach it by with --allow-host, and put TLS before it"
    );
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    let address = listener.local_addr()?;
    let token = token(file, address)?;
    let named = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(named.into_iter().chain(hosts).chain([address.ip().to_string()]))
        .enforce_origin_validation()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(BODY);
    let service: Service = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    output::complain(format_args!("serving at http://{address}{PATH}"));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                output::complain(format_args!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(service.clone(), token, request));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD);
            // A client that breaks off has no more to be told.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            drop(place);
        });
    }
}

async fn answer(service: Service, token: Token, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if !token.is_shown(&request) {
        let mut answer = plain(StatusCode::UNAUTHORIZED, "show the token: Authorization: Bearer …\n");
        answer.headers_mut().insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
        return Ok(answer);
    }
    if request.uri().path() != PATH {
        return Ok(plain(StatusCode::NOT_FOUND, "it is at /mcp\n"));
    }
    Ok(service.handle(request).await)
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *answer.status_mut() = status;
    answer
}

/// The token: of the variable, of the file, or a new one that is put there.
fn token(file: Option<PathBuf>, address: SocketAddr) -> anyhow::Result<Token> {
    if let Some(text) = std::env::var_os(VARIABLE) {
        let text = Zeroizing::new(text.into_string().ok().with_context(|| format!("{VARIABLE} is no text"))?);
        return Token::of(&text).with_context(|| VARIABLE.to_owned());
    }
    let file = match file {
        Some(file) => file,
        None => {
            let run = std::env::var_os("XDG_RUNTIME_DIR").filter(|run| Path::new(run).is_absolute());
            let run =
                run.context("name a file for the token with --token-file, for XDG_RUNTIME_DIR is not set")?;
            Path::new(&run).join(format!("interlock-mcp-{}.token", address.port()))
        }
    };
    let token = of_file(&file).with_context(|| format!("the token in {}", file.display()))?;
    output::complain(format_args!("the token that clients have to show is in {}", file.display()));
    Ok(token)
}

fn of_file(file: &Path) -> anyhow::Result<Token> {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    match options.clone().write(true).create_new(true).open(file) {
        Ok(mut made) => {
            let mut random = Zeroizing::new([0; 32]);
            fill_random(&mut *random).context("no random numbers")?;
            let text = Zeroizing::new(hex(&*random));
            made.write_all(text.as_bytes()).context("cannot be written")?;
            Token::of(&text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let opened = options.read(true).open(file).context("cannot be read")?;
            let metadata = opened.metadata().context("cannot be read")?;
            ensure!(metadata.is_file(), "is no file");
            let own = rustix::process::geteuid().as_raw();
            ensure!(metadata.uid() == own, "belongs to another user");
            if metadata.mode() & 0o077 != 0 {
                bail!("can be read or written by others: chmod 600 it, and change the token");
            }
            let mut text = Zeroizing::new(String::new());
            opened.take(TOKEN.1 as u64 + 2).read_to_string(&mut text).context("cannot be read")?;
            Token::of(text.trim_end())
        }
        Err(error) => Err(error).context("cannot be made"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_is_its_owners() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let made = of_file(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.len(), 64);
        assert_eq!(of_file(&file).unwrap().0, made.0);
        assert!(
            made.is_in(format!("Bearer {text}").as_bytes())
                && made.is_in(format!("bearer {text}").as_bytes())
        );
        for wrong in ["", "Bearer", "Bearer ", &text, &format!("Basic {text}"), &format!("Bearer {text} ")] {
            assert!(!made.is_in(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{made:?}").contains(&text));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(format!("{:#}", of_file(&file).unwrap_err()).contains("chmod 600"));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert!(of_file(&link).is_err());
        let weak = directory.path().join("weak");
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&weak)
            .unwrap()
            .write_all(b"x")
            .unwrap();
        assert!(of_file(&weak).is_err());
    }

    #[tokio::test]
    async fn only_loopback_unless_a_host_is_named() {
        let server = Server::new("/nonexistent".into());
        let error = serve(server, ([192, 0, 2, 1], 1).into(), None, Vec::new()).await.unwrap_err();
        assert!(error.to_string().contains("--allow-host"), "{error}");
    }
}
