//! Where the browser comes back to (RFC 8252, section 7.3): a port of this host's loopback address, for as
//! long as `interlock login` waits. It runs in the process of whoever signs in, and hands what comes on to
//! the agent.
//!
//! Anybody on the host can connect to the port, and can see the address that was opened among the arguments of
//! what opened it. So only what comes from a process of the same user is looked at: somebody else could
//! otherwise bring a code of their own, and have this session be theirs.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use oauth2::url::Url;

use super::pending::Brought;

/// Connections that are read at once; others are closed.
const AT_ONCE: usize = 16;

/// The longest request that is read, in bytes.
const MAX_REQUEST: usize = 16 << 10;

/// How long a browser may take to send its request, or take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The path of the address that the browser comes back to.
const PATH: &str = "/signed-in";

/// A port that a browser can come back to.
#[derive(Debug)]
pub(super) struct Loopback {
    listener: TcpListener,
    port: u16,
}

/// A browser that has come back, and waits for a page.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) brought: Brought,
    stream: TcpStream,
}

impl Loopback {
    /// Listens.
    ///
    /// # Errors
    /// There is no port.
    pub(super) fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the browser that was sent with `state`; `None` when none comes before `until`. `own` says
    /// whose processes may come.
    ///
    /// # Errors
    /// Nothing can be accepted.
    pub(super) fn wait(
        &self,
        state: &str,
        until: Instant,
        own: fn(u32) -> bool,
    ) -> io::Result<Option<Visit>> {
        let (tell, visits) = mpsc::channel();
        let reading = Arc::new(AtomicUsize::new(0));
        self.listener.set_nonblocking(true)?;
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    if reading.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
                        reading.fetch_sub(1, Ordering::Relaxed);
                    } else {
                        let (tell, reading, port) = (tell.clone(), Arc::clone(&reading), self.port);
                        // A browser may open connections that it sends nothing on.
                        std::thread::spawn(move || {
                            if let Some(visit) = read(stream, peer, port, own) {
                                let _ = tell.send(visit);
                            }
                            reading.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            }
            match visits.recv_timeout(Duration::from_millis(50)) {
                Ok(visit) if visit.brought.state == state => return Ok(Some(visit)),
                Ok(visit) => visit.answer(400, "This page belongs to another sign-in", ""),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }
}

impl Visit {
    /// Shows a page.
    pub(super) fn answer(mut self, status: u16, title: &str, text: &str) {
        respond(&mut self.stream, status, title, text);
    }
}

/// Reads one request. `None` when it is answered already.
fn read(mut stream: TcpStream, peer: SocketAddr, port: u16, own: fn(u32) -> bool) -> Option<Visit> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let mut request = Vec::with_capacity(1024);
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = stream.read(&mut part).ok().filter(|n| *n > 0 && request.len() < MAX_REQUEST)?;
        request.extend_from_slice(part.get(..n)?);
    }
    if !owner(peer, port).is_some_and(own) {
        respond(&mut stream, 403, "This page is for the user who signs in", "");
        return None;
    }
    match parse(&request, port) {
        Ok(brought) => Some(Visit { brought, stream }),
        Err(status) => {
            respond(&mut stream, status, "There is nothing here", "");
            None
        }
    }
}

/// What a request brings, or the status to answer with.
fn parse(request: &[u8], port: u16) -> Result<Brought, u16> {
    let text = std::str::from_utf8(request).map_err(|_| 400_u16)?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    // A page elsewhere could have given its own name this address.
    let named = |line: &str| {
        line.split_once(':')
            .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
            .map(|(_, host)| host.trim().to_owned())
    };
    let host = lines.find_map(named).unwrap_or_default();
    if host != format!("127.0.0.1:{port}") {
        return Err(400);
    }
    if method != "GET" {
        return Err(405);
    }
    let url = Url::parse(&format!("http://127.0.0.1{target}")).map_err(|_| 400_u16)?;
    if url.path() != PATH {
        return Err(404);
    }
    let parameter = |name: &str| -> Result<Option<String>, u16> {
        let mut all = url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        // RFC 6749, section 3.1: none twice.
        match (all.next(), all.next()) {
            (_, Some(_)) => Err(400),
            (one, None) => Ok(one),
        }
    };
    let (state, code, error) = (parameter("state")?, parameter("code")?, parameter("error")?);
    let brought = Brought {
        state: state.ok_or(400_u16)?,
        code: code.unwrap_or_default(),
        iss: parameter("iss")?,
        error,
    };
    if brought.code.is_empty() && brought.error.is_none() { Err(400) } else { Ok(brought) }
}

/// The user id of the process at the other end of a connection to this port of the loopback address.
fn owner(peer: SocketAddr, port: u16) -> Option<u32> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .find_map(|table| owner_in(&std::fs::read_to_string(table).ok()?, peer, port))
}

