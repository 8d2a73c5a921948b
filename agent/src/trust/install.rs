//! `interlock trust install`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::unistd::User;
use serde::Serialize;

use super::bundle::{self, Bundle};
use super::files::{self, Attributes, Entry};
use super::keystore::{self, Edited};
use super::manifest::{Change, Database, Journal, Manifest};
use super::process::Tools;
use super::store::{self, Family};
use super::unit::{self, Unit};
use super::{Authority, Host, environment, remove};

/// What is asked for.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// Units that get an environment.
    pub(super) units: Vec<String>,
    /// They get a keystore by JAVA_TOOL_OPTIONS.
    pub(super) java: bool,
    /// Files of roots that these units see with the authority added.
    pub(super) roots: Vec<PathBuf>,
    /// Kubeconfigs that they see with the authority added.
    pub(super) kubeconfigs: Vec<PathBuf>,
    /// Directories of NSS databases.
    pub(super) nss: Vec<PathBuf>,
    /// Only tell what would be done.
    pub(super) dry_run: bool,
}

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) steps: Vec<Step>,
    /// What is to be known beside that.
    pub(super) notes: Vec<String>,
    /// Units that are to be restarted.
    pub(super) restart: Vec<String>,
    /// What could not be done.
    pub(super) failures: Vec<String>,
}

/// One thing that was done.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) path: PathBuf,
    pub(super) what: String,
    pub(super) done: Done,
    /// The text of a file that would be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Done {
    /// It was as it should be.
    Already,
    /// It was done.
    Installed,
    /// It would be.
    WouldInstall,
    /// What was there before is there again.
    Restored,
    /// It would be.
    WouldRestore,
    /// Others changed it since: it stays.
    Kept,
}

impl Report {
    pub(super) fn step(&mut self, path: &Path, what: impl Into<String>, done: Done) {
        self.steps.push(Step { path: path.to_owned(), what: what.into(), done, text: None });
    }
}

/// Installs the authority. What one client needs and can't be done is told; the others are done all the same.
pub(super) fn install(
    host: &Host,
    tools: &dyn Tools,
    authority: &Authority,
    request: &Request,
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let earlier = Manifest::read(&host.manifest())?;
    if let Some(earlier) = &earlier
        && earlier.authority != authority.pem
    {
        report.notes.push("another authority was installed: it is removed first".to_owned());
        let removed = remove::remove(host, tools, request.dry_run)?;
        report.steps.extend(removed.steps);
        anyhow::ensure!(
            removed.failures.is_empty(),
            "the earlier authority could not be removed: {}",
            removed.failures.join("; ")
        );
    }
    if request.dry_run {
        Work { host, tools, authority, journal: None, report: &mut report }.all(request)?;
        return Ok(report);
    }
    let mut journal = Journal::open(&host.manifest())?;
    journal.manifest.authority.clone_from(&authority.pem);
    if !journal.manifest.bundles.contains(&Bundle::system()) {
        journal.manifest.bundles.push(Bundle::system());
    }
    journal.save()?;
    Work { host, tools, authority, journal: Some(&mut journal), report: &mut report }.all(request)?;
    Ok(report)
}

/// A file beside a unit's.
struct UnitFile {
    unit: String,
    path: PathBuf,
    text: String,
}

struct Work<'a> {
    host: &'a Host,
    tools: &'a dyn Tools,
    authority: &'a Authority,
    /// `None`: only tell what would be done.
    journal: Option<&'a mut Journal>,
    report: &'a mut Report,
}

