//! `interlock policy`: check, explain and test policies.

use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::json;

use super::explain::{Asker, explain, split, subject};
use super::problem::{PolicyErrors, Problem};
use super::read::Trust;
use super::set::PolicySet;
use super::{Central, check, run_tests, schema, show};
use crate::cli::output;
use crate::config::Config;
use crate::operation::Protocol;

/// Largest file of statements in bytes.
const MAX_STATEMENTS: u64 = 256 << 20;

/// Check, explain and test policies.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong in policies, with file, line and column, and what cannot be what was meant.
    Check(CheckArgs),
    /// List the rules and masks that are in force on this host, and where each comes from.
    Show(ShowArgs),
    /// Say what a statement does, which rules match it, and the verdict.
    Explain(ExplainArgs),
    /// Run the test cases beside the policies (NAME.test.yaml).
    Test(TestArgs),
    /// Print the JSON Schema of policy files.
    Schema,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Directory of policies, or one file; that of the configuration when left out.
    #[arg(value_name = "DIR")]
    path: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// The protocol that the statement comes by.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Protocol,
    /// Directory of policies, or one file; that of the configuration when left out. All of them are
    /// taken to apply, whatever processes and destinations they name.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The database user.
    #[arg(long, alias = "user", value_name = "USER", default_value = "app")]
    db_user: String,
    /// The database.
    #[arg(long, default_value = "app")]
    database: String,
    /// A field of the process behind the connection: `user=deploy`, `ci.branch=main`. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    subject: Vec<String>,
    /// A field of a verified identity: `workload.issuer=github`, `workload.branch=main`,
    /// `workload.claims.ref=refs/heads/main`, `person.groups=dba`. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    identity: Vec<String>,
    /// A bind parameter, in order. Can be repeated.
    #[arg(long = "param", value_name = "TEXT")]
    params: Vec<String>,
    /// When it happens, such as 2026-01-05T22:00:00Z; now when left out.
    #[arg(long, value_name = "TIME")]
    time: Option<Timestamp>,
    /// A file of many statements set off by semicolons (`-` is the standard input); each is explained.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    statements: Option<PathBuf>,
    /// The SQL string to explain.
    #[arg(required_unless_present = "statements", allow_hyphen_values = true)]
    text: Option<String>,
    /// Print one JSON object, and with --statements one a line for each statement.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Directory with policies and test cases, or one file of cases; that of the configuration when
    /// left out.
    #[arg(value_name = "DIR")]
    path: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn protocol(word: &str) -> Result<Protocol, String> {
    match word {
        "postgres" => Ok(Protocol::Postgres),
        _ => Err("the protocols are: postgres".to_owned()),
    }
}

