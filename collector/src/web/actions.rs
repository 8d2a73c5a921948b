//! What can be done, for pages and API alike: each checks, does and writes down in one transaction.

use std::time::Duration;

use axum::http::StatusCode;
use interlock_recording::SessionId;
use serde::Serialize;
use zeroize::Zeroizing;

use super::guard::Actor;
use super::problem::Problem;
use super::role::Role;
use super::scope::{Scope, UnknownScope};
use super::{State, password, secret, sha256, totp};
use crate::administer::{self, By};
use crate::policies;
use crate::store::{NewApiToken, NewHold, now_ns};

/// A day, in nanoseconds.
const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// Writes down what someone did who is not (yet) known to be someone.
pub(super) async fn note(
    state: &State,
    actor: &str,
    action: &'static str,
    target: &str,
    detail: &str,
    address: &str,
) -> Result<(), Problem> {
    let mut write = state.store.write().await?;
    write.audit(actor, action, target, detail, address).await?;
    write.commit().await?;
    Ok(())
}

/// Writes down what an actor did.
pub(super) async fn noted(
    state: &State,
    actor: &Actor,
    action: &'static str,
    target: &str,
    detail: &str,
) -> Result<(), Problem> {
    note(state, &actor.trail(), action, target, detail, &actor.address).await
}

fn by<'b>(actor: &'b Actor, who: &'b str) -> By<'b> {
    By { who, address: &actor.address }
}

/// Names of accounts stand in logs, addresses and headers: plain letters only.
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= 64 && name.bytes().all(plain) && name != "unknown" && name != "set-up" {
        return Ok(());
    }
    Err(Problem::invalid(
        "A name has 1 to 64 letters (a to z), digits, dots, hyphens, underscores or @, and begins with a letter or digit.",
    ))
}

fn check_label(label: &str) -> Result<&str, Problem> {
    let label = label.trim();
    if label.is_empty() || label.chars().count() > 100 {
        return Err(Problem::invalid("Say in up to 100 characters what it is for."));
    }
    Ok(label)
}

fn check_reason(reason: &str) -> Result<&str, Problem> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > 500 {
        return Err(Problem::invalid("Say in up to 500 characters why."));
    }
    Ok(reason)
}

/// What a policy can name as a group of approvers.
pub(crate) fn is_group(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=32).contains(&name.len()) && name.bytes().all(plain)
}

/// Sets what is known of an account's owner; what is not given stays. The groups and the e-mail address of a
/// provider's account come from there.
pub(super) async fn set_owner(
    state: &State,
    actor: &Actor,
    name: &str,
    groups: Option<&[String]>,
    logins: Option<&[String]>,
    email: Option<&str>,
) -> Result<(), Problem> {
    if name == actor.name {
        return Err(Problem::invalid(
            "Who may decide on what is not for oneself to say: your own account is for another administrator to \
             change, or for `interlock-collector users owner` on the collector's host.",
        ));
    }
    owner(state, by(actor, &actor.trail()), name, groups, logins, email).await
}

