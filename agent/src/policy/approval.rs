//! Who may approve what a rule holds, and how: the key `approval` of a rule, and the terms made of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::decode::{Decode, Decoder, OneOrMany, record, words};
use super::schedule::Schedule;
use super::values::GroupName;
use super::yaml::{Node, Value, shortened};

/// How long a request is open when the rule does not say.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// The longest that an approval of a shape lasts when the rule does not say.
const SHAPE_FOR: Duration = Duration::from_secs(30 * 60);

/// The longest time that can be written: a day.
const LONGEST: u64 = 24 * 60 * 60;

/// Most groups of one rule, and most approvers.
const MOST: u8 = 16;

/// What an approval covers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The one command.
    Once,
    /// Commands of this shape by this subject, for a time.
    Shape,
    /// What the same rules hold in this session from here on.
    Session,
}

impl Scope {
    /// Its word in policies, recordings and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Shape => "shape",
            Self::Session => "session",
        }
    }
}

/// Whether an approver has to say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// They need not.
    #[default]
    Optional,
    /// They have to.
    Required,
}

/// What must be known of approvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Proof {
    /// That they are in a group.
    #[default]
    Any,
    /// That an identity provider has verified who they are.
    Verified,
}

/// Where people decide.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// On the host, over the control socket.
    Host,
    /// At the collector that the host ships to.
    Collector,
}

impl Way {
    /// Its word in policies and recordings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Collector => "collector",
        }
    }
}

words! {
    Proof: "who an approver must be" [Any, Verified];
    Scope: "what an approval can cover" [Once, Shape, Session];
    Reason: "whether a reason is needed" [Optional, Required];
    Way: "where people approve" [Host, Collector];
}

record! {
    /// Who may approve what the rule holds, and how. A rule that holds and has no `approval` refuses.
    pub(crate) struct Approval {
        /// Groups of this host: their members may approve, and refuse.
        groups: OneOrMany<GroupName>,
        /// How many people must approve; 1 when left out, or one of each group with `all_of`.
        needed: Option<People>,
        /// `true`: of every group one must approve, each of them somebody else.
        all_of: Option<bool>,
        /// How long the command waits, `90s`, `15m`, `2h`; 15m when left out. Then it is refused.
        within: Option<Span>,
        /// Whether approvers must say why: `required` or `optional` (when left out). Who refuses always must.
        reason: Option<Reason>,
        /// What approvers may choose to approve: `once` (always among them), `shape` (commands of this
        /// shape, by this subject, for a time) and `session` (what the rule holds in this session).
        scopes: Option<OneOrMany<Scope>>,
        /// The longest that a `shape` may be approved for; 30m when left out.
        shape_for: Option<Span>,
        /// When approvals can be asked for; outside of it the command is refused at once. Always when left out.
        hours: Option<OneOrMany<Schedule>>,
        /// Where approvals count: `host` (`interlock approvals`), `collector` (its inbox). Left out, wherever
        /// `agent.yaml` lets them: on the host always, at the collector with `approvals: {collector: decide}`.
        via: Option<OneOrMany<Way>>,
        /// An approver must have signed in no longer ago: `10m`. Whenever, when left out.
        fresh: Option<Span>,
        /// `verified`: approvals count only of people whom an identity provider has verified: on the host of who has
        /// signed in with `interlock login`, at the collector of a provider's account. `any` when left out.
        approver: Option<Proof>,
        /// `true`: whoever asks may let the command through without approval, with a reason. It is recorded as
        /// such and needs a review.
        break_glass: Option<bool>,
        /// `true`: approvers are shown how many rows the server expects a statement to touch. It is asked to plan
        /// the statement, which runs nothing of it but can run functions that are said to be immutable.
        estimate: Option<bool>,
    }
}

/// A number of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct People(u8);

impl Decode for People {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if let Value::Int(number) = node.value
            && let Ok(number) = u8::try_from(number)
            && (1..=MOST).contains(&number)
        {
            return Some(Self(number));
        }
        let message = format!("expected a number of people from 1 to {MOST}, found {}", node.describe());
        decoder.error_help(node.at, message, "write how many must approve, such as `needed: 2`");
        None
    }
}

