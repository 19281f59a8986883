//! Weights that have no room inside, in the store: encrypted anew when the package is loaded, read back with every request.
//!
//! A chunk of the package must be the owner's, not merely a valid ciphertext, since a co-recipient knows the segment key: its
//! SHA-256 leaf under the signed root decides. That hash takes longer than decryption, and what streams comes again with every
//! request. So each chunk is checked once, and put into the store under a key that no one else ever has: from then on the
//! tag alone says that a piece is the one that was written. Each piece is written once under its key, so there is no older one
//! to bring back, and its number makes a nonce that comes once.

use core::ops::Range;

use cordon_engine::{CHUNK, PIECE, PIECES_PER_STEP, Parallel, PieceSource};
use cordon_package::{Aead, NONCE_BYTES, SealedSection, TAG_BYTES};
use cordon_protocol::{Code, Refusal, STORE_WINDOW, STORED_PIECE, Window};
use zeroize::Zeroize;

use crate::fleeting::FleetingCipher;
use crate::platform::Platform;
use crate::refuse;
use crate::sections::side_by_side;
use crate::store::Brought;

const _: () =
    assert!(PIECE == cordon_protocol::PIECE && PIECE + TAG_BYTES == STORED_PIECE && CHUNK.is_multiple_of(PIECE));

// What a step reads, and what a command writes, fits a window.
const _: () = assert!(PIECES_PER_STEP as usize * STORED_PIECE <= STORE_WINDOW);

/// Most chunks that one command writes. A frame may hold a short last one beside those that fill it, whose pieces would not
/// fit the window.
pub(crate) const CHUNKS_PER_WINDOW: u32 = (STORE_WINDOW / (PIECES as usize * STORED_PIECE)) as u32;
const _: () = assert!(CHUNKS_PER_WINDOW > 0);

const LABEL: &[u8; 14] = b"cordon/1 store";

/// Pieces of a chunk.
const PIECES: u32 = (CHUNK / PIECE) as u32;

/// The weights of one segment in the store.
pub(crate) struct Streamed {
    cipher: FleetingCipher,
    /// Where they begin.
    offset: u64,
    /// How many pieces they are.
    pieces: u32,
    /// First chunk not written yet: none is written twice under one key.
    next: u32,
}

impl Streamed {
    /// Draws a key for weights of `plain_len` bytes from `offset` on.
    pub(crate) fn new(offset: u64, plain_len: u64, platform: &mut impl Platform) -> Result<Self, Refusal> {
        // Validation bounds the number of pieces by u32.
        let pieces = u32::try_from(plain_len.div_ceil(PIECE as u64)).unwrap_or(u32::MAX);
        Ok(Self { cipher: FleetingCipher::new(platform).map_err(refuse::platform)?, offset, pieces, next: 0 })
    }

    /// The window that holds these pieces; `None` for none, or for more than fit one.
    pub(crate) fn window(&self, pieces: Range<u32>) -> Option<Window> {
        let count = pieces.end.min(self.pieces).checked_sub(pieces.start).filter(|count| *count > 0)?;
        let len = u32::try_from(u64::from(count).checked_mul(STORED_PIECE as u64)?).ok()?;
        (len as usize <= STORE_WINDOW).then_some(Window { offset: self.place(pieces.start), len })
    }

    /// The window that holds `count` chunks from `first` on.
    pub(crate) fn window_of_chunks(&self, first: u32, count: u32) -> Option<Window> {
        let piece = |chunk: u32| chunk.saturating_mul(PIECES);
        self.window(piece(first)..piece(first.saturating_add(count)))
    }

    /// How many pieces from `first` on lie in `window`.
    pub(crate) fn reach(&self, window: Window, first: u32) -> u32 {
        let start = self.place(first);
        let bytes = if start < window.offset { 0 } else { window.end().saturating_sub(start) };
        u32::try_from(bytes / STORED_PIECE as u64).unwrap_or(u32::MAX)
    }

    /// Encrypts chunks that were opened where they lie in `payload`, and writes them, on all threads side by side.
    pub(crate) fn write(
        &mut self,
        reader: &SealedSection,
        (first, count): (u32, u32),
        payload: &mut [u8],
        store: Brought<'_>,
        workers: &dyn Parallel,
    ) -> Result<(), Refusal> {
        if first != self.next {
            return Err(Refusal::new(Code::Internal));
        }
        self.next = first.saturating_add(count);
        let this = &*self;
        let write = |index, opened: &mut [u8]| {
            opened.split_last_chunk_mut::<TAG_BYTES>().is_some_and(|(plain, _)| this.write_chunk(index, plain, &store))
        };
        side_by_side(reader.section(), (first, count), payload, workers, write, |index, _, written| {
            let refused = Refusal::new(Code::CorruptStore).about(index.saturating_mul(PIECES));
            if written { Ok(()) } else { Err(refused) }
        })
    }

    fn write_chunk(&self, index: u32, plain: &mut [u8], store: &Brought<'_>) -> bool {
        let pieces = index.saturating_mul(PIECES)..;
        plain.chunks_mut(PIECE).zip(pieces).all(|(plain, piece)| {
            let at = self.place(piece);
            let Some(tag) = self.cipher.encrypt(nonce(piece), LABEL, plain) else {
                plain.zeroize();
                return false;
            };
            store.write(at, &tag) && store.write(at.saturating_add(TAG_BYTES as u64), plain)
        })
    }

    fn place(&self, piece: u32) -> u64 {
        self.offset.saturating_add(u64::from(piece).saturating_mul(STORED_PIECE as u64))
    }

    /// Where the engine takes pieces from.
    pub(crate) fn source<'a>(&'a self, store: Brought<'a>) -> impl PieceSource + 'a {
        Stored { of: self, store }
    }
}

struct Stored<'a> {
    of: &'a Streamed,
    store: Brought<'a>,
}

impl PieceSource for Stored<'_> {
    fn open(&self, index: u32, into: &mut [u8]) -> bool {
        let (at, mut tag) = (self.of.place(index), [0; TAG_BYTES]);
        // Copied once, before anything looks at it.
        self.store.read(at, &mut tag)
            && self.store.read(at.saturating_add(TAG_BYTES as u64), into)
            && self.of.cipher.decrypt(nonce(index), LABEL, into, tag)
    }

    fn soon(&self, index: u32) {
        self.store.soon(self.of.place(index), STORED_PIECE);
    }
}

/// The number of the piece, then zeros.
fn nonce(piece: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce.iter_mut().zip(piece.to_be_bytes()).for_each(|(to, from)| *to = from);
    nonce
}
