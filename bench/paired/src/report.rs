//! From what the load printed to ratios, medians and a verdict.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::shape::Shape;

/// kolk must reach this part of the limit's messages a second (median of the rounds).
const MESSAGES_BAR: f64 = 0.95;

/// kolk may use so many microseconds of user time a message more (median of the rounds, depth 1).
const USER_BAR_US: f64 = 0.10;

/// What one load said about one server.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    messages_per_second: f64,
    cpu_us: f64,
    user_us: f64,
    raw: Value,
}

impl Measurement {
    /// Reads the object that `kolk load echo --json` prints. Errors and wrong bytes count as a
    /// failure, whatever the speed.
    pub(crate) fn parse(output: &str) -> Result<Self, String> {
        let raw: Value = serde_json::from_str(output.trim())
            .map_err(|error| format!("the load printed no JSON object: {error}\n{output}"))?;
        let number = |path: &str| {
            let value = raw.pointer(path).and_then(Value::as_f64);
            value.ok_or_else(|| format!("the load's output has no number at {path}: {raw}"))
        };
        for path in ["/errors", "/mismatched_bytes"] {
            if number(path)? != 0.0 {
                return Err(format!("the load reports failures at {path}: {raw}"));
            }
        }
        let measurement = Self {
            messages_per_second: number("/messages_per_second")?,
            cpu_us: number("/server/cpu_us_per_message")?,
            user_us: number("/server/user_us_per_message")?,
            raw: raw.clone(),
        };
        if measurement.messages_per_second > 0.0 && measurement.cpu_us > 0.0 {
            return Ok(measurement);
        }
        Err(format!("the load moved no messages: {raw}"))
    }

    fn summary(&self) -> String {
        format!(
            "{:>9.0} msg/s {:6.3} us cpu {:6.3} us user",
            self.messages_per_second, self.cpu_us, self.user_us
        )
    }
}

/// Both contenders, measured one right after the other.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) number: u32,
    pub(crate) limit_first: bool,
    pub(crate) limit: Measurement,
    pub(crate) kolk: Measurement,
}

impl Round {
    fn messages_ratio(&self) -> f64 {
        self.kolk.messages_per_second / self.limit.messages_per_second
    }

    fn cpu_ratio(&self) -> f64 {
        self.kolk.cpu_us / self.limit.cpu_us
    }

    fn user_difference(&self) -> f64 {
        self.kolk.user_us - self.limit.user_us
    }
}

/// All rounds of one driver and shape.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    driver: &'static str,
    shape: Shape,
    pub(crate) rounds: Vec<Round>,
}

impl Series {
    pub(crate) fn new(driver: &'static str, shape: Shape) -> Self {
        Self {
            driver,
            shape,
            rounds: Vec::new(),
        }
    }

    /// Whether every bar that applies to this shape holds.
    pub(crate) fn holds(&self) -> bool {
        self.messages_hold() && self.user_holds() != Some(false)
    }

    fn spread(&self, of: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of).collect())
    }

    fn messages_hold(&self) -> bool {
        self.spread(Round::messages_ratio).median >= MESSAGES_BAR
    }

    /// None where the bar does not apply: pipelined messages share their system calls.
    fn user_holds(&self) -> Option<bool> {
        (self.shape.depth == 1).then(|| self.spread(Round::user_difference).median <= USER_BAR_US)
    }
}

/// How a value spreads over the rounds. min <= low quartile <= median <= high quartile <= max.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
    /// High quartile less low quartile.
    quartiles: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            median: quantile(&values, 0.5),
            min: quantile(&values, 0.0),
            max: quantile(&values, 1.0),
            quartiles: quantile(&values, 0.75) - quantile(&values, 0.25),
        }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max, "interquartile": self.quartiles })
    }
}

/// Interpolates linearly between the two nearest of the sorted values.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let position = part * (sorted.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

/// One round on one line.
pub(crate) fn round_line(series: &Series, round: &Round, rounds: u32) -> String {
    format!(
        "{:<8} {:<12} round {}/{rounds} ({} first)  limit {}  kolk {}  ratio {:.3} cpu {:.3} user {:+.3} us",
        series.driver,
        series.shape,
        round.number,
        if round.limit_first { "limit" } else { "kolk" },
        round.limit.summary(),
        round.kolk.summary(),
        round.messages_ratio(),
        round.cpu_ratio(),
        round.user_difference(),
    )
}

