//! pgbench through the agent, beside a direct connection, a bare byte copier and PgBouncer, in one run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use interlock_tests::process::{Daemon, finish};
use interlock_tests::{Agent, Cgroup, Postgres, client, postgres, wait_for};
use rustix::process::Signal;

use super::process::cpu_time;
use super::{Arguments, DETECTORS, RULES, free_port, median, release, rounds, verify_recording};
use crate::interrupt;
use crate::shell::{BOLD, DIM, output, paint, say};

/// Masks by column, besides those by detector.
const MASKS: &str = r"
masks:
  - {name: cards, columns: [public.customers.card_number], with: {partial: {keep_last: 4}}}
";

/// One way to the server.
struct Way {
    name: &'static str,
    port: u16,
    /// The process whose time counts, if there is one between.
    pid: Option<u32>,
    /// The client runs here.
    cgroup: Option<PathBuf>,
}

/// One measurement.
#[derive(Clone, Copy)]
struct Measured {
    /// Transactions per second.
    tps: f64,
    /// The proxy's CPU time for each, in microseconds.
    cpu: f64,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    say("starting PostgreSQL, PgBouncer, a byte copier and the agent");
    // Statements are not logged: the server would be busy with that.
    let server = Postgres::start_with(postgres::Auth::Trust, &["log_statement=none", "max_connections=50"])?;
    let initialised = client::pgbench(&server, None, &["-i", "-q", "-s", "10"], "")?;
    if !initialised.success() {
        bail!("pgbench -i: {}", initialised.both());
    }
    let work = interlock_tests::temporary_directory("bench")?;
    let (bouncer, bouncer_port) = start_pgbouncer(&server, work.path())?;
    let (copier, copier_port) = start_copier(&server)?;
    let cgroup = Cgroup::new()?;
    let clients = cgroup.child("clients")?;
    let policy = format!(
        "version: 1\nprocesses:\n  - cgroup: {}\ndestinations:\n  - {{port: {}, protocol: postgres}}\n{RULES}{MASKS}{DETECTORS}",
        clients.below_mount().display(),
        server.port()
    );
    let mut agent = Agent::prepare(release("interlock"), &[("50-bench.yaml", &policy)], "", cgroup)?;
    agent.launch()?;

    let way = |name, port, pid, cgroup| Way { name, port, pid, cgroup };
    let ways = [
        way("direct", server.port(), None, None),
        way("byte copier", copier_port, Some(copier.pid()), None),
        way("PgBouncer", bouncer_port, Some(bouncer.pid()), None),
        way("Interlock", server.port(), agent.pid(), Some(clients.path().to_owned())),
    ];
    let mut results: BTreeMap<(usize, usize), Vec<Measured>> = BTreeMap::new();
    let cases = [("prepared", 8), ("simple", 8), ("prepared", 1), ("simple", 1)];
    for round in 0..rounds(arguments) {
        say(format!("round {} of {}", round + 1, rounds(arguments)));
        for (case, (mode, connections)) in cases.iter().enumerate() {
            for (number, way) in ways.iter().enumerate() {
                interrupt::check()?;
                let measured = measure(&server, way, mode, *connections, arguments.seconds)?;
                let line = format!(
                    "{mode} {connections} {:11} {:8.0} tps {:5.1} µs",
                    way.name, measured.tps, measured.cpu
                );
                println!("  {}", paint(DIM, line));
                results.entry((case, number)).or_default().push(measured);
            }
        }
    }
    print_table(&ways, &cases, &results)?;
    verify_recording(&agent)
}

