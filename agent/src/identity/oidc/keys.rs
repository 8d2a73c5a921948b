//! An issuer's public keys: fetched, kept for a while, fetched anew when a token names another one.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use openidconnect::core::{CoreJsonWebKey, CoreJwsSigningAlgorithm as Alg};
use openidconnect::url::Url;
use openidconnect::{JsonWebKey as _, SignatureVerificationError};
use serde_json::{Map, Value};

use super::http::{self, Http, HttpError};
use super::metadata::Discovery;
use super::{DiscoveryError, json};

/// For so long keys are used before they are fetched again: one that the issuer has withdrawn counts no
/// longer then.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// A file is read again after so long.
const FRESH_FILE: Duration = Duration::from_secs(5);

/// An unknown key has keys fetched at once, but not more often than this: anyone can make up key ids.
const ANEW: Duration = Duration::from_secs(10);

/// An issuer that did not answer is left alone for so long.
const FAILED: Duration = Duration::from_secs(5);

/// Most keys of an issuer.
const MAX_KEYS: usize = 100;

/// The longest file of keys, in bytes.
const MAX_FILE: u64 = 512 << 10;

/// Bytes of an RSA key: of 2048 to 8192 bits. Shorter ones can be broken; longer ones take too long.
const RSA: std::ops::RangeInclusive<usize> = 256..=1024;

/// Why an issuer's keys cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeysError {
    /// Its metadata cannot be had.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// They cannot be fetched or read, or are none.
    #[error("{0}")]
    Unavailable(Arc<str>),
}

/// Where they are.
#[derive(Debug)]
enum Place {
    Discovered,
    At(Url),
    File(PathBuf),
}

/// What keys are fetched with.
#[derive(Clone, Copy)]
pub(super) struct Means<'i> {
    pub(super) http: &'i Http,
    pub(super) discovery: Option<&'i Discovery>,
    /// For how long keys count when they cannot be fetched again.
    pub(super) kept: Duration,
    /// What keys must be for (`use`), where it is not signatures as such: of SPIFFE `jwt-svid`.
    pub(super) purpose: Option<&'static str>,
}

/// The keys of an issuer at one time.
#[derive(Debug)]
pub(super) struct KeySet(Vec<CoreJsonWebKey>);

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct Keys {
    place: Place,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    set: Option<(Arc<KeySet>, Instant)>,
    /// When fetching them failed last, and why.
    failed: Option<(KeysError, Instant)>,
    /// When they were fetched last because of an unknown key.
    anew: Option<Instant>,
}

// === impl Keys ===

impl Keys {
    pub(super) fn discovered() -> Self {
        Self { place: Place::Discovered, state: Mutex::default() }
    }

    pub(super) fn at(uri: &str) -> Result<Self, HttpError> {
        Ok(Self { place: Place::At(http::address(uri)?), state: Mutex::default() })
    }

    pub(super) fn in_file(path: &Path) -> Self {
        Self { place: Place::File(path.to_owned()), state: Mutex::default() }
    }

    fn fresh(&self) -> Duration {
        if matches!(self.place, Place::File(_)) { FRESH_FILE } else { FRESH }
    }

    /// The keys now. Whoever else needs them waits, so that they are fetched once.
    pub(super) fn current(&self, means: Means<'_>) -> Result<Arc<KeySet>, KeysError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.set {
            Some((set, at)) if at.elapsed() < self.fresh() => Ok(Arc::clone(set)),
            _ => self.fetch(&mut state, means),
        }
    }

    /// Newer keys than `than`; `None` where there may be none: it was asked for them just now.
    pub(super) fn newer(
        &self,
        than: &Arc<KeySet>,
        means: Means<'_>,
    ) -> Result<Option<Arc<KeySet>>, KeysError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((set, _)) = &state.set
            && !Arc::ptr_eq(set, than)
        {
            // Someone else has fetched them meanwhile.
            return Ok(Some(Arc::clone(set)));
        }
        if state.anew.is_some_and(|at| at.elapsed() < ANEW) {
            return Ok(None);
        }
        state.anew = Some(Instant::now());
        let set = self.fetch(&mut state, means)?;
        Ok((!Arc::ptr_eq(&set, than)).then_some(set))
    }

    /// Has time pass for what was fetched.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = |at: Instant| at.checked_sub(by).unwrap();
        state.set = state.set.take().map(|(set, at)| (set, earlier(at)));
        state.failed = state.failed.take().map(|(error, at)| (error, earlier(at)));
        state.anew = state.anew.map(earlier);
    }

    /// Fetches them; where that fails those of before count as long as they may.
    fn fetch(&self, state: &mut State, means: Means<'_>) -> Result<Arc<KeySet>, KeysError> {
        let fetched = match &state.failed {
            Some((error, at)) if at.elapsed() < FAILED => Err(error.clone()),
            _ => self.ask(means).inspect_err(|error| {
                tracing::warn!(%error, "an issuer's keys cannot be fetched");
                state.failed = Some((error.clone(), Instant::now()));
            }),
        };
        match (fetched, &state.set) {
            (Ok(set), _) => {
                let set = Arc::new(set);
                state.set = Some((Arc::clone(&set), Instant::now()));
                state.failed = None;
                Ok(set)
            }
            (Err(_), Some((set, at))) if at.elapsed() < self.fresh() + means.kept => Ok(Arc::clone(set)),
            (Err(error), _) => {
                state.set = None;
                Err(error)
            }
        }
    }

    fn ask(&self, means: Means<'_>) -> Result<KeySet, KeysError> {
        let unavailable = |error: &dyn std::fmt::Display| KeysError::Unavailable(error.to_string().into());
        let (bytes, place) = match &self.place {
            Place::File(path) => {
                let place = path.display().to_string();
                (
                    read(path).map_err(|error| unavailable(&format_args!("the keys in {place}: {error}")))?,
                    place,
                )
            }
            Place::At(url) => (means.http.get(url).map_err(|error| unavailable(&error))?, url.to_string()),
            Place::Discovered => {
                let discovery = means.discovery.ok_or(DiscoveryError::None)?;
                let url = discovery.endpoints(means.http)?.jwks_uri.clone();
                (means.http.get(&url).map_err(|error| unavailable(&error))?, url.to_string())
            }
        };
        KeySet::parse(&bytes, means.purpose)
            .map_err(|problem| unavailable(&format_args!("the keys at {place}: {problem}")))
    }
}

