//! Datagrams: whole, in order, each with its sender.

use std::collections::HashMap;

use bytes::Bytes;
use kolk_engine::buffer::DatagramQueue;
use kolk_engine::op::OutDatagram;
use kolk_engine::socket::{self, Address};
use kolk_engine::token::ConnId;
use kolk_engine::{Close, DatagramSend};
use std::io::ErrorKind::ResourceBusy;

use crate::support::{Rig, World, assert_errno, assert_kind, pattern};

/// The longest payload of a UDP datagram over IPv4: 65 535 less the two headers.
const LONGEST: usize = 65_507;

contract!(everywhere:
    datagrams_keep_their_boundaries_and_order,
    the_longest_and_the_empty_datagram_arrive,
    many_senders_are_told_apart_and_answered,
    a_flood_of_datagrams_leaves_turns_for_others,
);
contract!(each_driver: a_datagram_too_long_to_send_comes_back);
contract!(where_datagrams_wait:
    a_datagram_waits_until_its_receiver_has_room,
    a_queue_of_datagrams_waits_until_its_receiver_has_room,
);
contract!(everywhere: a_queue_of_datagrams_leaves_whole_and_in_order);
contract!(each_driver: a_refused_datagram_is_passed_over);
contract!(real_kernels: many_datagrams_share_a_system_call);
contract!(real_drivers: datagrams_are_joined_and_cut_apart_by_the_kernel);

/// Sends one datagram, and turns until it is sent.
#[track_caller]
fn send(rig: &mut Rig, conn: ConnId, to: &Address, bytes: Bytes) {
    let datagram = OutDatagram { to: Some(to.clone()), bytes };
    rig.event_loop.send_to(conn, Box::new(datagram)).expect("nothing else is sent");
    rig.until("SentTo", |rig| !rig.record(conn).sent_to.is_empty());
    rig.record(conn).sent_to.remove(0).1.expect("the datagram leaves");
}

#[track_caller]
fn expect_datagrams(rig: &mut Rig, conn: ConnId, count: usize) -> Vec<(Address, Vec<u8>)> {
    rig.until("datagrams", |rig| rig.record(conn).datagrams.len() >= count);
    let datagrams = std::mem::take(&mut rig.record(conn).datagrams);
    assert_eq!(datagrams.len(), count);
    let whole = datagrams.into_iter().inspect(|datagram| assert!(!datagram.truncated));
    whole.map(|datagram| (datagram.from, datagram.bytes.to_vec())).collect()
}

fn datagrams_keep_their_boundaries_and_order(world: World) {
    let mut rig = Rig::new(world);
    let ((here, here_address), (there, there_address)) = (rig.datagram(), rig.datagram());
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    let bytes = pattern(1000);
    for round in 0..30 {
        for number in 0..10 {
            let len = (round * 10 + number) * 3;
            send(&mut rig, here, &there_address, Bytes::copy_from_slice(&bytes[..len]));
        }
        for (number, (from, payload)) in expect_datagrams(&mut rig, there, 10).into_iter().enumerate() {
            assert_eq!(payload, bytes[..(round * 10 + number) * 3]);
            assert_eq!(from, here_address);
        }
    }
    rig.event_loop.cancel_receive(there).expect("an open name");
    rig.until("the end of the receive", |rig| !rig.record(there).datagram_ends.is_empty());
    assert!(kolk_engine::op::is_cancelled(&rig.record(there).datagram_ends[0]));
    rig.event_loop.close(there, Close::Flush);
    rig.closed(there);
}

fn the_longest_and_the_empty_datagram_arrive(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (there, there_address)) = (rig.datagram(), rig.datagram());
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    // More of them than the arena has room for at one time, kept and not kept.
    let mut kept = Vec::new();
    for round in 0..60 {
        send(&mut rig, here, &there_address, Bytes::from(vec![round; LONGEST]));
        send(&mut rig, here, &there_address, Bytes::new());
        rig.until("two datagrams", |rig| rig.record(there).datagrams.len() == 2);
        let mut datagrams = std::mem::take(&mut rig.record(there).datagrams);
        assert!(datagrams[1].bytes.is_empty() && !datagrams[0].truncated);
        kept.extend((round % 2 == 0).then(|| datagrams.swap_remove(0).bytes));
    }
    for (number, bytes) in kept.iter().enumerate() {
        assert!(**bytes == vec![2 * number as u8; LONGEST], "nobody writes to a lease");
    }
}

