//! Segments in storage that speaks S3.
//!
//! Every object's name holds the SHA-256 of its content, and none is ever overwritten: whoever puts one that is
//! there already must have the same content. So several collectors, one of which may have been stopped for an
//! hour in the middle, cannot take anything from one another.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use interlock_recording::hex;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, Error, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutOptions, PutPayload, RetryConfig,
};
use sha2::{Digest as _, Sha256};
use tokio_stream::StreamExt as _;

use crate::archive::ArchiveError;
use crate::storage::{S3, secret};

/// Bytes that are put at one time; what is larger goes in parts of this size.
const PART: usize = 8 << 20;
/// A checkpoint is at most this large.
const CHECKPOINT: u64 = 64 << 10;

/// The objects under one prefix of a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    store: Arc<AmazonS3>,
    place: String,
    prefix: String,
}

/// An object that stands among the segments.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Its whole name.
    pub(crate) path: Path,
    /// The segment's number, when the name is a segment's.
    pub(crate) segment: Option<u64>,
    /// The SHA-256 that it is named by.
    pub(crate) sha256: String,
}

fn failed<'e>(action: &'static str, path: &'e Path) -> impl FnOnce(Error) -> ArchiveError + 'e {
    move |error| ArchiveError::Object { action, name: path.to_string(), error: told(error) }
}

/// An error with what lies behind it, which object_store keeps apart.
fn told(error: Error) -> String {
    match error {
        Error::Generic { source, .. } => source.to_string(),
        error => error.to_string(),
    }
}