/// Reads a file that nobody but root and the agent could have written: whoever writes it says who people are.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    let found = file.metadata()?;
    let own = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_file() || !own || found.mode() & 0o022 != 0 {
        return Err(std::io::Error::other("others could have written it; make it root's, mode 0644"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

// === impl KeySet ===

impl KeySet {
    /// Takes a JWK set (RFC 7517, section 5). Keys that are no use for tokens are left out.
    pub(super) fn parse(bytes: &[u8], purpose: Option<&str>) -> Result<Self, String> {
        let mut set = json::object(bytes).map_err(|error| error.to_string())?;
        let Some(Value::Array(keys)) = set.remove("keys") else {
            return Err("they are no JWK set".to_owned());
        };
        if keys.len() > MAX_KEYS {
            return Err(format!("they are more than {MAX_KEYS}"));
        }
        let keys: Vec<_> = keys.into_iter().filter_map(|key| key_of(key, purpose)).collect();
        if keys.is_empty() {
            return Err("none of them can verify a token".to_owned());
        }
        Ok(Self(keys))
    }

    /// A key of that name may sign by this algorithm.
    pub(super) fn knows(&self, id: Option<&str>) -> bool {
        id.is_none() || self.0.iter().any(|key| key.key_id().map(|id| id.as_str()) == id)
    }

    /// Whether a key of this set has signed `signed` by `algorithm`. Without an `id` there must be one key
    /// alone that could have.
    pub(super) fn verify(&self, id: Option<&str>, algorithm: &Alg, signed: &[u8], signature: &[u8]) -> bool {
        let fits = |key: &&CoreJsonWebKey| id.is_none() || key.key_id().map(|id| id.as_str()) == id;
        // What a key is not for is an error of its own, before anything is computed.
        let of = |key: &CoreJsonWebKey| match key.verify_signature(algorithm, signed, signature) {
            Err(
                SignatureVerificationError::InvalidKey(_) | SignatureVerificationError::UnsupportedAlg(_),
            ) => None,
            result => Some(result.is_ok()),
        };
        let mut results = self.0.iter().filter(fits).filter_map(of);
        match (results.next(), id) {
            (None, _) => false,
            (Some(first), None) => first && results.next().is_none(),
            (Some(first), Some(_)) => first || results.any(|signed| signed),
        }
    }
}

/// A public key that may verify tokens.
fn key_of(key: Value, purpose: Option<&str>) -> Option<CoreJsonWebKey> {
    let Value::Object(mut key) = key else { return None };
    // Private and symmetric keys are known to others.
    if key.contains_key("d") || key.contains_key("k") || !is_strong(&key) {
        return None;
    }
    if let Some(Value::Array(operations)) = key.get("key_ops")
        && !operations.iter().any(|operation| operation == "verify")
    {
        return None;
    }
    match purpose {
        // The library knows it as a key for signatures.
        Some(purpose) if key.get("use")? == purpose => drop(key.insert("use".into(), "sig".into())),
        Some(_) => return None,
        None => {}
    }
    serde_json::from_value(Value::Object(key)).ok()
}

fn is_strong(key: &Map<String, Value>) -> bool {
    let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or_default();
    let bytes = |name: &str| BASE64.decode(text(name)).unwrap_or_default();
    match text("kty") {
        "RSA" => {
            let (modulus, exponent) = (bytes("n"), bytes("e"));
            let modulus = modulus.iter().skip_while(|byte| **byte == 0).count();
            // An exponent of 1 would make any signature its own proof.
            RSA.contains(&modulus) && (1..=4).contains(&exponent.len()) && exponent != [1]
        }
        "EC" => matches!(text("crv"), "P-256" | "P-384"),
        "OKP" => text("crv") == "Ed25519",
        _ => false,
    }
}
