//! A statement's text as it may be recorded, and shown to who approves it.
//!
//! Secrets and what detectors find are taken out of it, and nothing else. **What runs stays**: the tokens other than
//! constants and comments are left byte for byte, in the text and in the texts that it runs. A mask never reaches
//! over the end of a constant or comment: `-----BEGIN PRIVATE KEY-----` in a line is a comment to the server, which
//! runs what follows it.
//!
//! What was made is split anew and compared with the text: where more differs than constants (a password without
//! its quotes, a text or body that cannot be split) it is said to hide [`Hidden::Code`], and nobody can approve it.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use pg_query::protobuf::ScanToken;

use super::Secrets;
use super::literal::{self, Runs, Value, Within, content, is_comment, is_constant, is_string, slice};
use crate::mask::{MaskSet, REDACTED};

/// Texts that run within one another deeper than this are hidden whole, if anything in them is.
const MAX_NESTED: usize = 8;

/// How much of a text is hidden in what is recorded and shown of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hidden {
    /// Nothing: it is exact.
    #[default]
    Nothing,
    /// Constants and comments, or parts of them.
    Constants,
    /// More than that, or it is not known: what it runs cannot be seen.
    Code,
}

/// A text as it may be recorded and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recordable<'t> {
    /// The text.
    pub text: Cow<'t, str>,
    /// What is hidden in it.
    pub hidden: Hidden,
}

impl<'t> Recordable<'t> {
    /// A value that may be run, as a parameter or an argument: where it is SQL, what it runs stays as in a text. The
    /// others are given back as `None`.
    pub(crate) fn of_value(value: &'t str, masks: &MaskSet) -> Option<Self> {
        let secrets = Secrets::of(value);
        let is_exact = matches!(secrets.redact(value), Cow::Borrowed(_)) && !masks.finds(value);
        // Most values are not hidden, and are not parsed.
        let may_hide = !is_exact || masks.has_detectors() && (has_escapes(value) || has_parts(value));
        (may_hide && literal::is_sql(value)).then(|| Self::of(value, &secrets, masks))
    }

    /// `text`, of which `secrets` are the secrets, as `masks` let it be recorded.
    pub fn of(text: &'t str, secrets: &Secrets, masks: &MaskSet) -> Self {
        let without = secrets.redact(text);
        let masked = masked(&without, masks, 0, 1).map(|edits| apply(&without, edits));
        let shown = match (without, masked) {
            (without, None) => without,
            (_, Some(masked)) => Cow::Owned(masked),
        };
        let hidden = match &shown {
            Cow::Borrowed(_) => Hidden::Nothing,
            Cow::Owned(shown) if shown == text => Hidden::Nothing,
            Cow::Owned(shown) if runs_the_same(text, shown, 0) => Hidden::Constants,
            Cow::Owned(_) => Hidden::Code,
        };
        Self { text: shown, hidden }
    }

    /// The same of a text that the server may split otherwise than it is split here: nobody can tell then what in it
    /// is a constant. If anything has to be hidden, all is.
    pub fn of_unread(text: &'t str, secrets: &Secrets, masks: &MaskSet) -> Self {
        match secrets.redact(text) {
            Cow::Borrowed(text) if !masks.finds(text) => {
                Self { text: Cow::Borrowed(text), hidden: Hidden::Nothing }
            }
            _ => Self { text: Cow::Borrowed(REDACTED), hidden: Hidden::Code },
        }
    }
}

/// A part of a text, and what is put in its place.
type Edit = (Range<usize>, String);

