//! What administrators do, by command or in a browser. Each thing is done, entered in the ledger where it
//! changes what is kept, and written into the audit trail, in one transaction.

use std::time::Duration;

use interlock_recording::PublicKey;
use interlock_recording::json;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{DisputeSettled, HoldReleased, HoldSet, HostRevoked};
use interlock_shipping::Token;

use crate::intake::Intake;
use crate::policies::written;
use crate::store::{Labels, LedgerStoreError, NewHold, Person, Store, StoreError, now_ns};

/// Who does something, and from where.
#[derive(Debug, Clone, Copy)]
pub struct By<'b> {
    /// Who, as the audit trail names them.
    pub who: &'b str,
    /// The network address that they came from; empty for a command on the collector's host.
    pub address: &'b str,
}

/// It was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdministerError {
    /// There is nothing of this name, or it is not in force.
    #[error("there is no {0}")]
    NotFound(&'static str),
    /// It was done before.
    #[error("{0} already")]
    Already(&'static str),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] std::io::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
}

/// Makes a token that `uses` hosts can be enrolled with; those that are new get these labels.
///
/// # Errors
/// The database fails, or the system gives no random bytes.
pub async fn make_enrolment_token(
    intake: &Intake,
    by: By<'_>,
    label: &str,
    uses: i64,
    valid: Duration,
    labels: &Labels,
) -> Result<(Token, i64), AdministerError> {
    let mut secret = [0; 24];
    interlock_recording::fill_random(&mut secret)?;
    let token = Token::new(&secret, intake.authority.fingerprint());
    let expires_ns = now_ns().saturating_add(i64::try_from(valid.as_nanos()).unwrap_or(i64::MAX));
    let mut write = intake.store.write().await?;
    write.add_enrolment_token(&token.secret, label, by.who, expires_ns, uses).await?;
    write.set_token_labels(&token.secret, labels).await?;
    let given = if labels.is_empty() { String::new() } else { format!(", labels {}", written(labels)) };
    let detail = format!("{label}; {uses} hosts, until {}{given}", json::time(expires_ns.unsigned_abs()));
    write.audit(by.who, "enrolment_token.create", label, &detail, by.address).await?;
    write.commit().await?;
    Ok((token, expires_ns))
}

/// Lets an agent ship no more. What it has shipped stays.
///
/// # Errors
/// There is no such agent that could, or the database fails.
pub async fn revoke_agent(
    intake: &Intake,
    by: By<'_>,
    host: &str,
    reason: &str,
) -> Result<(), AdministerError> {
    let mut write = intake.store.write().await?;
    let agent = write.agent(host).await?.ok_or(AdministerError::NotFound("agent"))?;
    if !write.revoke_agent(host).await? {
        return Err(AdministerError::Already("the agent is revoked"));
    }
    let key =
        PublicKey::from_bytes(&agent.public_key).ok_or(StoreError::Damaged("a host's key that is none"))?;
    let revoked =
        HostRevoked { host: key.fingerprint().to_vec(), reason: reason.to_owned(), who: by.who.to_owned() };
    write.append(vec![Body::HostRevoked(revoked)]).await?;
    write.audit(by.who, "agent.revoke", host, reason, by.address).await?;
    write.commit().await?;
    intake.connected.end(host);
    Ok(())
}

/// Ends the dispute about a host whose recording contradicted itself. Nothing that was taken is changed or deleted,
/// and the finding stays in the ledger.
///
/// The recording has ended then: nothing with this key is ever taken again, and the host is enrolled with a new one.
/// With `resume` it goes on instead where it was; what continues what was taken is taken, and anything else disputed
/// once more.
///
/// # Errors
/// There is no such agent, or no dispute about it, or the database fails.
pub async fn settle_dispute(
    intake: &Intake,
    by: By<'_>,
    host: &str,
    reason: &str,
    resume: bool,
) -> Result<(), AdministerError> {
    let mut write = intake.store.write().await?;
    let agent = write.agent(host).await?.ok_or(AdministerError::NotFound("agent"))?;
    if !write.settle_dispute(host, resume).await? {
        return Err(AdministerError::NotFound("dispute about this host"));
    }
    let key =
        PublicKey::from_bytes(&agent.public_key).ok_or(StoreError::Damaged("a host's key that is none"))?;
    let settled = DisputeSettled {
        host: key.fingerprint().to_vec(),
        reason: reason.to_owned(),
        who: by.who.to_owned(),
        resumed: resume,
    };
    write.append(vec![Body::DisputeSettled(settled)]).await?;
    let action = if resume { "agent.resume" } else { "agent.close" };
    write.audit(by.who, action, host, reason, by.address).await?;
    write.commit().await?;
    intake.connected.end(host);
    Ok(())
}

/// Ends the link of an account to somebody in a chat. Only its owner makes one.
///
/// # Errors
/// There is no such link, or the database fails.
pub async fn end_chat_link(
    store: &Store,
    by: By<'_>,
    account: &str,
    of: &Person,
) -> Result<(), AdministerError> {
    let Person { chat, app, team, person, .. } = of;
    let mut write = store.write().await?;
    if !write.unlink_chat(account, chat, app, team, person).await? {
        return Err(AdministerError::NotFound("such link of this account"));
    }
    let detail = format!("{chat}: {person} in {team}");
    write.audit(by.who, "account.unlink", account, &detail, by.address).await?;
    write.commit().await?;
    Ok(())
}

/// Sets a legal hold; gives its number. `hold.by` is who `by` says.
///
/// # Errors
/// The database fails.
pub async fn set_hold(
    intake: &Intake,
    by: By<'_>,
    hold: &NewHold<'_>,
    reason: &str,
) -> Result<i64, AdministerError> {
    let time = |ns: i64| json::time(ns.unsigned_abs());
    let scope = format!(
        "host {}, from {} until {}",
        if hold.host.is_empty() { "any" } else { hold.host },
        if hold.from_ns <= 0 { "the beginning".to_owned() } else { time(hold.from_ns) },
        if hold.until_ns == i64::MAX { "it is released".to_owned() } else { time(hold.until_ns) },
    );
    let mut write = intake.store.write().await?;
    let id = write.add_hold(hold).await?;
    let set = HoldSet {
        hold: format!("{id} {}", hold.label),
        reason: reason.to_owned(),
        who: by.who.to_owned(),
        scope: scope.clone(),
    };
    write.append(vec![Body::HoldSet(set)]).await?;
    write.audit(by.who, "hold.add", hold.label, &scope, by.address).await?;
    write.commit().await?;
    Ok(id)
}

/// Releases a legal hold; gives what it was called.
///
/// # Errors
/// There is none of this number that holds, or the database fails.
pub async fn release_hold(
    intake: &Intake,
    by: By<'_>,
    id: i64,
    reason: &str,
) -> Result<String, AdministerError> {
    let mut write = intake.store.write().await?;
    let label = write.release_hold(id, by.who).await?.ok_or(AdministerError::NotFound("hold in force"))?;
    let released =
        HoldReleased { hold: format!("{id} {label}"), reason: reason.to_owned(), who: by.who.to_owned() };
    write.append(vec![Body::HoldReleased(released)]).await?;
    write.audit(by.who, "hold.release", &format!("{id} {label}"), reason, by.address).await?;
    write.commit().await?;
    Ok(label)
}
