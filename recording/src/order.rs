//! Policies that are kept centrally: what a collector orders of a host, signed, and the files that it
//! names. `docs/central-policies.md` tells the whole procedure.
//!
//! An order is a C2SP signed note under the collector's key for policies:
//!
//! ```text
//! interlock policy order 1
//! collector collector.example.com
//! host 3f5a… (64 hexadecimal digits)
//! issue 17
//! issued 1763746800123456789
//! enforce customers 3 9b1c… (set, version, SHA-256 of its files)
//! enforce.author alice
//! observe customers 4 77d0…
//! observe.author bob
//!
//! — collector.example.com/policies base64(4 bytes key id, 64 bytes signature)
//! ```
//!
//! Lines of a place that nothing is ordered for are left out. Orders of a host are numbered; each counts
//! instead of all before it.

use sha2::{Digest as _, Sha256};

use crate::chain::Hash;
use crate::hex;
use crate::note::{Note, NoteError, Signer, VerifierKey};

/// Bytes of all files of one set, their names included.
pub const MAX_SET: usize = 512 << 10;
/// Files of one set.
pub const MAX_FILES: usize = 128;
/// Bytes of a file's name.
const MAX_FILE_NAME: usize = 100;
/// Bytes of a set's name.
const MAX_SET_NAME: usize = 40;
/// Bytes of an author's name.
const MAX_AUTHOR: usize = 200;
/// Bytes of an order: far more than one has.
pub const MAX_ORDER: usize = 4 << 10;
const TITLE: &str = "interlock policy order 1";

/// What is wrong with an order, or with a set's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It is no note, or none that this key has signed.
    #[error("the order {0}")]
    Note(#[from] NoteError),
    /// It is not written as an order is.
    #[error("the order is malformed: {0}")]
    Form(&'static str),
    /// A name that cannot stand in it.
    #[error("{what} {name:?} cannot be used: {why}")]
    Name {
        /// What it names.
        what: &'static str,
        /// The name, cut.
        name: String,
        /// What names are like.
        why: &'static str,
    },
    /// The files are over a limit.
    #[error("the set is too large: {0}")]
    Size(String),
}

/// A version of a set, as an order names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// The set.
    pub set: String,
    /// Its version.
    pub version: u64,
    /// What its files hash to: [`content_hash`].
    pub content: Hash,
    /// Who made this version.
    pub author: String,
}

/// What a collector orders of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The collector's name.
    pub collector: String,
    /// The host's id: SHA-256 of its public key.
    pub host: Hash,
    /// Its number among the host's orders. It only grows.
    pub issue: u64,
    /// When it was issued, nanoseconds since the Unix epoch, by the collector's clock.
    pub issued_ns: u64,
    /// What is enforced.
    pub enforce: Option<Ordered>,
    /// What is staged: worked out and recorded beside what is enforced.
    pub observe: Option<Ordered>,
}

impl Order {
    /// The order, signed.
    ///
    /// # Errors
    /// A name in it cannot stand in an order.
    pub fn sign(&self, signer: &Signer) -> Result<String, OrderError> {
        let mut note = Note::new(self.text()?)?;
        note.sign(signer, 0);
        Ok(note.to_string())
    }

    /// Reads an order that this key has signed.
    ///
    /// # Errors
    /// It is too large or malformed, or the signature is not this key's.
    pub fn open(content: &[u8], key: &VerifierKey) -> Result<Self, OrderError> {
        if content.len() > MAX_ORDER {
            return Err(OrderError::Form("it is too large"));
        }
        let note = Note::parse(content)?;
        // Before a word of it is read.
        note.verify(std::slice::from_ref(key))?;
        let order = Self::parse(note.text())?;
        // One order is written in one way only.
        if order.text()? != note.text() {
            return Err(OrderError::Form("it is not written as orders are"));
        }
        Ok(order)
    }

    fn text(&self) -> Result<String, OrderError> {
        check_line("the collector's name", &self.collector)?;
        let mut text = format!(
            "{TITLE}\ncollector {}\nhost {}\nissue {}\nissued {}\n",
            self.collector,
            hex(&self.host),
            self.issue,
            self.issued_ns
        );
        for (place, ordered) in [("enforce", &self.enforce), ("observe", &self.observe)] {
            let Some(Ordered { set, version, content, author }) = ordered else { continue };
            check_set_name(set)?;
            check_line("the author", author)?;
            text.push_str(&format!("{place} {set} {version} {}\n{place}.author {author}\n", hex(content)));
        }
        Ok(text)
    }

