//! Predict against the text of format-spec 8.1, element by element.

use super::super::Part;
use super::*;
use crate::kernel::simd::FORCED;
use crate::kernel::simd::Level;

fn noise(n: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(n);
    while out.len() < n {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        out.push(seed.to_le_bytes()[7]);
    }
    out
}

/// Elements `first..` of a sample, predicted as the specification says.
fn by_the_text(spec: FilterSpec, shape: &[usize], first: usize, src: &[u8]) -> Vec<u8> {
    let predict = spec.predict.unwrap();
    let size = spec.elem_size();
    let modulus = |x: u64| {
        if size == 8 {
            x
        } else {
            x & ((1 << (8 * size)) - 1)
        }
    };
    let mut x: Vec<u64> = src
        .chunks(size)
        .map(|b| {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(b);
            u64::from_le_bytes(wide)
        })
        .collect();
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let index = |i: usize, axis: usize| (first + i) / stride(axis) % shape[axis];
    let channel = predict.channel_axis.map(usize::from);
    if let (Some(axis), Some(reference)) = (channel, predict.reference.map(usize::from))
        && axis < shape.len()
        && reference < shape[axis]
    {
        let before = x.clone();
        for i in 0..x.len() {
            let at = index(i, axis);
            let other = (first + i + reference * stride(axis)) - at * stride(axis);
            if at != reference && other >= first && other - first < x.len() {
                x[i] = modulus(x[i].wrapping_sub(before[other - first]));
            }
        }
    }
    let spatial: Vec<usize> = (0..shape.len())
        .rev()
        .filter(|axis| channel != Some(*axis))
        .collect();
    let wanted: &[usize] = match predict.mode {
        PredictMode::None | PredictMode::Chunk => &[],
        PredictMode::Left => &[0],
        PredictMode::Up => &[1],
        PredictMode::Plane => &[0, 1],
        PredictMode::Volume => &[0, 1, 2],
    };
    for &axis in wanted.iter().filter_map(|&number| spatial.get(number)) {
        let before = x.clone();
        for i in 0..x.len() {
            if index(i, axis) > 0 && i >= stride(axis) {
                x[i] = modulus(x[i].wrapping_sub(before[i - stride(axis)]));
            }
        }
    }
    if predict.zigzag {
        for x in &mut x {
            let negative = *x >> (8 * size - 1) == 1;
            *x = modulus(if negative { !(*x << 1) } else { *x << 1 });
        }
    }
    x.iter()
        .flat_map(|x| x.to_le_bytes().into_iter().take(size))
        .collect()
}

/// Filters part of a run of samples and undoes it at every level of the machine.
fn check(spec: FilterSpec, shape: &[usize], first: usize, count: usize) {
    let what = format!("{spec} {shape:?} {first} {count}");
    let size = spec.elem_size();
    let src = noise(count * size, 7);
    let sample = shape.iter().product::<usize>().max(1);
    let expected: Vec<u8> = if count > sample {
        src.chunks(sample * size)
            .flat_map(|sample| by_the_text(spec, shape, 0, sample))
            .collect()
    } else {
        by_the_text(spec, shape, first, &src)
    };
    let layout = Part {
        shape,
        first,
        count,
    };
    for level in Level::available() {
        FORCED.set(Some(level));
        let mut filtered = vec![0x55; src.len()];
        PredictFilter.apply(spec, &layout, &src, &mut filtered);
        let mut back = vec![0xAA; src.len()];
        PredictFilter.undo(spec, &layout, &filtered, &mut back);
        let steps = PredictFilter.steps(spec, shape).unwrap();
        let unit = steps.unit();
        let first = first * size;
        let in_units = unit > 0 && first.is_multiple_of(unit) && src.len().is_multiple_of(unit);
        for (units, beside) in [1, 2, 4, 5]
            .into_iter()
            .flat_map(|n| [(n, false), (n, true)])
        {
            if !in_units {
                break;
            }
            let mut back = vec![0xAA; src.len()];
            let mut done = 0;
            for step in filtered.chunks(units * unit) {
                // Nothing but what is looked back at.
                let from = done - steps.looks_back().min(done);
                done += step.len();
                let (first, dst) = (first + from, &mut back[from..done]);
                match steps.beside(first, step, &mut *dst).filter(|_| beside) {
                    Some(mut sums) => sums.finish(),
                    None => steps.undo(first, step, dst),
                }
            }
            assert!(
                back == src,
                "{what}: sums at {level:?} in steps of {units} times {unit} bytes, beside: {beside}"
            );
        }
        FORCED.set(None);
        assert!(filtered == expected, "{what}: differences at {level:?}");
        assert!(back == src, "{what}: sums at {level:?}");
    }
}

