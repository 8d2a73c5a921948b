//! What goes into packages besides the program: man pages, shell completions, the policies' schema.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Part};
use crate::shell::{cargo, output, run as sh, say, workspace};

/// Write man pages, shell completions, and the JSON Schemas of policies and configuration.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to; it is made if it is missing.
    #[arg(long, default_value = "target/dist")]
    directory: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Part::Build)?;
    sh(cargo().args(["build", "--quiet", "--bins"]))?;
    let interlock = interlock_tests::agent::binary()?;
    let directory = workspace().join(&arguments.directory);
    let man = directory.join("man");
    let completions = directory.join("completions");
    fs::create_dir_all(&completions)?;
    output(Command::new(&interlock).arg("man").arg(&man))?;
    for (shell, file) in [("bash", "interlock.bash"), ("zsh", "_interlock"), ("fish", "interlock.fish")] {
        fs::write(completions.join(file), output(Command::new(&interlock).args(["completions", shell]))?)?;
    }
    // As it is named where packages put it: /usr/share/interlock/policies/schema.json.
    let policies = directory.join("policies");
    fs::create_dir_all(&policies)?;
    fs::write(policies.join("schema.json"), output(Command::new(&interlock).args(["policy", "schema"]))?)?;
    fs::write(
        directory.join("agent.schema.json"),
        output(Command::new(&interlock).args(["config", "schema"]))?,
    )?;
    say(format!("man pages, completions and schemas are in {}", directory.display()));
    Ok(())
}
