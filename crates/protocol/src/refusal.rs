//! Why a command was refused: a fixed code and numbers, never text, so nothing secret can travel in an error.

use core::fmt;

use cordon_codec::{DecodeError, Reader, Writer};

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
                self.write_place(f)?;
                f.write_str("; raise the budget, use a smaller batch, or place less in secure segments")
            }
            Code::OlderVersion => {
                let (version, minimum) = (self.available.unwrap_or(0), self.needed.unwrap_or(0));
                write!(
                    f,
                    "version {version} is older than {minimum}, which this device accepted before; use the newer package"
                )
            }
            code => {
                let (what, next) = explain(code);
                f.write_str(what)?;
                if let Some(index) = self.index {
                    write!(f, " (index {index})")?;
                }
                self.write_place(f)?;
                write!(f, "; {next}")
            }
        }
    }
}

/// What happened, and the next step.
fn explain(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::Malformed => ("the enclave could not read the command", "use the same Cordon version on both sides"),
        Code::Version => ("enclave and host speak no common protocol version", "update the older one"),
        Code::OutOfOrder => {
            ("the command was out of order", "a request runs every secure segment once, in order; begin a new request")
        }
        Code::UnknownRequest => ("the enclave knows no such request", "it ended or failed; begin a new one"),
        Code::Busy => ("the enclave holds as many requests as it can", "end one first"),
        Code::RequestLimit => {
            ("the package's request limit is used up", "ask its owner for a package with a higher limit")
        }
        Code::SealedPayload => ("the enclave does not accept sealed values yet", "send clear ones"),
        Code::WrongSupply => ("the enclave was given something it had not asked for", "begin a new request"),
        Code::BadValue => ("a value holds NaN, a mask other than 0 and 1, or an index out of range", "check the input"),
        Code::OutOfMemory => ("not enough secure memory", "raise the budget"),
        Code::CorruptSpill => (
            "a value that was spilled to this host's memory did not come back as it left",
            "run it again, on a host you trust more",
        ),
        Code::CorruptStore => (
            "weights that were put into this host's memory did not come back as they left, or it is too small for them",
            "load the package again, on a host you trust more",
        ),
        Code::PackageHostile => ("the package is damaged or forged", "copy it again, or ask its owner"),
        Code::PackageUnsupported => ("the package needs something this enclave does not know", "update Cordon"),
        Code::UnpinnedOwner => {
            ("the package's owner is not pinned on this device", "pin it with `cordon device init --owner`")
        }
        Code::NotARecipient => ("the package is not sealed to this device", "ask its owner for `cordon grant`"),
        Code::OlderVersion => ("a newer version was accepted before", "use the newer package"),
        Code::Expired => ("the package has expired", "ask its owner for a newer one"),
        Code::Development => {
            ("the package is marked development, which this platform refuses", "have it sealed to real devices")
        }
        Code::CorruptChunk => ("part of the package does not match its signed header", "copy the file again"),
        Code::ProgramInvalid => ("a program of the package is invalid", "have the owner seal again"),
        Code::PolicyImpossible => {
            ("the output policy cannot be kept with this placement", "place the end of the model in a secure segment")
        }
        Code::NoDeviceKey => ("this device has no key", "run `cordon device init`"),
        Code::DeviceKeyExists => ("this device has a key already", "choose another directory"),
        Code::DeviceState => {
            ("the stored device state was altered", "restore it, or make a new device with `cordon device init`")
        }
        Code::Platform => ("the platform failed", "see `cordon doctor`"),
        Code::Internal => ("the enclave met a state its code excludes", "please report it"),
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
    fn messages_name_the_numbers_and_a_next_step() {
        let refusal = Refusal::new(Code::OutOfMemory).in_segment(2).at_instruction(17).amounts(900, 100);
        let text = refusal.to_string();
        for part in ["900 bytes needed", "100 bytes available", "segment 2, instruction 17", "raise the budget"] {
            assert!(text.contains(part), "{text}");
        }
        for code in Code::ALL {
            assert!(Refusal::new(*code).to_string().contains("; "), "{} has no next step", code.name());
        }
    }
}
