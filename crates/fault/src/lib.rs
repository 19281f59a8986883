//! What the errors of Cordon's crates have in common: a stable word, a kind, and a typed next step.
//!
//! | question | answered by |
//! |---|---|
//! | what happened, to which node, file or segment | the error's `Display` |
//! | which error is it, for a program that reads it | [`Fault::word`] |
//! | who or what is to blame | [`Fault::kind`] |
//! | what can be done about it | [`Fault::next`] |
//! | where in the model | [`Fault::place`] |
//!
//! Each crate states these with [`faults!`] beside its error enum. A variant without an entry does not compile. The command line
//! words the next steps; libraries name no flags. `docs/errors.md` lists every entry.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

use core::fmt;

/// Who or what is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes are damaged or forged, or break the rules of their format.
    Hostile,
    /// Valid for all we know, but beyond what this version does.
    Unsupported,
    /// Authentic, but not acceptable here and now: owner, version, expiry, recipient, budget of requests.
    Refused,
    /// The caller asked for something that cannot be.
    Misuse,
    /// Memory, a file, an engine, randomness or the platform failed or does not suffice.
    Resource,
    /// A state the code excludes, or a sealed model that computes something else than its original.
    Bug,
}

impl Kind {
    /// Its stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hostile => "hostile",
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
            Self::Misuse => "misuse",
            Self::Resource => "resource",
            Self::Bug => "bug",
        }
    }
}

/// One thing that the user of a library can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    // The package and its owner.
    /// Fetch the package again and check it: the copy is damaged or was altered.
    FetchAgain,
    /// Have the owner seal the model again: no copy of this package can be right.
    SealAgain,
    /// Use the newest package.
    UseNewest,
    /// Ask the owner for a package that is still valid.
    AskForValid,
    /// Ask the owner for a package with more requests.
    AskForRequests,
    /// Ask the owner to add this device as a recipient.
    AskForGrant,
    /// Give the grant that was made for this package.
    MatchGrant,
    /// Have the owner seal to a device whose platform protects it.
    SealToDevice,
    /// Pin this owner, if it is to be trusted.
    PinOwner,
    /// Seal to fewer recipients, and add the others by grants.
    SplitRecipients,
    /// Give a key as it was written.
    CheckKey,
    // Device, host and enclave.
    /// Set up a device, in this folder when it is named.
    InitDevice {
        /// The folder; empty where it is not known.
        folder: &'a str,
    },
    /// Choose another name or folder.
    OtherPlace,
    /// Restore the device's state, or set up a new device.
    RestoreDevice,
    /// Look at what this system lacks.
    CheckSystem,
    /// Use a newer version.
    Update,
    /// Use the same version on both sides.
    SameVersion,
    /// Try again on a host that is trusted more: this one changed or lost what the enclave had stored with it.
    OtherHost,
    // The request.
    /// Run it again.
    RunAgain,
    /// Wait until another request ends.
    Wait,
    /// Send the value in clear.
    SendClear,
    /// Give inputs of the names, types and shapes that the model takes.
    CheckInput,
    /// Stay within what the message says is allowed.
    StayWithin,
    // Memory and size.
    /// Give more secure memory, or place less inside.
    MoreMemory {
        /// Bytes that suffice, where they are known.
        enough: Option<u64>,
        /// A cut behind which all would fit, where one is known.
        cut: Option<usize>,
    },
    /// Use a smaller batch or smaller inputs.
    Smaller,
    /// Store weights as float32.
    FullPrecision,
    // The model.
    /// Check the model, or export it again.
    ExportAgain,
    /// Export the model within the versions and features that are read.
    ExportStandard,
    /// Export a smaller model.
    ExportSmaller,
    /// Convert the value to a type that secure segments have, or place its nodes outside.
    ConvertType,
    /// Remove this output from the model.
    RemoveOutput,
    /// Give every extent of this value's or input's shape.
    BindShape {
        /// The input, where it is known.
        input: Option<&'a str>,
    },
    /// Look at the model's inputs, nodes and cuts.
    InspectModel,
    // Planning and sealing.
    /// Make the plan again.
    PlanAgain,
    /// Read the model with the shapes the plan was made with.
    SameShapes,
    /// Place the node outside, or move the cut.
    MoveCut,
    /// Choose bounds that go with the goal.
    ChooseBounds,
    /// Name where the BackNet starts.
    AddBack,
    /// Put the end of the FrontNet before the start of the BackNet.
    OrderBounds,
    /// Let each stretch of secure nodes start before it ends, and after the one before it.
    OrderStretches,
    /// Correct how the image is prepared, or bind the input's shape.
    CheckImage,
    /// Give one label per class.
    LabelPerClass,
    /// Place the last layers inside, or let whole outputs leave.
    PlaceEnd,
    /// Put both users of a weight on one side, or untie them.
    UntieWeights,
    /// Give probes.
    GiveProbes,
    // Files and engines.
    /// Check the path and its permissions.
    CheckPath,
    /// Check the path: it names something else than the file.
    NameFile,
    /// Check that the folder is writable and the disk has room.
    CheckDisk,
    /// Write the data file again.
    WriteAgain,
    /// Convert the data to a type and a file format that is read.
    ConvertData,
    /// Name an engine that exists.
    NameEngine,
    /// Choose another engine.
    OtherEngine,
    /// Install the engine's library.
    InstallEngine,
    // None of these.
    /// Correct the call, as the message says.
    CheckCall,
    /// Report a bug.
    Report,
}

