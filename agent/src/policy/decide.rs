//! Verdicts: the rules and masks of one flow, and what they say of an operation.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::approval::Terms;
use super::facts::Facts;
use super::file::Open;
use super::pattern::{ColumnName, Match};
use super::rule::Rule;
use super::set::Policy;
use super::who::Needed;
use super::{Destination, Egress, TlsTreatment, Treatment, Verdict};
use crate::identity::Subject;
use crate::mask::MaskSet;
use crate::operation::Operation;
use crate::sql::{Bound, Column, Kind, Script, Statement};

/// The built-in rule that refuses replication connections which no rule allows by name.
pub const REPLICATION_RULE: &str = "interlock.replication";
/// What stands as the rule where a policy says `default: deny` and none of its rules matched.
pub const DEFAULT_RULE: &str = "interlock.default";
/// What stands as the rule where a policy needs a verified identity and there is none.
pub const IDENTITY_RULE: &str = "interlock.identity";
/// What stands as the rule where a flow's connection itself is no longer allowed.
pub const EGRESS_RULE: &str = "interlock.egress";

/// The verdict on one operation, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What happens to it. Rules in observe mode have no part in this: see `observed`.
    pub verdict: Verdict,
    /// `false` when it passes and a rule in observe mode would have refused it.
    pub enforced: bool,
    /// The deciding rule's name; `None` when no enforced rule matched. Of several that are equally strict the
    /// first in the order of the files.
    pub rule: Option<Arc<str>>,
    /// The deciding rule's message to the client.
    pub message: Option<Arc<str>>,
    /// Every rule that matched, in order, those in observe mode included.
    pub matched: Vec<Arc<str>>,
    /// Those of them in observe mode, with the verdict that each would have given.
    pub observed: Vec<Observed>,
    /// Where it is held: what has to be fulfilled for it to be approved. `None` when nobody may.
    #[serde(rename = "approval_terms", skip_serializing_if = "Option::is_none")]
    pub approval: Option<Arc<Terms>>,
}

/// A rule in observe mode that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Its name.
    pub rule: Arc<str>,
    /// What it would have had happen.
    pub verdict: Verdict,
}

impl Decision {
    /// The operation may go to the server.
    pub fn passes(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// Of two texts that are both held, where it cannot be told which one runs: what either asks for has to
    /// be fulfilled. Where nobody may approve one of them, nobody may approve them together.
    pub(crate) fn held_with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.enforced &= other.enforced;
        both.approval = match (&self.approval, &other.approval) {
            (Some(one), Some(another)) => Some(Arc::new(Terms::clone(one).and(another))),
            _ => None,
        };
        if let Some(message) = &other.message
            && !self.message.as_ref().is_some_and(|own| own.contains(&**message))
        {
            let own = self.message.as_ref().map(|own| format!("{own} ")).unwrap_or_default();
            both.message = Some(format!("{own}{message}").into());
        }
        both.matched.extend(other.matched.iter().filter(|rule| !self.matched.contains(rule)).cloned());
        both.observed.extend(other.observed.iter().filter(|rule| !self.observed.contains(rule)).cloned());
        both
    }

    /// Verdict and rule as if everything that matched were enforced.
    pub(crate) fn without_observing(&self) -> (Verdict, Option<&Arc<str>>) {
        let decided = (self.verdict, self.rule.as_ref());
        self.observed.iter().fold(decided, |best, observed| {
            if observed.verdict > best.0 || best.1.is_none() {
                (observed.verdict, Some(&observed.rule))
            } else {
                best
            }
        })
    }
}

/// The part of one policy that concerns a flow.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) policy: Arc<Policy>,
    /// Places in the policy's list of rules.
    pub(crate) rules: Box<[u16]>,
}

impl Group {
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter_map(|place| self.policy.rules.get(usize::from(*place)))
    }
}

/// The rules and masks for one flow. Small: what it consists of is shared with all other flows.
#[derive(Debug, Clone)]
pub struct FlowPolicy {
    pub(crate) treatment: Treatment,
    pub(crate) tls: TlsTreatment,
    pub(crate) groups: Box<[Group]>,
    pub(crate) destination: Destination,
    pub(crate) masks: Arc<MaskSet>,
    pub(crate) record_masks: Arc<MaskSet>,
    pub(crate) uses_time: bool,
    pub(crate) uses_params: bool,
    pub(crate) bounds_rows: bool,
}

