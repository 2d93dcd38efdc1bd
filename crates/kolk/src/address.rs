//! Addresses as users write them: `tcp://127.0.0.1:7000`, `unix:///run/app.sock`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use kolk_engine::socket::{self, Address};

use crate::server::limits::BACKLOG;

/// Where to listen, and with which options of its own.
///
/// | form | listens on |
/// |---|---|
/// | `tcp://HOST:PORT` | the address of whichever family HOST has; with no HOST, all IPv6 and IPv4 addresses |
/// | `tcp4://HOST:PORT` | IPv4 only; with no HOST, `0.0.0.0` |
/// | `tcp6://[HOST]:PORT` | IPv6 only (`IPV6_V6ONLY`); with no HOST, `[::]` |
/// | `unix:///PATH` | a Unix stream socket at PATH |
/// | `unix://@NAME` | one in Linux's abstract namespace |
///
/// HOST is an address, `[ADDRESS]` for IPv6, `[ADDRESS%ZONE]` with an interface's name or number, or a
/// name that is looked up once. PORT 0 lets the kernel choose. Options follow a `?`, separated by `&`:
///
/// | option | meaning |
/// |---|---|
/// | `backlog=N` | connections that may wait to be accepted; 4096, clamped by `net.core.somaxconn` |
/// | `reuseport=true` | share the port with other processes that also say so (`SO_REUSEPORT`) |
///
/// # Examples
///
/// ```
/// use kolk::ListenAddress;
///
/// let address: ListenAddress = "tcp://127.0.0.1:7000?backlog=128".parse()?;
/// assert_eq!(address.to_string(), "tcp://127.0.0.1:7000");
///
/// let error = "tcp://127.0.0.1".parse::<ListenAddress>().unwrap_err();
/// assert_eq!(error.to_string(), "the port is missing: write tcp://127.0.0.1:PORT");
/// # Ok::<(), kolk::ParseAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    pub(crate) scheme: Scheme,
    pub(crate) address: Address,
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Tcp,
    Tcp4,
    Tcp6,
    Unix,
}

impl Scheme {
    const ALL: [(&'static str, Self); 4] =
        [("tcp", Self::Tcp), ("tcp4", Self::Tcp4), ("tcp6", Self::Tcp6), ("unix", Self::Unix)];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    fn accepts(self, address: &SocketAddr) -> bool {
        match self {
            Self::Tcp4 => address.is_ipv4(),
            Self::Tcp6 => address.is_ipv6(),
            _ => true,
        }
    }
}

impl ListenAddress {
    /// The same address with the port that the kernel chose.
    pub(crate) fn with_bound(&self, bound: Address) -> Self {
        Self { address: bound, ..self.clone() }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.address)
    }
}

impl From<ListenAddress> for Address {
    fn from(address: ListenAddress) -> Self {
        address.address
    }
}

impl FromStr for ListenAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let (scheme_name, rest) = text.split_once("://").ok_or_else(|| no_scheme(text))?;
        let scheme = Scheme::ALL.iter().find(|(name, _)| *name == scheme_name).map(|(_, scheme)| *scheme);
        let scheme = scheme.ok_or_else(|| unknown_scheme(scheme_name))?;
        let (place, options) = match rest.split_once('?') {
            Some((place, options)) => (place, options),
            None => (rest, ""),
        };
        let address = match scheme {
            Scheme::Unix => unix_address(place)?,
            _ => Address::Inet(inet_address(scheme, place)?),
        };
        let mut parsed = Self { scheme, address, backlog: BACKLOG, reuse_port: false };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            parsed.set_option(option)?;
        }
        Ok(parsed)
    }
}

impl ListenAddress {
    fn set_option(&mut self, option: &str) -> Result<(), ParseAddressError> {
        let (name, value) = option.split_once('=').unwrap_or((option, "true"));
        let bad = |expected: &str| {
            error(format!("the option {name}={value} is not valid: write {name}={expected}"))
        };
        match name {
            "backlog" => {
                self.backlog =
                    value.parse().ok().filter(|&backlog| backlog > 0).ok_or_else(|| bad("NUMBER"))?;
            }
            "reuseport" => {
                if self.scheme == Scheme::Unix {
                    return Err(error("reuseport is not for Unix sockets: a path has one listener".into()));
                }
                self.reuse_port = value.parse().map_err(|_| bad("true or false"))?;
            }
            _ => {
                return Err(error(format!(
                    "the option {name:?} is unknown: there are backlog and reuseport"
                )));
            }
        }
        Ok(())
    }
}

/// Why a text is not an address; says how to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAddressError(String);

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseAddressError {}

fn error(message: String) -> ParseAddressError {
    ParseAddressError(message)
}

fn no_scheme(text: &str) -> ParseAddressError {
    let hint = if text.starts_with('/') { format!("unix://{text}") } else { format!("tcp://{text}") };
    error(format!("the scheme is missing: write {hint}"))
}

fn unknown_scheme(name: &str) -> ParseAddressError {
    error(format!("the scheme {name:?} is unknown: use tcp, tcp4, tcp6 or unix"))
}

fn unix_address(place: &str) -> Result<Address, ParseAddressError> {
    if let Some(name) = place.strip_prefix('@') {
        return match name.len() {
            0 => Err(error("the name is missing: write unix://@NAME".into())),
            1..=socket::UNIX_PATH_MAX => Ok(Address::Abstract(name.as_bytes().into())),
            len => Err(error(too_long("name", len))),
        };
    }
    match place.len() {
        0 => Err(error("the path is missing: write unix:///PATH".into())),
        1..=socket::UNIX_PATH_MAX => Ok(Address::Unix(PathBuf::from(place))),
        len => Err(error(too_long("path", len))),
    }
}

