//! Any bytes with a length field of any layout, cut anywhere.
#![no_main]

use kolk_proto::codec::{ByteOrder, LengthField, LengthFieldLayout, check};

libfuzzer_sys::fuzz_target!(|input: ([u8; 4], bool, i64, Vec<u8>, Vec<u8>)| {
    let ([limit, offset, length, strip], little, adjustment, cuts, stream) = input;
    let layout = LengthFieldLayout {
        max_frame_length: limit.into(),
        length_field_offset: offset.into(),
        length_field_length: length.into(),
        length_adjustment: adjustment,
        initial_bytes_to_strip: strip.into(),
        byte_order: if little { ByteOrder::LittleEndian } else { ByteOrder::BigEndian },
    };
    let Ok(codec) = LengthField::new(layout) else {
        return;
    };
    check::decode_however_cut(|| codec, &stream, &cuts, limit.into());
});
