//! `interlock trust remove`: puts back what was there.

use std::fs;
use std::path::Path;

use super::files::{self, Entry};
use super::install::{Done, Report, reload_systemd};
use super::manifest::{Change, Database, Journal, Manifest};
use super::process::Tools;
use super::store::{self, Record};
use super::{Host, bundle, keystore, pem};

/// Undoes all that an installation changed, the latest first, whether it came to its end or not.
///
/// What others changed since is kept: files as they are now, and the system's store without the authority.
pub(super) fn remove(host: &Host, tools: &dyn Tools, dry_run: bool) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let Some(manifest) = Manifest::read(&host.manifest())? else {
        // A first installation may have been killed before it wrote anything down.
        if !dry_run && host.manifest().exists() {
            Journal::open(&host.manifest())?.clear()?;
        }
        report.notes.push("nothing is installed".to_owned());
        return Ok(report);
    };
    if dry_run {
        for change in manifest.changes.iter().rev() {
            tell(change, &mut report);
        }
        return Ok(report);
    }
    let mut journal = Journal::open(&host.manifest())?;
    let authority = pem::certificates(journal.manifest.authority.as_bytes());
    let mut units = false;
    for place in (0..journal.manifest.changes.len()).rev() {
        let Some(change) = journal.manifest.changes.get(place).cloned() else { continue };
        units |= matches!(&change, Change::File { path, .. } if path.starts_with("/etc/systemd"));
        match undo(&change, host, tools, &journal, &authority, &mut report) {
            Ok(()) => journal.forget(place)?,
            // It stays in the manifest: once what stands in its way is mended, `remove` goes on here.
            Err(error) => report.failures.push(format!("{}: {error:#}", name(&change))),
        }
    }
    if units {
        reload_systemd(host, tools, &mut report);
    }
    if report.failures.is_empty() {
        bundle::forget(host, &journal.manifest.bundles)?;
        journal.clear()?;
    }
    Ok(report)
}

fn name(change: &Change) -> String {
    match change {
        Change::Directory { path } | Change::File { path, .. } => path.display().to_string(),
        Change::Store { family, .. } => format!("the system's store ({family} family)"),
    }
}

fn tell(change: &Change, report: &mut Report) {
    match change {
        Change::Directory { path } => report.step(path, "directory", Done::WouldRestore),
        Change::File { path, before, .. } => {
            let what = if *before == Entry::Absent { "to be deleted" } else { "to be as it was" };
            report.step(path, what, Done::WouldRestore);
        }
        Change::Store { .. } => report.step(Path::new(""), name(change), Done::WouldRestore),
    }
}

fn undo(
    change: &Change,
    host: &Host,
    tools: &dyn Tools,
    journal: &Journal,
    authority: &[pem::Certificate],
    report: &mut Report,
) -> anyhow::Result<()> {
    match change {
        Change::Directory { path } => {
            // Others may have put something there: then it stays.
            let place = host.at(path);
            let empty = fs::read_dir(&place).is_ok_and(|mut listing| listing.next().is_none());
            if empty {
                fs::remove_dir(&place)?;
                report.step(path, "directory", Done::Restored);
            }
        }
        Change::File { path, before, written, database } => {
            undo_file(path, before, written, *database, (host, tools, journal, authority), report)?;
        }
        Change::Store { family, anchor_before, anchor, before, after } => {
            let after = after.as_ref();
            let record = Record { family, anchor_before, anchor, before, after };
            report.notes.extend(store::remove(&record, host, tools, journal, authority)?);
            report.step(Path::new(""), name(change), Done::Restored);
        }
    }
    Ok(())
}

fn undo_file(
    path: &Path,
    before: &Entry,
    written: &[String],
    database: Option<Database>,
    (host, tools, journal, authority): (&Host, &dyn Tools, &Journal, &[pem::Certificate]),
    report: &mut Report,
) -> anyhow::Result<()> {
    let place = host.at(path);
    files::remove_file(&files::temporary(&place))?;
    let there = files::look(&place)?;
    if written.iter().any(|digest| there.holds(digest)) {
        files::restore(&place, before, |sha| journal.contents(sha))?;
        report.step(path, "as it was", Done::Restored);
    } else if let Some(database) = database {
        let note = keystore::take_out(host, tools, journal, authority, path, before, database)?;
        report.notes.extend(note);
        report.step(path, "without the authority", Done::Restored);
    } else if there != Entry::Absent && !there.same(before) {
        report.step(path, "changed by others since", Done::Kept);
        report.notes.push(format!("{} was changed by others since and stays as it is", path.display()));
    }
    Ok(())
}
