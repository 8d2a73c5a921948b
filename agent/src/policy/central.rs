//! Policies that a collector keeps: which of its orders this host takes, and what is kept of them.
//!
//! Everything lies in one file in the state directory, so that a loss of power leaves the old order or the
//! new one and never half of one. `docs/central-policies.md` tells the whole procedure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use interlock_recording::chain::Hash;
use interlock_recording::hex;
use interlock_recording::note::VerifierKey;
use interlock_recording::order::{self, MAX_SET, Order};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::origin::{CentralPolicies, PolicyFile, origins};

/// What is kept of the collector's orders.
const FILE: &str = "central-policies.json";
/// Two sets, written as JSON, and what is around them: text of nothing but line breaks takes twice its
/// size.
const LARGEST: u64 = 5 * MAX_SET as u64;
/// How often an order is tried again that could not be taken for a cause that may pass.
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// What a collector's policies may do on this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accepts {
    /// Nothing: its orders are not taken, and what was kept of them does not count.
    #[default]
    Off,
    /// They are worked out and recorded, whatever the order says; nothing of them is enforced.
    Observe,
    /// What it orders. This host's own files are a floor: what they refuse stays refused.
    Enforce,
}

impl Accepts {
    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

/// What was kept of an order cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} {why}. Restore it, or move it away: this host's own files rule then until the collector orders \
     again"
)]
pub struct CentralError {
    path: String,
    why: String,
}

/// How this host stands with a collector's orders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CentralStatus {
    /// What the configuration accepts: off, observe or enforce.
    pub accepts: String,
    /// The order in force; 0 when there is none.
    pub issue: u64,
    /// The greatest number of an order that was ever seen.
    pub seen: u64,
    /// What is enforced, as SET@VERSION.
    pub enforce: Option<String>,
    /// What is staged, likewise.
    pub observe: Option<String>,
    /// The order that was refused after that, and why.
    pub refused: Option<(u64, String)>,
}

/// An order as it came.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    /// The signed order.
    pub(crate) order: Vec<u8>,
    /// The key that it comes with.
    pub(crate) told: String,
    /// The key that this host was told when it was enrolled.
    pub(crate) pinned: Option<String>,
    /// The collector's authority that the connection was verified by, hexadecimal.
    pub(crate) authority: String,
}

/// An order is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Its number, if it says one that can be believed; else 0.
    pub(crate) issue: u64,
    pub(crate) why: String,
    /// The cause lies in this host and may pass: a file that is half written, a full disk.
    pub(crate) passing: bool,
}

/// What becomes of an order.
#[derive(Debug)]
pub(crate) enum Offer {
    /// The configuration accepts none.
    NotAccepted,
    /// It is in force, or was refused before.
    Known,
    /// It can be put in force once these sets are there.
    Wanted(Box<Candidate>, Vec<Hash>),
}

/// An order that is this host's next.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    order: Order,
    note: String,
    key: String,
    authority: String,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// SHA-256 of the collector's authority: of which collector this is.
    authority: String,
    /// The key of its orders.
    key: String,
    /// The greatest number of an order that was seen, and SHA-256 of that order.
    seen: u64,
    seen_order: String,
    /// The order in force.
    order: Option<String>,
    sets: Vec<KeptSet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptSet {
    content: String,
    files: Vec<PolicyFile>,
}

/// Tells one state of the file from another without reading it.
type Stamp = Option<(u64, i64, i64, u64)>;

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    in_force: Option<CentralPolicies>,
    refused: Option<Refused>,
    /// The order (its hash) that was refused.
    refused_order: String,
    /// When that was; `None` when what it was refused for may have passed since.
    refused_at: Option<Instant>,
    stamp: Stamp,
}

