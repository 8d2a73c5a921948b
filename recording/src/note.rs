//! Signed notes and checkpoints, as C2SP specifies them: `signed-note`, `tlog-checkpoint` and
//! `tlog-cosignature` (<https://c2sp.org>). A checkpoint is the collector's signed word on its ledger: how
//! many entries it has, and the Merkle root over them. Witnesses put their signatures below it.
//!
//! ```text
//! collector.example.org/ledger          origin
//! 20852163                              entries
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2…=    root, base64
//!                                       (further lines, if any; then an empty one)
//! — collector.example.org/ledger base64(4 bytes key id, 64 bytes signature)
//! — witness.example.com/w1 base64(4 bytes key id, 8 bytes time, 64 bytes signature)
//! ```

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::chain::{Hash, digest};
use crate::keys::{KeyError, SIGNATURE, load_or_create, write_public};

/// A note may not be larger than this, in bytes.
pub const MAX_NOTE: usize = 64 << 10;
/// A note may not bear more signatures than this.
const MAX_SIGNATURES: usize = 64;
/// A key's name may not be longer than this, in bytes.
const MAX_NAME: usize = 255;

/// What is wrong with a note, a checkpoint or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is over the limit.
    #[error("is larger than {MAX_NOTE} bytes, or bears more than {MAX_SIGNATURES} signatures")]
    Size,
    /// It does not have a signed note's form.
    #[error("is not a signed note: {0}")]
    Form(&'static str),
    /// The note is no checkpoint.
    #[error("is not a checkpoint: {0}")]
    Checkpoint(&'static str),
    /// A verifier key is malformed.
    #[error("is not a verifier key (name+id+base64): {0}")]
    Key(&'static str),
    /// None of the given keys signed it.
    #[error("does not bear a signature of {0}")]
    Unsigned(String),
    /// A signature says that it is of this key, and is not.
    #[error("bears a false signature in the name of {0}")]
    False(String),
}

// === Keys ===

/// What a key signs, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The note's text (`ed25519`).
    Note,
    /// A time and a checkpoint's text: a witness (`cosignature/v1`).
    Witness,
}

impl KeyKind {
    fn byte(self) -> u8 {
        match self {
            Self::Note => 1,
            Self::Witness => 4,
        }
    }
}

/// The public half of a key that signs notes. Written as `name+id+base64`, which is what people exchange.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    kind: KeyKind,
    key: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, kind: KeyKind, key: VerifyingKey) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Key("a name has no blanks and no plus sign, and at most 255 bytes"));
        }
        let whole = digest(&[name.as_bytes(), b"\n", &[kind.byte()], key.as_bytes()].concat());
        let [a, b, c, d, ..] = whole;
        Ok(Self { name: name.to_owned(), id: [a, b, c, d], kind, key })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id: the beginning of a hash over its name and itself.
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// What it signs.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether the signature (without the key's id) is this key's over a note's text. A witness's signature
    /// holds the time when it was made, which is given.
    fn verifies(&self, text: &str, bytes: &[u8]) -> Option<Option<u64>> {
        let (time, signature) = match self.kind {
            KeyKind::Note => (None, bytes),
            KeyKind::Witness => {
                let (time, signature) = bytes.split_first_chunk::<8>()?;
                (Some(u64::from_be_bytes(*time)), signature)
            }
        };
        let signature = Signature::from_bytes(signature.try_into().ok()?);
        let message = time.map_or_else(|| text.to_owned(), |time| cosigned(time, text));
        self.key.verify_strict(message.as_bytes(), &signature).ok().map(|()| time)
    }
}

/// What a witness signs.
fn cosigned(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [[self.kind.byte()].as_slice(), self.key.as_bytes()].concat();
        write!(f, "{}+{}+{}", self.name, crate::hex(&self.id), STANDARD.encode(key))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("it has three parts"));
        };
        let bytes = STANDARD.decode(key).map_err(|_| NoteError::Key("its last part is not base64"))?;
        let (kind, key) = match bytes.split_first() {
            Some((1, key)) => (KeyKind::Note, key),
            Some((4, key)) => (KeyKind::Witness, key),
            _ => return Err(NoteError::Key("its kind is not known: ed25519 (1) and cosignature/v1 (4) are")),
        };
        let key = key
            .try_into()
            .ok()
            .and_then(|key| VerifyingKey::from_bytes(key).ok())
            .ok_or(NoteError::Key("it holds no ed25519 key"))?;
        let made = Self::new(name, kind, key)?;
        if crate::hex(&made.id) != id {
            return Err(NoteError::Key("its id is not that of its name and key"));
        }
        Ok(made)
    }
}

