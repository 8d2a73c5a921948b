//! TLS through the agent, beside nginx's stream proxy and a direct connection: connections a second, bulk
//! data, and what an idle flow takes in memory. Both have TLS on both legs, verify the server, and show
//! clients a P-256 certificate; nginx passes on bytes, the agent reads, judges and records what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use interlock_tests::process::{Daemon, finish};
use interlock_tests::tls::{Authority, Pair, Special};
use interlock_tests::{Agent, Cgroup, temporary_directory, wait_for};
use rustix::process::Signal;

use super::load::Kind;
use super::process::{cpu_time, memory};
use super::{Arguments, DETECTORS, RULES, free_port, median, release, rounds, verify_recording};
use crate::interrupt;
use crate::shell::{BOLD, DIM, paint, say, warn};

/// Connections that clients open at the same time.
const THREADS: usize = 8;
/// Idle flows that are held.
const IDLE: usize = 1000;
/// Megabytes of a COPY, for each second that a measurement is to take.
const MEGABYTES: u32 = 100;

/// Whoever stands between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Between {
    Nobody,
    Nginx,
    /// With rules in force.
    Agent,
    /// And with masks by detector.
    Masking,
}

impl Between {
    const ALL: [Self; 4] = [Self::Nobody, Self::Nginx, Self::Agent, Self::Masking];

    fn shown(self) -> &'static str {
        match self {
            Self::Nobody => "direct",
            Self::Nginx => "nginx",
            Self::Agent => "Interlock",
            Self::Masking => "Interlock, with detectors",
        }
    }
}

/// All that runs while it is measured.
struct Bench {
    agent: Agent,
    clients: Cgroup,
    nginx: Daemon,
    _server: Daemon,
    work: tempfile::TempDir,
    server_ports: [u16; Kind::ALL.len()],
    nginx_ports: [u16; Kind::ALL.len()],
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// Connections, or megabytes, a second.
    rate: f64,
    /// The proxy's CPU time: microseconds a connection, or seconds a gigabyte.
    cpu: f64,
}

type Results = BTreeMap<(Between, Kind), Vec<Measured>>;

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    say("starting a TLS server, nginx and the agent");
    let mut bench = Bench::start()?;
    let seconds = arguments.seconds.max(1);
    let (mut connections, mut bulk, mut idle) = (Results::new(), Results::new(), Results::new());
    let note = |results: &mut Results, between: Between, kind: Kind, measured: Measured, unit: &str| {
        let line = format!(
            "{:26}{:17}{:9.0} {unit} {:9.3}",
            between.shown(),
            kind.shown(),
            measured.rate,
            measured.cpu
        );
        println!("  {}", paint(DIM, line));
        results.entry((between, kind)).or_default().push(measured);
    };
    for round in 0..rounds(arguments) {
        say(format!("TLS: round {} of {}", round + 1, rounds(arguments)));
        for between in Between::ALL {
            bench.prepare(between)?;
            for kind in Kind::ALL {
                interrupt::check()?;
                if between != Between::Masking {
                    note(
                        &mut connections,
                        between,
                        kind,
                        bench.connections(between, kind, seconds)?,
                        "conn/s",
                    );
                }
            }
            for kind in [Kind::Plain, Kind::Tls13, Kind::Tls12] {
                interrupt::check()?;
                note(&mut bulk, between, kind, bench.bulk(between, kind, seconds)?, "MB/s  ");
            }
        }
    }
    for between in [Between::Nginx, Between::Agent] {
        for kind in [Kind::Plain, Kind::Tls13, Kind::Tls12] {
            interrupt::check()?;
            let rate = bench.idle(between, kind)?;
            note(&mut idle, between, kind, Measured { rate, cpu: 0.0 }, "KiB   ");
        }
    }
    bench.print(&connections, &bulk, &idle);
    verify_recording(&bench.agent)
}

