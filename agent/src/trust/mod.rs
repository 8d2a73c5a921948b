//! Has clients trust the host's authority, without editing anyone's scripts.
//!
//! `interlock trust install` puts the certificate into the stores that the distribution, Java and NSS
//! keep, and gives units and `interlock run` an environment that points clients which bring roots of
//! their own to a bundle of the system's roots and the authority. All that it changes is in a
//! manifest first; `remove` puts back what was there. `status` has each client connect to a server with a
//! certificate of the authority and sees whether it accepts.

mod bundle;
pub mod cli;
mod environment;
mod files;
mod install;
mod jks;
mod keystore;
mod kubeconfig;
mod manifest;
mod pem;
mod probe;
mod process;
mod remove;
mod store;
#[cfg(test)]
mod tests;
mod unit;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::config::Config;
use bundle::Bundle;
use manifest::Manifest;
use pem::Certificate;

pub use environment::{Change as Variable, for_run};

/// The name under which stores know the authority.
const NAME: &str = "interlock-authority";

/// The system that is worked on: this one, or one below another directory.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
    /// The state directory as that system names it.
    state: PathBuf,
    /// The run directory as that system names it.
    run: PathBuf,
}

impl Host {
    /// This host, or the system below `root`.
    pub(crate) fn new(config: &Config, root: Option<&Path>) -> Self {
        let root = root.unwrap_or(Path::new("/")).to_owned();
        Self { root, state: config.state.clone(), run: config.run.clone() }
    }

    /// Where a path of that system is found from here.
    fn at(&self, path: &Path) -> PathBuf {
        if self.is_live() {
            return path.to_owned();
        }
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// It is the running system.
    fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The directory of the manifest, from here.
    fn manifest(&self) -> PathBuf {
        self.at(&self.state.join("trust"))
    }

    /// The copy of the authority's certificate that all may read.
    fn public_authority(&self) -> PathBuf {
        self.run.join("authority.pem")
    }
}

/// The authority's certificate.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    pem: String,
    /// Never empty; one, unless a chain was configured.
    certificates: Vec<Certificate>,
}

impl Authority {
    fn parse(text: &[u8], path: &Path) -> anyhow::Result<Self> {
        let certificates = pem::certificates(text);
        anyhow::ensure!(!certificates.is_empty(), "{} holds no certificate", path.display());
        // Made anew from the certificates alone: whatever else is in the file goes nowhere.
        let pem = pem::bundle("The Interlock host authority", &certificates);
        Ok(Self { pem, certificates })
    }

    /// Reads it from a file.
    ///
    /// # Errors
    /// The file can't be read or holds no certificate.
    fn read(path: &Path) -> anyhow::Result<Self> {
        match files::read(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => anyhow::bail!(
                "there is no authority yet ({} is missing): start the agent once, it makes one",
                path.display()
            ),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn load(host: &Host) -> anyhow::Result<Self> {
        Self::read(&host.at(&crate::tls::Authority::certificate_path(&host.state)))
    }

    fn fingerprint(&self) -> String {
        self.certificates.first().map(Certificate::fingerprint).unwrap_or_default()
    }

    /// These certificates hold the whole authority.
    fn is_in(&self, certificates: &[Certificate]) -> bool {
        self.certificates.iter().all(|own| certificates.contains(own))
    }

    /// Certificates without the authority's, in an order that does not depend on where they were read.
    fn without(authority: &[Certificate], mut certificates: Vec<Certificate>) -> Vec<Certificate> {
        certificates.retain(|certificate| !authority.contains(certificate));
        certificates.sort_unstable();
        certificates.dedup();
        certificates
    }
}

/// Makes what clients are pointed to in the run directory anew, where what it is made of has changed: the
/// agent calls it when it starts and now and then. Without an authority nothing is done.
///
/// # Errors
/// A file can't be read or written. What was made earlier stays then.
pub fn refresh(config: &Config) -> anyhow::Result<()> {
    let host = Host::new(config, None);
    if !crate::tls::Authority::certificate_path(&host.state).exists() {
        return Ok(());
    }
    let authority = Authority::load(&host)?;
    let manifest = Manifest::read(&host.manifest())?.unwrap_or_default();
    let mut bundles = vec![Bundle::system()];
    bundles.extend(manifest.bundles.into_iter().filter(|bundle| *bundle != Bundle::system()));
    bundle::refresh(&host, &authority, &bundles)
}