/// Puts what is to be there in the place of each part. Of two that overlap the first is made.
fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (range, by) in edits {
        if range.start < at {
            // What it has beyond the one before goes with it.
            at = at.max(range.end);
            continue;
        }
        out.push_str(text.get(at..range.start).unwrap_or_default());
        out.push_str(&by);
        at = range.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// What `masks` change in a text of SQL; `None` for nothing. A quote within a quote is written `quotes` times, for the
/// strings that the text itself stands in.
fn masked(text: &str, masks: &MaskSet, nested: usize, quotes: usize) -> Option<Vec<Edit>> {
    if !masks.has_detectors() {
        return None;
    }
    let found = masks.find(text);
    if found.as_ref().is_some_and(Vec::is_empty) && !has_escapes(text) && !has_parts(text) {
        return None;
    }
    let whole = || Some(vec![(0..text.len(), REDACTED.to_owned())]);
    let Some(found) = found else { return whole() };
    let Some(all) = literal::scan(text) else {
        return if found.is_empty() { None } else { whole() };
    };
    let mut edits = Vec::new();
    for token in all.iter().filter(|token| is_comment(token)) {
        if let Some((range, comment)) = slice(text, token) {
            in_comment(comment, range.start, masks, &mut edits);
        }
    }
    over_comments(text, &all, masks, &mut edits);
    let tokens: Vec<ScanToken> = all.into_iter().filter(|token| !is_comment(token)).collect();
    let place = Place { text, tokens: &tokens, masks, nested, quotes, found: &found };
    let mut within = Within::new(nested > 0, &tokens);
    for (index, token) in tokens.iter().enumerate() {
        within.pass(index, token);
        if is_string(token) {
            place.string(&mut within, index, &mut edits);
        } else if is_constant(token) {
            place.number(index, &mut edits);
        } else {
            place.name(index, &mut edits);
        }
    }
    (!edits.is_empty()).then_some(edits)
}

fn in_comment(comment: &str, start: usize, masks: &MaskSet, edits: &mut Vec<Edit>) {
    let Some(found) = masks.find(comment) else {
        edits.push((start..start + comment.len(), " ".to_owned()));
        return;
    };
    if found.is_empty() {
        return;
    }
    let body = body(comment);
    // Comments within it have to be closed where they were.
    if comment.get(body.clone()).is_some_and(|body| body.contains("/*") || body.contains("*/")) {
        edits.push((start + body.start..start + body.end, REDACTED.to_owned()));
        return;
    }
    for (range, by) in found {
        let range = range.start.max(body.start)..range.end.min(body.end);
        if range.start < range.end {
            let by = if by.contains(['*', '/', '\n', '\r']) { REDACTED.to_owned() } else { by };
            edits.push((start + range.start..start + range.end, by));
        }
    }
}

/// Where a comment's text is, without the signs that make it one.
fn body(comment: &str) -> Range<usize> {
    if comment.starts_with("--") { 2..comment.len() } else { 2..comment.len().saturating_sub(2).max(2) }
}

/// What stands in several comments that follow one another, as statements and keys do in a script that has them
/// commented out: it is looked for as if they were one, and hidden in each.
fn over_comments(text: &str, tokens: &[ScanToken], masks: &MaskSet, edits: &mut Vec<Edit>) {
    let mut group: Vec<Spoken> = Vec::new();
    let mut end = 0;
    for token in tokens.iter().filter(|token| is_comment(token)) {
        let Some((range, comment)) = slice(text, token) else { continue };
        let follows = text.get(end..range.start).is_some_and(|gap| gap.trim().is_empty());
        if !follows {
            over_group(text, &group, masks, edits);
            group.clear();
        }
        let body = body(comment);
        let body = range.start + body.start..range.start + body.end;
        // A key's first line is a comment by itself.
        let says = if comment.starts_with("-----") { range.clone() } else { body.clone() };
        group.push(Spoken { says, body });
        end = range.end;
    }
    over_group(text, &group, masks, edits);
}

/// What a comment says, and what of it may be hidden.
struct Spoken {
    says: Range<usize>,
    body: Range<usize>,
}

/// The same of one such row of comments.
fn over_group(text: &str, group: &[Spoken], masks: &MaskSet, edits: &mut Vec<Edit>) {
    if group.len() < 2 {
        return;
    }
    let mut joined = String::new();
    // Where in `joined` each begins, its place in the text, and what of it may be hidden.
    let mut places = Vec::new();
    for Spoken { says, body } in group {
        let Some(lines) = text.get(says.clone()) else { continue };
        let bare = lines.trim();
        let from = says.start + (lines.len() - lines.trim_start().len());
        places.push((joined.len(), from..from + bare.len(), body));
        joined.push_str(bare);
        joined.push('\n');
    }
    let Some(found) = masks.find(&joined) else {
        edits.extend(places.into_iter().map(|(_, _, body)| (body.clone(), " ".to_owned())));
        return;
    };
    for (hit, _) in found {
        let touched = places.iter().filter(|(at, place, _)| *at < hit.end && hit.start < at + place.len());
        let touched: Vec<_> = touched.collect();
        // What is within one was found there.
        if touched.len() < 2 {
            continue;
        }
        for (at, place, body) in touched {
            let part = hit.start.saturating_sub(*at)..(hit.end - at).min(place.len());
            let part = (place.start + part.start).max(body.start)..(place.start + part.end).min(body.end);
            let nests =
                text.get((*body).clone()).is_some_and(|body| body.contains("/*") || body.contains("*/"));
            if part.start < part.end {
                edits.push((if nests { (*body).clone() } else { part }, REDACTED.to_owned()));
            }
        }
    }
}

struct Place<'t> {
    text: &'t str,
    /// Without comments.
    tokens: &'t [ScanToken],
    masks: &'t MaskSet,
    /// In how many texts that are run it stands itself.
    nested: usize,
    quotes: usize,
    /// What was found in the whole text.
    found: &'t [Edit],
}

