//! Connections that the kernel side decided on alone.

use std::sync::Arc;

use super::Agent;
use crate::identity::Known;
use crate::intercept::Event;
use crate::policy::Egress;
use crate::record::EgressConnection;

/// Records one.
pub(super) fn record(agent: &Arc<Agent>, event: Event) {
    let agent = Arc::clone(agent);
    // Off the accept loop: a process has to be read from /proc.
    tokio::task::spawn_blocking(move || {
        let known = Known {
            pid: event.process.tgid,
            start_time_ns: event.process.start_time_ns,
            uid: event.process.uid,
            gid: event.process.gid,
        };
        let subject = agent.identity.subject(&known);
        let verdict = if event.refused { Egress::Deny } else { Egress::Record };
        if event.refused {
            tracing::info!(
                pid = known.pid,
                exe = %subject.exe.display(),
                destination = %event.destination,
                reason = event.reason,
                "refused"
            );
        }
        let connection = EgressConnection {
            subject: &subject,
            destination: event.destination,
            ip_protocol: event.ip_protocol,
            verdict,
            entry: event.entries.first().copied(),
            count: 1,
        };
        if let Err(error) = agent.recorder.egress(&connection) {
            tracing::error!(%error, "cannot record a connection");
        }
    });
}