/// The same, whoever asks for it.
pub(super) async fn owner(
    state: &State,
    by: By<'_>,
    name: &str,
    groups: Option<&[String]>,
    logins: Option<&[String]>,
    email: Option<&str>,
) -> Result<(), Problem> {
    let known = state.store.user(name).await?.ok_or_else(|| Problem::not_found("account"))?;
    if !known.provider.is_empty() && (groups.is_some() || email.is_some()) {
        return Err(Problem::invalid(format!(
            "The groups and the e-mail address of this account come from the identity provider {}, at each sign-in: \
             change them there.",
            known.provider
        )));
    }
    let email = email.map(str::trim);
    if let Some(groups) = groups
        && (groups.len() > 100 || !groups.iter().all(|group| is_group(group)))
    {
        return Err(Problem::invalid(
            "Groups are called as policies name them: 1 to 32 letters, digits, hyphens, underscores and dots; 100 of \
             them at most.",
        ));
    }
    let plain = |login: &String| {
        (1..=100).contains(&login.len()) && !login.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if logins.is_some_and(|logins| logins.len() > 50 || !logins.iter().all(plain)) {
        return Err(Problem::invalid(
            "Login names have up to 100 characters and no blanks; 50 of them at most.",
        ));
    }
    if email.is_some_and(|email| email.len() > 254 || email.contains(char::is_control)) {
        return Err(Problem::invalid("An e-mail address has up to 254 characters."));
    }
    let mut detail = Vec::new();
    let mut write = state.store.write().await?;
    if let Some(groups) = groups {
        write.set_groups(name, groups).await?;
        detail.push(format!("groups {}", groups.join(" ")));
    }
    if let Some(logins) = logins {
        write.set_logins(name, logins).await?;
        detail.push(format!("logins {}", logins.join(" ")));
    }
    if let Some(email) = email {
        write.set_email(name, email).await?;
        write.verify_email(name).await?;
        detail.push(format!("e-mail {email}"));
    }
    write.audit(by.who, "user.owner", name, &detail.join("; "), by.address).await?;
    Ok(write.commit().await?)
}

fn role(name: &str) -> Result<Role, Problem> {
    name.parse()
        .map_err(|error: super::role::UnknownRole| Problem::invalid(format!("{name:?} is no role: {error}.")))
}

/// Ends a session that goes on.
pub(super) async fn end_session(state: &State, actor: &Actor, id: &str, reason: &str) -> Result<(), Problem> {
    let session = state.store.session(id).await?.ok_or_else(|| Problem::not_found("session"))?;
    let parsed: SessionId = id.parse().map_err(|_| Problem::not_found("session"))?;
    if session.ended_ns.is_some() {
        return Err(Problem::new(StatusCode::CONFLICT, "The session has ended already."));
    }
    let reason = if reason.trim().is_empty() { "no reason given" } else { reason.trim() };
    let reason: String = reason.chars().take(200).collect();
    // Written down first: what is not written down is not done.
    noted(state, actor, "session.end", id, &reason).await?;
    let told = format!("ended by {}: {reason}", actor.name);
    if state.intake.end_session(&session.host, *parsed.as_bytes(), &told).await? {
        return Ok(());
    }
    noted(state, actor, "session.end.failed", id, "the agent is not connected").await?;
    Err(Problem::new(
        StatusCode::CONFLICT,
        "The host's agent is not connected, so it could not be told to end the session. \
         Try again when it is, or stop the process on the host.",
    ))
}

pub(super) async fn acknowledge(state: &State, actor: &Actor, finding: i64) -> Result<(), Problem> {
    let mut write = state.store.write().await?;
    if !write.acknowledge_finding(finding, &actor.name).await? {
        return Err(Problem::not_found("finding that nobody has acknowledged"));
    }
    write.audit(&actor.trail(), "finding.acknowledge", &finding.to_string(), "", &actor.address).await?;
    Ok(write.commit().await?)
}

pub(super) async fn add_user(
    state: &State,
    actor: &Actor,
    name: &str,
    given: Zeroizing<String>,
    role_name: &str,
) -> Result<(), Problem> {
    check_name(name)?;
    let role = role(role_name)?;
    password::check(&given, name)?;
    let hash = state.passwords.hash(given).await?;
    let mut write = state.store.write().await?;
    if !write.add_user(name, &hash, role.name(), &actor.name).await? {
        return Err(Problem::new(StatusCode::CONFLICT, format!("There is an account {name} already.")));
    }
    write.audit(&actor.trail(), "user.add", name, &format!("role {role}"), &actor.address).await?;
    Ok(write.commit().await?)
}

/// Sets an account's role, and whether it can sign in. Both count at once, for tokens too.
pub(super) async fn set_user(
    state: &State,
    actor: &Actor,
    name: &str,
    role_name: Option<&str>,
    active: bool,
) -> Result<(), Problem> {
    if name == actor.name {
        return Err(Problem::invalid("Your own account is for another administrator to change."));
    }
    let known = state.store.user(name).await?.ok_or_else(|| Problem::not_found("account"))?;
    let provided = Some(known.role.as_str()).filter(|_| !known.provider.is_empty());
    let role = role(role_name.or(provided).unwrap_or_default())?;
    if !known.provider.is_empty() && role.name() != known.role {
        return Err(Problem::invalid(format!(
            "The role of this account comes from groups at the identity provider {}: change them there, or \
             `sign_in:` in the configuration. Here it can be disabled.",
            known.provider
        )));
    }
    let mut write = state.store.write().await?;
    if !write.set_user(name, role.name(), active).await? {
        return Err(Problem::not_found("account"));
    }
    if write.active_admins().await? == 0 {
        return Err(Problem::invalid("Someone must remain who is an administrator and can sign in."));
    }
    if !active {
        write.end_sign_ins(name, "").await?;
        write.unlink_chats(name).await?;
    }
    let state_word = if active { "active" } else { "disabled" };
    write
        .audit(&actor.trail(), "user.change", name, &format!("role {role}, {state_word}"), &actor.address)
        .await?;
    Ok(write.commit().await?)
}

/// Sets someone else's password, for who has lost it or from whom it was stolen: their one-time codes, API
/// tokens and signed-in browsers go too.
pub(super) async fn reset_user(
    state: &State,
    actor: &Actor,
    name: &str,
    given: Zeroizing<String>,
) -> Result<(), Problem> {
    if name == actor.name {
        return Err(Problem::invalid("Change your own password on your account's page."));
    }
    reset(state, by(actor, &actor.trail()), name, given).await
}

/// The same, whoever asks for it.
pub(super) async fn reset(
    state: &State,
    by: By<'_>,
    name: &str,
    given: Zeroizing<String>,
) -> Result<(), Problem> {
    password::check(&given, name)?;
    let hash = state.passwords.hash(given).await?;
    let mut write = state.store.write().await?;
    if !write.set_password(name, &hash).await? {
        return Err(Problem::not_found("account with a password"));
    }
    let codes = write.remove_totp(name).await?;
    write.end_sign_ins(name, "").await?;
    let tokens = write.revoke_api_tokens(name).await?;
    let links = write.unlink_chats(name).await?;
    let detail = format!(
        "{}{tokens} API tokens revoked, {links} users in chats unlinked",
        if codes { "one-time codes removed, " } else { "" }
    );
    write.audit(by.who, "user.reset", name, &detail, by.address).await?;
    Ok(write.commit().await?)
}

/// Changes one's own password; other browsers are signed out.
pub(super) async fn change_password(
    state: &State,
    actor: &Actor,
    current: Zeroizing<String>,
    given: Zeroizing<String>,
) -> Result<(), Problem> {
    super::sign_in::again(state, actor, current).await?;
    password::check(&given, &actor.name)?;
    let hash = state.passwords.hash(given).await?;
    let mut write = state.store.write().await?;
    write.set_password(&actor.name, &hash).await?;
    write.end_sign_ins(&actor.name, actor.sign_in()).await?;
    write.audit(&actor.trail(), "password.change", &actor.name, "", &actor.address).await?;
    Ok(write.commit().await?)
}

/// Proposes a secret for one-time codes; gives it, hexadecimal.
pub(super) async fn propose_codes(
    state: &State,
    actor: &Actor,
    current: Zeroizing<String>,
) -> Result<String, Problem> {
    super::sign_in::again(state, actor, current).await?;
    let secret: String = secret()?.chars().take(40).collect();
    let mut write = state.store.write().await?;
    write.propose_totp(&actor.name, &secret).await?;
    write.commit().await?;
    Ok(secret)
}

/// Takes the proposed secret into use, once a code shows that the app has it.
pub(super) async fn confirm_codes(state: &State, actor: &Actor, code: &str) -> Result<(), Problem> {
    let known = state.store.credentials(&actor.name).await?;
    let Some(secret) = known.and_then(|known| known.totp_pending) else {
        return Err(Problem::invalid("Begin with setting up one-time codes."));
    };
    let seconds = u64::try_from(now_ns() / 1_000_000_000).unwrap_or_default();
    let Some(step) = totp::matching_step(&secret, code, seconds) else {
        return Err(Problem::invalid(
            "The code is wrong. Check that the clock of your phone is right, and type the newest code.",
        ));
    };
    let mut write = state.store.write().await?;
    if !write.confirm_totp(&actor.name, &secret, step).await? {
        return Err(Problem::invalid("Begin with setting up one-time codes."));
    }
    write.audit(&actor.trail(), "totp.add", &actor.name, "", &actor.address).await?;
    Ok(write.commit().await?)
}

pub(super) async fn remove_codes(
    state: &State,
    actor: &Actor,
    current: Zeroizing<String>,
) -> Result<(), Problem> {
    super::sign_in::again(state, actor, current).await?;
    let mut write = state.store.write().await?;
    write.remove_totp(&actor.name).await?;
    write.audit(&actor.trail(), "totp.remove", &actor.name, "", &actor.address).await?;
    Ok(write.commit().await?)
}

/// Signs a browser of one's own out.
pub(super) async fn end_sign_in(state: &State, actor: &Actor, id: &str) -> Result<(), Problem> {
    let mut write = state.store.write().await?;
    if !write.end_sign_in(&actor.name, id).await? {
        return Err(Problem::not_found("signed-in browser"));
    }
    write.audit(&actor.trail(), "sign_in.end", id, "", &actor.address).await?;
    Ok(write.commit().await?)
}

/// Signs all other browsers of one's own out.
pub(super) async fn end_other_sign_ins(state: &State, actor: &Actor) -> Result<(), Problem> {
    let mut write = state.store.write().await?;
    let ended = write.end_sign_ins(&actor.name, actor.sign_in()).await?;
    write.audit(&actor.trail(), "sign_in.end", "all others", &ended.to_string(), &actor.address).await?;
    Ok(write.commit().await?)
}

/// A secret that is shown once.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Made {
    /// Its public name.
    pub(super) id: String,
    /// The secret.
    pub(super) token: String,
}

