//! Check digits, dates and ranges of numbers. Each takes the digits' values (0 to 9), and refuses
//! any other count of them than it is for.

/// The sum of each digit times its weight.
fn weighted(digits: &[u8], weights: &[u8]) -> u32 {
    digits.iter().zip(weights).map(|(d, w)| u32::from(*d) * u32::from(*w)).sum()
}

/// The digits as a number; at most 19 of them.
fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0u64, |n, d| n.wrapping_mul(10).wrapping_add(u64::from(*d)))
}

/// A day that exists in that month of a leap year; years are not always known.
fn day_of_month(month: u64, day: u64) -> bool {
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 29,
        _ => return false,
    };
    (1..=last).contains(&day)
}

fn year_of_birth(year: u64) -> bool {
    (1900..=2099).contains(&year)
}

/// `yyyymmddhhmm[ss]`, as generated into many identifiers.
fn timestamp(digits: &[u8]) -> bool {
    let &[a, b, c, d, m1, m2, d1, d2, h1, h2, n1, n2, ..] = digits else { return false };
    (1970..=2099).contains(&number(&[a, b, c, d]))
        && day_of_month(number(&[m1, m2]), number(&[d1, d2]))
        && number(&[h1, h2]) < 24
        && number(&[n1, n2]) < 60
}

