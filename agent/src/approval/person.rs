//! Who asks and who decides, and whether they may be one.

use std::sync::Arc;
use std::time::Duration;

use interlock_shipping::{NAME_CLAIMS, Name, Names};

use crate::identity::login::{PersonKey, signed_in_ago};
use crate::identity::{Subject, Verified};
use crate::policy::Way;

/// Who somebody is on this host: two that have anything of it in common are one, as far as that keeps somebody
/// from deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// User id.
    pub uid: u32,
    /// The audit login user: who logged in, whatever sudo or su made of them since.
    pub login_uid: Option<u32>,
    /// The audit session.
    pub login_session: Option<u32>,
    /// The kernel side has seen root set them. Else they are the process's own word, for where none is set
    /// any process may set its own: they count against it, and never for it.
    pub confirmed: bool,
}

impl Person {
    /// Who logged in, if that is more than a claim.
    pub fn login(&self) -> Option<u32> {
        self.login_uid.filter(|_| self.confirmed)
    }

    /// In which session, if that is more than a claim.
    pub fn session(&self) -> Option<u32> {
        self.login_session.filter(|_| self.confirmed)
    }

    /// `other` is the same person beyond what either only claims.
    pub fn surely_is(&self, other: &Self) -> bool {
        let sure = |of: &Self| Self { login_uid: of.login(), login_session: of.session(), ..*of };
        sure(self).same(&sure(other)).is_some()
    }

    /// What may make `other` the same person, claims included; `None` when nothing does.
    pub fn same(&self, other: &Self) -> Option<&'static str> {
        let either = |person: &Self, uid: u32| person.uid == uid || person.login_uid == Some(uid);
        if self.uid == other.uid {
            Some("the same user")
        } else if self.login_session.is_some() && self.login_session == other.login_session {
            Some("the same login session")
        } else if either(other, self.uid) || self.login_uid.is_some_and(|uid| either(other, uid)) {
            Some("the same login user")
        } else {
            None
        }
    }
}

/// An account of the collector's, as the collector says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: Arc<str>,
    /// Names that the same person has on hosts, as an administrator of the collector set them.
    pub logins: Vec<String>,
    /// The person's e-mail address; may be empty.
    pub email: String,
    /// Who vouches for the account, and as whom; empty for one of the collector's own.
    pub issuer: String,
    /// The subject.
    pub subject: String,
    /// What its provider called the person when the account was made; empty when that is not known.
    pub called: String,
    /// When they last showed who they are, nanoseconds since the Unix epoch by the collector's clock.
    pub authenticated_ns: Option<u64>,
    /// The vote's own name at the collector.
    pub vote: String,
}

impl Account {
    fn names(&self) -> Names {
        Names::of(&self.name, &self.email, &self.logins, &self.called)
    }

    /// A host's user of this name may be the same person.
    pub fn is_user(&self, name: &str) -> bool {
        self.names().hold(name)
    }

    /// The same person has this account too.
    fn same(&self, other: &Self) -> Option<&'static str> {
        let of_provider = !self.issuer.is_empty() && self.issuer == other.issuer;
        if self.name == other.name || of_provider && self.subject == other.subject {
            Some("the same account")
        } else if is_mail(&self.email, &other.email) {
            Some("of the same e-mail address")
        } else if self.names().meet(&other.names()) {
            Some(SAME_USER)
        } else {
            None
        }
    }
}

fn is_mail(one: &str, other: &str) -> bool {
    !one.trim().is_empty() && one.trim().to_lowercase() == other.trim().to_lowercase()
}

/// Somebody as who they are known where they decide.
#[derive(Debug, Clone)]
pub enum Who {
    /// On this host.
    Host(Person),
    /// At the collector.
    Account(Box<Account>),
}

/// Who decides, and by what right.
#[derive(Debug, Clone)]
pub struct Approver {
    /// The person.
    pub who: Who,
    /// Their name.
    pub name: Arc<str>,
    /// The login user's name; empty when there is none.
    pub login: Arc<str>,
    /// The name of a login user that their process has by its own word; empty when there is none. It counts
    /// against them alone.
    pub login_claimed: Arc<str>,
    /// Names of the groups that they are in.
    pub groups: Box<[Arc<str>]>,
    /// How long ago they showed who they are, where that is known.
    pub signed_in: Option<Duration>,
    /// The person as an identity provider has verified them, where they have signed in on this host.
    pub verified: Option<Arc<Verified>>,
    /// What has started their process on this host, where nobody sits in front of it.
    pub background: Option<Arc<str>>,
}

