//! Names in view at a place in a statement, and the columns that a value is made of.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::{Column, Output, Relation};

/// More columns than a PostgreSQL result can have (`MaxTupleAttributeNumber`).
const MAX_COLUMNS: usize = 1664;

/// Entries of all sets of columns together, above which the rest is taken to be made of anything. It
/// bounds what a statement whose columns double with every subquery can cost.
const MAX_LINEAGE: usize = 1 << 20;

/// The columns a value may be made of, as numbers of [`Columns`].
#[derive(Debug, Clone, Default)]
pub(super) struct Lineage {
    pub(super) columns: Rc<BTreeSet<u32>>,
    /// It is, or holds, a whole row.
    pub(super) whole_row: bool,
    /// It is a column as it stands.
    pub(super) plain: bool,
}

impl Lineage {
    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty() && !self.whole_row
    }
}

/// One or, for a `*` over tables, an unknown number of columns of a query's result.
#[derive(Debug, Clone, Default)]
pub(super) struct Out {
    pub(super) name: Option<String>,
    pub(super) lineage: Lineage,
    /// It stands for any number of columns.
    pub(super) star: bool,
}

/// Every column named so far, each once.
#[derive(Debug, Default)]
pub(super) struct Columns {
    list: Vec<Column>,
    numbers: HashMap<Column, u32>,
    spent: usize,
}

impl Columns {
    pub(super) fn number(&mut self, column: Column) -> u32 {
        if let Some(number) = self.numbers.get(&column) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(column.clone());
        self.numbers.insert(column, number);
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&Column> {
        self.list.get(number as usize)
    }

    /// Adds `more` to `lineage`.
    pub(super) fn merge(&mut self, lineage: &mut Lineage, more: &Lineage) {
        if !more.is_empty() {
            lineage.plain = more.plain && lineage.is_empty();
        }
        lineage.whole_row |= more.whole_row;
        if more.columns.is_empty() || Rc::ptr_eq(&lineage.columns, &more.columns) {
            return;
        }
        if lineage.columns.is_empty() {
            lineage.columns = Rc::clone(&more.columns);
            return;
        }
        self.spent = self.spent.saturating_add(more.columns.len());
        if Rc::strong_count(&lineage.columns) > 1 {
            self.spent = self.spent.saturating_add(lineage.columns.len());
        }
        if self.spent > MAX_LINEAGE {
            *lineage = self.anything();
        } else {
            Rc::make_mut(&mut lineage.columns).extend(more.columns.iter().copied());
        }
    }

    /// Adds one column to `lineage`.
    pub(super) fn add(&mut self, lineage: &mut Lineage, column: Column) {
        let number = self.number(column);
        let column = Lineage { columns: Rc::new(BTreeSet::from([number])), whole_row: false, plain: true };
        self.merge(lineage, &column);
    }

    /// What may be made of any column of any relation.
    pub(super) fn anything(&mut self) -> Lineage {
        let number = self.number(Column { relation: None, name: "*".to_owned() });
        Lineage { columns: Rc::new(BTreeSet::from([number])), whole_row: true, plain: false }
    }

    /// All of `outs` as one.
    pub(super) fn union(&mut self, outs: &[Out]) -> Lineage {
        let mut all = Lineage::default();
        for out in outs {
            self.merge(&mut all, &out.lineage);
        }
        all
    }

    /// What the column `name` of a result is made of; `None` when the result has none of that name.
    pub(super) fn named(&mut self, outs: &[Out], name: &str) -> Option<Lineage> {
        let mut found: Option<Lineage> = None;
        for out in outs {
            let lineage = if out.star {
                self.refined(&out.lineage, name)
            } else if out.name.as_deref() == Some(name) {
                out.lineage.clone()
            } else {
                continue;
            };
            match &mut found {
                Some(found) => self.merge(found, &lineage),
                None => found = Some(lineage),
            }
        }
        found
    }

    /// The lineage of column `name` out of a `*`.
    fn refined(&mut self, star: &Lineage, name: &str) -> Lineage {
        let mut refined = Lineage::default();
        for number in star.columns.iter() {
            match self.get(*number).cloned() {
                Some(Column { relation: Some(relation), name: all }) if all == "*" => {
                    self.add(&mut refined, Column { relation: Some(relation), name: name.to_owned() });
                }
                Some(column) => self.add(&mut refined, column),
                None => {}
            }
        }
        refined
    }

    /// The results of two arms of a set operation as one.
    pub(super) fn set_operation(&mut self, left: Vec<Out>, right: &[Out]) -> Vec<Out> {
        if left.len() == right.len() && !left.iter().chain(right).any(|out| out.star) {
            let mut merged = left;
            for (out, other) in merged.iter_mut().zip(right) {
                self.merge(&mut out.lineage, &other.lineage);
            }
            return merged;
        }
        // Columns meet by position, which the text does not tell: any may be made of all.
        let mut all = self.union(&left);
        let other = self.union(right);
        self.merge(&mut all, &other);
        all.whole_row = true;
        // A column taken from this by name may come from one of another name in the second arm.
        vec![Out { name: None, lineage: all, star: true }]
    }

    /// Keeps a result within what the server allows.
    pub(super) fn bounded(&mut self, outs: Vec<Out>) -> Vec<Out> {
        if outs.len() <= MAX_COLUMNS {
            return outs;
        }
        let lineage = self.anything();
        vec![Out { name: None, lineage, star: true }]
    }

    /// The public form of a result.
    pub(super) fn outputs(&self, outs: &[Out]) -> Vec<Output> {
        outs.iter()
            .map(|out| Output {
                name: out.name.clone(),
                columns: out.lineage.columns.iter().filter_map(|number| self.get(*number).cloned()).collect(),
                whole_row: out.lineage.whole_row || out.star,
                plain: out.lineage.plain && !out.star,
            })
            .collect()
    }
}

/// What a name in FROM stands for.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A table, view or the like.
    Table(Relation),
    /// A subquery or CTE, by its result.
    Query(Rc<Vec<Out>>),
    /// A function or the like: any of its columns is made of this.
    Any(Lineage),
    /// A join with a name of its own over the items from one index to another.
    Join(usize, usize),
}

