//! The plot of `advise`: size against decode speed, as SVG or PNG. Fonts of the system are not needed: SVG leaves text
//! to its viewer, and PNG has a bitmap font.

use std::fmt::Write;
use std::path::Path;

use tensorshard::{MeasuredEncoding, Plan};

use super::advise::goals_of;
use super::failure::Failure;
use super::raster;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 700.0;
/// The area that points are in.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 720.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 630.0;
/// Where the list of Pareto choices starts.
const LIST: f64 = 752.0;
const LINE: f64 = 18.0;
/// Characters of a line of the list.
const LIST_CHARS: usize = 48;
/// Pareto choices that have room in the list.
const LIST_ROWS: usize = 12;

pub(crate) const BLACK: Color = Color(0x22, 0x22, 0x22);
const GREY: Color = Color(0x99, 0x99, 0x99);
const LIGHT: Color = Color(0xE4, 0xE4, 0xE4);
const BLUE: Color = Color(0x3B, 0x78, 0xB8);
const RED: Color = Color(0xC4, 0x4A, 0x1C);
pub(crate) const WHITE: Color = Color(0xFF, 0xFF, 0xFF);

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Color(pub(crate) u8, pub(crate) u8, pub(crate) u8);

/// Where a text stands at its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Something to draw; later ones are above earlier ones, and text is above all. Coordinates are pixels, from the upper
/// left corner.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    Line {
        from: (f64, f64),
        to: (f64, f64),
        color: Color,
        width: f64,
    },
    Dot {
        at: (f64, f64),
        radius: f64,
        color: Color,
    },
    /// `at` is on the base line.
    Text {
        at: (f64, f64),
        anchor: Anchor,
        large: bool,
        color: Color,
        text: String,
    },
}

/// A kind of picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Picture {
    Svg,
    Png,
}

impl Picture {
    /// The kind that a file's extension names.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "svg" => Some(Self::Svg),
            "png" => Some(Self::Png),
            _ => None,
        }
    }

    /// The bytes of the picture's file.
    pub(crate) fn draw(self, title: &str, plan: &Plan) -> Result<Vec<u8>, Failure> {
        let marks = marks(title, plan);
        match self {
            Self::Svg => Ok(svg(&marks).into_bytes()),
            Self::Png => raster::png(WIDTH, HEIGHT, &marks),
        }
    }
}

/// A logarithmic axis.
#[derive(Clone, Debug)]
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis over positive values, with some room at its ends.
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for x in values.filter(|x| x.is_finite() && *x > 0.0) {
            low = low.min(x);
            high = high.max(x);
        }
        if low > high {
            (low, high) = (1.0, 1.0);
        }
        let room = (high / low).powf(0.06).max(1.05);
        Self {
            low: low / room,
            high: high * room,
            from,
            to,
        }
    }

    fn at(&self, x: f64) -> f64 {
        let part = (x.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln();
        self.from + part * (self.to - self.from)
    }

    /// Round numbers, about 4 to 10 of them.
    fn ticks(&self) -> Vec<f64> {
        let span = self.high / self.low;
        let steps: &[f64] = if span > 1e6 {
            &[1.0]
        } else if span > 40.0 {
            &[1.0, 2.0, 5.0]
        } else if span > 3.0 {
            &[1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]
        } else {
            // Evenly spaced ones: there is less than a decade.
            let rough = (self.high - self.low) / 6.0;
            let power = 10f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0]
                .map(|m| m * power)
                .into_iter()
                .find(|step| *step >= rough)
                .unwrap_or(rough);
            let first = (self.low / step).ceil();
            let count = ((self.high - first * step) / step).floor().clamp(0.0, 20.0);
            let mut out = Vec::new();
            let mut i = 0.0;
            while i <= count {
                out.push((first + i) * step);
                i += 1.0;
            }
            return out;
        };
        let mut out = Vec::new();
        let mut decade = 10f64.powf(self.low.log10().floor());
        while decade <= self.high {
            let inside = steps.iter().map(|step| step * decade);
            out.extend(inside.filter(|x| (self.low..=self.high).contains(x)));
            decade *= 10.0;
        }
        out
    }
}

