//! What a policy file can say. The documentation of these fields is the reference: the JSON Schema
//! is made from it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::approval::Approval;
use super::decode::{At, Decode, Decoder, OneOrMany, record, words};
use super::pattern::{ColumnName, Match, Name, Setting, Text};
use super::schedule::Schedule;
use super::values::{
    Account, CgroupPath, Count, ExePath, HostName, Message, Net, Ports, RuleName, RunName, SliceName,
    UnitName,
};
use super::when::{FlowWhen, When};
use super::who::{IdentityMatcher, Require};
use super::yaml::{Node, Value};
use super::{Destination, Egress, Verdict};
use crate::identity::Subject;
use crate::mask::{Detector, Transform};
use crate::operation::Protocol;
use crate::sql::{Class, Kind, Limit, Where};

record! {
    /// One policy: which processes it is about, where they may connect, and what they may do there.
    pub(crate) struct File {
        /// The version of this format: `1`.
        #[allow(dead_code, reason = "checked while decoding")]
        version: At<Version>,
        /// What this policy is for, for people.
        #[allow(dead_code, reason = "for people")]
        description: Option<String>,
        /// Whether verdicts and masks take effect, `enforce` (when left out), or are only worked out and
        /// recorded, `observe`.
        mode: Option<Mode>,
        /// What happens to a statement that no enforced rule of this file matches; `allow` when left out.
        default: Option<Open>,
        /// The processes that this policy takes in: any of these entries; the keys within one must all hold.
        processes: Vec<At<Process>>,
        /// The connections that the rules and masks are about: any of these; every TCP connection when left
        /// out.
        destinations: Option<OneOrMany<At<Target>>>,
        /// What becomes of every other connection that these processes open, TCP and UDP: `allow` (when
        /// left out), `record` or `deny`.
        egress: Option<Egress>,
        /// Whether name look-ups at the host's configured resolvers stay allowed under `egress: deny`;
        /// `allow` when left out. Data can leave by names that are looked up: `deny` it where the
        /// processes need no names.
        resolvers: Option<Open>,
        /// Whether connections that are not encrypted, from the client to the agent or from there to the
        /// server, are let through; `allow` when left out.
        plaintext: Option<Open>,
        /// The verified identity that these processes need for these destinations: `person`, `workload`,
        /// `any`, or a mapping. Without one they are refused, at the start of a connection and on every
        /// command once it has expired.
        require_identity: Option<Require>,
        /// The rules. All that match count: `deny` beats `hold` beats `allow`.
        rules: Vec<At<Rule>>,
        /// What is masked in all that comes back.
        masks: Vec<At<Mask>>,
    }
}

record! {
    /// A way for a process to be taken in. All keys that are given must hold.
    pub(crate) struct Process {
        /// A systemd unit, such as `gitlab-runner.service`: processes in a cgroup of this name or below.
        unit: Option<UnitName>,
        /// A systemd slice, such as `ci.slice`: processes in a cgroup of this name or below.
        slice: Option<SliceName>,
        /// A cgroup, as a path below the cgroup2 mount: processes in it or below.
        cgroup: Option<CgroupPath>,
        /// The real user, by name or number.
        user: Option<Account>,
        /// The real group, by name or number.
        group: Option<Account>,
        /// An executable or script, by absolute path.
        exe: Option<ExePath>,
        /// Processes started by `interlock run --as NAME`; `"*"` is any name.
        run: Option<RunName>,
        /// Whether what such a process starts is taken in too, whatever becomes of the process itself;
        /// `true` when left out.
        descendants: Option<bool>,
    }
}

record! {
    /// A set of connections. All keys that are given must hold.
    pub(crate) struct Target {
        /// A host name. The agent looks it up now and then; a connection is to it when its address is one
        /// of the answers. While there has been no answer, every address on the port counts.
        host: Option<HostName>,
        /// A network, `10.0.0.0/8`, or one address.
        cidr: Option<OneOrMany<Net>>,
        /// A port, a small range `"5432-5439"`, or a list of them; any port when left out.
        port: Option<OneOrMany<Ports>>,
        /// The protocol spoken there. When left out it is told from port 5432 or from the first bytes.
        protocol: Option<Protocol>,
        /// What becomes of TLS there: `intercept` (it is ended and read), `passthrough` (it is passed on
        /// and recorded as not inspected) or `deny`. When left out it is read where the protocol in it is
        /// known; what is not known is recorded, and treated as `egress` says.
        tls: Option<TlsAction>,
    }
}

record! {
    /// A rule: what it matches, and what happens then.
    pub(crate) struct Rule {
        /// Its name, once in all files. Refusals and recordings bear it.
        name: At<RuleName>,
        /// What it does, for people.
        #[allow(dead_code, reason = "for people")]
        description: Option<String>,
        /// What it matches; all keys that are given must hold. Everything when left out.
        #[schemars(rename = "match")]
        r#match: Option<Matcher>,
        /// A further condition in CEL, looked at when `match` holds. One that cannot be answered holds for
        /// `deny` and `hold`, and does not for `allow`.
        when: Option<When>,
        /// What happens: `allow`, `deny` or `hold`.
        action: At<Verdict>,
        /// For `hold`: who may approve it, and how. Without it what is held is refused.
        approval: Option<At<Approval>>,
        /// The verified identity that what this rule matches needs. Where it is lacking the rule's action is
        /// `deny`.
        require_identity: Option<Require>,
        /// What the client is told when it is refused.
        message: Option<Message>,
        /// `observe` has this rule only worked out and recorded, in a policy that is enforced.
        mode: Option<Mode>,
    }
}

