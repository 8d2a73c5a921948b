//! Values of expressions that the text alone gives, for [`judge`](super::bounds::judge).
//!
//! A value here is what the server's would be for every row, NULL in a column left aside. It serves to
//! find conditions that exclude nothing; what is to be run is never read by it.

use std::cell::Cell;

use pg_query::NodeRef;
use pg_query::protobuf::{
    AConst, AExpr, AExprKind, BoolExprType, BoolTestType, Node, NullTestType, SelectStmt, SubLink,
    SubLinkType, a_const::Val,
};

use super::constant::is_type;
use super::same::same;
use super::walk::{node_of, qualified, string};

/// Expressions nested deeper than this are not folded.
const MAX_DEPTH: usize = 200;

/// Nodes looked at for one condition, above which its value is not known. Some nodes are looked at
/// more than once, so that the work could double with each level.
const MAX_STEPS: usize = 2_000;

/// Numbers are held in parts of this, so that they are exact.
const SCALE: i128 = 1_000_000_000_000;

/// A place within an expression.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    /// The name of the table that alone is in view.
    alone: Option<&'a str>,
    level: usize,
    /// How much was looked at; more than [`MAX_STEPS`] when it was too much, or too deep.
    steps: &'a Cell<usize>,
}

impl<'a> At<'a> {
    pub(super) fn start(alone: Option<&'a str>, steps: &'a Cell<usize>) -> Self {
        Self { alone, level: 0, steps }
    }

    /// Not all was looked at.
    pub(super) fn is_exhausted(self) -> bool {
        self.steps.get() > MAX_STEPS
    }

    fn deeper(self) -> Option<Self> {
        let deep = self.level >= MAX_DEPTH;
        self.steps.set(self.steps.get() + if deep { MAX_STEPS + 1 } else { 1 });
        (!self.is_exhausted()).then_some(Self { level: self.level + 1, ..self })
    }
}

/// A value that is known, or what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// In parts of [`SCALE`].
    Number(i128),
    Text(String),
    Unknown,
}

pub(super) fn fold(node: Option<&Node>, depth: At<'_>) -> Value {
    node_of(node).map_or(Value::Unknown, |node| fold_node(node, depth))
}

