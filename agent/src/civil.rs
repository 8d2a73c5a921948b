//! Days and dates of the proleptic Gregorian calendar, in which year 0 is 1 BC, over all years that
//! databases know (H. Hinnant, "chrono-compatible low-level date algorithms": eras of 400 years that begin
//! in March).

/// Year, month and day of a day counted from 1970-01-01.
pub(crate) fn date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month < 3), month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// The inverse of [`date`].
pub(crate) fn day(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month < 3);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_days() {
        for (number, known) in
            [(0, (1970, 1, 1)), (-1, (1969, 12, 31)), (11_016, (2000, 2, 29)), (-719_528, (0, 1, 1))]
        {
            assert_eq!(date(number), known);
        }
    }

    proptest! {
        #[test]
        fn there_and_back(number in -2_500_000_i64..110_000_000) {
            let (year, month, of_month) = date(number);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
            prop_assert_eq!(day(year, month, of_month), number);
        }
    }
}
