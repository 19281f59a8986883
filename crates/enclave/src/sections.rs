//! Sections on their way in: leaf hashes first, then chunks, in pieces of one frame.

use alloc::vec::Vec;

use cordon_engine::{Parallel, Task};
use cordon_package::limits::{CHUNK_BYTES, HASH_BYTES};
use cordon_package::{LeafTableBuilder, Opened, SealedSection, Section, SectionKind, Verified};
use cordon_protocol::{Code, PAYLOAD_LIMIT, Part, Refusal};
use zeroize::{Zeroize, Zeroizing};

use crate::platform::Platform;
use crate::refuse;

/// What the normal world was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Bytes of header ‖ grant.
    Header { offset: u32, len: u32 },
    /// Leaves or chunks of a section.
    Section { section: u32, part: Part, first: u32, count: u32 },
}

/// The chunks from `first` on that fit one frame, at most `most`.
pub(crate) fn batch(section: &Section, first: u32, most: u32, limit: usize) -> u32 {
    let mut left = limit;
    let fits = |index: &u32| match section.chunk(*index).and_then(|(_, len)| left.checked_sub(len)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    (first..first.saturating_add(most)).take_while(fits).count() as u32
}

/// Cuts the payload into the chunks that were asked for and hands each to `each`; no byte may be left over.
fn for_each_chunk<'a>(
    section: &Section,
    first: u32,
    count: u32,
    mut payload: &'a mut [u8],
    mut each: impl FnMut(u32, &'a mut [u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let wrong = Refusal::new(Code::WrongSupply);
    for index in first..first.saturating_add(count) {
        let (_, len) = section.chunk(index).ok_or(wrong)?;
        let (chunk, rest) = core::mem::take(&mut payload).split_at_mut_checked(len).ok_or(wrong.about(index))?;
        each(index, chunk)?;
        payload = rest;
    }
    if payload.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Most chunks of a frame: all of a section are full but its last.
const MAX_CHUNKS: usize = PAYLOAD_LIMIT / CHUNK_BYTES + 1;

/// Does `work` with every chunk that was asked for, where it lies, on all threads side by side; then hands each with what came
/// of it to `each`, in their order and until one fails. No byte of the payload may be left over.
pub(crate) fn side_by_side<T: Send>(
    section: &Section,
    (first, count): (u32, u32),
    payload: &mut [u8],
    workers: &dyn Parallel,
    work: impl Fn(u32, &mut [u8]) -> T + Sync,
    mut each: impl FnMut(u32, &mut [u8], T) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut jobs: [_; MAX_CHUNKS] = [const { None }; MAX_CHUNKS];
    let mut free = jobs.iter_mut();
    for_each_chunk(section, first, count, payload, |index, chunk| {
        *free.next().ok_or(Refusal::new(Code::WrongSupply).about(index))? = Some((index, chunk, None));
        Ok(())
    })?;
    let used = MAX_CHUNKS - free.len();
    let work = &work;
    let mut each_job = jobs.each_mut().map(|job| {
        move || {
            if let Some((index, chunk, done)) = job {
                *done = Some(work(*index, chunk));
            }
        }
    });
    let mut tasks = each_job.each_mut().map(|work| work as Task<'_>);
    workers.run(tasks.get_mut(..used).unwrap_or_default());
    for (index, chunk, done) in jobs.into_iter().flatten() {
        each(index, chunk, done.ok_or(Refusal::new(Code::Internal))?)?;
    }
    Ok(())
}

/// Decrypts the chunks that were asked for and hands them to `each`, none past the first bad one.
pub(crate) fn open_chunks(
    reader: &SealedSection,
    chunks: (u32, u32),
    payload: &mut [u8],
    workers: &dyn Parallel,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let open = |index, stored: &mut [u8]| reader.decrypt_chunk(index, stored).map(|plain| plain.len());
    side_by_side(reader.section(), chunks, payload, workers, open, |index, stored, opened| {
        each(index, stored.get(..opened.map_err(refuse::package)?).unwrap_or_default())
    })
}

/// Index of a section in the header's table.
pub(crate) fn index_of(verified: &Verified, kind: SectionKind, segment: u16) -> Option<u32> {
    let found = verified.header().sections.iter().position(|s| s.kind() == kind && s.segment() == segment)?;
    u32::try_from(found).ok()
}

/// The leaf hashes of a sealed section, coming in.
pub(crate) struct Leaves {
    section: u32,
    have: u32,
    of: u32,
    builder: LeafTableBuilder,
}

impl Leaves {
    pub(crate) fn new(
        verified: &Verified,
        kind: SectionKind,
        segment: u16,
        platform: &impl Platform,
    ) -> Result<Self, Refusal> {
        let internal = Refusal::new(Code::Internal);
        let section = index_of(verified, kind, segment).ok_or(internal)?;
        let of = verified.header().section(kind, segment).ok_or(internal)?.chunks();
        let needed = u64::from(of) * HASH_BYTES as u64;
        refuse::headroom(needed as usize, platform)?;
        let mut builder = verified.leaf_table(kind, segment).map_err(refuse::package)?;
        if !builder.reserve() {
            return Err(Refusal::new(Code::OutOfMemory).amounts(needed, platform.memory().available()));
        }
        Ok(Self { section, have: 0, of, builder })
    }

    pub(crate) fn need(&self, limit: usize) -> Option<Need> {
        let count = u32::try_from(limit / HASH_BYTES).unwrap_or(u32::MAX).min(self.of - self.have);
        (count > 0).then_some(Need::Section { section: self.section, part: Part::Leaves, first: self.have, count })
    }

    pub(crate) fn take(&mut self, count: u32, payload: &[u8]) -> Result<(), Refusal> {
        if payload.len() as u64 != u64::from(count) * HASH_BYTES as u64 {
            return Err(Refusal::new(Code::WrongSupply));
        }
        self.builder.push(payload).map_err(refuse::package)?;
        self.have = self.have.saturating_add(count).min(self.of);
        Ok(())
    }

    pub(crate) fn finish(self, opened: &Opened) -> Result<(u32, SealedSection), Refusal> {
        let leaves = self.builder.finish().map_err(refuse::package)?;
        Ok((self.section, opened.section(leaves).map_err(refuse::package)?))
    }
}

/// The content of a small section, coming in as chunks. What came in one frame is read where it lies; only content of
/// several frames is put together, in a buffer of its own.
pub(crate) struct Content {
    section: u32,
    have: u32,
    plain: Zeroizing<Vec<u8>>,
}

impl Content {
    pub(crate) fn new(section: u32) -> Self {
        Self { section, have: 0, plain: Zeroizing::new(Vec::new()) }
    }

    pub(crate) fn need(&self, of: &Section, limit: usize) -> Option<Need> {
        let count = batch(of, self.have, of.chunks() - self.have.min(of.chunks()), limit);
        (count > 0).then_some(Need::Section { section: self.section, part: Part::Chunks, first: self.have, count })
    }

    /// Opens `count` chunks in the frame they came in. `open` turns a stored chunk into plaintext at its front and says
    /// how much. The whole content once its last chunk is there; it is the caller's to wipe.
    pub(crate) fn take<'a>(
        &'a mut self,
        of: &Section,
        count: u32,
        payload: &'a mut [u8],
        platform: &impl Platform,
        open: impl Fn(u32, &mut [u8]) -> Result<usize, Refusal>,
    ) -> Result<Option<&'a mut [u8]>, Refusal> {
        let wrong = Refusal::new(Code::WrongSupply);
        let (mut from, mut to) = (0, 0);
        for index in self.have..self.have.saturating_add(count) {
            let (_, stored) = of.chunk(index).ok_or(wrong)?;
            let end = from + stored;
            let chunk = payload.get_mut(from..end).ok_or(wrong.about(index))?;
            let plain = open(index, chunk)?.min(stored);
            payload.copy_within(from..from + plain, to);
            (from, to) = (end, to + plain);
        }
        if from != payload.len() {
            return Err(wrong);
        }
        let (plain, rest) = payload.split_at_mut(to);
        rest.zeroize();
        self.have = self.have.saturating_add(count);
        let last = self.have == of.chunks();
        if last && self.plain.is_empty() {
            return Ok(Some(plain));
        }
        if self.plain.capacity() == 0 {
            let len = usize::try_from(of.plain_len()).map_err(|_| Refusal::new(Code::PackageUnsupported))?;
            *self.plain = refuse::reserve(len, platform)?;
        }
        self.plain.extend_from_slice(plain);
        plain.zeroize();
        Ok(last.then_some(self.plain.as_mut_slice()))
    }
}
