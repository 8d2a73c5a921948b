//! What the collector is told of tokens that are bound here, and its word on which host had them first.

use std::sync::Arc;

use interlock_recording::chain::Hash;
use interlock_shipping::MAX_TOKENS;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{BoundToken, TokenWords, TokensBound};
use tokio::sync::watch;

use crate::identity::workload::{Bindings, Bound, Linked, OtherHost};

/// Characters of a host's id and name.
const NAME: usize = 256;

/// One call's part in it.
pub(super) struct Tokens {
    linked: Option<(Arc<Bindings>, Linked)>,
    changes: Option<watch::Receiver<()>>,
    /// What was told last.
    after: u64,
    /// There may be something to tell.
    pub(super) pending: bool,
}

/// What is said of each token.
type Words = Vec<(Hash, Option<Option<OtherHost>>)>;

impl Tokens {
    pub(super) fn new(bindings: Option<&Arc<Bindings>>) -> Self {
        Self {
            linked: bindings.map(|bindings| (Arc::clone(bindings), Linked::new(bindings))),
            changes: bindings.map(|bindings| bindings.news()),
            after: 0,
            pending: bindings.is_some(),
        }
    }

    /// Waits until there is something to tell.
    pub(super) async fn changed(&mut self) {
        let Some(changes) = &mut self.changes else { return std::future::pending().await };
        match changes.changed().await {
            Ok(()) => self.pending = true,
            Err(_) => self.changes = None,
        }
    }

    /// What is to be told next.
    pub(super) fn next(&mut self) -> Option<Message> {
        let (bindings, _) = self.linked.as_ref()?;
        let bound = bindings.next(&mut self.after, MAX_TOKENS);
        self.pending = !bound.is_empty();
        let token = |bound: Bound| BoundToken {
            digest: bound.digest.to_vec(),
            token_hash: bound.token_hash,
            issuer: bound.issuer,
            left_ns: u64::try_from(bound.left.as_nanos()).unwrap_or(u64::MAX),
        };
        self.pending
            .then(|| Message::TokensBound(TokensBound { tokens: bound.into_iter().map(token).collect() }))
    }

    /// What is to be done with the collector's word; it waits for the disk.
    pub(super) fn hear(&self, words: TokenWords) -> Option<impl FnOnce() + Send + 'static> {
        let bindings = Arc::clone(&self.linked.as_ref()?.0);
        let words = read(words);
        Some(move || bindings.hear(&words))
    }
}

/// All of it comes from another host.
fn read(words: TokenWords) -> Words {
    let shown = |text: &str| {
        let text: String = text.chars().take(NAME).collect();
        interlock_recording::text::printable(&text).into_owned()
    };
    let mut read = Vec::new();
    for word in words.words.into_iter().take(MAX_TOKENS) {
        let Ok(digest) = word.digest.try_into() else { continue };
        let said = match word.word.as_str() {
            "own" => Some(None),
            "other" => Some(Some(OtherHost { id: shown(&word.host), name: shown(&word.host_name) })),
            _ => None,
        };
        read.push((digest, said));
    }
    read
}

#[cfg(test)]
mod tests {
    use interlock_shipping::v1::TokenWord;

    use super::*;

    #[test]
    fn a_word_is_read_as_far_as_it_is_one() {
        let word = |digest: &[u8], word: &str, host: &str| TokenWord {
            digest: digest.to_vec(),
            word: word.to_owned(),
            host: host.to_owned(),
            host_name: format!("{host}\u{1b}[2J"),
        };
        let words = [
            word(&[1; 32], "own", "x"),
            word(&[2; 31], "own", ""),
            word(&[3; 32], "other", &"y".repeat(9000)),
            word(&[4; 32], "unknown", ""),
            word(&[5; 32], "owned", ""),
        ];
        let read = read(TokenWords { words: words.to_vec() });
        let [own, other, unknown, odd] = &read[..] else { panic!("{read:?}") };
        assert_eq!((own, unknown, odd), (&([1; 32], Some(None)), &([4; 32], None), &([5; 32], None)));
        let Some(Some(host)) = &other.1 else { panic!("{other:?}") };
        assert!(host.id.len() == NAME && !host.name.contains('\u{1b}'), "{host:?}");
        let many = TokenWords { words: vec![word(&[1; 32], "own", ""); 10_000] };
        assert_eq!(super::read(many).len(), MAX_TOKENS);
    }
}
