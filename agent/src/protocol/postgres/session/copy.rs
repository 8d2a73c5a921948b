//! COPY to the client: its rows are masked as they come, however they are cut into messages.

use std::sync::Arc;

use super::Core;
use super::backend::{Verdict, malformed};
use super::pending::{Desync, What};
use crate::mask::copy::CopyMasker;
use crate::protocol::SessionError;
use crate::protocol::postgres::codec::{self, Header};

impl Core {
    /// COPY to the client begins.
    pub(super) fn copy_out(&mut self) -> Result<(), SessionError> {
        let masks = Arc::clone(self.flow.masks());
        if masks.is_empty() {
            return Ok(());
        }
        let run = self.pending.front().and_then(|front| front.run.take()).ok_or(Desync { tag: b'H' })?;
        let running = self.running(&run).statements;
        let mut copies = running.into_iter().filter(|statement| statement.copy.is_some());
        let masker = match (copies.next(), copies.next()) {
            (Some(statement), None) => {
                let unsure = masks.has_columns() && self.unsure_of(statement);
                let columns =
                    self.copy_columns(statement, unsure).map_err(|refusal| malformed(refusal.message))?;
                let concerns = masks.has_detectors() || columns.iter().any(|column| column.mask.is_some());
                statement.copy.as_ref().filter(|_| concerns).map(|copy| CopyMasker::new(masks, copy, columns))
            }
            _ => {
                return Err(malformed(
                    "which COPY the server answers cannot be told, so it cannot be masked",
                ));
            }
        };
        drop(copies);
        if masker.is_some() && self.lexing.splits_letters() {
            return Err(malformed(
                "COPY data in an encoding whose letters hold bytes of ASCII cannot be masked: set \
                 client_encoding to UTF8 before the transaction",
            ));
        }
        self.copying = masker.map(Box::new);
        if let Some(front) = self.pending.front() {
            front.run = Some(run);
        }
        Ok(())
    }

    pub(super) fn copy_data(&mut self, header: Header, body: &[u8]) -> Result<Verdict, SessionError> {
        let front = self.pending.front().ok_or(Desync { tag: b'd' })?;
        if !matches!(front.what, What::Query | What::Execute) {
            return Err(Desync { tag: b'd' }.into());
        }
        let Some(masker) = &mut self.copying else {
            if let Some(run) = &mut front.run {
                run.copied = (run.copied.0 + 1, run.copied.1 + header.body as u64);
            }
            return Ok(Verdict::Pass);
        };
        if body.len() < header.body {
            if header.body > self.limits.row {
                return Err(malformed("a row of COPY data is longer than can be masked"));
            }
            return Ok(Verdict::NeedMore);
        }
        if let Some(run) = &mut front.run {
            run.copied = (run.copied.0 + 1, run.copied.1 + header.body as u64);
        }
        self.cell.clear();
        masker.push(body, &mut self.cell, &mut self.fired).map_err(malformed)?;
        if self.cell == body {
            return Ok(Verdict::Pass);
        }
        self.put_copy_data();
        Ok(Verdict::Drop)
    }

    fn put_copy_data(&mut self) {
        if !self.cell.is_empty() {
            let cell = &self.cell;
            codec::put_message(&mut self.scratch, b'd', |out| out.extend_from_slice(cell));
        }
        self.cell.clear();
    }

    pub(super) fn copy_done(&mut self) -> Result<Verdict, SessionError> {
        let Some(mut masker) = self.copying.take() else { return Ok(Verdict::Pass) };
        self.cell.clear();
        masker.finish(&mut self.cell, &mut self.fired).map_err(malformed)?;
        // It goes before the CopyDone, which passes.
        self.put_copy_data();
        Ok(Verdict::Pass)
    }
}
