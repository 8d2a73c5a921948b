//! Logging in for the client, with a credential that the agent holds.

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::login::OPENING;
use super::pipe::Pipe;
use super::refusal;
use crate::credential::{Credential, FlowCredentials};
use crate::protocol::postgres::auth::client::{self, LoginError};
use crate::protocol::postgres::auth::server::{self, ClientError};
use crate::protocol::postgres::auth::{OK, SCRAM_PLUS};
use crate::record::EndReason;

/// What the client has asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The start-up message, whole.
    pub(super) startup: &'a [u8],
    pub(super) user: &'a str,
    pub(super) database: &'a str,
}

/// What is known of the channels that a log-in goes over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Channels<'a> {
    /// `tls-server-end-point` of the client's connection, if it is encrypted.
    pub(super) client: Option<&'a [u8]>,
    /// The same of the server's.
    pub(super) server: Option<&'a [u8]>,
    /// The server's connection is encrypted, and it is known who is at its end.
    pub(super) server_verified: bool,
}

/// How the agent logged in for the client.
#[derive(Debug)]
pub(super) struct Brokered {
    /// The credential's name.
    pub(super) credential: Arc<str>,
    /// What the client has shown: `any`, `scram-sha-256` or `scram-sha-256-plus`.
    pub(super) client_auth: &'static str,
    /// The user that the agent logged in as.
    pub(super) user: String,
    /// The database that it logged in to.
    pub(super) database: String,
    /// How the server had it prove itself.
    pub(super) method: &'static str,
}

/// A connection that the relay can take over.
#[derive(Debug)]
pub(super) struct Begun<S> {
    pub(super) upstream: S,
    /// What goes to the server next.
    pub(super) up: Pipe,
    /// What goes to the client next.
    pub(super) down: Pipe,
    /// None where the client's own log-in passes through.
    pub(super) brokered: Option<Box<Brokered>>,
}

/// The agent is logged in, or the server has said why it serves nobody.
#[derive(Debug)]
struct LoggedIn<S> {
    upstream: S,
    down: Pipe,
    brokered: Brokered,
}

/// The connection is refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// What the client is told; nothing when it has gone.
    pub(super) message: Option<Vec<u8>>,
    /// What is recorded.
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) reason: EndReason,
    /// It is the client's own doing.
    pub(super) by_client: bool,
}

/// The log-in took too long.
#[derive(Debug, thiserror::Error)]
#[error("credential {name:?}: the log-in was not through within {} s", OPENING.as_secs())]
struct Slow {
    name: Arc<str>,
}

/// Begins the connection: logs in for the client where a credential says so, else has the start-up
/// message forwarded as it is. `early` is what the client has sent behind its start-up message;
/// `reconnect` makes another connection to the server.
pub(super) async fn begin<C, S, R>(
    client: &mut C,
    mut early: BytesMut,
    upstream: S,
    credentials: &FlowCredentials,
    asked: Asked<'_>,
    channels: Channels<'_>,
    reconnect: impl Fn() -> R,
) -> Result<Begun<S>, Refused>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
    R: Future<Output = io::Result<S>>,
{
    let credential = credentials.find(asked.user, asked.database);
    let Some(credential) = credential.map_err(|error| Refused::unavailable(&error))? else {
        let mut up = Pipe::with(BytesMut::from(asked.startup));
        up.release(asked.startup.len(), &[], &[]);
        up.append(&early);
        return Ok(Begun { upstream, up, down: Pipe::default(), brokered: None });
    };
    let logging_in = log_in(client, &mut early, upstream, credential, asked, channels, reconnect);
    match tokio::time::timeout(OPENING, logging_in).await {
        Ok(Ok(LoggedIn { upstream, down, brokered })) => {
            Ok(Begun { upstream, up: Pipe::with(early), down, brokered: Some(Box::new(brokered)) })
        }
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(Refused::unavailable(&Slow { name: Arc::clone(credential.name()) })),
    }
}

