use super::*;
use crate::mask::{Detector, HashKey, Transform};
use proptest::prelude::*;

fn masks() -> Arc<MaskSet> {
    Arc::new(
        MaskSet::builder()
            .column("names".into(), "*", "*", "name", Transform::Redact)
            .column("notes".into(), "*", "*", "note", Transform::Null)
            .detector("leaks".into(), Detector::Email, Transform::Redact)
            .detector(
                "leaks".into(),
                Detector::PaymentCard,
                Transform::Partial { keep_first: 0, keep_last: 4 },
            )
            .build(&HashKey::new(&[1; 32])),
    )
}

fn copy(format: CopyFormat) -> Copy {
    let csv = format == CopyFormat::Csv;
    Copy {
        to_client: true,
        relation: None,
        columns: Vec::new(),
        format,
        delimiter: if csv { b',' } else { b'\t' },
        null: if csv { String::new() } else { "\\N".into() },
        quote: b'"',
        escape: b'"',
        header: false,
    }
}

/// id int, name text, note text, rest text.
fn columns(masks: &MaskSet) -> Vec<CopyColumn> {
    ["id", "name", "note", "rest"]
        .map(|name| CopyColumn {
            mask: masks.column("public", "t", name).cloned(),
            type_oid: if name == "id" { 23 } else { 25 },
            typmod: -1,
        })
        .into()
}

fn run(copy: &Copy, chunks: &[&[u8]]) -> Result<(Vec<u8>, Fired), CopyError> {
    let masks = masks();
    let columns = columns(&masks);
    let mut masker = CopyMasker::new(masks, copy, columns);
    let (mut out, mut fired) = (Vec::new(), Fired::default());
    for chunk in chunks {
        masker.push(chunk, &mut out, &mut fired)?;
    }
    masker.finish(&mut out, &mut fired)?;
    Ok((out, fired))
}

fn lines(copy: &Copy, data: &str) -> String {
    String::from_utf8(run(copy, &[data.as_bytes()]).unwrap().0).unwrap()
}

#[test]
fn text_rows() {
    let text = copy(CopyFormat::Text);
    assert_eq!(
        lines(&text, "1\tAnn\tx\tto ann@example.com\n2\t\\N\t\\N\ta\\tb\\\\\n"),
        "1\t[redacted]\t\\N\tto [redacted]\n2\t\\N\t\\N\ta\\tb\\\\\n"
    );
    // An escape right before what is looked for.
    assert_eq!(lines(&text, "1\ta\tb\t\\n4111111111111111\n"), "1\t[redacted]\t\\N\t\\n************1111\n");
    assert_eq!(lines(&text, "1\ta\tb\tann\\100example.com\n"), "1\t[redacted]\t\\N\t[redacted]\n");
    assert_eq!(lines(&text, "1\ta\tb\tc\n\\.\n"), "1\t[redacted]\t\\N\tc\n\\.\n");
    assert_eq!(run(&text, &[b"1\ta\n"]), Err(CopyError::Columns { expected: 4, found: 2 }));
    assert_eq!(run(&text, &[b"1\ta\tb\tc\td\n"]), Err(CopyError::Columns { expected: 4, found: 5 }));
    let header = Copy { header: true, ..copy(CopyFormat::Text) };
    assert_eq!(
        lines(&header, "id\tname\tnote\trest\n1\ta\tb\tc\n"),
        "id\tname\tnote\trest\n1\t[redacted]\t\\N\tc\n"
    );
}

#[test]
fn csv_rows() {
    let csv = copy(CopyFormat::Csv);
    assert_eq!(
        lines(&csv, "1,\"An\"\"n\nB\",x,\"a\nb, ann@example.com\"\r\n2,,,\"\"\n"),
        "1,\"[redacted]\",,\"a\nb, [redacted]\"\r\n2,,,\"\"\n"
    );
    let odd = Copy { quote: b'\'', escape: b'\\', delimiter: b';', ..copy(CopyFormat::Csv) };
    assert_eq!(lines(&odd, "1;'it\\'s;\n';x;'\\'ann@example.com'\n"), "1;'[redacted]';;'\\'[redacted]'\n");
}

fn binary_row(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut row = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        row.extend_from_slice(&field.map_or(-1, |f| f.len() as i32).to_be_bytes());
        row.extend_from_slice(field.unwrap_or_default());
    }
    row
}

fn binary(rows: &[Vec<u8>]) -> Vec<u8> {
    let header = [&SIGNATURE[..], &[0; 4], &3i32.to_be_bytes(), b"ext"].concat();
    [header, rows.concat(), (-1i16).to_be_bytes().to_vec()].concat()
}