fn specs(rank: usize) -> Vec<Predict> {
    let mut out = Vec::new();
    for (mode, _) in MODES {
        out.push(Predict::new(mode));
        for axis in (0..rank).filter_map(|axis| u8::try_from(axis).ok()) {
            out.push(Predict::new(mode).channel_axis(axis));
            out.push(Predict::new(mode).channel_axis(axis).reference(1));
        }
        out.push(Predict::new(mode).channel_axis(0).reference(0).zigzag());
        out.push(Predict::new(mode).zigzag());
    }
    out
}

#[test]
fn whole_samples_follow_the_text_and_are_undone() {
    let shapes: [&[usize]; 29] = [
        &[],
        &[1],
        &[7],
        &[64],
        &[65],
        &[300],
        &[5000],
        &[3, 3],
        &[2, 32],
        &[64, 64],
        &[5, 48],
        &[7, 24],
        &[3, 20, 12],
        &[9, 6],
        &[70, 3],
        &[3, 100],
        &[1, 9],
        &[9, 1],
        &[3, 8, 8],
        &[4, 32, 32],
        &[3, 64, 64],
        &[11, 13, 3],
        &[30, 40, 3],
        &[5, 2, 70],
        &[6, 5, 33],
        &[2, 3, 4, 5],
        &[3, 2, 70, 3],
        &[2, 40, 70],
        &[3, 0, 2],
    ];
    for shape in shapes {
        let sample: usize = shape.iter().product();
        for predict in specs(shape.len()) {
            for size in [1, 2, 4, 8] {
                let spec = FilterSpec::predict(predict).over(size).unwrap();
                check(spec, shape, 0, sample);
                if sample < 1000 {
                    check(spec, shape, 0, 37 * sample);
                }
            }
        }
    }
}

#[test]
fn parts_of_a_sample_follow_the_text_and_are_undone() {
    // (shape, elements of a piece): whole rows, or any number if a row is larger.
    let cuts: [(&[usize], usize); 11] = [
        (&[3, 20, 24], 9 * 24),
        (&[3, 20, 24], 20 * 24),
        (&[50, 31, 3], 333),
        (&[40, 3, 3], 30),
        (&[4, 5, 6, 7], 77),
        (&[2, 1000], 300),
        (&[3, 7, 200], 1000),
        (&[2, 3, 300], 64),
        // Lines of whole vectors, and pieces that are not; volumes.
        (&[2, 1024], 300),
        (&[5, 8, 64], 3 * 8 * 64),
        (&[5, 16, 128], 2 * 16 * 128),
    ];
    for (shape, piece) in cuts {
        let sample: usize = shape.iter().product();
        for predict in specs(shape.len()) {
            for size in [1, 2, 4, 8] {
                let spec = FilterSpec::predict(predict).over(size).unwrap();
                let mut first = 0;
                while first < sample {
                    check(spec, shape, first, piece.min(sample - first));
                    first += piece;
                }
            }
        }
    }
}

#[test]
fn every_width_of_a_line_is_undone() {
    for width in 1..140 {
        for (mode, size) in [
            (PredictMode::Left, 1),
            (PredictMode::Plane, 1),
            (PredictMode::Plane, 2),
        ] {
            let spec = FilterSpec::predict(Predict::new(mode)).over(size).unwrap();
            check(spec, &[5, width], 0, 15 * width);
        }
        let rgb = Predict::default().channel_axis(2).reference(1);
        check(
            FilterSpec::predict(rgb).over(1).unwrap(),
            &[4, width, 3],
            0,
            36 * width,
        );
    }
}

#[test]
fn worked_example_of_the_specification() -> Result<()> {
    let src = [1, 2, 4, 3, 5, 8, 0x11, 0x12, 0x14, 0x13, 0x15, 0x19];
    let expected = [0xF0, 0, 0, 0, 0, 0xFF, 0x11, 1, 2, 2, 1, 2];
    let zigzag = [0x1F, 0, 0, 0, 0, 1, 0x22, 2, 4, 4, 2, 4];
    for (text, params, expected) in [
        (
            "predict:1:2d:channel=0:reference=1",
            [1, 3, 0, 1, 0, 0],
            expected,
        ),
        (
            "predict:1:2d:channel=0:reference=1:zigzag",
            [1, 3, 0, 1, 1, 0],
            zigzag,
        ),
    ] {
        let spec = FilterSpec::parse(text)?;
        assert_eq!(spec.to_string(), text);
        let mut emitted = Vec::new();
        PredictFilter.emit_params(spec, &mut emitted);
        assert_eq!(emitted, params);
        let layout = Part {
            shape: &[2, 2, 3],
            first: 0,
            count: 12,
        };
        let mut out = [0; 12];
        PredictFilter.apply(spec, &layout, &src, &mut out);
        assert_eq!(out, expected);
    }
    Ok(())
}

