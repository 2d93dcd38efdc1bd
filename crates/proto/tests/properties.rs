//! What holds of every codec for any payloads, any bytes and any cuts.

use bytes::BytesMut;
use kolk_proto::codec::check::{Outcome, decode_however_cut};
use kolk_proto::codec::{
    ByteOrder, Decode, Delimiter, Encode, FixedLength, LengthField, LengthFieldLayout, Lines, VarintLength,
};
use proptest::collection::vec;
use proptest::prelude::*;

const LIMIT: usize = 200;

/// Payloads of few different bytes, so that delimiters and their beginnings are frequent.
fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(prop_oneof![Just(b'-'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..=LIMIT), 0..8)
}

fn cuts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(0..4_u8, 1..8), vec(any::<u8>(), 1..8)]
}

fn layouts() -> impl Strategy<Value = LengthFieldLayout> {
    let order = prop_oneof![Just(ByteOrder::BigEndian), Just(ByteOrder::LittleEndian)];
    let adjustment = prop_oneof![-20..20_i64, any::<i64>()];
    (0..6_usize, 1..=8_usize, adjustment, 0..20_usize, order).prop_map(
        |(
            length_field_offset,
            length_field_length,
            length_adjustment,
            initial_bytes_to_strip,
            byte_order,
        )| {
            LengthFieldLayout {
                max_frame_length: LIMIT,
                length_field_offset,
                length_field_length,
                length_adjustment,
                initial_bytes_to_strip,
                byte_order,
            }
        },
    )
}

/// Encodes what can be encoded, and gets exactly that back.
fn comes_back<C: Decode + Encode>(make: impl Fn() -> C, payloads: &[Vec<u8>], cuts: &[u8]) {
    let mut stream = BytesMut::new();
    let codec = make();
    let frames: Vec<Vec<u8>> =
        payloads.iter().filter(|payload| codec.encode_to(payload, &mut stream).is_ok()).cloned().collect();
    let outcome = decode_however_cut(make, &stream, cuts, 2 * LIMIT);
    assert_eq!(outcome, Outcome { frames, error: None });
}

proptest! {
    #[test]
    fn r30_what_is_encoded_comes_back_however_it_is_cut(payloads in payloads(), cuts in cuts(), width in 1..=8_usize) {
        comes_back(|| Lines::new(LIMIT), &payloads, &cuts);
        comes_back(|| Lines::new(LIMIT).crlf(), &payloads, &cuts);
        comes_back(|| Delimiter::new(b"--", LIMIT).unwrap(), &payloads, &cuts);
        comes_back(|| Delimiter::new(b"\n-\n--", LIMIT).unwrap(), &payloads, &cuts);
        comes_back(|| VarintLength::new(LIMIT), &payloads, &cuts);
        comes_back(|| FixedLength::new(width).unwrap(), &payloads, &cuts);
        let layout = LengthFieldLayout {
            length_field_length: width,
            initial_bytes_to_strip: width,
            max_frame_length: LIMIT + width,
            ..LengthFieldLayout::default()
        };
        comes_back(|| LengthField::new(layout).unwrap(), &payloads, &cuts);
    }

    #[test]
    fn r30_filled_lengths_come_back_for_every_layout(layout in layouts(), frames in vec(vec(any::<u8>(), 0..LIMIT), 0..8), cuts in cuts()) {
        let make = || LengthField::new(layout).unwrap();
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for mut frame in frames {
            if make().fill_length(&mut frame).is_ok() {
                stream.extend_from_slice(&frame);
                expected.push(frame[layout.initial_bytes_to_strip..].to_vec());
            }
        }
        let outcome = decode_however_cut(make, &stream, &cuts, LIMIT);
        prop_assert_eq!(outcome, Outcome { frames: expected, error: None });
    }

    #[test]
    fn r30_no_input_panics_or_needs_more_than_the_limit(stream in vec(any::<u8>(), 0..2000), cuts in cuts(), layout in layouts()) {
        decode_however_cut(|| Lines::new(LIMIT), &stream, &cuts, LIMIT + 2);
        decode_however_cut(|| Delimiter::new(b"\0\x01", LIMIT).unwrap(), &stream, &cuts, LIMIT + 2);
        decode_however_cut(|| VarintLength::new(LIMIT), &stream, &cuts, LIMIT + 10);
        decode_however_cut(|| FixedLength::new(LIMIT).unwrap(), &stream, &cuts, LIMIT);
        decode_however_cut(|| LengthField::new(layout).unwrap(), &stream, &cuts, LIMIT);
    }

    /// The same search in the plainest way.
    #[test]
    fn r30_the_first_delimiter_ends_a_frame(
        stream in vec(0..3_u8, 0..300),
        delimiter in vec(0..3_u8, 1..6),
        cuts in cuts(),
    ) {
        let mut frames = Vec::new();
        let mut rest = stream.as_slice();
        while let Some(at) = rest.windows(delimiter.len()).position(|window| window == delimiter) {
            frames.push(rest[..at].to_vec());
            rest = &rest[at + delimiter.len()..];
        }
        let outcome = decode_however_cut(|| Delimiter::new(&delimiter, 300).unwrap(), &stream, &cuts, 400);
        prop_assert_eq!(outcome, Outcome { frames, error: None });
    }
}
