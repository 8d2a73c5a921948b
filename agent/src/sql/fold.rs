//! Expressions that the text alone gives the value of: WHERE that holds for every row, LIMIT without a
//! bound, texts put together from constants.

use std::cell::Cell;

use pg_query::NodeRef;
use pg_query::protobuf::{
    AConst, AExpr, AExprKind, BoolExprType, BoolTestType, Node, NullTestType, SelectStmt, SubLinkType,
    a_const::Val,
};

use super::functions;
use super::tree::children;
use super::walk::{node_of, qualified, string};
use super::{Limit, Where};

/// Expressions nested deeper than this are not folded.
const MAX_DEPTH: usize = 200;

/// Nodes looked at for one expression, above which its value is not known. Some nodes are looked at
/// more than once, so that the work could double with each level.
const MAX_STEPS: usize = 20_000;

/// Arms of an OR that are compared with one another.
const MAX_ARMS: usize = 32;

/// A place within an expression.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    /// The name of the table that alone is in view.
    alone: Option<&'a str>,
    level: usize,
    steps: &'a Cell<usize>,
}

impl At<'_> {
    fn deeper(self) -> Option<Self> {
        let steps = self.steps.get() + 1;
        self.steps.set(steps);
        (self.level < MAX_DEPTH && steps < MAX_STEPS).then_some(Self { level: self.level + 1, ..self })
    }
}

/// A value that is known, or what is known about it.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Unknown,
}

/// How a WHERE bounds the rows. `alone` names the table that alone is in view, so that `t.a` and `a` are
/// one column.
pub(super) fn judge(condition: Option<&Node>, alone: Option<&str>) -> Where {
    let Some(condition) = condition else { return Where::Missing };
    match fold(Some(condition), At { alone, level: 0, steps: &Cell::new(0) }) {
        Value::Bool(true) => Where::AlwaysTrue,
        Value::Text(text) if as_bool(&text) == Some(true) => Where::AlwaysTrue,
        Value::Unknown if is_row_independent(condition) => Where::AlwaysTrue,
        _ => Where::Present,
    }
}

/// Whether a query bounds the number of its rows: a bound that the text does not tell is none, except
/// for a parameter.
pub(super) fn limit(select: &SelectStmt) -> Limit {
    let Some(count) = select.limit_count.as_deref() else { return Limit::Missing };
    let mut inner = Some(count);
    while let Some(NodeRef::TypeCast(cast)) = node_of(inner) {
        inner = cast.arg.as_deref();
    }
    if matches!(node_of(inner), Some(NodeRef::ParamRef(_))) {
        return Limit::Present;
    }
    match start(Some(count)) {
        Value::Number(_) => Limit::Present,
        Value::Text(text) if text.trim().parse::<f64>().is_ok() => Limit::Present,
        _ => Limit::Missing,
    }
}

/// The text that the expression gives, where it is put together from constants.
pub(super) fn const_text(node: Option<&Node>) -> Option<String> {
    match node_of(node) {
        // A named argument is as good as one by position.
        Some(NodeRef::NamedArgExpr(named)) => const_text(named.arg.as_deref()),
        _ => match start(node) {
            Value::Text(text) => Some(text),
            _ => None,
        },
    }
}

