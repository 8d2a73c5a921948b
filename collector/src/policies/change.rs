//! What administrators do about policies. Each change is made, entered in the ledger and written into the
//! audit trail in one transaction.

use interlock_recording::hex;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{HostLabelled, PolicyAssigned, PolicyVersionAdded};
use interlock_recording::order;
use interlock_shipping::v1::PolicyFiles;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::labels::{self, LabelError, choose, written};
use super::{check, orders};
use crate::administer::By;
use crate::intake::Intake;
use crate::store::{
    Assignment, Former, IssuedOrder, Labels, LedgerStoreError, PolicyVersion, StoreError, VersionName, Write,
    named, now_ns,
};

/// Characters of a reason.
const REASON: usize = 500;

/// A change was not made.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// There is none of this name.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// What was asked for cannot be.
    #[error("{0}")]
    Wrong(String),
    /// Labels are malformed.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
}

/// What is to become of a version on the hosts that it is assigned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is worked out and recorded beside what is enforced.
    Observe,
    /// It is enforced.
    Enforce,
}

fn wrong(what: impl Into<String>) -> PolicyError {
    PolicyError::Wrong(what.into())
}

fn check_reason(reason: &str) -> Result<&str, PolicyError> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON {
        return Err(wrong(format!("say why, in up to {REASON} characters: it stands in the ledger")));
    }
    Ok(reason)
}

/// Adds a version to a set; gives it, and whether it is new. The same files as the newest version's make
/// none.
///
/// # Errors
/// The files are none that can come in, or the database fails.
pub async fn push(
    intake: &Intake,
    by: By<'_>,
    set: &str,
    mut files: PolicyFiles,
    reason: &str,
) -> Result<(PolicyVersion, bool), PolicyError> {
    let reason = check_reason(reason)?;
    order::check_set_name(set).map_err(|error| wrong(error.to_string()))?;
    check(&files).map_err(wrong)?;
    files.files.sort_by(|a, b| a.name.cmp(&b.name));
    let content = order::content_hash(check::pairs(&files));
    let mut write = intake.store.write().await?;
    // Versions are numbered one after the other.
    write.policies_change().await?;
    let (version, new) = write.add_policy_version(set, &hex(&content), &files, by.who, reason).await?;
    if !new {
        return Ok((version, false));
    }
    let added = PolicyVersionAdded {
        set: set.to_owned(),
        version: version.version,
        content_sha256: content.to_vec(),
        reason: reason.to_owned(),
        who: by.who.to_owned(),
    };
    write.append(vec![Body::PolicyVersionAdded(added)]).await?;
    let target = format!("{set}@{}", version.version);
    write.audit(by.who, "policy.push", &target, &format!("{reason}; {}", hex(&content)), by.address).await?;
    write.commit().await?;
    Ok((version, true))
}

/// Writes a changed assignment, with its entries.
async fn written_down(
    mut write: Write<'_>,
    by: By<'_>,
    action: &'static str,
    change: &str,
    assignment: Assignment,
) -> Result<Assignment, PolicyError> {
    let (enforce, observe) = (named(assignment.enforce.as_ref()), named(assignment.observe.as_ref()));
    let or_nothing = |name: &str| if name.is_empty() { "nothing" } else { name }.to_owned();
    let detail = format!(
        "{}; enforced: {}, staged: {}, priority {}",
        assignment.reason,
        or_nothing(&enforce),
        or_nothing(&observe),
        assignment.priority
    );
    let entry = PolicyAssigned {
        selector: assignment.selector.clone(),
        change: change.to_owned(),
        enforce,
        observe,
        priority: assignment.priority,
        reason: assignment.reason.clone(),
        who: by.who.to_owned(),
    };
    write.append(vec![Body::PolicyAssigned(entry)]).await?;
    let target = if assignment.selector.is_empty() { "*" } else { &assignment.selector };
    write.audit(by.who, action, target, &detail, by.address).await?;
    write.policies_change().await?;
    write.commit().await?;
    Ok(assignment)
}

