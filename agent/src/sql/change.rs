//! INSERT, UPDATE, DELETE and MERGE.

use pg_query::NodeRef;
use pg_query::protobuf::{
    CmdType, DeleteStmt, InsertStmt, MergeMatchKind, MergeStmt, MergeWhenClause, Node, ReturningClause,
    SetOperation, UpdateStmt,
};

use super::bounds::{Whose, judge};
use super::scope::{Item, Lineage, Out, Scope, Source};
use super::tree::children;
use super::walk::{Walker, node_of, qualified};
use super::{Kind, Relation, Where};

impl Walker {
    pub(super) fn insert(&mut self, insert: &InsertStmt, outer: &Scope<'_>) -> Vec<Out> {
        self.kind(Kind::Insert);
        let mut level = outer.inner();
        if let Some(with) = &insert.with_clause {
            self.with(with, &mut level);
        }
        let Some(range) = &insert.relation else { return Vec::new() };
        let target = self.writes_range(range);
        let mut scope = level.inner();
        let item = self.table(range, &level, true);
        scope.items.push(item);
        if insert.cols.is_empty() {
            self.writes_column(&target, "*");
        }
        self.assignments(&insert.cols, &target, &scope);
        // How the query bounds the rows that it gives, when it may give every row there is.
        let mut source = Where::Present;
        if let Some(node) = node_of(insert.select_stmt.as_deref()) {
            let outer = self.out.where_read.take();
            self.aside(|walker| match node {
                // VALUES is no query of its own.
                NodeRef::SelectStmt(select)
                    if !select.values_lists.is_empty() && select.op() == SetOperation::SetopNone =>
                {
                    walker.select(select, &level, None);
                }
                NodeRef::SelectStmt(_) => {
                    walker.top_query(node, &level);
                }
                _ => walker.node(node, &level),
            });
            let found = self.out.where_read;
            if gives_rows_of(node, &range.relname) {
                source = found.unwrap_or(Where::Missing);
            }
            self.out.where_read = match (outer, found) {
                (Some(outer), Some(found)) => Some(outer.min(found)),
                (outer, found) => outer.or(found),
            };
        }
        let returning = insert.returning_clause.as_ref();
        if let Some(conflict) = insert.on_conflict_clause.as_deref() {
            let mut scope = level.inner();
            let item = self.table(range, &level, true);
            let mut excluded = item.clone();
            excluded.name = Some("excluded".to_owned());
            excluded.target = false;
            excluded.qualified_only = true;
            // What would have been inserted has no columns of a table.
            excluded.source = Source::Any(Lineage::default());
            scope.items.push(item);
            scope.items.push(excluded);
            if !conflict.target_list.is_empty() {
                self.kind(Kind::Update);
                // It changes the rows in conflict only.
                let own = judge(conflict.where_clause.as_deref(), &scope, Whose::Target);
                self.where_of_write(source.max(own));
            }
            self.aside(|walker| {
                walker.assignments(&conflict.target_list, &target, &scope);
                if let Some(infer) = conflict.infer.as_deref() {
                    walker.node(NodeRef::InferClause(infer), &scope);
                }
                walker.optional(conflict.where_clause.as_deref(), &scope);
            });
        }
        self.returning(returning, scope, &target, None)
    }

    pub(super) fn update(&mut self, update: &UpdateStmt, outer: &Scope<'_>) -> Vec<Out> {
        self.kind(Kind::Update);
        let mut level = outer.inner();
        if let Some(with) = &update.with_clause {
            self.with(with, &mut level);
        }
        let Some(range) = &update.relation else { return Vec::new() };
        let target = self.writes_range(range);
        let mut scope = level.inner();
        let item = self.table(range, &level, true);
        scope.items.push(item);
        let mut found = Where::Missing;
        self.aside(|walker| {
            for node in &update.from_clause {
                walker.enter_item(node, &mut scope, &level);
            }
            found = judge(update.where_clause.as_deref(), &scope, Whose::Target);
            walker.where_of_write(found);
            walker.assignments(&update.target_list, &target, &scope);
            walker.optional(update.where_clause.as_deref(), &scope);
        });
        self.returning(update.returning_clause.as_ref(), scope, &target, Some(found))
    }

    pub(super) fn delete(&mut self, delete: &DeleteStmt, outer: &Scope<'_>) -> Vec<Out> {
        self.kind(Kind::Delete);
        let mut level = outer.inner();
        if let Some(with) = &delete.with_clause {
            self.with(with, &mut level);
        }
        let Some(range) = &delete.relation else { return Vec::new() };
        let target = self.writes_range(range);
        let mut scope = level.inner();
        let item = self.table(range, &level, true);
        scope.items.push(item);
        let mut found = Where::Missing;
        self.aside(|walker| {
            for node in &delete.using_clause {
                walker.enter_item(node, &mut scope, &level);
            }
            found = judge(delete.where_clause.as_deref(), &scope, Whose::Target);
            walker.where_of_write(found);
            walker.optional(delete.where_clause.as_deref(), &scope);
        });
        self.returning(delete.returning_clause.as_ref(), scope, &target, Some(found))
    }

