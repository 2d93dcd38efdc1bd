//! `kolk doctor`: each finding with its verdict.

mod common;

use common::kolk;

#[test]
fn doctor_examines_every_limit() {
    let text = kolk("doctor").expect_status(0).stdout;
    let names = [
        "kernel",
        "driver",
        "descriptor limit",
        "net.core.somaxconn",
        "source ports",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
        "available memory",
        "memory limit of the cgroup",
        "locked memory",
        "io_uring, feature by feature:",
    ];
    for name in names {
        assert!(text.contains(name), "no {name:?} in {text}");
    }
}

#[test]
fn the_json_gives_a_verdict_for_each_finding() {
    let json = kolk("doctor --json").expect_status(0).json();
    for part in ["system", "io_uring"] {
        let findings = json[part].as_array().expect("a list");
        assert!(!findings.is_empty(), "{part}");
        for finding in findings {
            assert!(finding["name"].is_string() && finding["value"].is_string(), "{finding}");
            assert!(
                ["ok", "limited", "bad"].contains(&finding["verdict"].as_str().expect("a word")),
                "{finding}"
            );
        }
    }
}

#[test]
fn doctor_tells_the_driver_that_the_environment_forces() {
    let finished =
        common::run(std::process::Command::new(common::KOLK).arg("doctor").env("KOLK_DRIVER", "epoll"));
    let text = finished.expect_status(0).stdout;
    assert!(text.contains("KOLK_DRIVER"), "{text}");
    let driver = text.lines().find(|line| line.contains("  driver ")).expect("told");
    assert!(driver.contains("epoll"), "{driver}");
}
