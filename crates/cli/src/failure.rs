//! What went wrong and what to do next: the only error a person sees, and with `--json` the only one a program sees.
//!
//! Libraries say what happened and give a typed [`Next`]; this file alone puts next steps into words with commands and flags.

use clap::error::ErrorKind;
use cordon_fault::{Entry, Fault, Kind, Next};
use core::fmt;
use serde_json::{Value, json};

/// An error with its next step.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    entry: &'static Entry,
    what: String,
    next: String,
    segment: Option<usize>,
    node: Option<String>,
    value: Option<String>,
}

/// What a command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Errors of the command line itself.
pub(crate) mod own {
    use super::{Entry, Kind, Next};

    macro_rules! own {
        ($($name:ident = $word:literal, $kind:ident, $next:ident, $meaning:literal;)*) => {
            $(pub(crate) static $name: Entry =
                Entry { word: $word, kind: Kind::$kind, next: Next::$next, meaning: $meaning };)*

            /// All of them.
            #[cfg(test)]
            pub(crate) static ALL: &[&Entry] = &[$(&$name),*];
        };
    }

    own! {
        USAGE = "usage", Misuse, CheckCall, "The command line is not one this command takes; the exit status is 2.";
        ARGUMENT = "argument", Misuse, CheckCall, "An argument does not fit the others or what they name.";
        INPUT = "input", Misuse, CheckInput, "An input does not fit the model, or is not of a kind that is read.";
        UNREADABLE = "file-unreadable", Resource, CheckPath, "A file or folder cannot be read.";
        UNWRITABLE = "file-unwritable", Resource, CheckDisk, "A file or folder cannot be written.";
        EXISTS = "file-exists", Misuse, OtherPlace, "Nothing is written over; something has this name already.";
        KEY = "key", Misuse, CheckKey, "A key is not valid, or not kept safely.";
        SYSTEM = "system", Resource, CheckSystem, "This system does not do what was tried.";
        DISAGREEMENT = "disagreement", Bug, Report, "Results do not agree that must, or something was accepted that must not be.";
    }
}

impl Failure {
    /// An error of the command line itself; `next` is one thing the reader can do.
    pub(crate) fn new(entry: &'static Entry, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { entry, what: what.into(), next: next.into(), segment: None, node: None, value: None }
    }

    /// A wrong command line, as clap found it.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let what = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                "a command is missing"
            }
            _ => text.split("\n\nUsage:").next().unwrap_or_default(),
        };
        let what = what.split("\n\nFor more").next().unwrap_or_default();
        let what: Vec<&str> = what.strip_prefix("error: ").unwrap_or(what).split_whitespace().collect();
        Self::new(&own::USAGE, what.join(" "), words(own::USAGE.next))
    }

    /// The same error seen from one level further out.
    pub(crate) fn within(mut self, what: impl fmt::Display) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// With another next step, which knows more.
    pub(crate) fn advise(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }

    /// The same for a program: `{"error": …}`.
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({
            "word": self.entry.word,
            "kind": self.entry.kind.word(),
            "message": self.what,
            "next": self.next,
        });
        let place = [
            ("segment", self.segment.map(Value::from)),
            ("node", self.node.as_deref().map(Value::from)),
            ("value", self.value.as_deref().map(Value::from)),
        ];
        for (key, known) in place {
            if let Some(known) = known {
                error[key] = known;
            }
        }
        json!({ "error": error })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n  next: {}", self.what, self.next)
    }
}

impl<E: Fault> From<E> for Failure {
    fn from(error: E) -> Self {
        let place = error.place();
        Self {
            entry: error.entry(),
            what: error.to_string(),
            next: words(error.next()),
            segment: place.segment,
            node: place.node.map(str::to_owned),
            value: place.value.map(str::to_owned),
        }
    }
}

