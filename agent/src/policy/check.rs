//! What is well-formed but cannot be what was meant: rules that never fire, processes that do not exist.

use std::path::Path;

use super::Verdict;
use super::decode::OneOrMany;
use super::file::{CiMatcher, Matcher, Open, SqlMatcher, SubjectMatcher};
use super::pattern::{ColumnName, Name, Text, text_covers};
use super::problem::{PolicyErrors, Position, Problem};
use super::read::Trust;
use super::rule::Rule;
use super::set::{Policy, PolicySet};
use crate::sql::{Kind, Where};

/// Checks the policies in `path` (a directory, or one file): the warnings, in order. What passes here the
/// agent takes: as root it is an error, too, when others can change the files.
///
/// # Errors
/// All that is wrong in any file.
pub fn check(path: &Path) -> Result<(PolicySet, Vec<Problem>), PolicyErrors> {
    check_trusting(path, Trust::of_process())
}

pub(super) fn check_trusting(path: &Path, trust: Trust) -> Result<(PolicySet, Vec<Problem>), PolicyErrors> {
    let set = PolicySet::load_trusting(path, trust)?;
    let mut warnings = set.warnings().to_vec();
    if set.files().is_empty() {
        let problem = Problem::warning(
            &path.to_string_lossy(),
            Position::WHOLE,
            "holds no policy file, so no process is designated and nothing is held",
        );
        warnings.push(problem.help("put files NAME.yaml into it"));
    }
    for policy in &set.policies {
        warnings.append(&mut lint(policy));
    }
    warnings.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
    Ok((set, warnings))
}

fn lint(policy: &Policy) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |at, message: String, help: &str| {
        let problem = Problem::warning(&policy.file, at, message);
        warnings.push(if help.is_empty() { problem } else { problem.help(help) });
    };
    if policy.entries.is_empty() {
        warn(
            Position::START,
            "this policy takes in no process, so nothing of it has an effect".into(),
            "name processes under `processes`",
        );
    }
    for target in policy.targets.iter().flatten() {
        if target.value.port.is_none() && target.value.cidr.is_none() {
            warn(
                target.at,
                "a host name without a port has every connection of these processes go through the agent"
                    .into(),
                "name its `port`",
            );
        }
    }
    for mask in &policy.masks {
        let columns = mask.value.columns.iter().flat_map(|columns| &columns.0);
        for pattern in columns.filter_map(ColumnName::upper_case) {
            warn(
                mask.at,
                format!(
                    "mask `{}` never matches `{pattern}` as it stands: names are in lower case",
                    mask.value.name.value.0
                ),
                "write it in lower case, or in double quotes where the name itself has capitals",
            );
        }
    }
    for (place, rule) in policy.rules.iter().enumerate() {
        let name = &rule.name;
        if rule.when.is_none() && rule.needs.is_none() && is_empty(rule.matcher.as_ref()) {
            let verb = super::facts::word(&rule.action);
            warn(rule.at, format!("rule `{name}` has no condition: `{verb}` for everything"), "");
        }
        let opens = policy.default == Open::Deny || rule.names_kind(Kind::Replication);
        if rule.action == Verdict::Allow && !opens && !rule.observed && rule.needs.is_none() {
            warn(
                rule.at,
                format!("rule `{name}` allows what is allowed anyway: `deny` and `hold` beat it"),
                "write `default: deny` at the top of the file, or remove the rule",
            );
        }
        if rule.action == Verdict::Hold && !rule.observed {
            match &rule.approval {
                None => warn(
                    rule.at,
                    format!("rule `{name}` holds and names nobody who may approve: what it holds is refused"),
                    "write `approval: {groups: [GROUP]}`, or `action: deny`",
                ),
                Some(terms) => {
                    for group in terms.groups() {
                        if let Ok(None) = crate::identity::users::group_id(group) {
                            let message = format!(
                                "rule `{name}`: this host knows no group `{group}`, so nobody is in it"
                            );
                            warn(rule.at, message, "make the group, or name another");
                        }
                    }
                }
            }
        }
        if let Some(broad) = shadow(policy, place, rule) {
            warn(
                rule.at,
                format!(
                    "rule `{name}` never decides: `{}` (line {}) matches whatever it matches{}",
                    broad.name,
                    broad.at.line,
                    if broad.action > rule.action { " and is stricter" } else { ", before it" },
                ),
                "narrow the other rule, or remove this one",
            );
        }
        let sql = rule.matcher.as_ref().and_then(|matcher| matcher.sql.as_ref());
        for pattern in sql.into_iter().flat_map(upper_case) {
            warn(
                rule.at,
                format!("rule `{name}` never matches `{pattern}` as it stands: names are in lower case"),
                "write it in lower case, or in double quotes where the name itself has capitals",
            );
        }
        for (message, help) in sql.into_iter().flat_map(impossible) {
            warn(rule.at, format!("rule `{name}` never matches: {message}"), help);
        }
        for time in rule.matcher.iter().filter_map(|matcher| matcher.time.as_ref()).flat_map(|times| &times.0)
        {
            if time.is_degenerate() {
                warn(
                    rule.at,
                    format!(
                        "rule `{name}` has a time window that begins when it ends: it is taken as a whole day"
                    ),
                    "leave `from` and `to` out for the whole day",
                );
            }
        }
    }
    warnings
}

