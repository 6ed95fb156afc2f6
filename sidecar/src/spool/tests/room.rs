//! What a spool does where there is no room: below its limit, and on the file system.

use super::rig::{Rig, folder, read_all, recover, settings, sid};
use crate::spool::boots::SPARE_BYTES;
use crate::spool::disk::sim::Dice;
use crate::spool::writer::Elsewhere;
use crate::spool::{
    Boot, Boots, Class, Entry, Event, Kind, LIMIT_BYTES_MIN, Limits, Permit, Place, Refusal, Settings, SinkRule, Spool,
    SpoolHandle, StreamNumber,
};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use testimony_core::evidence::merkle;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);
const PAYLOAD_BYTES: usize = 16 * 1024;
/// Between two acknowledgements.
const GROUP: u64 = 64;

fn start(folder: &Path, boot: u8, limit_bytes: u64, limits: Limits) -> (Spool, mpsc::Receiver<Event>) {
    start_for(&["a"], folder, boot, limit_bytes, limits)
}

/// For these sinks, of which only `a` is required.
fn start_for(
    sinks: &[&str],
    folder: &Path,
    boot: u8,
    limit_bytes: u64,
    limits: Limits,
) -> (Spool, mpsc::Receiver<Event>) {
    let rule = |name: &&str| SinkRule { name: (*name).to_owned(), required: *name == "a" };
    let sinks: Vec<SinkRule> = sinks.iter().map(rule).collect();
    let settings = Settings { limit_bytes, limits, ..settings(folder, boot) };
    Spool::start(settings, &sinks).expect("a spool")
}

/// A place, when there is one: segments go once acknowledgements are durable.
async fn place(spool: &SpoolHandle) -> Permit {
    let begun = Instant::now();
    loop {
        match spool.inbox().reserve(Class::Ordinary, PAYLOAD_BYTES) {
            Ok(permit) => return permit,
            Err(refusal) => assert!(begun.elapsed() < PATIENCE, "{refusal}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Puts records that nothing makes shorter, so many bytes of them; the sink has each group at once.
async fn put(spool: &SpoolHandle, stream: StreamNumber, mib: u64) -> Place {
    let mut dice = Dice::new(1);
    let mut last = Place::default();
    for seq in 0..mib * 1024 * 1024 / PAYLOAD_BYTES as u64 {
        let payload: Vec<u8> = (0..PAYLOAD_BYTES / 8).flat_map(|_| dice.roll().to_le_bytes()).collect();
        let mut permit = place(spool).await;
        last = permit.push(Entry::new(stream, Kind::Exchange, seq, merkle::leaf(&payload), 1), &payload).expect("put");
        if seq % GROUP == GROUP - 1 {
            assert!(spool.inbox().wait_durable(last, PATIENCE).await);
            spool.ack(spool.boot(), "a", last.next());
        }
    }
    assert!(spool.inbox().wait_durable(last, PATIENCE).await);
    last
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::task::yield_now().await;
    }
}

/// What may be reserved until there is no more room for it.
fn all(spool: &SpoolHandle, class: Class) -> Vec<Permit> {
    let mut permits = Vec::new();
    loop {
        match spool.inbox().reserve(class, PAYLOAD_BYTES) {
            Ok(permit) => permits.push(permit),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::SpoolFull);
                return permits;
            }
        }
    }
}

#[tokio::test]
async fn sp_3_who_starts_over_a_full_spool_has_room_at_once_and_takes_that_of_what_is_acknowledged() {
    let folder = folder("successor");
    let (spool, _events) = start(&folder, 1, LIMIT_BYTES_MIN, Limits::default());
    let handle = spool.handle().clone();
    let stream = handle.inbox().add_stream(sid(0), 0);
    let last = put(&handle, stream, 40).await;
    handle.ack(handle.boot(), "a", last.next());
    // Nearly all of it is kept, though nobody waits for it.
    let kept_bytes = LIMIT_BYTES_MIN / 100 * 60..LIMIT_BYTES_MIN / 100 * 80;
    until("some goes", || kept_bytes.contains(&handle.stats().used_bytes)).await;
    spool.stop();

    let (spool, mut events) = start(&folder, 2, LIMIT_BYTES_MIN, Limits::default());
    let handle = spool.handle().clone();
    assert!(!all(&handle, Class::Ordinary).is_empty(), "before anything was read");
    let boot = first_found(&mut events).await;
    handle.set_recovered(boot);
    let stream = handle.inbox().add_stream(sid(1), 0);
    put(&handle, stream, 40).await;
    let before = folder.join("disk").join(boot.to_string());
    until("all of before is gone", || !before.exists()).await;
    spool.stop();
}

async fn first_found(events: &mut mpsc::Receiver<Event>) -> Boot {
    let found = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time");
    let Some(Event::Found(found)) = found else { panic!("{found:?}") };
    found.report.boot
}

/// Told as soon as they come, all that a sink never gets.
async fn tell_skipped(events: &mut mpsc::Receiver<Event>, spool: &SpoolHandle) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Skipped(boot, skipped) => spool.set_skipped_told(boot, &skipped.file),
            Event::Found(found) => spool.set_recovered(found.report.boot),
        }
    }
}

