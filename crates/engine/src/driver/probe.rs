//! Which driver to open, found by trying.

use std::env;
use std::io;

use super::epoll::Epoll;
use super::sim::Sim;
use super::uring::{self, Uring};
use super::{Driver, DriverChoice, DriverConfig, DriverKind};

/// The environment variable that overrides [`DriverChoice::Auto`].
const DRIVER_VARIABLE: &str = "KOLK_DRIVER";

/// A driver, and why it is this one.
#[derive(Debug)]
pub struct Opened {
    /// The driver.
    pub driver: Driver,
    /// A sentence for a log, such as `io_uring: chosen, the kernel offers what is needed`.
    pub reason: String,
}

/// One thing that the io_uring driver uses, and whether this kernel offers it to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name of it.
    pub name: &'static str,
    /// Whether it can be used here and now.
    pub available: bool,
    /// Whether the driver cannot do without it.
    pub needed: bool,
    /// What it is for, and what to do when it is missing.
    pub advice: String,
}

/// What the io_uring driver needs or likes to have, each tried on this kernel.
///
/// # Examples
///
/// ```
/// for feature in kolk_engine::driver::features() {
///     println!("{}: {}", feature.name, if feature.available { "found" } else { "missing" });
/// }
/// ```
pub fn features() -> Vec<Feature> {
    uring::features()
}

pub(super) fn open(choice: &DriverChoice, config: &DriverConfig) -> io::Result<Opened> {
    match choice {
        DriverChoice::Sim(net) => Ok(Opened {
            driver: Driver::Sim(Box::new(Sim::new(net, config))),
            reason: "sim: asked for".into(),
        }),
        DriverChoice::Only(kind) => open_only(*kind, config, "asked for"),
        DriverChoice::Auto => match env::var(DRIVER_VARIABLE) {
            Ok(name) => match name.parse()? {
                DriverChoice::Only(kind) => open_only(kind, config, "asked for by KOLK_DRIVER"),
                _ => open_best(config),
            },
            Err(_) => open_best(config),
        },
    }
}

fn open_best(config: &DriverConfig) -> io::Result<Opened> {
    match Uring::new(config) {
        Ok(driver) => Ok(Opened {
            driver: Driver::Uring(Box::new(driver)),
            reason: "io_uring: chosen, the kernel offers what is needed".into(),
        }),
        // A full descriptor table fails every driver; wrong sizes are the program's.
        Err(error) if is_not_the_kernels_refusal(&error) => Err(cannot_open(DriverKind::IoUring, error)),
        Err(error) => {
            let reason = format!("epoll: chosen, because io_uring is not to be had: {}", explain(&error));
            Ok(Opened { driver: open_epoll(config)?, reason })
        }
    }
}

fn open_only(kind: DriverKind, config: &DriverConfig, why: &str) -> io::Result<Opened> {
    let driver = match kind {
        DriverKind::IoUring => {
            let driver = Uring::new(config).map_err(|error| cannot_open(kind, error))?;
            Driver::Uring(Box::new(driver))
        }
        DriverKind::Epoll => open_epoll(config)?,
        DriverKind::Sim => {
            let message = "the simulated kernel is opened by DriverChoice::Sim, which brings its network";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
    };
    Ok(Opened { driver, reason: format!("{kind}: {why}") })
}

fn open_epoll(config: &DriverConfig) -> io::Result<Driver> {
    let driver = Epoll::new(config).map_err(|error| cannot_open(DriverKind::Epoll, error))?;
    Ok(Driver::Epoll(Box::new(driver)))
}

fn cannot_open(kind: DriverKind, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot open {kind}: {}", explain(&error)))
}

fn is_not_the_kernels_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), None | Some(libc::EMFILE | libc::ENFILE))
}

/// The kernel's refusal, and what to do about it.
fn explain(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "it is forbidden by a seccomp filter (usual in containers: allow io_uring_setup, io_uring_enter and \
             io_uring_register) or by sysctl kernel.io_uring_disabled (set it to 0)"
        }
        Some(libc::ENOSYS) => "the kernel is built without it, or a sandbox hides it",
        Some(libc::ENOMEM) => "the limit of locked memory is too low (raise ulimit -l)",
        Some(libc::EINVAL) => "the kernel is too old: 6.1 or newer is needed",
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is free (raise ulimit -n)",
        // Not the kernel's: the text says it all.
        None => return error.to_string(),
        _ => "see `kolk doctor`",
    };
    format!("{error}: {advice}")
}
