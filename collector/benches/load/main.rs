//! Simulated agents against a real collector: each enrols, ships a recording that is signed, chained and
//! sealed by its own host key over mutual TLS, checks every acknowledgement, and comes again.
//!
//! `cargo xtask load --agents 1000` builds and runs it; `cargo xtask bench --only ingest` measures with it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a bench")]

mod agent;
mod baseline;
mod measure;
mod recording;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use agent::{Agent, Counts, Phase, Plan};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use recording::Shape;
use server::Server;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Simulate agents that ship their recordings to a collector.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// How many agents there are.
    #[arg(long, default_value_t = 1000)]
    agents: u32,
    /// For how many seconds they record; what is left is shipped after that.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Events a second that each agent records; 0: as fast as the collector takes them.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Events in one live message, without --rate; with it a message holds what was recorded in a second.
    #[arg(long, default_value_t = 50)]
    batch: u64,
    /// Commands in a session.
    #[arg(long, default_value_t = 10)]
    commands: usize,
    /// Events in a segment.
    #[arg(long, default_value_t = 1000)]
    segment: u64,
    /// Ship sealed segments only, as an agent does whose collector was away.
    #[arg(long)]
    sealed_only: bool,
    /// After about so many seconds each agent breaks its connection off and comes again.
    #[arg(long)]
    reconnect: Option<u64>,
    /// Kill the collector so often, with SIGKILL, and start it again.
    #[arg(long, default_value_t = 0)]
    kill: u32,
    /// Where the collector's state lies; by default a temporary directory on the same disk as the build.
    #[arg(long)]
    state: Option<PathBuf>,
    /// The collector's program, in the place of the one of this build.
    #[arg(long)]
    collector: Option<PathBuf>,
    /// Write the same events as JSON Lines too, and compare.
    #[arg(long)]
    baseline: bool,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Now, in nanoseconds since the Unix epoch.
fn clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // A socket for each agent, and some.
    let (_, most) = limit();
    ensure!(
        most.is_none_or(|most| most > u64::from(arguments.agents) + 200),
        "{} agents need as many open files, and {} are allowed",
        arguments.agents,
        most.unwrap_or_default()
    );
    ensure!(arguments.agents > 0 && arguments.commands > 0, "some agents and some commands are needed");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&arguments))
}

/// As many open files as may be; gives how many there may be now, and at most.
fn limit() -> (Option<u64>, Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    (now.current, now.maximum)
}

