//! Everything that can happen to a request, in every order: the desk against a model of it that was written apart.
//!
//! From an open request each deed is tried, by everybody, from every state that is reached, until no new one comes.
//! So it is exhaustive for these people and these terms, however long the sequence.

use std::collections::{BTreeMap, BTreeSet};

use super::super::person::{Account, Person};
use super::super::remote::{News, RemoteVote, Told};
use super::*;
use crate::policy::{Quorum, Scope, Way};

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Body {
    /// Who asks, and their account at the collector.
    Asker,
    AskersAccount,
    /// Ann of dba, and her account.
    Ann,
    AnnsAccount,
    /// Ben of dba and sec.
    Ben,
    /// Cleo's account, of sec.
    Cleo,
    /// Somebody of neither.
    Stranger,
}

use Body::{Ann, AnnsAccount, Asker, AskersAccount, Ben, Cleo, Stranger};

const BODIES: [Body; 7] = [Asker, AskersAccount, Ann, AnnsAccount, Ben, Cleo, Stranger];

impl Body {
    /// The human being.
    fn human(self) -> &'static str {
        match self {
            Asker | AskersAccount => "u1",
            Ann | AnnsAccount => "u2",
            Ben => "u3",
            Cleo => "cleo",
            Stranger => "u9",
        }
    }

    fn groups(self) -> &'static [&'static str] {
        match self {
            Asker | AskersAccount | Ann | AnnsAccount => &["dba"],
            Ben => &["dba", "sec"],
            Cleo => &["sec"],
            Stranger => &["staff"],
        }
    }

    fn way(self) -> Way {
        match self {
            AskersAccount | AnnsAccount | Cleo => Way::Collector,
            _ => Way::Host,
        }
    }

    fn approver(self) -> Approver {
        let name = self.human();
        let uid = name.trim_start_matches('u').parse().unwrap();
        let person = Person { uid, login_uid: None, login_session: None, confirmed: false };
        let groups = self.groups().iter().map(|group| Arc::from(*group)).collect();
        Approver::on_host(person, name.into(), "".into(), groups)
    }
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Approve(Body),
    Deny(Body),
    /// At the collector, of another operation than the one that waits.
    OtherDigest,
    Glass(Body),
    /// It is on disk.
    Record,
    Expire,
    Withdraw,
    CancelRequest,
    /// The flow has ended.
    Drop,
}

fn deeds() -> Vec<Deed> {
    let by = BODIES.iter().flat_map(|body| [Deed::Approve(*body), Deed::Deny(*body)]);
    let own = [Deed::Glass(Asker), Deed::Glass(Ann), Deed::OtherDigest, Deed::Record];
    by.chain(own).chain([Deed::Expire, Deed::Withdraw, Deed::CancelRequest, Deed::Drop]).collect()
}

/// What the terms are made of here.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Groups, how many, each of them, where it counts.
    quorums: &'static [(&'static [&'static str], usize, bool, Option<Way>)],
    glass: bool,
    remote: Remote,
}

impl Setting {
    fn terms(&self) -> Terms {
        let quorum = |(groups, needed, all_of, via): &(&[&str], usize, bool, Option<Way>)| Quorum {
            rule: "r".into(),
            groups: groups.iter().map(|group| Arc::from(*group)).collect(),
            needed: *needed,
            all_of: *all_of,
            via: via.iter().copied().collect(),
        };
        let quorums = self.quorums.iter().map(quorum).collect();
        Terms { quorums, break_glass: self.glass, ..Terms::sample() }
    }
}

/// How a request stands, as the model has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Model {
    recorded: bool,
    voted: BTreeSet<Body>,
    /// The word for how it ended.
    over: Option<&'static str>,
    /// Its flow has gone.
    gone: bool,
}

impl Model {
    fn may_see(setting: &Setting, by: Body) -> bool {
        let named = |groups: &[&str]| by.groups().iter().any(|group| groups.contains(group));
        by == Asker || setting.quorums.iter().any(|(groups, ..)| named(groups))
    }

    /// All rules have whom they ask for: an assignment of voters to groups is tried out in full.
    fn fulfilled(&self, setting: &Setting) -> bool {
        setting.quorums.iter().all(|(groups, needed, all_of, via)| {
            let counts = |body: &&Body| {
                via.is_none_or(|via| via == body.way())
                    && body.groups().iter().any(|group| groups.contains(group))
            };
            let voters: Vec<Body> = self.voted.iter().filter(counts).copied().collect();
            voters.len() >= *needed && (!all_of || Self::one_each(groups, &voters))
        })
    }

