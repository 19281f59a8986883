//! The service's threads: helpers that share the tasks of a run with the thread that asked for it.
//!
//! A run publishes its tasks in one word, `claim`, from which every thread takes the next task's number until none is
//! left. A helper that comes late to a run, or stays past its end, finds no number to take, so it never touches tasks
//! that are no longer there. Between runs a helper spins for a moment, because the instructions of a model follow each
//! other closely, and then sleeps, because the machine has other things to do.

use core::hint::spin_loop;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use cordon_engine::{Parallel, Serial, Task};

use crate::futex;

/// How long a thread looks before it sleeps. Waking a sleeper costs about as much.
const SPIN: Duration = Duration::from_micros(30);

/// A fixed number of threads; see the module. Its words are futexes, so it must lie in ordinary memory.
pub(crate) struct Pool {
    /// The asking thread and the helpers.
    threads: AtomicUsize,
    /// A run is under way. Whoever asks for another one meanwhile does the work alone.
    busy: AtomicBool,
    /// The run's first task; valid while tasks are left.
    tasks: AtomicPtr<Task<'static>>,
    /// The run's tasks, and the number of the first that nobody took: `len << 32 | next`.
    claim: AtomicU64,
    /// Tasks not ended; futex of the asking thread.
    left: AtomicU32,
    /// The asking thread sleeps, or is about to.
    waiting: AtomicBool,
    /// Number of runs so far; futex of the helpers.
    runs: AtomicU32,
    /// Helpers that sleep, or are about to.
    sleeping: AtomicU32,
    /// Helpers that were started and need nothing more; futex of [`Pool::wait_for_helpers`].
    ready: AtomicU32,
}

impl Pool {
    /// One thread.
    pub(crate) const fn new() -> Self {
        Self {
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
    pub(crate) fn help(&self) -> ! {
        self.ready.fetch_add(1, SeqCst);
        futex::wake(&self.ready, 1);
        loop {
            let seen = self.runs.load(SeqCst);
            while self.take() {}
            if spin_until(|| self.runs.load(Acquire) != seen) {
                continue;
            }
            // Counted before the kernel compares: a run that counts no sleeper has changed the word by then.
            self.sleeping.fetch_add(1, SeqCst);
            futex::wait(&self.runs, seen, None);
            self.sleeping.fetch_sub(1, SeqCst);
        }
    }

    /// Waits until `helpers` started helpers need no system call but waiting, and counts on them from now on.
    pub(crate) fn wait_for_helpers(&self, helpers: usize) {
        loop {
            let ready = self.ready.load(SeqCst);
            if ready as usize >= helpers {
                break;
            }
            futex::wait(&self.ready, ready, None);
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
            futex::wake(&self.left, 1);
        }
        true
    }

    /// Returns once every task has ended.
    fn wait_for_end(&self) {
        if spin_until(|| self.left.load(Acquire) == 0) {
            return;
        }
        self.waiting.store(true, SeqCst);
        loop {
            let left = self.left.load(SeqCst);
            if left == 0 {
                break;
            }
            futex::wait(&self.left, left, None);
        }
        self.waiting.store(false, SeqCst);
    }
}

impl Parallel for Pool {
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
            futex::wake(&self.runs, i32::try_from(len - 1).unwrap_or(i32::MAX));
        }
        while self.take() {}
        self.wait_for_end();
        self.busy.store(false, Release);
    }
}

/// Looks for a moment whether `reached`.
fn spin_until(reached: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            if reached() {
                return true;
            }
            spin_loop();
        }
        if start.elapsed() > SPIN {
            return false;
        }
    }
}

/// Other threads hold borrows of the stack that a panic would unwind.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(helpers: usize) -> &'static Pool {
        let pool: &Pool = Box::leak(Box::new(Pool::new()));
        for _ in 0..helpers {
            std::thread::spawn(|| pool.help());
        }
        pool.wait_for_helpers(helpers);
        assert_eq!(pool.threads(), 1 + helpers);
        pool
    }

    /// Runs `len` tasks, each of which writes into its own part of a vector on this stack.
    fn fill(pool: &Pool, len: usize, round: u64) {
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
            for round in 0..20_000 {
                fill(pool, round as usize % 7, round);
            }
        }
    }

    #[test]
    fn helpers_wake_from_sleep() {
        let pool = pool(2);
        for round in 0..20 {
            std::thread::sleep(SPIN * 40);
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
