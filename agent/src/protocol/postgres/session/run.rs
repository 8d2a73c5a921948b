//! A command in flight: what its results belong to.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::masking::RowPlan;
use super::statements::Prepared;
use crate::record::CommandId;

/// The plan for a portal's rows, once the server has described them.
pub(super) type Described = Arc<OnceLock<Arc<RowPlan>>>;

/// One Query, Execute or FunctionCall whose results are coming back.
#[derive(Debug)]
pub(super) struct Run {
    /// The recorded command.
    pub(super) command: Option<CommandId>,
    /// When it was decided on.
    pub(super) since: Instant,
    /// What runs: a Query's own text; of an Execute what its portal may run.
    pub(super) statements: Vec<Arc<Prepared>>,
    /// For an Execute: those of its parameters that are secrets.
    pub(super) given: Vec<String>,
    /// For an Execute: it may run something else.
    pub(super) unknown: bool,
    /// For an Execute: what its portal's description, which comes before its rows, makes of them.
    pub(super) plan: Described,
    /// Which statement of a Query is running.
    pub(super) index: usize,
    /// COPY data of the running statement: messages and bytes.
    pub(super) copied: (u64, u64),
}

impl Run {
    /// The secrets that what runs was given, in its text and as parameters: answers may repeat them.
    pub(super) fn secrets(&self) -> Vec<String> {
        let stated = self.statements.iter().flat_map(|prepared| prepared.secrets.words(&prepared.text));
        stated.map(str::to_owned).chain(self.given.iter().cloned()).collect()
    }

    pub(super) fn new(command: Option<CommandId>) -> Self {
        Self {
            command,
            since: Instant::now(),
            statements: Vec::new(),
            given: Vec::new(),
            unknown: false,
            plan: Described::default(),
            index: 0,
            copied: (0, 0),
        }
    }
}