    fn one_each(groups: &[&str], voters: &[Body]) -> bool {
        let Some((group, others)) = groups.split_first() else { return true };
        (0..voters.len()).any(|at| {
            let mut left = voters.to_vec();
            let voter = left.remove(at);
            voter.groups().contains(group) && Self::one_each(others, &left)
        })
    }

    /// What comes of a deed; says whether it counts.
    fn take(&mut self, setting: &Setting, deed: Deed) -> bool {
        if self.over.is_some() {
            self.gone |= deed == Deed::Drop;
            return false;
        }
        let on_host = |by: Body| by.way() == Way::Host;
        let remote = |model: &Self| model.recorded && setting.remote != Remote::Off;
        match deed {
            Deed::Approve(by) | Deed::Deny(by) => {
                let named = by.groups().iter().any(|of| setting.quorums.iter().any(|q| q.0.contains(of)));
                if by.human() == "u1" || !named || !on_host(by) && !remote(self) {
                    return false;
                }
                if matches!(deed, Deed::Deny(_)) {
                    self.over = Some("denied");
                    return true;
                }
                let somewhere = setting.quorums.iter().any(|(groups, _, _, via)| {
                    via.is_none_or(|via| via == by.way()) && by.groups().iter().any(|of| groups.contains(of))
                });
                let again = self.voted.iter().any(|other| other.human() == by.human());
                let taken = on_host(by) || setting.remote == Remote::Decide;
                if again || !somewhere || !taken {
                    return false;
                }
                self.voted.insert(by);
                if self.fulfilled(setting) {
                    self.over = Some("approved");
                }
            }
            Deed::OtherDigest => return false,
            Deed::Glass(by) => {
                if !setting.glass || by != Asker {
                    return false;
                }
                self.over = Some("broken_glass");
            }
            Deed::Record => self.recorded = true,
            Deed::Expire => self.over = Some("expired"),
            Deed::Withdraw | Deed::CancelRequest => self.over = Some("withdrawn"),
            Deed::Drop => (self.over, self.gone) = (Some("withdrawn"), true),
        }
        true
    }
}

/// The desk, with one request.
struct Real {
    desk: Arc<Desk>,
    id: Id,
    ticket: Option<Ticket>,
    votes: u64,
    events: Vec<&'static str>,
}

const SERVER: ([u8; 4], u16) = ([127, 0, 0, 1], 5432);

impl Real {
    fn new(setting: &Setting) -> Self {
        let desk = Desk::new(Bounds {
            held: 5,
            held_per_user: 5,
            asked_per_user: 1000,
            bytes: 1000,
            remind: Duration::from_secs(60),
            remote: setting.remote,
            link: None,
        });
        let cancel = CancelKey {
            server: SERVER.into(),
            key: Zeroizing::new(Box::new([7; 8])),
            running: Arc::default(),
        };
        let ticket = desk
            .ask(Request {
                subject: Arc::new(Subject { uid: 1, user: "u1".into(), ..Subject::default() }),
                server: SERVER.into(),
                hosts: Vec::new(),
                session: SessionId::new(1, [1; 10]),
                shown: Shown::default(),
                digest: [4; 32],
                terms: Arc::new(setting.terms()),
                shape: None,
                likeness: [0; 32],
                cancel: Some(cancel),
                bytes: 100,
            })
            .unwrap();
        Self { id: ticket.id(), desk, ticket: Some(ticket), votes: 0, events: Vec::new() }
    }

    fn remote(&mut self, by: Body, approve: bool, digest: [u8; 32]) -> bool {
        self.votes += 1;
        let (name, vote) = (by.human(), format!("v-{}", self.votes));
        let vote = RemoteVote {
            request: self.id.to_string(),
            digest,
            approve,
            scope: Scope::Once,
            seconds: 0,
            reason: "no".into(),
            account: Account { name: name.into(), vote, ..Account::default() },
            groups: by.groups().iter().map(|group| Arc::from(*group)).collect(),
        };
        let answer = self.desk.remote(vote.clone());
        // Told again it has the same answer, and no other effect.
        assert_eq!(self.desk.remote(vote), answer);
        answer.refused.is_none()
    }

