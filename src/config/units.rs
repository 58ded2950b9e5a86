//! Sizes, times and dates as people write them.

use std::time::Duration;

const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a size such as `64KiB`, `512 MiB` or `4096` (bytes). `None` when it is not one.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = split(text)?;
    let factor = match unit {
        "" | "B" => 1,
        unit => SIZES.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Writes a size with the largest unit that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    SIZES
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes % factor == 0)
        .map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// Reads a time such as `250ms`, `5s`, `10 m`, `12h` or `7d`. `None` when it is not one; a bare
/// number is not, as nobody can tell seconds from milliseconds.
#[must_use]
pub fn parse_time(text: &str) -> Option<Duration> {
    let (digits, unit) = split(text)?;
    let factor = TIMES.iter().find(|(name, _)| *name == unit)?.1;
    digits.parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_millis)
}

/// Writes a time with the largest unit that divides it; fractions of a millisecond are cut.
#[must_use]
pub fn format_time(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    TIMES
        .iter()
        .find(|(_, factor)| millis >= *factor && millis % factor == 0)
        .map_or_else(|| "0s".to_owned(), |(unit, factor)| format!("{}{unit}", millis / factor))
}

/// Digits, then an optional space, then a unit.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let unit = rest.strip_prefix(' ').unwrap_or(rest);
    (!digits.is_empty() && (unit.len() == rest.len() || !unit.is_empty())).then_some((digits, unit))
}

/// Unix time in seconds as a TOML (RFC 3339) date and time in UTC, fractions cut. Years 1970 to
/// 9999; outside them the nearest.
#[must_use]
pub fn datetime_from_unix(unix: f64) -> toml::value::Datetime {
    // Saturates, and the range is below: nothing is lost but the fraction.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = unix.clamp(0.0, 253_402_300_799.0) as u64;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let small = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
    toml::value::Datetime {
        date: Some(toml::value::Date {
            year: u16::try_from(year).unwrap_or(u16::MAX),
            month: small(month),
            day: small(day),
        }),
        time: Some(toml::value::Time {
            hour: small(rest / 3600),
            minute: small(rest / 60 % 60),
            second: Some(small(rest % 60)),
            nanosecond: None,
        }),
        offset: Some(toml::value::Offset::Z),
    }
}

/// A TOML date and time as Unix time in seconds. `None` without a date, a time and an offset, or
/// before 1970.
#[must_use]
pub fn unix_from_datetime(datetime: &toml::value::Datetime) -> Option<f64> {
    let (date, time, offset) = (datetime.date?, datetime.time?, datetime.offset?);
    let days = days_from_civil(date.year.into(), date.month.into(), date.day.into())?;
    let minutes = match offset {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    let seconds = days * 86_400
        + i64::from(time.hour) * 3600
        + (i64::from(time.minute) - minutes) * 60
        + i64::from(time.second.unwrap_or(0));
    (seconds >= 0).then_some(seconds as f64)
}

/// Proleptic Gregorian date of a day counted from 1970-01-01, by 400-year cycles that start in
/// March, so that the leap day is the last of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`]; `None` before 1970.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<i64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i64::try_from((era * 146_097 + day_of_era).checked_sub(719_468)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_times_are_read_as_documented() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("512 MiB"), Some(512 << 20));
        assert_eq!(parse_size("17"), Some(17));
        assert_eq!(parse_time("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_time("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(parse_time("1 h"), Some(Duration::from_secs(3600)));
    }

    #[test]
    fn what_is_not_a_size_or_time_is_refused() {
        for text in ["", "KiB", "64KB", "64kib", "-1", "1.5MiB", "64KiB ", "99999999999GiB", "1 "] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
        for text in ["", "s", "5", "5 ", "1.5s", "-1s", "5sec", "5S", "99999999999999999999s"] {
            assert_eq!(parse_time(text), None, "{text:?}");
        }
    }

    #[test]
    fn well_known_days_have_their_dates() {
        assert_eq!(datetime_from_unix(0.0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(datetime_from_unix(951_782_400.9).to_string(), "2000-02-29T00:00:00Z");
        assert_eq!(datetime_from_unix(1_763_800_000.0).to_string(), "2025-11-22T08:26:40Z");
        let east = "2025-11-22T09:26:40+01:00".parse().unwrap();
        assert_eq!(unix_from_datetime(&east), Some(1_763_800_000.0));
        assert_eq!(unix_from_datetime(&"2025-11-22".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn sizes_survive_the_way_out_and_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn times_survive_the_way_out_and_back(millis in 0_u64..1 << 50) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(parse_time(&format_time(time)), Some(time));
        }

        #[test]
        fn nothing_makes_the_readers_panic(text in ".{0,24}") {
            let _ = (parse_size(&text), parse_time(&text));
        }

        #[test]
        fn dates_survive_the_way_out_and_back(seconds in 0_u64..253_402_300_799) {
            let unix = seconds as f64;
            prop_assert_eq!(unix_from_datetime(&datetime_from_unix(unix)), Some(unix));
        }
    }
}
