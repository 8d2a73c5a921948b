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
    let collector = interlock_tests::collector::binary()?;
    for (program, name) in [(&interlock, "interlock"), (&collector, "interlock-collector")] {
        output(Command::new(program).arg("man").arg(&man))?;
        for (shell, file) in
            [("bash", format!("{name}.bash")), ("zsh", format!("_{name}")), ("fish", format!("{name}.fish"))]
        {
            fs::write(completions.join(file), output(Command::new(program).args(["completions", shell]))?)?;
        }
    }
    // As it is named where packages put it: /usr/share/interlock/policies/schema.json.
    let policies = directory.join("policies");
    fs::create_dir_all(&policies)?;
    fs::write(policies.join("schema.json"), output(Command::new(&interlock).args(["policy", "schema"]))?)?;
    for (program, file) in [(&interlock, "agent.schema.json"), (&collector, "collector.schema.json")] {
        fs::write(directory.join(file), output(Command::new(program).args(["config", "schema"]))?)?;
    }
    say(format!("man pages, completions and schemas are in {}", directory.display()));
    Ok(())
}
