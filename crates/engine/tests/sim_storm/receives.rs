//! Receives that are cancelled, begun again, and kept.

use std::io::{self, Write};
use std::mem;

use bytes::BytesMut;
use kolk_engine::Event;
use kolk_engine::buffer::Lease;
use kolk_engine::driver::SimPeer;
use kolk_engine::op::is_cancelled;
use kolk_engine::token::ConnId;

use crate::sim_helper::{Dice, for_seeds, pattern};
use crate::station::{SEEDS, Station, TURNS_MAX, name_of, network};

/// A connection whose receive is cancelled and begun again, this way or that.
struct Listening {
    conn: ConnId,
    peer: SimPeer,
    sent: usize,
    got: usize,
    receiving: bool,
    ended: bool,
}

/// What a [`Listening`] peer sends.
const SPEECH: usize = 1500;

/// Bytes that the program keeps for some turns.
pub(crate) struct Hoard {
    pub(crate) kept: Vec<(usize, Lease, Vec<u8>)>,
}

impl Hoard {
    pub(crate) fn keep(&mut self, turns: usize, lease: Lease) {
        let bytes = lease.to_vec();
        self.kept.push((turns, lease, bytes));
    }

    /// A turn later: lets go of what was kept long enough, some of it in parts.
    #[track_caller]
    pub(crate) fn age(&mut self) {
        for (turns, mut lease, bytes) in mem::take(&mut self.kept) {
            assert_eq!(*lease, bytes, "a kept lease changed");
            match turns {
                0 => {}
                7 => {
                    let front = lease.split_to(bytes.len() / 2);
                    self.keep(2, front);
                    self.keep(3, lease);
                }
                _ => self.kept.push((turns - 1, lease, bytes)),
            }
        }
    }
}

#[test]
fn cancelled_receives_lose_nothing_and_kept_leases_never_change() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let speech = pattern(SPEECH);
        let mut hoard = Hoard { kept: Vec::new() };
        let mut all: Vec<Listening> = (0..8)
            .map(|_| {
                let (near, peer) = net.pair();
                let conn = station.attach(near);
                Listening { conn, peer, sent: 0, got: 0, receiving: false, ended: false }
            })
            .collect();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "some stream never ended");
            for one in &mut all {
                one.speak(&speech, &mut dice);
                one.receive_somehow(&mut station, &mut dice);
            }
            station.turn();
            while let Some(event) = station.next_event() {
                let conn = name_of(&event).expect("only sockets have events here");
                let one = all.iter_mut().find(|one| one.conn == conn).expect("attached above");
                one.handle(event, &speech, &mut hoard, &mut dice);
            }
            hoard.age();
            if all.iter().all(|one| one.ended) {
                break;
            }
        }
        for one in &all {
            assert_eq!(one.got, SPEECH, "the stream of {} has a hole", one.conn);
        }
        station.close_all();
        drop(station);
        hoard.age();
    });
}

impl Listening {
    fn speak(&mut self, speech: &[u8], dice: &mut Dice) {
        if self.sent == SPEECH {
            self.peer.shutdown_write();
        } else if dice.below(2) == 0 {
            let until = SPEECH.min(self.sent + 1 + dice.below(300));
            self.sent += self.peer.write(&speech[self.sent..until]).unwrap_or(0);
        }
    }

    /// Begins a receive, or asks for the end of the one in flight.
    #[track_caller]
    fn receive_somehow(&mut self, station: &mut Station, dice: &mut Dice) {
        let event_loop = &mut station.event_loop;
        if self.receiving {
            if dice.below(16) == 0 {
                event_loop.cancel_receive(self.conn).expect("it is open");
                let again = event_loop.receive(self.conn).expect_err("the first has not ended");
                assert_eq!(again.kind(), io::ErrorKind::ResourceBusy);
            }
        } else if !self.ended && dice.below(3) > 0 {
            self.receiving = true;
            match dice.below(2) {
                0 => event_loop.receive(self.conn),
                _ => {
                    let mut buffer = BytesMut::with_capacity(8 + dice.below(600));
                    buffer.extend_from_slice(b"before");
                    event_loop.receive_into(self.conn, buffer)
                }
            }
            .expect("open, and nothing receives");
        }
    }

    #[track_caller]
    fn handle(&mut self, event: Event<()>, speech: &[u8], hoard: &mut Hoard, dice: &mut Dice) {
        assert!(self.receiving, "{event:?} without a receive");
        match event {
            Event::Received(_, Ok(lease)) if !lease.is_empty() => {
                self.take(&lease, speech);
                if dice.below(2) == 0 {
                    hoard.keep(dice.below(40), lease);
                }
            }
            Event::Received(_, result) => self.end(result.map(|_| 0)),
            Event::ReceivedInto(_, buffer, result) => {
                let bytes = buffer.strip_prefix(b"before").expect("a receive appends");
                assert_eq!(bytes.len(), *result.as_ref().unwrap_or(&0));
                self.take(bytes, speech);
                self.end(result);
            }
            other => panic!("{other:?} was not asked for"),
        }
    }

    #[track_caller]
    fn take(&mut self, bytes: &[u8], speech: &[u8]) {
        assert!(speech[self.got..].starts_with(bytes), "{}: other bytes at {}", self.conn, self.got);
        self.got += bytes.len();
    }

    /// The receive has ended: by a cancel, by bytes into its buffer, or with the stream.
    #[track_caller]
    fn end(&mut self, result: io::Result<usize>) {
        self.receiving = false;
        match result {
            Ok(count) => self.ended = count == 0,
            Err(error) => assert!(is_cancelled(&error), "{error}"),
        }
    }
}
