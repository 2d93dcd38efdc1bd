//! `limit-uring`: the smallest honest echo server on io_uring.
//!
//! One thread, one ring. Multishot accept, multishot receive into a ring of provided buffers, and
//! a send straight from the buffer that was received into; the send's completion gives it back.
//!
//! ```text
//! io_uring_enter: submit everything, wait for one completion
//!   accept  -> a connection; arm its receive
//!   receive -> queue behind what is not sent yet
//!   send    -> buffers of what was sent back; the remainder stays in the queue
//! ready connections: one send each, of all that is queued
//! starved connections: arm again as buffers come back
//! ```

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::{io, ptr};

use clap::Parser;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use limits::buffers::Buffers;
use limits::gather::Gather;
use limits::ring::Ring;
use limits::{ACCEPT_PAUSE_MS, Options, Service, close, finish};

/// Completions copied out before they are looked at.
const BATCH: usize = 256;
/// How long a turn waits for a buffer before starved connections read without, in milliseconds.
const STARVED_PAUSE_MS: u32 = 1;

/// The smallest honest echo server on io_uring.
#[derive(Parser)]
#[command(name = "limit-uring")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Buffers in the ring, a power of two
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = parse_buffers)]
    buffers: u16,
    /// Bytes of a buffer
    #[arg(long, value_name = "BYTES", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    buffer_size: u32,
}

fn parse_buffers(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ 1..=32768_u16) if count.is_power_of_two() => Ok(count),
        _ => Err("expected a power of two from 1 to 32768".to_owned()),
    }
}