impl Objects {
    /// The storage that the configuration names.
    ///
    /// # Errors
    /// A file cannot be read, or what the configuration says cannot be worked with.
    pub(crate) fn new(s3: &S3) -> anyhow::Result<Self> {
        // For the client's TLS. Another part of the program may have done it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = match (&s3.access_key, &s3.secret_key_file) {
            (Some(key), Some(file)) => {
                let secret = secret(file)?;
                AmazonS3Builder::new().with_access_key_id(key).with_secret_access_key(secret.as_str())
            }
            _ => AmazonS3Builder::from_env(),
        };
        let mut client = ClientOptions::new()
            .with_allow_http(s3.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")))
            .with_connect_timeout(Duration::from_secs(5))
            .with_timeout(Duration::from_secs(60));
        if let Some(file) = &s3.authority {
            let pem = std::fs::read(file)
                .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", file.display()))?;
            for certificate in Certificate::from_pem_bundle(&pem)? {
                client = client.with_root_certificate(certificate);
            }
        }
        if let Some(endpoint) = &s3.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        let store = builder
            .with_bucket_name(&s3.bucket)
            .with_region(&s3.region)
            .with_client_options(client)
            // The server compares what it got with this before it says that it has it.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: 3,
                retry_timeout: Duration::from_secs(30),
            })
            .build()?;
        let prefix = s3.prefix.trim_matches('/').to_owned();
        let place = format!("s3://{}/{prefix}", s3.bucket);
        Ok(Self { store: Arc::new(store), place, prefix })
    }

    /// What people call it.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, rest: &str) -> Path {
        Path::from(format!("{}/{rest}", self.prefix))
    }

    /// A segment's name.
    pub(crate) fn segment(&self, host: &str, number: u64, sha256: &[u8]) -> Path {
        self.path(&format!("segments/{host}/{number:012}-{}.seg", hex(sha256)))
    }

    /// The name of a file that is not what it should be.
    pub(crate) fn disputed(&self, host: &str, number: u64, sha256: &[u8]) -> Path {
        self.path(&format!("disputed/{host}/{number:012}-{}.seg", hex(sha256)))
    }

    /// Puts a file, of which the size and the hash are known. It is there, durably, when this returns.
    ///
    /// # Errors
    /// It could not be put, or something else is there under its name.
    pub(crate) async fn put(
        &self,
        path: &Path,
        file: File,
        bytes: u64,
        sha256: [u8; 32],
    ) -> Result<(), ArchiveError> {
        let there = if bytes <= PART as u64 {
            let (content, _) = part(file).await?;
            self.create(path, content).await?
        } else {
            match self.store.head(path).await {
                Ok(_) => true,
                Err(Error::NotFound { .. }) => {
                    self.in_parts(path, file).await?;
                    false
                }
                Err(error) => return Err(failed("look for", path)(error)),
            }
        };
        if there {
            // Put before, by us or another collector: then it is the same.
            let mut nothing = std::io::sink();
            return self.read(path, bytes, sha256, &mut nothing).await;
        }
        let found = self.store.head(path).await.map_err(failed("look for", path))?;
        if found.size != bytes {
            return Err(ArchiveError::Object {
                action: "keep",
                name: path.to_string(),
                error: format!("the server has {} bytes of it, and not {bytes}", found.size),
            });
        }
        Ok(())
    }

    /// Puts what is not there; gives whether something is there under its name already.
    async fn create(&self, path: &Path, content: Vec<u8>) -> Result<bool, ArchiveError> {
        let payload = PutPayload::from(content);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, payload.clone(), options).await {
            Ok(_) => Ok(false),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(true),
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                // A server without conditions. The name holds the content's hash: nobody has another one for it.
                match self.store.head(path).await {
                    Ok(_) => Ok(true),
                    Err(Error::NotFound { .. }) => {
                        self.store.put(path, payload).await.map_err(failed("put", path))?;
                        Ok(false)
                    }
                    Err(error) => Err(failed("look for", path)(error)),
                }
            }
            Err(error) => Err(failed("put", path)(error)),
        }
    }

    async fn in_parts(&self, path: &Path, mut file: File) -> Result<(), ArchiveError> {
        let mut upload = self.store.put_multipart(path).await.map_err(failed("put", path))?;
        let put = async {
            loop {
                let (content, back) = part(file).await?;
                file = back;
                if content.is_empty() {
                    break;
                }
                upload.put_part(content.into()).await.map_err(failed("put", path))?;
            }
            upload.complete().await.map_err(failed("put", path))
        };
        let done = put.await;
        if done.is_err() {
            // What cannot be taken back is the bucket's rule for unfinished uploads to remove.
            let _ = upload.abort().await;
        }
        done.map(|_| ())
    }

    /// Reads an object into `to`, and checks its size and hash.
    ///
    /// # Errors
    /// It cannot be read or written, or it is another one.
    pub(crate) async fn read(
        &self,
        path: &Path,
        bytes: u64,
        sha256: [u8; 32],
        to: &mut (impl std::io::Write + Send),
    ) -> Result<(), ArchiveError> {
        let altered = || ArchiveError::Altered { name: path.to_string() };
        let found = match self.store.get(path).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Err(ArchiveError::Missing { name: path.to_string() }),
            Err(error) => return Err(failed("get", path)(error)),
        };
        if found.meta.size != bytes {
            return Err(altered());
        }
        let (mut hash, mut had, mut parts) = (Sha256::new(), 0, found.into_stream());
        while let Some(part) = parts.next().await {
            let part = part.map_err(failed("get", path))?;
            had += part.len() as u64;
            if had > bytes {
                return Err(altered());
            }
            hash.update(&part);
            to.write_all(&part).map_err(|error| ArchiveError::Object {
                action: "write",
                name: path.to_string(),
                error: error.to_string(),
            })?;
        }
        let same = had == bytes && <[u8; 32]>::from(hash.finalize()) == sha256;
        if same { Ok(()) } else { Err(altered()) }
    }

    /// Whether an object of this size is there.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub(crate) async fn has(&self, path: &Path, bytes: u64) -> Result<bool, ArchiveError> {
        match self.store.head(path).await {
            Ok(found) => Ok(found.size == bytes),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("look for", path)(error)),
        }
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub(crate) async fn remove(&self, path: &Path) -> Result<(), ArchiveError> {
        match self.store.delete(path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove", path)(error)),
        }
    }

    /// What stands among the segments of a host.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub(crate) async fn list(&self, host: &str) -> Result<Vec<Listed>, ArchiveError> {
        let directory = self.path(&format!("segments/{host}"));
        let mut listed = Vec::new();
        let mut objects = self.store.list(Some(&directory));
        while let Some(object) = objects.next().await {
            let path = object.map_err(failed("list", &directory))?.location;
            let name = path.filename().unwrap_or_default();
            let (number, sha256) =
                name.strip_suffix(".seg").and_then(|name| name.split_once('-')).unwrap_or_default();
            let (segment, sha256) = (number.parse().ok(), sha256.to_owned());
            listed.push(Listed { path, segment, sha256 });
        }
        Ok(listed)
    }

    /// Keeps a checkpoint over `size` entries, unless one over as many is kept.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub(crate) async fn keep_checkpoint(&self, size: u64, note: &str) -> Result<(), ArchiveError> {
        // The newest comes first in a list.
        let path = self.path(&format!("checkpoints/{:020}-{size}", u64::MAX - size));
        self.create(&path, note.as_bytes().to_vec()).await.map(|_| ())
    }

    /// The checkpoint over the most entries.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub(crate) async fn newest_checkpoint(&self) -> Result<Option<String>, ArchiveError> {
        let directory = self.path("checkpoints");
        let newest = self.store.list(Some(&directory)).next().await;
        let Some(newest) = newest.transpose().map_err(failed("list", &directory))? else { return Ok(None) };
        let path = newest.location;
        if newest.size > CHECKPOINT {
            return Err(ArchiveError::Altered { name: path.to_string() });
        }
        let found = self.store.get(&path).await.map_err(failed("get", &path))?;
        let content = found.bytes().await.map_err(failed("get", &path))?;
        Ok(Some(String::from_utf8_lossy(&content).into_owned()))
    }
}

/// The next part of a file.
async fn part(mut file: File) -> Result<(Vec<u8>, File), ArchiveError> {
    let read = tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        (&mut file).take(PART as u64).read_to_end(&mut content).map(|_| (content, file))
    });
    let read = read.await.map_err(|error| ArchiveError::Internal(error.to_string()))?;
    read.map_err(|error| ArchiveError::Internal(format!("what came in cannot be read: {error}")))
}