/// The result: a block of three lines for each driver and shape.
pub(crate) fn table(all: &[Series]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<8} {:<12} {:<29} {:>8} {:>8} {:>8} {:>8}  bar",
        "driver", "shape", "kolk against limit", "median", "min", "max", "iqr"
    );
    for series in all {
        let user_bar = match series.user_holds() {
            Some(holds) => verdict(holds, &format!("<= {USER_BAR_US:.2}")),
            None => "-".to_owned(),
        };
        let rows = [
            (
                "messages/s, ratio",
                series.spread(Round::messages_ratio),
                verdict(series.messages_hold(), &format!(">= {MESSAGES_BAR:.2}")),
            ),
            (
                "CPU a message, ratio",
                series.spread(Round::cpu_ratio),
                "-".to_owned(),
            ),
            (
                "user us a message, difference",
                series.spread(Round::user_difference),
                user_bar,
            ),
        ];
        for (
            what,
            Spread {
                median,
                min,
                max,
                quartiles,
            },
            bar,
        ) in rows
        {
            let _ = writeln!(
                text,
                "{:<8} {:<12} {what:<29} {median:>8.3} {min:>8.3} {max:>8.3} {quartiles:>8.3}  {bar}",
                series.driver, series.shape
            );
        }
    }
    text.push_str(
        "shape: connections x bytes x depth. The kernel samples the split into user and system time \
         at 250 Hz: read the user\ndifference only over long runs (--duration 20s and more) or many rounds.\n",
    );
    text
}

fn verdict(holds: bool, bar: &str) -> String {
    format!("{bar} {}", if holds { "holds" } else { "FAILS" })
}

/// Everything that was measured, for other programs.
pub(crate) fn json(all: &[Series]) -> String {
    let series: Vec<Value> = all
        .iter()
        .map(|series| {
            let rounds: Vec<Value> = series
                .rounds
                .iter()
                .map(|round| {
                    json!({
                        "round": round.number,
                        "limit_first": round.limit_first,
                        "limit": round.limit.raw,
                        "kolk": round.kolk.raw,
                        "messages_ratio": round.messages_ratio(),
                        "cpu_ratio": round.cpu_ratio(),
                        "user_us_difference": round.user_difference(),
                    })
                })
                .collect();
            json!({
                "driver": series.driver,
                "connections": series.shape.connections,
                "bytes": series.shape.bytes,
                "depth": series.shape.depth,
                "messages_ratio": series.spread(Round::messages_ratio).json(),
                "cpu_ratio": series.spread(Round::cpu_ratio).json(),
                "user_us_difference": series.spread(Round::user_difference).json(),
                "holds": series.holds(),
                "rounds": rounds,
            })
        })
        .collect();
    let bars = json!({ "messages_ratio": MESSAGES_BAR, "user_us_difference": USER_BAR_US });
    format!("{:#}\n", json!({ "bars": bars, "series": series }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(errors: u32, messages_per_second: f64, user_us: f64) -> String {
        json!({
            "messages_per_second": messages_per_second, "errors": errors, "mismatched_bytes": 0,
            "server": { "cpu_us_per_message": 7.0, "user_us_per_message": user_us },
        })
        .to_string()
    }

    fn series(depth: u32, kolk: (f64, f64)) -> Series {
        let parse = |(rate, user)| Measurement::parse(&output(0, rate, user)).unwrap();
        let shape = Shape {
            connections: 1,
            bytes: 1,
            depth,
        };
        let mut series = Series::new("epoll", shape);
        series.rounds.push(Round {
            number: 1,
            limit_first: true,
            limit: parse((1000.0, 0.1)),
            kolk: parse(kolk),
        });
        series
    }

    #[test]
    fn the_spread_of_values_is_interpolated() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            spread,
            Spread {
                median: 2.5,
                min: 1.0,
                max: 4.0,
                quartiles: 1.5
            }
        );
        assert_eq!(
            Spread::of(vec![7.0]),
            Spread {
                median: 7.0,
                min: 7.0,
                max: 7.0,
                quartiles: 0.0
            }
        );
    }

    #[test]
    fn a_load_with_errors_or_without_numbers_is_refused() {
        assert!(Measurement::parse(&output(0, 1.0, 0.1)).is_ok());
        assert!(Measurement::parse(&output(1, 1.0, 0.1)).is_err());
        assert!(Measurement::parse(&output(0, 0.0, 0.1)).is_err());
        for wrong in ["", "{}", "[]", "{\"errors\": 0}"] {
            assert!(Measurement::parse(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn too_few_messages_fail_a_bar_and_too_much_user_time_only_at_depth_one() {
        assert!(series(1, (960.0, 0.15)).holds());
        assert!(!series(1, (940.0, 0.15)).holds());
        assert!(!series(1, (960.0, 0.25)).holds());
        assert!(series(16, (960.0, 0.25)).holds());
    }
}
