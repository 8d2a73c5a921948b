//! All policies, checked, and what they make of a flow.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use interlock_recording::order::Order;

use super::decide::{FlowPolicy, Group};
use super::decode::At;
use super::file::{Mask, Mode, Open, Target, TlsAction};
use super::origin::Origin;
use super::problem::Problem;
use super::rule::Rule;
use super::select;
use super::who::Needed;
use super::{Destination, Egress, EntryId, TlsTreatment, Treatment};
use crate::identity::Subject;
use crate::intercept::{Entry, Selection};
use crate::mask::{HashKey, MaskSet, Transform};
use crate::operation::Protocol;

/// Sets of masks that are kept for flows to come.
const MAX_MASK_SETS: usize = 256;

/// One policy file, checked.
#[derive(Debug)]
pub(crate) struct Policy {
    /// The file's name without its directory.
    pub(crate) name: Arc<str>,
    /// The file as it was named to the loader.
    pub(crate) file: Arc<str>,
    /// Where it comes from.
    pub(crate) origin: Origin,
    pub(crate) mode: Mode,
    pub(crate) default: Open,
    /// What `default: deny` is called.
    pub(crate) default_rule: Box<str>,
    pub(crate) default_message: Box<str>,
    pub(crate) plaintext: Open,
    /// The identity that its processes need.
    pub(crate) needs: Option<Needed>,
    /// What that is called.
    pub(crate) identity_rule: Box<str>,
    pub(crate) egress: Egress,
    pub(crate) entries: Vec<EntryId>,
    /// `None` is every TCP connection.
    pub(crate) targets: Option<Vec<At<Target>>>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) masks: Vec<At<Mask>>,
}

impl Policy {
    /// Nothing of it is enforced.
    pub(crate) fn observed(&self) -> bool {
        self.mode == Mode::Observe
    }

    /// What it says of TLS to this destination: the strictest of what its entries say.
    fn tls(&self, destination: &Destination) -> TlsTreatment {
        let taking = self.targets.iter().flatten().filter(|target| target.value.takes(destination));
        let treatments = taking.map(|target| match target.value.tls {
            None => TlsTreatment::WhereKnown,
            Some(TlsAction::Passthrough) => TlsTreatment::Passthrough,
            Some(TlsAction::Intercept) => TlsTreatment::Intercept,
            Some(TlsAction::Deny) => TlsTreatment::Deny,
        });
        treatments.max().unwrap_or_default()
    }

    /// Whether its rules are about this destination, and the protocol spoken there if that is known.
    fn takes(&self, destination: &Destination) -> Option<Option<Protocol>> {
        let port = destination.address.port();
        match &self.targets {
            None => Some(select::well_known(port)),
            Some(targets) => {
                let taking = || targets.iter().filter(|target| target.value.takes(destination));
                taking().next()?;
                Some(taking().find_map(|target| target.value.protocol(port)))
            }
        }
    }
}

/// All policies of a directory, checked. Immutable: a reload makes a new one.
#[derive(Debug, Default)]
pub struct PolicySet {
    pub(crate) policies: Vec<Arc<Policy>>,
    pub(super) entries: Vec<Entry>,
    pub(super) hash: Arc<str>,
    pub(super) files: Vec<PathBuf>,
    pub(super) central: Option<Arc<Order>>,
    pub(super) warnings: Vec<Problem>,
    key: Option<HashKey>,
    mask_sets: Mutex<MaskSets>,
}

/// Sets of masks by the places of policy and mask that they are made of.
type MaskSets = HashMap<Box<[(usize, usize)]>, Arc<MaskSet>>;

impl PolicySet {
    /// The collector's order that is a part of it.
    pub fn central(&self) -> Option<&Arc<Order>> {
        self.central.as_ref()
    }

    /// With the key of keyed hashes. Without one `with: hash` redacts.
    #[must_use]
    pub fn with_key(mut self, key: HashKey) -> Self {
        self.key = Some(key);
        self
    }

    /// SHA-256 over all files, hex: which policies a decision was made under.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The files that it was read from, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// How many rules there are in all files.
    pub fn rule_count(&self) -> usize {
        self.policies.iter().map(|policy| policy.rules.len()).sum()
    }

