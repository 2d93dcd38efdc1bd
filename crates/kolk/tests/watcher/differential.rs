//! The same random script brings the same results on every kernel interface.
//!
//! A script has steps: one thing is done, then everything comes to rest. So what races on a real kernel is
//! left out, and what is left must be equal: which operations end, in which order each direction of each
//! connection ends them, with which result, count and bytes, and what the peers read.

use std::fmt::Write as _;
use std::time::Duration;

use kolk::watcher::{Completion, Operation, OperationId, Request};
use kolk::{ConnId, DriverKind};
use kolk_engine::driver::{SimConfig, SimNet};

use crate::dice::Dice;
use crate::support::{Peer, Rig, buffer, read_available, write_some};

/// Scripts; `KOLK_SEED` names a single one.
const SEEDS: u64 = 1000;
const STEPS: usize = 30;
const STREAMS: usize = 3;

#[test]
fn l08_every_driver_gives_the_same_results_for_the_same_script() {
    let (mut uring, mut epoll) = (Rig::new(DriverKind::IoUring), Rig::new(DriverKind::Epoll));
    let only: Option<u64> = std::env::var("KOLK_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let net = SimNet::new(SimConfig { short_transfers: 0, ..SimConfig::calm(seed) });
        let mut sim = Rig::on_net(net);
        let expected = Run::new(&mut epoll, seed).play();
        for rig in [&mut uring, &mut sim] {
            let driver = rig.watcher.driver();
            let log = Run::new(rig, seed).play();
            for (step, (left, right)) in expected.iter().zip(&log).enumerate() {
                assert_eq!(left, right, "epoll and {driver} differ in step {step} of KOLK_SEED={seed}");
            }
            assert_eq!(expected.len(), log.len(), "KOLK_SEED={seed}");
        }
    }
}

/// One script on one watcher.
struct Run<'a> {
    rig: &'a mut Rig,
    dice: Dice,
    streams: Vec<Stream>,
    /// Context of the next operation.
    next: u32,
    log: Vec<String>,
}

struct Stream {
    conn: ConnId,
    peer: Peer,
    /// Not ended as far as the script knows.
    pending: Vec<(u32, OperationId)>,
    is_freed: bool,
    peer_has_ended: bool,
    at_peer: Vec<u8>,
}

impl<'a> Run<'a> {
    fn new(rig: &'a mut Rig, seed: u64) -> Self {
        let streams = (0..STREAMS).map(|_| Stream::new(rig)).collect();
        Self { rig, dice: Dice::new(seed), streams, next: 0, log: Vec::new() }
    }

    /// The log: a line for each step, and one for each peer.
    fn play(mut self) -> Vec<String> {
        for _ in 0..STEPS {
            let stream = self.dice.below(STREAMS);
            let action = self.dice.below(16);
            let awaited = self.act(stream, action);
            self.rest(awaited);
        }
        for stream in 0..STREAMS {
            let awaited = self.free(stream);
            self.rest(awaited);
        }
        let ends = self.streams.iter().map(|stream| String::from_utf8_lossy(&stream.at_peer).into_owned());
        self.log.extend(ends);
        self.log
    }

    /// Does one thing; the operation whose end it brings about for certain, if there is one.
    fn act(&mut self, index: usize, action: usize) -> Option<u32> {
        let context = self.next;
        let size = 1 + self.dice.below(200);
        let stream = &mut self.streams[index];
        let conn = stream.conn;
        let request = match action {
            0 | 1 => Request::read(conn, context, buffer(size)),
            2 => Request::read_pooled(conn, context),
            3 | 4 => Request::read_exact(conn, context, buffer(size)),
            5 => Request::read_until(conn, context, [b'a' + size as u8 % 26], 300),
            6 => Request::read_exact(conn, context, buffer(size)).timeout(Duration::from_millis(1)),
            7 => Request::read(conn, context, buffer(size)).timeout(Duration::ZERO),
            8 | 9 => Request::write(conn, context, text(context, size * 5)),
            10 => Request::write(conn, context, text(context, size)).timeout(Duration::from_secs(60)),
            11 | 12 => {
                if !stream.peer_has_ended && !stream.is_freed {
                    write_some(&mut stream.peer, &text(context, size));
                }
                self.next += 1;
                return None;
            }
            13 => return self.cancel(index),
            14 => return self.end(index, size),
            _ if size < 40 => return self.free(index),
            _ => Request::read_pooled(conn, context),
        };
        self.next += 1;
        match self.rig.watcher.submit(request) {
            Ok(id) => self.streams[index].pending.push((context, id)),
            Err(error) => {
                assert!(error.is_not_connected() && self.streams[index].is_freed, "{error}");
                return None;
            }
        }
        matches!(action, 6 | 7).then_some(context)
    }

