//! Errors, notices and what else the server says besides rows: they quote values.
//!
//! What a statement that touches masked tables makes the server say can hold masked values anywhere, and
//! by RAISE it says what it likes, under any SQLSTATE. So of such a message only what is known to hold
//! none is left: texts that are constants of the server's source, and messages of routines that name
//! nothing but objects of the catalog.

use std::sync::Arc;

use super::Core;
use super::backend::Verdict;
use super::log::lossy;
use super::pending::What;
use crate::mask::{Fired, MaskSet, REDACTED};
use crate::protocol::postgres::codec::{self, CodecError, HEADER, Reader};
use crate::sql::Kind;

/// Messages that hold no value. Whoever raises one of them says no more than that.
const CONSTANT: &[&[u8]] = &[
    b"division by zero",
    b"smallint out of range",
    b"integer out of range",
    b"bigint out of range",
    b"numeric field overflow",
    b"value out of range: overflow",
    b"value out of range: underflow",
    b"cannot take square root of a negative number",
    b"cannot take logarithm of zero",
    b"cannot take logarithm of a negative number",
    b"more than one row returned by a subquery used as an expression",
    b"ON CONFLICT DO UPDATE command cannot affect row a second time",
    b"current transaction is aborted, commands ignored until end of transaction block",
    b"canceling statement due to user request",
    b"canceling statement due to statement timeout",
    b"canceling statement due to lock timeout",
    b"canceling statement due to conflict with recovery",
    b"terminating connection due to administrator command",
    b"terminating connection due to idle-in-transaction timeout",
    b"deadlock detected",
    b"could not serialize access due to concurrent update",
    b"could not serialize access due to concurrent delete",
    b"could not serialize access due to read/write dependencies among transactions",
    b"out of shared memory",
    b"out of memory",
    b"there is no unique or exclusion constraint matching the ON CONFLICT specification",
    b"there is already a transaction in progress",
    b"there is no transaction in progress",
    b"syntax error at end of input",
    b"query has no destination for result data",
];

/// Routines of the server whose messages name objects of the catalog and nothing else; values are in the
/// details alone.
const NAME_OBJECTS: &[&[u8]] = &[
    b"_bt_check_unique",
    b"check_exclusion_or_unique_constraint",
    b"ri_ReportViolation",
    b"ExecConstraints",
    b"ReportNotNullViolationError",
    b"ExecWithCheckOptions",
    b"ExecFindPartition",
    b"ExecEvalConstraintCheck",
    b"ExecEvalConstraintNotNull",
    b"ATRewriteTable",
    b"comparetup_index_btree",
    b"comparetup_index_btree_tiebreak",
    b"aclcheck_error",
    b"aclcheck_error_col",
];

/// Routines that complain of a statement's text before it runs. They quote it.
const QUOTE_THE_TEXT: &[&[u8]] = &[
    b"scanner_yyerror",
    b"parserOpenTable",
    b"errorMissingColumn",
    b"errorMissingRTE",
    b"ParseFuncOrColumn",
    b"op_error",
    b"checkInsertTargets",
    b"check_ungrouped_columns_walker",
    b"transformColumnRef",
    b"colNameToVar",
    b"RangeVarGetRelidExtended",
    b"LookupExplicitNamespace",
    b"get_namespace_oid",
    b"FetchPreparedStatement",
    b"StorePreparedStatement",
    b"PerformCursorOpen",
    b"PerformPortalFetch",
    b"CreatePortal",
];

/// Classes of SQLSTATE whose details quote rows.
const DATA: [&[u8]; 3] = [b"22", b"23", b"44"];

/// What is going on when the server says something.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// It may concern masked columns.
    touching: bool,
    /// What the client has sent, as far as it is known.
    text: Option<Arc<str>>,
}

