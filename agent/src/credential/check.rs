//! Whether the configured credentials can be had, as `interlock credentials check` tells.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::config::{ClientAuth, CredentialConfig};
use super::held::Tried;
use super::{Credential, SAME_NAME, check_configuration, check_name, never_used, shadowing};

/// What is known of one credential. It holds no part of a secret.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) name: String,
    pub(super) destination: String,
    /// The user that the script asks for; any when `None`.
    pub(super) user: Option<String>,
    /// The database that the script asks for; any when `None`.
    pub(super) database: Option<String>,
    /// How many entries of processes get it; every designated process when `None`.
    pub(super) subjects: Option<usize>,
    pub(super) client_auth: &'static str,
    pub(super) source: Option<String>,
    pub(super) login_user: Option<String>,
    /// The one that the script asks for when `None`.
    pub(super) login_database: Option<String>,
    /// The secret can be had.
    pub(super) ok: bool,
    /// Why not, and what to do.
    pub(super) error: Option<String>,
    /// When the agent would ask again; `None` where it looks each time.
    pub(super) refresh_seconds: Option<u64>,
    /// For how long it may be used; `None` where that is not known.
    pub(super) expires_seconds: Option<u64>,
    pub(super) warnings: Vec<String>,
}

/// Asks the source of each credential of `config`, or of the one named `only`. Keeps nothing, and ends
/// what was made for the purpose.
///
/// # Errors
/// Others than root can change the configuration, or no credential has that name.
pub(super) fn check(
    config: &[CredentialConfig],
    file: &Path,
    only: Option<&str>,
) -> anyhow::Result<Vec<Finding>> {
    if !config.is_empty() {
        check_configuration(file)?;
    }
    let chosen =
        |index: &usize| config.get(*index).is_some_and(|one| only.is_none_or(|name| one.name == name));
    let found: Vec<_> = (0..config.len()).filter(chosen).filter_map(|index| look(config, index)).collect();
    if let (Some(name), true) = (only, found.is_empty()) {
        let names: Vec<_> = config.iter().map(|one| one.name.as_str()).collect();
        anyhow::bail!(
            "{} has no credential {name:?}; it has {}",
            file.display(),
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        );
    }
    Ok(found)
}

fn look(config: &[CredentialConfig], index: usize) -> Option<Finding> {
    let one = config.get(index)?;
    let mut finding = Finding {
        name: one.name.clone(),
        destination: one.destination.to_string(),
        user: one.user.as_ref().map(ToString::to_string),
        database: one.database.as_ref().map(ToString::to_string),
        subjects: (!one.subjects.is_empty()).then_some(one.subjects.len()),
        client_auth: match one.client_auth {
            ClientAuth::Any => "any",
            ClientAuth::Match => "match",
        },
        source: None,
        login_user: one.login.user.clone(),
        login_database: one.login.database.clone(),
        ok: false,
        error: None,
        refresh_seconds: None,
        expires_seconds: None,
        warnings: Vec::new(),
    };
    finding.warnings.extend(shadowing(config, index).map(|broad| format!("it {}", never_used(broad))));
    let same = config.iter().take(index).any(|other| other.name == one.name);
    let named =
        if same { Err(SAME_NAME.to_owned()) } else { check_name(&one.name).map_err(|e| e.to_string()) };
    let tried = named
        .and_then(|()| Credential::new(one, &mut finding.warnings))
        .map(|(credential, _)| credential)
        .and_then(|credential| {
            finding.source = Some(credential.held.source().to_string());
            credential.held.try_once().map_err(|error| error.to_string())
        });
    match tried {
        Err(error) => finding.error = Some(error),
        Ok(Tried { user, validity, left_behind }) => {
            let left =
                |at: Instant| at.saturating_duration_since(Instant::now()) + Duration::from_millis(500);
            finding.ok = true;
            finding.login_user = Some(user);
            finding.refresh_seconds = validity.refresh.map(|at| left(at).as_secs());
            finding.expires_seconds = validity.expires.map(|at| left(at).as_secs());
            if left_behind {
                finding.warnings.push(
                    "the login that was made for this check could not be ended; it ends with its lease (the \
                     agent's policy in Vault has no `update` on `sys/leases/revoke`)"
                        .to_owned(),
                );
            }
        }
    }
    Some(finding)
}
