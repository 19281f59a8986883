//! A chain of convolutions, pools and element-by-element functions computed in bands of rows, so that what lies between
//! its ends never exists whole.
//!
//! In each band every instruction of the chain makes as many further rows of its result as the later ones need for
//! theirs. Rows that a window will read again in the next band are kept and copied to where that band's rows follow, so
//! nothing is computed twice. Values from outside are cut into bands by a copy; values that are read after the chain are
//! put together by one. Every row is made by the same instruction from the same rows as before, so no bit changes.

use super::rows::{self, Image, Reach, Read};
use crate::context::i;
use crate::draft::{self, Draft};
use cordon_engine::program::{DType, Instruction, Operand, Region, StridedCopy};
use core::ops::Range;
use std::collections::BTreeMap;

/// A stretch of instructions that can run in bands.
pub(super) struct Chain<'d> {
    draft: &'d Draft,
    links: Vec<Link<'d>>,
    values: BTreeMap<u32, Value>,
}

struct Link<'d> {
    instruction: &'d Instruction,
    reads: Vec<Read>,
    out: u32,
}

struct Value {
    image: Image,
    /// Computed before the chain.
    outside: bool,
    /// Read after the chain.
    stored: bool,
    /// Readers within the chain: link and reach.
    readers: Vec<(usize, Reach)>,
}

/// Rows of a value that are at hand.
#[derive(Clone)]
struct Held {
    slot: u32,
    rows: Range<u32>,
}

impl<'d> Chain<'d> {
    /// The chain of the instructions `range`, if they form one. `images` are the draft's; `first` and `last` the times of
    /// the first and last instruction that touches a slot (`usize::MAX`: an output).
    pub(super) fn new(
        draft: &'d Draft,
        images: &[Option<Image>],
        range: Range<usize>,
        touched: &[(usize, usize)],
    ) -> Option<Self> {
        let links: Vec<Link<'d>> = draft.instructions[range.clone()]
            .iter()
            .map(|instruction| Link { instruction, reads: rows::reads(instruction), out: instruction.out().start })
            .collect();
        let mut values: BTreeMap<u32, Value> = BTreeMap::new();
        for (index, link) in links.iter().enumerate() {
            for read in &link.reads {
                let value = values.entry(read.slot).or_insert_with(|| Value {
                    image: Image { planes: 0, rows: 0, width: 0 },
                    outside: true,
                    stored: false,
                    readers: Vec::new(),
                });
                value.image = images[read.slot as usize]?;
                value.readers.push((index, read.reach));
            }
            let image = images[link.out as usize]?;
            let whole = draft.slots[link.out as usize].within.is_some();
            let stored = whole || touched[link.out as usize].1 >= range.end;
            if values.insert(link.out, Value { image, outside: false, stored, readers: Vec::new() }).is_some() {
                // Read before it is written, or written twice.
                return None;
            }
        }
        let chain = Self { draft, links, values };
        chain.is_apart(touched, &range).then_some(chain)
    }

    /// What the chain writes overlaps nothing else it touches, and nothing that is read whole is made in it.
    fn is_apart(&self, touched: &[(usize, usize)], range: &Range<usize>) -> bool {
        let place = |slot: u32| {
            let (root, start) = self.draft.root(slot);
            (root, start..start + self.draft.slots[slot as usize].len)
        };
        let written: Vec<(u32, u32, Range<u32>)> = self
            .links
            .iter()
            .map(|link| {
                let (root, range) = place(link.out);
                (link.out, root, range)
            })
            .collect();
        let clash = |slot: u32| {
            let (root, range) = place(slot);
            written.iter().any(|(other, at, part)| {
                *other != slot && *at == root && part.start < range.end && range.start < part.end
            })
        };
        self.links.iter().all(|link| {
            let images: Vec<u32> = link.reads.iter().map(|read| read.slot).collect();
            let whole_reads = draft::slots_read(link.instruction).into_iter().filter(|slot| !images.contains(slot));
            let mut whole_reads = whole_reads.peekable();
            let whole_is_made = whole_reads.any(|slot| clash(slot) || written.iter().any(|it| it.0 == slot));
            // A value that other instructions fill in parts, or that was begun before, is not this chain's alone.
            let begun = touched[link.out as usize].0 < range.start;
            !whole_is_made && !begun && !clash(link.out) && images.iter().all(|&slot| !clash(slot))
        })
    }

