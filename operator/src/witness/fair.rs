//! What one pod may take of the ledger that all share. Pure.

use std::collections::{HashMap, HashSet};
use testimony_core::evidence::ledger::tables::Tables;
use testimony_core::evidence::ledger::{
    ABANDONED_PER_STREAM_MAX, AbandonedRow, Fact, STREAMS_MAX, STREAMS_PER_POD_MAX, StreamRow,
};
use testimony_core::evidence::stream::{StreamId, StreamParts};

/// Time without a head after which a stream of an earlier process of a sidecar makes room for another one, in seconds: one that
/// goes on shows a head every half minute.
pub const SILENT_SECONDS: u64 = 600;

/// Certificates that a pod may have at once: each data thread needs one when its process begins, and a process may be restarted a
/// few times. Streams that have ended are many, too: all that are known are restated.
pub const CERTIFICATES_PER_POD_MAX: u64 = 256;

/// Time in which a pod may have one more, in seconds: a data thread needs one in a day.
pub const CERTIFICATES_PER_POD_SECONDS: u64 = 30;

/// Pods that have got certificates of late, at most: as many as there may be streams. Further ones wait until one of these may
/// have all of its own again, which takes two hours.
const CERTIFIED_PODS_MAX: usize = STREAMS_MAX;

/// How many certificates pods have got of late. Not kept: the next leader begins anew.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By the pod's uid: when it may have all of them again, in seconds since the epoch.
    pods: HashMap<String, u64>,
}

impl Certificates {
    /// Whether this pod may have one more.
    pub fn may_have(&mut self, pod_uid: &str, now_s: u64) -> bool {
        if self.pods.len() >= CERTIFIED_PODS_MAX && !self.pods.contains_key(pod_uid) {
            self.pods.retain(|_, full_s| *full_s > now_s);
            if self.pods.len() >= CERTIFIED_PODS_MAX {
                return false;
            }
        }
        let most_s = CERTIFICATES_PER_POD_MAX.saturating_sub(1).saturating_mul(CERTIFICATES_PER_POD_SECONDS);
        self.pods.get(pod_uid).is_none_or(|full_s| full_s.saturating_sub(now_s) <= most_s)
    }

    /// It got one.
    pub fn given(&mut self, pod_uid: &str, now_s: u64) {
        let full_s = self.pods.entry(pod_uid.to_owned()).or_default();
        *full_s = (*full_s).max(now_s).saturating_add(CERTIFICATES_PER_POD_SECONDS);
    }
}

/// What waits of single pods.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Streams that are told as lost.
    ending: HashSet<StreamId>,
    /// Parts of streams that are told as abandoned.
    abandoning: HashMap<StreamId, Vec<AbandonedRow>>,
    /// Pods, keys of whose spool are opened.
    unwrapping: HashSet<String>,
}

/// Whether there is room for one more stream of a pod.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Free,
    /// There is once this is told: a stream that has been silent for long is lost.
    After(Box<Fact>),
    /// There is none.
    Full,
}

/// What the ledger says of an abandoned part already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing, and there is room for it.
    New,
    /// It waits to be told.
    Waits,
    /// It is told.
    Told,
    /// As many parts of this stream are told as may be.
    Full,
}

impl Waiting {
    /// Of these facts.
    pub fn of(facts: &[Fact]) -> Self {
        let mut waiting = Self::default();
        facts.iter().for_each(|fact| waiting.add(fact));
        waiting
    }

    /// This fact waits, too.
    pub fn add(&mut self, fact: &Fact) {
        match fact {
            Fact::Lost(sid, ..) => {
                self.ending.insert(sid.clone());
            }
            Fact::Abandoned(row) => self.abandoning.entry(row.sid.clone()).or_default().push(row.clone()),
            Fact::Unwrapped(_, pod) => {
                self.unwrapping.insert(pod.clone());
            }
            _ => {}
        }
    }

    /// Whether keys of this pod's spool are being opened.
    pub fn unwraps(&self, pod_uid: &str) -> bool {
        self.unwrapping.contains(pod_uid)
    }

