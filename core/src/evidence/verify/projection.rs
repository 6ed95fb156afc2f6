//! Whether what stands beside a body says the same as the body (V4).
//!
//! Attributes are there to search by; the body alone is signed. Each backend keeps them in a way of its own, which a [`Shape`]
//! tells; after it the comparison is exact.

use crate::evidence::stream::StreamParts;
use crate::record::{Body, Field, Member, Projection, filed_ns};
use std::borrow::Cow;
use std::collections::HashSet;

/// How a backend keeps what stands beside the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Names of attributes: `true`: every character but letters, digits and `_` became `_`.
    pub underscores: bool,
    /// Whether numbers became text.
    pub numbers_as_text: bool,
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// A number.
    Int(i64),
    /// Neither: never what was exported.
    Other,
}

/// What stands beside a body. What a backend does not keep is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored<'a> {
    /// `time_unix_nano`; [`Self::NO_TIME`] where there is one that cannot be read.
    pub time_ns: Option<u64>,
    /// The nanoseconds of its millisecond came to the backend without leading zeros, and it may have read them as a fraction: 1 as
    /// a tenth.
    pub time_by_fraction: bool,
    /// `event_name`.
    pub event: Option<Cow<'a, str>>,
    /// `trace_id`, in hex.
    pub trace_id: Option<Cow<'a, str>>,
    /// `span_id`, in hex.
    pub span_id: Option<Cow<'a, str>>,
    /// Attributes of the record, under the backend's names; `None`: the input does not have them.
    pub attributes: Option<Vec<(Cow<'a, str>, Value<'a>)>>,
    /// Of the Resource: `k8s.cluster.uid`, `k8s.namespace.name`, `k8s.pod.uid`.
    pub resource: [Option<Cow<'a, str>>; 3],
    /// Digest of what the Resource says of pod and node.
    pub resource_digest: u64,
}

impl Stored<'_> {
    /// No time that was exported: it cannot be read.
    pub const NO_TIME: u64 = u64::MAX;
}

/// Compares, for one backend.
#[derive(Debug)]
pub struct Projector {
    shape: Shape,
    /// For each field: the attribute's name. For addresses: of the client, of the server.
    names: Vec<String>,
    addresses: [[String; 2]; 2],
    /// Every name that an export can have.
    known: HashSet<String>,
}

/// An attribute that must be there.
struct Wanted<'a> {
    name: &'a str,
    value: Cow<'a, str>,
    number: bool,
}

impl Projector {
    /// For a backend that keeps attributes so.
    pub fn new(shape: Shape) -> Self {
        let kept = |name: &str| -> String {
            let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
            if shape.underscores { name.chars().map(plain).collect() } else { name.to_owned() }
        };
        let name = |field: &Field| match field.projection() {
            Projection::Text(name, _) | Projection::Int(name, _) | Projection::Number(name, _) => kept(name),
            _ => String::new(),
        };
        let names: Vec<String> = Field::ALL.iter().map(name).collect();
        let addresses = [["client.address", "client.port"], ["server.address", "server.port"]];
        let addresses = addresses.map(|pair| pair.map(kept));
        let known = names.iter().chain(addresses.iter().flatten()).filter(|name| !name.is_empty()).cloned().collect();
        Self { shape, names, addresses, known }
    }

