//! A frame: `u32` length of the head, the head (one command or reply), then the payload up to the end of the frame.
//!
//! The payload is not part of the head so that the receiver can work on it in place: the enclave decrypts a chunk where
//! it was received, and needs no second buffer.

use alloc::vec::Vec;
use cordon_codec::DecodeError;

/// The most bytes a head takes.
pub const HEAD_LIMIT: usize = 4096;

/// Bytes of the head's length in front of it.
pub(crate) const LENGTH_BYTES: usize = 4;

/// Bytes of a frame besides its payload, at most.
pub const OVERHEAD: usize = HEAD_LIMIT + LENGTH_BYTES;

/// Bytes of memory that hold any frame with so much payload, in whole pages.
pub const fn area(payload: usize) -> usize {
    payload.saturating_add(OVERHEAD).next_multiple_of(4096)
}

/// Splits a received frame into head and payload.
pub fn split(frame: &mut [u8]) -> Result<(&[u8], &mut [u8]), DecodeError> {
    let (length, rest) = frame.split_first_chunk_mut::<LENGTH_BYTES>().ok_or(DecodeError::Truncated("frame"))?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::TooLong("frame head"))?;
    if length > HEAD_LIMIT {
        return Err(DecodeError::TooLong("frame head"));
    }
    let (head, payload) = rest.split_at_mut_checked(length).ok_or(DecodeError::Truncated("frame head"))?;
    Ok((head, payload))
}

/// Overwrites `frame` with the head and no payload; the caller appends the payload.
pub fn begin(frame: &mut Vec<u8>, head: &[u8]) {
    frame.clear();
    // A head over the limit is refused by every receiver; none of ours comes near it.
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(head);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_what_begin_wrote() {
        let mut frame = alloc::vec![9; 3];
        begin(&mut frame, b"head");
        frame.extend_from_slice(b"payload");
        let (head, payload) = split(&mut frame).expect("whole");
        assert_eq!((head, &*payload), (&b"head"[..], &b"payload"[..]));
    }

    #[test]
    fn refuses_lengths_the_frame_does_not_hold() {
        assert_eq!(split(&mut [1, 0]), Err(DecodeError::Truncated("frame")));
        assert_eq!(split(&mut [2, 0, 0, 0, 7]), Err(DecodeError::Truncated("frame head")));
        assert_eq!(split(&mut [0xff; 64]), Err(DecodeError::TooLong("frame head")));
    }
}