impl FlowPolicy {
    /// How the flow is to be treated.
    pub fn treatment(&self) -> Treatment {
        self.treatment
    }

    /// What becomes of TLS on the flow.
    pub fn tls(&self) -> TlsTreatment {
        self.tls
    }

    /// The same operation gets the same decision as long as the policies stay: no rule looks at the
    /// time or at bind parameters. The decision can then be kept with the prepared statement.
    pub fn is_static(&self) -> bool {
        !self.uses_time && !self.uses_params
    }

    /// [`FlowPolicy::is_static`] for what this script does: where a parameter is its LIMIT, a rule on
    /// LIMIT looks at the parameter.
    pub fn is_static_for(&self, script: &Script) -> bool {
        let by_parameter = |statement: &Statement| {
            statement.limit_rows.iter().any(|bound| matches!(bound, Bound::Parameter(_)))
        };
        self.is_static() && !(self.bounds_rows && script.statements.iter().any(by_parameter))
    }

    /// Some rule looks at bind parameters: a statement is to be judged again when they are bound.
    pub fn depends_on_params(&self) -> bool {
        self.uses_params
    }

    /// Some rule has operations wait for an approval.
    pub fn can_hold(&self) -> bool {
        self.groups.iter().flat_map(Group::rules).any(|rule| rule.approval.is_some() && !rule.observed)
    }

    /// Why connections of this flow that are not encrypted are refused, if they are.
    pub fn refuses_plaintext(&self) -> Option<String> {
        let group = self.groups.iter().find(|group| group.policy.plaintext == Open::Deny)?;
        Some(format!("policy {} refuses connections that are not encrypted", group.policy.name))
    }

    /// Why this subject's connections are refused as such, if they are: a policy needs an identity that it
    /// has not.
    pub fn refuses_subject(&self, subject: &Subject) -> Option<String> {
        let mut lacking = self.groups.iter().filter(|group| !group.policy.observed());
        lacking.find_map(|group| {
            let needed = group.policy.needs.as_ref().filter(|needed| !needed.is_met(subject))?;
            let told = Needed::told(&needed.message, subject);
            Some(format!("policy {} ({}): {told}", group.policy.name, group.policy.identity_rule))
        })
    }

    /// Decides on one operation: the strictest of all rules that match any of its statements.
    ///
    /// Allocates nothing when no rule matches.
    pub fn decide(&self, operation: &Operation, subject: &Subject) -> Decision {
        self.decide_at(
            operation,
            subject,
            if self.uses_time { Timestamp::now() } else { Timestamp::UNIX_EPOCH },
        )
    }

    /// [`FlowPolicy::decide`] as if it were this time.
    pub fn decide_at(&self, operation: &Operation, subject: &Subject, now: Timestamp) -> Decision {
        self.judge(operation, subject, now, true)
    }

    /// Decides on a statement whose parameters are not known yet (at Parse), and that is judged again
    /// when they are: what only they can tell is left open.
    pub fn decide_unbound(&self, operation: &Operation, subject: &Subject) -> Decision {
        self.judge(operation, subject, Timestamp::now(), false)
    }

    /// The masks that apply to what the client gets.
    pub fn masks(&self) -> &Arc<MaskSet> {
        &self.masks
    }

    /// The masks that apply to what is recorded: those in observe mode as well.
    pub fn record_masks(&self) -> &Arc<MaskSet> {
        &self.record_masks
    }

    /// The masks on columns that the statement reads, as far as its text tells.
    pub fn column_masks(&self, statement: &Statement) -> Vec<Arc<str>> {
        let tables = || statement.reads.iter().chain(&statement.writes);
        let reads = |pattern: &ColumnName| {
            let named = statement.columns_read.iter().any(|c| pattern.matches(c, tables()) > Match::No);
            named || statement.reads.iter().any(|r| r.name == "*" && pattern.relation(r) > Match::No)
        };
        let names = self.masks.names();
        let masks = self.groups.iter().flat_map(|group| &group.policy.masks);
        masks
            .filter(|mask| mask.value.columns.iter().flat_map(|columns| &columns.0).any(reads))
            .filter_map(|mask| names.iter().find(|name| ***name == *mask.value.name.value.0).cloned())
            .collect()
    }

