//! Which streams were told to contradict themselves: once for each and each way, and a fork stands in the ledger once. Pure.

use std::collections::HashSet;
use testimony_core::evidence::ledger::tables::Tables;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::Refusal;

/// What was told. It knows at most [`Refusal::CONTRADICTIONS`] for each stream of the ledger's tables, which have their own
/// limits.
#[derive(Debug, Default)]
pub struct Contradictions(HashSet<(StreamId, &'static str)>);

impl Contradictions {
    /// Tells of a head of this size, if its refusal is a contradiction and was not told before; whether it is.
    pub fn tell(&mut self, sid: &StreamId, refusal: &Refusal, size: u64) -> bool {
        let result = refusal.as_str();
        let news = refusal.contradicts() && self.0.insert((sid.clone(), result));
        if news {
            tracing::error!(stream = %sid, result, size, "a stream shows a head that does not fit those before: it is refused");
        }
        news
    }

    /// A block was committed: what the ledger has forgotten needs no memory, because a head of an unknown stream contradicts
    /// nothing. A stream that has ended needs it, for whoever shows heads in its name would be told of with each.
    pub fn committed(&mut self, tables: &Tables) {
        self.0.retain(|(sid, _)| tables.stream(sid).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testimony_core::evidence::hash::Hash;
    use testimony_core::evidence::ledger::fact::StateFact;
    use testimony_core::evidence::ledger::{FINISHED_KEEP_S, Fact};
    use testimony_core::evidence::note::PublicKey;

    const STREAMS: u64 = 50;

    #[test]
    fn w1_contradictions_are_told_once_and_forgotten_with_their_streams() {
        let sid = |n: u64| format!("c-1/shop/a/{n:032x}-0-0").parse::<StreamId>().expect("a name");
        let (mut told, mut tables) = (Contradictions::default(), Tables::default());
        for n in 0..STREAMS {
            tables.apply(n, 1, &Fact::Certified(sid(n), PublicKey([1; 32]), u64::MAX, Vec::new())).expect("certified");
            for refusal in [Refusal::Fork(n), Refusal::Fork(n + 1), Refusal::Signature, Refusal::Consistency] {
                assert_eq!(told.tell(&sid(n), &refusal, 3), refusal != Refusal::Fork(n + 1), "each kind once");
                told.committed(&tables);
                assert!(!told.tell(&sid(n), &refusal, 3));
            }
            assert!(!told.tell(&sid(n), &Refusal::Expired, 3), "no contradiction");
            if n > 0 {
                tables.apply(n, 1, &Fact::Closed(sid(n), 3, Hash::of(&[]))).expect("closed");
            }
        }
        told.committed(&tables);
        assert!(!told.tell(&sid(7), &Refusal::Signature, 3), "it has ended, and others show heads in its name");
        assert_eq!(told.0.len() as u64, 3 * STREAMS);
        let restated = Fact::State(StateFact {
            first: Some((PublicKey([1; 32]), PublicKey([1; 32]), Vec::new())),
            ..StateFact::default()
        });
        tables.apply(0, (FINISHED_KEEP_S + 1) * 1_000_000_000, &restated).expect("restated");
        told.committed(&tables);
        assert_eq!(told.0.len(), 3, "of the stream that goes on");
    }
}