impl Bench {
    fn start() -> Result<Self> {
        let work = temporary_directory("bench-tls")?;
        let authority = Authority::new("The bench's own")?;
        let write = |name: &str, pair: &Pair| -> Result<()> {
            fs::write(work.path().join(format!("{name}.crt")), &pair.certificate)?;
            fs::write(work.path().join(format!("{name}.key")), &pair.key)?;
            Ok(())
        };
        fs::write(work.path().join("root.crt"), authority.pem())?;
        for name in ["server", "nginx"] {
            write(name, &authority.issue(&["localhost", "127.0.0.1"], Special::default())?)?;
        }
        let (mut server_ports, mut nginx_ports) = ([0; Kind::ALL.len()], [0; Kind::ALL.len()]);
        for port in server_ports.iter_mut().chain(&mut nginx_ports) {
            *port = free_port()?;
        }
        let mut server = Command::new(release("xtask"));
        server.arg("load-server").arg(work.path()).args(server_ports.map(|port| port.to_string()));
        let server = Daemon::start(&mut server, Signal::KILL)?;
        wait_for_ports(&server_ports)?;
        let nginx = start_nginx(work.path(), nginx_ports, server_ports)?;
        let cgroup = Cgroup::new()?;
        let clients = cgroup.child("clients")?;
        let configuration =
            format!("tls: {{system_roots: false, roots: [{}]}}\n", work.path().join("root.crt").display());
        let mut agent = Agent::prepare(release("interlock"), &[], &configuration, cgroup)?;
        let bench = |agent| Self { agent, clients, nginx, _server: server, work, server_ports, nginx_ports };
        agent.launch()?;
        Ok(bench(agent))
    }

    /// Has the agent do what is to be measured.
    fn prepare(&self, between: Between) -> Result<()> {
        let masks = match between {
            Between::Nobody | Between::Nginx => return Ok(()),
            Between::Agent => String::new(),
            Between::Masking => format!("masks:\n{DETECTORS}"),
        };
        let mut policy = format!(
            "version: 1\nprocesses:\n  - cgroup: {}\ndestinations:\n",
            self.clients.below_mount().display()
        );
        for port in self.server_ports {
            policy += &format!("  - {{port: {port}, protocol: postgres}}\n");
        }
        self.agent.write_policy("50-bench.yaml", &format!("{policy}{RULES}{masks}"))?;
        let reloaded = self.agent.reload()?;
        ensure!(reloaded.success(), "{}", reloaded.both());
        Ok(())
    }

    /// The process whose time counts, if there is one between.
    fn pid(&self, between: Between) -> Result<Option<u32>> {
        Ok(match between {
            Between::Nobody => None,
            Between::Nginx => Some(self.nginx.pid()),
            Between::Agent | Between::Masking => Some(self.agent.pid().context("the agent has ended")?),
        })
    }

    /// A client, by its way to the server.
    fn client(&self, between: Between, kind: Kind) -> Result<Command> {
        let program = release("xtask");
        let index = Kind::ALL.iter().position(|one| *one == kind).context("no such kind")?;
        let (mut command, ports, root) = match between {
            Between::Nobody => (Command::new(program), self.server_ports, self.work.path().join("root.crt")),
            Between::Nginx => (Command::new(program), self.nginx_ports, self.work.path().join("root.crt")),
            Between::Agent | Between::Masking => {
                (self.clients.command(program), self.server_ports, self.agent.run().join("authority.pem"))
            }
        };
        command.args(["load-client", &ports[index].to_string(), kind.word()]).arg(root);
        Ok(command)
    }

    /// What a client's work comes to, and the seconds of CPU that it took whoever stands between.
    fn measure(&self, between: Between, kind: Kind, work: &[String], limit: u32) -> Result<(Vec<f64>, f64)> {
        let pid = self.pid(between)?;
        let before = pid.map(cpu_time).transpose()?;
        let limit = Duration::from_secs(u64::from(limit) + 60);
        let finished = finish(self.client(between, kind)?.args(work), "", limit)?;
        let after = pid.map(cpu_time).transpose()?;
        if !finished.success() {
            bail!("{} {}: {}", between.shown(), kind.shown(), finished.both());
        }
        let numbers = finished.stdout.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        Ok((numbers, after.unwrap_or_default() - before.unwrap_or_default()))
    }

