//! Tiled and untiled give the same bits: small networks of every row-wise kind, cut in every way.

use super::Tiling;
use crate::testing::{OneNode, f32s, noise, run_lowered};
use crate::{LowerOptions, Lowered, lower_untiled};
use cordon_engine::program::Instruction;
use cordon_graph::{ElemType, Tensor, segment};

fn conv(node: OneNode, seed: u32, [oc, ic, kernel]: [usize; 3], [stride, pad]: [i64; 2]) -> OneNode {
    let node = node.then("Conv").constant(noise(&[oc, ic, kernel, kernel], seed)).constant(noise(&[oc], seed + 1));
    node.ints("strides", &[stride; 2]).ints("pads", &[pad; 4])
}

fn start(dims: &[usize]) -> OneNode {
    OneNode::new("Identity", 14).input(noise(dims, 1))
}

/// Runs the graph untiled and with `tilings`, and returns the tiled forms that differ from the untiled one.
fn check(name: &str, node: &OneNode, inputs: &[Tensor], tilings: &[Tiling]) -> Vec<Lowered> {
    check_with(false, name, node, inputs, tilings)
}

fn check_with(winograd: bool, name: &str, node: &OneNode, inputs: &[Tensor], tilings: &[Tiling]) -> Vec<Lowered> {
    let graph = node.graph();
    let options = LowerOptions { winograd, ..LowerOptions::default() };
    let untiled = lower_untiled(&graph, &segment(&graph, graph.node_ids()), &options).expect("lowers");
    let plain = untiled.tile(&Tiling::default()).expect("plain");
    let want = run_lowered(&plain, inputs).expect("runs");
    let mut changed = Vec::new();
    for tiling in tilings {
        let tiled = untiled.tile(tiling).expect("tiles");
        let got = run_lowered(&tiled, inputs).expect("runs");
        assert!(got == want, "{name} under {tiling:?}");
        if tiled.program != plain.program {
            changed.push(tiled);
        }
    }
    changed
}

fn arenas() -> Vec<Tiling> {
    [0, 8 << 10, 20 << 10, 40 << 10].map(|bytes| Tiling { arena: Some(bytes), ..Tiling::default() }).to_vec()
}

#[test]
fn chains_in_bands_give_the_same_bits() {
    let x = noise(&[1, 3, 23, 19], 1);
    let head = || conv(start(&[1, 3, 23, 19]), 2, [20, 3, 3], [1, 1]).then("Relu");
    let pool = |node: OneNode, kernel: i64, stride: i64, pad: i64| {
        node.then("MaxPool").ints("kernel_shape", &[kernel; 2]).ints("strides", &[stride; 2]).ints("pads", &[pad; 4])
    };
    let average = |count: i64| {
        let node =
            head().then("AveragePool").ints("kernel_shape", &[3; 2]).ints("strides", &[2; 2]).ints("pads", &[1; 4]);
        conv(node.int("count_include_pad", count), 9, [16, 20, 1], [1, 0])
    };
    let ceil = head().then("MaxPool").ints("kernel_shape", &[3; 2]).ints("strides", &[2; 2]).int("ceil_mode", 1);
    let residual = |node: OneNode| {
        let last = 3;
        conv(conv(node, 5, [8, 20, 1], [1, 0]), 7, [20, 8, 3], [1, 1]).then("Add").with_node(last - 1).then("Relu")
    };
    let gated = conv(head().then("Sigmoid").then("Mul").with_node(2), 5, [4, 20, 3], [1, 1]);
    let scaled = conv(head().then("Mul").constant(noise(&[20, 1, 1], 8)).then("LeakyRelu"), 5, [4, 20, 3], [2, 1]);
    let cases = [
        ("two convolutions", conv(head(), 4, [18, 20, 3], [1, 1])),
        ("strides", conv(conv(head(), 4, [18, 20, 3], [2, 1]), 6, [5, 18, 3], [2, 0])),
        ("dilation", conv(head(), 4, [18, 20, 3], [1, 2]).ints("dilations", &[2, 2])),
        ("large kernels", conv(conv(head(), 4, [18, 20, 5], [1, 2]), 6, [5, 18, 7], [3, 3])),
        ("max pool", conv(pool(head(), 2, 2, 0), 5, [16, 20, 3], [1, 1])),
        ("overlapping pool", conv(pool(head(), 3, 2, 1), 5, [16, 20, 3], [1, 1])),
        ("ceil mode", conv(ceil, 5, [16, 20, 3], [1, 1])),
        ("average without padding", average(0)),
        ("average with padding", average(1)),
        ("residual", conv(residual(head()), 11, [8, 20, 3], [2, 1])),
        ("gate", gated),
        ("factors", scaled),
    ];
    for (name, node) in cases {
        let tiled = check(name, &node, core::slice::from_ref(&x), &arenas());
        let untiled = node.lower().expect("lowers");
        let least = tiled.iter().map(|it| it.arena.lower_bound).min().unwrap_or(u64::MAX);
        assert!(least * 10 < untiled.arena.lower_bound * 9, "{name}: {least} of {}", untiled.arena.lower_bound);
    }
}

