//! One run: everything that stands around a sidecar, and the count at the end.

use super::client::{Asked, Load};
use super::collector::Relay;
use super::export::Export;
use super::oracle::{Count, Request, Row, Typ, count};
use super::origin::Origin;
use super::process::{DEADLINE, Sidecar};
use super::receiver::{Fault, Receiver, Weather};
use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testimony_core::evidence::verify::{Report, Verdict};
use testimony_sidecar::spool::disk::Folder;
use testimony_sidecar::spool::keys::Keys;
use testimony_sidecar::spool::recover::{Scanned, Unreadable, scan};
use testimony_sidecar::spool::{Boot, Place, SinkRule};

/// Clients of each run.
pub const CLIENTS: usize = 4;
/// Pause of a client after each request: some 1,000 requests a second, all together.
const PAUSE: Duration = Duration::from_millis(3);
/// Pause of the only client of a sparse load.
const SPARSE_PAUSE: Duration = Duration::from_millis(50);
/// Limit of the spool where a test does not fill it, in bytes.
const SPOOL_BYTES: u64 = 256 * 1024 * 1024;
/// What a heavy request's path is longer by: near the most that a record takes.
const HEAVY_BYTES: usize = 4000;
/// Data threads, where it does not matter that a stream of the second may begin at any time.
const DATA_THREADS: usize = 2;
/// How long nothing more may come until the export counts as settled.
const QUIET: Duration = Duration::from_millis(1500);

/// Name of the only sink.
const SINK: &str = "default";
/// Counts the exchanges that gaps tell of.
const GAP_METRIC: &str = "testimony_gap_exchanges_total";

/// Everything around a sidecar.
pub struct Scene {
    /// The sidecar.
    pub sidecar: Sidecar,
    /// Its sink.
    pub sink: Receiver,
    origin: Origin,
    name: &'static str,
    folder: PathBuf,
    /// Every gap has to know its number.
    exact: bool,
    /// What the sidecar was answered for may be on its way to the sink still.
    is_relayed: bool,
}

/// What a run came to.
pub struct Outcome {
    /// The count.
    pub count: Count,
    /// What `testimony verify` says.
    pub report: Report,
    /// The client's log.
    pub asked: Vec<Asked>,
    /// Exchanges of gaps, as the metrics of the last process count them.
    gap_metric: u64,
    /// Where the export and the sidecar's log stand.
    folder: PathBuf,
    log: String,
    export: Export,
}

impl Scene {
    /// With a sidecar that runs over a spool.
    pub fn start(name: &'static str) -> Self {
        Self::with_spool(name, SPOOL_BYTES)
    }

    /// With a sidecar that runs over a spool of this limit.
    pub fn with_spool(name: &'static str, limit_bytes: u64) -> Self {
        Self::with(name, DATA_THREADS, |folder| spool(folder, limit_bytes))
    }

    /// The same, with one data thread: its stream begins with the first record, and none begins later.
    pub fn with_one_stream(name: &'static str) -> Self {
        Self::with(name, 1, |folder| spool(folder, SPOOL_BYTES))
    }

    /// With a sidecar that answers nothing and forwards nothing of which it has no durable record.
    pub fn strict(name: &'static str) -> Self {
        let policy = "policy:\n  delivery: {mode: Strict}\n  failureMode: Closed\n";
        Self::with(name, DATA_THREADS, |folder| format!("{policy}{}", spool(folder, SPOOL_BYTES)))
    }

    /// With a sidecar that runs without a spool.
    pub fn in_memory(name: &'static str) -> Self {
        Self::with(name, DATA_THREADS, |_| String::new())
    }

    /// With a Collector between sidecar and sink, which has this queue.
    pub fn behind_collector(name: &'static str, limit_bytes: u64, queue: &str) -> (Self, Relay) {
        let (folder, sink) = (run_folder(name), Receiver::start());
        let relay = Relay::start(&folder, sink.address, queue);
        let more = format!("dataThreads: {DATA_THREADS}\n{}", spool(&folder, limit_bytes));
        let scene = Self::to(relay.address, sink, name, folder, &more);
        (Self { is_relayed: true, ..scene }, relay)
    }

