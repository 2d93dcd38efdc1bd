//! The options `--driver` and `--park-after`.

use std::time::Duration;

use clap::ValueEnum;
use kolk_engine::driver::{DriverChoice, DriverKind};

use crate::units::parse_duration;

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

/// Silence after which a connection is parked; `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParkAfter(pub(crate) Option<Duration>);

impl ParkAfter {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "never" { Ok(Self(None)) } else { parse_duration(text).map(|after| Self(Some(after))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parking_takes_a_time_or_never() {
        assert_eq!(ParkAfter::parse("never"), Ok(ParkAfter(None)));
        assert_eq!(ParkAfter::parse("2s"), Ok(ParkAfter(Some(Duration::from_secs(2)))));
        assert!(ParkAfter::parse("soon").is_err());
    }
}
