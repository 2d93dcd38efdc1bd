//! Binding: every address of a program, or none.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use kolk_engine::driver::{DriverChoice, Socket};
use kolk_engine::socket::{self, Address, ListenOptions};

use crate::address::{ListenAddress, Scheme};
use crate::error::{Error, Result};
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
    /// `sockets[loop][address]`.
    sockets: Vec<Vec<Socket>>,
    unix_paths: Vec<UnixPath>,
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
        Self::bind_on(addresses, loops, &DriverChoice::Auto)
    }

    /// The same, on the simulated kernel if `driver` says so.
    pub(crate) fn bind_on<T: AsRef<str>>(
        addresses: impl IntoIterator<Item = T>,
        loops: usize,
        driver: &DriverChoice,
    ) -> Result<Self> {
        let mut listeners = Self {
            addresses: Vec::new(),
            sockets: (0..loops.max(1)).map(|_| Vec::new()).collect(),
            unix_paths: Vec::new(),
        };
        for text in addresses {
            let text = text.as_ref();
            let address: ListenAddress = text
                .parse()
                .map_err(|cause| Error::invalid(format!("cannot listen on {text:?}: {cause}")))?;
            listeners
                .add(&address, driver)
                .map_err(|cause| Error::io(format!("cannot bind {address}"), cause.error, &cause.advice))?;
        }
        Ok(listeners)
    }

    /// The addresses in the order in which they were given, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// The sockets of one loop, one for each address; none the second time, or if there is no such loop.
    pub fn take(&mut self, number: usize) -> Vec<impl IntoSocket + use<>> {
        self.sockets.get_mut(number).map(std::mem::take).unwrap_or_default()
    }

    /// The sockets of each loop, and the paths, which go when they are dropped.
    pub(crate) fn into_parts(self) -> (Vec<Vec<Socket>>, Vec<UnixPath>) {
        (self.sockets, self.unix_paths)
    }

    fn add(&mut self, asked: &ListenAddress, driver: &DriverChoice) -> std::result::Result<(), Refusal> {
        let first = match driver {
            DriverChoice::Sim(net) => Socket::from(net.listen(&asked.address)),
            _ => {
                if let Address::Unix(path) = &asked.address {
                    make_way(path)?;
                }
                let share = asked.reuse_port || self.sockets.len() > 1;
                if share && !asked.reuse_port {
                    claim(asked)?;
                }
                Socket::from(open(asked, &asked.address, share)?)
            }
        };
        let bound = first.local_address()?;
        if let Address::Unix(path) = &bound {
            self.unix_paths.push(UnixPath::new(path)?);
        }
        for index in 1..self.sockets.len() {
            let socket = another(asked, &bound, &first)?;
            self.sockets[index].push(socket);
        }
        self.sockets[0].push(first);
        self.addresses.push(asked.with_bound(bound));
        Ok(())
    }
}

/// Makes sure that nobody else listens on a port that our own loops are about to share: with
/// `SO_REUSEPORT`, a second server of the same user would take half of the connections unnoticed.
fn claim(asked: &ListenAddress) -> io::Result<()> {
    if matches!(asked.address.as_inet(), Some(address) if address.port() != 0) {
        drop(open(asked, &asked.address, false)?);
    }
    Ok(())
}

fn open(asked: &ListenAddress, address: &Address, reuse_port: bool) -> io::Result<OwnedFd> {
    let only_v6 = match asked.scheme {
        Scheme::Tcp => Some(false),
        Scheme::Tcp6 => Some(true),
        Scheme::Tcp4 | Scheme::Unix => None,
    };
    let options = ListenOptions { backlog: asked.backlog, reuse_port, only_v6, ..ListenOptions::default() };
    socket::listen(address, &options)
}

/// One more loop's socket of an address: a TCP listener of its own on the same port, or the same Unix
/// listener once more, since a path has only one.
fn another(asked: &ListenAddress, bound: &Address, first: &Socket) -> io::Result<Socket> {
    match (bound, first.as_fd()) {
        (Address::Inet(_), Some(_)) => open(asked, bound, true).map(Socket::from),
        (_, Some(fd)) => fd.try_clone_to_owned().map(Socket::from),
        (_, None) => {
            let message = "the simulated kernel runs one event loop";
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// Removes a socket that a server left behind. Anything else at the path stays and is an error.
fn make_way(path: &Path) -> std::result::Result<(), Refusal> {
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
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::from(io::ErrorKind::AddrInUse).into()),
        // Nobody answers: its server is gone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::from(io::ErrorKind::AddrInUse).into())
        }
        Err(error) => Err(error.into()),
    }
}

impl UnixPath {
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
