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
    assert_eq!(note.verify(std::slice::from_ref(&key)).unwrap()[0].name, "PeterNeumann");
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
