//! Simulated agents against a real collector: a bench of the collector's crate, built and run from here.

use anyhow::Result;

use crate::shell::{cargo, run as sh};

/// Simulate agents that ship to a collector (`cargo xtask load --help` lists what can be set).
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// What the simulation is told, such as `--agents 1000 --rate 10 --seconds 60`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let arguments: Vec<&str> = arguments.arguments.iter().map(String::as_str).collect();
    simulate(&arguments)
}

/// Runs the simulation.
pub(crate) fn simulate(arguments: &[&str]) -> Result<()> {
    sh(cargo()
        .args(["bench", "--quiet", "--package", "interlock-collector", "--bench", "load", "--"])
        .args(arguments))
}
