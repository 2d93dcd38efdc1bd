//! Options of sockets: what a program may ask the kernel for.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, SockRef, TcpKeepalive, Type};

use super::ListenOptions;
use crate::sys::syscall;

/// Options of connections, and of the datagram sockets of a server.
///
/// What is not asked for stays as the system has it. What a kind of socket does not have is passed over: no
/// Unix socket has TCP's options, and no UDP socket either.
///
/// | option | kernel | applies to |
/// |---|---|---|
/// | [`nodelay`](Self::nodelay) | `TCP_NODELAY`, tcp(7) | TCP |
/// | [`keepalive`](Self::keepalive) | `SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT` | TCP |
/// | [`user_timeout`](Self::user_timeout) | `TCP_USER_TIMEOUT` | TCP |
/// | [`congestion_control`](Self::congestion_control) | `TCP_CONGESTION` | TCP |
/// | [`fast_open`](Self::fast_open) | `TCP_FASTOPEN_CONNECT` | TCP, outbound |
/// | [`linger`](Self::linger) | `SO_LINGER`, socket(7) | TCP |
/// | [`send_buffer`](Self::send_buffer), [`receive_buffer`](Self::receive_buffer) | `SO_SNDBUF`, `SO_RCVBUF` | all |
/// | [`reuse_address`](Self::reuse_address) | `SO_REUSEADDR` | outbound |
/// | [`bind_device`](Self::bind_device) | `SO_BINDTODEVICE` | TCP, UDP |
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use kolk_engine::socket::{Keepalive, SocketOptions};
///
/// let options = SocketOptions::new()
///     .keepalive(Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 3 })
///     .user_timeout(Duration::from_secs(30))
///     .receive_buffer(1 << 20);
///
/// let stream = std::net::TcpListener::bind("127.0.0.1:0")?;
/// options.set_on(&stream)?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    nodelay: Option<bool>,
    keepalive: Option<Keepalive>,
    user_timeout: Option<Duration>,
    congestion_control: Option<String>,
    fast_open: bool,
    linger: Option<Duration>,
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
    reuse_address: bool,
    bind_device: Option<String>,
}

/// When the kernel asks a silent peer whether it still lives. Whole seconds, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first question.
    pub idle: Duration,
    /// Pause between two questions.
    pub interval: Duration,
    /// Unanswered questions after which the connection fails; at least 1, at most 127.
    pub count: u32,
}

