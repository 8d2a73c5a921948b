//! The forms that numbers are written in: lengths of the runs of digits, what stands between them,
//! and the check over all digits.

use super::checks;
use crate::mask::Detector;

/// Longest run of digits that is part of any form.
pub(super) const LONGEST: usize = 19;

/// One way to write a number.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) detector: Detector,
    /// Digits in each run.
    pub(super) lengths: &'static [u8],
    pub(super) separators: Separators,
    pub(super) check: fn(&[u8]) -> bool,
    /// Bare digits with a check that one number in ten passes: not for the umbrella detector.
    pub(super) weak: bool,
}

/// What stands between the runs.
#[derive(Debug)]
pub(super) enum Separators {
    /// The same one of these throughout.
    OneOf(&'static [u8]),
    /// Exactly these.
    Exactly(&'static [u8]),
}

/// The lengths of up to twelve runs in one word, five bits each: compared at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    lengths: u64,
    mask: u64,
}

impl Shape {
    const BITS: usize = 5;

    #[inline]
    pub(super) fn of(lengths: &[u8]) -> Self {
        let packed =
            lengths.iter().take(12).rev().fold(0, |packed, length| packed << Self::BITS | u64::from(*length));
        Self { lengths: packed, mask: (1 << (lengths.len().min(12) * Self::BITS)) - 1 }
    }

