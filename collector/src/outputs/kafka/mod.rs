//! Records in a topic of Kafka.
//!
//! A producer of our own, since it needs five requests: the crates that there are send a batch again when the
//! broker only asks to be slower (rskafka), believe a broker's counts (kafka-protocol), or are new. Records are keyed by
//! host, each batch of a partition waits until the one before it is acknowledged by all replicas in sync, and
//! nothing is kept but which messages of the batch at hand are there already.

mod connection;
mod scram;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use interlock_recording::text::SafeJson;
use serde::Serialize as _;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::config::{self, Kafka};
use super::message::Message;
use super::send::{Failure, secret_line};
use super::tls;
use crate::store::now_ns;
use connection::{BrokerError, Connection};
use wire::{Layout, Record, error, key};

/// How long sending a batch may take, all of it.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long brokers may wait for their replicas, ms.
const REPLICAS: i32 = 10_000;
/// After so long it is asked anew where partitions are, so that new ones are known.
const LAYOUT: Duration = Duration::from_secs(300);
/// How long is waited before it is asked again at once, at first; twice as long after each time.
const AGAIN: Duration = Duration::from_millis(100);
/// How long is waited at most because a broker asks to be slower.
const THROTTLE: Duration = Duration::from_secs(20);
/// Messages that are remembered as acknowledged: those of one batch.
const REMEMBERED: usize = 1000;

/// Produces to one topic.
pub(super) struct Producer {
    config: Kafka,
    collector: String,
    /// Brokers may lead to others over the network without TLS.
    plaintext: bool,
    tls: Option<TlsConnector>,
    connections: HashMap<i32, Connection>,
    layout: Option<(Instant, Layout)>,
    /// Of the messages that are to be sent again because others of their batch were not taken: those that are there.
    acknowledged: HashSet<String>,
    /// A broker asked that nothing is sent before.
    not_before: Option<Instant>,
}

/// Why a batch is not there.
enum Trouble {
    /// Partitions or brokers are elsewhere: worth trying again at once.
    Moved(String),
    /// It may go another time.
    Later(String),
    /// Brokers do not take it.
    Refused(String),
}

impl From<BrokerError> for Trouble {
    fn from(error: BrokerError) -> Self {
        let why = error.to_string();
        match error {
            BrokerError::Broken { .. } => Self::Moved(why),
            BrokerError::Wrong { .. } => Self::Later(why),
        }
    }
}

impl Producer {
    pub(super) fn new(config: &Kafka, plaintext: bool, collector: &str) -> anyhow::Result<Self> {
        if let Some(sasl) = &config.sasl {
            secret_line(&sasl.password)?;
        }
        let encrypted = config.servers.first().is_some_and(|server| server.starts_with("tls://"));
        let shown = config.certificate.as_ref().zip(config.key.as_ref());
        let tls = encrypted.then(|| tls::connector(config.ca.as_deref(), shown)).transpose()?;
        Ok(Self {
            config: config.clone(),
            collector: collector.to_owned(),
            plaintext,
            tls,
            connections: HashMap::new(),
            layout: None,
            acknowledged: HashSet::new(),
            not_before: None,
        })
    }

    pub(super) async fn send(&mut self, messages: &[&Message]) -> Result<(), Failure> {
        if let Some(until) = self.not_before.take() {
            tokio::time::sleep_until(until).await;
        }
        let mut why = None;
        let sent = timeout(TIMEOUT, self.attempts(messages, &mut why)).await;
        let failure = match sent {
            Ok(Ok(())) => {
                for message in messages {
                    self.acknowledged.remove(&message.id);
                }
                return Ok(());
            }
            Ok(Err(Trouble::Refused(why))) => return Err(Failure::Refused(why)),
            Ok(Err(Trouble::Later(why) | Trouble::Moved(why))) => why,
            Err(_) => why.unwrap_or_else(|| format!("no broker has answered for {} s", TIMEOUT.as_secs())),
        };
        // What was under way is lost with its connection.
        self.forget();
        if self.acknowledged.len() > REMEMBERED {
            self.acknowledged.clear();
        }
        Err(Failure::Later(failure, None))
    }

    fn forget(&mut self) {
        self.connections.clear();
        self.layout = None;
    }

