//! Every task a contributor runs: `cargo xtask --help`.

mod fuzz;
mod kernels;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Every task a contributor runs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need and is not there yet.
    Setup,
    Test(test::Arguments),
    Kernels(kernels::Arguments),
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup => setup::everything(),
        Task::Test(arguments) => test::run(&arguments),
        Task::Kernels(arguments) => kernels::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", shell::paint(shell::RED, "✗"));
            ExitCode::FAILURE
        }
    }
}