fn is_empty(matcher: Option<&Matcher>) -> bool {
    let Some(matcher) = matcher else { return true };
    let Matcher { sql, user, database, subject, identity, not_identity, time } = matcher;
    let subject_empty = subject.as_ref().is_none_or(|subject| {
        let SubjectMatcher { exe, user, group, login_user, unit, cgroup, container, ancestor, ci } = subject;
        [exe, user, group, login_user, unit, cgroup, container, ancestor].iter().all(|key| key.is_none())
            && ci.is_none()
    });
    sql.as_ref().is_none_or(sql_is_empty)
        && user.is_none()
        && database.is_none()
        && time.is_none()
        && subject_empty
        // Where there is no identity, even an empty one does not match for rules that allow.
        && identity.is_none()
        && not_identity.is_none()
}

fn sql_is_empty(sql: &SqlMatcher) -> bool {
    let SqlMatcher {
        kind,
        class,
        tables,
        reads,
        writes,
        columns,
        columns_read,
        functions,
        r#where,
        limit,
        limit_over,
        dynamic,
        changes_lexing,
        settings,
    } = sql;
    kind.is_none()
        && class.is_none()
        && [tables, reads, writes, functions].iter().all(|key| key.is_none())
        && columns.is_none()
        && columns_read.is_none()
        && r#where.is_none()
        && limit.is_none()
        && limit_over.is_none()
        && dynamic.is_none()
        && changes_lexing.is_none()
        && settings.is_none()
}

/// Patterns with capitals outside of quotes: PostgreSQL folds names that are not quoted.
fn upper_case(sql: &SqlMatcher) -> impl Iterator<Item = &str> {
    let names = [&sql.tables, &sql.reads, &sql.writes, &sql.functions];
    let columns = [&sql.columns, &sql.columns_read];
    let names = names.into_iter().flatten().flat_map(|names| &names.0).filter_map(Name::upper_case);
    let columns = columns.into_iter().flatten().flat_map(|columns| &columns.0);
    names.chain(columns.filter_map(ColumnName::upper_case))
}

/// Combinations of keys that no statement has.
///
/// A kind counts wherever it stands, beside others: a DO block can hold a TRUNCATE and an UPDATE without
/// WHERE. So only what is never part of another statement has nothing beside it.
fn impossible(sql: &SqlMatcher) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let Some(kinds) = &sql.kind else { return found };
    if !kinds.0.iter().all(|kind| matches!(kind, Kind::FunctionCall | Kind::Replication | Kind::Cancel)) {
        return found;
    }
    let listed = || kinds.0.iter().map(super::facts::word).collect::<Vec<_>>().join(", ");
    if sql.r#where.is_some() {
        found.push((format!("{} has no WHERE", listed()), "leave `where` out"));
    }
    if sql.limit.is_some() || sql.limit_over.is_some() {
        found.push((format!("{} has no LIMIT", listed()), "leave `limit` out"));
    }
    if sql.dynamic == Some(true) {
        found.push((format!("{} runs no text of its own", listed()), "leave `dynamic` out"));
    }
    if sql.tables.is_some()
        || sql.columns.is_some()
        || sql.columns_read.is_some()
        || sql.reads.is_some()
        || sql.writes.is_some()
    {
        found.push((format!("{} names no tables", listed()), "leave `tables`, `columns` and the like out"));
    }
    found
}

/// The rule that keeps this one from ever deciding, if there is one.
fn shadow<'p>(policy: &'p Policy, place: usize, rule: &Rule) -> Option<&'p Rule> {
    let stands_before = |other: &Rule, at: usize| {
        other.action > rule.action
            || (other.action == rule.action && at < place && rule.action != Verdict::Allow)
    };
    policy.rules.iter().enumerate().find_map(|(at, other)| {
        let broad = at != place
            && other.when.is_none()
            && other.needs.is_none()
            && rule.needs.is_none()
            && (!other.observed || rule.observed)
            && other.action != Verdict::Allow
            && stands_before(other, at)
            && covers(other.matcher.as_ref(), rule.matcher.as_ref());
        broad.then_some(other)
    })
}

