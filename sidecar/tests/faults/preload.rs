//! A library that the sidecar is started with (`LD_PRELOAD`): it moves the clock, and lets the disk fail. No part of the test
//! program; `shim.rs` has rustc make it, and says what stands in the words of the control file.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const CLOCK_REALTIME: c_int = 0;
const EIO: c_int = 5;
const ENOSPC: c_int = 28;
const O_RDWR: c_int = 2;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;
const NANOS: i64 = 1_000_000_000;
const CONTROL_BYTES: usize = 768 * 1024;
const SYNCED_FILES: usize = 30_000;
/// A read of more bytes is a long one.
const LONG_READ_BYTES: usize = 2048;
/// `statx(2)`: of the descriptor itself, the basic fields and the time of birth.
const AT_EMPTY_PATH: c_int = 0x1000;
const STATX_BASIC_AND_BIRTH: c_int = 0xfff;
/// Where `struct statx` has inode, length and birth (seconds, and nanoseconds in the lower half), in words of 64 bits.
const STATX_INODE: usize = 4;
const STATX_LENGTH: usize = 5;
const STATX_BIRTH: usize = 10;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: i64 = 0;
    pub const WRITE: i64 = 1;
    pub const PREAD: i64 = 17;
    pub const PWRITE: i64 = 18;
    pub const FSYNC: i64 = 74;
    pub const FDATASYNC: i64 = 75;
    pub const CLOCK_GETTIME: i64 = 228;
    pub const STATX: i64 = 332;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const READ: i64 = 63;
    pub const WRITE: i64 = 64;
    pub const PREAD: i64 = 67;
    pub const PWRITE: i64 = 68;
    pub const FSYNC: i64 = 82;
    pub const FDATASYNC: i64 = 83;
    pub const CLOCK_GETTIME: i64 = 113;
    pub const STATX: i64 = 291;
}

/// `struct timespec` of 64 bit systems.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanos: i64,
}

/// As `shim.rs` writes it.
#[repr(C)]
struct Control {
    clock_ns: AtomicI64,
    /// Of syncs, writes, reads, long reads: every so many fails; 0: none.
    every: [AtomicU64; 4],
    calls: [AtomicU64; 4],
    failed: [AtomicU64; 4],
    /// How much longer each sync takes, in microseconds.
    sync_pause_us: AtomicU64,
    /// Of the files below the folder: inode, birth, and length when they were last synced. Inode 0: free.
    synced: [[AtomicU64; 3]; SYNCED_FILES],
}

#[derive(Clone, Copy)]
enum Operation {
    Sync,
    Write,
    Read,
    LongRead,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn mmap(at: *mut c_void, length: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn readlink(path: *const c_char, to: *mut c_char, length: usize) -> isize;
    fn __errno_location() -> *mut c_int;
}

fn control() -> Option<&'static Control> {
    static CONTROL: OnceLock<Option<&'static Control>> = OnceLock::new();
    *CONTROL.get_or_init(|| {
        // SAFETY: the variable's text outlives the call; the file is as long as what is mapped of it, and stays mapped.
        unsafe {
            let path = getenv(c"TESTIMONY_TEST_CONTROL".as_ptr());
            if path.is_null() {
                return None;
            }
            let fd = open(path, O_RDWR);
            let map = mmap(std::ptr::null_mut(), CONTROL_BYTES, PROT_READ_WRITE, MAP_SHARED, fd, 0);
            if fd < 0 || map.addr() == usize::MAX { None } else { Some(&*map.cast::<Control>()) }
        }
    })
}

/// Whether a file stands in the folder whose disk fails.
fn is_below(fd: c_int) -> bool {
    let mut link = [0_u8; 32];
    let mut target = [0_u8; 1024];
    let text = b"/proc/self/fd/";
    link[..text.len()].copy_from_slice(text);
    let (mut digits, mut rest) = ([0_u8; 10], fd.unsigned_abs());
    let mut count = 0;
    while count == 0 || rest > 0 {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
    }
    for at in 0..count {
        link[text.len() + at] = digits[count - 1 - at];
    }
    // SAFETY: both texts end in NUL, and the length is that of the buffer.
    unsafe {
        let folder = getenv(c"TESTIMONY_TEST_DISK".as_ptr());
        let length = readlink(link.as_ptr().cast(), target.as_mut_ptr().cast(), target.len());
        !folder.is_null() && length > 0 && target[..length as usize].starts_with(CStr::from_ptr(folder).to_bytes())
    }
}

