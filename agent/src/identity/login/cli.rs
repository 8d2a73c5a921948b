//! `interlock login`, `logout` and `whoami`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use interlock_recording::text::printable;
use oauth2::url::Url;
use serde_json::{Value, json};

use super::loopback::Loopback;
use super::{Begun, Way};
use crate::cli::output;
use crate::config::Config;
use crate::control::{Request, ask};

/// Exit code of `whoami` when there is no verified identity.
const NOBODY: u8 = 3;

/// Arguments of `interlock login`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Whoever signs in at the identity provider is from then on who stands behind this login session: \
    policies see the person and their groups, whatever sudo or su make of the user. Where the kernel has no login \
    session (containers, no pam_loginuid) it counts for the shell that this is run in, and what that starts.\n\n\
    It ends with `interlock logout`, with the session, when the provider says so, when its time is over, and when \
    the agent is started again.\n\n\
    Never sign in with a code that somebody has sent you: it would count for their session."
)]
pub(crate) struct LoginArgs {
    /// Where to sign in, as agent.yaml names it; needed where it names several.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Show an address and a code to be used on any device. The default without a display.
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// Sign in with a browser on this host.
    #[arg(long)]
    browser: bool,
    /// Have the provider ask anew who you are, though you are signed in there: rules that ask for a fresh sign-in of
    /// who approves take no older one. Who is signed in here stays so if it fails.
    #[arg(long)]
    fresh: bool,
    /// Print JSON: a line to begin with, and one when somebody has signed in.
    #[arg(long)]
    json: bool,
}

/// Arguments of `interlock logout`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 when nobody is signed in (any more).")]
pub(crate) struct LogoutArgs {}

/// Arguments of `interlock whoami`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 0 when the agent sees a verified person or workload behind this process, with 3 when it \
    sees none, and with 1 when it cannot be asked."
)]
pub(crate) struct WhoamiArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

type Load<'l> = &'l dyn Fn() -> anyhow::Result<Config>;

/// The configuration may be readable by root alone; whoever signs in is somebody else.
fn run_directory(load: Load<'_>) -> anyhow::Result<PathBuf> {
    match load() {
        Ok(config) => Ok(config.run),
        Err(_) if !rustix::process::geteuid().is_root() => Ok(Config::default().run),
        Err(error) => Err(error),
    }
}

