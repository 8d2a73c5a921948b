//! Files to checked rules to decisions.
//!
//! [`PolicySet::load`] reads a directory all or nothing; [`PolicySet::flow`] narrows it to what
//! concerns one flow; [`FlowPolicy::decide`] gives the verdict on one operation. [`PolicyStore`] holds
//! the set that is in force and replaces it when the files change.
//!
//! Matching is cautious. What a statement's text alone leaves open (which schema an unqualified table
//! is of, which table a column) *may* match: rules that refuse apply then, rules that allow do not.

mod approval;
mod central;
mod check;
pub mod cli;

mod decide;
mod decode;
mod explain;
mod facts;
mod file;
mod hosts;
mod load;
mod origin;
mod pattern;
mod problem;
mod read;
mod rule;
mod schedule;
mod schema;
mod select;
mod selector;
mod set;
mod show;
mod store;
mod tests_file;
mod values;
mod when;
mod who;
mod yaml;

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Protocol};
use crate::sql::{Class, Kind, Limit, Script, Statement};

pub use approval::{Quorum, Scope, Terms, Way};
pub use central::{Accepts, CentralError, CentralStatus};
pub(crate) use central::{Candidate, Central, Offer, Offered, Refused};
pub use check::check;
pub use decide::{
    DEFAULT_RULE, Decision, EGRESS_RULE, FlowPolicy, IDENTITY_RULE, Observed, REPLICATION_RULE,
};

pub use explain::{Asker, Explained, Explanation, explain, split, subject};
pub use hosts::Hosts;
pub use load::parse_str;
pub use origin::Origin;
pub(crate) use origin::PolicyFile;
pub use problem::{PolicyErrors, Position, Problem, Severity};

pub use schema::schema;
pub(crate) use selector::{DestinationSelector, Meant, NameSelector, ProcessSelector};
pub use set::PolicySet;
pub use store::{PolicyStore, StoreError, Watcher};
pub use tests_file::{CaseResult, Difference, TestReport, run_tests};

/// What is to happen to an operation. Ordered: the greater beats the lesser.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It goes to the server.
    Allow,
    /// It waits until people whom the rule names approve it.
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
    /// The policies take it in without naming a protocol: the client's first bytes tell it. What is no
    /// protocol that the proxy knows is treated as an egress connection.
    Detect(Egress),
    /// No destination takes it in.
    Egress(Egress),
}

/// What becomes of TLS on a flow. Ordered: the greater beats the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsTreatment {
    /// It is passed on and recorded as not inspected.
    Passthrough,
    /// It is ended and read where the protocol in it is known. Else it is recorded as not inspected, and
    /// refused or passed on as the flow would be without TLS.
    #[default]
    WhereKnown,
    /// It is ended and read, or refused.
    Intercept,
    /// It is refused.
    Deny,
}

/// Names one process entry of the policies for good: a digest of its keys. The same entry keeps its
/// id over reloads and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub [u8; 16]);

/// A harmless operation, to try expressions on.
fn sample_operation() -> Operation {
    let text = "SELECT 1";
    let statement = Statement {
        text: text.to_owned(),
        kind: Kind::Select,
        kinds: [Kind::Select].into(),
        classes: [Class::Read].into(),
        limit: Some(Limit::Missing),
        ..Statement::default()
    };
    Operation {
        protocol: Protocol::Postgres,
        user: "user".into(),
        database: "database".into(),
        text: text.into(),
        script: Arc::new(Script { statements: vec![statement] }),
        params: Arc::default(),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_central;
#[cfg(test)]
mod tests_identity;
#[cfg(test)]
mod tests_statements;
#[cfg(test)]
mod tests_tools;
