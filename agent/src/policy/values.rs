//! Names, paths, networks and ports as policy files write them, checked.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::decode::{Decode, Decoder};
use super::yaml::{Node, Value, shortened};

/// Most ports of one range.
const MAX_PORTS: u16 = 64;

macro_rules! checked_text {
    ($($(#[$attribute:meta])* $name:ident($inner:ty) $description:literal, $check:expr;)*) => {
        $(
            $(#[$attribute])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub(crate) struct $name(pub(crate) $inner);

            impl Decode for $name {
                fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
                    let check: fn(&Node) -> Result<$inner, (String, String)> = $check;
                    match check(node) {
                        Ok(value) => Some(Self(value)),
                        Err((message, help)) => {
                            decoder.error_help(node.at, message, help);
                            None
                        }
                    }
                }
            }

            impl schemars::JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    schemars::json_schema!({"type": "string", "description": $description})
                }
            }
        )*
    };
}

/// The text of a node, or what it should have been.
fn text(node: &Node, what: &str) -> Result<String, (String, String)> {
    match &node.value {
        Value::String(text) => Ok(text.clone()),
        _ => Err((format!("expected {what}, found {}", node.describe()), "write text".into())),
    }
}

fn name_of(node: &Node, what: &str, most: usize, also: fn(char) -> bool) -> Result<String, (String, String)> {
    let name = text(node, what)?;
    let fits = !name.is_empty()
        && name.len() <= most
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || also(c));
    if fits {
        return Ok(name);
    }
    Err((
        format!("`{}` cannot be {what}", shortened(&name)),
        format!("use 1 to {most} letters, digits, `-`, `_` and `.`"),
    ))
}

fn absolute(node: &Node, what: &str) -> Result<String, (String, String)> {
    let path = text(node, what)?;
    if path.contains(['*', '?', '[']) {
        return Err((
            format!("`{}` holds a wildcard, and the kernel compares whole paths", shortened(&path)),
            format!("name {what} exactly, in one entry each"),
        ));
    }
    let plain = path.starts_with('/')
        && !path.contains('\0')
        && !path.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    if plain || path == "/" {
        return Ok(path);
    }
    Err((
        format!("`{}` is no absolute path without `.` and `..`", shortened(&path)),
        format!("write {what} from the root, such as `/usr/local/bin/nightly-report`"),
    ))
}

fn unit(node: &Node, suffixes: &[&str]) -> Result<String, (String, String)> {
    let what = if suffixes.len() == 1 { "a systemd slice" } else { "a systemd unit" };
    let name = name_of(node, what, 255, |c| matches!(c, '@' | ':' | '\\'))?;
    if suffixes.iter().any(|suffix| name.ends_with(suffix)) {
        return Ok(name);
    }
    let suffix = suffixes.first().copied().unwrap_or_default();
    Err((format!("`{}` is no name of {what}", shortened(&name)), format!("did you mean `{name}{suffix}`?")))
}