    /// How many masks there are in all files.
    pub fn mask_count(&self) -> usize {
        self.policies.iter().map(|policy| policy.masks.len()).sum()
    }

    /// What is no error, but cannot be what was meant.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Which processes are designated, and the destinations that the kernel redirects for them.
    pub fn selection(&self) -> Selection {
        Selection { entries: self.entries.clone() }
    }

    /// The host names that destinations name.
    pub fn host_names(&self) -> BTreeSet<Arc<str>> {
        let targets = self.policies.iter().filter_map(|policy| policy.targets.as_ref()).flatten();
        targets.filter_map(|target| target.value.host.as_ref()).map(|host| host.0.as_str().into()).collect()
    }

    /// What concerns a flow of `subject`, taken in by these process entries, to `destination`.
    ///
    /// Entries that no policy has (any more) make a flow that is refused.
    pub fn flow(&self, entries: &[EntryId], subject: &Subject, destination: &Destination) -> FlowPolicy {
        let concerned = |policy: &Policy| policy.entries.iter().any(|id| entries.contains(id));
        let (mut local, mut enforced) = (Taken::default(), Taken::default());
        let (mut watched, mut staged) = (Taken::default(), Taken::default());
        for (place, policy) in self.policies.iter().enumerate().filter(|(_, policy)| concerned(policy)) {
            let (all, own) = match policy.observed() {
                true => (&mut staged, &mut watched),
                false => (&mut enforced, &mut local),
            };
            all.add(place, policy, destination);
            if policy.origin == Origin::Local {
                own.add(place, policy, destination);
            }
        }
        let treatment = match (local.treatment(), enforced.treatment()) {
            // What this host's files refuse no destination of a central policy takes in.
            (Some(Treatment::Egress(Egress::Deny)), _) => Treatment::Egress(Egress::Deny),
            // What is only observed has connections looked into that go their way; it refuses none and opens
            // none.
            (_, Some(Treatment::Egress(egress))) if egress != Egress::Deny && !staged.places.is_empty() => {
                Treatment::Detect(egress.max(staged.egress))
            }
            (_, Some(treatment)) => treatment,
            // By itself, what this host's files observe is the protocol that they name.
            (_, None) if watched.protocol.is_some() => {
                watched.treatment().unwrap_or(Treatment::Egress(Egress::Deny))
            }
            (_, None) => match staged.treatment() {
                None => Treatment::Egress(Egress::Deny),
                Some(Treatment::Egress(egress)) => Treatment::Egress(egress),
                Some(_) => Treatment::Detect(staged.egress),
            },
        };
        let mut taken = enforced.places;
        taken.extend(staged.places);
        // In the order of the files.
        taken.sort_unstable();
        self.narrowed(&taken, treatment, subject, destination)
    }

    /// What all policies together say, whatever processes and destinations they are about.
    pub fn flow_of_all(&self, subject: &Subject, destination: &Destination) -> FlowPolicy {
        let all: Vec<usize> = (0..self.policies.len()).collect();
        self.narrowed(&all, Treatment::Intercept(Protocol::Postgres), subject, destination)
    }

