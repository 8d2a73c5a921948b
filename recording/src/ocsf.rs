//! Events as [OCSF](https://schema.ocsf.io) 1.8.0. `docs/outputs.md` has the table of what becomes what.

mod authentication;
mod datastore;
mod objects;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use self::authentication::{Change, person};
use self::objects::{actor, base, endpoint, put, source};
use crate::SessionId;
use crate::json::name;
use crate::proto::event::Body;
use crate::proto::{Event, Subject};
use crate::query::Summary;

/// The version of OCSF.
pub const VERSION: &str = "1.8.0";

/// Commands of one session whose end is waited for.
const PENDING: usize = 1000;

/// OCSF's numbers for what was done.
mod class {
    pub(super) const BASE: u32 = 0;
    pub(super) const AUTHENTICATION: u32 = 3002;
    pub(super) const NETWORK_ACTIVITY: u32 = 4001;
    pub(super) const APPLICATION_LIFECYCLE: u32 = 6002;
    pub(super) const DATASTORE_ACTIVITY: u32 = 6005;
}

/// Where events were recorded.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The host's id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What is known of a session.
#[derive(Debug, Default)]
struct Known {
    subject: Subject,
    client: String,
    destination: String,
    hosts: Vec<String>,
    protocol: String,
    db_user: String,
    database: String,
}

/// Makes OCSF events out of a recording's, which come in their order. A command and its end become one.
#[derive(Debug, Default)]
pub struct Ocsf {
    sessions: HashMap<SessionId, Known>,
    /// Commands whose end has not come, by session and number.
    pending: BTreeMap<(SessionId, u64), Event>,
}

impl Ocsf {
    /// One that knows of no session yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what is known of a session, should its beginning not be among the events.
    pub fn know(&mut self, session: SessionId, summary: &Summary) {
        self.sessions.entry(session).or_insert_with(|| Known {
            subject: Subject {
                pid: summary.pid,
                uid: summary.uid,
                user: summary.user.clone(),
                exe: summary.exe.clone(),
                script: summary.script.clone(),
                ..Subject::default()
            },
            destination: summary.destination.clone(),
            hosts: summary.hosts.clone(),
            protocol: summary.protocol.clone(),
            db_user: summary.db_user.clone(),
            database: summary.database.clone(),
            ..Known::default()
        });
    }

    /// What an event becomes: nothing, when it waits for its end or has no place in OCSF, or more than one.
    pub fn event(&mut self, host: &Host, event: &Event) -> Vec<Value> {
        let session = SessionId::from_slice(&event.session);
        let mut made = Vec::new();
        match (&event.body, session) {
            (Some(Body::Command(body)), Some(session)) => {
                if self.pending.len() >= PENDING
                    && let Some((_, first)) = self.pending.pop_first()
                {
                    made.push(self.command(host, &first, None));
                }
                self.pending.insert((session, body.command), event.clone());
            }
            (Some(Body::Result(body)), Some(session)) => {
                match self.pending.remove(&(session, body.command)) {
                    Some(command) => made.push(self.command(host, &command, Some((event, body)))),
                    None => made.push(self.orphan(host, event)),
                }
            }
            (Some(Body::FlowStarted(body)), Some(session)) => {
                let known = Known {
                    subject: body.subject.clone().unwrap_or_default(),
                    client: body.client.clone(),
                    destination: body.destination.clone(),
                    hosts: body.hosts.clone(),
                    protocol: body.protocol.clone(),
                    ..Known::default()
                };
                made.push(self.network(host, event, &known, 1, "Open", true));
                self.sessions.insert(session, known);
            }
            (Some(Body::IdentityChanged(body)), Some(session)) => {
                let known = self.sessions.entry(session).or_default();
                known.subject.person.clone_from(&body.person);
                known.subject.workload.clone_from(&body.workload);
                made.push(self.orphan(host, event));
            }
            (Some(Body::Login(body)), Some(session)) => {
                let known = self.sessions.entry(session).or_default();
                known.db_user.clone_from(&body.user);
                known.database.clone_from(&body.database);
                made.push(self.login(host, event, body));
            }
            (Some(Body::SessionEnded(body)), Some(session)) => {
                made.extend(self.flush_session(host, session));
                let known = self.sessions.remove(&session).unwrap_or_default();
                let mut end = self.network(host, event, &known, 2, "Close", true);
                put(
                    &mut end,
                    "traffic",
                    json!({
                        "bytes_in": body.server_bytes, "bytes_out": body.client_bytes,
                        "bytes": body.server_bytes.saturating_add(body.client_bytes),
                    }),
                );
                put(&mut end, "status_detail", body.reason.as_str().into());
                made.push(end);
            }
            (Some(Body::Egress(body)), _) => {
                let known = Known {
                    subject: body.subject.clone().unwrap_or_default(),
                    destination: body.destination.clone(),
                    ..Known::default()
                };
                let allowed = body.verdict != "deny";
                let (activity, what) = if allowed { (1, "Open") } else { (5, "Refuse") };
                let mut made_of = self.network(host, event, &known, activity, what, allowed);
                put(&mut made_of, "count", body.count.into());
                made.push(made_of);
            }
            (Some(Body::PersonSignedIn(body)), _) => made.push(person(host, event, body, Change::In)),
            (Some(Body::PersonSignedOut(body) | Body::PersonExpired(body)), _) => {
                made.push(person(host, event, body, Change::Out));
            }
            (Some(Body::PersonGroupsChanged(body)), _) => {
                made.push(person(host, event, body, Change::Groups));
            }
            (Some(Body::PersonRefused(body)), _) => made.push(person(host, event, body, Change::Refused)),
            (Some(Body::AgentStarted(_)), _) => made.push(lifecycle(host, event, 3, "Start")),
            (Some(Body::AgentStopped(_)), _) => made.push(lifecycle(host, event, 4, "Stop")),
            (Some(Body::TerminalOutput(_) | Body::TerminalInput(_) | Body::TerminalSize(_)) | None, _) => {}
            (Some(_), _) => made.push(self.orphan(host, event)),
        }
        made
    }