#[test]
fn a_target_is_met_with_few_bands_and_an_impossible_one_ends() {
    let node =
        conv(conv(conv(start(&[1, 3, 64, 64]), 2, [32, 3, 3], [1, 1]), 4, [32, 32, 3], [2, 1]), 6, [16, 32, 3], [2, 1]);
    let graph = node.graph();
    let untiled = lower_untiled(&graph, &segment(&graph, graph.node_ids()), &LowerOptions::default()).expect("lowers");
    let with = |arena| untiled.tile(&Tiling { arena, ..Tiling::default() }).expect("tiles");
    let (plain, half, none) = (with(None), with(Some(400 << 10)), with(Some(0)));
    assert!(
        plain.arena.bytes > 600 << 10 && half.arena.bytes <= 400 << 10,
        "{} {}",
        plain.arena.bytes,
        half.arena.bytes
    );
    assert!(none.arena.bytes < half.arena.bytes);
    assert!(half.program.instructions.len() < none.program.instructions.len(), "a looser target needs fewer bands");
}

#[test]
fn spilled_values_give_the_same_bits_and_take_no_more_memory() {
    // A value of 512 KiB that is added again four convolutions later, and two chains with 512 KiB between them.
    let head = conv(start(&[1, 3, 64, 64]), 2, [32, 3, 3], [1, 1]).then("Relu");
    let path = conv(conv(head, 4, [16, 32, 3], [1, 1]), 6, [16, 16, 3], [1, 1]);
    let skip = conv(conv(path, 8, [16, 16, 3], [1, 1]), 10, [32, 16, 1], [1, 0]).then("Add").with_node(2);
    let node = conv(conv(skip, 12, [32, 32, 3], [1, 1]), 14, [8, 32, 3], [4, 0]);
    let tiling = |arena, spill| Tiling { arena, spill, ..Tiling::default() };
    let ways = [(None, 0), (Some(0), 0), (Some(1 << 20), 600 << 10), (Some(600 << 10), 400 << 10)];
    let x = [noise(&[1, 3, 64, 64], 1)];
    check("skip", &node, &x, &ways.map(|(arena, spill)| tiling(arena, Some(spill))));
    let graph = node.graph();
    let untiled = lower_untiled(&graph, &segment(&graph, graph.node_ids()), &LowerOptions::default()).expect("lowers");
    let mut smaller = 0;
    for (arena, spill) in ways {
        let [plain, spilled] = [None, Some(spill)].map(|spill| untiled.tile(&tiling(arena, spill)).expect("tiles"));
        assert!(spilled.arena.lower_bound <= plain.arena.lower_bound);
        assert_eq!(spilled.program.spilled_bytes() > 0, spilled.arena.lower_bound < plain.arena.lower_bound);
        smaller += usize::from(spilled.arena.bytes < plain.arena.bytes);
    }
    assert!(smaller > 0, "some value waits outside");
}