    /// Does it; says whether it counts.
    fn take(&mut self, deed: Deed) -> bool {
        let (desk, id) = (Arc::clone(&self.desk), self.id.to_string());
        let counted = match deed {
            Deed::Approve(by) if by.way() == Way::Host => {
                let vote = Vote { by: by.approver(), reason: "".into(), scope: Scope::Once, seconds: 0 };
                desk.approve(&id, vote).is_ok()
            }
            Deed::Deny(by) if by.way() == Way::Host => desk.deny(&id, &by.approver(), "no".into()).is_ok(),
            Deed::Approve(by) => self.remote(by, true, [4; 32]),
            Deed::Deny(by) => self.remote(by, false, [4; 32]),
            Deed::OtherDigest => self.remote(Cleo, false, [5; 32]) || self.remote(AnnsAccount, true, [5; 32]),
            Deed::Glass(by) => desk.break_glass(&id, &by.approver(), "fire".into()).is_ok(),
            Deed::Record => {
                let open = desk.waiting() == 1;
                desk.recorded(self.id);
                open
            }
            Deed::Expire => {
                let late = Instant::now() + Duration::from_secs(61);
                desk.with(self.id, |open| open.case.expire(late)).unwrap_or(false)
            }
            Deed::Withdraw => {
                let open = desk.waiting() == 1;
                if let Some(ticket) = &self.ticket {
                    ticket.withdraw(Withdrawal::Because("x".into()));
                }
                open
            }
            Deed::CancelRequest => desk.cancel(SERVER.into(), &[7; 8]),
            Deed::Drop => {
                let open = desk.waiting() == 1;
                self.hear();
                // What comes of dropping it nobody hears: the desk remembers it.
                self.ticket = None;
                open
            }
        };
        self.hear();
        counted
    }

    fn hear(&mut self) {
        while let Some(event) = self.ticket.as_mut().and_then(Ticket::take) {
            self.events.push(match event {
                Event::Vote(_) => "vote",
                Event::Over(outcome) => outcome.word(),
            });
        }
    }

    /// All that must be so in any state.
    fn check(&self, setting: &Setting, model: &Model, path: &[Deed]) {
        let told = |what: &str| format!("{what}: {setting:?} {path:?} {model:?}");
        let inner = self.desk.inner();
        assert_eq!(inner.open.len() + inner.past.iter().count(), 1, "{}", told("one request"));
        let past = inner.past.iter().next();
        assert_eq!(past.map(|past| past.outcome.word()), model.over, "{}", told("the outcome"));
        let by = match inner.open.get(&self.id) {
            Some(open) => open.case.votes().iter().map(|vote| Arc::clone(&vote.by.name)).collect(),
            None => past.map(|past| past.by.clone()).unwrap_or_default(),
        };
        let mut voted: Vec<&str> = model.voted.iter().map(|body| body.human()).collect();
        let mut counted: Vec<&str> = by.iter().map(|name| &**name).collect();
        voted.sort_unstable();
        counted.sort_unstable();
        assert_eq!(counted, voted, "{}", told("who approved"));
        counted.dedup();
        assert!(counted.len() == voted.len() && !counted.contains(&"u1"), "{}", told("different people"));
        assert_eq!(model.over == Some("approved"), model.fulfilled(setting), "{}", told("the quorum"));
        // The flow heard each vote once, then one end, then nothing; but for what came of its own going.
        let mut expected = vec!["vote"; voted.len()];
        expected.extend(model.over.filter(|_| !(model.gone && path.last_over_was_drop(setting))));
        assert_eq!(self.events, expected, "{}", told("what the flow heard"));
        assert_eq!(inner.bytes, if model.over.is_some() { 0 } else { 100 }, "{}", told("what is held"));
        drop(inner);
        // A collector that connects now hears of it as it is, if it is on disk and it may know.
        let mut told_it = Told::default();
        let (mut requests, mut ends, mut all) = (0, Vec::new(), None);
        while let Some(news) = self.desk.next_news(&mut told_it) {
            match news {
                News::Request(_) => requests += 1,
                News::Standing(standing) => ends.extend(standing.outcome.map(|(outcome, _)| outcome.word())),
                News::All(open) => all = Some(open.len()),
            }
        }
        let known = usize::from(model.recorded && setting.remote != Remote::Off);
        let ended: Vec<_> = model.over.into_iter().filter(|_| known == 1).collect();
        assert_eq!(requests, known, "{}", told("what the collector is told"));
        assert_eq!(ends, ended, "{}", told("that it ended"));
        assert_eq!(all, Some(known - ended.len()), "{}", told("what is open"));
        // Who may not see it is told that there is none, whatever they try.
        let seen = self.desk.show(&self.id.to_string(), &Stranger.approver()).is_ok();
        assert_eq!(seen, Model::may_see(setting, Stranger), "{}", told("who sees it"));
    }
}