fn many_senders_are_told_apart_and_answered(world: World) {
    let mut rig = Rig::new(world);
    let (server, server_address) = rig.datagram();
    rig.event_loop.receive_from(server, u32::MAX).expect("a fresh name");
    let senders: Vec<_> = (0..200).map(|_| rig.datagram()).collect();
    let mut numbers = HashMap::new();
    for (number, (sender, address)) in senders.iter().enumerate() {
        rig.event_loop.receive_from(*sender, u32::MAX).expect("a fresh name");
        numbers.insert(address.clone(), number);
        send(&mut rig, *sender, &server_address, Bytes::copy_from_slice(&number.to_le_bytes()));
    }
    for (from, payload) in expect_datagrams(&mut rig, server, senders.len()) {
        assert_eq!(payload, numbers[&from].to_le_bytes());
        send(&mut rig, server, &from, payload.into());
    }
    for (number, (sender, _)) in senders.iter().enumerate() {
        let answer = expect_datagrams(&mut rig, *sender, 1).remove(0);
        assert_eq!(answer, (server_address.clone(), number.to_le_bytes().to_vec()));
    }
}

fn a_flood_of_datagrams_leaves_turns_for_others(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (there, there_address)) = (rig.datagram(), rig.datagram());
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    let (conn, mut peer) = rig.pair();
    rig.event_loop.receive(conn).expect("a fresh name");
    for round in 1..=20 {
        for _ in 0..50 {
            let datagram =
                OutDatagram { to: Some(there_address.clone()), bytes: Bytes::from(vec![b'd'; 100]) };
            if rig.event_loop.send_to(here, Box::new(datagram)).is_err() {
                break;
            }
            // Its end is dispatched, but the kernel is not asked.
            while let Some(event) = rig.event_loop.next_event() {
                drop(event);
            }
        }
        assert_eq!(peer.write_available(b"x"), 1);
        rig.until("the stream between the datagrams", |rig| rig.record(conn).bytes.len() == round);
    }
}

fn a_datagram_too_long_to_send_comes_back(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (_, there_address)) = (rig.datagram(), rig.datagram());
    let datagram = OutDatagram { to: Some(there_address.clone()), bytes: Bytes::from(vec![0; LONGEST + 1]) };
    rig.event_loop.send_to(here, Box::new(datagram)).expect("a fresh name");
    rig.until("SentTo", |rig| !rig.record(here).sent_to.is_empty());
    let (datagram, result) = rig.record(here).sent_to.remove(0);
    assert_errno(result, libc::EMSGSIZE);
    assert_eq!(datagram.bytes.len(), LONGEST + 1);
    send(&mut rig, here, &there_address, Bytes::from_static(b"short"));
}

fn a_datagram_waits_until_its_receiver_has_room(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (there, there_address)) = (rig.datagram(), rig.datagram());
    let mut sent: u32 = 0;
    let datagram = |number: u32| {
        let bytes = Bytes::copy_from_slice(&number.to_le_bytes());
        Box::new(OutDatagram { to: Some(there_address.clone()), bytes })
    };
    // Nobody receives, so that one gets stuck.
    loop {
        assert!(sent < 10_000, "the queue of a Unix socket is bounded");
        rig.event_loop.send_to(here, datagram(sent)).expect("nothing else is sent");
        rig.settle();
        if rig.record(here).sent_to.is_empty() {
            break;
        }
        rig.record(here).sent_to.clear();
        sent += 1;
    }
    assert_kind(rig.event_loop.send_to(here, datagram(0)), ResourceBusy);
    assert_kind(rig.event_loop.detach(here), ResourceBusy);
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    for (number, (_, payload)) in expect_datagrams(&mut rig, there, sent as usize + 1).into_iter().enumerate()
    {
        assert_eq!(payload, (number as u32).to_le_bytes());
    }
    rig.until("the stuck one is sent", |rig| rig.record(here).sent_to.len() == 1);
    rig.record(here).sent_to.remove(0).1.expect("the datagram leaves");

    // Another gets stuck, and its socket is closed.
    rig.event_loop.cancel_receive(there).expect("an open name");
    rig.settle();
    while !rig.event_loop.send_to(here, datagram(0)).is_err_and(|error| error.kind() == ResourceBusy) {
        rig.settle();
    }
    rig.record(here).sent_to.clear();
    rig.event_loop.close(here, Close::Flush);
    rig.closed(here);
    assert_eq!(rig.record(here).sent_to.len(), 1, "it comes back");
}

