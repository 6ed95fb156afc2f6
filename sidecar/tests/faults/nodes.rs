//! A node that dies: the process is killed, of each file of its spool remains what was synced, perhaps more, perhaps torn, the
//! counter page is as old as it may be, and the kernel's boot id is another one. The pod's key is kept here, so that what
//! remains can be read; in a pod it goes with the node, and the segments stay locked: there is no recovery key of the operator yet.

use super::kills::{Kill, SERVED, kill, kills, only_what_is_young_is_lost, wait};
use super::scene::{CLIENTS, Outcome, Scene};
use super::shim::Synced;
use super::wire::Chance;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use testimony_core::evidence::verify::Verdict;
use testimony_sidecar::spool::Boot;
use testimony_sidecar::spool::disk::Folder;
use testimony_sidecar::spool::keys::Keys;
use testimony_sidecar::spool::recover::{Unreadable, scan};

/// Name of the counter page's file, and where it has the kernel's boot id, in bytes.
const PAGE: &str = "counters";
const BOOT_ID_AT: u64 = 16;
/// Longest part of a file that a test tears, in bytes.
const TORN_BYTES_MAX: u64 = 512;

/// A node under load.
struct Node {
    scene: Scene,
    chance: Chance,
    /// The counter pages as they were some time ago: what a disk may still have.
    pages: BTreeMap<PathBuf, Vec<u8>>,
    /// How long files were when the node came back, in bytes: what was read from the disk then stays there.
    settled: BTreeMap<PathBuf, u64>,
    /// Folders of processes that are dead: nothing more comes into them.
    dead: BTreeSet<PathBuf>,
    /// By stream, how many records were durable when its process died.
    durable: BTreeMap<String, u64>,
}

impl Node {
    fn of(scene: Scene, chance: Chance) -> Self {
        let (pages, settled, dead, durable) = Default::default();
        Self { scene, chance, pages, settled, dead, durable }
    }

    /// The disk has the counter pages as they are now, and may get nothing newer.
    fn write_pages_back(&mut self) {
        let pages = files_below(&self.scene.spool_folder()).into_iter().filter(|path| is_page(path));
        self.pages.extend(pages.filter_map(|path| Some((path.clone(), fs::read(path).ok()?))));
    }

    /// It dies and comes back.
    fn die(&mut self) -> Kill {
        let kill = kill(|| self.scene.sidecar.kill_all());
        let synced = self.scene.sidecar.shim.synced();
        self.note_durable(&synced);
        for path in files_below(&self.scene.spool_folder()) {
            if is_page(&path) {
                if self.settled.insert(path.clone(), 0).is_some() {
                    continue;
                }
                if let Some(page) = self.pages.remove(&path).filter(|_| self.chance.between(0, 2) == 0) {
                    fs::write(&path, page).expect("a page");
                }
                let boot_id = self.chance.between(1, u64::MAX).to_le_bytes();
                open(&path).write_all_at(&boot_id, BOOT_ID_AT).expect("a page");
            } else {
                let synced = synced.length(&path.metadata().expect("a file"));
                let settled = self.settled.get(&path).copied();
                self.lose(&path, synced.max(settled).unwrap_or(0));
                self.settled.insert(path.clone(), path.metadata().expect("a file").len());
            }
        }
        self.scene.sidecar.start();
        kill
    }

    /// How many records are durable, from a copy in which nothing stands but what was synced.
    fn note_durable(&mut self, synced: &Synced) {
        let copy = self.scene.spool_folder().with_extension("synced");
        for folder in folders_in(&self.scene.spool_folder()) {
            let boot = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Boot>().ok());
            let Some(boot) = boot.filter(|_| self.dead.insert(folder.clone())) else { continue };
            fs::create_dir_all(&copy).expect("a folder");
            for path in files_below(&folder).into_iter().filter(|path| !is_page(path)) {
                let to = copy.join(path.file_name().expect("a name"));
                fs::copy(&path, &to).expect("a copy");
                let data = path.metadata().expect("a file");
                let length = synced.length(&data).unwrap_or(0).min(data.len());
                open(&to).set_len(length).expect("shorter");
            }
            // Sizes stand in the clear: any key will do.
            let keys = Keys::with_pod_key([0; 32], None);
            let found = scan(Folder::new(&copy), &keys, boot, boot, Unreadable::Damaged, &|| true).expect("a folder");
            let sizes = found.report.streams.iter().map(|(sid, stream)| (sid.to_string(), stream.size()));
            self.durable.extend(sizes);
            fs::remove_dir_all(&copy).expect("it goes");
        }
    }

    /// Of what is beyond `synced` a part remains, and the end of that may be anything.
    fn lose(&mut self, path: &Path, synced: u64) {
        let file = open(path);
        let length = file.metadata().expect("a file").len();
        if length <= synced {
            return;
        }
        let kept = self.chance.between(synced, length + 1);
        file.set_len(kept).expect("shorter");
        let torn = self.chance.between(0, (kept - synced).min(TORN_BYTES_MAX) + 1);
        let noise: Vec<u8> = (0..torn).map(|_| self.chance.between(0, 256) as u8).collect();
        file.write_all_at(&noise, kept - torn).expect("torn");
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("a file")
}

