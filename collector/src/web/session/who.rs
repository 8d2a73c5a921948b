//! Who is behind a session, as a page shows it.

use interlock_recording::proto::{self, Subject};

use super::super::display;

/// A process above the one that connected.
#[derive(Debug)]
pub(in crate::web) struct Process {
    pub(in crate::web) pid: u32,
    pub(in crate::web) uid: u32,
    pub(in crate::web) line: String,
    pub(super) exe: String,
    pub(in crate::web) depth: usize,
}

/// Who is behind the session.
#[derive(Debug)]
pub(in crate::web) struct Identity {
    pub(in crate::web) facts: Vec<(&'static str, String)>,
    pub(in crate::web) processes: Vec<Process>,
}

impl Identity {
    pub(in crate::web) fn new(subject: &Subject) -> Self {
        let text = |text: &str| display::beginning(text, 2000);
        let mut facts = vec![("user", format!("{} (uid {})", subject.user, subject.uid))];
        let mut put = |name, value: String| {
            if !value.is_empty() {
                facts.push((name, value));
            }
        };
        put("verified person", subject.person.as_ref().map(identity).unwrap_or_default());
        put("verified workload", subject.workload.as_ref().map(identity).unwrap_or_default());
        if subject.login_uid.is_some() {
            put("logged in to the host as", text(&subject.login_user));
        }
        if let Some(claimed) = &subject.login_claimed {
            let user = display::beginning(&claimed.user, 200);
            put("claims a login as", format!("{user} (uid {}): root was not seen to set it", claimed.uid));
        }
        put("group", text(&subject.group));
        put("script", text(subject.script.as_deref().unwrap_or_default()));
        put("unit", text(&subject.unit));
        put("container", text(&subject.container));
        put("cgroup", text(&subject.cgroup));
        put("directory", text(&subject.cwd));
        put("SHA-256", text(&subject.exe_sha256));
        if let Some(ci) = &subject.ci {
            let parts =
                [&ci.system, &ci.project, &ci.pipeline, &ci.job, &ci.run, &ci.branch, &ci.commit, &ci.actor];
            let parts: Vec<_> =
                parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect();
            put("CI job, as it claims", text(&parts.join(" / ")));
        }
        put("could not be found out", text(&subject.missing.join(", ")));
        let above = subject
            .ancestors
            .iter()
            .take(64)
            .rev()
            .map(|parent| (parent.pid, parent.uid, &parent.exe, &parent.argv));
        let own = (subject.pid, subject.uid, &subject.exe, &subject.argv);
        let processes = above
            .chain([own])
            .enumerate()
            .map(|(depth, (pid, uid, exe, argv))| Process {
                pid,
                uid,
                line: text(&if argv.is_empty() { exe.clone() } else { argv.join(" ") }),
                exe: text(exe),
                depth: depth.min(12),
            })
            .collect();
        Self { facts, processes }
    }
}

/// A verified person or workload, with who vouches for it and what belongs to it.
pub(super) fn identity(identity: &proto::VerifiedIdentity) -> String {
    let name = if identity.name.is_empty() { &identity.subject } else { &identity.name };
    let mut text = format!("{name} ({}), says {}", identity.subject, identity.issuer_name);
    let more = [
        ("project", &identity.project),
        ("branch", &identity.branch),
        ("environment", &identity.environment),
        ("started by", &identity.actor),
    ];
    for (word, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("; {word} {value}"));
    }
    if !identity.groups.is_empty() {
        text.push_str(&format!("; groups {}", identity.groups.join(", ")));
    }
    display::beginning(&text, 2000)
}
