//! Two loops that talk.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kolk_engine::driver::SimNet;
use kolk_engine::socket::Address;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Event};

use crate::echo::echo;
use crate::sim_helper::{Dice, for_seeds, pattern};
use crate::station::{SEEDS, Station, TURNS_MAX, address, network};

/// One end of a conversation.
struct End {
    /// Names the conversation: the client's address.
    name: Address,
    /// Chooses the bytes it sends.
    tag: usize,
    to_write: usize,
    written: usize,
    /// Bytes that came, all of them as the other end wrote them.
    got: usize,
    how: Close,
    /// Closes only when the other has ended.
    waits: bool,
    input: Input,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    Ended,
    Failed,
}

fn spoken(tag: usize, place: usize) -> u8 {
    (tag * 101 + place * 7 + (place >> 8)) as u8
}

impl End {
    fn new(name: Address, is_client: bool, dice: &mut Dice) -> Self {
        let port = name.as_inet().map_or(0, |inet| usize::from(inet.port()));
        let how = [Close::Flush, Close::Flush, Close::Discard, Close::Reset][dice.below(4)];
        Self {
            tag: 2 * port + usize::from(is_client),
            to_write: [0, 10, 300, 3000][dice.below(4)],
            written: 0,
            got: 0,
            how,
            // Two that wait for each other would wait for ever, so one rule decides: odd servers wait.
            waits: !is_client && port % 2 == 1,
            input: Input::Open,
            closed: false,
            name,
        }
    }

    #[track_caller]
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(*byte, spoken(self.tag ^ 1, self.got), "at {} of {}", self.got, self.name);
            self.got += 1;
        }
    }

    /// Writes some more, or closes if it is time.
    fn act(&mut self, station: &mut Station, conn: ConnId, dice: &mut Dice) {
        let count = (1 + dice.below(700)).min(self.to_write - self.written);
        if count > 0 {
            let bytes = (0..count).map(|place| spoken(self.tag, self.written + place));
            station.write(conn, bytes.collect::<Vec<u8>>());
            self.written += count;
        } else if !self.waits || self.input != Input::Open {
            station.close(conn, self.how);
            self.closed = true;
        }
    }
}

struct Talker {
    station: Station,
    ends: BTreeMap<ConnId, End>,
    /// Ends whose sockets are closed.
    past: Vec<End>,
}

impl Talker {
    fn new(net: &SimNet, loop_number: u16) -> Self {
        Self { station: Station::new(net, loop_number), ends: BTreeMap::new(), past: Vec::new() }
    }

    fn turn(&mut self, dice: &mut Dice) {
        self.station.turn();
        while let Some(event) = self.station.next_event() {
            self.handle(event, dice);
        }
        for (conn, end) in &mut self.ends {
            if !end.closed && dice.below(3) == 0 {
                end.act(&mut self.station, *conn, dice);
            }
        }
    }

    #[track_caller]
    fn handle(&mut self, event: Event<()>, dice: &mut Dice) {
        match event {
            Event::Accepted(_, socket) => {
                let name = socket.peer_address();
                let conn = self.station.attach(socket);
                match name {
                    Ok(name) => self.begin(conn, End::new(name, false, dice)),
                    // The client has reset it already.
                    Err(_) => self.station.close(conn, Close::Discard),
                }
            }
            // The other has reset it already.
            Event::Connected(conn, Err(_)) => self.station.close(conn, Close::Discard),
            Event::Connected(conn, Ok(())) => {
                let socket = self.station.event_loop.socket(conn).expect("just connected");
                let name = socket.local_address().expect("simulated sockets know it");
                self.begin(conn, End::new(name, true, dice));
            }
            Event::Received(conn, result) => {
                let end = self.ends.get_mut(&conn).expect("it receives since it began");
                assert!(!end.closed, "input after the close");
                match result {
                    Ok(bytes) if bytes.is_empty() => end.input = Input::Ended,
                    Ok(bytes) => end.take(&bytes),
                    Err(_) => end.input = Input::Failed,
                }
            }
            Event::SendFailed(conn, _) => {
                self.station.close(conn, Close::Discard);
                let end = self.ends.get_mut(&conn).expect("it has written");
                end.closed = true;
                end.how = Close::Discard;
            }
            Event::Closed(conn) => self.past.extend(self.ends.remove(&conn)),
            Event::AcceptFailed(..) => {}
            other => panic!("{other:?} was not asked for"),
        }
    }

