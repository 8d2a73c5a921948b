//! Saying what is done, and doing it.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A terminal style (SGR parameters).
#[derive(Clone, Copy)]
pub(crate) struct Style(&'static str);

pub(crate) const BOLD: Style = Style("1");
pub(crate) const DIM: Style = Style("2");
pub(crate) const RED: Style = Style("31");
pub(crate) const GREEN: Style = Style("32");
pub(crate) const YELLOW: Style = Style("33");
pub(crate) const CYAN: Style = Style("36");

/// `text` in `style` where standard output is a terminal that wants colours, else as it is.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{}m{text}\x1b[0m", style.0)
    } else {
        text.to_string()
    }
}

/// Says what is about to happen.
pub(crate) fn say(text: impl Display) {
    println!("{} {text}", paint(CYAN, "▸"));
    flush();
}

/// Says that something is not as it should be, without stopping for it.
pub(crate) fn warn(text: impl Display) {
    println!("{} {text}", paint(YELLOW, "!"));
    flush();
}

fn flush() {
    // A closed standard output is nobody's trouble.
    let _ = io::stdout().flush();
}

/// The command as one would type it.
fn typed(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        line.push(' ');
        if argument.contains([' ', '"', '$', '\n']) {
            line.push('\'');
            line.push_str(&argument);
            line.push('\'');
        } else {
            line.push_str(&argument);
        }
    }
    line
}

/// Says the command and runs it; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("  {}", paint(DIM, format!("$ {}", typed(command))));
    flush();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("`{}` failed ({status})", typed(command));
    }
    Ok(())
}

/// Says the command and runs it; its output is seen only if it fails.
pub(crate) fn quietly(command: &mut Command) -> Result<()> {
    println!("  {}", paint(DIM, format!("$ {}", typed(command))));
    flush();
    output(command).map(drop)
}

/// Runs the command unseen and returns its standard output; the error has its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({})\n{}",
            typed(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where `program` is on the PATH.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// This process runs as root.
pub(crate) fn is_root() -> bool {
    interlock_tests::is_root()
}

/// The workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `cargo` at the workspace, with the compiler that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    // Cargo sets these for what it runs; a nested cargo must find its own.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") || name == "CARGO_BIN_NAME" {
            command.env_remove(&*name);
        }
    }
    command.env("PATH", crate::setup::path_with_tools());
    command
}
