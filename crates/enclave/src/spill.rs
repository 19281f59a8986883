//! Activations that leave the enclave encrypted and come back: the last resort where memory is small.
//!
//! The normal world keeps them, so it may read, change, cut, exchange, repeat and lose them, and bring those of another run,
//! another value, another device. A [`Spiller`] lives for one run of one segment and draws its key for that run, which no
//! one else ever has. Within the run each `Spill` instruction executes once, so its number and the number of the chunk within
//! the value make a nonce that comes once; the associated data says which request, segment, slot and value the chunk is
//! of, and the engine asks for a value where it was spilled and at no other time. So whatever opens is what left last, in
//! its place; anything else is refused, which ends the run.
//!
//! This is the second door beside [`crate::crossing`], and only ciphertext passes it.

use alloc::vec::Vec;

use cordon_engine::{CHUNK, Moved, ValueRef};
use cordon_package::{Aead, NONCE_BYTES, TAG_BYTES};
use cordon_protocol::{Code, Refusal, Reply, SPILL_CHUNK};
use zeroize::Zeroize;

use crate::crossing::append;
use crate::fleeting::FleetingCipher;
use crate::platform::Platform;
use crate::refuse;

const _: () = assert!(CHUNK + TAG_BYTES == SPILL_CHUNK);
const _: () = assert!(cordon_engine::program::MAX_SPILL_CHUNKS == cordon_protocol::MAX_SPILL_CHUNKS);

const LABEL: &[u8; 14] = b"cordon/1 spill";
const ASSOCIATED_BYTES: usize = LABEL.len() + 8 + 4 + 4 + 4 + 4 + 8;

/// Encrypts and decrypts the values of one run of one segment.
pub(crate) struct Spiller {
    cipher: FleetingCipher,
    request: u64,
    segment: u32,
}

impl Spiller {
    /// Draws a key.
    pub(crate) fn new(request: u64, segment: u32, platform: &mut impl Platform) -> Result<Self, Refusal> {
        Ok(Self { cipher: FleetingCipher::new(platform).map_err(refuse::platform)?, request, segment })
    }

    /// Makes `out` the reply that carries chunk `chunk` of a value out.
    pub(crate) fn send(&self, moved: Moved, chunk: u32, value: ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let internal = self.refusal(Code::Internal, moved);
        Reply::Spill { chunk: moved.slot.saturating_add(chunk) }.encode(out);
        let head = out.len();
        append(out, value, chunk as usize * CHUNK, CHUNK);
        let tag = out
            .get_mut(head..)
            .and_then(|plain| self.cipher.encrypt(nonce(moved, chunk), &self.associated_data(moved, chunk), plain));
        let Some(tag) = tag else {
            out.zeroize();
            return Err(internal);
        };
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// Decrypts chunk `chunk` of a value in place; what is not that chunk is refused and wiped.
    pub(crate) fn open<'a>(&self, moved: Moved, chunk: u32, stored: &'a mut [u8]) -> Result<&'a [u8], Refusal> {
        let corrupt = self.refusal(Code::CorruptSpill, moved);
        let (data, tag) = stored.split_last_chunk_mut::<TAG_BYTES>().ok_or(corrupt)?;
        if self.cipher.decrypt(nonce(moved, chunk), &self.associated_data(moved, chunk), data, *tag) {
            return Ok(data);
        }
        data.zeroize();
        Err(corrupt)
    }

    /// About a spilled value: names its slot.
    pub(crate) fn refusal(&self, code: Code, moved: Moved) -> Refusal {
        Refusal::new(code).in_segment(self.segment).about(moved.slot)
    }

    fn associated_data(&self, moved: Moved, chunk: u32) -> [u8; ASSOCIATED_BYTES] {
        let (request, segment) = (self.request.to_le_bytes(), self.segment.to_le_bytes());
        let (slot, spill) = (moved.slot.to_le_bytes(), moved.spill.to_le_bytes());
        let (chunk, bytes) = (chunk.to_le_bytes(), moved.bytes.to_le_bytes());
        let fields: [&[u8]; 7] = [LABEL, &request, &segment, &slot, &spill, &chunk, &bytes];
        let mut data = [0; ASSOCIATED_BYTES];
        data.iter_mut().zip(fields.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        data
    }
}

/// `spill ‖ chunk ‖ 0`.
fn nonce(moved: Moved, chunk: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    let bytes = moved.spill.to_be_bytes().into_iter().chain(chunk.to_be_bytes());
    nonce.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    nonce
}

/// Chunks of a value.
pub(crate) fn chunks(moved: Moved) -> u32 {
    // Validation bounds the spill area by `MAX_SPILL_CHUNKS`.
    u32::try_from(moved.bytes.div_ceil(CHUNK as u64)).unwrap_or(u32::MAX)
}

/// Bytes of the stored chunks `first` to `first + count` of a value.
pub(crate) fn stored_len(moved: Moved, first: u32, count: u32) -> usize {
    let end = u64::from(first.saturating_add(count)).saturating_mul(CHUNK as u64).min(moved.bytes);
    let plain = end.saturating_sub(u64::from(first).saturating_mul(CHUNK as u64));
    usize::try_from(plain).unwrap_or(usize::MAX).saturating_add(count as usize * TAG_BYTES)
}
