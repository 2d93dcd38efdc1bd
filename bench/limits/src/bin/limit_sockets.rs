//! `limit-sockets`: answers the first message of each connection, and then only holds its socket.
//!
//! What it costs the kernel is what sockets cost. Whatever more a server needs is the price of waiting for the next
//! message. Clients are served one after the other, with calls that block: it is for connections that do nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

use clap::Parser;
use limits::{Options, Service, check, finish};

/// Bytes of the one message, at most.
const MESSAGE: usize = 64 * 1024;

/// Holds sockets that nobody waits on.
#[derive(Parser)]
#[command(name = "limit-sockets")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    finish("limit-sockets", run(&arguments.options))
}

fn run(options: &Options) -> io::Result<()> {
    let service = Service::open(options)?;
    service.announce()?;
    let mut message = vec![0; MESSAGE];
    let mut held = Vec::new();
    while wait_for_a_client(&service)? {
        let mut socket = File::from(accept(&service)?);
        // A client that leaves again at once is none of this program's business.
        if let Ok(count) = socket.read(&mut message) {
            let _ = socket.write_all(&message[..count]);
        }
        held.push(socket);
    }
    Ok(())
}

/// Whether there is one; `false` when the program is to end.
fn wait_for_a_client(service: &Service) -> io::Result<bool> {
    let mut waiting = [&service.listener, &service.stop].map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the array outlives the call, and its length is what is passed.
    check(unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, -1) })?;
    Ok(waiting[1].revents == 0)
}

fn accept(service: &Service) -> io::Result<OwnedFd> {
    let (fd, nowhere) = (service.listener.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: `accept4` may be called without a place for the address; what it returns belongs to nobody else.
    let accepted =
        check(unsafe { libc::accept4(fd, nowhere, std::ptr::null_mut(), libc::SOCK_CLOEXEC) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(accepted) })
}