impl schemars::JsonSchema for People {
    fn schema_name() -> Cow<'static, str> {
        "People".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": MOST})
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(Duration);

/// Reads `90s`, `15m`, `2h`.
fn span(text: &str) -> Option<Duration> {
    let number = text.strip_suffix(['s', 'm', 'h'])?;
    let unit = match text.as_bytes().last()? {
        b'h' => 60 * 60,
        b'm' => 60,
        _ => 1,
    };
    let plain = !number.is_empty() && number.len() <= 5 && number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = plain.then(|| number.parse::<u64>().ok())??.checked_mul(unit)?;
    (1..=LONGEST).contains(&seconds).then(|| Duration::from_secs(seconds))
}

impl Decode for Span {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = match &node.value {
            Value::String(text) => text.as_str(),
            _ => "",
        };
        if let Some(span) = span(text) {
            return Some(Self(span));
        }
        let message = if text.is_empty() {
            format!("expected a length of time, found {}", node.describe())
        } else {
            format!("`{}` is no length of time up to a day", shortened(text))
        };
        decoder.error_help(node.at, message, "write a number with its unit: `90s`, `15m` or `2h`");
        None
    }
}

impl schemars::JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9]{1,5}[smh]$",
            "description": "A length of time with its unit: `90s`, `15m`, `2h`; a day at most.",
        })
    }
}

impl Approval {
    /// What it says that cannot be meant.
    pub(crate) fn problem(&self) -> Option<(String, &'static str)> {
        let groups = self.groups.0.len();
        if groups > usize::from(MOST) {
            return Some((format!("{groups} groups of approvers, more than {MOST}"), "name fewer groups"));
        }
        let mut names: Vec<_> = self.groups.0.iter().map(|group| &group.0).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() < groups {
            return Some(("a group of approvers stands twice".to_owned(), "name each group once"));
        }
        let shape = self.scopes.as_ref().is_some_and(|scopes| scopes.0.contains(&Scope::Shape));
        if self.shape_for.is_some() && !shape {
            let message = "`shape_for` says how long a shape is approved for, and `scopes` has no `shape`";
            return Some((message.to_owned(), "write `scopes: [once, shape]`"));
        }
        None
    }

    /// The terms of the rule `name`.
    pub(crate) fn terms(self, name: &Arc<str>) -> Terms {
        let groups: Box<[Arc<str>]> = self.groups.0.into_iter().map(|group| group.0.into()).collect();
        let all_of = self.all_of == Some(true);
        let least = if all_of { groups.len() } else { 1 };
        let needed = self.needed.map_or(least, |people| usize::from(people.0)).max(least);
        let mut scopes: Vec<Scope> = self.scopes.map(|scopes| scopes.0).unwrap_or_default();
        scopes.push(Scope::Once);
        scopes.sort_unstable();
        scopes.dedup();
        let mut via: Vec<Way> = self.via.map(|via| via.0).unwrap_or_default();
        via.sort_unstable();
        via.dedup();
        let via = via.into();
        Terms {
            quorums: Box::new([Quorum { rule: Arc::clone(name), groups, needed, all_of, via }]),
            within: self.within.map_or(WITHIN, |span| span.0),
            reason_required: self.reason == Some(Reason::Required),
            scopes: scopes.into(),
            shape_for: self.shape_for.map_or(SHAPE_FOR, |span| span.0),
            hours: self.hours.map(|hours| Box::new([hours.0.into()]) as Box<[Hours]>).unwrap_or_default(),
            fresh: self.fresh.map(|span| span.0),
            verified: self.approver == Some(Proof::Verified),
            break_glass: self.break_glass == Some(true),
            estimate: self.estimate == Some(true),
        }
    }
}

/// Windows of which one must be open.
type Hours = Arc<[Schedule]>;

/// The approvers that one rule asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quorum {
    /// The rule.
    pub rule: Arc<str>,
    /// Groups of the host whose members may approve.
    pub groups: Box<[Arc<str>]>,
    /// How many people must.
    pub needed: usize,
    /// Of every group one must, each of them somebody else.
    pub all_of: bool,
    /// Where approvals count; anywhere, when there is none.
    pub via: Box<[Way]>,
}

impl Quorum {
    /// An approval that is given there counts, if the host lets it.
    pub fn takes(&self, way: Way) -> bool {
        self.via.is_empty() || self.via.contains(&way)
    }
}

/// What has to be fulfilled for a held operation to be approved: what all rules that hold it say together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// The approvers that each of the rules asks for; all have to be fulfilled.
    pub quorums: Box<[Quorum]>,
    /// How long a request is open.
    #[serde(rename = "within_seconds", serialize_with = "seconds")]
    pub within: Duration,
    /// An approver has to say why.
    pub reason_required: bool,
    /// What an approver may choose, `once` always among them.
    pub scopes: Box<[Scope]>,
    /// The longest that a shape may be approved for.
    #[serde(rename = "shape_for_seconds", serialize_with = "seconds")]
    pub shape_for: Duration,
    /// When it may be asked for: of each list one window must be open. Always, when there is none.
    #[serde(skip)]
    pub(crate) hours: Box<[Hours]>,
    /// An approver must have signed in no longer ago.
    #[serde(rename = "fresh_seconds", serialize_with = "seconds_if_any")]
    pub fresh: Option<Duration>,
    /// An identity provider must have verified who an approver is.
    pub verified: bool,
    /// Whoever asks may let it through unapproved.
    pub break_glass: bool,
    /// Approvers are shown how many rows the server expects it to touch.
    pub estimate: bool,
}

