//! What people and programs read.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use interlock_recording::text::printable;
use tracing_subscriber::EnvFilter;

/// Prints to standard output. A reader that has gone, such as `head`, is no error.
pub(super) fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Passes on, on standard error, what another program has said.
pub(super) fn warn(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Says on standard error what went wrong.
pub(super) fn complain(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "interlock-collector: {message}");
}

/// Has the log go to standard error: systemd passes it on to the journal, with times of its own.
///
/// # Errors
/// `INTERLOCK_LOG` is no filter.
pub(super) fn log() -> anyhow::Result<()> {
    let filter = match std::env::var_os("INTERLOCK_LOG").filter(|filter| !filter.is_empty()) {
        Some(filter) => {
            let filter = filter.to_string_lossy();
            EnvFilter::try_new(&filter).with_context(|| {
                format!(
                    "INTERLOCK_LOG={filter} is no filter; write a level such as `debug`, or \
                     `info,interlock_collector::intake=debug`"
                )
            })?
        }
        None => EnvFilter::new("info"),
    };
    let terminal = io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
    Ok(())
}

/// A table: left-aligned columns, two blanks between them.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell).into_owned()).collect()).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A time for people.
pub(super) fn time(ns: i64) -> String {
    if ns <= 0 {
        return "never".to_owned();
    }
    jiff::Timestamp::from_second(ns / 1_000_000_000).map_or_else(|_| ns.to_string(), |time| time.to_string())
}
