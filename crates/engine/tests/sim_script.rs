//! Random scripts of operations, cancels and closes on the simulated kernel: the same seed brings the same
//! completions, and each operation ends exactly once.

mod sim_helper;

use std::io::{Read, Write};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use kolk_engine::driver::{SimConfig, SimNet, SimPeer};
use kolk_engine::op::{Direction, Interest, Op, OutDatagram, Outcome};
use kolk_engine::socket::Address;
use kolk_engine::token::Key;

use sim_helper::{Dice, Ledger, Machine, for_seeds, pattern};

fn address(port: u16) -> Address {
    SocketAddr::from(([10, 0, 0, 1], port)).into()
}

#[test]
fn the_same_seed_brings_the_same_completions() {
    for_seeds(50, |seed| {
        let trace = || {
            let mut trace = String::new();
            run_script(SimConfig::stormy(seed), seed, |completion| {
                trace.push_str(completion);
            });
            trace
        };
        let first = trace();
        assert!(first == trace(), "two runs differ");
        assert!(!first.is_empty());
    });
}

#[test]
fn every_operation_ends_exactly_once() {
    for_seeds(500, |seed| {
        run_script(SimConfig::stormy(seed), seed, |_| {});
        run_script(SimConfig { resets: 20, ..SimConfig::calm(seed) }, seed, |_| {});
    });
}

/// Random operations, cancels and closes on ten streams, a listener and a datagram socket; then
/// everything is closed. Checks that each operation ends exactly once and that `Closed` is the last.
fn run_script(config: SimConfig, seed: u64, mut trace: impl FnMut(&str)) {
    let net = SimNet::new(config);
    let mut dice = Dice::new(seed);
    let mut machine = Machine::new(&net);
    let mut peers = Vec::new();
    let mut open: Vec<Key> = Vec::new();
    for _ in 0..10 {
        let (key, peer) = machine.pair(&net);
        open.push(key);
        peers.push(peer);
    }
    let listener = machine.attach(net.listen(&address(80)));
    let datagrams = machine.attach(net.datagram(&address(53)));
    open.extend([listener, datagrams]);
    let mut ledger = Ledger::default();
    for _ in 0..300 {
        let key = open.get(dice.below(open.len() + 4)).copied();
        match (dice.below(10), key) {
            (0..4, Some(key)) => submit_any(&mut machine, &mut dice, &mut ledger, key, [listener, datagrams]),
            (4, Some(key)) => {
                let directions = [Direction::Receive, Direction::Send, Direction::Auxiliary];
                machine.cancel(key, directions[dice.below(3)]);
            }
            (5, Some(key)) if dice.below(4) == 0 => {
                open.retain(|&other| other != key);
                ledger.add(key, "close", 1);
                machine.submit(key, Op::Close);
            }
            (6..8, _) if !peers.is_empty() => act_outside(&net, &mut dice, &mut peers),
            _ => {
                machine.turn();
            }
        }
        settle_ledger(&mut machine, &mut ledger, &mut trace);
    }
    for key in open {
        ledger.add(key, "close", 1);
        machine.submit(key, Op::Close);
    }
    for _ in 0..200 {
        machine.turn();
    }
    settle_ledger(&mut machine, &mut ledger, &mut trace);
    ledger.assert_balanced();
    drop(peers);
    assert_eq!(net.open_sockets(), 0);
}

fn submit_any(
    machine: &mut Machine,
    dice: &mut Dice,
    ledger: &mut Ledger,
    key: Key,
    [listener, datagrams]: [Key; 2],
) {
    let (kind, op) = match dice.below(5) {
        0 if key == datagrams => ("receive", Op::ReceiveFrom(u32::MAX)),
        1 if key == datagrams => {
            let datagram = OutDatagram { to: Some(address(53)), bytes: Bytes::from_static(b"self") };
            ("send", Op::SendTo(Box::new(datagram)))
        }
        0 if key == listener => ("auxiliary", Op::Accept),
        0 => ("receive", Op::Receive),
        1 => ("receive", Op::ReceiveInto(BytesMut::with_capacity(1 + dice.below(2000)))),
        2 if key != listener && key != datagrams => {
            let bytes = pattern(1 + dice.below(9000));
            if ledger.in_flight(key, "send") == 0 {
                ledger.add(key, "send", 1);
                machine.send(key, &bytes);
            }
            return;
        }
        3 => ("auxiliary", Op::Watch(Interest { readable: true, writable: true })),
        _ => return,
    };
    if ledger.in_flight(key, kind) == 0 {
        ledger.add(key, kind, 1);
        machine.submit(key, op);
    }
}

fn act_outside(net: &SimNet, dice: &mut Dice, peers: &mut Vec<SimPeer>) {
    let chosen = dice.below(peers.len());
    match dice.below(12) {
        0 => drop(peers.swap_remove(chosen)),
        1 => peers.swap_remove(chosen).reset(),
        2 => peers[chosen].shutdown_write(),
        3 => peers.extend(net.connect(&address(80))),
        // Any of these may fail: the stream may have ended.
        4..8 => {
            let _ = peers[chosen].write(&pattern(dice.below(3000)));
        }
        _ => {
            let _ = peers[chosen].read(&mut [0; 2000]);
        }
    }
}

/// Books what the log says, and forgets it, with the accepted sockets and leases in it.
fn settle_ledger(machine: &mut Machine, ledger: &mut Ledger, trace: &mut impl FnMut(&str)) {
    for completion in machine.log.drain(..) {
        trace(&format!("{completion:?}\n"));
        let key = completion.key;
        let ended = match completion.outcome {
            Outcome::Received(Ok(lease)) if !lease.is_empty() => continue,
            Outcome::Accepted(Ok(_)) | Outcome::Datagram(Ok(_)) | Outcome::Ready(Ok(_)) => continue,
            Outcome::Received(_) | Outcome::ReceivedInto(..) | Outcome::Datagram(_) => "receive",
            Outcome::Sent(..) | Outcome::SentTo(..) | Outcome::SentDatagrams(..) => "send",
            Outcome::Accepted(_) | Outcome::Connected(_) | Outcome::Ready(_) => "auxiliary",
            Outcome::Closed => "close",
        };
        ledger.add(key, ended, -1);
        assert!(ledger.in_flight(key, ended) >= 0, "{key:?}: {ended} ended twice");
        if ended == "close" {
            let all = ["receive", "send", "auxiliary"];
            assert!(all.iter().all(|kind| ledger.in_flight(key, kind) == 0), "{key:?}: closed too early");
        }
    }
}
