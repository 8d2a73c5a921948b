//! Which columns a name means.

use std::ops::Range;

use pg_query::protobuf::ColumnRef;

use super::scope::{Lineage, Out, Scope, Source};
use super::walk::{Walker, is_star, string};
use super::{Column, Relation, functions};

impl Walker {
    pub(super) fn column_ref(&mut self, column: &ColumnRef, scope: &Scope<'_>) {
        let names: Vec<&str> = column.fields.iter().filter_map(string).collect();
        let star = column.fields.iter().any(is_star);
        match (&names[..], star) {
            ([], _) => {
                for index in 0..scope.items.len() {
                    self.whole_item(scope, index);
                }
            }
            ([name], false) => self.unqualified(name, scope),
            ([.., schema, item], true) => {
                if let Some((found, index)) = scope.item(Some(schema), item) {
                    self.whole_item(found, index);
                }
            }
            ([item], true) => {
                if let Some((found, index)) = scope.item(None, item) {
                    self.whole_item(found, index);
                }
            }
            ([item, name], false) => match scope.item(None, item) {
                Some((found, index)) => self.item_column(found, index, name),
                None => self.parameter(name),
            },
            ([.., schema, item, name], false) => match scope.item(Some(schema), item) {
                Some((found, index)) => self.item_column(found, index, name),
                None => self.parameter(name),
            },
        }
    }

    /// A column that stands in a list of names: of the one table in view, or of any of several.
    pub(super) fn listed_column(&mut self, name: &str, scope: &Scope<'_>) {
        let mut tables = scope.items.iter().filter_map(|item| match &item.source {
            Source::Table(relation) if !item.qualified_only => Some(relation),
            _ => None,
        });
        let only = tables.next().filter(|_| tables.next().is_none());
        self.out.columns_read.insert(Column { relation: only.cloned(), name: name.to_owned() });
    }

    /// `parameter.name` in the body of an SQL function.
    fn parameter(&mut self, name: &str) {
        if self.sql_body {
            self.attribute(name, &[]);
        }
    }

    /// A column of a table is read.
    fn table_column(&mut self, relation: &Relation, name: &str, target: bool) {
        if target {
            self.reads(relation.clone());
        }
        let column = Column { relation: Some(relation.clone()), name: name.to_owned() };
        self.out.columns_read.insert(column.clone());
        self.columns.add(&mut self.flow, column);
    }

    /// The whole row of an entry of FROM.
    pub(super) fn whole_item(&mut self, scope: &Scope<'_>, index: usize) {
        let Some(item) = scope.items.get(index) else { return };
        self.flow.whole_row = true;
        if !item.columns.is_empty() && matches!(item.source, Source::Table(_) | Source::Join(..)) {
            // Its columns go by other names than the tables' own: none can be picked out of it by name.
            let anything = self.columns.anything();
            self.columns.merge(&mut self.flow, &anything);
        }
        match &item.source {
            Source::Table(relation) => self.table_column(relation, "*", item.target),
            Source::Query(outs) => {
                let all = self.columns.union(outs);
                self.columns.merge(&mut self.flow, &all);
            }
            Source::Any(lineage) => self.columns.merge(&mut self.flow, lineage),
            Source::Join(from, to) => {
                for inner in *from..*to {
                    self.whole_item(scope, inner);
                }
            }
        }
    }