fn main() -> ExitCode {
    finish("limit-uring", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let service = Service::open(&arguments.options)?;
    let mut echo = Echo::new(&service, arguments.buffers, arguments.buffer_size)?;
    service.announce()?;
    echo.run()
}

/// The kind of a request; in the upper half of its user data, the descriptor in the lower.
#[derive(Clone, Copy)]
enum Kind {
    Accept,
    Stop,
    Receive,
    Send,
}

struct Echo {
    kernel: Kernel,
    buffers: Buffers,
    listener: RawFd,
    /// The listener rests: descriptors ran out.
    accept_paused: bool,
    stopping: bool,
    /// Indexed by descriptor. A descriptor is closed, and its number free for another connection,
    /// only when nothing of it is in flight and `starved` does not hold it.
    connections: Vec<Option<Connection>>,
    /// Connections that wait for a buffer, first come first served. None of them sends.
    starved: VecDeque<RawFd>,
    /// Connections with something to send and no send in flight.
    ready: Vec<RawFd>,
    /// The last turn ended with starved connections and no buffer at all.
    exhausted: bool,
}

struct Connection {
    receive: Receive,
    /// A send failed: what still arrives is thrown away.
    failed: bool,
    /// A send is in flight, or will be at the end of the turn.
    sending: bool,
    /// Received and not wholly sent. Empty if and only if not `sending`.
    queue: VecDeque<Chunk>,
    /// What a send of several chunks points to.
    gather: Option<Gather>,
    /// Received into when the ring stays empty.
    private: Option<Box<[u8]>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Receive {
    Armed,
    /// Has to be armed again: in `starved`, or goes there once its own sends are done.
    Starved,
    Ended,
}

/// 0 <= sent <= length.
struct Chunk {
    /// None: the connection's private buffer.
    buffer: Option<u16>,
    length: u32,
    sent: u32,
}

impl Echo {
    fn new(service: &Service, buffers: u16, buffer_size: u32) -> io::Result<Self> {
        let ring = Ring::new()?;
        let mut echo = Self {
            buffers: Buffers::new(&ring.submitter, buffers, buffer_size)?,
            kernel: Kernel {
                ring,
                multishot: !service.is_unix(),
            },
            listener: service.listener.as_raw_fd(),
            accept_paused: false,
            stopping: false,
            connections: Vec::new(),
            starved: VecDeque::new(),
            ready: Vec::new(),
            exhausted: false,
        };
        echo.kernel.stop_when_readable(service.stop.as_raw_fd())?;
        echo.kernel.accept(echo.listener)?;
        Ok(echo)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        while !self.stopping {
            self.buffers.publish();
            self.kernel.ring.enter(self.patience())?;
            if std::mem::take(&mut self.accept_paused) {
                self.kernel.accept(self.listener)?;
            }
            loop {
                let completions = self.kernel.ring.take(&mut batch);
                for completion in completions {
                    self.complete(completion)?;
                }
                if completions.len() < BATCH {
                    break;
                }
            }
            self.send_ready()?;
            self.arm_starved()?;
        }
        Ok(())
    }

    /// The longest wait of a turn in milliseconds; for ever when nothing is owed to anybody.
    fn patience(&self) -> Option<u32> {
        match (self.exhausted, self.accept_paused) {
            (true, _) => Some(STARVED_PAUSE_MS),
            (false, true) => Some(ACCEPT_PAUSE_MS),
            (false, false) => None,
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        const ACCEPT: u32 = Kind::Accept as u32;
        const RECEIVE: u32 = Kind::Receive as u32;
        const SEND: u32 = Kind::Send as u32;
        let (result, flags) = (completion.result(), completion.flags());
        let fd = completion.user_data() as u32 as RawFd;
        match (completion.user_data() >> 32) as u32 {
            RECEIVE => self.received(fd, result, flags),
            SEND => self.sent(fd, result),
            ACCEPT => self.accepted(result, cqueue::more(flags))?,
            _ => self.stopping = true,
        }
        Ok(())
    }

    fn accepted(&mut self, result: i32, more: bool) -> io::Result<()> {
        if result >= 0 {
            if self.connections.len() <= result as usize {
                self.connections.resize_with(result as usize + 1, || None);
            }
            self.connections[result as usize] = Some(Connection {
                receive: Receive::Armed,
                failed: false,
                sending: false,
                queue: VecDeque::new(),
                gather: None,
                private: None,
            });
            self.kernel.receive(result)?;
        }
        if result >= 0 && !more {
            return self.kernel.accept(self.listener);
        }
        // An error ends the multishot: out of descriptors or memory, or a connection that died.
        self.accept_paused = !more;
        Ok(())
    }

    fn received(&mut self, fd: RawFd, result: i32, flags: u32) {
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() {
            self.buffers.taken();
        }
        let connection = live(&mut self.connections, fd);
        if result > 0 && !connection.failed {
            connection.queue.push_back(Chunk {
                buffer,
                length: result as u32,
                sent: 0,
            });
            if !std::mem::replace(&mut connection.sending, true) {
                self.ready.push(fd);
            }
        } else {
            self.buffers.give_back(buffer);
        }
        if cqueue::more(flags) {
            return;
        }
        let again = result > 0 || matches!(-result, libc::ENOBUFS | libc::EINTR | libc::EAGAIN);
        if again && !connection.failed {
            connection.receive = Receive::Starved;
        } else {
            connection.receive = Receive::Ended;
        }
        self.settle(fd);
    }

    fn sent(&mut self, fd: RawFd, result: i32) {
        if result < 0 && !matches!(-result, libc::EINTR | libc::EAGAIN) {
            return self.fail(fd);
        }
        let connection = live(&mut self.connections, fd);
        let mut sent = result.max(0) as u32;
        while let Some(chunk) = connection.queue.front_mut() {
            let part = sent.min(chunk.length - chunk.sent);
            sent -= part;
            chunk.sent += part;
            if chunk.sent < chunk.length {
                return self.ready.push(fd);
            }
            self.buffers.give_back(chunk.buffer);
            connection.queue.pop_front();
        }
        connection.sending = false;
        self.settle(fd);
    }

    /// Sends at the end of the turn, so that what arrived in pieces leaves in one.
    fn send_ready(&mut self) -> io::Result<()> {
        for fd in self.ready.drain(..) {
            let connection = live(&mut self.connections, fd);
            self.kernel.send(fd, connection, &self.buffers)?;
        }
        Ok(())
    }

    /// Ends a connection whose peer takes no more bytes.
    fn fail(&mut self, fd: RawFd) {
        let connection = live(&mut self.connections, fd);
        connection.failed = true;
        connection.sending = false;
        for chunk in connection.queue.drain(..) {
            self.buffers.give_back(chunk.buffer);
        }
        if connection.receive == Receive::Armed {
            // Closing would cancel nothing; after this the receive ends by itself.
            // SAFETY: shutdown takes no pointer.
            unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
        } else {
            connection.receive = Receive::Ended;
        }
        self.settle(fd);
    }

    /// Decides what comes next for a connection whose receive or whose last send has ended.
    fn settle(&mut self, fd: RawFd) {
        let connection = live(&mut self.connections, fd);
        match (connection.receive, connection.sending) {
            (Receive::Ended, false) => {
                self.connections[fd as usize] = None;
                close(fd);
            }
            (Receive::Starved, false) => self.starved.push_back(fd),
            _ => {}
        }
    }

    /// Arms as many starved connections as there are buffers. When a whole turn brought none back
    /// (they all wait for peers that do not read), the connections read into private buffers.
    fn arm_starved(&mut self) -> io::Result<()> {
        let exhausted = self.buffers.free() == 0 && !self.starved.is_empty();
        let rescue = exhausted && self.exhausted;
        self.exhausted = exhausted && !rescue;
        let count = if rescue {
            self.starved.len()
        } else {
            self.buffers.free() as usize
        };
        for _ in 0..count {
            let Some(fd) = self.starved.pop_front() else {
                break;
            };
            let connection = live(&mut self.connections, fd);
            connection.receive = Receive::Armed;
            if rescue {
                self.kernel
                    .receive_private(fd, connection, self.buffers.size())?;
            } else {
                self.kernel.receive(fd)?;
            }
        }
        Ok(())
    }
}

fn live(connections: &mut [Option<Connection>], fd: RawFd) -> &mut Connection {
    // A connection is dropped only when nothing of it is in flight or starved.
    connections[fd as usize]
        .as_mut()
        .expect("the connection is open")
}

/// The requests of an echo server.
struct Kernel {
    ring: Ring,
    /// False on Unix sockets, where Linux 6.18 loses an end of stream that arrives together with
    /// the last bytes: the multishot receive takes those, knows the queue to be empty, and waits
    /// for a wake-up that it has already had (liburing issue 1549). A receive that is armed anew
    /// looks for itself. On TCP the end of stream counts as a byte to come.
    multishot: bool,
}

impl Kernel {
    fn accept(&mut self, listener: RawFd) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC);
        self.push(entry.build(), Kind::Accept, listener)
    }

    fn stop_when_readable(&mut self, fd: RawFd) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32);
        self.push(entry.build(), Kind::Stop, fd)
    }

    fn receive(&mut self, fd: RawFd) -> io::Result<()> {
        let entry = if self.multishot {
            opcode::RecvMulti::new(Fd(fd), Buffers::GROUP).build()
        } else {
            let once = opcode::Recv::new(Fd(fd), ptr::null_mut(), 0).buf_group(Buffers::GROUP);
            once.build().flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(entry, Kind::Receive, fd)
    }

    fn receive_private(&mut self, fd: RawFd, to: &mut Connection, size: u32) -> io::Result<()> {
        let buffer = to
            .private
            .get_or_insert_with(|| vec![0; size as usize].into_boxed_slice());
        self.push(
            opcode::Recv::new(Fd(fd), buffer.as_mut_ptr(), size).build(),
            Kind::Receive,
            fd,
        )
    }

    /// Sends the first chunk, or several as one message.
    fn send(&mut self, fd: RawFd, from: &mut Connection, buffers: &Buffers) -> io::Result<()> {
        const FLAGS: libc::c_int = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let private = from
            .private
            .as_ref()
            .map_or(ptr::null(), |buffer| buffer.as_ptr());
        let mut pieces = from.queue.iter().map(|chunk| {
            let start = match chunk.buffer {
                Some(id) => buffers.address(id),
                None => private.cast_mut(),
            };
            libc::iovec {
                iov_base: start.wrapping_add(chunk.sent as usize).cast(),
                iov_len: (chunk.length - chunk.sent) as usize,
            }
        });
        if from.queue.len() == 1
            && let Some(piece) = pieces.next()
        {
            let (start, length) = (piece.iov_base.cast(), piece.iov_len as u32);
            let entry = opcode::Send::new(Fd(fd), start, length).flags(FLAGS);
            return self.push(entry.build(), Kind::Send, fd);
        }
        let header = from.gather.get_or_insert_default().fill(pieces);
        let entry = opcode::SendMsg::new(Fd(fd), header).flags(FLAGS as u32);
        self.push(entry.build(), Kind::Send, fd)
    }

    fn push(&mut self, entry: squeue::Entry, kind: Kind, fd: RawFd) -> io::Result<()> {
        let entry = entry.user_data(((kind as u64) << 32) | u64::from(fd as u32));
        // SAFETY: the ring's buffers are never unmapped, and one that was received into belongs to
        // its chunk until the send has completed. A connection's gather and private buffer are on
        // the heap and stay with it until nothing of it is in flight; while a send points to them
        // no other is started, and no receive into the private buffer is armed.
        unsafe { self.ring.push(&entry) }
    }
}
