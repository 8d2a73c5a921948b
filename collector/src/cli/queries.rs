//! The API's queries as commands, on the same database and by the same rules.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use interlock_recording::json;
use interlock_recording::text::SafeJson;
use serde::Serialize;

use super::{actor, output};
use crate::config::Config;
use crate::intake::Intake;
use crate::serve;
use crate::store::{AuditFilter, Page};
use crate::web::params::{COMMANDS, Params, SESSIONS};
use crate::web::problem::Problem;

/// Events of a session that are read at one time.
const EVENTS: usize = 200;

/// What pages a list.
#[derive(Debug, Args)]
pub(super) struct Paging {
    /// At most so many, 1 to 500.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(super) limit: u16,
    /// From where the list before this one ended.
    #[arg(long)]
    cursor: Option<String>,
    /// One JSON object a line, as the API gives them.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sessions {
    /// List them, the newest first.
    List(Box<SessionList>),
    /// Show one: its events, one JSON object a line with `--json`. The audit trail says who looked.
    Show {
        /// Its id.
        id: String,
        /// Print all that was recorded, one JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct SessionList {
    /// With a command with these words in its text, objects or rules; a "phrase", a beginning*.
    #[arg(long)]
    text: Option<String>,
    /// Begun then or later: RFC 3339, or how long ago (15m, 1h, 7d).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Begun before then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The host's name, or 8 or more digits of its id.
    #[arg(long)]
    host: Option<String>,
    /// The host user.
    #[arg(long)]
    user: Option<String>,
    /// The database user.
    #[arg(long)]
    db_user: Option<String>,
    /// The database.
    #[arg(long)]
    database: Option<String>,
    /// Part of the executable's or script's path.
    #[arg(long, value_name = "PATH")]
    exe: Option<String>,
    /// Part of the destination's address or host names.
    #[arg(long, value_name = "HOST")]
    destination: Option<String>,
    /// With a command that had this verdict.
    #[arg(long)]
    verdict: Option<String>,
    /// With a command that a rule in observe mode would have given this verdict.
    #[arg(long, value_name = "VERDICT")]
    observed: Option<String>,
    /// With a command that this rule decided.
    #[arg(long)]
    rule: Option<String>,
    /// Still going on.
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(super) struct Commands {
    /// With these words in text, objects or rules; a "phrase", a beginning*.
    #[arg(long)]
    text: Option<String>,
    /// Then or later: RFC 3339, or how long ago (15m, 1h, 7d).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The host's name, or 8 or more digits of its id.
    #[arg(long)]
    host: Option<String>,
    /// With this verdict.
    #[arg(long)]
    verdict: Option<String>,
    /// That a rule in observe mode would have given this verdict.
    #[arg(long, value_name = "VERDICT")]
    observed: Option<String>,
    /// Decided by this rule.
    #[arg(long)]
    rule: Option<String>,
    /// Of this kind, such as select.
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(super) struct Rules {
    /// The host's name, or 8 or more digits of its id.
    #[arg(long)]
    host: Option<String>,
    /// One JSON object a line, as the API gives them.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Findings {
    /// Those that someone has acknowledged, too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Done by them.
    #[arg(long)]
    actor: Option<String>,
    /// This was done, such as session.view.
    #[arg(long)]
    action: Option<String>,
    /// Then or later: RFC 3339, or how long ago (15m, 1h, 7d).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(super) struct HostEvents {
    /// The host's name, or 8 or more digits of its id.
    host: String,
    #[command(flatten)]
    paging: Paging,
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn refused(problem: Problem) -> anyhow::Error {
    anyhow::anyhow!("{}", problem.detail)
}

/// What was given, by the names that the API calls it by.
pub(super) fn params(given: &[(&str, &Option<String>)]) -> Params {
    let given = given.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value).clone()?)));
    Params(given.collect())
}

pub(super) async fn open(config: &Config) -> anyhow::Result<std::sync::Arc<Intake>> {
    Ok(serve::open_existing(config).await?.intake)
}

/// One object a line, safe to print.
pub(super) fn line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, SafeJson))?;
    text.push(b'\n');
    // A reader that has gone, such as `head`, is no error.
    let _ = io::stdout().lock().write_all(&text);
    Ok(())
}

