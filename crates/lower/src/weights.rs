//! Weight tensors of a segment: where their bytes come from and how they are packed. Packing happens while the stream is
//! written, so a model of several gigabytes is never held twice.

use crate::constant::Constant;
use crate::context::BLOCK;
use crate::half;
use cordon_engine::program::{DType, Stored};
use cordon_graph::{ElemType, Tensor};
use core::hash::{Hash, Hasher};
use std::hash::DefaultHasher;
use std::sync::Arc;

/// Bytes handed to the sink at a time.
const PIECE: usize = 64 * 1024;

/// How the elements of a [`WeightSource`] are derived.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// As stored: `Float`, `Int64`, `Bool`, `Uint8`, or `Int32` widened to `Int64`, or `Int8` plus 128.
    Raw(Constant),
    /// Packed bytes.
    U8(Arc<[u8]>),
    /// Small computed data.
    F32(Vec<f32>),
    /// Small computed data.
    I64(Vec<i64>),
    /// `(outer, inner…)` to `(ceil(outer / 16), inner…, 16)`: weights of a convolution that reads plain or single
    /// channels, or the transposed matrix of `Dense`.
    Rows {
        /// `(outer, inner)` when seen as a matrix.
        constant: Constant,
        /// Rows; become lanes.
        outer: usize,
        /// Elements of a row.
        inner: usize,
    },
    /// `(outer, channels, taps)` to `(ceil(outer / 16), blocks of channels, taps, up to 16 of the block, 16)`: weights of
    /// a convolution that reads blocks.
    Blocks {
        /// `(outer, channels, taps)`.
        constant: Constant,
        /// Output channels; become lanes.
        outer: usize,
        /// Input channels of a group.
        channels: usize,
        /// Kernel positions.
        taps: usize,
    },
    /// `(inner, outer)` to `(ceil(outer / 16), inner, 16)`: the matrix of `Dense` as `MatMul` stores it.
    Columns {
        /// `(inner, outer)`.
        constant: Constant,
        /// Columns; become lanes.
        outer: usize,
        /// Elements of a column.
        inner: usize,
    },
}

/// One weight tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WeightSource {
    /// Where elements come from.
    pub(crate) form: Form,
    /// Factor per output channel, folded in while packing: element `i` of the source order (before packing) is multiplied
    /// by `scale[(i / scale_inner) % scale.len()]`.
    pub(crate) scale: Option<Vec<f32>>,
    /// Elements that share one factor.
    pub(crate) scale_inner: usize,
    /// Stored as f16. Set by [`half::mark`], which has seen every element.
    pub(crate) half: bool,
}

impl WeightSource {
    /// Unscaled.
    pub(crate) fn new(form: Form) -> Self {
        Self { form, scale: None, scale_inner: 1, half: false }
    }

    /// Element type in the engine.
    pub(crate) fn dtype(&self) -> DType {
        match &self.form {
            Form::Raw(Constant { tensor, .. }) => match tensor.elem {
                ElemType::Float => DType::F32,
                ElemType::Bool => DType::Bool,
                ElemType::Uint8 | ElemType::Int8 => DType::U8,
                _ => DType::I64,
            },
            Form::F32(_) | Form::Rows { .. } | Form::Blocks { .. } | Form::Columns { .. } => DType::F32,
            Form::I64(_) => DType::I64,
            Form::U8(_) => DType::U8,
        }
    }

    /// Form in the stream.
    pub(crate) fn stored(&self) -> Stored {
        if self.half { Stored::F16 } else { self.dtype().into() }
    }

    /// The model's constant behind it; computed data has none.
    pub(crate) fn constant(&self) -> Option<&Constant> {
        match &self.form {
            Form::Raw(constant)
            | Form::Rows { constant, .. }
            | Form::Blocks { constant, .. }
            | Form::Columns { constant, .. } => Some(constant),
            Form::F32(_) | Form::I64(_) | Form::U8(_) => None,
        }
    }

