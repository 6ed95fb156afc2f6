//! The log of acknowledgements: appended to, never changed. What counts is the largest place told of each sink.

use super::bytes::Cursor;
use super::{FormatError, Magic, Problem};
use crate::spool::SINK_NAME_BYTES_MAX;
use crate::spool::position::Place;
use std::collections::BTreeMap;

/// First bytes of a log of acknowledgements.
const MAGIC: Magic = *b"TSMYACK\0";

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acks {
    /// By sink: everything before the place is acknowledged.
    pub sinks: BTreeMap<String, Place>,
    /// Another process has told, durably, what is here (D3).
    pub recovered: bool,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A sink has everything before the place.
    Sink(&'a str, Place),
    /// A `recovered` record about what is here is durable elsewhere.
    Recovered,
}

/// Appends the beginning of a log.
pub fn begin(out: &mut Vec<u8>) {
    super::begin(out, MAGIC);
}

/// Appends a line: length of the name, name, place, CRC32C. A sink's name is never empty, so an empty one means
/// [`Line::Recovered`].
pub fn append(out: &mut Vec<u8>, line: &Line<'_>) {
    let start = out.len();
    let (name, place) = match line {
        Line::Sink(name, place) => (*name, *place),
        Line::Recovered => ("", Place::default()),
    };
    let name = name.as_bytes();
    let name = name.get(..name.len().min(SINK_NAME_BYTES_MAX)).unwrap_or_default();
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend(name);
    out.extend(place.number().to_le_bytes());
    super::seal_line(out, start);
}

/// Adds what a log says to `acks`: its longest valid prefix.
///
/// # Errors
/// It does not begin as a log does.
pub fn read(bytes: &[u8], acks: &mut Acks) -> Result<(), FormatError> {
    let mut cursor = Cursor(bytes);
    super::begins(&mut cursor, MAGIC)?;
    while let Ok((name, place)) = line(&mut cursor) {
        if name.is_empty() {
            acks.recovered = true;
        } else {
            let known = acks.sinks.entry(name.to_owned()).or_default();
            *known = place.max(*known);
        }
    }
    Ok(())
}

fn line<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a str, Place), FormatError> {
    let whole = cursor.0;
    let length = usize::from(cursor.u8()?);
    let name = std::str::from_utf8(cursor.take(length)?).map_err(|_| Problem::Value("the sink"))?;
    let place = Place(cursor.u64()?);
    super::check_line(whole, cursor)?;
    Ok((name, place))
}
