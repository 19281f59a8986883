//! Sharing one kernel's work among threads the platform owns.
//!
//! A kernel cuts its output into contiguous ranges and computes each range for itself. How many ranges there are never
//! changes a bit: every element is computed in the same order of operations whichever range it is in.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::KernelSet;
pub use crate::arch::{Pool, Rest};
use core::ops::Range;

/// One range's work. It owns what it writes, so tasks need no locks.
pub type Task<'a> = &'a mut (dyn FnMut() + Send);

/// The threads of a platform.
pub trait Parallel: Sync {
    /// How many tasks run at the same time; at least 1, and the same at every call.
    fn threads(&self) -> usize;

    /// Runs every task once, in any order and on any thread, and returns when all have ended.
    fn run(&self, tasks: &mut [Task<'_>]);

    /// Multiply-adds of registers below which handing work to another thread costs as much as it saves: with threads that
    /// are awake some 3 us of one core with AVX-512.
    fn worthwhile(&self) -> u64 {
        400_000
    }
}

/// One thread: tasks run one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        tasks.iter_mut().for_each(|task| task());
    }
}

/// What kernels compute with. The threads live as long as the enclave.
#[derive(Clone, Copy)]
pub struct Compute {
    /// Instructions.
    pub set: KernelSet,
    /// Threads.
    pub workers: &'static dyn Parallel,
}

impl From<KernelSet> for Compute {
    /// One thread.
    fn from(set: KernelSet) -> Self {
        Compute { set, workers: &Serial }
    }
}

/// Most ranges a kernel cuts its output into.
const MAX_TASKS: usize = 16;

/// Most planes [`Compute::split_planes`] cuts.
pub(crate) const MOST_PLANES: usize = 16;

/// What moving an element, or a plain operation on it, costs in multiply-adds.
pub(crate) const MOVE: u64 = 16;

impl Compute {
    /// How many ranges work of `cost` multiply-adds is worth being cut into.
    pub(crate) fn ranges(&self, cost: u64) -> usize {
        let worthwhile = usize::try_from(cost / (self.workers.worthwhile() / 2).max(1)).unwrap_or(usize::MAX);
        self.workers.threads().min(worthwhile).clamp(1, MAX_TASKS)
    }

    /// Cuts each of the planes in `out`, at most [`MOST_PLANES`] of `plane` elements, in the same places, between items of
    /// `item` elements; otherwise as [`Compute::split`].
    pub(crate) fn split_planes<T: Send>(
        &self,
        out: &mut [T],
        plane: usize,
        item: usize,
        cost: u64,
        part: impl Fn(Range<usize>, &mut [&mut [T]]) + Sync,
    ) {
        let (planes, items) = (out.len() / plane, plane / item);
        let ranges = self.ranges(cost).min(items).max(1);
        let (part, mut first, mut whole) = (&part, 0, out.chunks_exact_mut(plane));
        let mut rest: [&mut [T]; MOST_PLANES] = core::array::from_fn(|_| whole.next().unwrap_or_default());
        let mut jobs: [_; MAX_TASKS] = core::array::from_fn(|index| {
            let range = first..if index < ranges { items * (index + 1) / ranges } else { items };
            first = range.end;
            let mut mine = rest.each_mut().map(|rest| {
                let all = core::mem::take(rest);
                let (mine, others) = all.split_at_mut((range.len() * item).min(all.len()));
                *rest = others;
                mine
            });
            move || part(range.clone(), &mut mine[..planes])
        });
        let mut tasks = jobs.each_mut().map(|job| job as Task<'_>);
        self.workers.run(&mut tasks[..ranges]);
    }

    /// Cuts `out`, items of `item` elements of which the last may be shorter, into one contiguous range for each thread and
    /// computes each by `part(items, their elements)`. `cost` is the multiply-adds of all of it, an element moved being
    /// [`MOVE`] of them.
    pub(crate) fn split<T: Send>(
        &self,
        out: &mut [T],
        item: usize,
        cost: u64,
        part: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        let items = out.len().div_ceil(item.max(1));
        let ranges = self.ranges(cost).min(items);
        if ranges <= 1 {
            return part(0..items, out);
        }
        let (part, mut rest, mut first) = (&part, out, 0);
        let mut jobs: [_; MAX_TASKS] = core::array::from_fn(|index| {
            let end = if index < ranges { items * (index + 1) / ranges } else { items };
            let range = first..end;
            let all = core::mem::take(&mut rest);
            let (mine, others) = all.split_at_mut((range.len() * item).min(all.len()));
            (rest, first) = (others, end);
            move || part(range.clone(), mine)
        });
        let mut tasks = jobs.each_mut().map(|job| job as Task<'_>);
        self.workers.run(&mut tasks[..ranges]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// Threads of its own for every call: slow, but really at the same time.
    struct Threads(usize);

    impl Parallel for Threads {
        fn threads(&self) -> usize {
            self.0
        }

        fn run(&self, tasks: &mut [Task<'_>]) {
            std::thread::scope(|scope| {
                for task in tasks {
                    scope.spawn(task);
                }
            });
        }
    }

    #[test]
    fn every_item_is_computed_once_whatever_the_number_of_threads() {
        for workers in [&Threads(1) as &'static dyn Parallel, &Threads(2), &Threads(3), &Threads(40)] {
            for items in [0, 1, 2, 5, 16, 17, 100] {
                let compute = Compute { set: KernelSet::PORTABLE, workers };
                let mut out = vec![0; items * 3];
                compute.split(&mut out, 3, u64::MAX, |range, out| {
                    assert_eq!(out.len(), range.len() * 3);
                    out.iter_mut().enumerate().for_each(|(at, value)| *value += range.start * 3 + at + 1);
                });
                assert!(out.iter().enumerate().all(|(at, &value)| value == at + 1), "{items} items");
            }
        }
    }

    #[test]
    fn planes_are_cut_in_the_same_places() {
        for workers in [&Threads(1) as &'static dyn Parallel, &Threads(2), &Threads(3), &Threads(40)] {
            for planes in 0..=MOST_PLANES {
                let compute = Compute { set: KernelSet::PORTABLE, workers };
                let mut out = vec![0; planes * 21];
                compute.split_planes(&mut out, 21, 3, u64::MAX, |range, parts| {
                    assert_eq!(parts.len(), planes);
                    for (plane, part) in parts.iter_mut().enumerate() {
                        assert_eq!(part.len(), range.len() * 3);
                        let first = plane * 21 + range.start * 3 + 1;
                        part.iter_mut().enumerate().for_each(|(at, value)| *value += first + at);
                    }
                });
                assert!(out.iter().enumerate().all(|(at, &value)| value == at + 1), "{planes} planes");
            }
        }
    }

    #[test]
    fn the_last_item_may_be_shorter() {
        let compute = Compute { set: KernelSet::PORTABLE, workers: &Threads(3) };
        let mut out = vec![0; 50];
        compute.split(&mut out, 16, u64::MAX, |range, out| {
            assert_eq!(out.len(), (range.end * 16).min(50) - range.start * 16);
            out.fill(1);
        });
        assert_eq!(out, vec![1; 50]);
    }

    #[test]
    fn small_work_stays_on_one_thread() {
        let compute = Compute { set: KernelSet::PORTABLE, workers: &Threads(2) };
        compute.split(&mut [0u8; 64], 1, 1000, |range, _| assert_eq!(range, 0..64));
    }
}
