//! `interlock agent`: the agent in the foreground.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::Config;
use crate::daemon;

/// Arguments of `interlock agent`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Logs go to the journal when systemd started the agent, else to standard error. On SIGHUP \
    policies are read again; on SIGTERM the agent ends, and designated processes are refused until it runs again \
    (`interlock detach` takes that out)."
)]
pub(super) struct Args {
    /// What is logged: error, warn, info, debug or trace, by module if need be.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "INTERLOCK_LOG")]
    log: String,
}

/// Runs the agent until it is told to stop.
pub(super) fn run(args: &Args, config: Config, file: &Path) -> anyhow::Result<ExitCode> {
    start_logging(&args.log)?;
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
    runtime.block_on(daemon::run(config, file))?;
    Ok(ExitCode::SUCCESS)
}

fn start_logging(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    // systemd sets JOURNAL_STREAM when standard error is connected to the journal.
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
        return Ok(());
    }
    let stderr = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    registry.with(stderr).init();
    Ok(())
}