fn seconds<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(span.as_secs())
}

fn seconds_if_any<S: serde::Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs()).serialize(serializer)
}

impl Terms {
    /// Both have to be fulfilled.
    pub(crate) fn and(self, other: &Self) -> Self {
        let others_hours = other.hours.iter().filter(|hours| !self.hours.contains(hours));
        let further = other.quorums.iter().filter(|quorum| !self.quorums.contains(quorum));
        Self {
            quorums: self.quorums.iter().chain(further).cloned().collect(),
            within: self.within.min(other.within),
            reason_required: self.reason_required || other.reason_required,
            scopes: self.scopes.iter().filter(|scope| other.scopes.contains(scope)).copied().collect(),
            shape_for: self.shape_for.min(other.shape_for),
            hours: self.hours.iter().chain(others_hours).cloned().collect(),
            fresh: [self.fresh, other.fresh].into_iter().flatten().min(),
            verified: self.verified || other.verified,
            break_glass: self.break_glass && other.break_glass,
            estimate: self.estimate || other.estimate,
        }
    }

    /// Approvals can be asked for at this time.
    pub fn open_at(&self, now: Timestamp) -> bool {
        self.hours.iter().all(|hours| hours.iter().any(|window| window.contains(now)))
    }

    /// Every group of approvers, once.
    pub fn groups(&self) -> Vec<&Arc<str>> {
        let mut groups: Vec<_> = self.quorums.iter().flat_map(|quorum| &quorum.groups).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// The names of the rules.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<str>> {
        self.quorums.iter().map(|quorum| &quorum.rule)
    }

    /// Who has to approve, in words: `2 of dba or oncall`.
    pub fn words(&self) -> String {
        let quorum = |quorum: &Quorum| {
            let many = quorum.groups.len() > 1;
            let groups = quorum.groups.join(if quorum.all_of { " and " } else { " or " });
            let groups = match &*quorum.via {
                [Way::Host] => format!("{groups} on this host"),
                [Way::Collector] => format!("{groups} at the collector"),
                _ => groups,
            };
            match (quorum.all_of, quorum.needed) {
                (true, needed) if many && needed == quorum.groups.len() => format!("one each of {groups}"),
                (true, needed) if many => format!("{needed}, one each of {groups} among them"),
                (_, 1) => format!("one of {groups}"),
                (_, needed) => format!("{needed} of {groups}"),
            }
        };
        let who = self.quorums.iter().map(quorum).collect::<Vec<_>>().join(", and ");
        if self.verified { format!("{who}, verified by an identity provider") } else { who }
    }
}

#[cfg(test)]
impl Terms {
    /// One of the group `dba` within a minute, in any scope.
    pub(crate) fn sample() -> Self {
        let rule = Quorum::sample("dba");
        Self {
            quorums: Box::new([rule]),
            within: Duration::from_secs(60),
            reason_required: false,
            scopes: Box::new([Scope::Once, Scope::Shape, Scope::Session]),
            shape_for: SHAPE_FOR,
            hours: Box::default(),
            fresh: None,
            verified: false,
            break_glass: false,
            estimate: false,
        }
    }
}