/// `broad` matches whatever `narrow` does.
fn covers(broad: Option<&Matcher>, narrow: Option<&Matcher>) -> bool {
    let Some(broad) = broad else { return true };
    let Some(narrow) = narrow else { return is_empty(Some(broad)) };
    broad.time.is_none()
        && broad.identity.is_none()
        && broad.not_identity.is_none()
        && texts(&broad.user, &narrow.user)
        && texts(&broad.database, &narrow.database)
        && match (&broad.subject, &narrow.subject) {
            (None, _) => true,
            (Some(broad), Some(narrow)) => subject_covers(broad, narrow),
            (Some(_), None) => false,
        }
        && match (&broad.sql, &narrow.sql) {
            (None, _) => true,
            (Some(broad), Some(narrow)) => sql_covers(broad, narrow),
            // A rule without `sql` applies to operations without a statement, too.
            (Some(_), None) => false,
        }
}

fn subject_covers(broad: &SubjectMatcher, narrow: &SubjectMatcher) -> bool {
    let ci = match (&broad.ci, &narrow.ci) {
        (None, _) => true,
        (Some(CiMatcher { system, project, pipeline, job, branch, actor }), Some(narrow)) => {
            texts(system, &narrow.system)
                && texts(project, &narrow.project)
                && texts(pipeline, &narrow.pipeline)
                && texts(job, &narrow.job)
                && texts(branch, &narrow.branch)
                && texts(actor, &narrow.actor)
        }
        (Some(_), None) => false,
    };
    ci && texts(&broad.exe, &narrow.exe)
        && texts(&broad.user, &narrow.user)
        && texts(&broad.group, &narrow.group)
        && texts(&broad.login_user, &narrow.login_user)
        && texts(&broad.unit, &narrow.unit)
        && texts(&broad.cgroup, &narrow.cgroup)
        && texts(&broad.container, &narrow.container)
        && texts(&broad.ancestor, &narrow.ancestor)
}

fn sql_covers(broad: &SqlMatcher, narrow: &SqlMatcher) -> bool {
    let same = |a: Option<bool>, b: Option<bool>| a.is_none() || a == b;
    let class = list(&broad.class, &narrow.class, PartialEq::eq)
        || matches!((&broad.class, &narrow.kind), (Some(classes), Some(kinds))
            if kinds.0.iter().all(|kind| kind.classes().iter().any(|class| classes.0.contains(class))));
    let tables = list(&broad.tables, &narrow.tables, Name::covers)
        || (narrow.reads.is_some() && list(&broad.tables, &narrow.reads, Name::covers))
        || (narrow.writes.is_some() && list(&broad.tables, &narrow.writes, Name::covers));
    class
        && tables
        && list(&broad.kind, &narrow.kind, PartialEq::eq)
        && list(&broad.reads, &narrow.reads, Name::covers)
        && list(&broad.writes, &narrow.writes, Name::covers)
        && list(&broad.functions, &narrow.functions, Name::covers)
        && list(&broad.columns, &narrow.columns, ColumnName::covers)
        && list(&broad.columns_read, &narrow.columns_read, ColumnName::covers)
        // Which WHERE it is about depends on the other keys.
        && (broad.r#where.is_none() || broad.asks() == narrow.asks())
        && list(&broad.r#where, &narrow.r#where, |broad, narrow| {
            broad == narrow || (*broad == Where::Missing && *narrow == Where::AlwaysTrue)
        })
        && list(&broad.limit, &narrow.limit, PartialEq::eq)
        && match (broad.limit_over, narrow.limit_over) {
            (None, _) => true,
            (Some(broad), Some(narrow)) => broad.0 <= narrow.0,
            (Some(_), None) => false,
        }
        && same(broad.dynamic, narrow.dynamic)
        && same(broad.changes_lexing, narrow.changes_lexing)
        && list(&broad.settings, &narrow.settings, super::pattern::Setting::covers)
}

fn texts(broad: &Option<OneOrMany<Text>>, narrow: &Option<OneOrMany<Text>>) -> bool {
    list(broad, narrow, text_covers)
}

/// Whatever is in the narrow list is in the broad one.
fn list<T>(
    broad: &Option<OneOrMany<T>>,
    narrow: &Option<OneOrMany<T>>,
    covers: impl Fn(&T, &T) -> bool,
) -> bool {
    match (broad, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(broad), Some(narrow)) => {
            narrow.0.iter().all(|one| broad.0.iter().any(|other| covers(other, one)))
        }
    }
}
