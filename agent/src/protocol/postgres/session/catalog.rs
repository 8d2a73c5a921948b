//! Which columns of the server's tables the masks take in, by object id and column number as
//! RowDescription names them.
//!
//! The agent asks the server itself, on the flow's own connection, between two commands of the client
//! while no transaction is open. The query names every function and operator by its schema, since the
//! session's `search_path` is in the client's hands, and every name comes back in hexadecimal UTF-8, since
//! its encoding is too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::mask::{ColumnMask, MaskSet};
use crate::protocol::postgres::codec;
use crate::sql::{self, Column, Output, Relation, Statement};

/// What is known of the catalog is asked for again after this time.
const AGE: Duration = Duration::from_secs(60);
/// More rows than this are no catalog of masked tables.
const MOST_ROWS: usize = 1_000_000;

/// What is done to a column.
#[derive(Debug, Clone)]
pub(super) enum Treat {
    /// A mask of the policy.
    Mask(ColumnMask),
    /// It may hold a masked column's values in another form.
    Redact,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(super) struct TableColumn {
    pub(super) number: i16,
    pub(super) name: String,
    pub(super) kind: u32,
    pub(super) typmod: i32,
    /// A generated column: COPY leaves it out.
    pub(super) generated: bool,
}

/// A table or view that has masked columns.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Vec<TableColumn>,
}

impl Table {
    /// It has a column of this name, or all tables have.
    fn has(&self, name: &str) -> bool {
        const SYSTEM: &[&str] = &["*", "ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"];
        SYSTEM.contains(&name) || self.columns.iter().any(|column| column.name == name)
    }
}

/// The masked columns of one database.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    tables: HashMap<u32, Table>,
    masked: HashMap<(u32, i16), Treat>,
    by_name: HashMap<String, ColumnMask>,
    /// Tables by their names.
    of_name: HashMap<String, Vec<u32>>,
    /// The newest table when it was read.
    newest: u32,
    read: Option<Instant>,
    /// How many changes were counted before it was read.
    seen: u64,
    changes: Changes,
}

/// How often any flow of this agent has changed what is made of masked tables of one database: what
/// others know of the catalog is old then.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<AtomicU64>);

impl Changes {
    /// Those of the databases of this name, whatever their servers.
    pub(super) fn of(database: &str) -> Self {
        static ALL: Mutex<BTreeMap<String, Weak<AtomicU64>>> = Mutex::new(BTreeMap::new());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(database).and_then(Weak::upgrade) {
            return Self(known);
        }
        // Names come from clients: those of flows that have ended are not kept.
        all.retain(|_, changes| changes.strong_count() > 0);
        let changes = Self::default();
        all.insert(database.to_owned(), Arc::downgrade(&changes.0));
        changes
    }