fn measure(server: &Postgres, way: &Way, mode: &str, connections: u32, seconds: u32) -> Result<Measured> {
    let program = server.programs().join("pgbench");
    let mut command = match &way.cgroup {
        Some(cgroup) => {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#]).arg(cgroup).arg(program);
            command
        }
        None => Command::new(program),
    };
    client::environment(&mut command, server);
    command.env("PGPORT", way.port.to_string());
    command.args([
        "-n",
        "-S",
        "-M",
        mode,
        "-c",
        &connections.to_string(),
        "-j",
        "1",
        "-T",
        &seconds.to_string(),
    ]);
    let before = way.pid.map(cpu_time).transpose()?;
    let finished = finish(&mut command, "", Duration::from_secs(u64::from(seconds) + 30))?;
    let after = way.pid.map(cpu_time).transpose()?;
    if !finished.success() {
        bail!("pgbench through {}: {}", way.name, finished.both());
    }
    let number = |prefix: &str| -> Result<f64> {
        let line = finished.stdout.lines().find_map(|line| line.strip_prefix(prefix));
        let word = line.and_then(|line| line.split([' ', '/']).find(|word| !word.is_empty()));
        word.and_then(|word| word.parse().ok())
            .with_context(|| format!("pgbench printed no `{prefix}`: {}", finished.stdout))
    };
    let transactions = number("number of transactions actually processed:")?;
    let tps = number("tps =")?;
    let cpu = match (before, after) {
        (Some(before), Some(after)) => (after - before) * 1e6 / transactions,
        _ => 0.0,
    };
    Ok(Measured { tps, cpu })
}

fn print_table(
    ways: &[Way],
    cases: &[(&str, u32)],
    results: &BTreeMap<(usize, usize), Vec<Measured>>,
) -> Result<()> {
    let server = output(Command::new("psql").arg("--version")).unwrap_or_default();
    println!("\n{} ({})\n", paint(BOLD, "pgbench -S, medians"), server.trim());
    println!("| pgbench | clients | way | tps | of direct | of PgBouncer | proxy CPU per query |");
    println!("|---|---:|---|---:|---:|---:|---:|");
    let bouncer = ways.iter().position(|way| way.name == "PgBouncer").context("no PgBouncer")?;
    for (case, (mode, connections)) in cases.iter().enumerate() {
        let of = |number: usize, what: fn(&Measured) -> f64| {
            results.get(&(case, number)).map_or(0.0, |measured| median(measured, what))
        };
        for (number, way) in ways.iter().enumerate() {
            let tps = of(number, |measured| measured.tps);
            let cpu = match way.pid {
                Some(_) => format!("{:.1} µs", of(number, |measured| measured.cpu)),
                None => "–".to_owned(),
            };
            println!(
                "| -M {mode} | {connections} | {} | {tps:.0} | {:.0} % | {:.0} % | {cpu} |",
                way.name,
                100.0 * tps / of(0, |measured| measured.tps),
                100.0 * tps / of(bouncer, |measured| measured.tps),
            );
        }
    }
    println!();
    Ok(())
}

/// PgBouncer in session mode, as unmodified clients need it.
fn start_pgbouncer(server: &Postgres, work: &Path) -> Result<(Daemon, u16)> {
    let port = free_port()?;
    let users = work.join("users.txt");
    fs::write(&users, format!("\"{}\" \"{}\"\n", postgres::USER, postgres::PASSWORD))?;
    let file = work.join("pgbouncer.ini");
    fs::write(
        &file,
        format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = session\ndefault_pool_size = 20\n\
             log_connections = 0\nlog_disconnections = 0\n",
            server.port(),
            users.display()
        ),
    )?;
    // It refuses to run as root.
    let mut command = Command::new("setpriv");
    let (uid, gid) = postgres::user("nobody").context("no user `nobody` here")?;
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    let program = crate::shell::which("pgbouncer").unwrap_or_else(|| "/usr/sbin/pgbouncer".into());
    let log = fs::File::create(work.join("pgbouncer.log"))?;
    command.arg(program).arg("-q").arg(&file).stdout(log.try_clone()?).stderr(log);
    let daemon = Daemon::start(&mut command, Signal::TERM)?;
    wait_for("PgBouncer starting", Duration::from_secs(10), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })?;
    Ok((daemon, port))
}

/// This program as a byte copier.
fn start_copier(server: &Postgres) -> Result<(Daemon, u16)> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["copier", &port.to_string(), &server.port().to_string()]);
    let daemon = Daemon::start(&mut command, Signal::KILL)?;
    wait_for("the copier starting", Duration::from_secs(10), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })?;
    Ok((daemon, port))
}

/// What any proxy does at the least: copies bytes both ways, by two threads a connection.
pub(crate) fn copier(listen: u16, target: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", listen))?;
    for client in listener.incoming() {
        let client = client?;
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || copy(from, to));
        std::thread::spawn(move || copy(server, client));
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16384];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
