//! The server to load.

use std::fmt;

use kolk::ListenAddress;
use kolk_engine::socket::Address;

use crate::failure::Failure;

/// An address as it was written and as the kernel takes it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    text: String,
    address: Address,
}

impl Target {
    /// Reads an address in the form in which a server is told to listen on it; looks up the host.
    ///
    /// # Errors
    ///
    /// A malformed address, a host that is not found, a path that no socket can have, port 0.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let refused = |cause: &dyn fmt::Display| Failure::usage(format!("cannot load {text}: {cause}"));
        let address: ListenAddress = text.parse().map_err(|cause| refused(&cause))?;
        let address = Address::from(address);
        if address.as_inet().is_some_and(|inet| inet.port() == 0) {
            return Err(refused(&"port 0 is no server's: use the port that the server printed"));
        }
        Ok(Self { text: text.to_owned(), address })
    }

    /// The address for the kernel.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Whether each connection takes a source port.
    pub(crate) fn needs_ports(&self) -> bool {
        self.address.as_inet().is_some()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) -> String {
        let failure = Target::parse(text).unwrap_err();
        assert_eq!(failure.status(), 2);
        failure.to_string()
    }

    #[test]
    fn what_a_server_listens_on_can_be_loaded() {
        let tcp = Target::parse("tcp://127.0.0.1:7000").unwrap();
        assert!(tcp.needs_ports());
        assert_eq!(*tcp.address(), Address::Inet("127.0.0.1:7000".parse().unwrap()));
        let unix = Target::parse("unix:///tmp/kolk.sock").unwrap();
        assert!(!unix.needs_ports());
        assert_eq!(*unix.address(), Address::Unix("/tmp/kolk.sock".into()));
        assert_eq!(unix.to_string(), "unix:///tmp/kolk.sock");
    }

    #[test]
    fn a_wrong_address_is_named_with_what_to_write() {
        assert!(refused("ftp://localhost:21").starts_with("cannot load ftp://localhost:21: the scheme"));
        assert!(refused("127.0.0.1:7000").contains("write tcp://127.0.0.1:7000"));
        assert!(refused("tcp://127.0.0.1:0").contains("the port that the server printed"));
        assert!(refused(&format!("unix:///{}", "x".repeat(107))).contains("108 bytes"));
    }
}
