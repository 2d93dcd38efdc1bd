//! Scenarios: what is measured, as data. Each is a file of `bench/scenarios`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use harness::Result;
use serde::{Deserialize, Deserializer, de};

use crate::contender::Contender;
use crate::metrics::{self, Metric};

/// One file: a kind of load, and the shapes in which it is offered.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The name of its file.
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) load: Load,
    rounds: u32,
    #[serde(deserialize_with = "duration")]
    measured: Duration,
    /// Connections that stay silent beside those of a cell.
    #[serde(default)]
    idle: u32,
    /// Cells with more bytes under way are left out of the matrix.
    #[serde(default)]
    in_flight_at_most: Option<u64>,
    matrix: Matrix,
    /// The cells that a run measures unless it is told otherwise.
    default: Vec<String>,
    quick: Quick,
    /// Cells that are measured for longer.
    #[serde(default)]
    longer: BTreeMap<String, Length>,
}

/// All values of each dimension; the cells are their product.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    transport: Vec<Transport>,
    connections: Vec<u32>,
    bytes: Vec<u32>,
    depth: Vec<u32>,
}

/// What `--quick` measures.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quick {
    rounds: u32,
    #[serde(deserialize_with = "duration")]
    measured: Duration,
    cells: Vec<String>,
}

/// A length of time in a file.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Length(#[serde(deserialize_with = "duration")] Duration);

fn duration<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Duration, D::Error> {
    harness::duration::parse(&String::deserialize(from)?).map_err(de::Error::custom)
}

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Load {
    /// A closed loop of messages that come back.
    Echo,
    /// The same, beside connections that stay silent.
    Active,
    /// An open loop at half of what the slowest contender can do.
    Rate,
    /// Connections that do nothing.
    Idle,
    /// The same, for longer, and the kernel's memory counts.
    Parked,
    /// Connections that come, exchange one message and go.
    Churn,
    /// One message to all.
    Broadcast,
    /// Datagrams that come back.
    Udp,
    /// A stream through the server to another.
    Relay,
}

impl Load {
    /// What the server is asked to be.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::Echo | Self::Active | Self::Rate | Self::Idle | Self::Parked | Self::Churn => {
                "echo"
            }
            Self::Broadcast => "broadcast",
            Self::Udp => "udp",
            Self::Relay => "relay",
        }
    }

    /// What is read from its report, the most important first.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Echo | Self::Active => metrics::ECHO,
            Self::Rate => metrics::RATE,
            Self::Idle => metrics::IDLE,
            Self::Parked => metrics::PARKED,
            Self::Churn => metrics::CHURN,
            Self::Broadcast => metrics::BROADCAST,
            Self::Udp => metrics::UDP,
            Self::Relay => metrics::RELAY,
        }
    }

    /// Roughly what a measurement takes beside the measured time: what is needed to connect, to warm up
    /// and to come to rest.
    fn overhead(self, connections: u32) -> Duration {
        let settle = match self {
            Self::Idle | Self::Parked => Duration::from_millis(2500),
            Self::Active => Duration::from_millis(900),
            _ => Duration::from_millis(450),
        };
        settle + Duration::from_micros(70) * connections
    }
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::Udp => "udp",
        })
    }
}

/// One shape of a load. Written `tcp-50x64x16`: transport, connections, bytes of a message, depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) transport: Transport,
    pub(crate) connections: u32,
    /// Of a message.
    pub(crate) bytes: u32,
    /// Messages under way, on each connection; for datagrams in all.
    pub(crate) depth: u32,
    /// Connections that stay silent.
    pub(crate) idle: u32,
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transport,
            connections,
            bytes,
            depth,
            ..
        } = self;
        out.pad(&format!("{transport}-{connections}x{bytes}x{depth}"))
    }
}

/// Which of its cells a run measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Default,
    Quick,
    /// The whole matrix.
    Full,
    /// Those with one of these names.
    Named(Vec<String>),
}

/// What a run does with a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) rounds: u32,
    /// Each with the time that it is measured for.
    pub(crate) cells: Vec<(Cell, Duration)>,
}

