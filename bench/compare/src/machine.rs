//! Where and when something was measured.

use std::path::Path;
use std::process::Command;

use harness::Result;
use procfs::{CpuInfo, Current, LoadAverage};
use serde::{Deserialize, Serialize};

use crate::contender::said_by;

/// Busier than this, the machine has something else to do.
const IDLE_LOAD: f32 = 0.6;

/// What decides the figures beside the programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) processors: usize,
    pub(crate) memory_bytes: u64,
    /// Which kernel interface kolk takes here when it may choose, and why.
    pub(crate) driver: String,
    /// The state of kolk's sources.
    pub(crate) commit: String,
    pub(crate) compiler: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this(bench: &Path, kolk: &Path) -> Result<Self> {
        let cpus = CpuInfo::current()?;
        let memory = procfs::Meminfo::current()?;
        let kernel = rustix::system::uname();
        let said = |program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            said_by(command.args(words).current_dir(bench)).unwrap_or_default()
        };
        Ok(Self {
            kernel: kernel.release().to_string_lossy().into_owned(),
            cpu: cpus.model_name(0).unwrap_or("unknown").to_owned(),
            processors: cpus.num_cores(),
            memory_bytes: memory.mem_total,
            driver: driver(kolk).unwrap_or_default(),
            commit: said("git", &["describe", "--always", "--dirty", "--tags"]),
            compiler: said("rustc", &["--version"]),
        })
    }
}

/// What `kolk doctor` finds.
fn driver(kolk: &Path) -> Option<String> {
    let output = Command::new(kolk)
        .args(["doctor", "--json"])
        .output()
        .ok()?;
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let driver = findings["system"]
        .as_array()?
        .iter()
        .find(|finding| finding["name"] == "driver")?;
    Some(driver["value"].as_str()?.to_owned())
}

/// Now, in UTC, to the second.
pub(crate) fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// A sentence if other programs keep this machine busy.
pub(crate) fn busy() -> Option<String> {
    let load = LoadAverage::current().ok()?.one;
    (load > IDLE_LOAD).then(|| {
        format!("{load:.1} other programs ran in the last minute: the figures wander more than they need to")
    })
}
