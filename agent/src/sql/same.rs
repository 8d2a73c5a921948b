//! Whether two expressions are one and the same.

use std::fmt::Write as _;

use pg_query::NodeRef;
use pg_query::protobuf::{Node, TypeName};

use super::walk::{node_of, qualified, string};

/// Expressions nested deeper than this are like no other.
const MAX_DEPTH: usize = 24;

/// Longer keys, in bytes, are not made.
const MAX_KEY: usize = 4096;

/// Both are the same column, constant or parameter, or the same expression of such. `alone` names the
/// table that alone is in view, so that `t.a` and `a` are one column.
pub(super) fn same(left: Option<&Node>, right: Option<&Node>, alone: Option<&str>) -> bool {
    // Most are told apart at once.
    if left.is_none() || !may_be_same(left, right) {
        return false;
    }
    key(left, alone).is_some_and(|left| key(right, alone).as_ref() == Some(&left))
}

fn may_be_same(left: Option<&Node>, right: Option<&Node>) -> bool {
    let variant = |node: Option<&Node>| node.and_then(|node| node.node.as_ref()).map(std::mem::discriminant);
    variant(left) == variant(right)
}

/// A text that is the same for the same expressions; `None` for what has nothing like it: NULL,
/// subqueries, what is too large.
pub(super) fn key(node: Option<&Node>, alone: Option<&str>) -> Option<String> {
    let mut key = String::new();
    write(node, alone, &mut key, 0)?;
    Some(key)
}

fn write(node: Option<&Node>, alone: Option<&str>, key: &mut String, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH || key.len() > MAX_KEY {
        return None;
    }
    let depth = depth + 1;
    let each = |nodes: &[Node], key: &mut String| -> Option<()> {
        key.push('(');
        for node in nodes {
            write(Some(node), alone, key, depth)?;
            key.push(',');
        }
        key.push(')');
        Some(())
    };
    match node_of(node)? {
        NodeRef::ColumnRef(column) => {
            let names: Vec<&str> = column.fields.iter().map(string).collect::<Option<_>>()?;
            match names[..] {
                [name] => quoted(key, name),
                [.., table, name] if alone == Some(table) => quoted(key, name),
                [.., table, name] => {
                    quoted(key, table);
                    key.push('.');
                    quoted(key, name);
                }
                [] => return None,
            }
        }
        NodeRef::ParamRef(parameter) => _ = std::write!(key, "${}", parameter.number),
        NodeRef::AConst(constant) if !constant.isnull => _ = std::write!(key, "{:?}", constant.val),
        NodeRef::TypeCast(cast) => {
            key.push_str("cast");
            type_name(key, cast.type_name.as_ref());
            write(cast.arg.as_deref(), alone, key, depth)?;
        }
        NodeRef::CollateClause(collate) => write(collate.arg.as_deref(), alone, key, depth)?,
        NodeRef::AExpr(expression) => {
            _ = std::write!(key, "[{}", expression.kind);
            quoted(key, qualified(&expression.name).1);
            for side in [&expression.lexpr, &expression.rexpr] {
                if side.is_some() {
                    write(side.as_deref(), alone, key, depth)?;
                }
                key.push(';');
            }
            key.push(']');
        }
        NodeRef::List(list) => each(&list.items, key)?,
        NodeRef::FuncCall(call) => {
            let plain = call.agg_order.is_empty()
                && call.agg_filter.is_none()
                && call.over.is_none()
                && !call.agg_within_group;
            if !plain {
                return None;
            }
            quoted(key, qualified(&call.funcname).1);
            each(&call.args, key)?;
        }
        NodeRef::RowExpr(row) => {
            key.push_str("row");
            each(&row.args, key)?;
        }
        NodeRef::AArrayExpr(array) => {
            key.push_str("array");
            each(&array.elements, key)?;
        }
        NodeRef::CoalesceExpr(coalesce) => {
            key.push_str("coalesce");
            each(&coalesce.args, key)?;
        }
        NodeRef::BoolExpr(expression) => {
            _ = std::write!(key, "bool{}", expression.boolop);
            each(&expression.args, key)?;
        }
        NodeRef::NullTest(test) => {
            _ = std::write!(key, "null{}", test.nulltesttype);
            write(test.arg.as_deref(), alone, key, depth)?;
        }
        NodeRef::BooleanTest(test) => {
            _ = std::write!(key, "is{}", test.booltesttype);
            write(test.arg.as_deref(), alone, key, depth)?;
        }
        _ => return None,
    }
    Some(())
}

fn quoted(key: &mut String, name: &str) {
    _ = std::write!(key, "{name:?}");
}

fn type_name(key: &mut String, to: Option<&TypeName>) {
    let Some(to) = to else { return };
    _ = std::write!(key, "{:?}{}{}", qualified(&to.names).1, to.typmods.len(), to.array_bounds.len());
}
