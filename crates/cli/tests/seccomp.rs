//! A sandbox that forbids io_uring, as most containers do: a seccomp filter in the child process.

mod common;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{KOLK, run};

/// Installs a filter that answers `io_uring_setup` with EPERM and allows everything else.
fn forbid_io_uring(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes two system calls and touches only its own stack.
    unsafe { command.pre_exec(install_filter) }
}

fn install_filter() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load_call_number = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let skip_unless_setup = libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: 1,
        k: libc::SYS_io_uring_setup as u32,
    };
    let refuse = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let allow = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    let mut filter = [load_call_number, skip_unless_setup, refuse, allow];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the calls read the program, which outlives them.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn the_driver_asked_for_is_an_error_that_says_what_to_do() {
    let mut command = Command::new(KOLK);
    command.args(["serve", "echo", "--listen", "tcp://127.0.0.1:0", "--driver", "io_uring"]);
    run(forbid_io_uring(&mut command)).expect_refused(&["io_uring", "seccomp", "kernel.io_uring_disabled"]);
}

#[test]
fn auto_falls_back_to_epoll_and_says_why() {
    let mut command = Command::new(KOLK);
    command.arg("doctor");
    let doctor = run(forbid_io_uring(&mut command)).stdout;
    let line = doctor.lines().find(|line| line.contains("driver")).expect("the doctor names the driver");
    assert!(line.contains("epoll: chosen") && line.contains("seccomp"), "{line}");
}

#[test]
fn a_server_in_such_a_sandbox_serves_on_epoll() {
    let mut server = Command::new(KOLK);
    server.args(["serve", "echo", "--listen", "tcp://127.0.0.1:0"]);
    let server = common::Served::from_command(forbid_io_uring(&mut server));
    let lines: Vec<_> = server.greeting.lines().filter(|line| line.contains("driver")).collect();
    assert_eq!(lines.len(), 1, "{}", server.greeting);
    assert!(lines[0].contains("epoll: chosen") && lines[0].contains("seccomp"), "{}", lines[0]);
    common::kolk(&format!("load echo {} --connections 10 --size 64 --duration 200ms", server.address()))
        .expect_status(0);
}
