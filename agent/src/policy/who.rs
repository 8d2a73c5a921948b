//! Verified identities in rules: what they match, and where one is needed.
//!
//! What is absent is unknown: whoever stands behind a process can leave a token out, or sign out. So where
//! there is no verified identity of the kind that a rule is about, rules that refuse apply and rules that
//! allow do not, for `identity` and `not_identity` alike. Groups that a token does not tell are unknown alike.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::decode::{Decode, Decoder, OneOrMany, record, suggestion, words};
use super::pattern::{Match, Text};
use super::values::Message;
use super::yaml::{Node, Value};
use crate::identity::{GroupsKnown, IdentityKind, Subject, Verified};

record! {
    /// A verified person or workload, by globs. All keys that are given must hold for one and the same
    /// identity.
    pub(crate) struct IdentityMatcher {
        /// `person` or `workload`.
        kind: Option<IdentityKind>,
        /// What agent.yaml calls the issuer.
        issuer: Option<OneOrMany<Text>>,
        /// The issuer's own name for them (`sub`).
        subject: Option<OneOrMany<Text>>,
        /// The name to read. People may be able to change theirs.
        name: Option<OneOrMany<Text>>,
        /// A group that they are in: any of these.
        groups: Option<OneOrMany<Text>>,
        /// The CI project (repository), or the namespace of Kubernetes.
        project: Option<OneOrMany<Text>>,
        /// The branch that the CI job runs for. A tag is none.
        branch: Option<OneOrMany<Text>>,
        /// The environment that the CI job deploys to.
        environment: Option<OneOrMany<Text>>,
        /// Who started the CI job.
        actor: Option<OneOrMany<Text>>,
        /// Claims of the token, by name or JSON pointer (`/kubernetes.io/namespace`). Of a list any entry.
        claims: Option<Claims>,
    }
}

record! {
    /// The verified identity that processes need.
    pub(crate) struct RequiredIdentity {
        /// `person`, `workload`, or `any` (when left out).
        kind: Option<RequiredKind>,
        /// What agent.yaml calls its issuer: any of these; any issuer when left out.
        issuer: Option<OneOrMany<Text>>,
        /// What the client is told when there is none: how to get it.
        message: Option<Message>,
    }
}

/// Which kind of identity is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RequiredKind {
    /// One of a person.
    Person,
    /// One of a workload.
    Workload,
    /// Any.
    Any,
}

words! {
    IdentityKind: "a kind of identity" [Person, Workload];
    RequiredKind: "a kind of identity" [Person, Workload, Any];
}

/// `require_identity`: a kind alone, or a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Require(RequiredIdentity);

impl Decode for Require {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(_) => RequiredIdentity::decode(node, decoder).map(Self),
            _ => {
                let kind = RequiredKind::decode(node, decoder)?;
                Some(Self(RequiredIdentity { kind: Some(kind), issuer: None, message: None }))
            }
        }
    }
}

impl schemars::JsonSchema for Require {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Require".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let kind = generator.subschema_for::<RequiredKind>();
        let mapping = generator.subschema_for::<RequiredIdentity>();
        schemars::json_schema!({"anyOf": [kind, mapping]})
    }
}

/// Claims with the globs that their values must match.
#[derive(Debug, Clone)]
pub(crate) struct Claims(Vec<(String, OneOrMany<Text>)>);

/// Most claims that one rule looks at.
const MAX_CLAIMS: usize = 64;

impl Decode for Claims {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::Map(map) = &node.value else {
            decoder.error_help(
                node.at,
                format!("expected a mapping, found {}", node.describe()),
                "write claims with globs, such as `claims: {ref: refs/heads/main}`",
            );
            return None;
        };
        if map.is_empty() || map.len() > MAX_CLAIMS {
            decoder.error_help(
                node.at,
                format!("{} claims", map.len()),
                format!("name 1 to {MAX_CLAIMS}, or leave the key out"),
            );
            return None;
        }
        let mut claims = Vec::new();
        for (name, value) in map {
            let Some(name) = name.word().filter(|name| !name.is_empty()) else {
                decoder.error(name.at, format!("expected a claim's name, found {}", name.describe()));
                continue;
            };
            claims.push((name, OneOrMany::<Text>::decode(value, decoder)?));
        }
        Some(Self(claims))
    }
}

impl schemars::JsonSchema for Claims {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Claims".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let globs = generator.subschema_for::<OneOrMany<Text>>();
        schemars::json_schema!({"type": "object", "minProperties": 1, "additionalProperties": globs})
    }
}

// === impl IdentityMatcher ===

impl IdentityMatcher {
    /// How the subject's verified identities match. Where one that it could be about is missing, it may.
    pub(crate) fn matches(&self, subject: &Subject) -> Match {
        let one = self.kind();
        let nobody = subject.person.is_none() && subject.workload.is_none();
        [IdentityKind::Person, IdentityKind::Workload]
            .into_iter()
            .filter(|kind| one.is_none_or(|one| one == *kind))
            .map(|kind| match subject.identity(kind) {
                Some(identity) => self.is(identity),
                // Where only the other kind can be had on this host, nobody hides this one.
                None if one.is_none() && !nobody && subject.no_issuer.contains(&kind) => Match::No,
                None => Match::May,
            })
            .max()
            .unwrap_or(Match::May)
    }

    /// The one kind that it is about. Only workloads have jobs.
    fn kind(&self) -> Option<IdentityKind> {
        let of_jobs = [&self.project, &self.branch, &self.environment, &self.actor];
        self.kind.or(of_jobs.iter().any(|key| key.is_some()).then_some(IdentityKind::Workload))
    }

    /// How well it can be told that none of them matches.
    pub(crate) fn matches_not(&self, subject: &Subject) -> Match {
        match self.matches(subject) {
            Match::No => Match::Must,
            Match::May => Match::May,
            Match::Must => Match::No,
        }
    }

