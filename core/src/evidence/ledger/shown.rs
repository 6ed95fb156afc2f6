//! How far a stream had come at which time, as its heads in the ledger say: exact of late, and coarser the longer ago.

/// Of two neighbours of a head one is enough once they are closer than this part of its age.
const AGE_PART: u64 = 4;

/// A stream that goes on has a head in the ledger each 5 minutes, and some seconds. After a longer pause it shows what it could
/// not show before, the end of each epoch first: so long, in nanoseconds, its heads may be older than they look.
const LATE_NS: u64 = 310_000_000_000;

/// Times that matter, in nanoseconds since the epoch: how far streams had come then is known exactly, however long ago it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The first head of each stream that was clearly made then or later.
    pub since_ns: Option<u64>,
    /// The last one that the ledger had by then.
    pub until_ns: Option<u64>,
}

/// Heads of one stream: when the ledger had them (nanoseconds since the epoch), and their sizes. Both only grow, and there are few
/// for any time: the logarithm of the longest age by that of the shortest, times [`AGE_PART`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    heads: Vec<(u64, u64)>,
    times: Times,
    /// Sizes of the heads that matter.
    first: Option<u64>,
    last: Option<u64>,
    /// Until then heads may be older than they look, and when the last one came.
    late_until_ns: u64,
    last_ns: u64,
}

impl Shown {
    /// Nothing yet.
    pub fn new(times: Times) -> Self {
        Self { times, ..Self::default() }
    }

    /// The next head. One of a restatement may be known already.
    pub fn push(&mut self, at_ns: u64, size: u64) {
        if self.heads.last().is_some_and(|(last_ns, last)| *last_ns > at_ns || *last >= size) {
            return;
        }
        if at_ns.saturating_sub(self.last_ns) > LATE_NS {
            self.late_until_ns = at_ns.saturating_add(LATE_NS);
        }
        self.last_ns = at_ns;
        if self.first.is_none() && self.times.since_ns.is_some_and(|since_ns| at_ns >= since_ns.max(self.late_until_ns))
        {
            self.first = Some(size);
        }
        if self.times.until_ns.is_some_and(|until_ns| at_ns <= until_ns) {
            self.last = Some(size);
        }
        self.heads.push((at_ns, size));
        let mut kept: Vec<(u64, u64)> = Vec::with_capacity(self.heads.len());
        for (at, head) in self.heads.iter().enumerate() {
            let between = kept.last().zip(self.heads.get(at.saturating_add(1)));
            let close = between.is_some_and(|((before_ns, _), (after_ns, _))| {
                after_ns.saturating_sub(*before_ns) < at_ns.saturating_sub(head.0) / AGE_PART
            });
            if !close {
                kept.push(*head);
            }
        }
        self.heads = kept;
    }

    /// Records that the ledger had a head over by this time; some less, where that is not known exactly.
    pub fn by(&self, ns: u64) -> u64 {
        self.heads.iter().rev().find(|(at_ns, _)| *at_ns <= ns).map_or(0, |(_, size)| *size)
    }

    /// Size of the first head that was clearly made at the first time that matters or later.
    pub fn since(&self) -> Option<u64> {
        self.first
    }

    /// Size of the last head that the ledger had by the second one.
    pub fn until(&self) -> Option<u64> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::{Shown, Times};

    #[test]
    fn of_late_heads_are_known_exactly_and_few_of_long_ago() {
        const EVERY_S: u64 = 30;
        let mut shown = Shown::default();
        let heads = 30 * 24 * 3_600 / EVERY_S;
        (1..=heads).for_each(|n| shown.push(n * EVERY_S, n));
        assert!(shown.heads.len() < 70, "{}", shown.heads.len());
        let now = heads * EVERY_S;
        for age in [0, 30, 60, 120, 600, 3_600, 86_400, 7 * 86_400] {
            let (known, true_size) = (shown.by(now - age), (now - age) / EVERY_S);
            assert!(known <= true_size, "{age}");
            assert!((true_size - known) * EVERY_S <= age / 2, "{age}: {known} of {true_size}");
        }
        assert_eq!((shown.by(0), shown.since()), (0, None));
        // One time matters: what it had come to then is known exactly, however long ago.
        for age in [0, 29, 30, 3_000, 86_400, 29 * 86_400] {
            let mut exact = Shown::new(Times { since_ns: Some(now - age), until_ns: Some(now - age) });
            (1..=heads).for_each(|n| exact.push(n * EVERY_S, n));
            assert_eq!(exact.since(), Some((now - age).div_ceil(EVERY_S).max(1)), "{age}");
            assert_eq!(exact.until(), Some((now - age) / EVERY_S), "{age}");
            assert_eq!(exact.heads, shown.heads);
        }
        // What is restated is known.
        let before = shown.clone();
        shown.push(5, 1);
        shown.push(now, heads);
        assert_eq!(shown, before);
    }

    #[test]
    fn v3_what_comes_after_a_pause_may_be_from_before_it() {
        const SECOND_NS: u64 = 1_000_000_000;
        let begin_ns = 1_000_000 * SECOND_NS;
        let mut shown = Shown::new(Times { since_ns: Some(begin_ns + 3_600 * SECOND_NS), until_ns: None });
        // A head each 5 minutes, but for an hour and a half in which nobody took any; then the ends of nine epochs at once.
        let early = (0..10).map(|n| (n * 300, n + 1));
        let late = (0..9).map(|n| (8_000 + n, 20 + n));
        let after = (1..5).map(|n| (8_000 + n * 300, 40 + n));
        for (at_s, size) in early.chain(late).chain(after) {
            shown.push(begin_ns + at_s * SECOND_NS, size);
        }
        assert_eq!(shown.since(), Some(42));
    }
}
