//! Many threads that submit, one that waits.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kolk::DriverKind;
use kolk::watcher::{Completions, Operation, Request, Submitter, Watcher};

use crate::support::{PATIENCE, Rig, buffer, choice, everywhere, on_real_kernels};

everywhere!(p14_a_batch_needs_one_wake_up);

on_real_kernels!(
    p13_the_thread_that_waits_is_the_loop,
    p13_a_second_thread_cannot_wait,
    p13_twenty_four_threads_submit_and_none_is_forgotten,
    p13_order_is_kept_for_a_thread_and_a_connection,
    p14_a_batch_that_does_not_fit_takes_no_names,
);

/// How often a thread of the crowd waits for its completion.
const ROUNDS_BETWEEN_ANSWERS: u64 = 16;

#[test]
fn p13_a_submitter_is_shared_among_threads() {
    fn is_shared<T: Clone + Send + Sync>() {}
    is_shared::<Submitter<String>>();
    fn is_sent<T: Send>() {}
    is_sent::<Watcher<String>>();
}

fn p13_the_thread_that_waits_is_the_loop(driver: DriverKind) {
    let mut watcher = Watcher::<u32>::builder().driver(choice(driver, None)).build().unwrap();
    let submitter = watcher.submitter();
    let thread = std::thread::spawn(move || {
        let mut completions = Completions::default();
        watcher.wait(&mut completions, None).unwrap();
        (completions.pop().unwrap().context, watcher.stats())
    });
    submitter.timer(Duration::ZERO, 7).unwrap();
    let (context, stats) = thread.join().unwrap();
    assert_eq!(context, 7, "{driver}");
    assert_eq!(stats.submissions, 1, "{driver}");
}

fn p13_a_second_thread_cannot_wait(driver: DriverKind) {
    let mut rig = Rig::<u32>::new(driver);
    rig.pump();
    let mut watcher = rig.watcher;
    let error = std::thread::spawn(move || watcher.wait(&mut Completions::default(), None).unwrap_err());
    let error = error.join().unwrap();
    assert!(error.is_invalid_input() && error.to_string().contains("thread"), "{driver}: {error}");
}

fn p14_a_batch_needs_one_wake_up(driver: DriverKind) {
    let mut rig = Rig::new(driver);
    let (conn, mut peer) = rig.pair();
    let submitter = rig.watcher.submitter();
    let mut batch: Vec<_> = (0_u32..100).map(|n| Request::write(conn, n, n.to_be_bytes().to_vec())).collect();
    batch.push(Request::read(conn, 100, buffer(8)));
    batch.push(Request::timer(Duration::ZERO, 101));
    submitter.submit_batch(&mut batch).unwrap();
    assert!(batch.is_empty() && batch.capacity() >= 100, "{driver}");
    rig.peer_writes(&mut peer, b"x");
    let mut contexts: Vec<_> = (0..102).map(|_| rig.next().context).collect();
    contexts.sort_unstable();
    assert_eq!(contexts, (0..102).collect::<Vec<_>>(), "{driver}");
    let stats = rig.watcher.stats();
    assert_eq!(stats.submissions, 102, "{driver}");
    assert!(stats.wake_ups <= 1, "{driver}: {stats:?}");
    // One that cannot be stops the batch before it begins.
    let mut batch = vec![Request::write(conn, 1, "fine"), Request::write(conn, 2, "")];
    assert!(submitter.submit_batch(&mut batch).unwrap_err().is_invalid_input(), "{driver}");
    assert_eq!(batch.len(), 2, "{driver}");
    rig.nothing_more();
}

fn p14_a_batch_that_does_not_fit_takes_no_names(driver: DriverKind) {
    let watcher = Watcher::<u32>::builder().driver(choice(driver, None)).slots(4).mailbox_capacity(2);
    let mut watcher = watcher.build().unwrap();
    let submitter = watcher.submitter();
    let timers = || (0..4).map(|n| Request::timer(Duration::ZERO, n)).collect::<Vec<_>>();
    let mut batch = timers();
    assert!(submitter.submit_batch(&mut batch).unwrap_err().is_busy(), "{driver}");
    assert_eq!(batch.len(), 2, "{driver}: the others are submitted");
    drop(batch);
    let mut completions = Completions::default();
    let mut ended = 0;
    for round in 0..10 {
        while ended < 2 {
            watcher.wait(&mut completions, Some(PATIENCE)).unwrap();
            ended += completions.drain().count();
        }
        ended = 0;
        assert!(submitter.submit_batch(&mut timers()).unwrap_err().is_busy(), "{driver}: round {round}");
    }
}

