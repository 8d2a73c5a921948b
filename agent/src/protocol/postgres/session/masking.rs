//! What happens to values on their way to the client.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::OnceLock;

use super::Core;
use super::catalog::{Catalog, Treat};
use super::refusal::Refusal;
use super::run::{Described, Run};
use super::statements::{Found, Prepared, Running};
use crate::mask::copy::CopyColumn;
use crate::mask::{Applied, Fired, Format, HashKey, MaskSet, Transform, value};
use crate::protocol::postgres::codec::{self, CodecError};
use crate::sql::{self, Hidden, Kind, Recordable, Statement};

/// What is done to the columns of one result.
#[derive(Debug)]
pub(super) struct RowPlan {
    /// The RowDescription's body that it was made for.
    pub(super) description: Box<[u8]>,
    fields: Vec<FieldPlan>,
    /// Some values may be changed.
    pub(super) masks: bool,
    /// It depends on nothing but the description.
    reusable: bool,
}

/// A text that could not be read was sent, and nothing since that made names unknown.
#[derive(Debug)]
pub(super) struct Unread {
    order: u64,
    /// What was known before it.
    before: ((u64, u64), bool),
}

#[derive(Debug)]
struct FieldPlan {
    kind: u32,
    typmod: i32,
    format: Format,
    treat: Option<Treat>,
}

/// How many plans a flow keeps to find again.
const MOST_PLANS: usize = 16;

impl Core {
    /// The plan for a result of these columns, of what may be `running`.
    pub(super) fn plan(
        &mut self,
        description: &[u8],
        running: &Running<'_>,
    ) -> Result<Arc<RowPlan>, CodecError> {
        if let Some(plan) = self.plans.iter().find(|plan| *plan.description == *description) {
            return Ok(Arc::clone(plan));
        }
        let masks = Arc::clone(self.flow.masks());
        let mut plan = RowPlan {
            description: description.into(),
            fields: Vec::new(),
            masks: masks.has_detectors(),
            reusable: true,
        };
        for (index, field) in codec::fields(description)?.enumerate() {
            let field = field?;
            let treat =
                if masks.has_columns() { self.treat(index, &field, running, &mut plan) } else { None };
            plan.masks |= treat.is_some();
            plan.fields.push(FieldPlan {
                kind: field.kind,
                typmod: field.typmod,
                format: if field.format == 1 { Format::Binary } else { Format::Text },
                treat,
            });
        }
        let plan = Arc::new(plan);
        if plan.reusable {
            if self.plans.len() >= MOST_PLANS {
                self.plans.remove(0);
            }
            self.plans.push(Arc::clone(&plan));
        }
        Ok(plan)
    }

    fn treat(
        &mut self,
        index: usize,
        field: &codec::Field<'_>,
        running: &Running<'_>,
        plan: &mut RowPlan,
    ) -> Option<Treat> {
        let Some(catalog) = &self.catalog else {
            // Statements that read are refused then; what comes all the same is not shown.
            plan.reusable = false;
            return Some(Treat::Redact);
        };
        if field.table != 0 {
            if let Some(treat) = catalog.treat(field.table, field.column) {
                return Some(treat.clone());
            }
            if catalog.unknown(field.table) {
                plan.reusable = false;
                self.catalog_stale = true;
                if field.column == 0 {
                    return Some(Treat::Redact);
                }
                let name = std::str::from_utf8(field.name).unwrap_or_default();
                if let Some(mask) = catalog.named(name) {
                    return Some(Treat::Mask(mask.clone()));
                }
                let clean = catalog.current() && self.made.is_clean(running, index);
                return (!clean).then_some(Treat::Redact);
            }
            if self.made.unsure {
                plan.reusable = false;
                return Some(Treat::Redact);
            }
            return None;
        }
        plan.reusable = false;
        let made_of_masked = |statement: &&Statement| match &statement.outputs {
            // A star that stands before it moves the positions: then any output may be this one.
            Some(outputs) if outputs.iter().any(|output| output.whole_row) => outputs.iter().any(|output| {
                output.whole_row && catalog.touches(statement)
                    || output.columns.iter().any(|one| catalog.may_mask(one))
            }),
            Some(outputs) => match outputs.get(index) {
                Some(output) => output.columns.iter().any(|column| catalog.may_mask(column)),
                None => catalog.touches(statement),
            },
            None => {
                statement.columns_read.iter().any(|column| catalog.may_mask(column))
                    || catalog.touches(statement)
            }
        };
        let unsure = |statement: &&Statement| self.unsure_of(statement);
        let redact = running.unknown
            || running.statements.iter().any(made_of_masked)
            || running.statements.iter().any(unsure);
        redact.then_some(Treat::Redact)
    }

