//! A server that runs out of descriptors, in a process of its own: the limit is the process's.

mod support;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kolk::DriverKind;
use kolk::server::{Action, CloseReason, Conn, Handler, Input};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{PATIENCE, connect, exchange, server, take_all_but, until};

struct Echo(std::sync::mpsc::Sender<String>);

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }

    fn on_close(&mut self, _: (), _: &mut Conn<'_>, reason: CloseReason) {
        if let CloseReason::ConnectFailed(error) = reason {
            let _ = self.0.send(error.to_string());
        }
    }
}

#[test]
fn r22_a_lack_of_descriptors_pauses_accepting_and_nothing_else() {
    // Before the first accept: io_uring asks for the limit when it is told to accept.
    let limit = Rlimit { current: Some(200), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).expect("lower than the hard limit");
    for driver in [DriverKind::IoUring, DriverKind::Epoll] {
        for acceptors in [0, 1] {
            let (failed, failures) = std::sync::mpsc::channel();
            let running = server(driver)
                .listen("tcp://127.0.0.1:0")
                .event_loops(1)
                .acceptors(acceptors)
                .start(move |_| Echo(failed.clone()))
                .expect("a free port");
            let known = connect(&running, 0);
            assert_eq!(exchange(&known, b"known"), b"known");
            let target = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");

            // The clients have their descriptors, and the server is left few.
            let clients: Vec<_> = (0..50)
                .map(|_| {
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                        .expect("a socket")
                })
                .collect();
            let taken = take_all_but(5);
            let address = known.peer_addr().expect("connected");
            clients.iter().for_each(|client| client.connect(&address.into()).expect("it listens"));
            let waiting: Vec<_> = clients.into_iter().map(TcpStream::from).collect();
            until("accepting pauses", || running.stats().accept_pauses > 0);
            assert!(running.stats().accepted < 50, "some of them wait");
            assert_eq!(exchange(&known, b"still served"), b"still served");
            running.handle().connect(target).expect("it begins");
            let failure = failures.recv_timeout(PATIENCE).expect("there is no descriptor for it");
            assert!(failure.contains("Too many open files"), "{failure}");

            // It waits, longer and longer, instead of trying all the time.
            let (before, begin) = (running.stats(), Instant::now());
            until("it has waited again", || running.stats().accept_pauses >= before.accept_pauses + 4);
            let turns = running.stats().turns - before.turns;
            // What is left of one pause, and three whole ones, each of 5 ms at least and twice as long as the last.
            assert!(begin.elapsed() >= Duration::from_millis(5 + 10 + 20), "{:?}", begin.elapsed());
            assert!(turns < 100, "{turns} turns for four pauses");
            assert_eq!(exchange(&known, b"still served"), b"still served");

            // Once there are some again, who waits is served.
            drop(taken);
            for stream in &waiting {
                stream.set_read_timeout(Some(PATIENCE)).expect("positive");
                assert_eq!(exchange(stream, b"at last"), b"at last");
            }
            drop(waiting);
            running.stop();
            assert_eq!((&known).read(&mut [0; 1]).expect("it ends in order"), 0);
            running.wait().expect("it stops");
        }
    }
}
