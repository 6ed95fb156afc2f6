//! The other end of `preload.rs`: moves the sidecar's clock and lets its disk fail.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Length of the control file, in bytes.
const CONTROL_BYTES: u64 = 768 * 1024;
/// Where the words stand in it, in bytes.
const CLOCK_AT: u64 = 0;
const EVERY_AT: u64 = 8;
const FAILED_AT: u64 = 72;
const SYNC_PAUSE_AT: u64 = 104;
const SYNCED_AT: usize = 112;
/// Files of which it is known how much was synced.
const SYNCED_FILES: usize = 30_000;

/// A read of more bytes is a long one: of the content of a frame with one heavy record, and not of the part in clear of a
/// frame with few entries.
const LONG_READ_BYTES: usize = 2048;

/// What a slow sync takes at least where the shim itself is tested.
const SLOW_SYNC: Duration = Duration::from_millis(200);

/// What fails.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// fsync, fdatasync: EIO.
    Sync = 0,
    /// write: ENOSPC.
    Write = 1,
    /// read: EIO.
    Read = 2,
    /// read of more than [`LONG_READ_BYTES`]: EIO.
    LongRead = 3,
}

/// A sidecar's clock and disk.
pub struct Shim {
    control: File,
    path: PathBuf,
    disk: PathBuf,
}

impl Shim {
    /// Its control file stands in `folder`; `disk` is the folder whose files can fail.
    pub fn new(folder: &Path, disk: &Path) -> Self {
        let path = folder.join("control");
        let control = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
        control.set_len(CONTROL_BYTES).expect("a length");
        Self { control, path, disk: disk.to_owned() }
    }

    /// What a process has to be started with.
    pub fn variables(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", library().clone()),
            ("TESTIMONY_TEST_CONTROL", self.path.clone()),
            ("TESTIMONY_TEST_DISK", self.disk.clone()),
        ]
    }

    /// From now on the wall clock is so far ahead of the true time, in nanoseconds.
    pub fn set_clock(&self, ahead_ns: i64) {
        self.control.write_all_at(&ahead_ns.to_ne_bytes(), CLOCK_AT).expect("write");
    }

    /// From now on every so many of these fail; 0: none.
    pub fn fail(&self, operation: Operation, every: u64) {
        self.control.write_all_at(&every.to_ne_bytes(), EVERY_AT + 8 * operation as u64).expect("write");
    }

    /// From now on each sync takes so much longer.
    pub fn slow_syncs(&self, pause: Duration) {
        let pause_us = u64::try_from(pause.as_micros()).expect("a short time");
        self.control.write_all_at(&pause_us.to_ne_bytes(), SYNC_PAUSE_AT).expect("write");
    }

    /// How many have failed.
    pub fn failed(&self, operation: Operation) -> u64 {
        let mut word = [0; 8];
        self.control.read_exact_at(&mut word, FAILED_AT + 8 * operation as u64).expect("read");
        u64::from_ne_bytes(word)
    }

    /// Of the files below the folder, those that are gone among them: how long each was when it was last synced.
    pub fn synced(&self) -> Synced {
        let mut words = vec![0; CONTROL_BYTES as usize];
        self.control.read_exact_at(&mut words, 0).expect("read");
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
        let table = words[SYNCED_AT..].chunks_exact(24).take(SYNCED_FILES);
        let files = table.map(|slot| ((word(&slot[..8]), word(&slot[8..16])), word(&slot[16..])));
        Synced(files.filter(|((inode, _), _)| *inode != 0).collect())
    }
}

/// How long files were when they were last synced, in bytes, by inode and birth.
#[derive(Debug)]
pub struct Synced(BTreeMap<(u64, u64), u64>);

impl Synced {
    /// `None`: this file was never synced.
    pub fn length(&self, file: &Metadata) -> Option<u64> {
        self.0.get(&(file.ino(), birth(file))).copied()
    }
}

