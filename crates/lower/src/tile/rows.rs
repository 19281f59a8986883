//! Instructions seen as functions of image rows: which rows of an operand some rows of the result need, and the same
//! instruction over those rows alone.

use crate::arena::contiguous;
use crate::context::BLOCK;
use crate::draft::Draft;
use cordon_engine::program::{Axis, DType, Instruction, Layout, MemoryMut, Operand, Region, Strided2};
use core::ops::Range;

/// How a value lies in memory: `(planes, rows, width)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) planes: u32,
    pub(super) rows: u32,
    pub(super) width: u32,
}

impl Image {
    /// Elements of `rows` rows of every plane.
    pub(super) fn len(&self, rows: u32) -> u32 {
        self.planes * rows * self.width
    }
}

/// How rows of the result follow from rows of an operand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach {
    /// The same rows.
    Same,
    /// A window slides over them.
    Window(Axis),
}

impl Reach {
    /// Rows of an operand of `rows` rows needed for rows `made` of the result.
    pub(super) fn needed(&self, made: &Range<u32>, rows: u32) -> Range<u32> {
        match self {
            Self::Same => made.clone(),
            Self::Window(axis) => {
                let reach = (axis.kernel - 1) * axis.dilation + 1;
                let last = (made.end.max(1) - 1) * axis.stride + reach;
                self.first(made.start, rows)..last.saturating_sub(axis.pad_begin).min(rows)
            }
        }
    }

    /// Rows of the result, of `all`, that can be made of the first `there` rows of an operand of `rows` rows.
    pub(super) fn makeable(&self, there: u32, rows: u32, all: u32) -> u32 {
        match self {
            _ if there >= rows => all,
            Self::Same => there,
            Self::Window(axis) => {
                let reach = (axis.kernel - 1) * axis.dilation + 1;
                (there + axis.pad_begin).checked_sub(reach).map_or(0, |last| last / axis.stride + 1).min(all)
            }
        }
    }

    /// First row needed for row `made` and all later ones.
    pub(super) fn first(&self, made: u32, rows: u32) -> u32 {
        match self {
            Self::Same => made,
            Self::Window(axis) => (made * axis.stride).saturating_sub(axis.pad_begin).min(rows),
        }
    }
}

/// An operand that is an image. Everything else an instruction reads is read whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) slot: u32,
    pub(super) reach: Reach,
}

/// The images an instruction reads, at most two.
pub(super) fn reads(instruction: &Instruction) -> Vec<Read> {
    let same = |region: Region| Read { slot: region.start, reach: Reach::Same };
    let window = |region: Region, axis| Read { slot: region.start, reach: Reach::Window(axis) };
    match instruction {
        Instruction::Conv2d { geometry, input, residual, .. } => {
            let input = input.region().map(|it| window(it, geometry.y));
            input.into_iter().chain(residual.map(same)).collect()
        }
        Instruction::Pool { geometry, input, .. } | Instruction::QPool { geometry, input, .. } => {
            input.region().map(|it| window(it, geometry.axes[1])).into_iter().collect()
        }
        Instruction::QConv2d { geometry, input, residual, .. } => {
            let input = input.region().map(|it| window(it, geometry.y));
            input.into_iter().chain(residual.map(|it| same(it.from))).collect()
        }
        Instruction::Unary { .. }
        | Instruction::Lookup { .. }
        | Instruction::Quantize { .. }
        | Instruction::Dequantize { .. }
        | Instruction::QSum { .. } => instruction.regions().map(same).collect(),
        Instruction::Binary { shape, a, b, .. } => {
            let flat = contiguous(&shape.dims);
            let images = [(a, &shape.a), (b, &shape.b)].into_iter().filter(|(_, strides)| **strides == flat);
            images.filter_map(|(operand, _)| operand.region()).map(same).collect()
        }
        // What no chain of bands holds.
        _ => Vec::new(),
    }
}

