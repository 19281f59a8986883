//! A chain of convolutions, pools and element-by-element functions computed in bands of rows, so that what lies between
//! its ends never exists whole.
//!
//! In each band the first instruction of the chain makes some more rows of its result, and every later one as many as it
//! can of what is there then. Rows that a window will read again in the next band are kept and copied to where that band's rows follow;
//! only what is made of values from outside with few products is made again instead. So work does not grow with the length
//! of the chain. Values from outside are cut into bands by a copy; values that are read after the chain are
//! put together by one. Every row is made by the same instruction from the same rows as before, so no bit changes.

use super::rows::{self, Image, Reach, Read};
use crate::context::to_i32;
use crate::draft::{self, Draft};
use cordon_engine::program::{Instruction, Operand, Region, StridedCopy};
use core::ops::Range;
use std::collections::BTreeMap;

/// Products for each element up to which a row is made again rather than kept, which takes a copy of all rows and some
/// tens of products' time for each of their elements.
const TAPS: u32 = 600;

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
    /// Rows that two bands need are made in both.
    again: bool,
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
                    again: false,
                    readers: Vec::new(),
                });
                value.image = images[read.slot as usize]?;
                value.readers.push((index, read.reach));
            }
            let image = images[link.out as usize]?;
            let whole = draft.slots[link.out as usize].within.is_some();
            let stored = whole || touched[link.out as usize].1 >= range.end;
            let inner = link.reads.iter().any(|read| values.get(&read.slot).is_some_and(|value| !value.outside));
            let again = !inner && taps(link.instruction) <= TAPS;
            if values.insert(link.out, Value { image, outside: false, stored, again, readers: Vec::new() }).is_some() {
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
            let whole_reads = draft::slots_read(link.instruction).filter(|slot| !images.contains(slot));
            let mut whole_reads = whole_reads.peekable();
            let whole_is_made = whole_reads.any(|slot| clash(slot) || written.iter().any(|it| it.0 == slot));
            // A value that other instructions fill in parts, or that was begun before, is not this chain's alone.
            let begun = touched[link.out as usize].0 < range.start;
            !whole_is_made && !begun && !clash(link.out) && images.iter().all(|&slot| !clash(slot))
        })
    }

    /// Rows that the bands share out: those of the first value made.
    pub(super) fn rows(&self) -> u32 {
        let begins = self.links.iter().filter(|link| self.inner(link).next().is_none());
        begins.map(|link| self.values[&link.out].image.rows).max().unwrap_or(0)
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

    /// Rows of every value that exist after band `band`. Links that read nothing of the chain make an equal share in each
    /// band; all others make every row they can, so that no row waits for longer than it must.
    fn progress(&self, band: u32, bands: u32) -> BTreeMap<u32, u32> {
        let mut done: BTreeMap<u32, u32> = self.values.keys().map(|&slot| (slot, 0)).collect();
        for link in &self.links {
            let all = self.values[&link.out].image.rows;
            let made = self
                .inner(link)
                .map(|read| read.reach.makeable(done[&read.slot], self.values[&read.slot].image.rows, all));
            let share = u64::from(all) * u64::from(band + 1) / u64::from(bands);
            done.insert(link.out, made.min().unwrap_or(share as u32));
        }
        for link in &self.links {
            let made = 0..done[&link.out];
            for read in link.reads.iter().filter(|_| made.end > 0) {
                let value = &self.values[&read.slot];
                if value.outside {
                    let needed = read.reach.needed(&made, value.image.rows).end;
                    done.entry(read.slot).and_modify(|rows| *rows = (*rows).max(needed));
                }
            }
        }
        done
    }

    /// Whether a link makes rows that two bands need in both. It reads nothing of the chain, so nothing before it is made
    /// again for it.
    fn makes_again(&self, link: &Link<'_>) -> bool {
        self.values[&link.out].again
    }

    /// What a link reads of values made in the chain.
    fn inner<'c>(&'c self, link: &'c Link<'_>) -> impl Iterator<Item = &'c Read> {
        link.reads.iter().filter(|read| !self.values[&read.slot].outside)
    }
}

/// The smallest range that holds both.
fn hull(a: Range<u32>, b: Range<u32>) -> Range<u32> {
    if a.is_empty() { b } else { a.start.min(b.start)..a.end.max(b.end) }
}

