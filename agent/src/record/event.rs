//! What the stages hand to the recorder. Everything here is borrowed: nothing is copied but into the
//! recording. Whatever is masked must be masked before it is put in here.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::approval::{self, Shown};
use crate::identity::Subject;
use crate::operation::Operation;
use crate::policy::{Decision, Destination, Egress, EntryId, Terms};
use crate::tls::{Certificate, Leg};

/// A flow begins: the first event of its session.
#[derive(Debug, Clone, Copy)]
pub struct FlowStart<'a> {
    /// Who is behind it.
    pub subject: &'a Subject,
    /// The client's own address.
    pub client: SocketAddr,
    /// Where the client meant to go.
    pub destination: &'a Destination,
    /// The protocol that the proxy speaks on it, by its word in policies; `tls` where TLS is passed on and
    /// nobody knows what is in it.
    pub protocol: &'a str,
    /// [`PolicySet::hash`](crate::policy::PolicySet::hash) of the policies it is judged under.
    pub policy_hash: &'a str,
    /// The process entries that took the process in.
    pub entries: &'a [EntryId],
}

/// A token was shown by a process that it is not for.
#[derive(Debug, Clone)]
pub struct TokenRefused<'a> {
    /// Who showed it.
    pub subject: &'a Subject,
    /// What agent.yaml calls its issuer.
    pub issuer_name: &'a str,
    /// Tells it from other tokens.
    pub token_hash: &'a str,
    /// Why it does not count.
    pub reason: String,
    /// The process at the top of the tree that it is bound to.
    pub owner_pid: u32,
    /// Its user.
    pub owner_uid: u32,
    /// The host that had it first, where it is another one.
    pub other_host: Option<&'a crate::identity::workload::OtherHost>,
}

/// The client has logged in, as what it asked for. There is no place for passwords.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// The database user.
    pub user: &'a str,
    /// The database.
    pub database: &'a str,
    /// The startup parameters, masked, in the order sent.
    pub parameters: &'a [(&'a str, &'a str)],
    /// How the server had the client prove itself: `trust`, `cleartext`, `md5`, `scram-sha-256` …
    pub auth_method: &'a str,
    /// The server's version as it reports it; empty when it does not.
    pub server_version: &'a str,
    /// How the client's leg is encrypted, if it is.
    pub client_tls: Option<&'a Leg>,
    /// How the server's leg is encrypted, if it is.
    pub server_tls: Option<&'a Leg>,
    /// How the agent logged in for the client; `None` where the client's own log-in passed through.
    pub brokered: Option<BrokeredLogin<'a>>,
}

/// What was seen of TLS that is passed on as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsPassed {
    /// `client` or `server`: whose message it was.
    pub side: &'static str,
    /// The newest version that the client offers, or the one that the server chose; may be empty.
    pub version: &'static str,
    /// The host name that the client asks for; may be empty.
    pub server_name: String,
    /// The protocols that the client offers.
    pub alpn: Vec<String>,
    /// The server's certificate, if it could be seen.
    pub certificate: Option<Certificate>,
    /// What could not be seen, and why; may be empty.
    pub note: &'static str,
}

/// The agent has logged in with a credential of its own.
#[derive(Debug, Clone, Copy)]
pub struct BrokeredLogin<'a> {
    /// The credential's name.
    pub credential: &'a str,
    /// What the client had to show: `any` (nothing), `scram-sha-256`, `scram-sha-256-plus`.
    pub client_auth: &'a str,
    /// The database user that the agent logged in as.
    pub user: &'a str,
    /// The database that it logged in to.
    pub database: &'a str,
}

/// The protocol step that a command is. What a statement *does* is in its [`Operation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A simple query.
    Query,
    /// A statement is prepared (Parse).
    Prepare,
    /// Parameters are bound to a prepared statement (Bind).
    Bind,
    /// A portal is run (Execute).
    Execute,
    /// The protocol's function call.
    FunctionCall,
    /// A connection in replication mode, or a command on it.
    Replication,
    /// A request to cancel another connection's command.
    Cancel,
}

/// One thing that the client asked for, and the verdict on it.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The protocol step.
    pub step: Step,
    /// The exact text, masked. For a step that refers to an earlier text (Bind, Execute) it may be
    /// empty when `of` names the command that holds it.
    pub text: &'a str,
    /// The prepared statement's name; empty for the unnamed one and where there is none.
    pub statement: &'a str,
    /// The portal's name; empty for the unnamed one and where there is none.
    pub portal: &'a str,
    /// Bind parameters in text form, masked; `None` is SQL NULL.
    pub params: &'a [Option<String>],
    /// The command of this session that this one goes on with: the Prepare of a Bind, the Bind of an
    /// Execute.
    pub of: Option<CommandId>,
    /// What it does: recorded as a summary of each statement. The operation's own text and parameters
    /// are not recorded (they are not masked). `None` where another command of the session (`of`) says it.
    pub operation: Option<&'a Operation>,
    /// The verdict, and why.
    pub decision: &'a Decision,
    /// Where a rule held it: how that ended.
    pub approval: Option<&'a Approval>,
}