    /// Tries until it is there, or nothing is gained by trying again at once. `why` is what failed last.
    async fn attempts(&mut self, messages: &[&Message], why: &mut Option<String>) -> Result<(), Trouble> {
        let mut wait = AGAIN;
        loop {
            match self.attempt(messages).await {
                Err(Trouble::Moved(moved)) if wait < TIMEOUT / 2 => {
                    *why = Some(moved);
                    self.forget();
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                ended => return ended,
            }
        }
    }

    async fn attempt(&mut self, messages: &[&Message]) -> Result<(), Trouble> {
        self.look().await?;
        let Some((_, layout)) = &self.layout else { return Ok(()) };
        // All there are, with those that have no leader now: a key's partition must not depend on that.
        let count =
            layout.leaders.keys().next_back().map_or(0, |last| usize::try_from(*last).map_or(0, |n| n + 1));
        let mut waiting: BTreeMap<i32, VecDeque<(&str, Record)>> = BTreeMap::new();
        for message in messages.iter().filter(|message| !self.acknowledged.contains(&message.id)) {
            let record = record(message, &self.collector)
                .map_err(|error| Trouble::Later(format!("{} cannot be written: {error}", message.id)))?;
            let partition = i32::try_from(wire::partition(&record.key, count)).unwrap_or_default();
            waiting.entry(partition).or_default().push_back((&message.id, record));
        }
        while !waiting.is_empty() {
            self.round(&mut waiting).await?;
        }
        Ok(())
    }

    /// Sends what is next of each partition. What is acknowledged is taken out of `waiting`.
    async fn round(&mut self, waiting: &mut BTreeMap<i32, VecDeque<(&str, Record)>>) -> Result<(), Trouble> {
        let Some((_, layout)) = &self.layout else { return Ok(()) };
        let mut by_leader: BTreeMap<i32, Vec<(i32, Vec<Record>)>> = BTreeMap::new();
        let mut leaderless = None;
        for (partition, records) in waiting.iter() {
            let leader = layout.leaders.get(partition).copied().unwrap_or(-1);
            if !layout.brokers.contains_key(&leader) {
                leaderless = Some(format!("partition {partition} has no leader at the moment"));
                continue;
            }
            let mut bytes = 0;
            let chunk = records.iter().take_while(|(_, record)| {
                bytes += record.len();
                bytes == record.len() || bytes <= self.config.max_bytes
            });
            let chunk = chunk.map(|(_, record)| record.clone()).collect();
            by_leader.entry(leader).or_default().push((*partition, chunk));
        }
        let mut worst = leaderless.map(Trouble::Moved);
        for (leader, partitions) in by_leader {
            let errors = match self.produce(leader, &partitions).await {
                Ok(errors) => errors,
                Err(trouble) => {
                    self.connections.remove(&leader);
                    worse(&mut worst, trouble);
                    continue;
                }
            };
            for (partition, records) in &partitions {
                let Some(code) = errors.get(partition) else {
                    worse(&mut worst, Trouble::Later("a broker's answer leaves partitions out".into()));
                    continue;
                };
                if *code == error::NONE {
                    let Some(queue) = waiting.get_mut(partition) else { continue };
                    for (id, _) in queue.drain(..records.len().min(queue.len())) {
                        self.acknowledged.insert(id.to_owned());
                    }
                    if queue.is_empty() {
                        waiting.remove(partition);
                    }
                    continue;
                }
                let why = format!("topic {}: {}", self.config.topic, error::meaning(*code));
                worse(
                    &mut worst,
                    match *code {
                        code if error::has_moved(code) => Trouble::Moved(why),
                        code if error::is_refusal(code) => Trouble::Refused(why),
                        _ => Trouble::Later(why),
                    },
                );
            }
        }
        worst.map_or(Ok(()), Err)
    }

    async fn produce(
        &mut self,
        leader: i32,
        partitions: &[(i32, Vec<Record>)],
    ) -> Result<BTreeMap<i32, i16>, Trouble> {
        let Some((_, layout)) = &self.layout else {
            return Err(Trouble::Moved("it is not known where".into()));
        };
        let (host, port) = layout.brokers.get(&leader).cloned().unwrap_or_default();
        if self.tls.is_none() && !self.plaintext && !config::is_loopback(&host) {
            return Err(Trouble::Later(format!(
                "a broker leads to {host}, and recordings would cross the network in the clear. Use TLS, or set \
                 `plaintext: true` if that is what you want"
            )));
        }
        let connection = match self.connections.entry(leader) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place
                .insert(Connection::open(&host, port, self.tls.as_ref(), self.config.sasl.as_ref()).await?),
        };
        let partitions: Vec<(i32, &[Record])> =
            partitions.iter().map(|(partition, records)| (*partition, records.as_slice())).collect();
        let body = wire::ask_produce(&self.config.topic, &partitions, REPLICAS, now_ns() / 1_000_000);
        let version = connection.produce;
        let answer = connection.ask(key::PRODUCE, version, &body).await?;
        let (errors, throttle) = wire::produced(&answer, version, &self.config.topic)
            .map_err(|error| Trouble::from(connection.wrong(error)))?;
        if throttle > 0 {
            let wait = Duration::from_millis(throttle.into()).min(THROTTLE);
            self.not_before = Some(Instant::now() + wait);
        }
        Ok(errors)
    }

