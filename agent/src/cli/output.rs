//! What commands print. A closed pipe or a full disk is no reason to panic, as `println!` does.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;
use interlock_recording::Problem;
use interlock_recording::text::{SafeJson, printable};
use serde::Serialize;

/// Prints to standard output. A reader who has seen enough (`| head`) is no failure.
///
/// # Errors
/// It cannot be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context(CANNOT_WRITE),
        _ => Ok(()),
    }
}

/// Tells on standard error what went wrong, if anybody listens there.
pub(crate) fn complain(message: impl Display) {
    let _ = writeln!(io::stderr(), "interlock: {message}");
}

/// Writes a line of JSON that is safe to print.
///
/// # Errors
/// It cannot be written.
pub(crate) fn json_line(output: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut line, SafeJson))?;
    line.push(b'\n');
    Ok(output.write_all(&line)?)
}

/// Tells what is wrong with a recording or a bundle, and what is remarkable.
///
/// # Errors
/// It cannot be written.
pub(crate) fn problems(
    output: &mut impl Write,
    problems: &[Problem],
    further: u64,
    notes: &[String],
) -> io::Result<()> {
    for problem in problems {
        let word = serde_json::to_value(problem.kind).ok();
        write!(output, "{}", word.as_ref().and_then(|word| word.as_str()).unwrap_or_default())?;
        if let Some(file) = &problem.file {
            write!(output, "  {}", printable(file))?;
        }
        if let Some(event) = problem.event {
            write!(output, "  event {event}")?;
        }
        if let Some(session) = &problem.session {
            write!(output, "  session {session}")?;
        }
        writeln!(output, ": {}", printable(&problem.detail))?;
    }
    if further > 0 {
        writeln!(output, "and {further} more problems")?;
    }
    notes.iter().try_for_each(|note| writeln!(output, "note: {}", printable(note)))
}

const CANNOT_WRITE: &str = "cannot write the output";

/// What becomes of a command that has written piece by piece: a reader who has seen enough is no
/// failure, any other trouble with the output is named as that.
pub(crate) fn finish(done: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    done.or_else(|error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        match kind {
            Some(ErrorKind::BrokenPipe) => Ok(ExitCode::SUCCESS),
            // An error that nobody has said anything about comes from the output.
            Some(_) if error.chain().len() == 1 => Err(error.context(CANNOT_WRITE)),
            _ => Err(error),
        }
    })
}

/// Colours may be used on a terminal, unless the user asks for none (<https://no-color.org>).
pub(crate) fn colours(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is_named() {
        let broken = io::Error::from(ErrorKind::BrokenPipe);
        assert_eq!(finish(Err(broken.into())).unwrap(), ExitCode::SUCCESS);
        let full = io::Error::from(ErrorKind::StorageFull);
        let error = format!("{:#}", finish(Err(full.into())).unwrap_err());
        assert!(error.starts_with(CANNOT_WRITE), "{error}");
        let named = anyhow::Error::from(io::Error::from(ErrorKind::NotFound)).context("cannot read x");
        assert!(format!("{:#}", finish(Err(named)).unwrap_err()).starts_with("cannot read x"));
    }
}
