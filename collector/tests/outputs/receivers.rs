//! Receivers to be told: real ones, started on free ports and killed at will.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use interlock_tests::cache;
use serde_json::Value;
use sha2::Sha256;

/// The webhooks' secret, as it stands in its file.
pub(crate) const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n";
const SECRET_BYTES: &[u8] = b"01234567890123456789012345678901";

type Told = Arc<Mutex<Vec<(String, String)>>>;

/// An HTTP server. It answers with the status that it is given; 0 stands for never.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    told: Told,
    status: Arc<AtomicU16>,
}

impl Hook {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (told, status) = (Told::default(), Arc::new(AtomicU16::new(200)));
        let (to, how) = (Arc::clone(&told), Arc::clone(&status));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (to, how) = (Arc::clone(&to), Arc::clone(&how));
                std::thread::spawn(move || while answer(&stream, &to, &how).is_some() {});
            }
        });
        Self { address, told, status }
    }

    pub(crate) fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Ids and texts of commands.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        self.told.lock().unwrap().clone()
    }
}

fn answer(mut stream: &TcpStream, told: &Told, status: &AtomicU16) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut id, mut timestamp, mut signature, mut length) =
        (String::new(), String::new(), String::new(), 0_usize);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name.to_lowercase().as_str() {
            "webhook-id" => id = value.to_owned(),
            "webhook-timestamp" => timestamp = value.to_owned(),
            "webhook-signature" => signature = value.to_owned(),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET_BYTES).unwrap();
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(&body);
    assert_eq!(signature, format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
    let status = status.load(Ordering::SeqCst);
    if status == 0 {
        // The connection stays open, and nothing comes.
        std::thread::sleep(Duration::from_secs(600));
        return None;
    }
    if status == 200 {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let messages = body["data"].as_array().unwrap().iter();
        let messages = messages.map(|message| (string(&message["id"]), string(&message["text"])));
        told.lock().unwrap().extend(messages);
    }
    stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).ok()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}")).to_owned()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn end(process: &mut Option<Child>) {
    if let Some(mut process) = process.take() {
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// rsyslog.
pub(crate) struct Rsyslog {
    pub(crate) port: u16,
    pub(crate) ca: PathBuf,
    directory: PathBuf,
    process: Option<Child>,
}

impl Rsyslog {
    pub(crate) fn start(directory: &Path, tls: bool) -> Self {
        fs::create_dir(directory).unwrap();
        let port = free_port();
        let file = |name: &str| directory.join(name).display().to_string();
        let mut driver = String::new();
        let mut input = "module(load=\"imtcp\" ".to_owned();
        if tls {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            fs::write(file("crt"), made.cert.pem()).unwrap();
            fs::write(file("key"), made.signing_key.serialize_pem()).unwrap();
            driver = format!(
                "DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{0}\" \
                 DefaultNetstreamDriverCertFile=\"{0}\" DefaultNetstreamDriverKeyFile=\"{1}\"",
                file("crt"),
                file("key")
            );
            input.push_str(
                "StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"anon\"",
            );
        }
        let config = format!(
            "global(workDirectory=\"{}\" maxMessageSize=\"64k\" {driver})\n{input})\nmodule(load=\"mmpstrucdata\")\n\
             template(name=\"all\" type=\"string\" string=\"%jsonmesg%\\n\")\n\
             ruleset(name=\"keep\") {{\n  action(type=\"mmpstrucdata\")\n  action(type=\"omfile\" file=\"{}\" \
             template=\"all\" flushOnTXEnd=\"on\" asyncWriting=\"off\")\n}}\n\
             input(type=\"imtcp\" port=\"{port}\" address=\"127.0.0.1\" ruleset=\"keep\")\n",
            directory.display(),
            file("messages")
        );
        fs::write(file("conf"), config).unwrap();
        let mut this =
            Self { port, ca: directory.join("crt"), directory: directory.to_owned(), process: None };
        this.restart();
        this
    }

    pub(crate) fn restart(&mut self) {
        let file = |name: &str| self.directory.join(name);
        let _ = fs::remove_file(file("pid"));
        let log = fs::File::options().create(true).append(true).open(file("log")).unwrap();
        let process = Command::new("/usr/sbin/rsyslogd")
            .arg("-n")
            .arg("-f")
            .arg(file("conf"))
            .arg("-i")
            .arg(file("pid"))
            .stderr(log)
            .spawn()
            .expect("rsyslog: `cargo xtask setup` installs it");
        self.process = Some(process);
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("rsyslog does not listen: {}", fs::read_to_string(file("log")).unwrap_or_default());
    }

    pub(crate) fn kill(&mut self) {
        end(&mut self.process);
    }

    /// Ids and texts of commands, as rsyslog reads the structured data.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.directory.join("messages")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                let message: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("JSON: {line}"));
                assert_eq!(message["app-name"], "interlock-collector", "{line}");
                assert_eq!(message["hostname"], "collector.test");
                let data = &message["$!"]["rfc5424-sd"]["interlock@32473"];
                (string(&data["id"]), string(&data["text"]))
            })
            .collect()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A receiver of OTLP logs.
pub(crate) struct Otlp {
    pub(crate) url: String,
    port: u16,
    process: Option<Child>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Otlp {
    pub(crate) fn start() -> Self {
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}/");
        let mut this = Self { url, port, process: None, lines: Arc::default() };
        this.restart();
        this
    }

    pub(crate) fn restart(&mut self) {
        let mut process = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outputs/otlp.cjs"))
            .arg(self.port.to_string())
            .env("NODE_PATH", cache::otlp().join("node_modules"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("Node.js: `cargo xtask setup` installs it");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        lines.next().expect("mockotlpserver: `cargo xtask setup` installs it").unwrap();
        let to = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                to.lock().unwrap().push(line);
            }
        });
        self.process = Some(process);
    }

    pub(crate) fn kill(&mut self) {
        end(&mut self.process);
    }

    /// The log records, as JSON.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Ids and texts of commands.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        self.lines()
            .iter()
            .map(|line| {
                let record: Value = serde_json::from_str(line).unwrap();
                let attribute = |key: &str| {
                    let all = record["attributes"].as_array().unwrap();
                    let found = all.iter().find(|pair| pair["key"] == key);
                    string(&found.unwrap_or_else(|| panic!("{key}: {line}"))["value"]["stringValue"])
                };
                (attribute("log.record.uid"), attribute("db.query.text"))
            })
            .collect()
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.kill();
    }
}
