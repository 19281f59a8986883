//! What went wrong and what to do next: the only error a person sees.

use cordon_executor::ExecutorError;
use cordon_graph::{GraphError, TensorError};
use cordon_package::{ErrorKind, PackageError};
use cordon_plan::PlanError;
use cordon_runtime::RuntimeError;
use cordon_seal::SealError;
use core::fmt;

/// An error with its next step.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    next: String,
}

/// What a command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// `next` is one thing the reader can do.
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }

    /// The same error seen from one level further out.
    pub(crate) fn within(mut self, what: impl fmt::Display) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n  next: {}", self.what, self.next)
    }
}

/// Splits a message that ends with its own next step after a semicolon, as the libraries write them.
fn split(text: &str, default: &str) -> Failure {
    match text.split_once("\nNext: ") {
        Some((what, next)) => Failure::new(what, next),
        None => match text.rsplit_once("; ") {
            Some((what, next)) => Failure::new(what, next),
            None => Failure::new(text, default),
        },
    }
}

impl From<GraphError> for Failure {
    fn from(error: GraphError) -> Self {
        let default = match error {
            GraphError::Malformed(_) => "check the file with the `onnx` Python package, or export the model again",
            GraphError::Unsupported(_) => {
                "export the model again with an opset from 7 to 22 and no custom format features"
            }
            GraphError::Limit(_) => "such a model is beyond what Cordon reads; export a smaller one",
            GraphError::Io { .. } => "check the path and its permissions",
            GraphError::Executor(_) => "try another engine with --executor",
            _ => "`cordon inspect` shows the model's inputs, nodes and cuts",
        };
        split(&error.to_string(), default)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Graph(error) => error.into(),
            other => split(&other.to_string(), "make the plan again with `cordon plan`"),
        }
    }
}

impl From<ExecutorError> for Failure {
    fn from(error: ExecutorError) -> Self {
        let default = match error {
            ExecutorError::Malformed(_) => "write the file again, for example with numpy.save",
            ExecutorError::Unsupported(_) => "convert the data to a type Cordon reads, such as float32",
            ExecutorError::Engine { .. } => "try another engine with --executor",
            ExecutorError::Io { .. } => "check the path and its permissions",
            _ => "`cordon doctor` shows which engines this machine has",
        };
        split(&error.to_string(), default)
    }
}

impl From<TensorError> for Failure {
    fn from(error: TensorError) -> Self {
        ExecutorError::from(error).into()
    }
}

impl From<PackageError> for Failure {
    fn from(error: PackageError) -> Self {
        let default = match error.kind() {
            ErrorKind::Hostile => "fetch the package again, or ask its owner to seal it again",
            ErrorKind::Unsupported => "update Cordon",
            ErrorKind::Refused => "ask the package's owner",
            ErrorKind::Resource => "check that the disk has room and the system is healthy",
            _ => "`cordon COMMAND --help` describes the arguments",
        };
        split(&error.to_string(), default)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Package(error) => error.into(),
            RuntimeError::Executor { segment, source } => {
                Self::from(source).within(format!("normal segment {segment}"))
            }
            other => split(&other.to_string(), "`cordon doctor` shows what this machine offers"),
        }
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Plan(error) => error.into(),
            SealError::Graph(error) => error.into(),
            SealError::Package(error) => error.into(),
            SealError::Executor(error) => error.into(),
            SealError::Runtime(error) => error.into(),
            SealError::Exposed { .. } => Self::new(
                error.to_string(),
                "move the cut so that both nodes are on one side, or untie the weights before exporting",
            ),
            SealError::Io { .. } => {
                Self::new(error.to_string(), "check that the folder exists and is writable, and that the disk has room")
            }
            other => split(&other.to_string(), "report it with the model if you can; nothing was written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_error_gets_a_next_step() {
        let failures: [Failure; 4] = [
            GraphError::Misuse("no such node".into()).into(),
            PackageError::Signature.into(),
            ExecutorError::Malformed("half an array".into()).into(),
            RuntimeError::Protocol("an answer").into(),
        ];
        for failure in failures {
            let text = failure.to_string();
            let (what, next) = text.split_once("\n  next: ").expect("two lines");
            assert!(what.len() > 12 && next.len() > 8, "{text}");
        }
    }

    #[test]
    fn a_next_step_inside_the_message_is_taken_out() {
        let failure = Failure::from(PackageError::Truncated);
        assert_eq!(failure.to_string(), "error: the file is shorter than its header says\n  next: copy it again");
    }
}
