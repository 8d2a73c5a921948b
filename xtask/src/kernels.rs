//! The eBPF programs on other kernels, booted in QEMU without acceleration.
//!
//! Each kernel is a Debian package, unpacked below the cache directory; nothing of this host's apt
//! configuration is changed. It boots to a busybox that runs `kernel-probe`, and what that prints on
//! the serial console is the result.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use interlock_tests::{cache, process};

use crate::setup::{self, Part};
use crate::shell::{BOLD, DIM, GREEN, RED, cargo, output, paint, quietly, run as sh, say, warn};

/// A static busybox.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// The keys that Debian's archives are signed with.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How long a boot and the probe in it may take. Emulated, they take some ten seconds.
const LIMIT: Duration = Duration::from_secs(180);

/// A kernel to test on.
struct Kernel {
    /// As `uname -r` begins.
    version: &'static str,
    /// Debian's suite that has it.
    suite: &'static str,
    /// The package that depends on the kernel's own.
    package: &'static str,
    /// What must not be missing; the others are tested where they can be had.
    required: bool,
}

const KERNELS: &[Kernel] = &[
    Kernel { version: "5.10", suite: "bullseye", package: "linux-image-cloud-amd64", required: true },
    Kernel { version: "6.1", suite: "bookworm", package: "linux-image-cloud-amd64", required: true },
    Kernel { version: "6.12", suite: "trixie", package: "linux-image-cloud-amd64", required: true },
    Kernel {
        version: "newest",
        suite: "trixie-backports",
        package: "linux-image-cloud-amd64",
        required: false,
    },
];

/// Boot other kernels in QEMU: the eBPF programs load, attach and redirect on each.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only kernels whose version begins so (5.10, 6.1, 6.12, newest).
    versions: Vec<String>,
}

impl Arguments {
    /// Every kernel.
    pub(crate) fn all() -> Self {
        Self { versions: Vec::new() }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the kernels are Debian's for x86_64; this machine is {}", std::env::consts::ARCH);
    }
    setup::ensure(Part::Kernels)?;
    let wanted: Vec<_> = KERNELS
        .iter()
        .filter(|kernel| {
            arguments.versions.is_empty()
                || arguments.versions.iter().any(|version| kernel.version.starts_with(version.as_str()))
        })
        .collect();
    if wanted.is_empty() {
        let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.version).collect();
        bail!("no such kernel; there are {}", known.join(", "));
    }
    say("building the probe");
    sh(cargo().args(["build", "--quiet", "--example", "kernel-probe"]))?;
    let work = interlock_tests::temporary_directory("kernels")?;
    let initramfs = make_initramfs(&probe()?, work.path())?;
    let mut failed = Vec::new();
    for kernel in wanted {
        let image = match image(kernel) {
            Ok(image) => image,
            Err(error) if !kernel.required => {
                warn(format!("the {} kernel cannot be had, going on without: {error:#}", kernel.version));
                continue;
            }
            Err(error) => return Err(error.context(format!("the kernel {} cannot be had", kernel.version))),
        };
        if !boot(kernel, &image, &initramfs)? {
            failed.push(kernel.version);
        }
    }
    if !failed.is_empty() {
        bail!("the eBPF programs failed on {}", failed.join(", "));
    }
    Ok(())
}

/// The probe that cargo built, beside this program.
fn probe() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let probe = own.parent().context("no directory")?.join("examples/kernel-probe");
    if !probe.is_file() {
        bail!("{} has not been built", probe.display());
    }
    Ok(probe)
}

/// A kernel's image: from the cache, or downloaded.
fn image(kernel: &Kernel) -> Result<PathBuf> {
    let directory = cache::kernels().join(kernel.version);
    let image = directory.join("vmlinuz");
    if !image.is_file() {
        say(format!(
            "fetching a {} kernel {}",
            paint(BOLD, kernel.version),
            paint(DIM, format!("(Debian {})", kernel.suite))
        ));
        download(kernel, &directory, &image)?;
    }
    Ok(image)
}

