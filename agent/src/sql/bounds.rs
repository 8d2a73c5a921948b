//! Whether a WHERE bounds the rows that a statement reads or changes.
//!
//! A condition bounds them when it says something about their columns that does not hold for every
//! row. So one that names none of their columns bounds nothing: it holds for all rows or for none.

use std::cell::Cell;
use std::collections::HashMap;

use pg_query::NodeRef;
use pg_query::protobuf::{
    AConst, AExprKind, BoolExprType, BoolTestType, ColumnRef, Node, NullTestType, a_const::Val,
};

use super::Where;
use super::fold::{At, Value, as_bool, constant_number, fold, truth};
use super::same::key;
use super::scope::{Item, Scope, Source};
use super::tree::children;
use super::walk::{is_star, node_of, qualified, string};

/// Whose rows a condition is to bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those of the table that is changed.
    Target,
    /// Those of any table in FROM.
    Tables,
}

/// How a WHERE bounds the rows of a change or query, whose FROM is `scope`.
///
/// Where the text does not tell whose column a name is (it has no table, and several in view could have
/// it) the column counts as another's.
pub(super) fn judge(condition: Option<&Node>, scope: &Scope<'_>, whose: Whose) -> Where {
    if condition.is_none() {
        return Where::Missing;
    }
    let judge = Judge { scope, whose, alone: scope.alone() };
    if judge.bounds(condition, false) { Where::Present } else { Where::AlwaysTrue }
}

/// A column that every table has and the server fills.
pub(super) fn is_system_column(name: &str) -> bool {
    matches!(name, "ctid" | "tableoid" | "xmin" | "xmax" | "cmin" | "cmax")
}

struct Judge<'s> {
    scope: &'s Scope<'s>,
    whose: Whose,
    alone: Option<&'s str>,
}

