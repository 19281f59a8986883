//! The official node tests on any engine, held to what `engines/NAME.toml` expects of it.

use std::collections::BTreeMap;

use crate::cases::{Case, Reason};
use crate::expectations::Expectations;

/// An engine that node tests run on.
pub trait Engine {
    /// Its name in `engines/`.
    fn name(&self) -> &'static str;

    /// What it owes a test.
    fn scope(&self, case: &Case) -> Scope;

    /// Runs a test; says which inputs had to be constants for it.
    fn run(&self, case: &Case, expected: &Expectations) -> Result<Bound, Failed>;
}

/// What an engine owes a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To pass it.
    Run,
    /// Nothing, for this reason.
    Skip(Reason),
    /// Nothing: it does not promise the operator.
    Foreign,
}

/// Which inputs of a test were made constants so that an engine could load the model.
///
/// In these tests weights, shapes and axes are all run-time inputs. The trusted engine takes some of them from the
/// package only; the first input always stays a run-time input, so the operator really runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// None: every input came at run time.
    Nothing,
    /// Shapes, axes and indices.
    Integers,
    /// Everything but the first.
    AllButFirst,
}

/// Why a test did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The engine says that it cannot run it.
    Refused(String),
    /// It gave another answer.
    Wrong(String),
}

impl Failed {
    /// One word for a list.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Wrong(_) => "wrong",
        }
    }
}

impl core::fmt::Display for Failed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Refused(why) | Self::Wrong(why) => write!(f, "{}: {why}", self.word()),
        }
    }
}

/// How every test of a sweep ended, by name.
#[derive(Default)]
pub struct Sweep {
    /// Passed.
    pub passed: BTreeMap<String, Bound>,
    /// Run, and not passed.
    pub failed: BTreeMap<String, Failed>,
    /// Not run.
    pub skipped: BTreeMap<String, Reason>,
    /// Passed, failed and skipped by operator.
    pub operators: BTreeMap<String, [usize; 3]>,
}

/// Runs every test that is in the engine's scope.
pub fn sweep(engine: &dyn Engine, cases: &[Case], expected: &Expectations) -> Sweep {
    let mut sweep = Sweep::default();
    for case in cases {
        let scope = engine.scope(case);
        if scope == Scope::Foreign {
            continue;
        }
        let operator = case.only_node().map_or("(several)", |node| node.op_type()).to_owned();
        let counts = sweep.operators.entry(operator).or_default();
        let name = case.name.clone();
        if let Scope::Skip(reason) = scope {
            counts[2] += 1;
            sweep.skipped.insert(name, reason);
            continue;
        }
        match engine.run(case, expected) {
            Ok(bound) => {
                counts[0] += 1;
                sweep.passed.insert(name, bound);
            }
            Err(why) => {
                counts[1] += 1;
                sweep.failed.insert(name, why);
            }
        }
    }
    sweep
}

impl Sweep {
    /// Every way in which the engine does other than expected.
    pub fn surprises(&self, expected: &Expectations) -> Vec<String> {
        let mut all = Vec::new();
        for (name, why) in self.failed.iter().filter(|(name, _)| !expected.failing.contains_key(*name)) {
            all.push(format!("{name} fails and is not listed: {why}"));
        }
        for name in expected.failing.keys().filter(|name| expected.exact && !self.failed.contains_key(*name)) {
            all.push(format!("{name} is listed and does not fail: take it off"));
        }
        let skipped: BTreeMap<&str, &str> =
            self.skipped.iter().map(|(name, why)| (name.as_str(), why.word())).collect();
        let listed: BTreeMap<&str, &str> =
            expected.skipped.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        for name in skipped.keys().chain(listed.keys()).filter(|name| skipped.get(*name) != listed.get(*name)) {
            all.push(format!("{name} is skipped for {:?} and listed with {:?}", skipped.get(name), listed.get(name)));
        }
        let (passed, run) = (self.passed.len(), self.passed.len() + self.failed.len());
        if passed * 100 < run * expected.required {
            all.push(format!("{passed} of {run} node tests pass; {} % are required", expected.required));
        }
        all
    }

    /// Counts in one line.
    pub fn summary(&self, engine: &str) -> String {
        let mut bound: BTreeMap<Bound, usize> = BTreeMap::new();
        self.passed.values().for_each(|how| *bound.entry(*how).or_default() += 1);
        let operators = self.operators.values().filter(|counts| counts[0] > 0).count();
        let wrong = self.failed.values().filter(|why| matches!(why, Failed::Wrong(_))).count();
        format!(
            "{engine}: {} of {} node tests passed, {operators} operators, {wrong} wrong, {} skipped; inputs made constant: {bound:?}",
            self.passed.len(),
            self.passed.len() + self.failed.len(),
            self.skipped.len()
        )
    }
}
