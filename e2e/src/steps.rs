//! Steps with a number, a time and a log of their own; a failed step is told with the tail of its log.

use anyhow::{Context, Result, anyhow};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a running step says that it is alive where standard output is no terminal, in seconds.
const PROGRESS_PLAIN_SECONDS: u64 = 30;
/// How many lines of a failed step's log are shown.
const FAILED_TAIL_LINES: usize = 25;

/// The steps of one command.
pub struct Steps {
    total: usize,
    done: usize,
    logs: PathBuf,
    started: Instant,
}

impl Steps {
    /// Starts a list of `total` steps whose logs stand in `logs`.
    pub fn new(total: usize, logs: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        println!("Logs: {}", logs.display());
        Ok(Self { total, done: 0, logs, started: Instant::now() })
    }

    /// Time since the first step began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs one step; `slug` names its log.
    pub fn run<T>(&mut self, title: &str, slug: &str, work: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
        self.done += 1;
        let label = format!("[{}/{}] {title}", self.done, self.total.max(self.done));
        let log = Log::create(&self.logs.join(format!("{slug}.log")))?;
        let started = Instant::now();
        let ticker = Ticker::start(label.clone(), Arc::clone(&log.note));
        let result = work(&log);
        ticker.stop();
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(value) => {
                let note = log.note();
                let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
                println!("{label} ... {seconds:.1} s{note}");
                Ok(value)
            }
            Err(error) => {
                println!("{label} ... FAILED after {seconds:.1} s");
                let tail = tail(&log.path, FAILED_TAIL_LINES);
                if !tail.is_empty() {
                    println!("---- last lines of {}", log.path.display());
                    println!("{tail}");
                    println!("----");
                }
                Err(error.context(format!("step \"{title}\" failed; its log is {}", log.path.display())))
            }
        }
    }
}

/// Prints the running time of a step until it is stopped.
struct Ticker {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Ticker {
    fn start(label: String, note: Arc<Mutex<String>>) -> Self {
        let (stop, stopped) = channel();
        let terminal = std::io::stdout().is_terminal();
        let every = Duration::from_secs(if terminal { 1 } else { PROGRESS_PLAIN_SECONDS });
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            let mut shown = false;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                let note = note.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let line = format!("{label} ... {} s {note}", started.elapsed().as_secs());
                if terminal {
                    print!("\r\x1b[2K{line}");
                    shown = true;
                } else {
                    println!("{line}");
                }
                // Progress is a courtesy: a closed standard output must not fail the step.
                let _ = std::io::stdout().flush();
            }
            if shown {
                print!("\r\x1b[2K");
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// The log of one step.
pub struct Log {
    file: Mutex<File>,
    path: PathBuf,
    note: Arc<Mutex<String>>,
}

impl Log {
    /// Creates or empties the log at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file: Mutex::new(file), path: path.to_path_buf(), note: Arc::default() })
    }

    /// Sets what stands behind the running time, and at the end behind the step's time.
    pub fn set_note(&self, note: impl Into<String>) {
        let note = note.into();
        self.line(&format!("# {note}"));
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    fn note(&self) -> String {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a line.
    pub fn line(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk shows in the step itself; the log must not hide that error behind its own.
        let _ = writeln!(file, "{line}");
    }

    fn handle(&self) -> Result<Stdio> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Stdio::from(file.try_clone()?))
    }

    /// Runs a command with its output in the log.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let shown = show(command);
        self.line(&format!("$ {shown}"));
        let status = command
            .stdin(Stdio::null())
            .stdout(self.handle()?)
            .stderr(self.handle()?)
            .status()
            .with_context(|| format!("cannot run {shown}"))?;
        if status.success() { Ok(()) } else { Err(anyhow!("`{shown}` ended with {status}")) }
    }

    /// Runs a command and returns its standard output; standard error goes to the log.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        self.line(&format!("$ {}", show(command)));
        command.stderr(self.handle()?);
        let text = output(command)?;
        self.line(&text);
        Ok(text)
    }
}

/// A command as a line for people.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut line = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    const SHOWN_CHARS_MAX: usize = 300;
    if let Some((end, _)) = line.char_indices().nth(SHOWN_CHARS_MAX) {
        line.truncate(end);
        line.push_str(" ...");
    }
    line
}

/// Runs a command and returns its standard output; an error carries what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let result = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", show(command)))?;
    checked(command, &result)
}

/// Runs a command with `input` on its standard input and returns its standard output.
pub fn output_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let result = std::thread::scope(|scope| {
        // A program that ends early breaks the pipe; its exit status tells more than that error would.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output()
    })?;
    checked(command, &result)
}

fn checked(command: &Command, result: &Output) -> Result<String> {
    if result.status.success() {
        return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&result.stderr);
    Err(anyhow!("`{}` ended with {}: {}", show(command), result.status, stderr.trim()))
}

/// The last lines of a file; empty where it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Asks `ready` every `every` until it says yes. The error names `what` and carries the last reason.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    every: Duration,
    mut ready: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let reason = match ready() {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= deadline {
            let message = format!("{what}: not within {} s", deadline.as_secs());
            return Err(reason.map_or_else(|| anyhow!(message.clone()), |error| error.context(message.clone())));
        }
        std::thread::sleep(every);
    }
}
