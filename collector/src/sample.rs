//! Recordings made by hand, for tests and benches: they go into the store the way an agent's do.

use anyhow::Context as _;
use interlock_recording::chain::{self, Hash};
use interlock_recording::proto::event::Body;
use interlock_recording::proto::{self, Event};
use interlock_recording::segment::put_frame;
use interlock_recording::verify::{Boundary, Position};
use interlock_recording::{HostKey, SessionId, hex};
use prost::Message as _;

use crate::store::{Batch, Enrolment, HealthReport, KeptSegment, LiveRun, Store, TakenSegment, now_ns};

/// What a value can be at its worst: markup, a script, escapes, text that turns around, a formula.
pub const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover=\"alert(3)' \
     {{7*7}} \u{1b}]0;owned\u{7}\u{202e}desrever\u{2066}\r\u{0}=cmd|'/c calc'!A1 שלום 你好 &amp;";

/// A host whose agent is this program.
#[derive(Debug)]
pub struct SampleHost {
    /// Its id.
    pub id: String,
    hash: Hash,
    index: u64,
    segment: u64,
}

/// What a session is like.
#[derive(Debug, Clone)]
pub struct SampleSession {
    /// When it begins.
    pub started_ns: i64,
    /// The host user.
    pub user: String,
    /// The executable.
    pub exe: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Where to.
    pub destination: String,
    /// By which name.
    pub host_name: String,
    /// The database user.
    pub db_user: String,
    /// The database.
    pub database: String,
    /// Commands: text, verdict, rule, and the verdict of one in observe mode.
    pub commands: Vec<(String, &'static str, &'static str, &'static str)>,
    /// It has ended.
    pub ended: bool,
}

impl Default for SampleSession {
    fn default() -> Self {
        Self {
            started_ns: now_ns() - 60_000_000_000,
            user: "deploy".into(),
            exe: "/usr/bin/psql".into(),
            argv: vec!["psql".into(), "-d".into(), "shop".into()],
            destination: "10.0.0.7:5432".into(),
            host_name: "db.internal".into(),
            db_user: "shop_rw".into(),
            database: "shop".into(),
            commands: vec![("SELECT name, email FROM public.customers LIMIT 3".into(), "allow", "", "")],
            ended: true,
        }
    }
}

impl SampleSession {
    /// Its events.
    pub fn bodies(&self) -> Vec<Body> {
        let parent = |pid, exe: &str, argv: &[&str]| proto::Ancestor {
            pid,
            uid: 0,
            exe: exe.into(),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        };
        let subject = proto::Subject {
            pid: 4242,
            uid: 1001,
            user: self.user.clone(),
            gid: 1001,
            group: "deploy".into(),
            login_uid: Some(1000),
            login_user: "alice".into(),
            exe: self.exe.clone(),
            exe_sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
            argv: self.argv.clone(),
            cwd: "/srv/shop".into(),
            unit: "nightly-report.service".into(),
            ancestors: vec![
                parent(4240, "/usr/bin/bash", &["/bin/bash", "/srv/shop/report.sh"]),
                parent(1, "/usr/lib/systemd/systemd", &["/sbin/init"]),
            ],
            ..proto::Subject::default()
        };
        let mut bodies = vec![
            Body::FlowStarted(proto::FlowStarted {
                subject: Some(subject),
                client: "10.0.0.5:51234".into(),
                destination: self.destination.clone(),
                hosts: vec![self.host_name.clone()],
                protocol: "postgres".into(),
                policy_hash: "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8".into(),
                ..proto::FlowStarted::default()
            }),
            Body::Login(proto::Login {
                user: self.db_user.clone(),
                database: self.database.clone(),
                auth_method: "scram-sha-256".into(),
                server_version: "17.2".into(),
                server_tls: Some(proto::Tls {
                    version: "TLSv1.3".into(),
                    cipher: "TLS_AES_256_GCM_SHA384".into(),
                    verified: "full".into(),
                    ..proto::Tls::default()
                }),
                ..proto::Login::default()
            }),
        ];
        for (number, (text, verdict, rule, observed)) in (1..).zip(&self.commands) {
            let optional = |word: &str| (!word.is_empty()).then(|| word.to_owned());
            let observe = || proto::Observed { rule: "would-refuse".into(), verdict: (*observed).into() };
            bodies.push(Body::Command(proto::Command {
                command: number,
                step: "query".into(),
                text: text.clone(),
                statements: vec![proto::Statement {
                    kind: text.split_whitespace().next().unwrap_or_default().to_lowercase(),
                    kinds: vec!["select".into()],
                    reads: vec!["public.customers".into()],
                    ..proto::Statement::default()
                }],
                params: vec![proto::BindParameter {
                    value: Some(text.chars().take(40).collect()),
                    omitted_bytes: 0,
                }],
                verdict: (*verdict).into(),
                enforced: observed.is_empty(),
                rule: optional(rule),
                message: optional(if rule.is_empty() { "" } else { "Ask the owners of the table first." }),
                matched: [*rule, if observed.is_empty() { "" } else { "would-refuse" }]
                    .iter()
                    .filter(|rule| !rule.is_empty())
                    .map(|rule| (*rule).to_owned())
                    .collect(),
                observed: if observed.is_empty() { Vec::new() } else { vec![observe()] },
                ..proto::Command::default()
            }));
            bodies.push(Body::Result(result(number, verdict, text)));
        }
        if self.ended {
            bodies.push(Body::SessionEnded(proto::SessionEnded {
                reason: "client_closed".into(),
                client_bytes: 1234,
                server_bytes: 98_765,
                commands: self.commands.len() as u64,
                ..proto::SessionEnded::default()
            }));
        }
        bodies
    }
}

/// What happens on a terminal, with all that a hostile program can write to one.
pub fn terminal() -> Vec<Body> {
    let size = |columns, rows, term: &str| {
        Body::TerminalSize(proto::TerminalSize { command: 1, columns, rows, term: term.into() })
    };
    let output = |data: &[u8]| {
        Body::TerminalOutput(proto::TerminalOutput { command: 1, data: data.to_vec(), omitted_bytes: 0 })
    };
    vec![
        size(80, 24, "xterm-256color"),
        output(b"\x1b[1;32mdeploy@bastion\x1b[0m:~$ "),
        Body::TerminalInput(proto::TerminalInput { command: 1, data: b"ls\r".to_vec(), omitted_bytes: 0 }),
        output(b"ls\r\nhello from the terminal\r\n"),
        // A title, the clipboard, a link, a report, the mouse, a sequence that does not end.
        output(
            b"\x1b]0;owned\x07\x1b]52;c;cm0gLXJmIC8=\x1b\\\x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
        ),
        output(b"\x1b[6n\x1b[c\x1b[?1003h\x1bPq#0\x1b\\\x9b6n\xff\xfe\xc3"),
        output(b"\xa9 <script>alert(1)</script>\r\n"),
        size(u32::MAX, u32::MAX, ""),
        output(b"the end\r\n\x1b]0;never ends"),
    ]
}

fn result(command: u64, verdict: &str, text: &str) -> proto::CommandResult {
    if verdict != "allow" {
        return proto::CommandResult {
            command,
            status: "refused".into(),
            sqlstate: "42501".into(),
            message: "refused by policy: Ask the owners of the table first.".into(),
            ..proto::CommandResult::default()
        };
    }
    let column = |name: &str| proto::Column { name: name.into(), type_oid: 25, binary: false };
    let row = |values: [Option<&str>; 3]| proto::Row {
        values: values
            .map(|value| proto::Value { data: value.map(|value| value.as_bytes().to_vec()) })
            .into(),
    };
    let mut rows = vec![
        row([Some("1"), Some("Ada Lovelace"), Some("a***@example.com")]),
        row([Some("2"), Some("Grace Hopper"), Some("g***@example.com")]),
        row([Some("3"), Some("דורותי ווהן"), None]),
    ];
    if text.contains("<script>") {
        rows.push(row([Some(HOSTILE), Some(HOSTILE), Some(HOSTILE)]));
    }
    proto::CommandResult {
        command,
        status: "complete".into(),
        tag: format!("SELECT {}", rows.len()),
        duration_ns: 1_843_000,
        rows: Some(proto::Rows {
            count: rows.len() as u64 + 2,
            bytes: 211,
            columns: vec![column("id"), column("name"), column("email")],
            rows,
            masks: vec![proto::MaskCount { mask: "emails".into(), count: 2 }],
        }),
        ..proto::CommandResult::default()
    }
}

impl SampleHost {
    /// Enrols a host.
    ///
    /// # Errors
    /// The database fails.
    pub async fn enrol(store: &Store, name: &str, seed: u8) -> anyhow::Result<Self> {
        let key = HostKey::from_seed(&[seed; 32]);
        let mut write = store.write().await?;
        write
            .enrol(&Enrolment {
                key: key.public(),
                name,
                version: "0.1.0",
                token_sha256: "",
                serial: "1",
                expires_ns: now_ns() + 90 * 86_400_000_000_000,
            })
            .await?;
        let id = hex(&key.public().fingerprint());
        write.seen(&id, "0.1.0", "6.12.8-cloud-amd64").await?;
        let health = HealthReport {
            policy_hash: "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8".into(),
            clock_ahead_ns: 2_100_000,
            spool_bytes: 12 << 20,
            spool_limit: 1 << 30,
            flows: 3,
            spool_full: false,
        };
        write.health(&id, &health).await?;
        write.commit().await?;
        Ok(Self { id, hash: chain::genesis(key.public()), index: 0, segment: 0 })
    }

