//! The answering side.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Answer, MAX_LINE, Request, socket_path};

/// Connections of one user that are served at once; others wait.
const SERVED_PER_USER: usize = 16;

/// Connections of one user, and of all but root, with those that wait; more are closed.
const OPEN_PER_USER: usize = 64;
const OPEN: usize = 256;

/// How long a peer may take to ask, and how long to take the answer.
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
        let users = Arc::new(Users::default());
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
                    let Some(open) = users.admit(uid) else {
                        tracing::debug!(uid, "a control connection is closed: there are too many");
                        continue;
                    };
                    let handler = Arc::clone(&handler);
                    tokio::spawn(async move {
                        let Some(served) = open.turn().await else { return };
                        if let Err(error) = answer(stream, &*handler, TIMEOUT).await {
                            tracing::debug!(%error, "control connection");
                        }
                        drop((served, open));
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

/// Connections by user: nobody keeps others from being served.
#[derive(Debug, Default)]
struct Users(Mutex<HashMap<u32, User>>);

#[derive(Debug)]
struct User {
    open: usize,
    served: Arc<Semaphore>,
}

/// A connection's place among its user's.
#[derive(Debug)]
struct Place {
    users: Arc<Users>,
    uid: u32,
    served: Arc<Semaphore>,
}

impl Users {
    fn all(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection of this user; `None` when there are too many.
    fn admit(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut all = self.all();
        let others: usize = all.iter().filter(|(of, _)| **of != 0).map(|(_, user)| user.open).sum();
        if uid != 0 && others >= OPEN {
            return None;
        }
        let new = || User { open: 0, served: Arc::new(Semaphore::new(SERVED_PER_USER)) };
        let user = all.entry(uid).or_insert_with(new);
        if user.open >= OPEN_PER_USER {
            return None;
        }
        user.open += 1;
        Some(Place { users: Arc::clone(self), uid, served: Arc::clone(&user.served) })
    }
}

impl Place {
    /// Waits until it is served.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.served).acquire_owned().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.users.all();
        let left = all.get_mut(&self.uid).map_or(0, |user| {
            user.open = user.open.saturating_sub(1);
            user.open
        });
        if left == 0 {
            all.remove(&self.uid);
        }
    }
}

async fn answer(stream: UnixStream, handler: &impl Handler, patience: Duration) -> io::Result<()> {
    let peer = Peer::of(&stream)?;
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::time::timeout(patience, BufReader::new(read.take(MAX_LINE)).read_line(&mut line)).await??;
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
    let told = async {
        write.write_all(&line).await?;
        write.shutdown().await
    };
    tokio::time::timeout(patience, told).await?
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
                Request::Run { name } if name == "long" => Ok("x".repeat(8 << 20).into()),
                Request::Run { name } => Ok(serde_json::json!({ "name": name, "pid": peer.pid })),
                _ => Ok(serde_json::Value::Null),
            }
        }
    }

    #[tokio::test]
    async fn who_does_not_read_the_answer_is_not_waited_for() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"{\"request\":\"run\",\"name\":\"long\"}\n").await.unwrap();
        let error = answer(server, &Echo, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_user_takes_no_others_place() {
        let users = Arc::new(Users::default());
        let taken = |uid| -> Vec<_> { std::iter::from_fn(|| users.admit(uid)).collect() };
        let mut all: Vec<_> = (1..=5).map(taken).collect();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 64, 0]);
        assert_eq!(taken(0).len(), OPEN_PER_USER);
        let first = all.swap_remove(0);
        let mut served = Vec::new();
        for place in first.iter().take(SERVED_PER_USER) {
            served.push(place.turn().await);
        }
        let place = first.last().unwrap();
        assert!(place.served.try_acquire().is_err());
        served.clear();
        assert!(place.turn().await.is_some());
        drop(first);
        assert_eq!(taken(6).len(), OPEN_PER_USER);
        drop(all);
        assert!(users.all().is_empty());
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
