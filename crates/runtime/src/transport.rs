//! The porting surface of the normal world: how frames reach an enclave and come back.

use core::fmt;
use core::time::Duration;

use cordon_mapped::SharedMemory;

use crate::error::RuntimeError;

/// Starts enclaves of one platform.
pub trait Backend: Send {
    /// The platform's word: `process`.
    fn name(&self) -> &'static str;

    /// Starts a fresh enclave for the device this backend was made for. `store` bytes of this host's memory are set aside for
    /// encrypted weights that have no room inside.
    fn start(&self, store: u64) -> Result<Box<dyn Transport>, RuntimeError>;
}

/// A running enclave.
pub trait Transport: Send {
    /// Sends the command frame in `frame` and replaces it by the reply frame. After an error the enclave is gone.
    fn call(&mut self, frame: &mut Vec<u8>) -> Result<(), Death>;

    /// How long the answer to the next command will take, as far as is known: waiting can be made cheaper by it.
    fn expect(&mut self, _time: Duration) {}

    /// The memory set aside for encrypted weights.
    fn store(&self) -> Option<&SharedMemory> {
        None
    }

    /// CPU time used since the start, where the platform can tell.
    fn cpu_time(&self) -> Option<Duration> {
        None
    }
}

/// Why an enclave no longer answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its exit code.
    pub exit: Option<i32>,
    /// The last allocation it was refused: bytes asked for and bytes available.
    pub refused_allocation: Option<(u64, u64)>,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal, self.exit) {
            (Some(signal), _) => write!(f, "ended by signal {signal}")?,
            (None, Some(exit)) => write!(f, "exited with code {exit}")?,
            (None, None) => f.write_str("stopped answering")?,
        }
        if let Some((needed, available)) = self.refused_allocation {
            write!(f, " after an allocation of {needed} bytes was refused with {available} available")?;
        }
        Ok(())
    }
}
