//! SELECT: names in view, and what its result is made of.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use pg_query::NodeRef;
use pg_query::protobuf::{
    Alias, CommonTableExpr, JoinExpr, Node, RangeVar, SelectStmt, SetOperation, WithClause,
};

use super::bounds::{self, Whose};
use super::scope::{Cte, Item, Lineage, Out, Scope, Source};
use super::walk::{Walker, figure_name, is_star, node_of, relation, string};
use super::{Column, Kind, Relation};

/// The schema part of the name under which a recursive WITH query's own columns are followed.
const RECURSION: &str = "\0recursion";

impl Walker {
    /// The result of a query or of what changes rows; `None` for anything else.
    pub(super) fn query(&mut self, node: NodeRef<'_>, scope: &Scope<'_>) -> Option<Vec<Out>> {
        Some(match node {
            NodeRef::SelectStmt(select) => {
                self.kind(if is_select_into(select) { Kind::SelectInto } else { Kind::Select });
                self.select(select, scope, None)
            }
            NodeRef::InsertStmt(insert) => self.insert(insert, scope),
            NodeRef::UpdateStmt(update) => self.update(update, scope),
            NodeRef::DeleteStmt(delete) => self.delete(delete, scope),
            NodeRef::MergeStmt(merge) => self.merge(merge, scope),
            _ => return None,
        })
    }

    /// `recursive` is the WITH query whose body this is, when it may name itself.
    pub(super) fn select(
        &mut self,
        select: &SelectStmt,
        outer: &Scope<'_>,
        recursive: Option<&Rc<Cte>>,
    ) -> Vec<Out> {
        let mut level = outer.inner();
        if let Some(with) = &select.with_clause {
            self.with(with, &mut level);
        }
        if matches!(select.op(), SetOperation::SetopNone | SetOperation::Undefined) {
            return self.plain_select(select, &level);
        }
        if !select.locking_clause.is_empty() {
            self.kind(Kind::LockRows);
        }
        let mut left = Vec::new();
        let mut right = Vec::new();
        self.aside(|walker| {
            left = select.larg.as_deref().map_or_else(Vec::new, |arm| walker.select(arm, &level, None));
            if let Some(cte) = recursive {
                walker.recur(cte, &left);
            }
            right = select.rarg.as_deref().map_or_else(Vec::new, |arm| walker.select(arm, &level, None));
            walker.order(&select.sort_clause, &left, &level);
            walker.optional(select.limit_count.as_deref(), &level);
            walker.optional(select.limit_offset.as_deref(), &level);
        });
        if recursive.is_some() {
            self.close_recursion(&left, &mut right);
        }
        self.columns.set_operation(left, &right)
    }

    fn plain_select(&mut self, select: &SelectStmt, level: &Scope<'_>) -> Vec<Out> {
        if let Some(into) = select.into_clause.as_deref() {
            if let Some(target) = &into.rel {
                self.writes_range(target);
            }
            self.walk_rest(NodeRef::IntoClause(into), &[into.rel.as_ref()], level);
        }
        if !select.locking_clause.is_empty() {
            self.kind(Kind::LockRows);
        }
        let mut outs = Vec::new();
        self.aside(|walker| {
            let mut scope = level.inner();
            for node in &select.from_clause {
                walker.enter_item(node, &mut scope, level);
            }
            if scope.items.iter().any(|item| matches!(item.source, Source::Table(_))) {
                let found = bounds::judge(select.where_clause.as_deref(), &scope, Whose::Tables);
                walker.where_of_read(found);
            }
            outs = walker.targets(&select.target_list, &scope);
            for values in &select.values_lists {
                let row = walker.values(values, &scope);
                outs = if outs.is_empty() {
                    row
                } else {
                    walker.columns.set_operation(std::mem::take(&mut outs), &row)
                };
            }
            walker.optional(select.where_clause.as_deref(), &scope);
            walker.list(&select.group_clause, &scope);
            walker.optional(select.having_clause.as_deref(), &scope);
            walker.list(&select.window_clause, &scope);
            walker.list(&select.distinct_clause, &scope);
            walker.order(&select.sort_clause, &outs, &scope);
            walker.optional(select.limit_count.as_deref(), &scope);
            walker.optional(select.limit_offset.as_deref(), &scope);
        });
        outs
    }