checked_text! {
    /// A rule's or mask's name.
    RuleName(String) "1 to 100 letters, digits, `-`, `_` and `.`; not beginning with `interlock.`",
    |node| {
        let name = name_of(node, "a name", 100, |_| false)?;
        if name.starts_with("interlock.") {
            return Err((format!("`{name}` begins like the agent's own rules"), "choose another name".into()));
        }
        Ok(name)
    };
    /// A message to a client.
    Message(String) "One line of at most 500 characters.",
    |node| {
        let message = text(node, "a message")?;
        let message = message.trim();
        if message.is_empty() || message.chars().count() > 500 || message.chars().any(char::is_control) {
            return Err((
                "a message is one line of 1 to 500 characters".to_owned(),
                "write it on one line, or with `>-` before it to have the lines joined".to_owned(),
            ));
        }
        Ok(message.to_owned())
    };
    /// A group of approvers.
    GroupName(String) "The name of a group of this host, or ISSUER:GROUP for one of an identity provider's.",
    // No group of a host has a colon in its name.
    |node| name_of(node, "a group", 128, |c| c == ':');
    /// A systemd unit's name.
    UnitName(String) "A systemd unit with its suffix: `gitlab-runner.service`.",
    |node| unit(node, &[".service", ".scope", ".slice", ".socket", ".mount"]);
    /// A systemd slice's name.
    SliceName(String) "A systemd slice with its suffix: `ci.slice`.", |node| unit(node, &[".slice"]);
    /// A cgroup's path below the mount.
    CgroupPath(PathBuf) "An absolute path below the cgroup2 mount: `/system.slice/cron.service`.",
    |node| {
        let path = absolute(node, "the cgroup")?;
        if path == "/" || path.starts_with("/sys/fs/cgroup") {
            return Err((
                format!("`{path}` is not a cgroup below the mount"),
                "write the path below the cgroup2 mount, such as `/system.slice/cron.service`".into(),
            ));
        }
        Ok(path.into())
    };
    /// An executable's path.
    ExePath(PathBuf) "An absolute path.", |node| absolute(node, "the executable").map(PathBuf::from);
    /// A name for `interlock run`.
    RunName(String) "1 to 64 letters, digits, `-`, `_` and `.`, or `*` for any name.",
    |node| match text(node, "a name")?.as_str() {
        "*" => Ok("*".to_owned()),
        _ => name_of(node, "a name for `interlock run --as`", 64, |_| false),
    };
    /// A host name.
    HostName(String) "A host name.",
    |node| {
        let name = text(node, "a host name")?.trim_end_matches('.').to_ascii_lowercase();
        if name.parse::<IpAddr>().is_ok() || name.parse::<IpNet>().is_ok() {
            return Err((format!("`{name}` is an address"), format!("write `cidr: {name}`")));
        }
        let fits = !name.is_empty()
            && name.len() <= 253
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if fits {
            return Ok(name);
        }
        Err((
            format!("`{}` is no host name", shortened(&name)),
            "write it without wildcards, scheme or port: `db.internal` (`port` is a key of its own)".into(),
        ))
    };
    /// A network.
    Net(IpNet) "A network in CIDR notation, or one address.",
    |node| {
        let text = text(node, "a network")?;
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let net = text.parse::<IpNet>().map_err(|_| {
            (
                format!("`{}` is no network", shortened(&text)),
                "write CIDR notation, such as `10.0.0.0/8` or `fd00::/8`, or one address".to_owned(),
            )
        })?;
        if net.trunc() != net {
            return Err((
                format!("`{net}` has bits set beyond its prefix"),
                format!("did you mean `{}`?", net.trunc()),
            ));
        }
        Ok(net)
    };
}

/// A user or group, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    Name(String),
    Id(u32),
}

impl Decode for Account {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let account = match &node.value {
            Value::Int(id) => u32::try_from(*id).ok().filter(|id| *id != u32::MAX).map(Self::Id),
            Value::String(name) => {
                let fits = !name.is_empty()
                    && name.len() <= 255
                    && !name.contains([':', '/', '*', '?', '\0', '\n', ' '])
                    && !name.bytes().all(|b| b.is_ascii_digit());
                fits.then(|| Self::Name(name.clone()))
            }
            _ => None,
        };
        if account.is_none() {
            decoder.error_help(
                node.at,
                format!("{} is no user or group", node.describe()),
                "write its name, or its number without quotes",
            );
        }
        account
    }
}

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

impl Decode for Count {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if let Value::Int(value) = node.value
            && let Ok(value) = u64::try_from(value)
        {
            return Some(Self(value));
        }
        decoder.error_help(
            node.at,
            format!("expected a number of rows, found {}", node.describe()),
            "write a whole number without quotes",
        );
        None
    }
}

impl schemars::JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 0, "description": "A number of rows."})
    }
}

impl schemars::JsonSchema for Account {
    fn schema_name() -> Cow<'static, str> {
        "Account".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A name, or a number.",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "integer", "minimum": 0, "maximum": u32::MAX - 1}
            ]
        })
    }
}

/// A port or a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Ports {
    pub(crate) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Decode for Ports {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let ports = match &node.value {
            Value::Int(port) => u16::try_from(*port).ok().map(|port| (port, port)),
            Value::String(range) => range
                .split_once('-')
                .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?))),
            _ => None,
        };
        match ports {
            Some((first, last)) if first > 0 && first <= last && last - first < MAX_PORTS => {
                Some(Self { first, last })
            }
            _ => {
                decoder.error_help(
                    node.at,
                    format!("{} is no port", node.describe()),
                    format!(
                        "write a number from 1 to 65535, or a range of at most {MAX_PORTS}, \"5432-5439\""
                    ),
                );
                None
            }
        }
    }
}

impl schemars::JsonSchema for Ports {
    fn schema_name() -> Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A port, or a small range of ports `\"5432-5439\"`.",
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": "^[0-9]{1,5} *- *[0-9]{1,5}$"}
            ]
        })
    }
}
