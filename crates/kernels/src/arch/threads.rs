//! Threads that outlive the work they share: the one place that forgets how long a task's borrows last.
#![allow(unsafe_code, reason = "a task that borrows is lent to threads that live longer; see `Pool::take`")]

use crate::parallel::{Parallel, Serial, Task};
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

/// What a [`Pool`] needs of the platform whose threads it uses.
pub trait Rest: Sync {
    /// Sleeps while `word` is `value`; may return early.
    fn sleep(&self, word: &AtomicU32, value: u32);

    /// Wakes at most `most` of the threads that sleep on `word`.
    fn wake(&self, word: &AtomicU32, most: u32);

    /// [`Self::wake`] for helpers that are to run beside the calling thread: a platform may say where.
    fn call(&self, word: &AtomicU32, most: u32) {
        self.wake(word, most);
    }

    /// Looks for a moment whether `reached`, letting other programs have the processor, and says whether it was. The
    /// instructions of a model follow each other within microseconds, and waking a sleeper costs tens of them.
    fn look(&self, reached: &dyn Fn() -> bool) -> bool;
}

/// A fixed number of threads that share the tasks of a run with the thread that asked for it.
///
/// A run publishes its tasks in one word, `claim`, from which every thread takes the next task's number until none is
/// left. A helper that comes late to a run, or stays past its end, finds no number to take, so it never touches tasks
/// that are no longer there. The words hold counts, and addresses of tasks, never anything secret.
pub struct Pool<R> {
    rest: R,
    /// The asking thread and the helpers.
    threads: AtomicUsize,
    /// A run is under way. Whoever asks for another one meanwhile does the work alone.
    busy: AtomicBool,
    /// The run's first task; valid while tasks are left.
    tasks: AtomicPtr<Task<'static>>,
    /// The run's tasks, and the number of the first that nobody took: `len << 32 | next`.
    claim: AtomicU64,
    /// Tasks not ended; the asking thread sleeps on it.
    left: AtomicU32,
    /// The asking thread sleeps, or is about to.
    waiting: AtomicBool,
    /// Number of runs so far; the helpers sleep on it.
    runs: AtomicU32,
    /// Helpers that sleep, or are about to.
    sleeping: AtomicU32,
    /// Helpers that were started and need nothing more; [`Pool::wait_for_helpers`] sleeps on it.
    ready: AtomicU32,
}

impl<R: Rest> Pool<R> {
    /// One thread.
    pub const fn new(rest: R) -> Self {
        Self {
            rest,
            threads: AtomicUsize::new(1),
            busy: AtomicBool::new(false),
            tasks: AtomicPtr::new(null_mut()),
            claim: AtomicU64::new(0),
            left: AtomicU32::new(0),
            waiting: AtomicBool::new(false),
            runs: AtomicU32::new(0),
            sleeping: AtomicU32::new(0),
            ready: AtomicU32::new(0),
        }
    }

    /// A helper's life.
    pub fn help(&self) -> ! {
        self.ready.fetch_add(1, SeqCst);
        self.rest.wake(&self.ready, 1);
        loop {
            let seen = self.runs.load(SeqCst);
            while self.take() {}
            if self.rest.look(&|| self.runs.load(Acquire) != seen) {
                continue;
            }
            // Counted before the word is compared: a run that counts no sleeper has changed the word by then.
            self.sleeping.fetch_add(1, SeqCst);
            self.rest.sleep(&self.runs, seen);
            self.sleeping.fetch_sub(1, SeqCst);
        }
    }

    /// Waits until `helpers` started helpers need nothing of the system but to sleep, and counts on them from now on.
    pub fn wait_for_helpers(&self, helpers: usize) {
        loop {
            let ready = self.ready.load(SeqCst);
            if ready as usize >= helpers {
                break;
            }
            self.rest.sleep(&self.ready, ready);
        }
        self.threads.store(1 + helpers, SeqCst);
    }

    /// Takes a task and runs it; false when all are taken.
    fn take(&self) -> bool {
        let mut claim = self.claim.load(Acquire);
        let index = loop {
            let (len, next) = (claim >> 32, claim & 0xffff_ffff);
            if next >= len {
                return false;
            }
            match self.claim.compare_exchange_weak(claim, claim + 1, AcqRel, Acquire) {
                Ok(_) => break next as usize,
                Err(now) => claim = now,
            }
        };
        let unwinding = AbortOnUnwind;
        // SAFETY: `claim` gave this index, below the run's number of tasks, to this thread alone, so nothing else touches
        // the task. The run does not end, and its slice stays borrowed, before `left` counts this task as ended; as no
        // other run begins before that, `tasks` is this run's slice, and was stored before the word just read. Tasks are
        // `Send`.
        unsafe { (*self.tasks.load(Relaxed).add(index))() };
        core::mem::forget(unwinding);
        if self.left.fetch_sub(1, SeqCst) == 1 && self.waiting.load(SeqCst) {
            self.rest.wake(&self.left, 1);
        }
        true
    }

