//! Who stands behind a running flow, as of now.
//!
//! A flow asks before every operation whether something has changed: that is one atomic load and a look at
//! the clock, and no system call. What has expired is taken away right there, whoever is late elsewhere. Who
//! finds a newer token, or has a person signed out, puts it in with [`LiveSubject::set`].

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use jiff::Timestamp;

use super::{IdentityKind, Subject, Verified};

/// The subject of a flow. Person and workload change; the process does not.
#[derive(Debug)]
pub struct LiveSubject {
    generation: AtomicU64,
    /// When the next of its identities expires, milliseconds since 1970.
    expires: AtomicI64,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    subject: Arc<Subject>,
    /// Identities that were taken away for good, and why.
    barred: Vec<(IdentityKind, Arc<str>)>,
}

impl LiveSubject {
    /// A subject with what is known of it when its flow begins.
    pub fn new(subject: Arc<Subject>) -> Self {
        let expires = AtomicI64::new(next(&subject));
        let current = RwLock::new(Current { subject, barred: Vec::new() });
        Self { generation: AtomicU64::new(0), expires, current }
    }

    /// Counted up whenever who stands behind it changes. Read it before [`LiveSubject::current`].
    pub fn generation(&self) -> u64 {
        if Timestamp::now().as_millisecond() >= self.expires.load(Ordering::Acquire) {
            self.lapse(Timestamp::now());
        }
        self.generation.load(Ordering::Acquire)
    }

    /// Who it is.
    pub fn current(&self) -> Arc<Subject> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).subject)
    }

    /// Puts another identity in the place of the one of this kind, or takes it away and says `why`.
    pub fn set(&self, kind: IdentityKind, identity: Option<Arc<Verified>>, why: &[String]) {
        let mut current = self.writing();
        let mut subject = Subject::clone(&current.subject);
        match current.barred.iter().find(|(barred, _)| *barred == kind) {
            Some((_, reason)) => subject.put(kind, None, &[reason.as_ref().to_owned()]),
            None => subject.put(kind, identity, why),
        }
        self.replace(&mut current, subject);
    }

    /// Takes the identity of this kind away, and whatever would come in its place. `why` begins with the kind's
    /// word and a colon. Gives whether there was one.
    pub fn bar(&self, kind: IdentityKind, why: &str) -> bool {
        let mut current = self.writing();
        if current.subject.identity(kind).is_none() {
            return false;
        }
        current.barred.push((kind, why.into()));
        let mut subject = Subject::clone(&current.subject);
        subject.put(kind, None, &[why.to_owned()]);
        self.replace(&mut current, subject);
        true
    }

    /// Takes away what has expired at `now`.
    fn lapse(&self, now: Timestamp) {
        let mut current = self.writing();
        let mut subject = Subject::clone(&current.subject);
        for kind in [IdentityKind::Person, IdentityKind::Workload] {
            let expired = subject.identity(kind).filter(|identity| !identity.is_current(now));
            if let Some(identity) = expired {
                let why = format!("{}: what {} says has expired", kind.word(), identity.issuer_name);
                subject.put(kind, None, &[why]);
            }
        }
        self.replace(&mut current, subject);
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, current: &mut Current, subject: Subject) {
        self.expires.store(next(&subject), Ordering::Release);
        if *current.subject != subject {
            current.subject = Arc::new(subject);
            // After the subject: who sees the number sees whom it stands for.
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Subject {
    /// Its verified identity of a kind.
    pub fn identity(&self, kind: IdentityKind) -> Option<&Arc<Verified>> {
        match kind {
            IdentityKind::Person => self.person.as_ref(),
            IdentityKind::Workload => self.workload.as_ref(),
        }
    }

    /// Puts another identity in the place of the one of this kind. `why` are the reasons for there being
    /// none, or no other: each begins with the kind's word and a colon.
    pub fn put(&mut self, kind: IdentityKind, identity: Option<Arc<Verified>>, why: &[String]) {
        match kind {
            IdentityKind::Person => self.person = identity,
            IdentityKind::Workload => self.workload = identity,
        }
        let about = |missing: &String| missing.split(':').next() == Some(kind.word());
        self.missing.retain(|missing| !about(missing));
        self.missing.extend_from_slice(why);
    }
}

/// When the next of its identities expires.
fn next(subject: &Subject) -> i64 {
    let both = subject.person.iter().chain(&subject.workload);
    both.map(|identity| identity.expires.as_millisecond()).min().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(kind: IdentityKind, expires: Timestamp) -> Arc<Verified> {
        Arc::new(Verified { expires, ..Verified::example(kind) })
    }

    #[test]
    fn what_has_expired_is_gone_with_the_next_look() {
        let now = Timestamp::now();
        let soon = now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
        let subject = Subject {
            person: Some(until(IdentityKind::Person, soon)),
            workload: Some(until(IdentityKind::Workload, now)),
            ..Subject::default()
        };
        let live = LiveSubject::new(Arc::new(subject));
        assert_eq!(live.generation(), 1);
        let current = live.current();
        assert!(current.workload.is_none() && current.person.is_some());
        assert_eq!(current.missing, ["workload: what example says has expired"]);
        assert_eq!(live.generation(), 1, "nothing has changed since");

        live.set(IdentityKind::Workload, Some(until(IdentityKind::Workload, soon)), &[]);
        assert_eq!(live.generation(), 2);
        assert!(live.current().missing.is_empty());
        let same = live.current().workload.clone();
        live.set(IdentityKind::Workload, same, &[]);
        assert_eq!(live.generation(), 2, "the same is no change");
        live.set(IdentityKind::Person, None, &["person: signed out".to_owned()]);
        assert_eq!((live.generation(), live.current().missing.len()), (3, 1));
        // What was taken away for good does not come back.
        assert!(!live.bar(IdentityKind::Person, "person: traced"), "there is none");
        assert!(live.bar(IdentityKind::Workload, "workload: traced"));
        live.set(IdentityKind::Workload, Some(until(IdentityKind::Workload, soon)), &[]);
        let current = live.current();
        assert!(current.workload.is_none() && current.missing.contains(&"workload: traced".to_owned()));
        live.set(IdentityKind::Person, Some(until(IdentityKind::Person, soon)), &[]);
        assert!(live.current().person.is_some());
    }
}