    /// Appends the DataRow of `body` with its values masked to `out`, as a whole message. `false`, with
    /// nothing appended, when it stays as it is.
    pub(super) fn mask_row(
        masks: &MaskSet,
        plan: &RowPlan,
        body: &[u8],
        cell: &mut Vec<u8>,
        out: &mut Vec<u8>,
        fired: &mut Fired,
    ) -> Result<bool, CodecError> {
        let start = out.len();
        let mut reader = codec::Reader::new(body);
        if reader.count()? != plan.fields.len() {
            return Err(CodecError::Trailing);
        }
        let mut copied = 0;
        cell.clear();
        for field in &plan.fields {
            let at = body.len() - reader.rest().len();
            let Some(value) = reader.value()? else { continue };
            let applied = match &field.treat {
                Some(treat) => Some(treat.apply(field.kind, field.typmod, field.format, value, cell, fired)),
                None => masks.detect_typed(field.kind, field.format, value, cell, fired),
            };
            let Some(applied) = applied else { continue };
            if copied == 0 {
                out.extend_from_slice(&[b'D', 0, 0, 0, 0]);
            }
            out.extend_from_slice(body.get(copied..at).unwrap_or_default());
            copied = body.len() - reader.rest().len();
            let length = match applied {
                Applied::Null => -1,
                Applied::Value => i32::try_from(cell.len()).unwrap_or(i32::MAX),
            };
            out.extend_from_slice(&length.to_be_bytes());
            if applied == Applied::Value {
                out.extend_from_slice(cell);
            }
            cell.clear();
        }
        reader.end()?;
        if copied == 0 {
            return Ok(false);
        }
        out.extend_from_slice(body.get(copied..).unwrap_or_default());
        let length = u32::try_from(out.len() - start - 1).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(word) = out.get_mut(start + 1..start + 5) {
            word.copy_from_slice(&length);
        }
        Ok(true)
    }

    /// What may be running.
    pub(super) fn running<'a>(&'a self, run: &'a Run) -> Running<'a> {
        let mut running = self.names.running(&run.statements, run.index);
        running.unknown |= run.unknown;
        running
    }

    /// A text that is run may make and free names unseen: code that could have made them stand for masked
    /// columns. And it may make relations of which the catalog does not tell yet.
    pub(super) fn note_hidden(&mut self, prepared: &Prepared) {
        let before = (self.names.hidden(), self.made.unsure);
        for statement in &prepared.script.statements {
            let catalog = self.catalog.as_ref();
            let touches = catalog.is_none_or(|catalog| catalog.touches(statement));
            let opaque = statement.dynamic
                || statement.error.is_some()
                || statement.kinds.contains(&Kind::Do) && touches;
            let call = statement.kinds.contains(&Kind::Call);
            if self.flow.masks().has_columns() {
                if self.made.note(statement, catalog, opaque || call) {
                    self.made.tell = true;
                    self.changes.count();
                }
                if self.made.unsure {
                    self.plans.clear();
                }
                self.catalog_stale |= opaque || self.made.unsure;
            }
            if opaque {
                self.opaque = true;
                self.names.hide(true);
            } else if call {
                self.names.hide(false);
            }
        }
        if (self.names.hidden(), self.made.unsure) != before {
            let unread = prepared.script.statements.iter().all(|one| one.kind == Kind::Unparsed);
            self.unread = unread.then_some(Unread { order: prepared.order, before });
        }
    }

    /// The server has rejected a text, too, that could not be read: nothing of it was run.
    pub(super) fn rejected(&mut self, prepared: u64) {
        if let Some(unread) = self.unread.take_if(|unread| unread.order == prepared) {
            self.names.not_hidden(unread.before.0);
            self.made.unsure = unread.before.1;
        }
    }

    /// The statement may show masked columns in what was made since the catalog was read.
    pub(super) fn unsure_of(&self, statement: &Statement) -> bool {
        self.made.is_dirty(statement) || self.catalog.as_ref().is_none_or(|catalog| !catalog.current())
    }