    /// Commands whose end is not among the events.
    pub fn flush(&mut self, host: &Host) -> Vec<Value> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_values().map(|event| self.command(host, &event, None)).collect()
    }

    fn flush_session(&mut self, host: &Host, session: SessionId) -> Vec<Value> {
        let ids: Vec<_> = self.pending.range((session, 0)..=(session, u64::MAX)).map(|(id, _)| *id).collect();
        let events: Vec<_> = ids.iter().filter_map(|id| self.pending.remove(id)).collect();
        events.iter().map(|event| self.command(host, event, None)).collect()
    }

    fn known(&self, event: &Event) -> Option<&Known> {
        self.sessions.get(&SessionId::from_slice(&event.session)?)
    }

    fn network(
        &self,
        host: &Host,
        event: &Event,
        known: &Known,
        activity: u32,
        what: &str,
        allowed: bool,
    ) -> Value {
        let mut made = base(host, event, class::NETWORK_ACTIVITY, activity, what);
        put(&mut made, "status_id", if allowed { 1 } else { 2 }.into());
        put(&mut made, "status", if allowed { "Success" } else { "Failure" }.into());
        put(&mut made, "actor", actor(&known.subject));
        put(&mut made, "src_endpoint", source(host, &known.client));
        put(&mut made, "dst_endpoint", endpoint(&known.destination, &known.hosts));
        if !known.protocol.is_empty() {
            put(&mut made, "app_name", known.protocol.as_str().into());
        }
        let (id, word) = if allowed { (1, "Allowed") } else { (2, "Denied") };
        put(&mut made, "action_id", id.into());
        put(&mut made, "action", word.into());
        made
    }

    /// What OCSF has no class for: a base event with all of it.
    fn orphan(&self, host: &Host, event: &Event) -> Value {
        let mut made = base(host, event, class::BASE, 99, name(event));
        put(&mut made, "message", name(event).into());
        put(&mut made, "unmapped", crate::json::event(event));
        made
    }
}

/// Something that is no event of a recording, such as that a part of it was deleted.
pub fn notice(host: &Host, name: &str, wall_ns: u64, message: &str, detail: Value) -> Value {
    let event = Event { wall_ns, ..Event::default() };
    let mut made = base(host, &event, class::BASE, 99, name);
    put(&mut made, "message", message.into());
    put(&mut made, "unmapped", detail);
    if let Some(metadata) = made.get_mut("metadata") {
        put(metadata, "event_code", name.into());
        put(metadata, "uid", format!("{}:{name}:{wall_ns}", host.id).into());
    }
    made
}

fn lifecycle(host: &Host, event: &Event, activity: u32, what: &str) -> Value {
    let mut made = base(host, event, class::APPLICATION_LIFECYCLE, activity, what);
    put(
        &mut made,
        "app",
        json!({
            "name": "interlock", "vendor_name": "Interlock", "version": env!("CARGO_PKG_VERSION"),
        }),
    );
    if let Some(Body::AgentStarted(body)) = &event.body {
        put(
            &mut made,
            "unmapped",
            json!({
                "agent_version": body.version, "pid": body.pid, "kernel": body.kernel,
            }),
        );
    }
    made
}

#[cfg(test)]
mod tests;
