//! Where a collector is reached: what stands in `interlock enroll URL`.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// The port of collectors for agents unless the URL has another.
const PORT: u16 = 7443;

/// A collector's address: `https://collector.example.com:7443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A host name, or an address without brackets.
    host: String,
    port: u16,
}

/// A text is no collector's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no collector's address: write one such as https://collector.example.com:7443")]
pub struct ParseAddressError(String);

impl Address {
    /// What the collector's certificate must be for.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }

    /// Host and port, as they are looked up.
    pub(super) fn target(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}")
        } else {
            write!(f, "https://{host}:{port}")
        }
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let wrong = || ParseAddressError(text.chars().take(200).collect());
        let trimmed = text.trim();
        let rest = match trimmed.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => return Err(wrong()),
            None => trimmed,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                // Only an address of IPv6 stands in brackets.
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None => PORT,
        };
        let address = Self { host: host.to_ascii_lowercase(), port };
        if port == 0 || address.server_name().is_none() { Err(wrong()) } else { Ok(address) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_what_goes_without_saying() {
        for (text, whole) in [
            ("https://c.example:1", "https://c.example:1"),
            ("https://C.example/", "https://c.example:7443"),
            (" c.example\n", "https://c.example:7443"),
            ("10.1.2.3:99", "https://10.1.2.3:99"),
            ("https://[::1]:99", "https://[::1]:99"),
            ("[fd00::1]", "https://[fd00::1]:7443"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), whole);
            assert_eq!(whole.parse(), Ok(address));
        }
        for wrong in [
            "",
            "http://c",
            "https://",
            "c:0",
            "c:65536",
            "c:x",
            "c:+1",
            "c/path",
            "https://u@c",
            "::1",
            "[::1",
            "[c]",
            "[::1]1",
            "a b",
            "c:1:2",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
