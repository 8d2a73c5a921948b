//! Runs the fuzz targets in `fuzz/`, a workspace of its own that ordinary builds do not see.

use anyhow::{Context as _, Result, bail};
use interlock_tests::cache;

use crate::setup::{self, Part};
use crate::shell::{BOLD, cargo, output, paint, run as sh, say, workspace};

/// Fuzz the decoders: all targets in turn, or one.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The target; without it all of them.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Part::Build)?;
    output(std::process::Command::new("rustup").args(["run", "nightly", "rustc", "--version"]))
        .context("fuzzing needs nightly Rust (rustup toolchain install nightly --profile minimal)")?;
    if !cache::tools().join("bin/cargo-fuzz").is_file() && crate::shell::which("cargo-fuzz").is_none() {
        say(format!("missing: {}", paint(BOLD, "cargo-fuzz")));
        sh(cargo().args(["install", "cargo-fuzz", "--locked", "--root"]).arg(cache::tools()))?;
    }
    let targets = targets()?;
    let chosen: Vec<_> = match &arguments.target {
        Some(target) if targets.contains(target) => vec![target.clone()],
        Some(target) => bail!("no fuzz target {target}; there are {}", targets.join(", ")),
        None => targets,
    };
    for target in chosen {
        say(format!("fuzzing {} for {} s", paint(BOLD, &target), arguments.seconds));
        let mut command = std::process::Command::new("rustup");
        command
            .args(["run", "nightly", "cargo", "fuzz", "run", &target, "--"])
            .arg(format!("-max_total_time={}", arguments.seconds))
            .args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"])
            .env("PATH", setup::path_with_tools())
            // cargo run set it to the compiler that runs us.
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .current_dir(workspace().join("fuzz"));
        sh(&mut command)?;
    }
    Ok(())
}

/// The targets' names: the files in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let directory = workspace().join("fuzz/fuzz_targets");
    let entries =
        std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