#[test]
fn output_channels_in_tiles_give_the_same_bits() {
    let weights = |bytes| Tiling { weights: Some(bytes), ..Tiling::default() };
    let tilings = [weights(1), weights(5_000), weights(20_000)];
    let image = noise(&[1, 3, 9, 7], 1);
    let first = || conv(start(&[1, 3, 9, 7]), 2, [64, 3, 3], [1, 1]).then("Relu");
    let grouped = |groups: i64, seed| {
        let per_group = 64 / groups as usize;
        first().then("Conv").constant(noise(&[64, per_group, 3, 3], seed)).ints("pads", &[1; 4]).int("group", groups)
    };
    let residual = conv(conv(first(), 5, [40, 64, 1], [1, 0]), 7, [64, 40, 3], [1, 1]).then("Add").with_node(2);
    let cases = [
        ("one group", conv(first(), 5, [72, 64, 3], [1, 1])),
        ("four groups", grouped(4, 5)),
        ("depthwise", grouped(64, 5)),
        ("residual", residual.then("Relu")),
    ];
    for (name, node) in cases {
        let tiled = check(name, &node, core::slice::from_ref(&image), &tilings);
        let plain = node.lower().expect("lowers");
        assert!(tiled[0].window_bytes() < plain.window_bytes(), "{name}");
    }
    for m in [1, 5] {
        let x = noise(&[m, 30], 1);
        let node = OneNode::new("Gemm", 14).input(x.clone()).constant(noise(&[30, 70], 2)).constant(noise(&[70], 3));
        let node = node.then("Relu").then("MatMul").constant(noise(&[70, 70], 4)).then("Add").with_node(1);
        let tiled = check("products", &node, &[x], &tilings);
        let dense = |it: &&Instruction| matches!(it, Instruction::Dense { .. });
        assert_eq!(tiled[0].program.instructions.iter().filter(dense).count(), 10, "five tiles each");
    }
}

#[test]
fn a_batch_is_cut_in_rows_but_not_in_channels() {
    let x = noise(&[2, 3, 16, 16], 1);
    let node = conv(conv(start(&[2, 3, 16, 16]), 2, [32, 3, 3], [1, 1]), 4, [16, 32, 3], [2, 1]);
    let both = Tiling { weights: Some(1), arena: Some(0), ..Tiling::default() };
    let tiled = check("batch", &node, &[x], &[both]);
    assert!(tiled.len() == 1 && tiled[0].window_bytes() > 16 * 1024);
    assert_eq!(check("vector", &start(&[3]).then("Relu"), &[f32s(&[3], &[1.0, -2.0, 3.0])], &[both]).len(), 0);
}

#[test]
fn winograd_in_tiles_of_channels_and_less_scratch_memory_gives_the_same_bits() {
    let x = noise(&[1, 3, 20, 24], 1);
    let node = conv(conv(start(&[1, 3, 20, 24]), 2, [48, 3, 3], [1, 1]), 4, [80, 48, 3], [1, 1]);
    let plain = node.lower().expect("lowers");
    let choices = plain.scratch_choices();
    assert!(choices.len() == 4 && choices.is_sorted_by(|a, b| a > b), "three amounts and none: {choices:?}");
    let tilings = choices[..3].iter().flat_map(|&scratch| {
        let tiling = Tiling { scratch: Some(scratch), ..Tiling::default() };
        [tiling, Tiling { weights: Some(60_000), ..tiling }]
    });
    let tiled = check_with(true, "Winograd", &node, &[x], &tilings.collect::<Vec<_>>());
    assert!(tiled.iter().all(|it| it.program.arena.scratch > 0));
    let tiles = tiled.iter().filter(|it| it.program.instructions.len() > plain.program.instructions.len());
    assert_eq!(tiles.count(), 3);
    let mut less = plain.clone();
    less.limit_scratch(choices[1]);
    assert!(
        u64::from(less.program.arena.scratch) * 4 == choices[1]
            && plain.program.arena.scratch > less.program.arena.scratch
    );
    less.limit_scratch(u64::MAX);
    assert_eq!(u64::from(less.program.arena.scratch) * 4, choices[1], "what was taken away stays away");
    less.limit_scratch(0);
    assert_eq!(less.program.arena.scratch, 0);
}

