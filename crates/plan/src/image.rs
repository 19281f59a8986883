//! How an image file becomes a model input: `NAME:size=224,crop=center,rgb,mean=0.485,0.456,0.406,std=0.229,0.224,0.225`.

use serde::{Deserialize, Serialize};

/// Order of the channels the model expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One grey channel.
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

/// How an image of another shape is made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Both sides are scaled to the size, whatever that does to the proportions.
    Stretch,
    /// The shorter side is scaled to `resize`, then the centre is cut out.
    Center,
}

/// ImageOptions of one image input. Pixels are scaled to 0..1 first, then `(x - mean) / std` per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOptions {
    /// The model input.
    pub input: String,
    /// Height and width the model takes.
    pub size: [u32; 2],
    /// How other shapes are made to fit.
    pub crop: Fit,
    /// Shorter side before the centre is cut out, `size`'s longer one by default; only with `crop = "center"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<u32>,
    /// Channel order.
    pub channels: Channels,
    /// Subtracted, per channel.
    pub mean: Vec<f32>,
    /// Divided by, per channel.
    pub std: Vec<f32>,
}

/// Largest side an image is scaled to, the package format's limit.
const MAX_SIDE: u32 = 8192;

impl ImageOptions {
    /// Reads the form of the command line. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (input, options) = text
            .split_once(':')
            .filter(|(input, _)| !input.is_empty())
            .ok_or("write NAME:size=224,rgb,… with the name of the model's input first")?;
        let mut size = None;
        let mut crop = Fit::Stretch;
        let mut resize = None;
        let mut channels = None;
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        // A bare number continues the list before it, so that `mean=0.4,0.5,0.6` reads as people write it.
        let mut list: Option<bool> = None;
        for token in options.split(',').map(str::trim) {
            if let (Some(is_mean), Ok(number)) = (list, token.parse::<f32>()) {
                if is_mean { &mut mean } else { &mut std }.push(number);
                continue;
            }
            list = None;
            match token.split_once('=').unwrap_or((token, "")) {
                ("size", value) => size = Some(parse_size(value)?),
                ("crop", "center") => crop = Fit::Center,
                ("crop", "none") => crop = Fit::Stretch,
                ("resize", value) => resize = Some(parse_side(value)?),
                ("rgb", "") => channels = Some(Channels::Rgb),
                ("bgr", "") => channels = Some(Channels::Bgr),
                ("gray" | "grey", "") => channels = Some(Channels::Gray),
                (key @ ("mean" | "std"), value) => {
                    let number = value.parse().map_err(|_| format!("{key}={value:?} is not a number"))?;
                    list = Some(key == "mean");
                    if key == "mean" { &mut mean } else { &mut std }.push(number);
                }
                _ => {
                    return Err(format!(
                        "{token:?} is not an image option; use size=, crop=center|none, resize=, rgb|bgr|gray, mean=, std="
                    ));
                }
            }
        }
        let size = size.ok_or("size= is missing")?;
        let channels = channels.ok_or("rgb, bgr or gray is missing")?;
        let per_channel = |mut list: Vec<f32>, default: f32, name: &str| -> Result<Vec<f32>, String> {
            match list.len() {
                0 => Ok(vec![default; channels.count()]),
                1 => Ok(vec![list.remove(0); channels.count()]),
                n if n == channels.count() => Ok(list),
                n => Err(format!("{name} has {n} numbers for {} channels", channels.count())),
            }
        };
        let mean = per_channel(mean, 0.0, "mean")?;
        let std = per_channel(std, 1.0, "std")?;
        if mean.iter().any(|v| !v.is_finite()) || std.iter().any(|v| !v.is_finite() || *v <= 0.0) {
            return Err("mean must be finite and std finite and above zero".into());
        }
        if resize.is_some() && crop == Fit::Stretch {
            return Err("resize= only makes sense with crop=center".into());
        }
        if resize.is_some_and(|side| side < size[0].max(size[1])) {
            return Err("resize= must not be smaller than size=".into());
        }
        Ok(Self { input: input.into(), size, crop, resize, channels, mean, std })
    }

    /// Shape of the tensor this yields, for one image: `(n, c, h, w)`.
    pub fn shape(&self) -> [usize; 4] {
        let [h, w] = self.size.map(|side| side as usize);
        [1, self.channels.count(), h, w]
    }
}

fn parse_size(text: &str) -> Result<[u32; 2], String> {
    match text.split_once('x') {
        Some((h, w)) => Ok([parse_side(h)?, parse_side(w)?]),
        None => parse_side(text).map(|side| [side; 2]),
    }
}

fn parse_side(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|side| (1..=MAX_SIDE).contains(side))
        .ok_or_else(|| format!("{text:?} is not a size; write size=224 or size=HEIGHTxWIDTH, at most {MAX_SIDE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_imagenet_line_is_read() {
        let p = ImageOptions::parse(
            "data:size=224,crop=center,resize=256,rgb,mean=0.485,0.456,0.406,std=0.229,0.224,0.225",
        )
        .expect("valid");
        assert_eq!((p.input.as_str(), p.size, p.resize), ("data", [224, 224], Some(256)));
        assert_eq!(p.mean, [0.485, 0.456, 0.406]);
        assert_eq!(p.std, [0.229, 0.224, 0.225]);
        assert_eq!(p.shape(), [1, 3, 224, 224]);
    }

    #[test]
    fn one_number_serves_all_channels_and_sides_may_differ() {
        let p = ImageOptions::parse("x:size=10x20,bgr,mean=0.5").expect("valid");
        assert_eq!((p.size, p.mean, p.std), ([10, 20], vec![0.5; 3], vec![1.0; 3]));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let cases = [
            ("size=3,rgb", "NAME"),
            ("x:rgb", "size="),
            ("x:size=3", "rgb"),
            ("x:size=0,rgb", "size"),
            ("x:size=3,gray,mean=1,2", "2 numbers"),
            ("x:size=3,gray,std=0", "zero"),
            ("x:size=3,gray,wobble", "wobble"),
            ("x:size=3,gray,resize=9", "crop=center"),
            ("x:size=32,gray,crop=center,resize=9", "smaller"),
        ];
        for (text, expected) in cases {
            let error = ImageOptions::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