async fn run(arguments: &Arguments) -> Result<()> {
    let directory = match &arguments.state {
        Some(state) => {
            std::fs::create_dir_all(state)?;
            tempfile::tempdir_in(state)?
        }
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?,
    };
    let mut server = Server::start(arguments.collector.clone(), directory.path())?;
    let shape = Shape { commands: arguments.commands, segment: arguments.segment.max(1) };
    let plan = Arc::new(Plan {
        port: server.port(),
        token: server.token(arguments.agents)?,
        shape,
        rate: arguments.rate,
        batch: arguments.batch.max(1),
        sealed_only: arguments.sealed_only,
        reconnect: arguments.reconnect.map(Duration::from_secs),
    });
    let before = measure::used(server.pid())?;
    let counts = Arc::new(Counts::default());
    let connecting = Arc::new(Semaphore::new(32));
    let (phase, phases) = watch::channel(Phase::Connect);
    let mut agents = JoinSet::new();
    let began = Instant::now();
    for number in 0..arguments.agents {
        let agent = Agent::new(number, &plan, &counts, &connecting);
        agents.spawn(agent.run(phases.clone()));
    }
    while counts.connected.load(Relaxed) < arguments.agents as usize {
        if let Some(ended) = agents.try_join_next() {
            bail!("an agent has ended before it shipped: {ended:?}");
        }
        ensure!(began.elapsed() < Duration::from_secs(600), "not all agents are connected after ten minutes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "{} agents are enrolled and connected after {:.1} s",
        arguments.agents,
        began.elapsed().as_secs_f64()
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = measure::used(server.pid())?;

    let began = Instant::now();
    phase.send(Phase::Ship)?;
    let mut lost_cpu = 0.0;
    let mut start = idle.cpu;
    for kill in 0..=arguments.kill {
        let until = Duration::from_secs(arguments.seconds) * (kill + 1) / (arguments.kill + 1);
        tokio::time::sleep(until.saturating_sub(began.elapsed())).await;
        if kill < arguments.kill {
            lost_cpu += measure::used(server.pid())?.cpu - start;
            start = 0.0;
            server.kill_and_start()?;
        }
    }
    let (end, wall) = (measure::used(server.pid())?, began.elapsed());
    let events = counts.taken_events.load(Relaxed);
    phase.send(Phase::Finish)?;
    let (mut segments, mut all) = (0, 0);
    while let Some(agent) = agents.join_next().await {
        let (agents_segments, agents_events) = agent.context("an agent has failed")??;
        segments += agents_segments;
        all += agents_events;
    }
    println!(
        "all is taken after {:.1} s: {all} events, {segments} segments, {} sessions, {} calls, {} broken off",
        began.elapsed().as_secs_f64(),
        counts.sessions.load(Relaxed),
        counts.calls.load(Relaxed),
        counts.broken.load(Relaxed)
    );
    let state = server.stop()?;
    let sizes = server::sizes(&state).await?;
    let verified = server.verify()?;
    ensure!(
        verified == (segments, all),
        "the agents were told that {segments} segments with {all} events are kept, and {verified:?} are there"
    );
    println!("verified: what is kept is what was acknowledged\n");

    let per_event = counts.bytes.load(Relaxed) as f64 / all.max(1) as f64;
    let cpu = lost_cpu + end.cpu - start;
    let sessions = counts.sessions.load(Relaxed) as f64;
    let row = |name: &str, events: f64, cpu: f64, wall: f64| {
        println!(
            "{name:12} {:9.0} events/s {:7.2} MB/s   {:7.1} µs CPU an event: {:8.0} events/s and {:6.2} MB/s a core",
            events / wall,
            events * per_event / wall / 1e6,
            cpu * 1e6 / events,
            events / cpu,
            events * per_event / cpu / 1e6,
        );
    };
    println!("an event takes {per_event:.0} bytes as a record");
    row("collector", events as f64, cpu, wall.as_secs_f64());
    let sessions_bytes = |bytes: u64| bytes as f64 / sessions;
    if !arguments.sealed_only {
        println!(
            "acknowledged after {} ms (half), {} ms (99 %)",
            counts.waits.share(0.5),
            counts.waits.share(0.99)
        );
    }
    println!(
        "{} messages; {:.0} bytes written to disk an event",
        counts.messages.load(Relaxed),
        (end.written - idle.written.min(end.written)) as f64 / events.max(1) as f64
    );
    println!(
        "a session of {} commands takes {:.0} bytes: {:.0} in segments, {:.0} in the database",
        arguments.commands,
        sessions_bytes(sizes.segments + sizes.database),
        sessions_bytes(sizes.segments),
        sessions_bytes(sizes.database)
    );
    println!(
        "memory: {:.1} MB without agents, {:.1} KB more for each that is connected, {:.1} MB at the end; {} files",
        before.memory as f64 / 1e6,
        (idle.memory.saturating_sub(before.memory)) as f64 / f64::from(arguments.agents) / 1e3,
        end.memory as f64 / 1e6,
        idle.files
    );
    if arguments.baseline {
        let path = directory.path().join("lines");
        let batch = if arguments.rate > 0.0 { (arguments.rate as u64).max(1) } else { arguments.batch };
        let seconds = Duration::from_secs(arguments.seconds.min(10));
        let hosts = u64::from(arguments.agents);
        let lines = tokio::task::spawn_blocking(move || baseline::write(&path, hosts, shape, batch, seconds));
        let lines = lines.await??;
        row("JSON Lines", lines.events as f64, lines.cpu.as_secs_f64(), lines.wall.as_secs_f64());
        println!(
            "a session of {} commands takes {:.0} bytes as JSON Lines",
            arguments.commands,
            lines.bytes as f64 / lines.sessions as f64
        );
    }
    Ok(())
}
