//! Times in messages.

const SECOND_NS: u64 = 1_000_000_000;
const DAY_S: u64 = 86_400;

/// A time in nanoseconds since the epoch as `2026-01-31T08:00:00Z`, rounded down.
pub(super) fn utc(ns: u64) -> String {
    let seconds = ns / SECOND_NS;
    let (mut day, second) = (seconds / DAY_S, seconds % DAY_S);
    let mut year = 1970;
    while day >= days(year) {
        day -= days(year);
        year += 1;
    }
    let mut month = 1;
    while day >= days_of(year, month) {
        day -= days_of(year, month);
        month += 1;
    }
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_told_as_people_write_them() {
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(utc(seconds * 1_000_000_000 + 999_999_999), text);
        }
        assert_eq!(utc(u64::MAX), "2554-07-21T23:34:33Z");
    }
}