    fn parse(text: &str) -> Result<Self, OrderError> {
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n').peekable();
        if lines.next() != Some(TITLE) {
            return Err(OrderError::Form("it is none, or of a version that is not known here"));
        }
        let mut field = |name: &'static str, missing: &'static str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or(OrderError::Form(missing))
        };
        let collector = field("collector", "no collector")?.to_owned();
        let host = hash(field("host", "no host")?)?;
        let issue = number(field("issue", "no issue number")?)?;
        let issued_ns = number(field("issued", "no time")?)?;
        let mut place = |name: &str| -> Result<Option<Ordered>, OrderError> {
            let Some(line) = lines.next_if(|line| line.split(' ').next() == Some(name)) else {
                return Ok(None);
            };
            let mut parts = line.split(' ').skip(1);
            let mut part = || parts.next().ok_or(OrderError::Form("a set, a version or a hash is missing"));
            let (set, version, content) = (part()?.to_owned(), number(part()?)?, hash(part()?)?);
            let author = lines
                .next()
                .and_then(|line| line.strip_prefix(name)?.strip_prefix(".author "))
                .ok_or(OrderError::Form("no author"))?;
            Ok(Some(Ordered { set, version, content, author: author.to_owned() }))
        };
        let (enforce, observe) = (place("enforce")?, place("observe")?);
        if lines.next().is_some() {
            return Err(OrderError::Form("it has lines that are not known here"));
        }
        Ok(Self { collector, host, issue, issued_ns, enforce, observe })
    }

    /// What it names, enforced first.
    pub fn ordered(&self) -> impl Iterator<Item = &Ordered> {
        self.enforce.iter().chain(&self.observe)
    }
}

fn number(text: &str) -> Result<u64, OrderError> {
    text.parse().map_err(|_| OrderError::Form("a number is none"))
}

fn hash(text: &str) -> Result<Hash, OrderError> {
    const WRONG: OrderError = OrderError::Form("a hash is not of 64 hexadecimal digits");
    let mut hash = [0; 32];
    if text.len() != 64 {
        return Err(WRONG);
    }
    for (place, byte) in hash.iter_mut().enumerate() {
        let digits = text.get(place * 2..place * 2 + 2).ok_or(WRONG)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| WRONG)?;
    }
    Ok(hash)
}

fn unusable(what: &'static str, name: &str, why: &'static str) -> OrderError {
    OrderError::Name { what, name: name.chars().take(60).collect(), why }
}

/// It stands in one line of an order.
fn check_line(what: &'static str, text: &str) -> Result<(), OrderError> {
    if text.is_empty() || text.len() > MAX_AUTHOR || text.chars().any(char::is_control) {
        return Err(unusable(what, text, "it has 1 to 200 bytes and no control characters"));
    }
    Ok(())
}

/// Checks a set's name: rules bear it (`no-drop@customers`).
///
/// # Errors
/// It is no name for a set.
pub fn check_set_name(name: &str) -> Result<(), OrderError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= MAX_SET_NAME && name.bytes().all(plain) {
        return Ok(());
    }
    Err(unusable("the set", name, "write a to z, digits, - and _, 40 at most, a letter or digit first"))
}

/// Checks the files of a set: their names, and how large they are. What is in them is not looked at.
///
/// # Errors
/// A name is none for a policy file or stands twice, or they are too many or too large.
pub fn check_files<'f>(files: impl Iterator<Item = (&'f str, &'f str)>) -> Result<(), OrderError> {
    let (mut count, mut bytes, mut names) = (0_usize, 0_usize, std::collections::BTreeSet::new());
    for (name, text) in files {
        count += 1;
        bytes = bytes.saturating_add(name.len()).saturating_add(text.len());
        if count > MAX_FILES {
            return Err(OrderError::Size(format!("more than {MAX_FILES} files")));
        }
        if bytes > MAX_SET {
            return Err(OrderError::Size(format!("its files have more than {MAX_SET} bytes together")));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let test = name.ends_with(".test.yaml") || name.ends_with(".test.yml");
        let policy = (name.ends_with(".yaml") || name.ends_with(".yml")) && !test;
        if !(first && policy && name.len() <= MAX_FILE_NAME && name.bytes().all(plain)) {
            let why = "write letters, digits, . - and _, 100 at most, .yaml at the end and not .test.yaml";
            return Err(unusable("the file", name, why));
        }
        if !names.insert(name) {
            return Err(unusable("the file", name, "it stands twice"));
        }
    }
    if count == 0 {
        return Err(OrderError::Size("it has no file".to_owned()));
    }
    Ok(())
}

