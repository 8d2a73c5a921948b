//! The `interlock-collector` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    interlock_collector::cli::main()
}
