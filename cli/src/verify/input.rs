//! The files of an export, line by line, with errors that say where and what to do.

use super::backend::{Format, Problem, records};
use super::{guess, url};
use crate::output::printable;
use anyhow::{Result, anyhow, bail, ensure};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testimony_core::evidence::verify::{Intake, Place, Projector, Stored};

/// Longest line, in bytes: the Collector's batches are smaller by far.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

const BUFFER_BYTES: usize = 1024 * 1024;

/// From when on, and how often, progress is told.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
const PROGRESS_EVERY_IN_LOGS: Duration = Duration::from_secs(30);

/// Bits of a place: the file, the line, the entry of the line. A line or an entry beyond is told as the last one that fits.
const FILE_BITS: u32 = 16;
const LINE_BITS: u32 = 32;
const ENTRY_BITS: u32 = 16;

/// Most files of one verification: places name them. A file for each hour of seven years.
const FILES_MAX: usize = 1 << FILE_BITS;

/// Where something stands: its file by number from 0, its line from 1, its entry of the line from 0.
fn place_of(file: u64, line: u64, entry: u64) -> Place {
    let part = |number: u64, bits: u32| number.min((1 << bits) - 1);
    part(file, FILE_BITS) << (LINE_BITS + ENTRY_BITS) | part(line, LINE_BITS) << ENTRY_BITS | part(entry, ENTRY_BITS)
}

/// Where something stands, for people.
pub fn place(files: &[PathBuf], place: Place) -> String {
    let file = usize::try_from(place >> (LINE_BITS + ENTRY_BITS)).unwrap_or(usize::MAX);
    let line = (place >> ENTRY_BITS) & ((1 << LINE_BITS) - 1);
    let entry = place & ((1 << ENTRY_BITS) - 1);
    let name = files.get(file).map_or_else(String::new, |file| name(file));
    let entry = if entry > 0 { format!(" entry {}", entry + 1) } else { String::new() };
    format!("{name}:{line}{entry}")
}

/// A file of the command line, for people.
pub fn name(file: &Path) -> String {
    match file.to_str() {
        Some("-") => "standard input".to_owned(),
        Some(name) => printable(&url::shown(name)),
        None => printable(&file.display().to_string()),
    }
}

/// Reads all files; gives the rows of their records and the bodies of ledgers, and tells the formats that were there.
///
/// # Errors
/// A file cannot be read, or is no export.
pub fn read(
    files: &[PathBuf],
    format: Option<Format>,
    intake: &mut Intake,
    row: &mut dyn FnMut(&[u8]) -> Result<()>,
    ledger: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Vec<Format>> {
    ensure!(
        files.len() <= FILES_MAX,
        "more than {FILES_MAX} files: join them, as `cat` does, or give them on standard input"
    );
    each(files, format, &mut |body, stored, projector, place| {
        let mut failed = Ok(());
        match body {
            Some(body) => intake.record(body, stored, projector, place, |bytes| {
                if failed.is_ok() {
                    failed = row(bytes);
                }
            }),
            None => intake.other(),
        }
        intake.take_ledger().iter().try_for_each(|body| ledger(body)).and(failed)
    })
}

/// Reads all files; gives their bodies.
///
/// # Errors
/// A file cannot be read, or is no export.
pub fn bodies(files: &[PathBuf], format: Option<Format>, give: &mut dyn FnMut(&str)) -> Result<()> {
    each(files, format, &mut |body, _, _, _| {
        body.into_iter().for_each(&mut *give);
        Ok(())
    })
    .map(drop)
}

type Take<'a> = &'a mut dyn FnMut(Option<&str>, &Stored<'_>, &Projector, Place) -> Result<()>;

fn each(files: &[PathBuf], format: Option<Format>, take: Take<'_>) -> Result<Vec<Format>> {
    let mut progress = Progress::new(files);
    let mut formats = Vec::new();
    for (number, path) in files.iter().enumerate() {
        let reader: Box<dyn Read> = if path == Path::new("-") {
            Box::new(std::io::stdin().lock())
        } else if let Some(url) = path.to_str().filter(|name| url::is_url(name)) {
            url::get(url).map_err(|error| anyhow!("{}: {error:#}", name(path)))?
        } else {
            let file = File::open(path).map_err(|error| anyhow!("{}: {error}", name(path)))?;
            if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
                bail!("{}: it is a folder: name the files in it", name(path));
            }
            Box::new(file)
        };
        let mut lines =
            Lines { reader: BufReader::with_capacity(BUFFER_BYTES, reader), line: Vec::new(), number: 0, offset: 0 };
        let file = u64::try_from(number).unwrap_or(u64::MAX);
        let read = read_file(&mut lines, file, format, &mut *take, &mut progress);
        formats.extend(read.map_err(|error| anyhow!("{}: {error:#}", name(path)))?);
    }
    progress.end();
    Ok(formats)
}

struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
    /// Where the line begins.
    offset: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end, and whether it has one.
    fn next(&mut self) -> Result<Option<bool>> {
        self.offset += self.line.len() as u64;
        self.line.clear();
        self.number += 1;
        let (number, offset) = (self.number, self.offset);
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.line);
        read.map_err(|error| anyhow!("line {number} (byte {offset}): {error}"))?;
        if self.line.len() > LINE_BYTES_MAX {
            bail!(
                "line {number} (byte {offset}): over {LINE_BYTES_MAX} bytes: an export has one record or batch on a line"
            );
        }
        Ok((!self.line.is_empty()).then(|| self.line.ends_with(b"\n")))
    }
}

