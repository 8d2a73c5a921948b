//! How often each user asks for approval: what is held is bounded by what waits at once, and a client that leaves
//! at once could ask again and again, until nobody looks any more and the collector takes no more of the host.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The time that requests are counted over.
pub(super) const WINDOW: Duration = Duration::from_secs(10 * 60);

/// Most users that are told apart; of more all that are new count as one.
const USERS: usize = 65_536;

/// When users have asked.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// By user; `None` are those that there is no more room for.
    asked: HashMap<Option<u32>, VecDeque<Instant>>,
    swept: Option<Instant>,
}

impl Rate {
    /// A user asks. Gives how often they have done so within [`WINDOW`], if that is as often as they may: then it
    /// does not count.
    pub(super) fn ask(&mut self, user: u32, most: usize, now: Instant) -> Result<(), usize> {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= WINDOW) {
            self.swept = Some(now);
            self.asked.retain(|_, asked| asked.back().is_some_and(|last| now.duration_since(*last) < WINDOW));
        }
        let known = self.asked.contains_key(&Some(user)) || self.asked.len() < USERS;
        let asked = self.asked.entry(Some(user).filter(|_| known)).or_default();
        while asked.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            asked.pop_front();
        }
        if asked.len() >= most {
            return Err(asked.len());
        }
        asked.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_asks_so_often_within_the_time() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for second in [0, 300, 300] {
            assert_eq!(rate.ask(1, 3, at(second)), Ok(()));
        }
        // What is refused does not count, or nobody would come out of it who goes on asking.
        for second in [300, 400, 599] {
            assert_eq!(rate.ask(1, 3, at(second)), Err(3));
        }
        assert_eq!(rate.ask(2, 3, at(300)), Ok(()), "others go on");
        assert_eq!(rate.ask(1, 3, at(600)), Ok(()));
        assert_eq!(rate.ask(1, 3, at(899)), Err(3));
        assert_eq!(rate.ask(1, 3, at(900)), Ok(()));
        assert_eq!(rate.ask(3, 3, at(2000)), Ok(()));
        assert_eq!(rate.asked.len(), 1, "who asks no more is forgotten");
    }

    #[test]
    fn more_users_than_can_be_told_apart_share_what_one_may() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        for user in 0..65_536 {
            assert_eq!(rate.ask(user, 2, now), Ok(()));
        }
        assert_eq!((rate.ask(70_000, 2, now), rate.ask(70_001, 2, now)), (Ok(()), Ok(())));
        assert_eq!((rate.ask(70_002, 2, now), rate.ask(5, 2, now)), (Err(2), Ok(())));
        assert!(rate.asked.len() <= USERS + 1);
    }
}
