//! Frames through a server, on each kernel interface and in simulated storms.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use bytes::BytesMut;
use kolk::codec::{
    Decode, Decoded, Delimiter, Encode, FixedLength, FrameError, LengthField, LengthFieldLayout, Lines,
    VarintLength, View,
};
use kolk::server::{Action, Builder, Conn, Handler, Input, Overflow, RunningServer, Server};
use kolk::{DriverChoice, DriverKind};
use kolk_engine::driver::{SimConfig, SimNet, SimPeer};
use support::{OnData, PATIENCE, connect, server};

/// Storms in which a test runs; `KOLK_SEED` names a single one.
const STORMS: u64 = 8;

macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] fn $test() { super::$test(&super::Place::Real(kolk::DriverKind::IoUring)); })+
        }
        mod epoll {
            $(#[test] fn $test() { super::$test(&super::Place::Real(kolk::DriverKind::Epoll)); })+
        }
        mod sim {
            $(#[test] fn $test() { super::in_storms(super::$test); })+
        }
    };
}

everywhere!(
    r30_frames_of_every_codec_come_back,
    r30_a_frame_in_one_piece_is_not_copied,
    r30_what_is_needed_is_waited_for,
    r30_a_frame_over_the_limit_ends_its_connection_only,
    r30_a_codec_of_ones_own,
    r30_a_frame_is_dropped_whole_or_not_at_all,
);

/// Where a server runs.
enum Place {
    Real(DriverKind),
    Sim(SimNet),
}

fn in_storms(test: fn(&Place)) {
    let only: Option<u64> = std::env::var("KOLK_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..STORMS, |seed| seed..seed + 1) {
        println!("in the storm of KOLK_SEED={seed}");
        test(&Place::Sim(SimNet::new(SimConfig::stormy(seed))));
    }
}

impl Place {
    fn server(&self) -> Builder {
        let builder = match self {
            Self::Real(driver) => server(*driver),
            Self::Sim(net) => Server::builder().driver(DriverChoice::Sim(net.clone())).stop_on_signals(false),
        };
        builder.listen("tcp://127.0.0.1:0").event_loops(1)
    }

    #[track_caller]
    fn connect<H: Handler>(&self, server: &RunningServer<H>) -> Peer {
        match self {
            Self::Real(_) => {
                let stream = connect(server, 0);
                stream.set_nonblocking(true).expect("an open socket");
                stream.set_nodelay(true).expect("an open socket");
                Peer::Tcp(stream)
            }
            Self::Sim(net) => {
                let address = server.addresses()[0].trim_start_matches("tcp://");
                let address = kolk::Address::Inet(address.parse().expect("an IP address"));
                Peer::Sim(net.connect(&address).expect("the server listens"))
            }
        }
    }
}

/// The other end of a stream: non-blocking.
enum Peer {
    Tcp(TcpStream),
    Sim(SimPeer),
}

impl Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Sim(peer) => peer.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Sim(peer) => peer.write(bytes),
        }
    }

    /// Writes in pieces and reads what comes until `enough` of it has, or the end of the stream.
    #[track_caller]
    fn exchange(&mut self, mut bytes: &[u8], piece: usize, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let begin = Instant::now();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !bytes.is_empty() || !enough(&answer) {
            assert!(begin.elapsed() < PATIENCE, "{} bytes came, then nothing", answer.len());
            let write = if bytes.is_empty() { Ok(0) } else { self.write(&bytes[..piece.min(bytes.len())]) };
            match write {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It was closed while we were writing: what it said may still be read.
                Err(_) => bytes = &[],
            }
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error} after {} bytes", answer.len()),
            }
        }
        answer
    }
}

/// Sends each frame back as a frame; one codec for each connection.
struct Frames<C>(C);

impl<C: Decode + Encode + Clone> Handler for Frames<C> {
    type Session = C;

    fn on_open(&mut self, _: &mut Conn<'_>) -> C {
        self.0.clone()
    }

    fn on_data(&mut self, codec: &mut C, conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        loop {
            match input.decode(codec) {
                Ok(Some(frame)) if frame.len() % 2 == 0 => conn.write_frame(codec, frame),
                Ok(Some(frame)) => conn.write_frame_copy(codec, &frame),
                Ok(None) => return Action::Continue,
                Err(error) => {
                    conn.write(format!("{error}\n").into_bytes());
                    return Action::Close;
                }
            }
            .expect("what was a frame can be one again");
        }
    }
}

