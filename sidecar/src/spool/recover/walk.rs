//! The frames of one segment, one after the other, through a window of bounded size.

use crate::spool::disk::Files;
use crate::spool::format::frame::Clear;
use crate::spool::format::{FormatError, Problem};
use crate::spool::shelf::Segment;

/// Bytes that are read at once.
const WINDOW_BYTES: u64 = 256 * 1024;

/// A disk that cannot read may be able to the next time.
const READS_MAX: usize = 3;

/// First bytes of a frame: enough to tell how long its part in clear is.
const START_BYTES: u64 = 16;

/// Walks over the frames of one file.
pub(in crate::spool) struct Walk {
    name: String,
    window: Vec<u8>,
    /// Where the window begins in the file.
    window_at: u64,
    /// Where the frame of the last step begins.
    frame_at: u64,
    offset: u64,
    /// Nothing is read from here on.
    limit: u64,
    number: u32,
    streams: usize,
    over: bool,
}

/// A frame, and whether what is not in clear is whole; `None` at the end of the file.
type Frame = Option<(Clear, Result<(), FormatError>)>;

/// What stands next.
pub(in crate::spool) enum Step {
    /// A frame whose part in clear is whole, and whether the rest is.
    Frame(Clear, Result<(), FormatError>),
    /// The last frame was there, and nothing is behind it.
    Finished,
    /// The file ends between two frames, without a last one.
    Unfinished,
    /// Here is no frame.
    Broken(FormatError),
}

impl Walk {
    /// From a segment's first frame on.
    pub(in crate::spool) fn new(segment: &Segment) -> Self {
        Self {
            name: segment.name(),
            window: Vec::new(),
            window_at: 0,
            frame_at: 0,
            offset: segment.header_bytes,
            limit: u64::MAX,
            number: 0,
            streams: segment.header.streams.len(),
            over: false,
        }
    }

    /// Nothing is read from this byte on.
    pub(in crate::spool) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Where the next frame begins.
    pub(in crate::spool) fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes of the frame of the last step.
    pub(in crate::spool) fn frame_bytes(&self) -> &[u8] {
        self.from(self.frame_at)
    }

    /// The next frame.
    pub(in crate::spool) fn step<F: Files + ?Sized>(&mut self, files: &F) -> Step {
        if self.over {
            return Step::Finished;
        }
        match self.frame(files) {
            Ok(Some((clear, rest))) => {
                self.frame_at = self.offset;
                self.offset = self.offset.saturating_add(clear.frame_bytes as u64);
                self.number = self.number.saturating_add(1);
                self.over = clear.last;
                Step::Frame(clear, rest)
            }
            Ok(None) => Step::Unfinished,
            Err(error) => Step::Broken(error),
        }
    }

    fn frame<F: Files + ?Sized>(&mut self, files: &F) -> Result<Frame, FormatError> {
        let (number, streams) = (self.number, self.streams);
        let start = self.fill(files, START_BYTES)?;
        if start.is_empty() {
            return Ok(None);
        }
        let needed = Clear::bytes_needed(start)?;
        let clear = Clear::parse(self.fill(files, needed as u64)?, number, streams)?;
        // Who has the part in clear goes on behind the frame, whether the rest can be read or not.
        let rest = self.fill(files, clear.frame_bytes as u64).and_then(|frame| clear.check(frame));
        Ok(Some((clear, rest)))
    }

    fn from(&self, offset: u64) -> &[u8] {
        let start = offset.checked_sub(self.window_at).and_then(|start| usize::try_from(start).ok());
        start.and_then(|start| self.window.get(start..)).unwrap_or_default()
    }

    /// The bytes from here on, `count` of them if the file has so many.
    fn fill<F: Files + ?Sized>(&mut self, files: &F, count: u64) -> Result<&[u8], FormatError> {
        let allowed = self.limit.saturating_sub(self.offset);
        let count = count.min(allowed);
        if (self.from(self.offset).len() as u64) < count {
            let [wanted, needed] = [count.max(WINDOW_BYTES).min(allowed), count];
            let from_here =
                |count: u64| read(files, &self.name, self.offset, usize::try_from(count).unwrap_or(usize::MAX));
            // What is needed may be there where what follows it is not.
            self.window = from_here(wanted).or_else(|_| from_here(needed))?;
            self.window_at = self.offset;
        }
        let found = self.from(self.offset);
        Ok(found.get(..usize::try_from(count).unwrap_or(usize::MAX)).unwrap_or(found))
    }
}

fn read<F: Files + ?Sized>(files: &F, name: &str, offset: u64, count: usize) -> Result<Vec<u8>, FormatError> {
    (0..READS_MAX).find_map(|_| files.read_at(name, offset, count).ok()).ok_or_else(|| Problem::Unreadable.into())
}