/// Whether the request was still open when the flow went.
trait Path {
    fn last_over_was_drop(&self, setting: &Setting) -> bool;
}

impl Path for [Deed] {
    fn last_over_was_drop(&self, setting: &Setting) -> bool {
        let mut model = Model::default();
        self.iter().any(|deed| {
            let open = model.over.is_none();
            model.take(setting, *deed);
            open && *deed == Deed::Drop
        })
    }
}

fn explore(setting: &Setting) -> (usize, usize) {
    let all = deeds();
    let mut known: BTreeMap<Model, Vec<Deed>> = BTreeMap::from([(Model::default(), Vec::new())]);
    let mut next: VecDeque<Model> = VecDeque::from([Model::default()]);
    let mut steps = 0;
    while let Some(state) = next.pop_front() {
        for deed in &all {
            let mut path = known[&state].clone();
            let mut real = Real::new(setting);
            for earlier in &path {
                real.take(*earlier);
            }
            let mut model = state.clone();
            let (counted, expected) = (real.take(*deed), model.take(setting, *deed));
            path.push(*deed);
            assert_eq!(counted, expected, "{setting:?} {path:?}");
            real.check(setting, &model, &path);
            steps += 1;
            if !known.contains_key(&model) {
                known.insert(model.clone(), path);
                next.push_back(model);
            }
        }
    }
    (known.len(), steps)
}

const DBA: &[&str] = &["dba"];
const BOTH: &[&str] = &["dba", "sec"];

#[tokio::test]
async fn whatever_happens_in_whatever_order() {
    let one = Setting { quorums: &[(DBA, 1, false, None)], glass: false, remote: Remote::Decide };
    let settings = [
        one,
        Setting { glass: true, ..one },
        Setting { remote: Remote::Show, ..one },
        Setting { remote: Remote::Off, glass: true, ..one },
        Setting { quorums: &[(DBA, 2, false, None)], ..one },
        Setting { quorums: &[(BOTH, 3, false, None)], glass: true, ..one },
        Setting { quorums: &[(BOTH, 2, true, None)], ..one },
        Setting { quorums: &[(BOTH, 3, true, None)], ..one },
        Setting { quorums: &[(DBA, 1, false, Some(Way::Host))], ..one },
        Setting { quorums: &[(BOTH, 1, false, Some(Way::Collector))], ..one },
        // Two rules: each has to be fulfilled, by whom it names.
        Setting { quorums: &[(DBA, 1, false, None), (&["sec"], 1, false, Some(Way::Collector))], ..one },
        Setting { quorums: &[(DBA, 2, false, None), (BOTH, 2, true, Some(Way::Host))], glass: true, ..one },
    ];
    for setting in settings {
        let (states, steps) = explore(&setting);
        // Open and each way to end, with and without its being on disk, at least.
        assert!(states >= 8 && steps == states * deeds().len(), "{setting:?}: {states}, {steps}");
    }
}

#[tokio::test]
async fn an_agent_that_was_started_anew_knows_nothing_of_it() {
    let setting = Setting { quorums: &[(DBA, 2, false, None)], glass: true, remote: Remote::Decide };
    let mut real = Real::new(&setting);
    real.take(Deed::Record);
    real.take(Deed::Approve(Ann));
    let id = real.id;
    // What was held has gone with the flows, the votes with the desk.
    let mut anew = Real::new(&setting);
    anew.take(Deed::Record);
    let other = anew.id;
    anew.id = id;
    for deed in
        deeds().into_iter().filter(|deed| matches!(deed, Deed::Approve(_) | Deed::Deny(_) | Deed::Glass(_)))
    {
        assert!(!anew.take(deed), "{deed:?}");
    }
    anew.id = other;
    anew.check(&setting, &Model { recorded: true, ..Model::default() }, &[Deed::Record]);
    assert!(matches!(anew.desk.inner().open.get(&other), Some(open) if open.case.votes().is_empty()));
}
