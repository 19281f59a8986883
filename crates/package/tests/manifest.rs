//! Every rule of SPEC section 6, and the limits at their edge.

mod support;

use cordon_package::limits::{MAX_IMAGE_SIDE, MAX_PLAN_TEXT_BYTES, MAX_RANK, MAX_STRING_BYTES, MAX_VALUES};
use cordon_package::{
    Domain, ElemType, Fit, Format, Manifest, OutputInfo, PackageError, Placement, SegmentInfo, ValueInfo,
};
use support::manifest;

fn refusal(change: impl FnOnce(&mut Manifest)) -> String {
    let mut m = manifest();
    change(&mut m);
    m.encode().err().map_or_else(|| "accepted".into(), |e| e.to_string())
}

#[test]
fn a_good_manifest_round_trips() {
    let bytes = manifest().encode().unwrap();
    assert_eq!(Manifest::decode(&bytes, Format::V2).unwrap(), manifest());
    for end in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..end], Format::V2).is_err(), "cut at {end}");
    }
    assert_eq!(manifest().value_bytes(0), 3 * 8 * 8 * 4);
}

#[test]
fn every_rule_is_refused_by_name() {
    let image = |change: fn(&mut cordon_package::Preprocessing)| {
        move |m: &mut Manifest| change(m.preprocessing.as_mut().unwrap())
    };
    let cases: Vec<(String, &str)> = vec![
        (refusal(|m| m.segments[0].outputs = vec![1, 1]), "duplicate crossing"),
        (refusal(|m| m.segments[1].outputs = vec![2, 1]), "duplicate crossing"),
        (refusal(|m| m.inputs = vec![0, 0]), "listed twice"),
        (refusal(|m| m.outputs = [2, 2].map(OutputInfo::new).into()), "listed twice"),
        (refusal(|m| m.inputs = vec![]), "has inputs and outputs"),
        (refusal(|m| m.outputs = vec![]), "has inputs and outputs"),
        (refusal(|m| m.outputs = vec![OutputInfo::new(9)]), "beyond the value table"),
        (refusal(|m| m.segments = vec![]), "1 to 64 segments"),
        (refusal(|m| m.segments[1].outputs = vec![]), "without outputs"),
        (refusal(|m| m.segments[1].inputs = vec![2]), "before it is there"),
        (refusal(|m| m.segments.swap(1, 2)), "before it is there"),
        (refusal(|m| m.segments[2].inputs = vec![1, 2]), "must be retained"),
        (refusal(|m| m.segments[0].retained_out = vec![]), "no earlier segment retains"),
        (refusal(|m| m.segments[2].retained_in = vec![]), "dangling"),
        (refusal(|m| m.segments[1].inputs = vec![0]), "dangling"),
        (refusal(|m| m.values.push(m.values[1].clone())), "dangling"),
        (refusal(|m| m.segments[1].resident_peak = 1), "neither retains"),
        (refusal(|m| m.segments[0].minimum_peak = 8193), "needs more at least"),
        (refusal(|m| m.segments[1].f16_weights = true), "neither retains"),
        (refusal(|m| m.values[1].elem = ElemType::Uint16), "float, int64, bool, uint8 and int8"),
        (refusal(|m| m.values[0].name = None), "have names"),
        (refusal(|m| m.values[1].name = Some("x".into())), "have names"),
        (refusal(|m| m.values[0].name = Some(String::new())), "have names"),
        (refusal(|m| m.values[1].name = Some(String::new())), "have names"),
        (refusal(|m| m.values[3].name = Some("image".into())), "one name"),
        (refusal(|m| m.values[1].shapes = vec![vec![1, 0]]), "at least 1"),
        (refusal(|m| m.values[1].shapes = vec![vec![1 << 16, 1 << 16]]), "2^31"),
        (refusal(|m| m.outputs[0].class_axis = Some(2)), "class axis"),
        (refusal(image(|p| p.input = 1)), "preprocessing makes"),
        (refusal(image(|p| p.height = 9)), "preprocessing makes"),
        (refusal(image(|p| p.height = 0)), "1 to 8192 pixels"),
        (refusal(image(|p| p.fit = Fit::CropCenter { resize: 7 })), "no less than it is cropped to"),
        (refusal(image(|p| p.std[1] = 0.0)), "positive"),
        (refusal(image(|p| p.scale = f32::INFINITY)), "positive"),
        (refusal(image(|p| p.mean[0] = f32::NAN)), "finite"),
        (refusal(image(|p| p.mean.push(0.0))), "one finite number"),
    ];
    let wrong: Vec<_> = cases.iter().filter(|(got, rule)| !got.contains(rule)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_value_may_cross_and_be_retained_by_its_one_producer() {
    let mut m = manifest();
    m.segments[0].retained_out = vec![1, 4];
    m.segments[2].retained_in = vec![1, 4];
    m.encode().unwrap();
}

#[test]
fn what_goes_to_another_domain_crosses() {
    let other = |change: fn(&mut Manifest)| {
        refusal(|m| {
            m.segments[2].placement = Placement::Secure(Domain(1));
            change(m);
        })
    };
    assert!(other(|_| {}).contains("used in another"));
    // Inside one domain it must not.
    let crossing = |m: &mut Manifest| {
        m.segments[0].retained_out = vec![];
        m.segments[0].outputs = vec![1, 4];
        m.segments[2].retained_in = vec![];
        m.segments[2].inputs = vec![2, 4];
    };
    assert_eq!(other(crossing), "accepted");
    assert!(refusal(crossing).contains("must be retained"));
}

/// Batches of 1 to `n`.
fn batches(n: u32) -> Manifest {
    let mut m = manifest();
    for value in &mut m.values {
        let shape = value.shapes[0].clone();
        value.shapes = (1..=n).map(|batch| [&[batch], &shape[1..]].concat()).collect();
    }
    m
}

#[test]
fn every_value_has_a_shape_in_every_variant() {
    let m = batches(16);
    let bytes = m.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes, Format::V2).as_ref(), Ok(&m));
    assert_eq!((m.variants(), m.values[0].shape()), (16, &[1, 3, 8, 8][..]));
    let refused = |change: fn(&mut Manifest)| {
        refusal(|m| {
            *m = batches(3);
            change(m);
        })
    };
    assert!(refusal(|m| *m = batches(17)).contains("1 to 16 variants"));
    assert!(refused(|m| m.values[2].shapes.truncate(2)).contains("1 to 16 variants"));
    assert!(refused(|m| m.values.iter_mut().for_each(|v| v.shapes.clear())).contains("1 to 16 variants"));
    assert!(refused(|m| m.values[2].shapes[2] = vec![0]).contains("at least 1"));
    assert!(refused(|m| m.values[3].shapes[2] = vec![10]).contains("class axis"));
    assert!(refused(|m| m.values[0].shapes[2] = m.values[0].shapes[0].clone()).contains("same shapes of inputs"));
    // Preprocessing is for one of them.
    assert_eq!(refused(|m| m.values[0].shapes[2] = vec![1, 3, 16, 16]), "accepted");
}

