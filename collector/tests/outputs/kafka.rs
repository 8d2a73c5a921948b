//! Kafka: librdkafka's brokers, read by a librdkafka consumer.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use interlock_collector::sample::{HOSTILE, SampleHost, SampleSession};
use interlock_collector::store::Store;
use interlock_tests::cache;
use serde_json::Value;

use crate::{Collector, LIMIT};

const TOPIC: &str = "interlock.told";
const PARTITIONS: usize = 4;
/// Produce, by its key in the protocol.
const PRODUCE: &str = "0";

/// A cluster of three brokers.
struct Cluster {
    servers: Vec<String>,
    process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// A record as it is in the topic.
#[derive(Debug)]
struct Record {
    partition: u64,
    key: String,
    value: Value,
    id: String,
    kind: String,
}

impl Cluster {
    /// `front`: certificate, key, mechanism, user and password.
    fn start(front: &[&str]) -> Self {
        let mut process = Command::new(cache::receivers().join("bin/python"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outputs/kafka.py"))
            .args(["3", TOPIC, &PARTITIONS.to_string()])
            .args(front)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("confluent-kafka: `cargo xtask setup` installs it");
        let commands = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = answers.next().expect("confluent-kafka: `cargo xtask setup` installs it").unwrap();
        let servers = serde_json::from_str(&first).unwrap();
        Self { servers, process, commands, answers }
    }

    fn tell(&mut self, command: &str) -> Value {
        writeln!(self.commands, "{command}").unwrap();
        serde_json::from_str(&self.answers.next().expect("the cluster ended").unwrap()).unwrap()
    }

    fn does(&mut self, command: &str) {
        assert_eq!(self.tell(command), 0, "{command}");
    }

    fn consume(&mut self) -> Vec<Record> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let records = self.tell("consume");
        let records = records.as_array().unwrap().iter().map(|record| Record {
            partition: record[0].as_u64().unwrap(),
            key: text(&record[2]),
            value: serde_json::from_str(record[3].as_str().unwrap()).unwrap(),
            id: text(&record[4]["id"]),
            kind: text(&record[4]["kind"]),
        });
        records.collect()
    }

    /// Consumes until there are so many different records.
    async fn until(&mut self, count: usize, collector: &Collector) -> Vec<Record> {
        for _ in 0..LIMIT.as_millis() / 200 {
            let records = self.consume();
            let ids: HashSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
            assert!(ids.len() <= count, "{} of {count} came", ids.len());
            if ids.len() == count {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{} of {count} came: {}", self.consume().len(), collector.log());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn told(store: &Store, host: &mut SampleHost, texts: &[String]) {
    let commands = texts.iter().map(|text| (text.clone(), "allow", "", "")).collect();
    host.session(store, &SampleSession { commands, ..SampleSession::default() }).await.unwrap();
}

/// Waits until the output's error holds `says`.
async fn fails(store: &Store, says: &str, collector: &Collector) -> String {
    for _ in 0..LIMIT.as_millis() / 50 {
        let outputs = store.outputs().await.unwrap();
        if let Some(output) = outputs.iter().find(|output| output.error.contains(says)) {
            return output.error.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{says:?} is not said: {:#?} {}", store.outputs().await, collector.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_has_what_came_in_order_of_each_host_though_brokers_and_collector_are_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&[]);
    cluster.does("create");
    let servers: Vec<String> = cluster.servers.iter().map(|server| format!("'tcp://{server}'")).collect();
    let mut collector = Collector::new(
        directory.path(),
        &format!(
            "- {{name: stream, kinds: [command], kafka: {{servers: [{}], topic: {TOPIC}, max_bytes: 65536}}}}\n",
            servers.join(", ")
        ),
    );
    let store = collector.store(1).await;
    let mut hosts = Vec::new();
    for (number, name) in (1..).zip(["bastion-1", "runner-2", "runner-3"]) {
        hosts.push(SampleHost::enrol(&store, name, number).await.unwrap());
    }
    let mut texts: HashMap<String, Vec<String>> = HashMap::new();
    for round in 0..100 {
        for (number, host) in hosts.iter_mut().enumerate() {
            let some: Vec<String> =
                (0..3).map(|at| format!("SELECT {number}.{round}.{at} -- {HOSTILE}")).collect();
            told(&store, host, &some).await;
            texts.entry(host.id.clone()).or_default().extend(some);
        }
        match round {
            10 => cluster.does(&format!("errors {PRODUCE} 6 19 7 5 20")),
            20 | 60 => {
                collector.kill();
                collector.start();
            }
            30 => cluster.does("down 1"),
            40 => (0..PARTITIONS).for_each(|partition| cluster.does(&format!("leader {partition} 2"))),
            50 => cluster.does("down 2"),
            70 => ["up 1", "up 2"].iter().for_each(|command| cluster.does(command)),
            80 => (0..PARTITIONS).for_each(|partition| cluster.does(&format!("leader {partition} 3"))),
            // Too large for some, and for one alone: nothing is left out for it.
            90 => cluster.does(&format!("errors {PRODUCE} 10 10")),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let records = cluster.until(900, &collector).await;
    for (host, texts) in &texts {
        let of_host: Vec<&Record> = records.iter().filter(|record| record.key == *host).collect();
        assert!(of_host.iter().all(|record| record.value["host"] == **host && record.kind == "command"));
        assert!(of_host.iter().all(|record| record.value["id"] == *record.id));
        let partitions: HashSet<u64> = of_host.iter().map(|record| record.partition).collect();
        assert_eq!(partitions.len(), 1, "one host's records are in one partition: {partitions:?}");
        let told: Vec<(String, String)> = of_host
            .iter()
            .map(|record| (record.id.clone(), record.value["text"].as_str().unwrap().to_owned()))
            .collect();
        // The index has no zeros.
        let texts: Vec<String> = texts.iter().map(|text| text.replace('\0', "\u{fffd}")).collect();
        assert_eq!(crate::once(&told), texts);
    }
    let again = records.len() - 900;
    assert!(again < 900, "{again} records came again");
    assert!(!collector.log().contains("panicked"), "{}", collector.log());
}

/// A certificate for localhost, and its key.
fn certificate(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_verified_and_passwords_that_are_wrong_said() {
    let directory = tempfile::tempdir().unwrap();
    let (crt, key) = certificate(directory.path(), "broker");
    let (other, _) = certificate(directory.path(), "other");
    let password = directory.path().join("password");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let place = directory.path().join(mechanism);
        fs::create_dir(&place).unwrap();
        let front = [crt.to_str().unwrap(), key.to_str().unwrap(), mechanism, "collector,=", "open sesame"];
        let mut cluster = Cluster::start(&front);
        secret(&password, "open barley\n");
        let output = |ca: &Path| {
            format!(
                "- {{name: stream, kinds: [command], kafka: {{servers: ['tls://{}'], topic: {TOPIC}, ca: {}, sasl: \
                 {{mechanism: {}, user: 'collector,=', password: {}}}}}}}\n",
                cluster.servers[0],
                ca.display(),
                mechanism.to_lowercase(),
                password.display()
            )
        };
        let (trusted, untrusted) = (output(&crt), output(&other));
        let mut collector = Collector::new(&place, &untrusted);
        let store = collector.store(1).await;
        let mut host = SampleHost::enrol(&store, "bastion-1", 1).await.unwrap();
        told(&store, &mut host, &["SELECT 1".to_owned()]).await;
        let error = fails(&store, "TLS", &collector).await;
        assert!(error.contains("certificate"), "{error}");
        assert_eq!(cluster.tell("refused"), 0, "nothing was sent to a server that is not trusted");
        collector.kill();

        let config = fs::read_to_string(place.join("collector.yaml")).unwrap();
        fs::write(place.join("collector.yaml"), config.replace(&untrusted, &trusted)).unwrap();
        collector.start();
        let error = fails(&store, "SASL_AUTHENTICATION_FAILED", &collector).await;
        assert!(error.contains("name or password") && !error.contains("barley"), "{error}");
        assert_ne!(cluster.tell("refused"), 0);

        // The file is read again, and then the topic is missing.
        secret(&password, "open sesame\n");
        let error = fails(&store, "UNKNOWN_TOPIC", &collector).await;
        assert!(error.contains(TOPIC) && error.contains("create"), "{error}");
        cluster.does("create");
        let records = cluster.until(1, &collector).await;
        assert_eq!(records[0].value["text"], "SELECT 1");
        assert!(!collector.log().contains("sesame"), "{}", collector.log());
    }
}
