//! Addresses as users write them: `tcp://127.0.0.1:7000`, `udp://:5353`, `unix:///run/app.sock`.

mod options;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use kolk_engine::socket::{self, Address};

pub(crate) use options::AddressOptions;

/// Where to listen, and with which options of its own.
///
/// | form | listens on |
/// |---|---|
/// | `tcp://HOST:PORT` | the address of whichever family HOST has; with no HOST, all IPv6 and IPv4 addresses |
/// | `tcp4://HOST:PORT` | IPv4 only; with no HOST, `0.0.0.0` |
/// | `tcp6://[HOST]:PORT` | IPv6 only (`IPV6_V6ONLY`); with no HOST, `[::]` |
/// | `udp://HOST:PORT`, `udp4://`, `udp6://` | datagrams, likewise |
/// | `unix:///PATH` | a Unix stream socket at PATH |
/// | `unixgram:///PATH` | a Unix datagram socket at PATH |
/// | `unix://@NAME`, `unixgram://@NAME` | one in Linux's abstract namespace |
///
/// HOST is an address, `[ADDRESS]` for IPv6, `[ADDRESS%ZONE]` with an interface's name or number, or a
/// name that is looked up once. PORT 0 lets the kernel choose. Options follow a `?`, separated by `&`:
///
/// | option | of | meaning |
/// |---|---|---|
/// | `backlog=N` | tcp, unix | connections that may wait to be accepted; 4096, clamped by `net.core.somaxconn` |
/// | `reuseport=true` | tcp, udp | share the port with other processes that also say so (`SO_REUSEPORT`) |
/// | `reuseaddr=false` | tcp, udp | for tcp, wait until no connection of an earlier server lingers there; for udp, `true` shares the port with other receivers of a multicast group (`SO_REUSEADDR`) |
/// | `device=NAME` | tcp, udp | only what comes by this network interface (`SO_BINDTODEVICE`) |
/// | `sndbuf=BYTES`, `rcvbuf=BYTES` | all | what the kernel keeps for each connection, or for the datagram socket |
/// | `fastopen=N` | tcp | so many connections may bring their first bytes with the SYN (`TCP_FASTOPEN`) |
/// | `deferaccept=SECONDS` | tcp | a connection is accepted once it has said something, or after this time (`TCP_DEFER_ACCEPT`) |
/// | `join=GROUP`, `join=GROUP%INTERFACE` | udp | receive what is sent to this multicast group; more than once for more groups |
/// | `segments=false` | udp | do not let the kernel join datagrams on their way (`UDP_GRO`, `UDP_SEGMENT`) |
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
    pub(crate) options: AddressOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Tcp,
    Tcp4,
    Tcp6,
    Udp,
    Udp4,
    Udp6,
    Unix,
    Unixgram,
}

impl Scheme {
    const ALL: [(&'static str, Self); 8] = [
        ("tcp", Self::Tcp),
        ("tcp4", Self::Tcp4),
        ("tcp6", Self::Tcp6),
        ("udp", Self::Udp),
        ("udp4", Self::Udp4),
        ("udp6", Self::Udp6),
        ("unix", Self::Unix),
        ("unixgram", Self::Unixgram),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    pub(crate) fn is_datagram(self) -> bool {
        matches!(self, Self::Udp | Self::Udp4 | Self::Udp6 | Self::Unixgram)
    }

    pub(crate) fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::Unixgram)
    }

    /// Whether an IPv6 socket takes IPv6 only; `None` where there is none.
    pub(crate) fn only_v6(self) -> Option<bool> {
        match self {
            Self::Tcp | Self::Udp => Some(false),
            Self::Tcp6 | Self::Udp6 => Some(true),
            _ => None,
        }
    }

    /// The scheme that says the same for any family.
    fn of_any_family(self) -> &'static str {
        if self.is_datagram() { "udp" } else { "tcp" }
    }

    fn accepts(self, address: &SocketAddr) -> bool {
        match self {
            Self::Tcp4 | Self::Udp4 => address.is_ipv4(),
            Self::Tcp6 | Self::Udp6 => address.is_ipv6(),
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
            Scheme::Unix | Scheme::Unixgram => unix_address(scheme, place)?,
            _ => Address::Inet(inet_address(scheme, place)?),
        };
        let options = AddressOptions::parse(scheme, options)?;
        Ok(Self { scheme, address, options })
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
    error(format!("the scheme {name:?} is unknown: use tcp, tcp4, tcp6, udp, udp4, udp6, unix or unixgram"))
}

fn unix_address(scheme: Scheme, place: &str) -> Result<Address, ParseAddressError> {
    let scheme = scheme.name();
    if let Some(name) = place.strip_prefix('@') {
        return match name.len() {
            0 => Err(error(format!("the name is missing: write {scheme}://@NAME"))),
            1..=socket::UNIX_PATH_MAX => Ok(Address::Abstract(name.as_bytes().into())),
            len => Err(error(too_long("name", len))),
        };
    }
    match place.len() {
        0 => Err(error(format!("the path is missing: write {scheme}:///PATH"))),
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

/// With no host, `tcp` and `udp` listen for both families through one IPv6 socket.
fn wildcard(scheme: Scheme) -> IpAddr {
    match scheme {
        Scheme::Tcp4 | Scheme::Udp4 => Ipv4Addr::UNSPECIFIED.into(),
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
        Some(zone) => interface(zone)?,
    };
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// The number of a network interface, given by name or number.
fn interface(zone: &str) -> Result<u32, ParseAddressError> {
    zone.parse()
        .ok()
        .or_else(|| socket::interface_index(zone))
        .ok_or_else(|| error(format!("the zone {zone:?} is no network interface: `ip link` lists them")))
}

fn of_family(scheme: Scheme, address: SocketAddr, host: &str) -> Result<SocketAddr, ParseAddressError> {
    if scheme.accepts(&address) {
        return Ok(address);
    }
    let (is, number) = if address.is_ipv4() { ("IPv4", 4) } else { ("IPv6", 6) };
    let any = scheme.of_any_family();
    Err(error(format!("{host} is an {is} address: use {any}{number} or {any}, not {}", scheme.name())))
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
            "udp://127.0.0.1:7000",
            "udp4://127.0.0.1:0",
            "udp6://[::1]:0",
            "unixgram:///tmp/kolk.sock",
            "unixgram://@kolk",
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
        assert_eq!((address.options.reuse_port, address.options.backlog), (true, 16));
        assert!(parse("tcp://127.0.0.1:0?reuseport").options.reuse_port);
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
        refused("udp6://127.0.0.1:80", "use udp4 or udp, not udp6");
        refused("unixgram://", "write unixgram:///PATH");
        refused("tcp6://127.0.0.1:80", "use tcp4");
        refused("tcp://no.such.host.invalid:80", "not known");
        refused("unix://", "the path is missing");
        refused("unix://@", "the name is missing");
        refused(&format!("unix:///{}", "x".repeat(200)), "201 bytes");
    }
}
