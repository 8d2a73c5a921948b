//! As whom, and in what environment, a client is asked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::User;

use crate::config::Config;
use crate::trust::unit::Unit;
use crate::trust::{Host, environment, install, process};

/// The search path that systemd gives services.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a client runs.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) name: String,
    variables: BTreeMap<OsString, OsString>,
    user: Option<User>,
    overlays: Vec<(PathBuf, PathBuf)>,
    pub(super) limit: Duration,
}

impl Context {
    /// As it is here.
    pub(super) fn shell(limit: Duration) -> Self {
        let name = "this shell's environment".to_owned();
        Self { name, variables: std::env::vars_os().collect(), user: None, overlays: Vec::new(), limit }
    }

    /// What `interlock run`, started here, gives its command.
    pub(super) fn run(config: &Config, limit: Duration) -> Self {
        let mut context = Self::shell(limit);
        "the environment of `interlock run`".clone_into(&mut context.name);
        let (changes, _) = environment::for_run(config, &|name| std::env::var_os(name));
        context
            .variables
            .extend(changes.into_iter().map(|change| (change.name.into(), change.value.into_os_string())));
        context
    }

    /// A unit's, with its user and what is mounted over its files.
    pub(super) fn unit(host: &Host, name: &str, limit: Duration) -> anyhow::Result<Self> {
        install::check_name(name)?;
        let unit = Unit::read(host, name, true);
        anyhow::ensure!(unit.exists, "there is no unit file of {name}");
        let mut variables: BTreeMap<OsString, OsString> =
            [("PATH", SYSTEM_PATH), ("LANG", "C.UTF-8")].map(|(k, v)| (k.into(), v.into())).into();
        let user = match unit.user.as_deref() {
            None => None,
            Some(user) => {
                let number = user.parse().ok().map(nix::unistd::Uid::from_raw);
                let found = match number {
                    Some(uid) => User::from_uid(uid)?,
                    None => User::from_name(user)?,
                };
                let found = found.ok_or_else(|| anyhow::anyhow!("this host has no user {user}"))?;
                variables.insert("HOME".into(), found.dir.clone().into_os_string());
                variables.insert("USER".into(), found.name.clone().into());
                Some(found)
            }
        };
        variables.extend(unit.environment.into_iter().map(|(k, v)| (k.into(), v.into())));
        let overlays = unit.overlays.into_iter().filter(|(from, _)| from.starts_with(&host.run)).collect();
        Ok(Self { name: format!("the environment of {name}"), variables, user, overlays, limit })
    }

    fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.get(std::ffi::OsStr::new(name))
    }

    /// Where a program is, by this context's search path.
    pub(super) fn find(&self, program: &str) -> Option<PathBuf> {
        process::find(program, self.get("PATH").map(OsString::as_os_str))
    }

    /// `program` in this context, arguments to follow.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = if self.overlays.is_empty() {
            let mut command = Command::new(program);
            if let Some(user) = &self.user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            command
        } else {
            self.mounted(program)
        };
        command.env_clear().envs(&self.variables).current_dir("/");
        command
    }

    /// The same with files mounted over others, in a mount namespace of its own.
    fn mounted(&self, program: &Path) -> Command {
        const MOUNT: &str = "while [ \"$1\" != -- ]; do [ ! -e \"$1\" ] || mount --bind \"$1\" \"$2\" || exit 125; \
                             shift 2; done; shift; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", MOUNT, "sh"]);
        for (from, to) in &self.overlays {
            command.arg(from).arg(to);
        }
        command.arg("--");
        if let Some(user) = &self.user {
            command.arg("setpriv");
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            command.arg("--clear-groups");
        }
        command.arg(program);
        command
    }

    /// A command ends well.
    pub(super) fn succeeds(&self, command: &mut Command) -> bool {
        process::finish(command, self.limit).is_ok_and(|finished| finished.success())
    }

    /// The first number that `program --version` prints.
    pub(super) fn version(&self, program: &Path) -> Option<u32> {
        let finished = process::finish(self.command(program).arg("--version"), self.limit).ok()?;
        let digits = finished.stdout.find(|c: char| c.is_ascii_digit())?;
        let text = finished.stdout.get(digits..)?;
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// libpq has a file of roots without being told of one.
    pub(super) fn has_root_file(&self) -> bool {
        if let Some(path) = self.get("PGSSLROOTCERT").filter(|path| !path.is_empty()) {
            return Path::new(path).is_file();
        }
        let own = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
        let home = self.get("HOME").map(PathBuf::from);
        let home = home.or_else(|| self.user.as_ref().map(|user| user.dir.clone())).or_else(own);
        home.is_some_and(|home| home.join(environment::ROOT_CRT).is_file())
    }
}
