//! Who stands behind a flow.

use std::path::Path;

use interlock_recording::wire::Writer;

use crate::identity::{Ci, Subject, Verified};

/// A subject's bytes.
pub(crate) fn subject_bytes(of: &Subject) -> Vec<u8> {
    let mut bytes = Vec::new();
    subject(&mut Writer::new(&mut bytes), of);
    bytes
}

pub(in super::super) fn subject(writer: &mut Writer<'_>, subject: &Subject) {
    writer.uint(1, subject.pid.into());
    writer.uint(2, subject.start_time_ns);
    writer.uint(3, subject.uid.into());
    writer.string(4, &subject.user);
    writer.uint(5, subject.gid.into());
    writer.string(6, &subject.group);
    if let Some(uid) = subject.login_uid {
        writer.always_uint(7, uid.into());
    }
    writer.string(8, &subject.login_user);
    if let Some(session) = subject.login_session {
        writer.always_uint(9, session.into());
    }
    path(writer, 10, &subject.exe);
    if let Some(script) = &subject.script {
        writer.always_string(11, &script.to_string_lossy());
    }
    writer.string(12, &subject.exe_sha256);
    subject.argv.iter().for_each(|argument| writer.always_string(13, argument));
    path(writer, 14, &subject.cwd);
    writer.string(15, &subject.cgroup);
    writer.string(16, &subject.unit);
    writer.string(17, &subject.container);
    for ancestor in &subject.ancestors {
        writer.message(18, |field| {
            field.uint(1, ancestor.pid.into());
            field.uint(2, ancestor.uid.into());
            path(field, 3, &ancestor.exe);
            ancestor.argv.iter().for_each(|argument| field.always_string(4, argument));
        });
    }
    if subject.ci != Ci::default() {
        writer.message(19, |field| ci(field, &subject.ci));
    }
    subject.missing.iter().for_each(|what| writer.always_string(20, what));
    if let Some(person) = &subject.person {
        writer.message(60, |field| verified(field, person));
    }
    if let Some(workload) = &subject.workload {
        writer.message(61, |field| verified(field, workload));
    }
    if let Some(claimed) = &subject.login_claimed {
        writer.message(76, |field| {
            field.uint(1, claimed.uid.into());
            field.string(2, &claimed.user);
            if let Some(session) = claimed.session {
                field.always_uint(3, session.into());
            }
        });
    }
}

pub(super) fn verified(writer: &mut Writer<'_>, identity: &Verified) {
    writer.string(1, identity.kind.word());
    writer.string(2, &identity.issuer_name);
    writer.string(3, &identity.issuer);
    writer.string(4, &identity.subject);
    writer.string(5, &identity.name);
    identity.groups.iter().for_each(|group| writer.always_string(6, group));
    let job = &identity.job;
    let job = [&job.project, &job.branch, &job.environment, &job.actor];
    (7..).zip(job).for_each(|(field, value)| writer.string(field, value));
    for (name, value) in &identity.recorded {
        writer.message(11, |entry| {
            entry.string(1, name);
            entry.string(2, value);
        });
    }
    writer.uint(12, seconds(identity.expires));
    writer.uint(13, identity.authenticated.map_or(0, seconds));
    writer.string(14, &identity.token_hash);
}

/// Since 1970; what was before is nothing.
fn seconds(at: jiff::Timestamp) -> u64 {
    at.as_second().try_into().unwrap_or_default()
}

fn ci(writer: &mut Writer<'_>, ci: &Ci) {
    let fields =
        [&ci.system, &ci.project, &ci.pipeline, &ci.job, &ci.run, &ci.branch, &ci.commit, &ci.actor, &ci.url];
    (1..).zip(fields).for_each(|(field, value)| writer.string(field, value));
    for (name, value) in &ci.variables {
        writer.message(10, |entry| {
            entry.string(1, name);
            entry.string(2, value);
        });
    }
}

fn path(writer: &mut Writer<'_>, field: u32, path: &Path) {
    writer.string(field, &path.to_string_lossy());
}
