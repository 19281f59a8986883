//! How the chunks of a section are checked, encrypted and decrypted.
//!
//! In the file a section is its stored chunks followed by one leaf hash per chunk. The leaf hashes are a convenience
//! for readers that hold one chunk at a time; what authenticates them is the root in the signed header.

use alloc::vec::Vec;

use cordon_codec::Writer;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::aead::{Aead, ChunkAead, NONCE_BYTES};
use crate::error::PackageError;
use crate::keys::label;
use crate::limits::{HASH_BYTES, TAG_BYTES};
use crate::merkle::{self, Hash};
use crate::section::{Section, SectionKind};

const ASSOCIATED_BYTES: usize = 32 + 1 + 2 + 4 + 4;

/// Leaf hashes of a section on their way in, in pieces of any size.
pub struct LeafTableBuilder {
    section: Section,
    leaves: Vec<Hash>,
    partial: Vec<u8>,
}

impl LeafTableBuilder {
    pub(crate) fn new(section: &Section) -> Self {
        Self { section: section.clone(), leaves: Vec::new(), partial: Vec::new() }
    }

    /// Makes room for all hashes at once; whether there is. For a reader that knows the count to be honest or its memory
    /// to be bounded: a list that grows takes up to twice the room.
    pub fn reserve(&mut self) -> bool {
        let count = usize::try_from(self.section.chunks()).unwrap_or(usize::MAX);
        self.leaves.try_reserve_exact(count.saturating_sub(self.leaves.len())).is_ok()
    }

    /// Takes the next bytes. Memory grows with what was really given, never past the section's own count.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PackageError> {
        let (head, rest) = if self.partial.is_empty() {
            (&[][..], bytes)
        } else {
            bytes.split_at(bytes.len().min(HASH_BYTES.saturating_sub(self.partial.len())))
        };
        self.partial.extend_from_slice(head);
        if let Some(hash) = self.partial.first_chunk::<HASH_BYTES>().copied() {
            self.partial.clear();
            self.add(hash)?;
        }
        let (hashes, tail) = rest.as_chunks::<HASH_BYTES>();
        for hash in hashes {
            self.add(*hash)?;
        }
        self.partial.extend_from_slice(tail);
        Ok(())
    }

    /// Checks the hashes against the signed root.
    pub fn finish(self) -> Result<LeafTable, PackageError> {
        let complete = u32::try_from(self.leaves.len()) == Ok(self.section.chunks()) && self.partial.is_empty();
        if !complete || merkle::root(self.leaves.iter().copied()) != *self.section.root() {
            return Err(self.section.damaged());
        }
        Ok(LeafTable { section: self.section, leaves: self.leaves })
    }

    fn add(&mut self, hash: Hash) -> Result<(), PackageError> {
        if u32::try_from(self.leaves.len()).is_ok_and(|n| n < self.section.chunks()) {
            self.leaves.push(hash);
            Ok(())
        } else {
            Err(self.section.damaged())
        }
    }
}

/// Leaf hashes that match the signed root: the proof by which single chunks are recognised.
pub struct LeafTable {
    section: Section,
    leaves: Vec<Hash>,
}

impl LeafTable {
    /// The section it belongs to.
    pub fn section(&self) -> &Section {
        &self.section
    }

    /// Bytes it keeps resident.
    pub fn memory_bytes(&self) -> usize {
        self.leaves.capacity().saturating_mul(HASH_BYTES)
    }

    /// Checks one stored chunk; for a plain section the result is its content.
    pub fn check<'a>(&self, index: u32, stored: &'a [u8]) -> Result<&'a [u8], PackageError> {
        let expected = usize::try_from(index).ok().and_then(|i| self.leaves.get(i));
        let length = self.section.chunk(index).map(|(_, len)| len);
        if length != Some(stored.len()) || expected != Some(&merkle::leaf(stored)) {
            return Err(self.section.damaged());
        }
        Ok(stored)
    }
}

/// Decrypts the chunks of one section, each checked against its leaf first. Made by [`crate::Opened::section`] only.
pub struct SealedSection {
    leaves: LeafTable,
    cipher: ChunkCipher,
}