    /// Records a session; gives its id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn session(&mut self, store: &Store, session: &SampleSession) -> anyhow::Result<SessionId> {
        let mut random = [0; 10];
        interlock_recording::fill_random(&mut random)?;
        let id = SessionId::new(u64::try_from(session.started_ns / 1_000_000)?, random);
        self.record(store, id, session.started_ns, 0, session.bodies()).await?;
        Ok(id)
    }

    /// Has all that was recorded so far be in a sealed segment that retention has deleted. The file is not made.
    ///
    /// # Errors
    /// The database fails.
    pub async fn delete(&mut self, store: &Store) -> anyhow::Result<()> {
        let mut write = store.write().await?;
        let taken = TakenSegment {
            number: self.segment,
            first_index: 0,
            events: self.index,
            bytes: 1000,
            file_sha256: [7; 32],
            first_ns: 1,
            last_ns: 2,
            entry: 0,
            next: Boundary {
                segment: self.segment + 1,
                position: Position { index: self.index, hash: self.hash },
                header_sha256: None,
            },
        };
        write.add_segment(&self.id, &taken).await?;
        let segment = KeptSegment {
            number: self.segment,
            first_index: 0,
            events: self.index,
            bytes: 1000,
            file_sha256: vec![7; 32],
            entry: 0,
            deleted: false,
        };
        write.delete_segment(&self.id, &segment).await?;
        write.commit().await?;
        self.segment += 1;
        Ok(())
    }