impl SocketOptions {
    /// No option: everything stays as the system has it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether small segments are sent at once instead of being gathered.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = Some(on);
        self
    }

    /// Ask silent peers whether they still live.
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = Some(keepalive);
        self
    }

    /// How long sent bytes may stay unacknowledged before the connection fails; whole milliseconds.
    pub fn user_timeout(mut self, timeout: Duration) -> Self {
        self.user_timeout = Some(timeout);
        self
    }

    /// The algorithm that decides how fast to send, such as `bbr`; `sysctl
    /// net.ipv4.tcp_available_congestion_control` lists what this machine has.
    pub fn congestion_control(mut self, name: impl Into<String>) -> Self {
        self.congestion_control = Some(name.into());
        self
    }

    /// Whether what is written before an outbound connection is made may go with its first packet, if the peer
    /// has allowed that on an earlier connection. The connection then begins with the first write, so this is
    /// for protocols in which we speak first. For accepted ones see [`ListenOptions::fast_open`].
    pub fn fast_open(mut self, on: bool) -> Self {
        self.fast_open = on;
        self
    }

    /// What a close does with bytes that the peer has not acknowledged: `ZERO` drops them and resets the
    /// connection. Longer ones make the close itself wait, and with it everybody on the same event loop,
    /// so they are for programs with few connections; whole seconds, rounded up.
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = Some(time);
        self
    }

    /// Bytes that the kernel keeps of what is to be sent. It takes the double for its own needs, and at most
    /// `net.core.wmem_max`.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// Bytes that the kernel keeps of what has arrived. It takes the double for its own needs, and at most
    /// `net.core.rmem_max`, unless the process has `CAP_NET_ADMIN`.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Whether an outbound connection may use a local address on which earlier ones linger. Listeners do so
    /// by default, see [`ListenOptions::reuse_address`].
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = on;
        self
    }

    /// The network interface that the socket is confined to, such as `eth0`.
    pub fn bind_device(mut self, name: impl Into<String>) -> Self {
        self.bind_device = Some(name.into());
        self
    }

    /// These options, and where they say nothing those of `other`.
    pub fn or(self, other: &Self) -> Self {
        Self {
            nodelay: self.nodelay.or(other.nodelay),
            keepalive: self.keepalive.or(other.keepalive),
            user_timeout: self.user_timeout.or(other.user_timeout),
            congestion_control: self.congestion_control.or_else(|| other.congestion_control.clone()),
            fast_open: self.fast_open || other.fast_open,
            linger: self.linger.or(other.linger),
            send_buffer: self.send_buffer.or(other.send_buffer),
            receive_buffer: self.receive_buffer.or(other.receive_buffer),
            reuse_address: self.reuse_address || other.reuse_address,
            bind_device: self.bind_device.or_else(|| other.bind_device.clone()),
        }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the size of a buffer is asked for.
    pub fn has_buffers(&self) -> bool {
        self.send_buffer.or(self.receive_buffer).is_some()
    }

    /// Sets what is asked for on any socket.
    ///
    /// # Errors
    ///
    /// The first option that the kernel refuses, with its name and value.
    pub fn set_on(&self, socket: &impl AsFd) -> io::Result<()> {
        self.apply(SockRef::from(socket))
    }

    /// The same for a connection that is about to be made.
    pub(crate) fn set_for_connect(&self, socket: &impl AsFd) -> io::Result<()> {
        let fd = socket.as_fd();
        if self.reuse_address {
            named("reuse_address", true, SockRef::from(&fd).set_reuse_address(true))?;
        }
        if self.fast_open && is_tcp(&SockRef::from(&fd)) {
            let set = set_int(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
            named("fast_open", true, set)?;
        }
        self.apply(SockRef::from(&fd))
    }

    pub(super) fn apply(&self, socket: SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.send_buffer {
            named("send_buffer", bytes, socket.set_send_buffer_size(bytes))?;
        }
        if let Some(bytes) = self.receive_buffer {
            named("receive_buffer", bytes, set_receive_buffer(&socket, bytes))?;
        }
        if is_inet(&socket)
            && let Some(device) = &self.bind_device
        {
            named("bind_device", device, socket.bind_device(Some(device.as_bytes())))?;
        }
        if is_tcp(&socket) { self.apply_tcp(&socket) } else { Ok(()) }
    }

    fn apply_tcp(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(on) = self.nodelay {
            named("nodelay", on, socket.set_tcp_nodelay(on))?;
        }
        if let Some(keepalive) = self.keepalive {
            let parameters = TcpKeepalive::new()
                .with_time(whole_seconds(keepalive.idle))
                .with_interval(whole_seconds(keepalive.interval))
                .with_retries(keepalive.count);
            named("keepalive", format_args!("{keepalive:?}"), socket.set_tcp_keepalive(&parameters))?;
        }
        if let Some(timeout) = self.user_timeout {
            let set = socket.set_tcp_user_timeout(Some(timeout));
            named("user_timeout", format_args!("{timeout:?}"), set)?;
        }
        if let Some(name) = &self.congestion_control {
            named("congestion_control", name, socket.set_tcp_congestion(name.as_bytes()))?;
        }
        if let Some(time) = self.linger {
            let set = socket.set_linger(Some(if time.is_zero() { time } else { whole_seconds(time) }));
            named("linger", format_args!("{time:?}"), set)?;
        }
        Ok(())
    }
}

impl ListenOptions {
    /// What only a listener has.
    pub(super) fn set_for_listener(&self, socket: &socket2::Socket) -> io::Result<()> {
        if let Some(queue) = self.fast_open {
            let queue = queue.min(i32::MAX as u32) as i32;
            named("fast_open", queue, set_int(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue))?;
        }
        if let Some(time) = self.defer_accept {
            let seconds = whole_seconds(time).as_secs().min(i32::MAX as u64) as i32;
            let set = set_int(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds);
            named("defer_accept", seconds, set)?;
        }
        Ok(())
    }
}

/// An option whose value is one int, setsockopt(2).
pub(super) fn set_int(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `value` is one readable int, as the length says.
    unsafe { syscall!(setsockopt(fd, level, name, (&raw const value).cast(), len)) }.map(drop)
}

/// Beyond the system's limit where the process may go there, else up to it.
fn set_receive_buffer(socket: &SockRef<'_>, bytes: usize) -> io::Result<()> {
    let value = bytes.min(i32::MAX as usize) as i32;
    match set_int(&borrowed(socket), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value) {
        Err(_) => socket.set_recv_buffer_size(bytes),
        set => set,
    }
}

fn borrowed<'a>(socket: &'a SockRef<'_>) -> BorrowedFd<'a> {
    (**socket).as_fd()
}

fn is_inet(socket: &SockRef<'_>) -> bool {
    socket.domain().is_ok_and(|domain| domain == Domain::IPV4 || domain == Domain::IPV6)
}

fn is_tcp(socket: &SockRef<'_>) -> bool {
    is_inet(socket) && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
}

/// Rounded up: a second less would be more impatient than was asked for, and none is refused.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(Duration::from_secs(1))
}