    fn begin(&mut self, conn: ConnId, end: End) {
        self.station.receive(conn);
        self.ends.insert(conn, end);
    }
}

#[test]
fn what_was_written_before_a_flushing_close_arrives() {
    for_seeds(SEEDS, |seed| {
        let net = network(seed);
        let mut dice = Dice::new(seed);
        let mut server = Talker::new(&net, 0);
        let mut client = Talker::new(&net, 1);
        server.station.listen(net.listen(&address(80)));
        let mut to_come = 4 + dice.below(8);
        for _ in 0..TURNS_MAX {
            if to_come > 0 && dice.below(2) == 0 {
                to_come -= 1;
                client.station.connect(&address(80));
            }
            // Each loop at its own pace.
            for talker in [&mut server, &mut client] {
                if dice.below(3) > 0 {
                    talker.turn(&mut dice);
                }
            }
            if to_come == 0 && client.station.live.is_empty() && server.station.live.len() == 1 {
                break;
            }
        }
        assert!(client.station.live.is_empty(), "some client never closed");
        assert_eq!(server.station.live.len(), 1, "some server never closed");
        check_talks(&client.past, &server.past);
        server.station.close_all();
        assert_eq!(net.open_sockets(), 0);
    });
}

#[track_caller]
fn check_talks(clients: &[End], servers: &[End]) {
    let servers: HashMap<&Address, &End> = servers.iter().map(|end| (&end.name, end)).collect();
    for client in clients {
        if let Some(server) = servers.get(&client.name) {
            check_direction(client, server);
            check_direction(server, client);
        }
    }
}

#[track_caller]
fn check_direction(writer: &End, reader: &End) {
    let name = &writer.name;
    assert!(reader.got <= writer.written, "{name}: more came than was written");
    if writer.how != Close::Flush {
        return;
    }
    if reader.waits {
        assert_eq!(reader.input, Input::Ended, "{name}: a flushing close is a clean end");
    }
    if reader.input == Input::Ended {
        assert_eq!(reader.got, writer.written, "{name}: an end of stream before its bytes");
    }
}

/// Virtual time must not leap to one loop's time-out while the other is about to answer.
#[test]
fn loops_that_wait_without_deadline_answer_each_other_before_a_time_out() {
    for_seeds(100, |seed| {
        let net = network(seed);
        let (near, far) = (Station::new(&net, 0), Station::new(&net, 1));
        let mut stations = [near, far];
        stations[1].listen(net.listen(&address(80)));
        let client = stations[0].connect(&address(80));
        stations[0].receive(client);
        stations[0].write(client, pattern(200));
        let mut back = Vec::new();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "the echo never ended");
            let station = &mut stations[turn % 2];
            // Would fire first, were anything left out.
            let later = station.event_loop.now() + Duration::from_secs(5);
            let timer = station.event_loop.set_timer(later, 0);
            station.event_loop.turn(None).expect("the simulated kernel loses nothing");
            while let Some(event) = station.next_event() {
                match event {
                    Event::Received(conn, Ok(bytes)) if conn == client => back.extend_from_slice(&bytes),
                    Event::Connected(..) => {}
                    Event::Timer(..) => panic!("time leapt over an answer"),
                    other => echo(station, other),
                }
            }
            station.event_loop.cancel_timer(timer);
            if back.len() == 200 {
                break;
            }
        }
        assert_eq!(back, pattern(200));
    });
}
