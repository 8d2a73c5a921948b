//! `interlock sessions`: list, show, replay, export and verify recordings.

mod show;
mod table;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use interlock_recording::asciicast::{Asciicast, Version};
use interlock_recording::log::{self, Reader};
use interlock_recording::ocsf::{self, Ocsf};
use interlock_recording::proto::Event;
use interlock_recording::proto::event::Body;
use interlock_recording::query::{self, Filter, Picker, Summary};
use interlock_recording::shipped::{self, SHIPPED};
use interlock_recording::text::printable;
use interlock_recording::{PublicKey, SessionId, SignedFileError, csv, json};

use super::{KEYS, SESSIONS};
use crate::cli::output::{self, json_line};
use crate::cli::verify::{UNVERIFIED, tell_recording};
use crate::config::Config;

/// Read, replay, export and verify recordings.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it went well; 1 it did not, or some of the recording could not be read (what \
    could be is printed); 2 wrong usage. `verify` has its own."
)]
pub struct Args {
    /// Read this state directory (or a copy of one) instead of the configured one.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List sessions, the newest last.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Print ids in full and cut nothing to the terminal's width.
        #[arg(long)]
        wide: bool,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// List connections that no session is about: refused by `egress: deny`, or recorded.
    Egress {
        #[command(flatten)]
        filter: FilterArgs,
        /// Cut nothing to the terminal's width.
        #[arg(long)]
        wide: bool,
        /// Print the events, one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show a session: who, and each command with its verdict and result.
    Show {
        #[command(flatten)]
        session: Which,
        /// Print its events, one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show a session as it went, in its own time.
    Replay {
        #[command(flatten)]
        session: Which,
        /// How many times faster.
        #[arg(long, default_value_t = 1.0, value_parser = positive)]
        speed: f64,
        /// Wait no longer than this many seconds between events.
        #[arg(long, default_value_t = 5.0, value_parser = positive, value_name = "SECONDS")]
        max_pause: f64,
        /// Print its events, one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Write out events.
    Export {
        #[command(flatten)]
        filter: FilterArgs,
        /// Of this session alone: its id, or enough of its beginning.
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// The format.
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
        /// Write to this file (made anew, readable by its owner) instead of standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Prove that nothing in the recordings was altered or is missing.
    ///
    /// Exit codes: 0 they are whole; 1 they are not; 2 wrong usage; 3 they could not be verified.
    Verify {
        /// The host's public key (host.pub); by default the one in the state directory. Only a key that
        /// was kept elsewhere proves anything against whoever had root on the host.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON Lines: one event a line.
    Jsonl,
    /// CSV (RFC 4180): one event a line, without results' rows.
    Csv,
    /// OCSF 1.8, one event a line: a command and its end are one.
    Ocsf,
    /// asciicast 2: the terminal of one session, for asciinema. What does more than draw is taken out of it.
    Asciicast,
    /// asciicast 3.
    AsciicastV3,
}

/// One session.
#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// The session's id, or enough of its beginning.
    #[arg(value_name = "ID", required_unless_present = "last")]
    id: Option<String>,
    /// The session that began last.
    #[arg(long, conflicts_with = "id")]
    last: bool,
}

#[derive(Debug, Clone, Default, clap::Args)]
struct FilterArgs {
    /// From this time on: RFC 3339 (2026-01-31T08:00:00Z), or how long ago (90s, 15m, 1h, 7d).
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
    /// The host user's name or number.
    #[arg(long)]
    user: Option<String>,
    /// Part of what a verified person or workload is called: name, subject or issuer.
    #[arg(long)]
    identity: Option<String>,
    /// The database user.
    #[arg(long)]
    db_user: Option<String>,
    /// The database.
    #[arg(long)]
    database: Option<String>,
    /// Part of the executable's or script's path.
    #[arg(long, value_name = "PATH")]
    exe: Option<String>,
    /// Part of the destination's address or host name.
    #[arg(long, value_name = "HOST")]
    destination: Option<String>,
    /// Commands that this rule decided or matched.
    #[arg(long)]
    rule: Option<String>,
    /// Commands with this verdict.
    #[arg(long, value_parser = ["allow", "deny", "hold"])]
    verdict: Option<String>,
    /// Commands that a rule in observe mode would have given this verdict.
    #[arg(long, value_name = "VERDICT", value_parser = ["allow", "deny", "hold"])]
    observed: Option<String>,
    /// Commands with this in their text.
    #[arg(long)]
    text: Option<String>,
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        let FilterArgs {
            since,
            until,
            user,
            identity,
            db_user,
            database,
            exe,
            destination,
            rule,
            verdict,
            observed,
            text,
        } = args;
        Self {
            since,
            until,
            user,
            identity,
            db_user,
            database,
            exe,
            destination,
            rule,
            verdict,
            observed,
            text,
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "must be a number above zero".into())
}

fn time(text: &str) -> Result<u64, String> {
    let wrong = || "must be a time such as 2026-01-31T08:00:00Z, or how long ago, such as 15m, 1h or 7d";
    let ago = text.char_indices().last().and_then(|(at, unit)| {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        text.get(..at)?.parse::<u64>().ok()?.checked_mul(seconds)?.checked_mul(1_000_000_000)
    });
    if let Some(ago) = ago {
        return Ok(super::log::wall_ns().saturating_sub(ago));
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(time.as_nanosecond()).map_err(|_| wrong().into())
}

/// Runs the command; `load` reads the configuration.
///
/// # Errors
/// The recordings cannot be read, or no session has that id.
pub fn run(args: Args, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<ExitCode> {
    let verifies = matches!(args.command, Command::Verify { .. });
    let state = match args.state {
        Some(state) => Ok(state),
        None => load().map(|config| config.state),
    };
    if let Ok(state) = &state
        && !verifies
    {
        tell_shipped(state);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let style = show::Style::new(output::colours(&io::stdout()));
    let result = state.and_then(|state| match args.command {
        Command::List { filter, wide, json } => list(&mut out, &state, &filter.into(), form(wide, json)),
        Command::Egress { filter, wide, json } => egress(&mut out, &state, &filter.into(), form(wide, json)),
        Command::Show { session, json } => show(&mut out, &state, &session, json, style, None),
        Command::Replay { session, speed, max_pause, json } => {
            let pace = show::Pace::new(speed, Duration::from_secs_f64(max_pause.min(1e6)));
            show(&mut out, &state, &session, json, style, Some(pace))
        }
        Command::Export { filter, session, format, output: None } => {
            export(&mut out, &state, &filter.into(), session.as_deref(), format)
        }
        Command::Export { filter, session, format, output: Some(path) } => {
            let mut file = BufWriter::new(private_file(&path)?);
            let code = export(&mut file, &state, &filter.into(), session.as_deref(), format)?;
            file.flush().with_context(|| format!("cannot write {}", path.display()))?;
            Ok(code)
        }
        Command::Verify { key, json } => verify(&mut out, &state, key.as_deref(), json),
    });
    let result = output::finish(result.and_then(|code| {
        out.flush()?;
        Ok(code)
    }));
    match result {
        Err(error) if verifies => {
            output::complain(format_args!("{error:#}"));
            Ok(ExitCode::from(UNVERIFIED))
        }
        result => result,
    }
}

fn private_file(path: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// The directory of recordings in a state directory.
fn directory(state: &Path) -> anyhow::Result<PathBuf> {
    let directory = state.join(SESSIONS);
    match std::fs::read_dir(&directory) {
        Ok(_) => Ok(directory),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
            "cannot read {}: reading recordings needs root, or the user that the agent runs as",
            directory.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "there are no recordings in {}: no agent has run with this state directory (--config FILE or --state \
             DIR names another)",
            state.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", directory.display())),
    }
}

/// Says so where part of the recording has gone to a collector: what is printed is not all of it.
fn tell_shipped(state: &Path) {
    let host = PublicKey::load(&state.join(KEYS).join("host.pub"));
    let Ok(host) = host else { return };
    match shipped::read(&state.join(SESSIONS), &host) {
        Ok((shipped, _)) => output::complain(format_args!(
            "what was recorded up to event {} is no longer on this host: it was shipped to {}, where it can be read",
            shipped.first_index.wrapping_sub(1),
            printable(&shipped.collector)
        )),
        Err(SignedFileError::Missing | SignedFileError::Io(_)) => {}
        Err(error) => {
            output::complain(format_args!("{SHIPPED} {error}; `interlock sessions verify` tells more"));
        }
    }
}

/// Tells of what could not be read, and remembers that there was something.
#[derive(Debug, Default)]
struct Complaints(Cell<bool>);

impl Complaints {
    fn take(&self, error: &log::ReadError) {
        self.0.set(true);
        let error = error.to_string();
        output::complain(format_args!("{}; `interlock sessions verify` tells more", printable(&error)));
    }

    /// The exit code: half a recording must not pass for a whole one.
    fn code(&self) -> ExitCode {
        if self.0.get() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    /// Cut to this many columns, if any.
    Table(Option<usize>),
    /// Nothing is cut, ids neither.
    Wide,
}

fn form(wide: bool, json: bool) -> Form {
    match (wide, json) {
        (_, true) => Form::Json,
        (true, false) => Form::Wide,
        (false, false) => {
            let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
            Form::Table(size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0))
        }
    }
}

fn list(output: &mut impl Write, state: &Path, filter: &Filter, form: Form) -> anyhow::Result<ExitCode> {
    let complaints = Complaints::default();
    let all = query::all_sessions(&directory(state)?, filter, |error| complaints.take(&error))?;
    let mut sessions: Vec<&Summary> = all.values().filter(|session| session.is_one(filter)).collect();
    sessions.sort_by(|a, b| (a.started_ns, &a.session).cmp(&(b.started_ns, &b.session)));
    match form {
        Form::Json => sessions.iter().try_for_each(|session| json_line(output, session))?,
        Form::Wide => table::sessions(output, &sessions, usize::MAX, None)?,
        Form::Table(width) => {
            // Enough of each id to tell it from all others, those that are not listed included.
            let ids = all.values().map(|session| session.session.as_str());
            table::sessions(output, &sessions, table::unique_prefix(ids), width)?;
        }
    }
    Ok(complaints.code())
}

fn egress(output: &mut impl Write, state: &Path, filter: &Filter, form: Form) -> anyhow::Result<ExitCode> {
    let complaints = Complaints::default();
    let mut lines = Vec::new();
    for entry in Reader::new(&directory(state)?)? {
        let event = match entry {
            Ok(entry) => entry.event,
            Err(error) => {
                complaints.take(&error);
                continue;
            }
        };
        let Some(Body::Egress(body)) = &event.body else { continue };
        if !filter.egress(event.wall_ns, body) {
            continue;
        }
        match form {
            Form::Json => json_line(output, &json::event(&event))?,
            _ => lines.push(table::egress(event.wall_ns, body)),
        }
    }
    match form {
        Form::Json => {}
        Form::Wide => table::egresses(output, lines, None)?,
        Form::Table(width) => table::egresses(output, lines, width)?,
    }
    Ok(complaints.code())
}

fn show(
    output: &mut impl Write,
    state: &Path,
    which: &Which,
    json: bool,
    style: show::Style,
    mut pace: Option<show::Pace>,
) -> anyhow::Result<ExitCode> {
    let directory = directory(state)?;
    let complaints = Complaints::default();
    let (id, summary) = find(&directory, which, &complaints)?;
    let listing = log::list(&directory)?;
    let mut timeline = show::Timeline::new(style, summary.started_ns);
    for entry in Reader::of(query::segments_of(listing.segments, &summary)) {
        let event = match entry {
            Ok(entry) => entry.event,
            Err(error) => {
                complaints.take(&error);
                continue;
            }
        };
        if event.session != id.as_bytes() {
            continue;
        }
        if let Some(pace) = &mut pace {
            output.flush()?;
            pace.wait(event.monotonic_ns);
        }
        if json {
            json_line(output, &json::event(&event))?;
        } else {
            timeline.event(output, &event)?;
        }
    }
    if !json && summary.ended.is_none() {
        timeline.unfinished(output)?;
    }
    Ok(complaints.code())
}

fn find(directory: &Path, which: &Which, complaints: &Complaints) -> anyhow::Result<(SessionId, Summary)> {
    let Some(prefix) = &which.id else {
        let sessions = query::sessions(directory, &Filter::default(), |error| complaints.take(&error))?;
        let last = sessions.into_iter().max_by(|(a_id, a), (b_id, b)| {
            (a.started_ns, a_id.as_bytes()).cmp(&(b.started_ns, b_id.as_bytes()))
        });
        return last.context("there is no session yet");
    };
    let wanted = prefix.to_ascii_lowercase().replace('-', "");
    if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("{}: a session's id, or its beginning, is made of hexadecimal digits", printable(prefix));
    }
    let sessions = query::sessions(directory, &Filter::default(), |error| complaints.take(&error))?;
    let mut found: Vec<_> =
        sessions.into_iter().filter(|(_, summary)| summary.session.starts_with(&wanted)).collect();
    match (found.pop(), found.len()) {
        (None, _) => bail!("no session's id begins with {wanted}; `interlock sessions list` shows them"),
        (Some(found), 0) => Ok(found),
        (Some(_), others) => bail!("the ids of {} sessions begin with {wanted}: give more of it", others + 1),
    }
}

fn export(
    output: &mut impl Write,
    state: &Path,
    filter: &Filter,
    session: Option<&str>,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let directory = directory(state)?;
    let complaints = Complaints::default();
    let mut sessions: HashMap<SessionId, Summary> =
        query::sessions(&directory, filter, |error| complaints.take(&error))?;
    if let Some(wanted) = session {
        let which = Which { id: Some(wanted.to_owned()), last: false };
        let (id, _) = find(&directory, &which, &complaints)?;
        sessions.retain(|known, _| *known == id);
    }
    let version = match format {
        Format::Asciicast => Some(Version::V2),
        Format::AsciicastV3 => Some(Version::V3),
        Format::Jsonl | Format::Csv | Format::Ocsf => None,
    };
    if let Some(version) = version {
        return cast(output, &directory, &sessions, version, &complaints);
    }
    let mut picker = Picker::new(filter, &sessions);
    if format == Format::Csv {
        csv::header(output)?;
    }
    let mut ocsf = Ocsf::new();
    let key = PublicKey::load(&state.join(KEYS).join("host.pub"));
    let id = key.map(|key| interlock_recording::hex(&key.fingerprint())).unwrap_or_default();
    let mut host = ocsf::Host { id, name: String::new() };
    // What could not be read has been told of already.
    for entry in Reader::new(&directory)?.flatten() {
        if let Some(Body::AgentStarted(started)) = &entry.event.body {
            host.name.clone_from(&started.host_name);
        }
        // With one session asked for, what happened outside of sessions is not.
        if (session.is_some() && entry.event.session.is_empty()) || !picker.picks(&entry.event) {
            continue;
        }
        match format {
            Format::Csv => csv::event(output, &entry.event, &sessions)?,
            Format::Ocsf => {
                let id = SessionId::from_slice(&entry.event.session);
                if let Some((id, summary)) = id.and_then(|id| Some((id, sessions.get(&id)?))) {
                    ocsf.know(id, summary);
                }
                for event in ocsf.event(&host, &entry.event) {
                    json_line(output, &event)?;
                }
            }
            Format::Jsonl | Format::Asciicast | Format::AsciicastV3 => {
                json_line(output, &json::event(&entry.event))?;
            }
        }
    }
    for event in ocsf.flush(&host) {
        json_line(output, &event)?;
    }
    Ok(complaints.code())
}

/// Writes the terminal of the one session among `sessions` that has one.
fn cast(
    output: &mut impl Write,
    directory: &Path,
    sessions: &HashMap<SessionId, Summary>,
    version: Version,
    complaints: &Complaints,
) -> anyhow::Result<ExitCode> {
    let mut found: Option<(SessionId, Asciicast<Vec<u8>>)> = None;
    for entry in Reader::new(directory)?.flatten() {
        let Some(id) = SessionId::from_slice(&entry.event.session) else { continue };
        let Some(summary) = sessions.get(&id).filter(|_| is_terminal(&entry.event)) else { continue };
        let (known, cast) = found.get_or_insert_with(|| {
            let title = format!("{} on {}", summary.user, summary.destination);
            (id, Asciicast::new(Vec::new(), version, title))
        });
        if *known != id {
            bail!("several sessions have a terminal: name one with --session ID");
        }
        cast.event(&entry.event)?;
        output.write_all(&std::mem::take(cast.output()))?;
    }
    let Some((_, cast)) = found else {
        bail!("none of these sessions has a terminal: other formats have what was recorded of them");
    };
    output.write_all(&cast.finish()?)?;
    Ok(complaints.code())
}

fn is_terminal(event: &Event) -> bool {
    matches!(event.body, Some(Body::TerminalSize(_) | Body::TerminalOutput(_) | Body::TerminalInput(_)))
}

fn verify(output: &mut impl Write, state: &Path, key: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let directory = directory(state)?;
    let path = key.map_or_else(|| state.join(KEYS).join("host.pub"), Path::to_path_buf);
    let host = PublicKey::load(&path).with_context(|| match key {
        Some(_) => "--key must name the host's public key, a copy of its keys/host.pub".to_owned(),
        None => format!("{} has no usable public key; name a copy of it with --key FILE", state.display()),
    })?;
    let report = interlock_recording::verify(&directory, &host)?;
    if json {
        json_line(output, &report)?;
    } else {
        tell_recording(output, &report)?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