pub(super) fn fold_node(node: NodeRef<'_>, depth: At<'_>) -> Value {
    let Some(depth) = depth.deeper() else { return Value::Unknown };
    match node {
        NodeRef::AConst(constant) => fold_constant(constant),
        NodeRef::TypeCast(cast) => {
            let value = fold(cast.arg.as_deref(), depth);
            let to = |names: &[&str]| is_type(cast.type_name.as_ref(), names);
            match value {
                Value::Null => Value::Null,
                Value::Text(text) if to(&["bool"]) => as_bool(&text).map_or(Value::Unknown, Value::Bool),
                Value::Text(text) if to(&["text", "varchar"]) => Value::Text(text),
                Value::Text(text) if to(&["numeric"]) => number(&text),
                Value::Text(text) if to(INTEGERS) => match number(&text) {
                    Value::Number(number) if number % SCALE == 0 => Value::Number(number),
                    _ => Value::Unknown,
                },
                Value::Number(number) if to(&["bool"]) => Value::Bool(number != 0),
                Value::Number(number) if to(&["numeric"]) => Value::Number(number),
                Value::Number(number) if to(INTEGERS) && number % SCALE == 0 => Value::Number(number),
                Value::Bool(value) if to(&["bool"]) => Value::Bool(value),
                _ => Value::Unknown,
            }
        }
        NodeRef::CollateClause(collate) => fold(collate.arg.as_deref(), depth),
        NodeRef::BoolExpr(expression) => {
            let arms = || expression.args.iter().map(|arm| truth(&fold(Some(arm), depth)));
            match expression.boolop() {
                BoolExprType::NotExpr => match arms().next().flatten() {
                    Some(value) => Value::Bool(!value),
                    None => Value::Unknown,
                },
                BoolExprType::AndExpr => all(arms()),
                BoolExprType::OrExpr => {
                    if arms().any(|arm| arm == Some(true)) {
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
        NodeRef::AExpr(expression) => fold_operator(expression, depth),
        NodeRef::NullTest(test) => {
            let is_null = match fold(test.arg.as_deref(), depth) {
                Value::Unknown if is_never_null(test.arg.as_deref()) => false,
                Value::Unknown => return Value::Unknown,
                value => value == Value::Null,
            };
            Value::Bool(is_null == (test.nulltesttype() == NullTestType::IsNull))
        }
        NodeRef::BooleanTest(test) => {
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
        NodeRef::CoalesceExpr(coalesce) => coalesce
            .args
            .iter()
            .map(|arg| fold(Some(arg), depth))
            .find(|value| *value != Value::Null)
            .unwrap_or(Value::Null),
        NodeRef::CaseExpr(case) => fold_case(case, depth),
        NodeRef::SubLink(link) => fold_sublink(link, depth),
        NodeRef::FuncCall(call) if !call.func_variadic => {
            fold_call(qualified(&call.funcname).1, &call.args, depth)
        }
        _ => Value::Unknown,
    }
}

const INTEGERS: &[&str] = &["int2", "int4", "int8"];

fn fold_call(name: &str, args: &[Node], depth: At<'_>) -> Value {
    match (name, args) {
        ("length" | "char_length" | "character_length", [text]) => match fold(Some(text), depth) {
            Value::Text(text) => Value::Number(text.chars().count() as i128 * SCALE),
            _ => Value::Unknown,
        },
        ("octet_length", [text]) => match fold(Some(text), depth) {
            Value::Text(text) => Value::Number(text.len() as i128 * SCALE),
            _ => Value::Unknown,
        },
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
        ("lower" | "upper", [text]) => match fold(Some(text), depth) {
            Value::Text(text) if !text.is_ascii() => Value::Unknown,
            Value::Text(text) if name == "lower" => Value::Text(text.to_ascii_lowercase()),
            Value::Text(text) => Value::Text(text.to_ascii_uppercase()),
            _ => Value::Unknown,
        },
        _ => Value::Unknown,
    }
}

/// A value that cannot be NULL: a column of every table that the server fills itself, or an expression
/// that gives something else in the place of NULL.
fn is_never_null(node: Option<&Node>) -> bool {
    match node_of(node) {
        Some(NodeRef::ColumnRef(column)) => {
            column.fields.last().and_then(string).is_some_and(super::bounds::is_system_column)
        }
        Some(NodeRef::CoalesceExpr(coalesce)) => coalesce
            .args
            .iter()
            .any(|arg| matches!(node_of(Some(arg)), Some(NodeRef::AConst(constant)) if !constant.isnull)),
        Some(NodeRef::AArrayExpr(_)) => true,
        Some(NodeRef::TypeCast(cast)) => is_never_null(cast.arg.as_deref()),
        _ => false,
    }
}

/// A decimal number; not known where it is not exact.
fn number(text: &str) -> Value {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |digits: &str| digits.len() <= 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let long = whole.len() <= 24 && whole.bytes().all(|byte| byte.is_ascii_digit());
    if !long || !plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Value::Unknown;
    }
    let part = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
    let places = u32::try_from(12 - fraction.len()).unwrap_or_default();
    let value = part(whole).and_then(|whole| whole.checked_mul(SCALE)).and_then(|whole| {
        let fraction = part(fraction)?.checked_mul(10_i128.checked_pow(places)?)?;
        whole.checked_add(fraction)
    });
    value.map_or(Value::Unknown, |value| Value::Number(if negative { -value } else { value }))
}

/// The number that a constant is, in parts that make it exact.
pub(super) fn constant_number(node: Option<&Node>) -> Option<i128> {
    let steps = Cell::new(0);
    match node_of(node)? {
        NodeRef::AConst(_) | NodeRef::AExpr(_) => match fold(node, At::start(None, &steps)) {
            Value::Number(number) => Some(number),
            _ => None,
        },
        _ => None,
    }
}

fn fold_constant(constant: &AConst) -> Value {
    match &constant.val {
        _ if constant.isnull => Value::Null,
        Some(Val::Ival(number)) => Value::Number(i128::from(number.ival) * SCALE),
        Some(Val::Fval(number_text)) => number(&number_text.fval),
        Some(Val::Boolval(value)) => Value::Bool(value.boolval),
        Some(Val::Sval(text)) => Value::Text(text.sval.clone()),
        Some(Val::Bsval(_)) => Value::Unknown,
        // Zero values are not sent.
        None => Value::Number(0),
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

fn fold_sublink(link: &SubLink, depth: At<'_>) -> Value {
    let Some(NodeRef::SelectStmt(select)) = node_of(link.subselect.as_deref()) else { return Value::Unknown };
    if is_empty(select, depth) {
        return match link.sub_link_type() {
            SubLinkType::ExistsSublink | SubLinkType::AnySublink => Value::Bool(false),
            SubLinkType::AllSublink => Value::Bool(true),
            SubLinkType::ExprSublink => Value::Null,
            _ => Value::Unknown,
        };
    }
    let one_row = select.from_clause.is_empty()
        && select.where_clause.is_none()
        && select.larg.is_none()
        && select.having_clause.is_none()
        && select.group_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.with_clause.is_none();
    let first = match node_of(select.target_list.first()) {
        Some(NodeRef::ResTarget(target)) => target.val.as_deref(),
        _ => match node_of(select.values_lists.first()) {
            Some(NodeRef::List(list)) if select.values_lists.len() == 1 => list.items.first(),
            _ => None,
        },
    };
    match link.sub_link_type() {
        _ if !one_row => Value::Unknown,
        // A function that gives a set can give none.
        SubLinkType::ExistsSublink if first.is_none_or(|first| !has_call(first)) => Value::Bool(true),
        SubLinkType::ExprSublink => fold(first, depth),
        SubLinkType::AnySublink | SubLinkType::AllSublink => {
            let name = if link.oper_name.is_empty() { "=" } else { qualified(&link.oper_name).1 };
            compare(name, link.testexpr.as_deref(), first, depth)
        }
        _ => Value::Unknown,
    }
}

fn has_call(node: &Node) -> bool {
    let mut found = matches!(node_of(Some(node)), Some(NodeRef::FuncCall(_) | NodeRef::AIndirection(_)));
    if let Some(node) = node_of(Some(node)) {
        super::tree::children(node, &mut |child| {
            found |= matches!(child, NodeRef::FuncCall(_) | NodeRef::AIndirection(_));
        });
    }
    found
}

/// A query that gives no row: its WHERE never holds, or it is bounded to none.
fn is_empty(select: &SelectStmt, depth: At<'_>) -> bool {
    let grouped = !select.group_clause.is_empty();
    let plain = select.larg.is_none() && select.having_clause.is_none();
    let computes = select.target_list.iter().any(has_call_below);
    let never = select.where_clause.is_some()
        && matches!(fold(select.where_clause.as_deref(), depth), Value::Bool(false) | Value::Null);
    let none = select.limit_count.is_some() && fold(select.limit_count.as_deref(), depth) == Value::Number(0);
    // An aggregate without GROUP BY gives a row of nothing.
    none || (never && plain && (grouped || !computes))
}

fn has_call_below(target: &Node) -> bool {
    matches!(node_of(Some(target)), Some(NodeRef::ResTarget(target))
        if target.val.as_deref().is_some_and(has_call))
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
            let found = among("=", left, &list.items, depth);
            match found {
                Value::Bool(found) => Value::Bool(found == (name == "=")),
                other => other,
            }
        }
        AExprKind::AexprOpAny | AExprKind::AexprOpAll => {
            let every = expression.kind() == AExprKind::AexprOpAll;
            let Some(items) = elements(right) else { return Value::Unknown };
            match items {
                [] => Value::Bool(every),
                items if !every => among(name, left, items, depth),
                items => all(items.iter().map(|item| truth(&compare(name, left, Some(item), depth)))),
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
        AExprKind::AexprLike | AExprKind::AexprIlike | AExprKind::AexprSimilar => {
            let (pattern, escape) = pattern(right, depth);
            match pattern {
                // Anything is like `%`.
                Value::Text(pattern)
                    if !pattern.is_empty() && pattern.chars().all(|c| c == '%') && escape != Some('%') =>
                {
                    Value::Bool(!name.starts_with('!'))
                }
                Value::Text(pattern)
                    if escape == Some('\\')
                        && expression.kind() == AExprKind::AexprLike
                        && !pattern.contains(['%', '_', '\\']) =>
                {
                    compare(if name == "~~" { "=" } else { "<>" }, left, right, depth)
                }
                _ => Value::Unknown,
            }
        }
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

/// `left name ANY (items)`. A long list of constants beside a column costs no steps.
fn among(name: &str, left: Option<&Node>, items: &[Node], depth: At<'_>) -> Value {
    if fold(left, depth) == Value::Unknown {
        let equal = matches!(name, "=" | ">=" | "<=");
        let found = equal && items.iter().any(|item| same(left, Some(item), depth.alone));
        return if found { Value::Bool(true) } else { Value::Unknown };
    }
    let mut certain = true;
    for item in items {
        match truth(&compare(name, left, Some(item), depth)) {
            Some(true) => return Value::Bool(true),
            Some(false) => {}
            None => certain = false,
        }
    }
    if certain { Value::Bool(false) } else { Value::Unknown }
}

/// The elements of an array that is written out.
fn elements(array: Option<&Node>) -> Option<&[Node]> {
    match node_of(array)? {
        NodeRef::AArrayExpr(array) => Some(&array.elements),
        NodeRef::TypeCast(cast) => elements(cast.arg.as_deref()),
        NodeRef::AConst(AConst { val: Some(Val::Sval(text)), isnull: false, .. })
            if text.sval.split_whitespace().collect::<String>() == "{}" =>
        {
            Some(&[])
        }
        _ => None,
    }
}

/// The pattern of LIKE or SIMILAR TO, and what escapes a sign in it.
fn pattern(node: Option<&Node>, depth: At<'_>) -> (Value, Option<char>) {
    let Some(NodeRef::FuncCall(call)) = node_of(node) else { return (fold(node, depth), Some('\\')) };
    match (qualified(&call.funcname).1, &call.args[..]) {
        ("like_escape" | "similar_to_escape", [pattern, escape]) => {
            let escape = match fold(Some(escape), depth) {
                Value::Text(escape) => escape.chars().next(),
                _ => Some('%'),
            };
            (fold(Some(pattern), depth), escape)
        }
        ("similar_to_escape", [pattern]) => (fold(Some(pattern), depth), Some('\\')),
        _ => (fold(node, depth), Some('\\')),
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
        ("+", Value::Number(left), Value::Number(right)) => return exact(left.checked_add(*right)),
        ("-", Value::Number(left), Value::Number(right)) => return exact(left.checked_sub(*right)),
        ("*", Value::Number(left), Value::Number(right)) => {
            let product = left.checked_mul(*right).filter(|product| product % SCALE == 0);
            return exact(product.map(|product| product / SCALE));
        }
        _ => {}
    }
    let order = match (&left, &right) {
        (Value::Number(left), Value::Number(right)) => Some(left.cmp(right)),
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

fn exact(number: Option<i128>) -> Value {
    number.map_or(Value::Unknown, Value::Number)
}

fn read_as(text: &str, other: &Value) -> Value {
    match other {
        Value::Number(_) => number(text),
        Value::Bool(_) => as_bool(text).map_or(Value::Unknown, Value::Bool),
        _ => Value::Unknown,
    }
}

pub(super) fn truth(value: &Value) -> Option<bool> {
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

pub(super) fn as_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes" | "on" | "1" => Some(true),
        "f" | "fa" | "fal" | "fals" | "false" | "n" | "no" | "of" | "off" | "0" => Some(false),
        _ => None,
    }
}