fn too_long(what: &str, len: usize) -> String {
    let max = socket::UNIX_PATH_MAX;
    format!("the {what} has {len} bytes, and a Unix socket takes at most {max}: choose a shorter one")
}

fn inet_address(scheme: Scheme, place: &str) -> Result<SocketAddr, ParseAddressError> {
    let missing_port = || error(format!("the port is missing: write {}://{place}:PORT", scheme.name()));
    // Inside brackets a colon belongs to the address.
    let colon = place.rfind(':').filter(|&colon| place.rfind(']').is_none_or(|bracket| bracket < colon));
    let (host, port) = place.split_at(colon.ok_or_else(missing_port)?);
    let port = &port[1..];
    if port.is_empty() {
        return Err(missing_port());
    }
    let port =
        port.parse::<u16>().map_err(|_| error(format!("the port {port:?} is not a number up to 65535")))?;
    if host.is_empty() {
        return Ok(SocketAddr::new(wildcard(scheme), port));
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6_address(v6, port).and_then(|address| of_family(scheme, address, host));
    }
    if host.contains(':') {
        return Err(error(format!(
            "an IPv6 address stands in brackets: write {}://[{host}]:{port}",
            scheme.name()
        )));
    }
    match host.parse::<IpAddr>() {
        Ok(ip) => of_family(scheme, SocketAddr::new(ip, port), host),
        Err(_) => look_up(scheme, host, port),
    }
}

/// With no host, `tcp` listens for both families through one IPv6 socket.
fn wildcard(scheme: Scheme) -> IpAddr {
    match scheme {
        Scheme::Tcp4 => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn v6_address(text: &str, port: u16) -> Result<SocketAddr, ParseAddressError> {
    let (ip, zone) = match text.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone)),
        None => (text, None),
    };
    let ip = ip.parse::<Ipv6Addr>().map_err(|_| error(format!("[{text}] is not an IPv6 address")))?;
    let scope = match zone {
        None => 0,
        Some(zone) => zone.parse().ok().or_else(|| socket::interface_index(zone)).ok_or_else(|| {
            error(format!("the zone {zone:?} is no network interface: `ip link` lists them"))
        })?,
    };
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

fn of_family(scheme: Scheme, address: SocketAddr, host: &str) -> Result<SocketAddr, ParseAddressError> {
    if scheme.accepts(&address) {
        return Ok(address);
    }
    let (is, other) = if address.is_ipv4() { ("IPv4", "tcp4") } else { ("IPv6", "tcp6") };
    Err(error(format!("{host} is an {is} address: use {other} or tcp, not {}", scheme.name())))
}

fn look_up(scheme: Scheme, host: &str, port: u16) -> Result<SocketAddr, ParseAddressError> {
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|cause| {
            error(format!(
                "the host {host:?} is not known ({cause}): use an address, or a name that resolves"
            ))
        })?
        .find(|address| scheme.accepts(address));
    found.ok_or_else(|| error(format!("the host {host:?} has no address for {}", scheme.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ListenAddress {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[track_caller]
    fn refused(text: &str, reason: &str) {
        let error = text.parse::<ListenAddress>().expect_err(text);
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }

    #[test]
    fn r01_every_scheme_is_understood() {
        for text in [
            "tcp://127.0.0.1:7000",
            "tcp://[::1]:7000",
            "tcp4://127.0.0.1:0",
            "tcp6://[::1]:0",
            "unix:///tmp/kolk.sock",
            "unix://@kolk",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("tcp://:80").to_string(), "tcp://[::]:80");
        assert_eq!(parse("tcp4://:80").to_string(), "tcp4://0.0.0.0:80");
        assert!(parse("tcp://localhost:80").to_string().ends_with(":80"));
    }

    #[test]
    fn r01_zones_are_names_or_numbers() {
        assert_eq!(parse("tcp://[fe80::1%7]:80").to_string(), "tcp://[fe80::1%7]:80");
        let loopback = parse("tcp://[fe80::1%lo]:80");
        assert_eq!(loopback.address, parse("tcp://[fe80::1%1]:80").address);
        refused("tcp://[fe80::1%nowhere]:80", "no network interface");
    }

    #[test]
    fn r01_options_follow_a_question_mark() {
        let address = parse("tcp://127.0.0.1:0?reuseport=true&backlog=16");
        assert_eq!((address.reuse_port, address.backlog), (true, 16));
        assert!(parse("tcp://127.0.0.1:0?reuseport").reuse_port);
        refused("tcp://127.0.0.1:0?backlog=many", "backlog=NUMBER");
        refused("tcp://127.0.0.1:0?backlog=-1", "backlog=NUMBER");
        refused("tcp://127.0.0.1:0?colour=red", "unknown");
        refused("unix:///tmp/a?reuseport=true", "not for Unix sockets");
    }

    #[test]
    fn r01_a_bad_address_says_how_to_write_it() {
        refused("127.0.0.1:7000", "write tcp://127.0.0.1:7000");
        refused("/tmp/kolk.sock", "write unix:///tmp/kolk.sock");
        refused("http://127.0.0.1:80", "the scheme \"http\" is unknown");
        refused("tcp://127.0.0.1", "the port is missing");
        refused("tcp://[::1]", "the port is missing");
        refused("tcp://127.0.0.1:", "the port is missing");
        refused("tcp://127.0.0.1:70000", "not a number up to 65535");
        refused("tcp://::1:80", "stands in brackets");
        refused("tcp4://[::1]:80", "use tcp6");
        refused("tcp6://127.0.0.1:80", "use tcp4");
        refused("tcp://no.such.host.invalid:80", "not known");
        refused("unix://", "the path is missing");
        refused("unix://@", "the name is missing");
        refused(&format!("unix:///{}", "x".repeat(200)), "201 bytes");
    }
}
