//! Bounded little-endian reader and writer.
//!
//! Every binary format inside the trusted computing base (package, protocol, `Program`) is parsed with this one
//! [`Reader`]. It never indexes, never allocates on the strength of a length it has not checked against the bytes that
//! are really there, and [`Reader::finish`] rejects trailing bytes, so each value has one encoding only.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Why bytes could not be decoded. Carries a fixed field name, never input bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ended inside the named field.
    Truncated(&'static str),
    /// Bytes were left over after the last field.
    TrailingBytes,
    /// The named field holds a value the format does not allow.
    Invalid(&'static str),
    /// The named length is over the format's limit.
    TooLong(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(what) => write!(f, "input ends inside {what}"),
            Self::TrailingBytes => f.write_str("bytes left over after the last field"),
            Self::Invalid(what) => write!(f, "{what} holds a value the format does not allow"),
            Self::TooLong(what) => write!(f, "{what} is longer than the format allows"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Reads fields from the front of a byte slice.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts reading at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes the next `n` bytes.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated(what))?;
        self.rest = tail;
        Ok(head)
    }

    /// Takes the next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated(what))?;
        self.rest = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    /// A boolean; any byte but 0 and 1 is refused.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(what)),
        }
    }

    /// A little-endian `u16`.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// A little-endian `u32`.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A little-endian `u64`.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A little-endian `i64`.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// A little-endian IEEE 754 `f32`, any bit pattern.
    pub fn f32(&mut self, what: &'static str) -> Result<f32, DecodeError> {
        Ok(f32::from_le_bytes(self.array(what)?))
    }

    /// A `u32` count of items that each take at least `min_item` bytes: a count the remaining bytes cannot hold is
    /// refused before anything is allocated for it.
    pub fn count(&mut self, min_item: usize, max: u32, what: &'static str) -> Result<usize, DecodeError> {
        let n = self.u32(what)?;
        if n > max {
            return Err(DecodeError::TooLong(what));
        }
        let n = usize::try_from(n).map_err(|_| DecodeError::TooLong(what))?;
        match n.checked_mul(min_item.max(1)) {
            Some(bytes) if bytes <= self.rest.len() => Ok(n),
            _ => Err(DecodeError::Truncated(what)),
        }
    }

    /// A byte string: `u32` length, then the bytes.
    pub fn bytes(&mut self, max: u32, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let n = self.count(1, max, what)?;
        self.take(n, what)
    }

    /// A UTF-8 string: `u32` byte length, then the bytes.
    pub fn string(&mut self, max: u32, what: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes(max, what)?;
        core::str::from_utf8(bytes).map(String::from).map_err(|_| DecodeError::Invalid(what))
    }

    /// An optional field: presence flag, then the value.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool(what)? { read(self).map(Some) } else { Ok(None) }
    }

    /// A list: `u32` count, then that many items of at least `min_item` bytes each.
    pub fn list<T, E: From<DecodeError>>(
        &mut self,
        min_item: usize,
        max: u32,
        what: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let n = self.count(min_item, max, what)?;
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// Ends the value: bytes left over are an error.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// Appends fields to a byte vector, the mirror of [`Reader`].
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Raw bytes, no length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.raw(&[v])
    }

    /// A boolean as 0 or 1.
    pub fn bool(&mut self, v: bool) -> &mut Self {
        self.u8(u8::from(v))
    }

    /// A little-endian `u16`.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// A little-endian `u32`.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// A little-endian `u64`.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// A little-endian `i64`.
    pub fn i64(&mut self, v: i64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// A little-endian IEEE 754 `f32`.
    pub fn f32(&mut self, v: f32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// A count or length. Saturates at `u32::MAX`, which every reader's limit refuses.
    pub fn count(&mut self, n: usize) -> &mut Self {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX))
    }

    /// A byte string with its length.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.count(v.len()).raw(v)
    }

    /// A UTF-8 string with its byte length.
    pub fn string(&mut self, v: &str) -> &mut Self {
        self.bytes(v.as_bytes())
    }

    /// An optional field: presence flag, then the value.
    pub fn option<T>(&mut self, v: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.bool(v.is_some());
        if let Some(v) = v {
            write(self, v);
        }
        self
    }

    /// A list with its count.
    pub fn list<'t, T: 't>(
        &mut self,
        items: impl ExactSizeIterator<Item = &'t T>,
        mut write: impl FnMut(&mut Self, &'t T),
    ) -> &mut Self {
        self.count(items.len());
        for item in items {
            write(self, item);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let mut w = Writer::new();
        w.u8(7).bool(true).u16(300).u32(70_000).u64(1 << 40).i64(-3).f32(1.5).string("añ").bytes(b"xy");
        w.option(Some(5u32), |w, v| {
            w.u32(v);
        });
        w.list([1u16, 2].iter(), |w, v| {
            w.u16(*v);
        });
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.u8("a"), Ok(7));
        assert_eq!(r.bool("b"), Ok(true));
        assert_eq!(r.u16("c"), Ok(300));
        assert_eq!(r.u32("d"), Ok(70_000));
        assert_eq!(r.u64("e"), Ok(1 << 40));
        assert_eq!(r.i64("f"), Ok(-3));
        assert_eq!(r.f32("g"), Ok(1.5));
        assert_eq!(r.string(10, "h").as_deref(), Ok("añ"));
        assert_eq!(r.bytes(10, "i"), Ok(&b"xy"[..]));
        assert_eq!(r.option("j", |r| r.u32("j")), Ok(Some(5)));
        assert_eq!(r.list(2, 9, "k", |r| r.u16("k")), Ok(alloc::vec![1, 2]));
        assert_eq!(r.finish(), Ok(()));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let mut w = Writer::new();
        w.string("abc").u64(9);
        let bytes = w.finish();
        for end in 0..bytes.len() {
            let mut r = Reader::new(&bytes[..end]);
            let read = r.string(10, "s").and_then(|_| r.u64("n"));
            assert!(matches!(read, Err(DecodeError::Truncated(_))), "at {end}");
        }
    }

    #[test]
    fn a_count_larger_than_the_input_is_refused_before_allocation() {
        let mut r = Reader::new(&[0xff, 0xff, 0xff, 0x7f, 0]);
        assert_eq!(r.count(4, u32::MAX, "n"), Err(DecodeError::Truncated("n")));
        let mut r = Reader::new(&[3, 0, 0, 0, 1, 2, 3]);
        assert_eq!(r.bytes(2, "n"), Err(DecodeError::TooLong("n")));
    }

    #[test]
    fn strictness() {
        assert_eq!(Reader::new(&[2]).bool("b"), Err(DecodeError::Invalid("b")));
        assert_eq!(Reader::new(&[0]).finish(), Err(DecodeError::TrailingBytes));
        assert_eq!(Reader::new(&[1, 0, 0, 0, 0xff]).string(4, "s"), Err(DecodeError::Invalid("s")));
    }
}
