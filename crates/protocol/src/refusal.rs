//! Why a command was refused: a fixed code and numbers, never text, so nothing secret can travel in an error.

use core::fmt;

use cordon_codec::{DecodeError, Reader, Writer};
use cordon_fault::{Entry, Fault, Next, Place};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its number on the wire.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }

            /// Its fixed word.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            pub(crate) fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// What kind of refusal.
    Code {
        /// The frame is not a command.
        Malformed = 1 "malformed-command",
        /// No protocol version in common.
        Version = 2 "protocol-version",
        /// The command does not fit the state; a request it names is dead.
        OutOfOrder = 3 "out-of-order",
        /// No request has this id: never issued, ended, aborted or dead.
        UnknownRequest = 4 "unknown-request",
        /// As many requests are open as the enclave holds at once.
        Busy = 5 "busy",
        /// The package's `max_requests` are used up.
        RequestLimit = 6 "request-limit",
        /// The payload is sealed; the enclave has no channel yet.
        SealedPayload = 7 "sealed-payload",
        /// What was brought is not what was asked for.
        WrongSupply = 8 "wrong-supply",
        /// A value holds what it must not: NaN, a mask other than 0 and 1, or an index out of range.
        BadValue = 9 "bad-value",
        /// More secure memory is needed than the budget leaves.
        OutOfMemory = 10 "out-of-secure-memory",
        /// A spilled value did not come back as it left.
        CorruptSpill = 11 "corrupt-spill",
        /// Streamed weights did not come back from the normal world's memory as they left, or it is too small for them.
        CorruptStore = 12 "corrupt-store",
        /// Requests to this enclave, or to this package, cannot be sealed.
        NotSealable = 16 "not-sealable",
        /// The package's bytes are damaged or forged.
        PackageHostile = 20 "package-hostile",
        /// The package needs a newer enclave.
        PackageUnsupported = 21 "package-unsupported",
        /// The package's owner is not pinned on this device.
        UnpinnedOwner = 22 "unpinned-owner",
        /// The package is not sealed to this device.
        NotARecipient = 23 "not-a-recipient",
        /// A newer version of the package was accepted before.
        OlderVersion = 24 "older-version",
        /// The package's `not_after` has passed.
        Expired = 25 "expired",
        /// The package is marked development, which this platform refuses.
        Development = 26 "development",
        /// A chunk or section does not match the signed header.
        CorruptChunk = 27 "corrupt-chunk",
        /// A Program is invalid, or contradicts the manifest.
        ProgramInvalid = 28 "program-invalid",
        /// The output policy cannot be kept with this placement.
        PolicyImpossible = 29 "policy-impossible",
        /// The device has no key yet.
        NoDeviceKey = 40 "no-device-key",
        /// The device has a key already.
        DeviceKeyExists = 41 "device-key-exists",
        /// The device state the normal world brought is not what this device handed out.
        DeviceState = 42 "device-state",
        /// The platform failed: no randomness, or no storage.
        Platform = 43 "platform",
        /// A state the code excludes. A bug.
        Internal = 99 "internal",
    }
}

/// A refusal with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// The segment concerned, an index into the manifest's segments.
    pub segment: Option<u32>,
    /// The instruction concerned, an index into the segment's Program.
    pub instruction: Option<u32>,
    /// The value, chunk, slot or section concerned, by index.
    pub index: Option<u32>,
    /// What was needed: bytes, or a version.
    pub needed: Option<u64>,
    /// What there was.
    pub available: Option<u64>,
}

impl Refusal {
    /// A refusal without numbers.
    pub fn new(code: Code) -> Self {
        Self { code, segment: None, instruction: None, index: None, needed: None, available: None }
    }

    /// Names the segment.
    #[must_use]
    pub fn in_segment(mut self, segment: u32) -> Self {
        self.segment = Some(segment);
        self
    }

    /// Names the instruction.
    #[must_use]
    pub fn at_instruction(mut self, instruction: u32) -> Self {
        self.instruction = Some(instruction);
        self
    }

    /// Names the value, chunk or section.
    #[must_use]
    pub fn about(mut self, index: u32) -> Self {
        self.index = Some(index);
        self
    }

