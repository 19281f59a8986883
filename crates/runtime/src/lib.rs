//! The normal world's side of a sealed model: a [`Deployment`] is one package on one device, a [`Session`] serves it to many.
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
//! A [`Session`] takes requests from any number of threads, or as futures. While one request is in a normal segment, another
//! uses the enclave; dropping a [`Request`] cancels it:
//!
//! ```no_run
//! # use cordon_runtime::{Deployment, RuntimeError, Tensor};
//! # let image = Tensor::from_f32(vec![1, 1, 8, 8], &[0.0; 64]).unwrap();
//! let session = Deployment::options().device("device").open("digits.cordon")?.into_session()?;
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| session.run(&[("image", &image)]));
//!     }
//! });
//! let request = session.submit(&[("image", &image)])?;
//! let run = request.wait()?; // or, in asynchronous code, `request.await?`
//! # Ok::<(), RuntimeError>(())
//! ```
//!
//! | step | type | what |
//! |---|---|---|
//! | open | [`Options`], [`PackageFile`], [`Device`] | the package is checked for damage, an enclave started, the package loaded into it |
//! | run | `Flight` | one request as a state machine without I/O: which command, which normal segment is next |
//! | | `Worker` | one enclave: takes flights through their secure segments, replaces it when it dies |
//! | | [`Deployment`] | one flight at a time, on the caller's thread |
//! | | [`Session`] | many: a thread for the enclave, another for normal segments, `Schedule` between them |
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
mod flight;
mod normal;
mod options;
mod pace;
mod package_file;
mod request;
mod route;
mod run;
mod schedule;
mod session;
mod spill;
mod worker;

pub use backend::{Backend, Death, Resources, Transport};
pub use client::{Enclave, Evidence};
pub use cordon_executor::{ElemType, Tensor};
pub use cordon_package::{Manifest, OutputPolicy};
pub use cordon_protocol::{Entry, Expiry, Greeting, LoadReport, MAX_THREADS, MemoryUse, Protection, Ranked, Refusal};
pub use deployment::Deployment;
pub use device::Device;
pub use error::RuntimeError;
pub use options::Options;
pub use package_file::PackageFile;
pub use request::Request;
pub use run::{Output, Run, SegmentCost};
pub use session::Session;
