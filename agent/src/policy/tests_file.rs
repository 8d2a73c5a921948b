//! Test cases beside a policy: `NAME.test.yaml` for `NAME.yaml`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::Verdict;
use super::decode::{At, Decode, Decoder, OneOrMany, record};
use super::explain::{Asker, subject};
use super::facts::word;
use super::file::Version;
use super::problem::{PolicyErrors, Position, Problem};
use super::read::{Trust, is_test, read};
use super::set::PolicySet;
use super::yaml::{self, Node, Value};
use crate::identity::Subject;
use crate::sql::{self, Kind, Script, Statement};

record! {
    /// A file of test cases.
    struct TestFile {
        /// The version of this format: `1`.
        #[allow(dead_code, reason = "checked while decoding")]
        version: At<Version>,
        /// What the cases are about, for people.
        #[allow(dead_code, reason = "for people")]
        description: Option<String>,
        /// The cases.
        cases: Vec<At<Case>>,
    }
}

record! {
    /// One case: what a client asks, and what is to come of it.
    struct Case {
        /// What it shows, for people.
        name: Option<String>,
        /// SQL text.
        statement: Option<String>,
        /// Instead of a text: `function_call`, `replication` or `cancel`.
        kind: Option<At<Kind>>,
        /// The database user; `app` when left out.
        user: Option<String>,
        /// The database; `app` when left out.
        database: Option<String>,
        /// Bind parameters.
        params: Option<OneOrMany<Parameter>>,
        /// The process, by the fields of `subject` in `when:` expressions.
        subject: Option<SubjectFields>,
        /// When it happens; now when left out.
        time: Option<Moment>,
        /// What is to come of it.
        expect: At<Expect>,
    }
}

record! {
    /// What is to come of a case. What is left out is not looked at.
    struct Expect {
        /// The verdict.
        verdict: Verdict,
        /// The deciding rule; `null` for none.
        rule: Option<Nullable>,
        /// Every rule that matches, in order.
        matched: Option<Vec<String>>,
        /// Every mask on columns that the statement reads, in order.
        masks: Option<Vec<String>>,
        /// `false`: it passes, and a rule in observe mode would refuse it.
        enforced: Option<bool>,
    }
}

/// A bind parameter: text, a number, or null.
#[derive(Debug, Clone, schemars::JsonSchema)]
#[schemars(transparent)]
struct Parameter(Option<String>);

impl Decode for Parameter {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Self(None)),
            _ => match node.word() {
                Some(word) => Some(Self(Some(word))),
                None => String::decode(node, decoder).map(|text| Self(Some(text))),
            },
        }
    }
}

/// Text or null.
#[derive(Debug, Clone, schemars::JsonSchema)]
#[schemars(transparent)]
struct Nullable(Option<String>);

impl Decode for Nullable {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Self(None)),
            _ => String::decode(node, decoder).map(|text| Self(Some(text))),
        }
    }
}

/// A moment.
#[derive(Debug, Clone, schemars::JsonSchema)]
#[schemars(transparent)]
struct Moment(#[schemars(with = "String")] Timestamp);

impl Decode for Moment {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match String::decode(node, decoder)?.parse() {
            Ok(moment) => Some(Self(moment)),
            Err(_) => {
                decoder.error_help(
                    node.at,
                    format!("{} is no moment", node.describe()),
                    "write it with its offset from UTC, such as 2026-01-05T22:00:00Z",
                );
                None
            }
        }
    }
}

/// Fields of a subject; `ci` and `ci.variables` as mappings within.
#[derive(Debug, Clone, schemars::JsonSchema)]
#[schemars(transparent)]
struct SubjectFields(#[schemars(with = "std::collections::BTreeMap<String, String>")] Subject);

impl Decode for SubjectFields {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        fn flatten(prefix: &str, node: &Node, pairs: &mut Vec<(String, String)>) -> Result<(), String> {
            match &node.value {
                Value::Map(map) => map.iter().try_for_each(|(key, value)| {
                    let key = key.word().ok_or_else(|| format!("{} is no key", key.describe()))?;
                    let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                    flatten(&name, value, pairs)
                }),
                Value::List(items) if !prefix.is_empty() => {
                    items.iter().try_for_each(|item| flatten(prefix, item, pairs))
                }
                _ if prefix.is_empty() => Err(format!("expected a mapping, found {}", node.describe())),
                _ => {
                    let value =
                        node.word().ok_or_else(|| format!("`{prefix}` cannot be {}", node.describe()))?;
                    pairs.push((prefix.to_owned(), value));
                    Ok(())
                }
            }
        }
        let mut pairs = Vec::new();
        let made = flatten("", node, &mut pairs)
            .and_then(|()| subject(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))));
        match made {
            Ok(subject) => Some(Self(subject)),
            Err(message) => {
                decoder.error(node.at, message);
                None
            }
        }
    }
}

/// How one case went.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// Its file.
    pub file: PathBuf,
    /// Where it stands.
    #[serde(flatten)]
    pub at: Position,
    /// What it is called: its name, or the beginning of its statement.
    pub name: String,
    /// What came otherwise than expected; empty when it went well.
    pub differences: Vec<Difference>,
}

/// Something that came otherwise than expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which of the expectations.
    pub what: &'static str,
    /// What was to come.
    pub expected: String,
    /// What came.
    pub got: String,
}

/// How all cases went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TestReport {
    /// Each case, in order.
    pub cases: Vec<CaseResult>,
}

