//! L06: a kernel, or a sandbox, that refuses something. A server falls back, or says what is missing and how to mend
//! it. Each test in a process of its own: limits are the process's, and so is the environment.

mod support;

use std::env;
use std::fs;
use std::process::Command;
use std::thread;

use kolk::server::{Builder, RunningServer, Server};
use kolk::{DriverChoice, DriverKind, Error};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use support::{connect, echo, exchange, server, take_all_but, until};

/// Set in the process of a single test.
const CHILD: &str = "KOLK_REFUSALS_CHILD";

/// The command of io_uring_register(2) that saves a look-up at each enter; from Linux 5.18 on.
const REGISTER_RING_FDS: u64 = 20;

/// Runs one test of this program in a process of its own.
fn alone(test: &str, body: fn()) {
    if env::var_os(CHILD).is_some() {
        return body();
    }
    let mut command = Command::new(env::current_exe().expect("a test has a program"));
    command.args([test, "--exact", "--nocapture"]).env(CHILD, "1").env_remove("KOLK_DRIVER");
    let output = command.output().expect("the program runs a second time");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("running 1 test"), "{test} is no name of a test");
    assert!(output.status.success(), "{text}");
}

/// Runs `body` on a thread where a system call is answered with an error: always, or only if its second argument is
/// `command`. Threads that it starts inherit that.
fn refusing(call: i64, command: Option<u64>, errno: i32, body: impl FnOnce() + Send) {
    let argument = |value| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let rules = command.map(|value| SeccompRule::new(vec![argument(value).expect("there are six")]));
    let rules = rules.map(|rule| rule.expect("it has a condition")).into_iter().collect();
    let filter = SeccompFilter::new(
        [(call, rules)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        env::consts::ARCH.try_into().expect("a machine that seccomp knows"),
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a short program");
    thread::scope(|scope| {
        scope.spawn(|| {
            seccompiler::apply_filter(&program).expect("any process may have less");
            body();
        });
    });
}

/// A server on whatever the kernel offers.
fn any_server() -> Builder {
    Server::builder().stop_on_signals(false).listen("tcp://127.0.0.1:0").event_loops(2)
}

fn assert_serves(running: RunningServer<impl kolk::server::Handler>) {
    for _ in 0..4 {
        assert_eq!(exchange(connect(&running, 0), b"hello"), b"hello");
    }
    running.stop();
    running.wait().expect("it stops");
}

fn assert_says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in: {text}"));
}

#[test]
fn l06_where_io_uring_is_refused_a_server_serves_on_epoll_and_says_why() {
    alone("l06_where_io_uring_is_refused_a_server_serves_on_epoll_and_says_why", || {
        if any_server().driver(DriverChoice::Only(DriverKind::IoUring)).start(echo).is_err() {
            println!("SKIPPED: this machine forbids io_uring");
            return;
        }
        for (call, errno, advice) in [
            (libc::SYS_io_uring_setup, libc::EPERM, "seccomp"),
            (libc::SYS_io_uring_setup, libc::ENOSYS, "built without it"),
            (libc::SYS_io_uring_setup, libc::ENOMEM, "ulimit -l"),
            (libc::SYS_io_uring_setup, libc::EINVAL, "6.1 or newer"),
            (libc::SYS_io_uring_register, libc::EPERM, "io_uring_register"),
            (libc::SYS_io_uring_enter, libc::EPERM, "io_uring_enter"),
        ] {
            refusing(call, None, errno, || {
                let running = any_server().acceptors(1).start(echo).expect("there is epoll");
                assert_eq!(running.driver(), DriverKind::Epoll);
                let reason = running.driver_reason();
                assert!(reason.contains("io_uring") && reason.contains(advice), "{reason}");
                assert_serves(running);

                let only = any_server().driver(DriverChoice::Only(DriverKind::IoUring));
                let error = only.start(echo).map(drop).expect_err("it is refused");
                assert_says(&error, &["cannot start event loop 0", "cannot open io_uring", advice]);
            });
        }
    });
}

#[test]
fn l06_what_an_older_kernel_lacks_is_done_without() {
    alone("l06_what_an_older_kernel_lacks_is_done_without", || {
        // Waits in nanoseconds, from Linux 5.11 on.
        refusing(libc::SYS_epoll_pwait2, None, libc::ENOSYS, || {
            let patient = std::time::Duration::from_millis(20);
            let running = server(DriverKind::Epoll).listen("tcp://127.0.0.1:0").idle_timeout(patient);
            let running = running.start(echo).expect("epoll_wait is enough");
            let idle = connect(&running, 0);
            assert_eq!(exchange(&idle, b"hello"), b"hello");
            assert_eq!(support::read_to_end(&idle), b"", "time passes all the same");
            assert_serves(running);
        });
        refusing(libc::SYS_io_uring_register, Some(REGISTER_RING_FDS), libc::EINVAL, || {
            let running = any_server().start(echo).expect("it is only slower");
            println!("{}", running.driver_reason());
            assert_serves(running);
        });
    });
}

#[test]
fn l06_too_few_descriptors_are_an_error_that_says_how_to_mend_it() {
    alone("l06_too_few_descriptors_are_an_error_that_says_how_to_mend_it", || {
        let limit = getrlimit(Resource::Nofile);
        let alone = (open_descriptors(), threads());
        for driver in [DriverKind::IoUring, DriverKind::Epoll] {
            setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..limit })
                .expect("below the hard limit");
            // To count them takes one.
            let mut few = 1;
            let running = loop {
                let taken = take_all_but(few);
                let started = server(driver)
                    .stop_on_signals(true)
                    .listen("tcp://127.0.0.1:0")
                    .listen("udp://127.0.0.1:0")
                    .event_loops(2)
                    .acceptors(1)
                    .start(echo);
                drop(taken);
                match started {
                    Ok(running) => break running,
                    Err(error) => {
                        assert_says(&error, &["cannot", "Too many open files", "ulimit -n"]);
                        // A thread that was joined is listed a moment longer.
                        until(&format!("nothing is left of it, with {few} free: {error}"), || {
                            (open_descriptors(), threads()) == alone
                        });
                    }
                }
                few += 1;
                assert!(few < 50, "what does it need them for?");
            };
            println!("{driver}: {few} descriptors are enough");
            assert!(few > 6, "two loops, an acceptor, their addresses, signals");
            setrlimit(Resource::Nofile, limit).expect("as it was");
            assert_serves(running);
        }
    });
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux has it").count()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("Linux has it").count()
}

/// Rings were once counted as locked memory.
#[test]
fn l06_without_locked_memory_a_server_serves() {
    alone("l06_without_locked_memory_a_server_serves", || {
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Memlock, none).expect("less is always allowed");
        let running = any_server().start(echo).expect("there is epoll at least");
        let reason = running.driver_reason();
        assert!(running.driver() == DriverKind::IoUring || reason.contains("ulimit -l"), "{reason}");
        assert_serves(running);
    });
}
