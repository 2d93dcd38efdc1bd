//! Limits of this machine that decide how many connections it can hold.

use std::fs;
use std::ops::RangeInclusive;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::process::kilobytes;

/// A resource limit of this process, setrlimit(2). `None` is "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What the kernel enforces; the process may raise it up to `hard`.
    pub(crate) soft: Option<u64>,
    /// What only a privileged process may raise.
    pub(crate) hard: Option<u64>,
}

impl Limit {
    /// The limit on open descriptors, `ulimit -n`.
    pub(crate) fn descriptors() -> Self {
        Self::read(Resource::Nofile)
    }

    /// The limit on locked memory, `ulimit -l`.
    pub(crate) fn locked_memory() -> Self {
        Self::read(Resource::Memlock)
    }

    fn read(resource: Resource) -> Self {
        let limit = getrlimit(resource);
        Self { soft: limit.current, hard: limit.maximum }
    }

    /// The soft limit as a number.
    pub(crate) fn soft(self) -> u64 {
        self.soft.unwrap_or(u64::MAX)
    }

    /// The hard limit as a number.
    pub(crate) fn hard(self) -> u64 {
        self.hard.unwrap_or(u64::MAX)
    }
}

/// Raises the soft limit on descriptors to the hard one, which any process may do for itself, and
/// gives the limit that holds from then on.
pub(crate) fn raise_descriptor_limit() -> Limit {
    let limit = Limit::descriptors();
    if limit.soft() < limit.hard() {
        // Refused only where a sandbox forbids it; the limit read back then says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.hard, maximum: limit.hard });
    }
    Limit::descriptors()
}

/// What a user can do about too few descriptors.
pub(crate) const DESCRIPTOR_ADVICE: &str = "\
    raise the hard limit: `ulimit -Hn N` as root, LimitNOFILE=N in a systemd unit, \
    --ulimit nofile=N with docker, or /etc/security/limits.conf";

/// The value of the file `/proc/sys/NAME`, with `name` in its path form, such as `net/core/somaxconn`.
pub(crate) fn sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// Longest queue of connections that wait to be accepted, `net.core.somaxconn`.
pub(crate) fn somaxconn() -> Option<u64> {
    sysctl("net/core/somaxconn")?.parse().ok()
}

/// Ports that the kernel gives to outgoing connections, `net.ipv4.ip_local_port_range`.
pub(crate) fn local_ports() -> Option<RangeInclusive<u16>> {
    let text = sysctl("net/ipv4/ip_local_port_range")?;
    let (first, last) = text.split_once(' ')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Bytes that programs may still take before the machine begins to reclaim, `MemAvailable`.
pub(crate) fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    Some(kilobytes(&text, "MemAvailable:")? * 1024)
}

/// The tightest memory limit of this process's control groups, version 2 or 1; `None` without one.
pub(crate) fn cgroup_memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().flat_map(memory_limit_files).filter_map(|file| read_limit(&file)).min()
}

/// The files that may hold a memory limit for one line of `/proc/self/cgroup`: those of the group and
/// of each group above it, since a limit there binds those below.
fn memory_limit_files(line: &str) -> Vec<String> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (root, file) = match fields.next() {
        Some("") => ("/sys/fs/cgroup", "memory.max"),
        Some(controllers) if controllers.split(',').any(|name| name == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let group = fields.next().unwrap_or("/");
    let depths = std::iter::successors(Some(group), |path| path.rsplit_once('/').map(|(above, _)| above));
    depths.map(|path| format!("{root}{}/{file}", path.trim_end_matches('/'))).collect()
}

fn read_limit(file: &str) -> Option<u64> {
    let limit: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    // Version 1 writes "no limit" as the largest multiple of the page size.
    (limit < 1 << 60).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let limit = raise_descriptor_limit();
        assert_eq!(limit.soft, limit.hard);
        assert!(limit.soft() > 16);
    }

    #[test]
    fn sysctls_of_every_linux_are_found() {
        assert!(somaxconn().unwrap() > 0);
        let ports = local_ports().unwrap();
        assert!(ports.start() < ports.end());
        assert!(available_memory().unwrap() > 0);
        assert_eq!(sysctl("net/core/no_such_thing"), None);
    }

    #[test]
    fn cgroup_limits_are_sought_up_to_the_root() {
        assert_eq!(
            memory_limit_files("0::/a/b"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(memory_limit_files("4:memory:/"), vec!["/sys/fs/cgroup/memory/memory.limit_in_bytes"; 2]);
        assert!(memory_limit_files("9:name=systemd:/").is_empty());
    }
}