#[track_caller]
fn come_back<C>(place: &Place, codec: C, payloads: &[Vec<u8>], piece: usize)
where
    C: Decode + Encode + Clone + Send + Sync + 'static,
{
    let mut stream = BytesMut::new();
    for payload in payloads {
        codec.encode_to(payload, &mut stream).expect("these can be encoded");
    }
    let server = place.server().start(move |_| Frames(codec.clone())).expect("a free port");
    let answer = place.connect(&server).exchange(&stream, piece, |answer| answer.len() >= stream.len());
    assert!(answer == stream, "{} of {} bytes in pieces of {piece}", answer.len(), stream.len());
}

fn r30_frames_of_every_codec_come_back(place: &Place) {
    const LIMIT: usize = 20_000;
    // From nothing to several receives, which are short on the simulated kernel.
    let lens: &[usize] = match place {
        Place::Real(_) => &[0, 1, 2, 100, 511, 513, 4096, 9_999, 20_000, 3],
        Place::Sim(_) => &[0, 1, 2, 100, 511, 2_000, 3],
    };
    let payloads: Vec<Vec<u8>> = lens.iter().map(|&len| vec![b'a'; len]).collect();
    for piece in [7, 1_000, usize::MAX] {
        come_back(place, Lines::new(LIMIT).crlf(), &payloads, piece);
        come_back(place, Delimiter::new(b"aab", LIMIT).expect("not empty"), &payloads, piece);
        come_back(place, VarintLength::new(LIMIT), &payloads, piece);
        come_back(place, LengthField::new(LengthFieldLayout::default()).expect("possible"), &payloads, piece);
        come_back(place, FixedLength::new(100).expect("not zero"), &vec![payloads[3].clone(); 9], piece);
    }
}

fn r30_a_frame_in_one_piece_is_not_copied(place: &Place) {
    // Answers each frame with whether it lies where it was received.
    let handler = |_| {
        let mut codec = VarintLength::new(100);
        OnData(move |conn: &mut Conn<'_>, input: &mut Input<'_>| {
            loop {
                let place = input.peek().as_ptr_range();
                match input.decode(&mut codec) {
                    Ok(Some(frame)) => conn.write(match place.contains(&frame.as_ptr()) {
                        true => "same ",
                        false => "copy ",
                    }),
                    Ok(None) => return Action::Continue,
                    Err(_) => return Action::Close,
                }
            }
        })
    };
    let server = place.server().start(handler).expect("a free port");
    let mut peer = place.connect(&server);
    // The simulated kernel cuts as it likes; the others bring so little in one piece.
    let answer = peer.exchange(b"\x03one\x03two\x05three", usize::MAX, |answer| answer.len() >= 15);
    match place {
        Place::Real(_) => assert_eq!(answer, b"same same same "),
        Place::Sim(_) => assert!(answer.chunks(5).all(|word| word == b"same " || word == b"copy ")),
    }
}

fn r30_what_is_needed_is_waited_for(place: &Place) {
    let codec = LengthField::new(LengthFieldLayout::default()).expect("possible");
    let mut stream = BytesMut::new();
    for len in [300, 0, 200] {
        codec.encode_to(&vec![7; len], &mut stream).expect("within the limit");
    }
    let server = place.server().start(move |_| Frames(codec)).expect("a free port");
    let answer = place.connect(&server).exchange(&stream, 1, |answer| answer.len() >= stream.len());
    assert!(answer == stream);
    support::until("the loop has published", || server.stats().bytes_received == stream.len() as u64);
    // The first byte of a header, the rest of it, the rest of the frame: for each of three.
    let calls = server.stats().messages;
    assert!(calls <= 9, "{calls} calls for {} bytes that came one by one", stream.len());
}