/// One line of the table of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Stable, kebab-case, unique over all crates.
    pub word: &'static str,
    /// Who or what is to blame.
    pub kind: Kind,
    /// The usual next step; [`Fault::next`] may know a better one.
    pub next: Next<'static>,
    /// What the word means: one sentence.
    pub meaning: &'static str,
}

/// Where in a model an error is, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// The segment, counted from 0.
    pub segment: Option<usize>,
    /// Name of the node.
    pub node: Option<&'a str>,
    /// Name of the value or initializer.
    pub value: Option<&'a str>,
}

/// An error with a word, a kind and a next step.
pub trait Fault: fmt::Display {
    /// Its line in the table of errors.
    fn entry(&self) -> &'static Entry;

    /// What can be done about it.
    fn next(&self) -> Next<'_> {
        self.entry().next
    }

    /// Where in the model it is.
    fn place(&self) -> Place<'_> {
        Place::default()
    }

    /// Its stable word.
    fn word(&self) -> &'static str {
        self.entry().word
    }

    /// Who or what is to blame.
    fn kind(&self) -> Kind {
        self.entry().kind
    }
}

/// Implements [`Fault`] for an error enum, and gives it `ENTRIES`.
///
/// `wraps` lists variants that hold another crate's error and answer what it answers; `entries` all others, each as
/// `pattern => "word", Kind, Next, "meaning";`. `next` and `place` list the variants that know more than their entry. A variant
/// that neither `wraps` nor `entries` names is a compile error.
#[macro_export]
macro_rules! faults {
    (
        $error:ty;
        wraps { $($wrapper:pat => $inner:expr;)* }
        entries { $($variant:pat => $word:literal, $kind:ident, $step:expr, $meaning:literal;)+ }
        next { $($stepped:pat => $better:expr;)* }
        place { $($placed:pat => $place:expr;)* }
    ) => {
        impl $error {
            /// What each error of this type is called and what can be done about it.
            pub const ENTRIES: &'static [$crate::Entry] = &[$(
                $crate::Entry { word: $word, kind: $crate::Kind::$kind, next: $step, meaning: $meaning },
            )+];
        }

        impl $crate::Fault for $error {
            fn entry(&self) -> &'static $crate::Entry {
                match self {
                    $($wrapper => $crate::Fault::entry($inner),)*
                    $($variant => {
                        const ENTRY: $crate::Entry =
                            $crate::Entry { word: $word, kind: $crate::Kind::$kind, next: $step, meaning: $meaning };
                        &ENTRY
                    })+
                }
            }

            fn next(&self) -> $crate::Next<'_> {
                match self {
                    $($wrapper => $crate::Fault::next($inner),)*
                    $($stepped => $better,)*
                    _ => $crate::Fault::entry(self).next,
                }
            }

            fn place(&self) -> $crate::Place<'_> {
                match self {
                    $($wrapper => $crate::Fault::place($inner),)*
                    $($placed => $place,)*
                    _ => $crate::Place::default(),
                }
            }
        }
    };
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "the macro is for public errors")]
mod tests {
    use super::*;

    enum Inner {
        Node(&'static str),
    }
    enum Outer {
        Wrapped(Inner),
        Memory(u64),
        Disk,
    }

    impl fmt::Display for Inner {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self::Node(name) = self;
            f.write_str(name)
        }
    }

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Wrapped(inner) => inner.fmt(f),
                Self::Memory(bytes) => write!(f, "{bytes} bytes"),
                Self::Disk => f.write_str("the disk is full"),
            }
        }
    }

    impl Fault for Inner {
        fn entry(&self) -> &'static Entry {
            const ENTRY: Entry =
                Entry { word: "inner-node", kind: Kind::Unsupported, next: Next::MoveCut, meaning: "A node." };
            &ENTRY
        }

        fn place(&self) -> Place<'_> {
            let Self::Node(name) = self;
            Place { node: Some(name), ..Place::default() }
        }
    }

    faults! {
        Outer;
        wraps { Self::Wrapped(inner) => inner; }
        entries {
            Self::Memory(_) => "outer-memory", Resource, Next::MoreMemory { enough: None, cut: None }, "Too little.";
            Self::Disk => "outer-disk", Resource, Next::CheckSystem, "No room.";
        }
        next { Self::Memory(needed) => Next::MoreMemory { enough: Some(*needed), cut: None }; }
        place {}
    }

    #[test]
    fn a_wrapper_answers_what_the_error_inside_answers() {
        let error = Outer::Wrapped(Inner::Node("conv"));
        assert_eq!((error.word(), error.kind(), error.next()), ("inner-node", Kind::Unsupported, Next::MoveCut));
        assert_eq!(error.place().node, Some("conv"));
    }

    #[test]
    fn an_error_may_know_more_than_its_entry() {
        let error = Outer::Memory(7);
        assert_eq!(error.next(), Next::MoreMemory { enough: Some(7), cut: None });
        assert_eq!(error.entry(), &Outer::ENTRIES[0]);
        assert_eq!(error.entry().next, Next::MoreMemory { enough: None, cut: None });
        assert_eq!(error.place(), Place::default());
        assert_eq!(Outer::Disk.next(), Outer::ENTRIES[1].next, "this one knows no more");
    }
}