    /// Elements after packing. Lengths were checked against `u32` when the constant was admitted.
    pub(crate) fn len(&self) -> u32 {
        let len = match &self.form {
            Form::Raw(constant) => constant.tensor.dims.iter().product(),
            Form::F32(values) => values.len(),
            Form::I64(values) => values.len(),
            Form::U8(bytes) => bytes.len(),
            Form::Rows { outer, inner, .. } | Form::Columns { outer, inner, .. } => {
                outer.next_multiple_of(BLOCK) * inner
            }
            Form::Blocks { outer, channels, taps, .. } => outer.next_multiple_of(BLOCK) * channels * taps,
        };
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// The elements in source order; `None` unless `f32` as stored.
    pub(crate) fn f32_values(&self) -> Option<Vec<f32>> {
        match (&self.form, &self.scale) {
            (Form::F32(values), None) => Some(values.clone()),
            (Form::Raw(constant), None) => constant.tensor.to_f32().ok(),
            _ => None,
        }
    }

    /// Equal sources have equal fingerprints; cheap for large tensors.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.len(), self.scale_inner, self.scale.is_some()).hash(&mut hasher);
        let start = |data: &[u8]| data[..data.len().min(64)].to_vec();
        let sample = |constant: &Constant| start(&constant.tensor.data);
        match &self.form {
            Form::Raw(constant) => (0, sample(constant)).hash(&mut hasher),
            Form::F32(values) => (1, values.first().map(|v| v.to_bits())).hash(&mut hasher),
            Form::I64(values) => (2, values.first()).hash(&mut hasher),
            Form::U8(bytes) => (6, start(bytes)).hash(&mut hasher),
            Form::Rows { constant, outer, .. } => (3, outer, sample(constant)).hash(&mut hasher),
            Form::Columns { constant, outer, .. } => (4, outer, sample(constant)).hash(&mut hasher),
            Form::Blocks { constant, outer, .. } => (5, outer, sample(constant)).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Writes the stream's bytes in pieces.
    pub(crate) fn write(&self, sink: &mut dyn FnMut(&[u8])) {
        if !self.half {
            return self.write_full(sink);
        }
        let mut halves = Vec::with_capacity(PIECE / 2);
        self.write_full(&mut |bytes| {
            let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            halves.clear();
            halves.extend(values.flat_map(|value| half::from_f32(value).expect("seen by `mark`").to_le_bytes()));
            sink(&halves);
        });
    }

    /// As instructions read it.
    fn write_full(&self, sink: &mut dyn FnMut(&[u8])) {
        match &self.form {
            Form::Raw(Constant { tensor, .. }) => match tensor.elem {
                ElemType::Float if self.scale.is_some() => {
                    let scale = self.scale.as_deref().unwrap_or(&[1.0]);
                    let factor = |index: usize| scale[(index / self.scale_inner) % scale.len()];
                    write_f32((0..tensor.data.len() / 4).map(|index| element(tensor, index) * factor(index)), sink);
                }
                ElemType::Int32 => {
                    let wide = tensor.data.as_chunks::<4>().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes)));
                    write_i64(wide, sink);
                }
                ElemType::Int8 => sink(&tensor.data.iter().map(|byte| byte ^ 0x80).collect::<Vec<_>>()),
                ElemType::Bool => match tensor.to_mask() {
                    Ok(mask) => sink(&mask),
                    Err(_) => sink(&tensor.data),
                },
                _ => sink(&tensor.data),
            },
            Form::F32(values) => write_f32(values.iter().copied(), sink),
            Form::I64(values) => write_i64(values.iter().copied(), sink),
            Form::U8(bytes) => sink(bytes),
            Form::Rows { constant, outer, inner } => {
                self.write_lanes(&constant.tensor, [*outer, *inner], *inner, |at| at, sink)
            }
            Form::Columns { constant, outer, inner } => {
                self.write_lanes(&constant.tensor, [*outer, *inner], 1, |at| at * outer, sink);
            }
            Form::Blocks { constant, outer, channels, taps } => {
                let inner = channels * taps;
                let from = |at: usize| {
                    let first = at / (BLOCK * taps) * BLOCK;
                    let (lanes, at) = (BLOCK.min(channels - first), at % (BLOCK * taps));
                    (first + at % lanes) * taps + at / lanes
                };
                self.write_lanes(&constant.tensor, [*outer, inner], inner, from, sink);
            }
        }
    }

    /// `(ceil(outer / 16), inner, 16)`, lanes past `outer` zero. Lanes are `step` apart in the tensor, and element `at` of
    /// `inner` is `from(at)` after the first.
    fn write_lanes(
        &self,
        tensor: &Tensor,
        [outer, inner]: [usize; 2],
        step: usize,
        from: impl Fn(usize) -> usize,
        sink: &mut dyn FnMut(&[u8]),
    ) {
        let source = tensor.data.as_chunks::<4>().0;
        let factor = |lane: usize| self.scale.as_ref().map_or(1.0, |scale| scale[lane % scale.len()]);
        let mut piece = vec![[0; 4]; PIECE / 4];
        for block in (0..outer).step_by(BLOCK) {
            let lanes = BLOCK.min(outer - block);
            let factors: Vec<f32> = (block..block + lanes).map(factor).collect();
            for start in (0..inner).step_by(piece.len() / BLOCK) {
                let count = (piece.len() / BLOCK).min(inner - start);
                let piece = &mut piece[..count * BLOCK];
                piece.fill([0; 4]);
                for (lane, factor) in factors.iter().enumerate() {
                    let source = &source[(block + lane) * step..];
                    for (at, to) in (start..start + count).zip(piece[lane..].iter_mut().step_by(BLOCK)) {
                        *to = (f32::from_le_bytes(source[from(at)]) * factor).to_le_bytes();
                    }
                }
                sink(piece.as_flattened());
            }
        }
    }
}