    /// Whether an attribute of this name is one of ours.
    pub fn knows(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// The first difference between a body and what stands beside it.
    ///
    /// # Errors
    /// The difference, in words.
    pub fn compare(&self, body: &Body<'_>, stored: &Stored<'_>, sid: Option<&StreamParts<'_>>) -> Result<(), String> {
        let simple = |key| body.simple(key);
        let time_by_fraction = stored.time_by_fraction;
        if let (Some(stored), Some(t0)) = (stored.time_ns, simple("t0"))
            && let t1 = simple("t1").and_then(|t1| t1.parse().ok())
            && let filed = t0.parse().map(|t0| filed_ns(t0, t1))
            && filed != Ok(stored)
            && !(time_by_fraction && filed.as_ref().is_ok_and(|filed| by_fraction(*filed) == stored))
        {
            let said = filed.map_or_else(|_| t0.to_owned(), |filed| filed.to_string());
            return Err(match stored {
                Stored::NO_TIME => format!("the time that is stored cannot be read, the body says {said}"),
                stored => format!("the time is stored as {stored}, the body says {said}"),
            });
        }
        let ids = [("trace_id", &stored.trace_id, 32), ("span_id", &stored.span_id, 16)];
        for (key, stored, digits) in ids {
            let wanted = simple(key).filter(|id| id.len() == digits).unwrap_or_default();
            if let Some(stored) = stored
                && stored != wanted
            {
                return Err(format!("{key} is stored as {stored:?}, the body says {wanted:?}"));
            }
        }
        if let Some(event) = &stored.event
            && !event_fits(event, simple("typ").unwrap_or_default(), simple("stage"))
        {
            return Err(format!("the event is stored as {event:?}, which this type of record never is"));
        }
        if let Some(sid) = sid {
            let names = ["k8s.cluster.uid", "k8s.namespace.name", "k8s.pod.uid"];
            let wanted = [sid.cluster_uid, sid.namespace, sid.pod_uid];
            for ((name, wanted), stored) in names.iter().zip(wanted).zip(&stored.resource) {
                if let Some(stored) = stored
                    && stored != wanted
                {
                    return Err(format!("{name} of the Resource is stored as {stored:?}, the stream is of {wanted:?}"));
                }
            }
        }
        stored.attributes.as_ref().map_or(Ok(()), |attributes| self.attributes(body, attributes))
    }

    fn attributes(&self, body: &Body<'_>, stored: &[(Cow<'_, str>, Value<'_>)]) -> Result<(), String> {
        let mut wanted: Vec<Wanted<'_>> = Vec::with_capacity(stored.len());
        self.wanted(body, &mut wanted);
        let same_order = wanted.len() == stored.len()
            && wanted.iter().zip(stored).all(|(wanted, (name, value))| wanted.name == name && self.fits(wanted, value));
        if same_order {
            return Ok(());
        }
        let mut sorted: Vec<&(Cow<'_, str>, Value<'_>)> = stored.iter().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for wanted in &wanted {
            let found = sorted.binary_search_by(|(name, _)| name.as_ref().cmp(wanted.name)).ok();
            match found.and_then(|at| sorted.get(at)) {
                None => return Err(format!("attribute {} is absent, the body says {:?}", wanted.name, wanted.value)),
                Some((_, value)) if self.fits(wanted, value) => {}
                Some((_, value)) => {
                    let value = match value {
                        Value::Text(text) => format!("{text:?}"),
                        Value::Int(number) => number.to_string(),
                        Value::Other => "another type".to_owned(),
                    };
                    return Err(format!(
                        "attribute {} is stored as {value}, the body says {:?}",
                        wanted.name, wanted.value
                    ));
                }
            }
        }
        let mut names: Vec<&str> = wanted.iter().map(|wanted| wanted.name).collect();
        names.sort_unstable();
        for pair in sorted.windows(2) {
            if let [(a, _), (b, _)] = pair
                && a == b
                && self.known.contains(a.as_ref())
            {
                return Err(format!("attribute {a} is stored twice"));
            }
        }
        let more = sorted
            .iter()
            .find(|(name, _)| self.known.contains(name.as_ref()) && names.binary_search(&name.as_ref()).is_err());
        more.map_or(Ok(()), |(name, _)| Err(format!("attribute {name} is stored, the body has no such field")))
    }

    fn fits(&self, wanted: &Wanted<'_>, value: &Value<'_>) -> bool {
        match value {
            Value::Text(text) => (!wanted.number || self.shape.numbers_as_text) && *text == wanted.value,
            Value::Int(number) => wanted.number && !self.shape.numbers_as_text && wanted.value.parse() == Ok(*number),
            Value::Other => false,
        }
    }

    /// The attributes that the encoder makes of a body, in its order.
    fn wanted<'a>(&'a self, body: &Body<'a>, wanted: &mut Vec<Wanted<'a>>) {
        let outbound = body.simple("dir") == Some("outbound");
        let mut trunc = None;
        for member in body.members() {
            let Some(field) = member.field else { continue };
            let Some(name) = self.names.get(field.index()) else { continue };
            match field.projection() {
                Projection::Text(..) if field == Field::Trunc => trunc = Some((name, member.text())),
                Projection::Text(..) => wanted.push(Wanted { name, value: member.text(), number: false }),
                Projection::Int(..) => int(wanted, name, member.text(), 0),
                Projection::Number(..) => int(wanted, name, member.text(), 1),
                Projection::PeerAddress(_) => self.address(wanted, member, !outbound),
                Projection::LocalAddress(_) => self.address(wanted, member, outbound),
                Projection::Own(_) | Projection::Body => {}
            }
        }
        if let Some((name, value)) = trunc {
            wanted.push(Wanted { name, value, number: false });
        }
    }

