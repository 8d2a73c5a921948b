//! What policies make of a statement: for `interlock policy explain`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use pg_query::protobuf::Token;
use serde::Serialize;
use serde_json::{Value, json};

use super::facts::word;
use super::{Decision, Destination, FlowPolicy};
use crate::identity::{IdentityKind, Subject};
use crate::operation::{Operation, Protocol};
use crate::sql::{self, Script, Statement};

/// How often the end of one statement is looked for: a text without a closing quote has none.
const MAX_TRIES: usize = 2000;

/// What the policies make of one SQL string.
#[derive(Debug)]
pub struct Explanation {
    /// The string, secrets in it redacted.
    pub text: String,
    /// Its statements, each as if it stood alone.
    pub statements: Vec<Explained>,
    /// The verdict on the whole.
    pub decision: Decision,
}

/// One statement: what it does, and what the policies make of it.
#[derive(Debug)]
pub struct Explained {
    /// What it does.
    pub statement: Statement,
    /// The verdict on it.
    pub decision: Decision,
    /// Masks on columns that it reads, as far as the text tells.
    pub masks: Vec<Arc<str>>,
}

/// Who asks, and where.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The database user.
    pub user: Arc<str>,
    /// The database.
    pub database: Arc<str>,
    /// The process.
    pub subject: Subject,
    /// Bind parameters.
    pub params: Arc<[Option<String>]>,
    /// When.
    pub now: Timestamp,
}

impl Asker {
    /// Some destination, for rules that are about any.
    pub(crate) fn destination() -> Destination {
        Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() }
    }

    pub(crate) fn operation(&self, text: &str, script: Script) -> Operation {
        Operation {
            protocol: Protocol::Postgres,
            user: Arc::clone(&self.user),
            database: Arc::clone(&self.database),
            text: text.into(),
            script: Arc::new(script),
            params: Arc::clone(&self.params),
        }
    }
}

/// Explains one SQL string.
pub fn explain(flow: &FlowPolicy, asker: &Asker, text: &str) -> Explanation {
    let script = sql::analyze(text);
    let decide = |text: &str, script: Script| {
        flow.decide_at(&asker.operation(text, script), &asker.subject, asker.now)
    };
    let statements = script
        .statements
        .iter()
        .map(|statement| Explained {
            decision: decide(&statement.text, Script { statements: vec![statement.clone()] }),
            masks: flow.column_masks(statement),
            statement: Statement {
                text: sql::redact_secrets(&statement.text).into_owned(),
                ..statement.clone()
            },
        })
        .collect();
    let shown = sql::redact_secrets(text).into_owned();
    Explanation { text: shown, statements, decision: decide(text, script) }
}

/// Splits a file into statements at the semicolons that are none of a string, comment, parenthesis or
/// function body, as psql does. What has no end (a quote that is not closed) stays one piece. Pieces
/// keep their semicolon; those of blanks, comments and semicolons alone are left out.
pub fn split(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let ends = rest.match_indices(';').map(|(at, _)| at + 1).take(MAX_TRIES).chain([rest.len()]);
        let whole = ends.into_iter().find_map(|end| {
            let (piece, _) = rest.split_at_checked(end)?;
            match scan(piece) {
                Some(Scanned { complete: true, empty }) => Some((end, empty)),
                Some(Scanned { complete: false, empty }) if end == rest.len() => Some((end, empty)),
                _ => None,
            }
        });
        let (end, empty) = whole.unwrap_or((rest.len(), false));
        let (piece, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if !empty {
            pieces.push(piece.trim());
        }
        rest = after;
    }
    pieces
}

struct Scanned {
    /// It ends with a semicolon that ends a statement.
    complete: bool,
    /// It holds nothing but semicolons and comments.
    empty: bool,
}

/// Reads a piece with the server's scanner; `None` when that cannot read it.
fn scan(piece: &str) -> Option<Scanned> {
    let tokens = pg_query::scan(piece).ok()?.tokens;
    let kinds: Vec<Token> = tokens
        .iter()
        .filter_map(|token| Token::try_from(token.token).ok())
        .filter(|token| !matches!(token, Token::SqlComment | Token::CComment))
        .collect();
    // SQL-standard bodies: BEGIN ATOMIC …; …; END. As psql, count BEGIN, CASE and END in them alone.
    let routine = kinds.first() == Some(&Token::Create)
        && kinds.iter().take(4).any(|token| matches!(token, Token::Function | Token::Procedure));
    let (mut parentheses, mut blocks) = (0usize, 0usize);
    for token in &kinds {
        match token {
            Token::Ascii40 => parentheses += 1,
            Token::Ascii41 => parentheses = parentheses.saturating_sub(1),
            Token::BeginP if routine => blocks += 1,
            Token::Case if blocks > 0 => blocks += 1,
            Token::EndP => blocks = blocks.saturating_sub(1),
            _ => {}
        }
    }
    // A comment after the semicolon would hide that it is the last.
    let ends = tokens.last().is_some_and(|token| token.token == Token::Ascii59 as i32);
    Some(Scanned {
        complete: ends && parentheses == 0 && blocks == 0,
        empty: kinds.iter().all(|token| *token == Token::Ascii59),
    })
}