fn read_file<R: BufRead>(
    lines: &mut Lines<R>,
    file: u64,
    format: Option<Format>,
    take: Take<'_>,
    progress: &mut Progress,
) -> Result<Option<Format>> {
    let mut known: Option<(Format, Projector)> = format.map(|format| (format, format.projector()));
    let mut failed = Ok(());
    let mut first = true;
    while let Some(whole) = lines.next()? {
        let mut line = lines.line.as_slice();
        if lines.number == 1 {
            if let Some(guess) = guess::bytes(line) {
                bail!("{guess}");
            }
            line = line.strip_prefix(guess::BYTE_ORDER_MARK).unwrap_or(line);
        }
        progress.line(lines.line.len());
        let at = At { line: lines.number, byte: lines.offset, first };
        let text = std::str::from_utf8(line).map_err(|error| {
            let at = At { byte: at.byte + error.valid_up_to() as u64, ..at };
            anyhow!("{at} is not UTF-8: the file is damaged, or no export: export it again")
        })?;
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        first = false;
        if known.is_none() {
            known = Format::of(text).map(|format| (format, format.projector()));
        }
        let Some((format, projector)) = &known else { return Err(unknown(text, whole, &at)) };
        let mut entry = 0;
        let read = records(*format, text, &mut |body, stored| {
            let place = place_of(file, lines.number, entry);
            entry += 1;
            progress.records += 1;
            if failed.is_ok() {
                failed = take(body, stored, projector, place);
            }
        });
        std::mem::replace(&mut failed, Ok(()))?;
        read.map_err(|problem| bad_line(&problem, *format, text, whole, &at))?;
    }
    Ok(known.map(|(format, _)| format))
}

/// Why the line is no export: of the first one perhaps what it is instead.
fn unknown(text: &str, whole: bool, at: &At) -> anyhow::Error {
    if let Some(guess) = at.guess(text) {
        return guess;
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return bad_json(&error, whole, at);
    }
    anyhow!(
        "{at} is JSON, but no export that is known: OTLP JSON lines of the Collector's file exporter, query output of VictoriaLogs, \
         Loki, ClickHouse or Elasticsearch as JSON lines; --format names it where it is not recognised"
    )
}

fn bad_line(problem: &Problem, format: Format, text: &str, whole: bool, at: &At) -> anyhow::Error {
    if let Some(guess) = at.guess(text) {
        return guess;
    }
    match problem {
        Problem::Json(error) if error.is_data() => {
            anyhow!("{at} is JSON, but not of the format {format:?}: {}", guess::reason(error))
        }
        Problem::Json(error) => bad_json(error, whole, at),
        Problem::Shape(problem) => anyhow!("{at} is not of the format {format:?}: {problem}"),
    }
}

fn bad_json(error: &serde_json::Error, whole: bool, at: &At) -> anyhow::Error {
    if error.is_eof() && !whole {
        anyhow!("{at} is cut off: the export was still being written, or the copy is not whole: export it again")
    } else {
        anyhow!("{at} is no JSON, or damaged: {}: export it again", guess::reason(error))
    }
}

/// Where a line stands.
struct At {
    line: u64,
    byte: u64,
    /// No line before it holds anything.
    first: bool,
}

impl At {
    /// Only the beginning of a file tells what it is.
    fn guess(&self, text: &str) -> Option<anyhow::Error> {
        let guess = guess::text(text).filter(|_| self.first)?;
        Some(anyhow!("{self} {guess}"))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} (byte {})", self.line, self.byte)
    }
}

