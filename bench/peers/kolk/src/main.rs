//! `peer-kolk`: the scenarios on kolk, by each front end and on each kernel interface. The handlers are those of kolk's
//! own examples.

#![forbid(unsafe_code)]

mod server;
mod watcher;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use kolk::{DriverChoice, DriverKind};
use peer_common::{Address, Options, finish, prepared};

/// The scenarios on kolk.
#[derive(Parser)]
#[command(name = "peer-kolk")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Kernel interface
    #[arg(long, value_enum, default_value = "io_uring")]
    driver: Driver,
    /// Front end
    #[arg(long, value_enum, default_value = "server")]
    api: Api,
}

#[derive(Clone, Copy, ValueEnum)]
enum Driver {
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

#[derive(Clone, Copy, ValueEnum)]
enum Api {
    Server,
    Watcher,
}

fn main() -> ExitCode {
    let Arguments {
        options,
        driver,
        api,
    } = Arguments::parse();
    let driver = DriverChoice::Only(match driver {
        Driver::IoUring => DriverKind::IoUring,
        Driver::Epoll => DriverKind::Epoll,
    });
    let serve = prepared(move |scenario| match api {
        Api::Server => server::serve(driver, scenario),
        Api::Watcher => watcher::serve(driver, scenario),
    });
    finish("peer-kolk", options.scenario().and_then(serve))
}

/// An address of streams, as kolk writes it.
fn url(address: &Address) -> String {
    match address {
        Address::Inet(address) => format!("tcp://{address}"),
        Address::Unix(path) => format!("unix://{}", path.display()),
    }
}

/// An address to connect to.
fn target(address: Address) -> kolk::Address {
    match address {
        Address::Inet(address) => kolk::Address::Inet(address),
        Address::Unix(path) => kolk::Address::Unix(path),
    }
}