    /// The other one starts with these lengths.
    #[inline]
    pub(super) fn leads(self, other: Self) -> bool {
        other.lengths & self.mask == self.lengths
    }
}

const fn bare(detector: Detector, length: &'static [u8], check: fn(&[u8]) -> bool) -> Form {
    Form { detector, lengths: length, separators: Separators::Exactly(b""), check, weak: false }
}

const fn weak(detector: Detector, length: &'static [u8], check: fn(&[u8]) -> bool) -> Form {
    Form { detector, lengths: length, separators: Separators::Exactly(b""), check, weak: true }
}

const fn one_of(
    detector: Detector,
    lengths: &'static [u8],
    separators: &'static [u8],
    check: fn(&[u8]) -> bool,
) -> Form {
    Form { detector, lengths, separators: Separators::OneOf(separators), check, weak: false }
}

const fn exactly(
    detector: Detector,
    lengths: &'static [u8],
    separators: &'static [u8],
    check: fn(&[u8]) -> bool,
) -> Form {
    Form { detector, lengths, separators: Separators::Exactly(separators), check, weak: false }
}

fn cl_rut(digits: &[u8]) -> bool {
    matches!(digits, [number @ .., check] if checks::cl_rut(number) == u32::from(*check))
}

/// With a check character that happens to be a digit.
fn fi_hetu(digits: &[u8]) -> bool {
    matches!(digits, [number @ .., check] if checks::fi_character(number) == Some(check + b'0'))
}

fn cn_resident_id(digits: &[u8]) -> bool {
    matches!(digits, [number @ .., check] if checks::cn_resident_id(number, u32::from(*check)))
}

/// The groupings that card numbers are printed in.
const CARD: &[u8] = b" -.";

pub(super) const FORMS: &[Form] = &[
    bare(Detector::PaymentCard, &[12], checks::payment_card),
    bare(Detector::PaymentCard, &[13], checks::payment_card),
    bare(Detector::PaymentCard, &[14], checks::payment_card),
    bare(Detector::PaymentCard, &[15], checks::payment_card),
    bare(Detector::PaymentCard, &[16], checks::payment_card),
    bare(Detector::PaymentCard, &[17], checks::payment_card),
    bare(Detector::PaymentCard, &[18], checks::payment_card),
    bare(Detector::PaymentCard, &[19], checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 4, 4, 4, 3], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 4, 4, 4, 2], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 4, 4, 4], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 6, 5], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 6, 4], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 4, 4, 1], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 4, 4, 2], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 4, 4, 3], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[4, 4, 5], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[6, 13], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[6, 10], CARD, checks::payment_card),
    one_of(Detector::PaymentCard, &[8, 8], CARD, checks::payment_card),
    one_of(Detector::UsSsn, &[3, 2, 4], b" -.", checks::us_ssn),
    bare(Detector::FrNir, &[15], checks::fr_nir),
    one_of(Detector::FrNir, &[13, 2], b" -", checks::fr_nir),
    one_of(Detector::FrNir, &[1, 2, 2, 2, 3, 3, 2], b" -.", checks::fr_nir),
    bare(Detector::DeSteuerId, &[11], checks::de_steuer_id),
    one_of(Detector::DeSteuerId, &[2, 3, 3, 3], b" /", checks::de_steuer_id),
    weak(Detector::UkNhs, &[10], checks::uk_nhs),
    one_of(Detector::UkNhs, &[3, 3, 4], b" -", checks::uk_nhs),
    weak(Detector::NlBsn, &[9], checks::nl_bsn),
    one_of(Detector::NlBsn, &[4, 2, 3], b". -", checks::nl_bsn),
    bare(Detector::BeNrn, &[11], checks::be_nrn),
    exactly(Detector::BeNrn, &[2, 2, 2, 3, 2], b"..-.", checks::be_nrn),
    one_of(Detector::BeNrn, &[2, 2, 2, 3, 2], b" .-", checks::be_nrn),
    exactly(Detector::BeNrn, &[6, 3, 2], b"-.", checks::be_nrn),
    bare(Detector::SePersonnummer, &[10], checks::se_personnummer),
    bare(Detector::SePersonnummer, &[12], checks::se_personnummer),
    one_of(Detector::SePersonnummer, &[6, 4], b"-", checks::se_personnummer),
    one_of(Detector::SePersonnummer, &[8, 4], b"-", checks::se_personnummer),
    one_of(Detector::FiHetu, &[6, 4], b"-", fi_hetu),
    bare(Detector::NoFodselsnummer, &[11], checks::no_fodselsnummer),
    one_of(Detector::NoFodselsnummer, &[6, 5], b" -", checks::no_fodselsnummer),
    weak(Detector::DkCpr, &[10], checks::dk_cpr),
    one_of(Detector::DkCpr, &[6, 4], b"- ", checks::dk_cpr),
    bare(Detector::PlPesel, &[11], checks::pl_pesel),
    weak(Detector::PtNif, &[9], checks::pt_nif),
    one_of(Detector::PtNif, &[3, 3, 3], b" .", checks::pt_nif),
    bare(Detector::RoCnp, &[13], checks::ro_cnp),
    bare(Detector::BgEgn, &[10], checks::bg_egn),
    weak(Detector::CzRodneCislo, &[10], checks::cz_rodne_cislo),
    one_of(Detector::CzRodneCislo, &[6, 4], b"/", checks::cz_rodne_cislo),
    bare(Detector::ChAhv, &[13], checks::ch_ahv),
    one_of(Detector::ChAhv, &[3, 4, 4, 2], b". -", checks::ch_ahv),
    bare(Detector::TrTckn, &[11], checks::tr_tckn),
    bare(Detector::BrCpf, &[11], checks::br_cpf),
    exactly(Detector::BrCpf, &[3, 3, 3, 2], b"..-", checks::br_cpf),
    exactly(Detector::BrCpf, &[9, 2], b"-", checks::br_cpf),
    bare(Detector::BrCnpj, &[14], checks::br_cnpj),
    exactly(Detector::BrCnpj, &[2, 3, 3, 4, 2], b"../-", checks::br_cnpj),
    exactly(Detector::ClRut, &[2, 3, 3, 1], b"..-", cl_rut),
    exactly(Detector::ClRut, &[1, 3, 3, 1], b"..-", cl_rut),
    exactly(Detector::ClRut, &[8, 1], b"-", cl_rut),
    exactly(Detector::ClRut, &[7, 1], b"-", cl_rut),
    weak(Detector::InAadhaar, &[12], checks::in_aadhaar),
    one_of(Detector::InAadhaar, &[4, 4, 4], b" -", checks::in_aadhaar),
    weak(Detector::CaSin, &[9], checks::ca_sin),
    one_of(Detector::CaSin, &[3, 3, 3], b" -", checks::ca_sin),
    weak(Detector::AuTfn, &[9], checks::au_tfn),
    one_of(Detector::AuTfn, &[3, 3, 3], b" ", checks::au_tfn),
    bare(Detector::ZaId, &[13], checks::za_id),
    one_of(Detector::ZaId, &[6, 4, 3], b" ", checks::za_id),
    one_of(Detector::ZaId, &[6, 4, 2, 1], b" ", checks::za_id),
    bare(Detector::CnResidentId, &[18], cn_resident_id),
    one_of(Detector::KrRrn, &[6, 7], b"-", checks::kr_rrn_dated),
    bare(Detector::KrRrn, &[13], checks::kr_rrn),
];