    fn connections(&self, between: Between, kind: Kind, seconds: u32) -> Result<Measured> {
        let work = ["connect".to_owned(), seconds.to_string(), THREADS.to_string()];
        let (numbers, cpu) = self.measure(between, kind, &work, seconds)?;
        let [count, resumed, server_resumed, took] = numbers[..] else {
            bail!("the client said {numbers:?}")
        };
        for (leg, resumed) in [("client", resumed), ("server", server_resumed)] {
            let share = resumed / count;
            if kind.resumes() && share < 0.9 || !kind.resumes() && share > 0.0 {
                let share = 100.0 * share;
                warn(format!("{}, {}: {share:.0} % resumed on the {leg} leg", between.shown(), kind.shown()));
            }
        }
        Ok(Measured { rate: count / took, cpu: cpu * 1e6 / count })
    }

    fn bulk(&self, between: Between, kind: Kind, seconds: u32) -> Result<Measured> {
        let work = ["copy".to_owned(), (seconds * MEGABYTES).to_string()];
        let (numbers, cpu) = self.measure(between, kind, &work, seconds)?;
        let [bytes, took] = numbers[..] else { bail!("the client said {numbers:?}") };
        Ok(Measured { rate: bytes / 1e6 / took, cpu: cpu * 1e9 / bytes })
    }

    /// KiB that an idle flow takes: of an agent (or nginx) that has just been started, so that no memory
    /// of earlier flows is used again, but has some flows open, so that what all share is there.
    fn idle(&mut self, between: Between, kind: Kind) -> Result<f64> {
        if between == Between::Nginx {
            self.nginx.stop(Duration::from_secs(5));
            self.nginx = start_nginx(self.work.path(), self.nginx_ports, self.server_ports)?;
        } else {
            self.agent.stop();
            self.agent.launch()?;
        }
        let pid = self.pid(between)?.context("there is nobody between")?;
        let mut some = self.hold(between, kind, IDLE / 10)?;
        let before = memory(pid)?;
        let mut more = self.hold(between, kind, IDLE)?;
        let after = memory(pid)?;
        some.stop(Duration::from_secs(5));
        more.stop(Duration::from_secs(5));
        Ok((after - before) / IDLE as f64)
    }

    /// A client that holds so many connections, as they are once they have been idle for a while.
    fn hold(&self, between: Between, kind: Kind, connections: usize) -> Result<Daemon> {
        let ready = self.work.path().join("ready");
        let _ = fs::remove_file(&ready);
        let mut client = self.client(between, kind)?;
        let mut client = Daemon::start(
            client.args(["idle", &connections.to_string()]).stdout(fs::File::create(&ready)?),
            Signal::TERM,
        )?;
        wait_for("idle flows", Duration::from_secs(60), || {
            client.ended().is_some() || fs::read_to_string(&ready).is_ok_and(|text| text.starts_with("open"))
        })?;
        ensure!(client.ended().is_none(), "{}: the client with idle flows has ended", between.shown());
        // Buffers may be given back some time later.
        std::thread::sleep(Duration::from_secs(2));
        Ok(client)
    }