/// In nanoseconds; 0 on a disk that does not keep it, as the library has it then.
fn birth(file: &Metadata) -> u64 {
    let since = file.created().ok().and_then(|birth| birth.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(since.as_nanos()).expect("not so late")
}

/// Made once for each test program.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/preload.rs");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (library, unfinished) = (folder.join("preload.so"), folder.join(format!("preload-{}", std::process::id())));
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut command = Command::new(rustc);
        command.args(["--edition", "2024", "--crate-type", "cdylib", "-C", "opt-level=2", "-C", "panic=abort"]);
        let output = command.arg(source).arg("-o").arg(&unfinished).output().expect("rustc starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Whole or not there: other runs may use it.
        std::fs::rename(&unfinished, &library).expect("a name");
        library
    })
}

/// Whichever inode the next one has.
fn a_file_that_is_gone_leaves_nothing_to_the_next(
    shim: &Shim,
    disk: &Path,
    run: impl Fn(&str, &[&str]) -> (bool, String),
) {
    let data = |name: &str| disk.join(name).metadata().expect("a file");
    let make = |name: &str, more: &[&str]| {
        let file = format!("of=disk/{name}");
        assert!(run("dd", &[&["if=/dev/zero", &file, "bs=1", "count=9"], more].concat()).0);
    };
    make("first", &["conv=fsync"]);
    let first = data("first");
    assert_eq!(shim.synced().length(&first), Some(9));
    assert_ne!(birth(&first), 0, "the disk keeps no births: nobody can tell files apart whose inode is the same");
    // The kernel's clock of files stands still for some milliseconds.
    let mut others = 0;
    while others == 0 || birth(&data(&format!("other-{others}"))) == birth(&first) {
        others += 1;
        File::create(disk.join(format!("other-{others}"))).expect("a file");
    }
    assert!(run("rm", &["disk/first"]).0);
    make("second", &[]);
    assert_eq!(shim.synced().length(&data("second")), None, "inodes {} and {}", first.ino(), data("second").ino());
}

/// The library does what the tests rely on.
#[test]
fn the_clock_and_the_disk_of_a_process_can_be_spoiled() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shim-{}", std::process::id()));
    let disk = folder.join("disk");
    std::fs::create_dir_all(&disk).expect("a folder");
    let shim = Shim::new(&folder, &disk);
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&folder).envs(shim.variables()).output();
        let output = output.expect("it starts");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let data = |path: &str| folder.join(path).metadata().expect("a file");
    let write = |file| run("dd", &["if=/dev/zero", &format!("of={file}"), "bs=1", "count=1", "conv=fsync"]).0;
    let read = || run("dd", &["if=disk/file", "of=/dev/null"]).0;
    assert!(write("disk/file") && read());
    assert_eq!((shim.synced().length(&data("disk/file")), shim.synced().0.len()), (Some(1), 1));
    assert!(run("dd", &["if=/dev/zero", "of=disk/file", "bs=1", "count=3", "conv=notrunc"]).0);
    assert_eq!(shim.synced().length(&data("disk/file")), Some(1), "nothing was synced since");
    a_file_that_is_gone_leaves_nothing_to_the_next(&shim, &disk, run);
    for operation in [Operation::Sync, Operation::Write] {
        shim.fail(operation, 1);
        assert_eq!((write("disk/file"), write("file")), (false, true), "{operation:?}");
        shim.fail(operation, 0);
        assert!(write("disk/file") && shim.failed(operation) == 1);
    }
    let begun = Instant::now();
    shim.slow_syncs(SLOW_SYNC);
    assert!(write("disk/file") && begun.elapsed() >= SLOW_SYNC);
    shim.slow_syncs(Duration::ZERO);
    shim.fail(Operation::Read, 1);
    assert!(!read() && shim.failed(Operation::Read) == 1);
    shim.fail(Operation::Read, 0);
    shim.fail(Operation::LongRead, 1);
    let read_by = |bytes: usize| run("dd", &["if=disk/file", "of=/dev/null", &format!("bs={bytes}")]).0;
    assert_eq!((read_by(LONG_READ_BYTES), read_by(LONG_READ_BYTES + 1)), (true, false));
    shim.set_clock(-i64::MAX / 2);
    let (_, year) = run("date", &["+%Y"]);
    assert!(year.parse::<i32>().expect("a year") < 1990, "{year}");
    std::fs::remove_dir_all(&folder).expect("remove");
}
