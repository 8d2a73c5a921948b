//! A command in flight: what its results belong to.

use std::sync::Arc;

use super::statements::{Portal, Prepared};

/// One Query or Execute whose results are coming back.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// What may be running: usually one; of a Query its own text.
    pub(super) statements: Vec<Arc<Prepared>>,
    /// The portal of an Execute.
    pub(super) portal: Option<Arc<Portal>>,
    /// Which statement of a Query is running.
    pub(super) index: usize,
}