    /// ORDER BY: a bare name is a result column's before it is a table's.
    fn order(&mut self, sort: &[Node], outs: &[Out], scope: &Scope<'_>) {
        for node in sort {
            if let Some(NodeRef::SortBy(by)) = node_of(Some(node))
                && let Some(NodeRef::ColumnRef(column)) = node_of(by.node.as_deref())
                && let [field] = &column.fields[..]
                && let Some(name) = string(field)
                && outs.iter().any(|out| out.name.as_deref() == Some(name))
            {
                continue;
            }
            self.optional(Some(node), scope);
        }
    }

    fn values(&mut self, values: &Node, scope: &Scope<'_>) -> Vec<Out> {
        let Some(NodeRef::List(list)) = node_of(Some(values)) else { return Vec::new() };
        let mut outs = Vec::with_capacity(list.items.len());
        for (position, value) in list.items.iter().enumerate() {
            let lineage = self.lineage(Some(value), scope);
            outs.push(Out { name: Some(format!("column{}", position + 1)), lineage, star: false });
        }
        outs
    }

    /// A target list or RETURNING: one entry for each column, in order.
    pub(super) fn targets(&mut self, targets: &[Node], scope: &Scope<'_>) -> Vec<Out> {
        let mut outs = Vec::with_capacity(targets.len());
        for node in targets {
            let Some(NodeRef::ResTarget(target)) = node_of(Some(node)) else {
                self.optional(Some(node), scope);
                continue;
            };
            let value = target.val.as_deref();
            match node_of(value) {
                Some(NodeRef::ColumnRef(column)) if column.fields.last().is_some_and(is_star) => {
                    let lineage = self.lineage(value, scope);
                    self.star(&column.fields, lineage, scope, &mut outs);
                }
                Some(NodeRef::AIndirection(indirection))
                    if indirection.indirection.last().is_some_and(is_star) =>
                {
                    let lineage = self.lineage(value, scope);
                    outs.push(Out { name: None, lineage, star: true });
                }
                of => {
                    let mut lineage = self.lineage(value, scope);
                    lineage.plain &= matches!(of, Some(NodeRef::ColumnRef(_)));
                    let name =
                        if target.name.is_empty() { figure_name(value) } else { Some(target.name.clone()) };
                    outs.push(Out { name, lineage, star: false });
                }
            }
        }
        self.columns.bounded(outs)
    }

    /// Expands `*` or `item.*` as far as the columns are known.
    fn star(&mut self, fields: &[Node], all: Lineage, scope: &Scope<'_>, outs: &mut Vec<Out>) {
        let names: Vec<&str> = fields.iter().filter_map(string).collect();
        let found = match names[..] {
            [] if scope.merged_columns => None,
            [] => Some((scope, 0..scope.items.len())),
            [item] => scope.item(None, item).map(|(scope, index)| (scope, index..index + 1)),
            [.., schema, item] => {
                scope.item(Some(schema), item).map(|(scope, index)| (scope, index..index + 1))
            }
        };
        let Some((scope, range)) = found else {
            outs.push(Out { name: None, lineage: all, star: true });
            return;
        };
        for item in scope.items.get(range).unwrap_or_default() {
            match &item.source {
                Source::Query(inner) => {
                    for (position, out) in inner.iter().enumerate() {
                        let mut out = out.clone();
                        if let Some(name) = item.columns.get(position) {
                            out.name = Some(name.clone());
                        }
                        outs.push(out);
                    }
                }
                Source::Table(relation) => {
                    let mut lineage = Lineage { whole_row: true, ..Lineage::default() };
                    let column = Column { relation: Some(relation.clone()), name: "*".to_owned() };
                    self.columns.add(&mut lineage, column);
                    if !item.columns.is_empty() {
                        lineage = self.columns.anything();
                    }
                    outs.push(Out { name: None, lineage, star: true });
                }
                Source::Any(lineage) => {
                    outs.push(Out { name: None, lineage: lineage.clone(), star: true });
                }
                Source::Join(..) if !item.columns.is_empty() => {
                    let lineage = self.columns.anything();
                    outs.push(Out { name: None, lineage, star: true });
                }
                // What it joins stands in the list itself, unless it is asked for by name.
                Source::Join(..) if names.is_empty() => {}
                Source::Join(..) => outs.push(Out { name: None, lineage: all.clone(), star: true }),
            }
        }
    }

