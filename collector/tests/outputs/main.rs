//! Outputs against real receivers: rsyslog over TCP and TLS, an OTLP receiver, Kafka, an HTTP server; with collector
//! and receivers killed in the middle.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

mod kafka;
mod receivers;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use interlock_collector::sample::{HOSTILE, SampleHost, SampleSession};
use interlock_collector::store::Store;
use receivers::{Hook, Otlp, Rsyslog};
use serde_json::Value;

/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_secs(120);

/// The collector's program at work; killed when dropped.
struct Collector {
    directory: PathBuf,
    process: Option<Child>,
}

impl Collector {
    fn new(directory: &Path, outputs: &str) -> Self {
        let config = format!(
            "name: collector.test\nstate: {}\nagents: {{listen: '127.0.0.1:0'}}\nweb: {{listen: '127.0.0.1:0'}}\n\
             outputs:\n{outputs}",
            directory.join("state").display()
        );
        fs::write(directory.join("collector.yaml"), config).unwrap();
        let secret = directory.join("secret");
        fs::write(&secret, receivers::SECRET).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let mut collector = Self { directory: directory.to_owned(), process: None };
        collector.start();
        collector
    }

    fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_interlock-collector"))
            .args(["--config".as_ref(), self.directory.join("collector.yaml").as_os_str(), "serve".as_ref()])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// SIGKILL.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The database, opened beside the collector.
    async fn store(&mut self, outputs: usize) -> Store {
        let database = self.directory.join("state/collector.db");
        for _ in 0..LIMIT.as_millis() / 20 {
            if database.exists()
                && let Ok(store) = Store::open_file(&database).await
                && store.outputs().await.is_ok_and(|all| all.len() == outputs)
            {
                return store;
            }
            if let Some(ended) = self.process.as_mut().and_then(|process| process.try_wait().unwrap()) {
                panic!("the collector ended ({ended}): {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the collector does not start: {}", self.log());
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// What a receiver was told, each thing once: what comes again must have been told before, the same.
fn once(told: &[(String, String)]) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut texts = Vec::new();
    for (id, text) in told {
        if seen.insert(id.clone()) {
            texts.push(text.clone());
        } else {
            assert!(told.iter().filter(|(other, _)| other == id).all(|(_, other)| other == text));
        }
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_collector_and_receivers_are_killed() {
    let directory = tempfile::tempdir().unwrap();
    let hook = Hook::start();
    let mut plain = Rsyslog::start(&directory.path().join("plain"), false);
    let mut tls = Rsyslog::start(&directory.path().join("tls"), true);
    let mut otlp = Otlp::start();
    let kinds = "kinds: [command]";
    let mut collector = Collector::new(
        directory.path(),
        &format!(
            "- {{name: hook, {kinds}, webhook: {{url: 'http://{}/x', secret: {}, batch: 10}}}}\n\
             - {{name: plain, {kinds}, syslog: {{server: 'tcp://127.0.0.1:{}'}}}}\n\
             - {{name: tls, {kinds}, syslog: {{server: 'tls://localhost:{}', ca: {}}}}}\n\
             - {{name: otlp, {kinds}, otlp: {{url: '{}v1/logs'}}}}\n",
            hook.address,
            directory.path().join("secret").display(),
            plain.port,
            tls.port,
            tls.ca.display(),
            otlp.url,
        ),
    );
    let store = collector.store(4).await;
    let mut host = SampleHost::enrol(&store, "bastion-1", 1).await.unwrap();
    let mut texts = Vec::new();
    for round in 0..120 {
        let text = |at| format!("SELECT {round}.{at} -- {HOSTILE}\n<34>1 - - su - - - forged");
        let commands: Vec<_> = (0..5).map(|at| (text(at), "allow", "", "")).collect();
        texts.extend(commands.iter().map(|(text, ..)| text.clone()));
        host.session(&store, &SampleSession { commands, ..SampleSession::default() }).await.unwrap();
        match round {
            20 | 60 => {
                collector.kill();
                collector.start();
            }
            30 => hook.answer(503),
            40 => {
                // This sink acknowledges before it prints: it is ended when it has printed all there is.
                for _ in 0..3000 {
                    if once(&otlp.told()).len() >= texts.len() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                plain.kill();
                otlp.kill();
            }
            50 => plain.restart(),
            70 => tls.kill(),
            80 => {
                tls.restart();
                otlp.restart();
                hook.answer(200);
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The index has no zeros.
    let texts: Vec<String> = texts.iter().map(|text| text.replace('\0', "\u{fffd}")).collect();
    let shown: Vec<String> =
        texts.iter().map(|text| interlock_recording::text::printable(text).into_owned()).collect();
    let wants = |told: &[(String, String)]| {
        told.iter().map(|(id, _)| id).collect::<HashSet<_>>().len() >= texts.len()
    };
    let mut end = 0;
    while !(wants(&hook.told()) && wants(&plain.told()) && wants(&tls.told()) && wants(&otlp.told())) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        end += 1;
        assert!(
            end < LIMIT.as_millis() / 100,
            "of {} commands came {} {} {} {}: {:#?}",
            texts.len(),
            hook.told().len(),
            plain.told().len(),
            tls.told().len(),
            otlp.told().len(),
            store.outputs().await
        );
    }
    assert_eq!(once(&hook.told()), texts);
    assert_eq!(once(&otlp.told()), texts);
    assert_eq!(once(&plain.told()), shown);
    assert_eq!(once(&tls.told()), shown);
    let record: Value = serde_json::from_str(&otlp.lines()[0]).unwrap();
    let attribute = |key: &str| {
        let all = record["attributes"].as_array().unwrap();
        all.iter().find(|pair| pair["key"] == key).map(|pair| pair["value"].clone()).unwrap_or_default()
    };
    assert_eq!(attribute("db.system.name")["stringValue"], "postgresql", "{record}");
    assert_eq!(attribute("db.namespace")["stringValue"], "shop");
    assert_eq!(attribute("server.address")["stringValue"], "db.internal");
    assert_eq!(attribute("process.user.name")["stringValue"], "deploy");
    assert!(!collector.log().contains("panicked"), "{}", collector.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_holds_nobody_up_and_gets_it_later() {
    let directory = tempfile::tempdir().unwrap();
    let (well, silent) = (Hook::start(), Hook::start());
    silent.answer(0);
    let secret = directory.path().join("secret").display().to_string();
    let output = |name: &str, hook: &Hook| {
        format!(
            "- {{name: {name}, kinds: [command], webhook: {{url: 'http://{}/x', secret: {secret}}}}}\n",
            hook.address
        )
    };
    let mut collector =
        Collector::new(directory.path(), &format!("{}{}", output("well", &well), output("silent", &silent)));
    let store = collector.store(2).await;
    let mut host = SampleHost::enrol(&store, "bastion-1", 1).await.unwrap();
    for _ in 0..50 {
        host.session(&store, &SampleSession::default()).await.unwrap();
    }
    let until = async |hook: &Hook| {
        for _ in 0..LIMIT.as_millis() / 50 {
            if once(&hook.told()).len() == 50 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} came: {}", hook.told().len(), collector.log());
    };
    until(&well).await;
    assert_eq!(silent.told().len(), 0);
    silent.answer(200);
    until(&silent).await;
}

#[test]
fn the_check_of_a_configuration_opens_the_files_that_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let secret = |name: &str, mode| {
        fs::write(path(name), receivers::SECRET).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    secret("open", 0o644);
    secret("hidden", 0o600);
    let config = format!(
        "state: {}\nweb: {{tls: {{certificate: {}, key: {}}}}}\nkeys: {}\noutputs:\n\
         - {{name: hook, webhook: {{url: 'https://h.example/x', secret: {}}}}}\n\
         - {{name: well, webhook: {{url: 'https://h.example/x', secret: {}}}}}\n\
         - {{name: stream, kafka: {{servers: ['tls://k.example:9093'], topic: t, ca: {}}}}}\n\
         sign_in: {{saml: [{{name: corp, metadata_file: {}, roles: {{viewer: [all]}}}}]}}\n",
        path("state"),
        path("no.crt"),
        path("no.key"),
        path("no-keys"),
        path("open"),
        path("hidden"),
        path("hidden"),
        path("no.xml"),
    );
    let config = config.replace("web: {", "web: {url: 'https://collector.example', ");
    fs::write(path("collector.yaml"), config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_interlock-collector"))
        .args(["--config", &path("collector.yaml"), "config", "check"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for says in ["no.crt", "no-keys/ledger.key", "outputs: hook: ", "chmod", "outputs: stream: ", "no.xml"] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(!text.contains("well") && !text.contains("whsec_"), "{text}");
}

/// Runs a command on a state directory; gives what it prints, as JSON.
fn ask(state: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_interlock-collector"))
        .arg("--state")
        .arg(state)
        .args(arguments)
        .arg("--json")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}{complaints}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_ask_what_the_api_asks() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let config = interlock_collector::config::Config {
        state: state.clone(),
        name: Some("collector.test".into()),
        ..interlock_collector::config::Config::default()
    };
    let parts = interlock_collector::serve::open(&config).await.unwrap();
    let store = &parts.intake.store;
    let mut host = SampleHost::enrol(store, "bastion-1", 1).await.unwrap();
    let commands = vec![("DROP TABLE x".into(), "deny", "no-drops", ""), (HOSTILE.into(), "allow", "", "")];
    let session = host
        .session(store, &SampleSession { commands, ..SampleSession::default() })
        .await
        .unwrap()
        .to_string();
    host.session(store, &SampleSession { user: "other".into(), ..SampleSession::default() }).await.unwrap();
    let mut write = store.write().await.unwrap();
    write.add_finding(&host.id, "gap", "event 3 is missing", None).await.unwrap();
    write.add_output("siem").await.unwrap();
    write.commit().await.unwrap();

    assert_eq!(ask(&state, &["sessions", "list"]).len(), 2);
    let denied = ask(&state, &["sessions", "list", "--verdict", "deny", "--host", "bastion-1"]);
    assert_eq!((denied.len(), &denied[0]["id"]), (1, &Value::from(session.as_str())));
    assert_eq!(ask(&state, &["sessions", "list", "--user", "other", "--limit", "1"]).len(), 1);
    let events = ask(&state, &["sessions", "show", &session]);
    assert_eq!(events.last().unwrap()["event"], "session_ended");
    let found = ask(&state, &["commands", "--text", "drop", "--rule", "no-drops"]);
    assert_eq!((found.len(), &found[0]["text"]), (1, &Value::from("DROP TABLE x")));
    assert_eq!(ask(&state, &["rules"])[0]["rule"], "no-drops");
    for name in ["bastion-1", &host.id[..8], host.id.as_str()] {
        assert_eq!(ask(&state, &["rules", "--host", name])[0]["rule"], "no-drops", "{name}");
    }
    assert_eq!(ask(&state, &["findings"])[0]["detail"], "event 3 is missing");
    assert_eq!(ask(&state, &["outputs", "list"])[0]["state"], "not configured");
    assert_eq!(ask(&state, &["host-events", "bastion-1"]).len(), 0);
    let looked = ask(&state, &["audit", "--action", "session.view"]);
    assert_eq!((looked.len(), &looked[0]["target"]), (1, &Value::from(session.as_str())));
    // For people nothing gets through to the terminal; what is misspelt is refused.
    for (arguments, says) in [
        (["commands", "--verdict", "denied"], "verdict is allow, deny or hold"),
        (["commands", "--since", "yesterday"], "since is a time"),
        (["sessions", "show", "nonsense"], "there is no session"),
        (["rules", "--host", "nobody"], "no hosts are called"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_interlock-collector"))
            .arg("--state")
            .arg(&state)
            .args(arguments)
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complaint.contains(says), "{arguments:?}: {complaint}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_interlock-collector"))
        .arg("--state")
        .arg(&state)
        .args(["sessions", "show", &session])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
}
