//! The global allocator: first fit by address inside the region, with a budget that cannot be exceeded.
//!
//! Before the region exists (the runtime's own start allocates a little) a static area serves. First fit by address keeps
//! the touched part of the region low, so its end is the high-water mark, fragmentation included.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use linked_list_allocator::Heap as FirstFit;

/// Bytes of the static area: what the runtime and the sandbox's rule building need before the region serves.
pub(crate) const EARLY_BYTES: usize = 128 * 1024;

#[repr(align(64))]
struct Early(UnsafeCell<[u8; EARLY_BYTES]>);

struct Areas {
    early: FirstFit,
    region: FirstFit,
}

/// The allocator.
pub(crate) struct Heap {
    locked: AtomicBool,
    areas: UnsafeCell<Areas>,
    early: Early,
    used: AtomicUsize,
    high: AtomicUsize,
}

// SAFETY: `areas` and `early` are only reached through `with`, which holds the lock; the rest is atomic.
unsafe impl Sync for Heap {}

impl Heap {
    pub(crate) const fn new() -> Self {
        Self {
            locked: AtomicBool::new(false),
            areas: UnsafeCell::new(Areas { early: FirstFit::empty(), region: FirstFit::empty() }),
            early: Early(UnsafeCell::new([0; EARLY_BYTES])),
            used: AtomicUsize::new(0),
            high: AtomicUsize::new(0),
        }
    }

    /// From now on new memory comes from the region.
    pub(crate) fn use_region(&self, (start, len): (NonNull<u8>, usize)) {
        self.with(|areas| {
            // SAFETY: the region is mapped readable and writable for the life of the process, nothing else uses this part
            // of it, and it is given over once.
            unsafe { areas.region.init(start.as_ptr(), len) }
        });
    }

    /// Bytes allocated in the region now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes of the region ever touched.
    pub(crate) fn high(&self) -> usize {
        self.high.load(Ordering::Relaxed)
    }

    /// Two threads exist only while the main one waits for the other, so the lock is practically never contended.
    fn with<T>(&self, job: impl FnOnce(&mut Areas) -> T) -> T {
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        // SAFETY: the lock is held, so this is the only reference.
        let areas = unsafe { &mut *self.areas.get() };
        if areas.early.size() == 0 {
            // SAFETY: the static area is used by this allocator alone, and given over once.
            unsafe { areas.early.init(self.early.0.get().cast(), EARLY_BYTES) }
        }
        let result = job(areas);
        self.locked.store(false, Ordering::Release);
        result
    }
}

// SAFETY: memory comes from two first-fit heaps over disjoint areas; a block goes back to the one its address lies in,
// with the layout it was taken with. No function panics or unwinds.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.with(|areas| {
            let from_region = areas.region.size() > 0;
            let area = if from_region { &mut areas.region } else { &mut areas.early };
            match area.allocate_first_fit(layout) {
                Ok(block) => {
                    if from_region {
                        let end = (block.as_ptr() as usize).saturating_add(layout.size());
                        self.high.fetch_max(end.saturating_sub(area.bottom() as usize), Ordering::Relaxed);
                        self.used.store(area.used(), Ordering::Relaxed);
                    }
                    block.as_ptr()
                }
                Err(()) => {
                    // If nobody handles it the process ends here, and the host still learns why.
                    crate::ring::report_refusal(layout.size(), area.free());
                    null_mut()
                }
            }
        })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else { return };
        self.with(|areas| {
            let early = self.early.0.get() as usize;
            let in_early = (early..early + EARLY_BYTES).contains(&(block.as_ptr() as usize));
            let area = if in_early { &mut areas.early } else { &mut areas.region };
            // SAFETY: the caller gives back a block of this allocator with its layout; the address says which area.
            unsafe { area.deallocate(block, layout) };
            if !in_early {
                self.used.store(area.used(), Ordering::Relaxed);
            }
        });
    }
}