    fn with(name: &'static str, data_threads: usize, more: impl FnOnce(&Path) -> String) -> Self {
        let (folder, sink) = (run_folder(name), Receiver::start());
        let more = format!("dataThreads: {data_threads}\n{}", more(&folder));
        Self::to(sink.address, sink, name, folder, &more)
    }

    fn to(address: SocketAddr, sink: Receiver, name: &'static str, folder: PathBuf, more: &str) -> Self {
        let origin = Origin::start();
        let mut sidecar = Sidecar::new(&folder, origin.address, address, more);
        sidecar.start();
        Self { sidecar, sink, origin, name, folder, exact: true, is_relayed: false }
    }

    /// Clients begin.
    pub fn load(&self) -> Load {
        Load::start(self.sidecar.inbound, CLIENTS, PAUSE, 0)
    }

    /// Clients begin whose records take some kilobytes each.
    pub fn heavy_load(&self) -> Load {
        Load::start(self.sidecar.inbound, CLIENTS, Duration::ZERO, HEAVY_BYTES)
    }

    /// One client with heavy requests and long pauses: a frame of the spool holds few records, each of more bytes than a
    /// long read has.
    pub fn sparse_load(&self) -> Load {
        Load::start(self.sidecar.inbound, 1, SPARSE_PAUSE, HEAVY_BYTES)
    }

    /// Bytes of the spool's files.
    pub fn spool_bytes(&self) -> u64 {
        bytes_below(&self.spool_folder())
    }

    /// Waits until nothing more comes into the spool.
    pub fn until_the_spool_rests(&self) {
        let (mut last, mut since) = (self.spool_bytes(), Instant::now());
        self.sidecar.until("the spool rests", |_| {
            let now = self.spool_bytes();
            if now != std::mem::replace(&mut last, now) {
                since = Instant::now();
            }
            since.elapsed() > QUIET
        });
    }

