//! The Merkle tree of RFC 6962 (and RFC 9162, section 2.1): hashing, appending, proofs and their
//! verification. Nothing here does I/O.
//!
//! A tree of any size is made of **nodes**: perfect subtrees, which never change once they are complete.
//! Whoever keeps a tree stores each complete node's hash under its level and index ([`Frontier::append`]
//! says which are new) and needs no more for the root and for every proof. A proof is made in two steps,
//! so that the hashes can come from anywhere: [`Plan`] says which nodes are needed, [`Plan::finish`] makes
//! the proof out of their hashes.

use sha2::{Digest as _, Sha256};

use crate::chain::Hash;

/// The hash of a leaf: of an entry as it stands in the tree.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of what lies over two subtrees.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A perfect subtree: the leaves from `index << level` on, `1 << level` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// 0 for a leaf.
    pub level: u8,
    /// Position among the nodes of its level, from 0.
    pub index: u64,
}

/// A proof cannot be made, or does not prove what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MerkleError {
    /// The leaf is not in a tree of that size.
    #[error("there is no entry {index} in a tree of {size} entries")]
    Index {
        /// The leaf.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// The first tree is larger than the second.
    #[error("a tree of {second} entries cannot go on from one of {first}")]
    Sizes {
        /// The earlier tree's size.
        first: u64,
        /// The later tree's size.
        second: u64,
    },
    /// The store does not have this node.
    #[error("node {} of level {} is not stored", .0.index, .0.level)]
    NotStored(Node),
    /// A tree of this size does not have that many peaks.
    #[error("a tree of {size} entries has {expected} peaks, not {given}")]
    Peaks {
        /// The tree's size.
        size: u64,
        /// How many it has.
        expected: usize,
        /// How many were given.
        given: usize,
    },
    /// The proof has too few or too many hashes.
    #[error("the proof has the wrong length")]
    Length,
    /// The proof leads to another root.
    #[error("the proof does not lead to the root")]
    Root,
}

// === The tree's right edge ===

/// A growing tree's right edge: all that appending needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    /// The hashes of [`Frontier::peaks_of`] the size.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// The nodes whose hashes [`Frontier::resume`] needs for a tree of `size` leaves: the largest perfect
    /// subtrees that it is made of, from the left.
    pub fn peaks_of(size: u64) -> Vec<Node> {
        cover(0, size)
    }

    /// Goes on with a tree of `size` leaves.
    ///
    /// # Errors
    /// There are not as many hashes as [`Frontier::peaks_of`] has nodes.
    pub fn resume(size: u64, peaks: Vec<Hash>) -> Result<Self, MerkleError> {
        let expected = size.count_ones() as usize;
        if peaks.len() != expected {
            return Err(MerkleError::Peaks { size, expected, given: peaks.len() });
        }
        Ok(Self { size, peaks })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf. Gives the nodes that are complete by it, to be stored: the leaf itself first.
    pub fn append(&mut self, leaf: Hash) -> Vec<(Node, Hash)> {
        let mut node = Node { level: 0, index: self.size };
        let mut hash = leaf;
        let mut complete = vec![(node, hash)];
        while node.index & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            node = Node { level: node.level + 1, index: node.index >> 1 };
            complete.push((node, hash));
        }
        self.peaks.push(hash);
        self.size += 1;
        complete
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        fold(self.peaks.iter().copied()).unwrap_or_else(empty_root)
    }
}

/// The perfect subtrees that the leaves from `begin` to before `end` are made of, from the left. `begin`
/// is a multiple of a power of two that is no less than their number.
fn cover(begin: u64, end: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut at = begin;
    while at < end {
        let level = (end - at).ilog2();
        nodes.push(Node { level: level as u8, index: at >> level });
        at += 1 << level;
    }
    nodes
}

/// The hash over neighbouring subtrees, the largest first.
fn fold(peaks: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    peaks.rev().reduce(|right, left| node_hash(&left, &right))
}

// === Making proofs ===

/// Which nodes a proof is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    nodes: Vec<Node>,
    /// How many of the nodes, one after another, make up each hash of the proof.
    parts: Vec<usize>,
}

