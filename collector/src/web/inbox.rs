//! The inbox: what waits for approval, one request with all that is known of it, and the forms to decide on it.

use std::convert::Infallible;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use interlock_recording::proto::Subject;
use interlock_shipping::v1::{ApprovalBeforehand, ApprovalBy, ApprovalStatement};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use zeroize::Zeroizing;

use super::State;
use super::approvals::{account, decide, find, reviewed, sees};
use super::filters;
use super::guard::Actor;
use super::lists::{Chip, More, chips};
use super::page::{Layout, Notice, done, show};
use super::params::{APPROVAL_STATES, APPROVALS, Fields, PAGING, Params};
use super::problem::Problem;
use super::session::Identity;
use super::sign_in;
use super::{actions, display};
use crate::approvals::ask::estimate;
use crate::approvals::{Account, Decision};
use crate::store::{Approval, Page, Vote, WholeApproval, now_ns};

/// After so long a browser asks again, as browsers do by themselves: rights are then looked at anew.
const LONGEST: Duration = Duration::from_secs(300);
/// A browser is told at least this often to look again, and no more often than that.
const TICK: Duration = Duration::from_secs(15);
const APART: Duration = Duration::from_millis(300);
/// How often it is looked for what other collectors took in.
const LOOK: Duration = Duration::from_secs(1);

/// What is asked for, and the page of it.
struct Listed {
    items: Vec<Approval>,
    more: More,
    /// Only what waits is shown.
    pending: bool,
    now: i64,
}

#[derive(Template)]
#[template(path = "approvals.html")]
struct InboxPage<'p> {
    page: Layout,
    params: &'p Params,
    listed: Listed,
    chips: Vec<Chip>,
    groups: Vec<String>,
    all: bool,
    query: String,
    states: [&'static str; 8],
}

impl InboxPage<'_> {
    fn value(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or_default()
    }

    fn state(&self) -> &str {
        self.params.get("state").unwrap_or("pending")
    }

    // The part of the page that is fetched anew is a template of its own, which asks for these.
    fn open(&self) -> i64 {
        self.page.approvals
    }
}

/// The list alone, which the page's script puts in the place of the one that is there.
#[derive(Template)]
#[template(path = "approvals_list.html")]
struct InboxPart {
    listed: Listed,
    open: i64,
}

impl InboxPart {
    fn open(&self) -> i64 {
        self.open
    }
}

async fn listed(state: &State, actor: &Actor, account: &Account, params: &Params) -> Result<Listed, Problem> {
    params.only(&[APPROVALS, PAGING, &["done"]])?;
    let mut filter = params.approvals(&state.store, sees(actor, account)).await?;
    filter.state.get_or_insert_with(|| "pending".to_owned());
    let limit = params.limit()?;
    let page: Page<Approval> = state.store.approvals(&filter, params.number("cursor")?, limit).await?;
    let pending = filter.state.as_deref() == Some("pending");
    Ok(Listed { more: More::new(params, &page, limit), items: page.items, pending, now: now_ns() })
}

/// `GET /approvals`
pub(super) async fn inbox(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    let account = account(&state, &actor).await?;
    let listed = listed(&state, &actor, &account, &params).await?;
    let chips = chips(&params, APPROVALS);
    let all = sees(&actor, &account).is_none();
    let query = Params(params.0.iter().filter(|(key, _)| key != "done").cloned().collect()).with("", "");
    let notice = Notice::done(params.get("done"));
    let layout = Layout::new(&state, actor, "approvals", "Approvals", notice).await?;
    let groups = account.owner.groups;
    let states = APPROVAL_STATES;
    let page = InboxPage { page: layout, params: &params, listed, chips, groups, all, query, states };
    show(StatusCode::OK, &page)
}

/// `GET /approvals/list`: the list alone.
pub(super) async fn list(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    let account = account(&state, &actor).await?;
    let listed = listed(&state, &actor, &account, &params).await?;
    let open = state.store.open_approvals(Some(&account.owner.groups)).await?;
    show(StatusCode::OK, &InboxPart { listed, open })
}

