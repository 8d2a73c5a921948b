//! An identity provider that people sign in at, and login sessions that they do it in.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cache;
use crate::process::{LIMIT, finish};

/// What a shell says when a command has ended.
const MARK: &str = "=-= ended with ";

/// A real OpenID provider (`oidc-provider`) on a loopback port. Whoever types a name is that person.
#[derive(Debug)]
pub struct People {
    child: Child,
    issuer: String,
}

fn script(name: &str) -> Command {
    let mut command = Command::new("node");
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
    command.arg(path).env("NODE_PATH", cache::node().join("node_modules"));
    command
}

impl People {
    /// Starts one that knows these people and their groups: `{"alice": ["dba"]}`.
    ///
    /// # Errors
    /// It does not start; `cargo xtask setup` installs it.
    pub fn start(groups: &Value) -> Result<Self> {
        let mut command = script("provider.mjs");
        command.arg(groups.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("node")?;
        let output = child.stdout.take().context("no output")?;
        let mut people = Self { child, issuer: String::new() };
        let mut lines = BufReader::new(output).lines();
        let first = lines.next().context("the provider ended: `cargo xtask setup` installs it")??;
        let said: Value = serde_json::from_str(&first).with_context(|| first.clone())?;
        people.issuer = said["issuer"].as_str().context("no issuer")?.to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Ok(people)
    }

    /// Its issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// agent.yaml's `identity:` for it, under the name `okta`, with further keys.
    pub fn configuration(&self, more: &str) -> String {
        format!(
            "identity:\n  issuers:\n    - {{name: okta, kind: person, issuer: {}, client_id: interlock{more}}}\n",
            self.issuer
        )
    }

    /// Changes what it does from now on; see `scripts/provider.mjs`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn steer(&self, what: &Value) -> Result<()> {
        let address = self.issuer.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        let body = what.to_string();
        write!(
            stream,
            "POST /steer HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.contains("done") {
            bail!("the provider answers {answer}");
        }
        Ok(())
    }

    /// Has somebody go through its pages, beginning at `url`; with `deny` they refuse. Gives what stands on the
    /// last page.
    ///
    /// # Errors
    /// The pages cannot be gone through.
    pub fn visit(&self, url: &str, name: &str, deny: bool) -> Result<Value> {
        let mut command = script("person.mjs");
        command.args([url, name]).args(deny.then_some("deny"));
        Self::gone_through(&mut command, url)
    }

    /// The same in a browser that keeps its cookies in this file: whoever is signed in there stays so. What it gives
    /// says with `asked` whether a name was asked for.
    ///
    /// # Errors
    /// The pages cannot be gone through.
    pub fn visit_again(&self, jar: &Path, url: &str, name: &str) -> Result<Value> {
        let mut command = script("person.mjs");
        Self::gone_through(command.args([url, name]).env("JAR", jar), url)
    }

    fn gone_through(command: &mut Command, url: &str) -> Result<Value> {
        let finished = finish(command, "", LIMIT)?;
        if !finished.success() {
            bail!("{url}: {}", finished.both());
        }
        serde_json::from_str(&finished.stdout).with_context(|| finished.stdout.clone())
    }
}

impl Drop for People {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that runs what it is told, one after the other.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// `command` must be a bash.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, output })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Begins a login session of this user, as `pam_loginuid` does; its number. `None` where the kernel has none.
    ///
    /// # Errors
    /// The shell has ended.
    pub fn log_in(&mut self, uid: u32) -> Result<Option<u32>> {
        let (_, set) = self.run(&format!("echo {uid} > /proc/self/loginuid"))?;
        // The agent's kernel side looks when a program begins.
        let (said, _) = self.run("/bin/true; cat /proc/self/sessionid; echo")?;
        Ok(if set == 0 { said.trim().parse().ok() } else { None })
    }

    /// Runs a command to its end: what it said on either output, and its exit code.
    ///
    /// # Errors
    /// The shell has ended.
    pub fn run(&mut self, command: &str) -> Result<(String, i32)> {
        self.begin(command)?;
        self.end()
    }

    /// Begins a command.
    ///
    /// # Errors
    /// The shell has ended.
    pub fn begin(&mut self, command: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input")?;
        writeln!(input, "{{ {command}\n}} 2>&1 < /dev/null; echo \"{MARK}$?\"").context("the shell has ended")
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// The shell has ended.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the shell has ended");
        }
        Ok(line.trim_end().to_owned())
    }

    /// What else it says, and its exit code.
    ///
    /// # Errors
    /// The shell has ended.
    pub fn end(&mut self) -> Result<(String, i32)> {
        let mut said = String::new();
        loop {
            let line = self.line()?;
            // A command's last line may have no end.
            if let Some((before, code)) = line.split_once(MARK) {
                said.push_str(before);
                return Ok((said, code.trim().parse()?));
            }
            said.push_str(&line);
            said.push('\n');
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