/// The value of a setting in SET, as text.
pub(super) fn setting_text(node: Option<&Node>) -> Option<String> {
    match start(node) {
        Value::Text(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Unknown => None,
    }
}

/// It is a constant or of a type, but no text.
pub(super) fn is_not_text(node: &Node) -> bool {
    let inner = match node_of(Some(node)) {
        Some(NodeRef::NamedArgExpr(named)) => named.arg.as_deref(),
        _ => Some(node),
    };
    if let Some(NodeRef::TypeCast(cast)) = node_of(inner)
        && let Some(to) = &cast.type_name
        && matches!(
            qualified(&to.names).1,
            "bool" | "int2" | "int4" | "int8" | "numeric" | "float8" | "regclass" | "tsquery" | "tsvector"
        )
    {
        return true;
    }
    matches!(start(inner), Value::Null | Value::Bool(_) | Value::Number(_))
}

fn start(node: Option<&Node>) -> Value {
    fold(node, At { alone: None, level: 0, steps: &Cell::new(0) })
}

fn fold(node: Option<&Node>, depth: At<'_>) -> Value {
    let Some(depth) = depth.deeper() else { return Value::Unknown };
    match node_of(node) {
        Some(NodeRef::AConst(constant)) => fold_constant(constant),
        Some(NodeRef::TypeCast(cast)) => {
            let value = fold(cast.arg.as_deref(), depth);
            let to = cast.type_name.as_ref().map_or("", |to| qualified(&to.names).1);
            match (to, value) {
                ("bool", Value::Text(text)) => as_bool(&text).map_or(Value::Unknown, Value::Bool),
                ("bool", Value::Number(number)) => Value::Bool(number != 0.0),
                ("text" | "varchar" | "bpchar" | "name", Value::Number(_) | Value::Bool(_)) => Value::Unknown,
                (
                    "text" | "varchar" | "bpchar" | "bool" | "int2" | "int4" | "int8" | "numeric" | "float4"
                    | "float8" | "regclass" | "name",
                    value,
                ) => value,
                (_, Value::Null) => Value::Null,
                _ => Value::Unknown,
            }
        }
        Some(NodeRef::CollateClause(collate)) => fold(collate.arg.as_deref(), depth),
        Some(NodeRef::BoolExpr(expression)) => {
            let arms = || expression.args.iter().map(|arm| truth(&fold(Some(arm), depth)));
            match expression.boolop() {
                BoolExprType::NotExpr => match arms().next().flatten() {
                    Some(value) => Value::Bool(!value),
                    None => Value::Unknown,
                },
                BoolExprType::AndExpr => all(arms()),
                BoolExprType::OrExpr => {
                    if arms().any(|arm| arm == Some(true)) || has_complements(&expression.args, depth.alone) {
                        Value::Bool(true)
                    } else if arms().all(|arm| arm == Some(false)) {
                        Value::Bool(false)
                    } else {
                        Value::Unknown
                    }
                }
                BoolExprType::Undefined => Value::Unknown,
            }
        }
        Some(NodeRef::AExpr(expression)) => fold_operator(expression, depth),
        Some(NodeRef::NullTest(test)) => {
            let is_null = match fold(test.arg.as_deref(), depth) {
                Value::Unknown => return Value::Unknown,
                value => value == Value::Null,
            };
            Value::Bool(is_null == (test.nulltesttype() == NullTestType::IsNull))
        }
        Some(NodeRef::BooleanTest(test)) => {
            let value = fold(test.arg.as_deref(), depth);
            if value == Value::Unknown {
                return Value::Unknown;
            }
            let value = truth(&value);
            Value::Bool(match test.booltesttype() {
                BoolTestType::IsTrue => value == Some(true),
                BoolTestType::IsNotTrue => value != Some(true),
                BoolTestType::IsFalse => value == Some(false),
                BoolTestType::IsNotFalse => value != Some(false),
                BoolTestType::IsUnknown => value.is_none(),
                BoolTestType::IsNotUnknown => value.is_some(),
                BoolTestType::Undefined => return Value::Unknown,
            })
        }
        Some(NodeRef::CoalesceExpr(coalesce)) => coalesce
            .args
            .iter()
            .map(|arg| fold(Some(arg), depth))
            .find(|value| *value != Value::Null)
            .unwrap_or(Value::Null),
        Some(NodeRef::CaseExpr(case)) => fold_case(case, depth),
        Some(NodeRef::SubLink(link)) => fold_sublink(link, depth),
        Some(NodeRef::FuncCall(call)) => match (qualified(&call.funcname).1, &call.args[..]) {
            ("length" | "char_length" | "character_length" | "octet_length", [text]) => {
                match fold(Some(text), depth) {
                    Value::Text(text) => Value::Number(text.chars().count() as f64),
                    _ => Value::Unknown,
                }
            }
            ("concat", args) => {
                let mut text = String::new();
                for arg in args {
                    match fold(Some(arg), depth) {
                        Value::Text(part) => text.push_str(&part),
                        Value::Null => {}
                        _ => return Value::Unknown,
                    }
                }
                Value::Text(text)
            }
            ("abs", [number]) => match fold(Some(number), depth) {
                Value::Number(number) => Value::Number(number.abs()),
                _ => Value::Unknown,
            },
            ("lower", [text]) => match fold(Some(text), depth) {
                Value::Text(text) => Value::Text(text.to_lowercase()),
                _ => Value::Unknown,
            },
            ("upper", [text]) => match fold(Some(text), depth) {
                Value::Text(text) => Value::Text(text.to_uppercase()),
                _ => Value::Unknown,
            },
            _ => Value::Unknown,
        },
        _ => Value::Unknown,
    }
}

fn fold_constant(constant: &AConst) -> Value {
    match &constant.val {
        _ if constant.isnull => Value::Null,
        Some(Val::Ival(number)) => Value::Number(f64::from(number.ival)),
        Some(Val::Fval(number)) => number.fval.parse().map_or(Value::Unknown, Value::Number),
        Some(Val::Boolval(value)) => Value::Bool(value.boolval),
        Some(Val::Sval(text)) => Value::Text(text.sval.clone()),
        Some(Val::Bsval(_)) => Value::Unknown,
        // Zero values are not sent.
        None => Value::Number(0.0),
    }
}

fn fold_case(case: &pg_query::protobuf::CaseExpr, depth: At<'_>) -> Value {
    if case.arg.is_some() {
        return Value::Unknown;
    }
    // Whichever arm it takes, when all that it may take agree.
    let mut known: Option<Value> = None;
    let mut agree = |value: Value| match &known {
        Some(known) => *known == value,
        None => {
            known = Some(value);
            true
        }
    };
    for arm in &case.args {
        let Some(NodeRef::CaseWhen(when)) = node_of(Some(arm)) else { return Value::Unknown };
        let condition = fold(when.expr.as_deref(), depth);
        let taken = truth(&condition);
        if taken == Some(false) || condition == Value::Null {
            continue;
        }
        if !agree(fold(when.result.as_deref(), depth)) {
            return Value::Unknown;
        }
        if taken == Some(true) {
            return known.unwrap_or(Value::Unknown);
        }
    }
    let otherwise = case.defresult.as_deref().map_or(Value::Null, |result| fold(Some(result), depth));
    if agree(otherwise) { known.unwrap_or(Value::Unknown) } else { Value::Unknown }
}

fn fold_sublink(link: &pg_query::protobuf::SubLink, depth: At<'_>) -> Value {
    let Some(NodeRef::SelectStmt(select)) = node_of(link.subselect.as_deref()) else { return Value::Unknown };
    let one_row = select.from_clause.is_empty()
        && select.where_clause.is_none()
        && select.larg.is_none()
        && select.having_clause.is_none()
        && select.group_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.with_clause.is_none();
    if !one_row {
        return Value::Unknown;
    }
    let first = match node_of(select.target_list.first()) {
        Some(NodeRef::ResTarget(target)) => target.val.as_deref(),
        _ => match node_of(select.values_lists.first()) {
            Some(NodeRef::List(list)) if select.values_lists.len() == 1 => list.items.first(),
            _ => None,
        },
    };
    match link.sub_link_type() {
        SubLinkType::ExistsSublink => Value::Bool(true),
        SubLinkType::ExprSublink => fold(first, depth),
        SubLinkType::AnySublink | SubLinkType::AllSublink => {
            let name = if link.oper_name.is_empty() { "=" } else { qualified(&link.oper_name).1 };
            compare(name, link.testexpr.as_deref(), first, depth)
        }
        _ => Value::Unknown,
    }
}

fn fold_operator(expression: &AExpr, depth: At<'_>) -> Value {
    let (left, right) = (expression.lexpr.as_deref(), expression.rexpr.as_deref());
    let name = qualified(&expression.name).1;
    match expression.kind() {
        AExprKind::AexprOp if left.is_none() => match (name, fold(right, depth)) {
            ("-", Value::Number(number)) => Value::Number(-number),
            ("+", value @ Value::Number(_)) => value,
            _ => Value::Unknown,
        },
        AExprKind::AexprOp => compare(name, left, right, depth),
        AExprKind::AexprNotDistinct => match (fold(left, depth), fold(right, depth)) {
            _ if same(left, right, depth.alone) => Value::Bool(true),
            (Value::Unknown, _) | (_, Value::Unknown) => Value::Unknown,
            (left, right) => Value::Bool(left == right),
        },
        AExprKind::AexprDistinct => match (fold(left, depth), fold(right, depth)) {
            _ if same(left, right, depth.alone) => Value::Bool(false),
            (Value::Unknown, _) | (_, Value::Unknown) => Value::Unknown,
            (left, right) => Value::Bool(left != right),
        },
        AExprKind::AexprIn => {
            let Some(NodeRef::List(list)) = node_of(right) else { return Value::Unknown };
            let values = || list.items.iter().map(|item| truth(&compare("=", left, Some(item), depth)));
            match name {
                "=" if values().any(|found| found == Some(true)) => Value::Bool(true),
                "=" if values().all(|found| found == Some(false)) => Value::Bool(false),
                "<>" if values().all(|found| found == Some(false)) => Value::Bool(true),
                _ => Value::Unknown,
            }
        }
        AExprKind::AexprOpAny | AExprKind::AexprOpAll => {
            let Some(NodeRef::AArrayExpr(array)) = node_of(right) else { return Value::Unknown };
            let values = || array.elements.iter().map(|item| truth(&compare(name, left, Some(item), depth)));
            if expression.kind() == AExprKind::AexprOpAll {
                all(values())
            } else if values().any(|found| found == Some(true)) {
                Value::Bool(true)
            } else {
                Value::Unknown
            }
        }
        AExprKind::AexprBetween | AExprKind::AexprBetweenSym => {
            let Some(NodeRef::List(list)) = node_of(right) else { return Value::Unknown };
            let [low, high] = &list.items[..] else { return Value::Unknown };
            let within = |low, high| {
                all([compare(">=", left, low, depth), compare("<=", left, high, depth)].iter().map(truth))
            };
            let straight = within(Some(low), Some(high));
            if straight != Value::Bool(true) && expression.kind() == AExprKind::AexprBetweenSym {
                return within(Some(high), Some(low));
            }
            straight
        }
        AExprKind::AexprLike | AExprKind::AexprIlike => match fold(right, depth) {
            // Anything is like `%`.
            Value::Text(pattern) if !pattern.is_empty() && pattern.chars().all(|c| c == '%') => {
                Value::Bool(name == "~~" || name == "~~*")
            }
            Value::Text(pattern) if !pattern.contains(['%', '_', '\\']) && name == "~~" => {
                compare("=", left, right, depth)
            }
            _ => Value::Unknown,
        },
        AExprKind::AexprNullif => {
            if same(left, right, depth.alone) || compare("=", left, right, depth) == Value::Bool(true) {
                Value::Null
            } else {
                Value::Unknown
            }
        }
        _ => Value::Unknown,
    }
}

/// `left name right`.
fn compare(name: &str, left: Option<&Node>, right: Option<&Node>, depth: At<'_>) -> Value {
    // For the one row value, NULL, for which it does not hold, nobody writes it.
    if same(left, right, depth.alone) {
        match name {
            "=" | ">=" | "<=" | "@>" | "<@" | "~~" => return Value::Bool(true),
            "<>" | "!=" | "<" | ">" => return Value::Bool(false),
            _ => {}
        }
    }
    let (left, right) = (fold(left, depth), fold(right, depth));
    if matches!(name, "~" | "~*")
        && let Value::Text(pattern) = &right
        && matches!(pattern.as_str(), "" | ".*" | "^" | "$" | "^.*$" | "^.*" | ".*$")
    {
        return Value::Bool(true);
    }
    let (left, right) = match (left, right) {
        (Value::Unknown, _) | (_, Value::Unknown) => return Value::Unknown,
        (Value::Null, _) | (_, Value::Null) => return Value::Null,
        // A text beside another type is read as one of that type.
        (Value::Text(text), other @ (Value::Number(_) | Value::Bool(_))) => (read_as(&text, &other), other),
        (other @ (Value::Number(_) | Value::Bool(_)), Value::Text(text)) => {
            let read = read_as(&text, &other);
            (other, read)
        }
        both => both,
    };
    match (name, &left, &right) {
        ("||", Value::Text(left), Value::Text(right)) => return Value::Text(format!("{left}{right}")),
        ("+", Value::Number(left), Value::Number(right)) => return Value::Number(left + right),
        ("-", Value::Number(left), Value::Number(right)) => return Value::Number(left - right),
        ("*", Value::Number(left), Value::Number(right)) => return Value::Number(left * right),
        _ => {}
    }
    let order = match (&left, &right) {
        (Value::Number(left), Value::Number(right)) => left.partial_cmp(right),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Text(left), Value::Text(right)) if left == right => Some(std::cmp::Ordering::Equal),
        // The order of texts depends on the collation; that they differ does not.
        (Value::Text(_), Value::Text(_)) => {
            return match name {
                "=" => Value::Bool(false),
                "<>" | "!=" => Value::Bool(true),
                _ => Value::Unknown,
            };
        }
        _ => None,
    };
    let Some(order) = order else { return Value::Unknown };
    match name {
        "=" => Value::Bool(order.is_eq()),
        "<>" | "!=" => Value::Bool(order.is_ne()),
        "<" => Value::Bool(order.is_lt()),
        ">" => Value::Bool(order.is_gt()),
        "<=" => Value::Bool(order.is_le()),
        ">=" => Value::Bool(order.is_ge()),
        _ => Value::Unknown,
    }
}

