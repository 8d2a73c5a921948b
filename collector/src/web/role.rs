//! Who may do what.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an account, or a token, may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees sessions and commands, but neither results nor parameters.
    Viewer,
    /// Sees all recordings, the findings and the audit trail; exports; holds recordings.
    Auditor,
    /// Sees all recordings and the findings; ends sessions.
    Reviewer,
    /// All of it, and accounts, agents and enrolment.
    Admin,
}

/// Roles that something is for.
pub(super) type Roles = &'static [Role];

/// Everyone who is signed in.
pub(super) const ALL: Roles = &[Role::Viewer, Role::Auditor, Role::Reviewer, Role::Admin];
/// Who sees values: results, parameters, whole events; and findings.
pub(super) const VALUES: Roles = &[Role::Auditor, Role::Reviewer, Role::Admin];
/// Who acts on what goes on.
pub(super) const REVIEW: Roles = &[Role::Reviewer, Role::Admin];
/// Who audits.
pub(super) const AUDIT: Roles = &[Role::Auditor, Role::Admin];
/// Who administers.
pub(super) const ADMIN: Roles = &[Role::Admin];

impl Role {
    /// Whether it is one of `roles`.
    pub(super) fn may(self, roles: Roles) -> bool {
        roles.contains(&self)
    }

    /// Whether it may do all that `other` may. Reviewer and auditor cover neither each other.
    pub(super) fn covers(self, other: Self) -> bool {
        self == other || self == Self::Admin || other == Self::Viewer
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
            Self::Reviewer => "reviewer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No role is called so.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the roles are viewer, auditor, reviewer and admin")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        ALL.iter().copied().find(|role| role.name() == name).ok_or(UnknownRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_covers_another_only_if_it_may_all_that_the_other_may() {
        for role in ALL {
            for other in ALL {
                let all =
                    [ALL, VALUES, REVIEW, AUDIT, ADMIN].iter().all(|set| !other.may(set) || role.may(set));
                assert_eq!(role.covers(*other), all, "{role} {other}");
            }
            assert_eq!(role.name().parse::<Role>().expect("a role"), *role);
        }
    }
}
