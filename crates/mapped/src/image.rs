//! A program started from exactly these bytes: copied into a memory file, sealed, executed from it.

use core::time::Duration;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::memory_file;

/// An executable no one can change any more.
pub struct SealedImage {
    file: File,
}

impl SealedImage {
    /// Copies a program into memory and seals it against writing, growing, shrinking and unsealing.
    pub fn new(program: &[u8]) -> io::Result<Self> {
        // Newer kernels may refuse memory files that do not say they are executable; older ones do not know the flag.
        let mut file = memory_file(c"cordon-enclave", libc::MFD_ALLOW_SEALING | libc::MFD_EXEC)
            .or_else(|_| memory_file(c"cordon-enclave", libc::MFD_ALLOW_SEALING))?;
        file.write_all(program)?;
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
        // SAFETY: a descriptor of our own and plain numbers.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file })
    }

    /// Starts the program with an empty environment, no standard streams, and `descriptors` as its only others; their
    /// numbers are its arguments.
    pub fn start(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<Child> {
        let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(name).env_clear().current_dir("/");
        command.args(numbers.iter().map(|number| OsString::from(number.to_string())));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only these system calls are made, all of which are async-signal-safe, and the
        // vector of numbers is read, not changed.
        unsafe {
            command.pre_exec(move || {
                // The image's own descriptor must live until exec has opened it, so all are closed by exec itself.
                if libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
                    return Err(io::Error::last_os_error());
                }
                for &number in &numbers {
                    if libc::fcntl(number, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        command.spawn()
    }
}

/// CPU time a child has used in all its threads.
pub fn cpu_time(child: &Child) -> Option<Duration> {
    let pid = libc::pid_t::try_from(child.id()).ok()?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the call writes one value of ours.
    (unsafe { libc::clock_getcpuclockid(pid, &mut clock) } == 0).then_some(())?;
    read_clock(clock)
}

/// CPU time this process has used so far, on all threads it ever had.
pub fn own_cpu_time() -> Option<Duration> {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read_clock(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one value of ours.
    (unsafe { libc::clock_gettime(clock, &mut time) } == 0).then_some(())?;
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::SharedMemory;
    use std::os::fd::AsFd;

    #[test]
    fn a_sealed_image_runs_and_cannot_be_changed() {
        let program = std::fs::read("/bin/true").expect("this system has true(1)");
        let mut image = SealedImage::new(&program).expect("sealed");
        assert!(image.file.write_all(b"x").is_err());
        let memory = SharedMemory::new(1).expect("memory");
        let mut child = image.start("test", &[memory.as_fd()]).expect("starts");
        assert!(child.wait().expect("waits").success());
    }
}
