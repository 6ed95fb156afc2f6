//! The files of an export, line by line, with errors that say where and what to do.

use super::backend::{Format, Problem, records};
use super::given::not_opened;
use super::{guess, url};
use crate::output::{printable, tell};
use anyhow::{Result, anyhow, bail, ensure};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testimony_core::evidence::verify::{Intake, Place, Projector, Stored};

/// Longest line that is read, in bytes: the Collector's batches are smaller by far. Whoever may send OTLP can make a longer one.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most characters of a line that are shown.
const TEXT_CHARACTERS_SHOWN: usize = 200;

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
    each(files, format, &mut |entry, place| {
        let mut failed = Ok(());
        match entry {
            Entry::Record(Some(body), stored, projector) => intake.record(body, stored, projector, place, |bytes| {
                if failed.is_ok() {
                    failed = row(bytes);
                }
            }),
            Entry::Record(None, ..) => intake.other(),
            Entry::LongLine => intake.not_read(&long_line(), place),
        }
        intake.take_ledger().iter().try_for_each(|body| ledger(body)).and(failed)
    })
}

/// Reads all files; gives their bodies.
///
/// # Errors
/// A file cannot be read, or is no export.
pub fn bodies(files: &[PathBuf], format: Option<Format>, give: &mut dyn FnMut(&str)) -> Result<()> {
    each(files, format, &mut |entry, at| {
        match entry {
            Entry::Record(body, ..) => body.into_iter().for_each(&mut *give),
            Entry::LongLine => tell(format_args!("{}: {}", place(files, at), long_line())),
        }
        Ok(())
    })
    .map(drop)
}

/// What an input holds.
enum Entry<'a, 'b> {
    /// A log entry: its body, and what stands beside it.
    Record(Option<&'a str>, &'a Stored<'b>, &'a Projector),
    /// A line that is too long to be read.
    LongLine,
}

fn long_line() -> String {
    format!(
        "a line of over {LINE_BYTES_MAX} bytes is not read, whatever it holds: an export has one record or batch on a line"
    )
}

type Take<'a> = &'a mut dyn FnMut(Entry<'_, '_>, Place) -> Result<()>;

fn each(files: &[PathBuf], format: Option<Format>, take: Take<'_>) -> Result<Vec<Format>> {
    let mut progress = Progress::new(files);
    let mut formats = Vec::new();
    for (number, path) in files.iter().enumerate() {
        let reader: Box<dyn Read> = if path == Path::new("-") {
            Box::new(std::io::stdin().lock())
        } else if let Some(url) = path.to_str().filter(|name| url::is_url(name)) {
            url::get(url).map_err(|error| told(path, &error))?
        } else {
            let file = File::open(path).map_err(|error| anyhow!("{}: {:#}", name(path), not_opened(path, &error)))?;
            if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
                bail!("{}: it is a folder: name the files in it", name(path));
            }
            Box::new(file)
        };
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, reader), LINE_BYTES_MAX);
        let file = u64::try_from(number).unwrap_or(u64::MAX);
        let read = read_file(&mut lines, file, format, &mut *take, &mut progress);
        formats.extend(read.map_err(|error| told(path, &error))?);
        // Among others it would be passed over without a word.
        if files.len() > 1 && lines.empty {
            tell(format_args!("{}: it holds nothing: if its time has records, export it again", name(path)));
        }
    }
    progress.end();
    Ok(formats)
}

/// What is wrong with a file. A server may say in its answer what it was asked.
fn told(path: &Path, error: &anyhow::Error) -> anyhow::Error {
    let text = url::without_query(path.to_str().unwrap_or_default(), format!("{error:#}"));
    anyhow!("{}: {text}", name(path))
}

struct Lines<R> {
    reader: R,
    /// Longest line that is read, in bytes.
    max: usize,
    line: Vec<u8>,
    number: u64,
    /// Where the line begins.
    offset: u64,
    /// Bytes of the line that were not read.
    skipped: u64,
    /// No line so far holds anything.
    empty: bool,
}

