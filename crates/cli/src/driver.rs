//! The option `--driver`.

use clap::ValueEnum;
use kolk_engine::driver::{DriverChoice, DriverKind};

/// Which kernel interface to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DriverArg {
    /// io_uring where the kernel offers what is needed, else epoll.
    #[default]
    Auto,
    /// io_uring or an error.
    #[value(name = "io_uring", alias = "uring")]
    IoUring,
    /// epoll.
    Epoll,
}

impl From<DriverArg> for DriverChoice {
    fn from(arg: DriverArg) -> Self {
        match arg {
            DriverArg::Auto => Self::Auto,
            DriverArg::IoUring => Self::Only(DriverKind::IoUring),
            DriverArg::Epoll => Self::Only(DriverKind::Epoll),
        }
    }
}