    pub(super) fn merge(&mut self, merge: &MergeStmt, outer: &Scope<'_>) -> Vec<Out> {
        self.kind(Kind::Merge);
        let mut level = outer.inner();
        if let Some(with) = &merge.with_clause {
            self.with(with, &mut level);
        }
        let Some(range) = &merge.relation else { return Vec::new() };
        let target = self.writes_range(range);
        let mut scope = level.inner();
        let item = self.table(range, &level, true);
        scope.items.push(item);
        let mut weakest: Option<Where> = None;
        self.aside(|walker| {
            if let Some(source) = merge.source_relation.as_deref() {
                walker.enter_item(source, &mut scope, &level);
            }
            walker.optional(merge.join_condition.as_deref(), &scope);
            let join = judge(merge.join_condition.as_deref(), &scope, Whose::Target);
            for clause in &merge.merge_when_clauses {
                if let Some(NodeRef::MergeWhenClause(clause)) = node_of(Some(clause)) {
                    let found = walker.merge_action(clause, join, &target, &scope);
                    weakest = found.map(|found| weakest.map_or(found, |known| known.min(found))).or(weakest);
                }
            }
        });
        self.returning(merge.returning_clause.as_ref(), scope, &target, weakest)
    }

    /// Gives how it bounds the rows that it changes, where it changes any.
    fn merge_action(
        &mut self,
        clause: &MergeWhenClause,
        join: Where,
        target: &Relation,
        scope: &Scope<'_>,
    ) -> Option<Where> {
        let kind = match clause.command_type() {
            CmdType::CmdInsert => Kind::Insert,
            CmdType::CmdUpdate => Kind::Update,
            CmdType::CmdDelete => Kind::Delete,
            _ => Kind::Merge,
        };
        self.kind(kind);
        let mut found = None;
        if matches!(kind, Kind::Update | Kind::Delete) {
            let own = match judge(clause.condition.as_deref(), scope, Whose::Target) {
                Where::Missing => Where::AlwaysTrue,
                own => own,
            };
            // Which rows an action reaches: those that join, or for the rest any that do not.
            let bound = match clause.match_kind() {
                MergeMatchKind::MergeWhenNotMatchedBySource => own,
                _ => own.max(join),
            };
            self.where_of_write(bound);
            found = Some(bound);
        }
        if kind == Kind::Insert && clause.target_list.is_empty() {
            self.writes_column(target, "*");
        }
        self.assignments(&clause.target_list, target, scope);
        self.list(&clause.values, scope);
        self.optional(clause.condition.as_deref(), scope);
        found
    }

    /// Columns that are set, each with what it is set to.
    fn assignments(&mut self, targets: &[Node], target: &Relation, scope: &Scope<'_>) {
        for node in targets {
            if let Some(NodeRef::ResTarget(assignment)) = node_of(Some(node)) {
                self.writes_column(target, &assignment.name);
                self.list(&assignment.indirection, scope);
                self.optional(assignment.val.as_deref(), scope);
            } else {
                self.optional(Some(node), scope);
            }
        }
    }

    fn returning(
        &mut self,
        returning: Option<&ReturningClause>,
        mut scope: Scope<'_>,
        target: &Relation,
        bound: Option<Where>,
    ) -> Vec<Out> {
        let Some(returning) = returning else { return Vec::new() };
        self.reads(target.clone());
        // What it changes it reads.
        if let Some(bound) = bound {
            self.where_of_read(bound);
        }
        let mut names = vec!["old".to_owned(), "new".to_owned()];
        for option in &returning.options {
            if let Some(NodeRef::ReturningOption(option)) = node_of(Some(option)) {
                names.push(option.value.clone());
            }
        }
        // Seen by their names only: they add no column to `*`, and none that has no qualifier.
        let mut versions = scope.outer.map_or_else(Scope::default, Scope::inner);
        for name in names {
            versions.items.push(Item {
                name: Some(name),
                schema: None,
                columns: Vec::new(),
                source: Source::Table(target.clone()),
                target: true,
                qualified_only: true,
            });
        }
        let items = std::mem::take(&mut scope.items);
        let mut outs = Vec::new();
        self.aside(|walker| {
            let mut inner = versions.inner();
            inner.items = items;
            inner.merged_columns = scope.merged_columns;
            outs = walker.targets(&returning.exprs, &inner);
        });
        outs
    }
}

/// The query may give a row in conflict with every row of the table: it reads the table, or counts up.
fn gives_rows_of(node: NodeRef<'_>, table: &str) -> bool {
    let mut found = match node {
        NodeRef::RangeVar(range) => range.relname == table,
        NodeRef::FuncCall(call) => qualified(&call.funcname).1 == "generate_series",
        _ => false,
    };
    children(node, &mut |child| found = found || gives_rows_of(child, table));
    found
}