/// A next step in words, with the commands and flags of this program.
fn words(next: Next<'_>) -> String {
    let text = match next {
        Next::FetchAgain => "fetch the package again; `cordon verify` checks it",
        Next::SealAgain => "ask the package's owner to seal the model again",
        Next::UseNewest => "use the newest package; an older one is never accepted again on this device",
        Next::AskForValid => "ask the package's owner for a package that is still valid",
        Next::AskForRequests => "ask the package's owner for a package with more requests",
        Next::AskForGrant => "ask the package's owner for `cordon grant` with this device's recipient string",
        Next::MatchGrant => "give the grant that was made for this package",
        Next::SealToDevice => "have the owner seal the model to this device, with `cordon seal --recipient`",
        Next::PinOwner => "if you trust this owner, set up a device that pins it: `cordon device init --owner PUB`",
        Next::SplitRecipients => "name fewer recipients, and add the others with `cordon grant`",
        Next::CheckKey => "give the key as `cordon keygen` or `cordon device init` wrote it",
        Next::InitDevice { folder: "" } => "`cordon device init --owner PUB` makes a device",
        Next::InitDevice { folder } => return format!("`cordon device init --owner PUB --dir {folder}`"),
        Next::OtherPlace => "choose another name, or move the existing one away first",
        Next::RestoreDevice => "restore the device folder, or set up a new device with `cordon device init`",
        Next::CheckSystem => "`cordon doctor` shows what this system lacks",
        Next::Update => "update Cordon",
        Next::SameVersion => "use the same version of Cordon for host and enclave: update the older one",
        Next::OtherHost => "run it again, on a host you trust more",
        Next::RunAgain => "run it again",
        Next::Wait => "wait until another request ends",
        Next::SendClear => "send the input in clear; the encrypted channel does not exist yet",
        Next::CheckInput => "check the names, types, shapes and values of the inputs",
        Next::StayWithin => "stay within what this machine offers; `cordon doctor` shows it",
        Next::MoreMemory { enough: None, .. } => "give more with --secure-memory, or plan with a smaller budget",
        Next::MoreMemory { enough: Some(enough), cut: None } => {
            return format!("--secure-memory {enough} would do, or other cuts (`cordon inspect` estimates each)");
        }
        Next::MoreMemory { enough: Some(enough), cut: Some(cut) } => {
            return format!(
                "--secure-memory {enough} would do, or fewer nodes inside: --protect weights --back {cut} fits"
            );
        }
        Next::Smaller => "use a smaller batch or smaller inputs",
        Next::FullPrecision => "plan with --weights f32",
        Next::ExportAgain => "check the file with the `onnx` Python package, or export the model again",
        Next::ExportStandard => {
            let opsets = cordon_graph::OPSETS;
            return format!(
                "export the model again with an opset from {} to {} and no custom format features",
                opsets.start(),
                opsets.end()
            );
        }
        Next::ExportSmaller => "such a model is beyond what Cordon reads; export a smaller one",
        Next::ConvertType => "convert the model to float32, or move the cut so that the value stays outside",
        Next::RemoveOutput => "remove it from the model's outputs",
        Next::BindShape { input } => {
            return format!("give every extent, as in --shape {}=1x3x224x224", input.unwrap_or("NAME"));
        }
        Next::InspectModel => "`cordon inspect` shows the model's inputs, nodes and cuts",
        Next::PlanAgain => "make a new plan with `cordon plan`",
        Next::SameShapes => "give the --shape values the plan was made with, or make a new plan with `cordon plan`",
        Next::MoveCut => "move the cut with --front, --back or --secure, so that it stays outside the secure segments",
        Next::ChooseBounds => "drop --front, --back and --secure, or choose --protect weights, inputs or both",
        Next::AddBack => "add --back",
        Next::OrderBounds => "give --front a smaller number than --back, or use --protect all",
        Next::OrderStretches => "let each --secure FROM..TO start before it ends, and no two hold the same node",
        Next::CheckImage => {
            "correct size=, the channels or the input's name in --image, or bind the shape with --shape"
        }
        Next::LabelPerClass => "give one line per class",
        Next::PlaceEnd => "plan with the last layers inside and a class axis, or choose the output policy `full`",
        Next::UntieWeights => "move the cut so that both nodes are on one side, or untie the weights before exporting",
        Next::GiveProbes => "give other inputs with --probe",
        Next::CheckPath => "check the path and its permissions",
        Next::NameFile => "check the path: it must name the file itself",
        Next::CheckDisk => "check that the folder exists and is writable, and that the disk has room",
        Next::WriteAgain => "write the file again, for example with numpy.save",
        Next::ConvertData => "convert the data to a type and a file format Cordon reads, such as float32 in .npy",
        Next::NameEngine => "choose rten, onnxruntime, onnxruntime:cpu or onnxruntime:cuda",
        Next::OtherEngine => "try another engine with --executor",
        Next::InstallEngine => {
            "`pip install onnxruntime` (or onnxruntime-gpu for CUDA), or set CORDON_ONNXRUNTIME to libonnxruntime.so, or use \
             --executor rten, which is built in"
        }
        Next::CheckCall => "`cordon COMMAND --help` describes the arguments",
        Next::Report => "this is a bug: report it with the output of `cordon doctor`",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests;
