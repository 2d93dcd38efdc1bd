//! Connects, and what is asked of them before they are there.

use std::collections::BTreeMap;
use std::io::{self, Write};

use kolk_engine::clock::Timestamp;
use kolk_engine::driver::SimPeer;
use kolk_engine::limits;
use kolk_engine::op::is_cancelled;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Event};

use crate::sim_helper::{Dice, for_seeds, read_available};
use crate::station::{SEEDS, STEP, Station, TURNS_MAX, address, name_of, network};

const LISTENING: u16 = 80;
const REFUSING: u16 = 81;
const SILENT: u16 = 82;

/// A connect, with what was asked of it before it was there.
struct Caller {
    conn: ConnId,
    port: u16,
    /// Chooses its bytes, and comes as the first of them.
    tag: u8,
    written: usize,
    connected: Option<Result<(), io::ErrorKind>>,
    got: Vec<u8>,
    ended: bool,
    closing: Option<Close>,
}

impl Caller {
    #[track_caller]
    fn new(station: &mut Station, tag: u8, dice: &mut Dice) -> Self {
        let port = [LISTENING, LISTENING, REFUSING, SILENT][dice.below(4)];
        let conn = station.connect(&address(port));
        let mut caller = Self {
            conn,
            port,
            tag,
            written: 0,
            connected: None,
            got: Vec::new(),
            ended: false,
            closing: None,
        };
        for _ in 0..1 + dice.below(3) {
            caller.write(station, 1 + dice.below(800));
        }
        station.receive(conn);
        if dice.below(3) == 0 {
            // A receive that has not begun ends as cancelled.
            station.event_loop.cancel_receive(conn).expect("it is open");
            station.receive(conn);
        }
        station.event_loop.shutdown_write(conn).expect("it is open");
        if dice.below(4) == 0 {
            let how = [Close::Flush, Close::Discard, Close::Reset][dice.below(3)];
            caller.close(station, how);
        }
        caller
    }

    fn said(&self) -> Vec<u8> {
        (0..self.written).map(|place| self.tag.wrapping_add((place * 5) as u8)).collect()
    }

    #[track_caller]
    fn write(&mut self, station: &mut Station, count: usize) {
        let before = self.written;
        self.written += count;
        station.write(self.conn, self.said().split_off(before));
    }

    fn close(&mut self, station: &mut Station, how: Close) {
        station.close(self.conn, how);
        self.closing = Some(how);
    }

    #[track_caller]
    fn handle(&mut self, station: &mut Station, event: Event<()>) {
        match event {
            Event::Connected(_, result) => {
                assert_eq!(self.connected, None, "connected twice");
                let result = result.map_err(|error| error.kind());
                self.connected = Some(result);
                if result.is_err() && self.closing.is_none() {
                    // Nothing of it can be sent any more, so flushing takes no time.
                    self.close(station, Close::Flush);
                }
            }
            Event::Received(_, Err(error)) if is_cancelled(&error) && self.connected.is_none() => {}
            Event::Received(_, result) => {
                assert_eq!(self.connected, Some(Ok(())), "received before it was connected");
                let bytes = result.expect("the answer comes whole");
                self.ended = bytes.is_empty();
                self.got.extend_from_slice(&bytes);
                if self.ended {
                    self.close(station, Close::Flush);
                }
            }
            Event::Closed(_) => assert!(self.closing.is_some(), "closed without a wish"),
            other => panic!("{other:?} was not asked for"),
        }
    }

    /// After its socket is closed.
    #[track_caller]
    fn check(&self, answered: &BTreeMap<u8, Answer>) {
        let answer = answered.get(&self.tag);
        match (self.port, self.connected) {
            (LISTENING, Some(Ok(()))) => {}
            (REFUSING, Some(Err(kind))) => assert_eq!(kind, io::ErrorKind::ConnectionRefused),
            (_, None) => assert!(self.closing.is_some()),
            (port, connected) => panic!("{connected:?} by port {port}"),
        }
        if self.port != LISTENING {
            return assert!(answer.is_none() && self.got.is_empty());
        }
        if self.ended {
            let answer = answer.expect("somebody answered");
            assert_eq!(self.got, answer.heard, "the answer is what was said");
            assert_eq!(self.got, self.said());
        }
        if self.closing == Some(Close::Flush) {
            let answer = answer.expect("what was queued has arrived");
            assert_eq!(answer.heard, self.said());
        }
    }
}

/// The outside's end of a connection: hears all, then says it again.
struct Answer {
    peer: Option<SimPeer>,
    heard: Vec<u8>,
    said: usize,
    hears_on: bool,
}

impl Answer {
    fn act(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        if self.hears_on {
            match read_available(peer, &mut self.heard) {
                None => return,
                Some(Ok(())) => self.hears_on = false,
                // The caller did not want to wait.
                Some(Err(_)) => return self.peer = None,
            }
        }
        match peer.write(&self.heard[self.said..]) {
            Ok(count) => self.said += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.peer = None,
        }
        if self.said == self.heard.len() {
            self.peer = None;
        }
    }
}

#[test]
fn what_is_asked_of_a_connect_waits_for_the_connection() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut station = Station::new(&net, 0);
        let outside = net.listen_outside(&address(LISTENING));
        let _refusing = net.listen_outside(&address(REFUSING));
        net.refuse(&address(REFUSING));
        net.blackhole(&address(SILENT));
        let mut callers: Vec<Caller> =
            (0..3 + dice.below(8)).map(|tag| Caller::new(&mut station, tag as u8, &mut dice)).collect();
        let mut answers: Vec<Answer> = Vec::new();
        // Time enough for all that answer; the others are given up.
        for turn in 0..2 * TURNS_MAX {
            let accepted = std::iter::from_fn(|| outside.accept());
            answers.extend(accepted.map(|peer| Answer {
                peer: Some(peer),
                heard: Vec::new(),
                said: 0,
                hears_on: true,
            }));
            answers.iter_mut().for_each(Answer::act);
            station.turn();
            while let Some(event) = station.next_event() {
                let conn = name_of(&event).expect("only sockets have events here");
                let caller = callers.iter_mut().find(|caller| caller.conn == conn).expect("called above");
                caller.handle(&mut station, event);
            }
            let waiting = callers.iter().filter(|caller| station.live.contains(&caller.conn));
            if waiting.clone().all(|caller| caller.port == SILENT) {
                break;
            }
            assert!(turn < TURNS_MAX, "some caller never closed");
        }
        // Had a failed connect waited for its queue to be flushed, it would have taken this long.
        assert!(net.now() < Timestamp::ZERO + limits::CLOSE_TIMEOUT, "a close took too long");
        for caller in &mut callers {
            if station.live.contains(&caller.conn) {
                caller.close(&mut station, Close::Flush);
            }
        }
        station.until_closed(limits::CLOSE_TIMEOUT + 10 * STEP);
        answers.retain(|answer| !answer.heard.is_empty());
        let answered = answers.into_iter().map(|answer| (answer.heard[0], answer)).collect();
        callers.iter().for_each(|caller| caller.check(&answered));
    });
}