impl Scenario {
    /// All files of a folder, in the order of their names.
    pub(crate) fn all(folder: &Path) -> Result<Vec<Self>> {
        let unreadable =
            |error| format!("cannot read the scenarios in {}: {error}", folder.display());
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            paths.push(entry.map_err(unreadable)?.path());
        }
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        });
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let scenario = Self {
            name: name.to_owned(),
            ..toml::from_str(text)?
        };
        let cells: Vec<String> = scenario.cells().iter().map(Cell::to_string).collect();
        let named = scenario
            .default
            .iter()
            .chain(&scenario.quick.cells)
            .chain(scenario.longer.keys());
        match named.clone().find(|&name| !cells.contains(name)) {
            Some(stranger) => Err(format!("{stranger:?} is no cell of its matrix").into()),
            None => Ok(scenario),
        }
    }

    /// The whole matrix.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let Matrix {
            transport,
            connections,
            bytes,
            depth,
        } = &self.matrix;
        let mut cells = Vec::new();
        for &transport in transport {
            for &connections in connections {
                for &bytes in bytes {
                    for &depth in depth {
                        cells.push(Cell {
                            transport,
                            connections,
                            bytes,
                            depth,
                            idle: self.idle,
                        });
                    }
                }
            }
        }
        cells.retain(|cell| {
            self.in_flight_at_most
                .is_none_or(|most| cell.in_flight() <= most)
        });
        cells
    }

    /// What a run does with it.
    ///
    /// # Errors
    ///
    /// A name is none of its cells.
    pub(crate) fn plan(&self, choice: &Choice, rounds: Option<u32>) -> Result<Plan> {
        let all = self.cells();
        let names: Vec<&str> = match choice {
            Choice::Default => self.default.iter().map(String::as_str).collect(),
            Choice::Quick => self.quick.cells.iter().map(String::as_str).collect(),
            Choice::Named(names) => names.iter().map(String::as_str).collect(),
            Choice::Full => Vec::new(),
        };
        let known: Vec<String> = all.iter().map(Cell::to_string).collect();
        if let Some(stranger) = names
            .iter()
            .find(|name| !known.iter().any(|it| it == *name))
        {
            let message = format!("{} has no cell {stranger:?}: see `list`", self.name);
            return Err(message.into());
        }
        let is_chosen =
            |cell: &Cell| *choice == Choice::Full || names.contains(&cell.to_string().as_str());
        let quick = *choice == Choice::Quick;
        let length = |cell: Cell| match self.longer.get(&cell.to_string()) {
            _ if quick => (cell, self.quick.measured),
            Some(length) => (cell, length.0),
            None => (cell, self.measured),
        };
        Ok(Plan {
            scenario: self.clone(),
            rounds: rounds.unwrap_or(if quick {
                self.quick.rounds
            } else {
                self.rounds
            }),
            cells: all.into_iter().filter(is_chosen).map(length).collect(),
        })
    }

    /// Whether a run measures this cell unless it is told otherwise.
    pub(crate) fn is_default(&self, cell: Cell) -> bool {
        self.default.contains(&cell.to_string())
    }
}

impl Cell {
    /// Bytes under way when all have sent what they may.
    fn in_flight(&self) -> u64 {
        let one = u64::from(self.bytes) * u64::from(self.depth);
        match self.transport {
            // The depth of datagrams is that of all peers together.
            Transport::Udp => one,
            Transport::Tcp | Transport::Unix => one * u64::from(self.connections),
        }
    }
}

impl Plan {
    /// Roughly how long one contender takes in one round of a cell.
    pub(crate) fn estimate(&self, cell: Cell, measured: Duration) -> Duration {
        measured + self.scenario.load.overhead(cell.connections + cell.idle)
    }

    /// Roughly how long all of it takes for those of the contenders that it is for.
    pub(crate) fn estimate_all(&self, contenders: &[Contender]) -> Duration {
        let load = self.scenario.load;
        let asked = contenders.iter().filter(|it| it.does(load));
        let round: Duration = self
            .cells
            .iter()
            .map(|&(cell, measured)| self.estimate(cell, measured))
            .sum();
        // The rate of an open loop is found by one more round.
        let rounds = self.rounds + u32::from(self.scenario.load == Load::Rate);
        round * rounds * asked.count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Vec<Scenario> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        Scenario::all(&folder).unwrap()
    }

    fn minutes(choice: &Choice) -> f64 {
        let contenders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contenders.toml");
        let contenders = Contender::all(&contenders).unwrap();
        let plan = |scenario: &Scenario| {
            scenario
                .plan(choice, None)
                .unwrap()
                .estimate_all(&contenders)
        };
        shipped().iter().map(plan).sum::<Duration>().as_secs_f64() / 60.0
    }

    #[test]
    fn a_run_of_all_ends_in_time() {
        assert!(
            minutes(&Choice::Default) < 38.0,
            "{} minutes",
            minutes(&Choice::Default)
        );
        assert!(
            minutes(&Choice::Quick) < 4.6,
            "{} minutes",
            minutes(&Choice::Quick)
        );
    }

    #[test]
    fn the_echo_matrix_leaves_out_what_the_kernel_cannot_hold() {
        let echo = shipped()
            .into_iter()
            .find(|scenario| scenario.name == "echo")
            .unwrap();
        let names: Vec<String> = echo.cells().iter().map(Cell::to_string).collect();
        for there in [
            "tcp-1x64x1",
            "unix-1000x16384x16",
            "tcp-8000x65536x1",
            "unix-8000x1024x16",
        ] {
            assert!(names.iter().any(|name| name == there), "{there} is missing");
        }
        assert!(!names.contains(&"tcp-8000x65536x16".to_owned()));
    }

    #[test]
    fn a_cell_that_is_not_in_the_matrix_is_named() {
        let text = r#"
            title = "x"
            load = "echo"
            rounds = 1
            measured = "1s"
            default = ["tcp-2x64x1"]
            [matrix]
            transport = ["tcp"]
            connections = [1]
            bytes = [64]
            depth = [1]
            [quick]
            rounds = 1
            measured = "1s"
            cells = []
        "#;
        let error = Scenario::parse("x", text).unwrap_err().to_string();
        assert!(error.contains("tcp-2x64x1"), "{error}");
        let right = Scenario::parse("x", &text.replace("tcp-2x", "tcp-1x")).unwrap();
        assert!(
            right
                .plan(&Choice::Named(vec!["udp-1x1x1".into()]), None)
                .is_err()
        );
        assert_eq!(right.plan(&Choice::Default, Some(9)).unwrap().rounds, 9);
    }
}