/// Whether this call is to fail.
fn fails(operation: Operation, fd: c_int) -> bool {
    let Some(control) = control() else { return false };
    let at = operation as usize;
    let every = control.every[at].load(Ordering::Relaxed);
    if every == 0 || !is_below(fd) {
        return false;
    }
    let fails = (control.calls[at].fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every);
    control.failed[at].fetch_add(u64::from(fails), Ordering::Relaxed);
    fails
}

fn reading_fails(fd: c_int, length: usize) -> bool {
    fails(Operation::Read, fd) || length > LONG_READ_BYTES && fails(Operation::LongRead, fd)
}

fn fail(error: c_int) -> c_int {
    // SAFETY: the location is this thread's own.
    unsafe { *__errno_location() = error };
    -1
}

/// # Safety
/// As `clock_gettime(3)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    let result = unsafe { syscall(number::CLOCK_GETTIME, clock, time) } as c_int;
    if let (0, CLOCK_REALTIME, Some(control)) = (result, clock, control()) {
        let time = unsafe { &mut *time };
        let total = time.seconds * NANOS + time.nanos + control.clock_ns.load(Ordering::Relaxed);
        (time.seconds, time.nanos) = (total.div_euclid(NANOS), total.rem_euclid(NANOS));
    }
    result
}

/// Syncs, and notes how long the file was: what comes after would be lost with the node.
fn sync(number: i64, fd: c_int) -> c_int {
    if fails(Operation::Sync, fd) {
        return fail(EIO);
    }
    let pause_us = control().map_or(0, |control| control.sync_pause_us.load(Ordering::Relaxed));
    if pause_us > 0 && is_below(fd) {
        std::thread::sleep(Duration::from_micros(pause_us));
    }
    let mut stat = [0_u64; 32];
    // SAFETY: the buffer is as long as `struct statx`.
    let result = unsafe {
        syscall(number::STATX, fd, c"".as_ptr(), AT_EMPTY_PATH, STATX_BASIC_AND_BIRTH, stat.as_mut_ptr());
        syscall(number, fd) as c_int
    };
    if let (0, Some(control), true) = (result, control(), is_below(fd)) {
        note(control, &stat);
    }
    result
}

/// A file is told by inode and birth: one that is made later may have the inode of one that is gone.
fn note(control: &Control, stat: &[u64; 32]) {
    let (inode, length) = (stat[STATX_INODE], stat[STATX_LENGTH]);
    let birth = stat[STATX_BIRTH].wrapping_mul(NANOS as u64).wrapping_add(stat[STATX_BIRTH + 1] & 0xffff_ffff);
    for at in 0..SYNCED_FILES as u64 {
        let slot = &control.synced[((inode + at) % SYNCED_FILES as u64) as usize];
        let taken = slot[0].compare_exchange(0, inode, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() || taken == Err(inode) {
            // In this order: killed in between, a file has no other one's length.
            if slot[1].load(Ordering::Acquire) != birth {
                slot[2].store(0, Ordering::Release);
                slot[1].store(birth, Ordering::Release);
            }
            slot[2].store(length, Ordering::Release);
            break;
        }
    }
}

/// # Safety
/// As `fdatasync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(number::FDATASYNC, fd)
}

/// # Safety
/// As `fsync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(number::FSYNC, fd)
}

/// # Safety
/// As `write(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, from: *const c_void, length: usize) -> isize {
    if fails(Operation::Write, fd) {
        return fail(ENOSPC) as isize;
    }
    unsafe { syscall(number::WRITE, fd, from, length) as isize }
}

/// # Safety
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, length: usize, offset: i64) -> isize {
    if fails(Operation::Write, fd) {
        return fail(ENOSPC) as isize;
    }
    unsafe { syscall(number::PWRITE, fd, from, length, offset) as isize }
}

/// # Safety
/// As `read(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, to: *mut c_void, length: usize) -> isize {
    if reading_fails(fd, length) {
        return fail(EIO) as isize;
    }
    unsafe { syscall(number::READ, fd, to, length) as isize }
}

/// # Safety
/// As `pread(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(fd: c_int, to: *mut c_void, length: usize, offset: i64) -> isize {
    if reading_fails(fd, length) {
        return fail(EIO) as isize;
    }
    unsafe { syscall(number::PREAD, fd, to, length, offset) as isize }
}
