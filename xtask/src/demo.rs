//! The whole of it in half a minute: an ordinary script with a hard-coded password comes under control.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Agent, Cgroup, Postgres};
use serde_json::Value;

use crate::interrupt;
use crate::setup::{self, Part};
use crate::shell::{BOLD, CYAN, DIM, GREEN, RED, YELLOW, cargo, paint, run as sh, say, workspace};

/// See it work: a script with a hard-coded password against a throwaway PostgreSQL (needs root).
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything running until Ctrl-C, and say what to try.
    #[arg(long)]
    keep: bool,
}

/// The path that the shipped policy designates; the demo's own script stands in for it.
const DESIGNATED: &str = "/usr/local/bin/nightly-report";

/// Parts of the statements that the policy refuses.
const REFUSED: [&str; 4] =
    ["SELECT * FROM customers", "DELETE FROM customers", "DROP TABLE orders", "TO PROGRAM"];

/// What the demo needs while it runs; dropping it ends and removes everything.
struct Demo {
    agent: Agent,
    postgres: Postgres,
    script: PathBuf,
    _directory: tempfile::TempDir,
    /// What did not happen as it should have.
    failures: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    crate::test::check_host()?;
    say("looking for what this needs");
    setup::ensure(Part::Demo)?;
    say("building the agent");
    sh(cargo().args(["build", "--quiet", "--bins"]))?;
    interrupt::catch();
    let mut demo = Demo::start()?;
    demo.show()?;
    if !demo.failures.is_empty() {
        println!();
        for failure in &demo.failures {
            println!("{} {failure}", paint(RED, "✗"));
        }
        bail!("{} of the things that were to be shown did not happen", demo.failures.len());
    }
    println!("\n{}", paint(GREEN, "All of it happened as it should."));
    if arguments.keep {
        demo.keep();
    }
    say("removing everything again");
    Ok(())
}