#[test]
fn worked_example_of_chunks_that_choose() -> Result<()> {
    let spec = FilterSpec::parse("predict:1:chunk:channel=0:reference=1")?;
    let mut params = Vec::new();
    PredictFilter.emit_params(spec, &mut params);
    assert_eq!(params, [1, 5, 0, 1, 0, 0]);
    assert!(spec.is_per_chunk());
    let fixed = FilterSpec::parse("predict:1:2d:channel=0:reference=1")?;
    let mode = PredictMode::of_chunk(3)?;
    assert_eq!(*super::super::in_chunk(&[spec, fixed], mode), [fixed; 2]);
    let left = super::super::in_chunk(&[spec], PredictMode::of_chunk(1)?)[0];
    let layout = Part {
        shape: &[2, 2, 3],
        first: 0,
        count: 12,
    };
    let mut out = [0; 12];
    let src = [1, 1, 1, 7, 7, 7, 0, 0, 0, 7, 7, 7];
    PredictFilter.apply(left, &layout, &src, &mut out);
    assert_eq!(out, [1, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0]);
    for wrong in [5, 6, 255, 256, u16::MAX] {
        assert!(PredictMode::of_chunk(wrong).unwrap_err().is_corrupt());
    }
    Ok(())
}

#[test]
fn layouts_that_do_not_fit_the_bytes_are_survived() {
    let spec = FilterSpec::predict(Predict::default().channel_axis(0).reference(1))
        .over(2)
        .unwrap();
    let src = noise(101, 3);
    for (shape, first, count) in [
        (&[3, 5, 7][..], 0, 1000),
        (&[3, 5, 7], 0, 10),
        (&[3, 5, 7], 90, 50),
        (&[0, 3], 0, 50),
    ] {
        let mut out = vec![0; src.len()];
        let layout = Part {
            shape,
            first,
            count,
        };
        for level in Level::available() {
            FORCED.set(Some(level));
            PredictFilter.undo(spec, &layout, &src, &mut out);
            FORCED.set(None);
        }
    }
}

#[test]
fn options_and_parameters_round_trip_and_mistakes_are_refused() -> Result<()> {
    for predict in specs(3) {
        for size in ELEM_SIZES.map(usize::from) {
            let spec = FilterSpec::predict(predict).over(size)?;
            assert_eq!(FilterSpec::parse(&spec.to_string())?, spec);
            let mut params = Vec::new();
            PredictFilter.emit_params(spec, &mut params);
            assert_eq!(PredictFilter.parse_params(&params)?, spec);
        }
    }
    let default = FilterSpec::parse("predict")?;
    assert_eq!(default, FilterSpec::predict(Predict::default()));
    let green = Predict::default().channel_axis(2).reference(1);
    assert_eq!(
        FilterSpec::parse("predict:2d:channel=2")?,
        FilterSpec::predict(green)
    );
    for wrong in [
        &[1, 3, 255, 255, 0][..],
        &[3, 3, 255, 255, 0, 0],
        &[1, 6, 255, 255, 0, 0],
        &[1, 3, 255, 1, 0, 0],
        &[1, 3, 255, 255, 2, 0],
        &[1, 3, 255, 255, 0, 1],
        &[1, 3, 255, 255, 0, 0, 0],
    ] {
        assert!(PredictFilter.parse_params(wrong).unwrap_err().is_corrupt());
    }
    for wrong in [
        "predict:1d",
        "predict:channel=x",
        "predict:channel=255",
        "predict:3:2d",
    ] {
        assert!(FilterSpec::parse(wrong).is_err(), "{wrong}");
    }
    let spec = FilterSpec::predict(green).over(1)?;
    let dims = [None, Some(4), Some(3)];
    assert!(PredictFilter.check(spec, 8, Some(&dims)).is_ok());
    assert!(PredictFilter.check(spec, 4, Some(&dims)).is_err());
    assert!(PredictFilter.check(spec, 16, Some(&dims)).is_err());
    assert!(PredictFilter.check(spec, 8, Some(&dims[..2])).is_err());
    assert!(
        PredictFilter
            .check(spec, 8, Some(&[None, None, Some(1)]))
            .is_err()
    );
    assert!(PredictFilter.check(spec, 8, None).is_ok());
    Ok(())
}
