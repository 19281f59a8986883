//! Memory the engine computes in: one vector per element type, so that no cast between them is ever needed.
//!
//! An instruction writes one region and reads others. [`Buffers::split`] hands out the written region mutably and
//! everything before and after it shared, without `unsafe`; validation made sure that no read region straddles it.

use alloc::vec::Vec;
use core::ops::Range;

use cordon_kernels::parallel::Compute;
use cordon_kernels::{half, movement};
use zeroize::Zeroize;

use crate::error::{EngineError, Place};
use crate::program::{ArenaSize, DType, Region};
use crate::value::ValueRef;

/// Elements per type. Wider than [`ArenaSize`]: all weights of a segment together may exceed 2^32 elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) f32: u64,
    pub(crate) i64: u64,
    pub(crate) bool: u64,
    pub(crate) u8: u64,
    pub(crate) scratch: u64,
}

impl Extent {
    /// Room for `len` more elements; returns where they start. Saturates, which no budget admits.
    pub(crate) fn push(&mut self, dtype: DType, len: u64) -> u64 {
        let end = match dtype {
            DType::F32 => &mut self.f32,
            DType::I64 => &mut self.i64,
            DType::Bool => &mut self.bool,
            DType::U8 => &mut self.u8,
        };
        let start = *end;
        *end = end.saturating_add(len);
        start
    }

    /// Both together, type by type; saturates.
    pub(crate) fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// Without `other`, which was added before.
    pub(crate) fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// The larger extent, type by type.
    pub(crate) fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            f32: f(self.f32, other.f32),
            i64: f(self.i64, other.i64),
            bool: f(self.bool, other.bool),
            u8: f(self.u8, other.u8),
            scratch: f(self.scratch, other.scratch),
        }
    }

    /// Bytes of all; saturates.
    pub(crate) fn bytes(self) -> u64 {
        let words = self.f32.saturating_add(self.scratch).saturating_mul(4).saturating_add(self.i64.saturating_mul(8));
        words.saturating_add(self.bool).saturating_add(self.u8)
    }
}

impl From<ArenaSize> for Extent {
    fn from(size: ArenaSize) -> Self {
        Self {
            f32: size.f32.into(),
            i64: size.i64.into(),
            bool: size.bool.into(),
            u8: size.u8.into(),
            scratch: size.scratch.into(),
        }
    }
}

/// Typed vectors of fixed length, zeroed at first and wiped at the end.
pub(crate) struct Buffers {
    f32: Lines<f32>,
    i64: Vec<i64>,
    bool: Vec<u8>,
    u8: Lines<u8>,
    /// Holds nothing between instructions.
    scratch: Lines<f32>,
}

impl Buffers {
    /// Allocates once; nothing grows afterwards. `what` names the memory in errors.
    pub(crate) fn allocate(extent: Extent, what: &'static str) -> Result<Self, EngineError> {
        let refused = EngineError::Allocation { what, needed: extent.bytes() };
        Ok(Self {
            f32: Lines::zeroed(extent.f32).ok_or(refused)?,
            i64: zeroed(extent.i64).ok_or(refused)?,
            bool: zeroed(extent.bool).ok_or(refused)?,
            u8: Lines::zeroed(extent.u8).ok_or(refused)?,
            scratch: Lines::zeroed(extent.scratch).ok_or(refused)?,
        })
    }

    /// Bytes really held, allocator rounding included, without [`SLACK_BYTES`].
    pub(crate) fn bytes(&self) -> u64 {
        let f32 = self.f32.bytes() + self.scratch.bytes();
        (f32 + self.i64.capacity() * 8 + self.bool.capacity() + self.u8.bytes()) as u64
    }

