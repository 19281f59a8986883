//! PNG and JPEG files to model inputs, as the package's preprocessing says.

use crate::failure::{Failure, Outcome, own};
use cordon_executor::Tensor;
use cordon_package::{Channels, Fit, Preprocessing};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageReader, Limits, RgbImage};
use std::path::Path;

/// Largest side of an image file that is decoded, a guard against decompression bombs.
const MAX_SIDE: u32 = 32_768;
/// Most memory decoding may take.
const MAX_DECODED_BYTES: u64 = 1 << 30;

/// Reads an image and brings it to the input's form: `(1, c, h, w)`, float.
///
/// Resampling is bilinear with antialiasing, as torchvision and Pillow do it; alpha is dropped; orientation marks in EXIF
/// are not applied.
pub(crate) fn read(path: &Path, preprocessing: &Preprocessing) -> Outcome<Tensor> {
    let failed = |error: image::ImageError| {
        Failure::new(
            &own::UNREADABLE,
            format!("cannot read image {}: {error}", path.display()),
            "give a PNG or JPEG file, or a tensor as .npy",
        )
    };
    let mut reader =
        ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(|error| failed(error.into()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(failed)?;
    let values = to_values(&image, preprocessing);
    let (h, w) = (preprocessing.height as usize, preprocessing.width as usize);
    Ok(Tensor::from_f32(vec![1, preprocessing.channels.count(), h, w], &values)?)
}

/// `(c, h, w)` normalised values.
fn to_values(image: &DynamicImage, p: &Preprocessing) -> Vec<f32> {
    // Grey files keep their exact levels instead of passing through a weighted sum.
    let rgb = image.to_rgb8();
    let fitted = fit(&rgb, p);
    let pixels = fitted.pixels().map(|pixel| pixel.0);
    let channel = |c: usize, [r, g, b]: [u8; 3]| match p.channels {
        Channels::Rgb => [r, g, b][c],
        Channels::Bgr => [b, g, r][c],
        Channels::Gray => luminance(r, g, b),
    };
    let mut values = Vec::with_capacity(p.channels.count() * fitted.len() / 3);
    for c in 0..p.channels.count() {
        let (mean, std) = (p.mean.get(c).copied().unwrap_or(0.0), p.std.get(c).copied().unwrap_or(1.0));
        values.extend(pixels.clone().map(|pixel| (f32::from(channel(c, pixel)) * p.scale - mean) / std));
    }
    values
}

/// ITU-R BT.601 in 16-bit fixed point; equal channels come out unchanged.
fn luminance(r: u8, g: u8, b: u8) -> u8 {
    let sum = 19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 0x8000;
    u8::try_from(sum >> 16).unwrap_or(u8::MAX)
}

fn fit(image: &RgbImage, p: &Preprocessing) -> RgbImage {
    let resize = |width: u32, height: u32| {
        if image.dimensions() == (width, height) {
            image.clone()
        } else {
            imageops::resize(image, width, height, FilterType::Triangle)
        }
    };
    match p.fit {
        Fit::Stretch => resize(p.width, p.height),
        Fit::CropCenter { resize: side } => {
            let (width, height) = image.dimensions();
            let short = width.min(height).max(1);
            let scale =
                |long: u32| u32::try_from(u64::from(side) * u64::from(long) / u64::from(short)).unwrap_or(u32::MAX);
            // The guard on MAX_SIDE bounds the aspect ratio, and with it this intermediate image.
            let scaled = resize(scale(width).min(MAX_SIDE), scale(height).min(MAX_SIDE));
            let left = half_to_even(scaled.width().saturating_sub(p.width));
            let top = half_to_even(scaled.height().saturating_sub(p.height));
            imageops::crop_imm(&scaled, left, top, p.width, p.height).to_image()
        }
    }
}

/// Half of `n`, ties to the even neighbour: what Python's `round`, and so torchvision's centre crop, does.
fn half_to_even(n: u32) -> u32 {
    let half = n / 2;
    half + (n % 2) * (half % 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_package::ImageLayout;
    use image::{GrayImage, Luma, Rgb};

    fn preprocessing(channels: Channels, side: u32, fit: Fit) -> Preprocessing {
        Preprocessing {
            input: 0,
            height: side,
            width: side,
            fit,
            channels,
            layout: ImageLayout::Nchw,
            scale: 1.0 / 255.0,
            mean: vec![0.5; channels.count()],
            std: vec![0.25; channels.count()],
        }
    }

    #[test]
    fn grey_levels_are_exact_and_normalised() {
        let image = DynamicImage::ImageLuma8(GrayImage::from_fn(4, 4, |x, y| Luma([(x * 60 + y) as u8])));
        let values = to_values(&image, &preprocessing(Channels::Gray, 4, Fit::Stretch));
        let expected = |x: u32, y: u32| ((x * 60 + y) as f32 / 255.0 - 0.5) / 0.25;
        assert_eq!(values.len(), 16);
        assert!((values[1] - expected(1, 0)).abs() < 1e-6 && (values[4] - expected(0, 1)).abs() < 1e-6);
    }

    #[test]
    fn channel_order_is_as_asked() {
        let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(2, 2, Rgb([255, 0, 51])));
        let rgb = to_values(&image, &preprocessing(Channels::Rgb, 2, Fit::Stretch));
        let bgr = to_values(&image, &preprocessing(Channels::Bgr, 2, Fit::Stretch));
        assert!((rgb[0] - 2.0).abs() < 1e-5 && (rgb[8] + 1.2).abs() < 1e-5, "{rgb:?}");
        assert_eq!((bgr[0], bgr[8]), (rgb[8], rgb[0]));
    }

    #[test]
    fn odd_borders_are_split_as_torchvision_does() {
        assert_eq!([116, 117, 118, 119].map(half_to_even), [58, 58, 59, 60]);
    }

    #[test]
    fn the_centre_is_cut_out_of_the_longer_side() {
        let image = DynamicImage::ImageRgb8(RgbImage::from_fn(12, 4, |x, _| {
            Rgb([if (4..8).contains(&x) { 255 } else { 0 }; 3])
        }));
        let values = to_values(&image, &preprocessing(Channels::Gray, 4, Fit::CropCenter { resize: 4 }));
        assert!(values.iter().all(|value| (value - 2.0).abs() < 1e-6));
    }
}
