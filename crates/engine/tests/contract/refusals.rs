//! What the kernel refuses: descriptors, a whole interface. And which driver a loop gets then.

use std::env;
use std::io;
use std::time::Duration;

use kolk_engine::driver::{Driver, DriverChoice, DriverConfig, DriverKind};
use kolk_engine::{Config, EventLoop};

use crate::support::{
    Rig, World, has_uring, isolated, leave_descriptors, open_descriptors, raise_descriptor_limit,
};

contract!(real_kernels: accepting_pauses_while_descriptors_are_gone);
contract!(real_drivers: a_loop_that_cannot_be_made_leaves_nothing_behind);

fn accepting_pauses_while_descriptors_are_gone(world: World) {
    const COUNT: usize = 40;
    const FREE: usize = 10;
    let mut rig = Rig::new(world);
    let (listener, address) = rig.listen();
    let peers: Vec<_> = (0..COUNT).map(|_| rig.dial(&address)).collect();
    leave_descriptors(FREE);
    rig.until("a failure", |rig| !rig.record(listener).accept_failures.is_empty());
    let before = (rig.event_loop.stats().turns, rig.event_loop.now());
    // Long turns: whatever ends one early counts.
    while rig.event_loop.now() - before.1 < Duration::from_millis(400) {
        let deadline = rig.event_loop.now() + Duration::from_millis(100);
        rig.turn_until(deadline);
    }
    let turns = rig.event_loop.stats().turns - before.0;
    let record = rig.record(listener);
    assert_eq!(record.accepted.len(), FREE);
    let failures = std::mem::take(&mut record.accept_failures);
    for (error, pause) in &failures {
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
        assert!(*pause >= Duration::from_millis(5));
    }
    assert!(failures.is_sorted_by_key(|(_, pause)| *pause) && failures.len() > 2, "{failures:?}");
    assert!(turns < 40, "{turns} turns in 400 ms: a failing accept must not spin");

    // It goes on by itself as descriptors come back.
    record.accepted.truncate(FREE / 2);
    rig.until("as many again", |rig| rig.record(listener).accepted.len() == FREE);
    raise_descriptor_limit();
    rig.until("all that are left", |rig| rig.record(listener).accepted.len() == COUNT - FREE / 2);
    drop(peers);
}

fn a_loop_that_cannot_be_made_leaves_nothing_behind(world: World) {
    let config = Config { driver: DriverChoice::Only(world.driver), ..Config::default() };
    let before = open_descriptors();
    for free in 0..2 {
        leave_descriptors(free);
        let made = EventLoop::<()>::new(&config);
        raise_descriptor_limit();
        let error = made.map(drop).expect_err("it needs a descriptor for its driver and one to be woken");
        assert!(error.to_string().contains("Too many open files"), "{error}");
        assert_eq!(open_descriptors(), before, "with {free} descriptors free");
    }
    leave_descriptors(2);
    let made = EventLoop::<()>::new(&config);
    raise_descriptor_limit();
    made.expect("two descriptors are enough");
}

// ---- which driver -----------------------------------------------------------------------------------

#[test]
fn an_environment_variable_forces_the_driver() {
    let test = concat!(module_path!(), "::an_environment_variable_forces_the_driver");
    for name in ["epoll", "io_uring", "auto", "kqueue"] {
        isolated(test, &[("KOLK_DRIVER", name)], || {
            let opened = Driver::open(&DriverChoice::Auto, &DriverConfig::default());
            match &*env::var("KOLK_DRIVER").expect("set for this process") {
                "epoll" => {
                    let opened = opened.expect("every Linux has epoll");
                    assert_eq!(opened.driver.kind(), DriverKind::Epoll);
                    assert!(opened.reason.contains("KOLK_DRIVER"), "{}", opened.reason);
                }
                "io_uring" if has_uring() => {
                    assert_eq!(opened.expect("it is there").driver.kind(), DriverKind::IoUring);
                }
                "auto" if has_uring() => {
                    assert_eq!(opened.expect("it is there").driver.kind(), DriverKind::IoUring);
                }
                "kqueue" => {
                    let error = opened.expect_err("not of this system");
                    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                    assert!(error.to_string().contains("auto, io_uring or epoll"), "{error}");
                }
                _ => println!("SKIPPED: this machine forbids io_uring"),
            }
            // What the program asks for is stronger.
            let only = Driver::open(&DriverChoice::Only(DriverKind::Epoll), &DriverConfig::default());
            assert_eq!(only.expect("every Linux has epoll").driver.kind(), DriverKind::Epoll);
        });
    }
}

#[test]
fn where_io_uring_is_forbidden_auto_falls_back_and_only_says_what_to_do() {
    let test =
        concat!(module_path!(), "::where_io_uring_is_forbidden_auto_falls_back_and_only_says_what_to_do");
    isolated(test, &[], || {
        forbid_io_uring();
        assert!(!has_uring());
        let opened = Driver::open(&DriverChoice::Auto, &DriverConfig::default()).expect("there is epoll");
        assert_eq!(opened.driver.kind(), DriverKind::Epoll);
        for word in ["epoll", "io_uring", "seccomp"] {
            assert!(opened.reason.contains(word), "{}", opened.reason);
        }
        drop(opened);
        let only = DriverChoice::Only(DriverKind::IoUring);
        let error = Driver::open(&only, &DriverConfig::default()).expect_err("it is forbidden");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        for word in ["cannot open io_uring", "io_uring_setup", "kernel.io_uring_disabled"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    });
}

/// Makes the kernel answer EPERM to this thread's io_uring_setup, as the seccomp filters of containers do.
fn forbid_io_uring() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        // The number of the system call is the first field of `struct seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_io_uring_setup as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: prctl with this command takes no pointer.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // SAFETY: `filter` describes the program, and both are readable during the call.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
