//! One pass over the bytes for all detectors.
//!
//! Blocks of 64 bytes are classified at once ([`block`]): the first digit of each run, and the few
//! bytes without which no key or address can be (`@`, `:`, `_` …), are looked at more closely; all
//! others never again. What is found there is validated on the spot. Nothing is allocated until
//! something is found.

mod block;
mod checks;
mod forms;
mod number;
mod phone;
#[cfg(test)]
mod tests;
mod tokens;
mod words;

use std::sync::Arc;

use block::{ANCHORS, BLOCK};
use forms::{FORMS, Form, Shape};

use super::{Detector, Fired, HashKey, MAX_DETECT, MaskId, REDACTED, Transform, text};

/// The shortest text that any detector finds something in.
const SHORTEST: usize = 5;

/// The detectors in use, and what each does.
#[derive(Debug, Default)]
pub(super) struct Rules {
    key: Option<Arc<HashKey>>,
    /// By the detector's place in the enumeration.
    actions: Vec<Option<(MaskId, Transform)>>,
    /// Bits of the detectors in use.
    active: u64,
    /// Bits of those that were asked for by their own name.
    named: u64,
    /// For the length of a run, bits of the lengths of the next one (0 for none) that are part of a
    /// form in use.
    starts: [u32; forms::LONGEST + 1],
    /// The forms in use.
    forms: Vec<(Shape, &'static Form)>,
    anchors: [u8; ANCHORS],
    /// All ones when digits matter, else zero.
    digits: u64,
}

/// Something found in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) end: usize,
    detector: Detector,
}

/// One value being looked through.
pub(super) struct Scan<'a> {
    rules: &'a Rules,
    value: &'a [u8],
    hits: Vec<Hit>,
    /// Digits before this have been dealt with; and the same for what colons, PEM lines and JWTs start.
    resume: usize,
    colon_until: usize,
    pem_until: usize,
    jwt_until: usize,
}

const fn bit(detector: Detector) -> u64 {
    1 << detector as u32
}

// === impl Hit ===

impl Hit {
    /// The part of it from `start` to `end`.
    pub(super) fn within(self, start: usize, end: usize) -> Self {
        Self { start: self.start.max(start), end: self.end.min(end), ..self }
    }

    /// All from `start` to `end` instead.
    pub(super) fn stretched(self, start: usize, end: usize) -> Self {
        Self { start, end, ..self }
    }
}

// === impl Rules ===

impl Rules {
    pub(super) fn new(detectors: &[(MaskId, Detector, Transform)], key: &Arc<HashKey>) -> Self {
        let mut rules =
            Self { key: Some(Arc::clone(key)), actions: vec![None; Detector::ALL.len()], ..Self::default() };
        for (id, asked, transform) in detectors {
            rules.named |= bit(*asked);
            for detector in asked.members() {
                rules.active |= bit(detector);
                if let Some(action) = rules.actions.get_mut(detector as usize)
                    && action.is_none_or(|(_, before)| *transform > before)
                {
                    *action = Some((*id, *transform));
                }
            }
        }
        for form in FORMS {
            if !rules.uses(form) {
                continue;
            }
            rules.forms.push((Shape::of(form.lengths), form));
            let mut lengths = form.lengths.iter().copied();
            let (first, next) = (lengths.next().unwrap_or(0), lengths.next().unwrap_or(0));
            if let Some(nexts) = rules.starts.get_mut(usize::from(first)) {
                *nexts |= 1 << next;
            }
        }
        let number = |d: Detector| {
            d.is_national_id()
                || matches!(
                    d,
                    Detector::PaymentCard
                        | Detector::Phone
                        | Detector::Iban
                        | Detector::UsSsn
                        | Detector::IpAddress
                )
        };
        if Detector::ALL.iter().any(|(d, _)| number(*d) && rules.on(*d)) {
            rules.digits = u64::MAX;
        }
        let any = |detectors: &[Detector]| detectors.iter().any(|d| rules.on(*d));
        let anchors = [
            (b'@', any(&[Detector::Email])),
            (
                b':',
                any(&[
                    Detector::IpAddress,
                    Detector::UrlPassword,
                    Detector::SlackToken,
                    Detector::AwsSecretKey,
                ]),
            ),
            (b'=', any(&[Detector::UrlPassword, Detector::AwsSecretKey])),
            (b'_', any(&[Detector::GithubToken, Detector::StripeKey])),
            (
                b'-',
                any(&[
                    Detector::PrivateKey,
                    Detector::GitlabToken,
                    Detector::SlackToken,
                    Detector::GoogleApiKey,
                ]),
            ),
            (b'I', any(&[Detector::AwsAccessKey, Detector::GoogleApiKey])),
            (b'J', any(&[Detector::Jwt])),
        ];
        // A byte that is not looked for repeats one that is; with none left, one that nothing is done at.
        let spare = anchors.iter().find(|(_, used)| *used).map_or(0, |(byte, _)| *byte);
        rules.anchors = anchors.map(|(byte, used)| if used { byte } else { spare });
        rules
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active == 0
    }

