//! Each codec by table: what a stream is decoded to, and what a payload is encoded to, however it is cut.

use kolk_proto::codec::check::{Outcome, decode_however_cut};
use kolk_proto::codec::{
    ByteOrder, Decode, Decoded, Delimiter, Encode, FixedLength, Frame, FrameError, LengthField,
    LengthFieldLayout, Lines, VarintLength, View,
};

/// Decodes a stream in one piece, byte by byte, and cut in two at every place.
#[track_caller]
fn outcome<D: Decode>(make: impl Fn() -> D, stream: &[u8], most: usize) -> Outcome {
    let all = decode_however_cut(&make, stream, &[1], most);
    for cut in 1..stream.len().min(255) {
        let rest = (stream.len() - cut).min(255);
        assert_eq!(decode_however_cut(&make, stream, &[cut as u8, rest as u8], most), all);
    }
    all
}

#[track_caller]
fn decodes<D: Decode>(make: impl Fn() -> D, stream: &[u8], frames: &[&[u8]]) {
    let outcome = outcome(make, stream, 4096);
    assert_eq!(outcome.frames, frames);
    assert_eq!(outcome.error, None);
}

#[track_caller]
fn fails<D: Decode>(make: impl Fn() -> D, stream: &[u8], frames: &[&[u8]], error: FrameError) {
    let outcome = outcome(make, stream, 4096);
    assert_eq!(outcome.frames, frames);
    assert_eq!(outcome.error, Some(error));
}

#[track_caller]
fn encodes(codec: &impl Encode, payload: &[u8], expected: &[u8]) {
    let mut buffer = bytes::BytesMut::from("before ");
    codec.encode_to(payload, &mut buffer).expect("it can be encoded");
    assert_eq!(buffer, [b"before ", expected].concat());
}

#[track_caller]
fn cannot_encode(codec: &impl Encode, payload: &[u8], error: FrameError) {
    let mut buffer = bytes::BytesMut::from("before");
    assert_eq!(codec.encode_to(payload, &mut buffer), Err(error));
    assert_eq!(buffer, "before");
}

fn too_long(len: u64, limit: usize) -> FrameError {
    FrameError::TooLong { len, limit }
}

#[test]
fn r30_frames_of_a_fixed_length() {
    let make = || FixedLength::new(4).expect("not zero");
    decodes(make, b"", &[]);
    decodes(make, b"abc", &[]);
    decodes(make, b"abcdefgh", &[b"abcd", b"efgh"]);
    decodes(make, b"abcdefghi", &[b"abcd", b"efgh"]);
    encodes(&make(), b"abcd", b"abcd");
    cannot_encode(&make(), b"abcde", FrameError::WrongLength { len: 5, frame: 4 });
    assert!(matches!(FixedLength::new(0), Err(FrameError::Parameters(_))));
}

#[test]
fn r30_lines_end_with_lf_or_crlf() {
    let make = || Lines::new(5);
    decodes(make, b"", &[]);
    decodes(make, b"\n\r\n", &[b"", b""]);
    decodes(make, b"one\ntwo\r\nthree\n\nfo", &[b"one", b"two", b"three", b""]);
    decodes(make, b"a\rb\n\r\r\n\rc\r\r\n", &[b"a\rb", b"\r", b"\rc\r"]);
    decodes(make, b"12345\n12345\r\n12345\r", &[b"12345", b"12345"]);
    fails(make, b"ok\n123456\n", &[b"ok"], too_long(6, 5));
    fails(make, b"12345\r\r\n", &[], too_long(6, 5));
    fails(make, b"1234567890", &[], too_long(6, 5));
    encodes(&make(), b"12345", b"12345\n");
    encodes(&make().crlf(), b"", b"\r\n");
    encodes(&make(), b"a\rb", b"a\rb\n");
    cannot_encode(&make(), b"123456", too_long(6, 5));
    cannot_encode(&make(), b"ab\nc", FrameError::HoldsDelimiter { at: 2 });
    cannot_encode(&make(), b"ab\r", FrameError::HoldsDelimiter { at: 2 });
}

#[test]
fn r30_frames_end_with_a_delimiter() {
    let with = |delimiter: &'static [u8]| move || Delimiter::new(delimiter, 6).expect("not empty");
    decodes(with(b"\0"), b"one\0\0two\0th", &[b"one", b"", b"two"]);
    decodes(with(b"$_"), b"a$b$_$_c_$$_", &[b"a$b", b"", b"c_$"]);
    // Each wrong beginning is the right beginning of the next try.
    decodes(with(b"aab"), b"aaabaaaaab", &[b"a", b"aaa"]);
    decodes(with(b"abab_"), b"ababab_abaabab_", &[b"ab", b"aba"]);
    decodes(with(b"--"), b"-a---", &[b"-a"]);
    decodes(with(b"\r\n\r\n"), b"\r\n\r\r\n\r\n123456\r\n\r\n", &[b"\r\n\r", b"123456"]);
    fails(with(b"$_"), b"123456$_1234567$_", &[b"123456"], too_long(7, 6));
    fails(with(b"$_"), b"1234567", &[], too_long(7, 6));
    fails(with(b"aaab"), b"aaaaaaaaaab", &[], too_long(7, 6));
    encodes(&with(b"$_")(), b"a$", b"a$$_");
    encodes(&with(b"--")(), b"a", b"a--");
    cannot_encode(&with(b"--")(), b"a-", FrameError::HoldsDelimiter { at: 1 });
    cannot_encode(&with(b"--")(), b"a--b", FrameError::HoldsDelimiter { at: 1 });
    cannot_encode(&with(b"--")(), b"1234567", too_long(7, 6));
    assert!(matches!(Delimiter::new(b"", 6), Err(FrameError::Parameters(_))));
}

