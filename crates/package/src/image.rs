//! How an image file becomes an input tensor. Carried in the manifest, carried out by the host.

use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};
use cordon_onnx_types::ElemType;

use crate::error::PackageError;
use crate::limits::MAX_IMAGE_SIDE;
use crate::manifest::Manifest;

/// How an image of any size is brought to the input's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Scale both sides to the target, whatever the aspect ratio.
    Stretch,
    /// Scale the shorter side to `resize`, keeping the aspect ratio, and cut the target from the centre.
    CropCenter {
        /// Length of the shorter side, at least the target's longer side.
        resize: u32,
    },
}

/// Order of colour channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel of luminance, ITU-R BT.601.
    Gray,
}

impl Channels {
    /// Number of channels.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// Order of the input's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageLayout {
    /// Batch, channels, height, width.
    Nchw,
}

/// Resampling is bilinear with antialiasing; then `(byte * scale - mean[c]) / std[c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// Which of the model's inputs, as an index into the value table.
    pub input: u32,
    /// Target height.
    pub height: u32,
    /// Target width.
    pub width: u32,
    /// How to get there.
    pub fit: Fit,
    /// Channel order.
    pub channels: Channels,
    /// Axis order.
    pub layout: ImageLayout,
    /// Factor for a byte, commonly 1/255.
    pub scale: f32,
    /// One for each channel.
    pub mean: Vec<f32>,
    /// One for each channel, positive.
    pub std: Vec<f32>,
}

impl Preprocessing {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u32(self.input).u32(self.height).u32(self.width);
        match self.fit {
            Fit::Stretch => w.u8(0),
            Fit::CropCenter { resize } => w.u8(1).u32(resize),
        };
        w.u8(match self.channels {
            Channels::Rgb => 0,
            Channels::Bgr => 1,
            Channels::Gray => 2,
        });
        w.u8(match self.layout {
            ImageLayout::Nchw => 0,
        });
        w.f32(self.scale);
        for v in self.mean.iter().chain(&self.std) {
            w.f32(*v);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (input, height, width) = (r.u32("image input")?, r.u32("image height")?, r.u32("image width")?);
        let fit = match r.u8("image fit")? {
            0 => Fit::Stretch,
            1 => Fit::CropCenter { resize: r.u32("image fit")? },
            _ => return Err(DecodeError::Invalid("image fit")),
        };
        let channels = match r.u8("image channels")? {
            0 => Channels::Rgb,
            1 => Channels::Bgr,
            2 => Channels::Gray,
            _ => return Err(DecodeError::Invalid("image channels")),
        };
        let layout = match r.u8("image layout")? {
            0 => ImageLayout::Nchw,
            _ => return Err(DecodeError::Invalid("image layout")),
        };
        let scale = r.f32("image scale")?;
        let mut per_channel = |what| (0..channels.count()).map(|_| r.f32(what)).collect::<Result<Vec<_>, _>>();
        let mean = per_channel("image mean")?;
        let std = per_channel("image std")?;
        Ok(Self { input, height, width, fit, channels, layout, scale, mean, std })
    }

    /// The rules, against the value table too.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), PackageError> {
        let broken = |rule| Err(PackageError::Manifest { rule, index: self.input });
        let side = |n: u32| (1..=MAX_IMAGE_SIDE).contains(&n);
        if !side(self.height) || !side(self.width) {
            return broken("an image has 1 to 8192 pixels on each side");
        }
        if let Fit::CropCenter { resize } = self.fit
            && (!side(resize) || resize < self.height.max(self.width))
        {
            return broken("an image is resized to no less than it is cropped to, and at most 8192 pixels");
        }
        let counts = self.mean.len() == self.channels.count() && self.std.len() == self.channels.count();
        if !counts || !self.mean.iter().all(|v| v.is_finite()) {
            return broken("mean and std have one finite number for each channel");
        }
        if !self.std.iter().chain([&self.scale]).all(|v| v.is_finite() && *v > 0.0) {
            return broken("std and scale are positive");
        }
        let channels = u32::try_from(self.channels.count()).unwrap_or(u32::MAX);
        let shape = [channels, self.height, self.width];
        let fits = manifest.inputs.contains(&self.input)
            && manifest.value(self.input).is_some_and(|v| {
                v.elem == ElemType::Float && v.shapes.iter().any(|s| s.len() == 4 && s.ends_with(&shape))
            });
        if fits { Ok(()) } else { broken("preprocessing makes a float input of shape (n, channels, height, width)") }
    }
}