    /// Counts a change: when it is sent, and when its transaction has ended.
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Reads the answer to [`query`] row by row.
#[derive(Debug)]
pub(super) struct Reading {
    catalog: Catalog,
    /// The views' definitions.
    views: HashMap<u32, String>,
    /// Child, parent, column of the parent (-1: each by its name; 0: its whole row, or the table as such).
    edges: Vec<(u32, u32, i16)>,
    rows: usize,
    broken: bool,
}

/// Columns that hold samples of other tables' values.
const SAMPLES: &[&str] = &[
    "most_common_vals",
    "histogram_bounds",
    "most_common_elems",
    "most_common_val_nulls",
    "range_bounds_histogram",
    "stavalues1",
    "stavalues2",
    "stavalues3",
    "stavalues4",
    "stavalues5",
    "stxdmcv",
    "stxdexpr",
];

/// The text that asks for all that the masks take in.
pub(super) fn query(masks: &MaskSet) -> String {
    let mut wanted = String::new();
    for mask in masks.columns() {
        let (schema, table, column) = mask.patterns();
        let _ = write!(
            wanted,
            "({} AND {} AND EXISTS (SELECT 1 FROM pg_catalog.pg_attribute x WHERE x.attrelid \
             OPERATOR(pg_catalog.=) c.oid AND {})) OR ",
            like("n.nspname", schema),
            like("c.relname", table),
            like("x.attname", column),
        );
    }
    let hex = |name: &str| {
        format!("pg_catalog.encode(pg_catalog.convert_to({name}::pg_catalog.text, 'UTF8'), 'hex')")
    };
    format!(
        "/* interlock: which columns are masked */ WITH RECURSIVE edges AS (\
           SELECT r.ev_class AS child, d.refobjid AS parent, d.refobjsubid AS number \
             FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid \
             WHERE d.classid OPERATOR(pg_catalog.=) 2618::pg_catalog.oid \
               AND d.refclassid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid \
               AND r.ev_class OPERATOR(pg_catalog.<>) d.refobjid \
           UNION SELECT i.inhrelid, i.inhparent, -1 FROM pg_catalog.pg_inherits i), \
         wanted AS (\
           SELECT c.oid FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r','p','v','m','f']::pg_catalog.\"char\"[]) \
               AND ({wanted}(n.nspname OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.name AND \
                 c.relname OPERATOR(pg_catalog.=) ANY (ARRAY['pg_stats','pg_statistic','pg_stats_ext',\
                 'pg_stats_ext_exprs','pg_statistic_ext_data']::pg_catalog.name[]))) \
           UNION SELECT CASE WHEN e.parent OPERATOR(pg_catalog.=) w.oid THEN e.child ELSE e.parent END \
             FROM edges e JOIN wanted w ON w.oid OPERATOR(pg_catalog.=) e.parent \
               OR (e.number OPERATOR(pg_catalog.=) -1 AND w.oid OPERATOR(pg_catalog.=) e.child)) \
         SELECT 'c', c.oid, a.attnum, {}, {}, {}, a.atttypid, a.atttypmod, \
             pg_catalog.jsonb_extract_path_text(pg_catalog.to_jsonb(a), VARIADIC ARRAY['attgenerated']) \
           FROM wanted w JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) w.oid \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid \
           WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped \
         UNION ALL SELECT 'e', e.child, e.number, '', '', '', e.parent, 0, '' \
           FROM edges e JOIN wanted w ON w.oid OPERATOR(pg_catalog.=) e.parent \
         UNION ALL SELECT 'v', c.oid, 0, {}, '', '', 0, 0, '' \
           FROM wanted w JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) w.oid \
           WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['v','m']::pg_catalog.\"char\"[]) \
         UNION ALL SELECT 'n', pg_catalog.max(c.oid), 0, '', '', '', 0, 0, '' FROM pg_catalog.pg_class c \
         ORDER BY 1, 2, 3",
        hex("n.nspname"),
        hex("c.relname"),
        hex("a.attname"),
        hex("pg_catalog.pg_get_viewdef(c.oid)"),
    )
}

/// A condition that holds for every name that the glob takes in. It needs no backslash and no quote, so
/// it reads the same under every setting; what it takes in too much is sorted out here.
fn like(name: &str, glob: &str) -> String {
    let mut pattern = String::new();
    for c in glob.chars() {
        match c {
            '*' => pattern.push('%'),
            '?' => pattern.push('_'),
            '_' => pattern.push_str("!_"),
            c if c.is_ascii_alphanumeric() || c == ' ' || c == '-' || c == '$' => pattern.push(c),
            c if c.is_ascii() => pattern.push('_'),
            // Of unknown length in the server's encoding.
            _ => pattern.push('%'),
        }
    }
    format!(
        "{name}::pg_catalog.text OPERATOR(pg_catalog.~~) pg_catalog.like_escape('{pattern}'::pg_catalog.text, \
         '!'::pg_catalog.text)"
    )
}

fn unhex(text: &[u8]) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = text
        .chunks(2)
        .map(|pair| match pair {
            &[high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect();
    String::from_utf8(bytes?).ok()
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Reading {
    /// The answer to a query that is yet to be sent.
    pub(super) fn new(changes: &Changes) -> Self {
        let catalog = Catalog { seen: changes.now(), changes: changes.clone(), ..Catalog::default() };
        Self { catalog, views: HashMap::new(), edges: Vec::new(), rows: 0, broken: false }
    }

    /// Takes one DataRow.
    pub(super) fn row(&mut self, body: &[u8]) {
        self.rows += 1;
        if self.broken || self.rows > MOST_ROWS || self.take(body).is_none() {
            self.broken = true;
        }
    }

    fn take(&mut self, body: &[u8]) -> Option<()> {
        let values = codec::values(body).ok()?;
        let values: Vec<&[u8]> =
            values.map(|value| value.map(Option::unwrap_or_default)).collect::<Result<_, _>>().ok()?;
        let &[what, oid, at, schema, table, column, kind, typmod, generated] = values.as_slice() else {
            return None;
        };
        match what {
            b"c" => {
                let entry = self.catalog.tables.entry(number(oid)?).or_default();
                entry.schema = unhex(schema)?;
                entry.name = unhex(table)?;
                entry.columns.push(TableColumn {
                    number: number(at)?,
                    name: unhex(column)?,
                    kind: number(kind)?,
                    typmod: number(typmod)?,
                    generated: !generated.is_empty(),
                });
            }
            b"e" => self.edges.push((number(oid)?, number(kind)?, number(at)?)),
            // A definition that is not given stands for one that cannot be read.
            b"v" => _ = self.views.insert(number(oid)?, unhex(schema).unwrap_or_default()),
            b"n" => self.catalog.newest = number(oid)?,
            _ => return None,
        }
        Some(())
    }

    /// The catalog, unless an answer could not be read.
    pub(super) fn finish(mut self, masks: &MaskSet, scripts: &sql::Cache) -> Option<Catalog> {
        if self.broken || self.catalog.newest == 0 {
            return None;
        }
        let catalog = &mut self.catalog;
        for (&oid, table) in &catalog.tables {
            catalog.of_name.entry(table.name.clone()).or_default().push(oid);
            let system = table.schema == "pg_catalog";
            for column in &table.columns {
                let key = (oid, column.number);
                if let Some(mask) = masks.column(&table.schema, &table.name, &column.name) {
                    catalog.masked.insert(key, Treat::Mask(mask.clone()));
                    catalog.by_name.insert(column.name.clone(), mask.clone());
                } else if system && SAMPLES.contains(&column.name.as_str()) {
                    catalog.masked.insert(key, Treat::Redact);
                }
            }
        }
        let views: HashMap<u32, Option<Vec<Output>>> = self
            .views
            .iter()
            .filter(|(oid, _)| catalog.tables.get(oid).is_some_and(|table| table.schema != "pg_catalog"))
            .map(|(&oid, text)| (oid, outputs(catalog, oid, text, scripts)))
            .collect();
        inherit(catalog, &self.edges, &views);
        catalog.read = Some(Instant::now());
        Some(self.catalog)
    }
}

/// What the columns of a view are made of; `None` where its definition does not tell.
fn outputs(catalog: &Catalog, view: u32, text: &str, scripts: &sql::Cache) -> Option<Vec<Output>> {
    let script = scripts.analyze(text);
    let [statement] = script.statements.as_slice() else { return None };
    let outputs = statement.outputs.as_ref()?;
    let whole = statement.error.is_none() && outputs.len() == catalog.tables.get(&view)?.columns.len();
    whole.then(|| outputs.clone())
}

/// Views have the masks of the columns that theirs are, and redact what is computed from masked ones. Of
/// a table's children, and of what its rules read, columns of the same name have its masks; and a parent
/// has those of its children, whose rows it shows.
fn inherit(catalog: &mut Catalog, edges: &[(u32, u32, i16)], views: &HashMap<u32, Option<Vec<Output>>>) {
    // Columns that are masked for their children's sake alone: other children's are not.
    let mut from_below: HashSet<(u32, i16)> = HashSet::new();
    // As many rounds as views can be stacked on one another.
    for _ in 0..64 {
        let before = catalog.masked.len();
        for (&view, outputs) in views {
            catalog.mask_view(view, outputs.as_deref());
        }
        let Catalog { tables, masked, .. } = &mut *catalog;
        for &(child, parent, number) in edges {
            let (Some(table), Some(base)) = (tables.get(&child), tables.get(&parent)) else { continue };
            if number == -1 {
                for column in &table.columns {
                    if let Some(treat) = masked.get(&(child, column.number)).cloned()
                        && let Some(same) = base.columns.iter().find(|one| one.name == column.name)
                        && !masked.contains_key(&(parent, same.number))
                    {
                        from_below.insert((parent, same.number));
                        masked.insert((parent, same.number), treat);
                    }
                }
            }
            if views.contains_key(&child) {
                continue;
            }
            for column in base.columns.iter().filter(|one| number == -1 || one.number == number) {
                let key = (parent, column.number);
                if from_below.contains(&key) {
                    continue;
                }
                if let Some(treat) = masked.get(&key).cloned()
                    && let Some(same) = table.columns.iter().find(|one| one.name == column.name)
                {
                    masked.entry((child, same.number)).or_insert(treat);
                }
            }
        }
        if catalog.masked.len() == before {
            break;
        }
    }
    let Catalog { tables, masked, .. } = catalog;
    // Tables without a masked column need not be known.
    tables
        .retain(|oid, table| table.columns.iter().any(|column| masked.contains_key(&(*oid, column.number))));
}

impl Catalog {
    /// It was read long ago, or what it says may have changed.
    pub(super) fn old(&self) -> bool {
        self.read.is_none_or(|read| read.elapsed() > AGE) || !self.current()
    }

    /// No flow has changed what is made of masked tables since it was read.
    pub(super) fn current(&self) -> bool {
        self.seen == self.changes.now()
    }

    /// Masks the columns of a view by what they are made of.
    fn mask_view(&mut self, view: u32, outputs: Option<&[Output]>) {
        let Some(table) = self.tables.get(&view) else { return };
        let numbers: Vec<i16> = table.columns.iter().map(|column| column.number).collect();
        for (index, number) in numbers.into_iter().enumerate() {
            let treat = match outputs {
                None => Some(Treat::Redact),
                Some(outputs) => outputs.get(index).and_then(|output| self.treat_output(output)),
            };
            if let Some(treat) = treat {
                self.masked.entry((view, number)).or_insert(treat);
            }
        }
    }

    /// What is done to a column that is made like this.
    fn treat_output(&self, output: &Output) -> Option<Treat> {
        if !output.columns.iter().any(|column| self.may_mask(column)) {
            return None;
        }
        let mut columns = output.columns.iter();
        if let (true, Some(column), None) = (output.plain, columns.next(), columns.next())
            && let Some(relation) = &column.relation
        {
            let mut treats = self.tables(relation).filter_map(|(oid, table)| {
                let one = table.columns.iter().find(|one| one.name == column.name)?;
                self.masked.get(&(oid, one.number))
            });
            if let (Some(treat), None) = (treats.next(), treats.next()) {
                return Some(treat.clone());
            }
        }
        Some(Treat::Redact)
    }

    /// What is done to a result column of this origin. Column 0 is the whole row.
    pub(super) fn treat(&self, table: u32, column: i16) -> Option<&Treat> {
        if column == 0 {
            return self.tables.contains_key(&table).then_some(&Treat::Redact);
        }
        self.masked.get(&(table, column))
    }

    /// The table came to be after the catalog was read.
    pub(super) fn unknown(&self, table: u32) -> bool {
        table > self.newest
    }

    /// A mask on any column of this name.
    pub(super) fn named(&self, column: &str) -> Option<&ColumnMask> {
        self.by_name.get(column)
    }

    /// The tables that a name in a statement may mean.
    pub(super) fn tables(&self, relation: &Relation) -> impl Iterator<Item = (u32, &Table)> {
        let all = (relation.name == "*").then(|| self.tables.iter().map(|(&oid, table)| (oid, table)));
        let named = self.of_name.get(&relation.name).into_iter().flatten();
        let named = named.filter_map(|oid| Some((*oid, self.tables.get(oid)?)));
        let in_schema = |table: &Table| relation.schema.as_ref().is_none_or(|schema| *schema == table.schema);
        all.into_iter().flatten().chain(named).filter(move |(_, table)| in_schema(table))
    }

    /// A column in a statement may be a masked one.
    pub(super) fn may_mask(&self, column: &Column) -> bool {
        // A table's name in the place of a column is its whole row.
        let row = |table: &Table| column.name == table.name;
        let masked = |oid: u32, table: &Table| {
            row(table)
                // A name that the table does not have: a function that is called on its row, or a new
                // column.
                || column.relation.is_some() && !table.has(&column.name)
                || table.columns.iter().any(|one| {
                    (column.name == "*" || one.name == column.name)
                        && self.masked.contains_key(&(oid, one.number))
                })
        };
        match &column.relation {
            Some(relation) => self.tables(relation).any(|(oid, table)| masked(oid, table)),
            None => self.tables.iter().any(|(&oid, table)| masked(oid, table)),
        }
    }

    /// The statement may read a table that has masked columns.
    pub(super) fn touches(&self, statement: &Statement) -> bool {
        statement.dynamic || statement.error.is_some() || self.reads(statement)
    }

    /// The statement names a table that has masked columns.
    pub(super) fn reads(&self, statement: &Statement) -> bool {
        let mut relations = statement.reads.iter().chain(&statement.writes);
        relations.any(|relation| self.tables(relation).next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{HashKey, Transform};

    fn catalog(edges: &[(u32, u32, i16)], views: &[(u32, &str)]) -> Catalog {
        let masks = MaskSet::builder()
            .column("cards".into(), "public", "customers", "card", Transform::Hash)
            .build(&HashKey::new(&[0; 32]));
        let mut reading = Reading::new(&Changes::default());
        let mut table = |oid: u32, name: &str, columns: &[&str]| {
            let columns = (1..).zip(columns).map(|(number, name)| TableColumn {
                number,
                name: (*name).to_owned(),
                kind: 25,
                typmod: -1,
                generated: false,
            });
            let table = Table { schema: "public".into(), name: name.into(), columns: columns.collect() };
            reading.catalog.tables.insert(oid, table);
        };
        table(1, "customers", &["id", "card"]);
        table(2, "plain", &["id", "card"]);
        table(3, "renamed", &["id", "number"]);
        table(4, "over", &["id", "what"]);
        reading.catalog.newest = 9;
        reading.edges = edges.to_vec();
        reading.views = views.iter().map(|&(oid, text)| (oid, text.to_owned())).collect();
        reading.finish(&masks, &sql::Cache::new(10, 1 << 20)).unwrap()
    }

    #[test]
    fn views_and_children_inherit() {
        let catalog = catalog(
            &[(2, 1, -1), (3, 1, 1), (3, 1, 2), (4, 3, 1), (4, 3, 2)],
            &[
                (3, "select id, card as number from customers"),
                (4, "select id, upper(number) as what from renamed"),
            ],
        );
        assert!(matches!(catalog.treat(1, 2), Some(Treat::Mask(_))));
        assert!(catalog.treat(1, 1).is_none());
        assert!(matches!(catalog.treat(1, 0), Some(Treat::Redact)));
        assert!(matches!(catalog.treat(2, 2), Some(Treat::Mask(_))));
        assert!(catalog.treat(3, 1).is_none());
        assert!(matches!(catalog.treat(3, 2), Some(Treat::Mask(_))));
        assert!(matches!(catalog.treat(4, 2), Some(Treat::Redact)));
        assert!(catalog.unknown(10) && !catalog.unknown(9));
    }

    #[test]
    fn views_by_their_definitions() {
        // A column of the masked one's name is no better than another.
        let decoy = [(3, "select card as x, ''::text as card from customers")];
        let catalog_of = |text| catalog(&[(3, 1, 1), (3, 1, 2)], &[(3, text)]);
        let decoy = catalog_of(decoy[0].1);
        assert!(matches!(decoy.treat(3, 1), Some(Treat::Mask(_))));
        assert!(decoy.treat(3, 2).is_none());
        for text in ["", "select 1; select 2", "selec", "select card from customers"] {
            let unread = catalog_of(text);
            assert!(matches!(unread.treat(3, 1), Some(Treat::Redact)), "{text}");
            assert!(matches!(unread.treat(3, 2), Some(Treat::Redact)), "{text}");
        }
        let row = catalog_of("select id, to_jsonb(c.*) as number from customers c");
        assert!(row.treat(3, 1).is_none() && matches!(row.treat(3, 2), Some(Treat::Redact)));
    }

    #[test]
    fn a_parent_shows_its_childrens_rows() {
        let catalog = catalog(&[(1, 2, -1), (4, 2, -1)], &[]);
        assert!(matches!(catalog.treat(2, 2), Some(Treat::Mask(_))));
        assert!(catalog.treat(4, 2).is_none());
    }

    #[test]
    fn names_in_statements() {
        let catalog = catalog(&[], &[]);
        let relation = |schema: Option<&str>, name: &str| Relation {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        };
        let column = |relation, name: &str| Column { relation, name: name.to_owned() };
        assert!(catalog.may_mask(&column(None, "card")));
        assert!(!catalog.may_mask(&column(None, "id")));
        assert!(catalog.may_mask(&column(Some(relation(None, "customers")), "*")));
        assert!(!catalog.may_mask(&column(Some(relation(Some("other"), "customers")), "card")));
        assert!(!catalog.may_mask(&column(Some(relation(None, "plain")), "card")));
    }

    #[test]
    fn globs_as_like() {
        assert!(like("x", "a*_?'\\").contains("'a%!____'"));
        assert_eq!(unhex(b"c3a9").as_deref(), Some("\u{e9}"));
        assert_eq!(unhex(b"c3a"), None);
    }
}
