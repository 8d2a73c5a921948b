//! Every task a contributor runs: `cargo xtask --help`.

mod bench;
mod demo;
mod dist;
mod fuzz;
mod interrupt;
mod kernels;
mod load;
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
    Setup(setup::Arguments),
    Demo(demo::Arguments),
    Test(test::Arguments),
    Bench(bench::Arguments),
    Load(load::Arguments),
    Kernels(kernels::Arguments),
    Fuzz(fuzz::Arguments),
    Dist(dist::Arguments),
    /// Copy bytes between two ports; `bench` measures the agent beside it.
    #[command(hide = true)]
    Copier {
        /// The port to listen on.
        listen: u16,
        /// The port to connect to.
        target: u16,
    },
    /// The server that `bench` measures TLS with.
    #[command(hide = true)]
    LoadServer(bench::Server),
    /// The client that `bench` measures TLS with.
    #[command(hide = true)]
    LoadClient(bench::Client),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup(arguments) => setup::task(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Kernels(arguments) => kernels::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Load(arguments) => load::run(&arguments),
        Task::Dist(arguments) => dist::run(&arguments),
        Task::Copier { listen, target } => bench::copier(listen, target),
        Task::LoadServer(server) => server.serve(),
        Task::LoadClient(client) => client.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", shell::paint(shell::RED, "✗"));
            ExitCode::FAILURE
        }
    }
}
