//! The ONNX reader: any bytes end in a graph that survives every pass and export, or in a named error.
#![no_main]

#[path = "../../crates/graph/tests/hostile.rs"]
#[allow(unused, reason = "the oracle's file also holds the crate's own tests")]
mod tests;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = tests::check(bytes);
});
