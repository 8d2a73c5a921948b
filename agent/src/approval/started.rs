//! What has started a process that nobody sits in front of.
//!
//! A login user is set by whatever begins a session in somebody's name: sshd and login, but cron, at and the
//! user's own service manager as well. Whoever may become a user by sudo can have those run a command, whose
//! login user is that user then. The cgroup says by which it came, and logind what kind of session it is.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use interlock_recording::text::printable;

use super::person::Approver;
use crate::identity::Subject;

/// Where logind says what it knows of its sessions: a file for each, `KEY=value` in lines, root's
/// (systemd's `src/login/logind-session.c`).
const SESSIONS: &str = "/run/systemd/sessions";

/// Most bytes of such a file that are read.
const MAX_FILE: u64 = 64 << 10;

/// Characters of a unit's name that are told.
const NAME: usize = 80;

/// Services that run commands at a later time in the name of whoever has left them.
const SCHEDULERS: [&str; 12] = [
    "cron",
    "crond",
    "cronie",
    "vixie-cron",
    "bcron",
    "dcron",
    "fcron",
    "mcron",
    "scron",
    "anacron",
    "atd",
    "at",
];

/// The service manager that a user has; PAM knows it as `systemd-user`.
const MANAGER: &str = "user@";

/// The same approver with what has started their process, where nobody sits in front of it. The caller makes sure
/// that the process is still the one that asks.
///
/// # Errors
/// It cannot be told where the process runs.
pub fn seated(by: Approver, pid: u32) -> io::Result<Approver> {
    let session = by.person().and_then(|person| person.login_session);
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    // In the version 2 hierarchy, and where systemd has one of its own besides, in that.
    let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let background = paths.find_map(|path| in_background(path, session));
    Ok(Approver { background: background.map(Into::into), ..by })
}

/// What has begun a session that nobody sits in front of, by a process's cgroup and audit session; `None` where
/// somebody may. What cannot be known, as on a host without systemd, is not taken for such.
pub(super) fn in_background(cgroup: &str, audit_session: Option<u32>) -> Option<String> {
    in_background_by(cgroup, audit_session, Path::new(SESSIONS))
}

fn in_background_by(cgroup: &str, audit_session: Option<u32>, sessions: &Path) -> Option<String> {
    if let Some(unit) = cgroup.split('/').find(|part| is_background(part)) {
        let name = unit.split(['@', '.']).next().unwrap_or_default();
        let what = if unit.starts_with(MANAGER) { "the user's service manager" } else { name };
        return Some(format!("{what} (unit {})", short(unit)));
    }
    let scope = |part: &str| part.strip_prefix("session-")?.strip_suffix(".scope").map(str::to_owned);
    let of_cgroup = cgroup.split('/').find_map(scope).filter(|id| is_id(id));
    if let Some(id) = of_cgroup
        && sessions.is_dir()
    {
        let Some(session) = Session::read(sessions, &id) else {
            return Some(format!("a login session that has ended (unit session-{}.scope)", short(&id)));
        };
        if let Some(told) = session.background() {
            return Some(told);
        }
    }
    // Where a process was put into a cgroup of its own its audit session stays.
    let audit_session = audit_session?;
    let session = Session::read(sessions, &audit_session.to_string())?;
    session.background().filter(|_| session.value("AUDIT") == audit_session.to_string())
}

/// A unit whose processes nobody sits in front of.
fn is_background(unit: &str) -> bool {
    let Some(name) = unit.strip_suffix(".service") else { return false };
    name.starts_with(MANAGER) || SCHEDULERS.contains(&name.split('@').next().unwrap_or_default())
}