fn element(tensor: &Tensor, index: usize) -> f32 {
    let bytes = tensor.data.as_chunks::<4>().0;
    f32::from_le_bytes(bytes[index])
}

fn write_f32(values: impl Iterator<Item = f32>, sink: &mut dyn FnMut(&[u8])) {
    write_bytes(values.map(f32::to_le_bytes), sink);
}

fn write_i64(values: impl Iterator<Item = i64>, sink: &mut dyn FnMut(&[u8])) {
    write_bytes(values.map(i64::to_le_bytes), sink);
}

fn write_bytes<const N: usize>(values: impl Iterator<Item = [u8; N]>, sink: &mut dyn FnMut(&[u8])) {
    let mut buffer = Vec::with_capacity(PIECE);
    for value in values {
        buffer.extend_from_slice(&value);
        if buffer.len() >= PIECE {
            sink(&buffer);
            buffer.clear();
        }
    }
    sink(&buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::f32s;

    fn packed(source: &WeightSource) -> Vec<f32> {
        let mut bytes = Vec::new();
        source.write(&mut |piece| bytes.extend_from_slice(piece));
        assert_eq!(bytes.len(), source.len() as usize * 4);
        bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
    }

    #[test]
    fn rows_and_columns_of_one_matrix_pack_alike() {
        // More columns than one piece holds, rows that do not fill their second block.
        let (outer, inner) = (18, 1500);
        let data: Vec<f32> = (0..outer * inner).map(|index| index as f32).collect();
        let moved: Vec<f32> = (0..outer * inner).map(|index| data[index % outer * inner + index / outer]).collect();
        let rows = Form::Rows { constant: Constant::computed(f32s(&[outer, inner], &data)), outer, inner };
        let columns = Form::Columns { constant: Constant::computed(f32s(&[inner, outer], &moved)), outer, inner };
        let got = packed(&WeightSource::new(rows));
        assert_eq!(got, packed(&WeightSource::new(columns)));
        for (lane, index) in [(0, 0), (15, 1), (16, 1499), (17, 1024)] {
            assert_eq!(got[(lane / 16 * inner + index) * 16 + lane % 16], data[lane * inner + index]);
        }
        assert_eq!(got[inner * 16 + 2..inner * 16 + 16], [0.0; 14]);
    }

    #[test]
    fn blocks_of_channels_keep_the_channels_of_a_tap_together() {
        let (outer, channels, taps) = (18, 21, 9);
        let data: Vec<f32> = (0..outer * channels * taps).map(|index| index as f32).collect();
        let constant = Constant::computed(f32s(&[outer, channels, 3, 3], &data));
        let got = packed(&WeightSource::new(Form::Blocks { constant, outer, channels, taps }));
        let mut at = 0;
        for (block, first) in [(0, 0), (0, 16), (16, 0), (16, 16)] {
            for tap in 0..taps {
                for channel in first..channels.min(first + 16) {
                    let want = |lane: usize| match block + lane < outer {
                        true => data[((block + lane) * channels + channel) * taps + tap],
                        false => 0.0,
                    };
                    assert!((0..16).all(|lane| got[at + lane] == want(lane)), "channel {channel}, tap {tap}");
                    at += 16;
                }
            }
        }
        assert_eq!(at, got.len());
    }

    #[test]
    fn a_scale_multiplies_its_channel() {
        let constant = Constant::computed(f32s(&[2, 3], &[1.0; 6]));
        let form = Form::Rows { constant: constant.clone(), outer: 2, inner: 3 };
        let got = packed(&WeightSource { form, scale: Some(vec![2.0, 3.0]), scale_inner: 1, half: false });
        assert_eq!((got[0], got[1], got[32], got[2]), (2.0, 3.0, 2.0, 0.0));
        let got = packed(&WeightSource {
            form: Form::Raw(constant),
            scale: Some(vec![2.0, 3.0]),
            scale_inner: 3,
            half: false,
        });
        assert_eq!(got, [2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
    }
}