    /// Says what was needed and what there was.
    #[must_use]
    pub fn amounts(mut self, needed: u64, available: u64) -> Self {
        self.needed = Some(needed);
        self.available = Some(available);
        self
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u16(self.code.number());
        for field in [self.segment, self.instruction, self.index] {
            w.option(field, |w, v| {
                w.u32(v);
            });
        }
        for field in [self.needed, self.available] {
            w.option(field, |w, v| {
                w.u64(v);
            });
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            code: Code::from_number(r.u16("code")?).ok_or(DecodeError::Invalid("code"))?,
            segment: r.option("segment", |r| r.u32("segment"))?,
            instruction: r.option("instruction", |r| r.u32("instruction"))?,
            index: r.option("index", |r| r.u32("index"))?,
            needed: r.option("needed", |r| r.u64("needed"))?,
            available: r.option("available", |r| r.u64("available"))?,
        })
    }

    fn write_amounts(&self, f: &mut fmt::Formatter<'_>, unit: &str) -> fmt::Result {
        if let Some(needed) = self.needed {
            write!(f, ": {needed} {unit} needed")?;
        }
        if let Some(available) = self.available {
            write!(f, ", {available} {unit} available")?;
        }
        Ok(())
    }

    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(segment) = self.segment {
            write!(f, " (segment {segment}")?;
            if let Some(instruction) = self.instruction {
                write!(f, ", instruction {instruction}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Code::OutOfMemory => {
                f.write_str("not enough secure memory")?;
                self.write_amounts(f, "bytes")?;
                self.write_place(f)
            }
            Code::OlderVersion => {
                let (version, minimum) = (self.available.unwrap_or(0), self.needed.unwrap_or(0));
                write!(f, "version {version} is older than {minimum}, which this device accepted before")
            }
            code => {
                f.write_str(what(code))?;
                if let Some(index) = self.index {
                    write!(f, " (index {index})")?;
                }
                self.write_place(f)
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(what(*self))
    }
}

/// What happened.
fn what(code: Code) -> &'static str {
    match code {
        Code::Malformed => "the enclave could not read the command",
        Code::Version => "enclave and host speak no common protocol version",
        Code::OutOfOrder => "the command was out of order: a request runs every secure segment once, in order",
        Code::UnknownRequest => "the enclave knows no such request: it ended or failed",
        Code::Busy => "the enclave holds as many requests as it can",
        Code::RequestLimit => "the package's request limit is used up",
        Code::SealedPayload => "the enclave does not accept sealed values yet",
        Code::WrongSupply => "the enclave was given something it had not asked for",
        Code::BadValue => "a value holds NaN, a mask other than 0 and 1, or an index out of range",
        Code::OutOfMemory => "not enough secure memory",
        Code::CorruptSpill => "a value that was spilled to this host's memory did not come back as it left",
        Code::CorruptStore => {
            "weights that were put into this host's memory did not come back as they left, or it is too small for them"
        }
        Code::NotSealable => "requests to this enclave cannot be sealed",
        Code::PackageHostile => "the package is damaged or forged",
        Code::PackageUnsupported => "the package needs something this enclave does not know",
        Code::UnpinnedOwner => "the package's owner is not pinned on this device",
        Code::NotARecipient => "the package is not sealed to this device",
        Code::OlderVersion => "a newer version was accepted before",
        Code::Expired => "the package has expired",
        Code::Development => "the package is marked development, which this platform refuses",
        Code::CorruptChunk => "part of the package does not match its signed header",
        Code::ProgramInvalid => "a program of the package is invalid",
        Code::PolicyImpossible => "the output policy cannot be kept with this placement",
        Code::NoDeviceKey => "this device has no key",
        Code::DeviceKeyExists => "this device has a key already",
        Code::DeviceState => "the stored device state was altered",
        Code::Platform => "the platform failed",
        Code::Internal => "the enclave met a state its code excludes",
    }
}

