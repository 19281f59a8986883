//! Threads for engines in this process.

use cordon_engine::{Compute, KernelSet, Pool, Rest};
use core::hint::spin_loop;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Pools of one to sixteen threads, which begin when first asked for and live as long as the process, as an enclave's do.
static POOLS: [OnceLock<&Pool<Parking>>; 16] = [const { OnceLock::new() }; 16];

/// This many threads, at least one and at most 16, and a kernel set. Whoever computes while another one uses the same
/// threads computes alone.
pub fn with_threads(set: KernelSet, threads: usize) -> Compute {
    let helpers = threads.clamp(1, POOLS.len()) - 1;
    if helpers == 0 {
        return set.into();
    }
    let workers = POOLS[helpers].get_or_init(|| {
        let pool: &Pool<_> = Box::leak(Box::new(Pool::new(Parking::default())));
        for _ in 0..helpers {
            std::thread::spawn(|| pool.help());
        }
        pool.wait_for_helpers(helpers);
        pool
    });
    Compute { set, workers: *workers }
}

/// How long a thread looks before it sleeps: as an enclave's.
const PATIENCE: Duration = Duration::from_micros(60);

/// Threads rest on a condition variable.
#[derive(Default)]
struct Parking {
    lock: Mutex<()>,
    changed: Condvar,
}

impl Parking {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rest for Parking {
    fn sleep(&self, word: &AtomicU32, value: u32) {
        let guard = self.lock();
        // Whoever changes the word takes the lock afterwards, to wake.
        if word.load(SeqCst) == value {
            drop(self.changed.wait(guard));
        }
    }

    fn wake(&self, _: &AtomicU32, _: u32) {
        drop(self.lock());
        self.changed.notify_all();
    }

    fn look(&self, reached: &dyn Fn() -> bool) -> bool {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_sleep_and_wake_again() {
        let compute = with_threads(KernelSet::PORTABLE, 3);
        assert_eq!(compute.workers.threads(), 3);
        for _ in 0..20 {
            std::thread::sleep(PATIENCE * 20);
            let mut parts = [0; 5];
            let mut jobs = parts.each_mut().map(|part| move || *part += 1);
            let mut tasks = jobs.each_mut().map(|job| job as cordon_engine::Task<'_>);
            compute.workers.run(&mut tasks);
            assert_eq!(parts, [1; 5]);
        }
    }
}