record! {
    /// What a rule matches. All keys that are given must hold; of a list any.
    pub(crate) struct Matcher {
        /// What the statement does. All of it must hold for one and the same statement.
        sql: Option<SqlMatcher>,
        /// The database user that the client logged in as.
        user: Option<OneOrMany<Text>>,
        /// The database that the client logged in to.
        database: Option<OneOrMany<Text>>,
        /// The process behind the connection.
        subject: Option<SubjectMatcher>,
        /// The verified person or workload behind the process. Where there is none at all, rules that refuse
        /// apply and rules that allow do not.
        identity: Option<IdentityMatcher>,
        /// The same turned round: none of them is so. Where there is none at all, as for `identity`.
        not_identity: Option<IdentityMatcher>,
        /// When it happens.
        time: Option<OneOrMany<Schedule>>,
    }
}

record! {
    /// What a statement does, wherever in it: in a CTE, a subquery, under EXPLAIN ANALYZE or PREPARE, in
    /// a DO block or a function's body.
    pub(crate) struct SqlMatcher {
        /// Its kind: `select`, `drop_table`, `unparsed` …
        kind: Option<OneOrMany<Kind>>,
        /// What it amounts to: `read`, `write`, `ddl`, `privilege`, `admin`, `session` or `external`.
        class: Option<OneOrMany<Class>>,
        /// Tables, views and the like that it reads or writes.
        tables: Option<OneOrMany<Name>>,
        /// Tables, views and the like that it reads.
        reads: Option<OneOrMany<Name>>,
        /// Tables, views and the like that it writes, creates, alters or drops.
        writes: Option<OneOrMany<Name>>,
        /// Columns that it reads or writes.
        columns: Option<OneOrMany<ColumnName>>,
        /// Columns that it reads.
        columns_read: Option<OneOrMany<ColumnName>>,
        /// Functions that it calls.
        functions: Option<OneOrMany<Name>>,
        /// Its WHERE: `missing` (an always-true one included), `always_true` or `present`. With a `class`,
        /// `kind` or relations that are read alone, that of what it reads; with ones that are changed
        /// alone, that of what it changes; the weaker one otherwise.
        #[schemars(rename = "where")]
        r#where: Option<OneOrMany<Where>>,
        /// Its LIMIT: `missing` or `present`.
        limit: Option<OneOrMany<Limit>>,
        /// It may give more rows than this: its LIMIT is missing or a larger number.
        limit_over: Option<Count>,
        /// Whether it runs text that cannot be known before it runs.
        dynamic: Option<bool>,
        /// Whether it changes how the server splits later text into tokens.
        changes_lexing: Option<bool>,
        /// Settings that it changes. Case does not count.
        settings: Option<OneOrMany<Setting>>,
    }
}

record! {
    /// The process behind a connection, by globs.
    pub(crate) struct SubjectMatcher {
        /// Its executable, or the script that was executed, as far as the kernel saw it.
        exe: Option<OneOrMany<Text>>,
        /// Its real user's name.
        user: Option<OneOrMany<Text>>,
        /// Its real group's name.
        group: Option<OneOrMany<Text>>,
        /// Who logged in (the audit login user), where root has set it.
        login_user: Option<OneOrMany<Text>>,
        /// Its systemd unit.
        unit: Option<OneOrMany<Text>>,
        /// Its cgroup path.
        cgroup: Option<OneOrMany<Text>>,
        /// Its container's id.
        container: Option<OneOrMany<Text>>,
        /// The executable of any of its parents (a process can see to it that it has others).
        ancestor: Option<OneOrMany<Text>>,
        /// The CI job that it belongs to, as its environment claims.
        ci: Option<CiMatcher>,
    }
}

record! {
    /// A CI job, by globs. These are the job's own claims: who starts the process can set them.
    pub(crate) struct CiMatcher {
        /// `github_actions`, `gitlab`, `jenkins` or `buildkite`.
        system: Option<OneOrMany<Text>>,
        /// Repository or project.
        project: Option<OneOrMany<Text>>,
        /// Workflow or pipeline.
        pipeline: Option<OneOrMany<Text>>,
        /// Job name.
        job: Option<OneOrMany<Text>>,
        /// Branch or tag.
        branch: Option<OneOrMany<Text>>,
        /// Who triggered it.
        actor: Option<OneOrMany<Text>>,
    }
}

