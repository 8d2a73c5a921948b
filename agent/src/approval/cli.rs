//! `interlock approvals`.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use interlock_recording::text::printable;
use serde_json::Value;

use crate::cli::output;
use crate::config::Config;
use crate::control::{ControlError, Request, ask};
use crate::policy::Scope;

/// How often `watch` asks.
const POLL: Duration = Duration::from_secs(1);

/// Arguments of `interlock approvals`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Who may approve is said by the policies: members of the groups that the rule names, by this \
    host's own lists. Nobody decides on their own request, whatever sudo or su makes of them. You see requests \
    that you may decide on, and your own."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what waits for approval.
    List {
        /// Those that were decided lately as well.
        #[arg(long)]
        all: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one request with all that is known of it.
    Show {
        /// Its name.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Approve one.
    Approve {
        /// Its name.
        id: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
        /// What to approve: the one command, its shape for a time, or what the rule holds in this session.
        #[arg(long, value_parser = scope, default_value = "once")]
        scope: Scope,
        /// A shape for this many minutes; as long as the policy allows when left out.
        #[arg(long = "for", value_name = "MINUTES")]
        minutes: Option<u32>,
    },
    /// Refuse one.
    Deny {
        /// Its name.
        id: String,
        /// Why; whoever asks is told.
        #[arg(long)]
        reason: String,
    },
    /// Let your own command through without approval, where the policy allows that. It is recorded as such
    /// and has to be reviewed.
    BreakGlass {
        /// Its name.
        id: String,
        /// Why it cannot wait.
        #[arg(long)]
        reason: String,
    },
    /// Print requests as they come and are decided, until interrupted.
    Watch {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn scope(text: &str) -> Result<Scope, String> {
    let scopes = [Scope::Once, Scope::Shape, Scope::Session];
    scopes
        .into_iter()
        .find(|scope| scope.word() == text)
        .ok_or_else(|| "write once, shape or session".to_owned())
}

/// Runs it.
///
/// # Errors
/// No agent answers, or it refuses.
pub(crate) fn run(args: Args, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<ExitCode> {
    // The configuration may be readable by root alone; approvers are others.
    let run = match load() {
        Ok(config) => config.run,
        Err(_) if !rustix::process::geteuid().is_root() => Config::default().run,
        Err(error) => return Err(error),
    };
    let ask = |request: Request| ask(&run, &request);
    match args.command {
        Command::List { all, json } => {
            let list = ask(Request::Approvals { past: all })?;
            if json {
                return print_json(&list);
            }
            output::print(&table(&list))?;
        }
        Command::Show { id, json } => {
            let shown = ask(Request::Approval { id })?;
            if json {
                return print_json(&shown);
            }
            output::print(&whole(&shown))?;
        }
        Command::Approve { id, reason, scope, minutes } => {
            let seconds = minutes.map(|minutes| u64::from(minutes) * 60);
            let done = ask(Request::Approve { id: id.clone(), reason, scope, seconds })?;
            let id = printable(&id);
            match number(&done, "missing") {
                0 => output::print(&format!("{id} is approved: the command goes on\n"))?,
                missing => output::print(&format!("you have approved {id}; {missing} more needed\n"))?,
            }
        }
        Command::Deny { id, reason } => {
            ask(Request::Deny { id: id.clone(), reason })?;
            output::print(&format!("{} is denied\n", printable(&id)))?;
        }
        Command::BreakGlass { id, reason } => {
            ask(Request::BreakGlass { id: id.clone(), reason })?;
            output::print(&format!("{} goes on without approval; it will be reviewed\n", printable(&id)))?;
        }
        Command::Watch { json } => watch(&ask, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &Value) -> anyhow::Result<ExitCode> {
    let mut line = Vec::new();
    output::json_line(&mut line, value)?;
    output::print(&String::from_utf8_lossy(&line))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what has changed since the last look.
fn watch(ask: &dyn Fn(Request) -> Result<Value, ControlError>, json: bool) -> anyhow::Result<()> {
    let mut known: Vec<(String, String)> = Vec::new();
    let mut first = true;
    loop {
        let list = ask(Request::Approvals { past: true })?;
        let mut now = Vec::new();
        for one in list.as_array().into_iter().flatten() {
            let state = (text(one, "id").to_owned(), format!("{} {}", text(one, "state"), one["by"]));
            // What was over before is no news.
            let old = first && text(one, "state") != "pending";
            if !old && !known.contains(&state) {
                if json {
                    print_json(one)?;
                } else {
                    output::print(&line(one))?;
                }
            }
            now.push(state);
        }
        known = now;
        first = false;
        std::thread::sleep(POLL);
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// Strings of a list, safe to print.
fn list(value: &Value, key: &str) -> String {
    let items = value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    printable(&items.collect::<Vec<_>>().join(", ")).into_owned()
}

fn table(list: &Value) -> String {
    let all: String = list.as_array().into_iter().flatten().map(line).collect();
    if all.is_empty() { "nothing waits that you may see\n".to_owned() } else { all }
}

/// One request on two lines.
fn line(one: &Value) -> String {
    let state = match text(one, "state") {
        "pending" => format!("pending, {} s left", number(one, "left")),
        state if list(one, "by").is_empty() => state.to_owned(),
        state => format!("{state} by {}", list(one, "by")),
    };
    let login = match text(one, "login_user") {
        login if login.is_empty() || login == text(one, "user") => String::new(),
        login => format!(" ({login})"),
    };
    let what: String = printable(text(one, "text")).chars().take(100).collect();
    let beforehand = match (one["beforehand"] == true, text(one, "program_claimed")) {
        (false, _) => String::new(),
        (true, "") => "  (asked for beforehand)".to_owned(),
        (true, program) => {
            format!("  (asked for beforehand; they say that {} will send it)", printable(program))
        }
    };
    format!(
        "{}  {}  {}{} {} to {}/{}  needs {}{beforehand}\n    {what}\n",
        printable(text(one, "id")),
        printable(&state),
        printable(text(one, "user")),
        printable(&login),
        printable(text(one, "exe")),
        printable(text(one, "server")),
        printable(text(one, "database")),
        printable(text(one, "needs")),
    )
}

/// All of one request.
fn whole(one: &Value) -> String {
    let mut out = String::new();
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<13}{}", printable(value));
        }
    };
    let subject = &one["subject"];
    field("request", text(one, "id"));
    field("state", text(one, "state"));
    field("asked", text(one, "asked"));
    if text(one, "state") == "pending" {
        field("left", &format!("{} s", number(one, "left")));
    }
    if let Some(beforehand) = one.get("beforehand").filter(|told| told.is_object()) {
        let usable = number(beforehand, "usable_seconds");
        field(
            "beforehand",
            &format!(
                "the command is not sent yet: asked for what process {} {} and its descendants may send within \
                 {usable} s of the approval",
                number(beforehand, "tree_pid"),
                text(beforehand, "tree_exe"),
            ),
        );
        field("they say", text(beforehand, "reason"));
        let program = text(beforehand, "program");
        if !program.is_empty() {
            field("to be sent by", &format!("{program}, as they say: what another program sends is held"));
        }
        field("time zone", text(beforehand, "time_zone"));
    }
    field("needs", text(one, "needs"));
    field("scopes", &list(one, "scopes"));
    if one["terms"]["reason_required"] == true {
        field("reason", "required");
    }
    field("decided by", &list(one, "by"));
    field("reasons", &list(one, "reasons"));
    let rules = one["terms"]["quorums"].as_array().into_iter().flatten();
    field("rules", &rules.map(|quorum| text(quorum, "rule")).collect::<Vec<_>>().join(", "));
    field("message", text(one, "message"));
    field("user", &format!("{} (uid {})", text(subject, "user"), number(subject, "uid")));
    field("login", text(subject, "login_user"));
    let claimed = &subject["login_claimed"];
    if claimed.is_object() {
        let (user, uid) = (text(claimed, "user"), number(claimed, "uid"));
        field("claims login", &format!("{user} (uid {uid}): root was not seen to set it"));
    }
    field("process", &format!("{} {}", number(subject, "pid"), text(subject, "exe")));
    field("script", text(subject, "script"));
    field("beware", text(one, "started_by"));
    field("arguments", &list(subject, "argv").replace(", ", " "));
    field("unit", text(subject, "unit"));
    field("container", text(subject, "container"));
    let ci = &subject["ci"];
    let job: Vec<_> = ["system", "project", "pipeline", "job", "branch", "actor"]
        .iter()
        .map(|key| text(ci, key))
        .filter(|part| !part.is_empty())
        .collect();
    field("ci", &job.join(" / "));
    for parent in subject["ancestors"].as_array().into_iter().flatten() {
        field("started by", &format!("{} {}", number(parent, "pid"), text(parent, "exe")));
    }
    field("server", &format!("{} {}", text(one, "server"), list(one, "hosts")));
    field("database", &format!("{} as {}", text(one, "database"), text(one, "db_user")));
    field("session", text(one, "session"));
    field("transaction", text(one, "transaction"));
    field("step", &format!("{}, command {}", text(one, "step"), number(one, "command")));
    field("digest", text(one, "digest"));
    for (nth, does) in (1..).zip(one["statements"].as_array().into_iter().flatten()) {
        let mut what = list(does, "kinds");
        for key in ["reads", "writes", "functions"] {
            let names = list(does, key);
            if !names.is_empty() {
                let _ = write!(what, "; {key} {names}");
            }
        }
        for key in ["where", "limit", "unparsed"] {
            let word = text(does, key);
            if !word.is_empty() {
                let _ = write!(what, "; {key} {word}");
            }
        }
        if does["dynamic"] == true {
            what.push_str("; runs text that is not known");
        }
        field(&format!("statement {nth}"), &what);
    }
    if let Some(estimate) = one.get("estimate").filter(|told| told.is_object()) {
        let told = match estimate["rows"].as_u64() {
            Some(rows) => format!("about {rows} rows, by the server's planner"),
            None => format!("no estimate, because {}", text(estimate, "why_not")),
        };
        field("estimate", &told);
    }
    for (nth, param) in (1..).zip(one["params"].as_array().into_iter().flatten()) {
        field(&format!("${nth}"), param.as_str().unwrap_or("NULL"));
    }
    if number(one, "params_omitted") > 0 {
        field("", &format!("… and {} more parameters", number(one, "params_omitted")));
    }
    if one["redacted"] == true {
        field("redacted", "yes: masked values of it are not shown, here or anywhere");
    }
    for similar in one["similar"].as_array().into_iter().flatten() {
        let by = list(similar, "by");
        let by = if by.is_empty() { by } else { format!(" by {by}") };
        let what = format!(
            "{} of {}: {}{by}",
            text(similar, "asked"),
            text(similar, "user"),
            text(similar, "outcome")
        );
        field("before", &what);
    }
    let mut quoted = |title: &str, text: &str| {
        let _ = writeln!(out, "\n{title}");
        for line in text.lines() {
            let _ = writeln!(out, "    {}", printable(&line.replace('\t', "    ")));
        }
    };
    quoted("text", text(one, "text"));
    for run in one["runs"].as_array().into_iter().flatten() {
        quoted("runs", run.as_str().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_in_a_request_reaches_the_terminal_as_a_command() {
        let evil = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}x\r";
        let one = json!({
            "id": evil, "state": evil, "asked": evil, "needs": evil, "by": [evil], "reasons": [evil],
            "scopes": [evil], "user": evil, "login_user": evil, "exe": evil, "db_user": evil, "server": evil, "database": evil,
            "hosts": [evil], "session": evil, "transaction": evil, "step": evil, "digest": evil, "message": evil,
            "text": format!("{evil}\nsecond line"), "runs": [evil], "params": [evil, null],
            "terms": {"quorums": [{"rule": evil}]},
            "subject": {"user": evil, "exe": evil, "argv": [evil], "ci": {"job": evil}, "unit": evil,
                "ancestors": [{"pid": 1, "exe": evil}]},
            "statements": [{"kinds": [evil], "reads": [evil], "where": evil, "unparsed": evil}],
            "estimate": {"why_not": evil},
            "beforehand": {"reason": evil, "tree_exe": evil, "tree_pid": 1, "program": evil, "time_zone": evil},
            "program_claimed": evil,
            "similar": [{"asked": evil, "user": evil, "outcome": evil, "by": [evil]}],
        });
        for shown in [whole(&one), table(&json!([one]))] {
            let bad = |c: char| interlock_recording::text::is_unprintable(c) && c != '\n';
            assert!(!shown.contains(bad), "{shown:?}");
        }
        assert!(whole(&one).contains("second line") && whole(&one).contains("NULL"));
    }
}
