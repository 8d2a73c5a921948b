//! The clients that are asked, each by its own means and with its own defaults.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::context::Context;

/// A way to ask one client.
pub(super) struct Client {
    pub(super) name: &'static str,
    /// The program that is run.
    pub(super) program: &'static str,
    /// What it is asked to do, for people.
    pub(super) asks: &'static str,
    /// It is here; further reasons than that its program is found.
    pub(super) applies: fn(&Context, &Path) -> bool,
    /// Its arguments and further variables, for a server on this port and a directory to write in.
    pub(super) arguments: fn(u16, &Path) -> std::io::Result<Vec<OsString>>,
    /// What to do when it does not accept.
    pub(super) help: &'static str,
}

fn always(_: &Context, _: &Path) -> bool {
    true
}

fn words<const N: usize>(words: [String; N]) -> std::io::Result<Vec<OsString>> {
    Ok(words.map(OsString::from).to_vec())
}

const SYSTEM: &str = "`interlock trust install` puts it into the system's store";
const ENVIRONMENT: &str = "it brings roots of its own: start it by `interlock run`, or as a unit with `interlock trust install --unit NAME`";

/// All of them.
pub(super) const CLIENTS: &[Client] = &[
    Client {
        name: "openssl",
        program: "openssl",
        asks: "openssl s_client -verify_return_error",
        applies: always,
        arguments: |port, _| {
            let connect = format!(
                "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | \"$0\" s_client -quiet -verify_return_error -verify_hostname \
                 localhost -connect 127.0.0.1:{port}"
            );
            words(["-c".into(), connect])
        },
        help: SYSTEM,
    },
    Client {
        name: "curl",
        program: "curl",
        asks: "curl https://…",
        applies: always,
        arguments: |port, _| {
            words([
                "-sS".into(),
                "--noproxy".into(),
                "*".into(),
                "--resolve".into(),
                format!("localhost:{port}:127.0.0.1"),
                format!("https://localhost:{port}/"),
            ])
        },
        help: SYSTEM,
    },
    Client {
        name: "git",
        program: "git",
        asks: "git ls-remote https://…",
        applies: always,
        arguments: |port, _| {
            words([
                "-c".into(),
                "http.proxy=".into(),
                "ls-remote".into(),
                format!("https://localhost:{port}/none"),
            ])
        },
        help: SYSTEM,
    },
    Client {
        name: "python ssl",
        program: "python3",
        asks: "ssl.create_default_context()",
        applies: always,
        arguments: |port, _| {
            words([
                "-c".into(),
                format!(
                    "import socket, ssl\nc = ssl.create_default_context()\ns = c.wrap_socket(socket.create_connection((\
                     '127.0.0.1', {port})), server_hostname='localhost')\ns.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n\
                     s.recv(1)\n"
                ),
            ])
        },
        help: SYSTEM,
    },
    Client {
        name: "python requests",
        program: "python3",
        asks: "requests.get('https://…')",
        applies: |context, program| {
            let mut command = context.command(program);
            command
                .args(["-c", "import importlib.util as u, sys; sys.exit(u.find_spec('requests') is None)"]);
            context.succeeds(&mut command)
        },
        arguments: |port, _| {
            words([
                "-c".into(),
                format!("import requests\nrequests.get('https://localhost:{port}/', timeout=10)\n"),
            ])
        },
        help: ENVIRONMENT,
    },
    Client {
        name: "node",
        program: "node",
        asks: "tls.connect()",
        applies: always,
        arguments: |port, _| {
            words([
                "-e".into(),
                format!(
                    "const s = require('tls').connect({{host: '127.0.0.1', port: {port}, servername: 'localhost'}}, \
                     () => s.write('GET / HTTP/1.0\\r\\n\\r\\n'));\ns.on('data', () => s.end());\n\
                     s.on('error', e => {{ console.error(e.message); process.exit(1); }});"
                ),
            ])
        },
        help: ENVIRONMENT,
    },
    Client {
        name: "java",
        program: "java",
        asks: "HttpsURLConnection",
        // A program of one source file needs the compiler.
        applies: |context, _| context.find("javac").is_some(),
        arguments: |port, directory| {
            let file = directory.join("Probe.java");
            std::fs::write(
                &file,
                format!(
                    "public class Probe {{ public static void main(String[] a) throws Exception {{\n  ((java.net.\
                     HttpURLConnection) new java.net.URL(\"https://localhost:{port}/\").openConnection(java.net.Proxy.\
                     NO_PROXY)).getResponseCode();\n}} }}\n"
                ),
            )?;
            Ok(vec!["-XX:TieredStopAtLevel=1".into(), file.into()])
        },
        help: "`interlock trust install` puts it into the keystores it finds; for one elsewhere set JAVA_HOME, or give \
               the unit a keystore by `--java-tool-options`",
    },
    Client {
        name: "psql",
        program: "psql",
        asks: "sslmode=require, the default root file",
        applies: always,
        arguments: |port, _| psql(port, "sslmode=require"),
        help: "a root file is there and does not hold it: `interlock run` and `interlock trust install --unit NAME` \
               have libpq see one that does",
    },
    Client {
        name: "psql verify-full",
        program: "psql",
        asks: "sslmode=verify-full, the default root file",
        // Without a root file it fails before any server, Interlock or not.
        applies: |context, _| context.has_root_file(),
        arguments: |port, _| psql(port, "sslmode=verify-full"),
        help: "the root file does not hold it: `interlock run` and `interlock trust install --unit NAME` have libpq see \
               one that does",
    },
    Client {
        name: "psql system roots",
        program: "psql",
        asks: "sslmode=verify-full sslrootcert=system",
        applies: |context, program| context.version(program).is_some_and(|version| version >= 16),
        arguments: |port, _| psql(port, "sslmode=verify-full sslrootcert=system"),
        help: SYSTEM,
    },
    Client {
        name: "go",
        program: "go",
        asks: "go list -m, by a module proxy",
        applies: always,
        arguments: |_, _| words(["list", "-m", "-versions", "example.com/none"].map(str::to_owned)),
        help: SYSTEM,
    },
    Client {
        name: "aws",
        program: "aws",
        asks: "aws sts get-caller-identity",
        applies: always,
        arguments: |port, _| {
            words([
                "sts".into(),
                "get-caller-identity".into(),
                "--endpoint-url".into(),
                format!("https://localhost:{port}"),
            ])
        },
        help: ENVIRONMENT,
    },
];

