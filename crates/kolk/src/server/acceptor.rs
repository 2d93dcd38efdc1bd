//! Main reactors: threads that do nothing but accept, and hand each connection to a loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender as Reply, SyncSender};
use std::thread::{self, JoinHandle};

use kolk_engine::driver::{DriverConfig, Socket, Waker};
use kolk_engine::mailbox::Sender;
use kolk_engine::token::ConnId;
use kolk_engine::{Close, Config, Event, EventLoop};

use super::admission::Admission;
use super::balance::Balancer;
use super::builder::Settings;
use super::command::Command;
use super::handle::ServerHandle;
use super::handler::Handler;
use super::listening::Listening;
use super::stats::{Published, Stats};
use crate::error::{Error, Result};
use crate::listener::Bound;

/// What other threads tell an acceptor.
pub(super) enum AcceptorCommand {
    /// Accept nobody any more, and end.
    Stop,
    /// Duplicate the listeners, for a successor.
    Share(Reply<io::Result<Vec<OwnedFd>>>),
}

/// One acceptor, as other threads see it.
pub(super) struct AcceptorEnd {
    pub(super) mailbox: Sender<AcceptorCommand, Waker>,
    pub(super) published: Arc<Published>,
}

/// An acceptor's thread, seen by the one that starts it.
pub(super) struct StartingAcceptor<H: Handler<M>, M> {
    number: usize,
    pub(super) thread: JoinHandle<io::Result<()>>,
    ready: Receiver<Result<AcceptorEnd>>,
    give_handle: SyncSender<ServerHandle<H, M>>,
    begun: Receiver<Result<()>>,
}

