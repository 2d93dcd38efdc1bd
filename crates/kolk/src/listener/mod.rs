//! Binding: every address of a program, or none.

mod inherited;

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use kolk_engine::driver::{DriverChoice, Socket};
use kolk_engine::socket::{self, Address, ListenOptions, SocketOptions};
use socket2::SockRef;

use self::inherited::{Group, Groups};
use crate::address::{ListenAddress, Scheme};
use crate::error::{Error, Result};
use crate::inherit::Inherited;
use crate::server::limits::ADDRESSES_MAX;
use crate::watcher::IntoSocket;

/// Listening sockets of several addresses, for each of several loops. Every address is bound, or none.
///
/// A [`Server`](crate::server::Server) makes its own. A program that accepts on
/// [`Watcher`](crate::watcher::Watcher)s gives each of them its sockets: of a TCP address each loop has a listener
/// of its own (`SO_REUSEPORT`), and the kernel spreads the connections; a Unix path has one, which all share.
///
/// A socket that a dead server left behind at a Unix path is replaced; anything else there is an error. Paths
/// are removed when this is dropped, so keep it for as long as the server runs.
///
/// # Examples
///
/// ```
/// use kolk::Listeners;
/// use kolk::watcher::Watcher;
///
/// let mut listeners = Listeners::bind(["tcp://127.0.0.1:0"], 1)?;
/// println!("listening on {}", listeners.addresses()[0]); // with the port that the kernel chose
///
/// let mut watcher = Watcher::<()>::new()?;
/// for socket in listeners.take(0) {
///     let listener = watcher.adopt(socket)?;
///     watcher.accept(listener, ())?;
/// }
/// # Ok::<(), kolk::Error>(())
/// ```
#[derive(Debug)]
pub struct Listeners {
    /// With the ports that the kernel chose.
    addresses: Vec<ListenAddress>,
    /// Of each loop, then of each acceptor.
    sockets: Vec<Vec<Bound>>,
    unix_paths: Vec<UnixPath>,
}

/// One socket of an address.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: Socket,
    /// Index of the address.
    pub(crate) address: u16,
    pub(crate) is_datagram: bool,
    /// The kernel may join datagrams.
    pub(crate) segments: bool,
    /// Options that accepted connections do not have from this listener: Unix sockets pass none on.
    pub(crate) not_passed_on: Option<SocketOptions>,
}

/// What is to be bound, and for whom.
pub(crate) struct Plan<'a> {
    pub(crate) addresses: &'a [String],
    pub(crate) inherited: Vec<Inherited>,
    pub(crate) loops: usize,
    /// Who accepts instead of the loops, if anybody.
    pub(crate) acceptors: usize,
    pub(crate) driver: &'a DriverChoice,
    /// Options of all sockets, where an address has none of its own.
    pub(crate) options: &'a SocketOptions,
}

/// A path that we bound; removed on drop, unless somebody else has put something there meanwhile.
#[derive(Debug)]
pub(crate) struct UnixPath {
    path: PathBuf,
    inode: u64,
}

impl Listeners {
    /// Binds every address, in the forms of [`ListenAddress`], for `loops` loops.
    ///
    /// # Errors
    ///
    /// An address that is malformed or cannot be bound, with its name and what to do. Nothing stays bound then.
    pub fn bind<T: AsRef<str>>(addresses: impl IntoIterator<Item = T>, loops: usize) -> Result<Self> {
        let addresses: Vec<_> = addresses.into_iter().map(|text| text.as_ref().to_owned()).collect();
        Self::bind_as(Plan {
            addresses: &addresses,
            inherited: Vec::new(),
            loops: loops.max(1),
            acceptors: 0,
            driver: &DriverChoice::Auto,
            options: &SocketOptions::new(),
        })
    }

    pub(crate) fn bind_as(plan: Plan<'_>) -> Result<Self> {
        let mut listeners = Self {
            addresses: Vec::new(),
            sockets: (0..plan.loops + plan.acceptors).map(|_| Vec::new()).collect(),
            unix_paths: Vec::new(),
        };
        let mut inherited = Groups::of(plan.inherited)?;
        let range = |is_datagram| {
            let first = if is_datagram || plan.acceptors == 0 { 0 } else { plan.loops };
            first..if first == 0 { plan.loops } else { plan.loops + plan.acceptors }
        };
        for text in plan.addresses {
            let asked: ListenAddress = text
                .parse()
                .map_err(|cause| Error::invalid(format!("cannot listen on {text:?}: {cause}")))?;
            let range = range(asked.scheme.is_datagram());
            match inherited.take(&asked) {
                Some(group) => listeners.share_out(group, range, plan.options)?,
                None => listeners
                    .add(&asked, range, plan.driver, plan.options)
                    .map_err(|cause| Error::io(format!("cannot bind {asked}"), cause.error, &cause.advice))?,
            }
        }
        for group in inherited.rest() {
            let range = range(group.address.scheme.is_datagram());
            listeners.share_out(group, range, plan.options)?;
        }
        if listeners.addresses.len() > ADDRESSES_MAX {
            let count = listeners.addresses.len();
            return Err(Error::invalid(format!("{count} addresses are too many: at most {ADDRESSES_MAX}")));
        }
        Ok(listeners)
    }

