//! What may follow the `?` of an address.

use std::net::IpAddr;
use std::time::Duration;

use kolk_engine::socket::{ListenOptions, SocketOptions};

use super::{ParseAddressError, Scheme, error, interface};
use crate::server::limits::{BACKLOG, DATAGRAM_RECEIVE_BUFFER};

/// Options of one address, in the order of the table of [`ListenAddress`](super::ListenAddress).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressOptions {
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
    reuse_address: Option<bool>,
    socket: SocketOptions,
    fast_open: Option<u32>,
    defer_accept: Option<Duration>,
    /// Each with the number of an interface, 0 for any.
    pub(crate) join: Vec<(IpAddr, u32)>,
    pub(crate) segments: bool,
}

impl Default for AddressOptions {
    fn default() -> Self {
        Self {
            backlog: BACKLOG,
            reuse_port: false,
            reuse_address: None,
            socket: SocketOptions::new(),
            fast_open: None,
            defer_accept: None,
            join: Vec::new(),
            segments: true,
        }
    }
}

/// An option and the schemes that have it.
type Known = (&'static str, fn(Scheme) -> bool);

const KNOWN: [Known; 10] = [
    ("backlog", |scheme| !scheme.is_datagram()),
    ("reuseport", |scheme| !scheme.is_unix()),
    ("reuseaddr", |scheme| !scheme.is_unix()),
    ("device", |scheme| !scheme.is_unix()),
    ("sndbuf", |_| true),
    ("rcvbuf", |_| true),
    ("fastopen", |scheme| !scheme.is_unix() && !scheme.is_datagram()),
    ("deferaccept", |scheme| !scheme.is_unix() && !scheme.is_datagram()),
    ("join", |scheme| !scheme.is_unix() && scheme.is_datagram()),
    ("segments", |scheme| !scheme.is_unix() && scheme.is_datagram()),
];

impl AddressOptions {
    pub(super) fn parse(scheme: Scheme, text: &str) -> Result<Self, ParseAddressError> {
        let mut options = Self::default();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, "true"));
            check(scheme, name)?;
            options.set(name, value)?;
        }
        Ok(options)
    }

    /// `name` is known, and of the scheme.
    fn set(&mut self, name: &str, value: &str) -> Result<(), ParseAddressError> {
        let bad = |expected: &str| {
            error(format!("the option {name}={value} is not valid: write {name}={expected}"))
        };
        let yes_or_no = || value.parse().map_err(|_| bad("true or false"));
        let bytes = || value.parse().map_err(|_| bad("BYTES"));
        let socket = std::mem::take(&mut self.socket);
        self.socket = match name {
            "sndbuf" => socket.send_buffer(bytes()?),
            "rcvbuf" => socket.receive_buffer(bytes()?),
            "device" if value.is_empty() => return Err(bad("NAME")),
            "device" => socket.bind_device(value),
            _ => socket,
        };
        match name {
            "backlog" => {
                self.backlog =
                    value.parse().ok().filter(|&backlog| backlog > 0).ok_or_else(|| bad("NUMBER"))?;
            }
            "reuseport" => self.reuse_port = yes_or_no()?,
            "reuseaddr" => self.reuse_address = Some(yes_or_no()?),
            "fastopen" => self.fast_open = Some(value.parse().map_err(|_| bad("NUMBER"))?),
            "deferaccept" => {
                let seconds = value.parse().map_err(|_| bad("SECONDS"))?;
                self.defer_accept = Some(Duration::from_secs(seconds));
            }
            "join" => self.join.push(group(value)?.ok_or_else(|| bad("GROUP, such as 239.1.2.3%eth0"))?),
            "segments" => self.segments = yes_or_no()?,
            _ => {}
        }
        Ok(())
    }

    /// What the engine needs to know to bind; `all` are the options of all addresses.
    pub(crate) fn for_socket(&self, scheme: Scheme, all: &SocketOptions) -> ListenOptions {
        let mut socket = self.socket.clone().or(all);
        if scheme.is_datagram() && !scheme.is_unix() {
            socket = socket.or(&SocketOptions::new().receive_buffer(DATAGRAM_RECEIVE_BUFFER));
        }
        ListenOptions {
            backlog: self.backlog,
            reuse_address: self.reuse_address,
            reuse_port: self.reuse_port,
            only_v6: scheme.only_v6(),
            fast_open: self.fast_open,
            defer_accept: self.defer_accept,
            socket,
        }
    }
}

