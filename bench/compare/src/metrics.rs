//! What is read from the report of a load.

use std::collections::BTreeMap;

use harness::Result;
use serde_json::Value;

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Metric {
    /// In the files of results.
    pub(crate) key: &'static str,
    /// In a table, with its unit.
    pub(crate) title: &'static str,
    pub(crate) better: Better,
    /// Where the report of the load has it.
    pointer: &'static str,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

const fn more(key: &'static str, title: &'static str, pointer: &'static str) -> Metric {
    Metric {
        key,
        title,
        better: Better::More,
        pointer,
    }
}

const fn less(key: &'static str, title: &'static str, pointer: &'static str) -> Metric {
    Metric {
        key,
        title,
        better: Better::Less,
        pointer,
    }
}

const CPU: Metric = less("cpu_us", "CPU us", "/server/cpu_us_per_message");
const USER: Metric = less("user_us", "user us", "/server/user_us_per_message");
const P50: Metric = less("p50_us", "p50 us", "/latency_us/p50");
const P99: Metric = less("p99_us", "p99 us", "/latency_us/p99");
const P999: Metric = less("p999_us", "p99.9 us", "/latency_us/p999");
const RESIDENT: Metric = less("resident", "resident bytes", "/server/rss_bytes");
const ANONYMOUS: Metric = less("anonymous", "heap bytes", "/server/anonymous_bytes");

pub(crate) const ECHO: &[Metric] = &[
    more("per_second", "messages/s", "/messages_per_second"),
    CPU,
    USER,
    P50,
    P99,
    P999,
    RESIDENT,
];
pub(crate) const RATE: &[Metric] = &[P99, P999, P50, CPU, USER];
pub(crate) const IDLE: &[Metric] = &[
    less(
        "user_bytes",
        "user bytes a connection",
        "/server/bytes_per_connection",
    ),
    less(
        "kernel_bytes",
        "kernel bytes a connection, both ends",
        "/kernel/bytes_per_connection",
    ),
];
pub(crate) const PARKED: &[Metric] = &[less(
    "kernel_bytes",
    "kernel bytes a connection, both ends",
    "/kernel/held_bytes_per_connection",
)];
pub(crate) const CHURN: &[Metric] = &[
    more("per_second", "connections/s", "/messages_per_second"),
    CPU,
    USER,
    P50,
    P99,
];
pub(crate) const BROADCAST: &[Metric] = &[
    more("per_second", "deliveries/s", "/messages_per_second"),
    CPU,
    USER,
    P50,
    P99,
    ANONYMOUS,
];
pub(crate) const UDP: &[Metric] = &[
    more("per_second", "datagrams/s", "/messages_per_second"),
    CPU,
    USER,
    P50,
    P99,
];
pub(crate) const RELAY: &[Metric] = &[
    more("per_second", "MB/s", "/megabytes_per_second"),
    less("cpu_us", "CPU us/MB", "/server/cpu_us_per_message"),
    USER,
    ANONYMOUS,
];

/// Figures by the key of their metric.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Reads the object that a load printed. Errors and wrong bytes count as a failure, whatever the speed.
pub(crate) fn read(metrics: &[Metric], output: &str) -> Result<Figures> {
    let report: Value = serde_json::from_str(output.trim())
        .map_err(|error| format!("the load printed no JSON object: {error}\n{output}"))?;
    let number = |pointer: &str| {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        value.ok_or_else(|| format!("the load's report has no number at {pointer}: {report}"))
    };
    for pointer in ["/errors", "/mismatched_bytes"] {
        if number(pointer)? != 0.0 {
            return Err(format!("the load reports failures at {pointer}: {report}").into());
        }
    }
    let mut figures = Figures::new();
    for metric in metrics {
        figures.insert(metric.key.to_owned(), number(metric.pointer)?);
    }
    // Whether the load or the server was what is slow: shown beside the figures, never compared.
    for (key, pointer) in [
        ("load_busy", "/client/running_percent"),
        ("unsent", "/unsent"),
        ("lost", "/lost"),
    ] {
        if let Ok(value) = number(pointer) {
            figures.insert(key.to_owned(), value);
        }
    }
    match metrics.first() {
        Some(first) if first.better == Better::More && figures[first.key] <= 0.0 => {
            Err(format!("the load moved nothing: {report}").into())
        }
        _ => Ok(figures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(errors: u32, rate: f64) -> String {
        serde_json::json!({
            "messages_per_second": rate, "errors": errors, "mismatched_bytes": 0,
            "latency_us": { "p50": 1.0, "p99": 2.0, "p999": 3.0 },
            "server": { "cpu_us_per_message": 7.0, "user_us_per_message": 0.5, "rss_bytes": 4096 },
            "client": { "running_percent": 80.0 },
        })
        .to_string()
    }

    #[test]
    fn figures_are_read_by_their_metric() {
        let figures = read(ECHO, &report(0, 5.0)).unwrap();
        assert_eq!(
            (
                figures["per_second"],
                figures["cpu_us"],
                figures["load_busy"]
            ),
            (5.0, 7.0, 80.0)
        );
    }

    #[test]
    fn a_load_with_errors_without_figures_or_without_messages_is_refused() {
        assert!(read(ECHO, &report(1, 5.0)).is_err());
        assert!(read(ECHO, &report(0, 0.0)).is_err());
        assert!(read(IDLE, &report(0, 5.0)).is_err());
        for wrong in ["", "{}", "[]", "{\"errors\": 0}"] {
            assert!(read(ECHO, wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
