//! `--scope` and `--max-lag`.

use crate::tail::{Since, since};
use k8s_openapi::jiff::Timestamp;
use testimony_core::evidence::verify::Scope;
use testimony_core::quantity::Quantity;

/// What to look at, as it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScopeArg {
    text: String,
    namespace: Option<String>,
    stream: Option<String>,
    from: Option<Since>,
    to: Option<Since>,
}

impl ScopeArg {
    /// In words.
    pub fn describe(&self, partial: bool, sink: Option<&str>) -> String {
        let mut scope = if self.text.is_empty() { "the whole export".to_owned() } else { self.text.clone() };
        if let Some(sink) = sink {
            scope = format!("{scope} of sink {sink}");
        }
        if partial { format!("{scope} (filtered)") } else { scope }
    }

    /// With times that count from now on turned into times.
    pub fn resolve(self, now_ns: u64) -> Scope {
        let now = Timestamp::from_nanosecond(now_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH);
        let nanos = |time: Option<Since>| time.map(|time| time.nanos(now));
        Scope { namespace: self.namespace, stream: self.stream, from_ns: nanos(self.from), to_ns: nanos(self.to) }
    }
}

/// Reads `ns=shop,from=2026-01-31T00:00:00Z,to=1h,stream=PREFIX`: each at most once, and a time that does not end before it begins.
///
/// # Errors
/// It is something else.
pub fn scope(text: &str) -> Result<ScopeArg, String> {
    scope_at(text, Timestamp::now())
}

/// The same at this time, from which `1h` counts.
fn scope_at(text: &str, now: Timestamp) -> Result<ScopeArg, String> {
    let mut scope = ScopeArg { text: text.to_owned(), ..ScopeArg::default() };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let Some((key, value)) = part.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            return Err(format!("{part:?}: write ns=NAME, stream=PREFIX, from=TIME or to=TIME, separated by commas"));
        };
        let again = match key {
            "ns" => scope.namespace.replace(value.to_owned()).is_some(),
            "stream" => scope.stream.replace(value.to_owned()).is_some(),
            "from" => scope.from.replace(since(value)?).is_some(),
            "to" => scope.to.replace(since(value)?).is_some(),
            _ => return Err(format!("{key:?} is not known: there are ns, stream, from and to")),
        };
        if again {
            return Err(format!("{key} stands there twice, and a scope is one part: run verify once for each"));
        }
    }
    if let (Some(from), Some(to)) = (scope.from, scope.to)
        && from.nanos(now) >= to.nanos(now)
    {
        return Err("from is not before to, so nothing would be looked at: a time such as 1h is so long ago".to_owned());
    }
    Ok(scope)
}

/// Reads a duration such as `10s` or `5m`, in nanoseconds.
///
/// # Errors
/// It is something else.
pub fn lag(text: &str) -> Result<u64, String> {
    match since(text) {
        Ok(Since::Ago(seconds)) => Ok(seconds.saturating_mul(1_000_000_000)),
        _ => Err(format!("{text:?} is no duration: write 10s, 5m or 1h")),
    }
}

/// Reads a size in bytes, as Kubernetes writes one.
///
/// # Errors
/// It is none; in words.
pub fn size(text: &str) -> Result<u64, String> {
    let size = Quantity::parse(text)?.whole();
    size.ok_or_else(|| "a size is not below zero".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read() {
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        let scope = scope_at("ns=shop,from=2026-01-31T00:00:00Z,to=1h,stream=c/shop/", now).expect("a scope");
        let resolved = scope.clone().resolve(1_800_000_000_000_000_000);
        assert_eq!(resolved.namespace.as_deref(), Some("shop"));
        assert_eq!(resolved.stream.as_deref(), Some("c/shop/"));
        assert_eq!(resolved.from_ns, Some(1_769_817_600_000_000_000));
        assert_eq!(resolved.to_ns, Some(1_799_996_400_000_000_000));
        assert!(scope.describe(true, Some("main")).ends_with(" of sink main (filtered)"));
    }

    #[test]
    fn a_size_is_read_as_kubernetes_writes_it() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1_000),
            ("3k", 3_000),
            ("1e3", 1_000),
            ("20Gi", 20 << 30),
            ("1.5Gi", 3 << 29),
            ("2P", 2_000_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "Gi", "-1", "1 Gi", "1gb", "99999999Ti"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bad_scope_is_told() {
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        for (text, problem) in [
            ("shop", "ns=NAME"),
            ("pod=x", "not known"),
            ("from=soon", "no time"),
            ("ns=", "ns=NAME"),
            ("ns=a,ns=b", "once for each"),
            ("ns=a,ns=a", "once for each"),
            ("stream=a,to=1h,stream=b", "once for each"),
            ("from=2h,from=3h", "once for each"),
            ("to=2h,to=3h", "once for each"),
            ("from=1h,to=2h", "not before"),
            ("to=2h,from=1h", "not before"),
            ("from=1h,to=60m", "not before"),
            ("from=2026-02-01T00:00:00Z,to=2026-01-31T00:00:00Z", "not before"),
            // An hour ago it is 2027-01-15T07:00:00Z.
            ("from=1h,to=2027-01-15T07:00:00Z", "not before"),
            ("from=2027-01-15T07:00:00Z,to=1h", "not before"),
        ] {
            let error = scope_at(text, now).expect_err(text);
            assert!(error.contains(problem), "{error}");
        }
        for text in ["from=2h,to=1h", "from=1h,to=2027-01-15T07:00:01Z", "from=2027-01-15T06:59:59Z,to=1h", "to=2h"] {
            assert!(scope_at(text, now).is_ok(), "{text}");
        }
        assert_eq!(lag("10s"), Ok(10_000_000_000));
        assert!(lag("2026-01-31T00:00:00Z").is_err() && lag("x").is_err());
    }
}