impl Plan {
    /// A proof that leaf `index` is in the tree of the first `size` leaves.
    ///
    /// # Errors
    /// There is no such leaf in it.
    pub fn inclusion(index: u64, size: u64) -> Result<Self, MerkleError> {
        if index >= size {
            return Err(MerkleError::Index { index, size });
        }
        let (mut begin, mut end) = (0, size);
        let mut siblings = Vec::new();
        while end - begin > 1 {
            let middle = begin + split(end - begin);
            if index < middle {
                siblings.push((middle, end));
                end = middle;
            } else {
                siblings.push((begin, middle));
                begin = middle;
            }
        }
        Ok(Self::of(siblings))
    }

    /// A proof that the tree of the first `second` leaves goes on from that of the first `first`.
    ///
    /// # Errors
    /// `first` is larger than `second`.
    pub fn consistency(first: u64, second: u64) -> Result<Self, MerkleError> {
        if first > second {
            return Err(MerkleError::Sizes { first, second });
        }
        let (mut begin, mut end) = (0, second);
        let mut siblings = Vec::new();
        // Every tree goes on from the empty one and from itself: nothing needs to be shown.
        if first == 0 || first == second {
            return Ok(Self::of(siblings));
        }
        while end != first {
            let middle = begin + split(end - begin);
            if first <= middle {
                siblings.push((middle, end));
                end = middle;
            } else {
                siblings.push((begin, middle));
                begin = middle;
            }
        }
        // The earlier tree's own root is known to whoever verifies; a part of it is not.
        if begin != 0 {
            siblings.push((begin, end));
        }
        Ok(Self::of(siblings))
    }

    /// From the ranges of leaves, the widest first; proofs have them the other way round.
    fn of(ranges: Vec<(u64, u64)>) -> Self {
        let covers: Vec<_> = ranges.into_iter().rev().map(|(begin, end)| cover(begin, end)).collect();
        Self { parts: covers.iter().map(Vec::len).collect(), nodes: covers.concat() }
    }

    /// The nodes whose hashes are needed.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The proof, from the hashes of [`Plan::nodes`].
    ///
    /// # Errors
    /// `hash` does not have one of them.
    pub fn finish(&self, mut hash: impl FnMut(Node) -> Option<Hash>) -> Result<Vec<Hash>, MerkleError> {
        let hashes: Vec<Hash> = self
            .nodes
            .iter()
            .map(|node| hash(*node).ok_or(MerkleError::NotStored(*node)))
            .collect::<Result<_, _>>()?;
        let mut rest = hashes.as_slice();
        let mut proof = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let (these, others) = rest.split_at_checked(*part).ok_or(MerkleError::Length)?;
            rest = others;
            proof.extend(fold(these.iter().copied()));
        }
        Ok(proof)
    }
}

/// The largest power of two below `leaves`, of which there are at least two.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

// === Verifying ===

/// Verifies that the leaf with this hash is number `index` in the tree of `size` leaves with this root
/// (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// It is not, or the proof does not show it.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), MerkleError> {
    if index >= size {
        return Err(MerkleError::Index { index, size });
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(MerkleError::Length);
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(MerkleError::Length);
    }
    if hash == *root { Ok(()) } else { Err(MerkleError::Root) }
}

