//! Names of the streams that earlier processes left, for `open` (S2). It is sealed before anything is recorded, so this looks at
//! few headers only; `recovered` tells later how far each stream went.

use super::headers::header;
use crate::defect::contained;
use crate::spool::Boot;
use crate::spool::disk::Files;
use crate::spool::shelf;
use std::collections::BTreeMap;
use testimony_core::evidence::stream::StreamId;

/// Folders of earlier processes that are looked at,
const FOLDERS_MAX: usize = 64;
/// and headers in each, newest first: a stream that had not ended stands in all of them.
const HEADERS_MAX: usize = 16;

/// Names that are told, of the newest streams: about twice what `open` has room for.
const NAMES_MAX: usize = 64;

/// The names, newest first. What cannot be read is left out.
pub fn names<F: Files>(folders: impl IntoIterator<Item = (Boot, F)>) -> Vec<StreamId> {
    let mut newest: BTreeMap<StreamId, u64> = BTreeMap::new();
    for (boot, files) in folders.into_iter().take(FOLDERS_MAX) {
        let listed = files.list().unwrap_or_default().into_iter();
        let mut segments: Vec<_> =
            listed.filter_map(|file| Some((shelf::segment_number(&file.name)?, file.name))).collect();
        segments.sort_unstable_by(|one, other| other.cmp(one));
        for (number, name) in segments.iter().take(HEADERS_MAX) {
            let Ok(Ok((header, ..))) = contained(|| header(&files, name, boot, *number)) else { continue };
            for stream in header.streams {
                newest.entry(stream.sid).or_insert(header.created_unix_nanos);
            }
        }
    }
    let mut names: Vec<_> = newest.into_iter().collect();
    names.sort_by(|(one, at), (other, other_at)| other_at.cmp(at).then_with(|| one.cmp(other)));
    names.truncate(NAMES_MAX);
    names.into_iter().map(|(sid, _)| sid).collect()
}
