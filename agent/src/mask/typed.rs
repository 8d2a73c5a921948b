//! Detectors over fields of a known type.
//!
//! Types whose values cannot hold what is looked for (dates, booleans, UUIDs, small numbers) are
//! passed over without a look.

use super::scan::{Hit, Rules};
use super::value::oid::{self, Kind};
use super::value::{self, Applied, Decimal, Format, bytea_text, unhex};
use super::{Detector, Fired, MAX_DETECT, Transform};

pub(super) fn detect(
    rules: &Rules,
    type_oid: u32,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
    fired: &mut Fired,
) -> Option<Applied> {
    if rules.is_empty() {
        return None;
    }
    if let Some(element) = oid::element(type_oid) {
        return match format {
            Format::Text => array_text(rules, type_oid, element, value, out, fired),
            Format::Binary => array_binary(rules, element, value, out, fired),
        };
    }
    let Some(kind) = oid::kind(type_oid, -1) else {
        // Enums, ranges, composites, extensions. In text form all are text; in binary form what is
        // found may stand between lengths that would no longer hold.
        return match format {
            Format::Text => text(rules, value, out, fired),
            Format::Binary if value.len() > MAX_DETECT => {
                rules.note_all(fired);
                Some(Applied::Null)
            }
            Format::Binary if type_oid == 0 && is_number(rules, value, fired) => Some(Applied::Null),
            Format::Binary => rules.note(&rules.find(value), fired).map(|_| Applied::Null),
        };
    };
    match (kind, format) {
        (
            Kind::Bool
            | Kind::Char
            | Kind::Int { width: 2 | 4, .. }
            | Kind::Float { .. }
            | Kind::Money
            | Kind::Date
            | Kind::Time
            | Kind::TimeTz
            | Kind::Timestamp { .. }
            | Kind::Interval
            | Kind::Uuid
            | Kind::Mac { .. }
            | Kind::Bits { .. },
            _,
        ) => None,
        (_, _) if value.len() > MAX_DETECT => {
            rules.note_all(fired);
            Some(Applied::Null)
        }
        (Kind::Int { .. } | Kind::Numeric { .. }, _) => {
            number(rules, type_oid, kind, format, value, out, fired)
        }
        (Kind::Inet { .. }, _) => rules.on(Detector::IpAddress).then(|| {
            let strictest = rules.note_one(Detector::IpAddress, fired);
            whole(rules, strictest, type_oid, format, value, out)
        }),
        (Kind::Json { version: Some(version) }, Format::Binary) => {
            let start = out.len();
            out.push(version);
            let applied = json(rules, value.get(1..).unwrap_or_default(), out, fired);
            if applied != Some(Applied::Value) {
                out.truncate(start);
            }
            applied
        }
        (Kind::Json { .. }, _) => json(rules, value, out, fired),
        (Kind::Bytea, Format::Text) => bytea(rules, value, out, fired),
        (Kind::Text { .. } | Kind::Xml { .. } | Kind::Bytea, _) => text(rules, value, out, fired),
    }
}