impl Work<'_> {
    fn all(&mut self, request: &Request) -> anyhow::Result<()> {
        // The rest does not hang on the store: a client with roots of its own never looks there.
        let outcome = self.system();
        self.failed("the system's store", outcome);
        for path in keystore::of_jvms(self.host) {
            let outcome = self.database(&path, Database::Keystore, "Java's own keystore");
            self.failed(&path.display().to_string(), outcome);
        }
        for directory in &request.nss {
            let path = directory.join(keystore::NSS_FILE);
            let outcome = self.database(&path, Database::Nss, "NSS database");
            self.failed(&path.display().to_string(), outcome);
        }
        let mut bundles = BTreeSet::from([Bundle::system()]);
        let mut drop_ins = Vec::new();
        for name in &request.units {
            match self.unit(name, request) {
                Ok((files, needed)) => {
                    drop_ins.extend(files);
                    bundles.extend(needed);
                }
                Err(error) => self.report.failures.push(format!("{name}: {error:#}")),
            }
        }
        // What units are pointed to is there before they are.
        self.bundles(&bundles)?;
        let mut changed = BTreeSet::new();
        for UnitFile { unit, path, text } in drop_ins {
            let before = self.report.steps.len();
            let outcome = self.file(&path, text, &format!("environment of {unit}"));
            self.failed(&path.display().to_string(), outcome);
            let steps = self.report.steps.get(before..).unwrap_or_default();
            if steps.iter().any(|step| step.done == Done::Installed) {
                changed.insert(unit);
            }
        }
        if self.journal.is_some() && !changed.is_empty() {
            reload_systemd(self.host, self.tools, self.report);
            self.report.restart.extend(changed);
        }
        Ok(())
    }

    fn failed(&mut self, what: &str, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.report.failures.push(format!("{what}: {error:#}"));
        }
    }

    fn system(&mut self) -> anyhow::Result<()> {
        let Some(family) = Family::of(self.host) else {
            bail!(
                "neither update-ca-certificates nor update-ca-trust is there; install the package ca-certificates"
            );
        };
        let what = format!("the system's store ({} family)", family.name);
        if family.holds(self.host, self.authority) {
            self.report.step(&family.anchor(), what, Done::Already);
            return Ok(());
        }
        let Some(journal) = &mut self.journal else {
            self.report.step(&family.anchor(), what, Done::WouldInstall);
            return Ok(());
        };
        let made = family.anchor();
        make_directories(self.host, journal, made.parent().unwrap_or(Path::new("/")))?;
        let lost = store::install(family, self.host, self.tools, journal, self.authority)?;
        if lost > 0 {
            self.report.notes.push(format!(
                "{} held {lost} certificates which are in nothing that it is made of; they are still in it, but the \
                 next update of the system's store drops them",
                family.bundle
            ));
        }
        self.report.step(&family.anchor(), what, Done::Installed);
        Ok(())
    }

    fn database(&mut self, path: &Path, database: Database, what: &str) -> anyhow::Result<()> {
        let place = self.host.at(path);
        match keystore::with_authority(database, self.tools, &place, self.authority)? {
            Edited::AsItIs => self.report.step(path, what, Done::Already),
            Edited::New(contents) => {
                let Entry::File { attributes, .. } = files::look(&place)? else { bail!("it is no file") };
                self.write(path, &contents, attributes, what, Some(database))?;
            }
        }
        Ok(())
    }

    /// The files that a unit needs, and the bundles that they name.
    fn unit(&mut self, name: &str, request: &Request) -> anyhow::Result<(Vec<UnitFile>, Vec<Bundle>)> {
        check_name(name)?;
        let unit = Unit::read(self.host, name, false);
        if !unit.exists {
            self.report.notes.push(format!("there is no unit file of {name} yet: its drop-in waits for one"));
        }
        let wanted = environment::for_unit(self.host, self.authority, &unit, request.java);
        self.report.notes.extend(wanted.notes.iter().map(|note| format!("{name}: {note}")));
        let mut bundles = wanted.bundles;
        let mut overlays = Vec::new();
        let own = home(self.host, unit.user.as_deref()).map(|home| home.join(environment::ROOT_CRT));
        let own = own.filter(|path| self.host.at(path).is_file());
        for path in own.iter().chain(&request.roots) {
            anyhow::ensure!(self.host.at(path).is_file(), "there is no file {}", path.display());
            let bundle = Bundle::overlay(path);
            overlays.push((bundle.path(self.host), path.clone()));
            bundles.push(bundle);
        }
        for path in &request.kubeconfigs {
            anyhow::ensure!(self.host.at(path).is_file(), "there is no file {}", path.display());
            let bundle = Bundle::kubeconfig(path);
            overlays.push((bundle.path(self.host), path.clone()));
            bundles.push(bundle);
        }
        let drop_in = Unit::drop_in(name);
        let file = drop_in.with_file_name(unit::DROP_IN_ENVIRONMENT);
        let beaten = wanted.variables.iter().any(|(name, _)| unit.from_files.contains(name));
        let mut text = String::from(
            "# Written by `interlock trust install`; `interlock trust remove` takes it away.\n[Unit]\n\
             # The files named below are there when the agent has started.\nWants=interlock.service\n\
             After=interlock.service\n\n[Service]\n",
        );
        let mut files = Vec::new();
        if beaten {
            // What an EnvironmentFile= of the unit sets beats any Environment=; a later file beats it.
            let lines =
                wanted.variables.iter().map(|(name, value)| format!("{name}={}\n", env_quoted(value)));
            files.push(UnitFile { unit: name.to_owned(), path: file.clone(), text: lines.collect() });
            text.push_str(&format!("EnvironmentFile=-{}\n", file.display()));
        } else {
            for (name, value) in &wanted.variables {
                text.push_str(&format!("Environment={}\n", unit::quoted(&format!("{name}={value}"))));
            }
        }
        for (from, to) in overlays {
            text.push_str(&format!("BindReadOnlyPaths=-{}:{}\n", mountable(&from)?, mountable(&to)?));
        }
        files.push(UnitFile { unit: name.to_owned(), path: drop_in, text });
        Ok((files, bundles))
    }

    fn bundles(&mut self, bundles: &BTreeSet<Bundle>) -> anyhow::Result<()> {
        if bundles.contains(&Bundle::system()) && bundle::system_bundle(self.host).is_none() {
            self.report.failures.push(
                "this system has no file of trusted roots: install the package ca-certificates".to_owned(),
            );
        }
        let Some(journal) = &mut self.journal else {
            for bundle in bundles {
                self.report.step(&bundle.path(self.host), "roots and the authority", Done::WouldInstall);
            }
            return Ok(());
        };
        let new: Vec<_> =
            bundles.iter().filter(|bundle| !journal.manifest.bundles.contains(bundle)).cloned().collect();
        journal.manifest.bundles.extend(new);
        journal.save()?;
        if let Err(error) = bundle::refresh(self.host, self.authority, &journal.manifest.bundles) {
            self.report.failures.push(format!("{error:#}"));
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, text: String, what: &str) -> anyhow::Result<()> {
        self.write(path, text.as_bytes(), Attributes::public(), what, None)?;
        if self.journal.is_none()
            && let Some(step) = self.report.steps.last_mut()
        {
            step.text = Some(text);
        }
        Ok(())
    }

    /// Writes a file, noting first what was there.
    fn write(
        &mut self,
        path: &Path,
        contents: &[u8],
        attributes: Attributes,
        what: &str,
        database: Option<Database>,
    ) -> anyhow::Result<()> {
        let place = self.host.at(path);
        let digest = files::digest(contents);
        let there = files::look(&place)?;
        if there.holds(&digest) {
            self.report.step(path, what, Done::Already);
            return Ok(());
        }
        let Some(journal) = &mut self.journal else {
            self.report.step(path, what, Done::WouldInstall);
            return Ok(());
        };
        let known = journal.manifest.changes.iter_mut().find_map(|change| match change {
            Change::File { path: known, before, written, .. } if known == path => Some((before, written)),
            _ => None,
        });
        match known {
            Some((before, written)) => {
                let ours = written.iter().any(|digest| there.holds(digest));
                let foreign = !ours && there != Entry::Absent && !there.same(before) && database.is_none();
                if foreign {
                    self.report.step(path, what, Done::Kept);
                    self.report.notes.push(format!(
                        "{} was changed by others since it was installed and stays; delete it to have it written anew",
                        path.display()
                    ));
                    return Ok(());
                }
                written.push(digest);
                journal.save()?;
            }
            None => {
                make_directories(self.host, journal, path.parent().unwrap_or(Path::new("/")))?;
                let before = journal.keep(&place)?;
                let change = Change::File { path: path.to_owned(), before, written: vec![digest], database };
                journal.begin(change)?;
            }
        }
        files::replace(&place, contents, attributes)
            .with_context(|| format!("cannot write {}", place.display()))?;
        self.report.step(path, what, Done::Installed);
        Ok(())
    }
}