    /// The columns that the statement reads and some mask takes in, as its own text names them.
    pub fn masked_columns(&self, statement: &Statement) -> Vec<String> {
        let tables = || statement.reads.iter().chain(&statement.writes);
        let enforced = |name: &str| self.masks.names().iter().any(|known| **known == *name);
        let masks = self.groups.iter().flat_map(|group| &group.policy.masks);
        let patterns: Vec<&ColumnName> = masks
            .filter(|mask| enforced(&mask.value.name.value.0))
            .flat_map(|mask| mask.value.columns.iter().flat_map(|columns| &columns.0))
            .collect();
        let masked =
            |column: &&Column| patterns.iter().any(|pattern| pattern.matches(column, tables()) > Match::No);
        statement.columns_read.iter().filter(masked).map(ToString::to_string).collect()
    }

    fn judge(&self, operation: &Operation, subject: &Subject, now: Timestamp, bound: bool) -> Decision {
        let mut found = Found::default();
        if self.treatment == Treatment::Egress(Egress::Deny) {
            found.built_in(EGRESS_RULE, "the policies do not allow this connection any more", false);
            return found.decision();
        }
        let destination = &self.destination;
        let facts = Facts { subject, destination, operation: Some(operation), statement: None, now };
        let statements = &operation.script.statements;
        for group in &self.groups {
            let policy = &group.policy;
            if let Some(needed) = policy.needs.as_ref().filter(|needed| !needed.is_met(subject)) {
                let by = By::Lacking(&policy.identity_rule, &needed.message, subject);
                found.add(Verdict::Deny, by, policy.observed());
            }
            // Which statements a rule has matched matters for `default: deny` alone.
            let mut covered = (policy.default == Open::Deny).then(|| Covered::new(statements.len()));
            for rule in group.rules() {
                // A rule on parameters that are not known yet: one that allows is given the benefit of
                // the doubt, one that refuses has its say when they are.
                let open = !bound && rule.uses_params();
                if open && rule.verdict(subject) != Verdict::Allow {
                    continue;
                }
                if !rule.admits(&facts) {
                    continue;
                }
                let mut applies = false;
                if statements.is_empty() {
                    applies = open || rule.applies(&facts);
                }
                for (place, statement) in statements.iter().enumerate() {
                    if open || rule.applies(&Facts { statement: Some(statement), ..facts }) {
                        applies = true;
                        match &mut covered {
                            Some(covered) if !rule.observed || policy.observed() => covered.add(place),
                            Some(_) => {}
                            None => break,
                        }
                    }
                }
                if applies {
                    found.rule(rule, subject);
                }
            }
            if covered.is_some_and(|covered| !covered.all()) {
                found.built_in(&policy.default_rule, &policy.default_message, policy.observed());
            }
        }
        self.replication(&facts, operation, &mut found);
        found.decision()
    }

    /// Replication is refused unless a rule allows it by name.
    fn replication(&self, facts: &Facts<'_>, operation: &Operation, found: &mut Found<'_>) {
        let mut wanted =
            operation.script.statements.iter().filter(|s| s.kinds.contains(&Kind::Replication)).peekable();
        if wanted.peek().is_none() || self.groups.is_empty() {
            return;
        }
        let enforcing = self.groups.iter().any(|group| !group.policy.observed());
        let allowed = wanted.all(|statement| {
            let facts = Facts { statement: Some(statement), ..*facts };
            self.groups.iter().flat_map(Group::rules).any(|rule| {
                rule.verdict(facts.subject) == Verdict::Allow
                    && (!rule.observed || !enforcing)
                    && rule.names_kind(Kind::Replication)
                    && rule.admits(&facts)
                    && rule.applies(&facts)
            })
        });
        if !allowed {
            let message = "replication connections need a rule with `action: allow` and `kind: replication`";
            found.built_in(REPLICATION_RULE, message, !enforcing);
        }
    }
}

