//! Rules as they are decided by, and whether one matches.

use std::path::Path;
use std::sync::Arc;

use super::Verdict;
use super::approval::Terms;
use super::decode::OneOrMany;
use super::facts::Facts;
use super::file::{self, Matcher, Mode, SqlMatcher, SubjectMatcher};
use super::origin::Origin;
use super::pattern::{ColumnName, Match, Name, Text};
use super::problem::Position;
use super::when::When;
use super::who::Needed;
use crate::identity::Subject;
use crate::sql::{Bound, Class, Kind, Limit, Relation, Statement, Where};

/// One rule of a policy.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    pub(crate) at: Position,
    pub(crate) action: Verdict,
    pub(crate) message: Option<Arc<str>>,
    /// For one that holds: who may approve it.
    pub(crate) approval: Option<Arc<Terms>>,
    /// It is only worked out, by itself or because its whole policy is.
    pub(crate) observed: bool,
    pub(crate) matcher: Option<Matcher>,
    pub(crate) when: Option<When>,
    /// Where it is lacking, the rule refuses.
    pub(crate) needs: Option<Needed>,
}

impl Rule {
    pub(crate) fn new(rule: file::Rule, at: Position, policy: Mode, origin: &Origin) -> Self {
        let name = origin.name(&rule.name.value.0).into();
        Self {
            approval: rule.approval.map(|approval| Arc::new(approval.value.terms(&name))),
            name,
            at,
            action: rule.action.value,
            message: rule.message.map(|message| message.0.into()),
            observed: policy == Mode::Observe || rule.mode == Some(Mode::Observe),
            matcher: rule.r#match,
            when: rule.when,
            needs: rule.require_identity.map(Needed::new),
        }
    }

    /// How surely it must match to apply: one that refuses applies when it may.
    fn threshold(&self, subject: &Subject) -> Match {
        if self.verdict(subject) == Verdict::Allow { Match::Must } else { Match::May }
    }

    /// The subject has not the identity that this rule needs.
    pub(crate) fn lacks(&self, subject: &Subject) -> Option<&Needed> {
        self.needs.as_ref().filter(|needed| !needed.is_met(subject))
    }

    /// What happens to what it matches, if this subject asks.
    pub(crate) fn verdict(&self, subject: &Subject) -> Verdict {
        if self.lacks(subject).is_some() { Verdict::Deny } else { self.action }
    }

    /// It can apply to flows of this subject.
    pub(crate) fn concerns(&self, subject: &Subject) -> bool {
        let Some(matcher) = &self.matcher else { return true };
        let threshold = self.threshold(subject);
        matcher.subject.as_ref().is_none_or(|matcher| matcher.matches(subject) >= threshold)
            && matcher.identity.as_ref().is_none_or(|matcher| matcher.matches(subject) >= threshold)
            && matcher.not_identity.as_ref().is_none_or(|matcher| matcher.matches_not(subject) >= threshold)
    }

    /// It names this kind.
    pub(crate) fn names_kind(&self, kind: Kind) -> bool {
        let sql = self.matcher.as_ref().and_then(|m| m.sql.as_ref());
        sql.and_then(|sql| sql.kind.as_ref()).is_some_and(|kinds| kinds.0.contains(&kind))
    }

    /// Its answer may change with the hour.
    pub(crate) fn uses_time(&self) -> bool {
        self.matcher.as_ref().is_some_and(|m| m.time.is_some())
            || self.when.as_ref().is_some_and(When::uses_time)
    }

    /// Its answer may change with the bind parameters.
    pub(crate) fn uses_params(&self) -> bool {
        self.when.as_ref().is_some_and(When::uses_params)
    }

    /// Its answer may change with a bind parameter that stands in a LIMIT.
    pub(crate) fn bounds_rows(&self) -> bool {
        let sql = self.matcher.as_ref().and_then(|m| m.sql.as_ref());
        sql.is_some_and(|sql| sql.limit.is_some() || sql.limit_over.is_some())
    }