impl Core {
    /// What the server is at. Without a statement, a function may have been started by anything.
    pub(super) fn context(&mut self) -> Context {
        if !self.flow.masks().has_columns() && !self.flow.record_masks().has_columns() {
            return Context::default();
        }
        let Some(front) = self.pending.front() else { return Context::default() };
        let all = |touching| Context { touching, text: None };
        match &front.what {
            // Nothing runs.
            What::Parse(_)
            | What::DescribeStatement(_)
            | What::DescribePortal { .. }
            | What::CloseStatement { .. }
            | What::ClosePortal { .. }
            | What::CopyData
            | What::CopyEnd
            | What::Catalog
            | What::Own { .. } => all(false),
            // Only functions that read no tables pass.
            What::Function => all(false),
            // What was deferred runs at a transaction's end.
            What::Sync => all(true),
            What::Bind(portal) => {
                let portal = Arc::clone(portal);
                let touching = portal.unknown
                    || portal.statements.is_empty()
                    || portal.statements.iter().any(|prepared| self.touches(prepared));
                Context { touching, text: portal.statements.first().map(|one| Arc::clone(&one.text)) }
            }
            What::Query | What::Execute => {
                let Some(run) = front.run.take() else { return all(true) };
                let touching = run.unknown
                    || run.statements.is_empty()
                    || run.statements.iter().any(|prepared| self.touches(prepared));
                let text = run.statements.first().map(|one| Arc::clone(&one.text));
                if let Some(front) = self.pending.front() {
                    front.run = Some(run);
                }
                Context { touching, text }
            }
        }
    }

    /// Any of its statements may read masked columns, or bring up what earlier ones have deferred.
    fn touches(&self, prepared: &super::statements::Prepared) -> bool {
        const DEFERRED: [Kind; 3] = [Kind::Commit, Kind::PrepareTransaction, Kind::SetConstraints];
        let Some(catalog) = &self.catalog else { return true };
        (0..prepared.script.statements.len()).any(|index| {
            let running = self.names.running_one(prepared, index);
            running.unknown
                || running.statements.iter().any(|statement| {
                    catalog.touches(statement)
                        || self.unsure_of(statement)
                        || DEFERRED.iter().any(|kind| statement.kinds.contains(kind))
                })
        })
    }

    pub(super) fn notice(&mut self, body: &[u8]) -> Verdict {
        let context = self.context();
        let replaced = self.replace_notice(b'N', body, &context);
        let recorded = self.recorded_notice(body, &context, replaced);
        let field = |wanted| codec::notice_fields(&recorded).find(|&(code, _)| code == wanted);
        let text = |wanted| field(wanted).map(|(_, text)| text).unwrap_or_default();
        self.log.notice(text(b'V'), text(b'C'), &lossy(text(b'M')));
        if replaced.is_some() { Verdict::Drop } else { Verdict::Pass }
    }

    /// Masks a notice or error into the scratch buffer; gives where it begins there.
    pub(super) fn replace_notice(&mut self, tag: u8, body: &[u8], context: &Context) -> Option<usize> {
        let start = self.scratch.len();
        let masks = Arc::clone(self.flow.masks());
        mask_notice(&masks, tag, body, context, &mut self.scratch).then_some(start)
    }

    /// The body of a notice or error as it may be recorded, once it is masked for the client.
    pub(super) fn recorded_notice(&self, body: &[u8], context: &Context, replaced: Option<usize>) -> Vec<u8> {
        let shown = replaced.and_then(|start| self.scratch.get(start + HEADER..)).unwrap_or(body);
        let masks = self.flow.record_masks();
        let mut recorded = Vec::new();
        if !Arc::ptr_eq(masks, self.flow.masks()) && mask_notice(masks, b'N', shown, context, &mut recorded) {
            recorded.drain(..HEADER);
            return recorded;
        }
        shown.to_vec()
    }

