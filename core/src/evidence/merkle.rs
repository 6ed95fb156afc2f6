//! The Merkle tree of RFC 6962, section 2.1, over a stream's bodies (L1).
//!
//! A tree of n leaves is kept as a compact range: the hashes of the perfect subtrees that make it up, at most 64 of them.
//! A range of leaves that need not start at 0 has such a form too; a hole carries one in place of its records (G2).

use super::hash::{HASH_BYTES, Hash};

/// What a leaf's hash begins with, before the body.
pub const LEAF_PREFIX: u8 = 0;

/// What a node's hash begins with.
const NODE_PREFIX: u8 = 1;

/// The leaf of a body: SHA-256(0x00 || body).
pub fn leaf(body: &[u8]) -> Hash {
    Hash::of(&[&[LEAF_PREFIX], body])
}

/// The leaf of a body that stands behind [`LEAF_PREFIX`] already.
pub fn leaf_of_prefixed(prefixed: &[u8]) -> Hash {
    Hash::of_bytes(prefixed)
}

/// The node above two others: SHA-256(0x01 || left || right).
pub fn node(left: Hash, right: Hash) -> Hash {
    let mut bytes = [NODE_PREFIX; 1 + 2 * HASH_BYTES];
    let (_, children) = bytes.split_at_mut(1);
    for (slot, child) in children.as_chunks_mut::<HASH_BYTES>().0.iter_mut().zip([left, right]) {
        *slot = child.0;
    }
    Hash::of_bytes(&bytes)
}

/// Root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Hash::of(&[])
}

/// Sizes, as powers of two, of the perfect subtrees that cover `[begin, end)` in order. The one way to cut the range that
/// fits both into the tree and into itself.
fn levels(mut begin: u64, end: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let left = end.checked_sub(begin).filter(|left| *left > 0)?;
        let fits = 63 - left.leading_zeros();
        let level = if begin == 0 { fits } else { fits.min(begin.trailing_zeros()) };
        begin = begin.checked_add(1_u64.checked_shl(level)?)?;
        Some(level)
    })
}

/// How many hashes the compact form of `[begin, end)` has.
pub fn range_nodes(begin: u64, end: u64) -> usize {
    levels(begin, end).count()
}

/// A range of leaves `[begin, end)` of a tree, in compact form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    begin: u64,
    end: u64,
    /// Subtrees from left to right: level and hash. Their places follow from `begin`.
    nodes: Vec<(u32, Hash)>,
}

/// Hashes that are no compact form of this range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[{begin}, {end}) has {wanted} hashes in compact form, not {found}")]
pub struct WrongNodes {
    begin: u64,
    end: u64,
    wanted: usize,
    found: usize,
}

impl Range {
    /// An empty range that grows from `begin`.
    pub fn empty(begin: u64) -> Self {
        Self { begin, end: begin, nodes: Vec::new() }
    }

    /// The range of one leaf.
    pub fn of_leaf(at: u64, leaf: Hash) -> Self {
        let mut range = Self::empty(at);
        range.push(leaf);
        range
    }

    /// A range from its hashes, left to right.
    ///
    /// # Errors
    /// Their number is not that of the range.
    pub fn from_nodes(begin: u64, end: u64, hashes: &[Hash]) -> Result<Self, WrongNodes> {
        let wanted = range_nodes(begin, end);
        if end < begin || wanted != hashes.len() {
            return Err(WrongNodes { begin, end, wanted, found: hashes.len() });
        }
        Ok(Self { begin, end, nodes: levels(begin, end).zip(hashes.iter().copied()).collect() })
    }

    /// First leaf.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// The leaf after the last one: for a range from 0, the size of the tree.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The hashes, left to right.
    pub fn nodes(&self) -> impl Iterator<Item = Hash> {
        self.nodes.iter().map(|(_, hash)| *hash)
    }

    /// The subtrees, left to right: first leaf, the leaf after the last one, hash.
    pub fn spans(&self) -> impl Iterator<Item = (u64, u64, Hash)> {
        let mut at = self.begin;
        self.nodes.iter().map(move |(level, hash)| {
            let begin = at;
            at = at.saturating_add(1_u64.checked_shl(*level).unwrap_or(u64::MAX));
            (begin, at, *hash)
        })
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_node(0, leaf);
    }

