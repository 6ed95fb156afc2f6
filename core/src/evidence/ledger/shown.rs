//! How far a stream had come at which time, as its heads in the ledger say: exact of late, and coarser the longer ago.

/// Of two neighbours of a head one is enough once they are closer than this part of its age.
const AGE_PART: u64 = 4;

/// Heads of one stream: when the ledger had them (nanoseconds since the epoch), and their sizes. Both only grow, and there are few
/// for any time: the logarithm of the longest age by that of the shortest, times [`AGE_PART`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown(Vec<(u64, u64)>);

impl Shown {
    /// The next head. One of a restatement may be known already.
    pub fn push(&mut self, at_ns: u64, size: u64) {
        if self.0.last().is_some_and(|(last_ns, last)| *last_ns > at_ns || *last >= size) {
            return;
        }
        self.0.push((at_ns, size));
        let mut kept: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for (at, head) in self.0.iter().enumerate() {
            let between = kept.last().zip(self.0.get(at.saturating_add(1)));
            let close = between.is_some_and(|((before_ns, _), (after_ns, _))| {
                after_ns.saturating_sub(*before_ns) < at_ns.saturating_sub(head.0) / AGE_PART
            });
            if !close {
                kept.push(*head);
            }
        }
        self.0 = kept;
    }

    /// Records that the ledger had a head over by this time; some less, where that is not known exactly.
    pub fn by(&self, ns: u64) -> u64 {
        self.0.iter().rev().find(|(at_ns, _)| *at_ns <= ns).map_or(0, |(_, size)| *size)
    }

    /// Size of the first head that is known to have come at this time or later.
    pub fn since(&self, ns: u64) -> Option<u64> {
        self.0.iter().find(|(at_ns, _)| *at_ns >= ns).map(|(_, size)| *size)
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
        assert!(shown.0.len() < 70, "{}", shown.0.len());
        let now = heads * EVERY_S;
        for age in [0, 30, 60, 120, 600, 3_600, 86_400, 7 * 86_400] {
            let (known, true_size) = (shown.by(now - age), (now - age) / EVERY_S);
            assert!(known <= true_size, "{age}");
            assert!((true_size - known) * EVERY_S <= age / 2, "{age}: {known} of {true_size}");
            let since = shown.since(now - age).expect("the last at least");
            assert!((since - true_size) * EVERY_S <= age / 2, "{age}: {since} of {true_size}");
        }
        assert_eq!((shown.by(0), shown.since(now + 1)), (0, None));
        // What is restated is known.
        let before = shown.clone();
        shown.push(5, 1);
        shown.push(now, heads);
        assert_eq!(shown, before);
    }
}
