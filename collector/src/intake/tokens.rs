//! Tokens that hosts have bound, and which host had one first.

use interlock_recording::hex;
use interlock_shipping::MAX_TOKENS;
use interlock_shipping::v1::{BoundToken, TokenWord, TokenWords, TokensBound};

use super::Intake;
use crate::store::{self, FirstHost, StoreError, now_ns};

/// For so long a token is kept at most. Agents tell theirs again with each call, and get a certificate, and with it a
/// call, before this is over.
const LONGEST: i64 = 31 * 24 * 3600 * 1_000_000_000;
/// So much longer than it counts: hosts allow for clocks that are up to ten minutes apart.
const AFTER: i64 = 10 * 60 * 1_000_000_000;
/// Bytes of an issuer.
const ISSUER: usize = 512;

/// A token that another host had first.
struct Misused {
    token: store::BoundToken,
    first: String,
    first_name: String,
}

fn token(told: &BoundToken) -> Option<store::BoundToken> {
    let is_hash =
        |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if told.digest.len() != 32 || !is_hash(&told.token_hash) || told.issuer.len() > ISSUER {
        return None;
    }
    let left = i64::try_from(told.left_ns).unwrap_or(i64::MAX).min(LONGEST);
    Some(store::BoundToken {
        digest: hex(&told.digest),
        token_hash: told.token_hash.clone(),
        issuer: interlock_recording::text::printable(&told.issuer).to_string(),
        until_ns: now_ns().saturating_add(left).saturating_add(AFTER),
    })
}

impl Intake {
    /// Takes in what tokens a host has bound; gives which host had each first, or what is wrong with it.
    pub(super) async fn take_tokens(
        &self,
        host: &str,
        host_name: &str,
        told: &TokensBound,
    ) -> Result<Result<TokenWords, &'static str>, StoreError> {
        let taken = |told: &BoundToken| Some((told.digest.clone(), token(told)?));
        let tokens: Option<Vec<_>> = told.tokens.iter().map(taken).collect();
        let Some(mut tokens) = tokens.filter(|tokens| tokens.len() <= MAX_TOKENS) else {
            return Ok(Err("tokens of workloads, in a form that no agent gives them"));
        };
        // Two hosts that tell the same ones take them in the same order, and neither waits for the other for good.
        tokens.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (mut words, mut misused) = (Vec::with_capacity(tokens.len()), Vec::new());
        let mut write = self.store.write().await?;
        for (digest, token) in tokens {
            let mut word = TokenWord { digest, ..TokenWord::default() };
            word.word = match write.bind_token(host, &token).await? {
                FirstHost::Own => "own",
                FirstHost::Unknown => "unknown",
                FirstHost::Other { host: first, name: first_name } => {
                    (word.host, word.host_name) = (first.clone(), first_name.clone());
                    misused.push(Misused { token, first, first_name });
                    "other"
                }
            }
            .to_owned();
            words.push(word);
        }
        write.commit().await?;
        // The agent is answered when this is written: what it was not answered it tells again.
        for misused in &misused {
            self.tell_misused(host, host_name, misused).await?;
        }
        if !misused.is_empty() {
            self.connected.change();
        }
        Ok(Ok(TokenWords { words }))
    }

    /// Writes down that a token was shown on two hosts, once for each of them.
    async fn tell_misused(&self, host: &str, host_name: &str, misused: &Misused) -> Result<(), StoreError> {
        let Misused { token, first, first_name } = misused;
        let store::BoundToken { token_hash, issuer, .. } = token;
        let kind = "token_on_two_hosts";
        let mut write = self.store.write().await?;
        let here = format!(
            "the token {token_hash} of {issuer} was shown on this host, and host {first_name} ({first}) had it first: \
             it is refused here. Somebody has taken it from one host to the other"
        );
        write.note(host, kind, &here).await?;
        let there = format!(
            "the token {token_hash} of {issuer}, which was shown on this host first, was shown on host {host_name} \
             ({host}) as well, and is refused there. Somebody has taken it from one host to the other"
        );
        write.note(first, kind, &there).await?;
        write.commit().await
    }
}