impl<H, M> StartingAcceptor<H, M>
where
    H: Handler<M> + 'static,
    M: Send + 'static,
{
    pub(super) fn spawn(
        number: usize,
        sockets: Vec<Bound>,
        settings: Arc<Settings>,
        admission: Arc<Admission>,
        left: Arc<AtomicUsize>,
    ) -> Result<Self> {
        let (tell_ready, ready) = mpsc::sync_channel(1);
        let (give_handle, handle) = mpsc::sync_channel(1);
        let (tell_begun, begun) = mpsc::sync_channel(1);
        let live = move || {
            let (event_loop, published) = match open(&settings) {
                Ok(event_loop) => (event_loop, Arc::new(Published::default())),
                Err(error) => {
                    let _ = tell_ready.send(Err(error));
                    return Ok(());
                }
            };
            let end = AcceptorEnd { mailbox: event_loop.sender(), published: Arc::clone(&published) };
            let _ = tell_ready.send(Ok(end));
            // Whoever waits on the other side gives up when this thread ends.
            let Ok(handle) = handle.recv() else { return Ok(()) };
            let _stop_others = StopOthers { handle: ServerHandle::clone(&handle), left };
            let balancer = Balancer::new(settings.sockets.balance.clone());
            let loads = vec![0; handle.event_loops()];
            let mut acceptor = Acceptor {
                event_loop,
                listening: Vec::new(),
                balancer,
                admission,
                loads,
                handle,
                stats: Stats::default(),
                published,
                stopping: false,
            };
            let listening = acceptor.listen(sockets);
            let failed = listening.is_err();
            let _ = tell_begun.send(listening.map_err(|error| cannot_start(&error_of(error))));
            if failed { Ok(()) } else { acceptor.run() }
        };
        let thread = thread::Builder::new()
            .name(format!("kolk-accept-{number}"))
            .spawn(live)
            .map_err(|error| Error::io("cannot start an acceptor's thread", error, "use fewer acceptors"))?;
        Ok(Self { number, thread, ready, give_handle, begun })
    }

    pub(super) fn ready(&self) -> Result<AcceptorEnd> {
        self.ready.recv().unwrap_or_else(|_| Err(self.gone()))
    }

    pub(super) fn begin(&self, handle: &ServerHandle<H, M>) -> Result<()> {
        // A thread that has gone does not say that it has begun.
        let _ = self.give_handle.send(handle.clone());
        self.begun.recv().unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> Error {
        Error::internal(format!("cannot start acceptor {}: its thread has ended", self.number))
    }
}

fn error_of(error: io::Error) -> Error {
    Error::io("cannot accept", error, "")
}

fn cannot_start(error: &Error) -> Error {
    Error::of_kind(error.kind(), format!("cannot start an acceptor: {error}").into())
}

/// It receives nothing, so its driver gets the least memory there can be.
fn open(settings: &Settings) -> Result<EventLoop<AcceptorCommand>> {
    let driver_config = DriverConfig {
        ring_buffers: 1,
        ring_spare_buffers: 1,
        arena_blocks: 1,
        arena_block_size: 4096,
        ..DriverConfig::default()
    };
    let config = Config { driver: settings.driver.clone(), driver_config, ..Config::default() };
    EventLoop::new(&config).map_err(|error| Error::io("cannot start an acceptor", error, ""))
}

struct Acceptor<H: Handler<M>, M> {
    event_loop: EventLoop<AcceptorCommand>,
    listening: Vec<Listening>,
    balancer: Balancer,
    admission: Arc<Admission>,
    /// Connections of each loop, as the last choice saw them.
    loads: Vec<u64>,
    handle: ServerHandle<H, M>,
    stats: Stats,
    published: Arc<Published>,
    stopping: bool,
}

impl<H: Handler<M>, M> Acceptor<H, M> {
    fn listen(&mut self, sockets: Vec<Bound>) -> io::Result<()> {
        for bound in sockets {
            self.listening.push(Listening::begin(&mut self.event_loop, bound)?);
        }
        Ok(())
    }

    /// Accepts until it is told to stop and every listener is closed.
    fn run(&mut self) -> io::Result<()> {
        while !self.stopping || self.event_loop.stats().sockets > 0 {
            self.event_loop.turn(None)?;
            while let Some(event) = self.event_loop.next_event() {
                self.dispatch(event);
            }
            self.published.publish(&self.stats);
        }
        Ok(())
    }

    fn dispatch(&mut self, event: Event<AcceptorCommand>) {
        match event {
            Event::Accepted(listener, socket) => self.hand_to_a_loop(listener, socket),
            Event::AcceptFailed(..) => self.stats.accept_pauses += 1,
            Event::Message(AcceptorCommand::Stop) => self.stop(),
            Event::Message(AcceptorCommand::Share(reply)) => {
                // Who asked may have given up.
                let _ = reply.send(Listening::share_all(&self.listening, &self.event_loop));
            }
            _ => {}
        }
    }

    fn hand_to_a_loop(&mut self, listener: ConnId, socket: Socket) {
        let Some(listening) = self.listening.iter().find(|each| each.conn == listener) else { return };
        listening.prepare(&socket);
        let address = listening.address;
        if let Some(pause) = self.admission.pause() {
            for listening in &self.listening {
                // A listener that is closing accepts nobody anyway.
                let _ = self.event_loop.pause_accept(listening.conn, pause);
            }
        }
        self.handle.note_loads(&mut self.loads);
        let chosen = self.balancer.choose(&socket, usize::from(address), &self.loads);
        let end = self.handle.loop_end(chosen);
        end.published.load.note_sent();
        let adopt = Command::Adopt(socket, address);
        if end.mailbox.send(adopt).is_err() {
            // A loop that does not keep up or has ended: the socket closes, and the peer sees that.
            end.published.load.note_lost();
            self.stats.refused += 1;
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        for listening in &self.listening {
            self.event_loop.close(listening.conn, Close::Discard);
        }
    }
}

/// Nobody is accepted any more when an acceptor has ended, however that came; the loops stop when the last
/// has, so that they have seen everybody whom acceptors sent to them.
struct StopOthers<H: Handler<M>, M> {
    handle: ServerHandle<H, M>,
    /// Acceptors that have not ended.
    left: Arc<AtomicUsize>,
}

impl<H: Handler<M>, M> Drop for StopOthers<H, M> {
    fn drop(&mut self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.handle.stop_loops();
        } else {
            self.handle.stop();
        }
    }
}

/// Duplicates of what is listened on.
impl Listening {
    pub(super) fn share_all(all: &[Self], event_loop: &kolk_engine::Core) -> io::Result<Vec<OwnedFd>> {
        let fds = all.iter().filter_map(|each| event_loop.socket(each.conn)?.as_fd());
        fds.map(|fd| fd.as_fd().try_clone_to_owned()).collect()
    }
}