    /// Records events of a session, from its event number `sequence` on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn record(
        &mut self,
        store: &Store,
        session: SessionId,
        started_ns: i64,
        sequence: u64,
        bodies: Vec<Body>,
    ) -> anyhow::Result<()> {
        let mut batch = Batch::new();
        let mut records = Vec::new();
        let (first_index, events) = (self.index, bodies.len() as u64);
        for (sequence, body) in (sequence..).zip(bodies) {
            let event = Event {
                index: self.index,
                wall_ns: u64::try_from(started_ns)? + sequence * 12_345_678,
                monotonic_ns: self.index * 1_000_000,
                session: session.as_bytes().to_vec(),
                sequence,
                body: Some(body),
            };
            let bytes = event.encode_to_vec();
            self.hash = chain::link(&self.hash, &bytes);
            put_frame(&mut records, &bytes, &self.hash);
            batch.add(&event, self.segment);
            self.index += 1;
        }
        let run = LiveRun {
            segment: self.segment,
            first_index,
            events,
            header: None,
            records,
            end_hash: self.hash,
        };
        let next = Position { index: self.index, hash: self.hash };
        let mut write = store.write().await?;
        write.add_live(&self.id, &run, &next, &[]).await?;
        write.index(&self.id, &batch).await?;
        write.commit().await.context("the sample is not written")
    }
}