/// Fetches the package by an apt that has its own lists, sources and status in `directory`.
fn download(kernel: &Kernel, directory: &Path, image: &Path) -> Result<()> {
    let apt = directory.join("apt");
    for part in ["lists/partial", "archives/partial", "etc"] {
        fs::create_dir_all(apt.join(part))?;
    }
    fs::write(apt.join("status"), "")?;
    let sources = apt.join("etc/sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] {} {} main\n", mirror()?, kernel.suite))?;
    let configuration = apt.join("etc/apt.conf");
    let at = |part: &str| apt.join(part).display().to_string();
    fs::write(
        &configuration,
        format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"{}\";\nDir::State::lists \"{}\";\n\
             Dir::State::status \"{}\";\nDir::Cache \"{}\";\nAcquire::Languages \"none\";\n\
             APT::Architecture \"amd64\";\n\
             // The download's sandbox user could not write below a home directory.\n\
             APT::Sandbox::User \"root\";\n\
             // An old suite's Release file has expired, its signature has not.\n\
             Acquire::Check-Valid-Until \"false\";\n",
            sources.display(),
            at("etc/none"),
            at("lists"),
            at("status"),
            apt.display()
        ),
    )?;
    let command = |program: &str| {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &configuration).current_dir(&apt);
        command
    };
    quietly(command("apt-get").args(["update", "-qq"]))?;
    let needs = |package: &str, prefix: &str| -> Result<Option<String>> {
        let depends = output(command("apt-cache").args(["depends", package]))?;
        let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.find(|name| name.starts_with(prefix)).map(str::to_owned))
    };
    let package = needs(kernel.package, "linux-image-")?
        .with_context(|| format!("{} in {} depends on no kernel", kernel.package, kernel.suite))?;
    // From 7.x on the image proper is a package of its own.
    let package = &needs(&package, "linux-binary-")?.unwrap_or(package);
    quietly(command("apt-get").args(["download", "-qq", package]))?;
    let file = files(&apt)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    let unpacked = apt.join("unpacked");
    quietly(Command::new("dpkg").arg("-x").args([&file, &unpacked]))?;
    let found = output(Command::new("find").arg(&unpacked).args(["-type", "f", "-name", "vmlinuz*"]))?;
    let found = found.lines().next().with_context(|| format!("{package} has no vmlinuz"))?;
    fs::rename(found, image)?;
    fs::remove_dir_all(&apt)?;
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// A Debian mirror: the one that this host's apt uses, or `DEBIAN_MIRROR`.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(LABEL)",
        "Created-By: Packages",
        "Origin: Debian",
    ]))?;
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, label)| *label == "Debian")
        .map(|(uri, _)| uri.to_owned())
        .context(
            "this host's apt knows no Debian mirror to take kernels from: name one in DEBIAN_MIRROR \
             (and run apt-get update if this is Debian)",
        )
}

/// A root file system in memory: busybox, the probe and its shared libraries.
fn make_initramfs(probe: &Path, work: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    for directory in ["bin", "proc", "sys", "dev", "tmp", "run", "etc"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("no static busybox")?;
    for name in ["sh", "mount", "ip", "poweroff", "mkdir", "cat", "sleep", "uname"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    // Without its debug information: the whole of it is to be held in the guest's memory.
    output(Command::new("strip").arg("-o").arg(root.join("bin/kernel-probe")).arg(probe))?;
    for library in libraries(probe)? {
        let target = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(target.parent().context("no directory")?)?;
        fs::copy(&library, target)?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    fs::write(root.join("init"), INIT)?;
    sh_in(&root, "chmod 0755 init && find . | cpio --quiet -o -H newc > ../initramfs")?;
    Ok(work.join("initramfs"))
}

const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs trace /sys/kernel/tracing
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
echo
echo \"kernel $(uname -r)\"
RUST_BACKTRACE=1 /bin/kernel-probe 2>&1
echo \"probe status $?\"
poweroff -f
";

fn sh_in(directory: &Path, script: &str) -> Result<()> {
    output(Command::new("sh").args(["-e", "-c", script]).current_dir(directory)).map(drop)
}

fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listing = output(Command::new("ldd").arg(program))?;
    Ok(listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

/// Boots `image` and says how the probe fared.
fn boot(kernel: &Kernel, image: &Path, initramfs: &Path) -> Result<bool> {
    let start = Instant::now();
    let mut command = Command::new("qemu-system-x86_64");
    command
        // One processor: with several, QEMU 7.2 emulates `cmpxchg16b` and patched kernel code wrongly
        // now and then, and the newer kernels, which use both, panic.
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1024"])
        .args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-net", "none"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off"])
        .stdin(Stdio::null());
    let finished = process::finish(&mut command, "", LIMIT)?;
    let console = finished.stdout.replace('\r', "");
    let running =
        console.lines().find_map(|line| line.trim().strip_prefix("kernel ")).unwrap_or("did not boot");
    let passed = console.lines().any(|line| line.trim() == "probe status 0")
        && console.lines().any(|line| line.trim() == "PASS");
    let seconds = start.elapsed().as_secs();
    let mut stdout = std::io::stdout().lock();
    if passed {
        writeln!(
            stdout,
            "  {} {:8} {running} {}",
            paint(GREEN, "✓"),
            kernel.version,
            paint(DIM, format!("{seconds} s"))
        )?;
    } else {
        let why = if finished.timed_out { "timed out" } else { "failed" };
        writeln!(stdout, "  {} {:8} {running}: {why} after {seconds} s", paint(RED, "✗"), kernel.version)?;
        for line in console.lines().chain(finished.stderr.lines()) {
            writeln!(stdout, "      {line}")?;
        }
    }
    Ok(passed)
}
