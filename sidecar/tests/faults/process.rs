//! The sidecar as it runs in a pod: a supervisor and its worker, to be killed.

use super::panics;
use super::ports::free_port;
use super::shim::Shim;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No condition of these tests takes longer, on any machine.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// The admin port answers at once, if a worker is there to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Lines of the sidecar's log that a failed test shows.
const LOG_LINES: usize = 40;
/// Where the scheduling policy stands in `stat` of `proc(5)`, after the name.
const STAT_POLICY: usize = 38;

/// A sidecar, running or between two runs.
pub struct Sidecar {
    /// Where clients connect.
    pub inbound: SocketAddr,
    admin: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Its clock and its disk.
    pub shim: Shim,
}

impl Sidecar {
    /// Writes its configuration into this folder; `more` is YAML of its top level.
    pub fn new(folder: &Path, origin: SocketAddr, sink: SocketAddr, more: &str) -> Self {
        let [inbound, admin] = [free_port(), free_port()];
        let yaml = format!(
            "service: {{name: shop, namespace: shop}}\nlisten: {{inbound: '{inbound}', admin: '{admin}'}}\n\
             forward: '{origin}'\nlog: info\n\
             sinks: [{{name: default, endpoint: 'http://{sink}', timeoutMs: 1000}}]\n{more}\n"
        );
        let config = folder.join("sidecar.yaml");
        std::fs::write(&config, yaml).expect("a file");
        let shim = Shim::new(folder, &folder.join("spool"));
        Self { inbound, admin, config, log: folder.join("sidecar.log"), child: None, shim }
    }

    /// Starts it; returns when it is ready.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_testimony-sidecar"));
        command.args(["run", "--config"]).arg(&self.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.envs(self.shim.variables());
        self.child = Some(command.spawn().expect("the sidecar starts"));
        let mut child = self.child.take();
        self.until("it is ready", |this| {
            let ended = child.as_mut().and_then(|child| child.try_wait().expect("wait"));
            assert!(ended.is_none(), "it ended at once: {ended:?}\n{}", this.log());
            this.is_ready()
        });
        self.child = child;
    }

    /// The worker's process id; `None` while there is none.
    pub fn worker(&self) -> Option<i32> {
        let pid = self.child.as_ref()?.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Waits for a worker that is not this one, and has taken over.
    pub fn successor(&self, of: i32) -> i32 {
        self.until("another worker runs", |this| this.worker().is_some_and(|pid| pid != of) && this.is_ready());
        self.worker().unwrap_or(of)
    }

    /// A worker runs, and has its spool or does without. The supervisor's ports are open before that.
    fn is_ready(&self) -> bool {
        self.get("/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    }

    /// Kills the worker alone.
    pub fn kill_worker(&self) -> i32 {
        self.until("a worker runs", |this| this.worker().is_some());
        let pid = self.worker().expect("a worker");
        // SAFETY: plain system call; the process is a child of our child. It may be gone already, which is as well.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        pid
    }

    /// Kills the supervisor, and the worker with it; returns when both are gone.
    pub fn kill_all(&mut self) {
        let worker = self.worker();
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
        if let Some(pid) = worker {
            self.until("the worker is gone", |_| !is_alive(pid));
        }
    }

    /// Asks it to end, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        // SAFETY: plain system call; the process is our child and not waited for yet.
        assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).expect("pid"), libc::SIGTERM) }, 0, "SIGTERM");
        let mut status = None;
        self.until("it ends", |_| {
            status = child.try_wait().expect("wait");
            status.is_some()
        });
        self.expect_no_panic();
        status.expect("ended")
    }

    /// The sum of a metric over all labels; 0 if it is absent. A worker that is being started is waited for.
    pub fn metric(&self, name: &str) -> u64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            rest.rsplit(' ').next()?.parse::<u64>().ok()
        };
        if self.child.is_none() {
            return 0;
        }
        let mut sum = None;
        self.until("it tells its metrics", |this| {
            sum = this.get("/metrics").ok().map(|answer| answer.lines().filter_map(value).sum());
            sum.is_some()
        });
        sum.unwrap_or_default()
    }

    /// What the admin port answers, head and all.
    fn get(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        // Whoever listens may die before it answers, and another one comes.
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// No thread of it ever panicked, in whichever of its processes: most panics end none.
    fn expect_no_panic(&self) {
        // Who has no log was never started, or is done with.
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        if let Some(said) = panics::first(&text) {
            panic!("something panicked\n{said}\nat the end of the log:\n{}", self.log());
        }
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Peak of the worker's resident memory since it started, in KiB.
    pub fn memory_peak_kib(&self) -> u64 {
        let pid = self.worker().expect("a worker");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// By which policy (`sched(7)`) the worker's thread of this name is scheduled; `None`: there is none.
    pub fn scheduling(&self, thread: &str) -> Option<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.worker()?)).ok()?;
        let found = tasks.flatten().find_map(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            let (name, values) = stat.split_once('(')?.1.rsplit_once(") ")?;
            (name == thread).then(|| values.split(' ').nth(STAT_POLICY)?.parse().ok())
        });
        found.flatten()
    }

    /// Waits until a number has come so far; however long, if only it grows.
    pub fn until_it_grows_to(&self, what: &str, target: u64, mut number: impl FnMut() -> u64) {
        let (mut last, mut end) = (0, Instant::now() + DEADLINE);
        loop {
            let now = number();
            if now >= target {
                return;
            }
            if now > last {
                (last, end) = (now, Instant::now() + DEADLINE);
            }
            assert!(Instant::now() < end, "not in time: {what}: {now} of {target}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a condition.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(self) {
            assert!(Instant::now() < end, "not in time: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its worker goes with it. It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if !thread::panicking() {
            self.expect_no_panic();
        }
    }
}

/// The first thread of a process that was killed is a zombie while another one still holds its files.
fn is_alive(pid: i32) -> bool {
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    !zombie || std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}
