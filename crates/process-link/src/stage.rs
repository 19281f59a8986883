//! How far the start of an enclave process came, as the ring's header and the exit code tell it.

/// A part of the start that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The two or three arguments are not descriptor numbers.
    Arguments = 10,
    /// The shared memory does not have the layout this build knows.
    Ring = 11,
    /// The region could not be mapped, or the budget is smaller than the stacks and the least heap.
    Region = 12,
    /// A thread on one of the region's stacks could not be started.
    Thread = 13,
    /// The system-call filter could not be loaded.
    Filter = 14,
    /// The key file could not be read, or is no device file.
    Key = 15,
    /// The host's process is gone.
    HostGone = 16,
    /// The store could not be mapped.
    Store = 17,
    /// The program's own file could not be read.
    Image = 18,
}

impl Stage {
    /// Every one of them.
    pub const ALL: [Self; 9] = [
        Self::Arguments,
        Self::Ring,
        Self::Region,
        Self::Thread,
        Self::Filter,
        Self::Key,
        Self::HostGone,
        Self::Store,
        Self::Image,
    ];

    /// Its number: the exit code of a process that ended there.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The stage with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.number() == number)
    }

    /// What was being done.
    pub fn what(self) -> &'static str {
        match self {
            Self::Arguments => "its arguments",
            Self::Ring => "reading its ring: another layout, or a number of threads it does not take",
            Self::Region => "taking secure memory: the budget is too small, or the kernel refused it",
            Self::Thread => "starting its service",
            Self::Filter => "loading the system-call filter",
            Self::Key => "reading the device key: the file is damaged",
            Self::HostGone => "waiting for its host, which is gone",
            Self::Store => "mapping the memory for weights",
            Self::Image => "reading its own program",
        }
    }
}

/// What [`crate::ring::word::STAGE`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    Starting,
    /// Commands are served.
    Ready,
    /// The start failed.
    Failed {
        /// Where; `None` if this build does not know the number.
        stage: Option<Stage>,
        /// The system's error number, 0 where there is none.
        errno: u16,
    },
}

/// Number of [`Progress::Ready`]; no stage has it.
const READY: u32 = 1;

impl Progress {
    /// A failure; an error number that does not fit is left out.
    pub fn failed(stage: Stage, errno: i32) -> Self {
        Self::Failed { stage: Some(stage), errno: u16::try_from(errno).unwrap_or(0) }
    }

    /// The header's word: the number, then the error number.
    pub fn to_word(self) -> u32 {
        match self {
            Self::Starting => 0,
            Self::Ready => READY << 16,
            Self::Failed { stage, errno } => {
                stage.map_or(0, |stage| u32::from(stage.number())) << 16 | u32::from(errno)
            }
        }
    }

    /// Reads the header's word.
    pub fn from_word(word: u32) -> Self {
        let [a, b, c, d] = word.to_le_bytes();
        let (errno, number) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        match word {
            0 => Self::Starting,
            _ if u32::from(number) == READY => Self::Ready,
            _ => Self::Failed { stage: Stage::from_number(number), errno },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_comes_back_from_its_word() {
        let failed = Stage::ALL.map(|stage| Progress::failed(stage, 12));
        for progress in [Progress::Starting, Progress::Ready].into_iter().chain(failed) {
            assert_eq!(Progress::from_word(progress.to_word()), progress);
        }
        assert_eq!(Progress::from_word(99 << 16 | 5), Progress::Failed { stage: None, errno: 5 });
        assert_eq!(Progress::failed(Stage::Key, -1), Progress::Failed { stage: Some(Stage::Key), errno: 0 });
    }

    #[test]
    fn numbers_are_exit_codes_and_each_stage_has_its_own() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_number(stage.number()), Some(stage));
            assert!(u32::from(stage.number()) != READY && stage.number() < 128, "{stage:?}");
        }
    }
}
