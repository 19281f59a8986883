//! Copies between the plain and the blocked layout.

use crate::context::{BLOCK, to_i32, to_u32};
use cordon_engine::program::StridedCopy;

/// One rectangular part of a layout change: extents, plain and blocked strides, and starts.
pub(crate) struct BlockCopy {
    dims: Vec<usize>,
    plain: (usize, Vec<usize>),
    blocked: (usize, Vec<usize>),
}

/// Whole blocks first, then the lanes of a last partial block.
pub(crate) fn block_copies(dims: &[usize]) -> Vec<BlockCopy> {
    let (n, c) = (dims[0], dims[1]);
    let spatial: usize = dims[2..].iter().product();
    let (whole, rest) = (c / BLOCK, c % BLOCK);
    let blocks = c.div_ceil(BLOCK);
    let mut pieces = Vec::new();
    if whole > 0 {
        pieces.push(BlockCopy {
            dims: vec![n, whole, spatial, BLOCK],
            plain: (0, vec![c * spatial, BLOCK * spatial, 1, spatial]),
            blocked: (0, vec![blocks * spatial * BLOCK, spatial * BLOCK, BLOCK, 1]),
        });
    }
    if rest > 0 {
        pieces.push(BlockCopy {
            dims: vec![n, spatial, rest],
            plain: (whole * BLOCK * spatial, vec![c * spatial, 1, spatial]),
            blocked: (whole * BLOCK * spatial, vec![blocks * spatial * BLOCK, BLOCK, 1]),
        });
    }
    pieces
}

impl BlockCopy {
    pub(crate) fn into_plain(self) -> StridedCopy {
        strided(&self.dims, self.blocked, self.plain)
    }

    pub(crate) fn into_blocked(self) -> StridedCopy {
        strided(&self.dims, self.plain, self.blocked)
    }
}

fn strided(dims: &[usize], from: (usize, Vec<usize>), to: (usize, Vec<usize>)) -> StridedCopy {
    StridedCopy {
        dims: dims.iter().map(|&dim| to_u32(dim)).collect(),
        from: to_u32(from.0),
        from_strides: from.1.iter().map(|&step| to_i32(step)).collect(),
        to: to_u32(to.0),
        to_strides: to.1.iter().map(|&step| to_u32(step)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OneNode, noise};

    #[test]
    fn channels_of_a_partial_block_go_through_both_layouts_unchanged() {
        // The identity convolution's input is blocked and its output made plain again.
        for channels in [16, 20, 37] {
            let input = noise(&[2, channels, 3, 2], 1);
            let mut identity = vec![0.0; channels * channels];
            (0..channels).for_each(|channel| identity[channel * (channels + 1)] = 1.0);
            let weight = cordon_graph::Tensor::from_f32([channels, channels, 1, 1], &identity).expect("fits");
            assert_eq!(OneNode::new("Conv", 14).input(input.clone()).constant(weight).run(), vec![input]);
        }
    }

    #[test]
    fn pieces_cover_each_channel_once() {
        let covered =
            |c: usize| block_copies(&[1, c, 5]).iter().map(|it| it.dims.iter().product::<usize>()).sum::<usize>();
        for c in [1, 16, 17, 40] {
            assert_eq!(covered(c), c * 5);
        }
    }
}
