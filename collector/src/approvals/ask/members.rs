//! Members of the groups that may decide, written to by the verified addresses of their accounts.

use std::collections::HashSet;

use lettre::Address;
use sha2::{Digest as _, Sha256};

use super::config::{Ask, Email};
use super::run::Runner;
use super::send::{Failure, Sender, told};
use super::shown::Shown;
use crate::approvals::Account;
use crate::store::{SentMessage, StoreError, WholeApproval, now_ns};

/// People who are written to about one request; the others find it in the inbox.
const MOST: usize = 50;
/// In the place of a message: the mail server does not take mail for this address.
const REFUSED: &str = "refused";

/// Somebody who may decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The account.
    account: String,
    pub(super) address: Address,
    /// A part of the names of their mails.
    pub(super) thread: String,
}

impl Member {
    /// Whoever has an address that mail can go to, of the domains that are wanted.
    fn new(account: String, email: &str, domains: &[String]) -> Option<Self> {
        // What is not plain, or has a comment or quotes in it, is no address that anybody has of an employer.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"(),:;<>[\\]".contains(&byte);
        if email.len() > 254 || !email.bytes().all(plain) {
            return None;
        }
        let address: Address = email.parse().ok()?;
        let is = |domain: &String| domain.eq_ignore_ascii_case(address.domain());
        if !domains.is_empty() && !domains.iter().any(is) {
            return None;
        }
        let hash = interlock_recording::hex(&Sha256::digest(account.as_bytes()));
        let thread = hash.chars().take(12).collect();
        Some(Self { account, address, thread })
    }
}

/// Each person once, by their address.
fn each_once(members: Vec<Member>) -> Vec<Member> {
    let mut seen = HashSet::new();
    members
        .into_iter()
        .filter(|member| seen.insert(member.address.to_string().to_ascii_lowercase()))
        .collect()
}

impl Runner {
    /// Whom to write to about a request: who may decide on it, and does not ask for it.
    async fn members(&self, email: &Email, one: &WholeApproval) -> Result<Vec<Member>, StoreError> {
        let asked = self.ask.groups();
        let mut groups: Vec<String> =
            one.told.quorums.iter().flat_map(|quorum| quorum.groups.clone()).collect();
        groups.retain(|group| asked.is_empty() || asked.contains(group));
        groups.sort_unstable();
        groups.dedup();
        let since = now_ns().saturating_sub(self.token_ns);
        let mut members = Vec::new();
        for (account, address) in self.store.member_addresses(&groups, since).await? {
            let Some(member) = Member::new(account, &address, &email.domains) else { continue };
            if !Account::of(&self.store, &member.account, None).await?.asks(one) {
                members.push(member);
            }
        }
        Ok(each_once(members))
    }

    /// Writes to each of them what is new to them. What was sent is noted one by one, so that nobody has it again when
    /// another's cannot be sent.
    pub(super) async fn tell_members(
        &self,
        one: &WholeApproval,
        shown: &Shown,
    ) -> Result<Result<(), Failure>, StoreError> {
        let (Ask::Email(email), Sender::Mail(mail)) = (&self.ask, &self.sender) else { return Ok(Ok(())) };
        if !email.members {
            return Ok(Ok(()));
        }
        let members = self.members(email, one).await?;
        if members.len() > MOST {
            let detail = format!(
                "{} writes to {MOST} people about one request at most, and groups of its requests have more members: the \
                 others find it in the inbox",
                self.ask.name()
            );
            let mut write = self.store.write().await?;
            if !write.is_found("", "output", &detail).await? {
                write.add_finding("", "output", &detail, None).await?;
            }
            write.commit().await?;
        }
        let id = &one.item.id;
        for member in members.iter().take(MOST) {
            // Names of ways have no slash.
            let key = format!("{}/{}", self.ask.name(), member.account);
            let sent = self.store.approval_message(&key, id).await?;
            let due = match &sent {
                None => shown.pending() || shown.state == "broken_glass",
                Some(sent) => sent.place != REFUSED && !shown.pending() && *sent != told(shown),
            };
            if !due {
                continue;
            }
            let note = match mail.send_to(shown, sent.is_some(), Some(member)).await {
                Ok(()) => told(shown),
                Err(Failure::Refused(why)) => {
                    self.refused(&member.account, &why).await?;
                    SentMessage { place: REFUSED.to_owned(), ..told(shown) }
                }
                Err(later) => return Ok(Err(later)),
            };
            let mut write = self.store.write().await?;
            write.note_message(&key, id, &note).await?;
            write.commit().await?;
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_of_wanted_domains_are_written_to() {
        let member = |email: &str| Member::new("a".into(), email, &["Example.com".into()]);
        for fits in ["alice@example.com", "alice.b+x@EXAMPLE.com"] {
            assert!(member(fits).is_some(), "{fits}");
        }
        for wrong in [
            "",
            "alice",
            "@example.com",
            "alice@example.org",
            "alice@sub.example.com",
            "alice@example.com.evil.example",
            "alice@example.com, bob@example.com",
            "alice@example.com\r\nBcc: x@example.com",
            "Alice <alice@example.com>",
            "\"a b\"@example.com",
            "alice@[10.0.0.1]",
            "älice@example.com",
            "alice@example.com\u{202e}",
            "a@b@example.com",
        ] {
            assert_eq!(member(wrong), None, "{wrong}");
        }
        assert_eq!(member(&format!("{}@example.com", "a".repeat(250))), None);
        let all = |email: &str, account: &str| Member::new(account.into(), email, &[]).unwrap();
        let once = each_once(vec![
            all("a@x.example", "one"),
            all("A@X.example", "two"),
            all("b@x.example", "three"),
        ]);
        assert_eq!(once.iter().map(|member| member.account.as_str()).collect::<Vec<_>>(), ["one", "three"]);
    }
}