    /// The addresses in the order in which they were given, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// The sockets of one loop, one for each address, but none of a Unix datagram socket and of multicast
    /// groups that another loop has; none the second time, or if there is no such loop.
    pub fn take(&mut self, number: usize) -> Vec<impl IntoSocket + use<>> {
        let bound = self.sockets.get_mut(number).map(std::mem::take).unwrap_or_default();
        bound.into_iter().map(|bound| bound.socket).collect()
    }

    /// The sockets of each loop and of each acceptor, and the paths, which go when they are dropped.
    pub(crate) fn into_parts(self) -> (Vec<Vec<Bound>>, Vec<UnixPath>) {
        (self.sockets, self.unix_paths)
    }

    fn add(
        &mut self,
        asked: &ListenAddress,
        range: Range<usize>,
        driver: &DriverChoice,
        all: &SocketOptions,
    ) -> std::result::Result<(), Refusal> {
        let mut options = asked.options.for_socket(asked.scheme, all);
        let lonely = range.len() == 1 || !can_be_shared_out(asked);
        let first = match driver {
            DriverChoice::Sim(net) if asked.scheme.is_datagram() => {
                Socket::from(net.datagram(&asked.address))
            }
            DriverChoice::Sim(net) => Socket::from(net.listen(&asked.address)),
            _ => {
                if let Address::Unix(path) = &asked.address {
                    make_way(path, asked.scheme)?;
                }
                if !lonely && !options.reuse_port && !asked.scheme.is_unix() {
                    claim(asked, &options)?;
                    options.reuse_port = true;
                }
                Socket::from(open(asked, &asked.address, &options)?)
            }
        };
        let bound = first.local_address()?;
        if let Address::Unix(path) = &bound {
            self.unix_paths.push(UnixPath::new(path)?);
        }
        let number = self.number_of(asked.with_bound(bound.clone()));
        // Each address that one loop has alone begins with another one.
        let home = range.start + usize::from(number) % range.len();
        for index in range {
            if index != home && !lonely {
                let socket = another(asked, &bound, &first, &options)?;
                self.sockets[index].push(Bound::new(socket, asked, number, &options.socket));
            }
        }
        self.sockets[home].push(Bound::new(first, asked, number, &options.socket));
        Ok(())
    }

    /// Gives inherited sockets of one address to loops, each at least one where that is possible.
    fn share_out(&mut self, group: Group, range: Range<usize>, all: &SocketOptions) -> Result<()> {
        let Group { address, sockets, owns_path } = group;
        let failed = |error| Error::io(format!("cannot take over {address}"), error, "");
        if let (true, Address::Unix(path)) = (owns_path, &address.address) {
            self.unix_paths.push(UnixPath::new(path).map_err(failed)?);
        }
        let options = address.options.for_socket(address.scheme, all).socket;
        for fd in sockets.iter().filter_map(Socket::as_fd) {
            options.set_on(&fd).map_err(failed)?;
        }
        let number = self.number_of(address.clone());
        let missing = if can_be_shared_out(&address) { range.len().saturating_sub(sockets.len()) } else { 0 };
        let mut sockets = sockets;
        for _ in 0..missing {
            let socket = one_more(&address, &sockets[0]).map_err(failed)?;
            sockets.push(socket);
        }
        let home = usize::from(number) % range.len();
        for (index, socket) in sockets.into_iter().enumerate() {
            let index = range.start + (home + index) % range.len();
            self.sockets[index].push(Bound::new(socket, &address, number, &options));
        }
        Ok(())
    }

    fn number_of(&mut self, address: ListenAddress) -> u16 {
        self.addresses.push(address);
        (self.addresses.len() - 1) as u16
    }
}

impl Bound {
    fn new(socket: Socket, address: &ListenAddress, number: u16, options: &SocketOptions) -> Self {
        let passes_nothing_on = address.scheme == Scheme::Unix && options.has_buffers();
        Self {
            not_passed_on: passes_nothing_on.then(|| options.clone()),
            socket,
            address: number,
            is_datagram: address.scheme.is_datagram(),
            segments: address.options.segments && !address.scheme.is_unix(),
        }
    }
}