    /// `item.name`.
    pub(super) fn item_column(&mut self, scope: &Scope<'_>, index: usize, name: &str) {
        let Some(item) = scope.items.get(index) else { return };
        if functions::takes_row(name) {
            // `t.row_to_json` calls the function when the table has no such column.
            self.function(None, name);
            self.whole_item(scope, index);
        }
        match &item.source {
            // Columns that the alias renames could be any of the table's.
            Source::Table(relation) if !item.columns.is_empty() => {
                self.table_column(relation, "*", item.target);
            }
            Source::Table(relation) => self.table_column(relation, name, item.target),
            Source::Query(outs) => {
                let found = self.query_column(outs, &item.columns, name);
                let found = found.unwrap_or_else(|| self.columns.union(outs));
                self.columns.merge(&mut self.flow, &found);
            }
            Source::Any(lineage) => {
                self.columns.merge(&mut self.flow, lineage);
                // A single value, or a row that has no such column.
                let named =
                    item.columns.iter().any(|column| column == name) || item.name.as_deref() == Some(name);
                if !named && !item.qualified_only {
                    self.attribute(name, &[]);
                }
            }
            Source::Join(from, to) => {
                if item.columns.is_empty() {
                    self.unqualified_among(name, scope, *from..*to, false);
                } else {
                    self.whole_item(scope, index);
                }
            }
        }
    }

    /// The column `name` of a subquery whose first columns are renamed to `columns`.
    fn query_column(&mut self, outs: &[Out], columns: &[String], name: &str) -> Option<Lineage> {
        if let Some(position) = columns.iter().position(|column| column == name) {
            return match outs.get(position) {
                Some(out) if !outs.iter().take(position + 1).any(|out| out.star) => Some(out.lineage.clone()),
                _ => Some(self.columns.union(outs)),
            };
        }
        self.columns.named(outs, name)
    }

    fn unqualified(&mut self, name: &str, scope: &Scope<'_>) {
        self.unqualified_among(name, scope, 0..scope.items.len(), true);
    }

    /// A column without a table: whatever in view may have one of that name. `outward` looks further
    /// out as well.
    pub(super) fn unqualified_among(
        &mut self,
        name: &str,
        scope: &Scope<'_>,
        range: Range<usize>,
        outward: bool,
    ) {
        let mut tables: Vec<(Relation, bool)> = Vec::new();
        let mut others = Lineage::default();
        let mut possible = 0_usize;
        let mut level = Some((scope, range));
        while let Some((here, range)) = level {
            let mut certain = false;
            for index in range {
                let Some(item) = here.items.get(index) else { continue };
                match &item.source {
                    _ if item.qualified_only => {}
                    // A name that the alias gives may be any of the columns'.
                    Source::Table(relation) if item.columns.iter().any(|column| column == name) => {
                        self.table_column(relation, "*", item.target);
                        possible += 1;
                    }
                    Source::Join(..) if item.columns.iter().any(|column| column == name) => {
                        self.whole_item(here, index);
                        possible += 1;
                    }
                    Source::Table(relation) => {
                        tables.push((relation.clone(), item.target));
                        possible += 1;
                    }
                    Source::Query(outs) => {
                        if let Some(found) = self.query_column(outs, &item.columns, name) {
                            self.columns.merge(&mut others, &found);
                            certain |= !outs.iter().any(|out| out.star);
                            possible += 1;
                        }
                    }
                    Source::Any(lineage) => {
                        self.columns.merge(&mut others, lineage);
                        // Without columns to its value it does not make the name less certain.
                        possible += usize::from(!lineage.is_empty());
                    }
                    Source::Join(..) => {}
                }
                if item.name.as_deref() == Some(name) && !certain {
                    self.whole_item(here, index);
                    certain |= matches!(item.source, Source::Any(_));
                }
            }
            level = match here.outer {
                Some(outer) if outward && !certain => Some((outer, 0..outer.items.len())),
                _ => None,
            };
        }
        self.columns.merge(&mut self.flow, &others);
        if let ([(relation, target)], 1) = (&tables[..], possible) {
            self.table_column(relation, name, *target);
        } else if !tables.is_empty() {
            for (relation, _) in tables.iter().filter(|(_, target)| *target) {
                self.reads(relation.clone());
            }
            let column = Column { relation: None, name: name.to_owned() };
            self.out.columns_read.insert(column.clone());
            self.columns.add(&mut self.flow, column);
        }
    }
}
