//! What people do with the buttons in Slack, and the page on which they confirm whose account is theirs.
//!
//! Slack says who clicked, and no more than that: only who has confirmed here, signed in not long ago, that an account
//! is theirs decides as that account. What the account may is asked anew each time.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Request, State as Use};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use interlock_recording::fill_random;

use super::api::{Answer, done as api_done, list};
use super::guard::{Actor, lets_in};
use super::page::{Layout, done, show};
use super::params::{Fields, Params, body};
use super::problem::Problem;
use super::{State, secret, sha256};
use crate::administer::{self, By};
use crate::approvals::ask::slack::{self, About, Did, Slack};
use crate::approvals::ask::{Cover, is_whole, tame};
use crate::approvals::{self, Account, DecideError, Decision};
use crate::store::{Linked, Person, now_ns};

/// The most that Slack sends: it sends the message along.
const MOST: usize = 256 << 10;
/// Who links an account must have signed in no longer ago.
const FRESH: Duration = Duration::from_secs(300);
/// The name of the chat.
const CHAT: &str = "slack";

/// `POST /hooks/slack`: signed by Slack. It is answered at once; what comes of it is said in Slack.
pub(super) async fn hook(
    Use(state): Use<State>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (timestamp, signature) = (header("x-slack-request-timestamp"), header("x-slack-signature"));
    if state.config.slack.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "No Slack app is configured here."));
    }
    let bytes = body(request, MOST).await?;
    let refused = || {
        let detail = "The request is not signed by Slack for an app of this collector's, was signed more than five \
                      minutes ago, or was taken already.";
        Problem::new(StatusCode::UNAUTHORIZED, detail)
    };
    let mut apps = Vec::new();
    for candidate in &state.config.slack {
        match candidate.verify(&timestamp, &signature, &bytes) {
            Ok(()) => apps.push(candidate.clone()),
            Err(error) => tracing::debug!(ask = candidate.name(), "a request is not Slack's: {error:#}"),
        }
    }
    let did = if apps.is_empty() { None } else { slack::read(&bytes) };
    // The secret of one app is no word on who is who in the workspace of another.
    if let Some((by, _)) = &did {
        apps.retain(|app| app.is_of(by));
    }
    if apps.is_empty() {
        return Err(refused());
    }
    let mut write = state.store.write().await?;
    let new = write.see(&slack::digest(&signature), slack::REMEMBERED_NS).await?;
    write.commit().await?;
    if !new {
        return Err(refused());
    }
    if let Some((by, did)) = did {
        // Slack waits for three seconds, and a host may take longer.
        tokio::spawn(async move {
            if let Err(why) = act(&state, &apps, &by, did).await {
                tracing::warn!("somebody in Slack could not be answered: {why}");
            }
        });
    }
    Ok(StatusCode::OK.into_response())
}

/// Does what somebody wants, and says in Slack what came of it.
async fn act(state: &State, apps: &[Slack], by: &slack::By, did: Did) -> Result<(), String> {
    let about = match &did {
        Did::Clicked { about, .. } | Did::Said { about, .. } => about.clone(),
    };
    // One app may post into several channels, for other groups each.
    let Some(app) = apps.iter().find(|app| app.posts_in(&about.channel)).or(apps.first()) else {
        return Ok(());
    };
    let page = format!("{}/approvals/{}", state.config.url, about.id);
    let said = match decided(state, app, apps, by, &did, &about).await {
        Ok(Said::Nothing) => return Ok(()),
        Ok(Said::Text(text)) => (text, Some(("Look at it", page.as_str()))),
        Ok(Said::Link { url, code }) => {
            let text = format!(
                "To decide here, confirm that an account of the collector's is yours: open this within ten minutes, \
                 signed in there, and type the code {code}. Give neither to anybody: whoever confirms it lets you \
                 decide as them."
            );
            return app.whisper(&about.channel, &by.person, &text, Some(("Confirm my account", &url))).await;
        }
        Err(problem) => (problem.detail, Some(("Look at it", page.as_str()))),
    };
    app.whisper(&about.channel, &by.person, &said.0, said.1).await
}

/// What is said to somebody in Slack.
enum Said {
    /// Nothing: a question was put to them.
    Nothing,
    Text(String),
    /// Where to confirm whose account is theirs.
    Link {
        url: String,
        /// What is typed there.
        code: String,
    },
}