    fn print(&self, connections: &Results, bulk: &Results, idle: &Results) {
        let of = |results: &Results, between, kind, what: fn(&Measured) -> f64| {
            results.get(&(between, kind)).map_or(0.0, |measured| median(measured, what))
        };
        let version = Command::new(NGINX).arg("-v").output().map(|output| output.stderr).unwrap_or_default();
        let version = String::from_utf8_lossy(&version).trim().to_owned();
        println!("\n{} ({version})\n", paint(BOLD, "TLS on both legs, medians"));
        println!("| connections, {THREADS} at once | way | a second | of nginx | proxy CPU each |");
        println!("|---|---|---:|---:|---:|");
        for kind in Kind::ALL {
            for between in [Between::Nobody, Between::Nginx, Between::Agent] {
                let rate = of(connections, between, kind, |measured| measured.rate);
                let nginx = of(connections, Between::Nginx, kind, |measured| measured.rate);
                let cpu = match between {
                    Between::Nobody => "–".to_owned(),
                    _ => format!("{:.0} µs", of(connections, between, kind, |measured| measured.cpu)),
                };
                let share = 100.0 * rate / nginx;
                println!("| {} | {} | {rate:.0} | {share:.0} % | {cpu} |", kind.shown(), between.shown());
            }
        }
        println!("\n| COPY, 1 connection | way | MB/s | of nginx | proxy CPU a GB |");
        println!("|---|---|---:|---:|---:|");
        for kind in [Kind::Plain, Kind::Tls13, Kind::Tls12] {
            for between in Between::ALL {
                let rate = of(bulk, between, kind, |measured| measured.rate);
                let nginx = of(bulk, Between::Nginx, kind, |measured| measured.rate);
                let cpu = match between {
                    Between::Nobody => "–".to_owned(),
                    _ => format!("{:.2} s", of(bulk, between, kind, |measured| measured.cpu)),
                };
                let share = 100.0 * rate / nginx;
                let kind = kind.shown().trim_end_matches(", full");
                println!("| {kind} | {} | {rate:.0} | {share:.0} % | {cpu} |", between.shown());
            }
        }
        println!("\n| {IDLE} idle flows | nginx | Interlock |");
        println!("|---|---:|---:|");
        for kind in [Kind::Plain, Kind::Tls13, Kind::Tls12] {
            let [nginx, agent] = [Between::Nginx, Between::Agent]
                .map(|between| of(idle, between, kind, |measured| measured.rate));
            let kind = kind.shown().trim_end_matches(", full");
            println!("| {kind} | {nginx:.1} KiB | {agent:.1} KiB |");
        }
        println!();
    }
}

/// Where Debian puts it; root's PATH need not have it.
pub(crate) const NGINX: &str = "/usr/sbin/nginx";
/// And its stream module.
pub(crate) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// nginx before the server, as many processes as there are cores.
fn start_nginx(
    work: &Path,
    ports: [u16; Kind::ALL.len()],
    servers: [u16; Kind::ALL.len()],
) -> Result<Daemon> {
    let file = |name: &str| work.join(name).display().to_string();
    let mut listening = String::new();
    for ((kind, port), server) in Kind::ALL.into_iter().zip(ports).zip(servers) {
        let reuse = if kind.resumes() { "on" } else { "off" };
        let tls = match kind {
            Kind::Plain => "",
            _ => " ssl",
        };
        let upstream = match kind {
            Kind::Plain => String::new(),
            _ => format!("proxy_ssl on; proxy_ssl_session_reuse {reuse};"),
        };
        listening += &format!(
            "    server {{ listen 127.0.0.1:{port}{tls}; proxy_pass 127.0.0.1:{server}; {upstream} }}\n"
        );
    }
    let text = format!(
        "load_module {NGINX_STREAM};\nuser nobody nogroup;\ndaemon off;\nworker_processes auto;\n\
         worker_rlimit_nofile 8192;\npid {};\nerror_log {};\nevents {{ worker_connections 4096; }}\nstream {{\n    \
         ssl_certificate {};\n    ssl_certificate_key {};\n    ssl_alpn postgresql;\n    \
         ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_session_cache shared:bench:10m;\n    proxy_ssl_protocols TLSv1.2 TLSv1.3;\n    \
         proxy_ssl_verify on;\n    proxy_ssl_trusted_certificate {};\n    proxy_ssl_name localhost;\n    \
         proxy_ssl_server_name on;\n{listening}}}\n",
        file("nginx.pid"),
        file("nginx.log"),
        file("nginx.crt"),
        file("nginx.key"),
        file("root.crt"),
    );
    let configuration: PathBuf = work.join("nginx.conf");
    fs::write(&configuration, text)?;
    let log = fs::File::create(work.join("nginx.out"))?;
    let mut command = Command::new(NGINX);
    command.arg("-c").arg(configuration).arg("-e").arg(work.join("nginx.log"));
    let daemon = Daemon::start(command.stdout(log.try_clone()?).stderr(log), Signal::TERM)?;
    wait_for_ports(&ports)?;
    Ok(daemon)
}

fn wait_for_ports(ports: &[u16]) -> Result<()> {
    wait_for("the server and nginx starting", Duration::from_secs(10), || {
        ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
    })
}
