//! Weights that have no room inside, in the [`Store`]: encrypted anew when the package is loaded, read back with every request.
//!
//! A chunk of the package must be the owner's, not merely a valid ciphertext, since a co-recipient knows the segment key: its
//! SHA-256 leaf under the signed root decides. That hash takes longer than decryption, and what streams comes again with every
//! request. So each chunk is checked once, and put into the store under a key that no one else ever has: from then on the
//! tag alone says that a piece is the one that was written. Each piece is written once under its key, so there is no older one
//! to bring back, and its number makes a nonce that comes once.

use cordon_engine::{CHUNK, PIECE, Parallel, PieceSource};
use cordon_package::{Aead, NONCE_BYTES, SealedSection, TAG_BYTES};
use cordon_protocol::{Code, Refusal, STORED_PIECE};
use zeroize::Zeroize;

use crate::fleeting::FleetingCipher;
use crate::platform::{Platform, Store};
use crate::refuse;
use crate::sections::side_by_side;

const _: () =
    assert!(PIECE == cordon_protocol::PIECE && PIECE + TAG_BYTES == STORED_PIECE && CHUNK.is_multiple_of(PIECE));

const LABEL: &[u8; 14] = b"cordon/1 store";

/// Pieces of a chunk.
const PIECES: u64 = (CHUNK / PIECE) as u64;

/// The weights of one segment in the store.
pub(crate) struct Streamed {
    cipher: FleetingCipher,
    /// Where they begin.
    offset: u64,
    /// First chunk not written yet: none is written twice under one key.
    next: u32,
}

impl Streamed {
    /// Draws a key for weights of `plain_len` bytes from `offset` on.
    pub(crate) fn new(offset: u64, platform: &mut impl Platform) -> Result<Self, Refusal> {
        Ok(Self { cipher: FleetingCipher::new(platform).map_err(refuse::platform)?, offset, next: 0 })
    }

    /// Encrypts chunks that were opened where they lie in `payload`, and writes them, on all threads side by side.
    pub(crate) fn write(
        &mut self,
        reader: &SealedSection,
        (first, count): (u32, u32),
        payload: &mut [u8],
        store: &dyn Store,
        workers: &dyn Parallel,
    ) -> Result<(), Refusal> {
        if first != self.next {
            return Err(Refusal::new(Code::Internal));
        }
        self.next = first.saturating_add(count);
        let this = &*self;
        let write = |index, opened: &mut [u8]| {
            opened.split_last_chunk_mut::<TAG_BYTES>().is_some_and(|(plain, _)| this.write_chunk(index, plain, store))
        };
        side_by_side(reader.section(), (first, count), payload, workers, write, |index, _, written| {
            let piece = u64::from(index).saturating_mul(PIECES);
            let refused = Refusal::new(Code::CorruptStore).about(u32::try_from(piece).unwrap_or(u32::MAX));
            if written { Ok(()) } else { Err(refused) }
        })
    }

    fn write_chunk(&self, index: u32, plain: &mut [u8], store: &dyn Store) -> bool {
        let numbers = u64::from(index) * PIECES..;
        plain.chunks_mut(PIECE).zip(numbers).all(|(plain, number)| {
            let at = self.place(number);
            let tag = u32::try_from(number).ok().and_then(|piece| self.cipher.encrypt(nonce(piece), LABEL, plain));
            let Some(tag) = tag else {
                plain.zeroize();
                return false;
            };
            store.write(at, &tag) && store.write(at.saturating_add(TAG_BYTES as u64), plain)
        })
    }

    fn place(&self, piece: u64) -> u64 {
        self.offset.saturating_add(piece.saturating_mul(STORED_PIECE as u64))
    }

    /// Where the engine takes pieces from.
    pub(crate) fn source<'a>(&'a self, store: &'a dyn Store) -> impl PieceSource + 'a {
        Stored { of: self, store }
    }
}

struct Stored<'a> {
    of: &'a Streamed,
    store: &'a dyn Store,
}

impl PieceSource for Stored<'_> {
    fn open(&self, index: u32, into: &mut [u8]) -> bool {
        let (at, mut tag) = (self.of.place(index.into()), [0; TAG_BYTES]);
        // Copied once, before anything looks at it.
        self.store.read(at, &mut tag)
            && self.store.read(at.saturating_add(TAG_BYTES as u64), into)
            && self.of.cipher.decrypt(nonce(index), LABEL, into, tag)
    }

    fn soon(&self, index: u32) {
        self.store.soon(self.of.place(index.into()), STORED_PIECE);
    }
}

/// The number of the piece, then zeros.
fn nonce(piece: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce.iter_mut().zip(piece.to_be_bytes()).for_each(|(to, from)| *to = from);
    nonce
}
