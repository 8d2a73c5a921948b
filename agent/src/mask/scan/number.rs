//! Numbers: runs of digits and what stands between them.

use super::forms::{Form, LONGEST, Separators, Shape};
use super::{Scan, phone};
use crate::mask::Detector;

/// Runs looked at together.
const MAX_RUNS: usize = 12;

/// What stands between two runs, as one byte: the separator itself, or one of these.
pub(super) struct Sep;

impl Sep {
    /// A bracket, with or without a space.
    pub(super) const BRACKET: u8 = b'(';
    /// Several of different kinds.
    pub(super) const MIXED: u8 = b'?';
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Run {
    /// Where it starts and ends in the value. A value has at most [`MAX_DETECT`](crate::mask::MAX_DETECT) bytes.
    start: u32,
    end: u32,
    /// What stands before it.
    separator: u8,
}

impl Run {
    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// Runs of digits with separators only between them.
pub(super) struct Group<'a> {
    value: &'a [u8],
    runs: [Run; MAX_RUNS],
    lengths: [u8; MAX_RUNS],
    count: usize,
}

impl<'a> Group<'a> {
    fn new(value: &'a [u8]) -> Self {
        Self { value, runs: [Run::default(); MAX_RUNS], lengths: [0; MAX_RUNS], count: 0 }
    }

    /// `false` when it is full.
    fn push(&mut self, run: Run) -> bool {
        if let (Some(place), Some(length)) = (self.runs.get_mut(self.count), self.lengths.get_mut(self.count))
        {
            *place = run;
            *length = run.len() as u8;
            self.count += 1;
        }
        self.count < MAX_RUNS
    }

    pub(super) fn run(&self, at: usize) -> Option<Run> {
        self.runs.get(at).copied().filter(|_| at < self.count)
    }

    /// Digits in each run from `first` on.
    pub(super) fn lengths(&self, first: usize) -> &[u8] {
        self.lengths.get(first..self.count).unwrap_or_default()
    }

    /// What stands before a run; 0 for the first.
    pub(super) fn separator(&self, at: usize) -> u8 {
        self.run(at).map_or(0, |run| run.separator)
    }

    pub(super) fn byte_before(&self, at: usize) -> u8 {
        let start = self.run(at).map_or(0, |run| run.start as usize);
        start.checked_sub(1).and_then(|i| self.value.get(i)).copied().unwrap_or(0)
    }

    pub(super) fn digits_of(&self, at: usize) -> &'a [u8] {
        self.run(at).and_then(|run| self.value.get(run.start as usize..run.end as usize)).unwrap_or_default()
    }

    /// The separator between `count` runs when it is the same throughout.
    pub(super) fn same_separator(&self, first: usize, count: usize) -> Option<u8> {
        let between = self.runs.get(first + 1..(first + count).min(self.count))?;
        let separator = between.first()?.separator;
        between.iter().all(|run| run.separator == separator).then_some(separator)
    }

    /// These runs are not a part of a longer thing: no run is joined to them by a dash or a dot,
    /// nor by a space when it looks like one more of the same.
    pub(super) fn apart(&self, first: usize, count: usize, strict: bool) -> bool {
        let inner = self.same_separator(first, count).unwrap_or(0);
        let joins = |separator: u8, neighbour: usize, own: usize| match separator {
            b'-' | b'.' => true,
            b' ' => strict && inner == b' ' && self.lengths.get(neighbour) == self.lengths.get(own),
            _ => false,
        };
        let left = first > 0 && joins(self.separator(first), first - 1, first);
        let next = first + count;
        let right = next < self.count
            && joins(self.separator(next), next, next - 1)
            && !(self.separator(next) == b'.' && self.only_zeros(next));
        !left && !right
    }

    /// The last run, and nothing but one or two zeros: decimals that a spreadsheet put there.
    fn only_zeros(&self, at: usize) -> bool {
        at + 1 == self.count && matches!(self.digits_of(at), b"0" | b"00")
    }

    /// Where the last run starts, when it has six digits and only a dash stands between it and `next`.
    pub(super) fn ends_with_six(&self, next: usize) -> Option<usize> {
        let last = self.run(self.count.checked_sub(1)?)?;
        let dashed = last.end as usize + 1 == next && self.value.get(last.end as usize) == Some(&b'-');
        (last.len() == 6 && dashed).then_some(last.start as usize)
    }

    /// The digits' values of `count` runs.
    fn values(&self, first: usize, count: usize) -> ([u8; LONGEST], usize) {
        let mut values = [0; LONGEST];
        let mut total = 0;
        for at in first..first + count {
            for digit in self.digits_of(at) {
                if let Some(place) = values.get_mut(total) {
                    *place = digit - b'0';
                    total += 1;
                }
            }
        }
        (values, total)
    }
}