    pub(super) fn on(&self, detector: Detector) -> bool {
        self.active & bit(detector) != 0
    }

    fn uses(&self, form: &Form) -> bool {
        (if form.weak { self.named } else { self.active }) & bit(form.detector) != 0
    }

    /// Some form in use starts with runs of these lengths (`next` 0 for none), or with the first alone.
    #[inline]
    fn may_start(&self, length: u8, next: u8) -> bool {
        let nexts = self.starts.get(usize::from(length)).copied().unwrap_or(0);
        nexts & (1 | 1 << next) != 0
    }

    /// Everything found in a value, from left to right and apart from one another. Empty for one
    /// that is too long to be looked through.
    pub(super) fn find(&self, value: &[u8]) -> Vec<Hit> {
        if self.active == 0 || value.len() < SHORTEST || value.len() > MAX_DETECT {
            return Vec::new();
        }
        let mut scan = Scan {
            rules: self,
            value,
            hits: Vec::new(),
            resume: 0,
            colon_until: 0,
            pem_until: 0,
            jwt_until: 0,
        };
        scan.look();
        let mut hits = scan.hits;
        if hits.len() > 1 {
            self.merge(&mut hits);
        }
        hits
    }

    /// Orders the hits; of those that overlap one is made, under the strictest transformation.
    fn merge(&self, hits: &mut Vec<Hit>) {
        hits.sort_unstable_by_key(|hit| hit.start);
        hits.dedup_by(|next, kept| {
            let overlaps = next.start < kept.end;
            if overlaps {
                kept.end = kept.end.max(next.end);
                if self.transform(*next) > self.transform(*kept) {
                    kept.detector = next.detector;
                }
            }
            overlaps
        });
    }

    fn action(&self, hit: Hit) -> (MaskId, Transform) {
        let action = self.actions.get(hit.detector as usize).copied().flatten();
        action.unwrap_or((MaskId(0), Transform::Redact))
    }

    fn transform(&self, hit: Hit) -> Transform {
        self.action(hit).1
    }

    /// Notes the masks behind these hits; gives the strictest of their transformations.
    pub(super) fn note(&self, hits: &[Hit], fired: &mut Fired) -> Option<Transform> {
        let mut strictest = None;
        for (id, transform) in hits.iter().map(|hit| self.action(*hit)) {
            fired.insert(id);
            strictest = strictest.max(Some(transform));
        }
        strictest
    }

    /// Notes the mask behind one detector, and gives its transformation.
    pub(super) fn note_one(&self, detector: Detector, fired: &mut Fired) -> Transform {
        let (id, transform) = self.action(Hit { start: 0, end: 0, detector });
        fired.insert(id);
        transform
    }

    /// Notes all masks on values: for a value that cannot be looked through.
    pub(super) fn note_all(&self, fired: &mut Fired) {
        self.actions.iter().flatten().for_each(|(id, _)| fired.insert(*id));
    }