async fn decided(
    state: &State,
    app: &Slack,
    apps: &[Slack],
    by: &slack::By,
    did: &Did,
    about: &About,
) -> Result<Said, Problem> {
    let Some((name, owner)) = state.store.chat_account(CHAT, &by.app, &by.team, &by.person).await? else {
        return link(state, by).await;
    };
    // As of an API token: what the provider has not said for long may not be so any more.
    let providers = &state.config.providers;
    let since = now_ns().saturating_sub(providers.token_ns);
    let asked = owner.provider.is_empty() || owner.last_sign_in_ns.is_some_and(|last| last >= since);
    if !asked || !lets_in(providers, &owner.provider, &owner.issuer, owner.recovery_until_ns) {
        let text = "Your account does not count at the moment: sign in to the collector, then try again.";
        return Ok(Said::Text(text.to_owned()));
    }
    let account = Account::of(&state.store, &name, None).await?;
    let one = state.store.approval(&about.id).await?.ok_or_else(|| Problem::from(DecideError::NotFound))?;
    if !apps.iter().any(|app| app.serves(&one)) {
        let text = "Nobody is asked about this request here: decide on its page.";
        return Ok(Said::Text(text.to_owned()));
    }
    // Whoever may not decide is asked nothing; that they tried is written down.
    let may = !account.entitled(&one).is_empty();
    // A message of before may have a button that it would not have now.
    if may && about.approve.is_some() && !is_whole(&one) {
        let text = "Slack does not show all of this request: look at it on its page, and approve it there.";
        return Ok(Said::Text(text.to_owned()));
    }
    // Nor is a message's menu any word on what the rules let somebody approve.
    if may && about.approve.is_some_and(|cover| !cover.is_let(&one)) {
        let text = "The policy does not let this be approved so, or not for so long: look at it on its page.";
        return Ok(Said::Text(text.to_owned()));
    }
    let reason = match did {
        Did::Clicked { trigger, .. } if may && (about.approve.is_none() || one.told.reason_required) => {
            let what = match about.approve {
                None => "Refuse".to_owned(),
                Some(Cover::Once) => "Approve".to_owned(),
                Some(Cover::Shape(minutes)) => format!("Approve for {minutes} min"),
                Some(Cover::Session) => "Approve for the whole session".to_owned(),
            };
            let title = format!("{what} what {} asks for on {}?", one.item.user, one.item.host_name);
            app.ask_why(trigger, about, &tame(&title, 200)).await.map_err(Problem::internal)?;
            return Ok(Said::Nothing);
        }
        Did::Clicked { .. } => String::new(),
        Did::Said { reason, .. } => reason.clone(),
    };
    let decision = Decision {
        approve: about.approve.is_some(),
        scope: about.approve.map(|cover| cover.scope().to_owned()).unwrap_or_default(),
        minutes: about.approve.and_then(Cover::minutes),
        reason,
        via: CHAT,
    };
    let who = format!("{name} via {CHAT}");
    let by = By { who: &who, address: "" };
    let vote = approvals::decide(&state.intake, by, &account, &about.id, &decision).await?;
    let vote = approvals::answer(&state.intake, &vote).await?;
    let word = if about.approve.is_some() { "approval" } else { "refusal" };
    Ok(Said::Text(match vote.as_ref().map(|vote| vote.state.as_str()) {
        Some("counted") => format!("Your {word} counts."),
        Some("refused") => {
            let why = vote.map(|vote| vote.why).unwrap_or_default();
            format!("The host does not count your {word}: {}.", tame(&why, 300))
        }
        _ => format!(
            "Your {word} is on its way; the host has not answered yet. The message here says what came of it."
        ),
    }))
}

/// A link with which somebody in Slack confirms, once, whose account is theirs.
async fn link(state: &State, by: &slack::By) -> Result<Said, Problem> {
    let token = secret()?;
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    let code = format!("{:06}", u64::from_le_bytes(bytes) % 1_000_000);
    let of = Person {
        chat: CHAT.to_owned(),
        app: by.app.clone(),
        team: by.team.clone(),
        person: by.person.clone(),
        name: by.name.clone(),
    };
    let expires_ns = after(slack::LINK);
    let mut write = state.store.write().await?;
    write.add_chat_link_token(&sha256(&token), &with_code(&token, &code), &of, expires_ns).await?;
    write.commit().await?;
    Ok(Said::Link { url: format!("{}/account/link/{token}", state.config.url), code })
}

