//! `peer-check [NAME...]`: checks the peers that lie beside this program, or those that are named.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use peer_check::{Check, Outcome, Peer};

/// All peers, and the arguments that tell kolk's from each other.
const PEERS: [(&str, &[&str]); 13] = [
    ("peer-tokio", &[]),
    ("peer-monoio", &[]),
    ("peer-compio", &[]),
    ("peer-mio", &[]),
    ("peer-may", &[]),
    ("peer-smol", &[]),
    ("peer-glommio", &[]),
    ("peer-libuv", &[]),
    ("peer-libevent", &[]),
    ("peer-kolk", &["--driver", "io_uring", "--api", "server"]),
    ("peer-kolk", &["--driver", "epoll", "--api", "server"]),
    ("peer-kolk", &["--driver", "io_uring", "--api", "watcher"]),
    ("peer-kolk", &["--driver", "epoll", "--api", "watcher"]),
];

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let unknown = named
        .iter()
        .find(|name| PEERS.iter().all(|(peer, _)| peer != name));
    if let Some(unknown) = unknown {
        eprintln!("peer-check: there is no {unknown}; usage: peer-check [peer-NAME...]");
        return ExitCode::from(2);
    }
    let Ok(own) = std::env::current_exe() else {
        eprintln!("peer-check: cannot tell where it lies itself");
        return ExitCode::from(2);
    };
    let folder = own.parent().unwrap_or(Path::new("."));
    let (mut passed, mut failed) = (0, 0);
    for (name, arguments) in PEERS {
        if !named.is_empty() && !named.iter().any(|each| each == name) {
            continue;
        }
        let peer = Peer::new(folder.join(name), arguments.iter().copied());
        let label = [&[name], arguments].concat().join(" ");
        if !peer.is_built() {
            println!("{label}: not built (peers/build says why)");
            // Whoever asks for it by name expects it.
            failed += usize::from(!named.is_empty());
            continue;
        }
        for check in Check::ALL {
            match peer.check(check) {
                Ok(Outcome::Passed) => {
                    passed += 1;
                    println!("{label}: {check}: ok");
                }
                Ok(Outcome::Unsupported(why)) => println!("{label}: {check}: unsupported: {why}"),
                Err(error) => {
                    failed += 1;
                    println!("{label}: {check}: FAILED: {error}");
                }
            }
        }
    }
    println!("{passed} checks passed, {failed} failed");
    if failed > 0 || passed == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
