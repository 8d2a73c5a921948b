//! The store of roots that a distribution keeps: an anchors' directory and a tool that makes bundles,
//! hashed directories and Java's keystore of it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::files::{self, Attributes, Entry, Tree};
use super::manifest::{Change, Database, Journal};
use super::process::Tools;
use super::{Authority, Host, keystore, pem};

/// A family of distributions.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    /// Where anchors are put.
    directory: &'static str,
    /// The name of ours there.
    anchor: &'static str,
    tool: &'static str,
    arguments: &'static [&'static str],
    /// All that the tool writes is below it.
    output: &'static str,
    /// The bundle among that.
    pub(super) bundle: &'static str,
    /// A keystore among that which is edited, not made anew.
    keystore: Option<&'static str>,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "Debian",
        directory: "/usr/local/share/ca-certificates",
        anchor: "interlock-authority.crt",
        tool: "/usr/sbin/update-ca-certificates",
        arguments: &[],
        output: "/etc/ssl/certs",
        bundle: "/etc/ssl/certs/ca-certificates.crt",
        keystore: Some("java/cacerts"),
    },
    Family {
        name: "RHEL",
        directory: "/etc/pki/ca-trust/source/anchors",
        anchor: "interlock-authority.crt",
        tool: "/usr/bin/update-ca-trust",
        arguments: &["extract"],
        output: "/etc/pki/ca-trust/extracted",
        bundle: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        keystore: None,
    },
];

impl Family {
    /// The one that this system is of.
    pub(super) fn of(host: &Host) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| host.at(Path::new(family.tool)).exists())
    }

    fn named(name: &str) -> anyhow::Result<&'static Self> {
        let family = FAMILIES.iter().find(|family| family.name == name);
        family.with_context(|| {
            format!("the manifest names a family of distributions `{name}` that is not known")
        })
    }

    /// The anchor's path.
    pub(super) fn anchor(&self) -> PathBuf {
        Path::new(self.directory).join(self.anchor)
    }

    /// The system's bundle holds the authority, and the anchor is in its place.
    pub(super) fn holds(&self, host: &Host, authority: &Authority) -> bool {
        let holds = |path: &Path| pem::read(&host.at(path)).is_ok_and(|all| authority.is_in(&all));
        holds(&self.anchor()) && holds(Path::new(self.bundle))
    }

    fn update(&self, host: &Host, tools: &dyn Tools) -> anyhow::Result<()> {
        #[cfg(test)]
        files::fault::step()?;
        let arguments: Vec<&OsStr> = self.arguments.iter().map(OsStr::new).collect();
        tools.run(&host.root, Path::new(self.tool), &arguments)?;
        Ok(())
    }
}

/// Puts the authority into the system's store. Gives the subject numbers of certificates that the bundle
/// held without its sources holding them, which are put back into it.
pub(super) fn install(
    family: &Family,
    host: &Host,
    tools: &dyn Tools,
    journal: &mut Journal,
    authority: &Authority,
) -> anyhow::Result<usize> {
    let output = host.at(Path::new(family.output));
    let anchor = host.at(&family.anchor());
    let ours = authority.pem.as_bytes();
    // A second installation, after the store was reset, keeps what the first found.
    let known = journal.manifest.changes.iter().position(|change| matches!(change, Change::Store { .. }));
    let place = match known {
        Some(place) => place,
        None => {
            let change = Change::Store {
                family: family.name.to_owned(),
                anchor_before: journal.keep(&anchor)?,
                anchor: files::digest(ours),
                before: journal.keep_tree(&output)?,
                after: None,
            };
            journal.begin(change)?
        }
    };
    let bundle = host.at(Path::new(family.bundle));
    let had = pem::read(&bundle).unwrap_or_default();
    files::replace(&anchor, ours, Attributes::public())
        .with_context(|| format!("cannot write {}", anchor.display()))?;
    family.update(host, tools)?;
    let now = pem::read(&bundle).with_context(|| format!("cannot read {}", bundle.display()))?;
    anyhow::ensure!(
        authority.is_in(&now),
        "{} went well, but {} does not hold the authority",
        family.tool,
        family.bundle
    );
    let lost: Vec<_> = had.into_iter().filter(|one| !now.contains(one)).collect();
    if !lost.is_empty() {
        let mut text = files::read(&bundle)?;
        text.extend(pem::bundle("Was in this bundle, and is not in what it is made of", &lost).into_bytes());
        files::replace(&bundle, &text, Attributes::public())
            .with_context(|| format!("cannot write {}", bundle.display()))?;
    }
    let tree = files::tree(&output).with_context(|| format!("cannot read {}", output.display()))?;
    if let Some(Change::Store { after, .. }) = journal.manifest.changes.get_mut(place) {
        *after = Some(tree);
    }
    journal.save()?;
    Ok(lost.len())
}

/// What a store was and what it was made into, as the manifest has it.
pub(super) struct Record<'a> {
    pub(super) family: &'a str,
    pub(super) anchor_before: &'a Entry,
    pub(super) anchor: &'a str,
    pub(super) before: &'a Tree,
    pub(super) after: Option<&'a Tree>,
}

