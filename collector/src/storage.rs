//! Where a collector keeps things when its own disk is not enough: PostgreSQL, and storage that speaks S3.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::store::{Server, check_url, is_loopback};

/// The database, when it is not a file of the collector's own.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `postgres://USER@HOST:PORT/DATABASE`, without a password. To other hosts only with TLS, and only when their
    /// certificate is verified: `?sslrootcert=FILE` names its authority when this host does not know it.
    pub database: String,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// Connections for reading, and as many for writing.
    #[serde(default = "connections")]
    #[schemars(range(min = 2, max = 200))]
    pub connections: u32,
}

fn connections() -> u32 {
    8
}

/// Where segments are, when not in the state directory.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Segments {
    /// Storage that speaks S3.
    pub s3: S3,
    /// Bytes of segments that are kept on this host, so that what is looked at is not fetched each time.
    #[serde(default = "cache")]
    pub cache: u64,
}

fn cache() -> u64 {
    1 << 30
}

/// Storage that speaks S3. Without a key the environment's credentials count: `AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY`, a web identity, or the instance's role.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// The bucket.
    pub bucket: String,
    /// The server's address, when it is not Amazon's. Beyond this host with `https://`.
    pub endpoint: Option<String>,
    /// The region.
    #[serde(default = "region")]
    pub region: String,
    /// What stands before every name in the bucket.
    #[serde(default)]
    pub prefix: String,
    /// The id of the access key.
    pub access_key: Option<String>,
    /// A file with the secret access key.
    pub secret_key_file: Option<PathBuf>,
    /// A PEM file with the authority of the server's certificate, when this host does not know it.
    pub authority: Option<PathBuf>,
}

fn region() -> String {
    "us-east-1".to_owned()
}

/// Reads a secret: a file's first line.
///
/// # Errors
/// The file cannot be read, or there is nothing in it.
pub(crate) fn secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    anyhow::ensure!(!line.is_empty(), "{} is empty", path.display());
    Ok(Zeroizing::new(line.to_owned()))
}

fn readable(path: &Path) -> anyhow::Result<()> {
    let file = std::fs::read(path);
    file.map(drop).map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))
}

impl Database {
    /// Checks what the types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_url(&self.database).map_err(|message| format!("store.database: {message}"))?;
        if !(2..=200).contains(&self.connections) {
            return Err("store.connections: 2 to 200".into());
        }
        Ok(())
    }

    /// What is wrong with the files that it names.
    pub(crate) fn check_files(&self) -> Vec<anyhow::Error> {
        let password = self.password_file.as_deref().and_then(|path| secret(path).err());
        let query = self.database.split_once('?').map_or("", |(_, query)| query);
        let root = query.split('&').find_map(|pair| pair.strip_prefix("sslrootcert="));
        let root = root.and_then(|path| readable(Path::new(path)).err());
        password.into_iter().chain(root).map(|error| error.context("store")).collect()
    }

    /// What to connect to.
    ///
    /// # Errors
    /// The password cannot be read.
    pub(crate) fn server(&self) -> anyhow::Result<Server> {
        let password = self.password_file.as_deref().map(secret).transpose()?;
        Ok(Server { url: self.database.clone(), password, connections: self.connections })
    }
}

impl Segments {
    /// What is wrong with the files that it names.
    pub(crate) fn check_files(&self) -> Vec<anyhow::Error> {
        let key = self.s3.secret_key_file.as_deref().and_then(|path| secret(path).err());
        let authority = self.s3.authority.as_deref().and_then(|path| readable(path).err());
        key.into_iter().chain(authority).map(|error| error.context("segments.s3")).collect()
    }

    /// Checks what the types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        let s3 = &self.s3;
        if s3.bucket.is_empty() {
            return Err("segments.s3.bucket: it is empty".into());
        }
        if s3.access_key.is_some() != s3.secret_key_file.is_some() {
            return Err("segments.s3: access_key and secret_key_file go together".into());
        }
        if let Some(endpoint) = &s3.endpoint
            && !endpoint.starts_with("https://")
        {
            let rest = endpoint.strip_prefix("http://").unwrap_or_default();
            let authority = rest.split('/').next().unwrap_or_default();
            let host = authority.strip_prefix('[').map_or_else(
                || authority.rsplit_once(':').map_or(authority, |(host, _)| host),
                |v6| v6.split(']').next().unwrap_or_default(),
            );
            if !is_loopback(host) {
                return Err(format!(
                    "segments.s3.endpoint: {endpoint} is another host's, and recordings do not cross the network in \
                     the clear: it begins with https://"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(endpoint: &str) -> Segments {
        let text = format!("s3: {{ bucket: b, endpoint: '{endpoint}' }}");
        serde_saphyr::from_str(&text).expect("a configuration")
    }

    #[test]
    fn recordings_do_not_cross_the_network_in_the_clear() {
        assert_eq!(segments("http://127.0.0.1:9000").check(), Ok(()));
        assert_eq!(segments("http://[::1]:9000/").check(), Ok(()));
        assert_eq!(segments("https://s3.example.com").check(), Ok(()));
        for open in
            ["http://s3.example.com", "http://127.0.0.1.example.com:80", "ftp://localhost", "localhost"]
        {
            assert!(segments(open).check().is_err(), "{open}");
        }
    }

    #[test]
    fn a_secret_is_the_first_line_of_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("secret");
        std::fs::write(&file, "hunter2\n").expect("written");
        assert_eq!(secret(&file).expect("a secret").as_str(), "hunter2");
        std::fs::write(&file, "\n").expect("written");
        assert!(secret(&file).is_err());
    }
}
