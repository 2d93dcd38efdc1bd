//! The kernel's memory, which no process accounts for.
//!
//! Best source: `/proc/slabinfo`, the objects in use of each kind (readable by root only). Otherwise the
//! pages of all slabs in `/proc/meminfo`. Both count the whole machine: other programs are noise, and a
//! connection within one machine shows both its ends. Pages that hold socket data are in neither.

use std::fs;

use serde::Serialize;

use crate::process::kilobytes;

/// Kernel memory in use at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelMemory {
    pub(crate) bytes: u64,
    pub(crate) source: Source,
}

/// Where the figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Source {
    #[serde(rename = "/proc/slabinfo")]
    SlabInfo,
    #[serde(rename = "/proc/meminfo")]
    MemInfo,
}

impl Source {
    /// What the figure counts, in words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::SlabInfo => "slab objects in use, /proc/slabinfo",
            Self::MemInfo => "pages of all slabs, /proc/meminfo; as root /proc/slabinfo would be finer",
        }
    }
}

impl KernelMemory {
    /// Now; `None` where `/proc` tells nothing.
    pub(crate) fn sample() -> Option<Self> {
        let slabinfo = fs::read_to_string("/proc/slabinfo").ok().and_then(|text| parse_slabinfo(&text));
        if let Some(bytes) = slabinfo {
            return Some(Self { bytes, source: Source::SlabInfo });
        }
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        Some(Self { bytes: kilobytes(&meminfo, "Slab:")? * 1024, source: Source::MemInfo })
    }

    /// Growth from `earlier` to `self` in bytes.
    pub(crate) fn growth(self, earlier: Self) -> f64 {
        self.bytes as f64 - earlier.bytes as f64
    }
}

/// Lines that are no cache, and caches that are none of this: sockets in TIME-WAIT, of connections that have ended, go one
/// by one for a minute.
const PASSED_OVER: [&str; 3] = ["slabinfo", "#", "tw_sock_"];

/// Sum of active objects times their size, slabinfo(5).
fn parse_slabinfo(text: &str) -> Option<u64> {
    let is_counted = |line: &&str| !PASSED_OVER.iter().any(|start| line.starts_with(start));
    text.lines().filter(is_counted).map(parse_cache).sum()
}

fn parse_cache(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let active: u64 = fields.next()?.parse().ok()?;
    let size: u64 = fields.nth(1)?.parse().ok()?;
    Some(active * size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabinfo_is_summed_over_its_caches() {
        let text = "slabinfo - version: 2.1\n\
                    # name            <active_objs> <num_objs> <objsize> <objperslab>\n\
                    tw_sock_TCP          50     60    264   60    4 : tunables    0    0    0\n\
                    TCP                  10     14   2304   14    8 : tunables    0    0    0\n\
                    dentry              100    105    192   21    1 : tunables    0    0    0\n";
        assert_eq!(parse_slabinfo(text), Some(10 * 2304 + 100 * 192));
        assert_eq!(parse_slabinfo("TCP ten"), None);
    }

    #[test]
    fn this_machine_tells_its_kernel_memory() {
        let memory = KernelMemory::sample().unwrap();
        assert!(memory.bytes > 1 << 20);
        assert_eq!(memory.growth(memory), 0.0);
    }
}
