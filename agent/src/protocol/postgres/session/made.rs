//! What the session itself makes between two looks at the catalog: tables and views of which the catalog
//! does not tell yet what they are made of.

use std::collections::HashMap;

use super::catalog::Catalog;
use super::statements::Running;
use crate::sql::{Class, Kind, Relation, Statement};

/// More than this are not remembered; what is not remembered is redacted.
const MOST: usize = 10_000;

/// Relations made since the catalog was read.
#[derive(Debug, Default, Clone)]
pub(super) struct Made {
    /// Whether each holds nothing masked.
    clean: HashMap<Relation, bool>,
    /// What was there before may have come to show masked columns.
    pub(super) unsure: bool,
    /// Something was changed that other flows should know of at the transaction's end.
    pub(super) tell: bool,
}

impl Made {
    /// Notes a statement that is sent to run, `opaque` if what it does is not seen. Says whether other flows
    /// should look at the catalog again.
    pub(super) fn note(&mut self, statement: &Statement, catalog: Option<&Catalog>, opaque: bool) -> bool {
        let touches = catalog.is_none_or(|catalog| catalog.touches(statement)) || self.is_dirty(statement);
        let ddl = statement.classes.contains(&Class::Ddl);
        let anew = makes_anew(statement);
        if opaque || forgets(statement) {
            self.clean.retain(|_, clean| !*clean);
        }
        self.unsure |= touches && (statement.error.is_some() || ddl && !anew);
        for relation in &statement.writes {
            if let Some(clean) = self.clean.get_mut(relation) {
                *clean &= !touches;
            } else if anew && (touches || !opaque) {
                self.clean.insert(relation.clone(), !touches);
            }
        }
        if self.clean.len() > MOST {
            self.clean.clear();
            self.unsure = true;
        }
        touches && ddl && shows(statement)
    }

    /// It reads or writes what may show masked columns, as far as the catalog does not tell it.
    pub(super) fn is_dirty(&self, statement: &Statement) -> bool {
        let dirty =
            |relation: &Relation| self.clean.iter().any(|(made, clean)| !clean && made.name == relation.name);
        self.unsure || !self.clean.is_empty() && statement.reads.iter().chain(&statement.writes).any(dirty)
    }

    /// An error came: what was to be made may be something else of that name.
    pub(super) fn failed(&mut self) {
        self.clean.retain(|_, clean| !*clean);
    }

    /// Column `index` of what is running comes from a relation of the session's own that holds nothing
    /// masked.
    pub(super) fn is_clean(&self, running: &Running<'_>, index: usize) -> bool {
        !running.unknown && running.statements.iter().all(|statement| self.output_is_clean(statement, index))
    }

    fn output_is_clean(&self, statement: &Statement, index: usize) -> bool {
        let exact = statement.outputs.as_ref().filter(|all| all.iter().all(|output| !output.whole_row));
        let from: Option<Vec<&Relation>> = exact
            .and_then(|outputs| outputs.get(index))
            .and_then(|output| output.columns.iter().map(|column| column.relation.as_ref()).collect());
        let from = from.unwrap_or_else(|| statement.reads.iter().chain(&statement.writes).collect());
        let mut known = from.into_iter().filter_map(|relation| self.clean.get(relation)).peekable();
        known.peek().is_some() && known.all(|clean| *clean)
    }
}

/// It makes relations, and none that was there before is another after it.
fn makes_anew(statement: &Statement) -> bool {
    let makes = matches!(
        statement.kind,
        Kind::CreateTable
            | Kind::CreateTableAs
            | Kind::SelectInto
            | Kind::CreateView
            | Kind::CreateMaterializedView
            | Kind::CreateIndex
            | Kind::CreateStatistics
    ) || statement.kind == Kind::Select && statement.kinds.contains(&Kind::SelectInto);
    let names_what_is_there = || {
        let text = statement.text.to_ascii_lowercase();
        text.contains("replace") || text.contains("exists")
    };
    makes && !names_what_is_there()
}

/// Other sessions may see masked columns in what it makes.
fn shows(statement: &Statement) -> bool {
    let text = statement.text.to_ascii_lowercase();
    let temporary = ["create temp ", "create temporary "].iter().any(|start| text.starts_with(start));
    let inert = [Kind::CreateIndex, Kind::CreateStatistics, Kind::Comment, Kind::DropTable, Kind::DropView];
    !temporary && !inert.contains(&statement.kind)
}

/// Names may mean something else after it.
fn forgets(statement: &Statement) -> bool {
    let other_names = [Kind::Rollback, Kind::RollbackToSavepoint, Kind::Set, Kind::SetRole, Kind::Discard];
    other_names.iter().any(|kind| statement.kinds.contains(kind))
        || statement.classes.contains(&Class::Ddl) && !makes_anew(statement)
}
