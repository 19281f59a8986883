//! Recognising a chunk that was checked before.
//!
//! Whoever holds a segment key can make another chunk with a valid tag, so a tag alone does not tell the owner's chunk: its
//! SHA-256 leaf under the signed root does. That hash is slower than the decryption. Weights that stream pass again with
//! every request, and a host may bring other bytes each time; so a reader that has checked a chunk once keeps a *mark* of
//! it, POLYVAL (RFC 8452) of the stored bytes under a random key that never leaves the reader. Other bytes of the same
//! length have the same mark with a probability of at most 4098 / 2^128, whatever keys the host knows, for marks and their
//! key are never shown; and bytes whose leaf and tag were checked before need
//! nothing but the keystream.

use alloc::vec::Vec;

use polyval::Polyval;
use polyval::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;

use crate::merkle::Hash;

/// Bytes of a mark.
pub(crate) const MARK_BYTES: usize = 16;

/// Proof that a chunk was checked; made by [`crate::SealedSection::open_chunk`] only.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub(crate) index: u32,
    pub(crate) value: [u8; MARK_BYTES],
}

/// The marks of one section's chunks.
pub(crate) struct Marks {
    hash: Polyval,
    /// One bit for each chunk: its slot in the leaf table holds a mark.
    known: Vec<u8>,
}

impl Marks {
    pub(crate) fn new(key: &[u8; MARK_BYTES], chunks: usize) -> Self {
        Self { hash: Polyval::new(key.into()), known: alloc::vec![0; chunks.div_ceil(8)] }
    }

    /// Whether the chunk's slot holds a mark.
    pub(crate) fn knows(&self, index: u32) -> bool {
        let (byte, bit) = place(index);
        self.known.get(byte).is_some_and(|bits| bits & bit != 0)
    }

    /// The mark of these bytes.
    pub(crate) fn of(&self, index: u32, stored: &[u8]) -> Mark {
        let mut hash = self.hash.clone();
        hash.update_padded(stored);
        Mark { index, value: hash.finalize().into() }
    }

    /// Puts the mark into the leaf's place.
    pub(crate) fn keep(&mut self, mark: Mark, slot: &mut Hash) {
        let (byte, bit) = place(mark.index);
        if let Some(bits) = self.known.get_mut(byte) {
            *bits |= bit;
            *slot = [0; 32];
            slot.iter_mut().zip(mark.value).for_each(|(to, from)| *to = from);
        }
    }
}

impl Mark {
    /// Compares without an early end: how far a wrong chunk agrees would tell its host about the key.
    pub(crate) fn is(&self, slot: &Hash) -> bool {
        slot.first_chunk::<MARK_BYTES>().is_some_and(|kept| bool::from(kept.ct_eq(&self.value)))
    }
}

fn place(index: u32) -> (usize, u8) {
    (usize::try_from(index / 8).unwrap_or(usize::MAX), 1 << (index % 8))
}