    /// Writes the masked form of one hit.
    pub(super) fn write(&self, hit: Hit, value: &[u8], out: &mut Vec<u8>) {
        let found = value.get(hit.start..hit.end).unwrap_or_default();
        match &self.key {
            Some(key) => text::write(self.transform(hit), key, found, out),
            None => out.extend_from_slice(REDACTED.as_bytes()),
        }
    }

    /// The key of keyed hashes.
    pub(super) fn key(&self) -> Option<&HashKey> {
        self.key.as_deref()
    }

    /// Masks a text: see [`MaskSet::detect`](super::MaskSet::detect). Gives the strictest
    /// transformation of all that was found.
    pub(super) fn mask(&self, value: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> Option<Transform> {
        if value.len() > MAX_DETECT && self.active != 0 {
            self.note_all(fired);
            out.extend_from_slice(REDACTED.as_bytes());
            return Some(Transform::Redact);
        }
        let hits = self.find(value);
        let strictest = self.note(&hits, fired)?;
        let mut done = 0;
        for hit in hits {
            out.extend_from_slice(value.get(done..hit.start).unwrap_or_default());
            self.write(hit, value, out);
            done = hit.end;
        }
        out.extend_from_slice(value.get(done..).unwrap_or_default());
        Some(strictest)
    }
}

// === impl Scan ===

impl Scan<'_> {
    fn look(&mut self) {
        let mut digit_before = 0;
        let value = self.value;
        let (blocks, tail) = value.as_chunks::<BLOCK>();
        let mut at = 0;
        for block in blocks {
            digit_before = self.block(at, block, BLOCK, digit_before);
            at += BLOCK;
        }
        if !tail.is_empty() {
            let mut block = [0; BLOCK];
            if let Some(start) = block.get_mut(..tail.len()) {
                start.copy_from_slice(tail);
            }
            self.block(at, &block, tail.len(), digit_before);
        }
    }

    /// Looks at one block; gives 1 when its last byte is a digit.
    #[inline]
    fn block(&mut self, base: usize, block: &[u8; BLOCK], length: usize, digit_before: u64) -> u64 {
        let bits = block::classify(block, length, &self.rules.anchors);
        let after_digit = bits.digits << 1 | digit_before;
        let mut runs = bits.digits & !after_digit & self.rules.digits;
        if self.resume > base {
            // The digits that a number before the block's start took along.
            let taken = self.resume - base;
            runs = if taken < BLOCK { runs & (u64::MAX << taken) } else { 0 };
        }
        // Dashes behind digits are those of days, UUIDs and the like.
        let mut look = runs | (bits.anchors & !(bits.dashes & after_digit));
        while look != 0 {
            let at = base + look.trailing_zeros() as usize;
            look &= look - 1;
            match self.byte(at) {
                b'0'..=b'9' if at >= self.resume => {
                    self.number(at);
                }
                b'@' => self.email(at),
                b':' => self.colon(at),
                b'=' => self.named_secret(at),
                b'_' => self.underscore(at),
                b'-' => self.dash(at),
                b'I' => self.capital_i(at),
                b'J' => self.jwt(at),
                _ => {}
            }
        }
        bits.digits >> (BLOCK - 1)
    }

    #[inline]
    fn on(&self, detector: Detector) -> bool {
        self.rules.on(detector)
    }

    /// The byte at `at`; 0 beyond the end.
    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.value.get(at).copied().unwrap_or(0)
    }

    /// The byte before `at`; 0 at the start.
    #[inline]
    fn byte_before(&self, at: usize) -> u8 {
        at.checked_sub(1).map_or(0, |at| self.byte(at))
    }

    /// The letter before `at` belongs to an escape such as `\n`, in JSON or SQL.
    fn escaped(&self, at: usize) -> bool {
        at >= 2 && self.byte(at - 2) == b'\\' && b"nrtbfv".contains(&self.byte(at - 1))
    }

    /// Where the letters and digits from `at` on end.
    fn word_end(&self, at: usize) -> usize {
        let rest = self.value.get(at..).unwrap_or_default();
        at + rest.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(rest.len())
    }

    fn hit(&mut self, detector: Detector, start: usize, end: usize) {
        self.hits.push(Hit { start, end, detector });
    }
}
