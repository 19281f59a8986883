//! Waiting on a word of ordinary memory and waking who waits.
//!
//! The kernel refuses futexes in secret memory (EFAULT), so every word here is a static or part of the ring. Such words
//! carry counts and stages, never anything secret.

use core::hint::spin_loop;
use core::ptr::null;
use core::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use cordon_engine::Rest;

use crate::helpers;

/// How long a thread looks before it sleeps. Waking a sleeper on an idle processor takes 15 to 30 us, and the one who
/// wakes it 9 us; copying a request's largest frame takes the host some 60 us.
const PATIENCE: Duration = Duration::from_micros(100);

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

/// Looks for a moment whether `reached`. Whoever else wants this processor gets it every microsecond.
pub(crate) fn look(reached: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if reached() {
                return true;
            }
            spin_loop();
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::yield_now();
    }
}

/// How the helpers of the pool rest. Its words must lie in ordinary memory.
pub(crate) struct Futexes;

impl Rest for Futexes {
    fn sleep(&self, word: &AtomicU32, value: u32) {
        wait(word, value, None);
    }

    fn wake(&self, word: &AtomicU32, most: u32) {
        wake(word, i32::try_from(most).unwrap_or(i32::MAX));
    }

    fn call(&self, word: &AtomicU32, most: u32) {
        helpers::keep_away();
        self.wake(word, most);
    }

    fn look(&self, reached: &dyn Fn() -> bool) -> bool {
        look(reached)
    }
}