    /// Finds out where the partitions are, unless that is known.
    async fn look(&mut self) -> Result<(), Trouble> {
        if self.layout.as_ref().is_some_and(|(at, _)| at.elapsed() < LAYOUT) {
            return Ok(());
        }
        let known: Vec<i32> = self.connections.keys().copied().collect();
        for id in known {
            let Some(mut connection) = self.connections.remove(&id) else { continue };
            if let Ok(layout) = ask(&mut connection, &self.config.topic).await {
                self.connections.insert(id, connection);
                return self.found(layout);
            }
        }
        let mut failed: Option<Trouble> = None;
        for server in &self.config.servers {
            let Some(server) = config::server(server) else { continue };
            let port = server.port.unwrap_or_default();
            let opened =
                Connection::open(&server.host, port, self.tls.as_ref(), self.config.sasl.as_ref()).await;
            let asked = match opened {
                Ok(mut connection) => ask(&mut connection, &self.config.topic).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(layout) => return self.found(layout),
                Err(error) => worse(&mut failed, error.into()),
            }
        }
        Err(failed.unwrap_or_else(|| Trouble::Later("kafka.servers names no broker".into())))
    }

    fn found(&mut self, layout: Layout) -> Result<(), Trouble> {
        let why = match layout.error {
            error::NONE if layout.leaders.is_empty() => "it has no partitions".to_owned(),
            error::NONE => {
                self.layout = Some((Instant::now(), layout));
                return Ok(());
            }
            code => error::meaning(code),
        };
        let why = format!("topic {}: {why}", self.config.topic);
        // It takes a while until all brokers know of a new topic; one that is not there is waited for elsewhere.
        Err(if layout.error != error::UNKNOWN_TOPIC && error::has_moved(layout.error) {
            Trouble::Moved(why)
        } else {
            Trouble::Later(why)
        })
    }
}

/// What is refused stands before what may go later, and that before what may go at once.
fn worse(worst: &mut Option<Trouble>, trouble: Trouble) {
    let rank = |trouble: &Trouble| match trouble {
        Trouble::Moved(_) => 0,
        Trouble::Later(_) => 1,
        Trouble::Refused(_) => 2,
    };
    if worst.as_ref().is_none_or(|worst| rank(worst) < rank(&trouble)) {
        *worst = Some(trouble);
    }
}

async fn ask(connection: &mut Connection, topic: &str) -> Result<Layout, BrokerError> {
    let answer = connection.ask(key::METADATA, wire::METADATA_VERSION, &wire::ask_metadata(topic)).await?;
    wire::metadata(&answer, topic).map_err(|error| connection.wrong(error))
}

/// A message as a record: keyed by its host, so that one host's are in one partition, in order. What is about no host has
/// the collector's name.
fn record(message: &Message, collector: &str) -> serde_json::Result<Record> {
    let key = message.host().map_or(collector, |(_, id)| id).as_bytes().to_vec();
    let mut value = Vec::new();
    Value::Object(message.json(collector))
        .serialize(&mut serde_json::Serializer::with_formatter(&mut value, SafeJson))?;
    let headers = vec![("id", message.id.clone()), ("kind", message.name().to_owned())];
    Ok(Record { key, value, headers })
}

/// Reads arbitrary bytes as each answer of a broker: the entry for fuzzing. None may panic.
pub fn exercise(bytes: &[u8]) {
    let _ = wire::api_versions(bytes);
    let _ = wire::metadata(bytes, "t");
    for version in wire::PRODUCE_VERSIONS {
        let _ = wire::produced(bytes, version, "t");
    }
    if let Ok(scram) = scram::Scram::new(scram::Hash::Sha256, "u") {
        let _ = scram.last("p", bytes);
    }
}
