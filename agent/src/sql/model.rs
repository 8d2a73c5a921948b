//! The description of a statement that policies match and explanations print.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Kind;

/// Every statement of one SQL string, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Script {
    /// Top-level statements.
    pub statements: Vec<Statement>,
}

impl Script {
    /// A script of one statement of kind [`Kind::Unparsed`]: what cannot be read, and why.
    pub fn unparsed(text: &str, reason: &str) -> Self {
        Self {
            statements: vec![Statement {
                text: text.to_owned(),
                kind: Kind::Unparsed,
                kinds: BTreeSet::from([Kind::Unparsed]),
                error: Some(reason.to_owned()),
                ..Statement::default()
            }],
        }
    }

    /// The statement whose results come as number `index`. A text that could not be read may hold any
    /// number of them: what stands for it stands for each.
    pub fn at(&self, index: usize) -> Option<&Statement> {
        let unread = |statement: &&Statement| statement.kind == Kind::Unparsed;
        self.statements.get(index).or_else(|| self.statements.iter().find(unread))
    }

    /// It changes how the server reads the bytes of what follows: see [`Statement::changes_lexing`].
    pub fn changes_lexing(&self) -> bool {
        self.statements.iter().any(|statement| statement.changes_lexing)
    }
}

/// What one top-level statement does, its nested parts included: CTEs, subqueries, the statement
/// under EXPLAIN ANALYZE, PREPARE, COPY or CREATE … AS, DO and function bodies, rule actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// The statement's own text within the string, without the separating semicolon.
    pub text: String,
    /// The outermost kind.
    pub kind: Kind,
    /// Every kind that stands anywhere in the statement, the outermost included.
    pub kinds: BTreeSet<Kind>,
    /// What the statement amounts to; it can be several.
    pub classes: BTreeSet<Class>,
    /// Tables, views and the like that it reads.
    pub reads: BTreeSet<Relation>,
    /// Tables, views and the like that it changes, creates, alters or drops.
    pub writes: BTreeSet<Relation>,
    /// Columns that it reads, as precisely as the text alone tells.
    pub columns_read: BTreeSet<Column>,
    /// Columns that it writes.
    pub columns_written: BTreeSet<Column>,
    /// Functions and procedures that it calls, and operators' functions where they are named.
    pub functions: BTreeSet<Function>,
    /// The weakest WHERE of any UPDATE, DELETE, MERGE or SELECT from a table in it; `None` where no
    /// part could have one.
    #[serde(rename = "where")]
    pub where_clause: Option<Where>,
    /// The weakest WHERE of what it reads: of any SELECT from a table, and of changes that return rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub where_read: Option<Where>,
    /// The weakest WHERE of any UPDATE, DELETE or MERGE in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub where_write: Option<Where>,
    /// The outermost row limit of a query; `None` where the statement is not a query.
    pub limit: Option<Limit>,
    /// What bounds the rows where `limit` is [`Limit::Present`]: the largest counts.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub limit_rows: BTreeSet<Bound>,
    /// It runs text that is not known before it runs (PL/pgSQL `EXECUTE expression`, for example).
    pub dynamic: bool,
    /// It may change how the server splits the text that follows into tokens: it turns
    /// `standard_conforming_strings` off, sets a client encoding in which a
    /// character may hold a quote or a backslash, or sets what is not known before it runs. What the
    /// server reads after it is not what this module reads, so it is best refused.
    pub changes_lexing: bool,
    /// The settings that it changes, for the session or for later ones, in lower case; `*` where the
    /// text does not tell which.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub settings: BTreeSet<String>,
    /// It calls functions that leave their arguments where a later statement, another session or another
    /// server finds them: settings, notifications, locks, sequences, large objects.
    #[serde(skip)]
    pub hands_on: bool,
    /// The columns whose values such a function gets, as far as the text tells; variables of a DO block
    /// are not followed.
    #[serde(skip)]
    pub handed_on: BTreeSet<Column>,
    /// The prepared statements that it runs (SQL `EXECUTE name`).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub executes: BTreeSet<String>,
    /// The statements that it prepares (SQL `PREPARE name AS …`). What they do is already part of this
    /// statement's kinds and objects.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub prepares: BTreeSet<String>,
    /// The cursor that it opens (DECLARE) or reads from (FETCH, MOVE).
    #[serde(skip)]
    pub cursor: Option<String>,
    /// For a COPY to or from the client: which columns travel and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<Copy>,
    /// The columns of its result as far as the text tells; `None` when it does not (or there is none).
    /// For PREPARE and DECLARE CURSOR those of the statement that is run later, for COPY … TO those
    /// that travel.
    #[serde(skip)]
    pub outputs: Option<Vec<Output>>,
    /// Why the text, or a text within it, could not be read, where kind `unparsed` is among the kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One column of a result, by position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its name, where the text gives one.
    pub name: Option<String>,
    /// Every column that its value may be made of, subqueries and CTEs followed.
    pub columns: BTreeSet<Column>,
    /// It is, or is made of, a `*` or a whole row: any column of what is read may be in it, and for a
    /// bare `*` the number of result columns is not known from the text.
    pub whole_row: bool,
    /// It is a column as it stands, not computed from it.
    pub plain: bool,
}

