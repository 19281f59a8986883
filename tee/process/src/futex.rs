//! Waiting on a word of ordinary memory and waking who waits.
//!
//! The kernel refuses futexes in secret memory (EFAULT), so every word here is a static or part of the ring. Such words
//! carry counts and stages, never anything secret.

use core::ptr::null;
use core::sync::atomic::AtomicU32;

/// Sleeps while the word is `value`, at most `seconds` if given; may return early.
pub(crate) fn wait(word: &AtomicU32, value: u32, seconds: Option<i64>) {
    let timeout = seconds.map(|tv_sec| libc::timespec { tv_sec, tv_nsec: 0 });
    let timeout = timeout.as_ref().map_or(null(), core::ptr::from_ref);
    // SAFETY: the kernel reads the word, which is borrowed, and the timeout, which lives as long as the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, timeout) };
}

/// Wakes at most `most` threads that wait on the word.
pub(crate) fn wake(word: &AtomicU32, most: i32) {
    // SAFETY: the kernel only looks up who waits at this address, which is borrowed.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, most) };
}
