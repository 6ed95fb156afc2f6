//! Which records are shown.

use super::Entry;
use k8s_openapi::jiff::Timestamp;

/// What a record must be; what is absent does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Namespace of the pod.
    pub namespace: Option<String>,
    /// The pod; a trailing `*` stands for any rest.
    pub pod: Option<String>,
    /// The actor; a trailing `*` stands for any rest.
    pub actor: Option<String>,
    /// One of these methods.
    pub methods: Vec<String>,
    /// Beginning of the path.
    pub path: Option<String>,
    /// One of these statuses.
    pub statuses: Vec<StatusRange>,
    /// Begun at this time or later, in nanoseconds since the epoch.
    pub since_ns: Option<u64>,
    /// Trace id, lower case.
    pub trace: Option<String>,
    /// Correlation id.
    pub correlation: Option<String>,
}

impl Filter {
    /// Whether a record is shown.
    pub fn passes(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| matches(wanted, value));
        let status = || entry.field("status").parse().ok();
        is(&self.namespace, &entry.source.namespace)
            && is(&self.pod, &entry.source.pod)
            && is(&self.actor, entry.field("actor"))
            && is(&self.correlation, entry.field("correlation_id"))
            && is(&self.trace, entry.field("trace_id"))
            && self.path.as_ref().is_none_or(|prefix| entry.field("path").starts_with(prefix.as_str()))
            && (self.methods.is_empty()
                || self.methods.iter().any(|method| method.eq_ignore_ascii_case(entry.field("method"))))
            && (self.statuses.is_empty()
                || status().is_some_and(|status| self.statuses.iter().any(|range| range.contains(status))))
            && self.since_ns.is_none_or(|since| entry.start_ns().is_some_and(|start| start >= since))
    }
}

fn matches(wanted: &str, value: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(prefix) => value.starts_with(prefix),
        None => value == wanted,
    }
}

/// Statuses from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// `404`, `4xx` or `500-599`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no status: write 404, 4xx or 500-599");
        let number = |text: &str| text.parse::<u16>().ok().filter(|n| (100..=999).contains(n)).ok_or_else(wrong);
        if let Some(class) = text.strip_suffix("xx") {
            let class: u16 = class.parse().ok().filter(|class| (1..=9).contains(class)).ok_or_else(wrong)?;
            return Ok(Self { first: class * 100, last: class * 100 + 99 });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: number(first)?, last: number(last)? };
        if range.first > range.last { Err(wrong()) } else { Ok(range) }
    }

    fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So many seconds ago.
    Ago(u64),
    /// Then.
    At(Timestamp),
}

impl Since {
    /// In nanoseconds since the epoch.
    pub fn nanos(self, now: Timestamp) -> u64 {
        let then = match self {
            Self::Ago(seconds) => now.as_nanosecond() - i128::from(seconds) * 1_000_000_000,
            Self::At(then) => then.as_nanosecond(),
        };
        u64::try_from(then).unwrap_or(0)
    }
}

/// Reads `30s`, `10m`, `2h`, `1d`, or a time of RFC 3339.
///
/// # Errors
/// It is none of these.
pub fn since(text: &str) -> Result<Since, String> {
    let unit = |suffix: char| match suffix {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let mut chars = text.chars();
    if let Some(seconds) = chars.next_back().and_then(unit)
        && let Ok(count) = chars.as_str().parse::<u32>()
    {
        return Ok(Since::Ago(u64::from(count) * seconds));
    }
    let time = text.parse::<Timestamp>();
    time.map(Since::At).map_err(|_| format!("{text:?} is no time: write 30s, 10m, 2h, 1d or 2026-01-31T12:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::Source;

    fn entry() -> Entry {
        let body = r#"{"actor":"alice","method":"POST","path":"/v1/pay","status":"404","t0":"1700000000000000000","trace_id":"ab"}"#;
        Entry {
            source: Source { namespace: "shop".to_owned(), pod: "api-7c9".to_owned() },
            event: "audit.http.request".to_owned(),
            fields: serde_json::from_str(body).expect("a body"),
        }
    }

    #[test]
    fn each_filter_lets_pass_and_holds_back() {
        let some = |text: &str| Some(text.to_owned());
        let table: [(Filter, Filter); 8] = [
            (
                Filter { namespace: some("shop"), ..Filter::default() },
                Filter { namespace: some("sho"), ..Filter::default() },
            ),
            (Filter { pod: some("api-*"), ..Filter::default() }, Filter { pod: some("api-"), ..Filter::default() }),
            (Filter { actor: some("alice"), ..Filter::default() }, Filter { actor: some("bob"), ..Filter::default() }),
            (
                Filter { methods: vec!["post".into()], ..Filter::default() },
                Filter { methods: vec!["GET".into()], ..Filter::default() },
            ),
            (Filter { path: some("/v1"), ..Filter::default() }, Filter { path: some("/v2"), ..Filter::default() }),
            (
                Filter { statuses: vec![StatusRange { first: 400, last: 499 }], ..Filter::default() },
                Filter { statuses: vec![StatusRange { first: 500, last: 599 }], ..Filter::default() },
            ),
            (
                Filter { since_ns: Some(1_700_000_000_000_000_000), ..Filter::default() },
                Filter { since_ns: Some(1_700_000_000_000_000_001), ..Filter::default() },
            ),
            (Filter { trace: some("ab"), ..Filter::default() }, Filter { trace: some("cd"), ..Filter::default() }),
        ];
        for (pass, hold) in table {
            assert!(pass.passes(&entry()), "{pass:?}");
            assert!(!hold.passes(&entry()), "{hold:?}");
        }
    }

    #[test]
    fn statuses_and_times_are_read() {
        assert_eq!(StatusRange::parse("4xx"), Ok(StatusRange { first: 400, last: 499 }));
        assert_eq!(StatusRange::parse("500-599"), Ok(StatusRange { first: 500, last: 599 }));
        assert_eq!(StatusRange::parse("404"), Ok(StatusRange { first: 404, last: 404 }));
        for wrong in ["", "xx", "0xx", "99", "500-400", "4x", "a-b"] {
            assert!(StatusRange::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(since("10m"), Ok(Since::Ago(600)));
        assert!(matches!(since("2026-01-31T12:00:00Z"), Ok(Since::At(_))));
        assert!(since("soon").is_err() && since("").is_err() && since("m").is_err());
        let now = Timestamp::from_second(1_000).expect("a time");
        assert_eq!(Since::Ago(10).nanos(now), 990_000_000_000);
        assert_eq!(Since::Ago(10_000).nanos(now), 0);
    }
}
