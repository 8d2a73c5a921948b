//! Signing in and out, and the very first account.

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use zeroize::Zeroizing;

use super::actions;
use super::guard::{Actor, Cookies, Visitor};
use super::page::show;
use super::params::{Fields, Params};
use super::problem::Problem;
use super::role::Role;
use super::{State, password, secret, sha256, totp};
use crate::sign_in::Provider;
use crate::store::{Credentials, NewSignIn, Write, now_ns};

/// Wrong guesses within [`WINDOW_NS`]: at one account from one address, at one account from all of them (so that
/// nobody keeps its owner out alone), and from one address.
const BY_BOTH: i64 = 10;
const BY_ACCOUNT: i64 = 100;
const BY_ADDRESS: i64 = 60;
/// After so long guesses are taken anew.
const WINDOW_NS: i64 = 15 * 60 * 1_000_000_000;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'p> {
    csrf: &'p str,
    name: &'p str,
    back: &'p str,
    error: &'p str,
    /// Passwords count.
    local: bool,
    /// They do not, but for accounts that are being recovered.
    recovery: bool,
    providers: Vec<Button<'p>>,
    left: Option<Left<'p>>,
}

/// Leads to an identity provider.
struct Button<'p> {
    name: &'p str,
    label: &'p str,
    query: String,
}

/// The identity provider of who has just signed out.
struct Left<'p> {
    label: &'p str,
    /// Where one signs out of it too; empty when there is no such place.
    url: String,
}

impl<'p> SignInPage<'p> {
    fn new(state: &'p State, visitor: &'p Visitor, back: &'p str) -> Self {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("back", back).finish();
        let button = |provider: &'p Provider| Button {
            name: provider.name(),
            label: provider.label(),
            query: query.clone(),
        };
        Self {
            csrf: &visitor.csrf,
            name: "",
            back,
            error: "",
            local: state.config.providers.local,
            recovery: false,
            providers: state.config.providers.all().iter().map(button).collect(),
            left: None,
        }
    }
}

/// Where to go after signing in: a path of the collector's own and nothing else.
pub(super) fn back(path: &str) -> &str {
    let own = path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains('\\')
        && !path.contains(char::is_control);
    if own { path } else { "/sessions" }
}

/// `GET /sign-in`
pub(super) async fn page(
    Use(state): Use<State>,
    visitor: Visitor,
    params: Params,
) -> Result<Response, Problem> {
    let back = back(params.get("back").unwrap_or("/sessions"));
    if visitor.signed_in {
        return Ok(Redirect::to(back).into_response());
    }
    let mut page = SignInPage::new(&state, &visitor, back);
    page.recovery = !page.local && params.get("recovery").is_some();
    if let Some(provider) = params.get("left").and_then(|name| state.config.providers.get(name)) {
        let url = provider.sign_out_url().unwrap_or_default();
        page.left = Some(Left { label: provider.label(), url });
    }
    show(StatusCode::OK, &page)
}

/// The page again, with why someone is not signed in.
pub(super) fn refused_page(
    state: &State,
    visitor: &Visitor,
    status: StatusCode,
    error: &str,
) -> Result<Response, Problem> {
    let mut page = SignInPage::new(state, visitor, "/sessions");
    page.error = error;
    show(status, &page)
}

/// `POST /sign-in`
pub(super) async fn sign_in(
    Use(state): Use<State>,
    visitor: Visitor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let name = fields.get("name").unwrap_or_default();
    let back = back(fields.get("back").unwrap_or("/sessions"));
    let given = Zeroizing::new(fields.exact("password").to_owned());
    match check(&state, &visitor, name, given, fields.get("code").unwrap_or_default()).await {
        Ok(()) => {
            let mut response = Redirect::to(back).into_response();
            let entered = Entered { user: name, provider: "", detail: "", authenticated_ns: now_ns() };
            admit(&state, &visitor, state.store.write().await?, &entered, &mut response).await?;
            Ok(response)
        }
        Err(problem) if problem.is_theirs() => {
            let mut page = SignInPage::new(&state, &visitor, back);
            page.recovery = !page.local;
            (page.name, page.error) = (name, &problem.detail);
            show(problem.status, &page)
        }
        Err(problem) => Err(problem),
    }
}