/// Prints a page, and on standard error how to go on from it.
pub(super) fn page<T: Serialize>(
    page: &Page<T>,
    json: bool,
    head: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<ExitCode> {
    if json {
        for item in &page.items {
            line(item)?;
        }
    } else {
        let rows: Vec<Vec<String>> = page.items.iter().map(row).collect();
        output::print(&output::table(head, &rows));
    }
    if let Some(next) = &page.next {
        let _ = writeln!(io::stderr().lock(), "there is more: --cursor {next}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn cut(text: &str, length: usize) -> String {
    let line = text.replace(['\n', '\r', '\t'], " ");
    if line.chars().count() <= length { line } else { line.chars().take(length).chain(['…']).collect() }
}

pub(super) async fn sessions(config: &Config, command: Sessions) -> anyhow::Result<ExitCode> {
    let intake = open(config).await?;
    let list = match command {
        Sessions::Show { id, json } => return show(&intake, &id, json).await,
        Sessions::List(list) => list,
    };
    let open = list.open.then(|| "true".to_owned());
    let params = params(&[
        ("text", &list.text),
        ("since", &list.since),
        ("until", &list.until),
        ("host", &list.host),
        ("user", &list.user),
        ("db_user", &list.db_user),
        ("database", &list.database),
        ("exe", &list.exe),
        ("destination", &list.destination),
        ("verdict", &list.verdict),
        ("observed", &list.observed),
        ("rule", &list.rule),
        ("open", &open),
    ]);
    params.only(&[SESSIONS]).map_err(refused)?;
    let filter = params.sessions(&intake.store).await.map_err(refused)?;
    let Paging { limit, cursor, json } = &list.paging;
    let found = intake.store.sessions(&filter, cursor.as_deref(), usize::from(*limit)).await?;
    let head = ["SESSION", "BEGAN", "HOST", "USER", "EXECUTABLE", "TO", "DATABASE", "COMMANDS", "DENIED"];
    page(&found, *json, &head, |session| {
        vec![
            session.id.clone(),
            output::time(session.started_ns),
            cut(&session.host_name, 30),
            cut(&session.user, 20),
            cut(&session.exe, 40),
            cut(&session.destination, 40),
            cut(&session.database, 20),
            session.commands.to_string(),
            session.denied.to_string(),
        ]
    })
}

async fn show(intake: &Intake, id: &str, json: bool) -> anyhow::Result<ExitCode> {
    let session = intake.store.session(id).await?;
    let session = session.ok_or_else(|| {
        anyhow::anyhow!("there is no session {id}: `interlock-collector sessions list` shows them")
    })?;
    let mut write = intake.store.write().await?;
    write.audit(&actor(), "session.view", id, "", "").await?;
    write.commit().await?;
    if !json {
        line(&session)?;
    }
    let mut after = None;
    loop {
        let events = intake.archive.session_events(&intake.store, id, after, EVENTS).await?;
        let Some(last) = events.last() else { break };
        after = Some(i64::try_from(last.index).unwrap_or(i64::MAX));
        for event in &events {
            let event = json::event(event);
            if json {
                line(&event)?;
                continue;
            }
            let word =
                |name: &str| event.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
            let what =
                [word("verdict"), word("rule"), word("text"), word("status"), word("tag"), word("reason")];
            let what: Vec<String> = what.into_iter().filter(|word| !word.is_empty()).collect();
            let what = cut(&what.join("  "), 200);
            let what = interlock_recording::text::printable(&what);
            output::print(&format!("{}  {:<14}  {what}\n", word("time"), word("event")));
        }
        if events.len() < EVENTS {
            break;
        }
    }
    for run in intake.store.deleted_of_session(id).await? {
        output::complain(format_args!(
            "events {} to {} of its host were deleted by retention: what they held of it is not here",
            run.first_event, run.last_event
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn commands(config: &Config, list: &Commands) -> anyhow::Result<ExitCode> {
    let intake = open(config).await?;
    let params = params(&[
        ("text", &list.text),
        ("since", &list.since),
        ("until", &list.until),
        ("host", &list.host),
        ("verdict", &list.verdict),
        ("observed", &list.observed),
        ("rule", &list.rule),
        ("kind", &list.kind),
    ]);
    params.only(&[COMMANDS]).map_err(refused)?;
    let filter = params.commands(&intake.store).await.map_err(refused)?;
    let Paging { limit, cursor, json } = &list.paging;
    let found = intake.store.commands(&filter, cursor.as_deref(), usize::from(*limit)).await?;
    page(&found, *json, &["AT", "HOST", "SESSION", "VERDICT", "RULE", "STATUS", "ROWS", "TEXT"], |command| {
        vec![
            output::time(command.at_ns),
            cut(&command.host_name, 30),
            command.session.clone(),
            command.verdict.clone(),
            cut(&command.rule, 30),
            command.status.clone(),
            command.rows_returned.to_string(),
            cut(&command.text, 100),
        ]
    })
}

/// The id of the one host of this name, or with an id that begins so.
async fn one_host(intake: &Intake, name: &str) -> anyhow::Result<String> {
    let mut hosts = intake.store.hosts_called(name).await?;
    match (hosts.pop(), hosts.len()) {
        (Some(host), 0) => Ok(host),
        (_, others) => anyhow::bail!(
            "{} hosts are called {name}: `interlock-collector agents list` shows them, and 8 or more digits of an id do",
            if others == 0 { "no".to_owned() } else { (others + 1).to_string() },
        ),
    }
}

pub(super) async fn rules(config: &Config, list: &Rules) -> anyhow::Result<ExitCode> {
    let intake = open(config).await?;
    let host = match &list.host {
        Some(host) => Some(one_host(&intake, host).await?),
        None => None,
    };
    let items = intake.store.rule_counts(host.as_deref()).await?;
    page(&Page { items, next: None }, list.json, &["RULE", "VERDICT", "OBSERVED", "COUNT", "LAST"], |rule| {
        vec![
            cut(&rule.rule, 60),
            rule.verdict.clone(),
            if rule.observed { "yes" } else { "no" }.to_owned(),
            rule.count.to_string(),
            output::time(rule.last_ns),
        ]
    })
}

pub(super) async fn findings(config: &Config, list: &Findings) -> anyhow::Result<ExitCode> {
    let intake = open(config).await?;
    let cursor = cursor(&list.paging)?;
    let found = intake.store.findings(!list.all, cursor, usize::from(list.paging.limit)).await?;
    page(&found, list.paging.json, &["ID", "AT", "HOST", "KIND", "ACKNOWLEDGED BY", "DETAIL"], |finding| {
        vec![
            finding.id.to_string(),
            output::time(finding.at_ns),
            cut(&finding.host_name, 30),
            finding.kind.clone(),
            finding.acknowledged_by.clone().unwrap_or_default(),
            cut(&finding.detail, 200),
        ]
    })
}

pub(super) async fn audit(config: &Config, list: &Audit) -> anyhow::Result<ExitCode> {
    let intake = open(config).await?;
    let times = params(&[("since", &list.since), ("until", &list.until)]);
    let filter = AuditFilter {
        actor: list.actor.clone(),
        action: list.action.clone(),
        since_ns: times.time("since").map_err(refused)?,
        until_ns: times.time("until").map_err(refused)?,
    };
    let cursor = cursor(&list.paging)?;
    let found = intake.store.audit(&filter, cursor, usize::from(list.paging.limit)).await?;
    page(&found, list.paging.json, &["AT", "ACTOR", "ACTION", "TARGET", "DETAIL", "ADDRESS"], |entry| {
        vec![
            output::time(entry.at_ns),
            cut(&entry.actor, 40),
            entry.action.clone(),
            cut(&entry.target, 64),
            cut(&entry.detail, 80),
            entry.address.clone(),
        ]
    })
}

pub(super) async fn host_events(config: &Config, list: &HostEvents) -> anyhow::Result<ExitCode> {
    let intake = open(config).await?;
    let host = one_host(&intake, &list.host).await?;
    let cursor = cursor(&list.paging)?;
    let found = intake.store.host_events(&host, cursor, usize::from(list.paging.limit)).await?;
    let items = found.items.iter().map(|event| {
        let detail: serde_json::Value = serde_json::from_str(&event.detail).unwrap_or_default();
        serde_json::json!({
            "index": event.event, "time": json::time(event.at_ns.unsigned_abs()), "event": event.kind, "detail": detail,
        })
    });
    let found = Page { items: items.collect(), next: found.next.clone() };
    page(&found, list.paging.json, &["INDEX", "TIME", "EVENT", "DETAIL"], |event| {
        let text = |name: &str| {
            event.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let text = |name: &str| text(name).unwrap_or_default();
        vec![text("index"), text("time"), text("event"), cut(&text("detail"), 160)]
    })
}

pub(super) fn cursor(paging: &Paging) -> anyhow::Result<Option<i64>> {
    let cursor = paging.cursor.as_deref().map(str::parse).transpose();
    cursor.map_err(|_| anyhow::anyhow!("--cursor is what the list before this one ended with, a number"))
}