fn psql(port: u16, how: &str) -> std::io::Result<Vec<OsString>> {
    words([
        "-X".into(),
        "-w".into(),
        "-c".into(),
        "SELECT 1".into(),
        format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user=none dbname=none connect_timeout=10 {how}"
        ),
    ])
}

/// The command that asks `client`.
pub(super) fn command(
    client: &Client,
    context: &Context,
    program: &Path,
    port: u16,
    directory: &Path,
) -> std::io::Result<Command> {
    let arguments = (client.arguments)(port, directory)?;
    let mut command = if client.name == "openssl" {
        let mut command = context.command(&PathBuf::from("/bin/sh"));
        let (flag, script) = arguments.split_at(arguments.len().min(1));
        command.args(flag).args(script).arg(program);
        command
    } else {
        let mut command = context.command(program);
        command.args(arguments);
        command
    };
    // Nothing but the loopback server is to be asked, and nobody.
    command
        .env("NO_PROXY", "localhost,127.0.0.1")
        .env("no_proxy", "localhost,127.0.0.1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("AWS_ACCESS_KEY_ID", "none")
        .env("AWS_SECRET_ACCESS_KEY", "none")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_MAX_ATTEMPTS", "1")
        .env("GOPROXY", format!("https://localhost:{port}"))
        .env("GOFLAGS", "-mod=mod")
        .env("GONOSUMDB", "*")
        .env("GOTOOLCHAIN", "local")
        .env("LC_ALL", "C.UTF-8");
    Ok(command)
}