/// What every slot looks like as an image, as far as windows over it and element-by-element functions tell.
pub(super) fn images(draft: &Draft) -> Vec<Option<Image>> {
    let mut images: Vec<Option<Image>> = vec![None; draft.slots.len()];
    let mut known = |slot: u32, image: Image| {
        // A function of single pixels may take all rows for one: the true rows are those of the others.
        let old = &mut images[slot as usize];
        if image.len(image.rows) == draft.slots[slot as usize].len && old.is_none_or(|old| old.rows < image.rows) {
            *old = Some(image);
        }
    };
    for instruction in &draft.instructions {
        if let Some((input, output)) = windowed(instruction) {
            known(instruction.out().start, output);
            reads(instruction).iter().for_each(|read| match read.reach {
                Reach::Same => known(read.slot, output),
                Reach::Window(_) => known(read.slot, input),
            });
        }
    }
    for forward in [true, false, true] {
        let mut order: Vec<&Instruction> = draft.instructions.iter().collect();
        if !forward {
            order.reverse();
        }
        for instruction in order.into_iter().filter(|it| is_pointwise(it)) {
            let slots: Vec<u32> =
                reads(instruction).iter().map(|read| read.slot).chain([instruction.out().start]).collect();
            let Some(image) = slots.iter().find_map(|&slot| images[slot as usize]) else { continue };
            for slot in slots {
                if draft.slots[slot as usize].len == image.len(image.rows) {
                    images[slot as usize].get_or_insert(image);
                }
            }
        }
    }
    images
}

/// Gives a convolution of single pixels whose rows were lost the rows of the image it makes: what multiplies and adds per
/// channel after a concatenation takes all pixels for one row.
pub(super) fn give_rows(draft: &mut Draft) {
    let images = images(draft);
    for instruction in &mut draft.instructions {
        let Instruction::Conv2d { geometry: g, out, .. } = instruction else { continue };
        let Some(image) = images[out.start as usize] else { continue };
        let single = [&g.y, &g.x].iter().all(|axis| axis.kernel == 1 && axis.stride == 1 && axis.input == axis.output);
        if single && g.y.input == 1 && g.x.input.is_multiple_of(image.rows) {
            let extent = |axis: Axis, extent| Axis { input: extent, output: extent, ..axis };
            (g.y, g.x) = (extent(g.y, image.rows), extent(g.x, g.x.input / image.rows));
        }
    }
}

fn is_pointwise(instruction: &Instruction) -> bool {
    use Instruction as I;
    matches!(
        instruction,
        I::Unary { .. }
            | I::Binary { .. }
            | I::QSum { .. }
            | I::Lookup { .. }
            | I::Quantize { .. }
            | I::Dequantize { .. }
    )
}

/// Input and output of an instruction with a window.
fn windowed(instruction: &Instruction) -> Option<(Image, Image)> {
    let block = BLOCK as u32;
    match instruction {
        Instruction::Conv2d { geometry: g, .. } => {
            let (planes, lanes) = match g.input {
                Layout::Plain => (g.ic, 1),
                Layout::Blocked => (g.ic.div_ceil(block), block),
            };
            let input = Image { planes: g.n * planes, rows: g.y.input, width: g.x.input * lanes };
            let output = Image { planes: g.n * g.oc.div_ceil(block), rows: g.y.output, width: g.x.output * block };
            Some((input, output))
        }
        Instruction::QConv2d { geometry: g, .. } => {
            let input = Image { planes: g.n * g.ic.div_ceil(g.lanes), rows: g.y.input, width: g.x.input * g.lanes };
            let output = Image { planes: g.n * g.oc.div_ceil(block), rows: g.y.output, width: g.x.output * block };
            Some((input, output))
        }
        Instruction::Pool { geometry: g, .. } | Instruction::QPool { geometry: g, .. }
            if g.axes[0].input == 1 && g.axes[0].output == 1 =>
        {
            let image = |rows, width| Image { planes: g.planes, rows, width: width * g.lanes };
            Some((image(g.axes[1].input, g.axes[2].input), image(g.axes[1].output, g.axes[2].output)))
        }
        _ => None,
    }
}

