//! The store: memory of the host where weights lie that have no room inside, encrypted by the enclave.
//!
//! The host may look at it and change it at any moment. So it is reached through atomic accesses only, and every byte is
//! copied into secure memory before anything looks at it. Memory that is cut while it is mapped ends the process, which the
//! host can do anyway.
//!
//! All of it stays mapped, but a command is handed the window alone that the reply before named, as on platforms that can
//! map no more.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use cordon_enclave::Store;
use cordon_engine::prefetch;
use cordon_protocol::Window;

/// Memory shared with the host.
pub(crate) struct SharedStore(&'static [AtomicU64]);

impl SharedStore {
    /// Maps the whole of it for the rest of the process and closes the descriptor; `None` when that fails.
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
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let base = unsafe { libc::mmap(null_mut(), len, access, libc::MAP_SHARED, fd, 0) };
        // SAFETY: a descriptor of our own; the mapping keeps the memory.
        unsafe { libc::close(fd) };
        if base == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping is page-aligned, `len` bytes long and never unmapped. It is reached atomically only, so that the
        // host may use it meanwhile.
        Some(Self(unsafe { core::slice::from_raw_parts(base.cast::<AtomicU64>(), len / 8) }))
    }

    /// The part that one command is handed; shorter where the store ends.
    pub(crate) fn window(&self, window: Window) -> Part {
        let word = |byte: u64| usize::try_from(byte / 8).unwrap_or(usize::MAX).min(self.0.len());
        Part(self.0.get(word(window.offset)..word(window.end())).unwrap_or_default())
    }
}

/// A window of the store.
pub(crate) struct Part(&'static [AtomicU64]);

impl Part {
    /// The words from `offset` on that hold `len` bytes.
    fn words(&self, offset: u64, len: usize) -> Option<&[AtomicU64]> {
        let first = usize::try_from(offset / 8).ok().filter(|_| offset.is_multiple_of(8))?;
        self.0.get(first..first.checked_add(len.div_ceil(8))?)
    }
}

impl Store for Part {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let Some(words) = self.words(offset, into.len()) else { return false };
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed).to_le_bytes();
        let (whole, rest) = into.as_chunks_mut::<8>();
        whole.iter_mut().zip(words).for_each(|(to, word)| *to = load(word));
        let last = words.get(whole.len()).map(load).unwrap_or_default();
        rest.iter_mut().zip(last).for_each(|(to, from)| *to = from);
        true
    }

    fn soon(&self, offset: u64, len: usize) {
        let lines = self.words(offset, len).unwrap_or_default().chunks(8);
        lines.filter_map(|line| line.first()).for_each(prefetch);
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(words) = self.words(offset, bytes.len()) else { return false };
        let keep = |word: &AtomicU64, bytes| word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        let (whole, rest) = bytes.as_chunks::<8>();
        words.iter().zip(whole).for_each(|(word, bytes)| keep(word, *bytes));
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        words.get(whole.len()).into_iter().for_each(|word| keep(word, last));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_nothing_beside_it_changes() {
        for len in 0..=40 {
            let words: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(u64::MAX)).collect();
            let store = Part(words.leak());
            let bytes: Vec<u8> = (1..=len as u8).collect();
            assert!(store.write(16, &bytes));
            let (mut all, mut read) = ([0; 64], vec![0; len]);
            assert!(store.read(0, &mut all) && store.read(16, &mut read));
            assert_eq!(read, bytes);
            let end = 16 + len.next_multiple_of(8);
            assert!(all[..16].iter().chain(&all[end..]).all(|&byte| byte == 0xff));
            assert!(all[16 + len..end].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn places_outside_or_between_words_are_refused() {
        let store = Part(vec![AtomicU64::new(0), AtomicU64::new(0)].leak());
        for (offset, len) in [(0, 17), (8, 9), (16, 1), (4, 1), (u64::MAX, 1), (1 << 40, 8), (u64::MAX - 7, 16)] {
            assert!(!store.read(offset, &mut vec![0; len]), "{len} bytes at {offset}");
            assert!(!store.write(offset, &vec![0; len]), "{len} bytes at {offset}");
        }
    }

    #[test]
    fn a_window_shows_its_own_words_and_no_others() {
        let store = SharedStore((0..8).map(AtomicU64::new).collect::<Vec<_>>().leak());
        let window = |offset, len| store.window(Window { offset, len });
        let part = window(16, 24);
        let mut three = [0; 24];
        assert!(part.read(0, &mut three) && part.write(16, &[9]));
        assert_eq!(
            three.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>(),
            [2, 3, 4]
        );
        for (offset, len) in [(0, 25), (16, 9), (24, 1), (24, 8), (u64::MAX - 15, 8), (u64::MAX - 7, 8)] {
            assert!(!part.read(offset, &mut vec![0; len]), "{len} bytes at {offset}");
            assert!(!part.write(offset, &vec![0; len]), "{len} bytes at {offset}");
        }
        let now: Vec<u64> = store.0.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        assert_eq!(now, [0, 1, 2, 3, 9, 5, 6, 7], "nothing beside the window changed");
        // Beyond the end of the store there is nothing.
        assert!(window(56, 64).read(0, &mut [0; 8]) && !window(56, 64).read(0, &mut [0; 16]));
        assert!(!window(64, 8).read(0, &mut [0; 8]) && !window(u64::MAX - 7, 8).read(0, &mut [0; 8]));
    }
}