impl Judge<'_> {
    /// `condition` (or NOT `condition`) may exclude rows, or holds for none.
    fn bounds(&self, condition: Option<&Node>, negated: bool) -> bool {
        match node_of(condition) {
            Some(NodeRef::BoolExpr(expression)) => match (expression.boolop(), negated) {
                (BoolExprType::NotExpr, _) => self.bounds(expression.args.first(), !negated),
                (BoolExprType::AndExpr, false) | (BoolExprType::OrExpr, true) => {
                    expression.args.iter().any(|arm| self.bounds(Some(arm), negated))
                }
                _ => {
                    let mut arms = Vec::new();
                    flatten(condition, negated, &mut arms);
                    arms.iter().all(|(arm, negated)| self.bounds(Some(arm), *negated))
                        && !self.cover_all(&arms)
                }
            },
            // NULL is left aside: it takes a column's NULL to tell these apart.
            Some(NodeRef::BooleanTest(test)) => match test.booltesttype() {
                BoolTestType::IsTrue | BoolTestType::IsNotFalse => self.bounds(test.arg.as_deref(), negated),
                BoolTestType::IsFalse | BoolTestType::IsNotTrue => self.bounds(test.arg.as_deref(), !negated),
                _ => self.bounds_alone(condition, negated),
            },
            _ => self.bounds_alone(condition, negated),
        }
    }

    fn bounds_alone(&self, condition: Option<&Node>, negated: bool) -> bool {
        let Some(node) = node_of(condition) else { return false };
        if !self.mentions(node, &mut Vec::new()) {
            return never(node, negated);
        }
        let steps = Cell::new(0);
        let at = At::start(self.alone, &steps);
        let value = fold(condition, at);
        !at.is_exhausted() && truth(&value) != Some(!negated)
    }

    /// The expression names a column of the rows in question. `inner` holds the names in the FROM of the
    /// subqueries that `node` stands in.
    fn mentions<'n>(&self, node: NodeRef<'n>, inner: &mut Vec<Vec<&'n str>>) -> bool {
        match node {
            NodeRef::CurrentOfExpr(_) => return true,
            NodeRef::ColumnRef(column) => return self.is_theirs(column, inner),
            _ => {}
        }
        let level = inner.len();
        if let NodeRef::SelectStmt(select) = node
            && !select.from_clause.is_empty()
        {
            let mut names = Vec::new();
            for item in &select.from_clause {
                from_names(item, &mut names);
            }
            inner.push(names);
        }
        let mut found = false;
        children(node, &mut |child| found = found || self.mentions(child, inner));
        inner.truncate(level);
        found
    }

    fn is_theirs(&self, column: &ColumnRef, inner: &[Vec<&str>]) -> bool {
        let names: Vec<&str> = column.fields.iter().filter_map(string).collect();
        let star = column.fields.iter().any(is_star);
        match (&names[..], star) {
            // All rows of a table have the same.
            ([.., "tableoid"], false) => false,
            ([], _) => inner.is_empty(),
            ([.., item], true) | ([.., item, _], false) => {
                !inner.iter().flatten().any(|name| name == item) && self.item(item) == Some(true)
            }
            // Within a subquery it is the subquery's, as far as the text tells.
            ([name], false) => inner.is_empty() && self.bare(name),
        }
    }

    /// Whether the entry of FROM of this name is one of those in question.
    fn item(&self, name: &str) -> Option<bool> {
        let index = self.scope.items.iter().position(|item| item.name.as_deref() == Some(name))?;
        Some(self.is_asked(index))
    }

    fn is_asked(&self, index: usize) -> bool {
        let Some(item) = self.scope.items.get(index) else { return false };
        match &item.source {
            Source::Table(_) => self.whose == Whose::Tables || item.target,
            Source::Join(from, to) => (*from..*to).any(|within| self.is_asked(within)),
            Source::Query(_) | Source::Any(_) => false,
        }
    }

    /// A name without a table.
    fn bare(&self, name: &str) -> bool {
        if let Some(whole) = self.item(name) {
            return whole;
        }
        let mut found = false;
        for (index, item) in self.scope.items.iter().enumerate() {
            match &item.source {
                _ if item.qualified_only => {}
                Source::Join(..) => {}
                Source::Table(_) if self.is_asked(index) => found = true,
                _ if has_column(item, name) != Some(false) => return false,
                _ => {}
            }
        }
        found
    }

    /// Of the arms of an OR one holds for every row whenever the others do not.
    fn cover_all(&self, arms: &[(&Node, bool)]) -> bool {
        let mut seen: HashMap<String, bool> = HashMap::new();
        let mut ranges: HashMap<String, Vec<Comparison>> = HashMap::new();
        for (arm, negated) in arms {
            if let Some((left, comparison)) = self.comparison(arm, *negated) {
                ranges.entry(left).or_default().push(comparison);
            } else if let Some((key, holds)) = self.literal(arm)
                && seen.insert(key, holds != *negated).is_some_and(|earlier| earlier == (holds == *negated))
            {
                return true;
            }
        }
        ranges.values().any(|comparisons| cover(comparisons))
    }

    /// What the arm says, and whether it says that or the opposite.
    fn literal(&self, arm: &Node) -> Option<(String, bool)> {
        let of = |node: Option<&Node>| key(node, self.alone);
        match node_of(Some(arm))? {
            NodeRef::NullTest(test) => {
                let is_null = test.nulltesttype() == NullTestType::IsNull;
                Some((format!("null {}", of(test.arg.as_deref())?), is_null))
            }
            NodeRef::BooleanTest(test) => {
                let is_unknown = test.booltesttype() == BoolTestType::IsUnknown;
                Some((format!("unknown {}", of(test.arg.as_deref())?), is_unknown))
            }
            NodeRef::AExpr(expression) => {
                let name = qualified(&expression.name).1;
                let (name, holds) = match (expression.kind(), name) {
                    (AExprKind::AexprIn, name) => ("in", name == "="),
                    (AExprKind::AexprDistinct, _) => ("distinct", true),
                    (AExprKind::AexprNotDistinct, _) => ("distinct", false),
                    (AExprKind::AexprBetween | AExprKind::AexprBetweenSym, _) => ("between", true),
                    (AExprKind::AexprNotBetween | AExprKind::AexprNotBetweenSym, _) => ("between", false),
                    (_, name) => (name.strip_prefix('!').unwrap_or(name), !name.starts_with('!')),
                };
                let (left, right) = (of(expression.lexpr.as_deref())?, of(expression.rexpr.as_deref())?);
                Some((format!("{name} {left} {right}"), holds))
            }
            _ => Some((of(Some(arm))?, true)),
        }
    }

    /// The arm as a comparison of something with something else, the constant on the right.
    fn comparison(&self, arm: &Node, negated: bool) -> Option<(String, Comparison)> {
        let Some(NodeRef::AExpr(expression)) = node_of(Some(arm)) else { return None };
        if expression.kind() != AExprKind::AexprOp {
            return None;
        }
        let orders = match qualified(&expression.name).1 {
            "=" => EQUAL,
            "<>" | "!=" => LESS | GREATER,
            "<" => LESS,
            "<=" => LESS | EQUAL,
            ">" => GREATER,
            ">=" => GREATER | EQUAL,
            _ => return None,
        };
        let orders = if negated { !orders & (LESS | EQUAL | GREATER) } else { orders };
        let (left, right) = (expression.lexpr.as_deref(), expression.rexpr.as_deref());
        let is_constant = |node| matches!(node_of(node), Some(NodeRef::AConst(_)));
        let (left, right, orders) = if is_constant(left) && !is_constant(right) {
            (right, left, orders & EQUAL | (orders & LESS) << 2 | (orders & GREATER) >> 2)
        } else {
            (left, right, orders)
        };
        let comparison = Comparison {
            with: key(right, self.alone)?,
            number: constant_number(right),
            is_constant: is_constant(right),
            orders,
        };
        Some((key(left, self.alone)?, comparison))
    }
}

const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;

/// `… orders with`.
#[derive(Debug)]
struct Comparison {
    with: String,
    number: Option<i128>,
    is_constant: bool,
    /// Which orders of the two it holds for.
    orders: u8,
}

