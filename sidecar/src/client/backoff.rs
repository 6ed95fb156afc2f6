//! How long to wait before the next try.

use std::time::Duration;

/// A small generator for jitter, seeded from the system's randomness: not for keys.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

/// Exponential backoff with full jitter in its upper half.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    jitter: Jitter,
}

impl Jitter {
    /// A generator with a seed of its own.
    pub fn seeded() -> Self {
        let mut seed = [0; 8];
        // Without randomness all sidecars retry in step, which is a nuisance and no error.
        let _ = aws_lc_rs::rand::fill(&mut seed);
        Self::from_seed(u64::from_le_bytes(seed))
    }

    /// A generator that a test can repeat.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// A number of `0..1000` (SplitMix64).
    pub fn permille(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % 1000).unwrap_or(0)
    }

    /// Between half of `wait` and all of it.
    pub fn spread(&mut self, wait: Duration) -> Duration {
        let half = wait / 2;
        half + half * self.permille() / 1000
    }
}

impl Backoff {
    /// Waits of `first`, twice that, and so on up to `most`; each spread over its upper half.
    pub fn new(first: Duration, most: Duration, jitter: Jitter) -> Self {
        Self { first, most, next: first, jitter }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.most);
        self.jitter.spread(wait)
    }

    /// It worked: start anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_stay_within_their_upper_half() {
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(30));
        let mut backoff = Backoff::new(first, most, Jitter::from_seed(7));
        let mut whole = first;
        for _ in 0..20 {
            let wait = backoff.wait();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(most);
        }
        assert_eq!(whole, most);
        backoff.reset();
        assert!(backoff.wait() <= first);
    }
}