    /// Returns once every task has ended.
    fn wait_for_end(&self) {
        if self.rest.look(&|| self.left.load(Acquire) == 0) {
            return;
        }
        self.waiting.store(true, SeqCst);
        loop {
            let left = self.left.load(SeqCst);
            if left == 0 {
                break;
            }
            self.rest.sleep(&self.left, left);
        }
        self.waiting.store(false, SeqCst);
    }
}

impl<R: Rest> Parallel for Pool<R> {
    fn threads(&self) -> usize {
        self.threads.load(Relaxed)
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        let Ok(len) = u32::try_from(tasks.len()) else { return Serial.run(tasks) };
        if len < 2 || self.threads() < 2 || self.busy.swap(true, Acquire) {
            return Serial.run(tasks);
        }
        self.left.store(len, Relaxed);
        // Only the lifetime is forgotten: `wait_for_end` keeps the borrow until no thread uses it.
        self.tasks.store(tasks.as_mut_ptr().cast(), Relaxed);
        self.claim.store(u64::from(len) << 32, Release);
        self.runs.fetch_add(1, SeqCst);
        if self.sleeping.load(SeqCst) > 0 {
            self.rest.call(&self.runs, len - 1);
        }
        while self.take() {}
        self.wait_for_end();
        self.busy.store(false, Release);
    }
}

/// Other threads hold borrows of the stack that a panic would unwind. A panic while unwinding ends the process.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    #[cfg_attr(not(test), expect(clippy::panic, reason = "a second panic ends the process, as it must"))]
    fn drop(&mut self) {
        panic!("a task panicked while other threads used what it borrows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use alloc::vec;
    use alloc::vec::Vec;
    use core::time::Duration;

    /// Sleeps lightly, as [`Rest::sleep`] may.
    struct Light;

    impl Rest for Light {
        fn sleep(&self, _: &AtomicU32, _: u32) {
            std::thread::sleep(Duration::from_micros(50));
        }

        fn wake(&self, _: &AtomicU32, _: u32) {}

        fn look(&self, reached: &dyn Fn() -> bool) -> bool {
            (0..100).any(|_| {
                std::thread::yield_now();
                reached()
            })
        }
    }

    fn pool(helpers: usize) -> &'static Pool<Light> {
        let pool: &Pool<_> = Box::leak(Box::new(Pool::new(Light)));
        for _ in 0..helpers {
            std::thread::spawn(|| pool.help());
        }
        pool.wait_for_helpers(helpers);
        assert_eq!(pool.threads(), 1 + helpers);
        pool
    }

    /// Runs `len` tasks, each of which writes into its own part of a vector on this stack.
    fn fill(pool: &Pool<Light>, len: usize, round: u64) {
        let mut parts = vec![0u64; len];
        let mut jobs: Vec<_> = parts.iter_mut().zip(0..).map(|(part, at)| move || *part += round + at).collect();
        let mut tasks: Vec<Task<'_>> = jobs.iter_mut().map(|job| job as Task<'_>).collect();
        pool.run(&mut tasks);
        assert!(parts.iter().zip(round..).all(|(part, want)| *part == want), "each task once, all ended");
    }

    #[test]
    fn many_tiny_runs_do_every_task_once() {
        for helpers in [0, 1, 3] {
            let pool = pool(helpers);
            for round in 0..10_000 {
                fill(pool, round as usize % 7, round);
            }
        }
    }

    #[test]
    fn helpers_wake_from_sleep() {
        let pool = pool(2);
        for round in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            fill(pool, 3, round);
        }
    }

    #[test]
    fn tasks_run_at_the_same_time() {
        let pool = pool(1);
        // Each waits for the other: two threads are needed.
        let met = AtomicU32::new(0);
        let meet = || {
            met.fetch_add(1, SeqCst);
            while met.load(SeqCst) < 2 {
                std::thread::yield_now();
            }
        };
        let (mut a, mut b) = (meet, meet);
        pool.run(&mut [&mut a, &mut b]);
    }

    #[test]
    fn who_asks_while_a_run_is_under_way_works_alone() {
        let pool = pool(1);
        let mut inner = 0;
        let mut outer = || {
            let mut job = || inner += 1;
            pool.run(&mut [&mut job]);
            fill(pool, 5, 1);
        };
        let mut other = || ();
        pool.run(&mut [&mut outer, &mut other]);
        assert_eq!(inner, 1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2000).for_each(|round| fill(pool, 4, round)));
            }
        });
    }
}