    /// Overwrites every element with zero. The buffers live on, so these are ordinary stores the compiler must keep.
    pub(crate) fn wipe(&mut self, compute: impl Into<Compute>) {
        let compute = compute.into();
        movement::fill(compute, &mut self.f32, 0.0);
        movement::fill(compute, &mut self.i64, 0);
        movement::fill(compute, &mut self.bool, 0);
        movement::fill(compute, &mut self.u8, 0);
        movement::fill(compute, &mut self.scratch, 0.0);
    }

    /// Whether every element is zero.
    #[cfg(test)]
    pub(crate) fn is_wiped(&self) -> bool {
        self.f32.iter().chain(self.scratch.iter()).all(|v| v.to_bits() == 0)
            && self.i64.iter().all(|&v| v == 0)
            && self.bool.iter().chain(self.u8.iter()).all(|&v| v == 0)
    }

    /// `len` elements from `start`.
    pub(crate) fn view(&self, dtype: DType, start: u64, len: u32) -> Result<ValueRef<'_>, EngineError> {
        Ok(match dtype {
            DType::F32 => ValueRef::F32(part(&self.f32, start, len)?),
            DType::I64 => ValueRef::I64(part(&self.i64, start, len)?),
            DType::Bool => ValueRef::Bool(part(&self.bool, start, len)?),
            DType::U8 => ValueRef::U8(part(&self.u8, start, len)?),
        })
    }

    /// Bytes `range` of the `u8` memory.
    pub(crate) fn bytes_at(&self, range: Range<u64>) -> Result<&[u8], EngineError> {
        let index = |at: u64| usize::try_from(at).map_err(|_| OUTSIDE);
        self.u8.get(index(range.start)?..index(range.end)?).ok_or(OUTSIDE)
    }

    /// The written region and the scratch memory mutably, everything else shared.
    pub(crate) fn split(&mut self, out: Region) -> Result<(Out<'_>, Rest<'_>, &mut [f32]), EngineError> {
        let Self { f32, i64, bool, u8, scratch } = self;
        let (out, rest) = match out.dtype {
            DType::F32 => {
                let (out, f32) = split(f32, out)?;
                (Out::F32(out), Rest { f32, i64: Around::whole(i64), bool: Around::whole(bool), u8: Around::whole(u8) })
            }
            DType::I64 => {
                let (out, i64) = split(i64, out)?;
                (Out::I64(out), Rest { f32: Around::whole(f32), i64, bool: Around::whole(bool), u8: Around::whole(u8) })
            }
            DType::Bool => {
                let (out, bool) = split(bool, out)?;
                (Out::Bool(out), Rest { f32: Around::whole(f32), i64: Around::whole(i64), bool, u8: Around::whole(u8) })
            }
            DType::U8 => {
                let (out, u8) = split(u8, out)?;
                (Out::U8(out), Rest { f32: Around::whole(f32), i64: Around::whole(i64), bool: Around::whole(bool), u8 })
            }
        };
        Ok((out, rest, scratch))
    }

    /// All elements but the scratch memory, to be written.
    pub(crate) fn span(&mut self) -> Span<'_> {
        let Self { f32, i64, bool, u8, .. } = self;
        Span { start: Extent::default(), f32, i64, bool, u8 }
    }

    /// Stores a value of exactly the type and length of `region`. `at` names its source.
    pub(crate) fn store_value(&mut self, region: Region, value: ValueRef<'_>, at: Place) -> Result<(), EngineError> {
        if value.dtype() != region.dtype {
            return Err(EngineError::Reply("the value has another element type than the port"));
        }
        if value.len() as u64 != u64::from(region.len) {
            return Err(EngineError::Reply("the value has another number of elements than the port"));
        }
        let start = u64::from(region.start);
        match value {
            ValueRef::F32(v) => part_mut(&mut self.f32, start, v.len())?.copy_from_slice(v),
            ValueRef::I64(v) => part_mut(&mut self.i64, start, v.len())?.copy_from_slice(v),
            ValueRef::Bool(v) => {
                check_masks(v, at)?;
                part_mut(&mut self.bool, start, v.len())?.copy_from_slice(v);
            }
            ValueRef::U8(v) => part_mut(&mut self.u8, start, v.len())?.copy_from_slice(v),
        }
        Ok(())
    }
}

