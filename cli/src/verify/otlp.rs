//! OTLP in JSON lines, as the Collector's file exporter writes them.

use super::quick;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use testimony_core::evidence::verify::{Stored, Value, resource_digest};

/// A text that is borrowed from the input where it can be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visit)
    }
}

/// An integer of 64 bits: JSON of protobuf writes it as text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Number(i128);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer, as a number or as text")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number.into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number.into()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                text.parse().map(Number).map_err(|_| E::custom(format!("{text:?} is no integer")))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// An AnyValue.
#[derive(Clone, Debug, Default, PartialEq)]
enum Any<'a> {
    Text(Text<'a>),
    Int(i64),
    #[default]
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Any<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Any<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of OTLP")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Any<'de>, M::Error> {
                let mut value = Any::Other;
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    value = match &*key.0 {
                        "stringValue" => Any::Text(map.next_value()?),
                        "intValue" => i64::try_from(map.next_value::<Number>()?.0).map_or(Any::Other, Any::Int),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            Any::Other
                        }
                    };
                }
                Ok(value)
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

#[derive(Deserialize)]
struct Attribute<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(borrow, default)]
    value: Any<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord<'a> {
    #[serde(default)]
    time_unix_nano: Number,
    #[serde(borrow, default)]
    body: Any<'a>,
    #[serde(borrow, default)]
    attributes: Vec<Attribute<'a>>,
    #[serde(borrow, default)]
    trace_id: Text<'a>,
    #[serde(borrow, default)]
    span_id: Text<'a>,
    #[serde(borrow, default)]
    event_name: Text<'a>,
}

#[derive(Default, Deserialize)]
struct Resource<'a> {
    #[serde(borrow, default)]
    attributes: Vec<Attribute<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs<'a> {
    #[serde(borrow, default)]
    log_records: Vec<LogRecord<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs<'a> {
    #[serde(borrow, default)]
    resource: Resource<'a>,
    #[serde(borrow, default)]
    scope_logs: Vec<ScopeLogs<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow)]
    resource_logs: Vec<ResourceLogs<'a>>,
}

/// Gives each record of one line: its body, and what stands beside it.
///
/// # Errors
/// The line is no ExportLogsServiceRequest; then some of its records may have been given.
pub fn records(line: &str, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), serde_json::Error> {
    let Err(mut given) = quick::records(line, give) else { return Ok(()) };
    any_form(line, &mut |body, stored| match given.checked_sub(1) {
        Some(rest) => given = rest,
        None => give(body, stored),
    })
}

/// As [`records`], in whatever form JSON allows.
pub(super) fn any_form(line: &str, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), serde_json::Error> {
    let request: Request<'_> = serde_json::from_str(line)?;
    for logs in request.resource_logs {
        let of = |key: &str| {
            let found = logs.resource.attributes.iter().find(|attribute| attribute.key.0 == key);
            found.and_then(|attribute| match &attribute.value {
                Any::Text(text) => Some(Cow::Borrowed(&*text.0)),
                _ => None,
            })
        };
        let resource = [of("k8s.cluster.uid"), of("k8s.namespace.name"), of("k8s.pod.uid")];
        let text = |key| of(key).unwrap_or_default();
        let digest = resource_digest(&text("k8s.pod.name"), &text("k8s.node.name"));
        for record in logs.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            let attributes = record.attributes.into_iter().map(|attribute| {
                let value = match attribute.value {
                    Any::Text(text) => Value::Text(text.0),
                    Any::Int(number) => Value::Int(number),
                    Any::Other => Value::Other,
                };
                (attribute.key.0, value)
            });
            let stored = Stored {
                time_ns: Some(u64::try_from(record.time_unix_nano.0).unwrap_or(Stored::NO_TIME)),
                time_by_fraction: false,
                event: Some(record.event_name.0),
                trace_id: Some(record.trace_id.0),
                span_id: Some(record.span_id.0),
                attributes: Some(attributes.collect()),
                resource: resource.clone(),
                resource_digest: digest,
            };
            match &record.body {
                Any::Text(text) => give(Some(&text.0), &stored),
                _ => give(None, &stored),
            }
        }
    }
    Ok(())
}