/// Whatever the value, one of the comparisons holds.
fn cover(comparisons: &[Comparison]) -> bool {
    let mut by: HashMap<&str, u8> = HashMap::new();
    for comparison in comparisons {
        *by.entry(&comparison.with).or_default() |= comparison.orders;
    }
    let all = LESS | EQUAL | GREATER;
    // `<> 1 OR <> 2`.
    let mut unequal = comparisons.iter().filter(|c| c.is_constant && c.orders & (LESS | GREATER) == 5);
    let first = unequal.next();
    if by.values().any(|orders| *orders == all)
        || first.is_some_and(|first| unequal.any(|other| other.with != first.with))
    {
        return true;
    }
    let numbers = |order: u8| {
        comparisons.iter().filter(move |c| c.orders & order != 0).filter_map(|comparison| comparison.number)
    };
    // `> 1 OR < 5`.
    match (numbers(GREATER).min(), numbers(LESS).max()) {
        (Some(above), Some(below)) => {
            above < below || (above == below && numbers(EQUAL).any(|equal| equal == above))
        }
        _ => false,
    }
}

/// The arms of OR (or of AND, negated), those of arms that are such themselves included.
fn flatten<'n>(node: Option<&'n Node>, negated: bool, arms: &mut Vec<(&'n Node, bool)>) {
    let Some(found) = node else { return };
    match node_of(node) {
        Some(NodeRef::BoolExpr(expression)) => match (expression.boolop(), negated) {
            (BoolExprType::NotExpr, _) => flatten(expression.args.first(), !negated, arms),
            (BoolExprType::OrExpr, false) | (BoolExprType::AndExpr, true) => {
                for arm in &expression.args {
                    flatten(Some(arm), negated, arms);
                }
            }
            _ => arms.push((found, negated)),
        },
        Some(NodeRef::BooleanTest(test)) => match test.booltesttype() {
            BoolTestType::IsTrue | BoolTestType::IsNotFalse => flatten(test.arg.as_deref(), negated, arms),
            BoolTestType::IsFalse | BoolTestType::IsNotTrue => flatten(test.arg.as_deref(), !negated, arms),
            _ => arms.push((found, negated)),
        },
        _ => arms.push((found, negated)),
    }
}

/// A condition without columns that holds for no row, beyond doubt: FALSE, NULL, `1 = 0`.
fn never(node: NodeRef<'_>, negated: bool) -> bool {
    match node {
        NodeRef::AConst(AConst { isnull: true, .. }) => true,
        NodeRef::AConst(AConst { val: Some(Val::Boolval(value)), .. }) => value.boolval == negated,
        NodeRef::AConst(AConst { val: Some(Val::Sval(text)), .. }) => as_bool(&text.sval) == Some(negated),
        NodeRef::AExpr(expression)
            if expression.kind() == AExprKind::AexprOp
                && is_integer(expression.lexpr.as_deref())
                && is_integer(expression.rexpr.as_deref()) =>
        {
            let steps = Cell::new(0);
            let value = super::fold::fold_node(node, At::start(None, &steps));
            value == Value::Bool(negated)
        }
        _ => false,
    }
}

fn is_integer(node: Option<&Node>) -> bool {
    matches!(
        node_of(node),
        Some(NodeRef::AConst(AConst { val: None | Some(Val::Ival(_)), isnull: false, .. }))
    )
}

/// Whether an entry of FROM has a column of this name, as far as the text tells.
fn has_column(item: &Item, name: &str) -> Option<bool> {
    if item.columns.iter().any(|column| column == name) {
        return Some(true);
    }
    match &item.source {
        Source::Query(outs) if !outs.iter().any(|out| out.star) => {
            Some(outs.iter().skip(item.columns.len()).any(|out| out.name.as_deref() == Some(name)))
        }
        _ => None,
    }
}

/// The names that an entry of FROM, or the parts of a join, go by.
fn from_names<'n>(item: &'n Node, names: &mut Vec<&'n str>) {
    let alias = match node_of(Some(item)) {
        Some(NodeRef::RangeVar(range)) => {
            if range.alias.is_none() {
                names.push(&range.relname);
            }
            range.alias.as_ref()
        }
        Some(NodeRef::RangeSubselect(sub)) => sub.alias.as_ref(),
        Some(NodeRef::RangeFunction(function)) => function.alias.as_ref(),
        Some(NodeRef::RangeTableFunc(function)) => function.alias.as_ref(),
        Some(NodeRef::JsonTable(table)) => table.alias.as_ref(),
        Some(NodeRef::RangeTableSample(sample)) => {
            if let Some(relation) = sample.relation.as_deref() {
                from_names(relation, names);
            }
            None
        }
        Some(NodeRef::JoinExpr(join)) => {
            for side in [&join.larg, &join.rarg].into_iter().flatten() {
                from_names(side, names);
            }
            names.extend(join.join_using_alias.as_ref().map(|alias| alias.aliasname.as_str()));
            join.alias.as_ref()
        }
        _ => None,
    };
    names.extend(alias.map(|alias| alias.aliasname.as_str()));
}
