//! Signing in through real identity providers, in a real browser.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

mod fresh;
mod oidc;
mod saml;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use interlock_collector::config::Config;
use interlock_collector::intake::Intake;
use interlock_collector::sign_in::{Providers, SignIn};
use interlock_collector::{serve, web};
use interlock_tests::cache;
use serde_json::Value;
use tempfile::TempDir;

/// A file of this test.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sign_in").join(name)
}

/// A program that ends with this.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program and reads the first line that it says, which is JSON.
fn start(command: &mut Command) -> (Program, Value) {
    let mut child =
        command.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let program = Program(child);
    let first = lines.next().expect("it ended without a word: `cargo xtask setup` installs it").unwrap();
    let said = serde_json::from_str(&first).unwrap_or_else(|error| panic!("{first}: {error}"));
    // What else it says must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (program, said)
}

fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(file(script)).env("NODE_PATH", cache::node().join("node_modules"));
    command
}

/// A collector's pages on a loopback port.
struct Site {
    listener: Option<tokio::net::TcpListener>,
    base: String,
    directory: TempDir,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Site {
    /// Takes a port: providers are told the address before the collector is told of them.
    async fn new() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        Self { listener: Some(listener), base, directory: tempfile::tempdir().unwrap(), server: None }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn serve(&mut self, sign_in: &str) -> std::sync::Arc<Intake> {
        let config = Config {
            state: self.directory.path().join("state"),
            name: Some("collector.test".into()),
            ..Config::default()
        };
        let parts = serve::open(&config).await.unwrap();
        let sign_in: SignIn = serde_json::from_str(sign_in).unwrap();
        sign_in.check(Some(&self.base)).unwrap();
        let providers = Providers::new(&sign_in, &self.base).unwrap();
        let state =
            web::State::new(&parts.intake, web::Config { providers, ..web::Config::default() }).unwrap();
        let (router, listener) = (web::router(state), self.listener.take().unwrap());
        self.server = Some(tokio::spawn(async move {
            axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await.unwrap();
        }));
        parts.intake
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

fn chromium() -> PathBuf {
    let found =
        ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    found.into_iter().find(|path| path.exists()).expect("Chromium: `cargo xtask setup` installs it")
}

/// Goes through `steps` in Chromium; gives what was said.
async fn drive(site: &Site, name: &str, steps: &Value) -> Vec<String> {
    let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut command = node("drive.mjs");
    command.arg(chromium()).args([&site.base, &steps.to_string()]).arg(&screenshots);
    let output = tokio::task::spawn_blocking(move || command.output().expect("node")).await.unwrap();
    let said: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let wrong: Vec<_> = said.iter().filter(|line| line.starts_with("wrong: ")).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(wrong.is_empty(), "screenshots are in {}\n{wrong:#?}\n{errors}", screenshots.display());
    assert_eq!(said.last().map(String::as_str), Some("looked"), "{errors}");
    said
}

/// The audit trail: who did what to what, and more about it.
async fn trail(intake: &Intake) -> Vec<String> {
    let filter = interlock_collector::store::AuditFilter::default();
    let page = intake.store.audit(&filter, None, 500).await.unwrap();
    let line = |entry: &interlock_collector::store::AuditEntry| {
        format!("{} {} {} {}", entry.actor, entry.action, entry.target, entry.detail)
    };
    page.items.iter().rev().map(line).collect()
}
