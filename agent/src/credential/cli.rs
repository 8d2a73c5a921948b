//! `interlock credentials`: check, verifier.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::check::{self, Finding};
use super::secret::MAX_SECRET;
use crate::cli::output;
use crate::config::Config;

/// See whether the credentials of the configuration can be had, and make verifiers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the source of each credential, and say for which connections it is.
    Check(CheckArgs),
    /// Print what `client_auth: match` checks a script's password against.
    ///
    /// The password is read from the terminal (twice, unseen) or from standard input. What is printed
    /// stands in `verifier:` or `verifier_file:`; the password cannot be told from it, but can be searched
    /// for.
    Verifier(VerifierArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Secrets are never printed. Exits with 0 when all can be had, else with 1. What a running agent \
    holds is shown by `interlock status`.\n\nThe sources are asked anew: a program is run, and a database engine of Vault's \
    makes a login, which is ended again at once."
)]
struct CheckArgs {
    /// The credential; all when left out.
    name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  interlock credentials verifier --user app >> /etc/interlock/secrets/verifiers"
)]
struct VerifierArgs {
    /// Print a line for `verifier_file`, of this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// Runs a subcommand; `file` is where the configuration stands.
pub(crate) fn run(
    args: Args,
    load: &dyn Fn() -> anyhow::Result<Config>,
    file: &Path,
) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Check(args) => check(&args, &load()?, file),
        Command::Verifier(args) => verifier(&args),
    }
}

fn check(args: &CheckArgs, config: &Config, file: &Path) -> anyhow::Result<ExitCode> {
    let user = rustix::process::geteuid();
    ensure!(user.is_root(), "`interlock credentials check` needs root; you are user id {}", user.as_raw());
    let found = check::check(&config.credentials, file, args.name.as_deref())?;
    output::print(&if args.json {
        format!("{}\n", serde_json::to_string_pretty(&found)?)
    } else if found.is_empty() {
        format!("{} has no credentials\n", file.display())
    } else {
        found.iter().map(shown).collect()
    })?;
    Ok(if found.iter().all(|finding| finding.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shown(finding: &Finding) -> String {
    let or_any = |names: &Option<String>, what: &str| match names {
        Some(names) => format!("{what} {names}"),
        None => format!("any {what}"),
    };
    let mut text = format!("{}  {}\n", finding.name, if finding.ok { "can be had" } else { "CANNOT BE HAD" });
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:9} {value}");
    };
    if let Some(error) = &finding.error {
        line("error", error);
    }
    for warning in &finding.warnings {
        line("warning", warning);
    }
    let processes = match finding.subjects {
        None => "every designated process".to_owned(),
        Some(1) => "processes of 1 entry".to_owned(),
        Some(count) => format!("processes of {count} entries"),
    };
    let (user, database) = (or_any(&finding.user, "user"), or_any(&finding.database, "database"));
    line("for", &format!("{}, {user}, {database}, {processes}", finding.destination));
    line(
        "shown",
        match finding.client_auth {
            "any" => "nothing: which process it is, is enough (client_auth: any)",
            _ => "the script's own password (client_auth: match)",
        },
    );
    if let Some(source) = &finding.source {
        line("source", source);
    }
    if let Some(user) = &finding.login_user {
        let database =
            finding.login_database.as_deref().map(|name| format!(" to {name}")).unwrap_or_default();
        line("logs in", &format!("as {user}{database}"));
    }
    if finding.ok {
        line(
            "lasts",
            &match (finding.refresh_seconds, finding.expires_seconds) {
                (_, Some(expires)) => format!("{expires} s, and is renewed or fetched anew before"),
                (Some(refresh), None) => format!("as long as it is valid; asked for again every {refresh} s"),
                (None, None) => "until it changes; looked at for each log-in".to_owned(),
            },
        );
    }
    text
}

fn verifier(args: &VerifierArgs) -> anyhow::Result<ExitCode> {
    if let Some(user) = &args.user {
        let bad = user.is_empty() || user.contains(['\n', '\r', '"', '\0']) || user.starts_with('#');
        ensure!(!bad && user.trim() == user, "{user:?} is no name that can stand in a `verifier_file`");
    }
    let password = if io::stdin().is_terminal() { ask_twice()? } else { read_input()? };
    ensure!(!password.is_empty(), "no password was given");
    ensure!(!password.contains(&0), "a password holds no zero byte");
    let verifier = postgres_protocol::password::scram_sha_256(&password);
    output::print(&match &args.user {
        None => format!("{verifier}\n"),
        Some(user) => format!("{user} {verifier}\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Standard input to its end, without the newline there.
fn read_input() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // Large enough never to be moved, which would leave a copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 64));
    io::stdin()
        .lock()
        .take(MAX_SECRET as u64 + 1)
        .read_to_end(&mut text)
        .context("cannot read standard input")?;
    ensure!(text.len() <= MAX_SECRET, "that is no password: it has more than {MAX_SECRET} bytes");
    strip_newline(&mut text);
    ensure!(!text.contains(&b'\n'), "standard input has more than one line; give the password alone");
    Ok(text)
}

fn strip_newline(text: &mut Vec<u8>) {
    for end in [b'\n', b'\r'] {
        if text.last() == Some(&end) {
            text.pop();
        }
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Unseen(Termios);

impl Unseen {
    fn new() -> anyhow::Result<Self> {
        const INTERRUPT: u8 = 3;
        let before = tcgetattr(io::stdin()).context("cannot turn the terminal's echo off")?;
        let mut unseen = before.clone();
        // Ctrl-C ends the line instead of this process, so that the echo is turned on again.
        unseen.local_modes -= LocalModes::ECHO | LocalModes::ISIG;
        unseen.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)
            .context("cannot turn the terminal's echo off")?;
        Ok(Self(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn ask_twice() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let _unseen = Unseen::new()?;
    let first = ask("The script's password: ")?;
    let second = ask("Once more: ")?;
    ensure!(*first == *second, "the two differ; nothing was made");
    Ok(first)
}

fn ask(prompt: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut terminal = io::stderr();
    let _ = write!(terminal, "{prompt}");
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 64));
    // A terminal gives a line at a time.
    let mut input = io::stdin().lock();
    loop {
        let buffered = input.fill_buf().context("cannot read from the terminal")?;
        let end = buffered.iter().position(|byte| matches!(byte, b'\n' | 3));
        let taken = end.map_or(buffered.len(), |end| end + 1);
        let ended = taken == 0 || end.is_some();
        line.extend_from_slice(buffered.get(..taken).unwrap_or_default());
        input.consume(taken);
        ensure!(line.len() <= MAX_SECRET, "that is no password: it has more than {MAX_SECRET} bytes");
        if ended {
            break;
        }
    }
    let _ = writeln!(terminal);
    ensure!(line.last() != Some(&3), "interrupted; nothing was made");
    strip_newline(&mut line);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::super::verifier::{Verifier, Verifiers};
    use super::*;

    #[test]
    fn what_is_made_can_be_read() {
        let made = postgres_protocol::password::scram_sha_256(b"hunter2");
        assert!(Verifier::parse(&made).is_some(), "{made}");
        assert!(Verifiers::parse_file(&format!("the reports {made}\n")).unwrap().of("the reports").is_some());
    }

    #[test]
    fn one_newline_at_the_end_does_not_count() {
        for (text, stripped) in [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), (" a \n\n", " a \n"), ("", "")] {
            let mut bytes = text.as_bytes().to_vec();
            strip_newline(&mut bytes);
            assert_eq!(bytes, stripped.as_bytes());
        }
    }
}
