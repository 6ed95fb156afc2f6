//! The folder of a real file system.

use super::rig::folder;
use crate::spool::disk::{Disk, Files, Folder};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The length from which on a file gets room ahead, and how much that is at most.
const AHEAD_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=512 * 1024;
/// A file takes whole blocks.
const BLOCK_BYTES: u64 = 4096;

#[test]
fn a_file_that_grows_has_room_ahead_until_it_is_closed() {
    let folder = folder("room-ahead");
    let mut disk = Folder::new(&folder);
    let (piece, name) = (vec![7_u8; 10_000], "00000000000000000000.seg");
    let taken = || {
        let metadata = fs::metadata(folder.join(name)).expect("a file");
        (metadata.len(), metadata.blocks() * 512)
    };
    disk.create(name).expect("made");
    disk.append(name, &piece).expect("written");
    disk.sync(name).expect("synced");
    assert!(taken().1 < *AHEAD_BYTES.start(), "a small file takes what it has: {:?}", taken());
    let mut ahead_bytes_max = 0;
    for count in 2..200 {
        disk.append(name, &piece).expect("written");
        let (bytes, blocks_bytes) = taken();
        assert_eq!(bytes, count * 10_000, "its length is what was appended");
        ahead_bytes_max = ahead_bytes_max.max(blocks_bytes.saturating_sub(bytes));
    }
    assert!(
        (AHEAD_BYTES.end() - 20_000..=AHEAD_BYTES.end() + 2 * BLOCK_BYTES).contains(&ahead_bytes_max),
        "{ahead_bytes_max}"
    );
    disk.sync(name).expect("synced");
    disk.close(name);
    let (bytes, blocks_bytes) = taken();
    assert_eq!(bytes, 199 * 10_000);
    assert!(blocks_bytes < bytes + 2 * BLOCK_BYTES, "what was not used is free: {blocks_bytes}");
    assert_eq!(disk.read_at(name, 0, 2_000_000).expect("read"), vec![7; 1_990_000]);
}
