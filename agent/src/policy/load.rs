//! Reading a directory of policy files, all or nothing.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::decide::{DEFAULT_RULE, IDENTITY_RULE};
use super::decode::{At, Decode, Decoder, OneOrMany};
use super::file::{File, Mask, Mode, Open, Target};
use super::origin::{CentralPolicies, Origin, PolicyFile};
use super::problem::{PolicyErrors, Position, Problem};
use super::read::{Trust, distrust, is_policy, read};
use super::rule::Rule;
use super::select::{self, Accounts, MAX_ENTRIES};
use super::set::{Policy, PolicySet};
use super::who::Needed;
use super::yaml::{self, Value};
use super::{Egress, Verdict};
use crate::intercept::Entry;
use crate::mask::Transform;

/// Most policy files of one directory.
const MAX_FILES: usize = 512;
/// Most rules and most masks of one file.
const MAX_RULES: usize = 10_000;

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
        let mut set = loader.finish()?;
        set.central = central.map(|central| Arc::clone(&central.order));
        Ok(set)
    }

    /// Nothing is wrong in these files by themselves, whatever this host's files and accounts are.
    pub(crate) fn is_sound(central: &CentralPolicies) -> bool {
        let mut loader = Loader::new(Accounts::NONE);
        for (origin, files) in &central.sets {
            loader.central(origin, files);
        }
        loader.finish().is_ok()
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
        let mut set = PolicySet::default();
        (set.policies, set.entries, set.hash) = (self.policies, self.entries, hash.into());
        (set.files, set.warnings) = (self.files, self.warnings);
        Ok(set)
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