fn is_id(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What logind knows of a session.
struct Session {
    id: String,
    text: String,
}

impl Session {
    fn read(sessions: &Path, id: &str) -> Option<Self> {
        let mut text = String::new();
        File::open(sessions.join(id)).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
        Some(Self { id: id.to_owned(), text })
    }

    fn value(&self, key: &str) -> &str {
        let lines = &mut self.text.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
        value.trim_matches('"')
    }

    /// What has begun it, if it is none that somebody sits in front of.
    fn background(&self) -> Option<String> {
        let (class, service) = (self.value("CLASS"), self.value("SERVICE"));
        // `user`, and what newer ones have beside it: `user-early`, `user-light`, `user-incomplete`.
        let of_user = class == "user" || class.starts_with("user-");
        let seen = ["TTY", "DISPLAY", "SEAT"].iter().any(|key| !self.value(key).is_empty());
        let somewhere = seen || self.value("REMOTE") == "1";
        if of_user && somewhere && !SCHEDULERS.contains(&service) && service != "systemd-user" {
            return None;
        }
        let service = if service.is_empty() { "something unknown" } else { service };
        let class = if class.is_empty() { "unknown" } else { class };
        let (service, class, id) = (short(service), short(class), short(&self.id));
        Some(format!("{service} (session {id} of the class {class})"))
    }
}

/// In words, what has started the process of a subject that nobody sits in front of; empty where somebody may. It
/// tells approvers whom else to think of.
pub(super) fn started_by(subject: &Subject) -> String {
    started_by_what(subject, in_background(&subject.cgroup, subject.login_session))
}

fn started_by_what(subject: &Subject, background: Option<String>) -> String {
    let user = match subject.user.as_str() {
        "" => format!("user {}", subject.uid),
        user => short(user),
    };
    if let Some(what) = background {
        return format!("started by {what}: whoever may become {user} may stand behind it");
    }
    let service = subject.cgroup.split('/').find(|part| part.ends_with(".service"));
    match service {
        // What a container runtime has started is not the runtime's.
        Some(unit) if subject.login_uid.is_none() && subject.container.is_empty() => {
            let unit = short(unit);
            format!(
                "started by a service (unit {unit}): whoever may start or change it, or become {user}, may stand \
                 behind it"
            )
        }
        _ => String::new(),
    }
}

fn short(name: &str) -> String {
    printable(name).chars().take(NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSH: &str = "# This is private data.\nUID=1001\nUSER=bob\nACTIVE=1\nIS_DISPLAY=1\nSTATE=active\nREMOTE=1\n\
                       TYPE=tty\nORIGINAL_TYPE=tty\nCLASS=user\nSCOPE=session-3.scope\nREMOTE_HOST=10.0.0.9\n\
                       SERVICE=sshd\nLEADER=4711\nAUDIT=3\n";

    fn sessions(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (id, text) in files {
            std::fs::write(dir.path().join(id), text).unwrap();
        }
        dir
    }

    #[test]
    fn what_runs_later_or_for_nobody_is_told_by_its_unit() {
        let none = Path::new("/nonexistent");
        for (cgroup, told) in [
            ("/system.slice/cron.service", "cron (unit cron.service)"),
            ("/system.slice/crond.service", "crond (unit crond.service)"),
            ("/system.slice/atd.service", "atd (unit atd.service)"),
            ("/system.slice/anacron.service/job", "anacron (unit anacron.service)"),
            (
                "/user.slice/user-1001.slice/user@1001.service/app.slice/run-x.scope",
                "the user's service manager (unit user@1001.service)",
            ),
            // A name of one's own below hides nothing.
            (
                "/user.slice/user-1001.slice/user@1001.service/session-3.scope",
                "the user's service manager (unit user@1001.service)",
            ),
            ("/system.slice/cron.service/session-3.scope", "cron (unit cron.service)"),
        ] {
            assert_eq!(in_background_by(cgroup, None, none).as_deref(), Some(told), "{cgroup}");
        }
        for cgroup in [
            "",
            "/",
            "/user.slice/user-1001.slice/session-3.scope",
            "/system.slice/ssh.service",
            "/system.slice/cron-like.service",
            "/system.slice/mycron.service",
            "/interlock-test/cron",
        ] {
            assert_eq!(in_background_by(cgroup, Some(3), none), None, "{cgroup}");
        }
    }

    #[test]
    fn logind_says_what_kind_of_session_it_is() {
        let scope = "/user.slice/user-1001.slice/session-3.scope";
        let with = |from: &str, to: &str| {
            let text = SSH.replace(from, to);
            assert_ne!(text, SSH);
            let dir = sessions(&[("3", &text)]);
            in_background_by(scope, Some(3), dir.path())
        };
        let dir = sessions(&[("3", SSH)]);
        assert_eq!(in_background_by(scope, Some(3), dir.path()), None);
        assert_eq!(with("REMOTE=1\n", "TTY=tty1\n"), None);
        assert_eq!(with("REMOTE=1\n", "SEAT=seat0\n"), None);
        assert_eq!(with("CLASS=user", "CLASS=user-early"), None);
        let cron = "crond (session 3 of the class background)";
        assert_eq!(with("CLASS=user\n", "CLASS=background\n").unwrap(), cron.replace("crond", "sshd"));
        assert_eq!(
            with(
                "CLASS=user\nSCOPE=session-3.scope\nREMOTE_HOST=10.0.0.9\nSERVICE=sshd",
                "CLASS=background\nSERVICE=crond"
            )
            .unwrap(),
            cron
        );
        for (from, to) in [
            ("REMOTE=1\n", "REMOTE=0\n"),
            ("CLASS=user\n", "CLASS=manager\n"),
            ("CLASS=user\n", ""),
            ("SERVICE=sshd", "SERVICE=crond"),
            ("SERVICE=sshd", "SERVICE=\"systemd-user\""),
        ] {
            assert!(with(from, to).is_some(), "{from:?} {to:?}");
        }
        // A session that has ended, and one that logind has never had.
        let dir = sessions(&[]);
        assert!(in_background_by(scope, Some(3), dir.path()).unwrap().contains("has ended"));
        assert_eq!(in_background_by("/system.slice/ssh.service", Some(3), dir.path()), None);
        // Elsewhere by now, but of that session; and a file of the same number for another one.
        let text = SSH.replace("CLASS=user", "CLASS=background");
        let dir = sessions(&[("3", &text)]);
        assert!(in_background_by("/x", Some(3), dir.path()).is_some());
        assert_eq!(in_background_by("/x", Some(4), dir.path()), None);
        let dir = sessions(&[("3", &text.replace("AUDIT=3", "AUDIT=9"))]);
        assert_eq!(in_background_by("/x", Some(3), dir.path()), None);
        // Names are no paths.
        let dir = sessions(&[("3", SSH)]);
        assert_eq!(in_background_by("/x/session-..scope", None, dir.path()), None);
    }

    #[test]
    fn approvers_are_told_who_else_may_stand_behind_it() {
        let subject =
            |cgroup: &str| Subject { cgroup: cgroup.to_owned(), user: "deploy".into(), ..Subject::default() };
        assert_eq!(
            started_by(&subject("/system.slice/cron.service")),
            "started by cron (unit cron.service): whoever may become deploy may stand behind it"
        );
        let service = subject("/system.slice/backup.service/x.service");
        assert!(
            started_by(&service).starts_with("started by a service (unit backup.service): whoever may start")
        );
        assert_eq!(started_by(&Subject { login_uid: Some(7), ..service.clone() }), "");
        assert_eq!(started_by(&Subject { container: "4f".into(), ..service }), "");
        assert_eq!(started_by(&subject("/user.slice/user-7.slice/x.scope")), "");
        let nameless =
            Subject { user: String::new(), uid: 7, ..subject("/system.slice/a\u{202e}\n.service") };
        let told = started_by(&nameless);
        assert!(told.contains("become user 7") && !told.contains(['\u{202e}', '\n']), "{told}");
    }
}
