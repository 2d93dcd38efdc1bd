//! What a process has used and holds, as the kernel counts it. See proc(5).

use std::time::Duration;

use procfs::process::Process;
use procfs::{ProcError, WithCurrentSystemInfo};
use serde::Serialize;

use crate::Result;

/// A look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// Time on a processor, of all threads that live: counted by the scheduler.
    pub cpu: Duration,
    /// Time in user space. The kernel samples it at its timer interrupt (100..1000 times a second), so only
    /// long runs make it steady.
    pub user: Duration,
    /// All that is resident, program text included, in bytes.
    pub resident: u64,
    /// Heap and stacks, in bytes.
    pub anonymous: u64,
}

impl Account {
    /// Of the process with this number.
    ///
    /// # Errors
    ///
    /// It has ended, or is not ours to look at.
    pub fn of(pid: u32) -> Result<Self> {
        let look = || -> std::result::Result<Self, ProcError> {
            let process = Process::new(pid as i32)?;
            let (stat, status) = (process.stat()?, process.status()?);
            // A thread may end between the listing and the look at it.
            let threads = process
                .tasks()?
                .filter_map(|thread| thread.ok()?.schedstat().ok());
            Ok(Self {
                cpu: Duration::from_nanos(threads.map(|thread| thread.sum_exec_runtime).sum()),
                user: Duration::from_secs_f64(
                    stat.utime as f64 / procfs::ticks_per_second() as f64,
                ),
                resident: stat.rss_bytes().get(),
                anonymous: status.rssanon.unwrap_or_default() * 1024,
            })
        };
        look().map_err(|error| format!("cannot look at process {pid}: {error}").into())
    }

    /// Of this process.
    ///
    /// # Errors
    ///
    /// `/proc` is not mounted.
    pub fn of_this_process() -> Result<Self> {
        Self::of(std::process::id())
    }
}

/// What a server used for each of the things that it did, and holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ServerUse {
    /// Microseconds on a processor.
    pub cpu_us_per_message: f64,
    /// The part of it in user space; see [`Account::user`].
    pub user_us_per_message: f64,
    /// The part of it in the kernel.
    pub system_us_per_message: f64,
    /// Part of the measured time that it was on a processor: 100 is one processor.
    pub busy_percent: f64,
    /// Resident at the end, in bytes.
    pub rss_bytes: u64,
    /// Heap and stacks at the end, in bytes.
    pub anonymous_bytes: u64,
}

impl ServerUse {
    /// Between two looks, `window` apart, for so many messages.
    pub fn between(before: Account, after: Account, messages: u64, window: Duration) -> Self {
        let cpu = after.cpu.saturating_sub(before.cpu);
        let user = after.user.saturating_sub(before.user).min(cpu);
        let a_message = |time: Duration| time.as_secs_f64() * 1e6 / messages.max(1) as f64;
        Self {
            cpu_us_per_message: a_message(cpu),
            user_us_per_message: a_message(user),
            system_us_per_message: a_message(cpu - user),
            busy_percent: busy_percent(cpu, window),
            rss_bytes: after.resident,
            anonymous_bytes: after.anonymous,
        }
    }
}

/// Part of `window` that `cpu` is; 100 is one processor.
pub fn busy_percent(cpu: Duration, window: Duration) -> f64 {
    if window.is_zero() {
        return 0.0;
    }
    (cpu.as_secs_f64() / window.as_secs_f64() * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_used_time() {
        let account = Account::of_this_process().unwrap();
        assert!(account.cpu > Duration::ZERO);
        assert!(account.resident >= account.anonymous && account.anonymous > 0);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Account::of(u32::MAX >> 1).unwrap_err().to_string();
        assert!(error.contains("process 2147483647"), "{error}");
    }

    #[test]
    fn time_is_shared_out_to_messages_and_user_time_never_exceeds_all() {
        let millis = Duration::from_millis;
        let before = Account::default();
        let after = Account {
            cpu: millis(10),
            user: millis(12),
            resident: 7,
            anonymous: 5,
        };
        let used = ServerUse::between(before, after, 1000, millis(20));
        assert_eq!(
            (used.cpu_us_per_message, used.user_us_per_message),
            (10.0, 10.0)
        );
        assert_eq!((used.system_us_per_message, used.busy_percent), (0.0, 50.0));
    }
}
