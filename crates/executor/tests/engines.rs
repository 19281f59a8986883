//! The engines behind the trait give the same values, the same types and the same refusals.

use bytes::Bytes;
use cordon_executor::{ElemType, Executor, ExecutorError, ModelSource, Options, Tensor, open};

/// Length-delimited protobuf field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("short test messages");
    let mut out = vec![number << 3 | 2];
    if length >= 0x80 {
        out.extend_from_slice(&[length, 1]);
    } else {
        out.push(length);
    }
    out.extend_from_slice(content);
    out
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut out: Vec<u8> = inputs.iter().flat_map(|name| field(1, name.as_bytes())).collect();
    out.extend(field(2, output.as_bytes()));
    out.extend(field(4, op_type.as_bytes()));
    field(1, &out)
}

/// A graph input (11) or output (12) of one dimension of 3.
fn signature(number: u8, name: &str, elem: ElemType) -> Vec<u8> {
    let elem = [0x08, elem.code()];
    let shape = field(2, &field(1, &[0x08, 3]));
    let tensor_type = field(1, &[elem.as_slice(), &shape].concat());
    field(number, &[field(1, name.as_bytes()), field(2, &tensor_type)].concat())
}

/// `w` of three floats at offset 64 of the external file `weights.data`.
fn external_initializer() -> Vec<u8> {
    let entry = |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
    let parts = [
        vec![0x08, 3, 0x10, 1],
        field(8, b"w"),
        entry("location", "weights.data"),
        entry("offset", "64"),
        entry("length", "12"),
        vec![0x70, 1],
    ];
    field(5, &parts.concat())
}

/// `y = Relu(x + w)` (float), `above = x > w` (bool), `ids = Shape(x)` (int64).
fn model() -> ModelSource {
    let graph = [
        node("Add", &["x", "w"], "sum"),
        node("Relu", &["sum"], "y"),
        node("Greater", &["x", "w"], "above"),
        node("Shape", &["x"], "ids"),
        field(2, b"g"),
        external_initializer(),
        signature(11, "x", ElemType::Float),
        signature(12, "y", ElemType::Float),
        signature(12, "above", ElemType::Bool),
        signature(12, "ids", ElemType::Int64),
    ]
    .concat();
    let length = graph.len();
    let mut bytes = vec![0x08, 8, 0x3a];
    bytes.extend_from_slice(&[(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
    bytes.extend(graph);
    bytes.extend(field(8, &[0x10, 17]));
    let mut data = vec![0xaa; 64];
    data.extend([10.0f32, -20.0, 0.5].iter().flat_map(|v| v.to_le_bytes()));
    ModelSource { onnx: bytes.into(), data: Some(("weights.data".into(), data.into())) }
}

fn check(executor: &dyn Executor) {
    let mut session = executor.load(&model()).expect("a valid model");
    let x = Tensor::from_f32(vec![3], &[1.0, 2.0, 3.0]).expect("three values");
    let outputs = session.run(&[("x", &x)], &["ids", "y", "above", "y"]).expect("valid inputs");
    assert_eq!(outputs[0], Tensor::from_i64(vec![1], &[3]).expect("one value"), "{}", executor.name());
    assert_eq!(outputs[1].to_f32().expect("float"), [11.0, 0.0, 3.5]);
    assert_eq!(outputs[2], Tensor::from_bool(vec![3], &[false, true, true]).expect("three values"));
    assert_eq!(outputs[3], outputs[1], "an output may be asked for twice");

    let refused = session.run(&[("x", &x)], &["nothing"]).expect_err("no such output").to_string();
    assert!(refused.contains("nothing"), "{refused}");
    let double = Tensor::new(ElemType::Double, vec![3], vec![0; 24]).expect("three values");
    assert!(session.run(&[("x", &double)], &["y"]).is_err(), "{}: a double is no float", executor.name());
    assert!(session.run(&[], &["y"]).is_err(), "{}: an input is missing", executor.name());

    let again = session.run(&[("x", &x)], &["y"]).expect("a refusal does not spoil the session");
    assert_eq!(again[0], outputs[1]);
    for broken in [Bytes::from_static(b"\x08\x08\x3a\xff\xff\x03"), Bytes::from_static(b"not a model"), Bytes::new()] {
        let source = ModelSource { onnx: broken, data: None };
        assert!(executor.load(&source).is_err(), "{} accepts a broken model", executor.name());
    }
    let lost = ModelSource { data: None, ..model() };
    assert!(executor.load(&lost).is_err(), "{} invents missing weights", executor.name());
}

#[test]
fn rten_runs_models_with_external_data() {
    for threads in [None, Some(1)] {
        check(&*open("rten", &Options { threads, ..Options::default() }).expect("built in"));
    }
}

#[test]
fn rten_says_which_types_it_cannot_carry() {
    let mut session = open("rten", &Options::default()).expect("built in").load(&model()).expect("a valid model");
    let double = Tensor::new(ElemType::Double, vec![3], vec![0; 24]).expect("three values");
    let refused = session.run(&[("x", &double)], &["y"]).expect_err("no doubles").to_string();
    assert!(refused.contains("double") && refused.contains("`x`"), "{refused}");
    let wide = Tensor::from_i64(vec![3], &[0, 0, 1 << 40]).expect("three values");
    let refused = session.run(&[("x", &wide)], &["y"]).expect_err("32 bits").to_string();
    assert!(refused.contains("32 bits"), "{refused}");
}

#[test]
fn onnxruntime_runs_models_with_external_data() {
    match open("onnxruntime:cpu", &Options { threads: Some(1), ..Options::default() }) {
        Ok(executor) => check(&*executor),
        // `cargo xtask check` provides the library; a plain `cargo test` may go without it.
        Err(ExecutorError::NotInstalled(why)) => println!("not run: {why}"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn cuda_is_refused_where_it_is_absent() {
    let Err(error) = open("onnxruntime:cuda", &Options::default()) else { return };
    assert!(matches!(error, ExecutorError::NotInstalled(_)), "{error}");
}
