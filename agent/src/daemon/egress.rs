//! What the kernel side reports: connections that it decided on alone, and programs that begin.

use std::sync::Arc;

use super::Agent;
use crate::identity::Known;
use crate::intercept::{Egressed, Event};
use crate::policy::Egress;
use crate::record::EgressConnection;

/// Takes note of a report.
pub(super) fn note(agent: &Arc<Agent>, event: Event) {
    match event {
        Event::Exec { process, parent, filename, argv, .. } => {
            let argv = argv.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
            agent.identity.began(&Known::from(&process), parent, filename, argv);
        }
        Event::Exit { tgid, start_time_ns } => agent.identity.ended(tgid, start_time_ns),
        Event::EgressRecorded(connection) => record(agent, connection, Egress::Record, String::new()),
        Event::EgressDenied(connection) => {
            record(agent, connection, Egress::Deny, "egress: deny".to_owned());
        }
        Event::Refused { connection, reason } => {
            record(agent, connection, Egress::Deny, format!("{reason:?}"));
        }
    }
}

/// Records a connection that did not come through the proxy.
fn record(agent: &Arc<Agent>, connection: Egressed, verdict: Egress, reason: String) {
    let agent = Arc::clone(agent);
    // Off the accept loop: a process has to be read from /proc.
    tokio::task::spawn_blocking(move || {
        let subject = agent.identity.subject(&Known::from(&connection.process));
        if verdict == Egress::Deny {
            tracing::info!(
                pid = subject.pid,
                exe = %subject.exe.display(),
                destination = %connection.destination,
                reason,
                "refused"
            );
        }
        agent.record_egress(&EgressConnection {
            subject: &subject,
            destination: connection.destination,
            ip_protocol: u8::try_from(connection.protocol).unwrap_or(u8::MAX),
            verdict,
            entry: connection.entries.first().copied(),
            count: 1,
        });
    });
}

impl Agent {
    /// Records a connection that the policies do not take in. What has been decided on it stays, recorded
    /// or not: it carries nothing that the agent sees.
    pub(super) fn record_egress(&self, connection: &EgressConnection<'_>) {
        if let Err(error) = self.recorder.egress(connection) {
            tracing::error!(%error, "cannot record a connection");
        }
    }
}
