//! The answering side.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Answer, MAX_LINE, Request, socket_path};

/// Connections served at once; others wait.
const MAX_CONNECTIONS: usize = 64;

/// How long a peer may take to ask.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Who asks, as the kernel says.
#[derive(Debug)]
pub struct Peer {
    /// Process id.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Holds on to the process, where the kernel has it (since 6.5).
    handle: Option<OwnedFd>,
}

impl Peer {
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        Ok(Self { pid, uid: credentials.uid(), handle: peer_handle(stream)? })
    }

    /// Whether the process that connected still has its id. The kernel's credentials are those of that
    /// moment; the connection may have been handed on since, and the process have ended.
    ///
    /// Where the kernel cannot hold on to a process it can only be seen that the one which has the id now
    /// is wholly the same user's.
    pub fn is_there(&self) -> bool {
        match &self.handle {
            Some(handle) => {
                let file = format!("/proc/self/fdinfo/{}", handle.as_raw_fd());
                // -1 once it has ended.
                let pid = |line: &str| line.strip_prefix("Pid:")?.trim().parse::<i64>().ok();
                std::fs::read_to_string(file)
                    .is_ok_and(|text| text.lines().find_map(pid) == Some(i64::from(self.pid)))
            }
            None => {
                let status = i32::try_from(self.pid)
                    .ok()
                    .and_then(|pid| procfs::process::Process::new(pid).ok()?.status().ok());
                status.is_some_and(|status| {
                    [status.ruid, status.euid, status.suid, status.fuid].iter().all(|uid| *uid == self.uid)
                })
            }
        }
    }
}

/// A descriptor of the peer's process; `None` where the kernel has none for it.
#[allow(unsafe_code)]
fn peer_handle(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is one integer, as long as `length` says.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    match io::Error::last_os_error() {
        // SAFETY: the call has just made this descriptor for us.
        _ if result == 0 && fd >= 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        error => Err(error),
    }
}

/// Carries requests out.
pub trait Handler: Send + Sync + 'static {
    /// Carries one out; the error is what the asker is told.
    fn handle(
        &self,
        peer: Peer,
        request: Request,
    ) -> impl Future<Output = Result<serde_json::Value, String>> + Send;
}

/// The listening socket. Dropping it removes it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens in this run directory. The caller holds the lock that keeps other agents out, so a
    /// socket that is left there belongs to no one.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(run: &Path) -> io::Result<Self> {
        let path = socket_path(run);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Every user may connect; each request looks at who asks.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self { listener, path })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, handler: Arc<impl Handler>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = Arc::clone(&handler);
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &*handler).await {
                            tracing::debug!(%error, "control connection");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, handler: &impl Handler) -> io::Result<()> {
    let peer = Peer::of(&stream)?;
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::time::timeout(TIMEOUT, BufReader::new(read.take(MAX_LINE)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Err(error) => Answer::Refused(format!("the agent does not understand the request: {error}")),
        Ok(request) if request.needs_root() && peer.uid != 0 => {
            Answer::Refused(format!("`{}` needs root; you are user id {}", request.command(), peer.uid))
        }
        Ok(request) => match handler.handle(peer, request).await {
            Ok(value) => Answer::Done(value),
            Err(reason) => Answer::Refused(reason),
        },
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_has_ended_is_not_taken_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // Connects, hands the connection on to a child, and ends.
        let script = "import os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.readline()
if os.fork() == 0: sys.stdin.readline()";
        let mut client = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let peer = Peer::of(&stream).unwrap();
        assert_eq!(peer.pid, client.id());
        assert!(peer.is_there());
        let mut input = client.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"\n").unwrap();
        assert!(client.wait().unwrap().success());
        assert!(!peer.is_there());
        // Another process has the id now, of another user.
        let other = Peer { pid: 1, uid: 4_242, handle: None };
        assert!(!other.is_there());
    }

    struct Echo;

    impl Handler for Echo {
        async fn handle(&self, peer: Peer, request: Request) -> Result<serde_json::Value, String> {
            match request {
                Request::Run { name } if name == "no" => Err("no such run".to_owned()),
                Request::Run { name } => Ok(serde_json::json!({ "name": name, "pid": peer.pid })),
                _ => Ok(serde_json::Value::Null),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn requests_are_answered_and_the_peer_is_who_asks() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(dir.path()).unwrap();
        let task = tokio::spawn(server.serve(Arc::new(Echo)));
        let run = dir.path().to_owned();
        tokio::task::spawn_blocking(move || {
            let ask = |name: &str| super::super::ask(&run, &Request::Run { name: name.to_owned() });
            assert_eq!(ask("x").unwrap(), serde_json::json!({ "name": "x", "pid": std::process::id() }));
            assert_eq!(ask("no").unwrap_err().to_string(), "no such run");
            // What is not a request gets an answer too.
            let mut stream = std::os::unix::net::UnixStream::connect(socket_path(&run)).unwrap();
            std::io::Write::write_all(&mut stream, b"{\"request\":\"rm\"}\n").unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
            assert!(text.contains("does not understand"), "{text}");
        })
        .await
        .unwrap();
        task.abort();
        let _ = task.await;
        assert!(!socket_path(dir.path()).exists());
        let error = super::super::ask(dir.path(), &Request::Status).unwrap_err();
        assert!(matches!(error, super::super::ControlError::NotRunning(_)));
    }
}
