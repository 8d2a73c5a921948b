//! All tests: the workspace's, the end-to-end ones on the real kernel and real servers, the shipped
//! policies' own, and the eBPF programs on other kernels.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use interlock_tests::cgroup;

use crate::kernels;
use crate::setup::{self, Part};
use crate::shell::{BOLD, DIM, GREEN, RED, cargo, is_root, paint, run as sh, say, warn, workspace};

/// Run all tests, the end-to-end ones included (needs root).
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose names contain one of these; other kernels and policy packs are then left out.
    filters: Vec<String>,
    /// Leave out the other kernels in QEMU.
    #[arg(long)]
    no_kernels: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    check_host()?;
    forget_login();
    say("looking for what the tests need");
    setup::ensure(Part::Test)?;
    say("building");
    sh(cargo().args(["build", "--quiet", "--all-targets"]))?;

    let mut failed = Vec::new();
    let mut step = |name: &'static str, work: &mut dyn FnMut() -> Result<()>| {
        say(paint(BOLD, name));
        let start = Instant::now();
        let done = work();
        let seconds = start.elapsed().as_secs();
        match done {
            Ok(()) => println!("{} {name} {}", paint(GREEN, "✓"), paint(DIM, format!("{seconds} s"))),
            Err(error) => {
                println!("{} {name}: {error:#}", paint(RED, "✗"));
                failed.push(name);
            }
        }
    };
    step("tests", &mut || {
        // Each test binary by itself goes on when one fails, so that one run tells all.
        let mut command = cargo();
        command.args(["test", "--quiet", "--no-fail-fast", "--lib", "--bins", "--tests", "--"]);
        sh(command.args(&arguments.filters))
    });
    if arguments.filters.is_empty() {
        step("examples in the documentation", &mut || sh(cargo().args(["test", "--quiet", "--doc"])));
        step("the shipped policies' own tests", &mut policy_packs);
        if !arguments.no_kernels && std::env::consts::ARCH != "x86_64" {
            warn("other kernels are left out: they are Debian's for x86_64, and this machine is another");
        } else if !arguments.no_kernels {
            step("other kernels", &mut || kernels::run(&kernels::Arguments::all()));
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    say(paint(GREEN, "all tests passed"));
    Ok(())
}

/// Tests play several people. Started from a login, all of them would be who has logged in: the agent has not seen
/// that login begin, and so it counts against each of them. Where there is none, or the kernel lets nobody change it,
/// nothing is done.
fn forget_login() {
    const OWN: &str = "/proc/thread-self/loginuid";
    let unset = u32::MAX.to_string();
    if std::fs::read_to_string(OWN).is_ok_and(|login| login.trim() != unset)
        && let Err(error) = std::fs::write(OWN, unset)
    {
        warn(format!("the login user stays ({error}): tests of approvals may take people for one another"));
    }
}

/// What no package can bring.
pub(crate) fn check_host() -> Result<()> {
    if !is_root() {
        bail!(
            "this loads eBPF programs and makes cgroups: run it as root (sudo -E env PATH=\"$PATH\" cargo xtask …)"
        );
    }
    cgroup::mount()?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux): Interlock needs Linux 5.10 or newer with CONFIG_DEBUG_INFO_BTF"
        );
    }
    Ok(())
}

fn policy_packs() -> Result<()> {
    let policies = workspace().join("policies");
    let interlock = interlock_tests::agent::binary()?;
    sh(std::process::Command::new(interlock).args(["policy", "test"]).arg(policies))
}