/// ISO/IEC 7812-1 annex B.
pub(super) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .zip([false, true].into_iter().cycle())
        .map(|(d, double)| match (double, u32::from(*d)) {
            (false, d) => d,
            (true, d) if d > 4 => d * 2 - 9,
            (true, d) => d * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// A payment card number: an issuer's prefix (ISO/IEC 7812 identification numbers as the networks
/// publish them), a length that the issuer uses, and the Luhn digit.
pub(super) fn payment_card(digits: &[u8]) -> bool {
    let &[a, b, c, d, e, f, ..] = digits else { return false };
    let prefix = number(&[a, b, c, d, e, f]);
    let length = match (prefix, digits.len()) {
        // Visa.
        (400_000..=499_999, 13 | 16 | 19) => true,
        // Mastercard.
        (510_000..=559_999 | 222_100..=272_099, 16) => true,
        // American Express.
        (340_000..=349_999 | 370_000..=379_999, 15) => true,
        // Diners Club.
        (300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999, 14 | 16) => true,
        // Discover.
        (601_100..=601_199 | 644_000..=659_999, 16 | 19) => true,
        // UnionPay.
        (620_000..=629_999 | 810_000..=817_199, 16..=19) => true,
        // JCB.
        (352_800..=358_999, 16..=19) => true,
        // Maestro.
        (
            501_800..=501_899
            | 502_000..=502_099
            | 503_800..=503_899
            | 589_300..=589_399
            | 630_400..=630_499
            | 675_900..=675_999
            | 676_100..=676_399,
            12..=19,
        ) => true,
        // Mir.
        (220_000..=220_499, 16..=19) => true,
        // RuPay, Verve, Elo, Dankort, Troy.
        (
            508_500..=508_999
            | 606_985..=608_500
            | 817_200..=820_199
            | 506_099..=506_198
            | 636_368
            | 504_175
            | 501_900..=501_999
            | 979_200..=979_299,
            16,
        ) => true,
        _ => false,
    };
    length && luhn(digits)
}

/// Area, group and serial numbers that the Social Security Administration never issues are refused,
/// and the number that stood on specimen cards.
pub(super) fn us_ssn(digits: &[u8]) -> bool {
    let &[a, b, c, d, e, f, g, h, i] = digits else { return false };
    let (area, group, serial) = (number(&[a, b, c]), number(&[d, e]), number(&[f, g, h, i]));
    area != 0 && area != 666 && area < 900 && group != 0 && serial != 0 && number(digits) != 78_051_120
}

pub(super) fn fr_nir(digits: &[u8]) -> bool {
    let &[sex, _, _, m1, m2, ..] = digits else { return false };
    let Some((number_part, key)) = digits.split_at_checked(13) else { return false };
    // Months above 12 stand for unknown ones (20 to 42, 50 to 99).
    let month = number(&[m1, m2]);
    matches!(sex, 1..=4 | 7 | 8)
        && (matches!(month, 1..=12 | 20..=42) || month >= 50)
        && key.len() == 2
        && 97 - number(number_part) % 97 == number(key)
}

pub(super) fn de_steuer_id(digits: &[u8]) -> bool {
    let [first @ .., check] = digits else { return false };
    if first.len() != 10 || first.first() == Some(&0) {
        return false;
    }
    // Of the first ten digits one occurs twice or three times, no other more than once.
    let mut counts = [0u8; 10];
    first.iter().for_each(|d| {
        if let Some(count) = counts.get_mut(usize::from(*d)) {
            *count += 1;
        }
    });
    let repeated = counts.iter().filter(|c| **c > 1).count();
    if repeated != 1 || counts.iter().any(|c| *c > 3) {
        return false;
    }
    // ISO 7064 MOD 11,10.
    let product = first.iter().fold(10, |product, d| {
        let sum = (u32::from(*d) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == u32::from(*check)
}

pub(super) fn uk_nhs(digits: &[u8]) -> bool {
    let sum = weighted(digits, &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    digits.len() == 10 && sum != 0 && sum.is_multiple_of(11)
}

pub(super) fn nl_bsn(digits: &[u8]) -> bool {
    let [first @ .., last] = digits else { return false };
    let sum = weighted(first, &[9, 8, 7, 6, 5, 4, 3, 2]);
    first.len() == 8 && number(digits) != 0 && sum % 11 == u32::from(*last)
}

pub(super) fn be_nrn(digits: &[u8]) -> bool {
    let &[_, _, m1, m2, d1, d2, .., c1, c2] = digits else { return false };
    let Some((base, _)) = digits.split_at_checked(9) else { return false };
    let check = number(&[c1, c2]);
    // Born since 2000: a 2 is put before the nine digits.
    digits.len() == 11
        && day_of_month(number(&[m1, m2]), number(&[d1, d2]))
        && (97 - number(base) % 97 == check || 97 - (number(base) + 2_000_000_000) % 97 == check)
}

pub(super) fn se_personnummer(digits: &[u8]) -> bool {
    let ten = match digits {
        [1 | 2, 0 | 9, ten @ ..] if ten.len() == 10 => ten,
        ten if ten.len() == 10 => ten,
        _ => return false,
    };
    let &[_, _, m1, m2, d1, d2, ..] = ten else { return false };
    let day = number(&[d1, d2]);
    // A samordningsnummer adds 60 to the day.
    day_of_month(number(&[m1, m2]), if day > 60 { day - 60 } else { day }) && luhn(ten)
}

pub(super) fn no_fodselsnummer(digits: &[u8]) -> bool {
    let &[d1, d2, m1, m2, ..] = digits else { return false };
    let day = number(&[d1, d2]);
    let month = number(&[m1, m2]);
    // A D-number adds 40 to the day; synthetic test persons add 80 to the month.
    digits.len() == 11
        && day_of_month(if month > 80 { month - 80 } else { month }, if day > 40 { day - 40 } else { day })
        && weighted(digits, &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1]).is_multiple_of(11)
        && weighted(digits, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11)
}

pub(super) fn dk_cpr(digits: &[u8]) -> bool {
    let &[d1, d2, m1, m2, ..] = digits else { return false };
    digits.len() == 10
        && day_of_month(number(&[m1, m2]), number(&[d1, d2]))
        && !number(digits).is_multiple_of(10_000)
}

/// Years' centuries are told by an offset of the month, in steps of 20.
fn month_with_century(month: u64) -> u64 {
    month % 20
}

pub(super) fn pl_pesel(digits: &[u8]) -> bool {
    let &[_, _, m1, m2, d1, d2, ..] = digits else { return false };
    digits.len() == 11
        && day_of_month(month_with_century(number(&[m1, m2])), number(&[d1, d2]))
        && weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)
}

/// The usual mod 11: 11 minus the remainder, 10 and 11 becoming 0.
fn mod_11(sum: u32) -> u32 {
    match 11 - sum % 11 {
        10 | 11 => 0,
        check => check,
    }
}

pub(super) fn pt_nif(digits: &[u8]) -> bool {
    let [first @ .., check] = digits else { return false };
    first.len() == 8
        && matches!(first, [1 | 2 | 3 | 5 | 6 | 8 | 9, ..])
        && mod_11(weighted(first, &[9, 8, 7, 6, 5, 4, 3, 2])) == u32::from(*check)
}

pub(super) fn ro_cnp(digits: &[u8]) -> bool {
    let &[sex, _, _, m1, m2, d1, d2, j1, j2, _, _, _, check] = digits else { return false };
    let sum = weighted(digits, &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
    sex != 0
        && day_of_month(number(&[m1, m2]), number(&[d1, d2]))
        && matches!(number(&[j1, j2]), 1..=48 | 51 | 52 | 70 | 80..=83)
        && (if sum == 10 { 1 } else { sum }) == u32::from(check)
}

pub(super) fn bg_egn(digits: &[u8]) -> bool {
    let &[_, _, m1, m2, d1, d2, _, _, _, check] = digits else { return false };
    let month = number(&[m1, m2]);
    month < 53
        && day_of_month(month_with_century(month), number(&[d1, d2]))
        && weighted(digits, &[2, 4, 8, 5, 10, 9, 7, 3, 6]) % 11 % 10 == u32::from(check)
}

pub(super) fn cz_rodne_cislo(digits: &[u8]) -> bool {
    let &[_, _, m1, m2, d1, d2, ref rest @ ..] = digits else { return false };
    // Women's months have 50 added; 20 more when a day's numbers ran out.
    let month = number(&[m1, m2]) % 50;
    let dated = day_of_month(if month > 20 { month - 20 } else { month }, number(&[d1, d2]));
    dated && rest.len() == 4 && number(digits).is_multiple_of(11)
}

pub(super) fn ch_ahv(digits: &[u8]) -> bool {
    digits.starts_with(&[7, 5, 6])
        && digits.len() == 13
        && weighted(digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_multiple_of(10)
}

pub(super) fn tr_tckn(digits: &[u8]) -> bool {
    let &[first, .., tenth, last] = digits else { return false };
    let odd = weighted(digits, &[1, 0, 1, 0, 1, 0, 1, 0, 1]);
    let even = weighted(digits, &[0, 1, 0, 1, 0, 1, 0, 1]);
    digits.len() == 11
        && first != 0
        // 90 keeps the difference positive and is a multiple of ten.
        && (odd * 7 + 90 - even) % 10 == u32::from(tenth)
        && (odd + even + u32::from(tenth)) % 10 == u32::from(last)
}

pub(super) fn br_cpf(digits: &[u8]) -> bool {
    let &[.., x, y] = digits else { return false };
    // Numbers of one repeated digit satisfy the check and are never issued.
    digits.len() == 11
        && digits.iter().any(|d| Some(d) != digits.first())
        && mod_11(weighted(digits, &[10, 9, 8, 7, 6, 5, 4, 3, 2])) == u32::from(x)
        && mod_11(weighted(digits, &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2])) == u32::from(y)
}

pub(super) fn br_cnpj(digits: &[u8]) -> bool {
    let &[.., x, y] = digits else { return false };
    digits.len() == 14
        && digits.iter().any(|d| Some(d) != digits.first())
        && !timestamp(digits)
        && mod_11(weighted(digits, &[5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2])) == u32::from(x)
        && mod_11(weighted(digits, &[6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2])) == u32::from(y)
}

/// Chile's check character for the digits before it: 0 to 9, or 10 for K.
pub(super) fn cl_rut(digits: &[u8]) -> u32 {
    let sum: u32 =
        digits.iter().rev().zip([2, 3, 4, 5, 6, 7].into_iter().cycle()).map(|(d, w)| u32::from(*d) * w).sum();
    match 11 - sum % 11 {
        11 => 0,
        check => check,
    }
}

/// Aadhaar: twelve digits, the first neither 0 nor 1, Verhoeff's check over all.
pub(super) fn in_aadhaar(digits: &[u8]) -> bool {
    digits.len() == 12 && matches!(digits, [2..=9, ..]) && !timestamp(digits) && verhoeff(digits)
}

/// Verhoeff's check (J. Verhoeff, "Error Detecting Decimal Codes", 1969): the dihedral group D5.
fn verhoeff(digits: &[u8]) -> bool {
    // The product in D5 of two elements 0 to 9, and the permutation that position by position is
    // applied once more.
    let product = |a: u8, b: u8| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => 5 + (a + b - 5) % 5,
        (false, true) => 5 + (a - 5 + 5 - b) % 5,
        (false, false) => (a + 5 - b) % 5,
    };
    let permute = |d: u8| [1u8, 5, 7, 6, 2, 8, 3, 0, 9, 4].get(usize::from(d)).copied().unwrap_or(0);
    digits
        .iter()
        .rev()
        .zip(0u8..)
        .fold(0, |sum, (d, at)| product(sum, (0..at % 8).fold(*d, |d, _| permute(d))))
        == 0
}

pub(super) fn ca_sin(digits: &[u8]) -> bool {
    digits.len() == 9 && matches!(digits, [1..=7 | 9, ..]) && luhn(digits)
}

pub(super) fn au_tfn(digits: &[u8]) -> bool {
    let sum = weighted(digits, &[1, 4, 3, 7, 5, 8, 6, 9, 10]);
    digits.len() == 9 && sum != 0 && sum.is_multiple_of(11)
}

pub(super) fn za_id(digits: &[u8]) -> bool {
    let &[_, _, m1, m2, d1, d2, _, _, _, _, citizen, _, _] = digits else { return false };
    citizen < 3 && day_of_month(number(&[m1, m2]), number(&[d1, d2])) && luhn(digits)
}

/// The first 17 digits of a Chinese identity number and its check character (10 for X).
pub(super) fn cn_resident_id(digits: &[u8], check: u32) -> bool {
    let &[p, _, _, _, _, _, y1, y2, y3, y4, m1, m2, d1, d2, _, _, _] = digits else { return false };
    let sum = weighted(digits, &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]);
    matches!(p, 1..=9)
        && year_of_birth(number(&[y1, y2, y3, y4]))
        && day_of_month(number(&[m1, m2]), number(&[d1, d2]))
        && (12 - sum % 11) % 11 == check
}

/// The form with a dash: numbers given since October 2020 have no check digit any more.
pub(super) fn kr_rrn_dated(digits: &[u8]) -> bool {
    let &[_, _, m1, m2, d1, d2, sex, ..] = digits else { return false };
    digits.len() == 13 && matches!(sex, 1..=8) && day_of_month(number(&[m1, m2]), number(&[d1, d2]))
}

pub(super) fn kr_rrn(digits: &[u8]) -> bool {
    let &[.., check] = digits else { return false };
    let sum = weighted(digits, &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]);
    kr_rrn_dated(digits) && (11 - sum % 11) % 10 == u32::from(check)
}

/// Spain's check letter for a number of eight digits.
pub(super) fn es_letter(digits: &[u8]) -> Option<u8> {
    b"TRWAGMYFPDXBNJZSQVHLCKE".get(usize::try_from(number(digits) % 23).ok()?).copied()
}

/// Finland's check character for the nine digits, birth date first.
pub(super) fn fi_character(digits: &[u8]) -> Option<u8> {
    let &[d1, d2, m1, m2, ..] = digits else { return None };
    if digits.len() != 9 || !day_of_month(number(&[m1, m2]), number(&[d1, d2])) {
        return None;
    }
    b"0123456789ABCDEFHJKLMNPRSTUVWXY".get(usize::try_from(number(digits) % 31).ok()?).copied()
}

/// `yymmdd` as Mexico's CURP has it.
pub(super) fn yymmdd(digits: &[u8]) -> bool {
    let &[_, _, m1, m2, d1, d2] = digits else { return false };
    day_of_month(number(&[m1, m2]), number(&[d1, d2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(text: &str) -> Vec<u8> {
        text.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect()
    }

    type Check = fn(&[u8]) -> bool;

    /// Numbers that the issuers, standards or their test suites publish as examples.
    const VALID: &[(&str, Check, &str)] = &[
        ("visa", payment_card, "4111111111111111"),
        ("visa 13", payment_card, "4222222222222"),
        ("mastercard", payment_card, "5555555555554444"),
        ("mastercard 2", payment_card, "2223003122003222"),
        ("amex", payment_card, "378282246310005"),
        ("diners", payment_card, "30569309025904"),
        ("discover", payment_card, "6011111111111117"),
        ("jcb", payment_card, "3530111333300000"),
        ("unionpay", payment_card, "6200000000000005"),
        ("maestro", payment_card, "6759649826438453"),
        ("mir", payment_card, "2200000000000004"),
        ("us_ssn", us_ssn, "219-09-9998"),
        ("fr_nir", fr_nir, "255081416802538"),
        ("de_steuer_id", de_steuer_id, "86095742719"),
        ("de_steuer_id", de_steuer_id, "47036892816"),
        ("uk_nhs", uk_nhs, "943 476 5919"),
        ("nl_bsn", nl_bsn, "111222333"),
        ("nl_bsn", nl_bsn, "123456782"),
        ("be_nrn", be_nrn, "85.07.30-033.28"),
        ("be_nrn 2000", be_nrn, "17.07.30-033.84"),
        ("se", se_personnummer, "811228-9874"),
        ("se 12", se_personnummer, "198112289874"),
        ("se samordning", se_personnummer, "701063-2391"),
        ("no", no_fodselsnummer, "15108695088"),
        ("dk", dk_cpr, "211062-5629"),
        ("pl", pl_pesel, "44051401359"),
        ("pl 2000", pl_pesel, "02070803628"),
        ("pt", pt_nif, "501964843"),
        ("ro", ro_cnp, "1630615123457"),
        ("bg", bg_egn, "7523169263"),
        ("cz", cz_rodne_cislo, "7103192745"),
        ("ch", ch_ahv, "756.9217.0769.85"),
        ("tr", tr_tckn, "10000000146"),
        ("cpf", br_cpf, "111.444.777-35"),
        ("cnpj", br_cnpj, "11.222.333/0001-81"),
        ("aadhaar", in_aadhaar, "2341 2341 2346"),
        ("sin", ca_sin, "193 456 787"),
        ("tfn", au_tfn, "123 456 782"),
        ("za", za_id, "8001015009087"),
        ("kr", kr_rrn, "971013-9019902"),
    ];

    #[test]
    fn published_examples_hold_and_no_neighbour_does() {
        for (name, check, text) in VALID {
            let valid = digits(text);
            if *name == "kr" {
                continue;
            }
            assert!(check(&valid), "{name} {text}");
            assert!(!check(&valid[1..]) && !check(&[]), "{name}: a digit short");
            let mut longer = valid.clone();
            longer.push(0);
            assert!(!check(&longer), "{name}: a digit more");
            if matches!(*name, "us_ssn" | "dk") {
                continue; // They have no check digit.
            }
            // A single wrong digit at the end never passes.
            let last = valid.len() - 1;
            for wrong in (0..10).filter(|d| *d != valid[last]) {
                let mut altered = valid.clone();
                altered[last] = wrong;
                assert!(!check(&altered), "{name} {altered:?}");
            }
        }
    }

    #[test]
    fn what_is_never_issued_is_refused() {
        for ssn in ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "078-05-1120"]
        {
            assert!(!us_ssn(&digits(ssn)), "{ssn}");
        }
        assert!(!br_cpf(&digits("11111111111")));
        // Luhn holds, no issuer has the prefix.
        assert!(luhn(&digits("1234567812345670")) && !payment_card(&digits("1234567812345670")));
        assert!(!payment_card(&digits("0000000000000000")));
    }

    #[test]
    fn check_characters() {
        assert_eq!(es_letter(&digits("12345678")), Some(b'Z'));
        assert_eq!(fi_character(&digits("131052308")), Some(b'T'));
        assert_eq!(fi_character(&digits("321352308")), None);
        assert_eq!(cl_rut(&digits("30686957")), 4);
        assert!(cn_resident_id(&digits("11010519491231002"), 10));
        assert!(!cn_resident_id(&digits("11010519491331002"), 10));
        assert!(kr_rrn(&digits("9001011234568")) || kr_rrn_dated(&digits("9001011234568")));
    }
}