fn r30_a_frame_over_the_limit_ends_its_connection_only(place: &Place) {
    let server = place.server().start(|_| Frames(Lines::new(100))).expect("a free port");
    let mut good = place.connect(&server);
    assert_eq!(good.exchange(b"one\n", 4, |answer| answer.len() >= 4), b"one\n");
    let mut bad = place.connect(&server);
    let answer = bad.exchange(&[b"two\n".as_slice(), &[b'x'; 101]].concat(), 50, |_| false);
    let complaint = "two\na frame of at least 101 bytes is over the limit of 100\n";
    assert_eq!(String::from_utf8_lossy(&answer), complaint);
    assert_eq!(good.exchange(b"three\n", 6, |answer| answer.len() >= 6), b"three\n");
}

/// A number in decimal, a colon, as many bytes, a comma (netstrings).
#[derive(Clone)]
struct Netstring;

impl Decode for Netstring {
    fn decode<V: View + ?Sized>(&mut self, input: &V) -> Result<Decoded, FrameError> {
        let Some(colon) = input.find_byte(b':', 0) else { return Ok(Decoded::NeedMore(2)) };
        let mut digits = vec![0; colon];
        input.copy_at(0, &mut digits);
        let len = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u16>().ok());
        let len = len.ok_or(FrameError::Malformed("a netstring begins with its length"))?;
        let frame = kolk::codec::Frame { header: colon + 1, payload: len.into(), trailer: 1 };
        match input.byte_at(frame.len() - 1) {
            Some(byte) if byte != b',' => Err(FrameError::Malformed("a netstring ends with a comma")),
            _ => Ok(frame.or_need_more(input)),
        }
    }
}

fn r30_a_codec_of_ones_own(place: &Place) {
    let handler = |_| {
        OnData(|conn: &mut Conn<'_>, input: &mut Input<'_>| {
            loop {
                match input.decode_with(&mut Netstring, <[u8]>::to_ascii_uppercase) {
                    Ok(Some(louder)) => conn.write(louder),
                    Ok(None) => return Action::Continue,
                    Err(error) => {
                        conn.write(error.to_string().into_bytes());
                        return Action::Close;
                    }
                }
            }
        })
    };
    let server = place.server().start(handler).expect("a free port");
    for piece in [1, 3, 100] {
        let answer = place.connect(&server).exchange(b"5:hello,0:,3:abc,1:x;", piece, |_| false);
        assert_eq!(String::from_utf8_lossy(&answer), "HELLOABCa netstring ends with a comma");
    }
}

fn r30_a_frame_is_dropped_whole_or_not_at_all(place: &Place) {
    const FRAMES: u32 = 2_000;
    let codec = LengthField::new(LengthFieldLayout::default()).expect("possible");
    for overflow in [Overflow::DropNew, Overflow::DropOld, Overflow::KeepLatest] {
        // More than fits, faster than anybody reads: short frames, which are copied, and long ones.
        let handler = move |_| {
            OnData(move |conn: &mut Conn<'_>, input: &mut Input<'_>| {
                input.take();
                for number in 0..FRAMES {
                    let mut payload = vec![0; if number % 2 == 0 { 10 } else { 1_000 }];
                    payload[..4].copy_from_slice(&number.to_be_bytes());
                    let written = match number % 3 {
                        0 => conn.write_frame_copy(&codec, &payload),
                        _ => conn.write_frame(&codec, payload),
                    };
                    written.expect("within the limit");
                }
                Action::Close
            })
        };
        let server = place.server().output_cap(20_000, overflow).start(handler).expect("a free port");
        let mut answer = BytesMut::from(&*place.connect(&server).exchange(b"go", usize::MAX, |_| false));
        let mut numbers = Vec::new();
        let mut codec = codec;
        while let Some(frame) = codec.take_frame(&mut answer).expect("whole frames only") {
            numbers.push(u32::from_be_bytes(*frame.first_chunk().expect("a number")));
        }
        assert!(answer.is_empty(), "{overflow:?}: {} bytes are no frame", answer.len());
        assert!(numbers.is_sorted(), "{overflow:?}: {numbers:?}");
        let kept = if overflow == Overflow::DropNew { 0 } else { FRAMES - 1 };
        assert!(numbers.contains(&kept), "{overflow:?}: {numbers:?}");
        let dropped = u64::from(FRAMES) - numbers.len() as u64;
        support::until("the loop has published", || server.stats().messages_dropped == dropped);
        assert!(dropped > 0, "{overflow:?}");
    }
}
