//! Waiting, deadlines of reads, timers.

use std::time::{Duration, Instant};

use kolk::DriverKind;
use kolk::watcher::{Completions, Operation, Request, Watcher};

use crate::alone::{alone_on_real_kernels, raise_descriptor_limit};
use crate::support::{Rig, buffer, choice, everywhere, sim_net};

everywhere!(
    p10_a_read_past_its_deadline_ends_and_the_connection_goes_on,
    p10_a_deadline_that_has_passed_ends_the_operation_before_it_begins,
    p12_a_wait_is_bounded_by_time_and_by_its_batch,
    p20_timers_come_in_the_same_stream_and_can_be_cancelled,
    p20_an_interval_beats_until_it_is_cancelled,
);

alone_on_real_kernels!(p10_a_crowd_of_silent_connections_times_out_each_once);

const MILLISECOND: Duration = Duration::from_millis(1);

fn p10_a_read_past_its_deadline_ends_and_the_connection_goes_on(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.peer_writes(&mut peer, b"abc");
    rig.submit(Request::read_exact(conn, 1, buffer(8)).timeout(20 * MILLISECOND));
    rig.submit(Request::read(conn, 2, buffer(8)).deadline(Instant::now() + 10 * MILLISECOND));
    rig.submit(Request::read_until(conn, 3, "\n", 80).timeout(40 * MILLISECOND));
    rig.watcher.read_exact(conn, 4, buffer(8)).unwrap();
    for (context, bytes) in [(2, &b""[..]), (1, b"abc"), (3, b"")] {
        let done = rig.next();
        assert_eq!(
            (done.context, done.count, &*done.buffer),
            (context, bytes.len() as u64, bytes),
            "{driver}"
        );
        assert!(done.result.unwrap_err().is_timed_out(), "{driver}");
    }
    rig.peer_writes(&mut peer, b"in order");
    let done = rig.next();
    assert_eq!((done.context, &*done.buffer), (4, &b"in order"[..]), "{driver}: reads go on");
    assert_eq!(rig.watcher.stats().timers, 0, "{driver}");
}

fn p10_a_deadline_that_has_passed_ends_the_operation_before_it_begins(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    rig.peer_writes(&mut peer, b"x");
    let past = Instant::now();
    rig.submit(Request::read(conn, 1, buffer(8)).deadline(past));
    rig.submit(Request::write(conn, 2, "never").timeout(Duration::ZERO));
    let third = rig.submit(Request::connect(crate::support::loopback(), 3).deadline(past));
    for context in 1..=3 {
        let done = rig.next();
        assert_eq!(done.context, context, "{driver}");
        assert!(done.result.unwrap_err().is_timed_out(), "{driver}");
    }
    assert!(!rig.watcher.is_open(third.conn()), "{driver}");
    rig.watcher.write(conn, 4, "fine").unwrap();
    assert_eq!(rig.peer_reads(&mut peer, 4), b"fine", "{driver}: the stream is whole");
}

/// 1000, 2000, 4000 and 8000 where the process may have so many descriptors. Each deadline is one of its own, and
/// all are met within a tenth of it.
fn p10_a_crowd_of_silent_connections_times_out_each_once(driver: DriverKind) {
    let timeout = Duration::from_secs(2);
    let most = (raise_descriptor_limit() - 100) / 2;
    for count in [1000, 2000, 4000, 8000] {
        if count > most {
            println!("SKIPPED: this process may have no {count} connections");
            continue;
        }
        let mut rig = Rig::<u32>::new(driver);
        let conns: Vec<_> = (0..count).map(|_| rig.unix_pair()).collect();
        let mut began = Vec::with_capacity(count);
        for (context, (conn, _)) in conns.iter().enumerate() {
            began.push(Instant::now());
            rig.submit(Request::read_pooled(*conn, context as u32).timeout(timeout));
        }
        let (mut ended, mut latest) = (vec![0; count], Duration::ZERO);
        rig.until("the end of all reads", |rig| {
            for done in rig.done.drain(..) {
                assert!(done.result.unwrap_err().is_timed_out(), "{driver}");
                ended[done.context as usize] += 1;
                let after = began[done.context as usize].elapsed();
                assert!(after >= timeout, "{driver}: after {after:?}, too early");
                latest = latest.max(after);
            }
            ended.iter().sum::<i32>() == count as i32
        });
        rig.nothing_more();
        assert!(ended.iter().all(|&times| times == 1), "{driver}: each once");
        println!("{driver}: {count} deadlines of {timeout:?}, the latest met after {latest:?}");
        assert!(
            latest <= timeout + timeout / 10,
            "{driver}: {count} connections, after {latest:?}: too late"
        );
    }
}