fn read_as(text: &str, other: &Value) -> Value {
    match other {
        Value::Number(_) => text.trim().parse().map_or(Value::Unknown, Value::Number),
        Value::Bool(_) => as_bool(text).map_or(Value::Unknown, Value::Bool),
        _ => Value::Unknown,
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Text(text) => as_bool(text),
        _ => None,
    }
}

fn all(mut arms: impl Iterator<Item = Option<bool>> + Clone) -> Value {
    if arms.clone().all(|arm| arm == Some(true)) {
        Value::Bool(true)
    } else if arms.any(|arm| arm == Some(false)) {
        Value::Bool(false)
    } else {
        Value::Unknown
    }
}

fn as_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes" | "on" | "1" => Some(true),
        "f" | "fa" | "fal" | "fals" | "false" | "n" | "no" | "of" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Two arms of an OR of which one holds whenever the other does not.
fn has_complements(arms: &[Node], alone: Option<&str>) -> bool {
    arms.iter().take(MAX_ARMS).enumerate().any(|(index, first)| {
        arms.iter().take(MAX_ARMS).skip(index + 1).any(|second| are_complements(first, second, alone))
    })
}

fn are_complements(first: &Node, second: &Node, alone: Option<&str>) -> bool {
    match (node_of(Some(first)), node_of(Some(second))) {
        (Some(NodeRef::NullTest(a)), Some(NodeRef::NullTest(b))) => {
            a.nulltesttype != b.nulltesttype && same(a.arg.as_deref(), b.arg.as_deref(), alone)
        }
        (Some(NodeRef::BoolExpr(not)), _) if not.boolop() == BoolExprType::NotExpr => {
            same(not.args.first(), Some(second), alone)
        }
        (_, Some(NodeRef::BoolExpr(not))) if not.boolop() == BoolExprType::NotExpr => {
            same(not.args.first(), Some(first), alone)
        }
        (Some(NodeRef::AExpr(a)), Some(NodeRef::AExpr(b)))
            if a.kind() == AExprKind::AexprOp && b.kind() == AExprKind::AexprOp =>
        {
            let pair = (qualified(&a.name).1, qualified(&b.name).1);
            same(a.lexpr.as_deref(), b.lexpr.as_deref(), alone)
                && same(a.rexpr.as_deref(), b.rexpr.as_deref(), alone)
                && matches!(
                    pair,
                    ("=", "<>" | "!=")
                        | ("<>" | "!=", "=")
                        | ("<", ">=")
                        | (">=", "<")
                        | (">", "<=")
                        | ("<=", ">")
                        | ("~~", "!~~")
                        | ("!~~", "~~")
                )
        }
        _ => false,
    }
}

