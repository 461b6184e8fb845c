//! Times as text, written without a formatter.

/// `2026-11-22T07:00:00Z` for seconds since 1970; none before that year and after 9999.
pub(super) fn of_seconds(seconds: i64) -> Option<[u8; 20]> {
    let seconds = u64::try_from(seconds).ok()?;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days)?;
    let mut text = *b"0000-00-00T00:00:00Z";
    for (at, number) in [(0, year / 100), (2, year % 100), (5, month), (8, day)] {
        two_digits(&mut text, at, number);
    }
    for (at, number) in [(11, second / 3_600), (14, second / 60 % 60), (17, second % 60)] {
        two_digits(&mut text, at, number);
    }
    Some(text)
}

/// Year, month and day, so many days after 1970-01-01. Counts from 0000-03-01 on, so that a leap day is the last of its
/// year, in eras of 400 years (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> Option<(u64, u64, u64)> {
    let days = days.checked_add(719_468)?;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year <= 9_999).then_some((year, month, day))
}

fn two_digits(text: &mut [u8; 20], at: usize, number: u64) {
    let digit = |number: u64| b'0' + u8::try_from(number % 10).unwrap_or_default();
    text[at] = digit(number / 10);
    text[at + 1] = digit(number);
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_ends_of_its_range_are_known() {
        let text = |seconds| of_seconds(seconds).map(|text| String::from_utf8_lossy(&text).into_owned());
        for (seconds, expected) in [
            (-1, None),
            (0, Some("1970-01-01T00:00:00Z")),
            (951_782_399, Some("2000-02-28T23:59:59Z")),
            (951_782_400, Some("2000-02-29T00:00:00Z")),
            (4_107_542_400, Some("2100-03-01T00:00:00Z")),
            (253_402_300_799, Some("9999-12-31T23:59:59Z")),
            (253_402_300_800, None),
            (i64::MAX, None),
        ] {
            assert_eq!(text(seconds).as_deref(), expected, "{seconds}");
        }
    }

    #[test]
    fn it_writes_what_a_calendar_does() {
        for seconds in (0..253_402_200_000_i64).step_by(1_234_567) {
            let text = of_seconds(seconds).unwrap();

            let expected = Timestamp::from_second(seconds).unwrap().to_string();
            assert_eq!(String::from_utf8_lossy(&text), expected, "{seconds}");
        }
    }
}
