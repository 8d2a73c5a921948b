//! What a host is ordered, signed.

use interlock_recording::hex;
use interlock_recording::ledger::proto::PolicyOrdered;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::order::{Order, Ordered};
use interlock_shipping::v1::PolicyFiles;
use sha2::{Digest as _, Sha256};

use super::change::PolicyError;
use super::labels::choose;
use crate::intake::Intake;
use crate::store::{Agent, IssuedOrder, StoreError, VersionName, named, now_ns};

/// What a host is to go by, as it stands now.
struct Wanted {
    enforce: Option<VersionName>,
    observe: Option<VersionName>,
}

async fn wanted(intake: &Intake, host: &str) -> Result<Wanted, StoreError> {
    let (assignments, labels) = (intake.store.assignments().await?, intake.store.labels(host).await?);
    let (enforce, observe) = choose(&assignments, host, &labels);
    // What is enforced need not be staged.
    let observe = observe.filter(|observe| Some(*observe) != enforce);
    Ok(Wanted { enforce: enforce.cloned(), observe: observe.cloned() })
}

impl Wanted {
    fn is_that_of(&self, order: Option<&IssuedOrder>) -> bool {
        let (enforce, observe) = (named(self.enforce.as_ref()), named(self.observe.as_ref()));
        // A host that was never ordered anything is not told so.
        order.map_or(enforce.is_empty() && observe.is_empty(), |order| {
            order.enforce == enforce && order.observe == observe
        })
    }
}

/// The order that counts for a host, issued now if there is none that says what it is to go by. `None` when
/// nothing was ever ordered of it.
///
/// # Errors
/// The database fails.
pub async fn order_for(intake: &Intake, host: &str) -> Result<Option<IssuedOrder>, PolicyError> {
    let newest = intake.store.policy_order(host).await?;
    if wanted(intake, host).await?.is_that_of(newest.as_ref()) {
        return Ok(newest);
    }
    issue(intake, host, 0, false).await
}

/// Issues an order with a number greater than `after`; unless `always`, only one that says something new.
pub(super) async fn issue(
    intake: &Intake,
    host: &str,
    after: u64,
    always: bool,
) -> Result<Option<IssuedOrder>, PolicyError> {
    let mut write = intake.store.write().await?;
    let newest = write.newest_order(host).await?;
    // Looked at again: nobody else issues an order to this host now.
    let wanted = wanted(intake, host).await?;
    if !always && wanted.is_that_of(newest.as_ref()) {
        return Ok(newest);
    }
    let agent = write.agent(host).await?.ok_or(PolicyError::NotFound("host"))?;
    let last = newest.map_or(0, |newest| newest.issue).max(after);
    let issue = last.checked_add(1).filter(|issue| i64::try_from(*issue).is_ok());
    let issue = issue.ok_or_else(|| PolicyError::Wrong("there is no greater number for an order".into()))?;
    let order = Order {
        collector: intake.signer.public().name().to_owned(),
        host: id(&agent),
        issue,
        issued_ns: now_ns().unsigned_abs(),
        enforce: ordered(intake, wanted.enforce.as_ref()).await?,
        observe: ordered(intake, wanted.observe.as_ref()).await?,
    };
    let note = order.sign(&intake.policy_signer).map_err(|error| PolicyError::Wrong(error.to_string()))?;
    let issued = IssuedOrder {
        issue,
        enforce: named(wanted.enforce.as_ref()),
        observe: named(wanted.observe.as_ref()),
        issued_ns: now_ns(),
        note,
    };
    write.add_order(host, &issued).await?;
    let entry = PolicyOrdered {
        host: id(&agent).to_vec(),
        issue,
        order_sha256: Sha256::digest(issued.note.as_bytes()).to_vec(),
        enforce: issued.enforce.clone(),
        observe: issued.observe.clone(),
    };
    write.append(vec![Body::PolicyOrdered(entry)]).await?;
    write.commit().await?;
    tracing::info!(host, issue, enforce = issued.enforce, observe = issued.observe, "ordered policies");
    Ok(Some(issued))
}

fn id(agent: &Agent) -> [u8; 32] {
    Sha256::digest(&agent.public_key).into()
}

async fn ordered(intake: &Intake, name: Option<&VersionName>) -> Result<Option<Ordered>, PolicyError> {
    let Some(name) = name else { return Ok(None) };
    let (version, files) = intake
        .store
        .policy_version(&name.set, name.version)
        .await?
        .ok_or(StoreError::Damaged("an assignment of a policy version that is not there"))?;
    let content = interlock_recording::order::content_hash(super::check::pairs(&files));
    // What is signed is what is handed out.
    if hex(&content) != version.content_sha256 {
        return Err(StoreError::Damaged("policy files that are not those that were added").into());
    }
    let author = version.author.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
    Ok(Some(Ordered { set: version.set, version: version.version, content, author }))
}

/// The files of this content, if the host's newest order names them.
///
/// # Errors
/// The database fails.
pub async fn files_for(
    intake: &Intake,
    host: &str,
    content_sha256: &[u8],
) -> Result<Option<PolicyFiles>, PolicyError> {
    let Some(newest) = intake.store.policy_order(host).await? else { return Ok(None) };
    for name in [&newest.enforce, &newest.observe] {
        let Some((set, version)) = name.split_once('@') else { continue };
        let Ok(version) = version.parse() else { continue };
        if let Some((found, files)) = intake.store.policy_version(set, version).await?
            && found.content_sha256 == hex(content_sha256)
        {
            return Ok(Some(files));
        }
    }
    Ok(None)
}
