//! Policies that are kept centrally: versions of sets, which hosts go by which, and the signed orders that
//! follow from that. `docs/central-policies.md` tells the whole procedure.

mod change;
mod check;
mod diff;
mod labels;
mod orders;

pub use change::{Mode, PolicyError, assign, promote, push, reissue, remove, roll_back, set_labels};
pub use check::check;
pub use diff::{Line, diff};
pub use labels::{LabelError, choose, parse_given, selector, written};
pub use orders::{files_for, order_for};
