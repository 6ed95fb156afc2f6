//! Where all exchanges of a stream went (G3): begun = exchanges + bursts + gaps + none + open, at any time.

use super::list::push_entry;
use crate::record::{Field, Record};

/// Most pairs of policy revision and rule that are told apart; more are counted as `other`.
pub const NONE_BY_MAX: usize = 64;

/// The totals of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    begun: u64,
    exchanges: u64,
    bursts: u64,
    gaps: u64,
    none: u64,
    open: u64,
    none_by: Vec<NoneBy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NoneBy {
    revision: Box<str>,
    rule: Box<str>,
    count: u64,
}

impl Tally {
    /// The totals of the stream that goes on from this one: what is open is taken over.
    pub fn rotated(&self) -> Self {
        Self { begun: self.open, open: self.open, ..Self::default() }
    }

    /// An exchange began.
    pub fn begin(&mut self) {
        self.begun = self.begun.saturating_add(1);
        self.open = self.open.saturating_add(1);
    }

    /// Exchanges ended; ones that nobody saw begin are begun now.
    fn end(&mut self, count: u64) {
        let unseen = count.saturating_sub(self.open);
        self.begun = self.begun.saturating_add(unseen);
        self.open = self.open.saturating_sub(count);
    }

    /// An exchange has its record.
    pub fn exchange(&mut self) {
        self.end(1);
        self.exchanges = self.exchanges.saturating_add(1);
    }

    /// A burst was sealed.
    pub fn burst(&mut self, count: u64) {
        self.end(count);
        self.bursts = self.bursts.saturating_add(count);
    }

    /// A gap was sealed; `foreign` of its exchanges belong to another stream, and count as begun here.
    pub fn gap(&mut self, count: u64, foreign: u64) {
        self.begun = self.begun.saturating_add(foreign);
        self.open = self.open.saturating_add(foreign);
        self.end(count);
        self.gaps = self.gaps.saturating_add(count);
    }

    /// An exchange ended of which this rule of this revision wants no record.
    pub fn none(&mut self, revision: &str, rule: &str) {
        self.end(1);
        self.none = self.none.saturating_add(1);
        let known = self.none_by.iter_mut().find(|by| *by.rule == *rule && *by.revision == *revision);
        if let Some(by) = known {
            by.count = by.count.saturating_add(1);
        } else if self.none_by.len() < NONE_BY_MAX {
            self.none_by.push(NoneBy { revision: revision.into(), rule: rule.into(), count: 1 });
        }
    }

    /// Exchanges that have not ended, or whose end is not declared yet.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// Exchanges that began.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether every exchange is somewhere.
    pub fn adds_up(&self) -> bool {
        let parts = [self.exchanges, self.bursts, self.gaps, self.none, self.open];
        parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(*part)) == Some(self.begun)
    }

    /// Writes the totals into a checkpoint or a close; what is 0 is left out, but for `begun`.
    pub(super) fn describe(&self, record: &mut Record) {
        record.set_int(Field::Begun, self.begun);
        for (field, count) in [
            (Field::Exchanges, self.exchanges),
            (Field::Bursts, self.bursts),
            (Field::Gaps, self.gaps),
            (Field::NoneCount, self.none),
            (Field::OpenCount, self.open),
        ] {
            if count > 0 {
                record.set_int(field, count);
            }
        }
        if self.none > 0 {
            let mut list = Vec::new();
            let mut named = 0_u64;
            for by in &self.none_by {
                named = named.saturating_add(by.count);
                push_entry(&mut list, &[by.revision.as_bytes(), by.rule.as_bytes()], by.count);
            }
            if self.none > named {
                push_entry(&mut list, &[b"other"], self.none - named);
            }
            record.set(Field::NoneBy, &list);
        }
    }
}