/// A queue of datagrams to one receiver.
fn queue_of(to: &Address, datagrams: impl IntoIterator<Item = Vec<u8>>) -> Box<DatagramQueue> {
    let mut queue = Box::new(DatagramQueue::default());
    for (number, bytes) in datagrams.into_iter().enumerate() {
        // Both ways of keeping one.
        match number % 2 {
            0 => queue.push_copy(Some(to.clone()), &bytes),
            _ => queue.push(Some(to.clone()), Bytes::from(bytes).into()),
        }
    }
    queue
}

/// Begins to send a queue; one that was sent at once is recorded like one that comes back later.
#[track_caller]
fn send_queue(rig: &mut Rig, conn: ConnId, queue: Box<DatagramQueue>) {
    match rig.event_loop.send_datagrams(conn, queue) {
        DatagramSend::Done(queue) => rig.record(conn).sent_datagrams.push((queue, Ok(()))),
        DatagramSend::Pending => {}
        DatagramSend::Busy(_) => panic!("nothing else is sent"),
    }
}

/// Turns until the queue that was sent comes back.
#[track_caller]
fn sent_queue(rig: &mut Rig, conn: ConnId) -> (Box<DatagramQueue>, std::io::Result<()>) {
    rig.until("SentDatagrams", |rig| !rig.record(conn).sent_datagrams.is_empty());
    rig.record(conn).sent_datagrams.remove(0)
}

fn a_queue_of_datagrams_leaves_whole_and_in_order(world: World) {
    let mut rig = Rig::new(world);
    let ((here, here_address), (there, there_address)) = (rig.datagram(), rig.datagram());
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    for round in 0..20 {
        // Of all lengths, the empty one too.
        let datagrams: Vec<_> = (0..8).map(|number| pattern(round * 71 * number)).collect();
        let queue = queue_of(&there_address, datagrams.clone());
        send_queue(&mut rig, here, queue);
        let (mut queue, result) = sent_queue(&mut rig, here);
        result.expect("nobody cancelled it");
        let report = queue.take_report();
        assert_eq!((report.sent, report.failed, queue.len()), (8, 0, 0));
        for (datagram, (from, payload)) in datagrams.iter().zip(expect_datagrams(&mut rig, there, 8)) {
            assert_eq!((&payload, &from), (datagram, &here_address));
        }
    }
}

fn a_refused_datagram_is_passed_over(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (there, there_address)) = (rig.datagram(), rig.datagram());
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    let datagrams = [b"first".to_vec(), vec![0; LONGEST + 1], b"last".to_vec()];
    send_queue(&mut rig, here, queue_of(&there_address, datagrams));
    let (mut queue, result) = sent_queue(&mut rig, here);
    result.expect("nobody cancelled it");
    let report = queue.take_report();
    assert_eq!((report.sent, report.failed), (2, 1));
    assert_errno(Err::<(), _>(report.error.expect("a reason")), libc::EMSGSIZE);
    let payloads: Vec<_> =
        expect_datagrams(&mut rig, there, 2).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [b"first".to_vec(), b"last".to_vec()]);
}

fn a_queue_of_datagrams_waits_until_its_receiver_has_room(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (there, there_address)) = (rig.datagram(), rig.datagram());
    let datagrams = |count: u32| (0..count).map(|number| number.to_le_bytes().to_vec());
    // Nobody receives, so that it gets stuck.
    send_queue(&mut rig, here, queue_of(&there_address, datagrams(5000)));
    rig.settle();
    assert!(rig.record(here).sent_datagrams.is_empty(), "the queue of a Unix socket is bounded");
    let refused = rig.event_loop.send_datagrams(here, queue_of(&there_address, datagrams(1)));
    assert!(matches!(refused, DatagramSend::Busy(queue) if queue.len() == 1), "one send at a time");
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    for (number, (_, payload)) in expect_datagrams(&mut rig, there, 5000).into_iter().enumerate() {
        assert_eq!(payload, (number as u32).to_le_bytes());
    }
    assert_eq!(sent_queue(&mut rig, here).0.take_report().sent, 5000);

    // Another gets stuck, and its socket is closed.
    rig.event_loop.cancel_receive(there).expect("an open name");
    rig.settle();
    send_queue(&mut rig, here, queue_of(&there_address, datagrams(5000)));
    rig.settle();
    rig.event_loop.close(here, Close::Flush);
    rig.closed(here);
    let (mut queue, result) = rig.record(here).sent_datagrams.remove(0);
    assert!(kolk_engine::op::is_cancelled(&result.expect_err("it was cut short")));
    assert_eq!(queue.take_report().sent as usize + queue.len(), 5000);
}

