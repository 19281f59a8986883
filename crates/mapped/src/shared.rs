//! Shared memory between host and enclave process, and the futex both wait on.

use core::sync::atomic::{AtomicU32, AtomicU64};
use core::time::Duration;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::memory_file;

/// Anonymous memory that another process can map by its descriptor. Zero at first. Either side may write at any time, so
/// it is reached through atomics only.
pub struct SharedMemory {
    file: File,
    map: memmap2::MmapRaw,
}

impl SharedMemory {
    /// Memory of `len` bytes, rounded up to whole pages.
    pub fn new(len: usize) -> io::Result<Self> {
        let file = memory_file(c"cordon-shared", 0)?;
        file.set_len(len.next_multiple_of(4096) as u64)?;
        let map = memmap2::MmapRaw::map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// The first `count` 32-bit words, fewer if the memory is shorter.
    pub fn words(&self, count: usize) -> &[AtomicU32] {
        let count = count.min(self.map.len() / 4);
        // SAFETY: the map is page-aligned, at least this long, lives as long as `self`, and is only accessed by atomics.
        unsafe { core::slice::from_raw_parts(self.map.as_ptr().cast(), count) }
    }

    /// The 64-bit words from byte `offset`, a multiple of 8, to the end.
    pub fn wide_words(&self, offset: usize) -> &[AtomicU64] {
        let offset = offset.next_multiple_of(8).min(self.map.len());
        let count = (self.map.len() - offset) / 8;
        // SAFETY: `offset` is within the map and a multiple of 8, so the words are aligned and inside; see `words`.
        unsafe { core::slice::from_raw_parts(self.map.as_ptr().add(offset).cast(), count) }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Sleeps while `word` is `expected`, until woken or `timeout` passed. May return early; look again.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the word outlives the call, and the kernel only reads it; the timeout is read during the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const timeout) };
}

/// Wakes everyone who waits on `word`, in any process.
pub fn wake(word: &AtomicU32) {
    // SAFETY: the word outlives the call; nothing is accessed through it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn both_views_are_the_same_memory() {
        let memory = SharedMemory::new(100).expect("memory");
        memory.words(4)[2].store(7, Ordering::Relaxed);
        assert_eq!(memory.wide_words(8)[0].load(Ordering::Relaxed), 7);
        assert_eq!(memory.words(usize::MAX).len(), 1024);
        assert!(memory.wide_words(usize::MAX - 7).is_empty());
    }

    #[test]
    fn a_waiter_is_woken_and_a_changed_word_does_not_sleep() {
        let memory = SharedMemory::new(4).expect("memory");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while memory.words(1)[0].load(Ordering::Acquire) == 0 {
                    wait(&memory.words(1)[0], 0, Duration::from_secs(10));
                }
            });
            memory.words(1)[0].store(1, Ordering::Release);
            wake(&memory.words(1)[0]);
        });
        wait(&memory.words(1)[0], 0, Duration::from_secs(1000));
    }
}
