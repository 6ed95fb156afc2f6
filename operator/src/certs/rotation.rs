//! When the authority is followed by the next one: pure, time comes in as an argument.

use super::Authority;
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;

/// Annotation of the Secret by which a person asks for the next authority: any value that it did not have at the rotation
/// before.
pub const ROTATE: &str = "testimony.dev/rotate";

/// Annotation of the Secret: the value of [`ROTATE`] that was acted on last.
pub const ROTATED: &str = "testimony.dev/rotated";

/// Annotation of the Secret: when a rotation was asked for and done last, in seconds since the epoch.
pub const ROTATED_AT: &str = "testimony.dev/rotated-at";

/// Shortest time between two rotations that are asked for, in seconds: replicas, the API server and sidecars take over one
/// authority before the next one comes. Who misses [`super::ca::FORMER_MAX`] of them in a row is lost.
pub const INTERVAL_SECONDS_MIN: u64 = 10;

type Annotations = BTreeMap<String, String>;

/// What is to be done with an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Nothing before it is due.
    Keep,
    /// It was asked for, but the last one is too fresh: look again after this time.
    Wait(Duration),
    /// Two thirds of its life are over.
    Due,
    /// It was asked for, with this value.
    Asked(String),
}

/// Decides for an authority and the annotations of its Secret.
pub fn decide(authority: &Authority, annotations: Option<&Annotations>, now: OffsetDateTime) -> Rotation {
    if authority.is_due(now) {
        return Rotation::Due;
    }
    let get = |key: &str| annotations.and_then(|a| a.get(key)).filter(|value| !value.is_empty());
    let Some(asked) = get(ROTATE).filter(|asked| get(ROTATED) != Some(*asked)) else { return Rotation::Keep };
    let interval = time::Duration::seconds(INTERVAL_SECONDS_MIN.cast_signed());
    let since =
        get(ROTATED_AT).and_then(|at| at.parse().ok()).and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    // A time in the future is another clock's, or somebody's mistake: it delays by one interval at most.
    match since.map(|since| (since + interval - now).min(interval)) {
        Some(left) if left.is_positive() => Rotation::Wait(left.unsigned_abs()),
        _ => Rotation::Asked(asked.clone()),
    }
}

/// The annotations after a rotation; those of others stay.
pub fn done(annotations: Option<Annotations>, why: &Rotation, now: OffsetDateTime) -> Option<Annotations> {
    let Rotation::Asked(value) = why else { return annotations };
    let mut annotations = annotations.unwrap_or_default();
    annotations.insert(ROTATED.to_owned(), value.clone());
    annotations.insert(ROTATED_AT.to_owned(), now.unix_timestamp().to_string());
    Some(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn start() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("time")
    }

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn it_comes_when_it_is_due_or_asked_for_and_not_too_often() {
        let authority = Authority::create(start(), YEAR).expect("authority");
        let at = |seconds: i64| (1_800_000_000 + seconds).to_string();
        let wait = |seconds| Rotation::Wait(Duration::from_secs(seconds));
        let asked = |value: &str| Rotation::Asked(value.to_owned());
        let (fresh, old, future) = (at(-3), at(-10), at(86_400));
        let cases: [(&[(&str, &str)], Rotation); 10] = [
            (&[], Rotation::Keep),
            (&[(ROTATE, "")], Rotation::Keep),
            (&[(ROTATE, "a")], asked("a")),
            (&[(ROTATE, "a"), (ROTATED, "a"), (ROTATED_AT, &old)], Rotation::Keep),
            (&[(ROTATE, "b"), (ROTATED, "a"), (ROTATED_AT, &old)], asked("b")),
            (&[(ROTATE, "b"), (ROTATED, "a"), (ROTATED_AT, &fresh)], wait(7)),
            (&[(ROTATE, "b"), (ROTATED, "a"), (ROTATED_AT, &future)], wait(10)),
            (&[(ROTATE, "b"), (ROTATED, "a"), (ROTATED_AT, "yesterday")], asked("b")),
            (&[(ROTATE, "b"), (ROTATED, "a"), (ROTATED_AT, "9223372036854775807")], asked("b")),
            (&[(ROTATED, "a"), (ROTATED_AT, &fresh)], Rotation::Keep),
        ];
        for (pairs, expected) in cases {
            assert_eq!(decide(&authority, Some(&annotations(pairs)), start()), expected, "{pairs:?}");
        }
        assert_eq!(decide(&authority, None, start()), Rotation::Keep);
        let due = start() + Duration::from_secs(250 * 86_400);
        assert_eq!(decide(&authority, Some(&annotations(&[(ROTATE, "a")])), due), Rotation::Due);
    }

    #[test]
    fn what_was_asked_for_is_done_once() {
        let authority = Authority::create(start(), YEAR).expect("authority");
        let before = annotations(&[(ROTATE, "a"), ("theirs", "stays")]);
        let why = decide(&authority, Some(&before), start());
        let after = done(Some(before.clone()), &why, start()).expect("annotations");
        assert_eq!(after.get("theirs").map(String::as_str), Some("stays"));
        assert_eq!(decide(&authority, Some(&after), start()), Rotation::Keep);
        assert_eq!(done(Some(before.clone()), &Rotation::Due, start()), Some(before), "an age is nobody's wish");
    }
}
