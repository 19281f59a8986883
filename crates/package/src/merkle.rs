//! SHA-256 tree over a section's stored chunks, hashed as RFC 6962 section 2.1 does: leaves and inner nodes are told
//! apart by their first byte, so a node can never be passed off as a chunk.

use alloc::vec::Vec;

use sha2::{Digest, Sha256};

use crate::limits::HASH_BYTES;

/// A digest.
pub type Hash = [u8; HASH_BYTES];

/// Hash of one stored chunk.
pub fn leaf(chunk: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(chunk).finalize().into()
}

/// Root over `leaves`, in order.
pub fn root(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    // Complete subtrees still waiting for a right sibling, largest first, with their heights.
    let mut open: Vec<(u32, Hash)> = Vec::new();
    for hash in leaves {
        let mut tree = (0u32, hash);
        while let Some((height, left)) = open.last().copied() {
            if height != tree.0 {
                break;
            }
            open.pop();
            tree = (height.saturating_add(1), node(&left, &tree.1));
        }
        open.push(tree);
    }
    let mut open = open.into_iter().rev();
    match open.next() {
        Some((_, last)) => open.fold(last, |right, (_, left)| node(&left, &right)),
        None => Sha256::digest([]).into(),
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962's own recursive definition.
    fn recursive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            many => {
                let k = many.len().next_power_of_two() / 2;
                node(&recursive(&many[..k]), &recursive(&many[k..]))
            }
        }
    }

    #[test]
    fn equals_the_recursive_definition() {
        let leaves: Vec<Hash> = (0u8..70).map(|i| leaf(&[i])).collect();
        for n in 0..=leaves.len() {
            assert_eq!(root(leaves[..n].iter().copied()), recursive(&leaves[..n]), "{n} leaves");
        }
    }

    #[test]
    fn order_count_and_level_matter() {
        let (a, b) = (leaf(b"a"), leaf(b"b"));
        assert_ne!(root([a, b]), root([b, a]));
        assert_ne!(root([a]), root([a, a]));
        assert_ne!(root([a, b]), leaf(&[a, b].concat()));
    }
}