/// The layout with the parameters in Netty's order.
fn netty(max: usize, offset: usize, length: usize, adjustment: i64, strip: usize) -> LengthFieldLayout {
    LengthFieldLayout {
        max_frame_length: max,
        length_field_offset: offset,
        length_field_length: length,
        length_adjustment: adjustment,
        initial_bytes_to_strip: strip,
        byte_order: ByteOrder::BigEndian,
    }
}

fn field(layout: LengthFieldLayout) -> impl Fn() -> LengthField {
    move || LengthField::new(layout).expect("possible parameters")
}

/// The examples in the documentation of Netty's `LengthFieldBasedFrameDecoder`, each twice in a row.
#[test]
fn r30_the_length_fields_of_netty() {
    let table: [(LengthFieldLayout, &[u8], &[u8]); 7] = [
        (netty(64, 0, 2, 0, 0), b"\x00\x0cHELLO, WORLD", b"\x00\x0cHELLO, WORLD"),
        (netty(64, 0, 2, 0, 2), b"\x00\x0cHELLO, WORLD", b"HELLO, WORLD"),
        (netty(64, 0, 2, -2, 0), b"\x00\x0eHELLO, WORLD", b"\x00\x0eHELLO, WORLD"),
        (netty(64, 2, 3, 0, 0), b"\xca\xfe\0\0\x0cHELLO, WORLD", b"\xca\xfe\0\0\x0cHELLO, WORLD"),
        (netty(64, 0, 3, 2, 0), b"\0\0\x0c\xca\xfeHELLO, WORLD", b"\0\0\x0c\xca\xfeHELLO, WORLD"),
        (netty(64, 1, 2, 1, 3), b"\xca\0\x0c\xfeHELLO, WORLD", b"\xfeHELLO, WORLD"),
        (netty(64, 1, 2, -3, 3), b"\xca\0\x10\xfeHELLO, WORLD", b"\xfeHELLO, WORLD"),
    ];
    for (layout, wire, frame) in table {
        decodes(field(layout), &[wire, wire].concat(), &[frame, frame]);
        // The way back: the length is what it was.
        let end = layout.length_field_offset + layout.length_field_length;
        let mut again = wire.to_vec();
        again[layout.length_field_offset..end].fill(0xff);
        field(layout)().fill_length(&mut again).expect("it fits");
        assert_eq!(again, wire, "{layout:?}");
    }
}

#[test]
fn r30_length_fields_of_every_width_and_order() {
    for width in 1..=8 {
        for byte_order in [ByteOrder::BigEndian, ByteOrder::LittleEndian] {
            let make = field(LengthFieldLayout { byte_order, ..netty(600, 0, width, 0, width) });
            let mut wire = bytes::BytesMut::new();
            let mut wanted: Vec<Vec<u8>> = vec![vec![], vec![1; 1], vec![2; 255]];
            if width > 1 {
                wanted.push(vec![3; 513]); // two different bytes of length
            }
            for payload in &wanted {
                make().encode_to(payload, &mut wire).expect("it fits");
            }
            let outcome = outcome(&make, &wire, 600);
            assert_eq!((outcome.frames, outcome.error), (wanted, None));
        }
    }
}

#[test]
fn r30_length_fields_that_overflow_are_refused() {
    let plain = || field(netty(100, 0, 8, 0, 0));
    fails(plain(), &[0xff; 20], &[], too_long(u64::MAX, 100));
    fails(plain(), &[0, 0, 0, 0, 0, 0, 0, 93], &[], too_long(101, 100));
    let upwards = || field(netty(100, 0, 8, i64::MAX, 0));
    fails(upwards(), &[0xff; 8], &[], too_long(u64::MAX, 100));
    let downwards = || field(netty(100, 0, 8, i64::MIN, 0));
    fails(downwards(), &[0; 8], &[], FrameError::TooShort { len: 8 + i128::from(i64::MIN), least: 8 });
    fails(downwards(), &[0xff; 8], &[], too_long((1 << 63) + 7, 100));
    // The whole frame counted, but less than its header.
    let counted = || field(netty(100, 0, 2, -2, 2));
    fails(counted(), b"\x00\x03a\x00\x01", &[b"a"], FrameError::TooShort { len: 1, least: 2 });
    // More to strip than there is.
    fails(field(netty(100, 0, 1, 0, 4)), b"\x03abc\x02ab", &[b""], FrameError::TooShort { len: 3, least: 4 });
    // A limit as large as it can be is no overflow either.
    let huge = LengthField::new(netty(usize::MAX, 0, 8, 0, 0)).map(|mut codec| codec.decode(&[0xff; 8][..]));
    assert_eq!(huge, Ok(Err(too_long(u64::MAX, usize::MAX))));
}