/// A stretch of each type's elements, for one writer.
pub(crate) struct Span<'a> {
    /// Where each begins.
    start: Extent,
    f32: &'a mut [f32],
    i64: &'a mut [i64],
    bool: &'a mut [u8],
    u8: &'a mut [u8],
}

impl<'a> Span<'a> {
    /// What lies before `end`, and the rest.
    pub(crate) fn split(self, end: Extent) -> Result<(Self, Self), EngineError> {
        fn cut<T>(all: &mut [T], start: u64, end: u64) -> Result<(&mut [T], &mut [T]), EngineError> {
            let len = end.checked_sub(start).and_then(|len| usize::try_from(len).ok());
            len.and_then(|len| all.split_at_mut_checked(len)).ok_or(OUTSIDE)
        }
        let Self { start, f32, i64, bool, u8 } = self;
        let (f32, later_f32) = cut(f32, start.f32, end.f32)?;
        let (i64, later_i64) = cut(i64, start.i64, end.i64)?;
        let (bool, later_bool) = cut(bool, start.bool, end.bool)?;
        let (u8, later_u8) = cut(u8, start.u8, end.u8)?;
        let later = Self { start: end, f32: later_f32, i64: later_i64, bool: later_bool, u8: later_u8 };
        Ok((Self { start, f32, i64, bool, u8 }, later))
    }