/// `GET /approvals/follow`: server-sent events `changed` when the inbox is to be looked at again.
pub(super) async fn follow(Use(state): Use<State>, actor: Actor) -> Result<Response, Problem> {
    let Ok(permit) = state.followers.clone().try_acquire_owned() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are being followed. Reload the page from time to time instead.",
        ));
    };
    let (to, from) = mpsc::channel::<Result<Event, Infallible>>(4);
    let mut last = state.store.approvals_state().await?;
    tokio::spawn(async move {
        let _permit = permit;
        let mut changed = state.connected.changed();
        let end = Instant::now() + LONGEST;
        let (mut told, mut looked) = (Instant::now(), Instant::now());
        loop {
            let quiet = Instant::now() + APART;
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep_until(Instant::now() + LOOK) => {}
                () = sleep_until(end) => return,
                () = to.closed() => return,
            }
            sleep_until(quiet).await;
            let Ok(now) = state.store.approvals_state().await else { return };
            if now == last && told.elapsed() < TICK {
                continue;
            }
            // Whoever has been signed out follows nothing any more.
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                let signed_in = state.store.sign_ins(&actor.name, state.idle_ns()).await;
                if !signed_in.is_ok_and(|all| all.iter().any(|sign_in| sign_in.id == actor.sign_in())) {
                    return;
                }
            }
            (last, told) = (now, Instant::now());
            if to.send(Ok(Event::default().event("changed").data("."))).await.is_err() {
                return;
            }
        }
    });
    Ok(Sse::new(ReceiverStream::new(from)).keep_alive(KeepAlive::default()).into_response())
}

/// Somebody who decided on the host, or whom it counts.
struct Decided {
    who: String,
    what: &'static str,
    reason: String,
}

/// How a request stands.
struct Standing {
    item: Approval,
    /// What rules ask for, one line each.
    needs: Vec<String>,
    counted: Vec<Decided>,
    missing: i64,
    /// How it ended, in words; empty while it is open.
    outcome: String,
    /// What was decided here and has not been counted.
    votes: Vec<Vote>,
}

impl Standing {
    fn new(one: &WholeApproval, votes: Vec<Vote>) -> Self {
        let needs = one.told.quorums.iter().map(|quorum| {
            let groups = quorum.groups.join(if quorum.all_of { " and " } else { " or " });
            let via = match quorum.via.as_slice() {
                [only] if only == "host" => ", on the host",
                [only] if only == "collector" => ", here",
                _ => "",
            };
            let each = if quorum.all_of && quorum.groups.len() > 1 { ", one of each" } else { "" };
            format!("{} of {groups}{each}{via} (rule {})", quorum.needed, quorum.rule)
        });
        let counted = one.standing.votes.iter().map(|vote| Decided {
            who: who(vote.by.as_ref()),
            what: match vote.scope.as_str() {
                "shape" => "this shape, for a time",
                "session" => "what the rule holds in this session",
                _ => "this command",
            },
            reason: vote.reason.clone(),
        });
        let by = who(one.standing.by.as_ref());
        let by = if by.is_empty() { by } else { format!(" by {by}") };
        let reason = match one.standing.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        let outcome = match one.item.state.as_str() {
            "pending" => String::new(),
            "broken_glass" => format!("It went through unapproved{by}{reason}"),
            state => format!("{}{by}{reason}", display::sentence(state)),
        };
        Self {
            needs: needs.collect(),
            counted: counted.collect(),
            missing: i64::from(one.standing.missing),
            outcome,
            votes: votes.into_iter().filter(|vote| vote.state != "counted").collect(),
            item: one.item.clone(),
        }
    }
}

fn who(by: Option<&ApprovalBy>) -> String {
    match by {
        Some(by) if by.login.is_empty() || by.login == by.name => format!("{} ({})", by.name, by.via),
        Some(by) => format!("{} (logged in as {}, {})", by.name, by.login, by.via),
        None => String::new(),
    }
}

/// What one statement does.
struct Does {
    kinds: String,
    /// What it reads, writes and calls, by name.
    objects: Vec<(&'static str, String)>,
    /// What should make one look twice.
    warnings: Vec<String>,
}

impl Does {
    fn new(does: &ApprovalStatement) -> Self {
        let objects = [
            ("reads", &does.reads),
            ("writes", &does.writes),
            ("calls", &does.functions),
            ("amounts to", &does.classes),
        ];
        let objects = objects.into_iter().filter(|(_, names)| !names.is_empty());
        let mut warnings = Vec::new();
        match does.r#where.as_str() {
            "missing" => warnings.push("no WHERE: every row".to_owned()),
            "always_true" => warnings.push("its WHERE is always true: every row".to_owned()),
            _ => {}
        }
        if does.limit == "missing" {
            warnings.push("no LIMIT".to_owned());
        }
        if does.dynamic {
            warnings.push("runs text that is not known".to_owned());
        }
        if !does.unparsed.is_empty() {
            warnings.push(does.unparsed.clone());
        }
        Self {
            kinds: does.kinds.join(", "),
            objects: objects.map(|(name, names)| (name, names.join(", "))).collect(),
            warnings,
        }
    }
}