    /// A setting that the server reports. Those that can hold any text are masked.
    pub(super) fn parameter_status(&mut self, body: &[u8]) -> Result<Verdict, CodecError> {
        const FREE: &[&[u8]] = &[b"application_name", b"search_path", b"TimeZone", b"session_authorization"];
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let value = reader.cstr()?;
        self.lexing.reported(name, value);
        if self.phase == super::Phase::Login {
            if name == b"server_version"
                && let Some(login) = &mut self.login
            {
                login.server_version = lossy(value).into_owned();
            }
            return Ok(Verdict::Pass);
        }
        if !FREE.contains(&name) {
            return Ok(Verdict::Pass);
        }
        let masks = Arc::clone(self.flow.masks());
        let mut masked = Vec::new();
        if self.opaque && masks.has_columns() {
            masked.extend_from_slice(REDACTED.as_bytes());
        } else if !masks.detect(value, &mut masked, &mut self.fired) {
            return Ok(Verdict::Pass);
        }
        codec::put_message(&mut self.scratch, b'S', |out| {
            codec::put_cstr(out, name);
            codec::put_cstr(out, &masked);
        });
        Ok(Verdict::Drop)
    }

    pub(super) fn notification(&mut self, body: &[u8]) -> Verdict {
        let masks = Arc::clone(self.flow.masks());
        let mut reader = Reader::new(body);
        let (Ok(process), Ok(channel), Ok(payload)) = (reader.i32(), reader.cstr(), reader.cstr()) else {
            return Verdict::Pass;
        };
        // The session's own code may have put anything into it.
        let own = self.opaque && masks.has_columns() && process == self.process;
        let mut masked = |text: &[u8], redact: bool| {
            let mut out = Vec::new();
            if redact && !text.is_empty() {
                Some(Vec::from(REDACTED))
            } else {
                masks.detect(text, &mut out, &mut self.fired).then_some(out)
            }
        };
        let (to, what) = (masked(channel, own), masked(payload, own));
        if to.is_none() && what.is_none() {
            return Verdict::Pass;
        }
        codec::put_message(&mut self.scratch, b'A', |out| {
            out.extend_from_slice(&process.to_be_bytes());
            codec::put_cstr(out, to.as_deref().unwrap_or(channel));
            codec::put_cstr(out, what.as_deref().unwrap_or(payload));
        });
        Verdict::Drop
    }
}

/// The server's parser has rejected the text that the client sent, all of it.
pub(super) fn is_syntax_error(body: &[u8]) -> bool {
    let is = |wanted: u8, text: &[u8]| codec::notice_fields(body).any(|field| field == (wanted, text));
    let within = codec::notice_fields(body).any(|(code, _)| matches!(code, b'q' | b'W'));
    is(b'C', b"42601") && is(b'R', b"scanner_yyerror") && !within
}

/// What may be left of a message.
struct Left {
    /// Its primary text, or how much of it.
    message: Option<Vec<u8>>,
    /// Its hint and detail, as far as they quote nothing.
    details: bool,
    /// The names of table, column and the like.
    objects: bool,
    /// Its SQLSTATE.
    state: bool,
}

fn left(body: &[u8], context: &Context) -> Left {
    let field =
        |wanted: u8| codec::notice_fields(body).find(|&(code, _)| code == wanted).map(|(_, text)| text);
    let (message, routine) = (field(b'M').unwrap_or_default(), field(b'R').unwrap_or_default());
    let state = field(b'C').unwrap_or_default();
    let text = context.text.as_deref().unwrap_or_default();
    let raised = routine == b"exec_stmt_raise";
    let kept = Left { message: Some(message.to_vec()), details: true, objects: true, state: true };
    if NAME_OBJECTS.contains(&routine) {
        return kept;
    }
    // Text that code puts together and runs is quoted with where it stands.
    let top = field(b'q').is_none() && field(b'W').is_none();
    if top && QUOTE_THE_TEXT.contains(&routine) && quotes_only(message, text) {
        return kept;
    }
    let message = if CONSTANT.contains(&message) {
        Some(message.to_vec())
    } else if raised {
        None
    } else {
        type_named(message)
    };
    let state = !raised || std::str::from_utf8(state).is_ok_and(|state| text.contains(state));
    Left { message, details: false, objects: false, state }
}