/// Verifies that the tree of `second` leaves with the root `second_root` holds that of `first` leaves with
/// the root `first_root`, unchanged, at its beginning (RFC 9162, section 2.1.4.2; here a tree may be empty).
///
/// # Errors
/// It does not, or the proof does not show it.
pub fn verify_consistency(
    first: u64,
    first_root: &Hash,
    second: u64,
    second_root: &Hash,
    proof: &[Hash],
) -> Result<(), MerkleError> {
    let same = |made: bool| if made { Ok(()) } else { Err(MerkleError::Root) };
    if first > second {
        return Err(MerkleError::Sizes { first, second });
    }
    if first == 0 || first == second {
        if !proof.is_empty() {
            return Err(MerkleError::Length);
        }
        let known = if first == 0 { empty_root() } else { *second_root };
        same(*first_root == known && (second != 0 || *second_root == known))?;
        return Ok(());
    }
    // The root of a perfect tree is the first hash, and is left out of the proof.
    let own = first.is_power_of_two().then_some(first_root);
    let mut hashes = own.into_iter().chain(proof);
    let start = hashes.next().ok_or(MerkleError::Length)?;
    let (mut at, mut last) = (first - 1, second - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*start, *start);
    for hash in hashes {
        if last == 0 {
            return Err(MerkleError::Length);
        }
        if at & 1 == 1 || at == last {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(MerkleError::Length);
    }
    same(old == *first_root && new == *second_root)
}

/// The root over these leaves; for trees that are small enough to have all leaves at hand.
pub fn root(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    let mut tree = Frontier::new();
    for leaf in leaves {
        tree.append(leaf);
    }
    tree.root()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    /// The definitions of RFC 6962, section 2.1, word by word.
    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(naive_split(leaves.len()));
                node_hash(&naive_root(left), &naive_root(right))
            }
        }
    }

    fn naive_split(count: usize) -> usize {
        let mut k = 1;
        while k * 2 < count {
            k *= 2;
        }
        k
    }

    fn naive_path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let k = naive_split(leaves.len());
        let (left, right) = leaves.split_at(k);
        if m < k {
            [naive_path(m, left), vec![naive_root(right)]].concat()
        } else {
            [naive_path(m - k, right), vec![naive_root(left)]].concat()
        }
    }

    fn naive_subproof(m: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if whole { Vec::new() } else { vec![naive_root(leaves)] };
        }
        let k = naive_split(leaves.len());
        let (left, right) = leaves.split_at(k);
        if m <= k {
            [naive_subproof(m, left, whole), vec![naive_root(right)]].concat()
        } else {
            [naive_subproof(m - k, right, false), vec![naive_root(left)]].concat()
        }
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    fn stored(leaves: &[Hash]) -> HashMap<Node, Hash> {
        let mut tree = Frontier::new();
        leaves.iter().flat_map(|leaf| tree.append(*leaf)).collect()
    }

    /// The leaves and roots that Certificate Transparency's own tests use.
    #[test]
    fn the_roots_of_certificate_transparency() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
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
        let mut tree = Frontier::new();
        assert_eq!(hex(&tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (input, root) in inputs.into_iter().zip(roots) {
            tree.append(leaf_hash(input));
            assert_eq!(hex(&tree.root()), root);
        }
        let leaves: Vec<Hash> = inputs.into_iter().map(leaf_hash).collect();
        let nodes = stored(&leaves);
        let proof = |plan: Result<Plan, MerkleError>| {
            let proof = plan.unwrap().finish(|node| nodes.get(&node).copied()).unwrap();
            proof.iter().map(|hash| hex(hash)[..8].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(proof(Plan::inclusion(0, 8)), ["96a296d2", "5f083f0a", "6b47aaf2"]);
        assert_eq!(proof(Plan::inclusion(5, 8)), ["bc1a0643", "ca854ea1", "d37ee418"]);
        assert_eq!(proof(Plan::inclusion(2, 3)), ["fac54203"]);
        assert_eq!(proof(Plan::consistency(1, 8)), ["96a296d2", "5f083f0a", "6b47aaf2"]);
        assert_eq!(proof(Plan::consistency(6, 8)), ["0ebc5d34", "ca854ea1", "d37ee418"]);
        assert_eq!(proof(Plan::consistency(2, 5)), ["5f083f0a", "bc1a0643"]);
    }

    #[test]
    fn every_small_tree_is_as_the_definitions_say() {
        let all = leaves(34);
        let nodes = stored(&all);
        let lookup = |node| nodes.get(&node).copied();
        for second in 0..=all.len() {
            let tree = &all[..second];
            let top = naive_root(tree);
            assert_eq!(root(tree.iter().copied()), top);
            let peaks = Frontier::peaks_of(second as u64).into_iter().map(|node| lookup(node).unwrap());
            assert_eq!(Frontier::resume(second as u64, peaks.collect()).unwrap().root(), top);
            for index in 0..second {
                let proof = Plan::inclusion(index as u64, second as u64).unwrap().finish(lookup).unwrap();
                assert_eq!(proof, naive_path(index, tree));
                verify_inclusion(&tree[index], index as u64, second as u64, &proof, &top).unwrap();
            }
            for first in 0..=second {
                let proof = Plan::consistency(first as u64, second as u64).unwrap().finish(lookup).unwrap();
                if first > 0 {
                    assert_eq!(proof, naive_subproof(first, tree, true));
                }
                let old = naive_root(&all[..first]);
                verify_consistency(first as u64, &old, second as u64, &top, &proof).unwrap();
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(matches!(Plan::inclusion(3, 3), Err(MerkleError::Index { .. })));
        assert!(matches!(Plan::consistency(4, 3), Err(MerkleError::Sizes { .. })));
        assert!(matches!(Frontier::resume(5, vec![[0; 32]]), Err(MerkleError::Peaks { expected: 2, .. })));
        let plan = Plan::inclusion(u64::MAX - 1, u64::MAX).unwrap();
        assert!(matches!(plan.finish(|_| None), Err(MerkleError::NotStored(_))));
        let [a, b] = [[1; 32], [2; 32]];
        assert_eq!(verify_inclusion(&a, 7, 7, &[], &a), Err(MerkleError::Index { index: 7, size: 7 }));
        assert_eq!(verify_inclusion(&a, 0, 0, &[], &a), Err(MerkleError::Index { index: 0, size: 0 }));
        assert_eq!(verify_consistency(3, &a, 3, &b, &[]), Err(MerkleError::Root));
        assert_eq!(verify_consistency(3, &a, 3, &a, &[b]), Err(MerkleError::Length));
        assert_eq!(verify_consistency(0, &a, 3, &b, &[]), Err(MerkleError::Root));
        assert_eq!(verify_consistency(0, &empty_root(), 0, &b, &[]), Err(MerkleError::Root));
        assert_eq!(verify_consistency(2, &a, 3, &b, &[]), Err(MerkleError::Length));
        let long = vec![a; 1000];
        assert_eq!(verify_inclusion(&a, u64::MAX - 1, u64::MAX, &long, &b), Err(MerkleError::Length));
        assert_eq!(verify_consistency(u64::MAX - 1, &a, u64::MAX, &b, &long), Err(MerkleError::Length));
    }

    proptest! {
        #[test]
        fn altered_proofs_are_refused(
            second in 2_usize..300,
            index in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            bit in 0_usize..256,
            other in any::<prop::sample::Index>(),
        ) {
            let all = leaves(second);
            let nodes = stored(&all);
            let size = second as u64;
            let lookup = |node| nodes.get(&node).copied();
            let top = naive_root(&all);
            let at = index.index(second);
            let proof = Plan::inclusion(at as u64, size).unwrap().finish(lookup).unwrap();
            let check = |leaf: &Hash, index: usize, size: u64, proof: &[Hash], root: &Hash| {
                verify_inclusion(leaf, index as u64, size, proof, root).is_ok()
            };
            prop_assert!(check(&all[at], at, size, &proof, &top));
            let flip = |hash: &Hash| { let mut hash = *hash; hash[bit / 8] ^= 1 << (bit % 8); hash };
            prop_assert!(!check(&flip(&all[at]), at, size, &proof, &top));
            prop_assert!(!check(&all[at], at, size, &proof, &flip(&top)));
            prop_assert!(!check(&all[at], at, size, &[proof.as_slice(), &[top]].concat(), &top));
            prop_assert!(!check(&all[at], at, size, &proof[..proof.len() - 1], &top));
            let wrong = other.index(second);
            prop_assert!(wrong == at || !check(&all[at], wrong, size, &proof, &top), "another place");
            let place = place.index(proof.len());
            let mut bad = proof;
            bad[place] = flip(&bad[place]);
            prop_assert!(!check(&all[at], at, size, &bad, &top));

            let first = at + 1;
            let old = naive_root(&all[..first]);
            let proof = Plan::consistency(first as u64, size).unwrap().finish(lookup).unwrap();
            let check = |old: &Hash, new: &Hash, proof: &[Hash]| {
                verify_consistency(first as u64, old, size, new, proof).is_ok()
            };
            prop_assert!(check(&old, &top, &proof));
            prop_assert!(!check(&flip(&old), &top, &proof));
            prop_assert!(!check(&old, &flip(&top), &proof));
            prop_assert!(!check(&old, &top, &[proof.as_slice(), &[top]].concat()));
            if let Some((_, shorter)) = proof.split_last() {
                prop_assert!(!check(&old, &top, shorter));
                let mut bad = proof;
                let place = place % bad.len();
                bad[place] = flip(&bad[place]);
                prop_assert!(!check(&old, &top, &bad));
            }
        }

        #[test]
        fn large_trees_are_planned_without_trouble(second in any::<u64>(), part in any::<u64>()) {
            let first = if second == 0 { 0 } else { part % second };
            let nodes = |plan: Plan| plan.nodes().len();
            prop_assert!(nodes(Plan::consistency(first, second).unwrap()) < 64 * 64);
            if second > 0 {
                prop_assert!(nodes(Plan::inclusion(first, second).unwrap()) < 64 * 64);
            }
            prop_assert_eq!(Frontier::peaks_of(second).len(), second.count_ones() as usize);
        }
    }
}
