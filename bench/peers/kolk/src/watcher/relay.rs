//! The watcher copies by itself: kolk's example `watcher_relay`.

use kolk::watcher::{Completions, Operation, Watcher};
use kolk::{Address, ConnId};

/// What an operation is for.
#[derive(Clone, Copy)]
pub(super) enum Context {
    Listener,
    /// Who connected to us, and whom we connected it to.
    Pair(ConnId, ConnId),
}

pub(super) fn run(watcher: &mut Watcher<Context>, to: &Address) -> kolk::Result<()> {
    let mut completions = Completions::default();
    loop {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            match (done.operation, done.context) {
                (Operation::Accept, _) => {
                    if let Some(client) = done.accepted() {
                        begin(watcher, client, to)?;
                    }
                }
                (Operation::Relay, Context::Pair(client, server)) => {
                    watcher.free(client);
                    watcher.free(server);
                }
                _ => {}
            }
        }
    }
}

/// Connects to the target; the relay waits for that, and ends if it fails.
fn begin(watcher: &mut Watcher<Context>, client: ConnId, to: &Address) -> kolk::Result<()> {
    let server = watcher.connect(to.clone(), Context::Listener)?;
    if watcher
        .relay(client, server, Context::Pair(client, server))
        .is_err()
    {
        watcher.free(client); // the target refused at once
    }
    Ok(())
}
