//! A server, an agent, and a cgroup whose processes are designated: what most tests need.

use anyhow::Result;

use crate::client::{self, Client};
use crate::process::{Finished, LIMIT, finish};
use crate::{Agent, Cgroup, Postgres};

/// One PostgreSQL server with an agent before it.
#[derive(Debug)]
pub struct Stage {
    /// Designated: processes in it are taken by the policies.
    pub clients: Cgroup,
    /// The agent.
    pub agent: Agent,
    /// The server.
    pub postgres: Postgres,
}

impl Stage {
    /// Starts all of it. `rules` is the policy from `rules:` on (or `masks:`, `mode:` …); that the
    /// processes in [`Stage::clients`] are designated and which server is meant stands before it.
    ///
    /// # Errors
    /// Server or agent does not start.
    pub fn start(rules: &str) -> Result<Self> {
        Self::start_with(Postgres::start()?, rules, "")
    }

    /// The same before a given server and with further agent configuration.
    ///
    /// # Errors
    /// The agent does not start.
    pub fn start_with(postgres: Postgres, rules: &str, configuration: &str) -> Result<Self> {
        let cgroup = Cgroup::new()?;
        let clients = cgroup.child("clients")?;
        let policy = policy(&clients, &postgres, rules);
        let agent = Agent::start_with(&[("50-test.yaml", &policy)], configuration, cgroup)?;
        Ok(Self { clients, agent, postgres })
    }

    /// Writes another policy for the same processes and server in the place of the first.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_policy(&self, rules: &str) -> Result<()> {
        self.agent.write_policy("50-test.yaml", &policy(&self.clients, &self.postgres, rules))
    }

    /// psql as a designated process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn psql(&self, sql: &str) -> Result<Finished> {
        Client::Psql.run(&self.postgres, Some(&self.clients), sql)
    }

    /// A shell script as a designated process, libpq's environment set, `interlock` and psql on the PATH.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn shell(&self, script: &str) -> Result<Finished> {
        let mut command = self.clients.command("/bin/bash");
        client::environment(&mut command, &self.postgres);
        finish(command.args(["-c", script]), "", LIMIT)
    }

    /// Python as a designated process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn python(&self, script: &str) -> Result<Finished> {
        Client::Python.run(&self.postgres, Some(&self.clients), script)
    }
}

fn policy(clients: &Cgroup, postgres: &Postgres, rules: &str) -> String {
    format!(
        "version: 1\nprocesses:\n  - cgroup: {}\ndestinations:\n  - {{port: {}, protocol: postgres}}\n{rules}\n",
        clients.below_mount().display(),
        postgres.port()
    )
}