    /// Cancels one that is pending, sometimes one that has ended.
    fn cancel(&mut self, index: usize) -> Option<u32> {
        let count = self.streams[index].pending.len();
        if count == 0 {
            return None;
        }
        let (context, id) = self.streams[index].pending[self.dice.below(count)];
        self.rig.watcher.cancel(id);
        Some(context)
    }

    /// Ends one direction.
    fn end(&mut self, index: usize, size: usize) -> Option<u32> {
        let stream = &mut self.streams[index];
        if size > 100 {
            let result = self.rig.watcher.shutdown_write(stream.conn);
            assert_eq!(result.is_err(), stream.is_freed);
        } else if !stream.peer_has_ended && !stream.is_freed {
            stream.peer.shutdown_write();
            stream.peer_has_ended = true;
        }
        None
    }

    fn free(&mut self, index: usize) -> Option<u32> {
        let stream = &mut self.streams[index];
        if std::mem::replace(&mut stream.is_freed, true) {
            assert!(!self.rig.watcher.is_open(stream.conn));
            return None;
        }
        // What has been sent is read before: the close may reset the stream.
        read_available(&mut stream.peer, &mut stream.at_peer);
        let context = self.next;
        self.next += 1;
        let id = self.rig.submit(Request::free(stream.conn, context));
        stream.pending.push((context, id));
        Some(context)
    }

    /// Waits for the end of one operation, and until nothing more comes; notes what came.
    #[track_caller]
    fn rest(&mut self, awaited: Option<u32>) {
        if let Some(context) = awaited {
            self.rig
                .until("the operation that ends", |rig| rig.done.iter().any(|done| done.context == context));
        }
        let mut quiet = 0;
        while quiet < 3 {
            let before = self.rig.done.len();
            self.rig.poll();
            quiet = if self.rig.done.len() == before { quiet + 1 } else { 0 };
        }
        let mut done: Vec<_> = self.rig.done.drain(..).collect();
        for each in &done {
            for stream in &mut self.streams {
                stream.pending.retain(|(context, _)| *context != each.context);
            }
        }
        // Directions and connections are independent; within one direction the order counts.
        done.sort_by_key(|done| (self.place(done.conn), direction(done)));
        let mut line = String::new();
        for each in &done {
            let place = self.place(each.conn);
            let _ = write!(line, "[{place}:{} {}] ", each.context, describe(each));
        }
        for stream in self.streams.iter_mut().filter(|stream| !stream.is_freed) {
            read_available(&mut stream.peer, &mut stream.at_peer);
        }
        self.log.push(line);
    }

    fn place(&self, conn: ConnId) -> usize {
        self.streams.iter().position(|stream| stream.conn == conn).expect("a connection of the script")
    }
}

impl Stream {
    fn new(rig: &mut Rig) -> Self {
        let (conn, peer) = rig.pair();
        Self { conn, peer, pending: Vec::new(), is_freed: false, peer_has_ended: false, at_peer: Vec::new() }
    }
}

fn direction(done: &Completion<u32>) -> u8 {
    match done.operation {
        Operation::Closed => 2,
        Operation::Write => 1,
        _ => 0,
    }
}

fn describe(done: &Completion<u32>) -> String {
    let bytes = String::from_utf8_lossy(&done.buffer);
    let result = match &done.result {
        Ok(count) => format!("Ok({count})"),
        Err(error) if error.is_cancelled() => "cancelled".into(),
        Err(error) => format!("{:?}", error.kind()),
    };
    format!("{:?} {result} {} {bytes:?}", done.operation, done.count)
}

/// Bytes that say which operation they are of.
fn text(context: u32, len: usize) -> Vec<u8> {
    (0..len).map(|place| b'a' + ((place + context as usize * 7) % 26) as u8).collect()
}