fn account_key(name: &str) -> String {
    sha256(&format!("account {name}"))
}

fn address_key(address: &str) -> String {
    sha256(&format!("address {address}"))
}

/// What guesses are counted under.
struct Keys {
    both: String,
    account: String,
    address: String,
}

impl Keys {
    fn of(name: &str, address: &str) -> Self {
        let account = account_key(name);
        Self { both: sha256(&format!("{account} from {address}")), account, address: address_key(address) }
    }

    async fn count(&self, state: &State) -> Result<(), Problem> {
        count(state, &self.address, BY_ADDRESS).await?;
        count(state, &self.both, BY_BOTH).await?;
        count(state, &self.account, BY_ACCOUNT).await
    }
}

/// Counts a guess before it is looked at.
async fn count(state: &State, key: &str, limit: i64) -> Result<(), Problem> {
    if state.store.attempt(key, limit, WINDOW_NS).await? {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "There were too many wrong attempts. Wait 15 minutes, then try again.",
    ))
}

/// An attempt that was counted before it was looked at.
pub(super) struct Counted {
    key: String,
}

impl Counted {
    /// It was no guess.
    pub(super) async fn take_back(&self, state: &State) -> Result<(), Problem> {
        Ok(state.store.take_back_attempt(&self.key).await?)
    }
}

/// Counts something from an address under a key of its own. What is too much is written down once.
pub(super) async fn count_from(
    state: &State,
    what: &str,
    address: &str,
    limit: i64,
) -> Result<Counted, Problem> {
    let key = sha256(&format!("{what} address {address}"));
    if let Err(problem) = count(state, &key, limit).await {
        if state.store.attempt(&sha256(&format!("noted {key}")), 1, WINDOW_NS).await? {
            actions::note(state, "unknown", "sign_in.limited", "", what, address).await?;
        }
        return Err(problem);
    }
    Ok(Counted { key })
}

/// Whether it is the owner of the account. The answer to a wrong name, a wrong password and a wrong code is
/// the same, and takes as long.
async fn check(
    state: &State,
    visitor: &Visitor,
    name: &str,
    given: Zeroizing<String>,
    code: &str,
) -> Result<(), Problem> {
    let wrong = || {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "The name, the password or the one-time code is wrong. Codes count once and for about a minute.",
        )
    };
    let keys = Keys::of(name, &visitor.address);
    let limited = keys.count(state).await;
    let known = state.store.credentials(name).await?;
    // A password that is typed in the name's field must not get into the audit trail.
    let (who, action) =
        if known.is_some() { (name, "sign_in.failed") } else { ("unknown", "sign_in.failed") };
    if let Err(problem) = limited {
        // Once for all that come while it lasts: what is refused is not to fill the audit trail.
        if state.store.attempt(&sha256(&format!("noted {}", keys.both)), 1, WINDOW_NS).await? {
            actions::note(state, who, "sign_in.limited", "", "", &visitor.address).await?;
        }
        return Err(problem);
    }
    let counts = |known: &&Credentials| {
        known.active && (state.config.providers.local || known.recovery_until_ns > now_ns())
    };
    let hash = known.as_ref().filter(counts).map(|known| known.password_hash.clone());
    let mut right = state.passwords.verify(given, hash).await?;
    if right && let Some(secret) = known.as_ref().and_then(|known| known.totp_secret.as_deref()) {
        right = use_code(state, name, secret, code).await?;
    }
    if !right {
        actions::note(state, who, action, "", "", &visitor.address).await?;
        return Err(wrong());
    }
    // It was no guess: neither a colleague behind the same address nor the owner is to wait for it.
    state.store.forget_attempts(&keys.both).await?;
    state.store.take_back_attempt(&keys.account).await?;
    state.store.take_back_attempt(&keys.address).await?;
    Ok(())
}

