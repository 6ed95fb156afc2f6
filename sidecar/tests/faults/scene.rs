//! One run: everything that stands around a sidecar, and the count at the end.

use super::client::{Asked, Load};
use super::export::Export;
use super::oracle::{Count, Request, Row, count};
use super::origin::Origin;
use super::process::{DEADLINE, Sidecar};
use super::receiver::{Fault, Receiver, Weather};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use testimony_core::evidence::verify::{Report, Verdict};

/// Clients of each run.
pub const CLIENTS: usize = 4;
/// Pause of a client after each request: some 1,000 requests a second, all together.
const PAUSE: Duration = Duration::from_millis(3);
/// How long nothing more may come until the export counts as settled.
const QUIET: Duration = Duration::from_millis(1500);

/// Everything around a sidecar.
pub struct Scene {
    /// The sidecar.
    pub sidecar: Sidecar,
    /// Its sink.
    pub sink: Receiver,
    origin: Origin,
    name: &'static str,
    folder: PathBuf,
}

/// What a run came to.
pub struct Outcome {
    /// The count.
    pub count: Count,
    /// What `testimony verify` says.
    pub report: Report,
    /// The client's log.
    pub asked: Vec<Asked>,
    /// Where the export and the sidecar's log stand.
    folder: PathBuf,
    log: String,
    export: Export,
}

impl Scene {
    /// With a sidecar that runs.
    pub fn start(name: &'static str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (origin, sink) = (Origin::start(), Receiver::start());
        let mut sidecar = Sidecar::new(&folder, origin.address, sink.address, "");
        sidecar.start();
        Self { sidecar, sink, origin, name, folder }
    }

    /// Clients begin.
    pub fn load(&self) -> Load {
        Load::start(self.sidecar.inbound, CLIENTS, PAUSE, 0)
    }

    /// Waits until so many more requests were sent.
    pub fn more(&self, load: &Load, requests: u64) {
        let target = load.sent() + requests;
        self.sidecar.until("clients send", |_| load.sent() >= target);
    }

    /// Ends the load, lets the sink have what there is, ends the sidecar, and counts. `exact`: gaps must know their number.
    pub fn end(mut self, load: Load, exact: bool) -> Outcome {
        let asked = load.stop();
        self.sink.set(Weather::Always(Fault::None));
        self.settle(asked.len() as u64);
        let status = self.sidecar.terminate();
        assert!(status.success(), "{}: the sidecar ended with {status}\n{}", self.name, self.sidecar.log());
        let reached = self.origin.reached();
        let request = |one: &Asked| Request {
            answered: one.answered.is_some(),
            reached: reached.contains(&one.path),
            path: one.path.clone(),
        };
        let requests: Vec<Request> = asked.iter().map(request).collect();
        let export = Export(self.sink.taken());
        let count = count(&requests, &export.rows(), exact);
        let report = export.verify();
        println!("{}: {count}; verdict {}, {:?}", self.name, report.verdict, self.sink.seen());
        Outcome { count, report, asked, folder: self.folder.clone(), log: self.sidecar.log(), export }
    }

    /// Waits until the sink has all, or nothing more comes.
    fn settle(&self, asked: u64) {
        let (mut last, mut since) = (self.sink.exchanges(), Instant::now());
        let end = since + DEADLINE;
        while Instant::now() < end {
            let now = self.sink.exchanges();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            let waiting = self.sidecar.metric("testimony_export_queue_bytes{sink=\"default\"}");
            if waiting == 0 && (now >= asked || since.elapsed() > QUIET) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Outcome {
    /// Every sealed record, copies too.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.export.rows().into_iter()
    }

    /// Fails, with everything that explains it, unless this holds.
    pub fn check(&self, what: &str, holds: bool) {
        if !holds {
            let file = self.folder.join("export.jsonl");
            self.export.write(&file);
            let findings: Vec<String> = self.report.findings.iter().take(20).map(ToString::to_string).collect();
            panic!(
                "{what}\n{}\nwrong: {:#?}\nlost: {:?}\nfindings:\n{}\nexport: {}\nlog:\n{}",
                self.count,
                self.count.wrong,
                self.count.lost.iter().take(20).collect::<Vec<_>>(),
                findings.join("\n"),
                file.display(),
                self.log
            );
        }
    }

    /// What always holds: everything is recorded or declared, and nothing twice; and the run was one.
    pub fn check_counts(&self) {
        self.check("client log = records + gaps", self.count.wrong.is_empty());
        self.check("the clients sent something, and it was recorded", self.count.recorded > 50);
        self.check(
            "no finding but those that are allowed",
            self.report.findings.iter().all(|one| one.verdict < Verdict::Projection) && self.report.more_findings == 0,
        );
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if std::env::var_os("TESTIMONY_FAULTS_KEEP").is_some() {
            self.export.write(&self.folder.join("export.jsonl"));
            println!("kept: {}", self.folder.display());
        } else if !std::thread::panicking() {
            // Only tidiness: cargo's folder for tests may keep it.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