    /// Ends without a count: the test made its own.
    pub fn leave(mut self) {
        let status = self.sidecar.terminate();
        assert!(status.success(), "{}: the sidecar ended with {status}\n{}", self.name, self.sidecar.log());
        // Only tidiness: cargo's folder for tests may keep it.
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// The folder of the spool.
    pub fn spool_folder(&self) -> PathBuf {
        self.folder.join("spool")
    }

    /// Gaps may be bounds from now on: a node dies.
    pub fn allow_bounds(&mut self) {
        self.exact = false;
    }

    /// Waits until so many more requests were sent.
    pub fn more(&self, load: &Load, requests: u64) {
        let target = load.sent() + requests;
        self.sidecar.until("clients send", |_| load.sent() >= target);
    }

    /// Ends the load, lets the sink have what there is, ends the sidecar, and counts.
    pub fn end(mut self, load: Load) -> Outcome {
        let asked = load.stop();
        self.sink.set(Weather::Always(Fault::None));
        self.settle();
        let gap_metric = self.sidecar.metric(GAP_METRIC);
        let status = self.sidecar.terminate();
        assert!(status.success(), "{}: the sidecar ended with {status}\n{}", self.name, self.sidecar.log());
        if self.is_relayed {
            self.settle();
        }
        let reached = self.origin.reached();
        let request = |one: &Asked| Request {
            answered: one.answered.is_some(),
            reached: reached.contains(&one.path),
            path: one.path.clone(),
        };
        let requests: Vec<Request> = asked.iter().map(request).collect();
        let export = Export(self.sink.taken());
        let count = count(&requests, &export.rows(), self.exact);
        let report = export.verify();
        println!("{}: {count}; verdict {}, {:?}", self.name, report.verdict, self.sink.seen());
        Outcome { count, report, asked, gap_metric, folder: self.folder.clone(), log: self.sidecar.log(), export }
    }

    /// Waits until nothing more comes, and all that waits in the spool is told.
    fn settle(&self) {
        let (mut last, mut since) = (self.sink.requests(), Instant::now());
        while since.elapsed() < DEADLINE {
            let now = self.sink.requests();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            let is_quiet = since.elapsed() > QUIET && self.sidecar.metric("testimony_export_queue_bytes") == 0;
            if is_quiet && all_is_told(&self.spool_folder(), &self.folder.join("look")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{}: something is not delivered or not told in time\n{}", self.name, self.sidecar.log());
    }
}

impl Outcome {
    /// Every sealed record, copies too.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.export.rows().into_iter()
    }

    /// What the sink took.
    pub fn export(&self) -> &Export {
        &self.export
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
        self.check("the clients sent something, and it was recorded", self.count.recorded > 0);
        // The verdict is the worst of all findings, those too that a report does not list.
        self.check("no finding but those that are allowed", self.report.verdict < Verdict::Projection);
    }

    /// The last process counts in its metrics what its gaps tell, those too about processes before it.
    pub fn check_gap_metric(&self) {
        let rows: Vec<Row> = self.rows().collect();
        // Who ends in order closes its streams, last of all.
        let last = rows.iter().rev().find(|row| row.body.contains(r#""typ":"close""#)).map(|row| boot_of(&row.sid));
        let own = rows.iter().filter(|row| Some(boot_of(&row.sid)) == last);
        // Copies are the same place.
        let gaps: BTreeMap<(&str, u64), u64> = own
            .filter_map(|row| match row.typ {
                Typ::Gap { count, .. } => Some(((row.sid.as_str(), row.seq), count)),
                _ => None,
            })
            .collect();
        let told: u64 = gaps.values().sum();
        self.check(&format!("{GAP_METRIC} is {}, and gaps tell {told}", self.gap_metric), self.gap_metric == told);
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

/// The process of a stream, by the stream's name.
fn boot_of(sid: &str) -> &str {
    let last = sid.rsplit('/').next().unwrap_or_default();
    last.split('-').next().unwrap_or_default()
}

fn run_folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Configuration of a spool.
fn spool(folder: &Path, limit_bytes: u64) -> String {
    let [spool, key] = ["spool", "key"].map(|part| folder.join(part));
    std::fs::create_dir_all(&spool).expect("a folder");
    std::fs::create_dir_all(&key).expect("a folder");
    let (spool, key) = (spool.display(), key.display());
    format!("spool: {{dir: '{spool}', keyDir: '{key}', bytesMax: {limit_bytes}}}")
}

/// What the folder of a process shows. Damage and acknowledgements stand in the clear: any key will do.
pub fn look(boot: Boot, folder: &Path) -> io::Result<Scanned<Folder>> {
    let keys = Keys::with_pod_key([0; 32], None);
    scan(Folder::new(folder), &keys, boot, boot, Unreadable::Damaged, &|| true)
}

/// The folders of processes in a spool, the oldest first.
pub fn folders(spool: &Path) -> Vec<(Boot, PathBuf)> {
    let entries = std::fs::read_dir(spool).into_iter().flatten().flatten();
    let folder = |entry: DirEntry| {
        let boot = entry.file_name().to_str()?.parse().ok()?;
        Some((entry.metadata().ok()?.created().ok()?, boot, entry.path()))
    };
    let mut folders: Vec<_> = entries.filter_map(folder).collect();
    folders.sort();
    folders.into_iter().map(|(_, boot, path)| (boot, path)).collect()
}

/// Whether the sink has all that any process left, or was told, durably, that it never gets it; and what those before the
/// newest left is told.
fn all_is_told(spool: &Path, scratch: &Path) -> bool {
    let folders = folders(spool);
    folders.iter().enumerate().all(|(at, (boot, path))| {
        let is_newest = at + 1 == folders.len();
        let is_done = |mut found: Scanned<Folder>| {
            found.shelf.set_sinks(&[SinkRule { name: SINK.to_owned(), required: true }], Place::default());
            let has_all = found.shelf.position(SINK) == Some(found.shelf.durable().end());
            has_all && (is_newest || found.report.was_told)
        };
        // To look sets files aside: not those of a process that writes.
        let _ = std::fs::remove_dir_all(scratch);
        let linked = link_files(path, scratch).and_then(|()| look(*boot, scratch));
        // One that is gone meanwhile is done with; of what goes while it is linked, the next look tells.
        linked.map_or_else(|_| !path.exists(), is_done)
    })
}

fn link_files(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::hard_link(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// What vanishes meanwhile counts as nothing.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_below(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