/// Uses a one-time code up; whether it counted.
async fn use_code(state: &State, name: &str, secret: &str, code: &str) -> Result<bool, Problem> {
    let seconds = u64::try_from(now_ns() / 1_000_000_000).unwrap_or_default();
    let Some(step) = totp::matching_step(secret, code, seconds) else { return Ok(false) };
    let mut write = state.store.write().await?;
    let fresh = write.use_totp_step(name, step).await?;
    write.commit().await?;
    Ok(fresh)
}

/// Asks for the password again before something that a browser left open must not allow. Guesses count.
pub(super) async fn again(state: &State, actor: &Actor, given: Zeroizing<String>) -> Result<(), Problem> {
    let key = account_key(&actor.name);
    count(state, &key, BY_ACCOUNT).await?;
    let known = state.store.credentials(&actor.name).await?;
    if state.passwords.verify(given, known.map(|known| known.password_hash)).await? {
        state.store.forget_attempts(&key).await?;
        return Ok(());
    }
    actions::note(state, &actor.trail(), "password.wrong", "", "", &actor.address).await?;
    Err(Problem::invalid("Your current password is wrong."))
}

/// Has whoever sits before a browser show once more who they are: password, and code where the account has codes.
/// Guesses count.
pub(super) async fn once_more(
    state: &State,
    actor: &Actor,
    given: Zeroizing<String>,
    code: &str,
) -> Result<(), Problem> {
    let known = state.store.credentials(&actor.name).await?;
    let Some(known) = known.filter(|_| actor.provider.is_empty()) else {
        return Err(Problem::invalid("Your account comes from an identity provider: sign in there again."));
    };
    again(state, actor, given).await?;
    if let Some(secret) = &known.totp_secret {
        let key = account_key(&actor.name);
        count(state, &key, BY_ACCOUNT).await?;
        if !use_code(state, &actor.name, secret, code).await? {
            actions::note(state, &actor.trail(), "code.wrong", "", "", &actor.address).await?;
            return Err(Problem::invalid(
                "The one-time code is wrong. Codes count once and for about a minute.",
            ));
        }
        state.store.forget_attempts(&key).await?;
    }
    let mut write = state.store.write().await?;
    write.sign_in_again(&actor.name, actor.sign_in()).await?;
    write.audit(&actor.trail(), "sign_in.again", "", "", &actor.address).await?;
    Ok(write.commit().await?)
}

/// Someone who has shown who they are.
pub(super) struct Entered<'e> {
    /// Their account.
    pub(super) user: &'e str,
    /// The identity provider that it comes from; empty for one of the collector's own.
    pub(super) provider: &'e str,
    /// For the audit trail.
    pub(super) detail: &'e str,
    /// When they have shown who they are; 0 when that is not known.
    pub(super) authenticated_ns: i64,
}

/// Signs a browser in, in the transaction in which it was decided.
pub(super) async fn admit(
    state: &State,
    visitor: &Visitor,
    mut write: Write<'_>,
    entered: &Entered<'_>,
    response: &mut Response,
) -> Result<(), Problem> {
    let token = secret()?;
    let lasts = i64::try_from(state.config.absolute.as_nanos()).unwrap_or(i64::MAX);
    write
        .add_sign_in(&NewSignIn {
            token_sha256: &sha256(&token),
            user: entered.user,
            expires_ns: now_ns().saturating_add(lasts),
            address: &visitor.address,
            user_agent: &visitor.user_agent,
            authenticated_ns: entered.authenticated_ns,
        })
        .await?;
    write.audit(entered.user, "sign_in", entered.provider, entered.detail, &visitor.address).await?;
    write.commit().await?;
    let cookie = Cookies::of(state).sign_in(&token, state.config.absolute.as_secs());
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(())
}