/// Signs in.
///
/// # Errors
/// No agent answers, or nobody is signed in.
pub(crate) fn login(args: &LoginArgs, load: Load<'_>) -> anyhow::Result<ExitCode> {
    let run = run_directory(load)?;
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let display = (set("DISPLAY") || set("WAYLAND_DISPLAY")) && !set("SSH_CONNECTION");
    let loopback = if args.browser || display && !args.device {
        Some(Loopback::open().context("cannot listen for the browser to come back; use --device")?)
    } else {
        None
    };
    let way = loopback.as_ref().map_or(Way::Device, |loopback| Way::Browser { port: loopback.port() });
    let begun = ask(&run, &Request::SignIn { issuer: args.issuer.clone(), way, fresh: args.fresh })?;
    let begun: Begun = serde_json::from_value(begun).context("the agent is of another version")?;
    if args.json {
        print_json(&json!({
            "issuer": begun.issuer, "url": begun.url, "complete_url": begun.complete_url, "code": begun.code,
            "seconds": begun.seconds, "who": begun.who, "place": begun.place, "note": begun.note,
        }))?;
    } else {
        output::print(&invitation(&begun))?;
    }
    let signed_in = match loopback {
        None => loop {
            let answer = ask(&run, &Request::SignInWait { id: begun.id.clone() })?;
            if !answer.is_null() {
                break answer;
            }
        },
        Some(loopback) => with_browser(&run, &begun, &loopback, display)?,
    };
    if args.json {
        print_json(&signed_in)?;
    } else {
        output::print(&welcome(&signed_in))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for the browser, and hands on what it brings.
fn with_browser(
    run: &std::path::Path,
    begun: &Begun,
    loopback: &Loopback,
    display: bool,
) -> anyhow::Result<Value> {
    let url = Url::parse(&begun.url).context("the agent gave no address to open")?;
    let state = url.query_pairs().find(|(name, _)| name == "state").map(|(_, value)| value.into_owned());
    let state = state.context("the agent gave no address to open")?;
    if display {
        // Its trouble is told by the address that stands there, too.
        let mut opener = Command::new("xdg-open");
        let _ =
            opener.arg(&begun.url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
    let until = Instant::now() + Duration::from_secs(begun.seconds);
    let Some(visit) = loopback.wait(&state, until, is_own)? else {
        bail!("nobody signed in at {} in time: run `interlock login` again", printable(&begun.issuer));
    };
    let request = Request::SignInBrought { id: begun.id.clone(), brought: visit.brought.clone() };
    match ask(run, &request) {
        Ok(signed_in) => {
            let text = format!("{}. You can close this page.", begun.who);
            visit.answer(200, &format!("Signed in as {}", name(&signed_in)), &text);
            Ok(signed_in)
        }
        Err(error) => {
            visit.answer(403, "Not signed in", &error.to_string());
            Err(error.into())
        }
    }
}

/// Whether a browser of this user may come back: this user's, or that of who logged in (`sudo`).
fn is_own(uid: u32) -> bool {
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    let login: Option<u32> = login.and_then(|text| text.trim().parse().ok());
    uid == rustix::process::getuid().as_raw() || login == Some(uid)
}

/// Signs out.
///
/// # Errors
/// No agent answers.
pub(crate) fn logout(_args: &LogoutArgs, load: Load<'_>) -> anyhow::Result<ExitCode> {
    let answer = ask(&run_directory(load)?, &Request::SignOut)?;
    output::print(&match answer["person"].as_object() {
        Some(_) => format!("{} is signed out\n", name(&answer)),
        None => "nobody is signed in here\n".to_owned(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Tells who the agent sees.
///
/// # Errors
/// No agent answers.
pub(crate) fn whoami(args: &WhoamiArgs, load: Load<'_>) -> anyhow::Result<ExitCode> {
    let answer = ask(&run_directory(load)?, &Request::Whoami)?;
    if args.json {
        print_json(&answer)?;
    } else {
        output::print(&seen(&answer))?;
    }
    let known = answer["person"].is_object() || answer["workload"].is_object();
    Ok(if known { ExitCode::SUCCESS } else { ExitCode::from(NOBODY) })
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    let mut line = Vec::new();
    output::json_line(&mut line, value)?;
    output::print(&String::from_utf8_lossy(&line))
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn name(answer: &Value) -> String {
    printable(text(&answer["person"], "name")).into_owned()
}

fn list(value: &Value, key: &str) -> String {
    let items = value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    printable(&items.collect::<Vec<_>>().join(", ")).into_owned()
}

/// What to do to sign in.
fn invitation(begun: &Begun) -> String {
    let mut out = format!("To sign in at {} for {}, open\n", printable(&begun.issuer), printable(&begun.who));
    let url = begun.complete_url.as_deref().unwrap_or(&begun.url);
    let _ = writeln!(out, "\n    {}\n", printable(url));
    match &begun.code {
        Some(code) => {
            if begun.complete_url.is_some() {
                let _ = writeln!(
                    out,
                    "on any device, and see that it shows this code (or type it at {}):",
                    printable(&begun.url)
                );
            } else {
                let _ = writeln!(out, "on any device, and type this code:");
            }
            let _ = writeln!(out, "\n    {}\n", printable(code));
            let _ = writeln!(
                out,
                "Whoever signs in with it is who stands behind this session. It counts for {} min.",
                begun.seconds.div_ceil(60)
            );
        }
        None => {
            let _ = writeln!(out, "in a browser on this host.");
        }
    }
    let _ = writeln!(out, "It will count for {}.", begun.place);
    if let Some(note) = &begun.note {
        let _ = writeln!(out, "Not for the login session: {}.", printable(note));
    }
    out
}

fn welcome(answer: &Value) -> String {
    let person = &answer["person"];
    let mut out = format!(
        "signed in as {} ({}), until {}\n",
        name(answer),
        printable(text(person, "issuer_name")),
        printable(text(answer, "until"))
    );
    let groups = list(person, "groups");
    let _ = writeln!(out, "groups: {}", if groups.is_empty() { "none" } else { &groups });
    if let Some(before) = answer["replaced"].as_str() {
        let _ = writeln!(out, "{} is signed out", printable(before));
    }
    for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(out, "note: {}", printable(note));
    }
    out
}

/// Who the agent sees, for a human.
fn seen(answer: &Value) -> String {
    let mut out = String::new();
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<13}{}", printable(value));
        }
    };
    let id = |key: &str| answer[key].as_u64().map(|id| id.to_string()).unwrap_or_default();
    let named = |user: &str, uid: String| match (user.is_empty(), uid.is_empty()) {
        (_, true) => String::new(),
        (true, _) => format!("uid {uid}"),
        (false, _) => format!("{user} (uid {uid})"),
    };
    field("user", &named(text(answer, "user"), id("uid")));
    field("login user", &named(text(answer, "login_user"), id("login_uid")));
    field("session", &id("login_session"));
    for (kind, key) in [("person", "person"), ("workload", "workload")] {
        let one = &answer[key];
        if !one.is_object() {
            continue;
        }
        field(
            kind,
            &format!("{} ({} at {})", text(one, "name"), text(one, "subject"), text(one, "issuer_name")),
        );
        field("issuer", text(one, "issuer"));
        field("groups", &list(one, "groups"));
        field("signed in", text(one, "since"));
        field("until", text(one, "until"));
        field("counts for", text(one, "place"));
    }
    for (what, key) in [("person", "no_person"), ("workload", "no_workload")] {
        field(what, text(answer, key));
    }
    for note in answer["notes"].as_array().into_iter().flatten() {
        field("note", note.as_str().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    #[test]
    fn nothing_of_a_provider_reaches_the_terminal_as_a_command() {
        let evil = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}x\r";
        let begun = Begun {
            id: evil.into(),
            issuer: evil.into(),
            url: evil.into(),
            complete_url: Some(evil.into()),
            code: Some(evil.into()),
            seconds: 600,
            who: evil.into(),
            place: Place::Tree { pid: 7, start: 1 },
            note: Some(evil.into()),
        };
        let person = json!({
            "name": evil, "issuer_name": evil, "issuer": evil, "subject": evil, "groups": [evil], "until": evil,
            "since": evil, "place": evil,
        });
        let answer = json!({
            "person": person, "workload": person, "until": evil, "replaced": evil, "user": evil, "uid": 1,
            "login_user": evil, "login_uid": 1, "no_person": evil, "no_workload": evil, "notes": [evil],
        });
        for shown in [invitation(&begun), welcome(&answer), seen(&answer)] {
            let bad = |c: char| interlock_recording::text::is_unprintable(c) && c != '\n';
            assert!(!shown.contains(bad), "{shown:?}");
        }
    }

    #[test]
    fn who_is_to_sign_in_and_for_what_is_told() {
        let begun = Begun {
            id: String::new(),
            issuer: "okta".into(),
            url: "https://id.example/device".into(),
            complete_url: Some("https://id.example/device?user_code=ABCD-EFGH".into()),
            code: Some("ABCD-EFGH".into()),
            seconds: 599,
            who: "root (logged in as alice) on db1".into(),
            place: Place::Session { session: 52, login_uid: 1000 },
            note: None,
        };
        let shown = invitation(&begun);
        for part in [
            "okta",
            "root (logged in as alice) on db1",
            "?user_code=ABCD-EFGH",
            "\n    ABCD-EFGH\n",
            "10 min",
            "login session 52",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
