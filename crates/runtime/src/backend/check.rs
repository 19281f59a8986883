/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Good,
    /// Not there; something is weaker or slower, nothing is broken.
    Missing,
    /// Sealed models cannot run here.
    Broken,
}

/// One thing that was looked at, as `cordon doctor` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub got: String,
    /// How that is judged.
    pub verdict: Verdict,
    /// What to do unless it is good.
    pub advice: String,
}

impl Check {
    /// A check with its outcome.
    pub fn new(what: &str, expected: &str, got: impl Into<String>, verdict: Verdict, advice: &str) -> Self {
        Self { what: what.into(), expected: expected.into(), got: got.into(), verdict, advice: advice.into() }
    }
}