    pub(super) fn enter_item<'p>(&mut self, node: &Node, scope: &mut Scope<'p>, level: &Scope<'p>) {
        let Some(node) = node_of(Some(node)) else { return };
        match node {
            NodeRef::RangeVar(range) => {
                let item = self.table(range, level, false);
                scope.items.push(item);
            }
            NodeRef::RangeSubselect(sub) => {
                let within: &Scope<'_> = if sub.lateral { scope } else { level };
                let outs = node_of(sub.subquery.as_deref()).and_then(|query| self.query(query, within));
                let source = Source::Query(Rc::new(outs.unwrap_or_default()));
                scope.items.push(item(sub.alias.as_ref(), source));
            }
            NodeRef::JoinExpr(join) => self.join(join, scope, level),
            NodeRef::RangeTableSample(sample) => {
                if let Some(relation) = sample.relation.as_deref() {
                    self.enter_item(relation, scope, level);
                }
                let (schema, name) = super::walk::qualified(&sample.method);
                self.function(schema, name);
                self.list(&sample.args, scope);
                self.optional(sample.repeatable.as_deref(), scope);
            }
            // Functions, XMLTABLE, JSON_TABLE: any of their columns is made of their arguments.
            other => {
                let alias = match other {
                    NodeRef::RangeFunction(function) => function.alias.as_ref(),
                    NodeRef::RangeTableFunc(function) => function.alias.as_ref(),
                    NodeRef::JsonTable(table) => table.alias.as_ref(),
                    _ => None,
                };
                let outer = std::mem::take(&mut self.flow);
                self.walk_children(other, scope);
                let mut lineage = std::mem::replace(&mut self.flow, outer);
                lineage.plain = false;
                let mut item = item(alias, Source::Any(lineage));
                item.columns.extend(columns_of(other));
                if item.name.is_none()
                    && let NodeRef::RangeFunction(function) = other
                {
                    item.name = function_name(&function.functions);
                }
                scope.items.push(item);
            }
        }
    }

    fn join<'p>(&mut self, join: &JoinExpr, scope: &mut Scope<'p>, level: &Scope<'p>) {
        let from = scope.items.len();
        if let Some(left) = join.larg.as_deref() {
            self.enter_item(left, scope, level);
        }
        let middle = scope.items.len();
        if let Some(right) = join.rarg.as_deref() {
            self.enter_item(right, scope, level);
        }
        let to = scope.items.len();
        if join.is_natural || !join.using_clause.is_empty() {
            scope.merged_columns = true;
        }
        for name in join.using_clause.iter().filter_map(string) {
            for side in [from..middle, middle..to] {
                self.aside(|walker| walker.unqualified_among(name, scope, side, false));
            }
        }
        if join.is_natural {
            self.natural(scope, from..middle, middle..to);
            self.natural(scope, middle..to, from..middle);
        }
        self.optional(join.quals.as_deref(), scope);
        for alias in [join.alias.as_ref(), join.join_using_alias.as_ref()].into_iter().flatten() {
            scope.items.push(item(Some(alias), Source::Join(from, to)));
        }
    }

    /// A NATURAL JOIN compares whichever columns of `side` the `other` one has too.
    fn natural(&mut self, scope: &Scope<'_>, side: Range<usize>, other: Range<usize>) {
        let mut known = Some(BTreeSet::new());
        for item in scope.items.get(other).unwrap_or_default() {
            match &item.source {
                Source::Query(outs) if !outs.iter().any(|out| out.star) => {
                    let renamed = item.columns.iter().cloned();
                    let rest = outs.iter().skip(item.columns.len()).filter_map(|out| out.name.clone());
                    known = known.map(|mut names| {
                        names.extend(renamed.chain(rest));
                        names
                    });
                }
                Source::Join(..) if item.columns.is_empty() => {}
                _ => known = None,
            }
        }
        self.aside(|walker| match known {
            Some(names) => {
                for name in names {
                    walker.unqualified_among(&name, scope, side.clone(), false);
                }
            }
            None => side.for_each(|index| walker.whole_item(scope, index)),
        });
    }

    /// A name in FROM, or the target of a change: a WITH query or a relation.
    pub(super) fn table(&mut self, range: &RangeVar, scope: &Scope<'_>, target: bool) -> Item {
        let alias = range.alias.as_ref();
        if range.schemaname.is_empty()
            && !target
            && let Some(cte) = scope.cte(&range.relname)
        {
            let source = cte.source.borrow().clone();
            let mut item = item(alias, source);
            // An alias may name fewer columns than the WITH query does.
            item.columns.extend(cte.columns.iter().skip(item.columns.len()).cloned().collect::<Vec<_>>());
            item.name.get_or_insert_with(|| range.relname.clone());
            return item;
        }
        let relation = relation(range);
        if !target {
            self.reads(relation.clone());
        }
        let mut item = item(alias, Source::Table(relation));
        item.target = target;
        if item.name.is_none() {
            item.name = Some(range.relname.clone());
            item.schema = (!range.schemaname.is_empty()).then(|| range.schemaname.clone());
        }
        item
    }

    pub(super) fn with(&mut self, with: &WithClause, level: &mut Scope<'_>) {
        let ctes: Vec<(&CommonTableExpr, Rc<Cte>)> = with
            .ctes
            .iter()
            .filter_map(|node| match node_of(Some(node)) {
                Some(NodeRef::CommonTableExpr(expression)) => Some(expression),
                _ => None,
            })
            .map(|expression| {
                // Until it is walked, what a query that names it ahead gets is not known.
                let unknown = self.columns.anything();
                let cte = Cte {
                    name: expression.ctename.clone(),
                    columns: expression.aliascolnames.iter().filter_map(string).map(str::to_owned).collect(),
                    source: RefCell::new(Source::Any(unknown)),
                };
                (expression, Rc::new(cte))
            })
            .collect();
        if with.recursive {
            level.ctes.extend(ctes.iter().map(|(_, cte)| Rc::clone(cte)));
        }
        for (expression, cte) in ctes {
            let outs = self.cte(expression, &cte, with.recursive, level);
            *cte.source.borrow_mut() = Source::Query(Rc::new(outs));
            if !with.recursive {
                level.ctes.push(cte);
            }
        }
    }

    fn cte(
        &mut self,
        cte: &CommonTableExpr,
        itself: &Rc<Cte>,
        recursive: bool,
        level: &Scope<'_>,
    ) -> Vec<Out> {
        let mut outs = match node_of(cte.ctequery.as_deref()) {
            Some(NodeRef::SelectStmt(select)) if recursive => {
                self.kind(Kind::Select);
                self.select(select, level, Some(itself))
            }
            Some(query) => self.query(query, level).unwrap_or_default(),
            None => Vec::new(),
        };
        let mut added: Vec<&str> = Vec::new();
        if let Some(search) = &cte.search_clause {
            added.push(&search.search_seq_column);
        }
        if let Some(cycle) = cte.cycle_clause.as_deref() {
            added.extend([&*cycle.cycle_mark_column, &*cycle.cycle_path_column]);
            self.aside(|walker| walker.walk_children(NodeRef::CtecycleClause(cycle), level));
        }
        if !added.is_empty() {
            let lineage = self.columns.union(&outs);
            outs.extend(added.into_iter().map(|name| Out {
                name: Some(name.to_owned()),
                lineage: lineage.clone(),
                star: false,
            }));
        }
        outs
    }

    /// Lets the second arm of a recursive query see the first one's columns as stand-ins, by position.
    fn recur(&mut self, cte: &Rc<Cte>, left: &[Out]) {
        if left.iter().any(|out| out.star) {
            *cte.source.borrow_mut() = Source::Query(Rc::new(left.to_vec()));
            return;
        }
        let stand_ins = left.iter().enumerate().map(|(position, out)| {
            let mut lineage = Lineage { whole_row: out.lineage.whole_row, ..Lineage::default() };
            let relation = Relation { schema: Some(RECURSION.to_owned()), name: position.to_string() };
            self.columns.add(&mut lineage, Column { relation: Some(relation), name: String::new() });
            Out { name: out.name.clone(), lineage, star: false }
        });
        let stand_ins = stand_ins.collect();
        *cte.source.borrow_mut() = Source::Query(Rc::new(stand_ins));
    }

    /// Puts what the columns of the recursion are made of in the place of their stand-ins.
    fn close_recursion(&mut self, left: &[Out], right: &mut [Out]) {
        let stand_in = |column: &Column| match &column.relation {
            Some(Relation { schema: Some(schema), name }) if schema == RECURSION => {
                name.parse::<usize>().ok()
            }
            _ => None,
        };
        // Which positions each position takes values from, and the rest.
        let mut made_of: Vec<BTreeSet<usize>> = Vec::new();
        for out in right.iter_mut() {
            let mut own = Lineage { whole_row: out.lineage.whole_row, ..Lineage::default() };
            let mut from = BTreeSet::new();
            for number in out.lineage.columns.iter() {
                match self.columns.get(*number).and_then(stand_in) {
                    Some(position) => _ = from.insert(position),
                    None => _ = Rc::make_mut(&mut own.columns).insert(*number),
                }
            }
            out.lineage = own;
            made_of.push(from);
        }
        // Values reach a position through any chain of others.
        for position in 0..made_of.len() {
            let mut reached: BTreeSet<usize> = BTreeSet::new();
            let mut next: Vec<usize> = made_of.get(position).into_iter().flatten().copied().collect();
            while let Some(from) = next.pop() {
                if reached.insert(from) {
                    next.extend(made_of.get(from).into_iter().flatten());
                }
            }
            for from in reached {
                let own = right.get(from).map(|out| out.lineage.clone()).unwrap_or_default();
                let first = left.get(from).map(|out| out.lineage.clone()).unwrap_or_default();
                if let Some(out) = right.get_mut(position) {
                    self.columns.merge(&mut out.lineage, &own);
                    self.columns.merge(&mut out.lineage, &first);
                }
            }
        }
    }
}