/// Says which option it was that failed.
fn named(option: &str, value: impl fmt::Display, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| {
        io::Error::new(error.kind(), format!("the socket option {option}={value} is refused: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::socket::{Address, ListenOptions, listen};

    fn everything() -> SocketOptions {
        let keepalive =
            Keepalive { idle: Duration::from_secs(61), interval: Duration::from_millis(6500), count: 4 };
        SocketOptions::new()
            .nodelay(true)
            .keepalive(keepalive)
            .user_timeout(Duration::from_millis(12_345))
            .congestion_control("reno")
            .linger(Duration::ZERO)
            .send_buffer(50_000)
            .receive_buffer(60_000)
    }

    #[track_caller]
    fn has_everything(socket: SockRef<'_>) {
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(61));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(12_345)));
        assert_eq!(&socket.tcp_congestion().unwrap()[..4], b"reno");
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        assert_eq!(socket.send_buffer_size().unwrap(), 100_000);
        assert_eq!(socket.recv_buffer_size().unwrap(), 120_000);
    }

    #[test]
    fn r27_accepted_connections_have_what_the_listener_has() {
        let options = ListenOptions { socket: everything(), ..ListenOptions::default() };
        let address = Address::Inet(([127, 0, 0, 1], 0).into());
        let listener = TcpListener::from(listen(&address, &options).expect("loopback has ports"));
        has_everything(SockRef::from(&listener));
        let _client = TcpStream::connect(listener.local_addr().unwrap()).expect("it listens");
        listener.set_nonblocking(false).unwrap();
        has_everything(SockRef::from(&listener.accept().expect("a client").0));
    }

    #[test]
    fn r27_a_kind_of_socket_passes_over_what_it_has_not() {
        let options = everything();
        options.set_on(&UdpSocket::bind("127.0.0.1:0").unwrap()).expect("buffers only");
        let (here, _there) = UnixDatagram::pair().unwrap();
        options.set_on(&here).expect("buffers only");
        assert_eq!(SockRef::from(&here).send_buffer_size().unwrap(), 100_000);
    }

    #[test]
    fn r27_a_refused_option_is_named() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = |options: SocketOptions| options.set_on(&socket).unwrap_err().to_string();
        let text = refused(SocketOptions::new().congestion_control("hope"));
        assert!(text.starts_with("the socket option congestion_control=hope is refused"), "{text}");
        let text = refused(SocketOptions::new().bind_device("nowhere0"));
        assert!(text.starts_with("the socket option bind_device=nowhere0 is refused"), "{text}");
    }

    #[test]
    fn r27_a_listener_defers_and_opens_fast() {
        let options = ListenOptions {
            fast_open: Some(16),
            defer_accept: Some(Duration::from_millis(500)),
            ..ListenOptions::default()
        };
        let address = Address::Inet(([127, 0, 0, 1], 0).into());
        let listener = TcpListener::from(listen(&address, &options).expect("loopback has ports"));
        listener.set_nonblocking(true).unwrap();
        let mut silent = TcpStream::connect(listener.local_addr().unwrap()).expect("it listens");
        let error = listener.accept().expect_err("it has said nothing yet");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        io::Write::write_all(&mut silent, b"hello").expect("connected");
        listener.set_nonblocking(false).unwrap();
        listener.accept().expect("it has said something");
        let refused = ListenOptions { fast_open: Some(u32::MAX), ..ListenOptions::default() };
        // The kernel clamps the queue, so any number is one.
        listen(&address, &refused).expect("loopback has ports");
    }

    #[test]
    fn the_options_of_one_address_come_before_those_of_all() {
        let all = SocketOptions::new().nodelay(true).receive_buffer(1);
        let one = SocketOptions::new().receive_buffer(2).or(&all);
        assert_eq!(one, SocketOptions::new().nodelay(true).receive_buffer(2));
        assert!(SocketOptions::new().is_empty() && !one.is_empty());
    }
}
