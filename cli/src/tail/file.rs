//! Records of a file that the Collector's file exporter writes, and of what is appended to it.

use super::Printer;
use super::record::{Entry, from_otlp};
use crate::verify::guess;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Between two looks at the file.
const POLL: Duration = Duration::from_millis(250);

/// Read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Longest line, in bytes: the Collector's batches are smaller by far.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Shows the records of a file; with `follow` those too that come.
pub async fn run(path: &Path, follow: bool, printer: &mut Printer) -> Result<()> {
    let name = path.display().to_string();
    if path == Path::new("-") {
        let mut lines = Lines::default();
        let read = drain(&mut std::io::stdin().lock(), &mut lines, printer);
        let read = read.and_then(|more| if more { lines.end(false, printer) } else { Ok(false) });
        return read.map(|_| ()).context("standard input");
    }
    let mut file = File::open(path).with_context(|| name.clone())?;
    let mut lines = Lines::default();
    loop {
        if !drain(&mut file, &mut lines, printer).with_context(|| name.clone())? {
            return Ok(());
        }
        if !follow {
            return lines.end(false, printer).with_context(|| name).map(|_| ());
        }
        tokio::time::sleep(POLL).await;
        if let Some(next) = replaced(path, &mut file).with_context(|| name.clone())? {
            // What was written between the last look and the rotation.
            if !drain(&mut file, &mut lines, printer)? || !lines.end(false, printer)? {
                return Ok(());
            }
            file = next;
            lines = Lines::default();
        }
    }
}

/// The file that took this one's name, if one did; a file that was cut is read from its start.
fn replaced(path: &Path, file: &mut File) -> Result<Option<File>> {
    let next = match File::open(path) {
        Ok(next) => next,
        // In the middle of a rotation.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (old, new) = (file.metadata()?, next.metadata()?);
    if (old.dev(), old.ino()) != (new.dev(), new.ino()) {
        return Ok(Some(next));
    }
    if new.len() < file.stream_position()? {
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(None)
}

/// Reads up to the end; `false`: enough was printed.
fn drain(from: &mut impl Read, lines: &mut Lines, printer: &mut Printer) -> Result<bool> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => return Ok(true),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if !lines.feed(chunk.get(..count).unwrap_or_default(), printer)? {
            return Ok(false);
        }
    }
}

/// The start of a line that is not whole yet.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    number: u64,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], printer: &mut Printer) -> Result<bool> {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.partial.extend_from_slice(line);
            bytes = rest.get(1..).unwrap_or_default();
            if !self.end(true, printer)? {
                return Ok(false);
            }
        }
        self.partial.extend_from_slice(bytes);
        anyhow::ensure!(self.partial.len() <= LINE_BYTES_MAX, "line {}: over {LINE_BYTES_MAX} bytes", self.number + 1);
        Ok(true)
    }

    /// Shows the line that is whole now, or that the file ends with.
    fn end(&mut self, whole: bool, printer: &mut Printer) -> Result<bool> {
        let bytes = std::mem::take(&mut self.partial);
        self.number += 1;
        let mut line = bytes.as_slice();
        if self.number == 1 {
            line = line.strip_prefix(guess::BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(true);
        }
        for entry in &self.entries(line, whole)? {
            if !printer.show(entry)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entries(&self, line: &[u8], whole: bool) -> Result<Vec<Entry>> {
        let first = self.number == 1;
        if let Some(guess) = guess::bytes(line).filter(|_| first) {
            bail!("{guess}");
        }
        let number = self.number;
        let why = match std::str::from_utf8(line) {
            Err(error) => error.to_string(),
            Ok(text) => match from_otlp(text) {
                Ok(entries) => return Ok(entries),
                Err(error) => {
                    if let Some(guess) = guess::text(text.trim_start()).filter(|_| first) {
                        bail!("line {number} {guess}");
                    }
                    if error.is_eof() && !whole {
                        bail!(
                            "line {number} is cut off: the file is still being written (--follow waits for the rest), or the copy is not \
                             whole"
                        );
                    }
                    guess::reason(&error)
                }
            },
        };
        bail!(
            "line {number} is no OTLP in JSON: set `format: json` and no compression at the Collector's file exporter: {why}"
        )
    }
}
