//! Man pages: what clap knows, and what it does not.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::Context;

/// Exit codes of all commands, in the order of their numbers.
const EXIT: &[(&str, &str)] = &[
    ("0", "It went well. Of `interlock status`: an agent serves."),
    ("1", "It did not, a check found something, or only part of a recording could be read."),
    ("2", "Wrong usage."),
    (
        "3",
        "`interlock verify`, `interlock sessions verify`: it could not be verified, for want of a key for instance.",
    ),
    ("125", "`interlock run`: the command was not run. Otherwise its own status is passed on."),
    ("126", "`interlock run`: the command was found, but is not runnable."),
    ("127", "`interlock run`: the command was not found."),
];

const FILES: &[(&str, &str)] = &[
    ("/etc/interlock/agent.yaml", "The agent\u{2019}s configuration. It may be missing."),
    ("/etc/interlock/policies.d/", "Policies, NAME.yaml, and their test cases, NAME.test.yaml."),
    (
        "/var/lib/interlock/",
        "Recordings (sessions/), the host\u{2019}s keys (keys/) and the key of keyed hashes (mask.key).",
    ),
    ("/run/interlock/control.sock", "Where the agent is asked by the other commands."),
    ("/sys/fs/bpf/interlock/", "Pinned programs and maps, which outlive the agent."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("INTERLOCK_CONFIG", "The configuration file, where --config does not name one."),
    ("INTERLOCK_LOG", "What the agent logs, where --log does not say."),
    ("NO_COLOR", "No colours, unless it is empty."),
    ("JOURNAL_STREAM", "Set by systemd: the agent logs to the journal when standard error is it."),
];

/// Writes a page for every command into `directory`.
pub(super) fn write(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(super::command(), directory)
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    let mut pages: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("interlock") && name.ends_with(".1") {
            pages.push(name);
        }
    }
    pages.sort();
    for page in &pages {
        let path = directory.join(page);
        let mut file = OpenOptions::new().append(true).open(&path)?;
        file.write_all(more(page, &pages).as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The sections behind those that clap makes.
fn more(page: &str, pages: &[String]) -> String {
    let mut text = String::new();
    for (head, entries) in [("EXIT STATUS", EXIT), ("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT)] {
        text.push_str(&format!(".SH \"{head}\"\n"));
        for (name, meaning) in entries {
            text.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", escaped(name), escaped(meaning)));
        }
    }
    let others: Vec<_> = pages.iter().filter(|other| *other != page).collect();
    let others: Vec<_> = others
        .iter()
        .filter_map(|other| other.strip_suffix(".1"))
        .map(|other| format!("\\fB{}\\fR(1)", escaped(other)))
        .collect();
    text.push_str(&format!(".SH \"SEE ALSO\"\n{}\n", others.join(", ")));
    text
}

/// Safe in roff: a hyphen is one to copy, and backslashes are themselves.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_all_sections() {
        let directory = tempfile::tempdir().unwrap();
        // Written twice, as an upgrade does.
        write(directory.path()).unwrap();
        write(directory.path()).unwrap();
        let page = std::fs::read_to_string(directory.path().join("interlock-sessions-verify.1")).unwrap();
        for section in ["EXIT STATUS", "FILES", "ENVIRONMENT", "SEE ALSO"] {
            assert_eq!(page.matches(&format!(".SH \"{section}\"")).count(), 1, "{section}");
        }
        assert!(page.contains("\\fBinterlock\\-sessions\\-list\\fR(1)"), "{page}");
    }
}
