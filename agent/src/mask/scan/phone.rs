//! Phone numbers.

use super::number::{Group, Sep};

/// Most digits of an international number, country code included (ITU-T E.164).
const LONGEST: usize = 15;

/// The shortest and longest national number behind each country code of one or two digits, as the
/// ITU's national numbering plans give them; those of three digits vary little.
const COUNTRIES: &[(u16, u8, u8)] = &[
    (1, 10, 10),
    (7, 10, 10),
    (20, 8, 10),
    (27, 9, 9),
    (30, 10, 10),
    (31, 9, 9),
    (32, 8, 9),
    (33, 9, 9),
    (34, 9, 9),
    (36, 8, 9),
    (39, 8, 11),
    (40, 9, 9),
    (41, 9, 9),
    (43, 7, 12),
    (44, 9, 10),
    (45, 8, 8),
    (46, 7, 10),
    (47, 8, 8),
    (48, 9, 9),
    (49, 7, 12),
    (51, 8, 9),
    (52, 10, 11),
    (53, 7, 8),
    (54, 10, 11),
    (55, 10, 11),
    (56, 9, 9),
    (57, 8, 10),
    (58, 10, 10),
    (60, 8, 10),
    (61, 9, 9),
    (62, 8, 12),
    (63, 8, 10),
    (64, 8, 10),
    (65, 8, 8),
    (66, 8, 9),
    (81, 9, 10),
    (82, 8, 10),
    (84, 9, 10),
    (86, 10, 11),
    (90, 10, 10),
    (91, 10, 10),
    (92, 9, 10),
    (93, 9, 9),
    (94, 9, 9),
    (95, 7, 10),
    (98, 10, 10),
];

/// A phone number that starts with run `first` of the group: how many runs it takes, and how many
/// bytes before the first run belong to it.
pub(super) fn find(group: &Group<'_>, first: usize) -> Option<(usize, usize)> {
    let before = group.byte_before(first);
    if before == b'+' {
        return international(group, first, 0).map(|runs| (runs, 1));
    }
    if group.lengths(first).len() < 2 {
        return None;
    }
    let run = group.run(first)?;
    let bracketed = before == b'(' && group.separator(first + 1) == Sep::BRACKET;
    let lead = usize::from(bracketed);
    let digits = group.digits_of(first);
    if digits.starts_with(b"00") {
        // The international prefix of most countries; without a separator too many counters look so.
        return international(group, first, 2).filter(|runs| *runs > 1).map(|runs| (runs, lead));
    }
    // The commonest shapes of all, a day and a single number, are none of these.
    let lengths = group.lengths(first);
    let seps = |n: usize| group.same_separator(first, n);
    let spaced = |n: usize, allowed: &[u8]| seps(n).is_some_and(|sep| allowed.contains(&sep));
    let national = match lengths {
        // North America: (415) 555-2671, 415-555-2671, 1-415-555-2671.
        [3, 3, 4, ..] if north_america(digits, group.digits_of(first + 1)) => {
            bracketed.then_some(3).or_else(|| spaced(3, b"-. ").then_some(3))
        }
        [1, 3, 3, 4, ..]
            if digits == b"1" && north_america(group.digits_of(first + 1), group.digits_of(first + 2)) =>
        {
            Some(4)
        }
        // Brazil: (11) 91234-5678.
        [2, 4 | 5, 4, ..] if bracketed => Some(3),
        // Russia: 8 (495) 123-45-67.
        [1, 3, 3, 2, 2, ..]
            if matches!(digits, b"7" | b"8") && group.separator(first + 1) == Sep::BRACKET =>
        {
            Some(5)
        }
        // Chinese mobile numbers: 138 1234 5678.
        [3, 4, 4, ..] if matches!(digits, [b'1', b'3'..=b'9', _]) && spaced(3, b"- ") => Some(3),
        // Indian mobile numbers: 98765 43210.
        [5, 5, ..] if matches!(digits, [b'6'..=b'9', ..]) && spaced(2, b"- ") => Some(2),
        _ => None,
    };
    if let Some(runs) = national {
        return group.apart(first, runs, true).then_some((runs, lead));
    }
    // Nearly everywhere else a 0 leads to another area, and area and number stand apart.
    if !matches!(digits, [b'0', b'1'..=b'9', ..]) || run.len() > 5 {
        return None;
    }
    let mut total = run.len();
    let mut best = None;
    for (count, length) in lengths.iter().enumerate().skip(1) {
        total += usize::from(*length);
        if total > 11 {
            break;
        }
        let separated = match group.separator(first + 1) {
            // 030/1234567, (030) 1234 567
            b'/' | Sep::BRACKET => count == 1 || group.same_separator(first + 1, count).is_some(),
            _ => spaced(count + 1, b" -."),
        };
        // Two digits at a time is how lists, days and times look too; five such pairs are French.
        let pairs = lengths.iter().take(count + 1).all(|l| *l == 2);
        if separated && total >= 9 && (!pairs || count == 4) && group.apart(first, count + 1, true) {
            best = Some(count + 1);
        }
    }
    best.map(|runs| (runs, lead))
}

/// Area code and exchange of the North American Numbering Plan: neither starts with 0 or 1, none
/// ends in 11.
fn north_america(area: &[u8], exchange: &[u8]) -> bool {
    [area, exchange]
        .iter()
        .all(|code| matches!(code, [b'2'..=b'9', rest @ ..] if rest.len() == 2 && rest != b"11"))
}

/// The most runs from `first` that make up an international number, `skip` digits left out.
fn international(group: &Group<'_>, first: usize, skip: usize) -> Option<usize> {
    let mut digits = [0u8; LONGEST];
    let mut total = 0;
    let mut best = None;
    for count in 0..group.lengths(first).len() {
        let run = group.digits_of(first + count);
        let run = if count == 0 { run.get(skip..)? } else { run };
        // The trunk 0 in brackets is not dialled: +44 (0)20 7946 0958.
        if count > 0 && run == b"0" {
            continue;
        }
        let Some(place) = digits.get_mut(total..total + run.len()) else { break };
        place.copy_from_slice(run);
        total += run.len();
        if digits.get(..total).is_some_and(e164) {
            best = Some(count + 1);
        }
    }
    best
}

/// A country code that is assigned and as many digits behind it as that country uses.
fn e164(digits: &[u8]) -> bool {
    let value = |n: usize| digits.get(..n).map(|d| d.iter().fold(0u16, |v, d| v * 10 + u16::from(d - b'0')));
    for width in 1..=2 {
        let known = COUNTRIES.iter().find(|(code, ..)| value(width) == Some(*code));
        if let Some((code, shortest, longest)) = known {
            let national = digits.get(width..).unwrap_or_default();
            let starts = match code {
                1 => north_america(
                    national.get(..3).unwrap_or_default(),
                    national.get(3..6).unwrap_or_default(),
                ),
                39 => true,
                _ => !national.starts_with(b"0"),
            };
            return starts && (usize::from(*shortest)..=usize::from(*longest)).contains(&national.len());
        }
    }
    let three = value(3).is_some_and(|code| {
        matches!(code,
            210..=269 | 290..=299 | 350..=359 | 370..=389 | 420..=423 | 500..=509 | 590..=599
            | 670..=692 | 800 | 808 | 850..=856 | 870 | 880..=888 | 960..=979 | 992..=998)
    });
    three && (9..=13).contains(&digits.len())
}
