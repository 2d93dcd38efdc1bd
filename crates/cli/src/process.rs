//! What `/proc` tells of a process: processor time, memory. See proc(5).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

use crate::failure::Failure;

/// Another process, watched from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
}

/// Processor time since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CpuTime {
    /// Time on a processor, counted by the scheduler in nanoseconds.
    pub(crate) total: Duration,
    /// The part of it in user space, in steps of a clock tick. The kernel splits the total by sampling
    /// at its timer interrupt (100..1000 times a second), so only long runs make it steady.
    pub(crate) user: Duration,
}

impl CpuTime {
    /// What was added since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        let total = self.total.saturating_sub(earlier.total);
        Self { total, user: self.user.saturating_sub(earlier.user).min(total) }
    }

    /// The part of it in the kernel.
    pub(crate) fn system(self) -> Duration {
        self.total.saturating_sub(self.user)
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All that is resident, program text and shared pages included.
    pub(crate) rss_bytes: u64,
    /// Heap and stacks: what the process itself has touched.
    pub(crate) anonymous_bytes: u64,
}

impl Process {
    /// The process `pid`.
    ///
    /// # Errors
    ///
    /// There is none, or this user may not look at it.
    pub(crate) fn find(pid: u32) -> Result<Self, Failure> {
        let process = Self { pid };
        match process.cpu_time().and(process.memory()) {
            Ok(_) => Ok(process),
            Err(error) => Err(Failure::usage(format!(
                "cannot read /proc/{pid} of --server-pid {pid}: {error} (give the process id that \
                 the server printed, on this machine)"
            ))),
        }
    }

    /// Processor time of all its threads.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn cpu_time(self) -> io::Result<CpuTime> {
        let (user_ticks, system_ticks) = parse_stat(&self.read("stat")?)?;
        let second = clock_ticks_per_second() as f64;
        let sampled = (user_ticks + system_ticks) as f64 / second;
        let total = self.scheduled_time().unwrap_or(Duration::from_secs_f64(sampled));
        Ok(CpuTime { total, user: Duration::from_secs_f64(user_ticks as f64 / second) })
    }

    /// The scheduler's own count, summed over the threads that live now: a server's loops live as long as
    /// it does. `None` where the kernel keeps none.
    fn scheduled_time(self) -> Option<Duration> {
        let threads = fs::read_dir(self.path("task")).ok()?;
        // A thread may end between the listing and the look at it.
        let files =
            threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
        let times = files.filter_map(|text| parse_schedstat(&text));
        let nanos: u64 = times.map(|(running, _)| running).sum();
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Memory now.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn memory(self) -> io::Result<Memory> {
        parse_status(&self.read("status")?)
    }

    fn read(self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path(file))
    }

    fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }
}

/// How the calling thread has spent its time since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadTime {
    /// On a processor.
    pub(crate) running: Duration,
    /// Ready to run, but the processor was another's.
    pub(crate) queued: Duration,
}

impl ThreadTime {
    /// Of the calling thread; `None` where the kernel keeps no account.
    pub(crate) fn of_this_thread() -> Option<Self> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let (running, queued) = parse_schedstat(&text)?;
        Some(Self { running: Duration::from_nanos(running), queued: Duration::from_nanos(queued) })
    }

    /// What was added since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            running: self.running.saturating_sub(earlier.running),
            queued: self.queued.saturating_sub(earlier.queued),
        }
    }
}

/// The fields utime and stime of `/proc/PID/stat`, in clock ticks.
fn parse_stat(text: &str) -> io::Result<(u64, u64)> {
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse);
    match (times.next(), times.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user, system)),
        _ => Err(unreadable("stat")),
    }
}

/// Nanoseconds running and nanoseconds queued of a `schedstat` file.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn parse_status(text: &str) -> io::Result<Memory> {
    match (kilobytes(text, "VmRSS:"), kilobytes(text, "RssAnon:")) {
        (Some(rss), Some(anonymous)) => {
            Ok(Memory { rss_bytes: rss * 1024, anonymous_bytes: anonymous * 1024 })
        }
        _ => Err(unreadable("status")),
    }
}

/// The number in the line `KEY   NUMBER kB` of a `/proc` file.
pub(crate) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{file} does not read like proc(5)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_wild_program_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 750 0 0 20 0 3 0 100 0";
        assert_eq!(parse_stat(stat).unwrap(), (250, 750));
        assert!(parse_stat("42 (x) S 1").is_err());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tkolk\nVmRSS:\t    1000 kB\nRssAnon:\t     300 kB\nRssFile:\t 700 kB\n";
        let memory = parse_status(status).unwrap();
        assert_eq!(memory, Memory { rss_bytes: 1_024_000, anonymous_bytes: 307_200 });
        assert!(parse_status("Name:\tkthreadd\n").is_err(), "kernel threads have no memory");
    }

    #[test]
    fn schedstat_gives_running_and_queued() {
        assert_eq!(parse_schedstat("123853 2724222 2\n"), Some((123_853, 2_724_222)));
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn the_split_never_exceeds_the_total() {
        let millis =
            |total, user| CpuTime { total: Duration::from_millis(total), user: Duration::from_millis(user) };
        let used = millis(105, 60).since(millis(100, 50));
        assert_eq!((used, used.system()), (millis(5, 5), Duration::ZERO));
        assert_eq!(millis(100, 20).since(millis(0, 0)).system(), Duration::from_millis(80));
    }

    #[test]
    fn this_process_can_watch_itself() {
        let process = Process::find(std::process::id()).unwrap();
        assert!(process.memory().unwrap().rss_bytes > 0);
        assert!(process.cpu_time().unwrap().total > Duration::ZERO);
    }

    #[test]
    fn a_missing_process_is_wrong_use() {
        let failure = Process::find(u32::MAX).unwrap_err();
        assert_eq!(failure.status(), 2);
        assert!(failure.to_string().contains("--server-pid 4294967295"), "{failure}");
    }
}