    /// Stores little-endian elements from element `start` on. `bytes` holds whole elements; `at` names their source.
    pub(crate) fn store_bytes(&mut self, dtype: DType, start: u64, bytes: &[u8], at: Place) -> Result<(), EngineError> {
        match dtype {
            DType::F32 => {
                let (elements, _) = bytes.as_chunks();
                let out = part_mut(self.f32, start.wrapping_sub(self.start.f32), elements.len())?;
                out.iter_mut().zip(elements).for_each(|(to, from)| *to = f32::from_le_bytes(*from));
            }
            DType::I64 => {
                let (elements, _) = bytes.as_chunks();
                let out = part_mut(self.i64, start.wrapping_sub(self.start.i64), elements.len())?;
                out.iter_mut().zip(elements).for_each(|(to, from)| *to = i64::from_le_bytes(*from));
            }
            DType::Bool => {
                check_masks(bytes, at)?;
                part_mut(self.bool, start.wrapping_sub(self.start.bool), bytes.len())?.copy_from_slice(bytes);
            }
            DType::U8 => {
                part_mut(self.u8, start.wrapping_sub(self.start.u8), bytes.len())?.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Stores half-precision numbers, two bytes each, as `f32` from element `start` on.
    pub(crate) fn store_f16(&mut self, compute: Compute, start: u64, halves: &[u8]) -> Result<(), EngineError> {
        let out = part_mut(self.f32, start.wrapping_sub(self.start.f32), halves.len() / 2)?;
        half::widen(compute, halves, out);
        Ok(())
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.f32.all.zeroize();
        self.i64.zeroize();
        self.bool.zeroize();
        self.u8.all.zeroize();
        self.scratch.all.zeroize();
    }
}

/// Kernels may rely on a `bool` being 0 or 1.
fn check_masks(bytes: &[u8], at: Place) -> Result<(), EngineError> {
    if bytes.iter().all(|&byte| byte <= 1) {
        Ok(())
    } else {
        Err(EngineError::Data { at, rule: "a bool is neither 0 nor 1" })
    }
}

/// The region an instruction writes.
pub(crate) enum Out<'a> {
    F32(&'a mut [f32]),
    I64(&'a mut [i64]),
    Bool(&'a mut [u8]),
    U8(&'a mut [u8]),
}

/// What an instruction may read.
pub(crate) struct Rest<'a> {
    pub(crate) f32: Around<'a, f32>,
    pub(crate) i64: Around<'a, i64>,
    pub(crate) bool: Around<'a, u8>,
    pub(crate) u8: Around<'a, u8>,
}

/// A vector without the region that is being written.
pub(crate) struct Around<'a, T> {
    before: &'a [T],
    after: &'a [T],
    /// Index of the first element of `after`.
    after_start: u64,
}

impl<'a, T> Around<'a, T> {
    fn whole(all: &'a [T]) -> Self {
        Self { before: all, after: &[], after_start: all.len() as u64 }
    }

    /// A region on one side of what is being written.
    pub(crate) fn get(&self, region: Region) -> Result<&'a [T], EngineError> {
        let start = u64::from(region.start);
        match start.checked_sub(self.after_start) {
            Some(start) => part(self.after, start, region.len),
            None => part(self.before, start, region.len),
        }
    }
}

const OUTSIDE: EngineError = EngineError::Bug("a validated range lies outside its memory");

fn range(all: usize, start: u64, len: usize) -> Option<(usize, usize)> {
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(len)?;
    (end <= all).then_some((start, end))
}

fn part<T>(all: &[T], start: u64, len: u32) -> Result<&[T], EngineError> {
    let (start, end) = range(all.len(), start, len as usize).ok_or(OUTSIDE)?;
    all.get(start..end).ok_or(OUTSIDE)
}

fn part_mut<T>(all: &mut [T], start: u64, len: usize) -> Result<&mut [T], EngineError> {
    let (start, end) = range(all.len(), start, len).ok_or(OUTSIDE)?;
    all.get_mut(start..end).ok_or(OUTSIDE)
}

fn split<T>(all: &mut [T], out: Region) -> Result<(&mut [T], Around<'_, T>), EngineError> {
    let (start, end) = range(all.len(), out.start.into(), out.len as usize).ok_or(OUTSIDE)?;
    let (before, rest) = all.split_at_mut_checked(start).ok_or(OUTSIDE)?;
    let (out, after) = rest.split_at_mut_checked(end - start).ok_or(OUTSIDE)?;
    Ok((out, Around { before, after, after_start: end as u64 }))
}

/// Elements that begin a cache line: vector loads and stores of blocks then never straddle two.
struct Lines<T> {
    all: Vec<T>,
    /// First element used.
    start: usize,
    len: usize,
}

impl<T: Default + Clone> Lines<T> {
    /// Elements needed at most to reach the next cache line.
    const SLACK: usize = CACHE_LINE / size_of::<T>() - 1;

    fn zeroed(len: u64) -> Option<Self> {
        let all: Vec<T> = zeroed(len.checked_add(Self::SLACK as u64)?)?;
        let len = usize::try_from(len).ok()?;
        // A start that this memory has no room for, which `align_offset` may give in theory, costs speed only.
        let start = Some(all.as_ptr().align_offset(CACHE_LINE)).filter(|&start| start <= Self::SLACK).unwrap_or(0);
        Some(Self { all, start, len })
    }

    /// Bytes held beside the slack.
    fn bytes(&self) -> usize {
        (self.all.capacity() - Self::SLACK) * size_of::<T>()
    }
}

/// Bytes of a cache line, or more.
const CACHE_LINE: usize = 64;

/// Bytes a [`Buffers`] takes beside its elements.
pub(crate) const SLACK_BYTES: u64 = (2 * Lines::<f32>::SLACK * 4 + Lines::<u8>::SLACK) as u64;

impl<T> core::ops::Deref for Lines<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.all.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl<T> core::ops::DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.all.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

fn zeroed<T: Default + Clone>(len: u64) -> Option<Vec<T>> {
    let len = usize::try_from(len).ok()?;
    let mut all = Vec::new();
    all.try_reserve_exact(len).ok()?;
    all.resize(len, T::default());
    Some(all)
}
