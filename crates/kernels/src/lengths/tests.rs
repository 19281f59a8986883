use super::*;
use alloc::vec;

const AXIS: Axis = Axis { input: 7, output: 4, kernel: 3, stride: 2, dilation: 1, pad_begin: 1, pad_end: 1 };

#[test]
fn window_counts_follow_onnx() {
    assert_eq!(AXIS.windows(false), Some(4));
    assert_eq!(Axis { input: 8, ..AXIS }.windows(false), Some(4));
    assert_eq!(Axis { input: 8, ..AXIS }.windows(true), Some(5));
    assert_eq!(Axis { kernel: 10, ..AXIS }.windows(false), None);
    assert_eq!(Axis { stride: 0, ..AXIS }.windows(false), None);
    assert_eq!(Axis { kernel: 0, ..AXIS }.windows(false), None);
}

#[test]
fn positions_beyond_31_bits_are_refused() {
    assert!(AXIS.is_valid());
    assert!(!Axis { stride: u32::MAX, ..AXIS }.is_valid());
    assert!(!Axis { kernel: u32::MAX, dilation: u32::MAX, ..AXIS }.is_valid());
    assert!(!Axis { dilation: 0, ..AXIS }.is_valid());
    assert!(!Axis { input: u32::MAX, ..AXIS }.is_valid());
}

#[test]
fn conv_lengths_pad_channels_and_check_groups() {
    let g = Conv2d { n: 2, groups: 1, ic: 17, oc: 33, y: AXIS, x: AXIS, input: Layout::Blocked };
    assert_eq!(g.input_len(), Some(2 * 32 * 49));
    assert_eq!(g.weight_len(), Some(48 * 17 * 9));
    assert_eq!(g.output_len(), Some(2 * 48 * 16));
    assert!(g.is_valid());
    assert!(!Conv2d { groups: 0, ..g }.is_valid());
    assert_eq!(Conv2d { groups: 0, ..g }.weight_len(), None);
    assert!(!Conv2d { groups: 2, ic: 24, oc: 32, ..g }.is_valid());
    assert!(Conv2d { groups: 2, ic: 32, oc: 64, ..g }.is_valid());
    assert!(Conv2d { groups: 5, ic: 5, oc: 5, ..g }.is_valid());
    assert!(!Conv2d { groups: 5, ic: 5, oc: 5, input: Layout::Plain, ..g }.is_valid());
    assert_eq!(Conv2d { n: u32::MAX, oc: u32::MAX, ..g }.output_len(), None);
}

#[test]
fn strided_lengths_reach_the_last_element() {
    let s = Strided2 { dims: vec![2, 3], a: vec![3, 1], b: vec![0, 5] };
    assert_eq!((s.len(), s.a_len(), s.b_len()), (Some(6), Some(6), Some(11)));
    assert!(s.a_is_contiguous() && !s.b_is_contiguous());
    assert_eq!(Strided2 { dims: vec![2], a: vec![1], b: vec![] }.len(), None);
    assert_eq!(Strided2::default().len(), Some(1));
    assert_eq!(Strided1 { dims: vec![4, 0], a: vec![9, 9] }.a_len(), Some(0));
    assert_eq!(Strided1 { dims: vec![1; 9], a: vec![1; 9] }.len(), None);
}

#[test]
fn copies_before_the_start_are_refused() {
    let flip = StridedCopy { dims: vec![4], from: 3, from_strides: vec![-1], to: 2, to_strides: vec![2] };
    assert_eq!((flip.input_len(), flip.output_len()), (Some(4), Some(9)));
    assert_eq!(StridedCopy { from: 2, ..flip }.input_len(), None);
}
