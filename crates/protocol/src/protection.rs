//! What protects the enclave, each protection reported as in force or missing, never assumed.

use alloc::borrow::Cow;
use alloc::string::String;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::refusal::codes;

/// Most bytes of a guard's word.
const MAX_GUARD_BYTES: u32 = 40;

/// Names a protection: lower-case letters, digits and hyphens. A platform may have guards of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard(Cow<'static, str>);

impl Guard {
    /// The CPU keeps the host out of the enclave's memory.
    pub const HARDWARE: Self = Self::new("hardware-isolation");
    /// Secure memory cannot exceed the budget.
    pub const BUDGET: Self = Self::new("memory-budget");
    /// An older package or device state cannot come back.
    pub const ROLLBACK: Self = Self::new("rollback-protection");
    /// The clock that `not_after` is checked with is not the host's.
    pub const TRUSTED_CLOCK: Self = Self::new("trusted-clock");

    /// Those that every platform reports.
    pub const ALL: &'static [Self] = &[Self::HARDWARE, Self::BUDGET, Self::ROLLBACK, Self::TRUSTED_CLOCK];

    /// A guard with this word, which [`Self::is_word`] should hold for: the other side refuses it otherwise.
    pub const fn new(word: &'static str) -> Self {
        Self(Cow::Borrowed(word))
    }

    /// Its word.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether this can be the word of a guard.
    pub fn is_word(text: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=MAX_GUARD_BYTES as usize).contains(&text.len()) && text.bytes().all(allowed)
    }
}

codes! {
    /// Why a protection is missing.
    Reason {
        /// The kernel does not have it.
        Kernel = 1 "not-in-this-kernel",
        /// The kernel has it but did not allow it.
        Denied = 2 "denied",
        /// The limit on locked memory is too low.
        LockLimit = 3 "locked-memory-limit",
        /// This kind of platform has no such thing.
        Platform = 4 "not-on-this-platform",
        /// The host provides what it depends on, and could replace it.
        HostControlled = 5 "host-controlled",
        /// It did not hold when it was checked.
        NotFound = 6 "not-found-when-checked",
    }
}

/// Whether a protection is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    InForce,
    /// It does not hold.
    Missing(Reason),
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Which.
    pub guard: Guard,
    /// Whether it holds.
    pub state: State,
    /// A figure: bytes covered, an error number, an interface version; 0 where there is none.
    pub detail: u64,
}

/// Fewest encoded bytes of one [`Protection`].
pub(crate) const PROTECTION_BYTES: usize = 4 + 1 + 2 + 8;

impl Protection {
    /// A protection that holds.
    pub fn in_force(guard: Guard, detail: u64) -> Self {
        Self { guard, state: State::InForce, detail }
    }

    /// A protection that does not.
    pub fn missing(guard: Guard, reason: Reason, detail: u64) -> Self {
        Self { guard, state: State::Missing(reason), detail }
    }

    /// Whether it holds.
    pub fn is_in_force(&self) -> bool {
        self.state == State::InForce
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.string(&self.guard.0);
        w.u16(match self.state {
            State::InForce => 0,
            State::Missing(reason) => reason.number(),
        });
        w.u64(self.detail);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let guard: String = r.string(MAX_GUARD_BYTES, "guard")?;
        if !Guard::is_word(&guard) {
            return Err(DecodeError::Invalid("guard"));
        }
        let state = match r.u16("guard state")? {
            0 => State::InForce,
            number => State::Missing(Reason::from_number(number).ok_or(DecodeError::Invalid("guard state"))?),
        };
        Ok(Self { guard: Guard(guard.into()), state, detail: r.u64("guard detail")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_could_do_harm_on_a_terminal_are_refused() {
        let decode = |word: &str| {
            let mut w = Writer::new();
            w.string(word).u16(0).u64(7);
            let bytes = w.finish();
            Protection::decode(&mut Reader::new(&bytes)).map(|line| line.guard.name() == word)
        };
        assert_eq!(decode("memory-budget"), Ok(true));
        assert_eq!(decode(&"x".repeat(40)), Ok(true));
        assert_eq!(decode(&"x".repeat(41)), Err(DecodeError::TooLong("guard")));
        for bad in ["", "Budget", "memory budget", "\u{1b}[2J", "a\nb", "gu\u{e4}rd"] {
            assert_eq!(decode(bad), Err(DecodeError::Invalid("guard")), "{bad:?}");
        }
    }
}