/// A number of an axis, without zeros at its end.
fn label(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn text(x: f64, y: f64, anchor: Anchor, color: Color, text: impl Into<String>) -> Mark {
    Mark::Text {
        at: (x, y),
        anchor,
        large: false,
        color,
        text: text.into(),
    }
}

fn line(from: (f64, f64), to: (f64, f64), color: Color, width: f64) -> Mark {
    Mark::Line {
        from,
        to,
        color,
        width,
    }
}

fn dot(at: (f64, f64), radius: f64, color: Color) -> Mark {
    Mark::Dot { at, radius, color }
}

/// The whole plot.
fn marks(title: &str, plan: &Plan) -> Vec<Mark> {
    let speed = |encoding: &MeasuredEncoding| encoding.decode_bytes_per_s / 1e9;
    let memcpy = plan.memcpy_bytes_per_s() / 1e9;
    let all = plan.encodings();
    let x = Axis::over(all.iter().map(speed).chain([memcpy]), LEFT, RIGHT);
    let y = Axis::over(all.iter().map(MeasuredEncoding::ratio), BOTTOM, TOP);
    let place = |encoding: &MeasuredEncoding| (x.at(speed(encoding)), y.at(encoding.ratio()));

    let mut out = vec![Mark::Text {
        at: (LEFT, 32.0),
        anchor: Anchor::Start,
        large: true,
        color: BLACK,
        text: title.to_owned(),
    }];
    frame(&x, &y, &mut out);
    let at = x.at(memcpy);
    dashed(at, &mut out);
    out.push(text(at - 6.0, TOP + 14.0, Anchor::End, BLACK, "memcpy"));

    for encoding in all.iter().filter(|encoding| !encoding.meets) {
        out.push(dot(place(encoding), 4.0, GREY));
        out.push(dot(place(encoding), 2.6, WHITE));
    }
    for encoding in all.iter().filter(|e| e.meets && !e.pareto) {
        out.push(dot(place(encoding), 4.0, BLUE));
    }
    let mut front: Vec<&MeasuredEncoding> = all.iter().filter(|e| e.pareto).collect();
    front.sort_by(|a, b| speed(b).total_cmp(&speed(a)));
    for pair in front.windows(2) {
        out.push(line(place(pair[0]), place(pair[1]), RED, 1.5));
    }
    let mut labels: Vec<(f64, f64)> = Vec::new();
    for (i, encoding) in front.iter().enumerate() {
        let (px, py) = place(encoding);
        out.push(dot((px, py), 5.5, RED));
        let near =
            |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 20.0 && (a.1 - b.1).abs() < 15.0;
        let free = [
            (9.0, -6.0),
            (-9.0, -6.0),
            (9.0, 16.0),
            (-9.0, 16.0),
            (0.0, -14.0),
            (0.0, 24.0),
        ]
        .into_iter()
        .find(|offset| {
            !labels
                .iter()
                .any(|other| near(*other, (px + offset.0, py + offset.1)))
        })
        .unwrap_or((9.0, -6.0));
        labels.push((px + free.0, py + free.1));
        let anchor = match free.0 {
            dx if dx > 0.0 => Anchor::Start,
            dx if dx < 0.0 => Anchor::End,
            _ => Anchor::Middle,
        };
        out.push(text(
            px + free.0,
            py + free.1,
            anchor,
            RED,
            (i + 1).to_string(),
        ));
    }
    list(plan, &front, memcpy, &mut out);
    out
}

/// Axes, ticks, grid, units.
fn frame(x: &Axis, y: &Axis, out: &mut Vec<Mark>) {
    for tick in x.ticks() {
        let at = x.at(tick);
        out.push(line((at, TOP), (at, BOTTOM), LIGHT, 1.0));
        out.push(text(at, BOTTOM + 20.0, Anchor::Middle, BLACK, label(tick)));
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        out.push(line((LEFT, at), (RIGHT, at), LIGHT, 1.0));
        out.push(text(LEFT - 8.0, at + 5.0, Anchor::End, BLACK, label(tick)));
    }
    out.push(line((LEFT, TOP), (LEFT, BOTTOM), BLACK, 1.5));
    out.push(line((LEFT, BOTTOM), (RIGHT, BOTTOM), BLACK, 1.5));
    let middle = (LEFT + RIGHT) / 2.0;
    let unit = "decode speed, GB/s of delivered bytes, one thread (log scale)";
    out.push(text(middle, BOTTOM + 48.0, Anchor::Middle, BLACK, unit));
    let unit = "ratio: raw bytes / stored bytes (log scale)";
    out.push(text(LEFT, TOP - 14.0, Anchor::Start, BLACK, unit));
}

fn dashed(x: f64, out: &mut Vec<Mark>) {
    let mut y = TOP;
    while y < BOTTOM {
        out.push(line((x, y), (x, (y + 6.0).min(BOTTOM)), GREY, 1.5));
        y += 12.0;
    }
}

/// What the numbers and colours mean.
fn list(plan: &Plan, front: &[&MeasuredEncoding], memcpy: f64, out: &mut Vec<Mark>) {
    out.push(text(
        LIST,
        TOP - 14.0,
        Anchor::Start,
        BLACK,
        "Pareto choices",
    ));
    let mut at = TOP + 8.0;
    for (i, encoding) in front.iter().take(LIST_ROWS).enumerate() {
        let speed = encoding.decode_bytes_per_s / 1e9;
        let number = format!("{:>2} ", i + 1);
        let name = clipped(&short(encoding), LIST_CHARS - number.len());
        out.push(text(LIST, at, Anchor::Start, RED, number + &name));
        at += LINE;
        let mut detail = format!("   {:.2}x, {speed:.2} GB/s", encoding.ratio());
        if encoding.error.is_some() {
            detail.push_str(&format!(", {:.0} dB", encoding.snr_db()));
        }
        let goals = goals_of(plan, encoding);
        if !goals.is_empty() {
            detail.push_str(&format!("; for {}", goals.join(", ")));
        }
        let detail = clipped(&detail, LIST_CHARS);
        out.push(text(LIST, at, Anchor::Start, BLACK, detail));
        at += LINE + 6.0;
    }
    if front.len() > LIST_ROWS {
        let more = format!("   and {} more", front.len() - LIST_ROWS);
        out.push(text(LIST, at, Anchor::Start, BLACK, more));
    }
    let mut at = BOTTOM - 2.0 * LINE + 4.0;
    let has_other = plan.encodings().iter().any(|encoding| !encoding.meets);
    let mut key = |color, inner: bool, words: String| {
        out.push(dot((LIST + 8.0, at - 5.0), 4.5, color));
        if inner {
            out.push(dot((LIST + 8.0, at - 5.0), 3.0, WHITE));
        }
        out.push(text(LIST + 24.0, at, Anchor::Start, BLACK, words));
        at += LINE;
    };
    key(RED, false, "nothing is both smaller and faster".to_owned());
    key(BLUE, false, "meets the request".to_owned());
    if has_other {
        key(GREY, true, "does not meet it, for comparison".to_owned());
    }
    let words = format!("dashed: memcpy of the same bytes, {memcpy:.2} GB/s");
    out.push(text(LIST, at, Anchor::Start, BLACK, words));
}

/// The options without their names.
fn short(encoding: &MeasuredEncoding) -> String {
    let options = encoding.options().replace("--filter none ", "");
    let words = options.split(' ').filter(|word| !word.starts_with("--"));
    words.collect::<Vec<_>>().join(" + ")
}

fn clipped(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let head: String = text.chars().take(chars.saturating_sub(2)).collect();
    head + ".."
}

fn svg(marks: &[Mark]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let hex = |c: &Color| format!("#{:02x}{:02x}{:02x}", c.0, c.1, c.2);
    // Text comes last, as in PNG.
    let (texts, shapes): (Vec<_>, Vec<_>) = marks
        .iter()
        .partition(|mark| matches!(mark, Mark::Text { .. }));
    for mark in shapes.into_iter().chain(texts) {
        // Writing to a string cannot fail.
        match mark {
            Mark::Line {
                from,
                to,
                color,
                width,
            } => writeln!(
                out,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{}\" stroke-width=\"{width}\"/>",
                from.0, from.1, to.0, to.1, hex(color)
            ),
            Mark::Dot { at, radius, color } => writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"{}\"/>",
                at.0, at.1, hex(color)
            ),
            Mark::Text {
                at,
                anchor,
                large,
                color,
                text,
            } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                let size = if *large { 18 } else { 14 };
                writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{}\" \
                     xml:space=\"preserve\">{}</text>",
                    at.0, at.1, hex(color), escaped(text)
                )
            }
        }
        .ok();
    }
    out + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        for (low, high) in [
            (0.5, 12.0),
            (1.0, 1.3),
            (0.01, 400.0),
            (2.0, 2.0),
            (1e-6, 1e6),
        ] {
            let axis = Axis::over([low, high].into_iter(), 0.0, 100.0);
            let ticks = axis.ticks();
            assert!((2..=40).contains(&ticks.len()), "{low} {high} {ticks:?}");
            assert!(
                ticks
                    .iter()
                    .all(|t| (-1e-6..=100.000_001).contains(&axis.at(*t)))
            );
        }
    }

    #[test]
    fn text_is_escaped_and_clipped() {
        assert_eq!(escaped("a<b&c"), "a&lt;b&amp;c");
        assert_eq!(clipped("abcdef", 5), "abc..");
        assert_eq!(clipped("abcde", 5), "abcde");
    }
}
