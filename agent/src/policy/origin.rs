//! Where policies come from: this host's files, or a collector's order.

use std::fmt;
use std::sync::Arc;

use interlock_recording::order::{Order, Ordered};

/// Where a policy comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origin {
    /// A file of this host. What these refuse nothing else opens.
    #[default]
    Local,
    /// A set that is kept centrally.
    Central {
        /// The set.
        set: Arc<str>,
        /// Its version.
        version: u64,
        /// It is worked out and recorded only, and changes nothing of what is enforced.
        staged: bool,
    },
}

impl Origin {
    /// It is worked out and recorded only.
    pub(crate) fn is_staged(&self) -> bool {
        matches!(self, Self::Central { staged: true, .. })
    }

    /// A rule's or mask's name as recordings and refusals bear it: with the set that it is of, so that no
    /// set can take the name of another's rule, and with the version while that is staged.
    pub(crate) fn name(&self, name: &str) -> String {
        match self {
            Self::Local => name.to_owned(),
            Self::Central { set, staged: false, .. } => format!("{name}@{set}"),
            Self::Central { set, version, staged: true } => format!("{name}@{set}.{version}"),
        }
    }

    /// A file's name, for problems and lists.
    pub(crate) fn file(&self, name: &str) -> String {
        match self {
            Self::Local => name.to_owned(),
            Self::Central { .. } => format!("{self}/{name}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Central { set, version, staged } => {
                write!(f, "{set}@{version}{}", if *staged { " (staged)" } else { "" })
            }
        }
    }
}

/// A policy file's name and text.
pub(crate) type PolicyFile = (String, String);

/// Policies that are kept centrally, as an order names them.
#[derive(Debug, Clone)]
pub(crate) struct CentralPolicies {
    /// The order.
    pub(crate) order: Arc<Order>,
    /// Its sets.
    pub(crate) sets: Vec<(Origin, Arc<[PolicyFile]>)>,
}

/// The origins of what an order names: which is staged follows from the order, and from whether this host
/// lets anything central be enforced.
pub(crate) fn origins(order: &Order, enforces: bool) -> Vec<(Origin, &Ordered)> {
    let origin = |ordered: &Ordered, staged| Origin::Central {
        set: ordered.set.as_str().into(),
        version: ordered.version,
        staged,
    };
    let enforced = order.enforce.iter().map(|ordered| (origin(ordered, !enforces), ordered));
    // The same version twice is there once.
    let same = |staged: &&Ordered| {
        order.enforce.as_ref().is_none_or(|e| (&e.set, e.version) != (&staged.set, staged.version))
    };
    let staged = order.observe.iter().filter(same).map(|ordered| (origin(ordered, true), ordered));
    enforced.chain(staged).collect()
}
