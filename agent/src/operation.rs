//! The protocol-neutral description of one thing a client asks for. It is what policies match.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::sql::Script;

/// A wire protocol that the agent can decode.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// PostgreSQL's frontend/backend protocol, version 3.
    Postgres,
}

impl Protocol {
    /// Its word in policies and recordings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
        }
    }
}

/// One thing a client asks for.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The protocol it came by.
    pub protocol: Protocol,
    /// The user that the client logged in as.
    pub user: Arc<str>,
    /// The database that the client logged in to.
    pub database: Arc<str>,
    /// The client's own words: for SQL the statement's text as sent.
    pub text: Arc<str>,
    /// What the text does. Requests that are not SQL text (function call, replication, cancel) are
    /// scripts of one statement of their own kind.
    pub script: Arc<Script>,
    /// Bind parameters in text form, in order; `None` is SQL NULL. Empty when there are none, or
    /// when the statement is judged before they are known (at Parse).
    pub params: Arc<[Option<String>]>,
}