/// Whether the instruction can be run over some rows: its result and the images it reads are known as such.
pub(super) fn is_row_wise(instruction: &Instruction, images: &[Option<Image>]) -> bool {
    let reads = reads(instruction);
    let own = windowed(instruction);
    let known = reads.iter().all(|read| match (images[read.slot as usize], &read.reach, own) {
        (None, ..) => false,
        (Some(image), Reach::Window(_), Some((input, _))) => image == input,
        (Some(image), Reach::Same, Some((_, output))) => image == output,
        (Some(_), ..) => true,
    });
    let Some(out) = images[instruction.out().start as usize] else { return false };
    let agrees = own.is_none_or(|(_, output)| output == out);
    if reads.is_empty() || !known || !agrees || !matches!(instruction.out().dtype, DType::F32 | DType::U8) {
        return false;
    }
    match instruction {
        Instruction::Conv2d { input: Operand::Weight(_), .. }
        | Instruction::QConv2d { input: Operand::Weight(_), .. } => false,
        Instruction::Conv2d { .. }
        | Instruction::QConv2d { .. }
        | Instruction::Pool { .. }
        | Instruction::QPool { .. } => {
            // Every window touches a row: padding is less than its reach.
            let touches = |axis: &Axis| axis.pad_begin.max(axis.pad_end) <= (axis.kernel - 1) * axis.dilation;
            let windows = reads.iter().all(|read| match &read.reach {
                Reach::Same => true,
                Reach::Window(axis) => touches(axis),
            });
            windows && windowed(instruction).is_some()
        }
        Instruction::Unary { .. }
        | Instruction::Lookup { .. }
        | Instruction::Quantize { .. }
        | Instruction::Dequantize { .. } => true,
        Instruction::QSum { .. } => reads.len() == 2,
        Instruction::Binary { shape, a, b, .. } => {
            let flat = contiguous(&shape.dims);
            let every_row_alike = |strides: &[u32]| row_axis(shape, &out).is_some_and(|axis| strides[axis] == 0);
            let fits = |operand: &Operand, strides: &[u32]| match operand {
                Operand::Arena(region) => region.dtype == DType::F32 && (strides == flat || every_row_alike(strides)),
                Operand::Weight(_) => every_row_alike(strides),
            };
            fits(a, &shape.a) && fits(b, &shape.b)
        }
        _ => false,
    }
}

/// The axis of `shape` that runs over rows (and maybe columns within them).
fn row_axis(shape: &Strided2, image: &Image) -> Option<usize> {
    (0..shape.dims.len()).find(|&axis| {
        let inner: u32 = shape.dims[axis + 1..].iter().product();
        shape.dims[axis] * inner == image.rows * image.width && image.width.is_multiple_of(inner)
    })
}

/// The instruction over rows `made` of its result, which `out` holds exactly. `operands` stand for [`reads`], in order: the
/// region and the rows of the operand it holds.
pub(super) fn over(
    instruction: &Instruction,
    image: &Image,
    made: &Range<u32>,
    operands: &[(Region, Range<u32>)],
    out: Region,
) -> Instruction {
    let count = made.end - made.start;
    let band = |axis: &Axis, held: &Range<u32>| Axis {
        input: held.end - held.start,
        output: count,
        // The first row held is the first one needed, so padding is left where the first window begins in it.
        pad_begin: axis.pad_begin.saturating_sub(made.start * axis.stride),
        pad_end: if held.end == axis.input { axis.pad_end } else { 0 },
        ..*axis
    };
    let mut result = instruction.clone();
    match &mut result {
        Instruction::Conv2d { geometry, .. } => geometry.y = band(&geometry.y, &operands[0].1),
        Instruction::QConv2d { geometry, .. } => geometry.y = band(&geometry.y, &operands[0].1),
        Instruction::Pool { geometry, .. } | Instruction::QPool { geometry, .. } => {
            geometry.axes[1] = band(&geometry.axes[1], &operands[0].1);
        }
        Instruction::Binary { shape, a, b, out: to, .. } => {
            let flat = contiguous(&shape.dims);
            let images = [shape.a == flat, shape.b == flat];
            let mut dims = shape.dims.clone();
            match row_axis(shape, image) {
                Some(axis) => dims[axis] = dims[axis] / image.rows * count,
                None => dims = vec![out.len],
            }
            let flat = contiguous(&dims);
            let mut operands = operands.iter();
            for ((operand, strides), is_image) in [(a, &mut shape.a), (b, &mut shape.b)].into_iter().zip(images) {
                let replaced = match operand {
                    Operand::Arena(_) if is_image => operands.next(),
                    _ => None,
                };
                if let Some((region, _)) = replaced {
                    *operand = Operand::Arena(*region);
                    strides.clone_from(&flat);
                }
            }
            shape.dims = dims;
            *to = out;
            return result;
        }
        _ => {}
    }
    // Every region is an image: those read in the order of `reads`, then the result.
    let mut regions = operands.iter().map(|operand| operand.0).chain([out]);
    result.memory_mut(|memory| {
        if let MemoryMut::Region(region) = memory
            && let Some(band) = regions.next()
        {
            *region = band;
        }
    });
    result
}