/// Runs a subcommand. `load` reads the configuration where it is needed.
///
/// # Errors
/// What could not be done; what is wrong in policies is printed and gives the exit code 1.
pub fn run(args: Args, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<ExitCode> {
    let path = |given: Option<PathBuf>| match given {
        Some(path) => Ok(path),
        None => load().map(|config| config.policies),
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let done = match args.command {
        Command::Check(args) => check_command(&mut out, &path(args.path)?, args.json),
        Command::Show(args) => show_command(&mut out, &load()?, args.json),
        Command::Explain(args) => match &args.policies {
            Some(policies) => {
                let set = PolicySet::load_trusting(policies, Trust::Anyone);
                explain_command(&mut out, set, args)
            }
            None => {
                let set = in_force(&load()?)?;
                explain_command(&mut out, set, args)
            }
        },
        Command::Test(args) => test_command(&mut out, &path(args.path)?, args.json),
        Command::Schema => writeln!(out, "{:#}", schema()).map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    output::finish(done.and_then(|code| {
        out.flush()?;
        Ok(code)
    }))
}

fn check_command(out: &mut impl Write, path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (errors, warnings, counts) = match check(path) {
        Ok((set, warnings)) => {
            (Vec::new(), warnings, (set.files().len(), set.rule_count(), set.mask_count()))
        }
        Err(errors) => (errors.0, Vec::new(), (0, 0, 0)),
    };
    let failed = !errors.is_empty();
    if json {
        let (files, rules, masks) = counts;
        let object = json!({
            "ok": !failed, "files": files, "rules": rules, "masks": masks,
            "errors": errors, "warnings": warnings,
        });
        writeln!(out, "{object}")?;
    } else {
        for problem in errors.iter().chain(&warnings) {
            writeln!(out, "{problem}")?;
        }
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        if failed {
            writeln!(out, "{}", count(errors.len(), "error"))?;
        } else {
            let (files, rules, masks) = counts;
            writeln!(
                out,
                "{}, {}, {}: no errors, {}",
                count(files, "file"),
                count(rules, "rule"),
                count(masks, "mask"),
                count(warnings.len(), "warning")
            )?;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The host's own policies, and what is kept of a collector's order.
fn in_force(config: &Config) -> anyhow::Result<Result<PolicySet, PolicyErrors>> {
    let central = Central::kept(&config.state, config.central_policies)?;
    Ok(PolicySet::load_with(&config.policies, Trust::Anyone, central.as_ref()))
}

fn show_command(out: &mut impl Write, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let set = match in_force(config)? {
        Ok(set) => set,
        Err(errors) => bail!("the policies cannot be used:\n{errors}"),
    };
    if json {
        writeln!(out, "{}", show::to_json(&set))?;
    } else {
        write!(out, "{}", show::to_text(&set))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explain_command(
    out: &mut impl Write,
    set: Result<PolicySet, PolicyErrors>,
    args: ExplainArgs,
) -> anyhow::Result<ExitCode> {
    let Protocol::Postgres = args.protocol;
    let set = match set {
        Ok(set) => set,
        Err(errors) => bail!("the policies cannot be used:\n{errors}"),
    };
    let pairs = args.subject.iter().map(|pair| match pair.split_once('=') {
        Some(pair) => Ok(pair),
        None => Err(anyhow::anyhow!("--subject {pair}: write it as KEY=VALUE, such as ci.branch=main")),
    });
    let identities = args.identity.iter().map(|pair| match pair.split_once('=') {
        Some((key, value)) if key.starts_with("person.") || key.starts_with("workload.") => Ok((key, value)),
        _ => Err(anyhow::anyhow!(
            "--identity {pair}: write it as person.KEY=VALUE or workload.KEY=VALUE, such as workload.branch=main"
        )),
    });
    let pairs = pairs.chain(identities).collect::<anyhow::Result<Vec<_>>>()?;
    let asker = Asker {
        user: args.db_user.into(),
        database: args.database.into(),
        subject: subject(pairs).map_err(|message| anyhow::anyhow!("--subject: {message}"))?,
        params: args.params.into_iter().map(Some).collect(),
        now: args.time.unwrap_or_else(Timestamp::now),
    };
    let flow = set.flow_of_all(&asker.subject, &Asker::destination());
    match (args.statements, args.text) {
        (Some(file), _) => {
            let text = statements(&file)?;
            for (i, piece) in split(&text).into_iter().enumerate() {
                let explanation = explain(&flow, &asker, piece);
                if args.json {
                    writeln!(out, "{}", explanation.to_json())?;
                } else {
                    writeln!(out, "{}{explanation}", if i > 0 { "\n" } else { "" })?;
                }
            }
        }
        (None, text) => {
            let explanation = explain(&flow, &asker, &text.unwrap_or_default());
            if args.json {
                writeln!(out, "{}", explanation.to_json())?;
            } else {
                write!(out, "{explanation}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of a file of statements, bytes that are not UTF-8 replaced.
fn statements(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut read = |from: &mut dyn Read| from.take(MAX_STATEMENTS + 1).read_to_end(&mut bytes);
    if file == Path::new("-") {
        read(&mut std::io::stdin().lock()).context("cannot read the standard input")?;
    } else {
        std::fs::File::open(file)
            .and_then(|mut file| read(&mut file))
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    if bytes.len() as u64 > MAX_STATEMENTS {
        bail!("{} has more than {MAX_STATEMENTS} bytes: split it", file.display());
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

fn test_command(out: &mut impl Write, path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    match run_tests(path) {
        Ok(report) => {
            if json {
                let failed = report.failed();
                let object = json!({
                    "ok": failed == 0, "passed": report.cases.len() - failed, "failed": failed,
                    "cases": report.cases,
                });
                writeln!(out, "{object}")?;
            } else {
                writeln!(out, "{report}")?;
                if report.cases.is_empty() {
                    writeln!(out, "{} holds no test cases: write some in NAME.test.yaml", path.display())?;
                }
            }
            Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(errors) => {
            if json {
                let errors: &[Problem] = &errors.0;
                writeln!(out, "{}", json!({"ok": false, "errors": errors}))?;
            } else {
                writeln!(out, "{errors}")?;
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