impl TestReport {
    /// How many went otherwise than expected.
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.differences.is_empty()).count()
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.cases.iter().filter(|case| !case.differences.is_empty()) {
            writeln!(f, "FAILED {}:{}:{}: {}", case.file.display(), case.at.line, case.at.column, case.name)?;
            for Difference { what, expected, got } in &case.differences {
                writeln!(f, "  {what}\n    - expected {expected}\n    + got      {got}")?;
            }
        }
        let failed = self.failed();
        write!(f, "{} passed, {failed} failed", self.cases.len() - failed)
    }
}

/// Runs the test cases in `path`: all `*.test.yaml` of a directory, or those of one file. The cases of
/// `NAME.test.yaml` are about `NAME.yaml` alone if there is one, and about the whole directory if not.
///
/// # Errors
/// A policy or a test file is not well-formed.
pub fn run_tests(path: &Path) -> Result<TestReport, PolicyErrors> {
    let unreadable = |error: std::io::Error| {
        let message = format!("cannot be read: {error}");
        PolicyErrors(vec![Problem::error(&path.to_string_lossy(), Position::START, message)])
    };
    let mut files = if path.is_dir() {
        let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(unreadable)?;
        entries.into_iter().map(|entry| entry.path()).filter(|file| is_test(file)).collect()
    } else {
        vec![path.to_owned()]
    };
    files.sort();
    let (mut report, mut problems) = (TestReport::default(), Vec::new());
    for file in files {
        match run_file(&file) {
            Ok(mut cases) => report.cases.append(&mut cases),
            Err(PolicyErrors(more)) => problems.extend(more),
        }
    }
    if problems.is_empty() { Ok(report) } else { Err(PolicyErrors(problems)) }
}

fn run_file(file: &Path) -> Result<Vec<CaseResult>, PolicyErrors> {
    let name = file.to_string_lossy();
    let (text, _) = read(file, Trust::Anyone).map_err(|problem| PolicyErrors(vec![problem]))?;
    let node = yaml::parse(&name, &text).map_err(|problem| PolicyErrors(vec![problem]))?;
    let mut decoder = Decoder::new(&name);
    let parsed = TestFile::decode(&node, &mut decoder);
    for case in parsed.iter().flat_map(|parsed| &parsed.cases) {
        if case.value.statement.is_some() == case.value.kind.is_some() {
            decoder.error(case.at, "a case has either a `statement` or a `kind`");
        }
    }
    let cases = match parsed {
        Some(parsed) if decoder.problems.is_empty() => parsed.cases,
        _ => return Err(PolicyErrors(decoder.problems)),
    };
    let beside = beside(file).unwrap_or_else(|| file.parent().unwrap_or(Path::new(".")).to_owned());
    let set = PolicySet::load_trusting(&beside, Trust::Anyone)?;
    Ok(cases.into_iter().map(|case| run_case(&set, file, case)).collect())
}

/// The policy that a test file is about.
fn beside(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let stem = name.strip_suffix(".test.yaml").or_else(|| name.strip_suffix(".test.yml"))?;
    ["yaml", "yml"].iter().map(|ending| file.with_file_name(format!("{stem}.{ending}"))).find(|p| p.is_file())
}

fn run_case(set: &PolicySet, file: &Path, case: At<Case>) -> CaseResult {
    let At { value: case, at } = case;
    let (text, script) = match (&case.statement, &case.kind) {
        (Some(statement), _) => (statement.clone(), sql::analyze(statement)),
        (None, kind) => {
            let kind = kind.as_ref().map_or(Kind::Unparsed, |kind| kind.value);
            let text = word(&kind);
            let statement = Statement {
                text: text.clone(),
                kind,
                kinds: [kind].into(),
                classes: kind.classes().iter().copied().collect(),
                ..Statement::default()
            };
            (text, Script { statements: vec![statement] })
        }
    };
    let named = |given: &Option<String>| Arc::from(given.as_deref().unwrap_or("app"));
    let asker = Asker {
        user: named(&case.user),
        database: named(&case.database),
        subject: case.subject.map(|fields| fields.0).unwrap_or_default(),
        params: case.params.into_iter().flat_map(|params| params.0).map(|p| p.0).collect(),
        now: case.time.map_or_else(Timestamp::now, |moment| moment.0),
    };
    let flow = set.flow_of_all(&asker.subject, &Asker::destination());
    let mut masks: Vec<Arc<str>> = Vec::new();
    for mask in script.statements.iter().flat_map(|statement| flow.column_masks(statement)) {
        if !masks.contains(&mask) {
            masks.push(mask);
        }
    }
    let decision = flow.decide_at(&asker.operation(&text, script), &asker.subject, asker.now);

    let mut differences = Vec::new();
    let mut compare = |what, expected: Option<String>, got: String| {
        if let Some(expected) = expected
            && expected != got
        {
            differences.push(Difference { what, expected, got });
        }
    };
    let Expect { verdict, rule, matched, masks: expected_masks, enforced } = case.expect.value;
    let or_none = |rule: Option<&str>| rule.unwrap_or("none").to_owned();
    let list = |names: &[Arc<str>]| format!("[{}]", names.join(", "));
    // A policy is tested for what it says. That it is still only observed fails none of its cases.
    let (decided, by) = decision.without_observing();
    compare("verdict", Some(word(&verdict)), word(&decided));
    compare("rule", rule.map(|rule| or_none(rule.0.as_deref())), or_none(by.map(|name| &**name)));
    compare("matched", matched.map(|m| format!("[{}]", m.join(", "))), list(&decision.matched));
    compare("masks", expected_masks.map(|m| format!("[{}]", m.join(", "))), list(&masks));
    compare("enforced", enforced.map(|e| e.to_string()), decision.enforced.to_string());
    let name = case.name.unwrap_or_else(|| yaml::shortened(text.trim()));
    CaseResult { file: file.to_owned(), at, name, differences }
}