fn is_page(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == PAGE)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below =
        entries.flat_map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { vec![entry.path()] });
    below.collect()
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

/// Whatever was durable when its process died has come.
fn everything_durable_is_delivered(outcome: &Outcome, durable: &BTreeMap<String, u64>) {
    let came: BTreeSet<(String, u64)> = outcome.rows().map(|row| (row.sid, row.seq)).collect();
    let places = durable.iter().flat_map(|(sid, size)| (0..*size).map(|seq| (sid.clone(), seq)));
    let missing: Vec<(String, u64)> = places.filter(|place| !came.contains(place)).take(20).collect();
    let count: u64 = durable.values().sum();
    println!("figure: {count} records of {} streams were durable when their process died", durable.len());
    outcome.check("something was durable", count > 0);
    outcome.check(&format!("everything durable is delivered, not so: {missing:?}"), missing.is_empty());
}

/// Some nodes die under load; what it came to.
fn nodes_die(scene: Scene, chance: Chance) -> Outcome {
    let mut node = Node::of(scene, chance);
    node.scene.allow_bounds();
    let load = node.scene.load();
    let mut killed = Vec::new();
    for round in 0..kills() {
        node.scene.more(&load, CLIENTS as u64);
        node.write_pages_back();
        // What is durable then is nowhere else.
        let is_away = round % 2 == 0;
        if is_away {
            node.scene.sink.down();
            node.scene.more(&load, SERVED);
        }
        wait(&mut node.chance);
        killed.push(node.die());
        if is_away {
            node.scene.sink.up();
        }
        node.scene.more(&load, SERVED);
    }
    let outcome = node.scene.end(load);
    everything_durable_is_delivered(&outcome, &node.durable);
    outcome.check_counts();
    only_what_is_young_is_lost(&outcome, &killed);
    let (lost, declared) = (outcome.count.lost.len() as u64, outcome.count.declared());
    println!("figure: {} nodes died: {lost} lost, at least {declared} declared", kills());
    outcome.check("what is lost stands in a gap with bounds", outcome.rows().any(|row| row.is_bound()));
    outcome.check("no other gap", outcome.count.gaps.keys().all(|reason| reason == "worker_died"));
    let ended = |verdict| !matches!(verdict, Verdict::Unclosed | Verdict::Pending);
    outcome.check("each stream's end is told", outcome.report.findings.iter().all(|finding| ended(finding.verdict)));
    outcome
}

#[test]
fn ev_1_d2_d3_of_a_lost_node_everything_durable_is_delivered_and_the_rest_stands_in_a_gap_with_bounds() {
    let chance = Chance::of("nodes");
    nodes_die(Scene::start("nodes"), chance);
}

#[test]
fn px_3_under_strict_with_closed_a_lost_node_answered_nothing_without_a_record() {
    let chance = Chance::of("strict nodes");
    let outcome = nodes_die(Scene::strict("strict-nodes"), chance);
    outcome.check("no answered request lacks a record", outcome.count.untold.is_empty());
}

#[test]
fn px_3_under_strict_with_closed_a_killed_sidecar_answered_nothing_without_a_record() {
    let mut chance = Chance::of("strict");
    let mut scene = Scene::strict("strict");
    let load = scene.load();
    for round in 0..kills() {
        wait(&mut chance);
        if round % 2 == 0 {
            let worker = scene.sidecar.kill_worker();
            scene.sidecar.successor(worker);
        } else {
            scene.sidecar.kill_all();
            scene.sidecar.start();
        }
        scene.more(&load, CLIENTS as u64);
    }
    let outcome = scene.end(load);
    outcome.check_counts();
    outcome.check("no answered request lacks a record", outcome.count.untold.is_empty());
}