/// A byte, with the scale all values of these tests have.
fn byte(value: u8) -> [Tensor; 2] {
    [f32s(&[], &[0.02]), Tensor { elem: ElemType::Uint8, dims: Vec::new(), data: vec![value].into() }]
}

fn bytes_conv(node: OneNode, seed: u32, [oc, ic, kernel]: [usize; 3], [stride, pad]: [i64; 2]) -> OneNode {
    let values = noise(&[oc, ic, kernel, kernel], seed).to_f32().expect("f32");
    let data: Vec<u8> = values.iter().map(|value| ((value * 127.0) as i8).cast_unsigned()).collect();
    let weight = Tensor { elem: ElemType::Int8, dims: vec![oc, ic, kernel, kernel], data: data.into() };
    let zero = Tensor { elem: ElemType::Int8, dims: Vec::new(), data: vec![0].into() };
    let [scale, middle] = byte(128);
    let node = node.then("QLinearConv").constant(scale.clone()).constant(middle.clone());
    let node = node.constant(weight).constant(f32s(&[], &[0.004])).constant(zero).constant(scale).constant(middle);
    node.ints("strides", &[stride; 2]).ints("pads", &[pad; 4])
}

#[test]
fn bytes_are_cut_in_rows_and_channels() {
    let x = noise(&[1, 3, 46, 39], 1);
    let [scale, middle] = byte(128);
    let node = OneNode::new("Identity", 17).input(x.clone()).then("QuantizeLinear").constant(scale).constant(middle);
    let node = bytes_conv(node, 2, [40, 3, 3], [1, 1]);
    let node = bytes_conv(node, 4, [48, 40, 3], [1, 1]);
    let node = bytes_conv(node, 6, [16, 48, 3], [2, 0]);
    let tilings = [0, 60 << 10, 100 << 10].map(|bytes| Tiling { arena: Some(bytes), ..Tiling::default() });
    let tiled = check("bytes", &node, core::slice::from_ref(&x), &tilings);
    let plain = node.lower().expect("lowers");
    assert!(plain.program.instructions.iter().filter(|it| it.name() == "QConv2d").count() == 3);
    let least = tiled.iter().map(|it| it.arena.lower_bound).min().unwrap_or(u64::MAX);
    assert!(least * 10 < plain.arena.lower_bound * 7, "{least} of {}", plain.arena.lower_bound);
    let tiling = Tiling { weights: Some(7_000), ..Tiling::default() };
    let tiled = check("channels of bytes", &node, &[x], &[tiling, Tiling { arena: Some(0), ..tiling }]);
    assert!(tiled.len() == 2 && tiled.iter().all(|it| it.window_bytes() * 2 < plain.window_bytes()));
}

#[test]
fn a_factor_and_term_after_a_concatenation_runs_in_bands() {
    let dims = [1, 3, 24, 22];
    let first = || conv(start(&dims), 2, [32, 3, 3], [1, 1]);
    let node = conv(first(), 4, [16, 32, 1], [1, 0]).then("Concat").with_node(1).int("axis", 1);
    let node =
        node.then("Mul").constant(noise(&[48, 1, 1], 5)).then("Add").constant(noise(&[48, 1, 1], 6)).then("Relu");
    let node = conv(conv(node, 7, [16, 48, 1], [1, 0]), 9, [8, 16, 3], [1, 1]);
    let tiled = check("dense block", &node, &[noise(&dims, 1)], &arenas());
    let plain = node.lower().expect("lowers");
    let least = tiled.iter().map(|it| it.arena.bytes).min().unwrap_or(u64::MAX);
    assert!(least * 10 < plain.arena.bytes * 8, "{least} of {}", plain.arena.bytes);
}
