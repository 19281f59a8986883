//! The output policy: what leaves under each.

mod support;

use cordon_package::{Normalisation, OutputPolicy};
use cordon_protocol::Ranked;
use support::{Host, Recipe, expected, floats};

const X: [f32; 4] = [0.1, 0.2, 0.3, -8.0];

fn softmax(logits: &[f32]) -> Vec<f32> {
    let exp: Vec<f64> = logits.iter().map(|v| f64::from(*v).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|v| (v / sum) as f32).collect()
}

fn run(policy: &str, normalisation: Normalisation, labels: &[&'static str]) -> Vec<u8> {
    let policy: OutputPolicy = policy.parse().expect("valid");
    let recipe = Recipe { policy, normalisation, labels: labels.to_vec(), ..Recipe::default() };
    let mut host = Host::ready(&recipe);
    let output = host.run(X).expect("runs");
    let left: Vec<u32> = host.left.iter().map(|(value, _)| *value).collect();
    assert_eq!(left, [1, 4], "the output leaves once");
    output
}

#[test]
fn full_lets_the_logits_out_unchanged() {
    assert_eq!(floats(&run("full", Normalisation::Softmax, &[])), expected(X));
}

#[test]
fn rounded_normalises_first() {
    let probabilities = softmax(&expected(X));
    let got = floats(&run("rounded:2", Normalisation::Softmax, &[]));
    for (got, exact) in got.iter().zip(&probabilities) {
        assert!((got - exact).abs() <= 0.005 + 1e-6, "{got} for {exact}");
        assert!(((got * 100.0).round() - got * 100.0).abs() < 1e-4, "{got} has more than two decimals");
    }
    let raw = floats(&run("rounded:0", Normalisation::None, &[]));
    assert_eq!(raw, expected(X).iter().map(|v| v.round()).collect::<Vec<_>>());
}

#[test]
fn top_k_names_the_best_classes_and_no_other() {
    let probabilities = softmax(&expected(X));
    let mut order: Vec<u32> = (0..4).collect();
    order.sort_by(|a, b| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]));
    let ranked = Ranked::decode(&run("top:2:3", Normalisation::Softmax, &["a", "b", "c", "d"])).expect("ranked");
    assert_eq!(ranked.rows.len(), 1);
    let row = &ranked.rows[0];
    assert_eq!(row.iter().map(|e| e.class).collect::<Vec<_>>(), order[..2]);
    for entry in row {
        let score = entry.score.expect("scores");
        assert!((score - probabilities[entry.class as usize]).abs() <= 0.0005 + 1e-6);
        assert_eq!(entry.label.as_deref(), Some(["a", "b", "c", "d"][entry.class as usize]));
    }
    let all = Ranked::decode(&run("top:100", Normalisation::Softmax, &[])).expect("ranked");
    assert_eq!(all.rows[0].len(), 4, "there are no more classes");
}

#[test]
fn label_names_one_class_and_no_score() {
    let ranked = Ranked::decode(&run("label", Normalisation::Softmax, &["a", "b", "c", "d"])).expect("ranked");
    let [entry] = ranked.rows[0].as_slice() else { panic!("one class") };
    let probabilities = softmax(&expected(X));
    let best = (0..4).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b])).expect("four");
    assert_eq!((entry.class as usize, entry.score), (best, None));
    assert_eq!(entry.label.as_deref(), Some(["a", "b", "c", "d"][best]));
}

#[test]
fn a_governed_output_leaves_in_pieces_too() {
    let recipe = Recipe { policy: OutputPolicy::Rounded { decimals: 3 }, ..Recipe::default() };
    let mut host = Host::ready(&recipe);
    let whole = host.run(X).expect("runs");
    host.settings.payload_limit.set(8);
    assert_eq!(host.run(X).expect("runs"), whole);
}
