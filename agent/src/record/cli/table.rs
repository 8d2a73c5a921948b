//! Tables for human eyes. What stands in them was chosen by others, and is made safe before it is printed.

use std::io::{self, Write};

use interlock_recording::json;
use interlock_recording::proto::EgressConnection;
use interlock_recording::query::Summary;
use interlock_recording::text::printable;

/// A cell is cut at this many characters.
const CELL: usize = 60;

/// The narrowest that a column is made to fit a terminal.
const NARROWEST: usize = 4;

/// The shortest beginning of an id that is shown: the time in it.
const PREFIX: usize = 12;

/// How much of each id tells it from all others.
pub(super) fn unique_prefix<'i>(ids: impl Iterator<Item = &'i str>) -> usize {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    let common = ids.windows(2).map(|pair| match pair {
        [a, b] => a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count(),
        _ => 0,
    });
    common.max().unwrap_or(0).saturating_add(1).max(PREFIX)
}

/// Prints sessions, one a line: `prefix` characters of each id, the whole within `width` characters.
pub(super) fn sessions(
    output: &mut impl Write,
    sessions: &[&Summary],
    prefix: usize,
    width: Option<usize>,
) -> io::Result<()> {
    let heads =
        ["SESSION", "STARTED", "USER", "PROGRAM", "DESTINATION", "DATABASE", "COMMANDS", "REFUSED", "END"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for session in sessions {
        let host = session.hosts.first().filter(|_| session.hosts.len() == 1);
        let destination = match (host, session.destination.rsplit_once(':')) {
            (Some(host), Some((_, port))) => format!("{host}:{port}"),
            _ => session.destination.clone(),
        };
        lines.push(vec![
            session.session.get(..prefix).unwrap_or(&session.session).to_owned(),
            seconds(&session.started),
            name(&session.user, session.uid),
            program(session.script.as_ref().unwrap_or(&session.exe)),
            destination,
            format!("{}@{}", session.db_user, session.database),
            session.commands.to_string(),
            session.refused.to_string(),
            session.ended.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    // Ids, times and numbers are nothing when cut.
    columns(output, &lines, "", width.map(|width| (width, &[2, 3, 4, 5, 8][..])))
}

/// One connection as a line of [`egresses`].
pub(super) fn egress(wall_ns: u64, egress: &EgressConnection) -> Vec<String> {
    let subject = egress.subject.clone().unwrap_or_default();
    let protocol = match egress.ip_protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    };
    vec![
        seconds(&json::time(wall_ns)),
        name(&subject.user, subject.uid),
        program(subject.script.as_ref().unwrap_or(&subject.exe)),
        subject.pid.to_string(),
        egress.destination.clone(),
        protocol,
        egress.verdict.clone(),
        egress.count.to_string(),
    ]
}

/// Prints connections that no session is about.
pub(super) fn egresses(
    output: &mut impl Write,
    lines: Vec<Vec<String>>,
    width: Option<usize>,
) -> io::Result<()> {
    let heads = ["TIME", "USER", "PROGRAM", "PID", "DESTINATION", "PROTOCOL", "VERDICT", "COUNT"];
    let lines: Vec<_> = std::iter::once(heads.map(str::to_owned).to_vec()).chain(lines).collect();
    columns(output, &lines, "", width.map(|width| (width, &[1, 2][..])))
}

fn seconds(time: &str) -> String {
    time.get(..19).unwrap_or_default().to_owned() + "Z"
}

fn name(user: &str, uid: u32) -> String {
    if user.is_empty() { uid.to_string() } else { user.to_owned() }
}

fn program(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Prints lines of cells as aligned columns. `fit` is the width in characters, and the columns that may be
/// cut to keep within it.
pub(super) fn columns(
    output: &mut impl Write,
    lines: &[Vec<String>],
    indent: &str,
    fit: Option<(usize, &[usize])>,
) -> io::Result<()> {
    let safe: Vec<Vec<String>> =
        lines.iter().map(|line| line.iter().map(|cell| cut(&printable(cell), CELL)).collect()).collect();
    let count = safe.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        safe.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<_> = (0..count).map(width).collect();
    if let Some((room, elastic)) = fit {
        squeeze(&mut widths, room, elastic);
    }
    for line in &safe {
        let mut text = String::from(indent);
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{:width$}  ", cut(cell, *width)));
        }
        writeln!(output, "{}", text.trim_end())?;
    }
    Ok(())
}

/// Takes from the widest of the `elastic` columns until all of them fit, or none can give any more.
fn squeeze(widths: &mut [usize], room: usize, elastic: &[usize]) {
    loop {
        let total = widths.iter().map(|width| width + 2).sum::<usize>().saturating_sub(2);
        let widest = elastic.iter().copied().max_by_key(|at| widths.get(*at));
        match widest.and_then(|at| widths.get_mut(at)) {
            Some(width) if total > room && *width > NARROWEST => *width -= 1,
            _ => return,
        }
    }
}

/// At most `width` characters of the text.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_as_long_as_they_must_be() {
        assert_eq!(unique_prefix(std::iter::empty()), PREFIX);
        assert_eq!(unique_prefix(["0123456789abcdef"].into_iter()), PREFIX);
        let close = ["0123456789abcd00", "ff23456789abcdef", "0123456789abcd01"];
        assert_eq!(unique_prefix(close.into_iter()), 16);
    }

    #[test]
    fn a_list_fits_the_terminal() {
        let session = Summary {
            session: "0123456789abcdef".repeat(2),
            started: "2026-01-05T08:00:00.123456789Z".into(),
            user: "gitlab-runner".into(),
            exe: "/usr/local/bin/nightly-report-of-everything".into(),
            destination: "[2001:db8::1234:5678]:5432".into(),
            db_user: "reporting_user".into(),
            database: "warehouse_production".into(),
            ended: Some("client_closed".into()),
            ..Summary::default()
        };
        let printed = |width| {
            let mut output = Vec::new();
            sessions(&mut output, &[&session], 12, width).expect("written");
            String::from_utf8(output).expect("text")
        };
        let narrow = printed(Some(100));
        assert!(narrow.lines().all(|line| line.chars().count() <= 100), "{narrow}");
        assert!(narrow.contains("0123456789ab  2026-01-05T08:00:00Z"), "{narrow}");
        assert!(printed(None).contains("reporting_user@warehouse_production"));
    }
}