    fn narrowed(
        &self,
        places: &[usize],
        treatment: Treatment,
        subject: &Subject,
        destination: &Destination,
    ) -> FlowPolicy {
        let policies = || places.iter().filter_map(|place| Some((*place, self.policies.get(*place)?)));
        let groups: Box<[Group]> = policies()
            .map(|(_, policy)| {
                let rules = policy.rules.iter().zip(0u16..).filter(|(rule, _)| rule.concerns(subject));
                Group { policy: Arc::clone(policy), rules: rules.map(|(_, place)| place).collect() }
            })
            .collect();
        let (mut enforced, mut all) = (Vec::new(), Vec::new());
        for (place, policy) in policies() {
            for (nth, mask) in policy.masks.iter().enumerate() {
                if mask.value.applies(subject, destination) {
                    all.push((place, nth));
                    if !policy.observed() && mask.value.mode != Some(Mode::Observe) {
                        enforced.push((place, nth));
                    }
                }
            }
        }
        let any = |uses: fn(&Rule) -> bool| {
            groups.iter().any(|group| {
                group.rules.iter().any(|place| group.policy.rules.get(usize::from(*place)).is_some_and(uses))
            })
        };
        let (uses_time, uses_params) = (any(Rule::uses_time), any(Rule::uses_params));
        let (observed, enforced_tls): (Vec<_>, Vec<_>) =
            policies().map(|(_, policy)| policy).partition(|policy| policy.observed());
        let watched = observed.into_iter().filter(|policy| policy.origin == Origin::Local);
        let tls = enforced_tls.into_iter().map(|policy| policy.tls(destination)).max();
        // What is only observed refuses no TLS; what it leaves unread stays so where nothing else reads it.
        let watched = watched.map(|policy| policy.tls(destination).min(TlsTreatment::WhereKnown)).max();
        let tls = tls.or(watched).unwrap_or_default();
        let bounds_rows = any(Rule::bounds_rows);
        FlowPolicy {
            treatment,
            tls,
            groups,
            destination: destination.clone(),
            masks: self.mask_set(enforced),
            record_masks: self.mask_set(all),
            uses_time,
            uses_params,
            bounds_rows,
        }
    }

    /// The set of these masks. Compiling one takes a while and flows mostly share theirs.
    fn mask_set(&self, masks: Vec<(usize, usize)>) -> Arc<MaskSet> {
        let mut sets = self.mask_sets.lock().unwrap_or_else(PoisonError::into_inner);
        let masks = masks.into_boxed_slice();
        if let Some(set) = sets.get(&masks) {
            return Arc::clone(set);
        }
        if sets.len() >= MAX_MASK_SETS {
            sets.clear();
        }
        let mut builder = MaskSet::builder();
        let chosen = || {
            masks.iter().filter_map(|(place, nth)| {
                let policy = self.policies.get(*place)?;
                Some((policy.origin == Origin::Local, policy.masks.get(*nth)?))
            })
        };
        // What this host's masks hide a collector's show nothing of: a mask on a column keeps detectors
        // from its values, and of two partials one keeps what the other hides.
        let guarded = chosen().any(|(local, mask)| {
            local
                && (mask.value.detect.is_some() || matches!(mask.value.with.value, Transform::Partial { .. }))
        });
        for (local, mask) in chosen() {
            let name: Arc<str> = mask.value.name.value.0.as_str().into();
            let transform = match (mask.value.with.value, &self.key) {
                (Transform::Hash, None) => Transform::Redact,
                (transform, _) if guarded && !local => transform.strictest(Transform::Redact),
                (transform, _) => transform,
            };
            for column in mask.value.columns.iter().flat_map(|columns| &columns.0) {
                let [schema, table, column] = column.globs();
                builder = builder.column(Arc::clone(&name), schema, table, column, transform);
            }
            for detector in mask.value.detect.iter().flat_map(|detectors| &detectors.0) {
                builder = builder.detector(Arc::clone(&name), *detector, transform);
            }
        }
        // Without a key no transform of the set uses it.
        let key = self.key.clone().unwrap_or_else(|| HashKey::new(&[0; HashKey::LEN]));
        let set = Arc::new(builder.build(&key));
        sets.insert(masks, Arc::clone(&set));
        set
    }
}

/// What some policies make of a flow.
#[derive(Default)]
struct Taken {
    /// Some policy takes the process in.
    some: bool,
    egress: Egress,
    /// The policies whose rules are about the destination.
    places: Vec<usize>,
    protocol: Option<Protocol>,
}

impl Taken {
    fn add(&mut self, place: usize, policy: &Policy, destination: &Destination) {
        self.some = true;
        self.egress = self.egress.max(policy.egress);
        if let Some(spoken) = policy.takes(destination) {
            self.places.push(place);
            self.protocol = self.protocol.or(spoken);
        }
    }

    /// `None` when the process is none of theirs.
    fn treatment(&self) -> Option<Treatment> {
        self.some.then_some(match self.protocol {
            _ if self.places.is_empty() => Treatment::Egress(self.egress),
            Some(protocol) => Treatment::Intercept(protocol),
            None => Treatment::Detect(self.egress),
        })
    }
}
