//! What a person sees: text on stdout, progress on stderr, colours only on a terminal; with `--json`, JSON only.

use core::time::Duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};

/// How to talk to the caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    json: bool,
    colour: bool,
}

impl Ui {
    /// Text, or JSON.
    pub(crate) fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: !json && !plain && std::io::stdout().is_terminal() }
    }

    /// One line of text; nothing with `--json`.
    pub(crate) fn line(self, text: impl AsRef<str>) {
        if !self.json {
            print(text.as_ref());
        }
    }

    /// A heading.
    pub(crate) fn heading(self, text: &str) {
        self.line("");
        self.line(self.bold(text));
    }

    /// One JSON value on one line; nothing without `--json`.
    pub(crate) fn json(self, value: &serde_json::Value) {
        if self.json {
            print(&value.to_string());
        }
    }

    /// A table with aligned columns; `right` marks columns of numbers.
    pub(crate) fn table(self, header: &[&str], right: &[bool], rows: &[Vec<String>]) {
        if self.json {
            return;
        }
        let widths: Vec<usize> = header
            .iter()
            .enumerate()
            .map(|(i, title)| rows.iter().map(|row| width(&row[i])).chain([width(title)]).max().unwrap_or(0))
            .collect();
        let format = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (i, cell) in cells.enumerate() {
                let space = " ".repeat(widths[i].saturating_sub(width(cell)));
                line += &if right[i] { format!("{space}{cell}  ") } else { format!("{cell}{space}  ") };
            }
            line.trim_end().to_owned()
        };
        print(&self.bold(&format(&mut header.iter().copied())));
        rows.iter().for_each(|row| print(&format(&mut row.iter().map(String::as_str))));
    }

    /// Bold on a terminal.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(text, "1")
    }

    /// Green on a terminal.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint(text, "32")
    }

    /// Yellow on a terminal.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint(text, "33")
    }

    fn paint(self, text: &str, code: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// A progress bar on stderr; hidden with `--json` and when stderr is no terminal. `len` 0 means unknown.
    pub(crate) fn progress(self, len: u64, what: &str) -> ProgressBar {
        let target = match self.json {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target((len > 0).then_some(len), target);
        let template = if len > 0 { "{msg} [{bar:30}] {pos}/{len} {eta}" } else { "{spinner} {msg} {elapsed}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A reader that went away (`cordon inspect | head`) is no failure.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A size for people, in binary units.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..=1023 => format!("{count} B"),
        1024..=1_048_575 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", count as f64 / 1_073_741_824.0),
    }
}

/// Extents as ONNX people write them.
pub(crate) fn shape(dims: &[usize]) -> String {
    match dims {
        [] => "scalar".into(),
        dims => dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x"),
    }
}

/// A count with a unit prefix.
pub(crate) fn count(value: u64) -> String {
    match value {
        0..=9_999 => value.to_string(),
        10_000..=999_999 => format!("{:.1} k", value as f64 / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} M", value as f64 / 1e6),
        _ => format!("{:.1} G", value as f64 / 1e9),
    }
}