    /// What it asks of the operation, whichever statement is looked at, holds.
    pub(crate) fn admits(&self, facts: &Facts<'_>) -> bool {
        let Some(matcher) = &self.matcher else { return true };
        let operation = facts.operation;
        let text = |patterns: &Option<OneOrMany<Text>>, text: Option<&str>| {
            patterns.as_ref().is_none_or(|p| text.is_some_and(|text| any_text(p, text)))
        };
        text(&matcher.user, operation.map(|o| &*o.user))
            && text(&matcher.database, operation.map(|o| &*o.database))
            && matcher.time.as_ref().is_none_or(|times| times.0.iter().any(|time| time.contains(facts.now)))
    }

    /// It applies to the statement of `facts` (or to the operation as a whole, if that has none).
    /// [`Rule::admits`] and [`Rule::concerns`] are taken as given.
    pub(crate) fn applies(&self, facts: &Facts<'_>) -> bool {
        let sql = self.matcher.as_ref().and_then(|matcher| matcher.sql.as_ref());
        if let Some(sql) = sql {
            let Some(statement) = facts.statement else { return false };
            let params = facts.operation.map(|operation| &*operation.params).unwrap_or_default();
            if sql.matches(statement, params) < self.threshold(facts.subject) {
                return false;
            }
        }
        // Only now: this is by far the dearest part.
        let Some(when) = &self.when else { return true };
        when.holds(facts).unwrap_or_else(|error| {
            tracing::debug!(rule = %self.name, %error, "`when` gives no answer; the cautious one is taken");
            self.verdict(facts.subject) != Verdict::Allow
        })
    }
}

fn any_text(patterns: &OneOrMany<Text>, text: &str) -> bool {
    patterns.0.iter().any(|pattern| pattern.matches(text))
}

/// The best of `patterns`.
fn best<T>(patterns: &OneOrMany<T>, matches: impl Fn(&T) -> Match) -> Match {
    let mut best = Match::No;
    for pattern in &patterns.0 {
        best = best.max(matches(pattern));
        if best == Match::Must {
            break;
        }
    }
    best
}

fn relations<'r>(patterns: &OneOrMany<Name>, relations: impl Iterator<Item = &'r Relation>) -> Match {
    Match::of_several(relations.map(|relation| best(patterns, |pattern| pattern.relation(relation))))
}

impl SqlMatcher {
    /// How the statement matches: the least of what each key says. `params` are the bind parameters,
    /// none while they are not known.
    pub(crate) fn matches(&self, statement: &Statement, params: &[Option<String>]) -> Match {
        let mut least = Match::Must;
        // The cheap ones first; nothing further is looked at once one says no.
        let keys: [&dyn Fn() -> Option<Match>; 14] = [
            &|| self.dynamic.map(|dynamic| (statement.dynamic == dynamic).into()),
            &|| self.changes_lexing.map(|changes| (statement.changes_lexing == changes).into()),
            &|| {
                let asked = self.limit.as_ref()?;
                let limit = statement.limit.map(|_| match rows(statement, params) {
                    Rows::Unbounded => Limit::Missing,
                    Rows::AtMost(_) | Rows::Open => Limit::Present,
                });
                Some(limit.is_some_and(|limit| asked.0.contains(&limit)).into())
            },
            &|| {
                let most = self.limit_over?;
                let over = match rows(statement, params) {
                    Rows::Unbounded => statement.limit.is_some(),
                    Rows::AtMost(rows) => rows > most.0,
                    Rows::Open => false,
                };
                Some(over.into())
            },
            &|| self.r#where.as_ref().map(|asked| clause(asked, self.concerned(statement)).into()),
            &|| {
                let one = [statement.kind];
                let kinds = self.kind.as_ref()?;
                let each = |kind: &Kind| Match::from(kinds.0.contains(kind));
                Some(if statement.kinds.is_empty() {
                    Match::of_several(one.iter().map(each))
                } else {
                    Match::of_several(statement.kinds.iter().map(each))
                })
            },
            &|| {
                let classes = self.class.as_ref()?;
                Some(Match::of_several(
                    statement.classes.iter().map(|class| classes.0.contains(class).into()),
                ))
            },
            &|| {
                let patterns = self.settings.as_ref()?;
                // `*` is a setting that the text does not tell.
                let each = |name: &String| match name.as_str() {
                    "*" => Match::May,
                    name => patterns.0.iter().any(|pattern| pattern.matches(name)).into(),
                };
                Some(Match::of_several(statement.settings.iter().map(each)))
            },
            &|| Some(relations(self.reads.as_ref()?, statement.reads.iter())),
            &|| Some(relations(self.writes.as_ref()?, statement.writes.iter())),
            &|| {
                let both = statement.reads.iter().chain(&statement.writes);
                Some(relations(self.tables.as_ref()?, both))
            },
            &|| {
                let patterns = self.functions.as_ref()?;
                let each = |function| best(patterns, |pattern: &Name| pattern.function(function));
                Some(Match::of_several(statement.functions.iter().map(each)))
            },
            &|| columns(self.columns_read.as_ref()?, statement, false),
            &|| columns(self.columns.as_ref()?, statement, true),
        ];
        for key in keys {
            if let Some(matched) = key() {
                least = least.min(matched);
                if least == Match::No {
                    return Match::No;
                }
            }
        }
        // What text that is not known, or that cannot be read, does beyond the rest is unknown.
        let unknown = statement.dynamic && self.dynamic != Some(true)
            || statement.kinds.contains(&Kind::Unparsed)
                && self.kind.as_ref().is_none_or(|kinds| !kinds.0.contains(&Kind::Unparsed));
        if unknown { least.min(Match::May) } else { least }
    }

