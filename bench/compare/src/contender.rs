//! Who is compared. `bench/contenders.toml` names them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::Result;
use harness::address::Address;
use serde::Deserialize;

use crate::scenario::{Cell, Load};

/// A server program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contender {
    /// On the command line and in the results: `kolk-uring`.
    pub(crate) name: String,
    /// In tables and charts.
    pub(crate) title: String,
    pub(crate) family: Family,
    program: String,
    #[serde(default)]
    arguments: Vec<String>,
    /// The loads that it is for; all unless told.
    only: Option<Vec<Load>>,
    /// Whether it has a place for what a program remembers of a connection.
    #[serde(default = "yes")]
    pub(crate) keeps_session: bool,
    /// The crate whose version is told.
    package: Option<String>,
    /// The C library whose version is told.
    pkg_config: Option<String>,
}

fn yes() -> bool {
    true
}

/// What it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// One of the ways to use kolk: what the others are measured against.
    Kolk,
    /// The smallest honest loop on a kernel interface. It echoes and nothing else.
    Limit,
    /// Another library.
    Peer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    contender: Vec<Contender>,
}

impl Contender {
    /// All of a file, in its order.
    pub(crate) fn all(path: &Path) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let file: File =
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(file.contender)
    }

    /// Whether `chosen` means it: by its name, or by the part before the dash.
    pub(crate) fn is_meant_by(&self, chosen: &str) -> bool {
        let rest = self.name.strip_prefix(chosen);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Where its program is, in the folder that cargo builds into.
    pub(crate) fn path(&self, programs: &Path) -> PathBuf {
        programs.join(&self.program)
    }

    /// How to get the program.
    pub(crate) fn remedy(&self) -> &'static str {
        match self.family {
            Family::Peer => "run `bash peers/build` in bench/",
            Family::Kolk | Family::Limit => "run `cargo build --release` in bench/",
        }
    }

    /// Whether it is asked at all.
    pub(crate) fn does(&self, load: Load) -> bool {
        let offered = self.only.as_ref().is_none_or(|only| only.contains(&load));
        offered
            && match self.family {
                Family::Kolk => true,
                Family::Limit => load.service() == "echo",
                Family::Peer => load != Load::Parked,
            }
    }

    /// How it is started. `to` is where a relay sends what it receives.
    pub(crate) fn command(
        &self,
        programs: &Path,
        load: Load,
        cell: Cell,
        at: &Address,
        to: &Address,
    ) -> Command {
        let mut command = Command::new(self.path(programs));
        if self.family == Family::Limit {
            match at {
                Address::Ip(address) => command.args(["--listen", &address.to_string()]),
                Address::Unix(path) => command.arg("--unix").arg(path),
            };
            return command;
        }
        command.args([load.service(), "--listen", &at.to_string()]);
        match load {
            Load::Broadcast => command.args(["--message", &cell.bytes.to_string()]),
            Load::Relay => command.args(["--to", &to.to_string()]),
            Load::Parked => command.args(["--park-after", "1s"]),
            _ => &mut command,
        };
        command.args(&self.arguments);
        command
    }

    /// The version of what it is built on, as far as that can be told.
    pub(crate) fn version(&self, bench: &Path) -> Option<String> {
        if let Some(package) = &self.package {
            return ["peers/Cargo.lock", "Cargo.lock"]
                .iter()
                .find_map(|lock| locked_version(&bench.join(lock), package));
        }
        match &self.pkg_config {
            Some(library) => said_by(Command::new("pkg-config").args(["--modversion", library])),
            None => Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }
}

/// The version that a lock file gives a package; of several the last, which is the highest.
fn locked_version(lock: &Path, package: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let lock: Lock = toml::from_str(&std::fs::read_to_string(lock).ok()?).ok()?;
    let found = lock.package.into_iter().rfind(|it| it.name == package)?;
    Some(found.version)
}

/// The first line that a program prints, if it succeeds.
pub(crate) fn said_by(command: &mut Command) -> Option<String> {
    let output = command
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout)
        .ok()?
        .lines()
        .next()?
        .trim()
        .to_owned();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Transport;

    fn shipped() -> Vec<Contender> {
        Contender::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../contenders.toml")).unwrap()
    }

    fn named(name: &str) -> Contender {
        shipped()
            .into_iter()
            .find(|contender| contender.name == name)
            .unwrap()
    }

    const CELL: Cell = Cell {
        transport: Transport::Tcp,
        connections: 1,
        bytes: 512,
        depth: 1,
        idle: 0,
    };

    fn words(name: &str, load: Load) -> String {
        let at = "unix:/a.sock".parse().unwrap();
        let to = "127.0.0.1:9".parse().unwrap();
        let command = named(name).command(Path::new("x"), load, CELL, &at, &to);
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        words.join(" ")
    }

    #[test]
    fn each_is_started_as_it_is_written() {
        assert_eq!(words("tokio", Load::Churn), "echo --listen unix:/a.sock");
        assert_eq!(
            words("tokio", Load::Relay),
            "relay --listen unix:/a.sock --to 127.0.0.1:9"
        );
        assert_eq!(words("limit-epoll", Load::Echo), "--unix /a.sock");
        assert_eq!(
            words("kolk-uring", Load::Parked),
            "echo --listen unix:/a.sock --park-after 1s --driver io_uring --api server"
        );
        assert_eq!(
            words("kolk-epoll", Load::Broadcast),
            "broadcast --listen unix:/a.sock --message 512 --driver epoll --api server"
        );
    }

    #[test]
    fn a_choice_means_a_name_or_a_family_of_names() {
        let uring = named("kolk-uring");
        assert!(uring.is_meant_by("kolk") && uring.is_meant_by("kolk-uring"));
        assert!(!uring.is_meant_by("kol") && !uring.is_meant_by("kolk-epoll"));
    }

    #[test]
    fn limits_only_echo_and_kolk_is_there_three_ways() {
        assert!(named("limit-uring").does(Load::Idle) && !named("limit-uring").does(Load::Udp));
        assert!(named("mio").does(Load::Udp) && !named("mio").does(Load::Parked));
        let sockets = named("limit-sockets");
        assert!(sockets.does(Load::Parked) && !sockets.does(Load::Echo));
        let own = shipped()
            .into_iter()
            .filter(|contender| contender.family == Family::Kolk);
        assert_eq!(own.count(), 3);
    }
}