/// A value of unknown type reads as a `bigint` or `numeric` in which something is found.
fn is_number(rules: &Rules, value: &[u8], fired: &mut Fired) -> bool {
    // What is larger as a bigint is a double or eight letters.
    const LARGEST: u64 = 100_000_000_000_000_000;
    const BIGINT: u32 = 20;
    const NUMERIC: u32 = 1700;
    let mut out = Vec::new();
    if let Ok(bytes) = <[u8; 8]>::try_from(value)
        && u64::from_be_bytes(bytes) < LARGEST
        && detect(rules, BIGINT, Format::Binary, value, &mut out, fired).is_some()
    {
        return true;
    }
    let word = |index: usize| {
        value.get(index * 2..index * 2 + 2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    };
    let numeric = word(0).is_some_and(|digits| {
        value.len() == 8 + 2 * usize::from(digits)
            && matches!(word(2), Some(0 | 0x4000))
            && (0..usize::from(digits)).all(|index| word(4 + index).is_some_and(|digit| digit < 10_000))
    });
    numeric && detect(rules, NUMERIC, Format::Binary, value, &mut out, fired).is_some()
}

fn text(rules: &Rules, value: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> Option<Applied> {
    let start = out.len();
    Some(match rules.mask(value, out, fired)? {
        Transform::Null => {
            out.truncate(start);
            Applied::Null
        }
        _ => Applied::Value,
    })
}

/// The whole value under the transformation of what was found in it.
fn whole(
    rules: &Rules,
    transform: Transform,
    type_oid: u32,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
) -> Applied {
    match rules.key() {
        Some(key) => value::apply(transform, key, type_oid, -1, format, value, out),
        None => Applied::Null,
    }
}

fn number(
    rules: &Rules,
    type_oid: u32,
    kind: Kind,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
    fired: &mut Fired,
) -> Option<Applied> {
    let digits;
    let digits: &[u8] = match (kind, format) {
        (_, Format::Text) => value,
        (Kind::Numeric { .. }, Format::Binary) => {
            // A sign, a weight and two groups at least, and no more than the longest number has.
            if !(14..=40).contains(&value.len()) {
                return None;
            }
            let mut text = Vec::with_capacity(32);
            Decimal::from_binary(value)?.write_text(&mut text);
            digits = text;
            &digits
        }
        _ => {
            let number = i64::from_be_bytes(value.try_into().ok()?);
            if number.unsigned_abs() < 100_000_000 {
                return None;
            }
            digits = number.to_string().into_bytes();
            &digits
        }
    };
    let strictest = rules.note(&rules.find(digits), fired)?;
    Some(whole(rules, strictest, type_oid, format, value, out))
}

fn array_text(
    rules: &Rules,
    type_oid: u32,
    element: u32,
    value: &[u8],
    out: &mut Vec<u8>,
    fired: &mut Fired,
) -> Option<Applied> {
    match oid::kind(element, -1) {
        Some(Kind::Text { .. } | Kind::Xml { .. }) => text(rules, value, out, fired),
        Some(
            Kind::Int { width: 8, .. }
            | Kind::Numeric { .. }
            | Kind::Inet { .. }
            | Kind::Json { .. }
            | Kind::Bytea,
        ) => {
            let strictest = rules.note(&rules.find(value), fired)?;
            Some(whole(rules, strictest, type_oid, Format::Text, value, out))
        }
        _ => None,
    }
}

fn array_binary(
    rules: &Rules,
    element: u32,
    value: &[u8],
    out: &mut Vec<u8>,
    fired: &mut Fired,
) -> Option<Applied> {
    let Some((header, elements)) = value::elements(value) else {
        return rules.note(&rules.find(value), fired).map(|_| Applied::Null);
    };
    let start = out.len();
    let mut found = false;
    let mut nulls = false;
    let mut masked = Vec::new();
    out.extend_from_slice(header);
    for item in elements {
        masked.clear();
        let item =
            match item.map(|item| (item, detect(rules, element, Format::Binary, item, &mut masked, fired))) {
                None => None,
                Some((item, None)) => Some(item),
                Some((_, Some(applied))) => {
                    found = true;
                    (applied == Applied::Value).then_some(&masked[..])
                }
            };
        nulls |= item.is_none();
        let length = item.map_or(Some(-1), |item| i32::try_from(item.len()).ok());
        out.extend_from_slice(&length?.to_be_bytes());
        out.extend_from_slice(item.unwrap_or_default());
    }
    if !found {
        out.truncate(start);
        return None;
    }
    if let Some(flags) = out.get_mut(start + 4..start + 8) {
        flags.copy_from_slice(&i32::from(nulls).to_be_bytes());
    }
    Some(Applied::Value)
}

/// `bytea` in text: what its bytes hold, or what its escaped form shows.
fn bytea(rules: &Rules, value: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> Option<Applied> {
    let Some(bytes) = value.strip_prefix(b"\\x").and_then(unhex) else {
        return text(rules, value, out, fired);
    };
    let mut masked = Vec::new();
    let applied = text(rules, &bytes, &mut masked, fired)?;
    if applied == Applied::Value {
        bytea_text(&masked, out);
    }
    Some(applied)
}

/// JSON that stays JSON: what is found in a string is replaced within it, a number becomes a string.
fn json(rules: &Rules, value: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> Option<Applied> {
    let hits = rules.find(value);
    let escapes = value.contains(&b'\\');
    if hits.is_empty() && !escapes {
        return None;
    }
    let start = out.len();
    let mut strictest = rules.note(&hits, fired);
    let mut writer = Json { rules, hits: &hits, value, done: 0, out };
    let mut at = 0;
    while let Some(byte) = value.get(at) {
        let end = match byte {
            b'"' => {
                let end = string_end(value, at + 1);
                strictest = strictest.max(writer.string(at + 1, end, fired));
                end + 1
            }
            // Numbers, and the three words.
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                let rest = value.get(at..).unwrap_or_default();
                let end = at + rest.iter().position(|b| b",]}: \t\r\n\"".contains(b)).unwrap_or(rest.len());
                writer.word(at, end);
                end
            }
            _ => at + 1,
        };
        at = end.max(at + 1);
    }
    writer.rest();
    match strictest {
        Some(Transform::Null) => {
            out.truncate(start);
            Some(Applied::Null)
        }
        Some(_) => Some(Applied::Value),
        None => {
            out.truncate(start);
            None
        }
    }
}

/// Where the string that starts at `from` ends: at its closing quote, or the value's end.
fn string_end(value: &[u8], from: usize) -> usize {
    let mut escaped = false;
    let rest = value.get(from..).unwrap_or_default();
    let length = rest.iter().position(|b| {
        let ends = *b == b'"' && !escaped;
        escaped = *b == b'\\' && !escaped;
        ends
    });
    from + length.unwrap_or(rest.len())
}

struct Json<'a> {
    rules: &'a Rules,
    hits: &'a [Hit],
    value: &'a [u8],
    /// Written up to here.
    done: usize,
    out: &'a mut Vec<u8>,
}

impl Json<'_> {
    fn copy_to(&mut self, end: usize) {
        self.out.extend_from_slice(self.value.get(self.done..end).unwrap_or_default());
        self.done = self.done.max(end);
    }

    fn rest(&mut self) {
        self.copy_to(self.value.len());
    }

    /// The hits that reach into a piece, cut to it.
    fn inside(&self, start: usize, end: usize) -> impl Iterator<Item = Hit> + use<'_> {
        let first = self.hits.partition_point(|hit| hit.end <= start);
        let hits = self.hits.get(first..).unwrap_or_default().iter();
        hits.take_while(move |hit| hit.start < end).map(move |hit| hit.within(start, end))
    }

    /// The content of a string, without its quotes.
    fn string(&mut self, start: usize, end: usize, fired: &mut Fired) -> Option<Transform> {
        let content = self.value.get(start..end).unwrap_or_default();
        if !content.contains(&b'\\') {
            let hits: Vec<Hit> = self.inside(start, end).collect();
            for hit in hits {
                self.copy_to(hit.start);
                self.rules.write(hit, self.value, self.out);
                self.done = hit.end;
            }
            return None;
        }
        // Behind escapes stands what the raw bytes do not show: it is looked for in the string itself.
        let quoted = self.value.get(start - 1..end + 1).unwrap_or_default();
        let known = self.inside(start, end).next();
        let mut masked = Vec::new();
        let found = match serde_json::from_slice::<String>(quoted) {
            Ok(text) => self.rules.mask(text.as_bytes(), &mut masked, fired),
            // Not JSON, or a lone surrogate: what the raw bytes show is all there is to go by.
            Err(_) => None,
        };
        self.copy_to(start);
        match (found, known) {
            (Some(_), _) => {
                let text = String::from_utf8_lossy(&masked);
                // Its quotes are there already.
                let escaped = serde_json::to_string(&text).unwrap_or_default();
                let inner = escaped.strip_prefix('"').and_then(|s| s.strip_suffix('"')).unwrap_or_default();
                self.out.extend_from_slice(inner.as_bytes());
                self.done = end;
            }
            // What gives it away stands outside: the whole string goes.
            (None, Some(_)) => {
                self.out.extend_from_slice(super::REDACTED.as_bytes());
                self.done = end;
            }
            (None, None) => {}
        }
        found
    }

    /// A number or word: any hit in it makes a string of the whole.
    fn word(&mut self, start: usize, end: usize) {
        let Some(hit) = self.inside(start, end).next() else { return };
        self.copy_to(start);
        self.out.push(b'"');
        self.rules.write(hit.stretched(start, end), self.value, self.out);
        self.out.push(b'"');
        self.done = end;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HashKey, MaskSet, REDACTED};
    use super::*;
    use proptest::prelude::*;

    const CARD: i64 = 4_111_111_111_111_111;

    fn masks(transform: Transform) -> MaskSet {
        [
            Detector::PaymentCard,
            Detector::Email,
            Detector::IpAddress,
            Detector::AwsSecretKey,
            Detector::PrivateKey,
        ]
        .into_iter()
        .fold(MaskSet::builder(), |b, d| b.detector("m".into(), d, transform))
        .build(&HashKey::new(&[5; 32]))
    }

    fn run(transform: Transform, oid: u32, format: Format, value: &[u8]) -> Option<(Applied, Vec<u8>)> {
        let (mut out, mut fired) = (b"before".to_vec(), Fired::default());
        let applied = masks(transform).detect_typed(oid, format, value, &mut out, &mut fired);
        assert_eq!(applied.is_none(), fired.is_empty());
        let written = out.split_off(6);
        assert_eq!(out, b"before");
        assert!(applied == Some(Applied::Value) || written.is_empty());
        applied.map(|applied| (applied, written))
    }

    fn redacted(oid: u32, value: &str) -> Option<String> {
        run(Transform::Redact, oid, Format::Text, value.as_bytes())
            .map(|(_, out)| String::from_utf8(out).unwrap())
    }

    #[test]
    fn json_stays_json() {
        for (value, expected) in [
            (r#"{"a":"x ann@example.com y"}"#, r#"{"a":"x [redacted] y"}"#),
            (r#"{"n": 4111111111111111, "m":1}"#, r#"{"n": "[redacted]", "m":1}"#),
            (r#"[-4111111111111111]"#, r#"["[redacted]"]"#),
            (r#"{"a":"ann\u0040example.com"}"#, r#"{"a":"[redacted]"}"#),
            (r#"{"a":"say \"hi\" to ann@example.com\n"}"#, r#"{"a":"say \"hi\" to [redacted]\n"}"#),
            (
                r#"{"k":"-----BEGIN PRIVATE KEY-----\nabc","b":"c"}"#,
                r#"{"k":"[redacted]","[redacted]":"[redacted]"}"#,
            ),
            (
                r#"{"SecretAccessKey":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}"#,
                r#"{"SecretAccessKey":"[redacted]"}"#,
            ),
        ] {
            assert_eq!(redacted(3802, value).as_deref(), Some(expected));
            serde_json::from_str::<serde_json::Value>(expected).unwrap();
        }
        assert_eq!(redacted(114, r#"{"a":"b\n","n":12}"#), None);
        let binary = [b"\x01", &br#"["ann@example.com"]"#[..]].concat();
        let (_, out) = run(Transform::Redact, 3802, Format::Binary, &binary).unwrap();
        assert_eq!(out, b"\x01[\"[redacted]\"]");
        assert_eq!(run(Transform::Null, 3802, Format::Binary, &binary), Some((Applied::Null, vec![])));
    }

    #[test]
    fn numbers_stay_numbers() {
        assert_eq!(redacted(20, "4111111111111111").as_deref(), Some("0"));
        assert_eq!(redacted(1700, "4111111111111111.00").as_deref(), Some("0"));
        assert_eq!(redacted(20, "4111111111111112"), None);
        let partial = Transform::Partial { keep_first: 0, keep_last: 4 };
        let (_, out) = run(partial, 20, Format::Binary, &CARD.to_be_bytes()).unwrap();
        assert_eq!(out, 1111i64.to_be_bytes());
        let mut numeric = Vec::new();
        for word in [4i16, 3, 0, 0, 4111, 1111, 1111, 1111] {
            numeric.extend_from_slice(&word.to_be_bytes());
        }
        let (_, out) = run(partial, 1700, Format::Binary, &numeric).unwrap();
        let words: Vec<i16> = out.as_chunks::<2>().0.iter().map(|w| i16::from_be_bytes(*w)).collect();
        assert_eq!(words, [1, 0, 0, 0, 1111]);
        assert_eq!(redacted(1016, "{1,4111111111111111,NULL}").as_deref(), Some("{\"0\",\"0\",NULL}"));
    }

    #[test]
    fn binary_arrays_are_rebuilt() {
        let mut array = Vec::new();
        for word in [1i32, 1, 25, 3, 1] {
            array.extend_from_slice(&word.to_be_bytes());
        }
        for element in [Some(&b"x"[..]), None, Some(b"ann@example.com")] {
            array.extend_from_slice(&element.map_or(-1, |e| e.len() as i32).to_be_bytes());
            array.extend_from_slice(element.unwrap_or_default());
        }
        let (_, out) = run(Transform::Redact, 1009, Format::Binary, &array).unwrap();
        let (_, elements) = value::elements(&out).unwrap();
        assert_eq!(elements, [Some(&b"x"[..]), None, Some(REDACTED.as_bytes())]);
        // One whose lengths do not hold is not passed on.
        array.truncate(array.len() - 1);
        array.extend_from_slice(b"mx");
        assert_eq!(run(Transform::Redact, 1009, Format::Binary, &array), Some((Applied::Null, vec![])));
    }

    #[test]
    fn other_types() {
        assert_eq!(
            redacted(17, "\\x616e6e406578616d706c652e636f6d21").as_deref(),
            Some("\\x5b72656461637465645d21")
        );
        assert_eq!(redacted(869, "10.1.2.3").as_deref(), Some("0.0.0.0"));
        assert_eq!(redacted(1114, "2024-03-05 12:34:56"), None);
        assert_eq!(redacted(99_999, "(ann@example.com,1)").as_deref(), Some("([redacted],1)"));
        assert_eq!(
            run(Transform::Redact, 99_999, Format::Binary, b"ann@example.com"),
            Some((Applied::Null, vec![]))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_of_any_type(
            oid in proptest::sample::select(vec![16u32, 17, 18, 20, 25, 114, 142, 650, 869, 1009, 1016, 1042, 1231, 1700, 2951, 3802, 3807, 70_000]),
            binary in any::<bool>(),
            value in proptest::collection::vec(any::<u8>(), 0..120),
            transform in proptest::sample::select(vec![Transform::Redact, Transform::Hash, Transform::Null, Transform::Partial { keep_first: 1, keep_last: 3 }]),
        ) {
            let format = if binary { Format::Binary } else { Format::Text };
            run(transform, oid, format, &value);
        }

        #[test]
        fn masked_json_parses(
            texts in proptest::collection::vec("[a-z\"\\\\\né]{0,6}(ann@example.com|4111 1111 1111 1111|10.0.0.1)?[a-z\"\\\\]{0,3}", 1..5),
            transform in proptest::sample::select(vec![Transform::Redact, Transform::Hash, Transform::Partial { keep_first: 1, keep_last: 3 }]),
        ) {
            let value = serde_json::json!({ "t": texts, "n": CARD });
            let (applied, out) = run(transform, 3802, Format::Text, value.to_string().as_bytes()).expect("a card is in it");
            prop_assert_eq!(applied, Applied::Value);
            let parsed: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            prop_assert!(!parsed.to_string().contains("ann@example.com"));
            prop_assert!(parsed["n"].is_string());
        }
    }
}