/// A key that signs notes.
pub struct Signer {
    key: SigningKey,
    public: VerifierKey,
}

impl Signer {
    /// A key from its 32 secret bytes.
    ///
    /// # Errors
    /// The name has blanks or a plus sign in it, or is empty or too long.
    pub fn from_seed(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let key = SigningKey::from_bytes(seed);
        let public = VerifierKey::new(name, kind, key.verifying_key())?;
        Ok(Self { key, public })
    }

    /// Reads `FILE.key` in `directory`, or makes it (PKCS#8 PEM, mode 0600) from the system's randomness,
    /// with the verifier key in `FILE.vkey` beside it. The key signs under `name`.
    ///
    /// # Errors
    /// A file cannot be read or written, is no key, or can be read by others; or `name` is no key's name.
    pub fn load_or_create(directory: &Path, file: &str, name: &str) -> Result<Self, SignerError> {
        let key = load_or_create(directory, &format!("{file}.key"))?;
        let public = VerifierKey::new(name, KeyKind::Note, key.verifying_key())
            .map_err(|error| SignerError::Name { name: name.to_owned(), error })?;
        write_public(directory, &format!("{file}.vkey"), &format!("{public}\n"))?;
        Ok(Self { key, public })
    }

    /// The public half.
    pub fn public(&self) -> &VerifierKey {
        &self.public
    }

    /// `time_s`, seconds since the Unix epoch, is what a witness states.
    fn sign(&self, text: &str, time_s: u64) -> NoteSignature {
        let mut bytes = Vec::with_capacity(8 + SIGNATURE);
        let signature = match self.public.kind {
            KeyKind::Note => self.key.sign(text.as_bytes()),
            KeyKind::Witness => {
                bytes.extend_from_slice(&time_s.to_be_bytes());
                self.key.sign(cosigned(time_s, text).as_bytes())
            }
        };
        bytes.extend_from_slice(&signature.to_bytes());
        NoteSignature { name: self.public.name.clone(), id: self.public.id, bytes }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public).finish()
    }
}

/// A key that signs notes could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The name under which it is to sign.
    #[error("{name:?} {error}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        error: NoteError,
    },
}

// === Notes ===

/// A text with signatures below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// A signature as it stands below a note; nobody has verified it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The key's name.
    pub name: String,
    /// Its id.
    pub id: [u8; 4],
    /// The signature itself; a witness's begins with the time.
    pub bytes: Vec<u8>,
}

/// A key that has signed a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: [u8; 4],
    /// Of a witness: when it signed, seconds since the Unix epoch.
    pub time_s: Option<u64>,
}

impl Note {
    /// A note of this text, which ends with a line break and has no empty line at its end.
    ///
    /// # Errors
    /// The text cannot be a note's.
    pub fn new(text: String) -> Result<Self, NoteError> {
        if text.len() > MAX_NOTE / 2 {
            return Err(NoteError::Size);
        }
        if !text.ends_with('\n') || text == "\n" || text.ends_with("\n\n") {
            return Err(NoteError::Form("its text ends with one line break"));
        }
        if text.contains(|c: char| c.is_ascii_control() && c != '\n') {
            return Err(NoteError::Form("its text has control characters in it"));
        }
        Ok(Self { text, signatures: Vec::new() })
    }

