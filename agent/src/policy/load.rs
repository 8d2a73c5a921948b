//! Reading a directory of policy files, all or nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File as Handle, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use interlock_recording::order::Order;
use sha2::{Digest, Sha256};

use super::decide::{DEFAULT_RULE, FlowPolicy, Group, IDENTITY_RULE};
use super::decode::{At, Decode, Decoder, OneOrMany};
use super::file::{File, Mask, Mode, Open, Target, TlsAction};
use super::origin::{CentralPolicies, Origin, PolicyFile};
use super::problem::{PolicyErrors, Position, Problem};
use super::rule::Rule;
use super::select::{self, Accounts, MAX_ENTRIES};
use super::who::Needed;
use super::yaml::{self, MAX_FILE, Value};
use super::{Destination, Egress, EntryId, TlsTreatment, Treatment, Verdict};
use crate::identity::Subject;
use crate::intercept::{Entry, Selection};
use crate::mask::{HashKey, MaskSet, Transform};
use crate::operation::Protocol;

/// Most policy files of one directory.
const MAX_FILES: usize = 512;
/// Most rules and most masks of one file.
const MAX_RULES: usize = 10_000;
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
    entries: Vec<Entry>,
    hash: Arc<str>,
    files: Vec<PathBuf>,
    central: Option<Arc<Order>>,
    warnings: Vec<Problem>,
    key: Option<HashKey>,
    mask_sets: Mutex<MaskSets>,
}

/// Sets of masks by the places of policy and mask that they are made of.
type MaskSets = HashMap<Box<[(usize, usize)]>, Arc<MaskSet>>;

/// Whether files that others than root can change are refused. The agent always asks
/// [`Trust::of_process`], and so does `policy check`: what it passes the agent takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// They are: who is held by a policy must not be able to change it.
    Root,
    /// They are noted.
    Anyone,
}

impl Trust {
    /// What holds for this process: policies matter to root alone.
    pub(crate) fn of_process() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::Anyone }
    }
}

impl PolicySet {
    /// Reads every `*.yaml` and `*.yml` in `dir`, in name order (or one file, if it is one), except
    /// test cases (`*.test.yaml`) and hidden files.
    ///
    /// When the process runs as root, files and directories that others than root can change are
    /// refused.
    ///
    /// # Errors
    /// All that is wrong in any file; nothing is taken from any of them then.
    pub fn load(dir: &Path) -> Result<Self, PolicyErrors> {
        Self::load_trusting(dir, Trust::of_process())
    }

    pub(crate) fn load_trusting(dir: &Path, trust: Trust) -> Result<Self, PolicyErrors> {
        Self::load_with(dir, trust, None)
    }

    /// The same, with policies that are kept centrally behind those of the host.
    pub(crate) fn load_with(
        dir: &Path,
        trust: Trust,
        central: Option<&CentralPolicies>,
    ) -> Result<Self, PolicyErrors> {
        let mut loader = Loader::new(Accounts::HOST);
        for file in loader.list(dir, trust) {
            let name = file.to_string_lossy().into_owned();
            loader.link(dir, &file, trust);
            match read(&file, trust) {
                Ok((text, warning)) => {
                    loader.warnings.extend(warning);
                    loader.file(&name, &text);
                }
                Err(problem) => loader.problems.push(problem),
            }
            loader.files.push(file);
        }
        for (origin, files) in central.iter().flat_map(|central| &central.sets) {
            loader.central(origin, files);
        }
        let set = loader.finish()?;
        Ok(Self { central: central.map(|central| Arc::clone(&central.order)), ..set })
    }

