//! How much one user, and one host, have posted: who asks again and again keeps nobody else's requests waiting.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Within this time.
const WITHIN: Duration = Duration::from_secs(600);
/// Requests of one user of one host.
const OF_USER: u32 = 20;
/// Requests of one host, which says itself who its users are.
const OF_HOST: u32 = 100;

/// What is done about one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is posted.
    Post,
    /// That there are more is posted.
    Summary,
    /// Nothing: that there are more was said.
    Fold,
}

#[derive(Debug)]
struct Posted {
    since: Instant,
    count: u32,
    summary: bool,
}

/// What was posted lately, by host, and by host and user.
#[derive(Debug, Default)]
pub(super) struct Limits {
    posted: HashMap<(String, Option<String>), Posted>,
}

fn keys(host: &str, user: &str) -> [((String, Option<String>), u32); 2] {
    [((host.to_owned(), Some(user.to_owned())), OF_USER), ((host.to_owned(), None), OF_HOST)]
}

impl Limits {
    /// What is done about a request of this user.
    pub(super) fn verdict(&self, host: &str, user: &str, now: Instant) -> Verdict {
        let mut verdict = Verdict::Post;
        for (key, most) in keys(host, user) {
            if let Some(posted) = self.posted.get(&key)
                && now.duration_since(posted.since) < WITHIN
                && posted.count >= most
            {
                if posted.summary {
                    return Verdict::Fold;
                }
                verdict = Verdict::Summary;
            }
        }
        verdict
    }

    /// Notes what was posted.
    pub(super) fn note(&mut self, host: &str, user: &str, verdict: Verdict, now: Instant) {
        self.posted.retain(|_, posted| now.duration_since(posted.since) < WITHIN);
        for (key, most) in keys(host, user) {
            let posted = self.posted.entry(key).or_insert(Posted { since: now, count: 0, summary: false });
            match verdict {
                Verdict::Post => posted.count = posted.count.saturating_add(1),
                Verdict::Summary => posted.summary |= posted.count >= most,
                Verdict::Fold => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_summary_and_nobody_else_waits() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let mut ask = |host: &str, user: &str, after: u64| {
            let now = start + Duration::from_secs(after);
            let verdict = limits.verdict(host, user, now);
            limits.note(host, user, verdict, now);
            verdict
        };
        for _ in 0..OF_USER {
            assert_eq!(ask("a", "mallory", 0), Verdict::Post);
        }
        assert_eq!(ask("a", "mallory", 1), Verdict::Summary);
        assert_eq!(ask("a", "mallory", 599), Verdict::Fold);
        assert_eq!(ask("a", "alice", 599), Verdict::Post);
        assert_eq!(ask("b", "mallory", 599), Verdict::Post);
        assert_eq!(ask("a", "mallory", 600), Verdict::Post);
        // A host that makes up users.
        let verdicts: Vec<Verdict> = (0..500).map(|user| ask("c", &user.to_string(), 700)).collect();
        let count = |of: Verdict| verdicts.iter().filter(|verdict| **verdict == of).count();
        assert_eq!((count(Verdict::Post), count(Verdict::Summary)), (OF_HOST as usize, 1));
    }
}