    fn is(&self, identity: &Verified) -> Match {
        let text = |patterns: &Option<OneOrMany<Text>>, text: &str| {
            patterns.as_ref().is_none_or(|patterns| any(patterns, text))
        };
        let job = &identity.job;
        let rest = self.kind.is_none_or(|kind| kind == identity.kind)
            && text(&self.issuer, &identity.issuer_name)
            && text(&self.subject, &identity.subject)
            && text(&self.name, &identity.name)
            && text(&self.project, &job.project)
            && text(&self.branch, &job.branch)
            && text(&self.environment, &job.environment)
            && text(&self.actor, &job.actor)
            && self.claims.as_ref().is_none_or(|claims| claims.hold(identity));
        match &self.groups {
            _ if !rest => Match::No,
            Some(groups) if !identity.groups.iter().any(|group| any(groups, group)) => {
                if identity.groups_known == GroupsKnown::All { Match::No } else { Match::May }
            }
            _ => Match::Must,
        }
    }
}

/// What is empty no glob takes in: `*` is any branch, and not none.
fn any(patterns: &OneOrMany<Text>, text: &str) -> bool {
    !text.is_empty() && patterns.0.iter().any(|pattern| pattern.matches(text))
}

impl Claims {
    fn hold(&self, identity: &Verified) -> bool {
        self.0.iter().all(|(name, patterns)| match identity.claim(name) {
            Some(Json::Array(list)) => list.iter().any(|value| claim(patterns, value)),
            Some(value) => claim(patterns, value),
            None => false,
        })
    }
}

fn claim(patterns: &OneOrMany<Text>, value: &Json) -> bool {
    match value {
        Json::String(text) => any(patterns, text),
        Json::Bool(_) | Json::Number(_) => any(patterns, &value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => false,
    }
}

/// An identity that is needed, and what is said where it is lacking.
#[derive(Debug)]
pub(crate) struct Needed {
    kind: RequiredKind,
    issuer: Option<OneOrMany<Text>>,
    pub(crate) message: Arc<str>,
}

impl Needed {
    pub(crate) fn new(Require(required): Require) -> Self {
        let kind = required.kind.unwrap_or(RequiredKind::Any);
        let issuers = required.issuer.as_ref().map_or_else(String::new, |issuers| {
            let names: Vec<&str> = issuers.0.iter().map(Text::pattern).collect();
            format!(" of {}", names.join(" or "))
        });
        let message = match (required.message, kind) {
            (Some(message), _) => message.0,
            (None, RequiredKind::Person) => {
                format!(
                    "a person{issuers} has to stand behind this: run `interlock login`, then connect again"
                )
            }
            (None, RequiredKind::Workload) => {
                format!("this needs a job with a token{issuers} that this host can verify (docs/identity.md)")
            }
            (None, RequiredKind::Any) => format!(
                "this needs a verified identity{issuers}: run `interlock login`, or run it in a job with a \
                 token that this host can verify (docs/identity.md)"
            ),
        };
        Self { kind, issuer: required.issuer, message: message.into() }
    }

    /// `person of okta`, for people.
    pub(crate) fn words(&self) -> String {
        let kind = super::facts::word(&self.kind);
        let Some(issuers) = &self.issuer else { return kind };
        let names: Vec<&str> = issuers.0.iter().map(Text::pattern).collect();
        format!("{kind} of {}", names.join(" or "))
    }

    /// The subject has one.
    pub(crate) fn is_met(&self, subject: &Subject) -> bool {
        let (person, workload) = match self.kind {
            RequiredKind::Person => (&subject.person, &None),
            RequiredKind::Workload => (&None, &subject.workload),
            RequiredKind::Any => (&subject.person, &subject.workload),
        };
        let issued = |identity: &Arc<Verified>| {
            self.issuer.as_ref().is_none_or(|issuers| any(issuers, &identity.issuer_name))
        };
        person.iter().chain(workload).any(issued)
    }

    /// What the client is told: how to get one, and what was wrong with what it has.
    pub(crate) fn told(message: &str, subject: &Subject) -> String {
        let why: Vec<&str> = subject
            .missing
            .iter()
            .filter(|missing| missing.starts_with("person:") || missing.starts_with("workload:"))
            .map(String::as_str)
            .collect();
        if why.is_empty() { message.to_owned() } else { format!("{message} ({})", why.join("; ")) }
    }
}

/// The keys of an identity as test cases and `policy explain` take them.
const FIELDS: &[&str] =
    &["issuer", "subject", "name", "groups", "project", "branch", "environment", "actor", "claims.NAME"];

/// Sets a field of a made-up identity.
///
/// # Errors
/// There is no such field.
pub(crate) fn set(
    identity: &mut Option<Arc<Verified>>,
    kind: IdentityKind,
    field: &str,
    value: &str,
) -> Result<(), String> {
    let made = Arc::make_mut(identity.get_or_insert_with(|| Arc::new(Verified::example(kind))));
    let text = value.to_owned();
    match field {
        "issuer" => made.issuer_name = value.into(),
        "subject" => made.subject = text,
        "name" => made.name = text,
        "groups" | "group" => made.groups.push(text),
        "project" => made.job.project = text,
        "branch" => made.job.branch = text,
        "environment" => made.job.environment = text,
        "actor" => made.job.actor = text,
        _ => match field.strip_prefix("claims.") {
            Some(name) => drop(made.claims.insert(name.to_owned(), text.into())),
            None => {
                let help = suggestion(field, FIELDS.iter().copied());
                return Err(format!("`{}.{field}` is no field of an identity; {help}", kind.word()));
            }
        },
    }
    Ok(())
}
