//! Codec `prefix`: every level of vector instructions gives the same, for any bytes, and what was encoded comes back.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tensorshard::{CodecId, CodecSpec, at_every_level};
use tensorshard_fuzz::edit;

/// Decodes to `len` bytes in buffers that end where the bytes end. None if that is an error.
fn decode(stream: &[u8], len: usize) -> Option<Vec<u8>> {
    let stream = Box::<[u8]>::from(stream);
    let results = at_every_level(|| {
        [0u8, 0xFF].map(|fill| {
            let mut out = vec![fill; len].into_boxed_slice();
            let result = CodecSpec::new(CodecId::PREFIX).decode_piece(&stream, &mut out);
            result.is_ok().then_some(out)
        })
    });
    let mut results = results.into_iter().flatten();
    let first = results.next().expect("there is a level");
    assert!(results.all(|other| other == first), "levels differ");
    first.map(Vec::from)
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let is_stream = input.arbitrary()?;
    let (len, edits) = (input.arbitrary::<u16>()?, input.arbitrary::<u8>()?);
    let edits = input.bytes(usize::from(edits).min(input.len()))?;
    let (bits, first) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
    let bytes = input.bytes(input.len())?;
    if is_stream {
        decode(bytes, usize::from(len) % 5000);
        return Ok(());
    }
    // Bytes of few values are the ones that are not stored; the input again and again makes them many.
    let bytes = bytes.iter().map(|byte| (byte & bits).wrapping_add(first));
    let src: Box<[u8]> = bytes.cycle().take(usize::from(len)).collect();
    let spec = CodecSpec::new(CodecId::PREFIX);
    let streams = at_every_level(|| spec.encode_piece(&src).expect("every input is encoded"));
    assert!(
        streams.windows(2).all(|pair| pair[0] == pair[1]),
        "encoders differ"
    );
    let mut stream = streams.into_iter().next().expect("there is a level");
    assert!(
        decode(&stream, src.len()).as_deref() == Some(&src),
        "round trip"
    );
    edit(&mut stream, &mut Unstructured::new(edits))?;
    decode(&stream, src.len());
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
