//! The server as seen from outside, with `--server-pid`.

use crate::failure::Failure;
use crate::process::{CpuTime, Memory, Process};

/// A server to watch, if the user named one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server(Option<Process>);

/// What it had used and holds at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) cpu: CpuTime,
    pub(crate) memory: Memory,
}

impl Server {
    /// The server with this process id.
    ///
    /// # Errors
    ///
    /// There is no such process, or this user may not look at it.
    pub(crate) fn find(pid: Option<u32>) -> Result<Self, Failure> {
        pid.map(Process::find).transpose().map(Self)
    }

    /// A look at it; `None` without a server to watch or when it has ended.
    pub(crate) fn sample(self) -> Option<Sample> {
        let process = self.0?;
        Some(Sample { cpu: process.cpu_time().ok()?, memory: process.memory().ok()? })
    }
}
