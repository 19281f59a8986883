//! The package's file, mapped read-only: the enclave takes the chunks of its weights from there by itself.
//!
//! The host gave the file, may change it at any moment and may have given another. So it is reached through atomic loads
//! only, every byte is copied into secure memory before anything looks at it, and what was copied is then authenticated like
//! a chunk that came in a frame. A file that is cut while it is mapped ends the process, which the host can do anyway.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use cordon_enclave::Store;

/// A mapped file.
pub(crate) struct Package {
    words: &'static [AtomicU64],
    len: u64,
}

impl Package {
    /// Maps the whole file for the rest of the process and closes the descriptor; `None` when that fails.
    pub(crate) fn map(fd: i32) -> Option<Self> {
        // SAFETY: `stat` is plain data that the call fills.
        let size = unsafe {
            let mut stat: libc::stat = core::mem::zeroed();
            if libc::fstat(fd, &mut stat) != 0 {
                return None;
            }
            stat.st_size
        };
        let len = usize::try_from(size).ok().filter(|len| *len > 0)?;
        // SAFETY: a new mapping at an address the kernel chooses.
        let base = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        // SAFETY: a descriptor of our own; the mapping keeps the file.
        unsafe { libc::close(fd) };
        if base == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping is page-aligned, reaches to the end of the page that holds its last byte, and is never unmapped.
        // It is only loaded from, atomically, so that others may write to the file meanwhile.
        let words = unsafe { core::slice::from_raw_parts(base.cast::<AtomicU64>(), len.div_ceil(8)) };
        Some(Self { words, len: len as u64 })
    }
}

impl Store for Package {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let inside = offset.checked_add(into.len() as u64).is_some_and(|end| end <= self.len);
        let words = usize::try_from(offset / 8).ok().and_then(|first| self.words.get(first..));
        let (true, Some(words)) = (inside, words) else { return false };
        copy(words, offset % 8 * 8, into);
        true
    }
}

/// Copies from bit `shift` of the first word on, a multiple of 8 below 64.
fn copy(words: &[AtomicU64], shift: u64, into: &mut [u8]) {
    let load = |word: &AtomicU64| u64::from_le(word.load(Ordering::Relaxed));
    let (whole, rest) = into.as_chunks_mut::<8>();
    let count = whole.len();
    if shift == 0 {
        whole.iter_mut().zip(words).for_each(|(to, word)| *to = load(word).to_le_bytes());
    } else if let Some((first, later)) = words.split_first() {
        let mut low = load(first);
        for (to, word) in whole.iter_mut().zip(later) {
            let high = load(word);
            *to = (low >> shift | high << (64 - shift)).to_le_bytes();
            low = high;
        }
    }
    let byte = |at: u64| words.get((at / 64) as usize).map_or(0, |word| (load(word) >> (at % 64)) as u8);
    rest.iter_mut().zip(0..).for_each(|(to, index)| *to = byte(shift + count as u64 * 64 + index * 8));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stretch_is_copied_as_it_lies() {
        let bytes: Vec<u8> = (0..200u8).collect();
        let words: Vec<AtomicU64> =
            bytes.as_chunks::<8>().0.iter().map(|word| AtomicU64::new(u64::from_le_bytes(*word).to_le())).collect();
        let package = Package { words: words.leak(), len: 197 };
        for start in 0..=197 {
            for end in start..=197 {
                let mut got = vec![0xff; end - start];
                assert!(package.read(start as u64, &mut got));
                assert_eq!(got, bytes[start..end], "{start}..{end}");
            }
        }
        for (offset, len) in [(0, 198), (197, 1), (198, 0), (u64::MAX, 1), (1 << 40, 8)] {
            assert!(!package.read(offset, &mut vec![0; len]), "{len} bytes from {offset}");
        }
    }
}