fn p12_a_wait_is_bounded_by_time_and_by_its_batch(driver: DriverKind) {
    let net = sim_net(driver);
    let mut watcher = Watcher::builder().driver(choice(driver, net.as_ref())).build().unwrap();
    let mut completions = Completions::with_capacity(4);
    assert_eq!(watcher.wait(&mut completions, Some(Duration::ZERO)).unwrap(), 0, "{driver}: a poll");
    let begin = Instant::now();
    assert_eq!(watcher.wait(&mut completions, Some(20 * MILLISECOND)).unwrap(), 0, "{driver}");
    assert!(net.is_some() || begin.elapsed() >= 20 * MILLISECOND, "{driver}: {:?}", begin.elapsed());

    let submitter = watcher.submitter();
    for n in 0..10 {
        submitter.timer(Duration::ZERO, n).unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let count = watcher.wait(&mut completions, None).unwrap();
        assert!((1..=4).contains(&count), "{driver}: a batch of {count}");
        // What is left stays, and nothing is waited for once it fills the batch.
        seen.extend(completions.pop().map(|done| done.context));
        if completions.len() == 4 {
            assert_eq!(watcher.wait(&mut completions, None).unwrap(), 4);
        }
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>(), "{driver}");
}

fn p20_timers_come_in_the_same_stream_and_can_be_cancelled(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let begin = Instant::now();
    let (late, soon) = (30 * MILLISECOND, 10 * MILLISECOND);
    rig.watcher.timer(late, 1).unwrap();
    let id = rig.watcher.timer(soon, 2).unwrap();
    let cancelled = rig.watcher.timer(soon, 3).unwrap();
    let elsewhere = rig.watcher.submitter().timer(2 * late, 4).unwrap();
    rig.watcher.cancel(cancelled);
    rig.watcher.cancel(cancelled);
    let done = rig.next_of(Operation::Timer);
    assert_eq!(done.context, 3, "{driver}");
    assert!(done.result.unwrap_err().is_cancelled(), "{driver}");
    let done = rig.next_of(Operation::Timer);
    assert_eq!((done.context, done.id(), done.result.unwrap()), (2, id, 0), "{driver}");
    assert!(rig.net.is_some() || begin.elapsed() >= soon, "{driver}: never early");
    assert_eq!(rig.next_of(Operation::Timer).context, 1, "{driver}");
    assert!(rig.net.is_some() || begin.elapsed() >= late, "{driver}: never early");
    rig.watcher.submitter().cancel(elsewhere).unwrap();
    let done = rig.next_of(Operation::Timer);
    assert!(done.context == 4 && done.result.unwrap_err().is_cancelled(), "{driver}");
    rig.nothing_more();
}

fn p20_an_interval_beats_until_it_is_cancelled(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let begin = Instant::now();
    let id = rig.watcher.interval(5 * MILLISECOND, 1).unwrap();
    let mut beats = 0;
    while beats < 10 {
        let done = rig.next_of(Operation::Interval);
        assert_eq!((done.id(), done.context), (id, 1), "{driver}");
        beats += done.result.unwrap();
    }
    assert!(rig.net.is_some() || begin.elapsed() >= 50 * MILLISECOND, "{driver}: never early");
    rig.watcher.cancel(id);
    let last = loop {
        match rig.next_of(Operation::Interval).result {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(last.is_cancelled(), "{driver}");
    rig.nothing_more();
    assert!(rig.watcher.interval(Duration::ZERO, 2).unwrap_err().is_invalid_input(), "{driver}");
}