impl Scan<'_> {
    /// At the first digit of a run. Looks at the number or word that it is in, and sets where the
    /// search for numbers goes on.
    pub(super) fn number(&mut self, at: usize) {
        if self.byte_before(at).is_ascii_alphabetic() && !self.escaped(at) {
            self.word_with_digits(at);
            return;
        }
        if self.short_and_alone(at) {
            return;
        }
        let mut group = Group::new(self.value);
        let (mut pos, mut separator) = (at, 0);
        loop {
            let mut end = pos + 1;
            while self.byte(end).is_ascii_digit() {
                end += 1;
            }
            self.resume = end;
            let next = self.byte(end);
            if next.is_ascii_alphabetic() {
                self.number_with_letter(&group, pos, end);
                break;
            }
            if end - pos > LONGEST {
                break;
            }
            let more = group.push(Run { start: pos as u32, end: end as u32, separator });
            let Some((sep, width)) = self.separator_at(end, next) else {
                break;
            };
            if !more {
                // The rest may start in the middle of what was seen: look at half of it again.
                self.resume = group.run(MAX_RUNS / 2).map_or(end, |run| run.start as usize);
                break;
            }
            (pos, separator) = (end + width, sep);
        }
        if group.count > 1 || group.lengths(0).first().is_some_and(|length| *length > 7) {
            self.group(&group);
        }
        if self.on(Detector::EsNif) || self.on(Detector::ClRut) {
            self.dashed_letter(&group);
        }
    }

    /// A run of at most six digits with nothing to join it to: that is no number of any kind, and
    /// most runs are such.
    #[inline]
    fn short_and_alone(&mut self, at: usize) -> bool {
        let Some(window) = self.value.get(at..).map(|rest| rest.get(..8).unwrap_or(rest)) else {
            return false;
        };
        let length = window.iter().position(|b| !b.is_ascii_digit()).unwrap_or(window.len());
        if length > 6 {
            return false;
        }
        let end = at + length;
        let alone = match self.byte(end) {
            b' ' | b'-' | b'.' | b'/' => {
                !self.byte(end + 1).is_ascii_digit()
                    && self.separator_at(end, self.byte(end)).is_none()
                    && length != 3
            }
            b'(' | b')' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => false,
            _ => true,
        };
        if alone {
            self.resume = end;
        }
        alone
    }

    /// What separates the run that ends at `end` from another one, and its width in bytes.
    #[inline]
    fn separator_at(&self, end: usize, next: u8) -> Option<(u8, usize)> {
        const ASCII: &[u8] = b" -./()";
        let digit_at = |i: usize| self.byte(i).is_ascii_digit();
        if matches!(next, b' ' | b'-'..=b'/' | b'(' | b')') {
            if digit_at(end + 1) {
                return Some((if matches!(next, b'(' | b')') { Sep::BRACKET } else { next }, 1));
            }
            let width = (2..=3).find(|width| digit_at(end + width))?;
            let all = self.value.get(end..end + width)?;
            if !all.iter().all(|b| ASCII.contains(b)) {
                return None;
            }
            return Some(if all.iter().any(|b| matches!(b, b'(' | b')')) {
                (Sep::BRACKET, width)
            } else if all.iter().all(|b| *b == next) {
                (next, width)
            } else {
                (Sep::MIXED, width)
            });
        }
        if next < 0x80 {
            return None;
        }
        // No-break, thin and zero-width spaces, and the dashes that word processors make.
        let (separator, width) = match (next, self.byte(end + 1), self.byte(end + 2)) {
            (0xc2, 0xa0, _) => (b' ', 2),
            (0xc2, 0xad, _) => (b'-', 2),
            (0xe2, 0x80, 0x80..=0x8f | 0xaf) | (0xe2, 0x81, 0x9f | 0xa0) | (0xef, 0xbb, 0xbf) => (b' ', 3),
            (0xe2, 0x80, 0x90..=0x95) | (0xe2, 0x88, 0x92) => (b'-', 3),
            _ => return None,
        };
        digit_at(end + width).then_some((separator, width))
    }

    fn group(&mut self, group: &Group<'_>) {
        if group.lengths(0) == [2, 2, 2]
            && self.on(Detector::UkNino)
            && let (Some(first), Some(last)) = (group.run(0), group.run(2))
            && self.spaced_nino(first.start as usize, last.end as usize)
        {
            return;
        }
        let mut first = 0;
        while first < group.count {
            let lengths = group.lengths(first);
            // A day, as in every timestamp.
            if let ([4, 2, 2, ..], Some(b'-')) = (lengths, group.same_separator(first, 3)) {
                first += 3;
                continue;
            }
            let found = self.form(group, first);
            let found = found.or_else(|| self.ip_v4(group, first));
            let found = found.or_else(|| {
                let phone = self.on(Detector::Phone).then(|| phone::find(group, first)).flatten();
                phone.map(|(runs, lead)| (Detector::Phone, runs, lead))
            });
            let Some((detector, runs, lead)) = found else {
                first += 1;
                continue;
            };
            if let (Some(start), Some(end)) = (group.run(first), group.run(first + runs - 1)) {
                self.hit(detector, start.start as usize - lead, end.end as usize);
            }
            first += runs;
        }
    }

    /// The number that starts with run `first`, by the table of forms.
    fn form(&self, group: &Group<'_>, first: usize) -> Option<(Detector, usize, usize)> {
        let lengths = group.lengths(first);
        let [length, rest @ ..] = lengths else { return None };
        let next = rest.first().copied().unwrap_or(0);
        if !self.rules.may_start(*length, next) {
            return None;
        }
        let shape = Shape::of(lengths);
        let mut forms = self.rules.forms.iter().filter(|(own, _)| own.leads(shape)).map(|(_, form)| *form);
        let form = forms.find(|form| self.has_form(group, first, form))?;
        Some((form.detector, form.lengths.len(), 0))
    }

    fn has_form(&self, group: &Group<'_>, first: usize, form: &Form) -> bool {
        let count = form.lengths.len();
        let separated = match form.separators {
            Separators::OneOf(any) => {
                group.same_separator(first, count).is_some_and(|sep| any.contains(&sep))
            }
            Separators::Exactly(seps) => {
                (first + 1..first + count).zip(seps).all(|(at, sep)| group.separator(at) == *sep)
            }
        };
        let card = form.detector == Detector::PaymentCard;
        if !separated
            || !(group.apart(first, count, !card) || (card && count == 1 && self.code_follows(group, first)))
        {
            return false;
        }
        // The last part of a UUID.
        if form.lengths == [12] && group.byte_before(first) == b'-' {
            return false;
        }
        let (values, total) = group.values(first, count);
        values.get(..total).is_some_and(form.check)
    }

    /// A bare card number that only a short run behind a dash follows: its security code, say.
    fn code_follows(&self, group: &Group<'_>, first: usize) -> bool {
        (first == 0 || !matches!(group.separator(first), b'-' | b'.'))
            && matches!(group.lengths(first), [13..=19, 1..=4])
            && group.separator(first + 1) == b'-'
    }

    fn ip_v4(&self, group: &Group<'_>, first: usize) -> Option<(Detector, usize, usize)> {
        let dotted = group.separator(first + 1) == b'.'
            && self.on(Detector::IpAddress)
            && group.lengths(first).len() >= 4
            && group.same_separator(first, 4) == Some(b'.')
            && group.separator(first) != b'.'
            && group.separator(first + 4) != b'.'
            && !matches!(group.byte_before(first), b'.' | b'_');
        let octet = |at: usize| match group.digits_of(first + at) {
            [b'0', _, ..] => false,
            digits if digits.len() > 3 => false,
            digits => digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0')) < 256,
        };
        (dotted && (0..4).all(octet)).then_some((Detector::IpAddress, 4, 0))
    }

    /// A check letter behind a dash: Spain's 12345678-Z, Chile's 12.345.678-K.
    fn dashed_letter(&mut self, group: &Group<'_>) {
        let Some(last) = group.count.checked_sub(1).and_then(|at| group.run(at)) else { return };
        let end = last.end as usize;
        let letter = self.byte(end + 1).to_ascii_uppercase();
        if self.byte(end) != b'-'
            || !letter.is_ascii_uppercase()
            || self.byte(end + 2).is_ascii_alphanumeric()
        {
            return;
        }
        let lengths = group.lengths(0);
        let count = match lengths {
            [.., 1 | 2, 3, 3] if group.same_separator(group.count - 3, 3) == Some(b'.') => 3,
            [.., 7 | 8] => 1,
            _ => return,
        };
        let first = group.count - count;
        let (values, total) = group.values(first, count);
        let Some(values) = values.get(..total) else { return };
        let spain = total == 8 && super::checks::es_letter(values) == Some(letter);
        let chile = letter == b'K' && super::checks::cl_rut(values) == 10;
        let start = group.run(first).map_or(end, |run| run.start as usize);
        if spain && self.on(Detector::EsNif) {
            self.hit(Detector::EsNif, start, end + 2);
        } else if chile && self.on(Detector::ClRut) {
            self.hit(Detector::ClRut, start, end + 2);
        }
    }
}
