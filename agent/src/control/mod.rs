//! The control socket: what the command line asks of the running agent.
//!
//! One request and one answer per connection, each a line of JSON. Who may ask is decided by the
//! peer's credentials as the kernel gives them (`SO_PEERCRED`): root may ask for anything; any user may
//! have a process of its own designated, since that gives no right that the process did not have, and may have
//! a person sign in for its own login session ([`crate::identity::login`]); requests for approval are seen and decided on by whom the policies name ([`crate::approval`]).

mod client;
mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::login::{Brought, Way};
use crate::policy::Scope;

pub use client::{ControlError, ask};
pub use server::{Handler, Peer, Server};

/// The longest request or answer, in bytes.
const MAX_LINE: u64 = 4 << 20;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the agent is.
    Status,
    /// Read the policies again now.
    Reload,
    /// Make the asking process a designated one, under the entries for runs of this name.
    Run {
        /// The name, as in `interlock run --as NAME`.
        name: String,
    },
    /// Begin to sign a person in for the asking process's login session.
    SignIn {
        /// Where, as agent.yaml names it; may be left out where there is one.
        issuer: Option<String>,
        /// How.
        way: Way,
        /// Whoever it is must show anew who they are, though they are signed in at the provider.
        #[serde(default)]
        fresh: bool,
    },
    /// Wait for a sign-in a while; nothing comes back while nobody has signed in.
    SignInWait {
        /// Its name.
        id: String,
    },
    /// What the browser has brought back.
    SignInBrought {
        /// The sign-in's name.
        id: String,
        /// What it is.
        brought: Brought,
    },
    /// End the sign-in that counts for the asking process.
    SignOut,
    /// Who stands behind the asking process.
    Whoami,
    /// List requests for approval that the asker may see.
    Approvals {
        /// Those that were decided as well.
        past: bool,
    },
    /// Show one.
    Approval {
        /// Its name.
        id: String,
    },
    /// Approve one.
    Approve {
        /// Its name.
        id: String,
        /// Why; may be empty.
        reason: String,
        /// What is approved.
        scope: Scope,
        /// A shape for how many seconds; as long as the policy allows when left out.
        seconds: Option<u64>,
    },
    /// Refuse one.
    Deny {
        /// Its name.
        id: String,
        /// Why.
        reason: String,
    },
    /// Let one's own through unapproved.
    BreakGlass {
        /// Its name.
        id: String,
        /// Why.
        reason: String,
    },
    /// What the policies say of a command of the asker's, which is not sent.
    Explain {
        /// The command.
        command: Command,
    },
    /// Ask for approval of a command of the asker's before it is sent.
    AskAhead {
        /// The command.
        command: Command,
        /// Why it is to run, for those who decide.
        reason: String,
    },
    /// How one's own requests for commands that are not sent yet stand: one, or all.
    AskedAhead {
        /// Its name.
        id: Option<String>,
    },
    /// Call one of these off.
    CallOff {
        /// Its name.
        id: String,
    },
}

/// A command that somebody means to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The whole text.
    pub text: String,
    /// Its parameters, in text form; null for NULL.
    #[serde(default)]
    pub params: Vec<Option<String>>,
    /// The server's address and port.
    pub server: SocketAddr,
    /// The database.
    pub database: String,
    /// The database user.
    pub db_user: String,
    /// The time zone that the session is started with; the server's own when left out.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// The program that will send it, by absolute path: designated by that, where policies look at it. By an
    /// approval nothing goes on that another has sent; where none is named, than the asker's own.
    #[serde(default)]
    pub program: Option<PathBuf>,
}

impl Request {
    /// Only root may ask for it.
    fn needs_root(&self) -> bool {
        match self {
            Self::Status | Self::Reload => true,
            // Who may see and decide is a matter of the request's own terms.
            Self::Run { .. }
            | Self::SignIn { .. }
            | Self::SignInWait { .. }
            | Self::SignInBrought { .. }
            | Self::SignOut
            | Self::Whoami
            | Self::Approvals { .. }
            | Self::Approval { .. }
            | Self::Approve { .. }
            | Self::Deny { .. }
            | Self::BreakGlass { .. }
            | Self::Explain { .. }
            | Self::AskAhead { .. }
            | Self::AskedAhead { .. }
            | Self::CallOff { .. } => false,
        }
    }

    /// The command that asks for it.
    fn command(&self) -> &'static str {
        match self {
            Self::Status => "interlock status",
            Self::Reload => "interlock reload",
            Self::Run { .. } => "interlock run",
            Self::SignIn { .. } | Self::SignInWait { .. } | Self::SignInBrought { .. } => "interlock login",
            Self::SignOut => "interlock logout",
            Self::Whoami => "interlock whoami",
            Self::Approvals { .. } => "interlock approvals list",
            Self::Approval { .. } => "interlock approvals show",
            Self::Approve { .. } => "interlock approvals approve",
            Self::Deny { .. } => "interlock approvals deny",
            Self::BreakGlass { .. } => "interlock approvals break-glass",
            Self::Explain { .. } | Self::AskAhead { .. } | Self::AskedAhead { .. } | Self::CallOff { .. } => {
                "interlock mcp"
            }
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done(serde_json::Value),
    /// It was not, and why.
    Refused(String),
}

/// Where the agent with this run directory listens.
pub fn socket_path(run: &Path) -> PathBuf {
    run.join("control.sock")
}
