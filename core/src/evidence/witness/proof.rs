//! Proofs out of compact ranges alone: who shows its heads need not keep its leaves.

use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, node};

/// The consistency proof (RFC 6962, 2.1.2) between the first leaves, `old` = `[0, m)`, and those with `since` = `[m, n)`
/// added. `None` if the two do not join at `m`, or `old` does not begin at 0.
pub fn consistency(old: &Range, since: &Range) -> Option<Vec<Hash>> {
    let (m, n) = (old.end(), since.end());
    if old.begin() != 0 || since.begin() != m {
        return None;
    }
    let mut proof = Vec::new();
    if m == 0 || m == n {
        return Some(proof);
    }
    let spans: Vec<(u64, u64, Hash)> = old.spans().chain(since.spans()).collect();
    let (mut low, mut high, mut whole) = (0, n, true);
    while m != high {
        let middle = low + split(high - low)?;
        if m <= middle {
            proof.push(part(&spans, middle, high)?);
            high = middle;
        } else {
            proof.push(part(&spans, low, middle)?);
            low = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(part(&spans, low, high)?);
    }
    proof.reverse();
    Some(proof)
}

/// The inclusion proof (RFC 6962, 2.1.1) of the leaf that follows `before` = `[0, n - 1)`, in the tree of n leaves.
pub fn inclusion_of_next(before: &Range) -> Option<Vec<Hash>> {
    if before.begin() != 0 {
        return None;
    }
    let mut proof: Vec<Hash> = before.nodes().collect();
    proof.reverse();
    Some(proof)
}

/// Root of the leaves `[begin, end)`, which subtrees of `spans` make up.
fn part(spans: &[(u64, u64, Hash)], begin: u64, end: u64) -> Option<Hash> {
    let mut at = end;
    let mut root: Option<Hash> = None;
    for (from, to, hash) in spans.iter().rev().filter(|(from, to, _)| begin <= *from && *to <= end) {
        if *to != at {
            return None;
        }
        at = *from;
        root = Some(root.map_or(*hash, |right| node(*hash, right)));
    }
    root.filter(|_| at == begin)
}

/// Largest power of two below `size`; `None` below 2.
fn split(size: u64) -> Option<u64> {
    let below = size.checked_sub(1).filter(|below| *below > 0)?;
    1_u64.checked_shl(63 - below.leading_zeros())
}
