//! What runs while a statement is planned: functions behind operators and types, which the text names.
//!
//! The planner works out what is constant, by calling what is said to be immutable. What is PostgreSQL's own does
//! nothing but compute; what somebody has made does what they like.

use pg_query::NodeRef;
use pg_query::protobuf::{AExprKind, Node};

use super::parser::{self, Grammar};
use super::tree::children;
use super::walk::{node_of, string};

/// All operators and types that `text` names have names of PostgreSQL's own. What cannot be read has others.
pub(crate) fn plans_builtins_alone(text: &str) -> bool {
    let owned = text.to_owned();
    let read = move || {
        let Ok(statements) = parser::parse(&owned, Grammar::Sql) else { return false };
        let mut alone = true;
        let mut waiting: Vec<_> =
            statements.iter().filter_map(|statement| node_of(statement.stmt.as_deref())).collect();
        while let Some(node) = waiting.pop() {
            alone &= is_builtin(node);
            children(node, &mut |child| waiting.push(child));
        }
        alone
    };
    parser::run(text.len(), read).unwrap_or(false)
}

fn is_builtin(node: NodeRef<'_>) -> bool {
    match node {
        NodeRef::AExpr(expression) => match expression.kind() {
            // What is called so stands for `>=` and `<=`.
            AExprKind::AexprBetween
            | AExprKind::AexprNotBetween
            | AExprKind::AexprBetweenSym
            | AExprKind::AexprNotBetweenSym => true,
            _ => is_operator(&expression.name),
        },
        NodeRef::SubLink(subquery) => subquery.oper_name.is_empty() || is_operator(&subquery.oper_name),
        NodeRef::SortBy(sort) => sort.use_op.is_empty() || is_operator(&sort.use_op),
        NodeRef::TypeName(name) => !name.pct_type && is_named(&name.names, TYPES),
        _ => true,
    }
}

fn is_operator(name: &[Node]) -> bool {
    is_named(name, OPERATORS)
}

/// One of `known`, by itself or as one of `pg_catalog`.
fn is_named(name: &[Node], known: &[&str]) -> bool {
    let last = match name {
        [only] => only,
        [schema, last] if string(schema) == Some("pg_catalog") => last,
        _ => return false,
    };
    string(last).is_some_and(|name| known.contains(&name))
}

/// The operators of `pg_catalog`.
const OPERATORS: &[&str] = &[
    "=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "^", "|", "||", "||/", "|/", "!!", "!~", "!~*",
    "!~~", "!~~*", "~", "~*", "~~", "~~*", "~=", "~<~", "~<=~", "~>~", "~>=~", "#", "##", "#-", "#>", "#>>",
    "?", "?#", "?&", "?-", "?-|", "?|", "?||", "@", "@-@", "@>", "@?", "@@", "@@@", "<@", "<->", "<<", "<<=",
    "<<|", "<^", ">>", ">>=", ">^", "&", "&&", "&<", "&<|", "&>", "|&>", "|>>", "->", "->>", "-|-", "^@",
    "*=", "*<>", "*<", "*<=", "*>", "*>=",
];

/// The types of `pg_catalog` that texts name.
const TYPES: &[&str] = &[
    "bit",
    "bool",
    "box",
    "bpchar",
    "bytea",
    "char",
    "cid",
    "cidr",
    "circle",
    "date",
    "datemultirange",
    "daterange",
    "float4",
    "float8",
    "inet",
    "int2",
    "int2vector",
    "int4",
    "int4multirange",
    "int4range",
    "int8",
    "int8multirange",
    "int8range",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "nummultirange",
    "numrange",
    "oid",
    "oidvector",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
    "text",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsmultirange",
    "tsquery",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
    "tsvector",
    "txid_snapshot",
    "uuid",
    "varbit",
    "varchar",
    "xid",
    "xid8",
    "xml",
];