/// Both are the same column, constant or parameter, or the same cast or expression of such.
fn same(left: Option<&Node>, right: Option<&Node>, alone: Option<&str>) -> bool {
    same_to(left, right, alone, 0)
}

fn same_to(left: Option<&Node>, right: Option<&Node>, alone: Option<&str>, depth: usize) -> bool {
    if depth > 8 {
        return false;
    }
    let depth = depth + 1;
    match (node_of(left), node_of(right)) {
        (Some(NodeRef::ColumnRef(left)), Some(NodeRef::ColumnRef(right))) => {
            match (&left.fields[..], &right.fields[..]) {
                ([bare], [.., table, qualified]) | ([.., table, qualified], [bare]) => {
                    alone.is_some() && string(table) == alone && string(bare) == string(qualified)
                }
                (left, right) => {
                    left.len() == right.len()
                        && left.iter().zip(right).all(|(left, right)| string(left) == string(right))
                }
            }
        }
        (Some(NodeRef::ParamRef(left)), Some(NodeRef::ParamRef(right))) => left.number == right.number,
        (Some(NodeRef::AConst(left)), Some(NodeRef::AConst(right))) => {
            left.val == right.val && !left.isnull && !right.isnull
        }
        (Some(NodeRef::TypeCast(left)), Some(NodeRef::TypeCast(right))) => {
            let names = |cast: &pg_query::protobuf::TypeCast| {
                cast.type_name.as_ref().map(|to| qualified(&to.names).1.to_owned())
            };
            names(left) == names(right) && same_to(left.arg.as_deref(), right.arg.as_deref(), alone, depth)
        }
        (Some(NodeRef::AExpr(left)), Some(NodeRef::AExpr(right))) => {
            left.kind == right.kind
                && qualified(&left.name) == qualified(&right.name)
                && same_to(left.lexpr.as_deref(), right.lexpr.as_deref(), alone, depth)
                && same_to(left.rexpr.as_deref(), right.rexpr.as_deref(), alone, depth)
        }
        (Some(NodeRef::FuncCall(left)), Some(NodeRef::FuncCall(right))) => {
            let (_, name) = qualified(&left.funcname);
            functions::is_row_independent(name)
                && name == qualified(&right.funcname).1
                && left.args.len() == right.args.len()
                && left.args.iter().zip(&right.args).all(|(l, r)| same_to(Some(l), Some(r), alone, depth))
        }
        (Some(NodeRef::RowExpr(left)), Some(NodeRef::RowExpr(right))) => {
            left.args.len() == right.args.len()
                && left.args.iter().zip(&right.args).all(|(l, r)| same_to(Some(l), Some(r), alone, depth))
        }
        (Some(NodeRef::AArrayExpr(left)), Some(NodeRef::AArrayExpr(right))) => {
            left.elements.len() == right.elements.len()
                && left
                    .elements
                    .iter()
                    .zip(&right.elements)
                    .all(|(l, r)| same_to(Some(l), Some(r), alone, depth))
        }
        _ => false,
    }
}

/// It names no column and asks no table, and is made of nothing that differs from row to row: it holds
/// for all rows or for none.
fn is_row_independent(condition: &Node) -> bool {
    fn check(node: NodeRef<'_>, depth: usize) -> bool {
        let fine = match node {
            NodeRef::ColumnRef(_) | NodeRef::RangeVar(_) | NodeRef::CurrentOfExpr(_) => false,
            NodeRef::SelectStmt(select) => {
                select.from_clause.is_empty() && select.where_clause.is_none() && select.with_clause.is_none()
            }
            NodeRef::FuncCall(call) => functions::is_row_independent(qualified(&call.funcname).1),
            _ => true,
        };
        let mut all = fine && depth < MAX_DEPTH;
        if all {
            children(node, &mut |child| all = all && check(child, depth + 1));
        }
        all
    }
    node_of(Some(condition)).is_some_and(|node| check(node, 0))
}
