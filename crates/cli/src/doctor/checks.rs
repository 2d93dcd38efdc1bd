//! The checks, each of which gives one finding.

use std::env;

use kolk_engine::{Config, EventLoop};

use super::Finding;
use crate::system::{self, DESCRIPTOR_ADVICE, Limit, sysctl};
use crate::units::{bytes, grouped};

/// Connections below which a limit is worth raising.
const MANY: u64 = 100_000;

/// A backlog that takes an accept storm; what the server asks for.
const BACKLOG: u64 = 4096;

/// Kernel memory of an idle TCP connection with its descriptor, and our share: rounded up.
const CONNECTION_BYTES: u64 = 4608;

/// Locked memory that a loop needs where the kernel still counts it so (before Linux 5.12).
const LOCKED_BYTES: u64 = 1 << 20;

pub(super) fn all() -> Vec<Finding> {
    let checks = [
        kernel,
        driver,
        driver_variable,
        io_uring_permission,
        descriptors,
        descriptors_of_the_machine,
        backlog,
        ports,
        connection_tracking,
        receive_buffers,
        send_buffers,
        memory,
        control_group,
        locked_memory,
    ];
    checks.iter().filter_map(|check| check()).collect()
}

fn kernel() -> Option<Finding> {
    let release = sysctl("kernel/osrelease")?;
    let old = version(&release).is_some_and(|version| version < (6, 1));
    let advice = "io_uring is complete from Linux 6.1 on; before that epoll serves, or fewer features";
    Some(Finding::ok("kernel", release).limited_if(old, advice))
}

/// Major and minor number of a release such as `6.18.44-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn driver() -> Option<Finding> {
    Some(match EventLoop::<()>::new(&Config::default()) {
        Ok(events) => Finding::ok("driver", events.driver_reason()),
        Err(error) => Finding::ok("driver", "none").bad(error.to_string()),
    })
}

fn driver_variable() -> Option<Finding> {
    let value = env::var("KOLK_DRIVER").ok()?;
    Some(Finding::ok("KOLK_DRIVER", value).explained("this environment variable decides what `auto` means"))
}

fn io_uring_permission() -> Option<Finding> {
    let value = sysctl("kernel/io_uring_disabled")?;
    let finding = Finding::ok("kernel.io_uring_disabled", &value);
    Some(match value.as_str() {
        "0" => finding,
        "1" => finding.limited(
            "only root and the group of kernel.io_uring_group may use io_uring: join it, or \
             `sysctl -w kernel.io_uring_disabled=0`",
        ),
        _ => finding.limited("nobody may use io_uring: `sysctl -w kernel.io_uring_disabled=0`"),
    })
}

fn descriptors() -> Option<Finding> {
    let limit = Limit::descriptors();
    let value = format!("soft {}, hard {}", shown(limit.soft), shown(limit.hard));
    let advice = format!(
        "a connection takes one: `kolk` raises the soft limit to the hard one by itself; for more \
         connections {DESCRIPTOR_ADVICE}"
    );
    Some(Finding::ok("descriptor limit", value).limited_if(limit.hard() < MANY, advice))
}

fn descriptors_of_the_machine() -> Option<Finding> {
    let most: u64 = sysctl("fs/file-max")?.parse().ok()?;
    let a_process: u64 = sysctl("fs/nr_open")?.parse().ok()?;
    let value =
        format!("{} in all (fs.file-max), {} a process (fs.nr_open)", grouped(most), grouped(a_process));
    let advice = "no limit of a process can go beyond them: `sysctl -w fs.file-max=N fs.nr_open=N`";
    Some(Finding::ok("descriptors, machine", value).limited_if(most.min(a_process) < MANY, advice))
}

fn backlog() -> Option<Finding> {
    let longest = system::somaxconn()?;
    let advice = format!(
        "of many connections that come at once, TCP repeats those that do not fit a second later: \
         `sysctl -w net.core.somaxconn={BACKLOG}` and start the server anew"
    );
    Some(Finding::ok("net.core.somaxconn", grouped(longest)).limited_if(longest < BACKLOG, advice))
}

