//! A process of its own for a test that counts descriptors, memory or time.

use std::process::Command;
use std::time::Duration;

/// Set in the process of a single test.
const CHILD: &str = "KOLK_WATCHER_CHILD";

/// Longest life of that process: whoever hangs ends.
const LIFETIME: Duration = Duration::from_secs(120);

/// Makes a test of each function for each real kernel interface, each in a process of its own.
macro_rules! alone_on_real_kernels {
    ($($test:ident),+ $(,)?) => {
        mod io_uring_alone {
            $(#[test] fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                crate::alone::run(name, || super::$test(kolk::DriverKind::IoUring));
            })+
        }
        mod epoll_alone {
            $(#[test] fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                crate::alone::run(name, || super::$test(kolk::DriverKind::Epoll));
            })+
        }
    };
}
pub(crate) use alone_on_real_kernels;

/// Runs `body` in a process that runs nothing else; `test` is its name with that of the program.
pub(crate) fn run(test: &str, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        std::thread::spawn(|| {
            std::thread::sleep(LIFETIME);
            eprintln!("not finished after {LIFETIME:?}");
            std::process::abort();
        });
        return body();
    }
    let (_program, name) = test.split_once("::").expect("a test lies in a module");
    let mut command = Command::new(std::env::current_exe().expect("a test has a program"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    let output = command.output().expect("the program runs a second time");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("running 1 test"), "{name} is no name of a test");
    assert!(output.status.success(), "its process ended with {}\n{text}", output.status);
    println!("{text}");
}

/// Whether the tests have their full length: in CI, and where the code is optimised.
pub(crate) fn full_length() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Raises the limit of descriptors as far as it goes, and answers it.
pub(crate) fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What it refuses, the answer tells.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize)
}

/// Memory that the process has in use: what the kernel counts page by page, exactly.
pub(crate) fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux has /proc");
    let line = status.lines().find(|line| line.starts_with("Rss:")).expect("it says how much");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
}