    /// Appends the range that begins where this one ends; returns whether it does.
    pub fn append(&mut self, other: &Self) -> bool {
        if other.begin != self.end {
            return false;
        }
        for (level, hash) in &other.nodes {
            self.push_node(*level, *hash);
        }
        true
    }

    fn push_node(&mut self, level: u32, hash: Hash) {
        let Some(end) = 1_u64.checked_shl(level).and_then(|size| self.end.checked_add(size)) else { return };
        let (mut level, mut hash) = (level, hash);
        // Where this subtree begins; a left neighbour of the same size joins it where both make one of the next size.
        let mut begin = self.end;
        while let Some((left_level, left)) = self.nodes.last().copied() {
            let size = 1_u64 << level;
            if left_level != level || begin & size == 0 {
                break;
            }
            self.nodes.pop();
            hash = node(left, hash);
            begin -= size;
            level += 1;
        }
        self.nodes.push((level, hash));
        self.end = end;
    }

    /// Root of the tree of the first `end` leaves; `None` if the range does not begin at 0.
    pub fn root(&self) -> Option<Hash> {
        if self.begin != 0 {
            return None;
        }
        let mut right_to_left = self.nodes.iter().rev().map(|(_, hash)| *hash);
        let Some(last) = right_to_left.next() else { return Some(empty_root()) };
        Some(right_to_left.fold(last, |right, left| node(left, right)))
    }
}

/// Proof that `leaf` stands at `index` in the tree over these leaves (RFC 6962, 2.1.1); `None` if it is not one of them.
pub fn prove_inclusion(leaves: &[Hash], index: u64) -> Option<Vec<Hash>> {
    let at = usize::try_from(index).ok().filter(|at| *at < leaves.len())?;
    let mut proof = Vec::new();
    let mut part = leaves;
    let mut at = at;
    while part.len() > 1 {
        let (left, right) = part.split_at_checked(split(part.len()))?;
        if at < left.len() {
            proof.push(root_of(right));
            part = left;
        } else {
            proof.push(root_of(left));
            at -= left.len();
            part = right;
        }
    }
    proof.reverse();
    Some(proof)
}

/// Root of the tree over these leaves.
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut range = Range::empty(0);
    leaves.iter().for_each(|leaf| range.push(*leaf));
    range.root().unwrap_or_else(empty_root)
}

/// Largest power of two below `size`, which is at least 2.
fn split(size: usize) -> usize {
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}