record! {
    /// What is masked, and how. Of several masks on one value the strictest applies.
    pub(crate) struct Mask {
        /// Its name, once in all files. Recordings bear it.
        name: At<RuleName>,
        /// What it is for, for people.
        #[allow(dead_code, reason = "for people")]
        description: Option<String>,
        /// Columns, by where their values come from, whatever the statement calls them.
        columns: Option<OneOrMany<ColumnName>>,
        /// Detectors that look through values of any column.
        detect: Option<OneOrMany<Detector>>,
        /// What a value becomes: `redact`, `hash`, `null`, or `{partial: {keep_first: N, keep_last: N}}`.
        with: At<Transform>,
        /// Whose values it masks: those of what the verified person or workload behind the process asks for. Where
        /// there is none at all they are masked.
        identity: Option<IdentityMatcher>,
        /// The same turned round: all are masked but theirs. Where there is none at all, as for `identity`.
        not_identity: Option<IdentityMatcher>,
        /// A condition in CEL, looked at when the connection is made. One that cannot be answered holds.
        when: Option<FlowWhen>,
        /// `observe` has this mask applied to what is recorded alone, in a policy that is enforced.
        mode: Option<Mode>,
    }
}

impl Mask {
    /// Whether it is for what this subject asks for there. Where that is not known, it is.
    pub(crate) fn applies(&self, subject: &Subject, destination: &Destination) -> bool {
        self.identity.as_ref().is_none_or(|matcher| matcher.matches(subject) >= Match::May)
            && self.not_identity.as_ref().is_none_or(|matcher| matcher.matches_not(subject) >= Match::May)
            && self.when.as_ref().is_none_or(|when| when.holds(subject, destination).unwrap_or(true))
    }
}

record! {
    /// The ends of a value that stay.
    pub(crate) struct Kept {
        /// Characters kept at the start.
        keep_first: Option<u16>,
        /// Characters kept at the end.
        keep_last: Option<u16>,
    }
}

/// Whether something takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is worked out and recorded only.
    Observe,
}

/// What becomes of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TlsAction {
    /// It is ended and read.
    Intercept,
    /// It is passed on and recorded as not inspected.
    Passthrough,
    /// It is refused.
    Deny,
}

/// Whether something is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Open {
    /// It is.
    #[default]
    Allow,
    /// It is not.
    Deny,
}

words! {
    Mode: "a mode" [Enforce, Observe];
    Open: "allow or deny" [Allow, Deny];
    TlsAction: "what can become of TLS" [Intercept, Passthrough, Deny];
    Verdict: "an action" [Allow, Deny, Hold];
    Egress: "what can become of a connection" [Allow, Record, Deny];
    Protocol: "a protocol" [Postgres], hint |word: &str| {
        matches!(word, "postgresql" | "pg" | "psql").then(|| "write `postgres`".to_owned())
    };
    Class: "a class of statements" [Read, Write, Ddl, Privilege, Admin, Session, External], hint |word: &str| {
        let known = super::decode::serde_words(Kind::ALL).iter().any(|(kind, _)| kind == word);
        known.then(|| format!("it is a kind: write `kind: {word}`"))
    };
    Kind: "a kind of statement" = super::decode::serde_words(Kind::ALL), hint |word: &str| {
        let classes = <Class as super::decode::Word>::words();
        let class = classes.iter().any(|(class, _)| class == word);
        class.then(|| format!("it is a class: write `class: {word}`"))
    };
    Where: "what can be said of a WHERE" [Missing, AlwaysTrue, Present];
    Limit: "what can be said of a LIMIT" [Missing, Present];
    Detector: "a detector" = super::decode::serde_words(
        &Detector::ALL.iter().map(|(detector, _)| *detector).collect::<Vec<_>>()
    );
}

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version;

impl Decode for Version {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if node.value == Value::Int(1) {
            return Some(Self);
        }
        decoder.error_help(
            node.at,
            format!("{} is no version that this agent reads", node.describe()),
            "write `version: 1`",
        );
        None
    }
}

impl schemars::JsonSchema for Version {
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"const": 1})
    }
}

impl Decode for Transform {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const HELP: &str = "write `redact`, `hash`, `null` or `{partial: {keep_last: 4}}`";
        match &node.value {
            Value::Null => return Some(Self::Null),
            Value::String(word) => match word.as_str() {
                "redact" => return Some(Self::Redact),
                "hash" => return Some(Self::Hash),
                "null" => return Some(Self::Null),
                "partial" => {
                    decoder.error_help(
                        node.at,
                        "`partial` needs what to keep",
                        "write `{partial: {keep_last: 4}}`",
                    );
                    return None;
                }
                _ => {}
            },
            Value::Map(_) => {
                let map = super::decode::mapping(node, &["partial"], decoder)?;
                let kept: Kept = super::decode::field(map, "partial", node.at, decoder)?;
                let (keep_first, keep_last) =
                    (kept.keep_first.unwrap_or_default(), kept.keep_last.unwrap_or_default());
                return Some(Self::Partial { keep_first, keep_last });
            }
            _ => {}
        }
        decoder.error_help(node.at, format!("{} is no way of masking", node.describe()), HELP);
        None
    }
}
