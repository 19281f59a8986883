//! A drawing in SVG: just what the two plots need. Colours come from classes, so that a dark page gets light ink.

use core::fmt::Write;

/// Colours of up to four series, told apart in either mode and by people who do not see red and green apart (after Okabe and
/// Ito); class `s0`, `s1`, ….
const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1f2328}.small{font-size:10.5px}.title{font-size:15px;font-weight:600}\
.panel{font-weight:600}.axis{stroke:#59636e;stroke-width:1}.grid{stroke:#d1d9e0;stroke-width:1}.one{stroke:#1f2328;\
stroke-width:1.2;stroke-dasharray:4 3}.s0{stroke:#0072b2;fill:#0072b2}.s1{stroke:#d55e00;fill:#d55e00}\
.s2{stroke:#008a62;fill:#008a62}.s3{stroke:#b0417f;fill:#b0417f}.line{fill:none;stroke-width:1.8}.mark{stroke:none}\
.whisker{stroke-width:1.6}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.axis{stroke:#9198a1}.grid{stroke:#333b44}.one{stroke:#e6edf3}\
.s0{stroke:#58b6ee;fill:#58b6ee}.s1{stroke:#ff9a5c;fill:#ff9a5c}.s2{stroke:#46d3a5;fill:#46d3a5}\
.s3{stroke:#f0a0cc;fill:#f0a0cc}.mark{stroke:none}.line{fill:none}}";

/// The kinds of marks, as different in shape as in colour.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Circle,
    Diamond,
    Square,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing under way. Lengths are pixels at 100 %.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A straight line of a class.
    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    /// A line through points.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!(r#"<polyline class="{class} line" points="{}"/>"#, points.join(" ")));
    }

    /// A mark of a series.
    pub(super) fn mark(&mut self, class: &str, mark: Mark, (x, y): (f64, f64)) {
        let class = format!("{class} mark");
        match mark {
            Mark::Circle => self.push(format_args!(r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#)),
            Mark::Square => {
                let (x, y) = (x - 3.6, y - 3.6);
                self.push(format_args!(r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="7.2" height="7.2"/>"#));
            }
            Mark::Diamond => {
                let points = [(x, y - 5.2), (x + 5.2, y), (x, y + 5.2), (x - 5.2, y)];
                let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                self.push(format_args!(r#"<polygon class="{class}" points="{}"/>"#, points.join(" ")));
            }
        }
    }

    /// Text of a class, on its baseline.
    pub(super) fn text(&mut self, class: &str, anchor: Anchor, (x, y): (f64, f64), text: &str) {
        let anchor = anchor.name();
        let text = escape(text);
        self.push(format_args!(r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#));
    }

    /// Text that reads upwards.
    pub(super) fn upward(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        self.push(format_args!(
            r#"<text class="{class}" text-anchor="middle" transform="translate({x:.1},{y:.1}) rotate(-90)">{text}</text>"#
        ));
    }

    /// The file. `title` is what a screen reader says.
    pub(super) fn finish(self, title: &str) -> String {
        let Self { width, height, body } = self;
        let title = escape(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n{body}</svg>\n"
        )
    }

    fn push(&mut self, element: core::fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("a string takes everything");
    }
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// A straight or logarithmic map from values to pixels.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// Values and pixels at both ends.
    pub(super) values: (f64, f64),
    pub(super) pixels: (f64, f64),
    pub(super) logarithmic: bool,
}

impl Scale {
    /// Where a value lies; values outside lie on the nearer end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let by = |value: f64| if self.logarithmic { value.ln() } else { value };
        let (from, to) = (by(self.values.0), by(self.values.1));
        let share = ((by(value) - from) / (to - from)).clamp(0.0, 1.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }
}

/// A step of 1, 2 or 5 times a power of ten that divides `range` into at most `most` parts.
pub(super) fn step(range: f64, most: f64) -> f64 {
    let rough = range / most;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    power * steps.into_iter().find(|step| step * power >= rough * (1.0 - 1e-9)).unwrap_or(10.0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_map_ends_to_ends_and_clamp() {
        let straight = Scale { values: (0.0, 10.0), pixels: (100.0, 200.0), logarithmic: false };
        assert_eq!([straight.at(0.0), straight.at(5.0), straight.at(20.0)], [100.0, 150.0, 200.0]);
        let log = Scale { values: (1.0, 16.0), pixels: (80.0, 0.0), logarithmic: true };
        assert!((log.at(4.0) - 40.0).abs() < 1e-9);
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([step(10.0, 5.0), step(37.0, 5.0), step(0.9, 5.0)], [2.0, 10.0, 0.2]);
    }

    #[test]
    fn text_cannot_end_the_drawing() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text("small", Anchor::Start, (0.0, 0.0), "a<b & c");
        assert!(svg.finish("<").contains("a&lt;b &amp; c"));
    }
}