#[test]
fn r30_length_fields_that_cannot_be() {
    for layout in [
        netty(100, 0, 0, 0, 0),
        netty(100, 0, 9, 0, 0),
        netty(7, 0, 8, 0, 0),
        netty(100, 99, 2, 0, 0),
        netty(100, usize::MAX, 8, 0, 0),
        netty(100, 0, 2, 0, 101),
    ] {
        assert!(matches!(LengthField::new(layout), Err(FrameError::Parameters(_))), "{layout:?}");
    }
    cannot_encode(
        &field(netty(1000, 0, 1, 0, 1))(),
        &[0; 256],
        FrameError::FieldTooSmall { value: 256, field: 1 },
    );
    cannot_encode(
        &field(netty(1000, 0, 1, 9, 1))(),
        &[0; 8],
        FrameError::FieldTooSmall { value: -1, field: 1 },
    );
    cannot_encode(&field(netty(10, 0, 1, 0, 1))(), &[0; 10], too_long(11, 10));
    assert!(matches!(field(netty(10, 1, 1, 0, 0))().encode(b""), Err(FrameError::Parameters(_))));
    let mut short = [0; 3];
    assert_eq!(
        field(netty(10, 2, 2, 0, 0))().fill_length(&mut short),
        Err(FrameError::TooShort { len: 3, least: 4 })
    );
}

#[test]
fn r30_frames_behind_a_varint() {
    let make = || VarintLength::new(300);
    decodes(make, b"\x00\x03abc\x80", &[b"", b"abc"]);
    decodes(make, b"\x83\x00abc\x83\x80\x80\x80\x80\x80\x80\x80\x80\x00abc", &[b"abc", b"abc"]);
    decodes(make, &[b"\xac\x02".as_slice(), &[7; 300]].concat(), &[&[7; 300]]);
    fails(make, b"\x00\xad\x02", &[b""], too_long(301, 300));
    fails(make, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[], too_long(u64::MAX, 300));
    fails(make, b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", &[], FrameError::Varint);
    fails(make, &[0xff; 11], &[], FrameError::Varint);
    for (len, prefix) in [(0, b"\x00".as_slice()), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")] {
        encodes(&make(), &vec![1; len], &[prefix, &vec![1; len]].concat());
    }
    cannot_encode(&make(), &[0; 301], too_long(301, 300));
}

/// Counts the bytes that a decoder is shown.
struct Counting<'a> {
    bytes: &'a [u8],
    shown: std::cell::Cell<usize>,
}

impl View for Counting<'_> {
    fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn piece_at(&self, at: usize) -> &[u8] {
        let piece = self.bytes.piece_at(at);
        self.shown.set(self.shown.get() + piece.len());
        piece
    }
}

/// Shows one byte more each time; the frame is whole with the last one. At most three looks at a byte: the search
/// itself, and one for a line's CR, each time more arrive.
#[track_caller]
fn looks_once(mut decoder: impl Decode, stream: &[u8]) {
    let mut shown = 0;
    for len in 1..=stream.len() {
        let view = Counting { bytes: &stream[..len], shown: 0.into() };
        let decoded = decoder.decode(&view).expect("within the limit");
        assert_eq!(matches!(decoded, Decoded::Frame(_)), len == stream.len());
        shown += view.shown.get();
    }
    assert!(shown <= 3 * stream.len(), "{shown} bytes shown of {}", stream.len());
}

#[test]
fn r30_a_byte_is_not_looked_at_again_when_more_arrive() {
    const LEN: usize = 20_000;
    for filling in [b"x", b"-", b"_"] {
        let stream = [filling.repeat(LEN).as_slice(), b"-_="].concat();
        looks_once(Delimiter::new(b"-_=", LEN).expect("not empty"), &stream);
    }
    for filling in [b"x", b"\r"] {
        looks_once(Lines::new(LEN), &[filling.repeat(LEN).as_slice(), b"\r\n"].concat());
    }
}

#[test]
fn r30_a_codec_that_tells_of_what_is_not_there_is_found_out() {
    struct Wrong(Frame);
    impl Decode for Wrong {
        fn decode<V: View + ?Sized>(&mut self, _: &V) -> Result<Decoded, FrameError> {
            Ok(Decoded::Frame(self.0))
        }
    }
    let mut arrived = bytes::BytesMut::from("abc");
    for (header, payload, trailer) in [(0, 0, 0), (1, 2, 1), (0, 4, 0), (usize::MAX, 1, 1)] {
        let frame = Frame { header, payload, trailer };
        let error = FrameError::Impossible { frame: frame.len(), arrived: 3 };
        assert_eq!(Wrong(frame).take_frame(&mut arrived), Err(error));
        assert_eq!(arrived, "abc");
    }
}