fn many_datagrams_share_a_system_call(world: World) {
    let mut rig = Rig::new(world);
    let ((here, _), (there, there_address)) = (rig.datagram(), rig.datagram());
    for _ in 0..10 {
        let queue = queue_of(&there_address, (0..8).map(|number| vec![number; 100]));
        send_queue(&mut rig, here, queue);
        sent_queue(&mut rig, here).1.expect("nobody cancelled it");
        // All are there before the first is received.
        rig.event_loop.receive_from(there, u32::MAX).expect("no other receive");
        expect_datagrams(&mut rig, there, 8);
        rig.event_loop.cancel_receive(there).expect("an open name");
        rig.until("its end", |rig| rig.record(there).datagram_ends.pop().is_some());
    }
    let stats = rig.event_loop.stats().driver;
    assert_eq!((stats.datagrams_sent, stats.datagrams_received), (80, 80));
    assert_eq!(stats.datagram_sends, 10);
    assert!(stats.datagram_receives <= 20, "{stats:?}");
}

fn datagrams_are_joined_and_cut_apart_by_the_kernel(world: World) {
    let mut rig = Rig::new(world);
    let ((here, here_address), (there, there_address)) = (rig.datagram(), rig.datagram());
    let fd = |rig: &Rig, conn| {
        let socket = rig.event_loop.socket(conn).expect("an open name").as_fd().expect("a real one");
        socket.try_clone_to_owned().expect("a descriptor")
    };
    use std::os::fd::AsFd;
    assert!(socket::knows_segmentation(fd(&rig, here).as_fd()), "Linux 4.18 and later");
    let join =
        |rig: &Rig, join| socket::join_received(fd(rig, there).as_fd(), join).expect("Linux 5.0 and later");
    rig.event_loop.receive_from(there, u32::MAX).expect("a fresh name");
    // Two lengths, and between them short ones, which end what is joined.
    let lens = [700, 700, 700, 13, 700, 700, 0, 9, 9, 9, 9, 1];
    let datagrams: Vec<_> = lens.iter().zip(0..).map(|(&len, number)| vec![number; len]).collect();
    for joined in [true, false] {
        join(&rig, joined);
        let mut queue = queue_of(&there_address, datagrams.clone());
        queue.join_segments(true);
        send_queue(&mut rig, here, queue);
        assert_eq!(sent_queue(&mut rig, here).0.take_report().sent, 12);
        let messages = |rig: &mut Rig| std::mem::take(&mut rig.record(there).datagrams);
        let (mut whole, mut count) = (Vec::new(), 0);
        while whole.len() < datagrams.len() {
            rig.until("datagrams", |rig| !rig.record(there).datagrams.is_empty());
            for mut message in messages(&mut rig) {
                assert_eq!(message.from, here_address);
                count += 1;
                loop {
                    let len = message.segment_size.min(message.bytes.len());
                    whole.push(message.bytes.split_to(len).to_vec());
                    if message.bytes.is_empty() {
                        break;
                    }
                }
            }
        }
        assert_eq!(whole, datagrams);
        assert_eq!(count, if joined { 4 } else { 12 }, "700 x 3 + 13, 700 x 2, 0, 9 x 4 + 1");
    }

    // What is longer than a link takes cannot be joined, and still arrives.
    let long = vec![vec![1; 40_000], vec![2; 40_000]];
    let mut queue = queue_of(&there_address, long.clone());
    queue.join_segments(true);
    send_queue(&mut rig, here, queue);
    assert_eq!(sent_queue(&mut rig, here).0.take_report().sent, 2);
    let received: Vec<_> =
        expect_datagrams(&mut rig, there, 2).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(received, long);
}