fn ports() -> Option<Finding> {
    let ports = system::local_ports()?;
    let count = ports.len() as u64;
    let value = format!("{}..{}, {} ports", ports.start(), ports.end(), grouped(count));
    Some(Finding::ok("source ports", value).explained(format!(
        "this machine can open {} connections to one TCP address; servers are not bound by it \
         (`sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"` for more)",
        grouped(count)
    )))
}

fn connection_tracking() -> Option<Finding> {
    let most: u64 = sysctl("net/netfilter/nf_conntrack_max")?.parse().ok()?;
    let advice = "the firewall drops connections beyond it: `sysctl -w \
         net.netfilter.nf_conntrack_max=N`, or exempt the server's port (notrack)";
    Some(Finding::ok("connection tracking", grouped(most)).limited_if(most < MANY, advice))
}

fn receive_buffers() -> Option<Finding> {
    buffers("net.ipv4.tcp_rmem", "net/ipv4/tcp_rmem", "a peer that sends faster than the server reads")
}

fn send_buffers() -> Option<Finding> {
    buffers("net.ipv4.tcp_wmem", "net/ipv4/tcp_wmem", "a peer that reads slower than the server sends")
}

fn buffers(name: &str, path: &str, who: &str) -> Option<Finding> {
    let value = sysctl(path)?;
    let sizes: Vec<u64> = value.split(' ').map_while(|size| size.parse().ok()).collect();
    let [least, first, most] = sizes[..] else {
        return None;
    };
    let [least, first, most] = [least, first, most].map(|size| bytes(size as f64));
    let finding = Finding::ok(name, format!("{least} least, {first} at first, {most} most"));
    Some(
        finding.explained(format!("{who} makes the kernel hold up to {most} for it; an idle one holds none")),
    )
}

fn memory() -> Option<Finding> {
    let available = system::available_memory()?;
    Some(room("available memory", available, "add memory, or fewer connections"))
}

fn control_group() -> Option<Finding> {
    Some(match system::cgroup_memory_limit() {
        Some(limit) => room(
            "memory limit of the cgroup",
            limit,
            "raise memory.max (MemoryMax= in a systemd unit, --memory with docker); the kernel's \
             memory counts too",
        ),
        None => Finding::ok("memory limit of the cgroup", "none"),
    })
}

/// A limit on memory, as the number of idle connections it has room for.
fn room(name: &str, size: u64, advice: &str) -> Finding {
    let connections = size / CONNECTION_BYTES;
    let value = format!("{}, room for about {} idle connections", bytes(size as f64), grouped(connections));
    Finding::ok(name, value).limited_if(connections < MANY, advice)
}

fn locked_memory() -> Option<Finding> {
    let limit = Limit::locked_memory();
    let value = limit.soft.map_or_else(|| "unlimited".to_owned(), |size| bytes(size as f64));
    let advice = "kernels before 5.12 count io_uring's queues here and refuse it: `ulimit -l \
         unlimited`, or LimitMEMLOCK=infinity in a systemd unit";
    Some(Finding::ok("locked memory", value).limited_if(limit.soft() < LOCKED_BYTES, advice))
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), grouped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("5.15.0-100-generic"), Some((5, 15)));
        assert!(version("5.15.0").unwrap() < (6, 1));
        assert!(version("6.1.0").unwrap() >= (6, 1));
        assert_eq!(version("weird"), None);
    }

    #[test]
    fn memory_is_told_in_connections() {
        assert_eq!(room("x", 1 << 40, "more").verdict, Verdict::Ok);
        let tight = room("x", 46_080, "more");
        assert_eq!((tight.verdict, tight.advice.as_deref()), (Verdict::Limited, Some("more")));
        assert!(tight.value.contains("about 10 idle"), "{}", tight.value);
    }

    #[test]
    fn every_linux_has_these() {
        for check in
            [kernel, descriptors, descriptors_of_the_machine, backlog, ports, receive_buffers, memory]
        {
            assert!(check().is_some());
        }
    }
}