#[cfg(test)]
impl Quorum {
    /// One of a group.
    pub(crate) fn sample(group: &str) -> Self {
        let groups = Box::new([group.into()]);
        Self { rule: "r".into(), groups, needed: 1, all_of: false, via: Box::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::set;
    use super::*;
    use crate::policy::{Decision, Destination};

    fn hold(approval: &str) -> String {
        format!(
            "version: 1\nprocesses: [{{run: x}}]\nrules:\n  - {{name: a, action: hold, approval: {approval}}}\n"
        )
    }

    fn decision(text: &str) -> Decision {
        let destination = Destination { address: ([10, 0, 0, 1], 5432).into(), hosts: Vec::new() };
        let subject = crate::identity::Subject::default();
        set(text).flow_of_all(&subject, &destination).decide(&crate::policy::sample_operation(), &subject)
    }

    #[test]
    fn what_is_left_out_has_a_value() {
        let terms = decision(&hold("{groups: dba}")).approval.unwrap();
        assert_eq!((terms.within, terms.shape_for), (WITHIN, SHAPE_FOR));
        assert_eq!(
            (&*terms.scopes, terms.reason_required, terms.break_glass),
            (&[Scope::Once][..], false, false)
        );
        assert_eq!(terms.words(), "one of dba");
        assert_eq!((terms.fresh, &*terms.quorums[0].via), (None, &[][..]));
        let terms = decision(&hold("{groups: dba, via: collector, fresh: 10m}")).approval.unwrap();
        assert_eq!(
            (terms.fresh, terms.words()),
            (Some(Duration::from_secs(600)), "one of dba at the collector".into())
        );
        assert!(terms.quorums[0].takes(Way::Collector) && !terms.quorums[0].takes(Way::Host));
        assert!(
            !terms.verified && !decision(&hold("{groups: dba, approver: any}")).approval.unwrap().verified
        );
        let terms = decision(&hold("{groups: dba, approver: verified, fresh: 10m}")).approval.unwrap();
        assert_eq!(
            (terms.verified, terms.words()),
            (true, "one of dba, verified by an identity provider".to_owned())
        );
        let terms = decision(&hold("{groups: [dba, oncall], all_of: true, scopes: shape}")).approval.unwrap();
        assert_eq!(
            (terms.words(), &*terms.scopes),
            ("one each of dba and oncall".into(), &[Scope::Once, Scope::Shape][..])
        );
    }

    #[test]
    fn of_several_rules_all_have_to_be_fulfilled() {
        let text = "version: 1\nprocesses: [{run: x}]\nrules:
  - {name: a, action: hold, approval: {groups: dba, within: 2h, scopes: [shape, session], break_glass: true}}
  - {name: b, action: hold, approval: {groups: [sec, dba], needed: 2, within: 90s, scopes: session, reason: required}}
  - {name: c, action: hold, mode: observe, approval: {groups: none, approver: verified}}
";
        let terms = decision(text).approval.unwrap();
        assert_eq!(terms.words(), "one of dba, and 2 of sec or dba");
        assert_eq!(
            (terms.within, &*terms.scopes),
            (Duration::from_secs(90), &[Scope::Once, Scope::Session][..])
        );
        assert!(terms.reason_required && !terms.break_glass);
        // What one rule wants of approvers holds for those of all.
        assert!(!terms.verified);
        let with = decision(&format!(
            "{text}  - {{name: e, action: hold, approval: {{groups: sec, approver: verified}}}}\n"
        ));
        assert!(with.approval.unwrap().verified);
        // One that nobody may approve closes it for all.
        let text = format!("{text}  - {{name: d, action: hold}}\n");
        assert_eq!(decision(&text).approval, None);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (approval, told) in [
            ("{}", "`groups` is missing"),
            ("{groups: []}", "this list is empty"),
            ("{groups: dba, needed: 0}", "expected a number of people"),
            ("{groups: dba, within: 15}", "expected a length of time"),
            ("{groups: dba, within: 25h}", "is no length of time up to a day"),
            ("{groups: dba, within: 0s}", "is no length of time up to a day"),
            ("{groups: dba, scopes: always}", "is not what an approval can cover"),
            ("{groups: dba, via: chat}", "is not where people approve"),
            ("{groups: dba, via: []}", "this list is empty"),
            ("{groups: dba, approver: me}", "is not who an approver must be"),
            ("{groups: dba, fresh: never}", "is no length of time up to a day"),
            ("{groups: dba, shape_for: 1m}", "`scopes` has no `shape`"),
            ("{groups: [dba, dba]}", "stands twice"),
            ("{groups: 'a b'}", "cannot be a group"),
        ] {
            let errors =
                crate::policy::parse_str("p.yaml", &hold(approval)).map(drop).unwrap_err().to_string();
            assert!(errors.contains(told), "{approval}: {errors}");
        }
        let deny = hold("{groups: dba}").replace("hold", "deny");
        let errors = crate::policy::parse_str("p.yaml", &deny).map(drop).unwrap_err().to_string();
        assert!(errors.contains("only what is held can be approved"), "{errors}");
    }

    #[test]
    fn hours_close() {
        let text = hold("{groups: dba, hours: {days: [mon], from: '08:00', to: '18:00'}}");
        let terms = decision(&text).approval.unwrap();
        // 2026-01-05 is a Monday.
        assert!(terms.open_at("2026-01-05T12:00:00Z".parse().unwrap()));
        assert!(!terms.open_at("2026-01-06T12:00:00Z".parse().unwrap()));
    }
}