/// Has the hosts of these labels go by a version of a set. `priority` is kept when none is given.
///
/// # Errors
/// There is no such version, the selector is none, or the database fails.
pub async fn assign(
    intake: &Intake,
    by: By<'_>,
    selector: &str,
    name: VersionName,
    mode: Mode,
    priority: Option<i64>,
    reason: &str,
) -> Result<Assignment, PolicyError> {
    let (selector, reason) = (labels::selector(selector)?, check_reason(reason)?);
    if intake.store.policy_version(&name.set, name.version).await?.is_none() {
        return Err(PolicyError::NotFound("version of a policy set"));
    }
    let mut write = intake.store.write().await?;
    write.policies_change().await?;
    let known = write.assignment(&selector).await?;
    let mut assignment = known.unwrap_or_else(|| Assignment {
        selector,
        priority: 0,
        enforce: None,
        former: Former::Unknown,
        observe: None,
        changed_ns: 0,
        changed_by: String::new(),
        reason: String::new(),
    });
    match mode {
        Mode::Observe => assignment.observe = Some(name),
        Mode::Enforce => enforce(&mut assignment, Some(name)),
    }
    assignment.priority = priority.unwrap_or(assignment.priority);
    changed(&mut assignment, by, reason);
    write.set_assignment(&assignment).await?;
    written_down(write, by, "policy.assign", "assign", assignment).await
}

fn changed(assignment: &mut Assignment, by: By<'_>, reason: &str) {
    assignment.changed_ns = now_ns();
    assignment.changed_by = by.who.to_owned();
    assignment.reason = reason.to_owned();
}

/// Puts a version in the place of what is enforced, which is what a roll-back goes to.
fn enforce(assignment: &mut Assignment, name: Option<VersionName>) {
    if assignment.enforce != name {
        let before = std::mem::replace(&mut assignment.enforce, name);
        assignment.former = before.map_or(Former::Nothing, Former::Version);
    }
}

/// Has what is staged for hosts of exactly these labels enforced. Not when a host has refused it, unless
/// `in_spite`.
///
/// # Errors
/// Nothing is staged, a host has refused it, or the database fails.
pub async fn promote(
    intake: &Intake,
    by: By<'_>,
    selector: &str,
    in_spite: bool,
    reason: &str,
) -> Result<Assignment, PolicyError> {
    let (selector, reason) = (labels::selector(selector)?, check_reason(reason)?);
    let mut write = intake.store.write().await?;
    write.policies_change().await?;
    let mut assignment =
        write.assignment(&selector).await?.ok_or(PolicyError::NotFound("assignment to these labels"))?;
    let staged = assignment.observe.take().ok_or_else(|| {
        wrong("nothing is staged for these labels: assign a version in the mode `observe` first")
    })?;
    if !in_spite {
        let refusing = refusing(intake, &staged).await?;
        if let Some((host, why)) = refusing.first() {
            return Err(wrong(format!(
                "{} of the hosts that {staged} was ordered of refuse it, {host} because: {why}",
                refusing.len()
            )));
        }
    }
    enforce(&mut assignment, Some(staged));
    changed(&mut assignment, by, reason);
    write.set_assignment(&assignment).await?;
    written_down(write, by, "policy.promote", "promote", assignment).await
}

/// The hosts that refuse their newest order, where that stages this version, and why.
async fn refusing(intake: &Intake, staged: &VersionName) -> Result<Vec<(String, String)>, PolicyError> {
    let (orders, standings) = (intake.store.policy_orders().await?, intake.store.policy_standings().await?);
    let staged = staged.to_string();
    let refusing =
        orders.into_iter().filter(|(_, order)| order.observe == staged).filter_map(|(host, order)| {
            let said = standings.get(&host)?;
            (said.refused == order.issue).then(|| (host, said.refusal.clone()))
        });
    Ok(refusing.collect())
}

