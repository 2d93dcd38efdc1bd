//! Where sockets are.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr};

/// Where a socket is bound or connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 or IPv6 address and port.
    Inet(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
    /// A name in Linux's abstract namespace, without its leading zero byte.
    Abstract(Box<[u8]>),
    /// A Unix socket that was never bound.
    Unnamed,
}

impl Address {
    /// The IP address and port, unless it is a Unix address.
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }

    pub(super) fn domain(&self) -> Domain {
        match self {
            Self::Inet(address) => Domain::for_address(*address),
            _ => Domain::UNIX,
        }
    }

    /// The kernel's form of the address.
    pub(crate) fn to_sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Inet(address) => Ok((*address).into()),
            Self::Unix(path) => unix_sock_addr(path),
            Self::Abstract(name) => {
                let mut bytes = vec![0];
                bytes.extend_from_slice(name);
                SockAddr::unix(OsStr::from_bytes(&bytes))
            }
            Self::Unnamed => Err(io::Error::new(io::ErrorKind::InvalidInput, "the address has no name")),
        }
    }

    pub(crate) fn from_sock_addr(address: &SockAddr) -> Self {
        if let Some(inet) = address.as_socket() {
            Self::Inet(inet)
        } else if let Some(path) = address.as_pathname() {
            Self::Unix(path.to_owned())
        } else if let Some(name) = address.as_abstract_namespace() {
            Self::Abstract(name.into())
        } else {
            Self::Unnamed
        }
    }
}

fn unix_sock_addr(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|_| {
        let len = path.as_os_str().len();
        let message =
            format!("the path has {len} bytes; a Unix socket address takes at most {UNIX_PATH_MAX}");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// Longest path of a Unix socket in bytes: `sun_path` less its closing zero, unix(7).
pub const UNIX_PATH_MAX: usize = 107;

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Self::Unnamed => f.write_str("(unnamed)"),
        }
    }
}

/// The number of a network interface, if_nametoindex(3); `None` if there is none of that name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a string that ends in a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