/// All that `message` quotes stands in `text`.
fn quotes_only(message: &[u8], text: &str) -> bool {
    let Ok(message) = std::str::from_utf8(message) else { return false };
    let text = text.to_lowercase();
    message.split('"').skip(1).step_by(2).all(|quoted| text.contains(&quoted.to_lowercase()))
}

/// `invalid input syntax for type integer: "Ann"` up to the type's name.
fn type_named(message: &[u8]) -> Option<Vec<u8>> {
    let rest = message.strip_prefix(b"invalid input syntax for type ")?;
    let name = rest.split(|&byte| byte == b':').next()?;
    let plain = name.len() < 40 && name.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b' ');
    plain.then(|| [b"invalid input syntax for type ", name, b": ", REDACTED.as_bytes()].concat())
}

/// Masks the texts of an error or notice; appends the message to `out`, `false` when it stays.
fn mask_notice(masks: &MaskSet, tag: u8, body: &[u8], context: &Context, out: &mut Vec<u8>) -> bool {
    if masks.is_empty() {
        return false;
    }
    let state = codec::notice_fields(body).find(|&(code, _)| code == b'C').map(|(_, text)| text);
    // Errors about data quote the data.
    let quotes =
        masks.has_columns() && state.is_some_and(|state| DATA.iter().any(|class| state.starts_with(class)));
    let left = (context.touching && masks.has_columns()).then(|| left(body, context));
    let start = out.len();
    let mut changed = false;
    codec::put_message(out, tag, |out| {
        for (code, text) in codec::notice_fields(body) {
            out.push(code);
            let redacted = || Some(Vec::from(REDACTED));
            let replaced = match (&left, code) {
                (Some(left), b'M') => left.message.clone().or_else(redacted),
                (Some(left), b'D' | b'H') if !left.details => redacted(),
                (Some(left), b's' | b't' | b'c' | b'd' | b'n') if !left.objects => redacted(),
                (Some(_), b'D') => Some(without_quotes(text)),
                (Some(_), b'W' | b'q') => redacted(),
                (Some(left), b'C') if !left.state => Some(state_of(tag, body).to_vec()),
                (_, b'D') if quotes => Some(without_quotes(text)),
                _ => None,
            };
            let replaced = replaced.filter(|replaced| *replaced != text);
            changed |= replaced.is_some();
            let text = replaced.as_deref().unwrap_or(text);
            let before = out.len();
            if matches!(code, b'M' | b'D' | b'H' | b'W' | b'q' | b's' | b't' | b'c' | b'd' | b'n')
                && masks.detect(text, out, &mut Fired::default())
            {
                changed = true;
                out.push(0);
            } else {
                out.truncate(before);
                codec::put_cstr(out, text);
            }
        }
        out.push(0);
    });
    if !changed {
        out.truncate(start);
    }
    changed
}

/// The SQLSTATE that RAISE gives when it is told none.
fn state_of(tag: u8, body: &[u8]) -> &'static [u8] {
    let severity = codec::notice_fields(body).find(|&(code, _)| code == b'V').map(|(_, text)| text);
    match (tag, severity) {
        (_, Some(b"ERROR")) | (b'E', _) => b"P0001",
        (_, Some(b"WARNING")) => b"01000",
        _ => b"00000",
    }
}

/// A message up to where it begins to quote: `Key (email)=(…)`.
fn without_quotes(text: &[u8]) -> Vec<u8> {
    let end = text.iter().position(|byte| matches!(byte, b'"' | b'(' | b':') || *byte >= 0x80);
    match end {
        None => text.to_vec(),
        Some(end) => {
            [text.get(..end).unwrap_or_default().trim_ascii_end(), b" ", REDACTED.as_bytes()].concat()
        }
    }
}
