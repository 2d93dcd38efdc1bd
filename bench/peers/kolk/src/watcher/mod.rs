//! The proactor: a loop around `wait` for each scenario.

mod broadcast;
mod echo;
mod relay;
mod udp;

use kolk::Listeners;
use kolk::watcher::Watcher;
use peer_common::{Result, Scenario, announce};

use crate::{Kernel, target, url};

/// Serves until it is killed.
pub(crate) fn serve(kernel: Kernel, scenario: Scenario) -> Result {
    match scenario {
        Scenario::Echo { listen } => start(kernel, &url(&listen), ())?.run(echo::run),
        Scenario::Broadcast { listen, message } => {
            let broadcast = broadcast::Broadcast::new(message);
            start(kernel, &url(&listen), broadcast::LISTENER)?.run(|watcher| broadcast.run(watcher))
        }
        Scenario::Relay { listen, to } => {
            let to = target(to);
            start(kernel, &url(&listen), relay::Context::Listener)?
                .run(|watcher| relay::run(watcher, &to))
        }
        Scenario::Udp { listen } => udp::run(kernel, listen),
    }
}

impl Kernel {
    fn watcher<C: Send + 'static>(self) -> kolk::Result<Watcher<C>> {
        Watcher::builder()
            .driver(self.driver)
            .driver_config(self.sizes)
            .build()
    }
}

/// A watcher that accepts, and what it accepts on.
struct Accepting<C> {
    watcher: Watcher<C>,
    /// Keeps the path of a Unix socket.
    _listeners: Listeners,
}

fn start<C: Clone + Send + 'static>(
    kernel: Kernel,
    address: &str,
    context: C,
) -> Result<Accepting<C>> {
    let mut watcher = kernel.watcher()?;
    let mut listeners = Listeners::bind([address], 1)?;
    for socket in listeners.take(0) {
        let listener = watcher.adopt(socket)?;
        watcher.accept(listener, context.clone())?;
    }
    Ok(Accepting {
        watcher,
        _listeners: listeners,
    })
}

impl<C> Accepting<C> {
    fn run(mut self, scenario: impl FnOnce(&mut Watcher<C>) -> kolk::Result<()>) -> Result {
        announce()?;
        Ok(scenario(&mut self.watcher)?)
    }
}
