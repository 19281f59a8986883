//! The memory that host and a process enclave share: a header and two frames, one for each direction.
//!
//! Both sides write here at any time, so every access is atomic and whatever is read is hostile: lengths are read once and
//! clamped, bytes are copied once into private memory before anything looks at them. One request is under way at a time;
//! its number in [`word::REQUEST`] and the answered number in [`word::REPLY`] are the futexes. Mapping the memory and
//! waiting on a futex need `unsafe` and live with each side; the layout and the copies are here.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cordon_protocol::frame::area;

use crate::profile::REPLY_PAYLOAD;

/// Version of this layout. Host and enclave are built together, so it is compared for equality.
pub const LAYOUT: u32 = 1;

/// Bytes of the header: one page.
pub const HEADER_BYTES: usize = 4096;

/// Words of the header.
pub mod word {
    /// [`super::LAYOUT`], written by the host.
    pub const LAYOUT: usize = 0;
    /// Payload bytes of a request, written by the host.
    pub const PAYLOAD: usize = 1;
    /// Budget of secure memory in bytes, low half, written by the host.
    pub const BUDGET_LOW: usize = 2;
    /// High half.
    pub const BUDGET_HIGH: usize = 3;
    /// Threads to compute with, written by the host.
    pub const THREADS: usize = 4;
    /// Number of the last request; futex. Written by the host.
    pub const REQUEST: usize = 16;
    /// Bytes of its frame.
    pub const REQUEST_LEN: usize = 17;
    /// Number of the last request answered; futex. Written by the enclave.
    pub const REPLY: usize = 32;
    /// Bytes of its frame.
    pub const REPLY_LEN: usize = 33;
    /// How far the enclave's start came: a [`crate::stage::Progress`]. Written by the enclave.
    pub const STAGE: usize = 34;
    /// Bytes of the last allocation refused, low half; then high half, and bytes available likewise. Written by the
    /// enclave, so that the host can say why an enclave died.
    pub const REFUSED: usize = 36;
}

/// Bytes of the whole shared memory, given the payload bytes of a request.
pub fn total_bytes(payload: usize) -> usize {
    area(payload).saturating_add(area(REPLY_PAYLOAD)).saturating_add(HEADER_BYTES)
}

/// A view of the shared memory.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    header: &'a [AtomicU32],
    request: &'a [AtomicU64],
    reply: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// Splits mapped memory; `None` when it is too small for `payload`.
    pub fn new(header: &'a [AtomicU32], body: &'a [AtomicU64], payload: usize) -> Option<Self> {
        let (request, rest) = body.split_at_checked(area(payload) / 8)?;
        let reply = rest.get(..area(REPLY_PAYLOAD) / 8)?;
        (header.len() * 4 >= HEADER_BYTES).then_some(Self { header, request, reply })
    }

    /// One word of the header; 0 outside.
    pub fn word(&self, index: usize) -> u32 {
        self.header.get(index).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// The futex behind a word of the header.
    pub fn futex(&self, index: usize) -> Option<&'a AtomicU32> {
        self.header.get(index)
    }

    /// Sets one word of the header.
    pub fn set_word(&self, index: usize, value: u32) {
        if let Some(w) = self.header.get(index) {
            w.store(value, Ordering::Release);
        }
    }

    /// Two words of the header as one number, low half first.
    pub fn wide(&self, index: usize) -> u64 {
        u64::from(self.word(index)) | u64::from(self.word(index + 1)) << 32
    }

    /// Sets two words of the header.
    pub fn set_wide(&self, index: usize, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.set_word(index, u32::from_le_bytes([a, b, c, d]));
        self.set_word(index + 1, u32::from_le_bytes([e, f, g, h]));
    }

    /// Host: publishes a request and returns its number. The caller wakes [`word::REQUEST`].
    pub fn post_request(&self, frame: &[u8]) -> Option<u32> {
        copy_in(self.request, frame)?;
        self.set_word(word::REQUEST_LEN, u32::try_from(frame.len()).ok()?);
        let number = self.word(word::REQUEST).wrapping_add(1);
        self.set_word(word::REQUEST, number);
        Some(number)
    }

    /// Enclave: copies the request into private memory.
    pub fn take_request(&self, into: &mut Vec<u8>) -> Result<(), TryReserveError> {
        copy_out(self.request, self.word(word::REQUEST_LEN), into)
    }

    /// Enclave: publishes the reply to a request. The caller wakes [`word::REPLY`].
    pub fn post_reply(&self, number: u32, frame: &[u8]) -> Option<()> {
        copy_in(self.reply, frame)?;
        self.set_word(word::REPLY_LEN, u32::try_from(frame.len()).ok()?);
        self.set_word(word::REPLY, number);
        Some(())
    }

    /// Host: copies the reply into private memory.
    pub fn take_reply(&self, into: &mut Vec<u8>) -> Result<(), TryReserveError> {
        copy_out(self.reply, self.word(word::REPLY_LEN), into)
    }
}