/// What the files (names and texts) of a set hash to, in whatever order they are given: SHA-256 over
/// `interlock policy set 1`, then of each file, by name, the length of the name as 8 bytes
/// (little-endian), the name, the length of the text, the text.
pub fn content_hash<'f>(files: impl Iterator<Item = (&'f str, &'f str)>) -> Hash {
    let mut files: Vec<_> = files.collect();
    files.sort_unstable();
    let mut digest = Sha256::new_with_prefix(b"interlock policy set 1");
    for part in files.into_iter().flat_map(|(name, text)| [name, text]) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::KeyKind;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed("c.test/policies", KeyKind::Note, &[seed; 32]).unwrap()
    }

    fn order() -> Order {
        let ordered = |version| Ordered {
            set: "customers".into(),
            version,
            content: [version as u8; 32],
            author: "uid 0 (sudo by alice)".into(),
        };
        Order {
            collector: "c.test".into(),
            host: [7; 32],
            issue: 17,
            issued_ns: 5,
            enforce: Some(ordered(3)),
            observe: Some(ordered(4)),
        }
    }

    #[test]
    fn an_order_is_read_as_it_was_signed_and_by_its_key_alone() {
        let full = order();
        let bare = Order { enforce: None, observe: None, ..order() };
        let staged = Order { enforce: None, ..order() };
        for order in [full, bare, staged] {
            let signed = order.sign(&signer(1)).unwrap();
            assert_eq!(Order::open(signed.as_bytes(), signer(1).public()).unwrap(), order);
            assert!(Order::open(signed.as_bytes(), signer(2).public()).is_err());
            for (from, to) in [("issue 17", "issue 18"), ("0707", "0708"), ("customers 4", "customers 5")] {
                let forged = signed.replacen(from, to, 1);
                if forged != signed {
                    let error = Order::open(forged.as_bytes(), signer(1).public()).unwrap_err();
                    assert!(matches!(error, OrderError::Note(NoteError::False(_))), "{error}");
                }
            }
        }
        // A checkpoint is no order, whoever signs it.
        let mut note = Note::new("c.test\n5\nAAAA\n".into()).unwrap();
        note.sign(&signer(1), 0);
        assert!(matches!(
            Order::open(note.to_string().as_bytes(), signer(1).public()),
            Err(OrderError::Form(_))
        ));
        let long = vec![b'a'; MAX_ORDER + 1];
        assert!(matches!(Order::open(&long, signer(1).public()), Err(OrderError::Form(_))));
    }

    #[test]
    fn an_order_is_written_in_one_way() {
        let text = order().text().unwrap();
        for odd in [
            text.replacen("issue 17", "issue 017", 1),
            text.replacen("customers 3", "customers +3", 1),
            text.replacen("host 07", "host 0A", 1).replacen("0707", "0A07", 1),
            format!("{text}more 1\n"),
            text.replacen("enforce.author", "observe.author", 1),
        ] {
            let mut note = Note::new(odd.clone()).unwrap();
            note.sign(&signer(1), 0);
            assert!(Order::open(note.to_string().as_bytes(), signer(1).public()).is_err(), "{odd}");
        }
        let wrong = Order { collector: "a\nissue 99".into(), ..order() };
        assert!(wrong.sign(&signer(1)).is_err());
    }

    #[test]
    fn files_are_bounded_and_named_as_policies_are() {
        check_files([("a.yaml", "x"), ("20-b.yml", "")].into_iter()).unwrap();
        for name in
            ["", ".a.yaml", "a.test.yaml", "../a.yaml", "a/b.yaml", "a.json", "a b.yaml", "ä.yaml", "#a.yaml"]
        {
            assert!(check_files([(name, "")].into_iter()).is_err(), "{name}");
        }
        assert!(check_files([("a.yaml", ""), ("a.yaml", "x")].into_iter()).is_err());
        assert!(check_files(std::iter::empty()).is_err());
        let large = "x".repeat(MAX_SET);
        assert!(matches!(check_files([("a.yaml", &*large)].into_iter()), Err(OrderError::Size(_))));
        let one = content_hash([("a.yaml", "x"), ("b.yaml", "y")].into_iter());
        assert_eq!(one, content_hash([("b.yaml", "y"), ("a.yaml", "x")].into_iter()));
        assert_ne!(one, content_hash([("a.yaml", "xb.yaml"), ("y", "")].into_iter()));
        for (name, right) in
            [("customers", true), ("a_b-1", true), ("", false), ("A", false), ("a.b", false), ("-a", false)]
        {
            assert_eq!(check_set_name(name).is_ok(), right, "{name}");
        }
    }
}
