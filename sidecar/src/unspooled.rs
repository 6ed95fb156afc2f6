//! A worker that cannot make its spool keeps records in memory, and what it takes along when it dies is known to nobody. Its
//! successor, which may have a spool again, must declare that: a mark beside the pod's key, which is in memory and outlives the
//! container, tells it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use testimony_core::record::{Gap, GapReason};

/// Name of the mark.
const FILE: &str = "unspooled";

/// The mark of a pod.
#[derive(Clone, Debug)]
pub struct Unspooled {
    mark: PathBuf,
}

impl Unspooled {
    /// In the folder of the pod's key.
    pub fn new(key_folder: &Path) -> Self {
        Self { mark: key_folder.join(FILE) }
    }

    /// Since when a process recorded without a spool and did not end in order, in nanoseconds since the epoch.
    pub fn since(&self) -> Option<u64> {
        let modified = fs::metadata(&self.mark).and_then(|mark| mark.modified()).ok()?;
        Some(modified.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This process records without a spool from now on.
    pub fn set(&self) {
        if self.since().is_none()
            && let Err(error) = fs::write(&self.mark, [])
        {
            tracing::error!(mark = %self.mark.display(), %error, "what this process loses could not be declared by the next");
        }
    }

    /// Nothing is left to be declared.
    pub fn clear(&self) {
        if self.since().is_some()
            && let Err(error) = fs::remove_file(&self.mark)
        {
            tracing::warn!(mark = %self.mark.display(), %error, "a loss that was declared may be declared again");
        }
    }
}

/// What an earlier process took along, if there is no counter page to tell it exactly: nobody knows how many. `since` is what the
/// mark says, `ended` when a worker of this container died, `spooled` whether this process has a spool, which shows that that
/// worker had one, too, unless there is a mark. All times in nanoseconds since the epoch.
pub fn lost(since: Option<u64>, ended: Option<u64>, spooled: bool, now: u64) -> Option<Gap> {
    let gap = |from_ns, to_ns| Gap { count: 0, exact: false, from_ns, to_ns, reason: GapReason::WorkerDied };
    match (since, ended) {
        (Some(since), ended) => Some(gap(since, ended.unwrap_or(now).max(since))),
        (None, Some(ended)) if !spooled => Some(gap(ended, ended)),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::folder;

    #[test]
    fn ev_1_what_a_process_without_a_spool_took_along_is_a_gap_of_unknown_size() {
        let times = |gap: Option<Gap>| gap.map(|gap| (gap.from_ns, gap.to_ns, gap.count, gap.exact));
        // With a spool, and no mark: the counter page tells.
        assert_eq!(times(lost(None, Some(5), true, 9)), None);
        assert_eq!(times(lost(None, None, false, 9)), None, "nobody went before");
        assert_eq!(times(lost(None, Some(5), false, 9)), Some((5, 5, 0, false)));
        for spooled in [true, false] {
            assert_eq!(times(lost(Some(3), Some(5), spooled, 9)), Some((3, 5, 0, false)));
            assert_eq!(times(lost(Some(3), None, spooled, 9)), Some((3, 9, 0, false)), "the container was restarted");
        }
    }

    #[test]
    fn a_mark_is_set_once_and_cleared() {
        let folder = folder("unspooled");
        let unspooled = Unspooled::new(&folder);
        assert_eq!(unspooled.since(), None);
        unspooled.set();
        let since = unspooled.since();
        assert!(since.is_some_and(|since| since > 0));
        unspooled.set();
        assert_eq!(unspooled.since(), since, "the first process without a spool counts");
        unspooled.clear();
        assert_eq!(unspooled.since(), None);
        unspooled.clear();
    }
}
