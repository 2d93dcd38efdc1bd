//! R22 and R28: how many connections there are, how fast they come, and that one flood does not delay the others.

use std::time::{Duration, Instant};

use crate::support::{Calls, World, everywhere, on_real_kernels, start, telling, until};

everywhere!(r22_more_connections_than_the_most_are_refused_and_counted);

on_real_kernels!(
    r22_connections_that_come_too_fast_wait,
    r28_a_flood_of_many_small_messages_leaves_the_others_their_turn,
    an_idle_server_does_not_spin,
);

fn r22_more_connections_than_the_most_are_refused_and_counted(world: &World) {
    let (tell, told) = telling();
    let server = start(world.server().max_connections(2), move || Calls::<()>::new(&tell));
    let mut first = world.connect(&server);
    let mut second = world.connect(&server);
    told.expect(&["open", "open"]);
    for round in 1..=3 {
        let mut third = world.connect(&server);
        third.expect_close();
        until("it is counted", || server.stats().refused == round);
    }
    assert_eq!(server.stats().connections, 2);
    for peer in [&mut first, &mut second] {
        peer.send("served");
        peer.expect("served");
    }
    drop(first);
    told.next_of("close");
    until("there is room", || server.stats().connections == 1);
    let mut third = world.connect(&server);
    third.send("served");
    third.expect("served");
}

fn r22_connections_that_come_too_fast_wait(world: &World) {
    const RATE: u32 = 200;
    const CONNECTIONS: u32 = 60;
    let (tell, _told) = telling();
    let server = start(world.server().accept_rate(RATE), move || Calls::<()>::new(&tell));
    let begin = Instant::now();
    let mut peers: Vec<_> = (0..CONNECTIONS).map(|_| world.connect(&server)).collect();
    for peer in &mut peers {
        peer.send("x");
        peer.expect("x");
    }
    // The kernel may have handed over all of them at once. The next waits until that is made up for.
    let mut next = world.connect(&server);
    next.send("x");
    next.expect("x");
    let took = begin.elapsed();
    let least = Duration::from_secs(1) * CONNECTIONS / RATE * 9 / 10;
    assert!(took >= least && took < 10 * least, "{CONNECTIONS} connections and one more in {took:?}");
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.refused, stats.accept_pauses), (u64::from(CONNECTIONS) + 1, 0, 0));
}

/// The others have their answer while the flood goes on: had it to end first, they would wait for ever.
fn r28_a_flood_of_many_small_messages_leaves_the_others_their_turn(world: &World) {
    let (tell, told) = telling();
    drop(told);
    let server = start(world.server().output_watermarks(1 << 16, 1 << 17), move || Calls::<()>::new(&tell));
    let crate::support::Peer::Tcp(flood) = world.connect(&server) else { unreachable!("a real kernel") };
    let (mut writer, mut reader) = (&flood, &flood);
    std::thread::scope(|scope| {
        scope.spawn(move || while std::io::Write::write(&mut writer, &[1; 64]).is_ok() {});
        scope.spawn(move || while matches!(std::io::Read::read(&mut reader, &mut [0; 65536]), Ok(1..)) {});
        let mut others: Vec<_> = (0..20).map(|_| world.connect(&server)).collect();
        for _ in 0..20 {
            for peer in &mut others {
                peer.send("ping");
            }
            for peer in &mut others {
                peer.expect("ping");
            }
        }
        flood.shutdown(std::net::Shutdown::Both).expect("an open socket");
    });
}

/// A bug of others: a loop that polls while nothing happens.
fn an_idle_server_does_not_spin(world: &World) {
    let (tell, told) = telling();
    let server =
        start(world.server().idle_timeout(Duration::from_secs(100)), move || Calls::<()>::new(&tell));
    let mut peers: Vec<_> = (0..50).map(|_| world.connect(&server)).collect();
    for peer in &mut peers {
        peer.send("x");
        peer.expect("x");
        told.next_of("data");
    }
    std::thread::sleep(Duration::from_millis(50));
    let before = server.stats().turns;
    std::thread::sleep(Duration::from_millis(500));
    // The wheel may look once or twice whether a time-out is near.
    assert!(server.stats().turns - before <= 3, "{} turns of an idle loop", server.stats().turns - before);
}