    /// Nothing is wrong in these files by themselves, whatever this host's files and accounts are.
    pub(crate) fn is_sound(central: &CentralPolicies) -> bool {
        let mut loader = Loader::new(Accounts::NONE);
        for (origin, files) in &central.sets {
            loader.central(origin, files);
        }
        loader.finish().is_ok()
    }

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
                let when = mask.value.when.as_ref();
                if when.is_none_or(|when| when.holds(subject, destination).unwrap_or(true)) {
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

/// Checks one policy file's text. Users and groups are not looked up, so no entry of the result takes
/// in a process by their names.
///
/// # Errors
/// All that is wrong in it.
pub fn parse_str(name: &str, text: &str) -> Result<PolicySet, PolicyErrors> {
    let mut loader = Loader::new(Accounts::NONE);
    loader.file(name, text);
    loader.files.push(name.into());
    loader.finish()
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

/// What has been read so far.
struct Loader {
    /// Where what is read now comes from.
    origin: Origin,
    accounts: Accounts,
    policies: Vec<Arc<Policy>>,
    entries: Vec<Entry>,
    files: Vec<PathBuf>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    names: HashMap<(&'static str, String), String>,
    digest: Sha256,
}

impl Loader {
    fn new(accounts: Accounts) -> Self {
        Self {
            origin: Origin::Local,
            accounts,
            policies: Vec::new(),
            entries: Vec::new(),
            files: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            names: HashMap::new(),
            digest: Sha256::new_with_prefix(b"interlock policies 1"),
        }
    }

    /// The policy files of `dir`, in name order.
    fn list(&mut self, dir: &Path, trust: Trust) -> Vec<PathBuf> {
        let name = dir.to_string_lossy();
        let metadata = match std::fs::metadata(dir) {
            Ok(metadata) => metadata,
            Err(error) => {
                let help = if error.kind() == ErrorKind::NotFound {
                    "create it, or name another with `policies` in agent.yaml"
                } else {
                    "check its owner and mode"
                };
                let message = format!("cannot be read: {error}");
                self.problems.push(Problem::error(&name, Position::WHOLE, message).help(help));
                return Vec::new();
            }
        };
        if metadata.is_file() {
            return vec![dir.to_owned()];
        }
        match distrust(&name, &metadata, trust) {
            Ok(warning) => self.warnings.extend(warning),
            Err(problem) => self.problems.push(problem),
        }
        let entries = std::fs::read_dir(dir).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        });
        let mut files = match entries {
            Ok(files) => files,
            Err(error) => {
                let message = format!("cannot be read: {error}");
                self.problems.push(Problem::error(&name, Position::WHOLE, message));
                return Vec::new();
            }
        };
        files.retain(|file| is_policy(file));
        files.sort();
        if files.len() > MAX_FILES {
            let message = format!("{} policy files, more than {MAX_FILES}", files.len());
            self.problems.push(Problem::error(&name, Position::WHOLE, message).help("join some of them"));
            files.clear();
        }
        files
    }

    /// A link's target lies in directories of its own: who can write to one of them can put another
    /// file in its place.
    fn link(&mut self, dir: &Path, file: &Path, trust: Trust) {
        let (Ok(target), Ok(dir)) = (file.canonicalize(), dir.canonicalize()) else { return };
        if target.parent() == Some(&dir) || target == dir {
            return;
        }
        for parent in target.ancestors().skip(1) {
            let Ok(metadata) = parent.metadata() else { continue };
            // In a directory such as /tmp nobody can replace what is root's.
            if metadata.uid() == 0 && metadata.mode() & 0o1000 != 0 {
                continue;
            }
            match distrust(&parent.to_string_lossy(), &metadata, trust) {
                Ok(warning) => self.warnings.extend(warning),
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    /// The files of a set that is kept centrally.
    fn central(&mut self, origin: &Origin, files: &[PolicyFile]) {
        self.origin = origin.clone();
        self.digest.update(format!("central {origin}\n"));
        for (name, text) in files {
            let name = origin.file(name);
            self.file(&name, text);
            self.files.push(name.into());
        }
        self.origin = Origin::Local;
    }

    fn file(&mut self, file: &str, text: &str) {
        let short = Path::new(file).file_name().map_or_else(|| file.into(), |name| name.to_string_lossy());
        for part in [short.as_bytes(), text.as_bytes()] {
            self.digest.update((part.len() as u64).to_le_bytes());
            self.digest.update(part);
        }
        let node = match yaml::parse(file, text) {
            Ok(node) => node,
            Err(problem) => return self.problems.push(problem),
        };
        let mut decoder = Decoder::new(file);
        if node.value == Value::Null {
            decoder.error_help(node.at, "the file is empty", "begin it with `version: 1`, or remove it");
        } else if let Some(parsed) = File::decode(&node, &mut decoder) {
            self.policy(file, &short, parsed, &mut decoder);
        }
        decoder.problems.sort_by_key(|problem| problem.at);
        self.problems.append(&mut decoder.problems);
    }

    /// What no single key tells.
    fn policy(&mut self, file: &str, short: &str, parsed: File, decoder: &mut Decoder<'_>) {
        let File {
            mode,
            default,
            processes,
            destinations,
            egress,
            resolvers,
            plaintext,
            require_identity,
            rules,
            mut masks,
            ..
        } = parsed;
        let mode = if self.origin.is_staged() { Mode::Observe } else { mode.unwrap_or_default() };
        let mut egress = egress.unwrap_or_default();
        let (mut resolvers, mut plaintext) = (resolvers, plaintext.unwrap_or_default());
        if mode == Mode::Observe {
            // What would be refused is recorded.
            egress = egress.min(Egress::Record);
            (resolvers, plaintext) = (None, Open::Allow);
        }
        let targets = destinations.map(|OneOrMany(targets)| targets);
        for target in targets.iter().flatten() {
            let Target { host, cidr, port, .. } = &target.value;
            if host.is_none() && cidr.is_none() && port.is_none() {
                decoder.error_help(
                    target.at,
                    "this destination is every address and port",
                    "name a host, cidr or port, or leave `destinations` out",
                );
            }
        }
        for mask in &masks {
            self.mask(mask, decoder);
        }
        for (what, count) in [("rules", rules.len()), ("masks", masks.len())] {
            if count > MAX_RULES {
                decoder.error(Position::START, format!("{count} {what}, more than {MAX_RULES}"));
            }
        }
        for rule in &rules {
            self.name("rule", &rule.value.name, decoder);
            if let Some(approval) = &rule.value.approval {
                if rule.value.action.value != Verdict::Hold {
                    let help = "write `action: hold`, or leave `approval` out";
                    decoder.error_help(approval.at, "only what is held can be approved", help);
                }
                if let Some((message, help)) = approval.value.problem() {
                    decoder.error_help(approval.at, message, help);
                }
            }
        }
        let patterns = select::patterns(targets.as_deref(), decoder);
        let mut ids = Vec::new();
        for process in &processes {
            let entry = select::entry(process, self.accounts, decoder, &mut self.warnings);
            let Some(mut entry) = entry else { continue };
            ids.push(entry.id);
            entry.destinations.clone_from(&patterns);
            entry.egress = egress;
            entry.resolvers = select::is_open(resolvers);
            select::unite(&mut self.entries, entry);
            if self.entries.len() == MAX_ENTRIES + 1 {
                decoder.error_help(
                    process.at,
                    format!("more than {MAX_ENTRIES} different process entries in all policies"),
                    "select by slice, group or cgroup instead of one by one",
                );
            }
        }
        let origin = self.origin.clone();
        let rules = rules.into_iter().map(|rule| Rule::new(rule.value, rule.at, mode, &origin)).collect();
        for mask in &mut masks {
            mask.value.name.value.0 = origin.name(&mask.value.name.value.0);
        }
        self.policies.push(Arc::new(Policy {
            name: short.into(),
            file: file.into(),
            mode,
            default: default.unwrap_or_default(),
            default_rule: origin.name(DEFAULT_RULE).into(),
            needs: require_identity.map(Needed::new),
            identity_rule: origin.name(IDENTITY_RULE).into(),
            default_message: format!("no rule of {short} allows this").into(),
            origin,
            plaintext,
            egress,
            entries: ids,
            targets,
            rules,
            masks,
        }));
    }

    fn mask(&mut self, mask: &At<Mask>, decoder: &mut Decoder<'_>) {
        self.name("mask", &mask.value.name, decoder);
        if mask.value.columns.is_none() && mask.value.detect.is_none() {
            decoder.error_help(
                mask.at,
                "this mask takes in nothing",
                "name `columns` (schema.table.column) or detectors under `detect`",
            );
        }
        if let Transform::Partial { keep_first: 0, keep_last: 0 } = mask.value.with.value {
            decoder.error_help(
                mask.value.with.at,
                "`partial` keeps nothing",
                "write `redact`, or keep_last: 4",
            );
        }
    }

    /// A name stands for one rule in all files.
    fn name(&mut self, what: &'static str, name: &At<super::values::RuleName>, decoder: &mut Decoder<'_>) {
        let here = format!("{}:{}", decoder.file, name.at.line);
        let key = (what, self.origin.name(&name.value.0));
        if let Some(first) = self.names.get(&key) {
            decoder.error_help(
                name.at,
                format!("`{}` is already the name of the {what} at {first}", name.value.0),
                "give it a name of its own: refusals and recordings bear it",
            );
        } else {
            self.names.insert(key, here);
        }
    }

    fn finish(self) -> Result<PolicySet, PolicyErrors> {
        if !self.problems.is_empty() {
            return Err(PolicyErrors(self.problems));
        }
        let hash: String = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(PolicySet {
            policies: self.policies,
            entries: self.entries,
            hash: hash.into(),
            files: self.files,
            warnings: self.warnings,
            ..PolicySet::default()
        })
    }
}

/// It is a policy file by its name.
pub(crate) fn is_policy(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    (name.ends_with(".yaml") || name.ends_with(".yml")) && !is_test(path) && !name.starts_with(['.', '#'])
}

/// It holds test cases by its name.
pub(crate) fn is_test(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    (name.ends_with(".test.yaml") || name.ends_with(".test.yml")) && !name.starts_with('.')
}

/// A file's text, with a warning where others than root can change it.
pub(crate) fn read(path: &Path, trust: Trust) -> Result<(String, Option<Problem>), Problem> {
    let name = path.to_string_lossy();
    let problem = |message: String| Problem::error(&name, Position::WHOLE, message);
    // A pipe must not stop the agent.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut open = OpenOptions::new();
    let file: Handle = open
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(|error| problem(format!("cannot be opened: {error}")))?;
    let metadata = file.metadata().map_err(|error| problem(format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(problem("is no regular file".to_owned()).help("remove or rename it"));
    }
    let warning = distrust(&name, &metadata, trust)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| problem(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        problem(format!("is not UTF-8: byte {} is no part of a character", error.utf8_error().valid_up_to()))
            .help("save it as UTF-8")
    })?;
    Ok((text, warning))
}

/// Others than root can change it: refused, or a warning, depending on `trust`.
fn distrust(name: &str, metadata: &Metadata, trust: Trust) -> Result<Option<Problem>, Problem> {
    let mode = metadata.mode();
    let found = if metadata.uid() != 0 {
        Some((
            format!("belongs to user {} and not to root", metadata.uid()),
            format!("chown root:root {name}"),
        ))
    } else if mode & 0o002 != 0 {
        Some(("can be changed by everybody".to_owned(), format!("chmod o-w {name}")))
    } else if mode & 0o020 != 0 {
        Some((format!("can be changed by group {}", metadata.gid()), format!("chmod g-w {name}")))
    } else {
        None
    };
    let Some((what, command)) = found else { return Ok(None) };
    let message = format!("{what}: who is held by a policy must not be able to change it");
    let help = format!("run `{command}`");
    match trust {
        Trust::Root => Err(Problem::error(name, Position::WHOLE, message).help(help)),
        Trust::Anyone => Ok(Some(Problem::warning(name, Position::WHOLE, message).help(help))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "version: 1\nprocesses: [{user: deploy}]\n";

    fn load(user: fn(&str) -> std::io::Result<Option<u32>>) -> Result<PolicySet, PolicyErrors> {
        let mut loader = Loader::new(Accounts { user, ..Accounts::NONE });
        loader.file("p.yaml", POLICY);
        loader.finish()
    }

    #[test]
    fn a_user_that_cannot_be_looked_up_is_no_user_that_is_not_there() {
        let entries = |set: PolicySet| set.selection().entries;
        assert_eq!(entries(load(|_| Ok(Some(7))).unwrap())[0].uid, Some(7));
        assert!(entries(load(|_| Ok(None)).unwrap())[0].impossible);
        let error = load(|_| Err(std::io::Error::other("no answer"))).unwrap_err().to_string();
        assert!(error.contains("p.yaml:2:13: the user `deploy` cannot be looked up: no answer"), "{error}");
    }
}