/// Whether several loops may each have a socket of an address. Of a Unix datagram socket there is one, and of
/// several members of a multicast group each would receive everything.
fn can_be_shared_out(address: &ListenAddress) -> bool {
    address.scheme != Scheme::Unixgram && address.options.join.is_empty()
}

/// Makes sure that nobody else has a port that our own loops are about to share: with `SO_REUSEPORT`, a
/// second server of the same user would take half of the connections unnoticed.
fn claim(asked: &ListenAddress, options: &ListenOptions) -> io::Result<()> {
    if matches!(asked.address.as_inet(), Some(address) if address.port() != 0) {
        drop(open(asked, &asked.address, options)?);
    }
    Ok(())
}

fn open(asked: &ListenAddress, address: &Address, options: &ListenOptions) -> io::Result<OwnedFd> {
    if !asked.scheme.is_datagram() {
        return socket::listen(address, options);
    }
    let socket = socket::bind_datagram(address, options)?;
    for &(group, interface) in &asked.options.join {
        socket::join_multicast(socket.as_fd(), group, interface).map_err(|error| {
            io::Error::new(error.kind(), format!("the multicast group {group} cannot be joined: {error}"))
        })?;
    }
    Ok(socket)
}

/// One more loop's socket of an address: a TCP or UDP socket of its own on the same port, or the same Unix
/// listener once more, since a path has only one.
fn another(
    asked: &ListenAddress,
    bound: &Address,
    first: &Socket,
    options: &ListenOptions,
) -> io::Result<Socket> {
    match (bound, first.as_fd()) {
        (Address::Inet(_), Some(_)) => open(asked, bound, options).map(Socket::from),
        (_, Some(fd)) => fd.try_clone_to_owned().map(Socket::from),
        (_, None) => {
            let message = "the simulated kernel runs one event loop";
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// The same for an inherited one: a socket of its own only where the first was made to share its port.
fn one_more(address: &ListenAddress, first: &Socket) -> io::Result<Socket> {
    let Some(fd) = first.as_fd() else {
        return another(address, &address.address, first, &ListenOptions::default());
    };
    if !address.scheme.is_unix() && SockRef::from(&fd).reuse_port()? {
        let options = ListenOptions {
            reuse_port: true,
            ..address.options.for_socket(address.scheme, &SocketOptions::new())
        };
        return open(address, &address.address, &options).map(Socket::from);
    }
    fd.try_clone_to_owned().map(Socket::from)
}

/// Removes a socket that a server left behind. Anything else at the path stays and is an error.
fn make_way(path: &Path, scheme: Scheme) -> std::result::Result<(), Refusal> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(Refusal {
            error: io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"),
            advice: "it is not touched: remove it yourself or choose another path".into(),
        });
    }
    let answer = match scheme {
        Scheme::Unixgram => UnixDatagram::unbound().and_then(|socket| socket.connect(path)),
        _ => UnixStream::connect(path).map(drop),
    };
    match answer {
        // Nobody answers: its server is gone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        // A socket of the other kind answers as well, by not being what was asked for.
        Ok(()) => Err(io::Error::from(io::ErrorKind::AddrInUse).into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_of_other_kind(&error) => {
            Err(io::Error::from(io::ErrorKind::AddrInUse).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// `EPROTOTYPE` of connect(2).
fn is_of_other_kind(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error())
}

impl UnixPath {
    /// Somebody else has the socket and goes on: the path stays.
    pub(crate) fn keep(mut self) {
        self.inode = 0;
    }

    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() })
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why an address could not be bound, and what to do.
struct Refusal {
    error: io::Error,
    advice: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "stop the program that has it, `ss -ltnpx` shows which, or choose another address"
            }
            io::ErrorKind::AddrNotAvailable => {
                "`ip address` lists what is; 0.0.0.0 and [::] mean all of them"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE, a Unix path needs write access to its directory"
            }
            io::ErrorKind::NotFound => "the directory of the path does not exist: make it first",
            _ => "",
        };
        Self { error, advice: advice.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_somebody_replaced_is_not_removed() {
        let path = std::env::temp_dir().join(format!("kolk-replaced-{}", std::process::id()));
        fs::write(&path, "first").expect("the temporary directory is writable");
        let bound = UnixPath::new(&path).expect("it was just made");
        fs::rename(&path, path.with_extension("kept")).expect("the same directory");
        fs::write(&path, "second").expect("the temporary directory is writable");
        drop(bound);
        assert!(path.exists());
        fs::remove_file(&path).expect("it exists");
        fs::remove_file(path.with_extension("kept")).expect("it exists");
    }
}
