//! Files to checked rules to decisions.
//!
//! [`PolicySet::load`] reads a directory all or nothing; [`PolicySet::flow`] narrows it to what
//! concerns one flow; [`FlowPolicy::decide`] gives the verdict on one operation.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::Subject;
use crate::intercept::Selection;
use crate::mask::MaskSet;
use crate::operation::{Operation, Protocol};

/// What is to happen to an operation. Ordered: the greater beats the lesser.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It goes to the server.
    Allow,
    /// It waits for a human's approval. Until approvals are built it is refused with a message that says so.
    Hold,
    /// It is refused.
    Deny,
}

/// What becomes of a designated process's connection that no destination of its policies takes in.
/// Ordered: the greater beats the lesser.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// It goes its way.
    #[default]
    Allow,
    /// It goes its way and is recorded.
    Record,
    /// It is refused and recorded.
    Deny,
}

/// The verdict on one operation, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What happens to it. In observe mode this is what would have happened.
    pub verdict: Verdict,
    /// `false` when the deciding rule (or its policy) is in observe mode: the operation goes on.
    pub enforced: bool,
    /// The deciding rule's name; `None` when no rule matched.
    pub rule: Option<Arc<str>>,
    /// The deciding rule's message to the client.
    pub message: Option<Arc<str>>,
    /// Every rule that matched, in order.
    pub matched: Vec<Arc<str>>,
}

impl Decision {
    /// The operation may go to the server.
    pub fn passes(&self) -> bool {
        self.verdict == Verdict::Allow || !self.enforced
    }
}

/// Where a flow goes.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The address that the client connected to.
    pub address: SocketAddr,
    /// Host names from the policies that currently resolve to it.
    pub hosts: Vec<Arc<str>>,
}

/// The protocol and the rules for one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// The proxy speaks this protocol and decides on each operation.
    Intercept(Protocol),
    /// No destination takes it in.
    Egress(Egress),
}

/// Names one process entry of the policies for good: a digest of its keys. The same entry keeps its
/// id over reloads and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub [u8; 16]);

/// All policies of a directory, checked. Immutable: a reload makes a new one.
#[derive(Debug, Default)]
pub struct PolicySet {}

/// What could not be read, each with file, line and column and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("policies")]
pub struct PolicyErrors {}

impl PolicySet {
    /// Reads every `*.yaml` and `*.yml` in `dir`, in name order.
    ///
    /// # Errors
    /// All that is wrong in any file; nothing is taken from any of them then.
    pub fn load(_dir: &Path) -> Result<Self, PolicyErrors> {
        Ok(Self {})
    }

    /// SHA-256 over all files, hex: which policies a decision was made under.
    pub fn hash(&self) -> &str {
        ""
    }

    /// Which processes are designated, and the destinations that the kernel redirects for them.
    pub fn selection(&self) -> Selection {
        Selection::default()
    }

    /// What concerns a flow of `subject`, taken in by these process entries, to `destination`.
    pub fn flow(&self, _entries: &[EntryId], _subject: &Subject, _destination: &Destination) -> FlowPolicy {
        FlowPolicy::default()
    }
}

/// The rules and masks for one flow.
#[derive(Debug, Default)]
pub struct FlowPolicy {}

impl FlowPolicy {
    /// How the flow is to be treated.
    pub fn treatment(&self) -> Treatment {
        Treatment::Egress(Egress::Allow)
    }

    /// Decides on one operation: the strictest of all rules that match any of its statements.
    pub fn decide(&self, _operation: &Operation, _subject: &Subject) -> Decision {
        Decision { verdict: Verdict::Allow, enforced: true, rule: None, message: None, matched: Vec::new() }
    }

    /// The masks that apply to what comes back.
    pub fn masks(&self) -> &Arc<MaskSet> {
        static EMPTY: std::sync::OnceLock<Arc<MaskSet>> = std::sync::OnceLock::new();
        EMPTY.get_or_init(Arc::default)
    }
}
