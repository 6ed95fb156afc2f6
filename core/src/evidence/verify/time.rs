//! Times in messages.

use time::UtcDateTime;

/// A time in nanoseconds since the epoch as `2026-01-31T08:00:00Z`, rounded down.
pub(super) fn utc(ns: u64) -> String {
    // Every such time lies before the year 2555, so the epoch stands for none.
    let at = UtcDateTime::from_unix_timestamp_nanos(ns.into()).unwrap_or(UtcDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
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
