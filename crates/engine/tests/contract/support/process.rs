//! A process of its own for each test, and its descriptors.

use std::io;
use std::os::fd::RawFd;
use std::process::{self, Command};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use super::World;

/// Longest life of a test's process.
const LIFETIME: Duration = Duration::from_secs(120);

/// Seeds with which a behaviour runs on the simulated kernel.
const SEEDS: u64 = 5;

/// Set in the process of a single test.
const CHILD: &str = "KOLK_CONTRACT_CHILD";

/// Runs one behaviour in one world: on a real kernel in a process of its own, on the simulated one with
/// several seeds.
pub(crate) fn run(test: &str, variables: &[(&str, &str)], world: World, behaviour: fn(World)) {
    if world.is_sim() {
        for seed in 0..SEEDS {
            println!("seed {seed}");
            behaviour(World { seed, ..world });
        }
        return;
    }
    if world.is_uring() && !has_uring() {
        println!("SKIPPED {test}: this machine forbids io_uring");
        return;
    }
    isolated(test, variables, || behaviour(world));
}

/// Whether the interface itself is there; what it must offer besides is for the tests to find out.
pub(crate) fn has_uring() -> bool {
    kolk_engine::driver::features().iter().any(|feature| feature.name == "io_uring" && feature.available)
}

/// Runs `test` in a process of its own, where its descriptors can be counted and limited, and where a
/// crash or a hang is nobody else's.
pub(crate) fn isolated(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return in_child(body);
    }
    let (_crate_name, name) = test.split_once("::").expect("a test lies in a module");
    let mut command = Command::new(env::current_exe().expect("a test has a program"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, "1").env_remove("KOLK_DRIVER").envs(variables.iter().copied());
    let output = command.output().expect("the program runs a second time");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("running 1 test"), "{name} is no name of a test");
    assert!(output.status.success(), "its process ended with {}\n{text}", output.status);
    println!("{text}");
}

fn in_child(body: impl FnOnce()) {
    let (done, is_done) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if is_done.recv_timeout(LIFETIME) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("not finished after {LIFETIME:?}");
            process::abort();
        }
    });
    let before = open_descriptors();
    body();
    assert_eq!(open_descriptors(), before, "descriptors after the test and before");
    drop(done);
    watchdog.join().expect("the watchdog only waits");
}

/// How many descriptors this process has.
pub(crate) fn open_descriptors() -> usize {
    descriptors().len()
}

fn descriptors() -> Vec<RawFd> {
    let names = fs::read_dir("/proc/self/fd").expect("Linux has /proc");
    let listed: Vec<RawFd> =
        names.map(|name| name.unwrap().file_name().to_str().unwrap().parse().expect("a number")).collect();
    // The one that read the folder is closed again.
    // SAFETY: fcntl with this command takes no pointer.
    listed.into_iter().filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0).collect()
}

/// Lowers the limit so that this process can open as many descriptors more and no further one.
pub(crate) fn leave_descriptors(free: usize) {
    let open = descriptors();
    let limit = (0..).filter(|fd| !open.contains(fd)).nth(free).expect("numbers go on");
    set_descriptor_limit(limit as usize);
}

/// Raises the limit of descriptors as far as it goes, and answers it.
pub(crate) fn raise_descriptor_limit() -> usize {
    let hard = descriptor_limit().rlim_max;
    set_descriptor_limit(hard as usize);
    hard as usize
}

fn set_descriptor_limit(count: usize) {
    let limit = libc::rlimit { rlim_cur: count as libc::rlim_t, ..descriptor_limit() };
    // SAFETY: `limit` is readable.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn descriptor_limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    limit
}