    /// Reads a note. Its signatures are not verified.
    ///
    /// # Errors
    /// It is too large or does not have a note's form.
    pub fn parse(content: &[u8]) -> Result<Self, NoteError> {
        if content.len() > MAX_NOTE {
            return Err(NoteError::Size);
        }
        let content = std::str::from_utf8(content).map_err(|_| NoteError::Form("it is not UTF-8"))?;
        let (text, below) =
            content.rsplit_once("\n\n").ok_or(NoteError::Form("no empty line stands before signatures"))?;
        let mut note = Self::new(format!("{text}\n"))?;
        let below = below.strip_suffix('\n').ok_or(NoteError::Form("its last line is not complete"))?;
        for line in below.split('\n') {
            if note.signatures.len() == MAX_SIGNATURES {
                return Err(NoteError::Size);
            }
            note.signatures.push(signature_line(line).ok_or(NoteError::Form("a signature is malformed"))?);
        }
        Ok(note)
    }

    /// The text, with the line break at its end.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Adds a signature. `time_s` (seconds since the Unix epoch) is what a witness states; other keys sign
    /// the text alone.
    pub fn sign(&mut self, signer: &Signer, time_s: u64) {
        self.add(signer.sign(&self.text, time_s));
    }

    /// Adds a signature that was made elsewhere, such as a witness's. It replaces one of the same key.
    pub fn add(&mut self, signature: NoteSignature) {
        self.signatures.retain(|other| (&other.name, other.id) != (&signature.name, signature.id));
        self.signatures.push(signature);
    }

    /// Who of `keys` has signed it, in their order. Signatures of others are passed over.
    ///
    /// # Errors
    /// A signature in the name of one of `keys` is false.
    pub fn signed_by(&self, keys: &[VerifierKey]) -> Result<Vec<Signed>, NoteError> {
        let mut signed = Vec::new();
        for key in keys {
            let mut theirs = self.signatures.iter().filter(|s| s.name == key.name && s.id == key.id);
            // One name and id stand for one key: of several signatures the first counts.
            if let Some(signature) = theirs.next() {
                let time_s = key
                    .verifies(&self.text, &signature.bytes)
                    .ok_or_else(|| NoteError::False(key.name.clone()))?;
                signed.push(Signed { name: key.name.clone(), id: key.id, time_s });
            }
        }
        Ok(signed)
    }

    /// Verifies that at least one of `keys` has signed it.
    ///
    /// # Errors
    /// None has, or a signature in the name of one of them is false.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<Vec<Signed>, NoteError> {
        let signed = self.signed_by(keys)?;
        if signed.is_empty() {
            let names: Vec<&str> = keys.iter().map(VerifierKey::name).collect();
            return Err(NoteError::Unsigned(names.join(", ")));
        }
        Ok(signed)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.text, self.signatures.iter().map(ToString::to_string).collect::<String>())
    }
}

impl fmt::Display for NoteSignature {
    /// The signature's line, with the line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.id.as_slice(), &self.bytes].concat();
        writeln!(f, "\u{2014} {} {}", self.name, STANDARD.encode(bytes))
    }
}

/// Reads a signature's line, without the line break: what a witness answers with.
fn signature_line(line: &str) -> Option<NoteSignature> {
    let (name, bytes) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let bytes = STANDARD.decode(bytes).ok()?;
    let (id, bytes) = bytes.split_first_chunk::<4>()?;
    (is_name(name) && !bytes.is_empty()).then(|| NoteSignature {
        name: name.to_owned(),
        id: *id,
        bytes: bytes.to_vec(),
    })
}

impl FromStr for NoteSignature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        if line.len() > MAX_NOTE {
            return Err(NoteError::Size);
        }
        signature_line(line.strip_suffix('\n').unwrap_or(line))
            .ok_or(NoteError::Form("a signature is malformed"))
    }
}

// === Checkpoints ===