impl Place<'_> {
    fn string(&self, within: &mut Within, index: usize, edits: &mut Vec<Edit>) {
        let Some((range, literal)) = self.tokens.get(index).and_then(|token| slice(self.text, token)) else {
            return;
        };
        let inner = content(literal, range.start);
        let hidden = || (inner.clone(), REDACTED.to_owned());
        let Some(value) = Value::of(literal, literal::escape(self.text, self.tokens, index)) else {
            // What it says is not known.
            edits.push(hidden());
            return;
        };
        let placed = |(part, by): &Edit| {
            let part = value.written(part);
            (part.start + range.start..part.end + range.start, by.clone())
        };
        // What stands before a constant can say what it is: `secret_access_key = '…'`.
        let from = self.found.partition_point(|(part, _)| part.start < inner.start);
        let of_context = self.found.get(from..).unwrap_or_default().iter();
        let of_context = of_context.take_while(|(part, _)| part.start < inner.end);
        let of_context = of_context.filter(|(part, _)| part.end <= inner.end);
        let own = self.masks.find(&value.text);
        if own.as_ref().is_some_and(Vec::is_empty)
            && of_context.clone().next().is_none()
            && !has_escapes(&value.text)
        {
            return;
        }
        let known = within.runs(self.text, self.tokens, index);
        match (known, own) {
            (Runs::Foreign, _) | (_, None) => edits.push(hidden()),
            (known, Some(own)) if known.is_sql(&value.text) => {
                if self.nested >= MAX_NESTED {
                    if !own.is_empty() {
                        edits.push(hidden());
                    }
                    return;
                }
                let quotes = if literal.starts_with('$') { self.quotes } else { self.quotes * 2 };
                let inner = masked(&value.text, self.masks, self.nested + 1, quotes).unwrap_or_default();
                edits.extend(inner.iter().map(placed));
            }
            (_, Some(own)) => {
                edits.extend(own.iter().map(placed).map(plain));
                edits.extend(of_context.cloned().map(plain));
            }
        }
    }

    /// A name in quotes can hold anything, as the columns of a pivot do. What is hidden of it is no constant: nobody can
    /// approve that.
    fn name(&self, index: usize, edits: &mut Vec<Edit>) {
        let Some((range, token)) = self.tokens.get(index).and_then(|token| slice(self.text, token)) else {
            return;
        };
        let (Some(open), true) = (token.find('"'), token.len() > 2) else { return };
        let inner = token.get(open + 1..token.len() - 1).unwrap_or_default().replace("\"\"", "\"");
        let is_exact = if open == 0 {
            !self.masks.finds(&inner)
        } else {
            // U&"…" has the escapes of U&'…'.
            let literal = format!("U&'{}'", inner.replace('\'', "''"));
            Value::of(&literal, literal::escape(self.text, self.tokens, index))
                .is_some_and(|value| !self.masks.finds(&value.text))
        };
        if !is_exact {
            edits.push((range.start + open + 1..range.end - 1, REDACTED.to_owned()));
        }
    }

    /// A number becomes a string, so that it stays one token.
    fn number(&self, index: usize, edits: &mut Vec<Edit>) {
        let Some((range, literal)) = self.tokens.get(index).and_then(|token| slice(self.text, token)) else {
            return;
        };
        // PostgreSQL 16 reads 4_111 as one number.
        let bare =
            if literal.contains('_') { literal.replace('_', "").into() } else { Cow::Borrowed(literal) };
        let Some((_, by)) = self.masks.find(&bare).unwrap_or_default().into_iter().next() else { return };
        if literal.contains('\'') {
            edits.push((content(literal, range.start), REDACTED.to_owned()));
            return;
        }
        // In quotes next to a string, maybe on another line, it would become a part of it; so would one of two numbers.
        let beside = [index.checked_sub(1), Some(index + 1)];
        if beside.into_iter().flatten().any(|at| self.tokens.get(at).is_some_and(is_constant)) {
            edits.push((range, "0".to_owned()));
            return;
        }
        let (_, by) = plain((0..0, by));
        let quote = "'".repeat(self.quotes);
        // Apart from what it could become one with.
        let byte =
            |at: Option<usize>| at.and_then(|at| self.text.as_bytes().get(at)).copied().unwrap_or(b' ');
        let before = if matches!(byte(range.start.checked_sub(1)), b'&' | b'\'') { " " } else { "" };
        let after = if byte(Some(range.end)) == b'\'' { " " } else { "" };
        edits.push((range, format!("{before}{quote}{by}{quote}{after}")));
    }
}