    /// Most bands worth trying: rows of the value with the fewest, among those put together at the end.
    pub(super) fn most_bands(&self) -> u32 {
        self.values.values().filter(|value| value.stored).map(|value| value.image.rows).min().unwrap_or(0)
    }

    /// Slots touched whole: from outside, or stored.
    pub(super) fn whole(&self) -> impl Iterator<Item = u32> + '_ {
        self.values.iter().filter(|(_, value)| value.outside || value.stored).map(|(&slot, _)| slot)
    }

    /// The instructions of `bands` bands; their slots are added to `draft`, a copy of the chain's own.
    pub(super) fn cut(&self, draft: &mut Draft, bands: u32) -> Vec<Instruction> {
        let progress: Vec<BTreeMap<u32, u32>> = (0..bands).map(|band| self.progress(band, bands)).collect();
        let mut cutter = Cutter { chain: self, draft, progress, held: BTreeMap::new(), out: Vec::new() };
        (0..bands as usize).for_each(|band| cutter.band(band));
        cutter.out
    }

    /// Rows of every value that exist after band `band`.
    fn progress(&self, band: u32, bands: u32) -> BTreeMap<u32, u32> {
        let mut done: BTreeMap<u32, u32> = self
            .values
            .iter()
            .map(|(&slot, value)| {
                let share = u64::from(value.image.rows) * u64::from(band + 1) / u64::from(bands);
                (slot, if value.stored { share as u32 } else { 0 })
            })
            .collect();
        for link in self.links.iter().rev() {
            let made = 0..done[&link.out];
            for read in &link.reads {
                let needed =
                    if made.end == 0 { 0 } else { read.reach.needed(&made, self.values[&read.slot].image.rows).end };
                let rows = done.entry(read.slot).or_default();
                *rows = (*rows).max(needed);
            }
        }
        done
    }
}

struct Cutter<'c, 'd> {
    chain: &'c Chain<'d>,
    draft: &'c mut Draft,
    progress: Vec<BTreeMap<u32, u32>>,
    held: BTreeMap<u32, Held>,
    out: Vec<Instruction>,
}

impl Cutter<'_, '_> {
    fn done(&self, slot: u32, bands: usize) -> u32 {
        bands.checked_sub(1).map_or(0, |band| self.progress[band][&slot])
    }

    /// First row of a value that some reader still needs when `bands` bands are done; its end when none does.
    fn first_needed(&self, slot: u32, bands: usize) -> u32 {
        let value = &self.chain.values[&slot];
        let last = self.progress.len();
        let open = value.readers.iter().filter_map(|(link, reach)| {
            let out = self.chain.links[*link].out;
            let made = self.done(out, bands);
            (made < self.done(out, last)).then(|| reach.first(made, value.image.rows))
        });
        open.min().unwrap_or(value.image.rows)
    }

    fn band(&mut self, band: usize) {
        for (index, link) in self.chain.links.iter().enumerate() {
            let made = self.done(link.out, band)..self.done(link.out, band + 1);
            if !made.is_empty() {
                self.make(link, band, &made);
            }
            for read in &link.reads {
                let last_reader = self.chain.values[&read.slot].readers.last().map(|reader| reader.0);
                if last_reader == Some(index) {
                    self.trim(read.slot, band);
                }
            }
        }
    }