/// `POST /sign-out`
pub(super) async fn sign_out(Use(state): Use<State>, actor: Actor) -> Result<Response, Problem> {
    let mut write = state.store.write().await?;
    write.end_sign_in(&actor.name, actor.sign_in()).await?;
    write.audit(&actor.trail(), "sign_out", "", "", &actor.address).await?;
    write.commit().await?;
    // To the page that can lead on to the provider: a form may not be redirected to another site.
    let to = match actor.provider.as_str() {
        "" => "/sign-in".to_owned(),
        provider => format!("/sign-in?left={provider}"),
    };
    let mut response = Redirect::to(&to).into_response();
    response.headers_mut().append(header::SET_COOKIE, Cookies::of(&state).sign_out());
    Ok(response)
}

#[derive(Template)]
#[template(path = "set_up.html")]
struct SetUpPage<'p> {
    csrf: &'p str,
    name: &'p str,
    error: &'p str,
    /// The link counts.
    counts: bool,
}

const USED: &str = "This link counts no longer: it was used, is older than a day, or a newer one was made. \
     While there is no account, the collector prints another when it starts.";

/// `GET /set-up/{token}`. The token is random and long: guesses at it need not be counted.
pub(super) async fn set_up_page(
    Use(state): Use<State>,
    visitor: Visitor,
    Path(token): Path<String>,
) -> Result<Response, Problem> {
    let counts = state.config.providers.local
        && !state.store.has_users().await?
        && state.store.setup_counts(&sha256(&token)).await?;
    let status = if counts { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let error = if counts { "" } else { USED };
    show(status, &SetUpPage { csrf: &visitor.csrf, name: "", error, counts })
}

/// `POST /set-up/{token}`: makes the first administrator, and signs them in.
pub(super) async fn set_up(
    Use(state): Use<State>,
    visitor: Visitor,
    Path(token): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let name = fields.get("name").unwrap_or_default();
    match first_admin(&state, &visitor, &token, name, &fields).await {
        Ok(()) => {
            let mut response = Redirect::to("/sessions").into_response();
            let entered = Entered { user: name, provider: "", detail: "", authenticated_ns: now_ns() };
            admit(&state, &visitor, state.store.write().await?, &entered, &mut response).await?;
            Ok(response)
        }
        Err(problem) if problem.is_theirs() => {
            let counts = problem.status != StatusCode::NOT_FOUND;
            show(problem.status, &SetUpPage { csrf: &visitor.csrf, name, error: &problem.detail, counts })
        }
        Err(problem) => Err(problem),
    }
}

async fn first_admin(
    state: &State,
    visitor: &Visitor,
    token: &str,
    name: &str,
    fields: &Params,
) -> Result<(), Problem> {
    let token = sha256(token);
    if !state.config.providers.local || !state.store.setup_counts(&token).await? {
        return Err(Problem::new(StatusCode::NOT_FOUND, USED));
    }
    actions::check_name(name)?;
    let given = Zeroizing::new(fields.exact("password").to_owned());
    if *given != fields.exact("repeated") {
        return Err(Problem::invalid("The two passwords differ."));
    }
    password::check(&given, name)?;
    let hash = state.passwords.hash(given).await?;
    let mut write = state.store.write().await?;
    if !write.use_setup(&token).await? || !write.add_user(name, &hash, Role::Admin.name(), "set-up").await? {
        return Err(Problem::new(StatusCode::NOT_FOUND, USED));
    }
    write.audit("set-up", "user.add", name, "role admin", &visitor.address).await?;
    write.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_one_stays_on_the_collector() {
        assert_eq!(back("/sessions?user=a"), "/sessions?user=a");
        for bad in
            ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\nb", ""]
        {
            assert_eq!(back(bad), "/sessions", "{bad}");
        }
    }
}