impl Approver {
    /// Somebody on this host.
    pub fn on_host(person: Person, name: Arc<str>, login: Arc<str>, groups: Box<[Arc<str>]>) -> Self {
        Self {
            who: Who::Host(person),
            name,
            login,
            login_claimed: "".into(),
            groups,
            signed_in: None,
            verified: None,
            background: None,
        }
    }

    /// An account of the collector's.
    pub fn of_account(account: Account, groups: Box<[Arc<str>]>, signed_in: Option<Duration>) -> Self {
        let name = Arc::clone(&account.name);
        Self {
            who: Who::Account(Box::new(account)),
            name,
            login: "".into(),
            login_claimed: "".into(),
            groups,
            signed_in,
            verified: None,
            background: None,
        }
    }

    /// The same with whom an identity provider has verified behind them. With `groups` their groups there count
    /// too: by name, and by name with the issuer before it.
    #[must_use]
    pub fn verified(mut self, person: Arc<Verified>, groups: bool) -> Self {
        self.signed_in = signed_in_ago(&person, jiff::Timestamp::now());
        if groups {
            let both =
                |group: &String| [group.as_str().into(), format!("{}:{group}", person.issuer_name).into()];
            self.groups = self.groups.into_iter().chain(person.groups.iter().flat_map(both)).collect();
        }
        self.verified = Some(person);
        self
    }

    /// Who they are on this host.
    pub fn person(&self) -> Option<&Person> {
        match &self.who {
            Who::Host(person) => Some(person),
            Who::Account(_) => None,
        }
    }

    /// By which way the decision came.
    pub fn way(&self) -> Way {
        match &self.who {
            Who::Host(_) => Way::Host,
            Who::Account(_) => Way::Collector,
        }
    }

    /// Somebody of this name may be them. It may be a mere claim, and counts against them alone.
    fn is_called(&self, name: &str) -> bool {
        self.may_be(&Name::of(name))
    }

    /// The same of a name that was read.
    fn may_be(&self, name: &Name) -> bool {
        let account = match &self.who {
            Who::Account(account) => account.names().may_be(name) || Name::of(&account.subject).may_be(name),
            Who::Host(_) => false,
        };
        let verified = || self.verified.as_deref().map(called).unwrap_or_default();
        let mut host = [&*self.name, &*self.login, &*self.login_claimed].into_iter();
        account
            || host.any(|own| Name::of(own).may_be(name))
            || verified().into_iter().any(|(claim, own)| Name::claimed(claim, own).may_be(name))
    }

    /// What else they may be called than their user and login user: it may be a mere claim.
    pub fn further_names(&self) -> impl Iterator<Item = &str> {
        let claimed = (!self.login_claimed.is_empty()).then_some(&*self.login_claimed);
        claimed.into_iter().chain(self.provided_names())
    }

    /// What the identity provider calls them, verified or not.
    pub fn provided_names(&self) -> impl Iterator<Item = &str> {
        self.verified.as_deref().map(called).unwrap_or_default().into_iter().map(|(_, name)| name)
    }

    /// What may make `other` the same person.
    pub fn same(&self, other: &Self) -> Option<&'static str> {
        if is_verified(self.verified.as_deref(), other) || is_verified(other.verified.as_deref(), self) {
            return Some(SAME_VERIFIED);
        }
        let names = |by: &Self, account: &Account| {
            let known = [&by.name, &by.login, &by.login_claimed].iter().any(|name| account.is_user(name));
            known.then_some(SAME_USER)
        };
        match (&self.who, &other.who) {
            (Who::Host(one), Who::Host(two)) => {
                // Of two directories: `alice` and `CORP+alice` have different ids.
                let own = [&self.name, &self.login, &self.login_claimed];
                one.same(two).or_else(|| own.iter().any(|name| other.is_called(name)).then_some(SAME_USER))
            }
            (Who::Account(one), Who::Account(two)) => one.same(two),
            (Who::Host(_), Who::Account(account)) => names(self, account),
            (Who::Account(account), Who::Host(_)) => names(other, account),
        }
    }
}