/// The same in a table of connections as the kernel writes it (proc(5)).
fn owner_in(table: &str, peer: SocketAddr, port: u16) -> Option<u32> {
    let SocketAddr::V4(peer) = peer else { return None };
    // The address as the machine keeps it, the port as a number.
    let address = |ip: Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(ip.octets()));
    let local = format!("{}:{:04X}", address(*peer.ip()), peer.port());
    let remote = format!("{}:{port:04X}", address(Ipv4Addr::LOCALHOST));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (from, to, state) = (fields.next()?, fields.next()?, fields.next()?);
        // Of IPv6 a mapped address, and only while it is established: later on the owner is not told.
        let mapped = |field: &str, wanted: &str| {
            field == wanted
                || field.strip_prefix("0000000000000000FFFF0000").is_some_and(|rest| rest == wanted)
        };
        (mapped(from, &local) && mapped(to, &remote) && state == "01").then(|| fields.nth(3)?.parse().ok())?
    })
}

fn respond(stream: &mut TcpStream, status: u16, title: &str, text: &str) {
    let word = match status {
        200 => "OK",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Bad Request",
    };
    let (title, text) = (escape(title), escape(text));
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><h1>{title}</h1><p>{text}</p></html>\n"
    );
    let head = format!(
        "HTTP/1.1 {status} {word}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n\
         X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        page.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(page.as_bytes()));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Vec<u8> {
        format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:7\r\n\r\n").into_bytes()
    }

    #[test]
    fn only_what_the_provider_sends_is_taken() {
        let brought = parse(&get("/signed-in?state=a%2Bb&code=c&iss=https%3A%2F%2Fid.example"), 7).unwrap();
        assert_eq!((brought.state.as_str(), brought.code.as_str()), ("a+b", "c"));
        assert_eq!(brought.iss.as_deref(), Some("https://id.example"));
        let denied = parse(&get("/signed-in?state=a&error=access_denied"), 7).unwrap();
        assert_eq!(denied.error.as_deref(), Some("access_denied"));
        for (target, status) in [
            ("/", 404),
            ("/favicon.ico", 404),
            ("/signed-in", 400),
            ("/signed-in?code=c", 400),
            ("/signed-in?state=a", 400),
            ("/signed-in?state=a&state=b&code=c", 400),
            ("/signed-in?state=a&code=c&code=d", 400),
            ("nonsense", 404),
        ] {
            assert_eq!(parse(&get(target), 7), Err(status), "{target}");
        }
        // By another name, and with another method.
        assert_eq!(
            parse(b"GET /signed-in?state=a&code=c HTTP/1.1\r\nHost: evil.example:7\r\n\r\n", 7),
            Err(400)
        );
        assert_eq!(
            parse(b"POST /signed-in?state=a&code=c HTTP/1.1\r\nHost: 127.0.0.1:7\r\n\r\n", 7),
            Err(405)
        );
        assert_eq!(parse(b"\xff\xfe\r\n\r\n", 7), Err(400));
        let shown = format!("{brought:?}");
        assert!(!shown.contains("a+b") && !shown.contains("code: \"c\""), "{shown}");
    }

    #[test]
    fn a_browser_is_waited_for_among_other_visitors() {
        let loopback = Loopback::open().unwrap();
        let port = loopback.port();
        let ask = move |target: &str| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            write!(stream, "GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let browser = std::thread::spawn(move || {
            // One that says nothing, one that lies.
            let silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let wrong = ask("/signed-in?state=guessed&code=theirs");
            let right = ask("/signed-in?state=right&code=ours");
            drop(silent);
            (wrong, right)
        });
        let until = Instant::now() + Duration::from_secs(60);
        let visit = loopback.wait("right", until, |uid| uid == rustix::process::getuid().as_raw());
        let visit = visit.unwrap().unwrap();
        assert_eq!(visit.brought.code, "ours");
        visit.answer(200, "Signed in as <Alice>", "");
        let (wrong, right) = browser.join().unwrap();
        assert!(wrong.starts_with("HTTP/1.1 400 "), "{wrong}");
        assert!(right.starts_with("HTTP/1.1 200 ") && right.contains("&lt;Alice&gt;"), "{right}");
        // Another user's processes are not listened to.
        let other = std::thread::spawn(move || ask("/signed-in?state=right&code=ours"));
        let none = loopback.wait("right", Instant::now() + Duration::from_millis(300), |_| false).unwrap();
        assert!(none.is_none());
        assert!(other.join().unwrap().starts_with("HTTP/1.1 403 "));
    }

    #[test]
    fn the_owner_is_who_the_kernel_says() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n\
            1: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n\
            2: 0100007F:C002 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
        let peer = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(owner_in(table, peer(0xc001), 0x1f90), Some(1000));
        assert_eq!(owner_in(table, peer(0xc002), 0x1f90), None, "closed");
        assert_eq!(owner_in(table, peer(0xc003), 0x1f90), None);
    }
}