fn item(alias: Option<&Alias>, source: Source) -> Item {
    Item {
        name: alias.map(|alias| alias.aliasname.clone()),
        schema: None,
        columns: alias
            .map(|alias| alias.colnames.iter().filter_map(string).map(str::to_owned).collect())
            .unwrap_or_default(),
        source,
        target: false,
        qualified_only: false,
    }
}

/// The columns that FROM itself gives to a function, XMLTABLE or JSON_TABLE.
fn columns_of(node: NodeRef<'_>) -> Vec<String> {
    let columns = match node {
        NodeRef::RangeFunction(function) => &function.coldeflist,
        NodeRef::RangeTableFunc(function) => &function.columns,
        NodeRef::JsonTable(table) => &table.columns,
        NodeRef::JsonTableColumn(column) => &column.columns,
        _ => return Vec::new(),
    };
    let mut names = Vec::new();
    for column in columns {
        match node_of(Some(column)) {
            Some(NodeRef::ColumnDef(column)) => names.push(column.colname.clone()),
            Some(NodeRef::RangeTableFuncCol(column)) => names.push(column.colname.clone()),
            Some(nested @ NodeRef::JsonTableColumn(column)) => {
                names.push(column.name.clone());
                names.append(&mut columns_of(nested));
            }
            _ => {}
        }
    }
    names
}

/// `FROM f(…)` without an alias goes by the function's name.
fn function_name(functions: &[Node]) -> Option<String> {
    let Some(NodeRef::List(list)) = node_of(functions.first()) else { return None };
    figure_name(list.items.first())
}

pub(super) fn is_select_into(select: &SelectStmt) -> bool {
    let mut leftmost = select;
    while let Some(left) = leftmost.larg.as_deref() {
        leftmost = left;
    }
    leftmost.into_clause.is_some()
}