    fn address<'a>(&'a self, wanted: &mut Vec<Wanted<'a>>, member: &Member<'a>, of_client: bool) {
        let Cow::Borrowed(text) = member.text() else { return };
        let Some((host, port)) = text.rsplit_once(':') else { return };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let [client, server] = &self.addresses;
        let [address_name, port_name] = if of_client { client } else { server };
        wanted.push(Wanted { name: address_name, value: Cow::Borrowed(host), number: false });
        int(wanted, port_name, Cow::Borrowed(port), 0);
    }
}

const MILLISECOND_NS: u64 = 1_000_000;

/// A time of which the nanoseconds of the millisecond, as a number, were read as digits behind a point.
fn by_fraction(time_ns: u64) -> u64 {
    let rest = time_ns % MILLISECOND_NS;
    let mut read = rest;
    while read > 0 && read < MILLISECOND_NS / 10 {
        read *= 10;
    }
    (time_ns - rest).saturating_add(read)
}

/// Integers of OTLP have 63 bits.
fn int<'a>(wanted: &mut Vec<Wanted<'a>>, name: &'a str, value: Cow<'a, str>, more: u64) {
    let Ok(number) = value.parse::<u64>() else { return };
    let shown = number.saturating_add(more).min(i64::MAX as u64);
    let value = if shown == number { value } else { Cow::Owned(shown.to_string()) };
    wanted.push(Wanted { name, value, number: true });
}

/// Whether a record of this type can be such an event.
fn event_fits(event: &str, typ: &str, stage: Option<&str>) -> bool {
    let Some(event) = event.strip_prefix("audit.") else { return false };
    match typ {
        "exchange" => matches!(event, "http.request" | "rpc.call" | "stream.close" | "tcp.close" | "tls.failed"),
        "stage" => match stage {
            Some("opened" | "answered") => matches!(event, "stream.open" | "tcp.open"),
            _ => matches!(event, "stream.progress" | "tcp.progress"),
        },
        "gap" | "hole" | "checkpoint" => event == typ,
        "head" => event == "checkpoint",
        "open" => event == "recording.started",
        "close" => event == "recording.stopped",
        _ => event.strip_prefix("recording.") == Some(typ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_a_record_is_filed_under_its_begin_or_its_end_an_hour_later_and_nothing_else() {
        const HOUR_NS: u64 = 3_600 * 1_000_000_000;
        let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
        let fits = |t0: &str, t1: Option<u64>, time_ns: u64| {
            let t1 = t1.map(|t1| format!(r#","t1":"{t1}""#)).unwrap_or_default();
            let text = format!(r#"{{"t0":"{t0}"{t1},"v":"1"}}"#);
            let stored = Stored { time_ns: Some(time_ns), ..Stored::default() };
            projector.compare(&Body::parse(&text).expect("canonical"), &stored, None)
        };
        let late = 10 + HOUR_NS;
        for (t0, t1, filed_ns) in [
            ("9", None, 9),
            ("9", Some(8), 9),
            ("9", Some(late - 1), 9),
            ("9", Some(late), late),
            ("9", Some(u64::MAX - 1), u64::MAX - 1),
        ] {
            assert_eq!(fits(t0, t1, filed_ns), Ok(()), "{t0} {t1:?}");
            for other in [0, 8, 9, 10, late - 1, late, late + 1, u64::MAX].into_iter().filter(|at| *at != filed_ns) {
                let told = fits(t0, t1, other).expect_err("another time");
                assert!(told.ends_with(&format!("the body says {filed_ns}")), "{t0} {t1:?} {other}: {told}");
            }
        }
        assert!(fits("nine", Some(9), 9).is_err());
    }

    #[test]
    fn v4_nanoseconds_that_a_backend_read_as_a_fraction_are_those_and_no_others() {
        let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
        for (t0, read) in [
            (7_000_001, 7_100_000),
            (7_000_010, 7_100_000),
            (7_012_345, 7_123_450),
            (7_123_456, 7_123_456),
            (7_000_000, 7_000_000),
        ] {
            let text = format!(r#"{{"t0":"{t0}","v":"1"}}"#);
            let body = Body::parse(&text).expect("canonical");
            for (time_ns, time_by_fraction, good) in [
                (t0, false, true),
                (t0, true, true),
                (read, true, true),
                (read, false, read == t0),
                (read + 1, true, false),
            ] {
                let stored = Stored { time_ns: Some(time_ns), time_by_fraction, ..Stored::default() };
                assert_eq!(projector.compare(&body, &stored, None).is_ok(), good, "{t0} {time_ns} {time_by_fraction}");
            }
        }
    }
}