fn check(scheme: Scheme, name: &str) -> Result<(), ParseAddressError> {
    let Some((_, is_of)) = KNOWN.iter().find(|(known, _)| *known == name) else {
        let known = KNOWN.iter().filter(|(_, is_of)| is_of(scheme)).map(|(known, _)| *known);
        let known = known.collect::<Vec<_>>().join(", ");
        let scheme = scheme.name();
        return Err(error(format!("the option {name:?} is unknown: {scheme} has {known}")));
    };
    if is_of(scheme) {
        return Ok(());
    }
    Err(error(match scheme {
        Scheme::Unix if name == "reuseport" => {
            "reuseport is not for Unix sockets: a path has one listener".into()
        }
        _ => format!("the option {name} is not for {} sockets", scheme.name()),
    }))
}

/// A multicast group and the interface; `None` if it is none.
fn group(text: &str) -> Result<Option<(IpAddr, u32)>, ParseAddressError> {
    let (group, zone) = match text.split_once('%') {
        Some((group, zone)) => (group, interface(zone)?),
        None => (text, 0),
    };
    Ok(group.parse().ok().filter(IpAddr::is_multicast).map(|group| (group, zone)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ListenAddress;

    #[track_caller]
    fn options(text: &str) -> AddressOptions {
        text.parse::<ListenAddress>().unwrap_or_else(|error| panic!("{text}: {error}")).options
    }

    #[track_caller]
    fn refused(text: &str, reason: &str) {
        let error = text.parse::<ListenAddress>().expect_err(text);
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }

    #[test]
    fn r27_an_address_has_options_of_its_own() {
        let parsed = options("tcp://:0?reuseaddr=false&device=lo&sndbuf=1000&fastopen=16&deferaccept=5");
        let asked = parsed.for_socket(Scheme::Tcp, &SocketOptions::new().nodelay(true).send_buffer(9));
        assert_eq!((asked.reuse_address, asked.fast_open), (Some(false), Some(16)));
        assert_eq!(asked.defer_accept, Some(Duration::from_secs(5)));
        let socket = SocketOptions::new().nodelay(true).send_buffer(1000).bind_device("lo");
        assert_eq!(asked.socket, socket);
        refused("tcp://:0?sndbuf=much", "sndbuf=BYTES");
        refused("tcp://:0?deferaccept=soon", "deferaccept=SECONDS");
        refused("tcp://:0?device=", "device=NAME");
        refused("tcp://:0?reuseaddr=perhaps", "true or false");
    }

    #[test]
    fn r21_groups_are_joined_by_option() {
        let joined = options("udp://:0?join=239.1.2.3&join=ff02::1%lo").join;
        assert_eq!(joined, [([239, 1, 2, 3].into(), 0), ("ff02::1".parse().unwrap(), 1)]);
        refused("udp://:0?join=10.0.0.1", "join=GROUP");
        refused("udp://:0?join=239.1.2.3%nowhere", "no network interface");
    }

    #[test]
    fn r01_an_option_of_another_scheme_is_refused() {
        refused("udp://:0?backlog=5", "backlog is not for udp sockets");
        refused("unix:///tmp/a?fastopen=5", "fastopen is not for unix sockets");
        refused("tcp://:0?join=239.1.2.3", "join is not for tcp sockets");
        refused("unixgram:///tmp/a?colour=red", "unixgram has sndbuf, rcvbuf");
    }
}
