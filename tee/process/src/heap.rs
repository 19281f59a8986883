//! The enclave's heap: one fixed range of secure memory, every byte counted, every freed byte wiped.
//!
//! Small blocks are taken from the low end, first fit; it lies in secret memory wherever the kernel has any. Large ones
//! come from the high end, so that neither breaks up the other's space, and best fit, so that a table takes the place of
//! what is gone rather than a piece of the stretch an arena needs. A refused request returns null, which `try_reserve` turns into
//! an error; its size is published for the host, because what cannot be refused softly ends the process.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::ptr::{NonNull, null_mut, write_bytes};
use core::sync::atomic::{AtomicBool, Ordering};

/// Blocks are multiples of this, and aligned to it: room for a free block's [`Hole`].
const GRAIN: usize = 16;
/// Blocks of at least this many bytes are taken from the high end.
const LARGE: usize = 32 * 1024;
/// Large blocks leave this much free, so that a model which fills the budget leaves room for the service's small objects.
/// Less than the enclave's own slack, which is shared with what it allocates between counting and taking.
const RESERVE: usize = 32 * 1024;
const _: () = assert!((RESERVE as u64) < cordon_protocol::SLACK);
/// What is allocated before secure memory is mapped; never holds a secret.
const EARLY: usize = 64 * 1024;

/// The heap.
pub(crate) struct Heap {
    lock: AtomicBool,
    early: UnsafeCell<Area>,
    secure: UnsafeCell<Area>,
}

// SAFETY: both areas are touched only under `lock`.
unsafe impl Sync for Heap {}

#[repr(align(16))]
struct Early(UnsafeCell<[u8; EARLY]>);

// SAFETY: only the heap touches it, under its lock.
unsafe impl Sync for Early {}

static EARLY_BYTES: Early = Early(UnsafeCell::new([0; EARLY]));

/// A free block: written at its start. Holes are in the order of their addresses and never touch each other.
struct Hole {
    size: usize,
    next: *mut Hole,
}

struct Area {
    start: usize,
    end: usize,
    first: *mut Hole,
    used: usize,
    /// Highest end of a small block and lowest start of a large one, ever: what was touched.
    low: usize,
    high: usize,
}

/// Figures of the secure area, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) used: u64,
    pub(crate) peak: u64,
    /// The longest stretch that is free.
    pub(crate) stretch: u64,
}

impl Heap {
    pub(crate) const fn new() -> Self {
        Self { lock: AtomicBool::new(false), early: UnsafeCell::new(Area::EMPTY), secure: UnsafeCell::new(Area::EMPTY) }
    }

    /// Serves everything from now on from the region's heap, which is handed over for good.
    pub(crate) fn use_region(&self, (start, len): (NonNull<u8>, usize)) {
        self.locked(|_, secure| {
            // SAFETY: `Region::heap` is mapped readable and writable for good, zeroed, page-aligned, and used by nothing
            // else; it is handed over once.
            unsafe { secure.give(start.as_ptr(), len) };
        });
    }

    pub(crate) fn figures(&self) -> Figures {
        self.locked(|_, secure| Figures {
            used: secure.used as u64,
            peak: secure.touched() as u64,
            stretch: secure.stretch() as u64,
        })
    }

    fn locked<T>(&self, act: impl FnOnce(&mut Area, &mut Area) -> T) -> T {
        while self.lock.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        // SAFETY: the lock is held, and `act` does not allocate.
        let result = unsafe { act(&mut *self.early.get(), &mut *self.secure.get()) };
        self.lock.store(false, Ordering::Release);
        result
    }
}

// SAFETY: blocks handed out lie in an area, do not overlap, keep size and alignment, and go back to the area they are of.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.locked(|early, secure| {
            if secure.end > 0 {
                return secure.take(layout);
            }
            if early.end == 0 {
                // SAFETY: the static range belongs to this area alone, from here on.
                unsafe { early.give(EARLY_BYTES.0.get().cast(), EARLY) };
            }
            early.take(layout)
        });
        if block.is_null() {
            let free = self.locked(|_, secure| secure.end - secure.start - secure.used);
            // If nobody handles it the process ends here, and the host still learns why.
            crate::ring::report_refusal(layout.size(), free);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.locked(|early, secure| {
            let area = if secure.holds(block) { secure } else { early };
            // SAFETY: the caller gives back a block of this layout, which came from this area.
            unsafe { area.put(block, rounded(layout)) };
        });
    }
}

fn rounded(layout: Layout) -> usize {
    layout.size().max(1).next_multiple_of(GRAIN)
}

impl Area {
    const EMPTY: Self = Self { start: 0, end: 0, first: null_mut(), used: 0, low: 0, high: 0 };