#[derive(Template)]
#[template(path = "approval.html")]
struct ApprovalPage {
    page: Layout,
    standing: Standing,
    now: i64,
    text: String,
    runs: Vec<String>,
    redacted: bool,
    params: Vec<(usize, Option<String>)>,
    omitted: i64,
    does: Vec<Does>,
    /// How many rows it is expected to touch, in words; empty where nobody has asked.
    rows: String,
    facts: Vec<(&'static str, String)>,
    identity: Identity,
    alike: Vec<Approval>,
    scopes: Vec<String>,
    minutes: u64,
    reason_required: bool,
    fresh_minutes: u64,
    message: String,
    /// It was asked for before the command is sent; in the asker's own words: why, and which program will send it.
    beforehand: Option<ApprovalBeforehand>,
    /// What has started the process that asks, where nobody sits in front of it.
    started_by: String,
    break_glass: bool,
    /// Why whoever looks cannot decide, or not approve; empty when they can.
    cannot_decide: String,
    cannot_approve: String,
    /// They have to sign in again first, and how.
    again: Option<String>,
    reviews: bool,
}

impl ApprovalPage {
    /// A shape can be approved.
    fn shapes(&self) -> bool {
        self.scopes.iter().any(|scope| scope == "shape")
    }
}

#[derive(Template)]
#[template(path = "approval_part.html")]
struct ApprovalPart {
    standing: Standing,
    now: i64,
}

async fn page(state: &State, actor: Actor, id: &str, notice: Option<Notice>) -> Result<Response, Problem> {
    let account = account(state, &actor).await?;
    let one = find(state, &actor, &account, id).await?;
    if one.item.id != id {
        return Ok(Redirect::to(&format!("/approvals/{}", one.item.id)).into_response());
    }
    if notice.is_none() {
        actions::noted(state, &actor, "approval.view", id, "").await?;
    }
    let votes = state.store.approval_votes(id).await?;
    let alike = state.store.approvals_alike(&one, sees(&actor, &account).as_deref()).await?;
    let told = &one.told;
    let entitled = !account.entitled(&one).is_empty();
    let pending = one.item.state == "pending";
    let mut cannot_decide = String::new();
    if pending && !entitled {
        cannot_decide = "You see it, and do not decide on it: members of the groups that it names do.".into();
    } else if pending && account.asks(&one) {
        cannot_decide =
            "You ask for it yourself, as far as can be told by your names: somebody else decides.".into();
    }
    let here = told.quorums.iter().any(|quorum| {
        let takes = quorum.via.is_empty() || quorum.via.iter().any(|via| via == "collector");
        takes && quorum.groups.iter().any(|group| account.owner.groups.contains(group))
    });
    let cannot_approve = if told.collector != "decide" {
        "This host takes no approvals from its collector, only refusals. Approve it on the host: \
         interlock approvals approve"
            .to_owned()
    } else if !here {
        "The policy takes approvals only on the host: interlock approvals approve".to_owned()
    } else if !account.is_verified(&one) {
        "The policy takes approvals only of people whom an identity provider has verified. Sign in by an account of \
         your provider, or approve it on the host after `interlock login`: interlock approvals approve"
            .to_owned()
    } else {
        String::new()
    };
    let back = form_urlencoded::Serializer::new(String::new())
        .append_pair("back", &format!("/approvals/{id}"))
        .finish();
    let again = (pending && !account.is_fresh(&one)).then(|| match actor.provider.as_str() {
        "" => format!("/account/again?{back}"),
        provider => format!("/sign-in/with/{provider}?again=true&{back}"),
    });
    let subject = Subject::decode(&*told.subject).unwrap_or_default();
    let mut facts = vec![
        ("Host", one.item.host_name.clone()),
        ("Server", format!("{} {}", told.server, told.hosts.join(", "))),
        ("Database", told.database.clone()),
        ("As database user", told.db_user.clone()),
        ("Transaction", told.transaction.clone()),
        (
            "Step",
            match &told.beforehand {
                Some(_) => told.step.clone(),
                None => format!("{}, command {} of the session", told.step, told.command),
            },
        ),
        ("Digest", interlock_recording::hex(&one.digest)),
    ];
    facts.retain(|(_, value)| !value.trim().is_empty());
    let title = format!("Approval {}", one.item.request);
    let reviews = one.item.state == "broken_glass"
        && one.item.reviewed_ns.is_none()
        && entitled
        && !account.asks(&one)
        && !account.has_decided(&one, &votes);
    let layout = Layout::new(state, actor, "approvals", title, notice).await?;
    let shown = ApprovalPage {
        now: now_ns(),
        text: told.text.clone(),
        runs: told.runs.clone(),
        redacted: told.redacted,
        params: (1..).zip(told.params.iter().map(|param| param.value.clone())).collect(),
        omitted: i64::try_from(told.omitted_params).unwrap_or(i64::MAX),
        does: told.statements.iter().map(Does::new).collect(),
        rows: told.estimate.as_ref().map(estimate).unwrap_or_default(),
        facts,
        identity: Identity::new(&subject),
        alike,
        scopes: told.scopes.clone(),
        minutes: (told.shape_for_seconds / 60).max(1),
        reason_required: told.reason_required,
        fresh_minutes: told.fresh_seconds.div_ceil(60),
        message: told.message.clone(),
        beforehand: told.beforehand.clone(),
        started_by: told.started_by.clone(),
        break_glass: told.break_glass,
        cannot_decide,
        cannot_approve,
        again,
        reviews,
        standing: Standing::new(&one, votes),
        page: layout,
    };
    show(shown.page.status(), &shown)
}

/// `GET /approvals/{id}`
pub(super) async fn approval(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    page(&state, actor, &id, Notice::done(params.get("done"))).await
}

/// `GET /approvals/{id}/standing`: how it stands, alone.
pub(super) async fn standing(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let account = account(&state, &actor).await?;
    let one = find(&state, &actor, &account, &id).await?;
    let votes = state.store.approval_votes(&one.item.id).await?;
    show(StatusCode::OK, &ApprovalPart { standing: Standing::new(&one, votes), now: now_ns() })
}

/// The page again with what became of a decision.
async fn decided(
    state: &State,
    actor: Actor,
    id: &str,
    result: Result<Vote, Problem>,
) -> Result<Response, Problem> {
    let vote = match result {
        Ok(vote) => vote,
        Err(problem) if problem.is_theirs() && problem.status != StatusCode::NOT_FOUND => {
            return page(state, actor, id, Some(Notice::bad(&problem))).await;
        }
        Err(problem) => return Err(problem),
    };
    let code = match (vote.state.as_str(), vote.approve) {
        ("counted", false) => "approval-denied",
        ("counted", true) if vote.missing > 0 => "approval-counted",
        ("counted", true) => "approval-approved",
        ("given", _) => "approval-given",
        _ => {
            let notice = Notice { good: false, text: format!("The host does not count it: {}.", vote.why) };
            return page(state, actor, id, Some(notice)).await;
        }
    };
    Ok(done(&format!("/approvals/{id}"), code))
}

/// `POST /approvals/{id}/approve`
pub(super) async fn approve(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let minutes = fields.number("minutes")?.and_then(|minutes| u32::try_from(minutes).ok());
    let decision = Decision {
        approve: true,
        scope: fields.get("scope").unwrap_or("once").to_owned(),
        minutes,
        reason: fields.exact("reason").to_owned(),
        via: "web",
    };
    let result = decide(&state, &actor, &id, &decision).await;
    decided(&state, actor, &id, result).await
}

/// `POST /approvals/{id}/deny`
pub(super) async fn deny(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let reason = fields.exact("reason").to_owned();
    let decision = Decision { approve: false, scope: String::new(), minutes: None, reason, via: "web" };
    let result = decide(&state, &actor, &id, &decision).await;
    decided(&state, actor, &id, result).await
}

/// `POST /approvals/{id}/review`
pub(super) async fn review(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    match reviewed(&state, &actor, &id, fields.exact("reason")).await {
        Ok(()) => Ok(done(&format!("/approvals/{id}"), "approval-reviewed")),
        Err(problem) if problem.is_theirs() && problem.status != StatusCode::NOT_FOUND => {
            page(&state, actor, &id, Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

#[derive(Template)]
#[template(path = "again.html")]
struct AgainPage<'p> {
    page: Layout,
    back: &'p str,
    codes: bool,
    /// The account comes from a provider, which is asked instead.
    provider: String,
    query: String,
}

async fn again_page(
    state: &State,
    actor: Actor,
    back: &str,
    notice: Option<Notice>,
) -> Result<Response, Problem> {
    let known = state.store.credentials(&actor.name).await?;
    let codes = known.is_some_and(|known| known.totp_secret.is_some());
    let provider = actor.provider.clone();
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("back", back).finish();
    let page = Layout::new(state, actor, "account", "Sign in again", notice).await?;
    show(page.status(), &AgainPage { page, back, codes, provider, query })
}

/// `GET /account/again`: shows once more who it is, before what a browser left open must not allow.
pub(super) async fn again(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    params.only(&[&["back"]])?;
    let back = sign_in::back(params.get("back").unwrap_or("/approvals")).to_owned();
    again_page(&state, actor, &back, None).await
}

/// `POST /account/again`
pub(super) async fn sign_in_again(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let back = sign_in::back(fields.get("back").unwrap_or("/approvals")).to_owned();
    let given = Zeroizing::new(fields.exact("password").to_owned());
    match sign_in::once_more(&state, &actor, given, fields.get("code").unwrap_or_default()).await {
        Ok(()) => Ok(Redirect::to(&back).into_response()),
        Err(problem) if problem.is_theirs() => {
            again_page(&state, actor, &back, Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}
