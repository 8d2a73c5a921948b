//! Databases of certificates that only their own tools can edit: Java keystores and NSS databases.
//!
//! The tools work on a copy, which then takes the file's place in one step.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::files::{self, Attributes, Entry};
use super::manifest::{Database, Journal};
use super::pem::{self, Certificate};
use super::process::Tools;
use super::{Authority, Host, NAME, jks};

/// The file of an NSS database that holds its certificates.
pub(super) const NSS_FILE: &str = "cert9.db";

impl Database {
    fn tool(self, tools: &dyn Tools) -> anyhow::Result<PathBuf> {
        match self {
            Self::Keystore => tools
                .find("keytool")
                .or_else(|| in_java_homes("bin/keytool").into_iter().next())
                .context("keytool is not installed (it comes with every JDK and JRE)"),
            Self::Nss => tools
                .find("certutil")
                .context("certutil is not installed (package libnss3-tools on Debian, nss-tools on RHEL)"),
        }
    }

    /// The certificates of a database, each under its names there.
    fn list(self, tools: &dyn Tools, path: &Path) -> anyhow::Result<Vec<(String, Certificate)>> {
        let program = self.tool(tools)?;
        let run = |arguments: &[&OsStr]| tools.run(Path::new("/"), &program, arguments);
        match self {
            Self::Keystore => {
                let text = run(&keystore_arguments(path, &["-list", "-rfc"]))?;
                Ok(aliases(&text))
            }
            Self::Nss => {
                // The name is ours alone: there is at most one entry of it.
                let directory = nss_argument(path);
                let name = [OsStr::new("-L"), OsStr::new("-d"), directory.as_ref()];
                let all = run(&name)?;
                if !all.lines().any(|line| line.trim_start().starts_with(NAME)) {
                    return Ok(Vec::new());
                }
                let text = run(&[
                    OsStr::new("-L"),
                    OsStr::new("-a"),
                    OsStr::new("-n"),
                    OsStr::new(NAME),
                    OsStr::new("-d"),
                    directory.as_ref(),
                ])?;
                let all = pem::certificates(text.as_bytes());
                Ok(all.into_iter().map(|one| (NAME.to_owned(), one)).collect())
            }
        }
    }

    fn add(self, tools: &dyn Tools, path: &Path, certificate: &Path) -> anyhow::Result<()> {
        let program = self.tool(tools)?;
        let certificate = certificate.as_os_str();
        let arguments = match self {
            Self::Keystore => {
                let mut arguments =
                    keystore_arguments(path, &["-importcert", "-noprompt", "-alias", NAME, "-file"]);
                arguments.push(certificate);
                arguments.into_iter().map(OsStr::to_owned).collect::<Vec<_>>()
            }
            Self::Nss => {
                let mut arguments: Vec<_> =
                    ["-A", "-n", NAME, "-t", "C,,", "-i"].map(|word| OsStr::new(word).to_owned()).into();
                arguments.extend([certificate.to_owned(), "-d".into(), nss_argument(path)]);
                arguments
            }
        };
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        tools.run(Path::new("/"), &program, &arguments)?;
        Ok(())
    }

    fn delete(self, tools: &dyn Tools, path: &Path, name: &str) -> anyhow::Result<()> {
        let program = self.tool(tools)?;
        match self {
            Self::Keystore => {
                tools.run(
                    Path::new("/"),
                    &program,
                    &keystore_arguments(path, &["-delete", "-alias", name]),
                )?;
            }
            Self::Nss => {
                let directory = nss_argument(path);
                let words = ["-D", "-n", name, "-d"].map(OsStr::new);
                let arguments: Vec<&OsStr> = words.into_iter().chain([directory.as_ref()]).collect();
                tools.run(Path::new("/"), &program, &arguments)?;
            }
        }
        Ok(())
    }
}