/// Takes the authority out of the system's store again. What others changed since stays.
pub(super) fn remove(
    record: &Record<'_>,
    host: &Host,
    tools: &dyn Tools,
    journal: &Journal,
    authority: &[pem::Certificate],
) -> anyhow::Result<Vec<String>> {
    let family = Family::named(record.family)?;
    let output = host.at(Path::new(family.output));
    let anchor = host.at(&family.anchor());
    let mut notes = Vec::new();
    let was = |sha: &str| journal.contents(sha);

    files::remove_file(&files::temporary(&anchor))?;
    let there = files::look(&anchor)?;
    if there.holds(record.anchor) {
        files::restore(&anchor, record.anchor_before, was)
            .with_context(|| format!("cannot restore {}", anchor.display()))?;
    } else if !there.same(record.anchor_before) {
        notes.push(format!("{} was changed by others and stays", family.anchor().display()));
    }

    // What an installation or removal that was killed was about to put there.
    let mut now = files::tree(&output).with_context(|| format!("cannot read {}", output.display()))?;
    for path in now.keys().filter(|path| is_temporary(path)) {
        files::remove_file(&output.join(path))?;
    }
    now.retain(|path, _| !is_temporary(path));
    if record.after.is_some_and(|after| same(after, &now)) {
        put_back(&output, &now, record.before, journal)?;
        return Ok(notes);
    }
    if same(record.before, &now) {
        return Ok(notes);
    }

    // The store was changed by others since, or the installation did not come to its end: what is ours
    // goes, and the tool makes the rest.
    drop_links(&output, &family.anchor(), &now)?;
    put_back_links(&output, record.before)?;
    family.update(host, tools)?;
    let holds = |path: &str| {
        let all = pem::read(&host.at(Path::new(path))).unwrap_or_default();
        all.iter().any(|one| authority.contains(one))
    };
    if holds(family.bundle) && files::look(&anchor)? == Entry::Absent {
        // A tool that was killed left half a bundle behind, and Debian's goes on where that one stopped.
        family.update(host, tools)?;
        anyhow::ensure!(!holds(family.bundle), "{} still holds the authority", family.bundle);
    }
    if let Some(path) = family.keystore {
        notes.extend(empty_keystore(
            host,
            tools,
            journal,
            authority,
            &Path::new(family.output).join(path),
            record,
        )?);
    }
    let bundle = Path::new(family.bundle);
    let below = bundle.strip_prefix(family.output).unwrap_or(bundle);
    let plain = |all: Vec<pem::Certificate>| Authority::without(authority, all);
    let before = match record.before.get(below) {
        Some(Entry::File { sha256, .. }) => plain(pem::certificates(&journal.contents(sha256)?)),
        _ => Vec::new(),
    };
    if plain(pem::read(&host.at(bundle)).unwrap_or_default()) == before {
        // The same roots as before: then what was made of them can be the same too, byte for byte.
        let now = files::tree(&output)?;
        for (path, entry) in record.before {
            let current = now.get(path).unwrap_or(&Entry::Absent);
            let edited = family.keystore.is_some_and(|keystore| path == Path::new(keystore));
            if matches!(entry, Entry::File { .. }) && !current.same(entry) && !edited {
                files::restore(&output.join(path), entry, was)?;
            }
        }
    }
    Ok(notes)
}

fn same(one: &Tree, other: &Tree) -> bool {
    one.len() == other.len()
        && one.iter().all(|(path, entry)| other.get(path).is_some_and(|there| there.same(entry)))
}

fn is_temporary(path: &Path) -> bool {
    path.as_os_str().to_string_lossy().ends_with(".interlock-new")
}

/// Makes a tree what it was.
fn put_back(output: &Path, now: &Tree, before: &Tree, journal: &Journal) -> anyhow::Result<()> {
    // What is gone first, the deepest first, so that directories are empty; then what was there.
    for path in now.keys().rev().filter(|path| !before.contains_key(*path)) {
        let path = output.join(path);
        files::restore(&path, &Entry::Absent, |_| Err(io::Error::other("nothing is to be read")))
            .with_context(|| format!("cannot delete {}", path.display()))?;
    }
    for (path, entry) in before {
        if now.get(path).is_none_or(|there| !there.same(entry)) {
            let path = output.join(path);
            files::restore(&path, entry, |sha| journal.contents(sha))
                .with_context(|| format!("cannot restore {}", path.display()))?;
        }
    }
    Ok(())
}

/// Deletes links that end at the anchor: those of its name, and those of its hash to that one.
fn drop_links(output: &Path, anchor: &Path, now: &Tree) -> io::Result<()> {
    let mut ours: Vec<&Path> = Vec::new();
    let links = || {
        now.iter().filter_map(|(path, entry)| match entry {
            Entry::Link { target } => Some((path.as_path(), target.as_path())),
            _ => None,
        })
    };
    for (path, target) in links() {
        if target == anchor {
            ours.push(path);
        }
    }
    for (path, target) in links() {
        if ours.contains(&target) {
            ours.push(path);
        }
    }
    for path in ours {
        files::remove_file(&output.join(path))?;
    }
    Ok(())
}

/// Puts back links which are gone although what they point to is still there: a tool that was killed
/// had taken them away to make them anew.
fn put_back_links(output: &Path, before: &Tree) -> io::Result<()> {
    for (path, entry) in before {
        let Entry::Link { target } = entry else { continue };
        let path = output.join(path);
        let points_somewhere = path.parent().is_some_and(|parent| parent.join(target).exists());
        if points_somewhere && files::look(&path)? == Entry::Absent {
            files::restore(&path, entry, |_| Err(io::Error::other("nothing is to be read")))?;
        }
    }
    Ok(())
}

/// Debian's keystore is edited in place by its hook, which does not hear of an anchor that has gone.
fn empty_keystore(
    host: &Host,
    tools: &dyn Tools,
    journal: &Journal,
    authority: &[pem::Certificate],
    path: &Path,
    record: &Record<'_>,
) -> anyhow::Result<Option<String>> {
    let below = path.strip_prefix(Family::named(record.family)?.output).unwrap_or(path);
    let before = record.before.get(below).unwrap_or(&Entry::Absent);
    keystore::take_out(host, tools, journal, authority, path, before, Database::Keystore)
}