    /// Whether the other keys ask for what is read, and for what is changed.
    pub(crate) fn asks(&self) -> (bool, bool) {
        let kind =
            |asked: fn(&Kind) -> bool| self.kind.as_ref().is_some_and(|kinds| kinds.0.iter().any(asked));
        let class = |class| self.class.as_ref().is_some_and(|classes| classes.0.contains(&class));
        let reads = self.reads.is_some()
            || class(Class::Read)
            || kind(|kind| matches!(kind, Kind::Select | Kind::CopyTo | Kind::SelectInto));
        let writes = self.writes.is_some()
            || class(Class::Write)
            || kind(|kind| matches!(kind, Kind::Update | Kind::Delete | Kind::Merge));
        (reads, writes)
    }

    /// The WHERE that the other keys ask for: that of what is read, that of what is changed, or else the
    /// weaker one.
    fn concerned(&self, statement: &Statement) -> Option<Where> {
        match self.asks() {
            (true, false) => statement.where_read.or(statement.where_clause),
            (false, true) => statement.where_write.or(statement.where_clause),
            _ => statement.where_clause,
        }
    }
}

/// How the columns that it reads match, and with `written` those that it writes.
fn columns(patterns: &OneOrMany<ColumnName>, statement: &Statement, written: bool) -> Option<Match> {
    let tables = statement.reads.iter().chain(&statement.writes);
    let writes = statement.columns_written.iter().filter(|_| written);
    let columns = statement.columns_read.iter().chain(writes);
    let named = Match::of_several(
        columns.map(|column| best(patterns, |pattern| pattern.matches(column, tables.clone()))),
    );
    // Every relation of a schema is read: any column may be among them.
    let wholesale = statement
        .reads
        .iter()
        .filter(|relation| relation.name == "*")
        .map(|relation| best(patterns, |pattern| pattern.relation(relation)))
        .max()
        .unwrap_or(Match::No)
        .min(Match::May);
    Some(named.max(wholesale))
}

/// How many rows a query may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Unbounded,
    AtMost(u64),
    /// As many as a parameter says that is not known yet.
    Open,
}

fn rows(statement: &Statement, params: &[Option<String>]) -> Rows {
    if statement.limit != Some(Limit::Present) {
        return Rows::Unbounded;
    }
    let mut most = 0;
    let mut open = false;
    for bound in &statement.limit_rows {
        match bound {
            Bound::Rows(rows) => most = most.max(*rows),
            Bound::Parameter(_) if params.is_empty() => open = true,
            Bound::Parameter(number) => {
                let index = usize::try_from(*number).unwrap_or_default().checked_sub(1);
                let value = index.and_then(|index| params.get(index)).and_then(Option::as_deref);
                match value.and_then(parameter_rows) {
                    Some(rows) => most = most.max(rows),
                    None => return Rows::Unbounded,
                }
            }
        }
    }
    if open { Rows::Open } else { Rows::AtMost(most) }
}

