//! `peer-kolk`: the scenarios on kolk, by each front end and on each kernel interface. The handlers are those of kolk's
//! own examples.

#![forbid(unsafe_code)]

mod server;
mod watcher;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use kolk::{DriverChoice, DriverConfig, DriverKind};
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
    /// After how long a silence a connection is parked (io_uring), such as 1s
    #[arg(long, value_name = "TIME", value_parser = harness::duration::parse)]
    park_after: Option<Duration>,
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

/// What a loop asks of the kernel.
struct Kernel {
    driver: DriverChoice,
    sizes: DriverConfig,
}

fn main() -> ExitCode {
    let Arguments {
        options,
        driver,
        api,
        park_after,
    } = Arguments::parse();
    let mut kernel = Kernel {
        driver: DriverChoice::Only(match driver {
            Driver::IoUring => DriverKind::IoUring,
            Driver::Epoll => DriverKind::Epoll,
        }),
        sizes: DriverConfig::default(),
    };
    if park_after.is_some() {
        kernel.sizes.park_after = park_after;
    }
    let serve = prepared(move |scenario| match api {
        Api::Server => server::serve(kernel, scenario),
        Api::Watcher => watcher::serve(kernel, scenario),
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