/// Which statements of a script some rule has matched.
struct Covered {
    len: usize,
    first: u64,
    rest: Vec<bool>,
}

impl Covered {
    fn new(len: usize) -> Self {
        Self { len, first: 0, rest: Vec::new() }
    }

    fn add(&mut self, place: usize) {
        let Some(place) = place.checked_sub(64) else {
            self.first |= 1 << place;
            return;
        };
        if self.rest.len() <= place {
            self.rest.resize(self.len.saturating_sub(64), false);
        }
        if let Some(slot) = self.rest.get_mut(place) {
            *slot = true;
        }
    }

    fn all(&self) -> bool {
        let first = self.len.min(64);
        self.first.count_ones() as usize == first
            && (self.len <= 64 || (self.rest.len() == self.len - 64 && self.rest.iter().all(|one| *one)))
    }
}

/// What decides: a rule, or something built in.
#[derive(Debug, Clone, Copy)]
enum By<'a> {
    Rule(&'a Rule),
    BuiltIn(&'a str, &'a str),
    /// The subject has not the identity that it needs.
    Lacking(&'a str, &'a str, &'a Subject),
}

impl By<'_> {
    fn name(self) -> Arc<str> {
        match self {
            Self::Rule(rule) => Arc::clone(&rule.name),
            Self::BuiltIn(name, _) | Self::Lacking(name, ..) => name.into(),
        }
    }

    fn message(self) -> Option<Arc<str>> {
        match self {
            Self::Rule(rule) => rule.message.clone(),
            Self::BuiltIn(_, message) => Some(message.into()),
            Self::Lacking(_, message, subject) => Some(Needed::told(message, subject).into()),
        }
    }
}

/// What has matched so far.
#[derive(Debug, Default)]
struct Found<'a> {
    enforced: Option<(Verdict, By<'a>)>,
    /// The rules that hold it.
    holding: Vec<&'a Rule>,
    matched: Vec<Arc<str>>,
    observed: Vec<Observed>,
}

impl<'a> Found<'a> {
    fn rule(&mut self, rule: &'a Rule, subject: &'a Subject) {
        if let Some(needed) = rule.lacks(subject) {
            let by = By::Lacking(&rule.name, &needed.message, subject);
            return self.add(Verdict::Deny, by, rule.observed);
        }
        if rule.action == Verdict::Hold && !rule.observed {
            self.holding.push(rule);
        }
        self.add(rule.action, By::Rule(rule), rule.observed);
    }

    fn built_in(&mut self, name: &'a str, message: &'a str, observed: bool) {
        self.add(Verdict::Deny, By::BuiltIn(name, message), observed);
    }

    fn add(&mut self, verdict: Verdict, by: By<'a>, observed: bool) {
        let name = by.name();
        if observed {
            self.observed.push(Observed { rule: Arc::clone(&name), verdict });
        } else if self.enforced.is_none_or(|(strictest, _)| verdict > strictest) {
            self.enforced = Some((verdict, by));
        }
        self.matched.push(name);
    }

    /// What the rules that hold it say together; one that names nobody closes it.
    fn approval(&self) -> Option<Arc<Terms>> {
        match self.holding.as_slice() {
            [one] => one.approval.clone(),
            all => {
                let mut all = all.iter().map(|rule| rule.approval.as_deref());
                let first = all.next()??.clone();
                all.try_fold(first, |terms, other| Some(terms.and(other?))).map(Arc::new)
            }
        }
    }

    /// What is enforced decides; what rules in observe mode would have had happen stands beside it.
    fn decision(self) -> Decision {
        let verdict = self.enforced.map_or(Verdict::Allow, |(verdict, _)| verdict);
        let would_refuse = self.observed.iter().any(|observed| observed.verdict > Verdict::Allow);
        Decision {
            approval: if verdict == Verdict::Hold { self.approval() } else { None },
            verdict,
            enforced: verdict > Verdict::Allow || !would_refuse,
            rule: self.enforced.map(|(_, by)| by.name()),
            message: self.enforced.and_then(|(_, by)| by.message()),
            matched: self.matched,
            observed: self.observed,
        }
    }
}