    /// Bytes that were ever used, from below and from above. The two may overlap where one came when the other was given back.
    fn touched(&self) -> usize {
        (self.low - self.start) + (self.end - self.high.max(self.low))
    }

    /// # Safety
    /// The range is mapped readable and writable for good, zeroed, aligned to a grain, and used by nothing else.
    unsafe fn give(&mut self, start: *mut u8, len: usize) {
        let len = len / GRAIN * GRAIN;
        let hole = start.cast::<Hole>();
        // SAFETY: the range is ours, large enough and aligned.
        unsafe { hole.write(Hole { size: len, next: null_mut() }) };
        let address = start as usize;
        *self = Self { start: address, end: address + len, first: hole, used: 0, low: address, high: address + len };
    }

    fn holds(&self, block: *mut u8) -> bool {
        (self.start..self.end).contains(&(block as usize))
    }

    fn stretch(&self) -> usize {
        let mut longest = 0;
        let mut hole = self.first;
        // SAFETY: holes are valid while the area is borrowed.
        unsafe {
            while !hole.is_null() {
                longest = longest.max((*hole).size);
                hole = (*hole).next;
            }
        }
        longest
    }

    /// First fit for a small block; for a large one the smallest hole that fits, the last of equals.
    fn take(&mut self, layout: Layout) -> *mut u8 {
        let Some(size) = layout.size().max(1).checked_next_multiple_of(GRAIN) else { return null_mut() };
        let large = size >= LARGE;
        if large && self.end - self.start - self.used < size.saturating_add(RESERVE) {
            return null_mut();
        }
        let align = layout.align().max(GRAIN);
        let (mut found, mut smallest) = (None, usize::MAX);
        let mut link: *mut *mut Hole = &mut self.first;
        // SAFETY: `link` points to `first` or to the `next` of a hole, and holes are valid while the area is borrowed.
        unsafe {
            while !(*link).is_null() {
                let hole = *link;
                let fits = place(hole as usize, (*hole).size, size, align, large);
                if let Some(at) = fits.filter(|_| (*hole).size <= smallest) {
                    (found, smallest) = (Some((link, at)), (*hole).size);
                    if !large {
                        break;
                    }
                }
                link = &mut (*hole).next;
            }
        }
        let Some((link, at)) = found else { return null_mut() };
        // SAFETY: `at .. at + size` lies in the hole behind `link`; what is left of it before and behind stays free.
        unsafe {
            let hole = *link;
            let (start, end) = (hole as usize, hole as usize + (*hole).size);
            let mut next = (*hole).next;
            hole.write(Hole { size: 0, next: null_mut() });
            if at + size < end {
                let rest = (at + size) as *mut Hole;
                rest.write(Hole { size: end - at - size, next });
                next = rest;
            }
            if start < at {
                hole.write(Hole { size: at - start, next });
                next = hole;
            }
            *link = next;
        }
        self.used += size;
        if large {
            self.high = self.high.min(at);
        } else {
            self.low = self.low.max(at + size);
        }
        at as *mut u8
    }

    /// # Safety
    /// `block` is a block of `size` bytes taken from this area.
    unsafe fn put(&mut self, block: *mut u8, size: usize) {
        // SAFETY: the block is ours again; the compiler cannot drop the wipe, for the memory stays in use as a hole.
        unsafe { write_bytes(block, 0, size) };
        core::hint::black_box(block);
        let at = block as usize;
        let mut before: *mut Hole = null_mut();
        let mut after = self.first;
        // SAFETY: holes are valid while the area is borrowed, and the block touches none of them.
        unsafe {
            while !after.is_null() && (after as usize) < at {
                before = after;
                after = (*after).next;
            }
            let mut hole = block.cast::<Hole>();
            hole.write(Hole { size, next: after });
            if !before.is_null() && before as usize + (*before).size == at {
                (*before).size += size;
                (*before).next = after;
                hole.write(Hole { size: 0, next: null_mut() });
                hole = before;
            } else if before.is_null() {
                self.first = hole;
            } else {
                (*before).next = hole;
            }
            if !after.is_null() && hole as usize + (*hole).size == after as usize {
                (*hole).size += (*after).size;
                (*hole).next = (*after).next;
                after.write(Hole { size: 0, next: null_mut() });
            }
        }
        self.used -= size;
    }
}

