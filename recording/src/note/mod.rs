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

mod keys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::chain::Hash;
use keys::is_name;
pub use keys::{KeyKind, Signer, SignerError, VerifierKey};

/// A note may not be larger than this, in bytes.
pub const MAX_NOTE: usize = 64 << 10;
/// A note may not bear more signatures than this.
const MAX_SIGNATURES: usize = 64;

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
