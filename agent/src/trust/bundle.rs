//! Files of roots that clients are pointed to: made of what the system or a client trusts already and
//! the authority, and made again when that changes.
//!
//! They are in `trust` below the run directory, readable by all. The agent makes them when it starts.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::files::{self, Attributes};
use super::pem::{self, Certificate};
use super::{Authority, Host, jks, kubeconfig};

/// The bundle of the system's roots and the authority.
pub(super) const SYSTEM: &str = "bundle.pem";
/// The same as a Java keystore.
pub(super) const JAVA: &str = "bundle.jks";

/// Where systems keep all their roots in one file.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// One file below the run directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Bundle {
    /// Its name there.
    pub(super) name: String,
    pub(super) source: Source,
}

/// What a bundle is made of, beside the authority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// The system's roots.
    System,
    /// The system's roots, as a Java keystore.
    Java,
    /// The certificates of a file.
    Roots(PathBuf),
    /// A kubeconfig, whose clusters then trust the authority too.
    Kubeconfig(PathBuf),
}

impl Bundle {
    /// The bundle of the system's roots.
    pub(super) fn system() -> Self {
        Self { name: SYSTEM.to_owned(), source: Source::System }
    }

    /// The bundle of the system's roots for Java.
    pub(super) fn java() -> Self {
        Self { name: JAVA.to_owned(), source: Source::Java }
    }

    /// The one that takes the place of a client's own file of roots.
    pub(super) fn roots(host: &Host, path: &Path) -> Self {
        let is_system = SYSTEM_BUNDLES.iter().any(|system| same_file(host, path, Path::new(system)));
        if is_system {
            return Self::system();
        }
        Self::overlay(path)
    }

    /// The one that is mounted over a client's own file of roots.
    pub(super) fn overlay(path: &Path) -> Self {
        Self { name: format!("roots-{}.pem", short(path)), source: Source::Roots(path.to_owned()) }
    }

    /// The one that takes the place of a kubeconfig.
    pub(super) fn kubeconfig(path: &Path) -> Self {
        let name = format!("kubeconfig-{}", short(path));
        Self { name, source: Source::Kubeconfig(path.to_owned()) }
    }

    /// Where it is on the installed system.
    pub(super) fn path(&self, host: &Host) -> PathBuf {
        directory(host).join(&self.name)
    }
}

/// The directory of all bundles, on the installed system.
pub(super) fn directory(host: &Host) -> PathBuf {
    host.run.join("trust")
}

fn short(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    files::digest(path.as_os_str().as_bytes()).chars().take(16).collect()
}

fn same_file(host: &Host, one: &Path, other: &Path) -> bool {
    let id = |path: &Path| {
        let metadata = fs::metadata(host.at(path)).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    one == other || id(one).is_some_and(|one| id(other) == Some(one))
}

/// The file that holds all of the system's roots, if there is one.
pub(super) fn system_bundle(host: &Host) -> Option<PathBuf> {
    SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| host.at(path).is_file())
}

fn system_roots(host: &Host) -> anyhow::Result<Vec<Certificate>> {
    let path = system_bundle(host).context(
        "this system has no file of trusted roots (such as /etc/ssl/certs/ca-certificates.crt); install the \
         package ca-certificates",
    )?;
    let roots = pem::read(&host.at(&path)).with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(!roots.is_empty(), "{} holds no certificates", path.display());
    Ok(roots)
}

/// Makes the authority's public copy and all given bundles anew where what they are made of has changed.
///
/// # Errors
/// One cannot be made; the others are all the same. What was there before stays then.
pub(super) fn refresh(host: &Host, authority: &Authority, bundles: &[Bundle]) -> anyhow::Result<()> {
    let directory = host.at(&directory(host));
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let public = host.at(&host.public_authority());
    write(&public, authority.pem.as_bytes(), Attributes::public(), Way::Rename)
        .with_context(|| format!("cannot write {}", public.display()))?;
    let mut failed = None;
    for bundle in bundles {
        if let Err(error) = make(host, authority, bundle, &directory.join(&bundle.name)) {
            tracing::warn!(bundle = bundle.name, "cannot make a bundle of roots: {error:#}");
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn make(host: &Host, authority: &Authority, bundle: &Bundle, to: &Path) -> anyhow::Result<()> {
    let with_authority = |roots: &[Certificate], of: &str| {
        let comment = format!("{of}, and the Interlock host authority. Made by interlock; changes are lost.");
        pem::bundle(&comment, roots.iter().chain(&authority.certificates))
    };
    let (contents, attributes, way) = match &bundle.source {
        Source::System => {
            let text = with_authority(&system_roots(host)?, "The system's trusted roots");
            (text.into_bytes(), Attributes::public(), Way::Rename)
        }
        Source::Java => {
            let roots = system_roots(host)?;
            (jks::keystore(roots.iter().chain(&authority.certificates)), Attributes::public(), Way::Rename)
        }
        Source::Roots(path) => {
            let roots =
                pem::read(&host.at(path)).with_context(|| format!("cannot read {}", path.display()))?;
            let text = with_authority(&roots, &format!("The certificates of {}", path.display()));
            (text.into_bytes(), Attributes::public(), Way::InPlace)
        }
        Source::Kubeconfig(path) => {
            let from = host.at(path);
            let text = files::read(&from).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8(text).with_context(|| format!("{} is no text", path.display()))?;
            let base = path.parent().unwrap_or(Path::new("/"));
            let read = |file: &Path| files::read(&host.at(&base.join(file)));
            let text = kubeconfig::with_authority(&text, &authority.certificates, &read)
                .with_context(|| format!("{} cannot be overlaid", path.display()))?;
            // It holds credentials: nobody may read the copy who may not read the file.
            let metadata = fs::metadata(&from)?;
            let attributes =
                Attributes { mode: metadata.mode() & 0o777, uid: metadata.uid(), gid: metadata.gid() };
            (text.into_bytes(), attributes, Way::InPlace)
        }
    };
    write(to, &contents, attributes, way).with_context(|| format!("cannot write {}", to.display()))
}

/// How a file gets new contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At once, by another file in its place.
    Rename,
    /// In the same file: it is mounted over another, and a mount would go on showing the old one.
    InPlace,
}

fn write(path: &Path, contents: &[u8], attributes: Attributes, way: Way) -> io::Result<()> {
    if let Ok(metadata) = fs::symlink_metadata(path)
        && metadata.is_file()
    {
        let same_mode = metadata.mode() & 0o7777 == attributes.mode;
        if same_mode && files::read(path).is_ok_and(|there| there == contents) {
            return Ok(());
        }
        if way == Way::InPlace {
            let mut file = OpenOptions::new().write(true).open(path)?;
            if !same_mode {
                file.set_permissions(fs::Permissions::from_mode(attributes.mode))?;
            }
            file.write_all(contents)?;
            file.set_len(contents.len() as u64)?;
            return file.sync_all();
        }
    }
    files::replace(path, contents, attributes)
}

/// Deletes bundles that nothing uses any more.
pub(super) fn forget(host: &Host, bundles: &[Bundle]) -> io::Result<()> {
    for bundle in bundles.iter().filter(|bundle| bundle.source != Source::System) {
        let path = host.at(&bundle.path(host));
        files::remove_file(&path)?;
        files::remove_file(&files::temporary(&path))?;
    }
    Ok(())
}
