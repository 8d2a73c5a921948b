//! What an API token is for: a part of what its role may.

use std::fmt;
use std::str::FromStr;

use axum::http::Method;

/// A part of the API that a token can be confined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Seeing sessions, commands, hosts, rules, policies, findings, outputs and the ledger's proofs.
    Read,
    /// Taking recordings out: exports and evidence bundles.
    Export,
    /// Numbers for Prometheus.
    Metrics,
    /// Seeing the audit trail.
    Audit,
    /// Seeing, setting and releasing legal holds.
    Holds,
    /// Acknowledging findings.
    Findings,
    /// Ending sessions.
    End,
    /// Deciding on requests for approval, as its owner.
    Approve,
    /// Accounts, tokens, enrolment, revoking agents.
    Administer,
}

/// All of them.
pub(super) const SCOPES: [Scope; 9] = [
    Scope::Read,
    Scope::Export,
    Scope::Metrics,
    Scope::Audit,
    Scope::Holds,
    Scope::Findings,
    Scope::End,
    Scope::Approve,
    Scope::Administer,
];

/// What a token needs for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Any token will do: nothing is shown but who it is.
    Nothing,
    /// This scope.
    One(Scope),
    /// A token that is for all that its role may.
    All,
}

impl Scope {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Export => "export",
            Self::Metrics => "metrics",
            Self::Audit => "audit",
            Self::Holds => "holds",
            Self::Findings => "findings",
            Self::End => "end",
            Self::Approve => "approve",
            Self::Administer => "administer",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No scope is called so.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the scopes are read, export, metrics, audit, holds, findings, end, approve and administer")]
pub(super) struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(name: &str) -> Result<Self, UnknownScope> {
        SCOPES.into_iter().find(|scope| scope.name() == name).ok_or(UnknownScope)
    }
}

/// What a token needs for a route of the table. One that nobody has thought of needs a token for everything.
pub(super) fn needs(method: &Method, path: &str) -> Needs {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let reads = *method == Method::GET;
    match parts.as_slice() {
        ["metrics"] => Needs::One(Scope::Metrics),
        ["api", "v1", "openapi.json" | "me"] => Needs::Nothing,
        ["api", "v1", "export" | "evidence"] => Needs::One(Scope::Export),
        ["api", "v1", "audit"] => Needs::One(Scope::Audit),
        ["api", "v1", "holds", ..] => Needs::One(Scope::Holds),
        ["api", "v1", "findings", _, "acknowledge"] => Needs::One(Scope::Findings),
        ["api", "v1", "sessions", _, "end"] => Needs::One(Scope::End),
        ["api", "v1", "approvals", _, "approve" | "deny" | "review"] => Needs::One(Scope::Approve),
        ["api", "v1", "users" | "enrolment-tokens" | "tokens" | "sign-ins", ..]
        | ["api", "v1", "agents", _, "revoke"] => Needs::One(Scope::Administer),
        [
            "api",
            "v1",
            "approvals" | "sessions" | "commands" | "agents" | "rules" | "ledger" | "findings" | "outputs"
            | "policy-sets" | "policy-assignments",
            ..,
        ] if reads => Needs::One(Scope::Read),
        _ => Needs::All,
    }
}

/// Whether a token with these scopes (as the database has them) may do what needs `needs`.
pub(super) fn covers(scopes: &str, needs: Needs) -> bool {
    scopes == "*"
        || match needs {
            Needs::Nothing => true,
            Needs::One(needed) => scopes.split(' ').any(|scope| scope == needed.name()),
            Needs::All => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_thought_of_needs_everything() {
        assert_eq!(needs(&Method::POST, "/api/v1/sessions"), Needs::All);
        assert_eq!(needs(&Method::GET, "/api/v1/sessions/{id}/secrets"), Needs::One(Scope::Read));
        assert_eq!(needs(&Method::GET, "/api/v1/news"), Needs::All);
        assert_eq!(needs(&Method::GET, "/metrics/more"), Needs::All);
        assert!(!covers("read", Needs::All) && covers("*", Needs::All));
        assert!(!covers("reader export", Needs::One(Scope::Read)));
        assert!(!covers("", Needs::One(Scope::Read)) && covers("", Needs::Nothing));
        assert!(covers("export read", Needs::One(Scope::Read)));
        for scope in SCOPES {
            assert_eq!(scope.name().parse::<Scope>().expect("a scope"), scope);
        }
    }
}