/// A parameter as a number of rows: in digits, or the bytes of an integer whose type is not known.
fn parameter_rows(text: &str) -> Option<u64> {
    let from_bytes = |bytes: &[u8]| match bytes.len() {
        2 | 4 | 8 => Some(bytes.iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte))),
        _ => None,
    };
    if let Some(rows) = Bound::rows(text) {
        return Some(rows);
    }
    match text.strip_prefix("\\x") {
        Some(hex) if hex.len() % 2 == 0 && hex.len() <= 16 => {
            u64::from_str_radix(hex, 16).ok().filter(|_| matches!(hex.len(), 4 | 8 | 16))
        }
        _ if text.starts_with('\0') => from_bytes(text.as_bytes()),
        _ => None,
    }
}

/// `missing` takes in a WHERE that is always true.
fn clause(asked: &OneOrMany<Where>, clause: Option<Where>) -> bool {
    match clause {
        None => false,
        Some(Where::AlwaysTrue) => asked.0.iter().any(|w| matches!(w, Where::Missing | Where::AlwaysTrue)),
        Some(clause) => asked.0.contains(&clause),
    }
}

impl SubjectMatcher {
    /// How the subject matches. What could not be found out or verified may match.
    pub(crate) fn matches(&self, subject: &Subject) -> Match {
        // `missing` says what, up to the colon; of a process that had gone, nearly all.
        let unknown = |what: &str| {
            let named = |missing: &String| {
                let name = missing.split(':').next().unwrap_or_default();
                name == what || name == "process"
            };
            if subject.missing.iter().any(named) { Match::May } else { Match::No }
        };
        let text = |patterns: &Option<OneOrMany<Text>>, text: &str, what: &str| match patterns {
            None => Match::Must,
            Some(patterns) if any_text(patterns, text) => Match::Must,
            Some(_) if text.is_empty() => unknown(what),
            Some(_) => Match::No,
        };
        let path =
            |patterns: &Option<OneOrMany<Text>>, path: &Path| text(patterns, &path.to_string_lossy(), "exe");
        let exe = match (&self.exe, &subject.script) {
            (Some(_), Some(script)) => path(&self.exe, script).max(path(&self.exe, &subject.exe)),
            _ => match &subject.script_claimed {
                // It says so itself.
                Some(script) if path(&self.exe, script) == Match::Must && self.exe.is_some() => {
                    path(&self.exe, &subject.exe).max(Match::May)
                }
                _ => path(&self.exe, &subject.exe),
            },
        };
        let ancestor = match &self.ancestor {
            None => Match::Must,
            Some(_) => {
                let each = subject
                    .ancestors
                    .iter()
                    .map(|ancestor| text(&self.ancestor, &ancestor.exe.to_string_lossy(), "ancestors"));
                each.max().unwrap_or(Match::No).max(unknown("ancestors"))
            }
        };
        let ci = self.ci.as_ref().map_or(Match::Must, |matcher| {
            let ci = &subject.ci;
            [
                text(&matcher.system, &ci.system, "environment"),
                text(&matcher.project, &ci.project, "environment"),
                text(&matcher.pipeline, &ci.pipeline, "environment"),
                text(&matcher.job, &ci.job, "environment"),
                text(&matcher.branch, &ci.branch, "environment"),
                text(&matcher.actor, &ci.actor, "environment"),
            ]
            .into_iter()
            .min()
            .unwrap_or(Match::Must)
        });
        [
            exe,
            ancestor,
            ci,
            text(&self.user, &subject.user, "user"),
            text(&self.group, &subject.group, "group"),
            text(&self.login_user, &subject.login_user, "login_uid"),
            text(&self.unit, &subject.unit, "cgroup"),
            text(&self.cgroup, &subject.cgroup, "cgroup"),
            text(&self.container, &subject.container, "cgroup"),
        ]
        .into_iter()
        .min()
        .unwrap_or(Match::Must)
    }
}