#[tokio::test]
async fn t5_sp_3_who_starts_over_a_spool_that_waits_for_an_optional_sink_has_room() {
    const LIMIT: u64 = 4 * LIMIT_BYTES_MIN;
    let folder = folder("optional");
    let start = |boot| start_for(&["a", "b"], &folder, boot, LIMIT, Limits::default());
    let (spool, mut events) = start(1);
    let handle = spool.handle().clone();
    let stream = handle.inbox().add_stream(sid(0), 0);
    tokio::select! {
        () = tell_skipped(&mut events, &handle) => panic!("it goes on as long as the spool does"),
        last = put(&handle, stream, 80) => handle.ack(handle.boot(), "a", last.next()),
    }
    until("some goes", || handle.stats().used_bytes < LIMIT / 100 * 80).await;
    assert!(handle.stats().used_bytes > LIMIT / 100 * 50, "no more than must");
    spool.stop();

    let (spool, mut events) = start(2);
    let handle = spool.handle().clone();
    assert!(handle.inbox().reserve(Class::Ordinary, PAYLOAD_BYTES).is_ok(), "before anything was read");
    let stream = handle.inbox().add_stream(sid(1), 0);
    tokio::select! {
        () = tell_skipped(&mut events, &handle) => panic!("it goes on as long as the spool does"),
        _ = put(&handle, stream, 80) => {}
    }
    spool.stop();
}

#[test]
fn sp_3_a_process_starts_on_a_full_file_system_by_what_the_one_before_set_aside() {
    on_each_disk(&folder("full-disk"), 20, |folder| block_on(starts_on_a_full_file_system(folder)));
}

async fn starts_on_a_full_file_system(folder: &Path) {
    let disk = folder.join("disk");
    let (spool, _events) = start(folder, 1, LIMIT_BYTES_MIN, Limits::default());
    let stream = spool.handle().inbox().add_stream(sid(0), 0);
    let last = put(spool.handle(), stream, 8).await;
    spool.handle().ack(spool.handle().boot(), "a", last.next());
    spool.stop();
    let filled = std::fs::write(disk.join("of-others"), vec![1; 32 * 1024 * 1024]);
    assert_eq!(filled.map_err(|error| error.kind()), Err(std::io::ErrorKind::StorageFull));

    let (spool, mut events) = start(folder, 2, LIMIT_BYTES_MIN, Limits::default());
    spool.handle().set_recovered(first_found(&mut events).await);
    let stream = spool.handle().inbox().add_stream(sid(1), 0);
    put(spool.handle(), stream, 4).await;
    spool.stop();
}

/// A removal that the disk cuts short leaves nothing that looks like a process that told nothing.
#[test]
fn d3_a_folder_that_is_being_removed_is_no_predecessor_s() {
    let folder = folder("removal");
    let [first, second] = [1, 2].map(|boot| Boot([boot; 16]));
    let path = folder.join(first.to_string());
    drop(Boots::open(&folder, first).expect("made"));
    std::fs::write(path.join("counters"), b"5 exchanges").expect("written");
    let boots = Boots::open(&folder, second).expect("made");
    let mut found = boots.predecessors().expect("listed");
    // What is mounted cannot be removed.
    let place = path.join("mounted");
    let mounted = Mounted::new(&place, 1);
    assert!(found.remove(0).remove().is_err());
    assert!(!path.exists());
    assert!(boots.predecessors().expect("listed").is_empty());
    drop(mounted);
    let _ = Command::new("umount").arg(folder.join(format!("{first}.partial/mounted"))).status();
    assert!(boots.predecessors().expect("listed").is_empty());
    assert_eq!(std::fs::read_dir(&*folder).expect("listed").count(), 1, "it is gone now");
}

#[tokio::test]
async fn t5_what_lets_segments_go_has_a_place_where_gaps_have_none() {
    let folder = folder("release");
    let limits = Limits { held_bytes_max: u64::MAX, ..Limits::default() };
    let (spool, _events) = start(&folder, 1, LIMIT_BYTES_MIN, limits);
    let handle = spool.handle().clone();
    let stream = handle.inbox().add_stream(sid(0), 0);
    let ordinary = all(&handle, Class::Ordinary);
    let evidence = all(&handle, Class::Evidence);
    assert!(ordinary.len() > 8 * evidence.len() && evidence.len() > 50, "{} {}", ordinary.len(), evidence.len());
    let mut release = handle.inbox().reserve(Class::Release, PAYLOAD_BYTES).expect("a place of its own");
    let hole = release.push(Entry::new(stream, Kind::Hole, 0, merkle::leaf(b"hole"), 0), b"hole").expect("put");
    assert!(handle.inbox().wait_durable(hole, PATIENCE).await);
    drop((ordinary, evidence));
    spool.stop();
}