fn after(time: Duration) -> i64 {
    now_ns().saturating_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

/// What is kept of a code: with the token, or it could be guessed from its hash.
fn with_code(token: &str, code: &str) -> String {
    sha256(&format!("{token} {code}"))
}

#[derive(Template)]
#[template(path = "link.html")]
struct LinkPage {
    page: Layout,
    person: Person,
    token: String,
}

fn gone() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "This link counts no longer: it counts once, for ten minutes, until another is asked for, and not for whom \
         another account is linked to. Click a button of a message in Slack again.",
    )
}

fn not_linked(why: &Linked) -> Problem {
    let detail = match why {
        Linked::Code => {
            "This is not the code that stands with the link in Slack, and the link is used up. If it was you who \
             clicked there, click again."
        }
        Linked::Another => {
            "Your account is linked to another user of this workspace: unlink that one on your account's page first. \
             If you have not clicked in Slack yourself, somebody wants to decide as you: tell your administrators."
        }
        Linked::Taken => "This user in Slack is linked to another account already.",
        Linked::Gone | Linked::Done(_) => return gone(),
    };
    Problem::new(StatusCode::CONFLICT, detail)
}

/// To where one shows once more who it is, if that was not done just now.
fn again(actor: &Actor, token: &str) -> Option<Response> {
    let fresh = i64::try_from(FRESH.as_nanos()).unwrap_or(i64::MAX);
    let at = actor.authenticated_ns.filter(|at| *at > 0);
    if at.is_some_and(|at| now_ns().saturating_sub(at) <= fresh) {
        return None;
    }
    let back = format!("/account/link/{token}");
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("back", &back).finish();
    Some(Redirect::to(&format!("/account/again?{query}")).into_response())
}

/// `GET /account/link/{token}`
pub(super) async fn link_page(
    Use(state): Use<State>,
    actor: Actor,
    Path(token): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let person = state.store.chat_link_token(&sha256(&token)).await?.ok_or_else(gone)?;
    if let Some(again) = again(&actor, &token) {
        return Ok(again);
    }
    let page = Layout::new(&state, actor, "account", "Confirm your account", None).await?;
    show(StatusCode::OK, &LinkPage { page, person, token })
}

/// `POST /account/link/{token}`
pub(super) async fn confirm_link(
    Use(state): Use<State>,
    actor: Actor,
    Path(token): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    if let Some(again) = again(&actor, &token) {
        return Ok(again);
    }
    let mut write = state.store.write().await?;
    let code = with_code(&token, fields.exact("code").trim());
    let linked = write.link_chat(&sha256(&token), &code, &actor.name, after(slack::LINKED)).await?;
    let person = match linked {
        Linked::Done(person) => person,
        // Used up also by whom it does not link.
        not => {
            write.commit().await?;
            return Err(not_linked(&not));
        }
    };
    let detail = format!("{}: {} ({} in {})", person.chat, person.name, person.person, person.team);
    write.audit(&actor.trail(), "account.link", &actor.name, &detail, &actor.address).await?;
    write.commit().await?;
    Ok(done("/account", "linked"))
}

async fn end(state: &State, actor: &Actor, account: &str, of: &Person) -> Result<(), Problem> {
    let trail = actor.trail();
    let by = By { who: &trail, address: &actor.address };
    Ok(administer::end_chat_link(&state.store, by, account, of).await?)
}

/// `GET /api/v1/users/{name}/links`
pub(super) async fn links_of(Use(state): Use<State>, Path(name): Path<String>) -> Answer {
    if state.store.user(&name).await?.is_none() {
        return Err(Problem::not_found("account"));
    }
    list(&state.store.chat_links(&name).await?)
}

/// `DELETE /api/v1/users/{name}/links/{chat}/{app}/{team}/{person}`: an administrator ends a link. Nobody makes one for
/// somebody else.
pub(super) async fn end_link_of(
    Use(state): Use<State>,
    actor: Actor,
    Path((account, chat, app, team, person)): Path<(String, String, String, String, String)>,
) -> Answer {
    end(&state, &actor, &account, &Person { chat, app, team, person, name: String::new() }).await?;
    api_done()
}

/// `POST /account/links/end`
pub(super) async fn end_link(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let field = |name: &str| fields.exact(name).to_owned();
    let of = Person {
        chat: field("chat"),
        app: field("app"),
        team: field("team"),
        person: field("person"),
        name: String::new(),
    };
    end(&state, &actor, &actor.name, &of).await?;
    Ok(done("/account", "unlinked"))
}