/// A subject of `key=value` pairs: the fields of `subject` in `when:` expressions, `ci.branch` and
/// `ci.variables.NAME` included.
///
/// # Errors
/// A key is none of them, or a number is none; the text says what to write.
pub fn subject<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Result<Subject, String> {
    let mut subject = Subject::default();
    for (key, value) in pairs {
        let number = || value.parse::<u32>().map_err(|_| format!("`{key}` is a number, not `{value}`"));
        let text = || value.to_owned();
        let ci = &mut subject.ci;
        match key {
            "pid" => subject.pid = number()?,
            "uid" => subject.uid = number()?,
            "user" => subject.user = text(),
            "gid" => subject.gid = number()?,
            "group" => subject.group = text(),
            "login_uid" => subject.login_uid = Some(number()?),
            "login_user" => subject.login_user = text(),
            "login_session" => subject.login_session = Some(number()?),
            "exe" => subject.exe = value.into(),
            "script" => subject.script = Some(value.into()),
            "exe_sha256" => subject.exe_sha256 = text(),
            "argv" => subject.argv.push(text()),
            "cwd" => subject.cwd = value.into(),
            "cgroup" => subject.cgroup = text(),
            "unit" => subject.unit = text(),
            "container" => subject.container = text(),
            "ancestors" | "ancestor" => {
                let exe = value.into();
                subject.ancestors.push(crate::identity::Ancestor { exe, ..Default::default() });
            }
            "missing" => subject.missing.push(text()),
            _ if key.starts_with("person.") => {
                let field = key.get("person.".len()..).unwrap_or_default();
                super::who::set(&mut subject.person, IdentityKind::Person, field, value)?;
            }
            _ if key.starts_with("workload.") => {
                let field = key.get("workload.".len()..).unwrap_or_default();
                super::who::set(&mut subject.workload, IdentityKind::Workload, field, value)?;
            }
            "ci.system" => ci.system = text(),
            "ci.project" => ci.project = text(),
            "ci.pipeline" => ci.pipeline = text(),
            "ci.job" => ci.job = text(),
            "ci.run" => ci.run = text(),
            "ci.branch" => ci.branch = text(),
            "ci.commit" => ci.commit = text(),
            "ci.actor" => ci.actor = text(),
            "ci.url" => ci.url = text(),
            _ => match key.strip_prefix("ci.variables.") {
                Some(name) => drop(ci.variables.insert(name.to_owned(), text())),
                None => {
                    let fields = super::facts::VARIABLES.first().map_or(&[][..], |(_, fields)| fields);
                    let ci = super::facts::CI_FIELDS.iter().map(|field| format!("ci.{field}"));
                    let known: Vec<String> = fields.iter().map(|f| (*f).to_owned()).chain(ci).collect();
                    let help = super::decode::suggestion(key, known.iter().map(String::as_str));
                    return Err(format!("`{key}` is no field of a subject; {help}"));
                }
            },
        }
    }
    Ok(subject)
}

