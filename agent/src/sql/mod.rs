//! What a SQL statement does: kinds, objects read and written, functions called, wherever in the
//! statement they stand.
//!
//! PostgreSQL's SQL is read by `pg_query`, the server's own grammar. What that grammar rejects is a
//! statement of kind [`Kind::Unparsed`]. Everything here is about the text alone: what a view or a
//! function that the statement names does is not looked up.

mod body;
mod bounds;
mod cache;
mod calls;
mod change;
mod columns;
mod constant;
mod copy;
mod fold;
mod functions;
mod kind;
mod literal;
mod model;
mod objects;
mod parser;
mod planned;
mod query;
mod recordable;
mod same;
mod scope;
mod secrets;
mod set;
mod settings;
mod shape;
mod tree;
mod utility;
mod walk;

use pg_query::protobuf::RawStmt;

pub use cache::Cache;
pub use kind::Kind;
pub(crate) use literal::is_sql;
pub use model::*;
pub use parser::{MAX_TEXT, MAX_TOKENS};
pub(crate) use planned::plans_builtins_alone;
pub use recordable::{Hidden, Recordable};
pub use secrets::{Secrets, redact_repeated, redact_secrets, redact_text, repeats};
pub use settings::setting_changes_lexing;

use parser::Grammar;
use shape::Shape;
use walk::Walker;

/// Reads one SQL string as PostgreSQL would.
///
/// Never fails: a string that the grammar rejects, or that is larger than [`MAX_TEXT`] or
/// [`MAX_TOKENS`], gives one
/// statement of kind [`Kind::Unparsed`]. An empty string (or one of comments only) gives a script
/// without statements.
///
/// The caller waits while one of a few threads parses: some tens of microseconds for a common
/// statement. [`Cache`] keeps what was read before.
pub fn analyze(text: &str) -> Script {
    if text.len() > MAX_TEXT {
        return Script::unparsed("", &parser::too_large(text));
    }
    let owned = text.to_owned();
    parser::run(text.len(), move || analyze_here(&owned))
        .unwrap_or_else(|failure| Script::unparsed(text, &failure.to_string()))
}

fn analyze_here(text: &str) -> Script {
    match parser::parse(text, Grammar::Sql) {
        Ok(statements) => script_of(text, &statements),
        Err(reason) => Script::unparsed(text, &reason),
    }
}

fn script_of(text: &str, statements: &[RawStmt]) -> Script {
    let read = |raw| Walker::new(text_of(text, raw).unwrap_or(text)).script_statement(raw);
    Script { statements: statements.iter().map(read).collect() }
}

/// Reads the shape that a text shares with others; `None` where each of them has to be read by itself.
fn analyze_shape(shape: &Shape<'_>) -> Option<Script> {
    let (template, constants) = (shape.template.clone(), shape.constants());
    let read = move || {
        let statements = parser::parse(&template, Grammar::Sql).ok()?;
        shape::values_do_not_matter(&statements, constants).then(|| script_of(&template, &statements))
    };
    parser::run(shape.template.len(), read).ok().flatten()
}

/// A statement's own text within the string.
fn text_of<'t>(text: &'t str, raw: &RawStmt) -> Option<&'t str> {
    let start = usize::try_from(raw.stmt_location).ok()?;
    let length = usize::try_from(raw.stmt_len).ok()?;
    let own = if length == 0 { text.get(start..)? } else { text.get(start..start.checked_add(length)?)? };
    Some(own.trim())
}