/// One entry of FROM.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The name that a column may be qualified with.
    pub(super) name: Option<String>,
    /// The schema, where the entry is a table without an alias.
    pub(super) schema: Option<String>,
    /// Names that the alias gives to the first columns.
    pub(super) columns: Vec<String>,
    pub(super) source: Source,
    /// It is what an INSERT, UPDATE, DELETE or MERGE changes.
    pub(super) target: bool,
    /// Its columns are seen by its name only: OLD, NEW, EXCLUDED.
    pub(super) qualified_only: bool,
}

/// A WITH query.
#[derive(Debug)]
pub(super) struct Cte {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    pub(super) source: RefCell<Source>,
}

/// The names in view; the innermost first.
#[derive(Debug, Default)]
pub(super) struct Scope<'p> {
    pub(super) outer: Option<&'p Scope<'p>>,
    pub(super) ctes: Vec<Rc<Cte>>,
    pub(super) items: Vec<Item>,
    /// Both sides of some join share columns (USING, NATURAL): `*` has fewer than all.
    pub(super) merged_columns: bool,
}

impl<'p> Scope<'p> {
    /// A scope within this one.
    pub(super) fn inner<'i>(&'i self) -> Scope<'i>
    where
        'p: 'i,
    {
        Scope { outer: Some(self), ..Scope::default() }
    }

    /// The name of the one entry of FROM, or target of a change, that a column can belong to.
    pub(super) fn alone(&self) -> Option<&str> {
        let mut found = None;
        let mut scope = Some(self);
        while let Some(here) = scope {
            for item in &here.items {
                if found.replace(item).is_some() {
                    return None;
                }
            }
            scope = here.outer;
        }
        found?.name.as_deref()
    }

    /// The WITH query of that name.
    pub(super) fn cte(&self, name: &str) -> Option<&Rc<Cte>> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            // Two of one name at one level are an error at the server.
            if let Some(cte) = here.ctes.iter().find(|cte| cte.name == name) {
                return Some(cte);
            }
            scope = here.outer;
        }
        None
    }

    /// The entry of FROM that a qualified column means: its scope and index.
    pub(super) fn item(&self, schema: Option<&str>, name: &str) -> Option<(&Scope<'p>, usize)> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            let found = here.items.iter().position(|item| {
                item.name.as_deref() == Some(name)
                    && match (schema, item.schema.as_deref()) {
                        (None, _) => true,
                        (Some(asked), Some(known)) => asked == known,
                        // `public.t.a` for FROM t: the server looks where the search path found it.
                        (Some(_), None) => matches!(&item.source, Source::Table(table) if table.name == name),
                    }
            });
            if let Some(index) = found {
                return Some((here, index));
            }
            scope = here.outer;
        }
        None
    }
}