impl Explanation {
    /// One JSON object, as `--json` prints it.
    pub fn to_json(&self) -> Value {
        let mut object = match self.statements.as_slice() {
            [one] => one.to_json(),
            several => {
                // What stands anywhere in it.
                fn all<'s, T: Ord + Serialize + 's>(
                    of: &'s [Explained],
                    set: impl Fn(&'s Statement) -> &'s BTreeSet<T>,
                ) -> Value {
                    json!(of.iter().flat_map(|one| set(&one.statement)).collect::<BTreeSet<_>>())
                }
                let mut object = json!({
                    "text": self.text,
                    "kinds": all(several, |s| &s.kinds),
                    "classes": all(several, |s| &s.classes),
                    "reads": all(several, |s| &s.reads),
                    "writes": all(several, |s| &s.writes),
                    "functions": all(several, |s| &s.functions),
                    "statements": several.iter().map(Explained::to_json).collect::<Vec<_>>(),
                });
                if several.is_empty() {
                    put(&mut object, json!({"kind": null, "where": null, "limit": null}));
                }
                object
            }
        };
        put(&mut object, json!(self.decision));
        object
    }
}

impl Explained {
    fn to_json(&self) -> Value {
        let mut object = json!(self.statement);
        put(&mut object, json!({"masks": self.masks}));
        put(&mut object, json!(self.decision));
        object
    }
}

fn put(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// What whoever sent the operation would be told of its verdict: of one that passes nothing, of one that does
/// not the deciding rule, its message, and who may approve. Rules that matched besides, and those in observe
/// mode, are not theirs to know.
fn told(decision: &Decision, now: Timestamp) -> Value {
    let mut object = json!({"verdict": decision.verdict});
    if decision.passes() {
        return object;
    }
    put(&mut object, json!({"rule": decision.rule, "message": decision.message}));
    if decision.verdict == super::Verdict::Hold {
        let approval = decision.approval.as_ref().map(|terms| {
            json!({
                "needs": terms.words(),
                "groups": terms.groups(),
                "within_seconds": terms.within.as_secs(),
                "scopes": terms.scopes,
                "reason_required": terms.reason_required,
                "open_now": terms.open_at(now),
            })
        });
        put(&mut object, json!({"approval": approval}));
    }
    object
}

impl Explanation {
    /// What its own sender may know of it, as one JSON object: what each statement does, and what they would be
    /// told if they sent it.
    pub fn for_sender(&self, flow: &FlowPolicy, now: Timestamp) -> Value {
        let statements = self.statements.iter().map(|one| {
            let statement = &one.statement;
            let mut object = json!({
                "text": statement.text,
                "kind": statement.kind,
                "kinds": statement.kinds,
                "classes": statement.classes,
                "reads": statement.reads,
                "writes": statement.writes,
                "columns_read": statement.columns_read,
                "columns_written": statement.columns_written,
                "functions": statement.functions,
                "where": statement.where_clause,
                "limit": statement.limit,
                "dynamic": statement.dynamic,
                "unparsed": statement.error,
                "masked_columns": flow.masked_columns(statement),
            });
            put(&mut object, told(&one.decision, now));
            object
        });
        let mut object = json!({
            "statements": statements.collect::<Vec<_>>(),
            "values_masked_by_content": flow.masks().has_detectors(),
        });
        put(&mut object, told(&self.decision, now));
        object
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.statements.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{one}")?;
        }
        if self.statements.len() != 1 {
            writeln!(f, "\nThe whole string ({} statements):", self.statements.len())?;
            write_decision(f, &self.decision)?;
        }
        Ok(())
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(
            f: &mut fmt::Formatter<'_>,
            label: &str,
            items: impl IntoIterator<Item = T>,
        ) -> fmt::Result {
            let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
            if items.is_empty() { Ok(()) } else { writeln!(f, "  {label:<10}{}", items.join(", ")) }
        }
        let s = &self.statement;
        writeln!(f, "{}", s.text.trim())?;
        list(f, "kind", [word(&s.kind)])?;
        list(f, "holds", s.kinds.iter().filter(|kind| **kind != s.kind).map(word))?;
        list(f, "class", s.classes.iter().map(word))?;
        list(f, "reads", &s.reads)?;
        list(f, "writes", &s.writes)?;
        list(f, "functions", &s.functions)?;
        list(f, "where", s.where_clause.iter().map(word))?;
        list(f, "limit", s.limit.iter().map(word))?;
        list(f, "settings", &s.settings)?;
        list(f, "dynamic", s.dynamic.then_some("it runs text that is not known before it runs"))?;
        list(f, "lexing", s.changes_lexing.then_some("it changes how later text is read"))?;
        list(f, "unparsed", &s.error)?;
        list(f, "masks", &self.masks)?;
        write_decision(f, &self.decision)
    }
}

fn write_decision(f: &mut fmt::Formatter<'_>, decision: &Decision) -> fmt::Result {
    let verdict = word(&decision.verdict);
    write!(f, "  {:<10}{verdict}", "verdict")?;
    match &decision.rule {
        Some(rule) => write!(f, " by rule {rule}")?,
        None if decision.matched.is_empty() => f.write_str(": no rule matches")?,
        None => f.write_str(": no enforced rule matches")?,
    }
    writeln!(f, "{}", if decision.enforced { "" } else { "; without observe mode it would be refused" })?;
    if let Some(message) = &decision.message {
        writeln!(f, "  {:<10}{message}", "message")?;
    }
    if let Some(terms) = &decision.approval {
        writeln!(f, "  {:<10}{} within {} s", "approval", terms.words(), terms.within.as_secs())?;
        let scopes: Vec<_> = terms.scopes.iter().map(|scope| scope.word()).collect();
        writeln!(f, "  {:<10}{}", "scopes", scopes.join(", "))?;
        if terms.reason_required {
            writeln!(f, "  {:<10}required", "reason")?;
        }
        if terms.break_glass {
            writeln!(f, "  {:<10}allowed to whoever asks", "break glass")?;
        }
    } else if decision.verdict == super::Verdict::Hold {
        writeln!(f, "  {:<10}nobody may approve it: it is refused", "approval")?;
    }
    if decision.matched.len() > 1 {
        writeln!(f, "  {:<10}{}", "matched", decision.matched.join(", "))?;
    }
    for observed in &decision.observed {
        writeln!(f, "  {:<10}{} would {}", "observed", observed.rule, word(&observed.verdict))?;
    }
    Ok(())
}
