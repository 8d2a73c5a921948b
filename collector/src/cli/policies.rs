//! `interlock-collector policies`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use interlock_recording::order::MAX_SET;
use interlock_shipping::v1::{PolicyFile, PolicyFiles};

use super::{actor, agents, by, output};
use crate::config::Config;
use crate::policies::{self, Line, Mode, diff, written};
use crate::serve;
use crate::store::{Assignment, VersionName, named};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a version of a policy set: all policy files of a directory.
    Push {
        /// The directory, as /etc/interlock/policies.d would be.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The set's name; the directory's when left out.
        #[arg(long)]
        set: Option<String>,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
        /// The agent's program, which checks what rules mean (`interlock policy check`).
        #[arg(long, value_name = "PROGRAM", default_value = "interlock", env = "INTERLOCK")]
        checker: PathBuf,
        /// Do without that check: names, sizes, YAML and outline alone are looked at here, and agents refuse what
        /// they cannot load.
        #[arg(long)]
        unchecked: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the versions of all sets.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the files of a version.
    Show {
        /// As SET@VERSION.
        #[arg(value_name = "SET@VERSION", value_parser = version_name)]
        name: VersionName,
    },
    /// Say in what two versions of a set differ.
    Diff {
        /// The older one, as SET@VERSION.
        #[arg(value_name = "SET@VERSION", value_parser = version_name)]
        old: VersionName,
        /// The newer one.
        #[arg(value_name = "SET@VERSION", value_parser = version_name)]
        new: VersionName,
    },
    /// Have the hosts of some labels go by a version: staged first, or enforced at once.
    Assign {
        /// Labels such as env=prod,tier=db; `*` for every host, host=ID for one.
        selector: String,
        /// As SET@VERSION.
        #[arg(value_name = "SET@VERSION", value_parser = version_name)]
        name: VersionName,
        /// Whether it is staged, or enforced.
        #[arg(long, default_value = "observe")]
        mode: Mode,
        /// Of several assignments that fit a host the greatest counts; then the one with the most labels.
        #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1000..=1000))]
        priority: Option<i64>,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
    /// Have what is staged for these labels enforced.
    Promote {
        /// Exactly as it was assigned.
        selector: String,
        /// Also when hosts refuse it.
        #[arg(long)]
        in_spite: bool,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
    /// Go back to what was enforced before for these labels.
    Rollback {
        /// Exactly as it was assigned.
        selector: String,
        /// To this version of the set.
        #[arg(long)]
        to: Option<u64>,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
    /// Remove what is assigned to these labels, or what is staged or enforced of it.
    Remove {
        /// Exactly as it was assigned.
        selector: String,
        /// Only what is staged, or enforced.
        #[arg(long)]
        mode: Option<Mode>,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
    /// List what is assigned, and how hosts stand with it.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Order a host anew, with a number beyond all that it has seen: after the collector was put back to an earlier
    /// state.
    Reissue {
        /// The host's id, its beginning, or its name.
        host: String,
        /// With a number greater than this one; by default than what the host says that it has seen.
        #[arg(long)]
        after: Option<u64>,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
}

/// Reads `SET@VERSION`.
fn version_name(text: &str) -> Result<VersionName, String> {
    let wrong = || format!("{text:?} is no version: write SET@VERSION, such as customers@3");
    let (set, version) = text.split_once('@').ok_or_else(wrong)?;
    let version = version.parse().ok().filter(|version| *version > 0).ok_or_else(wrong)?;
    Ok(VersionName { set: set.to_owned(), version })
}

/// The policy files of a directory, as an agent would read them.
fn read(directory: &Path) -> anyhow::Result<PolicyFiles> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read the directory {}", directory.display()))?;
    let (mut files, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let test = name.ends_with(".test.yaml") || name.ends_with(".test.yml");
        if !(name.ends_with(".yaml") || name.ends_with(".yml")) || test || name.starts_with(['.', '#']) {
            continue;
        }
        let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        bytes += size;
        anyhow::ensure!(bytes <= MAX_SET as u64, "the files have more than {MAX_SET} bytes together");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push(PolicyFile { name, text });
    }
    Ok(PolicyFiles { files })
}

/// Has the agent's program check the policies.
fn have_checked(checker: &Path, directory: &Path) -> anyhow::Result<()> {
    let checked = std::process::Command::new(checker).args(["policy", "check"]).arg(directory).output();
    let checked = checked.with_context(|| {
        format!(
            "cannot have the policies checked by {}: name the agent's program with --checker, or push with \
             --unchecked",
            checker.display()
        )
    })?;
    if checked.status.success() {
        // Warnings: whoever pushes is to see them.
        output::warn(&String::from_utf8_lossy(&checked.stdout));
        output::warn(&String::from_utf8_lossy(&checked.stderr));
        return Ok(());
    }
    anyhow::bail!(
        "the policies are not in order, so nothing was pushed:\n{}{}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    )
}

fn selector_shown(selector: &str) -> String {
    if selector.is_empty() { "*".to_owned() } else { selector.to_owned() }
}

fn told(assignment: &Assignment) {
    let or_nothing = |name: String| if name.is_empty() { "nothing".to_owned() } else { name };
    output::print(&format!(
        "{}: enforced {}, staged {}\n",
        selector_shown(&assignment.selector),
        or_nothing(named(assignment.enforce.as_ref())),
        or_nothing(named(assignment.observe.as_ref()))
    ));
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    let (intake, store) = (&*parts.intake, &parts.intake.store);
    let who = actor();
    let by = by(&who);
    match command {
        Command::Push { directory, set, reason, checker, unchecked, json } => {
            let files = read(&directory)?;
            if !unchecked {
                have_checked(&checker, &directory)?;
            }
            let own = directory.canonicalize().ok();
            let own = own.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            let set = set.unwrap_or_else(|| own.into_owned());
            let (version, new) = policies::push(intake, by, &set, files, &reason).await?;
            if json {
                let value = serde_json::json!({ "version": version, "new": new });
                output::print(&format!("{value}\n"));
            } else {
                let said = if new { "" } else { ", which has the same files already: nothing was added" };
                output::print(&format!(
                    "{}@{}{said}\n  content  {}\n",
                    version.set, version.version, version.content_sha256
                ));
            }
        }
        Command::List { json } => {
            let versions = store.policy_versions().await?;
            if json {
                output::print(&format!("{}\n", serde_json::to_string_pretty(&versions)?));
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = versions
                .into_iter()
                .map(|version| {
                    vec![
                        format!("{}@{}", version.set, version.version),
                        version.files.to_string(),
                        version.bytes.to_string(),
                        output::time(version.created_ns),
                        version.author,
                        version.reason,
                    ]
                })
                .collect();
            output::print(&output::table(&["VERSION", "FILES", "BYTES", "ADDED", "BY", "WHY"], &rows));
        }
        Command::Show { name } => {
            let (_, files) = files_of(store, &name).await?;
            for file in files.files {
                output::print(&format!("# {}\n{}\n", file.name, file.text));
            }
        }
        Command::Diff { old, new } => {
            let ((_, old), (_, new)) = (files_of(store, &old).await?, files_of(store, &new).await?);
            output::print(&differences(&old, &new));
        }
        Command::Assign { selector, name, mode, priority, reason } => {
            told(&policies::assign(intake, by, &selector, name, mode, priority, &reason).await?);
        }
        Command::Promote { selector, in_spite, reason } => {
            told(&policies::promote(intake, by, &selector, in_spite, &reason).await?);
        }
        Command::Rollback { selector, to, reason } => {
            told(&policies::roll_back(intake, by, &selector, to, &reason).await?);
        }
        Command::Remove { selector, mode, reason } => {
            told(&policies::remove(intake, by, &selector, mode, &reason).await?);
        }
        Command::Status { json } => status(store, json).await?,
        Command::Reissue { host, after, reason } => {
            let all = store.agents().await?;
            let host = &agents::find(&all, &host)?.host;
            let issued = policies::reissue(intake, by, host, after, &reason).await?;
            output::print(&format!("order {} was issued to {host}\n", issued.issue));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn files_of(
    store: &crate::store::Store,
    name: &VersionName,
) -> anyhow::Result<(crate::store::PolicyVersion, PolicyFiles)> {
    let found = store.policy_version(&name.set, name.version).await?;
    found.with_context(|| {
        format!("there is no {name}; `interlock-collector policies list` lists what there is")
    })
}

fn differences(old: &PolicyFiles, new: &PolicyFiles) -> String {
    let text = |files: &PolicyFiles, name: &str| {
        files.files.iter().find(|file| file.name == name).map(|file| file.text.clone()).unwrap_or_default()
    };
    let mut names: Vec<&str> = old.files.iter().chain(&new.files).map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut shown = String::new();
    for name in names {
        let (old, new) = (text(old, name), text(new, name));
        if old == new {
            continue;
        }
        shown.push_str(&format!("{name}\n"));
        for line in diff(&old, &new) {
            let (mark, line) = match line {
                Line::Same(line) => (' ', line),
                Line::Removed(line) => ('-', line),
                Line::Added(line) => ('+', line),
            };
            shown.push_str(&format!("{mark} {}\n", interlock_recording::text::printable(line)));
        }
    }
    shown
}

async fn status(store: &crate::store::Store, json: bool) -> anyhow::Result<()> {
    let (assignments, agents) = (store.assignments().await?, store.agents().await?);
    let (orders, standings) = (store.policy_orders().await?, store.policy_standings().await?);
    let labels = store.all_labels().await?;
    if json {
        let hosts: Vec<_> = agents
            .iter()
            .map(|agent| {
                let host = &agent.host;
                serde_json::json!({
                    "host": host, "name": agent.name, "labels": labels.get(host), "order": orders.get(host),
                    "stands": standings.get(host),
                })
            })
            .collect();
        let value = serde_json::json!({ "assignments": assignments, "hosts": hosts });
        output::print(&format!("{}\n", serde_json::to_string_pretty(&value)?));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = assignments
        .into_iter()
        .map(|assignment| {
            vec![
                selector_shown(&assignment.selector),
                assignment.priority.to_string(),
                named(assignment.enforce.as_ref()),
                named(assignment.observe.as_ref()),
                output::time(assignment.changed_ns),
                assignment.changed_by,
                assignment.reason,
            ]
        })
        .collect();
    let head = ["LABELS", "PRIORITY", "ENFORCED", "STAGED", "CHANGED", "BY", "WHY"];
    output::print(&output::table(&head, &rows));
    let rows: Vec<Vec<String>> = agents
        .into_iter()
        .map(|agent| {
            let (order, said) = (orders.get(&agent.host), standings.get(&agent.host));
            let said = said.cloned().unwrap_or_default();
            vec![
                agent.host.chars().take(12).collect(),
                agent.name,
                labels.get(&agent.host).map(written).unwrap_or_default(),
                order.map(|order| order.enforce.clone()).unwrap_or_default(),
                order.map(|order| order.observe.clone()).unwrap_or_default(),
                order.map(|order| order.issue.to_string()).unwrap_or_default(),
                said.issue.to_string(),
                said.accepts,
                said.refusal,
            ]
        })
        .collect();
    let head = ["HOST", "NAME", "LABELS", "ENFORCED", "STAGED", "ORDERED", "IN FORCE", "ACCEPTS", "REFUSED"];
    output::print(&format!("\n{}", output::table(&head, &rows)));
    Ok(())
}
