//! What an approval that is given in a chat covers, and what a menu offers of that.

use crate::store::WholeApproval;

/// Minutes that are offered, where the rule lets a shape be approved for so long.
const MINUTES: [u64; 3] = [5, 15, 60];
/// No rule lets one be approved for longer.
const MOST: u64 = 24 * 60;

/// What an approval covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cover {
    /// The one command.
    Once,
    /// The same but for constants, for so many minutes.
    Shape(u32),
    /// Whatever the same rules hold in the session.
    Session,
}

impl Cover {
    /// The rules' word for it.
    pub(crate) fn scope(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Shape(_) => "shape",
            Self::Session => "session",
        }
    }

    /// A shape for so many minutes.
    pub(crate) fn minutes(self) -> Option<u32> {
        match self {
            Self::Shape(minutes) => Some(minutes),
            Self::Once | Self::Session => None,
        }
    }

    /// As it goes to a chat and comes back: it has no blank.
    pub(super) fn written(self) -> String {
        match self {
            Self::Shape(minutes) => format!("shape-{minutes}"),
            Self::Once | Self::Session => self.scope().to_owned(),
        }
    }

    /// The one that is written so.
    pub(super) fn read(text: &str) -> Option<Self> {
        match text {
            "once" => Some(Self::Once),
            "session" => Some(Self::Session),
            _ => {
                let minutes = text.strip_prefix("shape-")?;
                let digits = minutes.bytes().all(|byte| byte.is_ascii_digit());
                let minutes: u32 = minutes.parse().ok().filter(|_| digits)?;
                (1..=MOST).contains(&u64::from(minutes)).then_some(Self::Shape(minutes))
            }
        }
    }

    /// Whether the rules of a request let it be approved so: for no longer than they say, whatever a message offered.
    pub(crate) fn is_let(self, one: &WholeApproval) -> bool {
        let let_for = one.told.shape_for_seconds / 60;
        one.told.scopes.iter().any(|scope| scope == self.scope())
            && self.minutes().is_none_or(|minutes| u64::from(minutes) <= let_for)
    }

    /// In a menu.
    pub(super) fn label(self) -> String {
        match self {
            Self::Once => "Approve once".to_owned(),
            Self::Shape(1) => "Approve for 1 minute".to_owned(),
            Self::Shape(minutes) => format!("Approve for {minutes} minutes"),
            Self::Session => "Approve for the session".to_owned(),
        }
    }
}

/// What is more than one command and can be approved.
pub(super) fn offered(one: &WholeApproval) -> Vec<Cover> {
    let longest = (one.told.shape_for_seconds / 60).min(MOST);
    let mut minutes: Vec<u64> = MINUTES.into_iter().filter(|minutes| *minutes < longest).collect();
    minutes.push(longest);
    let shapes = minutes.into_iter().filter_map(|minutes| u32::try_from(minutes).ok()).map(Cover::Shape);
    let all = shapes.chain([Cover::Session]);
    all.filter(|cover| cover.minutes() != Some(0) && cover.is_let(one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        for cover in [Cover::Once, Cover::Session, Cover::Shape(1), Cover::Shape(1440)] {
            assert_eq!(Cover::read(&cover.written()), Some(cover));
        }
        for wrong in
            ["", "shape", "shape-", "shape-0", "shape-1441", "shape-+5", "shape--5", "shape-5 ", "always"]
        {
            assert_eq!(Cover::read(wrong), None, "{wrong}");
        }
    }
}