/// The root that an inclusion proof leads to; `None` if the proof does not fit the tree's size (RFC 9162, 2.1.3.2).
pub fn root_from_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(*sibling, hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(hash, *sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Whether a consistency proof ties the tree of `old` leaves with root `old_root` to that of `new` leaves with root
/// `new_root` (RFC 9162, 2.1.4.2).
pub fn is_consistent(old: u64, old_root: Hash, new: u64, new_root: Hash, proof: &[Hash]) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old > new || old == 0 {
        return old == 0 && proof.is_empty() && old_root == empty_root();
    }
    let (mut at, mut last) = (old - 1, new - 1);
    let mut proof = proof.iter().copied();
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    // Where the old tree is one perfect subtree, its root is not repeated.
    let Some(first) = (if old.is_power_of_two() { Some(old_root) } else { proof.next() }) else { return false };
    let (mut from_old, mut from_new) = (first, first);
    for hash in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            from_old = node(hash, from_old);
            from_new = node(hash, from_new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node(from_new, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == old_root && from_new == new_root
}

/// The consistency proof between the first `old` of these leaves and all of them (RFC 6962, 2.1.2).
pub fn prove_consistency(leaves: &[Hash], old: u64) -> Option<Vec<Hash>> {
    let old = usize::try_from(old).ok().filter(|old| *old <= leaves.len())?;
    let mut proof = Vec::new();
    if old == 0 || old == leaves.len() {
        return Some(proof);
    }
    let (mut part, mut old, mut whole) = (leaves, old, true);
    while old != part.len() {
        let (left, right) = part.split_at_checked(split(part.len()))?;
        if old <= left.len() {
            proof.push(root_of(right));
            part = left;
        } else {
            proof.push(root_of(left));
            old -= left.len();
            part = right;
            whole = false;
        }
    }
    if !whole {
        proof.push(root_of(part));
    }
    proof.reverse();
    Some(proof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf(&n.to_be_bytes())).collect()
    }

    /// The definition of RFC 6962, 2.1.
    fn definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [only] => *only,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len()));
                node(definition(left), definition(right))
            }
        }
    }

    fn range(leaves: &[Hash], begin: u64, end: u64) -> Range {
        let mut range = Range::empty(begin);
        for leaf in &leaves[begin as usize..end as usize] {
            range.push(*leaf);
        }
        range
    }

    /// Vectors of the Certificate Transparency reference implementation.
    #[test]
    fn l1_the_reference_trees() {
        let inputs: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut range = Range::empty(0);
        for (input, root) in inputs.iter().zip(roots) {
            range.push(leaf(input));
            assert_eq!(range.root().map(Hash::to_hex).as_deref(), Some(root));
        }
    }

    #[test]
    fn proofs_of_every_size_hold_and_fit_no_other_place() {
        let all = leaves(33);
        for size in 1..=33_u64 {
            let part = &all[..size as usize];
            let root = definition(part);
            for index in 0..size {
                let proof = prove_inclusion(part, index).expect("an index of the tree");
                let of = |at: u64, n: u64| root_from_inclusion(all[index as usize], at, n, &proof);
                assert_eq!(of(index, size), Some(root));
                assert!((0..size).filter(|at| *at != index).all(|at| of(at, size) != Some(root)), "{index} of {size}");
                assert_eq!(
                    root_from_inclusion(all[index as usize], index, size, &[&proof[..], &[root]].concat()),
                    None
                );
            }
            for old in 0..=size {
                let old_root = definition(&part[..old as usize]);
                let proof = prove_consistency(part, old).expect("an older size");
                assert!(is_consistent(old, old_root, size, root, &proof), "{old} to {size}");
                assert!(!is_consistent(old, node(root, root), size, root, &proof));
                assert!(old == 0 || !is_consistent(old, old_root, size, node(root, root), &proof));
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!is_consistent(old, old_root, size, root, shorter));
                }
            }
        }
    }

    #[test]
    fn g2_ranges_have_one_form_and_a_number_of_hashes() {
        assert_eq!(levels(0, 7).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(levels(1, 7).collect::<Vec<_>>(), [0, 1, 1, 0]);
        assert_eq!(levels(5, 5).count() + levels(6, 5).count(), 0);
        assert_eq!(levels(0, u64::MAX).count(), 64);
        assert!(Range::from_nodes(1, 7, &leaves(3)).is_err());
        assert!(Range::from_nodes(7, 1, &[]).is_err());
    }

    proptest! {
        #[test]
        fn a_tree_put_together_of_ranges_is_the_tree(size in 0_u64..300, cuts in proptest::collection::vec(0_u64..300, 0..4)) {
            let all = leaves(size);
            let mut cuts: Vec<u64> = cuts.into_iter().map(|cut| cut.min(size)).chain([0, size]).collect();
            cuts.sort_unstable();
            let mut whole = Range::empty(0);
            for pair in cuts.windows(2) {
                let part = range(&all, pair[0], pair[1]);
                let hashes: Vec<Hash> = part.nodes().collect();
                prop_assert_eq!(hashes.len(), range_nodes(pair[0], pair[1]));
                let again = Range::from_nodes(pair[0], pair[1], &hashes).expect("its own form");
                prop_assert_eq!(&again, &part);
                prop_assert!(whole.append(&again));
            }
            prop_assert_eq!(whole.root(), Some(definition(&all)));
            prop_assert!(!whole.append(&Range::empty(size + 1)));
        }
    }
}