cordon_fault::faults! {
    Code;
    wraps {}
    entries {
        Self::Malformed => "malformed-command", Bug, Next::SameVersion, "The frame is not a command.";
        Self::Version => "protocol-version", Unsupported, Next::SameVersion, "No protocol version in common.";
        Self::OutOfOrder => "out-of-order", Misuse, Next::RunAgain,
            "The command does not fit the state; a request it names is dead.";
        Self::UnknownRequest => "unknown-request", Misuse, Next::RunAgain,
            "No request has this id: never issued, ended, aborted or dead.";
        Self::Busy => "busy", Resource, Next::Wait, "As many requests are open as the enclave holds at once.";
        Self::RequestLimit => "request-limit", Refused, Next::AskForRequests, "The package's `max_requests` are used up.";
        Self::SealedPayload => "sealed-payload", Unsupported, Next::SendClear,
            "The payload is sealed; the enclave has no channel yet.";
        Self::WrongSupply => "wrong-supply", Misuse, Next::RunAgain, "What was brought is not what was asked for.";
        Self::BadValue => "bad-value", Misuse, Next::CheckInput,
            "A value holds what it must not: NaN, a mask other than 0 and 1, or an index out of range.";
        Self::OutOfMemory => "out-of-secure-memory", Resource, Next::MoreMemory { enough: None, cut: None },
            "More secure memory is needed than the budget leaves.";
        Self::CorruptSpill => "corrupt-spill", Hostile, Next::OtherHost, "A spilled value did not come back as it left.";
        Self::CorruptStore => "corrupt-store", Hostile, Next::OtherHost,
            "Streamed weights did not come back from the normal world's memory as they left, or it is too small for them.";
        Self::NotSealable => "not-sealable", Unsupported, Next::SendClear,
            "Requests to this enclave, or to this package, cannot be sealed.";
        Self::PackageHostile => "package-hostile", Hostile, Next::FetchAgain, "The package's bytes are damaged or forged.";
        Self::PackageUnsupported => "package-unsupported", Unsupported, Next::Update,
            "The package needs something this version does not know.";
        Self::UnpinnedOwner => "unpinned-owner", Refused, Next::PinOwner,
            "The package's owner is not pinned on this device.";
        Self::NotARecipient => "not-a-recipient", Refused, Next::AskForGrant, "The package is not sealed to this device.";
        Self::OlderVersion => "older-version", Refused, Next::UseNewest,
            "A newer version of the package was accepted before.";
        Self::Expired => "expired", Refused, Next::AskForValid, "The package's `not_after` has passed.";
        Self::Development => "development", Refused, Next::SealToDevice,
            "The package is marked development, which this platform refuses.";
        Self::CorruptChunk => "corrupt-chunk", Hostile, Next::FetchAgain,
            "A chunk or section does not match the signed header.";
        Self::ProgramInvalid => "program-invalid", Hostile, Next::SealAgain,
            "A Program is invalid, or contradicts the manifest.";
        Self::PolicyImpossible => "policy-impossible", Refused, Next::PlaceEnd,
            "The output policy cannot be kept with this placement.";
        Self::NoDeviceKey => "no-device-key", Misuse, Next::InitDevice { folder: "" }, "The device has no key yet.";
        Self::DeviceKeyExists => "device-key-exists", Misuse, Next::OtherPlace, "The device has a key already.";
        Self::DeviceState => "device-state", Hostile, Next::RestoreDevice,
            "The device state the normal world brought is not what this device handed out.";
        Self::Platform => "platform", Resource, Next::CheckSystem, "The platform failed: no randomness, or no storage.";
        Self::Internal => "internal", Bug, Next::Report, "A state the code excludes. A bug.";
    }
    next {}
    place {}
}

impl Fault for Refusal {
    fn entry(&self) -> &'static Entry {
        self.code.entry()
    }

    fn place(&self) -> Place<'_> {
        Place { segment: self.segment.and_then(|segment| usize::try_from(segment).ok()), ..Place::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn numbers_are_distinct_and_read_back() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
        }
        assert_eq!(Code::from_number(0), None);
    }

    #[test]
    fn messages_name_the_numbers_and_leave_the_next_step_to_its_type() {
        let refusal = Refusal::new(Code::OutOfMemory).in_segment(2).at_instruction(17).amounts(900, 100);
        let text = refusal.to_string();
        for part in ["900 bytes needed", "100 bytes available", "segment 2, instruction 17"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(refusal.next(), Next::MoreMemory { enough: None, cut: None });
        assert_eq!(refusal.place().segment, Some(2));
    }

    #[test]
    fn every_code_has_one_word() {
        for (code, entry) in Code::ALL.iter().zip(Code::ENTRIES) {
            assert_eq!(code.name(), entry.word);
            assert_eq!(code.entry(), entry);
            assert!(!Refusal::new(*code).to_string().contains("; "), "{} gives advice", code.name());
        }
        assert_eq!(Code::ALL.len(), Code::ENTRIES.len());
    }
}
