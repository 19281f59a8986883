//! Program validation: any bytes are refused or run to an end, within their memory limit.
#![no_main]

#[path = "../../crates/engine/tests/hostile.rs"]
#[allow(unused, reason = "the oracle's file also holds the crate's own tests")]
mod tests;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::check(bytes));
