//! The normal world's side of a sealed model: a [`Deployment`] is one package on one device.
//!
//! ```no_run
//! use cordon_runtime::{Deployment, Tensor};
//!
//! let mut model = Deployment::options().device("device").open("digits.cordon")?;
//! let image = Tensor::from_f32(vec![1, 1, 8, 8], &[0.0; 64])?;
//! let run = model.run(&[("image", &image)])?;
//! println!("{:?}, secure memory {} bytes", run.outputs, run.memory.peak);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything here is untrusted by design: the enclave refuses whatever this crate gets wrong. What it must not do is
//! weaken anything by itself, so the device key never passes through this process, nothing falls back, and a request that
//! failed is never run again behind the caller's back.
#![forbid(unsafe_code)]

pub mod backend;
mod client;
mod deployment;
pub mod device;
mod error;
mod normal;
mod pace;
mod package_file;

pub use backend::{Backend, Death, Resources, Transport};
pub use client::Enclave;
pub use cordon_executor::{ElemType, Tensor};
pub use cordon_package::{Manifest, OutputPolicy};
pub use cordon_protocol::{Entry, Expiry, Greeting, LoadReport, MAX_THREADS, MemoryUse, Protection, Ranked, Refusal};
pub use deployment::{Deployment, Options, Output, Run, SegmentCost};
pub use device::Device;
pub use error::RuntimeError;
pub use package_file::PackageFile;
