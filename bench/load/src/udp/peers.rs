//! Many peers, each with an address of its own on the loopback, behind one socket.
//!
//! The sender's address goes out with each datagram (`IP_PKTINFO`), and the address that an answer came to is
//! told with it. So a thousand peers cost this load no more descriptors and waits than one, and the answers are
//! received in batches.
//!
//! ```text
//!  slots   [ 0 ][ 1 ][ 2 ] .. [ window - 1 ]     each has one datagram under way, of the next peer in turn
//!  datagram  slot (4) │ turn (4) │ bytes of the pattern
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use harness::Result;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg,
    setsockopt, sockopt,
};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::{Arguments, LOOK, LOST, RECEIVE_BUFFER};
use crate::meter::{Meter, Report};
use crate::pattern;

/// Answers of one receive.
const BATCH: usize = 64;

/// Bytes of slot and turn.
const HEAD: usize = 8;

/// Peers of one block of addresses.
const BLOCK: u32 = 250;

pub(super) fn run(arguments: &Arguments, server: SocketAddrV4) -> Result<Report> {
    let mut crowd = Crowd::open(arguments, server)?;
    let mut buffers = vec![vec![0; crowd.size + 1]; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(libc::in_pktinfo)));
    let mut answered: Vec<usize> = (0..crowd.slots.len()).collect();
    let mut meter = Meter::begin(&arguments.common)?;
    loop {
        for slot in answered.drain(..) {
            crowd.send(slot)?;
        }
        receive(
            &mut crowd,
            &mut headers,
            &mut buffers,
            &mut meter,
            &mut answered,
        )?;
        crowd.give_up(Instant::now(), &mut meter, &mut answered);
        if let Some(report) = meter.tick(Instant::now())? {
            return Ok(report);
        }
    }
}

/// One batch of answers; the slots that are free again.
fn receive(
    crowd: &mut Crowd,
    headers: &mut MultiHeaders<SockaddrIn>,
    buffers: &mut [Vec<u8>],
    meter: &mut Meter,
    answered: &mut Vec<usize>,
) -> Result<()> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers
        .iter_mut()
        .map(|buffer| [IoSliceMut::new(buffer)])
        .collect();
    let flags = MsgFlags::MSG_WAITFORONE;
    let answers = match recvmmsg(
        crowd.socket.as_raw_fd(),
        headers,
        slices.iter_mut(),
        flags,
        None,
    ) {
        Ok(answers) => answers,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
        Err(error) => return Err(format!("cannot receive: {error}").into()),
    };
    let now = Instant::now();
    for answer in answers {
        let came_to = answer.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)))
            }
            _ => None,
        });
        let bytes = answer.iovs().next().ok_or("an answer has no bytes")?;
        if let Some((slot, sent)) = crowd.check(bytes, came_to)? {
            meter.count(bytes.len(), sent, now);
            answered.push(slot);
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Crowd {
    socket: UdpSocket,
    server: SockaddrIn,
    size: usize,
    peers: u32,
    /// The peer whose turn it is.
    next: u32,
    slots: Vec<Slot>,
    out: Vec<u8>,
    /// When slots were looked through for losses.
    looked: Instant,
}

/// One datagram under way.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Which of this slot's; an answer of another one comes too late.
    turn: u32,
    peer: u32,
    sent: Instant,
    is_under_way: bool,
}

impl Crowd {
    fn open(arguments: &Arguments, server: SocketAddrV4) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(LOOK))?;
        set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        let now = Instant::now();
        let slot = Slot {
            turn: 0,
            peer: 0,
            sent: now,
            is_under_way: false,
        };
        Ok(Self {
            socket,
            server: server.into(),
            size: arguments.bytes as usize,
            peers: arguments.common.connections,
            next: 0,
            slots: vec![slot; arguments.window as usize],
            out: Vec::new(),
            looked: now,
        })
    }

    fn send(&mut self, place: usize) -> Result<()> {
        let slot = &mut self.slots[place];
        *slot = Slot {
            turn: slot.turn + 1,
            peer: self.next,
            sent: Instant::now(),
            is_under_way: true,
        };
        self.next = (self.next + 1) % self.peers;
        self.out.clear();
        self.out.extend_from_slice(&(place as u32).to_be_bytes());
        self.out.extend_from_slice(&slot.turn.to_be_bytes());
        self.out
            .extend_from_slice(body(place, slot.turn, self.size));
        let source = libc::in_addr {
            s_addr: u32::from(address(slot.peer)).to_be(),
        };
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: source,
            ipi_addr: source,
        };
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let (socket, pieces) = (self.socket.as_raw_fd(), [IoSlice::new(&self.out)]);
        sendmsg(
            socket,
            &pieces,
            &control,
            MsgFlags::empty(),
            Some(&self.server),
        )
        .map_err(|error| format!("cannot send: {error}"))?;
        Ok(())
    }

    /// The slot of an answer and when it was sent; nothing for one that comes too late.
    fn check(
        &mut self,
        bytes: &[u8],
        came_to: Option<Ipv4Addr>,
    ) -> Result<Option<(usize, Instant)>> {
        let head = bytes
            .first_chunk::<HEAD>()
            .filter(|_| bytes.len() == self.size);
        let &[a, b, c, d, e, f, g, h] = head.ok_or("a datagram came back with another length")?;
        let (place, turn) = (
            u32::from_be_bytes([a, b, c, d]) as usize,
            u32::from_be_bytes([e, f, g, h]),
        );
        let slot = self
            .slots
            .get_mut(place)
            .ok_or("a datagram came back with other bytes")?;
        if slot.turn != turn || !slot.is_under_way {
            return Ok(None);
        }
        if bytes[HEAD..] != *body(place, turn, self.size) {
            return Err("a datagram came back with other bytes".into());
        }
        if came_to != Some(address(slot.peer)) {
            return Err(
                format!("the answer for {} went to {came_to:?}", address(slot.peer)).into(),
            );
        }
        slot.is_under_way = false;
        Ok(Some((place, slot.sent)))
    }

    /// Frees the slots whose datagrams are lost.
    fn give_up(&mut self, now: Instant, meter: &mut Meter, freed: &mut Vec<usize>) {
        if now - self.looked < LOOK {
            return;
        }
        self.looked = now;
        for (place, slot) in self.slots.iter_mut().enumerate() {
            if slot.is_under_way && now - slot.sent > LOST {
                slot.is_under_way = false;
                meter.count_lost(1);
                freed.push(place);
            }
        }
    }
}

/// Where a peer is: 127.1.x.y, all of which are this machine.
fn address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (peer / BLOCK) as u8, 1 + (peer % BLOCK) as u8)
}

fn body(place: usize, turn: u32, size: usize) -> &'static [u8] {
    pattern::message(u64::from(turn) << 12 | place as u64, size - HEAD)
}