/// Takes orders, and keeps them.
#[derive(Debug)]
pub(crate) struct Central {
    path: PathBuf,
    host: Hash,
    accepts: Accepts,
    /// How often an order is tried again.
    pub(super) again: Duration,
    state: Mutex<State>,
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn pairs(files: &[PolicyFile]) -> impl Iterator<Item = (&str, &str)> {
    files.iter().map(|(name, text)| (name.as_str(), text.as_str()))
}

impl Central {
    /// Reads what is kept in the state directory `state` of the orders of `host`, and verifies it again.
    pub(crate) fn open(state: &Path, host: Hash, accepts: Accepts) -> Result<Self, CentralError> {
        let path = state.join(FILE);
        let wrong = |why: String| CentralError { path: path.display().to_string(), why };
        let mut known = State::default();
        if accepts != Accepts::Off {
            match read(&path) {
                Ok(content) => {
                    let kept: Kept =
                        serde_json::from_slice(&content).map_err(|_| wrong("is damaged".to_owned()))?;
                    known.in_force = verified(&kept, Some(host), accepts).map_err(wrong)?;
                    known.kept = Some(kept);
                    known.stamp = stamp(&path);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
            }
        }
        Ok(Self { path, host, accepts, again: AGAIN, state: Mutex::new(known) })
    }

    /// What is kept in the state directory `state`, for who looks at it: whose order it is is for the agent to
    /// check.
    pub(crate) fn kept(state: &Path, accepts: Accepts) -> Result<Option<CentralPolicies>, CentralError> {
        let path = state.join(FILE);
        let wrong = |why: String| CentralError { path: path.display().to_string(), why };
        if accepts == Accepts::Off {
            return Ok(None);
        }
        let content = match read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        };
        let kept: Kept = serde_json::from_slice(&content).map_err(|_| wrong("is damaged".to_owned()))?;
        verified(&kept, None, accepts).map_err(wrong)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in force.
    pub(crate) fn in_force(&self) -> Option<CentralPolicies> {
        self.state().in_force.clone()
    }

    /// How it stands.
    pub(crate) fn status(&self) -> CentralStatus {
        let state = self.state();
        let order = state.in_force.as_ref().map(|central| &central.order);
        let named = |ordered: Option<&order::Ordered>| ordered.map(|o| format!("{}@{}", o.set, o.version));
        CentralStatus {
            accepts: self.accepts.word().to_owned(),
            issue: order.map_or(0, |order| order.issue),
            seen: state.kept.as_ref().map_or(0, |kept| kept.seen),
            enforce: named(order.and_then(|order| order.enforce.as_ref())),
            observe: named(order.and_then(|order| order.observe.as_ref())),
            refused: state.refused.as_ref().map(|refused| (refused.issue, refused.why.clone())),
        }
    }

    /// Looks at an order that came: whose it is, and whether it is newer than all that was seen.
    pub(crate) fn offer(&self, offered: Offered) -> Result<Offer, Refused> {
        if self.accepts == Accepts::Off {
            return Ok(Offer::NotAccepted);
        }
        let hash = digest(&offered.order);
        let state = self.state();
        if let Some(refused) = state.refused.as_ref().filter(|_| state.refused_order == hash) {
            let recent = state.refused_at.is_some_and(|at| at.elapsed() < self.again);
            if !refused.passing || recent {
                return Ok(Offer::Known);
            }
        }
        let refused = |issue, why| Err(Refused { issue, why, passing: false });
        let kept = state.kept.as_ref().filter(|kept| kept.authority == offered.authority);
        // What the host was told when it was enrolled; else what it was told first.
        let key = offered.pinned.or_else(|| kept.map(|kept| kept.key.clone())).unwrap_or(offered.told);
        let order = match key.parse::<VerifierKey>() {
            Ok(key) => Order::open(&offered.order, &key),
            Err(error) => return refused(0, format!("the collector's key for policies {error}")),
        };
        let order = match order {
            Ok(order) => order,
            Err(error) => {
                return refused(
                    0,
                    format!("{error}. If the collector has another key now, enrol this host anew"),
                );
            }
        };
        if order.host != self.host {
            return refused(0, format!("it is an order for another host, {}", hex(&order.host)));
        }
        // Another collector's numbers, or another key's, do not count.
        if let Some(kept) = kept.filter(|kept| kept.key == key) {
            if order.issue < kept.seen {
                return refused(
                    order.issue,
                    format!(
                        "order {} is older than order {}, which this host has seen. Somebody plays it back, or the \
                         collector was put back to an earlier state: `interlock-collector policies reissue` there, \
                         after it has been looked into",
                        order.issue, kept.seen
                    ),
                );
            }
            if order.issue == kept.seen && kept.seen_order != hash {
                return refused(
                    order.issue,
                    format!(
                        "order {} is another one than that of this number which this host has seen: the collector \
                         was put back to an earlier state. Run `interlock-collector policies reissue` there, after \
                         it has been looked into",
                        order.issue
                    ),
                );
            }
            if state.in_force.as_ref().is_some_and(|central| *central.order == order) {
                return Ok(Offer::Known);
            }
        }
        let Ok(note) = String::from_utf8(offered.order) else {
            return refused(0, "it is no text".to_owned());
        };
        let here = |content: &Hash| kept.is_some_and(|k| k.sets.iter().any(|s| s.content == hex(content)));
        let mut missing: Vec<Hash> =
            order.ordered().map(|ordered| ordered.content).filter(|content| !here(content)).collect();
        missing.dedup();
        let candidate = Candidate { order, note, key, authority: offered.authority };
        Ok(Offer::Wanted(Box::new(candidate), missing))
    }

    /// The policies of an order, made of the sets that came and of those that are here.
    pub(crate) fn assemble(
        &self,
        candidate: &Candidate,
        came: Vec<Vec<PolicyFile>>,
    ) -> Result<(CentralPolicies, Keeping), Refused> {
        let refused = |why| Refused { issue: candidate.order.issue, why, passing: false };
        let mut sets: Vec<KeptSet> = Vec::new();
        for files in came {
            order::check_files(pairs(&files)).map_err(|error| refused(error.to_string()))?;
            let content = hex(&order::content_hash(pairs(&files)));
            sets.push(KeptSet { content, files });
        }
        if let Some(kept) = &self.state().kept {
            sets.extend(kept.sets.iter().cloned());
        }
        let named: Vec<String> = candidate.order.ordered().map(|ordered| hex(&ordered.content)).collect();
        sets.retain(|set| named.contains(&set.content));
        let mut seen = std::collections::BTreeSet::new();
        sets.retain(|set| seen.insert(set.content.clone()));
        let policies = policies(&candidate.order, &sets, self.accepts).map_err(refused)?;
        let kept = Kept {
            version: 1,
            authority: candidate.authority.clone(),
            key: candidate.key.clone(),
            seen: candidate.order.issue,
            seen_order: digest(candidate.note.as_bytes()),
            order: Some(candidate.note.clone()),
            sets,
        };
        Ok((policies, Keeping(kept)))
    }

    /// Keeps an order: it is on disk when this returns, and counts from then on.
    pub(crate) fn keep(&self, policies: CentralPolicies, keeping: Keeping) -> io::Result<()> {
        let mut state = self.state();
        write(&self.path, &serde_json::to_vec(&keeping.0)?)?;
        let stamp = stamp(&self.path);
        *state = State { kept: Some(keeping.0), in_force: Some(policies), stamp, ..State::default() };
        Ok(())
    }

    /// Notes that an order was refused. One that is this host's own has been seen: an older one that comes
    /// later is refused. Gives whether this is the first time that it is refused.
    pub(crate) fn refuse(&self, order: &[u8], candidate: Option<&Candidate>, refused: Refused) -> bool {
        let mut state = self.state();
        if let Some(candidate) = candidate {
            let same = |kept: &&mut Kept| kept.authority == candidate.authority && kept.key == candidate.key;
            let seen_order = digest(order);
            let nothing = state.kept.is_none();
            let changed = match state.kept.as_mut().filter(same) {
                Some(kept) => {
                    kept.seen = candidate.order.issue;
                    kept.seen_order = seen_order;
                    true
                }
                // Nothing was taken yet: what is in force is this host's own.
                None if nothing => {
                    state.kept = Some(Kept {
                        version: 1,
                        authority: candidate.authority.clone(),
                        key: candidate.key.clone(),
                        seen: candidate.order.issue,
                        seen_order,
                        order: None,
                        sets: Vec::new(),
                    });
                    true
                }
                None => false,
            };
            if changed && let Some(content) = state.kept.as_ref().and_then(|k| serde_json::to_vec(k).ok()) {
                if let Err(error) = write(&self.path, &content) {
                    tracing::error!(%error, "cannot note which of the collector's orders were seen");
                }
                state.stamp = stamp(&self.path);
            }
        }
        let first = state.refused.as_ref() != Some(&refused);
        state.refused_order = digest(order);
        state.refused_at = Some(Instant::now());
        state.refused = Some(refused);
        first
    }

    /// This order was refused for a cause that may pass, and is to be offered again.
    pub(crate) fn waits(&self, order: &[u8]) -> bool {
        let state = self.state();
        state.refused.as_ref().is_some_and(|refused| refused.passing) && state.refused_order == digest(order)
    }

    /// What an order was refused for may have passed: the next time that it is offered it is tried again.
    pub(crate) fn try_again(&self) {
        self.state().refused_at = None;
    }

    /// Writes what is kept anew when somebody has changed or removed it while the agent runs; gives whether
    /// somebody had.
    pub(crate) fn look_after(&self) -> bool {
        let mut state = self.state();
        let Some(kept) = &state.kept else { return false };
        if stamp(&self.path) == state.stamp {
            return false;
        }
        let same = read(&self.path)
            .is_ok_and(|content| serde_json::from_slice::<Kept>(&content).is_ok_and(|there| there == *kept));
        if !same
            && let Ok(content) = serde_json::to_vec(kept)
            && let Err(error) = write(&self.path, &content)
        {
            tracing::error!(%error, "the collector's order cannot be kept");
        }
        state.stamp = stamp(&self.path);
        !same
    }
}

/// What is written when an order is put in force.
#[derive(Debug)]
pub(crate) struct Keeping(Kept);

/// The policies of an order, made of these sets.
fn policies(order: &Order, sets: &[KeptSet], accepts: Accepts) -> Result<CentralPolicies, String> {
    let mut made = Vec::new();
    for (origin, ordered) in origins(order, accepts == Accepts::Enforce) {
        let content = hex(&ordered.content);
        let set = sets.iter().find(|set| set.content == content).ok_or_else(|| {
            format!("the files of {}@{} are not those that the order names", ordered.set, ordered.version)
        })?;
        let mut files = set.files.clone();
        files.sort();
        made.push((origin, files.into()));
    }
    Ok(CentralPolicies { order: Arc::new(order.clone()), sets: made })
}

/// What was kept, verified again; `None` when no order is in force.
fn verified(kept: &Kept, host: Option<Hash>, accepts: Accepts) -> Result<Option<CentralPolicies>, String> {
    if kept.version != 1 {
        return Err("is of another version".to_owned());
    }
    let Some(note) = &kept.order else { return Ok(None) };
    let key: VerifierKey = kept.key.parse().map_err(|error| format!("holds a key that {error}"))?;
    let order = Order::open(note.as_bytes(), &key)
        .map_err(|error| format!("holds an order that does not count: {error}"))?;
    if host.is_some_and(|host| order.host != host) {
        return Err("holds an order for another host".to_owned());
    }
    if order.issue > kept.seen {
        return Err("says that it has not seen its own order".to_owned());
    }
    for set in &kept.sets {
        let whole = order::check_files(pairs(&set.files)).is_ok()
            && hex(&order::content_hash(pairs(&set.files))) == set.content;
        if !whole {
            return Err("holds files that are not those of the order".to_owned());
        }
    }
    policies(&order, &kept.sets, accepts).map(Some)
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec(), metadata.len()))
}

/// Reads a file that nobody but this process's user can have written.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other("it belongs to another user, or others can read or write it"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other("it is too large to be ours"));
    }
    let mut content = Vec::new();
    file.take(LARGEST).read_to_end(&mut content)?;
    Ok(content)
}

/// Writes the file whole or not at all.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}