    /// Whether a pod may have this stream besides those that it has; `asked` are those of all pods that wait.
    pub fn room<'a>(
        &self,
        tables: &Tables,
        asked: impl Iterator<Item = &'a StreamId>,
        wanted: &StreamParts<'_>,
        now_s: u64,
    ) -> Room {
        let of_pod = |sid: &StreamId| sid.parts().is_some_and(|parts| parts.pod_uid == wanted.pod_uid);
        let asked = asked.filter(|sid| of_pod(sid)).count();
        let open: Vec<&StreamRow> =
            tables.open_of(wanted.pod_uid).filter(|row| !self.ending.contains(&row.sid)).collect();
        if open.len() + asked < STREAMS_PER_POD_MAX {
            return Room::Free;
        }
        let silent_ns = now_s.saturating_sub(SILENT_SECONDS).saturating_mul(1_000_000_000);
        let of_other_boot = |row: &&&StreamRow| row.sid.parts().is_some_and(|parts| parts.boot != wanted.boot);
        let silent = open.iter().filter(of_other_boot).filter(|row| row.at_ns < silent_ns);
        silent.min_by_key(|row| row.at_ns).map_or(Room::Full, |row| {
            Room::After(Box::new(Fact::Lost(row.sid.clone(), row.state.size, row.state.root)))
        })
    }

    /// What is known of a part of a stream that goes with its pod.
    pub fn abandoned(&self, tables: &Tables, row: &AbandonedRow) -> Known {
        let waits = self.abandoning.get(&row.sid).map(Vec::as_slice).unwrap_or_default();
        let told = tables.abandoned().get(&(row.sid.clone(), row.from, row.sink.clone()));
        if told.is_some_and(|known| known.to >= row.to) {
            Known::Told
        } else if waits.iter().any(|known| (known.from, &known.sink) == (row.from, &row.sink) && known.to >= row.to) {
            Known::Waits
        } else if tables.abandoned_of(&row.sid).count() + waits.len() >= ABANDONED_PER_STREAM_MAX {
            Known::Full
        } else {
            Known::New
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testimony_core::evidence::hash::Hash;
    use testimony_core::evidence::note::PublicKey;

    const START_S: u64 = 1_700_000_000;

    fn sid(pod: &str, boot: usize, thread: u16) -> StreamId {
        format!("c-1/shop/{pod}/{boot:032x}-{thread}-0").parse().expect("a name")
    }

    /// Streams of these pods, boots and times after the start, in seconds.
    fn tables(streams: &[(&str, usize, u64)]) -> Tables {
        let mut tables = Tables::default();
        for (number, (pod, boot, at_s)) in streams.iter().enumerate() {
            let fact = Fact::Certified(sid(pod, *boot, 0), PublicKey([1; 32]), u64::MAX, Vec::new());
            tables.apply(number as u64, (START_S + at_s) * 1_000_000_000, &fact).expect("certified");
        }
        tables
    }

    #[test]
    fn w1_a_pod_has_so_many_streams_that_go_on_and_silent_ones_make_room() {
        let most = STREAMS_PER_POD_MAX;
        let streams: Vec<(&str, usize, u64)> =
            (0..most).map(|boot| ("a", boot, 200 - boot as u64)).chain([("b", 0, 0)]).collect();
        let mut tables = tables(&streams);
        let none: [StreamId; 0] = [];
        let room = |waiting: &Waiting, tables: &Tables, wanted: &StreamId, asked: &[StreamId], after_s: u64| {
            waiting.room(tables, asked.iter(), &wanted.parts().expect("parts"), START_S + after_s)
        };
        let (new, other) = (sid("a", most, 0), sid("b", 7, 0));
        let waiting = Waiting::default();
        assert_eq!(room(&waiting, &tables, &new, &none, 200), Room::Full, "none is silent");
        assert_eq!(room(&waiting, &tables, &other, &none, 100), Room::Free, "another pod");
        let lost = |boot| {
            let root = testimony_core::evidence::merkle::empty_root();
            Fact::Lost(sid("a", boot, 0), 0, root)
        };
        // The one that was heard of longest ago.
        let after_s = 201 - most as u64 + SILENT_SECONDS;
        assert_eq!(room(&waiting, &tables, &new, &none, after_s), Room::Full, "not for long enough");
        assert_eq!(room(&waiting, &tables, &new, &none, after_s + 1), Room::After(Box::new(lost(most - 1))));
        assert_eq!(
            room(&waiting, &tables, &sid("a", most - 1, 1), &none, after_s + 1),
            Room::Full,
            "of its own process"
        );
        // It waits to be told; then there is room for one, unless that is asked for, too.
        let waiting = Waiting::of(&[lost(most - 1)]);
        assert_eq!(room(&waiting, &tables, &new, &none, after_s + 1), Room::Free);
        assert_eq!(room(&waiting, &tables, &new, &[sid("a", 99, 0), other], after_s + 1), Room::Full);
        tables.apply(0, 1, &Fact::Closed(sid("a", 5, 0), 3, Hash::of(&[]))).expect("closed");
        assert_eq!(room(&Waiting::default(), &tables, &new, &none, 0), Room::Free);
    }

    #[test]
    fn w1_a_pod_gets_so_many_certificates_at_once_and_one_more_in_a_while() {
        let mut certificates = Certificates::default();
        let mut get = |pod: &str, now_s: u64| {
            let may = certificates.may_have(pod, now_s);
            if may {
                certificates.given(pod, now_s);
            }
            may
        };
        let many = |get: &mut dyn FnMut(&str, u64) -> bool, pod: &str, now_s: u64| {
            (0..2 * CERTIFICATES_PER_POD_MAX).filter(|_| get(pod, now_s)).count() as u64
        };
        assert_eq!(many(&mut get, "a", START_S), CERTIFICATES_PER_POD_MAX);
        assert!(get("b", START_S), "another pod");
        assert!(!get("a", START_S + CERTIFICATES_PER_POD_SECONDS - 1));
        assert_eq!(many(&mut get, "a", START_S + CERTIFICATES_PER_POD_SECONDS), 1);
        assert!(!get("a", START_S), "a clock that was put back gives none");
        assert_eq!(many(&mut get, "a", START_S + 90_000), CERTIFICATES_PER_POD_MAX, "not more than at once");
        // Pods that may have all again are not remembered.
        (0..CERTIFIED_PODS_MAX as u64).for_each(|n| assert!(get(&format!("p{n}"), START_S + 200_000)));
        assert!(!get("z", START_S + 200_000 + CERTIFICATES_PER_POD_SECONDS - 1));
        assert!(get("z", START_S + 200_000 + CERTIFICATES_PER_POD_SECONDS));
    }

    #[test]
    fn w1_what_is_abandoned_is_told_once_and_so_often() {
        let mut tables = tables(&[("a", 0, 0), ("a", 1, 0)]);
        let (one, two) = (sid("a", 0, 0), sid("a", 1, 0));
        let row = |sid: &StreamId, (from, to): (u64, u64)| AbandonedRow {
            sid: sid.clone(),
            from,
            to,
            reason: "x".to_owned(),
            sink: None,
        };
        let fact = |from: u64, to: u64| Fact::Abandoned(row(&one, (from, to)));
        tables.apply(9, 1, &fact(3, 9)).expect("known");
        let mut waiting = Waiting::of(&[fact(20, 30)]);
        let table = [
            ((3, 9), Known::Told),
            ((3, 8), Known::Told),
            ((3, 10), Known::New),
            ((4, 9), Known::New),
            ((20, 30), Known::Waits),
            ((20, 31), Known::New),
        ];
        for (range, expected) in table {
            assert_eq!(waiting.abandoned(&tables, &row(&one, range)), expected, "{range:?}");
            let of_one_sink = AbandonedRow { sink: Some("archive".to_owned()), ..row(&one, range) };
            assert_eq!(waiting.abandoned(&tables, &of_one_sink), Known::New, "{range:?}");
        }
        (0..ABANDONED_PER_STREAM_MAX as u64 - 2).for_each(|n| waiting.add(&fact(100 + n, 101 + n)));
        assert_eq!(waiting.abandoned(&tables, &row(&one, (3, 10))), Known::Full);
        assert_eq!(waiting.abandoned(&tables, &row(&one, (3, 9))), Known::Told);
        assert_eq!(waiting.abandoned(&tables, &row(&two, (3, 9))), Known::New, "another stream");
    }

    #[test]
    fn d5_keys_of_one_spool_are_opened_one_request_at_a_time() {
        let waiting = Waiting::of(&[Fact::Unwrapped(sid("a", 0, 0), "a".to_owned())]);
        assert!(waiting.unwraps("a") && !waiting.unwraps("b"));
    }
}
