//! How operations and connections end before they are done: cancel, free, drop, stale names.

use std::time::Duration;

use kolk::DriverKind;
use kolk::watcher::{Completions, Operation, Request, Watcher};

use crate::support::{Rig, buffer, everywhere, on_real_kernels, pattern};

everywhere!(
    p11_a_completion_gives_everything_back,
    p15_free_cancels_reads_first_and_each_once,
    p15_a_stale_name_never_touches_a_newer_connection,
    p16_a_cancel_of_a_read_ends_it_once,
    p16_a_read_that_waits_is_cancelled_without_harm,
    p17_a_dropped_watcher_closes_what_it_owns,
    p17_an_owner_frees_its_connection,
);

on_real_kernels!(
    p17_no_descriptor_and_no_context_is_left_behind,
    p17_an_owner_frees_its_connection_although_the_mailbox_is_full,
);

/// A context that cannot be cloned, to be recognised.
#[derive(Debug, PartialEq, Eq)]
struct Mark(String);

fn p11_a_completion_gives_everything_back(driver: DriverKind) {
    let mut rig = Rig::<Mark>::new(driver);
    let (conn, mut peer) = rig.pair();
    let read = rig.submit(Request::read(conn, Mark("read".into()), buffer(64)));
    let write = rig.submit(Request::write(conn, Mark("write".into()), "bytes"));
    let timer = rig.submit(Request::timer(Duration::ZERO, Mark("timer".into())));
    rig.peer_writes(&mut peer, b"!");
    let mut done: Vec<_> = (0..3).map(|_| rig.next()).collect();
    done.sort_by(|a, b| a.context.0.cmp(&b.context.0));
    let [first, second, third] = <[_; 3]>::try_from(done).unwrap();
    assert_eq!((first.operation, first.id(), first.conn), (Operation::Read, read, conn), "{driver}");
    assert_eq!((first.result.unwrap(), &*first.buffer), (1, &b"!"[..]), "{driver}");
    assert_eq!(
        (second.operation, second.id(), second.conn),
        (Operation::Timer, timer, timer.conn()),
        "{driver}"
    );
    assert_eq!((third.operation, third.id(), third.conn), (Operation::Write, write, conn), "{driver}");
    assert_eq!((third.result.unwrap(), &*third.buffer), (5, &b"bytes"[..]), "{driver}");
}

fn p15_free_cancels_reads_first_and_each_once(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, peer) = rig.pair();
    rig.stuff(conn, 10);
    rig.watcher.write(conn, 11, "behind").unwrap();
    rig.watcher.read_exact(conn, 0, buffer(77)).unwrap();
    rig.watcher.read_pooled(conn, 1).unwrap();
    rig.watcher.read_until(conn, 2, "\n", 10).unwrap();
    rig.submit(Request::read(conn, 3, buffer(5)).timeout(Duration::from_secs(60)));
    let freed = rig.submit(Request::free(conn, 20));
    assert!(!rig.watcher.is_open(conn), "{driver}");
    assert!(
        rig.watcher.submit(Request::free(conn, 21)).unwrap_err().is_not_connected(),
        "{driver}: freed twice"
    );
    assert!(rig.watcher.write(conn, 22, "late").unwrap_err().is_not_connected(), "{driver}");
    rig.watcher.free(conn);
    for context in [0, 1, 2, 3, 10, 11] {
        let done = rig.next();
        assert_eq!(done.context, context, "{driver}: reads first, in order");
        assert!(done.result.unwrap_err().is_cancelled(), "{driver}");
        if context == 0 {
            assert_eq!(done.buffer.recycle().capacity(), 77, "{driver}: the buffer comes back");
        }
    }
    let last = rig.next_of(Operation::Closed);
    assert_eq!((last.id(), last.context, last.result.unwrap()), (freed, 20, 0), "{driver}");
    rig.nothing_more();
    assert_eq!((rig.watcher.conn_count(), rig.watcher.stats().timers), (0, 0), "{driver}");
    drop(peer);
}

fn p15_a_stale_name_never_touches_a_newer_connection(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let submitter = rig.watcher.submitter();
    let (old, old_peer) = rig.pair();
    rig.watcher.free(old);
    rig.until("the close", |rig| rig.watcher.conn_count() == 0);
    drop(old_peer);
    let (conn, mut peer) = rig.pair();
    assert_eq!(conn.key().index(), old.key().index(), "{driver}: the same slot");
    rig.watcher.free(old);
    submitter.free(old).unwrap();
    submitter.shutdown_write(old).unwrap();
    submitter.write(old, 1, "to nobody").unwrap();
    submitter.read(old, 2, buffer(16)).unwrap();
    for context in 1..=2 {
        let done = rig.next();
        assert_eq!((done.context, done.conn), (context, old), "{driver}");
        assert!(done.result.unwrap_err().is_not_connected(), "{driver}");
        assert!(done.buffer.recycle().capacity() >= 9, "{driver}: the buffer comes back");
    }
    assert!(rig.watcher.read(old, 3, buffer(9)).unwrap_err().is_not_connected(), "{driver}");
    rig.watcher.write(conn, 4, "to somebody").unwrap();
    assert_eq!(rig.peer_reads(&mut peer, 11), b"to somebody", "{driver}");
}

