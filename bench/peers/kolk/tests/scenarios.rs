//! Each scenario, on each front end and kernel interface.

use peer_check::{Check, Outcome, Peer};

#[track_caller]
fn all_scenarios(arguments: [&str; 4]) {
    let peer = Peer::new(env!("CARGO_BIN_EXE_peer-kolk"), arguments);
    for check in Check::ALL {
        match peer.check(check) {
            Ok(Outcome::Passed) => {}
            other => panic!("{check}: {other:?}"),
        }
    }
}

#[test]
fn the_server_on_io_uring() {
    all_scenarios(["--driver", "io_uring", "--api", "server"]);
}

#[test]
fn the_server_on_epoll() {
    all_scenarios(["--driver", "epoll", "--api", "server"]);
}

#[test]
fn the_watcher_on_io_uring() {
    all_scenarios(["--driver", "io_uring", "--api", "watcher"]);
}

#[test]
fn the_watcher_on_epoll() {
    all_scenarios(["--driver", "epoll", "--api", "watcher"]);
}
