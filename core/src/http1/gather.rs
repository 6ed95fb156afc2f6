//! Collecting a head or a line that may come in pieces, without looking at a byte twice and without copying what came
//! in one piece.

use memchr::memchr;

/// Capacity in bytes that a buffer may keep while it is empty; more is given back, so that idle connections stay small.
const KEPT_BYTES_MAX: usize = 4096;

/// Bytes that are added at once to a head that came in pieces: more would only copy the body behind it.
const STEP_BYTES: usize = 1024;

/// What has come of a head or line that is not whole yet.
#[derive(Debug, Default)]
pub(super) struct Gather {
    bytes: Vec<u8>,
    /// All before this index was searched for LF.
    scanned: usize,
    /// Where the line that is being received starts.
    line_start: usize,
}

/// Result of [`Gather::head`].
#[derive(Debug)]
pub(super) enum Gathered {
    /// Not whole yet; all input was kept.
    More,
    /// The head is whole with so many bytes of the input: see [`Gather::take`].
    Whole(usize),
    /// A line ended in LF without CR.
    BareLf,
    /// No end within the limit.
    TooLong,
}

/// Result of [`Gather::line`].
#[derive(Debug)]
pub(super) enum Line<'a> {
    /// Not whole yet; all input was kept.
    More,
    /// The line with its LF, and how many bytes of the input were its end. [`Gather::clear`] must follow.
    Whole(&'a [u8], usize),
    /// No LF within the limit.
    TooLong,
}

impl Gather {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what is kept.
    pub fn clear(&mut self) {
        let bytes = self.take();
        self.put_back(bytes);
    }

    /// Searches the end of a head (an empty line) in what is kept and `input`, of at most `bytes_max` together.
    pub fn head(&mut self, input: &[u8], bytes_max: usize) -> Gathered {
        if self.bytes.is_empty() {
            let found = self.search(input, bytes_max);
            match found {
                Gathered::Whole(_) => {}
                _ => self.bytes.extend_from_slice(input.get(..bytes_max).unwrap_or(input)),
            }
            return found;
        }
        let mut used = 0_usize;
        loop {
            let before = self.bytes.len();
            let rest = input.get(used..).unwrap_or_default();
            let step = rest.get(..STEP_BYTES.min(bytes_max.saturating_sub(before))).unwrap_or(rest);
            self.bytes.extend_from_slice(step);
            let bytes = std::mem::take(&mut self.bytes);
            let found = self.search(&bytes, bytes_max);
            self.bytes = bytes;
            match found {
                Gathered::More if step.len() < rest.len() => used = used.saturating_add(step.len()),
                Gathered::Whole(head_bytes) => {
                    self.bytes.truncate(head_bytes);
                    return Gathered::Whole(used.saturating_add(head_bytes.saturating_sub(before)));
                }
                found => return found,
            }
        }
    }

    /// The head that [`Gather::head`] found: its bytes are in the returned buffer or, when that is empty, at the start of
    /// the input. The buffer goes back by [`Gather::put_back`].
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes a buffer back for the next use.
    pub fn put_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        if buffer.capacity() > KEPT_BYTES_MAX {
            buffer = Vec::new();
        }
        self.bytes = buffer;
        self.scanned = 0;
        self.line_start = 0;
    }

    /// As [`Gather::head`], in bytes that begin with all that was searched before.
    fn search(&mut self, bytes: &[u8], bytes_max: usize) -> Gathered {
        let window = bytes.get(..bytes_max).unwrap_or(bytes);
        while let Some(at) = window.get(self.scanned..).and_then(|rest| memchr(b'\n', rest)) {
            let lf = self.scanned + at;
            let line = window.get(self.line_start..lf).unwrap_or_default();
            self.scanned = lf + 1;
            self.line_start = lf + 1;
            match line {
                b"\r" => return Gathered::Whole(lf + 1),
                [.., b'\r'] => {}
                _ => return Gathered::BareLf,
            }
        }
        self.scanned = window.len();
        if window.len() >= bytes_max { Gathered::TooLong } else { Gathered::More }
    }

    /// Searches the end of one line of at most `bytes_max` with its LF.
    pub fn line<'a>(&'a mut self, input: &'a [u8], bytes_max: usize) -> Line<'a> {
        let kept = self.bytes.len();
        match memchr(b'\n', input) {
            Some(at) if kept.saturating_add(at) >= bytes_max => Line::TooLong,
            None if kept.saturating_add(input.len()) >= bytes_max => Line::TooLong,
            Some(at) => {
                let end = input.get(..=at).unwrap_or(input);
                if kept == 0 {
                    return Line::Whole(end, end.len());
                }
                self.bytes.extend_from_slice(end);
                Line::Whole(&self.bytes, end.len())
            }
            None => {
                self.bytes.extend_from_slice(input);
                Line::More
            }
        }
    }
}
