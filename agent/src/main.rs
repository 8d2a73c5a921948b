//! The `interlock` command: the agent and the operator's tools.

use std::process::ExitCode;

fn main() -> ExitCode {
    interlock_agent::cli::main()
}