impl Demo {
    fn start() -> Result<Self> {
        say("starting a PostgreSQL with 5,000 made-up customers");
        let postgres = Postgres::start()?;
        postgres.admin(include_str!("../demo/customers.sql"))?;
        interrupt::check()?;

        let directory = interlock_tests::temporary_directory("demo")?;
        let script = directory.path().join("nightly-report");
        fs::write(
            &script,
            include_str!("../demo/nightly-report.sh").replace("@PORT@", &postgres.port().to_string()),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;

        let file = workspace().join("policies/demo.yaml");
        say(format!("starting the agent with {}", paint(BOLD, "policies/demo.yaml")));
        let policy = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if !policy.contains(DESIGNATED) || !policy.contains("port: 5432") {
            bail!("{} names no {DESIGNATED} or no port 5432 to put the demo's own in", file.display());
        }
        let policy = policy
            .replace(DESIGNATED, &script.display().to_string())
            .replace("port: 5432", &format!("port: {}", postgres.port()));
        let agent = Agent::start_with(&[("demo.yaml", &policy)], "", Cgroup::new()?)?;
        Ok(Self { agent, postgres, script, _directory: directory, failures: Vec::new() })
    }

    fn show(&mut self) -> Result<()> {
        heading("The script, which knows nothing of Interlock");
        let text = fs::read_to_string(&self.script)?;
        for line in text.lines() {
            println!("  {}", paint(DIM, line));
        }

        heading("What it sees when it runs");
        let printed = self.run_script()?;
        for line in printed.both().lines() {
            println!("  {}", in_colour(line));
        }
        interrupt::check()?;
        self.check_seen(&printed)?;

        heading("What reached the server (its own log)");
        let statements: Vec<_> = self.postgres.statements();
        for statement in &statements {
            // The agent asks the server itself, on the script's connection, where masked columns stand.
            let own = statement.starts_with("/* interlock:").then(|| statement.split_inclusive("*/").next());
            match own.flatten() {
                Some(comment) => println!("  {}", paint(DIM, format!("{comment} …"))),
                None => println!("  {statement}"),
            }
        }
        self.check_server(&statements)?;

        heading("What was decided, and by which rule");
        let commands = self.agent.commands()?;
        for command in &commands {
            let verdict = command["verdict"].as_str().unwrap_or_default();
            let style = if verdict == "allow" { GREEN } else { RED };
            let rule = command["rule"].as_str().map(|rule| format!("  ← {rule}")).unwrap_or_default();
            let text = command["text"].as_str().unwrap_or_default();
            println!("  {} {text}{}", paint(style, format!("{verdict:5}")), paint(YELLOW, rule));
        }
        self.check_commands(&commands);
        interrupt::check()?;

        heading("The recording: listed, replayed, verified");
        self.recordings()
    }

    /// Runs the script in the agent's cgroup; what designates it is its path. What it writes goes into
    /// one stream, so that refusals stand where they came.
    fn run_script(&self) -> Result<Finished> {
        let mut command = self.agent.cgroup().command("/bin/sh");
        command.args(["-c", r#"exec "$0" 2>&1"#]).arg(&self.script);
        let programs = self.postgres.programs().display();
        let path = std::env::var("PATH").unwrap_or_default();
        finish(command.env("PATH", format!("{programs}:{path}")), "", LIMIT)
    }

    fn expect(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.failures.push(otherwise.to_owned());
        }
    }

    /// Masked values came back, refusals were told with their rule, and the rest worked.
    fn check_seen(&mut self, printed: &Finished) -> Result<()> {
        let text = printed.both();
        // The server's own words for what the script was shown only masked.
        let secrets = self.postgres.admin(
            "SELECT unnest(ARRAY[email, card_number]) FROM customers WHERE id <= 3 \
             UNION ALL SELECT unnest(ARRAY[national_id, substring(note FROM '[0-9]{16}|[^ ]+@[^ ]+')]) FROM customers WHERE id IN (3, 4)",
        )?;
        for secret in secrets.lines().filter(|secret| !secret.is_empty()) {
            self.expect(!text.contains(secret), &format!("the script was shown {secret} unmasked"));
        }
        self.expect(secrets.lines().count() >= 8, "there were no values to mask");
        let last_digits = self.postgres.admin("SELECT right(card_number, 4) FROM customers WHERE id = 1")?;
        self.expect(text.contains(&last_digits), "the last digits of the card number did not come back");
        let names = self.postgres.admin("SELECT name FROM customers WHERE id = 1")?;
        self.expect(text.contains(&names), "the name, which nothing masks, did not come back");
        self.expect(text.contains("UPDATE 1"), "the permitted UPDATE did not work");
        self.expect(text.contains("still connected"), "the script did not come to its end");
        Ok(())
    }

    /// The refused statements did not arrive, and did nothing.
    fn check_server(&mut self, statements: &[String]) -> Result<()> {
        for part in REFUSED {
            let arrived = statements.iter().any(|statement| statement.contains(part));
            self.expect(!arrived, &format!("`{part}` reached the server"));
        }
        let arrived = statements.iter().any(|statement| statement.contains("FROM customers c"));
        self.expect(arrived, "the permitted statements did not reach the server");
        let left =
            self.postgres.admin("SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders)")?;
        self.expect(left == "5000|20000", &format!("customers and orders are not all there: {left}"));
        Ok(())
    }

    fn check_commands(&mut self, commands: &[Value]) {
        for part in REFUSED {
            let refused = commands.iter().any(|command| {
                command["text"].as_str().is_some_and(|text| text.contains(part))
                    && command["verdict"] != "allow"
                    && command["rule"].is_string()
            });
            self.expect(refused, &format!("`{part}` is not recorded as refused by a rule"));
        }
        self.expect(commands.len() >= 9, "not every statement was recorded");
    }

    fn recordings(&mut self) -> Result<()> {
        let sessions = self.interlock(&["sessions", "list"])?;
        indent(&sessions.both());
        let listed = self.agent.json(&["sessions", "list", "--json"])?;
        // The session in which the customers were read.
        let mut replayed = None;
        for session in &listed {
            let id = session["session"].as_str().unwrap_or_default();
            let replay = self.agent.interlock(&["sessions", "replay", id])?;
            if replay.stdout.contains("card_number FROM customers") {
                replayed = Some((id.to_owned(), replay));
            }
        }
        self.expect(listed.len() >= 9, "not every connection was recorded");
        match replayed {
            Some((id, replay)) => {
                println!("\n  {}", paint(DIM, format!("$ interlock sessions replay {id}")));
                indent(&replay.both());
                self.expect(replay.success(), "the replay failed");
                let card = self.postgres.admin("SELECT card_number FROM customers WHERE id = 1")?;
                self.expect(!replay.stdout.contains(&card), "the recording holds an unmasked card number");
            }
            None => self.expect(false, "the session in which customers were read cannot be replayed"),
        }
        println!();
        // The agent signs how far the log went about every second; until then verify says so.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let verified = self.interlock(&["sessions", "verify"])?;
        indent(&verified.both());
        self.expect(verified.success(), "the recording does not verify");
        Ok(())
    }

    /// Says the command and runs it.
    fn interlock(&self, arguments: &[&str]) -> Result<Finished> {
        println!("  {}", paint(DIM, format!("$ interlock {}", arguments.join(" "))));
        self.agent.interlock(arguments)
    }

    fn keep(&self) {
        let interlock = interlock_tests::agent::binary().unwrap_or_else(|_| "interlock".into());
        let interlock = format!("{} --config {}", interlock.display(), self.agent.config().display());
        heading("Everything runs on. Try, in another terminal");
        let url = self.postgres.url();
        println!("  {}", paint(DIM, "# a designated psql: under control"));
        println!("  {interlock} run -- psql '{url}'");
        println!("  {}", paint(DIM, "# the same, undesignated: straight to the server"));
        println!("  psql '{url}'");
        println!("  {}", paint(DIM, "# change the policy: it is taken up at once"));
        println!("  $EDITOR {}", self.agent.policies().join("demo.yaml").display());
        println!("  {}", paint(DIM, "# what is attached, what was recorded"));
        println!("  {interlock} status");
        println!("  {interlock} sessions list");
        println!(
            "  {}",
            paint(DIM, "# kill -9 the agent: designated processes are refused, all others notice nothing")
        );
        println!("  kill -9 {}", self.agent.pid().unwrap_or_default());
        println!("\n{}", paint(BOLD, "Ctrl-C ends it and removes everything."));
        interrupt::wait();
        println!();
    }
}

fn heading(text: &str) {
    println!("\n{} {}", paint(CYAN, "──"), paint(BOLD, text));
}

fn indent(text: &str) {
    for line in text.lines() {
        println!("  {line}");
    }
}

/// What the script asked stands out, and what was refused.
fn in_colour(line: &str) -> String {
    if line.starts_with("=> ") {
        paint(BOLD, line)
    } else if line.starts_with("ERROR") || line.starts_with("DETAIL") || line.starts_with("HINT") {
        paint(RED, line)
    } else {
        line.to_owned()
    }
}