/// `None` when the bytes do not fit.
fn copy_in(words: &[AtomicU64], bytes: &[u8]) -> Option<()> {
    if bytes.len() > words.len().saturating_mul(8) {
        return None;
    }
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut words = words.iter();
    for (bytes, word) in whole.iter().zip(words.by_ref()) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.next()) {
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        word.store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
    Some(())
}

/// A length beyond the area is clamped to it: the frame decoder refuses what does not add up.
fn copy_out(words: &[AtomicU64], len: u32, into: &mut Vec<u8>) -> Result<(), TryReserveError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(words.len().saturating_mul(8));
    let whole = len.next_multiple_of(8);
    into.try_reserve(whole.saturating_sub(into.len()))?;
    // What the vector held is overwritten, so only what is new needs a value first.
    into.resize(whole, 0);
    for (word, bytes) in words.iter().zip(into.as_chunks_mut::<8>().0) {
        *bytes = word.load(Ordering::Relaxed).to_le_bytes();
    }
    into.truncate(len);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(payload: usize) -> (Vec<AtomicU32>, Vec<AtomicU64>) {
        let header = (0..HEADER_BYTES / 4).map(|_| AtomicU32::new(0)).collect();
        let body = (0..total_bytes(payload) / 8).map(|_| AtomicU64::new(0)).collect();
        (header, body)
    }

    #[test]
    fn frames_of_every_length_pass_unchanged() {
        let (header, body) = memory(1);
        let ring = Ring::new(&header, &body, 1).expect("large enough");
        let mut got = Vec::new();
        for len in [0usize, 1, 7, 8, 9, 4097, area(1)] {
            let sent: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let number = ring.post_request(&sent).expect("fits");
            ring.take_request(&mut got).expect("memory");
            assert_eq!(got, sent);
            ring.post_reply(number, &sent).expect("fits");
            ring.take_reply(&mut got).expect("memory");
            assert_eq!((got.clone(), ring.word(word::REPLY)), (sent, number));
        }
    }

    #[test]
    fn a_hostile_length_stays_within_the_frame() {
        let (header, body) = memory(1);
        let ring = Ring::new(&header, &body, 1).expect("large enough");
        ring.set_word(word::REQUEST_LEN, u32::MAX);
        let mut got = Vec::new();
        ring.take_request(&mut got).expect("memory");
        assert_eq!(got.len(), area(1));
        assert!(ring.post_request(&alloc::vec![0; area(1) + 1]).is_none());
        assert!(Ring::new(&header, &body, 1 << 20).is_none(), "memory smaller than the layout");
    }

    #[test]
    fn wide_words_round_trip() {
        let (header, body) = memory(1);
        let ring = Ring::new(&header, &body, 1).expect("large enough");
        ring.set_wide(word::BUDGET_LOW, 0x1234_5678_9abc_def0);
        assert_eq!(ring.wide(word::BUDGET_LOW), 0x1234_5678_9abc_def0);
    }
}