fn lifetime(days: i64, most: i64) -> Result<i64, Problem> {
    if (1..=most).contains(&days) {
        Ok(now_ns().saturating_add(days * DAY_NS))
    } else {
        Err(Problem::invalid(format!("It counts for 1 to {most} days.")))
    }
}

/// Makes an API token of one's own.
pub(super) async fn add_api_token(
    state: &State,
    actor: &Actor,
    label: &str,
    role_name: &str,
    scopes: &[&str],
    days: i64,
) -> Result<Made, Problem> {
    let label = check_label(label)?;
    let role = role(role_name)?;
    if !actor.role.covers(role) {
        let detail =
            format!("A token can have no more rights than its owner: yours is {}, not {role}.", actor.role);
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let expires_ns = lifetime(days, 366)?;
    let mut wanted: Vec<Scope> = Vec::new();
    for name in scopes {
        let scope = name
            .parse()
            .map_err(|error: UnknownScope| Problem::invalid(format!("{name:?} is no scope: {error}.")))?;
        if !wanted.contains(&scope) {
            wanted.push(scope);
        }
    }
    let scopes = match wanted.as_slice() {
        [] => "*".to_owned(),
        some => some.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(" "),
    };
    if state.store.api_tokens(Some(&actor.name)).await?.len() >= 100 {
        return Err(Problem::invalid("You have 100 tokens. Revoke those that are not needed first."));
    }
    let token = format!("ilk_{}", secret()?);
    let id: String = secret()?.chars().take(12).collect();
    let mut write = state.store.write().await?;
    write
        .add_api_token(&NewApiToken {
            token_sha256: &sha256(&token),
            id: &id,
            label,
            owner: &actor.name,
            role: role.name(),
            scopes: &scopes,
            expires_ns,
        })
        .await?;
    let scopes = if scopes == "*" { "all scopes" } else { &scopes };
    let detail = format!("{label}; role {role}, {scopes}, {days} days");
    write.audit(&actor.trail(), "token.add", &id, &detail, &actor.address).await?;
    write.commit().await?;
    Ok(Made { id, token })
}

/// Revokes an API token of one's own; an administrator anyone's.
pub(super) async fn revoke_api_token(state: &State, actor: &Actor, id: &str) -> Result<(), Problem> {
    let owner = (actor.role != Role::Admin).then_some(actor.name.as_str());
    let mut write = state.store.write().await?;
    if !write.revoke_api_token(id, owner).await? {
        return Err(Problem::not_found("token of yours"));
    }
    write.audit(&actor.trail(), "token.revoke", id, "", &actor.address).await?;
    Ok(write.commit().await?)
}

pub(super) async fn add_enrolment_token(
    state: &State,
    actor: &Actor,
    label: &str,
    uses: i64,
    days: i64,
    labels: &str,
) -> Result<Made, Problem> {
    let label = check_label(label)?;
    let labels = policies::parse_given(labels).map_err(|error| Problem::invalid(format!("{error}.")))?;
    if !(1..=100_000).contains(&uses) {
        return Err(Problem::invalid("A token enrols 1 to 100,000 hosts."));
    }
    lifetime(days, 366)?;
    let valid = Duration::from_secs(days.unsigned_abs() * 24 * 3600);
    let (token, _) = administer::make_enrolment_token(
        &state.intake,
        by(actor, &actor.trail()),
        label,
        uses,
        valid,
        &labels,
    )
    .await?;
    let id = sha256(&token.secret).chars().take(12).collect();
    Ok(Made { id, token: token.to_string() })
}

pub(super) async fn revoke_enrolment_token(state: &State, actor: &Actor, id: &str) -> Result<(), Problem> {
    let mut write = state.store.write().await?;
    if write.revoke_enrolment_token(id).await? == 0 {
        return Err(Problem::not_found("enrolment token"));
    }
    write.audit(&actor.trail(), "enrolment_token.revoke", id, "", &actor.address).await?;
    Ok(write.commit().await?)
}

/// Lets an agent ship no more. Why stands in the ledger.
pub(super) async fn revoke_agent(
    state: &State,
    actor: &Actor,
    host: &str,
    reason: &str,
) -> Result<(), Problem> {
    let reason = check_label(reason)?;
    Ok(administer::revoke_agent(&state.intake, by(actor, &actor.trail()), host, reason).await?)
}

/// Holds what was recorded on the hold's host (by name or id; on all when empty) between two times. Why
/// stands in the ledger.
pub(super) async fn add_hold(
    state: &State,
    actor: &Actor,
    hold: NewHold<'_>,
    reason: &str,
) -> Result<(), Problem> {
    let (label, reason) = (check_label(hold.label)?, check_reason(reason)?);
    if hold.from_ns >= hold.until_ns {
        return Err(Problem::invalid("A hold begins before it ends."));
    }
    let host = match hold.host {
        "" => String::new(),
        name => match state.store.hosts_called(name).await?.as_slice() {
            [host] => host.clone(),
            [] => return Err(Problem::invalid(format!("There is no host {name}."))),
            _ => {
                return Err(Problem::invalid(format!(
                    "Several hosts are called {name}: give the host's id."
                )));
            }
        },
    };
    let hold = NewHold { label, host: &host, ..hold };
    administer::set_hold(&state.intake, by(actor, &actor.trail()), &hold, reason).await?;
    Ok(())
}

/// Ends a hold. Why stands in the ledger.
pub(super) async fn release_hold(
    state: &State,
    actor: &Actor,
    id: &str,
    reason: &str,
) -> Result<(), Problem> {
    let id = id.parse().map_err(|_| Problem::not_found("hold"))?;
    let reason = check_reason(reason)?;
    administer::release_hold(&state.intake, by(actor, &actor.trail()), id, reason).await?;
    Ok(())
}
