//! An issuer of jobs' tokens.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cache;

/// A real issuer (`oauth2-mock-server`) on a loopback port, as `scripts/issuer.mjs` plays it.
#[derive(Debug)]
pub struct Issuer {
    child: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// Its URL.
    pub url: String,
    /// Host and port of the address that gives out tokens.
    pub jobs: String,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Issuer {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start; `cargo xtask setup` installs it.
    pub fn start() -> Result<Self> {
        let mut child = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/issuer.mjs"))
            .env("NODE_PATH", cache::node().join("node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("node")?;
        let input = child.stdin.take().context("no input")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let told: Value =
            serde_json::from_str(&line).context("the issuer: `cargo xtask setup` installs it")?;
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        Ok(Self { child, talk: Mutex::new((input, output)), url: text("issuer"), jobs: text("jobs") })
    }

    /// Has it do something; see `scripts/issuer.mjs`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask(&self, question: &Value) -> Result<Value> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(talk.0, "{question}")?;
        let mut line = String::new();
        talk.1.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// A token with these claims that lasts so long.
    ///
    /// # Errors
    /// As for [`Issuer::ask`].
    pub fn sign(&self, claims: &Value, seconds: i64) -> Result<String> {
        let token = self.ask(&json!({"claims": claims, "seconds": seconds}))?;
        Ok(token["token"].as_str().context("no token")?.to_owned())
    }

    /// A job's token for `interlock` that lasts so long.
    ///
    /// # Errors
    /// As for [`Issuer::ask`].
    pub fn token(&self, job: &str, branch: &str, seconds: i64) -> Result<String> {
        let claims = json!({
            "aud": "interlock", "sub": job, "jti": format!("{job} {branch} {seconds}"),
            "project_path": "shop/api", "ref": branch, "ref_type": "branch", "user_login": "ann",
        });
        self.sign(&claims, seconds)
    }
}