/// What is said where an account's names are a host's user's, or another account's.
const SAME_USER: &str = "the same user of this host";
/// What is said where two are one by what their identity provider says.
const SAME_VERIFIED: &str = "the same verified person";

/// Whether an approver is a person whom an identity provider has verified, by whichever user, login session or
/// account.
fn is_verified(person: Option<&Verified>, by: &Approver) -> bool {
    let Some(person) = person else { return false };
    if by.verified.as_deref().is_some_and(|other| PersonKey::of(person).is(&PersonKey::of(other))) {
        return true;
    }
    if let Who::Account(account) = &by.who {
        let subject = *person.issuer == *account.issuer && person.subject == account.subject;
        if subject || PersonKey::of(person).has_address(account.email.trim()) {
            return true;
        }
    }
    called(person).into_iter().any(|(claim, name)| by.may_be(&Name::claimed(claim, name)))
}

/// What a person is called by their provider, verified or not, and by which claim.
fn called(person: &Verified) -> Vec<(&'static str, &str)> {
    let claims = NAME_CLAIMS.iter().filter_map(|claim| Some((*claim, person.claims.get(*claim)?.as_str()?)));
    // Where nothing names them their subject does, which is another person's at another provider.
    let name = (person.name != person.subject).then_some(("name", person.name.as_str()));
    claims.chain(name).filter(|(_, name)| !name.trim().is_empty()).collect()
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Requester {
    /// On this host.
    pub person: Person,
    /// Names of the user and of the login user, also of one that the process only claims; empty ones where there
    /// is none.
    pub names: Vec<String>,
    /// The process had ended before it could be looked at: it is not known who logged in.
    pub unseen: bool,
    /// Who started the CI job, as its verified token says, and as its environment claims.
    pub actors: Vec<Name>,
    /// The person as an identity provider has verified them.
    pub verified: Option<Arc<Verified>>,
}

impl Requester {
    /// Who stands behind a flow.
    pub fn of(subject: &Subject) -> Self {
        let Subject { uid, login_uid, login_session, .. } = *subject;
        let claimed = subject.login_claimed.as_ref();
        let person = match claimed {
            // Root was not seen to set it: it may be whose session it is all the same.
            Some(claimed) if login_uid.is_none() => {
                Person { uid, login_uid: Some(claimed.uid), login_session: claimed.session, confirmed: false }
            }
            _ => Person { uid, login_uid, login_session, confirmed: true },
        };
        let claimed = claimed.map(|claimed| &claimed.user);
        let names = [&subject.user, &subject.login_user].into_iter().chain(claimed).cloned().collect();
        let gone = subject.missing.iter().any(|missing| missing.starts_with("process:"));
        let unseen = gone && login_uid.is_none();
        let job = subject.workload.as_deref();
        let claims = job.into_iter().flat_map(|job| {
            let claimed = |claim: &&str| Some(Name::claimed(claim, job.claims.get(*claim)?.as_str()?));
            NAME_CLAIMS.iter().filter_map(claimed)
        });
        let started = job.map(|job| job.job.actor.as_str()).into_iter().chain([subject.ci.actor.as_str()]);
        let actors = started.map(Name::of).chain(claims).filter(|name| !name.is_empty()).collect();
        Self { person, names, unseen, actors, verified: subject.person.clone() }
    }

    /// What may make an approver the same person.
    pub fn same(&self, by: &Approver) -> Option<&'static str> {
        if is_verified(self.verified.as_deref(), by) {
            return Some(SAME_VERIFIED);
        }
        if self.actors.iter().any(|name| by.may_be(name)) {
            return Some("of the name of who started the job");
        }
        let same = match &by.who {
            Who::Host(person) => self.person.same(person),
            Who::Account(_) => None,
        };
        // On the host too: who has signed in may be called as the user that asks.
        let called = || self.names.iter().any(|name| by.is_called(name)).then_some(SAME_USER);
        same.or_else(called)
    }

    /// It is them beyond what either only claims, on this host.
    pub fn surely_is(&self, by: &Approver) -> bool {
        by.person().is_some_and(|person| self.person.surely_is(person))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, email: &str, logins: &[&str]) -> Account {
        Account {
            name: name.into(),
            email: email.into(),
            logins: logins.iter().map(|login| (*login).to_owned()).collect(),
            ..Account::default()
        }
    }

    #[test]
    fn an_account_is_its_owners_users_however_a_host_writes_them() {
        for (own, user) in [
            (account("alice", "", &[]), "alice"),
            (account("alice", "", &[]), "ALICE@corp.example"),
            (account("alice", "", &[]), "CORP\\Alice"),
            (account("okta:alice@corp.example", "", &[]), "alice"),
            (account("okta:alice~2", "", &[]), "alice"),
            (account("a.smith", "Alice@corp.example", &[]), "alice"),
            (account("a.smith", "", &["alice-adm", "alice"]), "alice"),
            (account("a.smith", "", &["CORP\\alice"]), "alice@corp.example"),
        ] {
            assert!(own.is_user(user), "{own:?} {user}");
            assert!(!own.is_user("bob") && !own.is_user("") && !own.is_user("@"), "{own:?}");
        }
        assert!(!account("", "", &[""]).is_user(""), "nobody is the user without a name");
    }

    #[test]
    fn two_accounts_of_one_person_are_one_where_it_can_be_told() {
        let mut one = account("alice", "alice@corp.example", &[]);
        assert_eq!(one.same(&account("alice", "", &[])), Some("the same account"));
        assert_eq!(
            one.same(&account("okta:x", " Alice@Corp.example", &[])),
            Some("of the same e-mail address")
        );
        assert!(one.same(&account("x", "", &["alice"])).is_some());
        assert!(account("x", "", &["root2"]).same(&account("y", "", &["root2"])).is_some());
        assert_eq!(one.same(&account("bob", "", &[])), None);
        one.issuer = "https://id".into();
        one.subject = "7".into();
        let mut two = account("okta:renamed", "", &[]);
        two.issuer = "https://id".into();
        two.subject = "7".into();
        assert_eq!(one.same(&two), Some("the same account"));
        two.subject = "8".into();
        assert_eq!(one.same(&two), None);
        // Accounts without a provider have no subject in common.
        assert_eq!(account("a", "", &[]).same(&account("b", "", &[])), None);
    }

    fn verified(issuer: &str, subject: &str, email: Option<&str>) -> Arc<Verified> {
        let mut person = Verified {
            issuer_name: "okta".into(),
            issuer: issuer.into(),
            subject: subject.to_owned(),
            name: subject.to_owned(),
            groups: vec!["dba".to_owned()],
            claims: Default::default(),
            expires: jiff::Timestamp::MAX,
            authenticated: None,
            ..Verified::example(crate::identity::IdentityKind::Person)
        };
        if let Some(email) = email {
            person.claims.insert("email".to_owned(), email.into());
            person.claims.insert("email_verified".to_owned(), true.into());
        }
        Arc::new(person)
    }

    fn host(uid: u32, person: Option<Arc<Verified>>) -> Approver {
        let of = Person { uid, login_uid: Some(uid), login_session: Some(uid), confirmed: true };
        let by = Approver::on_host(of, format!("u{uid}").into(), "".into(), Box::default());
        match person {
            Some(person) => by.verified(person, false),
            None => by,
        }
    }

    #[test]
    fn a_verified_person_is_one_by_whichever_user_or_account() {
        let alice = || verified("https://id", "7", Some("alice@corp.example"));
        let subject = Subject { uid: 1, person: Some(alice()), ..Subject::default() };
        let asks = Requester::of(&subject);
        // Another user, another login session, the same person; by another provider too, where it has verified the
        // same address.
        assert_eq!(asks.same(&host(2, Some(alice()))), Some("the same verified person"));
        let elsewhere = verified("https://other", "x", Some("Alice@corp.example"));
        assert_eq!(asks.same(&host(2, Some(elsewhere))), Some("the same verified person"));
        assert_eq!(host(2, Some(alice())).same(&host(3, Some(alice()))), Some("the same verified person"));
        assert_eq!(asks.same(&host(2, Some(verified("https://id", "8", None)))), None);
        assert_eq!(asks.same(&host(2, Some(verified("https://other", "7", None)))), None);
        assert_eq!(asks.same(&host(2, None)), None);
        // Their account of the collector.
        let account = |issuer: &str, subject: &str, email: &str| {
            let of = Account { issuer: issuer.into(), subject: subject.into(), ..account("x", email, &[]) };
            Approver { who: Who::Account(Box::new(of)), ..host(9, None) }
        };
        assert!(asks.same(&account("https://id", "7", "")).is_some());
        assert!(asks.same(&account("", "", "ALICE@corp.example")).is_some());
        assert!(asks.same(&account("https://id", "8", "bob@corp.example")).is_none());
        assert!(host(2, Some(alice())).same(&account("https://id", "7", "")).is_some());
        assert!(account("https://id", "7", "").same(&host(2, Some(alice()))).is_some());
    }

    #[test]
    fn unverified_claims_keep_a_person_from_deciding() {
        // As Entra ID has them: another subject for each application, and no verified address.
        let mut alice = Verified::clone(&verified("https://login.example/v2.0", "pairwise", None));
        alice.claims.insert("preferred_username".to_owned(), "Alice@corp.example".into());
        alice.claims.insert("oid".to_owned(), "0a1b".into());
        let subject = Subject { uid: 1, person: Some(Arc::new(alice.clone())), ..Subject::default() };
        let asks = Requester::of(&subject);
        let by = |of: Account| Approver { who: Who::Account(Box::new(of)), ..host(9, None) };
        assert_eq!(asks.same(&by(account("entra:alice@corp.example", "", &[]))), Some(SAME_VERIFIED));
        assert_eq!(asks.same(&by(account("x", "alice@corp.example", &[]))), Some(SAME_VERIFIED));
        assert_eq!(asks.same(&by(account("x", "", &["alice"]))), Some(SAME_VERIFIED));
        let of = Account { issuer: "https://other".into(), subject: "0a1b".into(), ..account("x", "", &[]) };
        assert_eq!(asks.same(&by(of)), Some(SAME_VERIFIED));
        let mut elsewhere = alice;
        elsewhere.subject = "other".to_owned();
        assert_eq!(asks.same(&host(2, Some(Arc::new(elsewhere)))), Some(SAME_VERIFIED));
        assert_eq!(asks.same(&by(account("bob", "bob@corp.example", &[]))), None);
    }

    #[test]
    fn what_a_company_has_in_its_names_makes_nobody_one() {
        let named = |subject: &str, name: &str| {
            let mut person = Verified::clone(&verified("https://id", subject, None));
            person.name = name.to_owned();
            person.claims.insert("name".to_owned(), name.into());
            Arc::new(person)
        };
        let bob = named("7", "Bob Jones / Contoso");
        let asks = Requester::of(&Subject { uid: 1, person: Some(Arc::clone(&bob)), ..Subject::default() });
        let alice = host(2, Some(named("8", "Alice Smith / Contoso")));
        assert_eq!(asks.same(&alice), None);
        assert_eq!(
            (host(3, Some(Arc::clone(&bob))).same(&alice), alice.same(&host(3, Some(bob)))),
            (None, None)
        );
        // The same person by another subject, as providers have them.
        let again = host(2, Some(named("9", "bob jones / CONTOSO")));
        assert_eq!(asks.same(&again), Some(SAME_VERIFIED));
        // Two accounts of one provider, and one whose name cannot be written as an account's.
        let (one, two) = (account("okta:anna_adm", "", &[]), account("okta:bob_adm", "", &[]));
        assert_eq!((one.same(&two), two.same(&one)), (None, None));
        let muller = Account { called: "müller".into(), ..account("okta:m_ller", "", &[]) };
        assert!(muller.is_user("müller") && !muller.is_user("ller"));
    }

    #[test]
    fn who_started_a_job_does_not_approve_what_it_asks_for() {
        let job = |actor: &str, claimed: &str| {
            let mut job = Verified::example(crate::identity::IdentityKind::Workload);
            job.job.actor = actor.to_owned();
            let mut subject = Subject { uid: 1, workload: Some(Arc::new(job)), ..Subject::default() };
            subject.ci.actor = claimed.to_owned();
            Requester::of(&subject)
        };
        let by = Approver { who: Who::Account(Box::new(account("alice", "", &[]))), ..host(9, None) };
        for asks in [job("alice", ""), job("", "Alice")] {
            assert!(asks.same(&by).is_some());
            assert!(asks.same(&Approver { name: "alice".into(), ..host(9, None) }).is_some());
            assert!(asks.same(&host(9, None)).is_none());
        }
        assert!(job("", "").same(&by).is_none());
    }

    #[test]
    fn who_logged_in_by_a_processs_own_word_does_not_decide() {
        let claimed =
            crate::identity::ClaimedLogin { uid: 7, user: "CORP+alice".to_owned(), session: Some(3) };
        let subject = Subject {
            uid: 500,
            user: "deploy".to_owned(),
            login_claimed: Some(claimed),
            ..Subject::default()
        };
        let asks = Requester::of(&subject);
        assert!(!asks.person.confirmed && asks.person.login().is_none() && !asks.unseen);
        let by = |of: Account| Approver { who: Who::Account(Box::new(of)), ..host(9, None) };
        assert_eq!(asks.same(&host(7, None)), Some("the same login user"));
        assert_eq!(asks.same(&host(3, None)), Some("the same login session"));
        assert_eq!(asks.same(&by(account("okta:alice+ops@corp.example", "", &[]))), Some(SAME_USER));
        assert_eq!(asks.same(&by(account("okta:x", "Alice@corp.example", &[]))), Some(SAME_USER));
        assert_eq!(asks.same(&by(account("bob", "", &[]))), None);
        assert_eq!(asks.same(&host(9, None)), None);
        // What root was seen to set is no claim.
        let seen = Requester::of(&Subject { login_uid: Some(8), ..subject.clone() });
        assert_eq!((seen.person.login_uid, seen.person.login()), (Some(8), Some(8)));
        // Where the process had gone, nobody knows who logged in, unless the kernel side does.
        let missing = vec!["process: it ended before it could be looked at".to_owned()];
        let gone = Subject { login_claimed: None, missing, ..subject };
        assert!(Requester::of(&gone).unseen);
        assert!(!Requester::of(&Subject { login_uid: Some(8), ..gone }).unseen);
    }

    #[test]
    fn who_has_signed_in_as_the_user_that_asks_does_not_decide() {
        let subject = Subject { uid: 1, user: "alice".to_owned(), ..Subject::default() };
        let asks = Requester::of(&subject);
        let mut alice = Verified::clone(&verified("https://id", "7", None));
        alice.claims.insert("preferred_username".to_owned(), "Alice+adm@corp.example".into());
        assert_eq!(asks.same(&host(2, Some(Arc::new(alice)))), Some(SAME_USER));
        assert_eq!(asks.same(&host(2, Some(verified("https://id", "7", None)))), None);
        // Another user of theirs, of another directory; as one of two approvers too.
        let directory = Approver { name: "CORP+alice".into(), ..host(2, None) };
        assert_eq!(asks.same(&directory), Some(SAME_USER));
        let local = Approver { name: "alice".into(), ..host(3, None) };
        assert_eq!((local.same(&directory), directory.same(&local)), (Some(SAME_USER), Some(SAME_USER)));
        assert_eq!(local.same(&host(2, None)), None);
        // A login that the approver's process only claims.
        assert_eq!(asks.same(&Approver { login_claimed: "alice".into(), ..host(2, None) }), Some(SAME_USER));
    }

    #[test]
    fn groups_of_a_provider_count_only_where_that_is_said() {
        let by = || host(2, None);
        let silent = by().verified(verified("https://id", "7", None), false);
        assert!(silent.groups.is_empty() && silent.signed_in.is_none());
        let told = by().verified(verified("https://id", "7", None), true);
        assert_eq!(told.groups.iter().map(|group| &**group).collect::<Vec<_>>(), ["dba", "okta:dba"]);
        let mut person = Verified::clone(&verified("https://id", "7", None));
        person.authenticated = Some(jiff::Timestamp::now());
        assert!(by().verified(Arc::new(person.clone()), false).signed_in.unwrap() < Duration::from_secs(60));
        person.authenticated = Some(jiff::Timestamp::MAX);
        assert!(by().verified(Arc::new(person), false).signed_in.is_none());
    }
}
