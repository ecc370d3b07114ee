//! Pictures of pixels: shapes with smooth edges, text in a bitmap font, PNG.

use std::convert::Infallible;

use embedded_graphics::Drawable;
use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_8X13, FONT_10X20};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::primitives::{Circle, Line, Primitive, PrimitiveStyle};
use embedded_graphics::text::{Alignment, Text};

use super::failure::Failure;
use super::plot::{Anchor, Color, Mark, WHITE};

/// Shapes are drawn this much larger, then made smaller: that smooths their edges.
const SCALE: u32 = 4;

/// Pixels, row by row.
struct Canvas {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Canvas {
    fn new(width: u32, height: u32) -> Self {
        let pixels = width as usize * height as usize;
        let Color(r, g, b) = WHITE;
        Self {
            width,
            height,
            rgb: [r, g, b].repeat(pixels),
        }
    }

    /// Each pixel is the mean of a square of pixels.
    fn reduced(&self) -> Self {
        let mut out = Self::new(self.width / SCALE, self.height / SCALE);
        let (scale, row) = (SCALE as usize, self.width as usize * 3);
        for (i, value) in out.rgb.iter_mut().enumerate() {
            let (y, x, c) = (i / 3 / (row / 3 / scale), i / 3 % (row / 3 / scale), i % 3);
            let mut sum = 0u32;
            for dy in 0..scale {
                for dx in 0..scale {
                    let at = (y * scale + dy) * row + (x * scale + dx) * 3 + c;
                    sum += u32::from(self.rgb[at]);
                }
            }
            *value = u8::try_from(sum / (SCALE * SCALE)).unwrap_or(u8::MAX);
        }
        out
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(point, color) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(point.x), u32::try_from(point.y)) else {
                continue;
            };
            if x < self.width && y < self.height {
                let at = (y as usize * self.width as usize + x as usize) * 3;
                self.rgb[at..at + 3].copy_from_slice(&[color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

/// The bytes of a PNG file with these marks.
pub(crate) fn png(width: f64, height: f64, marks: &[Mark]) -> Result<Vec<u8>, Failure> {
    let (width, height) = (pixels(width, 1), pixels(height, 1));
    let mut large = Canvas::new(width * SCALE, height * SCALE);
    // Drawing on a canvas cannot fail.
    for mark in marks {
        shape(mark, &mut large).ok();
    }
    let mut canvas = large.reduced();
    for mark in marks {
        letters(mark, &mut canvas).ok();
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, canvas.width, canvas.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&canvas.rgb)?;
        writer.finish()
    });
    match written {
        Ok(()) => Ok(bytes),
        Err(e) => Err(Failure::Bug(format!("the picture cannot be encoded: {e}"))),
    }
}

fn shape(mark: &Mark, canvas: &mut Canvas) -> Result<(), Infallible> {
    match mark {
        Mark::Line {
            from,
            to,
            color,
            width,
        } => Line::new(point(*from, SCALE), point(*to, SCALE))
            .into_styled(PrimitiveStyle::with_stroke(
                rgb(*color),
                pixels(*width, SCALE),
            ))
            .draw(canvas),
        Mark::Dot { at, radius, color } => {
            Circle::with_center(point(*at, SCALE), pixels(2.0 * radius, SCALE))
                .into_styled(PrimitiveStyle::with_fill(rgb(*color)))
                .draw(canvas)
        }
        Mark::Text { .. } => Ok(()),
    }
}

fn letters(mark: &Mark, canvas: &mut Canvas) -> Result<(), Infallible> {
    let Mark::Text {
        at,
        anchor,
        large,
        color,
        text,
    } = mark
    else {
        return Ok(());
    };
    let font = if *large { &FONT_10X20 } else { &FONT_8X13 };
    let alignment = match anchor {
        Anchor::Start => Alignment::Left,
        Anchor::Middle => Alignment::Center,
        Anchor::End => Alignment::Right,
    };
    let style = MonoTextStyle::new(font, rgb(*color));
    Text::with_alignment(text, point(*at, 1), style, alignment).draw(canvas)?;
    Ok(())
}

fn rgb(Color(r, g, b): Color) -> Rgb888 {
    Rgb888::new(r, g, b)
}

fn point((x, y): (f64, f64), scale: u32) -> Point {
    let at = |x: f64| i32::try_from(pixels(x, scale)).unwrap_or(i32::MAX);
    Point::new(at(x), at(y))
}

/// A length in pixels; below 0 is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of the type"
)]
fn pixels(length: f64, scale: u32) -> u32 {
    (length * f64::from(scale)).round().clamp(0.0, 1e6) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plot::BLACK;

    #[test]
    fn shapes_have_smooth_edges_and_text_is_drawn() {
        let mut canvas = Canvas::new(40 * SCALE, 40 * SCALE);
        let dot = Mark::Dot {
            at: (20.0, 20.0),
            radius: 5.0,
            color: BLACK,
        };
        shape(&dot, &mut canvas).unwrap();
        let mut small = canvas.reduced();
        let at = |canvas: &Canvas, x: usize, y: usize| canvas.rgb[(y * 40 + x) * 3];
        assert_eq!((at(&small, 20, 20), at(&small, 2, 2)), (BLACK.0, 255));
        assert!(
            small
                .rgb
                .iter()
                .any(|&value| value > BLACK.0 && value < 255)
        );
        let text = Mark::Text {
            at: (2.0, 12.0),
            anchor: Anchor::Start,
            large: false,
            color: BLACK,
            text: "M".to_owned(),
        };
        letters(&text, &mut small).unwrap();
        assert!((0..10).any(|x| at(&small, x, 8) == BLACK.0));
    }
}