/// Where in the hole a block goes: at its low end, or, if large, at its high end.
fn place(start: usize, len: usize, size: usize, align: usize, large: bool) -> Option<usize> {
    let end = start.checked_add(len)?;
    let at = if large { end.checked_sub(size)? / align * align } else { start.checked_next_multiple_of(align)? };
    (at >= start && at.checked_add(size)? <= end).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const LEN: usize = 1 << 20;

    fn area(memory: &mut Vec<u128>) -> Area {
        memory.resize(LEN / GRAIN, 0);
        let mut area = Area::EMPTY;
        // SAFETY: the vector outlives the area in every test and is not touched meanwhile.
        unsafe { area.give(memory.as_mut_ptr().cast(), LEN) };
        area
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("valid")
    }

    #[test]
    fn random_blocks_never_overlap_and_all_space_comes_back() {
        let mut memory = Vec::new();
        let mut area = area(&mut memory);
        let mut state = 1u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut live: Vec<(*mut u8, Layout)> = Vec::new();
        for _ in 0..20_000 {
            if random(2) == 0 && !live.is_empty() {
                let (block, layout) = live.swap_remove(random(live.len()));
                // SAFETY: taken from this area and given back once; its bytes are its own.
                unsafe {
                    assert!((0..layout.size()).all(|i| *block.add(i) == 0x5a), "someone wrote into a live block");
                    area.put(block, rounded(layout));
                }
                continue;
            }
            let size = if random(10) == 0 { random(100_000) } else { random(500) };
            let layout = layout(size, 1 << random(9));
            let block = area.take(layout);
            if block.is_null() {
                continue;
            }
            assert_eq!(block as usize % layout.align(), 0);
            assert!(area.holds(block) && block as usize + size <= area.end);
            // SAFETY: the block is ours and that long.
            unsafe {
                assert!((GRAIN..size).all(|i| *block.add(i) == 0), "what was freed was not wiped");
                write_bytes(block, 0x5a, size);
            }
            live.push((block, layout));
        }
        for (block, layout) in live {
            // SAFETY: as above.
            unsafe { area.put(block, rounded(layout)) };
        }
        assert_eq!(area.used, 0);
        // SAFETY: the list is valid; all holes have joined into one.
        unsafe { assert_eq!(((*area.first).size, (*area.first).next.is_null()), (LEN, true)) };
    }

    #[test]
    fn figures_count_what_was_touched() {
        let mut memory = Vec::new();
        let mut area = area(&mut memory);
        let small = area.take(layout(100, 8));
        let large = area.take(layout(LARGE, 16));
        assert_eq!((area.low - area.start, area.end - area.high), (112, LARGE));
        // SAFETY: just taken.
        unsafe {
            area.put(small, 112);
            area.put(large, LARGE);
        }
        assert_eq!(area.used, 0);
        assert_eq!((area.low - area.start, area.end - area.high), (112, LARGE), "a high-water mark stays");
        assert_eq!(area.touched(), 112 + LARGE);
    }

    #[test]
    fn what_was_taken_from_both_sides_counts_once() {
        let mut memory = Vec::new();
        let mut area = area(&mut memory);
        let small = [area.take(layout(LARGE - 16, 8)), area.take(layout(LARGE - 16, 8))];
        for block in small {
            // SAFETY: just taken.
            unsafe { area.put(block, LARGE - 16) };
        }
        assert!(!area.take(layout(LEN - RESERVE - 64, 16)).is_null());
        assert!(area.high < area.low, "the test must see both");
        assert_eq!(area.touched(), LEN);
    }

    #[test]
    fn a_large_block_takes_the_smallest_hole_that_fits() {
        let mut memory = Vec::new();
        let mut area = area(&mut memory);
        let sizes = [3 * LARGE, LARGE, 2 * LARGE, LARGE];
        let blocks = sizes.map(|size| area.take(layout(size, 16)));
        for (block, size) in [(blocks[0], sizes[0]), (blocks[2], sizes[2])] {
            // SAFETY: just taken, of that size.
            unsafe { area.put(block, size) };
        }
        assert_eq!(area.stretch(), LEN - sizes.iter().sum::<usize>());
        assert_eq!(area.take(layout(2 * LARGE, 16)), blocks[2]);
        assert_eq!(area.take(layout(3 * LARGE, 16)), blocks[0]);
        assert!((area.take(layout(LARGE, 16)) as usize) < blocks[3] as usize);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_small_objects_keep_their_reserve() {
        let mut memory = Vec::new();
        let mut area = area(&mut memory);
        assert!(area.take(layout(LEN, 8)).is_null());
        assert!(area.take(layout(LEN - RESERVE + GRAIN, 8)).is_null());
        assert!(!area.take(layout(LEN - RESERVE, 8)).is_null());
        assert!(area.take(layout(LARGE, 8)).is_null());
        assert!(!area.take(layout(1000, 8)).is_null());
        assert!(area.take(layout(isize::MAX as usize - 15, 8)).is_null());
    }
}
