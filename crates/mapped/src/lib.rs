//! Memory maps, shared memory and sealed programs of the normal world: the one place of the host where `unsafe` may live
//! (design rule 2).
//!
//! A mapped file may be changed by another process while it is mapped; Rust calls that undefined behaviour, and no flag
//! prevents it. Cordon accepts it where a copy would cost gigabytes: on the owner's machine for the owner's own model
//! files, and for ciphertext that is authenticated chunk by chunk after it was copied.

mod image;
mod shared;

use bytes::Bytes;
use core::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

pub use image::{SealedImage, cpu_time, own_cpu_time};
pub use shared::{SharedMemory, wait, wake};

/// Maps a whole file read-only. An empty file gives empty bytes.
pub fn file(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and private; see the module's note on concurrent change.
    let map = unsafe { memmap2::Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}

/// An anonymous file in memory, closed on exec.
fn memory_file(name: &CStr, flags: libc::c_uint) -> io::Result<File> {
    // SAFETY: the name is a C string; the result is a new descriptor or -1.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}