    /// Runs one link over the rows it makes in this band.
    fn make(&mut self, link: &Link<'_>, band: usize, made: &Range<u32>) {
        let operands: Vec<(Region, Range<u32>)> = link.reads.iter().map(|read| self.view(read, band, made)).collect();
        let image = self.chain.values[&link.out].image;
        let fresh = self.slot(&image, made);
        self.out.push(rows::over(link.instruction, &image, made, &operands, self.region(fresh)));
        if self.chain.values[&link.out].stored {
            self.copy(&image, (fresh, made), (link.out, &(0..image.rows)), made);
        }
        if self.chain.values[&link.out].readers.is_empty() {
            return;
        }
        let first = self.first_needed(link.out, band).min(made.start);
        let held = match self.held.remove(&link.out) {
            Some(old) if first < made.start => {
                let rows = first..made.end;
                let joined = self.slot(&image, &rows);
                self.copy(&image, (old.slot, &old.rows), (joined, &rows), &(first..made.start));
                self.copy(&image, (fresh, made), (joined, &rows), made);
                Held { slot: joined, rows }
            }
            _ => Held { slot: fresh, rows: made.clone() },
        };
        self.held.insert(link.out, held);
    }

    /// The rows of an operand that rows `made` of the result need. A window may find more rows after them.
    fn view(&mut self, read: &Read, band: usize, made: &Range<u32>) -> (Region, Range<u32>) {
        let chain = self.chain;
        let value = &chain.values[&read.slot];
        let needed = read.reach.needed(made, value.image.rows);
        if value.outside && !self.held.contains_key(&read.slot) {
            let rows = self.first_needed(read.slot, band)..self.done(read.slot, band + 1);
            let slot = self.slot(&value.image, &rows);
            self.copy(&value.image, (read.slot, &(0..value.image.rows)), (slot, &rows), &rows);
            self.held.insert(read.slot, Held { slot, rows });
        }
        let held = self.held[&read.slot].clone();
        let fits = match read.reach {
            Reach::Same => held.rows == needed,
            Reach::Window(_) => held.rows.start == needed.start && held.rows.end >= needed.end,
        };
        if fits {
            return (self.region(held.slot), held.rows);
        }
        let slot = self.slot(&value.image, &needed);
        self.copy(&value.image, (held.slot, &held.rows), (slot, &needed), &needed);
        (self.region(slot), needed)
    }

    /// After the last reader of a band: keeps only rows that the next bands need.
    fn trim(&mut self, slot: u32, band: usize) {
        let chain = self.chain;
        let value = &chain.values[&slot];
        let Some(held) = self.held.get(&slot).cloned() else { return };
        let first = self.first_needed(slot, band + 1).max(held.rows.start);
        if value.outside || first >= held.rows.end {
            self.held.remove(&slot);
        } else if first > held.rows.start {
            let rows = first..held.rows.end;
            let kept = self.slot(&value.image, &rows);
            self.copy(&value.image, (held.slot, &held.rows), (kept, &rows), &rows);
            self.held.insert(slot, Held { slot: kept, rows });
        }
    }

    fn slot(&mut self, image: &Image, rows: &Range<u32>) -> u32 {
        self.draft.slot(DType::F32, image.len(rows.end - rows.start))
    }

    fn region(&self, slot: u32) -> Region {
        Region { dtype: DType::F32, start: slot, len: self.draft.slots[slot as usize].len }
    }

    /// Copies `rows` between two slots, each given with the rows it holds.
    fn copy(&mut self, image: &Image, from: (u32, &Range<u32>), to: (u32, &Range<u32>), rows: &Range<u32>) {
        let plane = |held: &Range<u32>| (held.end - held.start) * image.width;
        let at = |held: &Range<u32>| (rows.start - held.start) * image.width;
        let geometry = StridedCopy {
            dims: vec![image.planes, (rows.end - rows.start) * image.width],
            from: at(from.1),
            from_strides: vec![i(plane(from.1) as usize), 1],
            to: at(to.1),
            to_strides: vec![plane(to.1), 1],
        };
        let input = Operand::Arena(self.region(from.0));
        self.out.push(Instruction::Copy { geometry, input, out: self.region(to.0) });
    }
}