/// Goes back to what was enforced before for hosts of exactly these labels, or to version `to` of the set
/// that is enforced. What is staged stays.
///
/// # Errors
/// There is nothing to go back to, or the database fails.
pub async fn roll_back(
    intake: &Intake,
    by: By<'_>,
    selector: &str,
    to: Option<u64>,
    reason: &str,
) -> Result<Assignment, PolicyError> {
    let (selector, reason) = (labels::selector(selector)?, check_reason(reason)?);
    let mut write = intake.store.write().await?;
    write.policies_change().await?;
    let mut assignment =
        write.assignment(&selector).await?.ok_or(PolicyError::NotFound("assignment to these labels"))?;
    let now = assignment.enforce.clone();
    let now =
        now.ok_or_else(|| wrong("nothing is enforced for these labels, so nothing can be rolled back"))?;
    let before = match (to, &assignment.former) {
        (Some(version), _) => Some(VersionName { set: now.set.clone(), version }),
        (None, Former::Version(name)) => Some(name.clone()),
        (None, Former::Nothing) => None,
        (None, Former::Unknown) => {
            return Err(wrong("what was enforced before is not known: say which version to go back to"));
        }
    };
    if let Some(before) = &before
        && intake.store.policy_version(&before.set, before.version).await?.is_none()
    {
        return Err(PolicyError::NotFound("version of that set"));
    }
    if before.as_ref() == Some(&now) {
        return Err(wrong(format!("{now} is enforced already")));
    }
    assignment.enforce = before;
    // Going back twice would go forth.
    assignment.former = Former::Unknown;
    changed(&mut assignment, by, reason);
    write.set_assignment(&assignment).await?;
    written_down(write, by, "policy.roll_back", "roll_back", assignment).await
}

/// Removes what is staged for hosts of exactly these labels, or all that is assigned to them.
///
/// # Errors
/// There is nothing, or the database fails.
pub async fn remove(
    intake: &Intake,
    by: By<'_>,
    selector: &str,
    mode: Option<Mode>,
    reason: &str,
) -> Result<Assignment, PolicyError> {
    let (selector, reason) = (labels::selector(selector)?, check_reason(reason)?);
    let mut write = intake.store.write().await?;
    write.policies_change().await?;
    let mut assignment =
        write.assignment(&selector).await?.ok_or(PolicyError::NotFound("assignment to these labels"))?;
    if mode != Some(Mode::Enforce) {
        assignment.observe = None;
    }
    if mode != Some(Mode::Observe) {
        enforce(&mut assignment, None);
    }
    changed(&mut assignment, by, reason);
    if mode.is_none() {
        write.remove_assignment(&assignment.selector).await?;
    } else {
        write.set_assignment(&assignment).await?;
    }
    written_down(write, by, "policy.remove", "remove", assignment).await
}

/// Gives a host labels in the place of those that it has.
///
/// # Errors
/// There is no such host, or the database fails.
pub async fn set_labels(
    intake: &Intake,
    by: By<'_>,
    host: &str,
    labels: &Labels,
    reason: &str,
) -> Result<(), PolicyError> {
    let reason = check_reason(reason)?;
    let mut write = intake.store.write().await?;
    let agent = write.agent(host).await?.ok_or(PolicyError::NotFound("host"))?;
    write.set_labels(host, labels).await?;
    let text = written(labels);
    let entry = HostLabelled {
        host: Sha256::digest(&agent.public_key).to_vec(),
        labels: text.clone(),
        reason: reason.to_owned(),
        who: by.who.to_owned(),
    };
    write.append(vec![Body::HostLabelled(entry)]).await?;
    write.audit(by.who, "host.label", host, &format!("{text}; {reason}"), by.address).await?;
    write.policies_change().await?;
    Ok(write.commit().await?)
}

/// Issues a new order to a host, with a number greater than all that it says it has seen, or than `after`:
/// for a collector that was put back to an earlier state.
///
/// # Errors
/// There is no such host, nothing was ever ordered of it, or the database fails.
pub async fn reissue(
    intake: &Intake,
    by: By<'_>,
    host: &str,
    after: Option<u64>,
    reason: &str,
) -> Result<IssuedOrder, PolicyError> {
    let reason = check_reason(reason)?;
    let seen = intake.store.policy_standings().await?.get(host).map_or(0, |said| said.seen);
    let assignments = intake.store.assignments().await?;
    let (enforce, observe) = choose(&assignments, host, &intake.store.labels(host).await?);
    if enforce.is_none() && observe.is_none() && intake.store.policy_order(host).await?.is_none() && seen == 0
    {
        return Err(wrong("nothing was ever ordered of this host, and nothing is assigned to it"));
    }
    let mut write = intake.store.write().await?;
    let detail = format!("{reason}; after {}", after.unwrap_or(seen));
    write.audit(by.who, "policy.reissue", host, &detail, by.address).await?;
    write.commit().await?;
    let issued = orders::issue(intake, host, after.unwrap_or(seen), true).await?;
    let mut write = intake.store.write().await?;
    write.policies_change().await?;
    write.commit().await?;
    issued.ok_or(PolicyError::NotFound("order"))
}
