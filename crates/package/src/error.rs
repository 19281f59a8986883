//! The one error type of the crate.

use core::fmt;

use cordon_codec::DecodeError;
use cordon_fault::{Fault, Next};

use crate::section::SectionKind;

/// Why a package, key or grant was refused. Messages name the place, never secret values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackageError {
    /// The file does not begin with the magic bytes of what it should be.
    BadMagic,
    /// The file or header is shorter than its own header says.
    Truncated,
    /// Bytes follow the last section, or padding is not zero.
    Trailing,
    /// The header, a manifest or a segment's secret part is not validly encoded.
    Malformed(DecodeError),
    /// The owner's signature does not match.
    Signature,
    /// A section's bytes do not match the root in the signed header.
    Digest {
        /// Which section.
        kind: SectionKind,
        /// Its segment.
        segment: u16,
    },
    /// A chunk matches the signed root but does not decrypt under the segment's key.
    Chunk {
        /// Which section.
        kind: SectionKind,
        /// Its segment.
        segment: u16,
        /// The chunk.
        index: u32,
    },
    /// The manifest breaks one of its rules.
    Manifest {
        /// The rule.
        rule: &'static str,
        /// Index of the value or segment at fault.
        index: u32,
    },
    /// A wrapped key addressed to this device does not open.
    Unwrap,
    /// The format version is not the one this reader knows.
    UnsupportedFormat(u16),
    /// The cipher suite is not one this reader knows.
    UnsupportedSuite(u16),
    /// Something else this version does not know.
    Unsupported(&'static str),
    /// The owner is not among the pinned ones.
    UnpinnedOwner,
    /// `not_after` has passed.
    Expired {
        /// Seconds since 1970-01-01 UTC.
        not_after: u64,
    },
    /// A newer version of the same name was accepted before.
    OlderVersion {
        /// The package's.
        version: u64,
        /// Smallest accepted.
        minimum: u64,
    },
    /// Marked `development`, which the verifier does not accept.
    Development,
    /// No wrapped key in the package or grant is for this device.
    NotARecipient,
    /// The grant belongs to another package.
    OtherPackage,
    /// More recipients than one package or grant holds.
    TooManyRecipients,
    /// A key or key file is not validly written.
    BadKey(&'static str),
    /// The caller asked for something that cannot be.
    Misuse(&'static str),
    /// The source of randomness failed.
    Random,
    /// The sink refused bytes; it knows why.
    Sink,
}

impl PackageError {
    /// Its word without `package-`: what `vectors/index.txt`, the second reader and SPEC.md name it.
    pub fn class(&self) -> &'static str {
        let word = self.word();
        word.strip_prefix("package-").unwrap_or(word)
    }
}

cordon_fault::faults! {
    PackageError;
    wraps {}
    entries {
        Self::BadMagic => "package-magic", Hostile, Next::NameFile, "The file is not a Cordon file of this kind.";
        Self::Truncated => "package-truncated", Hostile, Next::FetchAgain, "The file is shorter than its header says.";
        Self::Trailing => "package-trailing", Hostile, Next::FetchAgain, "Bytes lie outside every section.";
        Self::Malformed(DecodeError::TooLong(_)) => "package-limit", Hostile, Next::FetchAgain,
            "A length in the package is over its limit.";
        Self::Malformed(_) => "package-malformed", Hostile, Next::FetchAgain, "The package is not validly encoded.";
        Self::Signature => "package-signature", Hostile, Next::FetchAgain,
            "The owner's signature does not match what was signed.";
        Self::Digest { .. } => "package-digest", Hostile, Next::FetchAgain,
            "A section does not match the root in the signed header.";
        Self::Chunk { .. } => "package-chunk", Hostile, Next::SealAgain,
            "A chunk matches the signed header and does not decrypt.";
        Self::Manifest { .. } => "package-manifest", Hostile, Next::SealAgain, "The manifest breaks one of its rules.";
        Self::Unwrap => "package-unwrap", Hostile, Next::SealAgain, "The key wrapped for this device does not open.";
        Self::UnsupportedFormat(_) | Self::UnsupportedSuite(_) | Self::Unsupported(_) => "package-unsupported", Unsupported,
            Next::Update, "The package needs something this version does not know.";
        Self::UnpinnedOwner => "package-owner", Refused, Next::PinOwner, "The package's owner is not pinned here.";
        Self::Expired { .. } => "package-expired", Refused, Next::AskForValid, "The package's `not_after` has passed.";
        Self::OlderVersion { .. } => "package-rollback", Refused, Next::UseNewest,
            "A newer version of the package was accepted before.";
        Self::Development => "package-development", Refused, Next::SealToDevice,
            "The package is marked development, which is not accepted here.";
        Self::NotARecipient => "package-recipient", Refused, Next::AskForGrant, "The package is not sealed to this device.";
        Self::OtherPackage => "package-other-package", Refused, Next::MatchGrant, "The grant belongs to another package.";
        Self::TooManyRecipients => "package-too-many-recipients", Misuse, Next::SplitRecipients,
            "More recipients than one package or grant holds.";
        Self::BadKey(_) => "package-key", Misuse, Next::CheckKey, "A key or key file is not validly written.";
        Self::Misuse(_) => "package-misuse", Misuse, Next::CheckCall, "What was asked for cannot be.";
        Self::Random => "package-random", Resource, Next::CheckSystem, "The source of randomness failed.";
        Self::Sink => "package-sink", Resource, Next::CheckDisk, "The output refused the bytes.";
    }
    next {}
    place {}
}

impl fmt::Display for PackageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic => f.write_str("not a Cordon file of this kind"),
            Self::Truncated => f.write_str("the file is shorter than its header says"),
            Self::Trailing => f.write_str("bytes lie outside every section"),
            Self::Malformed(e) => write!(f, "malformed: {e}"),
            Self::Signature => f.write_str("the owner's signature does not match"),
            Self::Digest { kind, segment } => {
                write!(f, "{kind} of segment {segment} does not match the signed header")
            }
            Self::Chunk { kind, segment, index } => {
                write!(f, "chunk {index} of {kind} of segment {segment} does not decrypt")
            }
            Self::Manifest { rule, index } => write!(f, "manifest: {rule} (index {index})"),
            Self::Unwrap => f.write_str("the key wrapped for this device does not open"),
            Self::UnsupportedFormat(v) => write!(f, "format version {v} is not supported"),
            Self::UnsupportedSuite(v) => write!(f, "cipher suite {v} is not supported"),
            Self::Unsupported(what) => write!(f, "{what} is not supported by this version"),
            Self::UnpinnedOwner => f.write_str("the package's owner is not pinned on this device"),
            Self::Expired { not_after } => {
                write!(f, "the package or its grant expired at Unix time {not_after}")
            }
            Self::OlderVersion { version, minimum } => {
                write!(f, "version {version} is older than {minimum}, which was accepted before")
            }
            Self::Development => f.write_str("the package is marked development, which is not accepted here"),
            Self::NotARecipient => f.write_str("the package is not sealed to this device"),
            Self::OtherPackage => f.write_str("the grant belongs to another package"),
            Self::TooManyRecipients => f.write_str("there are more recipients than one package or grant holds"),
            Self::BadKey(what) => write!(f, "not a valid key: {what}"),
            Self::Misuse(what) => f.write_str(what),
            Self::Random => f.write_str("the source of randomness failed"),
            Self::Sink => f.write_str("the output refused the bytes"),
        }
    }
}

impl core::error::Error for PackageError {}

impl From<DecodeError> for PackageError {
    fn from(e: DecodeError) -> Self {
        Self::Malformed(e)
    }
}
