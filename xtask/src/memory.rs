//! `cargo xtask memory`: every network all inside, in small secure memory, in the real enclave. What `plan` predicts is never
//! less than what the enclave takes, and at most [`LOOSE`] times it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::bench::networks;
use crate::cache;
use crate::commands::{capture, cargo, root, run};

/// Budgets every network runs in, as `cordon bench` reads them.
const BUDGETS: &str = "10MiB,14MiB,16MiB";
/// Most a prediction may be of what is measured.
const LOOSE: f64 = 1.05;
const MIB: f64 = (1 << 20) as f64;

/// The task: the networks named, or all, with the release build.
pub(crate) fn task(networks: &[&str]) -> Result<(), String> {
    run(&mut cargo(&["build", "--release", "--quiet", "--locked", "-p", "cordon"]))?;
    let all: Vec<&str> = networks::all().collect();
    let networks = if networks.is_empty() { all.as_slice() } else { networks };
    check(&root().join("target/release/cordon"), networks)
}

/// Holds predictions against measurements, network by network; all failures are told together.
pub(crate) fn check(cordon: &Path, networks: &[&str]) -> Result<(), String> {
    let models = cache::models(networks)?;
    let mut wrong = Vec::new();
    for network in networks {
        let mut command = Command::new(cordon);
        command.args(["--json", "bench"]).arg(models.join(network).join("torchscript17-fixed/model.onnx"));
        command.args(["--secure-memory", BUDGETS, "--repeat", "1"]);
        let said = capture(&mut command)?;
        let variants = said.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
        for variant in variants.map_err(|e| format!("{network}: {e}"))? {
            match verdict(&variant) {
                Ok(None) => (),
                Ok(Some(text)) => println!("{network:20} {text}"),
                Err(text) => {
                    println!("{network:20} {text}  WRONG");
                    wrong.push(format!("{network}: {text}"));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// What one variant says of memory; `None` of one without an enclave.
fn verdict(variant: &Value) -> Result<Option<String>, String> {
    let name = variant["variant"].as_str().unwrap_or_default();
    if let Some(error) = variant["error"].as_str() {
        return Err(format!("{name}: {error}"));
    }
    let figure = |key: &str| variant[key].as_f64().unwrap_or_default();
    let (predicted, measured) = (figure("secure_memory_predicted"), figure("secure_memory_measured"));
    if name == "plain" || name.is_empty() {
        return Ok(None);
    }
    let ratio = predicted / measured;
    let text =
        format!("{name:24} predicted {:7.2} MiB, measured {:7.2} MiB: {ratio:.3}", predicted / MIB, measured / MIB);
    if (1.0..=LOOSE).contains(&ratio) { Ok(Some(text)) } else { Err(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_prediction_is_at_least_the_measurement_and_close_to_it() {
        let of = |predicted: u64, measured: u64| {
            verdict(&json!({
                "variant": "all-secure in 10.0 MiB",
                "secure_memory_predicted": predicted,
                "secure_memory_measured": measured,
            }))
        };
        assert!(of(100, 100).is_ok() && of(105, 100).is_ok());
        assert!(of(99, 100).is_err() && of(106, 100).is_err() && of(0, 0).is_err());
        assert!(verdict(&json!({ "variant": "all-secure in 10.0 MiB", "error": "refused" })).is_err());
        assert_eq!(verdict(&json!({ "variant": "plain", "secure_memory_measured": 0 })), Ok(None));
    }
}