/// How far a log went: what is signed of it. (The host's own signed word on its log is `HEAD`.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many entries it has.
    pub size: u64,
    /// The Merkle root over them.
    pub root: Hash,
    /// Further lines, which mean nothing here.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// The note of it, without signatures.
    ///
    /// # Errors
    /// The origin is empty, or it or a further line does not fit into a line.
    pub fn note(&self) -> Result<Note, NoteError> {
        let lines = || [&self.origin].into_iter().chain(&self.extensions);
        if lines().any(|line| line.is_empty() || line.contains('\n')) {
            return Err(NoteError::Checkpoint("a line of it is empty or has a line break in it"));
        }
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root));
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        Note::new(text)
    }

    /// Reads the checkpoint in a note's text.
    ///
    /// # Errors
    /// The text is no checkpoint.
    pub fn from_note(note: &Note) -> Result<Self, NoteError> {
        let mut lines = note.text().strip_suffix('\n').unwrap_or_default().split('\n');
        let mut line = |missing| lines.next().filter(|l| !l.is_empty()).ok_or(NoteError::Checkpoint(missing));
        let origin = line("it has no origin")?.to_owned();
        let digits = line("it has no size")?;
        let size: u64 = digits.parse().map_err(|_| NoteError::Checkpoint("its size is not a number"))?;
        if size.to_string() != digits {
            return Err(NoteError::Checkpoint("its size is not written plainly"));
        }
        let root = STANDARD
            .decode(line("it has no root")?)
            .ok()
            .and_then(|root| Hash::try_from(root).ok())
            .ok_or(NoteError::Checkpoint("its root is not 32 bytes in base64"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(NoteError::Checkpoint("it has an empty line in it"));
        }
        Ok(Self { origin, size, root, extensions })
    }

    /// Reads a checkpoint that one of `keys` has signed for the log with the origin `origin`, and says who
    /// of them has.
    ///
    /// # Errors
    /// It has not a checkpoint's form, is another log's, or none of `keys` has signed it.
    pub fn open(
        content: &[u8],
        origin: &str,
        keys: &[VerifierKey],
    ) -> Result<(Self, Vec<Signed>), NoteError> {
        let note = Note::parse(content)?;
        let signed = note.verify(keys)?;
        let checkpoint = Self::from_note(&note)?;
        if checkpoint.origin != origin {
            return Err(NoteError::Checkpoint("it is another log's"));
        }
        Ok((checkpoint, signed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::from_seed(name, KeyKind::Note, &[seed; 32]).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "collector.test/ledger".into(), size: 17, root: [9; 32], extensions: Vec::new() }
    }

    /// The example of Go's golang.org/x/mod/sumdb/note, on which the specification rests.
    #[test]
    fn the_known_note_verifies() {
        let key: VerifierKey =
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let text = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\
                    \n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let note = Note::parse(text.as_bytes()).unwrap();
        assert_eq!(note.verify(&[key.clone()]).unwrap()[0].name, "PeterNeumann");
        assert_eq!(note.to_string(), text);
        assert_eq!(key.to_string(), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
        let altered = text.replace("cryptography", "Cryptography");
        let altered = Note::parse(altered.as_bytes()).unwrap();
        assert_eq!(altered.verify(&[key]), Err(NoteError::False("PeterNeumann".into())));
    }

    #[test]
    fn a_checkpoint_bears_several_signatures() {
        let collector = signer("collector.test/ledger", 1);
        let witness = Signer::from_seed("witness.test/w", KeyKind::Witness, &[2; 32]).unwrap();
        let mut note = checkpoint().note().unwrap();
        note.sign(&collector, 5);
        // A witness's answer travels by itself.
        let mut theirs = Note::new(note.text().into()).unwrap();
        theirs.sign(&witness, 1_700_000_000);
        note.add(theirs.signatures()[0].to_string().parse().unwrap());
        let content = note.to_string();
        let keys = [collector.public().clone(), witness.public().to_string().parse().unwrap()];
        let (read, signed) = Checkpoint::open(content.as_bytes(), "collector.test/ledger", &keys).unwrap();
        assert_eq!(read, checkpoint());
        assert_eq!(signed.iter().map(|s| s.time_s).collect::<Vec<_>>(), [None, Some(1_700_000_000)]);
        // The witness's time is signed as well.
        let mut moved = note.clone();
        let mut bytes = moved.signatures()[1].clone();
        bytes.bytes[7] ^= 1;
        moved.add(bytes);
        assert_eq!(moved.signed_by(&keys), Err(NoteError::False("witness.test/w".into())));
        // Another log's, another key's, and another key under the same name.
        let open = |origin, keys: &[VerifierKey]| Checkpoint::open(content.as_bytes(), origin, keys);
        assert!(open("other.test", &keys).is_err());
        let namesake = signer("collector.test/ledger", 3);
        assert_eq!(
            open("collector.test/ledger", &[namesake.public().clone()]),
            Err(NoteError::Unsigned("collector.test/ledger".into()))
        );
        // A key's kind is part of its id: a witness's key does not sign as a log.
        let crossed = Signer::from_seed("witness.test/w", KeyKind::Note, &[2; 32]).unwrap();
        assert_ne!(crossed.public().id(), witness.public().id());
    }

    #[test]
    fn what_has_not_the_form_is_refused() {
        let collector = signer("c", 1);
        let mut note = checkpoint().note().unwrap();
        note.sign(&collector, 0);
        let good = note.to_string();
        for bad in [
            good.replace("\n\n", "\n"),
            good.trim_end().to_owned(),
            good.replace('\u{2014}', "-"),
            format!("{good}x"),
            format!("{good}\n"),
            "\n\n\u{2014} c AAAAAAA=\n".into(),
            format!("\u{1}{good}"),
            good.replace("\u{2014} c ", "\u{2014} c  "),
            format!("{good}{}", good.lines().last().map(|line| format!("{line}\n")).unwrap().repeat(80)),
            "x".repeat(MAX_NOTE + 1),
        ] {
            assert!(Note::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for bad in ["17a", "017", "+17", "-1", "", "18446744073709551616", " 17"] {
            let text = note.text().replace("\n17\n", &format!("\n{bad}\n"));
            let read = Note::new(text).and_then(|note| Checkpoint::from_note(&note));
            assert!(read.is_err(), "{bad:?}");
        }
        let mut kept = checkpoint();
        kept.extensions = vec!["an extension".into()];
        assert_eq!(Checkpoint::from_note(&kept.note().unwrap()).unwrap(), kept);
        kept.extensions = vec!["two\nlines".into()];
        assert!(kept.note().is_err());
        for bad in [
            "",
            "a",
            "a+b",
            "a+00000000+AQ==",
            "a b+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert!(bad.parse::<VerifierKey>().is_err(), "{bad}");
        }
        for bad in ["", "a b", "a+b", "a\n", &"n".repeat(300)] {
            assert!(Signer::from_seed(bad, KeyKind::Note, &[1; 32]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_key_is_made_once_and_not_printed() {
        let directory = tempfile::tempdir().unwrap();
        let made = Signer::load_or_create(directory.path(), "ledger", "c.test/ledger").unwrap();
        let read = Signer::load_or_create(directory.path(), "ledger", "c.test/ledger").unwrap();
        assert_eq!(made.public(), read.public());
        let vkey = std::fs::read_to_string(directory.path().join("ledger.vkey")).unwrap();
        assert_eq!(&vkey.parse::<VerifierKey>().unwrap(), made.public());
        assert!(!format!("{:?}", signer("c", 1)).contains("0101"));
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
            fuzz(&[b"a\n1\n\n\xe2\x80\x94 ".as_slice(), &bytes].concat());
        }

        #[test]
        fn no_altered_byte_passes(at in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let collector = signer("collector.test/ledger", 1);
            let mut note = checkpoint().note().unwrap();
            note.sign(&collector, 0);
            let mut bytes = note.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            let opened = Checkpoint::open(&bytes, "collector.test/ledger", &[collector.public().clone()]);
            prop_assert!(opened.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

/// Reads arbitrary bytes as a note, a checkpoint and a key: the entry point for fuzzing. What can be read
/// is written the same again.
#[cfg(any(test, feature = "fuzz"))]
#[expect(clippy::panic, reason = "a finding of the fuzzer")]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(note) = Note::parse(bytes) {
        if Note::parse(note.to_string().as_bytes()).as_ref() != Ok(&note) {
            panic!("a note is not read as it was written");
        }
        if let Ok(checkpoint) = Checkpoint::from_note(&note)
            && checkpoint.note().as_ref().map(Note::text) != Ok(note.text())
        {
            panic!("a checkpoint is not written as it was read");
        }
        if let Ok(signer) = Signer::from_seed("a", KeyKind::Witness, &[7; 32]) {
            let _ = note.signed_by(&[signer.public().clone()]);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = text.parse::<VerifierKey>()
        && key.to_string().parse::<VerifierKey>().as_ref() != Ok(&key)
    {
        panic!("a key is not read as it was written");
    }
}