/// A file system that goes with this.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(path: &'a Path, mib: u64) -> Self {
        Self::with(path, Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]))
            .expect("mounting needs root")
    }

    /// What nodes have; none where it cannot be made.
    fn ext4(path: &'a Path, mib: u64) -> Option<Self> {
        let image = path.with_extension("image");
        std::fs::File::create_new(&image).and_then(|file| file.set_len(mib * 1024 * 1024)).expect("an image");
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image).status();
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
        Self::with(path, Command::new("mount").args(["-o", "loop"]).arg(&image))
    }

    fn with(path: &'a Path, mount: &mut Command) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a folder");
        mount.arg(path).status().is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// A disk of each kind that there is: tmpfs, and ext4 where it can be made.
fn on_each_disk(folder: &Path, mib: u64, test: impl Fn(&Path)) {
    for ext4 in [false, true] {
        let place = folder.join(if ext4 { "ext4" } else { "tmpfs" });
        let disk = place.join("disk");
        std::fs::create_dir_all(&disk).expect("a folder");
        if let Some(_mounted) = if ext4 { Mounted::ext4(&disk, mib) } else { Some(Mounted::new(&disk, mib)) } {
            test(&place);
        }
    }
}

#[test]
fn sp_3_what_was_set_aside_is_given_back() {
    on_each_disk(&folder("spare"), 20, |folder| {
        let boots = Boots::open(&folder.join("disk"), Boot([1; 16])).expect("made");
        let free = || rustix::fs::statvfs(folder.join("disk")).map(|disk| disk.f_bfree * disk.f_frsize).expect("told");
        let before = free();
        boots.set_aside();
        assert!(free() + SPARE_BYTES <= before, "{}", folder.display());
        boots.give_back();
        assert_eq!(free(), before, "{}", folder.display());
    });
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test]
async fn sp_3_a_file_system_that_is_full_gets_what_is_acknowledged_though_the_limit_is_far() {
    let folder = folder("small-disk");
    let disk = folder.join("disk");
    let _mounted = Mounted::new(&disk, 20);
    let (spool, _events) = start(&folder, 1, 4 * LIMIT_BYTES_MIN, Limits::default());
    let stream = spool.handle().inbox().add_stream(sid(0), 0);
    put(spool.handle(), stream, 60).await;
    spool.stop();
}

#[test]
fn t5_what_can_go_of_earlier_processes_is_room() {
    let mut rig = Rig::new(1);
    let without = rig.writer.room();
    let bytes = rig.settings.limit_bytes;
    rig.writer.set_elsewhere(Elsewhere { bytes, reclaimable_bytes: 0 });
    assert_eq!(rig.writer.room().ordinary_bytes, 0);
    rig.writer.set_elsewhere(Elsewhere { bytes, reclaimable_bytes: bytes });
    assert_eq!(rig.writer.room(), without);
}

/// A sink that is removed and made again, or replaced by another one in two steps.
#[test]
fn sp_2_what_waits_for_a_sink_waits_on_where_none_is_named_any_more() {
    let rule = |name: &str| SinkRule { name: name.to_owned(), required: true };
    for next in ["a", "c"] {
        let mut rig = Rig::new(1);
        rig.writer.set_sinks(&[rule("a")]);
        for _ in 0..40 {
            assert!(rig.commit(2, 400));
        }
        rig.writer.shelf_mut().ack("a", Place(7)).expect("durable");
        rig.writer.set_sinks(&[]);
        // What it took until it ended counts.
        rig.writer.shelf_mut().ack("a", Place(9)).expect("durable");
        rig.writer.shelf_mut().flush(1).expect("written");
        rig.writer.shelf_mut().make_room(u64::MAX);
        rig.writer.set_sinks(&[rule(next)]);
        assert_eq!(rig.writer.shelf().position(next), Some(Place(9)), "{next}");
        let (found, lost) = read_all(rig.reader(Place(9)));
        assert_eq!((found.len(), lost.len()), (71, 0), "{next}");
    }
}

/// A pod that runs before there is a sink, and a container that is restarted while there is none.
#[test]
fn sp_2_what_is_recorded_before_any_sink_is_named_waits_for_the_first() {
    let rule = |name: &str| SinkRule { name: name.to_owned(), required: true };
    let mut rig = Rig::with_sinks(1, &[]);
    for _ in 0..40 {
        assert!(rig.commit(2, 400));
    }
    rig.writer.shelf_mut().flush(1).expect("written");
    rig.writer.shelf_mut().make_room(u64::MAX);
    let (found, lost) = read_all(rig.reader(Place(0)));
    assert_eq!((found.len(), lost.len()), (80, 0));
    let mut scanned = recover(&rig.disk.killed());
    scanned.shelf.set_sinks(&[], Place::default());
    assert_eq!(scanned.shelf.released().end(), Place(0));
    assert!(!scanned.shelf.is_done());
    rig.writer.set_sinks(&[rule("a")]);
    assert_eq!(rig.writer.shelf().position("a"), Some(Place(0)));
}