fn keystore_arguments<'a>(path: &'a Path, words: &[&'a str]) -> Vec<&'a OsStr> {
    let words = words.iter().copied().map(OsStr::new);
    let (action, further) = (words.clone().take(1), words.skip(1));
    let store = [OsStr::new("-keystore"), path.as_os_str()];
    let password = ["-storepass", jks::PASSWORD].map(OsStr::new);
    action.chain(store).chain(password).chain(further).collect()
}

/// certutil takes the directory.
fn nss_argument(path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("sql:");
    argument.push(path.parent().unwrap_or(Path::new(".")));
    argument
}

/// The names and certificates of `keytool -list -rfc`.
fn aliases(text: &str) -> Vec<(String, Certificate)> {
    let mut found = Vec::new();
    for part in text.split("Alias name: ").skip(1) {
        let name = part.lines().next().unwrap_or_default().trim();
        found.extend(pem::certificates(part.as_bytes()).into_iter().map(|one| (name.to_owned(), one)));
    }
    found
}

/// Keystores of JVMs that keep their own: not those which are links to the system's.
pub(super) fn of_jvms(host: &Host) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for home in java_homes(host) {
        for below in ["lib/security/cacerts", "jre/lib/security/cacerts"] {
            let path = home.join(below);
            let is_file = fs::symlink_metadata(host.at(&path)).is_ok_and(|metadata| metadata.is_file());
            let canonical = fs::canonicalize(host.at(&path)).ok();
            let direct = canonical.as_deref() == Some(host.at(&path).as_path());
            if is_file && direct && !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

fn java_homes(host: &Host) -> Vec<PathBuf> {
    let mut homes = Vec::new();
    for parent in ["/usr/lib/jvm", "/usr/java", "/opt/java"] {
        let listing = fs::read_dir(host.at(Path::new(parent))).into_iter().flatten().flatten();
        let mut names: Vec<_> = listing.map(|entry| Path::new(parent).join(entry.file_name())).collect();
        names.sort();
        homes.extend(names);
    }
    if host.is_live() {
        let home = std::env::var_os("JAVA_HOME").map(PathBuf::from);
        homes.extend(home.filter(|home| home.is_absolute()));
    }
    homes
}

fn in_java_homes(below: &str) -> Vec<PathBuf> {
    let host = Host { root: "/".into(), state: PathBuf::new(), run: PathBuf::new() };
    java_homes(&host).into_iter().map(|home| home.join(below)).filter(|path| path.is_file()).collect()
}

/// What stands in the way of an edit, or the new contents.
pub(super) enum Edited {
    /// The authority was in it already.
    AsItIs,
    /// The new contents.
    New(Vec<u8>),
}

/// The contents of the database with the authority in it.
pub(super) fn with_authority(
    database: Database,
    tools: &dyn Tools,
    path: &Path,
    authority: &Authority,
) -> anyhow::Result<Edited> {
    let copy = Copy::of(path)?;
    let held: Vec<_> = database.list(tools, &copy.path)?;
    let certificates: Vec<_> = held.iter().map(|(_, one)| one.clone()).collect();
    if authority.is_in(&certificates) {
        return Ok(Edited::AsItIs);
    }
    for (name, _) in held.iter().filter(|(name, _)| name == NAME) {
        // An authority of before.
        database.delete(tools, &copy.path, name)?;
    }
    let certificate = copy.directory.join("authority.pem");
    fs::write(&certificate, &authority.pem)?;
    database.add(tools, &copy.path, &certificate)?;
    Ok(Edited::New(copy.contents()?))
}

/// Takes the authority out of a database that others have changed since; back to `before` where it then
/// holds what it held. Gives what is to be told.
pub(super) fn take_out(
    host: &Host,
    tools: &dyn Tools,
    journal: &Journal,
    authority: &[Certificate],
    path: &Path,
    before: &Entry,
    database: Database,
) -> anyhow::Result<Option<String>> {
    let place = host.at(path);
    let now = files::look(&place)?;
    let Entry::File { attributes, .. } = &now else { return Ok(None) };
    if now.same(before) {
        return Ok(None);
    }
    let copy = Copy::of(&place)?;
    let held = database.list(tools, &copy.path)?;
    let ours: Vec<_> = held.iter().filter(|(_, one)| authority.contains(one)).collect();
    let rest = Authority::without(authority, held.iter().map(|(_, one)| one.clone()).collect());
    if let (Database::Keystore, Entry::File { sha256, .. }) = (database, before) {
        let had = database.list(tools, &journal.kept(sha256))?;
        if rest == Authority::without(authority, had.into_iter().map(|(_, one)| one).collect()) {
            files::restore(&place, before, |sha| journal.contents(sha))?;
            return Ok(None);
        }
    }
    for (name, _) in &ours {
        database.delete(tools, &copy.path, name)?;
    }
    if !ours.is_empty() {
        files::replace(&place, &copy.contents()?, *attributes)?;
    }
    Ok(Some(format!("{} was changed by others: only the authority was taken out of it", path.display())))
}

/// A copy of a database in a directory of its own, deleted when dropped.
struct Copy {
    directory: PathBuf,
    path: PathBuf,
}

impl Copy {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().context("it has no name")?;
        let base = std::env::temp_dir();
        // The kernel picks no names for directories: one that is there already is somebody else's.
        let directory = (0..100u32).find_map(|number| {
            let directory = base.join(format!("interlock-trust-{}-{number}", std::process::id()));
            use std::os::unix::fs::DirBuilderExt as _;
            fs::DirBuilder::new().mode(0o700).create(&directory).ok().map(|()| directory)
        });
        let Some(directory) = directory else { bail!("cannot make a directory in {}", base.display()) };
        let copy = Self { path: directory.join(name), directory };
        // NSS looks for its keys and modules beside the certificates.
        let beside = if name == NSS_FILE { &[NSS_FILE, "key4.db", "pkcs11.txt"][..] } else { &[] };
        let siblings = beside.iter().map(|name| path.with_file_name(name)).filter(|one| one != path);
        for file in [path.to_owned()].into_iter().chain(siblings) {
            match files::read(&file) {
                Ok(contents) => {
                    let to = copy.directory.join(file.file_name().unwrap_or_default());
                    files::replace(&to, &contents, Attributes::own(0o600))?;
                }
                Err(error) if file == path => {
                    return Err(error).with_context(|| format!("cannot read {}", path.display()));
                }
                Err(_) => {}
            }
        }
        Ok(copy)
    }

    fn contents(&self) -> anyhow::Result<Vec<u8>> {
        Ok(files::read(&self.path)?)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keytools_listing_is_read() {
        let one = rcgen::generate_simple_self_signed(["one".to_owned()]).unwrap();
        let text = format!(
            "Keystore type: JKS\n\nAlias name: debian:one.pem\nCreation date: Jan 1, 2026\nEntry type: \
             trustedCertEntry\n\n{}\n\n*****\n\nAlias name: two\nnothing here\n",
            one.cert.pem()
        );
        let found = aliases(&text);
        assert_eq!(found, [("debian:one.pem".to_owned(), Certificate(one.cert.der().to_vec()))]);
    }
}