/// 24 threads submit, a 25th drains, for `KOLK_STRESS_SECONDS`. Now and then a thread waits for its completion, so
/// that the watcher falls asleep: a wake-up that is lost stops both.
fn p13_twenty_four_threads_submit_and_none_is_forgotten(driver: DriverKind) {
    const THREADS: usize = 24;
    let seconds = std::env::var("KOLK_STRESS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let lasting = Duration::from_secs(seconds.unwrap_or(3));
    let mut watcher = Watcher::<(usize, u64)>::builder().driver(choice(driver, None)).build().unwrap();
    let submitter = watcher.submitter();
    let (tell, told): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| std::sync::mpsc::channel()).unzip();
    let drains = std::thread::spawn(move || {
        let mut completions = Completions::default();
        let (mut seen, mut ended) = ([0; THREADS], 0);
        while ended < THREADS {
            let count = watcher.wait(&mut completions, Some(PATIENCE)).unwrap();
            assert!(count > 0, "{driver}: a lost wake-up");
            for done in completions.drain() {
                let (thread, round) = done.context;
                if round == u64::MAX {
                    ended += 1;
                    continue;
                }
                assert_eq!(round, seen[thread], "{driver}: thread {thread}, each once and in order");
                seen[thread] += 1;
                if round % ROUNDS_BETWEEN_ANSWERS == 0 {
                    tell[thread].send(round).unwrap();
                }
            }
        }
        (seen, watcher.stats())
    });
    let begin = Instant::now();
    let threads: Vec<_> = told
        .into_iter()
        .enumerate()
        .map(|(thread, told)| {
            let submitter = submitter.clone();
            std::thread::spawn(move || {
                let mut round = 0;
                while begin.elapsed() < lasting {
                    submitter.timer(Duration::ZERO, (thread, round)).unwrap();
                    if round % ROUNDS_BETWEEN_ANSWERS == 0 {
                        assert_eq!(told.recv_timeout(PATIENCE).expect("no wake-up is lost"), round);
                    }
                    round += 1;
                }
                submitter.timer(Duration::ZERO, (thread, u64::MAX)).unwrap();
                round
            })
        })
        .collect();
    let submitted: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (seen, stats) = drains.join().unwrap();
    assert_eq!(submitted, seen, "{driver}");
    assert_eq!(stats.submissions, submitted.iter().sum::<u64>() + THREADS as u64, "{driver}");
    println!(
        "{driver}: {THREADS} threads, {lasting:?}: {} submissions, {} wake-up calls, {} turns, {} batches",
        stats.submissions, stats.wake_ups, stats.turns, stats.batches
    );
    assert!(stats.wake_ups < stats.submissions, "{driver}: {stats:?}");
}

fn p13_order_is_kept_for_a_thread_and_a_connection(driver: DriverKind) {
    const THREADS: u32 = 8;
    const WRITES: u32 = 500;
    let mut rig = Rig::<(u32, u32)>::new(driver);
    let (near, mut far) = rig.tcp_pair();
    let conn = rig.watcher.adopt(near).unwrap();
    let submitter = rig.watcher.submitter();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let submitter = submitter.clone();
            std::thread::spawn(move || {
                for n in 0..WRITES {
                    let message = [thread.to_be_bytes(), n.to_be_bytes()].concat();
                    submitter.write(conn, (thread, n), message).unwrap();
                }
            })
        })
        .collect();
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; (THREADS * WRITES * 8) as usize];
        far.read_exact(&mut bytes).unwrap();
        far.write_all(b".").unwrap();
        bytes
    });
    let mut next = HashMap::new();
    let mut completed = 0;
    rig.until("all writes", |rig| {
        for done in rig.done.drain(..) {
            let (thread, n) = done.context;
            let expected = next.entry(thread).or_insert(0);
            assert_eq!((done.operation, n), (Operation::Write, *expected), "{driver}");
            *expected += 1;
            completed += 1;
        }
        completed == THREADS * WRITES
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut arrived = HashMap::new();
    for message in reader.join().unwrap().chunks_exact(8) {
        let (thread, n) = message.split_at(4);
        let n = u32::from_be_bytes(n.try_into().unwrap());
        assert_eq!(arrived.insert(thread.to_vec(), n).map_or(0, |before| before + 1), n, "{driver}");
    }
    assert_eq!(arrived.len() as u32, THREADS, "{driver}");
}

#[test]
fn a_submitter_outlives_a_watcher_that_ends_meanwhile() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let watcher = Watcher::<u32>::builder().driver(choice(DriverKind::Epoll, None)).build().unwrap();
    let submitter = watcher.submitter();
    let thread = std::thread::spawn(move || {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Err(error) = submitter.timer(Duration::ZERO, 1) {
                return error.is_watcher_closed();
            }
            STOP.store(true, Ordering::Relaxed);
        }
        false
    });
    while !STOP.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    drop(watcher);
    assert!(thread.join().unwrap());
}