    /// Why the results of these statements could not be masked, if so.
    pub(super) fn unmaskable(&self, statements: &[Arc<Prepared>]) -> Option<Refusal> {
        if !self.flow.masks().has_columns() {
            return None;
        }
        let mut all = statements.iter().flat_map(|prepared| &prepared.script.statements);
        if self.replication {
            // The catalog cannot be asked on every such connection.
            let sql = all.any(|statement| statement.kind != Kind::Replication);
            return sql.then(|| {
                let reason = "refused: SQL on a replication connection cannot be masked";
                Refusal::own("42501", reason, "Use an ordinary connection for it.")
            });
        }
        if self.catalog.is_none() {
            let harmless = all
                .all(|statement| statement.classes.iter().all(|class| *class == crate::sql::Class::Session));
            return (!harmless).then(|| {
                Refusal::own(
                    "57P03",
                    "refused: columns are masked and the server's catalog could not be read",
                    "Is statement_timeout very short, or pg_catalog not readable? The agent tries again \
                     before the next command outside of a transaction.",
                )
            });
        }
        let catalog = self.catalog.as_ref()?;
        let mut made = self.made.clone();
        all.find_map(|statement| {
            let unsure = made.is_dirty(statement) || !catalog.current();
            made.note(statement, Some(catalog), statement.dynamic || statement.error.is_some());
            handed_on(catalog, statement, unsure).or_else(|| self.copy_columns(statement, unsure).err())
        })
    }

    /// The columns of a COPY to the client, where some of them are masked; `unsure` says that it may show
    /// what the catalog does not tell of yet.
    pub(super) fn copy_columns(
        &self,
        statement: &Statement,
        unsure: bool,
    ) -> Result<Vec<CopyColumn>, Refusal> {
        let (Some(copy), Some(catalog)) = (&statement.copy, &self.catalog) else { return Ok(Vec::new()) };
        if !copy.to_client {
            return Ok(Vec::new());
        }
        let refuse = |why: &str, hint: &str| {
            Refusal::own("42501", &format!("refused: this COPY reads masked columns, and {why}"), hint)
        };
        if unsure {
            return Err(refuse(
                "what its table or view is made of is not known yet",
                "Make it in a transaction of its own first.",
            ));
        }
        let redact =
            |redact: bool| CopyColumn { mask: redact.then(|| redactor().clone()), type_oid: 0, typmod: -1 };
        let Some(relation) = &copy.relation else {
            if !catalog.touches(statement) {
                return Ok(Vec::new());
            }
            let name = "name each result column of the query instead of using *";
            let Some(outputs) = &statement.outputs else {
                return Err(refuse("which of its columns they are cannot be told from its query", name));
            };
            if outputs.iter().any(|output| output.whole_row) {
                return Err(refuse("its query does not name them one by one", name));
            }
            let masked = |output: &crate::sql::Output| output.columns.iter().any(|one| catalog.may_mask(one));
            return Ok(outputs.iter().map(|output| redact(masked(output))).collect());
        };
        let mut found: Option<Vec<CopyColumn>> = None;
        for (oid, table) in catalog.tables(relation) {
            let column = |one: &super::catalog::TableColumn| match catalog.treat(oid, one.number) {
                Some(Treat::Mask(mask)) => {
                    CopyColumn { mask: Some(mask.clone()), type_oid: one.kind, typmod: one.typmod }
                }
                Some(Treat::Redact) => CopyColumn { type_oid: one.kind, typmod: one.typmod, ..redact(true) },
                None => CopyColumn { mask: None, type_oid: one.kind, typmod: one.typmod },
            };
            let columns: Option<Vec<CopyColumn>> = if copy.columns.is_empty() {
                Some(table.columns.iter().filter(|one| !one.generated).map(column).collect())
            } else {
                copy.columns
                    .iter()
                    .map(|name| table.columns.iter().find(|one| one.name == *name).map(column))
                    .collect()
            };
            let schema = "write the table's name with its schema";
            match columns {
                None => return Err(refuse("it names columns that the catalog does not have", schema)),
                Some(_) if found.is_some() => {
                    return Err(refuse("its table's name is that of several masked tables", schema));
                }
                Some(columns) => found = Some(columns),
            }
        }
        Ok(found.unwrap_or_default())
    }

