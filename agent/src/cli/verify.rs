//! `interlock verify`: evidence bundles, by whoever was handed one.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use interlock_recording::bundle::{self, BundleReport, ConsistencyProof, Trusted};
use interlock_recording::note::{KeyKind, MAX_NOTE, VerifierKey};
use interlock_recording::text::printable;
use interlock_recording::{PublicKey, Report};

use super::output;

/// Exit code when it cannot be told whether something is whole. 2 is wrong usage everywhere.
pub(crate) const UNVERIFIED: u8 = 3;

/// Arguments of `interlock verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: interlock verify evidence.tar --collector-key ledger.vkey\n\n\
    Exit codes: 0 the bundle is whole; 1 it is not; 2 wrong usage; 3 it could not be verified. No agent and no \
    collector is needed. What makes the result worth something are keys that did not come with the bundle: \
    without --collector-key it is only shown that the bundle agrees with itself, which anybody can make one do.")]
pub(super) struct Args {
    /// The evidence bundle.
    bundle: PathBuf,
    /// A key that the collector's ledger may be signed by: a file with a line NAME+ID+BASE64.
    #[arg(long, value_name = "FILE")]
    collector_key: Vec<PathBuf>,
    /// A host's public key (host.pub). When any is given, every host in the bundle must be one of them.
    #[arg(long, value_name = "FILE")]
    host_key: Vec<PathBuf>,
    /// A witness's key. When any is given, one of them must have signed the checkpoint.
    #[arg(long, value_name = "FILE")]
    witness_key: Vec<PathBuf>,
    /// A checkpoint of the same ledger that you have kept: the bundle's must be of the same history.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// A proof of that, as the collector gives it, where the bundle does not hold it.
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    consistency: Vec<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Verifies the bundle, and tells what was found.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let result = verify(args).and_then(|report| {
        let mut out = BufWriter::new(io::stdout().lock());
        let done = if args.json {
            output::json_line(&mut out, &report)
        } else {
            tell(&mut out, &report).map_err(Into::into)
        };
        done.and_then(|()| Ok(out.flush()?))?;
        Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    });
    output::finish(result).or_else(|error| {
        output::complain(format_args!("{error:#}"));
        Ok(ExitCode::from(UNVERIFIED))
    })
}

fn verify(args: &Args) -> anyhow::Result<BundleReport> {
    let keys = |paths: &[PathBuf], kind, what| {
        paths.iter().map(|path| verifier_key(path, kind, what)).collect::<anyhow::Result<Vec<_>>>()
    };
    let hosts = args.host_key.iter().map(|path| {
        PublicKey::load(path).context("--host-key must name a host's public key, a copy of its keys/host.pub")
    });
    let proofs = args.consistency.iter().map(|path| {
        let content = small(path)?;
        serde_json::from_slice::<ConsistencyProof>(&content)
            .with_context(|| format!("{} holds no consistency proof", path.display()))
    });
    let trusted = Trusted {
        collectors: keys(&args.collector_key, KeyKind::Note, "a collector's key (ledger.vkey)")?,
        hosts: hosts.collect::<anyhow::Result<_>>()?,
        witnesses: keys(&args.witness_key, KeyKind::Witness, "a witness's key")?,
        checkpoint: args.checkpoint.as_deref().map(small).transpose()?,
        proofs: proofs.collect::<anyhow::Result<_>>()?,
    };
    Ok(bundle::verify(&args.bundle, &trusted)?)
}

fn small(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    anyhow::ensure!(bytes <= MAX_NOTE as u64, "{} is larger than any such file", path.display());
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn verifier_key(path: &Path, kind: KeyKind, what: &str) -> anyhow::Result<VerifierKey> {
    let content = String::from_utf8_lossy(&small(path)?).into_owned();
    let key: VerifierKey = content
        .parse()
        .map_err(|error| anyhow::anyhow!("{} {error}; it must hold {what}", path.display()))?;
    anyhow::ensure!(
        key.kind() == kind,
        "{} holds a key of another kind; it must hold {what}",
        path.display()
    );
    Ok(key)
}

fn tell(output: &mut impl Write, report: &BundleReport) -> io::Result<()> {
    output::problems(output, &report.problems, report.further_problems, &report.notes)?;
    let line = |text: &str| printable(text).into_owned();
    writeln!(
        output,
        "bundle made on {} for {}{}",
        line(&report.created),
        line(&report.requested_by),
        if report.reason.is_empty() { String::new() } else { format!(": {}", line(&report.reason)) }
    )?;
    for host in &report.hosts {
        let trusted = if host.trusted { ", its key is one of those given" } else { "" };
        let name = line(&host.name);
        writeln!(output, "host {name}, enrolled {}: host key {}{trusted}", host.enrolled, host.host)?;
    }
    for session in &report.sessions {
        let ended = session.ended.as_deref().map_or_else(|| "cut off".into(), line);
        writeln!(
            output,
            "session {} from {} to {} ({ended}): {} events, {} commands, taken by the collector {}{}",
            session.session,
            session.started,
            session.last,
            session.events,
            session.commands,
            session.taken.as_deref().unwrap_or("never"),
            if session.whole { "" } else { ", NOT WHOLE" }
        )?;
    }
    for (name, time) in &report.witnesses {
        writeln!(output, "witness {} signed the checkpoint on {time}", line(name))?;
    }
    writeln!(
        output,
        "{} segments, {} events; ledger of {} entries, root {}",
        report.segments, report.events, report.ledger_entries, report.ledger_root
    )?;
    let verdict = match (report.ok, report.collector_trusted) {
        (true, true) => "whole: nothing was altered, nothing is missing",
        (true, false) => "whole in itself, BUT NOT BY A KEY OF THE COLLECTOR THAT YOU GAVE",
        (false, _) => "NOT WHOLE",
    };
    writeln!(output, "{verdict} (collector key {})", line(&report.collector_key))
}

/// Tells what the verification of a directory found.
pub(crate) fn tell_recording(output: &mut impl Write, report: &Report) -> io::Result<()> {
    output::problems(output, &report.problems, report.further_problems, &report.notes)?;
    let Report { segments, open_segments, events, sessions, unfinished_sessions, unattested, .. } = report;
    writeln!(
        output,
        "{segments} segments ({open_segments} not sealed yet), {events} events, {sessions} sessions \
         ({unfinished_sessions} without an end)"
    )?;
    if *unattested > 0 {
        writeln!(
            output,
            "the last {unattested} events are not signed yet: their chain holds, but only a signature can show \
             that none is missing after them"
        )?;
    }
    let verdict = match (report.ok, report.shipped_events) {
        (true, 0) => "whole: nothing was altered, nothing is missing",
        (true, _) => {
            "whole from where it begins: nothing was altered, nothing is missing after what was shipped"
        }
        (false, _) => "NOT WHOLE",
    };
    writeln!(output, "{verdict} (host key {})", report.host)
}
