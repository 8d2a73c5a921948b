//! AI agents that ask beforehand, as programs in Python.

use std::fmt::Write as _;
use std::io::{BufRead as _, Write as _};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::{Stage, cache, client};

/// A client of the protocol in a few lines: what an AI agent does, in one process which starts `interlock mcp`
/// and psql itself.
pub const PRELUDE: &str = r#"
import glob, itertools, json, os, subprocess, sys, threading, time
class Mcp:
    def __init__(self):
        self.p = subprocess.Popen(os.environ["MCP"].split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ids, self.progress = itertools.count(1), []
        self.call("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    def send(self, message):
        self.p.stdin.write(json.dumps(message) + "\n"); self.p.stdin.flush()
    def call(self, method, params):
        id = next(self.ids)
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        while True:
            answer = json.loads(self.p.stdout.readline())
            if answer.get("id") == id: return answer
            if answer.get("method") == "notifications/progress": self.progress.append(answer["params"])
    def tool(self, name, meta=None, **arguments):
        params = {"name": name, "arguments": arguments}
        if meta: params["_meta"] = meta
        answer = self.call("tools/call", params)
        result = answer.get("result") or answer
        return result.get("structuredContent") or result
    def ask(self, text, program=None, **more):
        more["program"] = program or PSQL
        return self.tool("request_approval", text=text, reason="ticket 17", **WHERE, **more)
# What Debian's psql starts.
PSQL = sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"))[-1]
PYTHON = sys.executable
WHERE = {"server": os.environ["SERVER"], "database": os.environ["PGDATABASE"], "db_user": os.environ["PGUSER"]}
def psql(text, *more, env={}):
    return subprocess.run(["psql", "-X", "-q", "-A", "-t", os.environ["PGURL"], *more, "-c", text], env={**os.environ, **env},
                          capture_output=True, text=True, timeout=60)
def tell(*words):
    print("@" + words[0], *words[1:], flush=True); assert sys.stdin.readline() == "done\n"
def approve(id, *more):
    # As somebody else, from elsewhere: the test does it when it reads this.
    tell("approve", id, *more)
def held(text, *more, env={}):
    "Whether psql has to wait: it is left there."
    p = subprocess.Popen(["psql", "-X", "-q", os.environ["PGURL"], *more, "-c", text], env={**os.environ, **env},
                         stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = p.stderr.readline()
    p.terminate(); p.wait()
    return "waits for approval" in line
"#;

/// A client of the protocol over HTTP, behind [`PRELUDE`].
pub const HTTP: &str = r#"
import urllib.error, urllib.request
class Http(Mcp):
    def __init__(self, url, token):
        self.url, self.token, self.session, self.ids = url, token, None, itertools.count(1)
        self.call("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    def send(self, message):
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer " + self.token}
        if self.session: headers["Mcp-Session-Id"] = self.session
        request = urllib.request.Request(self.url, json.dumps(message).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            self.session = answer.headers.get("Mcp-Session-Id") or self.session
            body = answer.read().decode()
        lines = [line[5:] for line in body.splitlines() if line.startswith("data:")] or [body]
        return [json.loads(line) for line in lines if line.strip()]
    def call(self, method, params):
        id = next(self.ids)
        return next(m for m in self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params}) if m.get("id") == id)
def serve(directory):
    "Serves over HTTP as this user; gives the process, its address and its token."
    token = directory + "/token"
    p = subprocess.Popen(os.environ["MCP"].split() + ["--listen", "127.0.0.1:0", "--token-file", token], stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if "serving at " in line: return p, line.split("serving at ")[1].strip(), token
"#;

/// Runs an AI agent as a designated process, as this user or as root. Its lines that begin with `@` are `told` word
/// by word, without the sign, and answered when that has returned; gives the others.
///
/// # Errors
/// It cannot be started, or fails; the message has what it printed.
pub fn agent(
    stage: &Stage,
    user: Option<(u32, u32)>,
    script: &str,
    told: &mut dyn FnMut(&[&str]),
) -> Result<String> {
    let mut command = match user {
        // The cache of packages is root's.
        Some((uid, gid)) => {
            let mut command = stage.clients.command("setpriv");
            command.args([
                &format!("--reuid={uid}"),
                &format!("--regid={gid}"),
                "--clear-groups",
                "/usr/bin/python3",
            ]);
            command
        }
        None => stage.clients.command(cache::venv().join("bin/python")),
    };
    client::environment(&mut command, &stage.postgres);
    let mcp = stage.agent.command();
    let words: Vec<_> = std::iter::once(mcp.get_program()).chain(mcp.get_args()).collect();
    let mut line = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    line.push_str(" mcp");
    command.args(["-c", &format!("{PRELUDE}\n{script}")]);
    command.env("MCP", line).env("SERVER", format!("127.0.0.1:{}", stage.postgres.port()));
    command.env("JDBC", client::JDBC_DRIVER);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let mut printed = String::new();
    for line in std::io::BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        match line.strip_prefix('@') {
            Some(words) => {
                told(&words.split(' ').collect::<Vec<_>>());
                stdin.write_all(b"done\n")?;
            }
            None => writeln!(printed, "{line}")?,
        }
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{printed}\n{stderr}");
    Ok(printed)
}