/// Tells on standard error how far it is.
struct Progress {
    started: Instant,
    last: Option<Instant>,
    bytes: u64,
    records: u64,
    total: Option<u64>,
    terminal: bool,
}

impl Progress {
    fn new(files: &[PathBuf]) -> Self {
        let size = |path: &PathBuf| std::fs::metadata(path).ok().filter(|metadata| metadata.is_file()).map(|m| m.len());
        Self {
            started: Instant::now(),
            last: None,
            bytes: 0,
            records: 0,
            total: files.iter().map(size).sum(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn line(&mut self, bytes: usize) {
        // The clock is not asked for every line.
        let Some(line) = (if self.passes(bytes) { self.due(Instant::now()) } else { None }) else { return };
        // That nobody reads it changes nothing.
        let mut err = std::io::stderr().lock();
        let _ = if self.terminal { write!(err, "\r\x1b[2K{line}") } else { writeln!(err, "{line}") };
    }

    /// Counts bytes; whether another MiB was begun with them.
    fn passes(&mut self, bytes: usize) -> bool {
        let before = self.bytes;
        self.bytes += bytes as u64;
        before >> 20 != self.bytes >> 20
    }

    /// What is told, if it is time to.
    fn due(&mut self, now: Instant) -> Option<String> {
        let every = if self.terminal { PROGRESS_EVERY } else { PROGRESS_EVERY_IN_LOGS };
        let due = self.last.map_or(self.started + PROGRESS_AFTER, |last| last + every);
        if now < due {
            return None;
        }
        self.last = Some(now);
        let share = self.total.filter(|total| *total > 0).map(|total| format!(" of {} MB", total >> 20));
        Some(format!("read {} records, {} MB{}", self.records, self.bytes >> 20, share.unwrap_or_default()))
    }

    fn end(&self) {
        if self.terminal && self.last.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testimony_core::evidence::verify::Scope;

    #[test]
    fn places_name_their_file_line_and_entry() {
        let files: Vec<PathBuf> = (0..FILES_MAX).map(|number| format!("{number}.jsonl").into()).collect();
        for (file, line, entry, told) in [
            (0, 1, 0, "0.jsonl:1"),
            (4_095, 7, 1, "4095.jsonl:7 entry 2"),
            (4_100, 7, 0, "4100.jsonl:7"),
            (8_759, 4_000_000_000, 65_535, "8759.jsonl:4000000000 entry 65536"),
            (65_535, 1, 0, "65535.jsonl:1"),
            // What does not fit says nothing of another file or line.
            (3, 1 << 40, 1 << 20, "3.jsonl:4294967295 entry 65536"),
        ] {
            assert_eq!(place(&files, place_of(file, line, entry)), told);
        }
    }

    #[test]
    fn more_files_than_places_can_name_are_refused() {
        let files = vec![PathBuf::from("/nowhere/x.jsonl"); FILES_MAX + 1];
        let read = |files: &[PathBuf]| {
            let read = super::read(files, None, &mut Intake::of(&Scope::default()), &mut |_| Ok(()), &mut |_| Ok(()));
            format!("{:#}", read.expect_err("no file"))
        };
        assert!(read(&files).starts_with("more than 65536 files: join them"));
        assert!(read(&files[1..]).starts_with("/nowhere/x.jsonl: "));
    }

    #[test]
    fn progress_is_told_after_a_while_and_not_too_often() {
        let known = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(Progress::new(std::slice::from_ref(&known)).total.is_some_and(|total| total > 0));
        assert_eq!(Progress::new(&[known, "-".into()]).total, None, "nobody knows how much comes");
        let mut progress = Progress { total: Some(4 << 20), terminal: false, records: 3, ..Progress::new(&[]) };
        assert!(!progress.passes((1 << 20) - 1) && progress.passes(1) && !progress.passes(1));
        assert_eq!(progress.due(progress.started), None, "it may be over at once");
        let later = progress.started + PROGRESS_AFTER;
        assert_eq!(progress.due(later).as_deref(), Some("read 3 records, 1 MB of 4 MB"));
        assert_eq!(progress.due(later + PROGRESS_EVERY), None, "a log is told more rarely");
        (progress.terminal, progress.total) = (true, None);
        assert_eq!(progress.due(later + PROGRESS_EVERY).as_deref(), Some("read 3 records, 1 MB"));
        assert_eq!(progress.due(later + PROGRESS_EVERY), None);
    }
}
