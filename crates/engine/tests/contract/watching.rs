//! Readiness of descriptors that the loop does not read itself.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use kolk_engine::Close;
use kolk_engine::driver::Socket;
use kolk_engine::op::Interest;
use kolk_engine::token::ConnId;

use crate::support::{Rig, World, assert_kind};

contract!(real_drivers:
    a_pipe_is_reported_each_time_it_becomes_readable,
    a_pipe_is_reported_each_time_it_becomes_writable,
    an_eventfd_is_reported_each_time_it_is_raised,
    a_timerfd_is_reported_each_time_it_expires,
    a_duplicate_of_a_closed_descriptor_is_harmless,
);
contract!(everywhere: a_watched_stream_is_read_by_its_owner);

/// A watched pipe end, and a second handle of it to read or to write.
fn watch(rig: &mut Rig, fd: impl Into<OwnedFd>, interest: Interest) -> ConnId {
    let conn = rig.event_loop.attach(Socket::from(fd.into())).expect("it can be waited for");
    rig.event_loop.watch(conn, interest).expect("a fresh name");
    conn
}

/// Turns until `conn` is reported ready; in which directions.
#[track_caller]
fn ready(rig: &mut Rig, conn: ConnId) -> Interest {
    rig.until("Ready", |rig| !rig.record(conn).ready.is_empty());
    rig.record(conn).ready.drain(..).next_back().expect("not empty").expect("the watch goes on")
}

fn pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().expect("two descriptors are free");
    for fd in [reader.as_fd(), writer.as_fd()] {
        // SAFETY: fcntl with this command takes no pointer.
        let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
    (reader, writer)
}

fn a_pipe_is_reported_each_time_it_becomes_readable(world: World) {
    let mut rig = Rig::new(world);
    let (mut reader, mut writer) = pipe();
    let conn = watch(&mut rig, reader.try_clone().expect("a descriptor is free"), Interest::READABLE);
    rig.settle();
    assert!(rig.record(conn).ready.is_empty(), "nothing is there");
    for round in 0..20 {
        writer.write_all(&[round; 10]).expect("there is room");
        assert_eq!(ready(&mut rig, conn), Interest::READABLE);
        let mut bytes = [0; 100];
        assert_eq!(reader.read(&mut bytes).expect("it is readable"), 10);
        assert_kind(reader.read(&mut bytes), io::ErrorKind::WouldBlock);
        rig.settle();
        assert!(rig.record(conn).ready.is_empty(), "it was reported once");
    }
    assert_kind(rig.event_loop.detach(conn), io::ErrorKind::ResourceBusy);
    drop(writer);
    assert!(ready(&mut rig, conn).readable, "at the end of the stream reading does not block");
    rig.event_loop.close(conn, Close::Flush);
    rig.closed(conn);
    assert!(rig.record(conn).ready.is_empty());
}

fn a_pipe_is_reported_each_time_it_becomes_writable(world: World) {
    let mut rig = Rig::new(world);
    let (mut reader, mut writer) = pipe();
    let conn = watch(&mut rig, writer.try_clone().expect("a descriptor is free"), Interest::WRITABLE);
    for _ in 0..10 {
        assert_eq!(ready(&mut rig, conn), Interest::WRITABLE);
        while writer.write(&[0; 4096]).is_ok() {}
        rig.settle();
        rig.record(conn).ready.clear();
        while reader.read(&mut [0; 65_536]).is_ok() {}
    }
    drop(reader);
    assert!(ready(&mut rig, conn).writable, "writing fails at once");
}

fn an_eventfd_is_reported_each_time_it_is_raised(world: World) {
    let mut rig = Rig::new(world);
    // SAFETY: eventfd takes no pointer, and nobody else owns the descriptor.
    let event = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) };
    let mut handle = std::fs::File::from(event.try_clone().expect("a descriptor is free"));
    let conn = watch(&mut rig, event, Interest::READABLE);
    for count in 1..20u64 {
        handle.write_all(&count.to_ne_bytes()).expect("the counter is far from full");
        assert_eq!(ready(&mut rig, conn), Interest::READABLE);
        let mut bytes = [0; 8];
        handle.read_exact(&mut bytes).expect("it is readable");
        assert_eq!(u64::from_ne_bytes(bytes), count);
    }
}

fn a_timerfd_is_reported_each_time_it_expires(world: World) {
    let mut rig = Rig::new(world);
    let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
    // SAFETY: timerfd_create takes no pointer, and nobody else owns the descriptor.
    let timer = unsafe { OwnedFd::from_raw_fd(libc::timerfd_create(libc::CLOCK_MONOTONIC, flags)) };
    let span = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    let every = libc::itimerspec { it_interval: span, it_value: span };
    // SAFETY: `every` is readable, and a null pointer asks for no former setting.
    let set = unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const every, std::ptr::null_mut()) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    let mut handle = std::fs::File::from(timer.try_clone().expect("a descriptor is free"));
    let conn = watch(&mut rig, timer, Interest::READABLE);
    let mut expired = 0;
    while expired < 10 {
        assert_eq!(ready(&mut rig, conn), Interest::READABLE);
        let mut bytes = [0; 8];
        if handle.read_exact(&mut bytes).is_ok() {
            expired += u64::from_ne_bytes(bytes);
        }
    }
}

fn a_duplicate_of_a_closed_descriptor_is_harmless(world: World) {
    let mut rig = Rig::new(world);
    let (reader, mut writer) = pipe();
    let conn = watch(&mut rig, reader.try_clone().expect("a descriptor is free"), Interest::READABLE);
    rig.settle();
    rig.event_loop.close(conn, Close::Discard);
    rig.closed(conn);
    writer.write_all(b"x").expect("there is room");
    rig.settle();
    // Neither is anything reported of it, nor does the loop run idle because of it.
    let begin = Instant::now();
    for _ in 0..5 {
        let deadline = rig.event_loop.now() + Duration::from_millis(5);
        rig.event_loop.turn(Some(deadline)).expect("the driver goes on");
        assert!(rig.event_loop.next_event().is_none());
    }
    assert!(begin.elapsed() >= Duration::from_millis(24));
    // The number may come back with another owner.
    let (second, mut peer) = rig.pair();
    rig.event_loop.receive(second).expect("a fresh name");
    peer.write_all(b"y").expect("there is room");
    rig.expect_bytes(second, b"y");
    drop(reader);
}

fn a_watched_stream_is_read_by_its_owner(world: World) {
    let mut rig = Rig::new(world);
    let (conn, mut peer) = rig.pair();
    rig.event_loop.watch(conn, Interest::READABLE).expect("a fresh name");
    for round in 0..10 {
        peer.write_all(&[round]).expect("there is room");
        assert!(ready(&mut rig, conn).readable);
        let mut bytes = [0; 10];
        let count = match rig.event_loop.socket(conn).expect("an open name") {
            Socket::Simulated(socket) => socket.try_read(&mut bytes).expect("it is readable"),
            Socket::Descriptor(fd) => {
                let fd = fd.try_clone().expect("a descriptor is free");
                std::fs::File::from(fd).read(&mut bytes).expect("it is readable")
            }
        };
        assert_eq!(bytes[..count], [round]);
    }
    drop(peer);
    assert!(ready(&mut rig, conn).readable);
}