/// Products for each element of the result.
fn taps(instruction: &Instruction) -> u32 {
    match instruction {
        Instruction::Conv2d { geometry: g, .. } => g.ic / g.groups * g.y.kernel * g.x.kernel,
        Instruction::QConv2d { geometry: g, .. } => g.ic / g.groups * g.y.kernel * g.x.kernel,
        _ => 1,
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

    /// Rows that a link makes in a band for the first time.
    fn fresh(&self, link: &Link<'_>, band: usize) -> Range<u32> {
        self.done(link.out, band)..self.done(link.out, band + 1)
    }

    /// Rows that a link makes in a band: those and, if it makes rows again, what its readers need.
    fn made(&self, link: &Link<'_>, band: usize) -> Range<u32> {
        let fresh = self.fresh(link, band);
        if !self.chain.makes_again(link) {
            return fresh;
        }
        self.rows_needed(link.out, band).fold(fresh, hull)
    }

    /// Rows of a value that its readers need in a band.
    fn rows_needed(&self, slot: u32, band: usize) -> impl Iterator<Item = Range<u32>> {
        let value = &self.chain.values[&slot];
        value.readers.iter().filter_map(move |(link, reach)| {
            let made = self.made(&self.chain.links[*link], band);
            (!made.is_empty()).then(|| reach.needed(&made, value.image.rows))
        })
    }

    fn band(&mut self, band: usize) {
        for (index, link) in self.chain.links.iter().enumerate() {
            let made = self.made(link, band);
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
        let slot = self.slot(link.out, made);
        self.out.push(rows::over(link.instruction, &image, made, &operands, self.region(slot)));
        let fresh = self.fresh(link, band);
        if self.chain.values[&link.out].stored && !fresh.is_empty() {
            self.copy(&image, (slot, made), (link.out, &(0..image.rows)), &fresh);
        }
        if self.chain.values[&link.out].readers.is_empty() {
            return;
        }
        let first = self.first_needed(link.out, band).min(made.start);
        let held = match self.held.remove(&link.out) {
            Some(old) if first < made.start => {
                let rows = first..made.end;
                let joined = self.slot(link.out, &rows);
                self.copy(&image, (old.slot, &old.rows), (joined, &rows), &(first..made.start));
                self.copy(&image, (slot, made), (joined, &rows), made);
                Held { slot: joined, rows }
            }
            _ => Held { slot, rows: made.clone() },
        };
        self.held.insert(link.out, held);
    }

    /// The rows of an operand that rows `made` of the result need. A window may find more rows after them.
    fn view(&mut self, read: &Read, band: usize, made: &Range<u32>) -> (Region, Range<u32>) {
        let chain = self.chain;
        let value = &chain.values[&read.slot];
        let needed = read.reach.needed(made, value.image.rows);
        if value.outside && !self.held.contains_key(&read.slot) {
            let rows = self.rows_needed(read.slot, band).fold(needed.clone(), hull);
            let slot = self.slot(read.slot, &rows);
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
        let slot = self.slot(read.slot, &needed);
        self.copy(&value.image, (held.slot, &held.rows), (slot, &needed), &needed);
        (self.region(slot), needed)
    }

    /// After the last reader of a band: keeps only rows that the next bands need.
    fn trim(&mut self, slot: u32, band: usize) {
        let chain = self.chain;
        let value = &chain.values[&slot];
        let Some(held) = self.held.get(&slot).cloned() else { return };
        let first = self.first_needed(slot, band + 1).max(held.rows.start);
        if value.outside || value.again || first >= held.rows.end {
            self.held.remove(&slot);
        } else if first > held.rows.start {
            let rows = first..held.rows.end;
            let kept = self.slot(slot, &rows);
            self.copy(&value.image, (held.slot, &held.rows), (kept, &rows), &rows);
            self.held.insert(slot, Held { slot: kept, rows });
        }
    }

    /// Room for some rows of a value.
    fn slot(&mut self, value: u32, rows: &Range<u32>) -> u32 {
        let (dtype, image) = (self.chain.draft.slots[value as usize].dtype, self.chain.values[&value].image);
        self.draft.slot(dtype, image.len(rows.end - rows.start))
    }

    fn region(&self, slot: u32) -> Region {
        let slot_of = self.draft.slots[slot as usize];
        Region { dtype: slot_of.dtype, start: slot, len: slot_of.len }
    }

    /// Copies `rows` between two slots, each given with the rows it holds.
    fn copy(&mut self, image: &Image, from: (u32, &Range<u32>), to: (u32, &Range<u32>), rows: &Range<u32>) {
        let plane = |held: &Range<u32>| (held.end - held.start) * image.width;
        let at = |held: &Range<u32>| (rows.start - held.start) * image.width;
        let geometry = StridedCopy {
            dims: vec![image.planes, (rows.end - rows.start) * image.width],
            from: at(from.1),
            from_strides: vec![to_i32(plane(from.1) as usize), 1],
            to: at(to.1),
            to_strides: vec![plane(to.1), 1],
        };
        let input = Operand::Arena(self.region(from.0));
        self.out.push(Instruction::Copy { geometry, input, out: self.region(to.0) });
    }
}