/// How a line ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Line,
    /// With the file: perhaps it is not whole.
    File,
    /// It is longer than what was read.
    Further,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, max: usize) -> Self {
        Self { reader, max, line: Vec::new(), number: 0, offset: 0, skipped: 0, empty: true }
    }

    /// The next line; of one that is too long only the begin.
    fn next(&mut self) -> Result<Option<End>> {
        self.offset += self.line.len() as u64 + std::mem::take(&mut self.skipped);
        self.line.clear();
        self.number += 1;
        self.read().map_err(|error| anyhow!("line {} (byte {}): {error}", self.number, self.offset))
    }

    fn read(&mut self) -> std::io::Result<Option<End>> {
        (&mut self.reader).take(self.max as u64 + 1).read_until(b'\n', &mut self.line)?;
        let whole = self.line.ends_with(b"\n");
        if self.line.len() > self.max {
            self.skipped = if whole { 0 } else { self.reader.skip_until(b'\n')? as u64 };
            return Ok(Some(End::Further));
        }
        Ok((!self.line.is_empty()).then_some(if whole { End::Line } else { End::File }))
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
    while let Some(end) = lines.next()? {
        let mut line = lines.line.as_slice();
        if lines.number == 1 {
            if let Some(guess) = guess::bytes(line) {
                bail!("{guess}");
            }
            line = line.strip_prefix(guess::BYTE_ORDER_MARK).unwrap_or(line);
        }
        progress.line(lines.line.len());
        let at = At { line: lines.number, byte: lines.offset, first: lines.empty };
        if end == End::Further {
            let begin = line.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            if let Some(guess) = at.guess(begin.trim_start()) {
                return Err(guess);
            }
            lines.empty = false;
            take(Entry::LongLine, place_of(file, lines.number, 0))?;
            continue;
        }
        let whole = end == End::Line;
        let text = std::str::from_utf8(line).map_err(|error| {
            let at = At { byte: at.byte + error.valid_up_to() as u64, ..at };
            anyhow!("{at} is not UTF-8: the file is damaged, or no export: export it again")
        })?;
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        lines.empty = false;
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
                failed = take(Entry::Record(body, stored, projector), place);
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
        return bad_json(&error, text, whole, at);
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
        Problem::Json(error) => bad_json(error, text, whole, at),
        Problem::Shape(problem) => anyhow!("{at} is not of the format {format:?}: {problem}"),
    }
}

fn bad_json(error: &serde_json::Error, text: &str, whole: bool, at: &At) -> anyhow::Error {
    if error.is_eof() && !whole {
        return anyhow!(
            "{at} is cut off: the export was still being written, or the copy is not whole: export it again"
        );
    }
    // What a backend says of its own, such as that the query took too long. Records stand in no error, nor do parts of one.
    let said: String = text.chars().take(TEXT_CHARACTERS_SHOWN).collect();
    let is_record = text.starts_with('{') || text.contains("\":");
    let said = if is_record { String::new() } else { format!("; it begins: {}", printable(&said)) };
    anyhow!("{at} is no JSON, or damaged: {}: export it again{said}", guess::reason(error))
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
    fn a_line_that_is_too_long_is_told_and_what_comes_behind_it_is_read() {
        let log = r#"{"_msg":"GET /"}"#;
        let long = format!(r#"{{"_msg":"{}"}}"#, "\\u0001".repeat(20));
        let read = |text: &str| {
            let mut lines = Lines::new(BufReader::with_capacity(7, text.as_bytes()), 100);
            let mut given = Vec::new();
            let take = &mut |entry: Entry<'_, '_>, at| {
                let what = match entry {
                    Entry::Record(body, ..) => body.unwrap_or_default().to_owned(),
                    Entry::LongLine => "too long".to_owned(),
                };
                given.push(format!("{what}{}", place(&["".into()], at)));
                Ok(())
            };
            let read = read_file(&mut lines, 0, None, take, &mut Progress::new(&[]));
            (read.map(drop).map_err(|error| error.to_string()), given)
        };
        let told = |text: &str, wanted: &[&str]| {
            assert_eq!(read(text), (Ok(()), wanted.iter().map(|line| (*line).to_owned()).collect()))
        };
        told(&format!("{log}\n{long}\n{log}\n{long}"), &["GET /:1", "too long:2", "GET /:3", "too long:4"]);
        told(&format!("{long}\n\n{log}"), &["too long:1", "GET /:3"]);
        // The end of the line may be what is too much.
        let just = format!("{log}{}", " ".repeat(100 - log.len()));
        told(&format!("{just}\n{log}\n"), &["too long:1", "GET /:2"]);
        told(&just, &["GET /:1"]);
        // Places of errors count what was not read.
        let error = read(&format!("{long}\nx")).0.expect_err("no JSON");
        assert!(error.starts_with(&format!("line 2 (byte {}) is no JSON", long.len() + 1)), "{error}");
        // What is no export at all is said.
        let error = read(&format!("[{long}]")).0.expect_err("an array");
        assert!(error.contains("JSON array"), "{error}");
    }

    #[test]
    fn what_a_backend_says_instead_of_records_is_shown_and_a_damaged_record_is_not() {
        let text = |line: &str| {
            let json = serde_json::from_str::<serde::de::IgnoredAny>(line).expect_err("no JSON");
            bad_json(&json, line, true, &At { line: 7, byte: 99, first: false }).to_string()
        };
        assert_eq!(
            text("cannot execute query [*]: \u{1b}[2Jtimeout"),
            "line 7 (byte 99) is no JSON, or damaged: expected value: export it again; it begins: cannot execute query [*]: \u{fffd}[2Jtimeout"
        );
        assert_eq!(text(&"x".repeat(10_000)).matches('x').count(), "expected export".matches('x').count() + 200);
        for part in ["{\"_msg\":\"alice\"", "\u{feff}{\"_msg\":\"alice\"}", "ser\":\"alice\",\"path\":\"/\"}"] {
            assert!(!text(part).contains("alice"), "{part}");
        }
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
