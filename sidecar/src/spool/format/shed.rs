//! What a sink never gets, because its space was needed: a file of its own for each such part, made before that is removed.

use super::bytes::{Cursor, count16};
use super::{FormatError, Magic, Problem};
use crate::spool::SINK_NAME_BYTES_MAX;
use crate::spool::position::Place;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// First bytes of such a file.
const MAGIC: Magic = *b"TSMYSHD\0";

/// Bytes of such a file.
pub const SHED_BYTES_MAX: usize = 256 * 1024;

/// What a sink never gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shed {
    /// Which sink.
    pub sink: String,
    /// From this place on.
    pub from: Place,
    /// Up to this one.
    pub to: Place,
    /// By stream, the leaves that are gone, in compact form.
    pub leaves: Vec<(StreamId, Range)>,
}

/// The bytes of a file: length of the sink's name, name, both places, count of streams; of each the length of its name, name,
/// both ends of the range, count of nodes, nodes; CRC32C.
///
/// # Errors
/// [`Problem::Length`]: it is longer than such a file may be.
pub fn write(shed: &Shed) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::new();
    super::begin(&mut out, MAGIC);
    let start = out.len();
    out.extend(count16(shed.sink.len()));
    out.extend(shed.sink.as_bytes());
    out.extend(shed.from.number().to_le_bytes());
    out.extend(shed.to.number().to_le_bytes());
    out.extend(count16(shed.leaves.len()));
    for (stream, range) in &shed.leaves {
        let nodes: Vec<Hash> = range.nodes().collect();
        out.extend(count16(stream.as_str().len()));
        out.extend(stream.as_str().as_bytes());
        out.extend(range.begin().to_le_bytes());
        out.extend(range.end().to_le_bytes());
        out.extend(count16(nodes.len()));
        nodes.iter().for_each(|node| out.extend(node.0));
    }
    super::seal_line(&mut out, start);
    let fits = shed.sink.len() <= SINK_NAME_BYTES_MAX && out.len() <= SHED_BYTES_MAX;
    if fits { Ok(out) } else { Err(Problem::Length.into()) }
}

/// What a file says. One that was cut says nothing: what it was made for is still there.
///
/// # Errors
/// It is no such file, or not whole.
pub fn read(bytes: &[u8]) -> Result<Shed, FormatError> {
    let mut cursor = Cursor(bytes);
    super::begins(&mut cursor, MAGIC)?;
    let whole = cursor.0;
    let sink = text(&mut cursor, "the sink")?.to_owned();
    let (from, to) = (Place(cursor.u64()?), Place(cursor.u64()?));
    let count = cursor.u16()?;
    let mut leaves = Vec::new();
    for _ in 0..count {
        let stream = text(&mut cursor, "the stream")?.parse().map_err(|_| Problem::Value("the stream"))?;
        let (begin, end) = (cursor.u64()?, cursor.u64()?);
        let count = cursor.u16()?;
        let nodes = (0..count).map(|_| cursor.hash()).collect::<Result<Vec<Hash>, _>>()?;
        let range = Range::from_nodes(begin, end, &nodes).map_err(|_| Problem::Value("the range"))?;
        leaves.push((stream, range));
    }
    super::check_line(whole, &mut cursor)?;
    Ok(Shed { sink, from, to, leaves })
}

fn text<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Result<&'a str, FormatError> {
    let length = usize::from(cursor.u16()?);
    Ok(std::str::from_utf8(cursor.take(length)?).map_err(|_| Problem::Value(what))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use testimony_core::evidence::merkle::leaf;

    #[test]
    fn what_is_written_is_read_and_nothing_that_is_cut_or_altered() {
        let mut range = Range::empty(3);
        (0..9_u8).for_each(|at| range.push(leaf(&[at])));
        let stream: StreamId = format!("c/n/p/{:032x}-0-0", 5).parse().expect("a name");
        let leaves = vec![(stream.clone(), range), (stream, Range::empty(7))];
        let shed = Shed { sink: "archive".to_owned(), from: Place(4), to: Place(19), leaves };
        let bytes = write(&shed).expect("short");
        assert_eq!(read(&bytes), Ok(shed.clone()));
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Err(FormatError::Short), "{end}");
        }
        for at in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[at / 8] ^= 1 << (at % 8);
            assert!(read(&altered).is_err(), "bit {at}");
        }
        let long = Shed { sink: "a".repeat(SINK_NAME_BYTES_MAX + 1), ..shed };
        assert!(write(&long).is_err());
    }
}