/// How the holding of a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The request's name.
    pub request: String,
    /// `approved`, `broken_glass`, `denied`, `expired` or `withdrawn`.
    pub outcome: &'static str,
    /// Who approved, refused, or broke the glass.
    pub by: Vec<Arc<str>>,
    /// `once`, `shape` or `session`; empty where it did not go on.
    pub scope: &'static str,
    /// It was given for an earlier command.
    pub earlier: bool,
    /// It was asked for before the command was sent.
    pub beforehand: bool,
}

/// A command is held: what people are asked to approve.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalRequested<'a> {
    /// The request's name.
    pub request: &'a str,
    /// What they see, masked.
    pub shown: &'a Shown,
    /// SHA-256 over the whole operation.
    pub digest: &'a [u8; 32],
    /// What has to be fulfilled.
    pub terms: &'a Terms,
}

/// Approval is asked for before the command is sent.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalAsked<'a> {
    /// What people are asked to approve.
    pub request: ApprovalRequested<'a>,
    /// Who asks.
    pub subject: &'a Subject,
    /// Where the command would go.
    pub destination: &'a Destination,
    /// Why, in the asker's own words, masked.
    pub reason: &'a str,
    /// For how long after its approval it can be used.
    pub usable: Duration,
    /// Whose descendants may use it: a process id, and when that was started, in nanoseconds since boot.
    pub tree: (u32, u64),
    /// The program that will send it, by the asker's word.
    pub program: Option<&'a Path>,
}

/// Somebody has asked what the policies say of a command.
#[derive(Debug, Clone, Copy)]
pub struct PolicyExplained<'a> {
    /// Who.
    pub subject: &'a Subject,
    /// The program that would send it, by their word.
    pub program: Option<&'a Path>,
    /// Where the command would go.
    pub destination: &'a Destination,
    /// The database.
    pub database: &'a str,
    /// The database user.
    pub db_user: &'a str,
    /// The text, masked.
    pub text: &'a str,
    /// What was answered: a verdict, `not_read` or `refused`.
    pub verdict: &'a str,
    /// The deciding rule; may be empty.
    pub rule: &'a str,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalDecided<'a> {
    /// The request's name.
    pub request: &'a str,
    /// How.
    pub outcome: &'a approval::Outcome,
    /// How long the command waited.
    pub waited: Duration,
}

/// Names a command within its session: 1, 2, 3 … in the order sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<'a> {
    /// The server carried it out, with this command tag (`SELECT 3`; empty where the protocol has none).
    Complete(&'a str),
    /// The server reported an error.
    Error {
        /// The SQLSTATE.
        sqlstate: &'a str,
        /// The message, masked.
        message: &'a str,
    },
    /// The agent refused it; it did not reach the server.
    Refused {
        /// The SQLSTATE that the client got.
        sqlstate: &'a str,
        /// The message that the client got.
        message: &'a str,
    },
    /// The portal was suspended at its row limit; another Execute goes on with it.
    Suspended,
    /// The server skipped it, because an earlier command of the pipeline failed.
    Skipped,
}

/// A command's result, without its rows.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// Of which command.
    pub command: CommandId,
    /// How it ended.
    pub status: Status<'a>,
    /// From forwarding it until its end.
    pub duration: Duration,
}

/// What travelled in a COPY.
#[derive(Debug, Clone, Copy)]
pub struct CopyData {
    /// Of which command.
    pub command: CommandId,
    /// The direction, seen from the server: `true` for COPY … TO STDOUT.
    pub to_client: bool,
    /// CopyData messages.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A notice, or an error that belongs to no command.
#[derive(Debug, Clone, Copy)]
pub struct Notice<'a> {
    /// `ERROR`, `FATAL`, `WARNING`, `NOTICE` … as the protocol names it.
    pub severity: &'a str,
    /// The SQLSTATE; empty when there is none.
    pub sqlstate: &'a str,
    /// The message, masked.
    pub message: &'a str,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The client took its leave (Terminate) or closed the connection.
    ClientClosed,
    /// The server closed the connection.
    ServerClosed,
    /// The server could not be reached.
    ConnectFailed,
    /// The log-in failed.
    LoginFailed,
    /// The agent cut it off by policy.
    Refused,
    /// What was sent is not the protocol.
    ProtocolError,
    /// The recording could not be written.
    RecordingFailed,
    /// The agent is stopping.
    Shutdown,
    /// A reviewer ended it.
    CutOff,
    /// The agent's own error.
    InternalError,
}

/// A session's last event. The recorder adds how many commands there were and how many were refused.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Why.
    pub reason: EndReason,
    /// More on it for a human, masked; may be empty.
    pub detail: &'a str,
    /// Bytes that the client sent.
    pub client_bytes: u64,
    /// Bytes that the server sent.
    pub server_bytes: u64,
}

/// A connection of a designated process that no destination of its policies takes in.
#[derive(Debug, Clone, Copy)]
pub struct EgressConnection<'a> {
    /// Who opened it.
    pub subject: &'a Subject,
    /// Where to.
    pub destination: SocketAddr,
    /// IP protocol number: 6 is TCP, 17 is UDP.
    pub ip_protocol: u8,
    /// What became of it.
    pub verdict: Egress,
    /// The process entry that decided.
    pub entry: Option<EntryId>,
    /// How many such connections this event stands for (repeats may be summed up).
    pub count: u64,
}