fn p16_a_cancel_of_a_read_ends_it_once(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let submitter = rig.watcher.submitter();
    for round in 0..30 {
        let id = match round % 3 {
            0 => rig.submit(Request::read(conn, round, buffer(8))),
            1 => rig.submit(Request::read_pooled(conn, round)),
            _ => submitter.submit(Request::read_exact(conn, round, buffer(8))).unwrap(),
        };
        // Sometimes it is in the kernel already, sometimes not; sometimes a byte comes first.
        if round % 2 == 0 {
            rig.settle();
        }
        let raced = round % 5 == 0;
        if raced {
            rig.peer_writes(&mut peer, &[round as u8]);
        }
        rig.watcher.cancel(id);
        rig.watcher.cancel(id);
        submitter.cancel(id).unwrap();
        let done = rig.next();
        assert_eq!((done.id(), done.context), (id, round), "{driver}");
        let brought = done.count;
        match done.result {
            Ok(count) => assert!(raced && count == 1, "{driver}: round {round}"),
            Err(error) => assert!(error.is_cancelled(), "{driver}: {error}"),
        }
        rig.nothing_more();
        if raced && brought == 0 {
            rig.watcher.read(conn, 99, buffer(8)).unwrap();
            assert_eq!(&*rig.next().buffer, &[round as u8], "{driver}: the byte is not lost");
        }
    }
}

fn p16_a_read_that_waits_is_cancelled_without_harm(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let ids: Vec<_> = (0..5).map(|n| rig.submit(Request::read_exact(conn, n, buffer(8)))).collect();
    rig.settle();
    rig.watcher.cancel(ids[2]);
    rig.watcher.cancel(ids[4]);
    for context in [2, 4] {
        let done = rig.next();
        assert_eq!(done.context, context, "{driver}");
        assert!(done.result.unwrap_err().is_cancelled(), "{driver}");
    }
    rig.peer_writes(&mut peer, b"00000000");
    rig.peer_writes(&mut peer, b"1111111133333333");
    for context in [0, 1, 3] {
        let done = rig.next();
        assert_eq!((done.context, done.buffer[0]), (context, b'0' + context as u8), "{driver}");
    }
}

fn p17_a_dropped_watcher_closes_what_it_owns(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.watcher.read(conn, 1, buffer(64)).unwrap();
    rig.settle();
    let submitter = rig.watcher.submitter();
    let owner = submitter.own(conn);
    let net = rig.net.clone();
    drop(rig);
    assert!(submitter.write(conn, 2, "x").unwrap_err().is_watcher_closed(), "{driver}");
    assert!(submitter.free(conn).unwrap_err().is_watcher_closed(), "{driver}");
    assert!(submitter.timer(Duration::ZERO, 3).unwrap_err().is_watcher_closed(), "{driver}");
    assert!(
        submitter.submit_batch(&mut vec![Request::read_pooled(conn, 4)]).unwrap_err().is_watcher_closed()
    );
    drop(owner);
    if let Some(net) = net {
        assert_eq!(net.open_sockets(), 1, "only the peer's");
        return;
    }
    let begin = std::time::Instant::now();
    while crate::support::read_some(&mut peer, &mut [0]).is_ok() {
        assert!(begin.elapsed() < crate::support::PATIENCE, "{driver}: the peer never sees the end");
        std::thread::yield_now();
    }
}

fn p17_an_owner_frees_its_connection(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let owner = rig.watcher.submitter().own(conn);
    rig.watcher.write(owner.id(), 1, "bye").unwrap();
    rig.next_of(Operation::Write);
    rig.watcher.read(conn, 2, buffer(8)).unwrap();
    drop(owner);
    assert!(rig.next_of(Operation::Read).result.unwrap_err().is_cancelled(), "{driver}");
    assert_eq!(rig.peer_reads_to_end(&mut peer), b"bye", "{driver}");
}

fn p17_an_owner_frees_its_connection_although_the_mailbox_is_full(driver: DriverKind) {
    let watcher = Watcher::<u32>::builder().driver(crate::support::choice(driver, None)).mailbox_capacity(1);
    let mut watcher = watcher.build().unwrap();
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let conn = watcher.adopt(near).unwrap();
    watcher.read_pooled(conn, 1).unwrap();
    let submitter = watcher.submitter();
    let owner = submitter.own(conn);
    submitter.timer(Duration::ZERO, 2).unwrap();
    assert!(submitter.free(conn).unwrap_err().is_busy(), "{driver}: it is full");
    drop(owner);
    let (mut completions, mut seen) = (Completions::default(), Vec::new());
    while seen.len() < 2 {
        watcher.wait(&mut completions, Some(crate::support::PATIENCE)).unwrap();
        seen.extend(completions.drain().map(|done| (done.context, done.result.is_ok())));
    }
    seen.sort_unstable();
    assert_eq!(seen, [(1, false), (2, true)], "{driver}");
    assert_eq!(watcher.conn_count(), 0, "{driver}");
}

fn p17_no_descriptor_and_no_context_is_left_behind(driver: DriverKind) {
    use std::sync::Arc;
    let context = Arc::new(());
    let far = {
        let mut rig = Rig::<Arc<()>>::new(driver);
        let (near, far) = rig.tcp_pair();
        let conn = rig.watcher.adopt(near).unwrap();
        for _ in 0..10 {
            rig.watcher.read(conn, Arc::clone(&context), buffer(64)).unwrap();
            rig.watcher.write(conn, Arc::clone(&context), pattern(1 << 22)).unwrap();
            rig.watcher.timer(Duration::from_secs(60), Arc::clone(&context)).unwrap();
        }
        rig.watcher.interval(Duration::from_secs(60), Arc::clone(&context)).unwrap();
        rig.settle();
        let submitter = rig.watcher.submitter();
        submitter.read_pooled(conn, Arc::clone(&context)).unwrap();
        let mut completions = Completions::default();
        rig.watcher.wait(&mut completions, Some(Duration::ZERO)).unwrap();
        far
    };
    assert_eq!(Arc::strong_count(&context), 1, "{driver}");
    drop(far);
}
