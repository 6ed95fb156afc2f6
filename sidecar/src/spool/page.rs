//! The counter page (D2): 4 KiB that a data thread counts in and that outlives its process.
//!
//! It counts; it never steers recovery. After the death of the process alone it is exact. If the node died too, the kernel's
//! boot id is another one, and what the page shows are bounds.

use super::format::FormatError;
use super::format::bytes::Cursor;
use super::format::{FORMAT_VERSION, Problem};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Name of its file.
pub const FILE: &str = "counters";

/// Its length.
pub const PAGE_BYTES: usize = 4096;

/// Numbers of one thread: begun, sealed, ended, last seq, last time, not wanted, and room for two more.
const CELL_NUMBERS: usize = 8;

/// Numbers before the first thread's: magic, version, boot id of the kernel.
const START_NUMBERS: usize = 8;

/// Data threads that it has room for.
pub const THREADS_MAX: usize = PAGE_BYTES / 8 / CELL_NUMBERS - 1;

const MAGIC: [u8; 8] = *b"TSMYCNT\0";

/// The page of this process.
#[derive(Clone)]
pub struct CounterPage {
    map: Arc<Map>,
}

/// The numbers of one data thread, which alone writes them.
#[derive(Clone)]
pub struct ThreadCounters {
    map: Arc<Map>,
    at: usize,
}

/// What a page shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Exchanges that began.
    pub begun: u64,
    /// Records that were sealed.
    pub sealed: u64,
    /// Exchanges that ended, with a record or counted into a gap.
    pub ended: u64,
    /// `seq` of the last sealed record.
    pub last_seq: u64,
    /// Time of it, in ns since the epoch.
    pub last_unix_nanos: u64,
    /// Exchanges that ended, and policy wants no record of them.
    pub none: u64,
}

struct Map(NonNull<AtomicU64>);

// SAFETY: the page is mapped as long as the value lives, and atomics may be shared.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn numbers(&self) -> &[AtomicU64] {
        // SAFETY: PAGE_BYTES are mapped, aligned to a page, and unmapped only in `drop`; the file has that length and is
        // never shortened. Every access of this process is atomic.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), PAGE_BYTES / 8) }
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(number) = self.numbers().get(at) {
            number.store(value.to_le(), Ordering::Release);
        }
    }

    fn add(&self, at: usize, count: u64) {
        if let Some(number) = self.numbers().get(at) {
            // One thread writes it: no other can come between.
            let before = u64::from_le(number.load(Ordering::Relaxed));
            number.store(before.saturating_add(count).to_le(), Ordering::Release);
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `CounterPage::create` with this length, and nobody has a reference any more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

impl CounterPage {
    /// Makes the page in a folder. `kernel_boot_id` is [`kernel_boot_id`]'s.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(folder: &Path, kernel_boot_id: u128) -> io::Result<Self> {
        let path = folder.join(FILE);
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut page = vec![0; PAGE_BYTES];
        let mut start = Vec::with_capacity(START_NUMBERS * 8);
        start.extend(MAGIC);
        start.extend(u64::from(FORMAT_VERSION).to_le_bytes());
        start.extend(kernel_boot_id.to_le_bytes());
        for (slot, byte) in page.iter_mut().zip(start) {
            *slot = byte;
        }
        // Written, not only lengthened: a page without a block on disk could not be stored to when the disk is full.
        file.write_all(&page)?;
        file.sync_all()?;
        Ok(Self { map: Arc::new(map(&file)?) })
    }

    /// The numbers of one data thread; `None` beyond [`THREADS_MAX`].
    pub fn thread(&self, number: usize) -> Option<ThreadCounters> {
        let at = START_NUMBERS + number * CELL_NUMBERS;
        (number < THREADS_MAX).then(|| ThreadCounters { map: self.map.clone(), at })
    }
}

fn map(file: &File) -> io::Result<Map> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let address = unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, protection, MapFlags::SHARED, file, 0) }?;
    NonNull::new(address.cast()).map(Map).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

impl ThreadCounters {
    /// An exchange begins: stored before anything of it is forwarded.
    pub fn begin(&self) {
        self.map.add(self.at, 1);
    }

    /// A record was sealed.
    pub fn seal(&self, seq: u64, unix_nanos: u64) {
        self.map.store(self.at + 3, seq);
        self.map.store(self.at + 4, unix_nanos);
        self.map.add(self.at + 1, 1);
    }

    /// Exchanges ended.
    pub fn end(&self, count: u64) {
        self.map.add(self.at + 2, count);
    }

    /// An exchange ended of which policy wants no record.
    pub fn none(&self) {
        self.map.add(self.at + 5, 1);
    }
}

impl Counters {
    /// What a page of an earlier process shows, by thread, and the boot id of its kernel.
    ///
    /// # Errors
    /// It is no counter page.
    pub fn parse(bytes: &[u8]) -> Result<(u128, Vec<Self>), FormatError> {
        let mut cursor = Cursor(bytes);
        if cursor.array::<8>()? != MAGIC {
            return Err(Problem::Magic.into());
        }
        let version = cursor.u64()?;
        if version != u64::from(FORMAT_VERSION) {
            return Err(Problem::Version(u16::try_from(version).unwrap_or(u16::MAX)).into());
        }
        let boot_id = u128::from_le_bytes(cursor.array()?);
        cursor.take(START_NUMBERS * 8 - 32)?;
        let mut threads = Vec::new();
        for _ in 0..THREADS_MAX {
            let (begun, sealed, ended) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
            let (last_seq, last_unix_nanos) = (cursor.u64()?, cursor.u64()?);
            let none = cursor.u64()?;
            cursor.take((CELL_NUMBERS - 6) * 8)?;
            threads.push(Self { begun, sealed, ended, last_seq, last_unix_nanos, none });
        }
        while threads.last() == Some(&Self::default()) {
            threads.pop();
        }
        Ok((boot_id, threads))
    }
}

/// The boot id of the running kernel; 0 where it tells none, which equals no other.
pub fn kernel_boot_id() -> u128 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_the_page_outlives_its_writer() {
        let folder = crate::spool::tests::folder("page");
        let page = CounterPage::create(&folder, 7).expect("a page");
        let (first, third) = (page.thread(0).expect("room"), page.thread(2).expect("room"));
        first.begin();
        first.begin();
        first.seal(4, 99);
        first.end(1);
        first.none();
        third.begin();
        assert!(page.thread(THREADS_MAX).is_none());
        drop((page, first, third));
        let bytes = fs::read(folder.join(FILE)).expect("the file");
        let (boot, threads) = Counters::parse(&bytes).expect("a page");
        let counted = Counters { begun: 2, sealed: 1, ended: 1, last_seq: 4, last_unix_nanos: 99, none: 1 };
        let begun = Counters { begun: 1, ..Counters::default() };
        assert_eq!((boot, threads), (7, vec![counted, Counters::default(), begun]));
        assert_ne!(kernel_boot_id(), 0);
    }

    #[test]
    fn d2_what_is_no_page() {
        let mut bytes = vec![0; PAGE_BYTES];
        assert_eq!(Counters::parse(&bytes), Err(Problem::Magic.into()));
        assert_eq!(Counters::parse(&[]), Err(FormatError::Short));
        bytes[..8].copy_from_slice(&MAGIC);
        assert_eq!(Counters::parse(&bytes), Err(Problem::Version(0).into()));
        bytes[8] = FORMAT_VERSION as u8;
        assert_eq!(Counters::parse(&bytes), Ok((0, Vec::new())));
        assert_eq!(Counters::parse(&bytes[..PAGE_BYTES - 1]), Err(FormatError::Short));
    }
}
