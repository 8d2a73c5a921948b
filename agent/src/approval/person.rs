//! Who asks and who decides, and whether they may be one.

use std::sync::Arc;
use std::time::Duration;

use interlock_shipping::{names_of, plain_name};

use crate::identity::Subject;
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
    /// When they last showed who they are, nanoseconds since the Unix epoch by the collector's clock.
    pub authenticated_ns: Option<u64>,
    /// The vote's own name at the collector.
    pub vote: String,
}

impl Account {
    fn names(&self) -> Vec<String> {
        names_of(&self.name, &self.email, &self.logins)
    }

    /// A host's user of this name is the same person.
    pub fn is_user(&self, name: &str) -> bool {
        self.names().contains(&plain_name(name))
    }

    /// The same person has this account too.
    fn same(&self, other: &Self) -> Option<&'static str> {
        let of_provider = !self.issuer.is_empty() && self.issuer == other.issuer;
        if self.name == other.name || of_provider && self.subject == other.subject {
            Some("the same account")
        } else if is_mail(&self.email, &other.email) {
            Some("of the same e-mail address")
        } else if self.names().iter().any(|name| other.is_user(name)) {
            Some("the same user of this host")
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
    /// Names of the groups that they are in.
    pub groups: Box<[Arc<str>]>,
    /// How long ago they showed who they are, where that is known.
    pub signed_in: Option<Duration>,
}

impl Approver {
    /// Somebody on this host.
    pub fn on_host(person: Person, name: Arc<str>, login: Arc<str>, groups: Box<[Arc<str>]>) -> Self {
        Self { who: Who::Host(person), name, login, groups, signed_in: None }
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

    /// What may make `other` the same person.
    pub fn same(&self, other: &Self) -> Option<&'static str> {
        let names = |by: &Self, account: &Account| {
            let known = account.is_user(&by.name) || account.is_user(&by.login);
            known.then_some("the same user of this host")
        };
        match (&self.who, &other.who) {
            (Who::Host(one), Who::Host(two)) => one.same(two),
            (Who::Account(one), Who::Account(two)) => one.same(two),
            (Who::Host(_), Who::Account(account)) => names(self, account),
            (Who::Account(account), Who::Host(_)) => names(other, account),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Requester {
    /// On this host.
    pub person: Person,
    /// Names of the user and of the login user; empty ones where there is none.
    pub names: [String; 2],
}

impl Requester {
    /// Who stands behind a flow.
    pub fn of(subject: &Subject) -> Self {
        let Subject { uid, login_uid, login_session, .. } = *subject;
        // The subject has only what is confirmed.
        let person = Person { uid, login_uid, login_session, confirmed: true };
        Self { person, names: [subject.user.clone(), subject.login_user.clone()] }
    }

    /// What may make an approver the same person.
    pub fn same(&self, by: &Approver) -> Option<&'static str> {
        match &by.who {
            Who::Host(person) => self.person.same(person),
            Who::Account(account) => {
                let known = self.names.iter().any(|name| account.is_user(name));
                known.then_some("the same user of this host")
            }
        }
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
}
