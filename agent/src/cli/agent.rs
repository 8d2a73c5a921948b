//! `interlock agent`: the agent in the foreground.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use super::output;
use crate::config::Config;
use crate::daemon;

/// Arguments of `interlock agent`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Logs go to the journal when systemd started the agent, else to standard error. On SIGHUP \
    policies are read again; on SIGTERM the agent ends, and designated processes are refused until it runs again \
    (`interlock detach` takes that out). NO_COLOR turns colours off."
)]
pub(super) struct Args {
    /// What is logged: error, warn, info, debug or trace, by module if need be.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "INTERLOCK_LOG")]
    log: String,
}

/// Runs the agent until it is told to stop.
pub(super) fn run(
    args: &Args,
    load: &dyn Fn() -> anyhow::Result<Config>,
    file: &Path,
) -> anyhow::Result<ExitCode> {
    start_logging(&args.log)?;
    // In the log, so that the journal has it as an error. Printed, it would be there as information.
    if let Err(error) = serve(load, file) {
        tracing::error!("{error:#}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(load: &dyn Fn() -> anyhow::Result<Config>, file: &Path) -> anyhow::Result<()> {
    let config = load()?;
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "the agent needs root: it loads eBPF programs and keeps the recordings"
    );
    // Passwords pass through this process: no core dump may hold them.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("cannot turn core dumps off")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("interlock")
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(daemon::run(config, file));
    // A thread may wait for a process that it looks at; nobody waits for it.
    runtime.shutdown_background();
    ended
}

fn start_logging(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("--log {filter} is no filter; write a level such as `debug`, or `info,interlock_agent::policy=debug`")
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    if std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stream(&stream, std::io::stderr()))
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
        return Ok(());
    }
    let stderr = fmt::layer().with_writer(std::io::stderr).with_ansi(output::colours(&std::io::stderr()));
    registry.with(stderr).init();
    Ok(())
}

/// Whether `stream` (device and inode, as systemd sets JOURNAL_STREAM) is this file. A process further
/// down may have the variable and write to elsewhere (systemd.exec(5)).
fn is_stream(stream: &str, file: impl AsFd) -> bool {
    let Some((device, inode)) = stream.split_once(':') else { return false };
    rustix::fs::fstat(file)
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_journal_is_logged_to_only_when_standard_error_is_it() {
        let file = tempfile::tempfile().unwrap();
        let (device, inode) = file.metadata().map(|m| (m.dev(), m.ino())).unwrap();
        assert!(is_stream(&format!("{device}:{inode}"), &file));
        for other in [format!("{device}:{}", inode + 1), format!("{device}"), "x:y".into(), String::new()] {
            assert!(!is_stream(&other, &file), "{other}");
        }
    }
}