/// Makes a directory and those above it, each noted first.
fn make_directories(host: &Host, journal: &mut Journal, path: &Path) -> anyhow::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !host.at(path).exists()).collect();
    for path in missing.into_iter().rev() {
        journal.begin(Change::Directory { path: path.to_owned() })?;
        let place = host.at(path);
        DirBuilder::new()
            .mode(0o755)
            .create(&place)
            .with_context(|| format!("cannot make {}", place.display()))?;
    }
    Ok(())
}

/// Has systemd read its files again, where it runs.
pub(super) fn reload_systemd(host: &Host, tools: &dyn Tools, report: &mut Report) {
    if !host.is_live() || !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    let reloaded = match tools.find("systemctl") {
        Some(systemctl) => tools.run(Path::new("/"), &systemctl, &["daemon-reload".as_ref()]).map(drop),
        None => Err(anyhow::anyhow!("systemctl is not installed")),
    };
    if let Err(error) = reloaded {
        report.failures.push(format!("systemd was not told (`systemctl daemon-reload`): {error:#}"));
    }
}

/// A unit's name is used as a path's part.
pub(super) fn check_name(name: &str) -> anyhow::Result<()> {
    let fits = name.ends_with(".service")
        && name.len() <= 255
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':' | '\\'));
    anyhow::ensure!(fits, "a unit with an environment is named like `gitlab-runner.service`");
    Ok(())
}

/// The home directory of a unit's user; root's when it names none.
pub(super) fn home(host: &Host, user: Option<&str>) -> Option<PathBuf> {
    let user = user.unwrap_or("root");
    let table = fs::read_to_string(host.at(Path::new("/etc/passwd"))).unwrap_or_default();
    let listed = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let named = fields.first() == Some(&user) || fields.get(2) == Some(&user);
        named.then(|| fields.get(5).map(PathBuf::from)).flatten()
    });
    let by_service = || host.is_live().then(|| User::from_name(user).ok().flatten()).flatten();
    listed.or_else(|| by_service().map(|user| user.dir))
}

/// A path as `BindReadOnlyPaths=` takes it.
fn mountable(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| {
        !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '"' | '\'' | '\\'))
    });
    let text = text.with_context(|| {
        format!("{} has blanks, quotes or colons in it: systemd could not mount over it", path.display())
    })?;
    Ok(text.replace('%', "%%"))
}

/// A value as an environment file holds it.
fn env_quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
