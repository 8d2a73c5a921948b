//! Texts, names and numbers that stand in a statement as constants.
//!
//! What runs by these (EXECUTE, `set_config`, `query_to_xml`) has to be exactly what the server makes
//! of them, so nothing is worked out here but what leaves no room for doubt: string constants,
//! `||` between them, and a cast to `text`. Whatever else gives a text is not known before it runs.

use pg_query::NodeRef;
use pg_query::protobuf::{AConst, AExprKind, LimitOption, Node, SelectStmt, TypeName, a_const::Val};

use super::walk::{node_of, string};
use super::{Bound, Relation};

/// Chains of `||` longer than this are not known.
const MAX_DEPTH: usize = 1000;

/// Longer names are cut by the server (`NAMEDATALEN`), in bytes.
const MAX_NAME: usize = 63;

/// The text that the expression gives, where it is put together from constants.
pub(super) fn text(node: Option<&Node>) -> Option<String> {
    let mut text = String::new();
    append(node, &mut text, 0)?;
    Some(text)
}

fn append(node: Option<&Node>, text: &mut String, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    match node_of(node)? {
        NodeRef::AConst(AConst { val: Some(Val::Sval(part)), isnull: false, .. }) => {
            text.push_str(&part.sval);
            Some(())
        }
        // An operator of another schema could do anything.
        NodeRef::AExpr(operator)
            if operator.kind() == AExprKind::AexprOp && is_builtin(&operator.name, "||") =>
        {
            append(Some(operator.lexpr.as_deref()?), text, depth + 1)?;
            append(Some(operator.rexpr.as_deref()?), text, depth + 1)
        }
        NodeRef::TypeCast(cast) if is_type(cast.type_name.as_ref(), &["text"]) => {
            append(cast.arg.as_deref(), text, depth + 1)
        }
        _ => None,
    }
}

/// The relation that a constant names, plain or as `'name'::regclass`; `None` where the text does not
/// tell which it is.
pub(super) fn relation(node: Option<&Node>) -> Option<Relation> {
    let mut inner = node;
    if let Some(NodeRef::TypeCast(cast)) = node_of(node)
        && is_type(cast.type_name.as_ref(), &["regclass"])
    {
        inner = cast.arg.as_deref();
    }
    parse_relation(&text(inner)?)
}

/// The value of a setting in SET, as text.
pub(super) fn setting(node: Option<&Node>) -> Option<String> {
    let NodeRef::AConst(constant) = node_of(node)? else { return None };
    match constant.val.as_ref() {
        _ if constant.isnull => None,
        Some(Val::Sval(text)) => Some(text.sval.clone()),
        Some(Val::Fval(number)) => Some(number.fval.clone()),
        Some(Val::Boolval(value)) => Some(value.boolval.to_string()),
        Some(Val::Bsval(_)) => None,
        Some(Val::Ival(number)) => Some(number.ival.to_string()),
        // Zero values are not sent.
        None => Some("0".to_owned()),
    }
}

/// It is a constant or of a type, but no text.
pub(super) fn is_not_text(node: &Node) -> bool {
    match node_of(Some(node)) {
        Some(NodeRef::NamedArgExpr(named)) => named.arg.as_deref().is_some_and(is_not_text),
        Some(NodeRef::AConst(constant)) => {
            constant.isnull || !matches!(constant.val, Some(Val::Sval(_) | Val::Bsval(_)))
        }
        Some(NodeRef::TypeCast(cast)) => is_type(
            cast.type_name.as_ref(),
            &["bool", "int2", "int4", "int8", "numeric", "float8", "regclass", "tsquery", "tsvector"],
        ),
        _ => false,
    }
}

/// What bounds the number of a query's rows: a bound that the text does not tell is none, except for a
/// parameter.
pub(super) fn limit(select: &SelectStmt) -> Option<Bound> {
    // Rows that are equal to the last one come along, however many there are.
    if select.limit_option() == LimitOption::WithTies {
        return None;
    }
    let mut count = select.limit_count.as_deref();
    while let Some(NodeRef::TypeCast(cast)) = node_of(count) {
        if !is_type(cast.type_name.as_ref(), &["int2", "int4", "int8", "numeric", "float4", "float8"]) {
            return None;
        }
        count = cast.arg.as_deref();
    }
    match node_of(count)? {
        NodeRef::ParamRef(parameter) => u32::try_from(parameter.number).ok().map(Bound::Parameter),
        NodeRef::AConst(constant) if !constant.isnull => match &constant.val {
            Some(Val::Ival(number)) => u64::try_from(number.ival).ok().map(Bound::Rows),
            Some(Val::Fval(number)) => Bound::rows(&number.fval).map(Bound::Rows),
            Some(Val::Sval(number)) => Bound::rows(&number.sval).map(Bound::Rows),
            Some(Val::Boolval(_) | Val::Bsval(_)) => None,
            // Zero values are not sent.
            None => Some(Bound::Rows(0)),
        },
        _ => None,
    }
}

/// The type is one of `names` of the server's own, without modifiers and no array.
pub(super) fn is_type(to: Option<&TypeName>, names: &[&str]) -> bool {
    to.is_some_and(|to| {
        to.typmods.is_empty()
            && to.array_bounds.is_empty()
            && !to.setof
            && names.iter().any(|name| is_builtin(&to.names, name))
    })
}

/// `name` or `pg_catalog.name`.
fn is_builtin(names: &[Node], name: &str) -> bool {
    match names {
        [only] => string(only) == Some(name),
        [schema, last] => string(schema) == Some("pg_catalog") && string(last) == Some(name),
        _ => false,
    }
}

/// A relation's name in a string, as a cast to `regclass` reads it; `None` for what is no name: an OID
/// in digits, `-`.
fn parse_relation(text: &str) -> Option<Relation> {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = text.trim();
    if rest == "-" || rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    loop {
        let mut part;
        if let Some(quoted) = rest.strip_prefix('"') {
            part = String::new();
            let mut inner = quoted;
            loop {
                let end = inner.find('"')?;
                part.push_str(inner.get(..end)?);
                inner = inner.get(end + 1..)?;
                match inner.strip_prefix('"') {
                    Some(after) => {
                        part.push('"');
                        inner = after;
                    }
                    None => break,
                }
            }
            rest = inner.trim_start();
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            part = rest.get(..end)?.trim().to_ascii_lowercase();
            rest = rest.get(end..)?;
        }
        if part.is_empty() {
            return None;
        }
        part.truncate(part.floor_char_boundary(MAX_NAME));
        parts.push(part);
        match rest.strip_prefix('.') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => break,
            None => return None,
        }
    }
    let name = parts.pop()?;
    Some(Relation { schema: parts.pop(), name })
}