/// A relation's name as the statement gives it, unquoted and case-folded as the server does. The name
/// `*` stands for every relation of the schema (`GRANT … ON ALL TABLES IN SCHEMA`, `schema_to_xml`) or,
/// without a schema, of the database (`VACUUM`, `database_to_xml`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relation {
    /// The schema, when the statement names one.
    pub schema: Option<String>,
    /// The relation's own name.
    pub name: String,
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column {
    /// The relation it belongs to; `None` when the text leaves it open among several.
    pub relation: Option<Relation>,
    /// Its name, or `*` for all.
    pub name: String,
}

/// A function's name as the statement gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// The schema, when the statement names one.
    pub schema: Option<String>,
    /// The function's own name.
    pub name: String,
}

/// How a statement's WHERE bounds it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// There is none. In a policy this matches [`Where::AlwaysTrue`] as well.
    Missing,
    /// There is one that holds for every row (`true`, `1=1`, `x = x`, `NOT false` …), or that says
    /// nothing about the rows (`random() < 2`, `EXISTS (SELECT 1)`).
    AlwaysTrue,
    /// There is one that may exclude rows.
    Present,
}

/// Whether a query bounds the number of its rows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No LIMIT or FETCH FIRST, or one without a bound (LIMIT ALL, LIMIT NULL).
    Missing,
    /// A bound.
    Present,
}

/// What a LIMIT bounds a query to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// So many rows.
    Rows(u64),
    /// The value of the statement's parameter of this number, from one. NULL is no bound.
    Parameter(u32),
}

impl Bound {
    /// The number of rows that a LIMIT of this text bounds a query to; `None` where it is no plain
    /// number. A fraction counts as one row more, which is never less than what the server does.
    pub fn rows(text: &str) -> Option<u64> {
        let text = text.trim();
        match text.split_once('.') {
            None if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            Some((whole, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => {
                Self::rows(whole)?.checked_add(1)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows}"),
            Self::Parameter(number) => write!(f, "${number}"),
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rows(rows) => serializer.serialize_u64(*rows),
            Self::Parameter(_) => serializer.collect_str(self),
        }
    }
}

/// A COPY between the server and the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// The direction, seen from the server: `true` for COPY … TO STDOUT.
    pub to_client: bool,
    /// The table, unless it copies a query.
    pub relation: Option<Relation>,
    /// The columns listed; empty when all.
    pub columns: Vec<String>,
    /// The format: `text`, `csv` or `binary`.
    pub format: CopyFormat,
    /// The delimiter of text and CSV.
    #[serde(serialize_with = "character")]
    pub delimiter: u8,
    /// The string that stands for NULL in text and CSV.
    pub null: String,
    /// CSV's quote character.
    #[serde(serialize_with = "character")]
    pub quote: u8,
    /// CSV's escape character.
    #[serde(serialize_with = "character")]
    pub escape: u8,
    /// A header line comes first.
    pub header: bool,
}

/// A byte as the character that it is, and not as a number.
fn character<S: serde::Serializer>(byte: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&char::from(*byte))
}

/// COPY's data format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFormat {
    /// Tab-separated with backslash escapes.
    #[default]
    Text,
    /// Comma-separated values.
    Csv,
    /// PGCOPY binary.
    Binary,
}

/// What a statement amounts to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Reads rows.
    Read,
    /// Changes rows.
    Write,
    /// Changes the schema.
    Ddl,
    /// Grants, revokes, roles, ownership, row security, SET ROLE.
    Privilege,
    /// Changes how the server runs: settings, maintenance, replication, other sessions.
    Admin,
    /// Concerns the session or transaction alone.
    Session,
    /// Reaches outside the database: files, programs, other servers, native or untrusted code.
    External,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.relation {
            Some(relation) => write!(f, "{relation}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Serialize for Relation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Column {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Function {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
