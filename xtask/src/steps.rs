//! Named steps with an outcome and a time.

use core::time::Duration;
use std::time::Instant;

/// How a step ended when nothing was wrong.
pub(crate) enum Outcome {
    /// Done; the text says what was looked at.
    Passed(String),
    /// Not run; the text says why.
    Skipped(String),
}

/// Steps run so far.
pub(crate) struct Steps {
    started: Instant,
    done: Vec<(String, Duration, Result<Outcome, String>)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Runs a step. A failure is kept and the next step still runs, so one run shows everything that is wrong.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<Outcome, String>) {
        println!("== {name}");
        let start = Instant::now();
        let outcome = step();
        if let Err(why) = &outcome {
            println!("{why}");
        }
        self.done.push((name.to_owned(), start.elapsed(), outcome));
    }

    /// Prints one line per step and fails when one did.
    pub(crate) fn finish(self) -> Result<(), String> {
        println!();
        let mut failed = Vec::new();
        for (name, time, outcome) in &self.done {
            let (word, text) = match outcome {
                Ok(Outcome::Passed(text)) => ("ok", text.as_str()),
                Ok(Outcome::Skipped(why)) => ("NOT RUN", why.as_str()),
                Err(_) => {
                    failed.push(name.as_str());
                    ("FAILED", "see above")
                }
            };
            println!("{word:8} {name:24} {:7.1} s  {text}", time.as_secs_f64());
        }
        println!("total {:.1} min", self.started.elapsed().as_secs_f64() / 60.0);
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
    }
}