    /// A portal's columns were described.
    pub(super) fn portal_described(
        &mut self,
        found: &Found,
        plan: &Described,
        description: &[u8],
    ) -> Result<(), CodecError> {
        let names = std::mem::take(&mut self.names);
        let mut running = names.running(&found.statements, 0);
        running.unknown |= found.unknown;
        let made = self.plan(description, &running);
        drop(running);
        self.names = names;
        let _ = plan.set(made?);
        Ok(())
    }
}

/// A parameter as it may be recorded, and what is hidden in it. One of unknown type in binary format is given as
/// hexadecimal, and looked into as what that stands for. One that is SQL may be run (`dblink_exec('c', $1)`), so that
/// what it runs is not hidden, or said to be.
pub(in crate::protocol::postgres) fn recorded_parameter(masks: &MaskSet, value: &str) -> (String, Hidden) {
    let bytes: Option<Vec<u8>> = value.strip_prefix("\\x").and_then(|hex| {
        let digits: Option<Vec<u8>> =
            hex.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        Some(digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
    });
    let found = |bytes: &Vec<u8>| {
        let (out, fired) = (&mut Vec::new(), &mut Fired::default());
        masks.detect(bytes, out, fired) || masks.detect_typed(0, Format::Binary, bytes, out, fired).is_some()
    };
    if bytes.as_ref().is_some_and(found) {
        return (crate::mask::REDACTED.to_owned(), whole(bytes.as_deref().unwrap_or_default()));
    }
    if let Some(Recordable { text, hidden }) = Recordable::of_value(value, masks) {
        return (text.into_owned(), hidden);
    }
    match masks.mask_text(value) {
        Cow::Borrowed(value) => (value.to_owned(), Hidden::Nothing),
        Cow::Owned(value) => (value, Hidden::Constants),
    }
}

/// A parameter that is a secret, as it may be recorded, and what is hidden in it.
pub(in crate::protocol::postgres) fn secret_parameter(value: &str) -> (String, Hidden) {
    (super::judge::REDACTED.to_owned(), whole(value.as_bytes()))
}

/// What is hidden with the whole of a value.
fn whole(value: &[u8]) -> Hidden {
    // In another encoding than UTF-8 SQL is the same but for constants and names.
    if sql::is_sql(&String::from_utf8_lossy(value)) { Hidden::Code } else { Hidden::Constants }
}

/// A statement that leaves masked values where another finds them, in a form that no mask knows.
fn handed_on(catalog: &Catalog, statement: &Statement, unsure: bool) -> Option<Refusal> {
    let sets = statement.writes.iter().any(|relation| relation.name == "pg_settings");
    // Which variables hold what is not followed in the code of a block, nor what it puts together to run.
    let block = statement.kinds.contains(&Kind::Do) && (statement.hands_on || statement.dynamic);
    let found = statement.handed_on.iter().any(|column| catalog.may_mask(column))
        || (block || sets) && catalog.reads(statement)
        || (block || sets || statement.hands_on) && unsure;
    found.then(|| {
        Refusal::own(
            "42501",
            "refused: masked columns would be handed on to where they cannot be masked",
            "Do not give them to settings, notifications, locks, sequences, large objects or other servers, \
             and do not read them in a DO block that uses these or runs text that it puts together.",
        )
    })
}

impl Treat {
    fn apply(
        &self,
        kind: u32,
        typmod: i32,
        format: Format,
        bytes: &[u8],
        out: &mut Vec<u8>,
        fired: &mut Fired,
    ) -> Applied {
        match self {
            Self::Mask(mask) => {
                fired.insert(mask.id());
                mask.apply(kind, typmod, format, bytes, out)
            }
            Self::Redact => value::apply(Transform::Redact, no_key(), kind, typmod, format, bytes, out),
        }
    }
}

/// Redacting needs no key.
fn no_key() -> &'static HashKey {
    static KEY: OnceLock<HashKey> = OnceLock::new();
    KEY.get_or_init(|| HashKey::new(&[0; 32]))
}

/// A mask that redacts, for columns that no mask of the policy names.
fn redactor() -> &'static crate::mask::ColumnMask {
    static MASKS: OnceLock<MaskSet> = OnceLock::new();
    let masks = MASKS.get_or_init(|| {
        MaskSet::builder().column("computed".into(), "*", "*", "*", Transform::Redact).build(no_key())
    });
    masks.column("", "", "").unwrap_or_else(|| unreachable!("the set has this mask"))
}
