//! The thread that reads what earlier processes left, behind traffic.

use super::boots::{Boot, Predecessor};
use super::disk::{Files, Folder};
use super::format::{FormatError, Problem};
use super::handle::{Event, Found, SpoolHandle, lock};
use super::keys::{DataKey, Keys};
use super::page::{self, Counters, kernel_boot_id};
use super::recover::{Report, Unreadable, scan};
use super::shelf::Shelf;
use crate::defect::{Panicked, contained};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often an earlier process's folder is read, until what the disk cannot read counts as damaged,
const SCANS_MAX: u32 = 10;
/// and the pause between two of them, in ms.
const SCAN_PAUSE_MS: u64 = 200;

/// Reads what earlier processes left, one folder after the other.
pub(super) fn recover(
    handle: &SpoolHandle,
    predecessors: Vec<Predecessor>,
    keys: &Keys,
    reader: Boot,
    events: &mpsc::Sender<Event>,
) {
    read_all(handle, predecessors, keys, reader, events);
    lock(&handle.shared.control).all_adopted = true;
    handle.inbox.shared().request();
}

fn read_all(
    handle: &SpoolHandle,
    predecessors: Vec<Predecessor>,
    keys: &Keys,
    reader: Boot,
    events: &mpsc::Sender<Event>,
) {
    for predecessor in predecessors {
        let read = |unreadable| {
            let goes_on = || !handle.inbox.shared().is_stopping();
            let scanned = scan(Folder::new(&predecessor.path), keys, predecessor.boot, reader, unreadable, &goes_on)?;
            let page = Folder::new(&predecessor.path).read_at(page::FILE, 0, page::PAGE_BYTES);
            let page = match page {
                Err(error) if unreadable == Unreadable::Retry && error.kind() != io::ErrorKind::NotFound => {
                    return Err(error);
                }
                page => page.ok().map(|page| Counters::parse(&page)),
            };
            match page {
                Some(Err(FormatError::Corrupt(Problem::Version(version)))) if scanned.shelf.segments.is_empty() => {
                    let what = format!("{}: {}", page::FILE, Problem::Version(version));
                    Err(io::Error::new(io::ErrorKind::Unsupported, what))
                }
                page => Ok((scanned, page.and_then(Result::ok))),
            }
        };
        // A defect must cost no more than the folder that brings it about: whoever is started after a panic would read the same.
        match contained(|| patiently(read)) {
            Ok(Ok((mut scanned, counters))) => {
                give_up_unwrapped(&mut scanned.shelf, handle.shared.recovery.is_some());
                let (kernel, counters) = counters.unwrap_or_default();
                let shelf = (predecessor.path.clone(), scanned.shelf.shared().clone());
                lock(&handle.shared.shelves).insert(predecessor.boot, shelf);
                lock(&handle.shared.control).adopted.push((scanned.shelf, predecessor));
                handle.inbox.shared().request();
                handle.shared.adopted.send_modify(|count| *count = count.saturating_add(1));
                let counters_exact = kernel != 0 && kernel == kernel_boot_id();
                let found = Found { report: scanned.report, counters, counters_exact };
                // At the process's end nobody tells it any more, but sinks still get what is there.
                let _ = events.blocking_send(Event::Found(Box::new(found)));
            }
            // Nobody but that version knows what is missing here, and at each start that much is told.
            Ok(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                let path = predecessor.path.display();
                tracing::error!(%path, %error, "another version of the sidecar left a spool: that version delivers it, where it runs in this pod again; else it goes with the pod");
                tell_unread(predecessor.boot, events);
            }
            Err(Panicked) => {
                let path = predecessor.path.display();
                tracing::error!(%path, "a defect: to read a spool of before panicked; it is not delivered, and each start tries it once more");
                tell_unread(predecessor.boot, events);
            }
            // This process ends.
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return,
            // It stays for the next process.
            Ok(Err(error)) => tracing::error!(path = %predecessor.path.display(), %error, "a spool cannot be read"),
        }
    }
}

/// That much is known of a folder that was not read.
fn tell_unread(boot: Boot, events: &mpsc::Sender<Event>) {
    let found = Found { report: Report::unread(boot), counters: Vec::new(), counters_exact: false };
    let _ = events.blocking_send(Event::Found(Box::new(found)));
}

/// Segments that no recovery key ever opens: what stands in them is told as damaged.
fn give_up_unwrapped(shelf: &mut Shelf<Folder>, operator: bool) {
    let hopeless = |(_, wrapped): &(u64, &[u8])| wrapped.is_empty() || !operator;
    let numbers: Vec<u64> = shelf.locked().filter(hopeless).map(|(number, _)| number).collect();
    for number in numbers {
        tracing::error!(boot = %shelf.boot(), number, "the pod's key is another one, and no recovery key opens this segment");
        if let Some(key) = DataKey::lost() {
            shelf.unlock(number, key);
        }
    }
}

fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::Unsupported)
}

/// A disk that cannot read may be able to a little later; if not, what it cannot read is damaged.
fn patiently<T>(mut read: impl FnMut(Unreadable) -> io::Result<T>) -> io::Result<T> {
    for _ in 1..SCANS_MAX {
        match read(Unreadable::Retry) {
            Err(error) if !is_final(&error) => {
                tracing::warn!(%error, "an earlier process's spool cannot be read yet");
            }
            found => return found,
        }
        std::thread::sleep(Duration::from_millis(SCAN_PAUSE_MS));
    }
    read(Unreadable::Damaged)
}