/// A chain of normal segments over `n` values.
fn chain(n: u32) -> Manifest {
    let value = ValueInfo { elem: ElemType::Float, shapes: vec![vec![1, 2]], name: None };
    let mut m = Manifest {
        inputs: vec![0],
        outputs: (1..n).map(OutputInfo::new).collect(),
        values: vec![value; n as usize],
        segments: vec![SegmentInfo {
            placement: Placement::Normal,
            inputs: vec![0],
            outputs: (1..n).collect(),
            retained_in: vec![],
            retained_out: vec![],
            minimum_peak: 0,
            resident_peak: 0,
            f16_weights: false,
        }],
        preprocessing: None,
        ..manifest()
    };
    m.values.iter_mut().enumerate().for_each(|(i, v)| v.name = Some(format!("v{i}")));
    m
}

#[test]
fn limits_hold_at_their_edge() {
    assert!(chain(MAX_VALUES).encode().is_ok());
    assert!(chain(MAX_VALUES + 1).encode().is_err());

    let ranked = |rank: u32| Manifest { values: vec![], ..chain(2) }.with_shape(rank);
    assert!(ranked(MAX_RANK).encode().is_ok());
    assert!(ranked(MAX_RANK + 1).encode().is_err());

    let text = |n: u32| Manifest { plan_text: "x".repeat(n as usize), ..manifest() }.encode().map_err(|e| e.class());
    assert!(text(MAX_PLAN_TEXT_BYTES).is_ok());
    assert_eq!(text(MAX_PLAN_TEXT_BYTES + 1), Err("limit"));

    let name = |n: u32| {
        let mut m = manifest();
        m.values[0].name = Some("x".repeat(n as usize));
        m.encode().map_err(|e| e.class())
    };
    assert!(name(MAX_STRING_BYTES).is_ok());
    assert_eq!(name(MAX_STRING_BYTES + 1), Err("limit"));

    let resize = |resize| {
        let mut m = manifest();
        m.preprocessing.as_mut().unwrap().fit = Fit::CropCenter { resize };
        m.encode()
    };
    assert!(resize(MAX_IMAGE_SIDE).is_ok());
    assert!(resize(MAX_IMAGE_SIDE + 1).is_err());
}

trait WithShape {
    fn with_shape(self, rank: u32) -> Manifest;
}

impl WithShape for Manifest {
    fn with_shape(self, rank: u32) -> Manifest {
        let mut values = chain(2).values;
        values[1].shapes = vec![vec![1; rank as usize]];
        Manifest { values, ..self }
    }
}

#[test]
fn a_count_that_the_bytes_cannot_hold_allocates_nothing() {
    let mut bytes = manifest().encode().unwrap();
    // Behind the number of variants.
    bytes[1..5].copy_from_slice(&4096u32.to_le_bytes());
    assert!(matches!(Manifest::decode(&bytes, Format::V2), Err(PackageError::Malformed(_))));
    bytes[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Manifest::decode(&bytes, Format::V2).map_err(|e| e.class()), Err("limit"));
}
