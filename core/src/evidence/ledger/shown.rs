//! How far a stream had come at which time, as its heads in the ledger say: exact of late, and coarser the longer ago.

/// Of two neighbours of a head one is enough once they are closer than this part of its age.
const AGE_PART: u64 = 4;

/// Heads of one stream: when the ledger had them (nanoseconds since the epoch), and their sizes. Both only grow, and there are few
/// for any time: the logarithm of the longest age by that of the shortest, times [`AGE_PART`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    heads: Vec<(u64, u64)>,
    /// A time that matters, in nanoseconds since the epoch, and the first head from then on: it is known exactly, however long ago.
    since_ns: Option<u64>,
    first: Option<(u64, u64)>,
}

impl Shown {
    /// Nothing yet. The first head at this time or later, in nanoseconds since the epoch, will be known exactly.
    pub fn new(since_ns: Option<u64>) -> Self {
        Self { since_ns, ..Self::default() }
    }

    /// The next head. One of a restatement may be known already.
    pub fn push(&mut self, at_ns: u64, size: u64) {
        if self.heads.last().is_some_and(|(last_ns, last)| *last_ns > at_ns || *last >= size) {
            return;
        }
        if self.first.is_none() && self.since_ns.is_some_and(|since_ns| at_ns >= since_ns) {
            self.first = Some((at_ns, size));
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

    /// Size of the first head that is known to have come at this time or later.
    pub fn since(&self, ns: u64) -> Option<u64> {
        let heads = self.first.iter().chain(&self.heads).filter(|(at_ns, _)| *at_ns >= ns);
        heads.min_by_key(|(_, size)| *size).map(|(_, size)| *size)
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

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
            let since = shown.since(now - age).expect("the last at least");
            assert!((since - true_size) * EVERY_S <= age / 2, "{age}: {since} of {true_size}");
        }
        assert_eq!((shown.by(0), shown.since(now + 1)), (0, None));
        // One time matters: what it had come to then is known exactly, however long ago.
        for age in [0, 29, 30, 3_000, 86_400, 29 * 86_400, 30 * 86_400] {
            let mut exact = Shown::new(Some(now - age));
            (1..=heads).for_each(|n| exact.push(n * EVERY_S, n));
            assert_eq!(exact.since(now - age), Some((now - age).div_ceil(EVERY_S).max(1)), "{age}");
            assert_eq!(exact.heads, shown.heads);
            assert_eq!(exact.since(now + 1), None);
        }
        // What is restated is known.
        let before = shown.clone();
        shown.push(5, 1);
        shown.push(now, heads);
        assert_eq!(shown, before);
    }
}
