//! Records that a sink got, as the leaves of their streams.

use super::Received;
use std::collections::BTreeMap;
use testimony_core::canon::parse_body;
use testimony_core::record::Field;

pub type Body = BTreeMap<String, Vec<u8>>;

pub fn text(body: &Body, field: Field) -> &str {
    body.get(field.key()).map_or("", |value| std::str::from_utf8(value).expect("text"))
}

pub fn number(body: &Body, field: Field) -> u64 {
    text(body, field).parse().unwrap_or(0)
}

/// The leaves that arrived, by stream and place: each place has one body, however often it came.
pub fn leaves(received: &[Received]) -> BTreeMap<(String, u64), Body> {
    leaves_of(received.iter().flat_map(Received::records))
}

pub fn leaves_of(records: impl Iterator<Item = String>) -> BTreeMap<(String, u64), Body> {
    let mut leaves: BTreeMap<(String, u64), Body> = BTreeMap::new();
    for raw in records {
        let body = parse_body(raw.as_bytes()).expect("canonical");
        if text(&body, Field::Typ) != "head" {
            let place = (text(&body, Field::Sid).to_owned(), number(&body, Field::Seq));
            let before = leaves.insert(place, body.clone());
            assert!(before.is_none_or(|before| before == body), "two bodies for one place");
        }
    }
    leaves
}

pub fn of<'a>(leaves: &'a BTreeMap<(String, u64), Body>, typ: &str) -> Vec<&'a Body> {
    leaves.values().filter(|body| text(body, Field::Typ) == typ).collect()
}

pub fn arrived(typ: &'static str, count: usize) -> impl Fn(&[Received]) -> bool {
    move |received| of(&leaves(received), typ).len() >= count
}