#[test]
fn binary_rows() {
    let one = 1i32.to_be_bytes();
    let data = binary(&[
        binary_row(&[Some(&one), Some(b"Ann"), Some(b"x"), Some(b"to ann@example.com")]),
        binary_row(&[None, None, None, Some(b"plain")]),
    ]);
    let expected = binary(&[
        binary_row(&[Some(&one), Some(b"[redacted]"), None, Some(b"to [redacted]")]),
        binary_row(&[None, None, None, Some(b"plain")]),
    ]);
    let format = copy(CopyFormat::Binary);
    assert_eq!(run(&format, &[&data]).unwrap().0, expected);
    assert!(run(&format, &[&data[..data.len() - 4]]).is_err());
    assert!(run(&format, &[b"PGCOPX\n"]).is_err());
    assert!(run(&format, &[&data, b"x"]).is_err());
    assert!(run(&format, &[&binary(&[binary_row(&[None])])]).is_err());
}

#[test]
fn a_row_without_end_is_refused() {
    let masks = masks();
    let mut masker = CopyMasker::new(Arc::clone(&masks), &copy(CopyFormat::Text), Vec::new());
    let (mut out, mut fired) = (Vec::new(), Fired::default());
    let chunk = vec![b'x'; 8 << 20];
    let mut results = (0..5).map(|_| masker.push(&chunk, &mut out, &mut fired));
    assert_eq!(results.find(Result::is_err), Some(Err(CopyError::RowTooLong)));
    assert!(out.is_empty());
    // Binary: from the length alone, before anything is held.
    let mut masker = CopyMasker::new(masks, &copy(CopyFormat::Binary), Vec::new());
    let data = [&SIGNATURE[..], &[0; 8], &[0, 1, 0x7f, 0xff, 0xff, 0xff]].concat();
    assert_eq!(masker.push(&data, &mut out, &mut fired), Err(CopyError::RowTooLong));
}

fn cut<'a>(data: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (data.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    let mut chunks = Vec::new();
    for cut in cuts {
        chunks.push(&data[from..cut]);
        from = cut;
    }
    chunks.push(&data[from..]);
    chunks
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        fields in proptest::collection::vec("[a-c\"\\\\\n,\t']{0,5}(ann@example.com)?", 3..12),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
        format in proptest::sample::select(vec![CopyFormat::Text, CopyFormat::Csv, CopyFormat::Binary]),
    ) {
        let format = copy(format);
        let rows = fields.chunks_exact(3).map(|row| match format.format {
            CopyFormat::Binary => {
                binary_row(&[None, Some(row[0].as_bytes()), Some(row[1].as_bytes()), Some(row[2].as_bytes())])
            }
            CopyFormat::Csv => {
                let quoted = |s: &String| format!("\"{}\"", s.replace('"', "\"\""));
                format!("1,{},{},{}\n", quoted(&row[0]), quoted(&row[1]), quoted(&row[2])).into_bytes()
            }
            CopyFormat::Text => {
                let mut line = b"1".to_vec();
                for field in row {
                    line.push(b'\t');
                    encode_text(field.as_bytes(), b'\t', &mut line);
                }
                line.push(b'\n');
                line
            }
        }).collect::<Vec<_>>();
        let data = if format.format == CopyFormat::Binary { binary(&rows) } else { rows.concat() };
        let whole = run(&format, &[&data]);
        prop_assert!(whole.is_ok());
        prop_assert_eq!(&run(&format, &cut(&data, &cuts)), &whole);
        let out = String::from_utf8_lossy(&whole.unwrap().0).into_owned();
        prop_assert!(!out.contains("ann@example.com"));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        data in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
        format in proptest::sample::select(vec![CopyFormat::Text, CopyFormat::Csv, CopyFormat::Binary]),
        lead in any::<bool>(),
    ) {
        let data = if lead { [&SIGNATURE[..], &[0; 8], &data].concat() } else { data };
        let format = copy(format);
        let masks = masks();
        for columns in [Vec::new(), columns(&masks)] {
            let once = |chunks: &[&[u8]]| {
                let mut masker = CopyMasker::new(Arc::clone(&masks), &format, columns.clone());
                let (mut out, mut fired) = (Vec::new(), Fired::default());
                for chunk in chunks {
                    masker.push(chunk, &mut out, &mut fired)?;
                }
                masker.finish(&mut out, &mut fired).map(|()| out)
            };
            prop_assert_eq!(once(&cut(&data, &cuts)), once(&[&data]));
        }
    }

    #[test]
    fn text_escapes_are_inverse(field in proptest::collection::vec(any::<u8>(), 0..60)) {
        let (mut coded, mut back) = (Vec::new(), Vec::new());
        encode_text(&field, b'\t', &mut coded);
        prop_assert!(!coded.contains(&b'\n') && !coded.contains(&b'\t'));
        decode_text(&coded, &mut back);
        prop_assert_eq!(back, field);
    }
}