impl SealedSection {
    pub(crate) fn new(package_id: &[u8; 32], segment_key: &[u8; 32], leaves: LeafTable) -> Self {
        let cipher = ChunkCipher::new(package_id, segment_key, &leaves.section);
        Self { leaves, cipher }
    }

    /// The section it reads.
    pub fn section(&self) -> &Section {
        &self.leaves.section
    }

    /// Bytes of leaf hashes it keeps resident.
    pub fn memory_bytes(&self) -> usize {
        self.leaves.memory_bytes()
    }

    /// Decrypts chunk `index` in place. A chunk that is the owner's and does not decrypt is wiped. Takes no `&mut self`, so that
    /// threads can open chunks side by side.
    pub fn decrypt_chunk<'a>(&self, index: u32, stored: &'a mut [u8]) -> Result<&'a mut [u8], PackageError> {
        let section = &self.leaves.section;
        self.leaves.check(index, stored)?;
        let (plain, tag) = stored.split_last_chunk_mut::<TAG_BYTES>().ok_or(section.chunk_error(index))?;
        if self.cipher.decrypt(index, plain, *tag) {
            Ok(plain)
        } else {
            plain.zeroize();
            Err(section.chunk_error(index))
        }
    }
}

/// AES-256-GCM under the working key of one section. The key is fresh in every package and a chunk index is used once,
/// so the index serves as nonce.
pub(crate) struct ChunkCipher {
    cipher: ChunkAead,
    package_id: [u8; 32],
    kind: SectionKind,
    segment: u16,
    count: u32,
}

impl ChunkCipher {
    #[expect(clippy::expect_used, reason = "the length is fixed and short enough")]
    pub(crate) fn new(package_id: &[u8; 32], segment_key: &[u8; 32], section: &Section) -> Self {
        let mut info = Writer::new();
        info.raw(&label("cordon/1 chunk key")).raw(package_id).u8(section.kind().code()).u16(section.segment());
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, segment_key)
            .expand(&info.finish(), key.as_mut_slice())
            .expect("32 bytes are within HKDF-SHA256's 8160");
        Self {
            cipher: ChunkAead::new(&key),
            package_id: *package_id,
            kind: section.kind(),
            segment: section.segment(),
            count: section.chunks(),
        }
    }

    /// Encrypts in place and returns the tag.
    pub(crate) fn encrypt(&self, index: u32, chunk: &mut [u8]) -> Result<[u8; TAG_BYTES], PackageError> {
        self.cipher
            .encrypt(nonce(index), &self.associated_data(index), chunk)
            .ok_or(PackageError::Misuse("a chunk is longer than AES-GCM allows"))
    }

    fn decrypt(&self, index: u32, chunk: &mut [u8], tag: [u8; TAG_BYTES]) -> bool {
        self.cipher.decrypt(nonce(index), &self.associated_data(index), chunk, tag)
    }

    /// `package id ‖ kind ‖ segment ‖ index ‖ count`, every field of fixed length. On the stack: a running segment reads
    /// chunks, and a step allocates nothing.
    fn associated_data(&self, index: u32) -> [u8; ASSOCIATED_BYTES] {
        let (kind, segment) = ([self.kind.code()], self.segment.to_le_bytes());
        let (index, count) = (index.to_le_bytes(), self.count.to_le_bytes());
        let fields: [&[u8]; 5] = [&self.package_id, &kind, &segment, &index, &count];
        let mut data = [0; ASSOCIATED_BYTES];
        data.iter_mut().zip(fields.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        data
    }
}