/// What is put into a constant must not end it.
fn plain((range, by): Edit) -> Edit {
    let by = if by.contains(['\'', '\\', '$', '\n', '\r']) { REDACTED.to_owned() } else { by };
    (range, by)
}

/// Constants and names may be written otherwise than they read: with escapes, or on several lines.
fn has_escapes(text: &str) -> bool {
    let bytes = text.as_bytes();
    if text.contains("&\"") {
        return true;
    }
    text.match_indices('\'').any(|(at, _)| {
        let prefix = at.checked_sub(1).and_then(|at| bytes.get(at));
        if matches!(prefix, Some(b'e' | b'E' | b'&')) {
            return true;
        }
        // It goes on on another line, maybe behind a comment.
        let after = text.get(at + 1..).unwrap_or_default();
        let rest = after.trim_start();
        let gap = after.get(..after.len() - rest.len()).unwrap_or_default();
        rest.starts_with("--") || rest.starts_with('\'') && gap.contains(['\n', '\r'])
    })
}

/// A value may stand in parts: a number's, or several comments.
fn has_parts(text: &str) -> bool {
    let in_number =
        |part: &[u8]| matches!(part, [one, b'_', other] if one.is_ascii_digit() && other.is_ascii_digit());
    text.as_bytes().windows(3).any(in_number)
        || text.match_indices("--").chain(text.match_indices("/*")).nth(1).is_some()
}

/// Two texts are the same but for constants and comments, and so are the texts that they run.
fn runs_the_same(text: &str, shown: &str, nested: usize) -> bool {
    if text == shown {
        return true;
    }
    let (Some(one), Some(other)) = (literal::scan(text), literal::scan(shown)) else { return false };
    let without =
        |all: Vec<ScanToken>| all.into_iter().filter(|token| !is_comment(token)).collect::<Vec<_>>();
    let (one, other) = (without(one), without(other));
    if one.len() != other.len() || nested > MAX_NESTED {
        return false;
    }
    let mut within = Within::new(nested > 0, &one);
    for (index, (token, shown_token)) in one.iter().zip(&other).enumerate() {
        within.pass(index, token);
        let (Some((_, token_text)), Some((_, shown_text))) = (slice(text, token), slice(shown, shown_token))
        else {
            return false;
        };
        if token_text == shown_text {
            continue;
        }
        if !is_constant(token) || !is_constant(shown_token) {
            return false;
        }
        if !is_string(token) {
            continue;
        }
        let value = Value::of(token_text, literal::escape(text, &one, index));
        let known = within.runs(text, &one, index);
        match (known, value) {
            // What it says is not known, nor so whether it is run.
            (Runs::Foreign, _) | (_, None) => return false,
            (known, Some(value)) if known == Runs::Piece || known.is_sql(&value.text) => {
                // Whoever approves it reads escapes with difficulty, and all rests on reading them as the server does.
                if literal::has_escapes(token_text) || literal::has_escapes(shown_text) {
                    return false;
                }
                let shown_value = Value::of(shown_text, literal::escape(shown, &other, index));
                let same =
                    shown_value.is_some_and(|shown| runs_the_same(&value.text, &shown.text, nested + 1));
                if !same {
                    return false;
                }
            }
            _ => {}
        }
    }
    true
}
