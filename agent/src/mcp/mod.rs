//! `interlock mcp`: a server of the Model Context Protocol for AI agents, over stdio or HTTP.
//!
//! It runs as the user who starts it, and has no right beyond theirs: all that it does is ask the agent over the
//! control socket, which looks at who asks by itself. What it serves is in `tools`.

mod advice;
mod http;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use rmcp::ServiceExt as _;

use crate::config::Config;
use tools::Server;

/// Arguments of `interlock mcp`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --listen it speaks over its standard input and output, as MCP clients start it. An approval \
    is for commands of the process that starts this one, and of what that starts: have the AI agent start it itself."
)]
pub(crate) struct Args {
    /// Serve streamable HTTP there, at the path /mcp, instead of standard input and output.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The file that holds the bearer token which clients have to show. It is made, readable by its owner alone,
    /// where it is missing. The variable INTERLOCK_MCP_TOKEN goes before it.
    #[arg(long, value_name = "FILE", requires = "listen")]
    token_file: Option<PathBuf>,
    /// A host name that clients may reach it by, besides localhost. Without one it listens on loopback addresses
    /// only.
    #[arg(long = "allow-host", value_name = "NAME", requires = "listen")]
    allow_hosts: Vec<String>,
}

/// Runs it until the client leaves, or it is ended.
///
/// # Errors
/// It cannot listen, or there is no token.
pub(crate) fn run(args: Args, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<ExitCode> {
    // The configuration may be readable by root alone.
    let run = match load() {
        Ok(config) => config.run,
        Err(_) if !rustix::process::geteuid().is_root() => Config::default().run,
        Err(error) => return Err(error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let server = Server::new(run);
    let served = runtime.block_on(async {
        match args.listen {
            Some(address) => http::serve(server, address, args.token_file, args.allow_hosts).await,
            None => {
                let running = server.serve(rmcp::transport::stdio()).await;
                // A client that goes before it has said anything has done no wrong.
                match running {
                    Ok(running) => {
                        running.waiting().await.map(drop).context("the client's connection failed")
                    }
                    Err(error) => Err(anyhow::anyhow!("the client does not speak MCP: {error}")),
                }
            }
        }
    });
    // A thread may be reading standard input; nobody waits for it.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}