fn nonce(index: u32) -> [u8; NONCE_BYTES] {
    let [a, b, c, d] = index.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHUNK_BYTES;
    use alloc::vec;

    fn sealed(plain: &[u8]) -> (Section, Vec<Vec<u8>>) {
        let mut section = Section::new(SectionKind::Weights, 3, plain.len() as u64, [0; 32]).expect("within limits");
        let cipher = ChunkCipher::new(&[1; 32], &[2; 32], &section);
        let mut chunks: Vec<Vec<u8>> = plain.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
        for (i, chunk) in chunks.iter_mut().enumerate() {
            let tag = cipher.encrypt(i as u32, chunk).expect("short");
            chunk.extend_from_slice(&tag);
        }
        section.set_root(merkle::root(chunks.iter().map(|c| merkle::leaf(c))));
        (section, chunks)
    }

    fn table(section: &Section, chunks: &[Vec<u8>], piece: usize) -> Result<LeafTable, PackageError> {
        let bytes: Vec<u8> = chunks.iter().flat_map(|c| merkle::leaf(c)).collect();
        let mut builder = LeafTableBuilder::new(section);
        for piece in bytes.chunks(piece) {
            builder.push(piece)?;
        }
        builder.finish()
    }

    #[test]
    fn chunks_round_trip() {
        let plain: Vec<u8> = (0..2 * CHUNK_BYTES + 5).map(|i| i as u8).collect();
        let (section, mut chunks) = sealed(&plain);
        assert_eq!(section.chunks(), 3);
        assert_eq!(section.stored_len(), chunks.iter().map(|c| c.len() as u64).sum::<u64>());
        for piece in [1, 31, 32, 33, 96] {
            assert!(table(&section, &chunks, piece).is_ok(), "pieces of {piece}");
        }
        let reader = SealedSection::new(&[1; 32], &[2; 32], table(&section, &chunks, 96).expect("own leaves"));
        let opened: Vec<u8> = chunks
            .iter_mut()
            .enumerate()
            .flat_map(|(i, c)| reader.decrypt_chunk(i as u32, c).expect("own chunk").to_vec())
            .collect();
        assert!(opened == plain);
    }

    #[test]
    fn altered_moved_cut_or_foreign_chunks_are_refused() {
        let (section, chunks) = sealed(&vec![7; CHUNK_BYTES * 2]);
        let digest = Some(section.damaged());
        let leaves = || table(&section, &chunks, 64).expect("own leaves");
        let reader = SealedSection::new(&[1; 32], &[2; 32], leaves());
        let mut altered = chunks[0].clone();
        altered[100] ^= 1;
        assert_eq!(reader.decrypt_chunk(0, &mut altered).err(), digest);
        assert_eq!(reader.decrypt_chunk(0, &mut chunks[1].clone()).err(), digest);
        assert_eq!(reader.decrypt_chunk(2, &mut chunks[1].clone()).err(), digest);
        assert_eq!(reader.decrypt_chunk(0, &mut chunks[0][..99].to_vec()).err(), digest);
        let mut stored = chunks[0].clone();
        let wrong_key = SealedSection::new(&[1; 32], &[3; 32], leaves());
        assert_eq!(wrong_key.decrypt_chunk(0, &mut stored).err(), Some(section.chunk_error(0)));
        assert!(stored[..CHUNK_BYTES].iter().all(|b| *b == 0), "wiped");
    }

    /// Someone with the segment key makes another chunk with a valid tag: the leaf refuses it.
    #[test]
    fn a_co_recipient_cannot_replace_a_chunk() {
        let (section, chunks) = sealed(&vec![7; CHUNK_BYTES * 2]);
        let reader = SealedSection::new(&[1; 32], &[2; 32], table(&section, &chunks, 96).expect("own leaves"));
        let forger = ChunkCipher::new(&[1; 32], &[2; 32], &section);
        let mut forged = vec![8; CHUNK_BYTES];
        let tag = forger.encrypt(0, &mut forged).expect("short");
        forged.extend_from_slice(&tag);
        assert_eq!(reader.decrypt_chunk(0, &mut forged).err(), Some(section.damaged()));
    }

    #[test]
    fn leaf_tables_must_match_the_root() {
        let (section, chunks) = sealed(&vec![7; CHUNK_BYTES * 2]);
        assert!(table(&section, &chunks[..1], 32).is_err());
        assert!(table(&section, &[&chunks[..], &chunks[..1]].concat(), 32).is_err());
        assert!(table(&section, &[chunks[1].clone(), chunks[0].clone()], 32).is_err());
    }
}