/// Logs in with `credential`, after the client has shown what that asks for.
async fn log_in<C, S, R>(
    client: &mut C,
    early: &mut BytesMut,
    mut upstream: S,
    credential: &Credential,
    asked: Asked<'_>,
    channels: Channels<'_>,
    reconnect: impl Fn() -> R,
) -> Result<LoggedIn<S>, Refused>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
    R: Future<Output = io::Result<S>>,
{
    let mut login = credential.login().await.map_err(|error| Refused::unavailable(&error))?;
    let database = credential.database(asked.database);
    let verifier = credential.verifier(asked.user);
    let mut client_auth = None;
    let mut down = Pipe::default();
    let mut retried = false;
    loop {
        let startup = client::rewrite_startup(asked.startup, &login.user, database);
        let mut input = BytesMut::with_capacity(1024);
        let attempt = match client::greet(&mut upstream, &mut input, &startup).await {
            Ok(greeting) => {
                if client_auth.is_none() {
                    // The client expects this before it is asked for anything.
                    client.write_all(&greeting.negotiation).await.map_err(Refused::gone)?;
                    client_auth = Some(match &verifier {
                        None => "any",
                        Some(verifier) => {
                            server::authenticate(client, early, asked.user, verifier, channels.client)
                                .await
                                .map(|mechanism| match mechanism {
                                    SCRAM_PLUS => "scram-sha-256-plus",
                                    _ => "scram-sha-256",
                                })
                                .map_err(|error| Refused::client(&error))?
                        }
                    });
                }
                client::log_in(
                    &mut upstream,
                    &mut input,
                    greeting,
                    &login,
                    credential.server_auth(),
                    channels.server,
                    channels.server_verified,
                )
                .await
            }
            Err(error) => Err(error),
        };
        let method = match attempt {
            Ok(method) => {
                down.insert(&OK);
                down.append(&input);
                method
            }
            Err(LoginError::Refused(error)) if error.is_about_the_login() => {
                let next = if retried { Ok(None) } else { credential.login_after(&login).await };
                match next {
                    Ok(Some(next)) => {
                        // The password was changed, and the source knows it already.
                        login = next;
                        retried = true;
                        upstream =
                            reconnect().await.map_err(|error| Refused::server(credential, &error.into()))?;
                        continue;
                    }
                    Ok(None) => return Err(Refused::server(credential, &LoginError::Refused(error))),
                    Err(source) => return Err(Refused::unavailable(&source)),
                }
            }
            // Too many connections, starting up …: the server's own words are the client's to see.
            Err(LoginError::Refused(error)) => {
                down.append(&error.into_bytes());
                "none"
            }
            Err(error) => return Err(Refused::server(credential, &error)),
        };
        let brokered = Brokered {
            credential: Arc::clone(credential.name()),
            client_auth: client_auth.unwrap_or("none"),
            user: login.user.clone(),
            database: database.to_owned(),
            method,
        };
        return Ok(LoggedIn { upstream, down, brokered });
    }
}

impl Refused {
    /// The secret cannot be had. Nothing else is tried in its place.
    fn unavailable(error: &dyn std::error::Error) -> Self {
        let detail = error.to_string();
        let hint = "The agent on this host logs in for this program. Its log has the details.";
        Self {
            message: Some(refusal::fatal("57P03", &detail, hint)),
            code: "57P03".to_owned(),
            detail,
            reason: EndReason::LoginFailed,
            by_client: false,
        }
    }

    /// The server and the agent do not come together.
    fn server(credential: &Credential, error: &LoginError) -> Self {
        let code = match error {
            LoginError::Read(_) | LoginError::Io(_) => "08006",
            LoginError::Exchange(_) => "08P01",
            LoginError::Refused(_) | LoginError::NotAllowed(_) => "28000",
        };
        let detail = format!("credential {:?}: {error}", credential.name());
        let hint = "The agent on this host logs in for this program. See its `credentials:` and the \
                    server's roles and pg_hba.conf.";
        Self {
            message: Some(refusal::fatal(code, &detail, hint)),
            code: code.to_owned(),
            detail,
            reason: EndReason::LoginFailed,
            by_client: false,
        }
    }

    /// The client has not shown what it must.
    fn client(error: &ClientError) -> Self {
        let code = match error {
            ClientError::Refused { code, .. } => code,
            ClientError::Read(_) | ClientError::Io(_) => "08P01",
        };
        let message = error.response();
        Self {
            reason: if message.is_some() { EndReason::LoginFailed } else { EndReason::ClientClosed },
            message,
            code: code.to_owned(),
            detail: error.to_string(),
            by_client: true,
        }
    }

    fn gone(error: io::Error) -> Self {
        Self::client(&ClientError::Io(error))
    }
}
