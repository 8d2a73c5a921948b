//! Where things are kept that are costly to make: tools, drivers, kernels.

use std::path::PathBuf;

/// The directory for all of it: `$XDG_CACHE_HOME/interlock`, `~/.cache/interlock` when that is not set.
pub fn directory() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_else(|| "/var/cache".into());
    base.join("interlock")
}

/// Tools built by `cargo install`; the programs are in `bin`.
pub fn tools() -> PathBuf {
    directory().join("tools")
}

/// The virtual environment with the Python drivers.
pub fn venv() -> PathBuf {
    directory().join("venv")
}

/// The virtual environment with secret stores to test against.
pub fn secret_servers() -> PathBuf {
    directory().join("secret-servers")
}

/// The virtual environment with storage that speaks S3.
pub fn object_store() -> PathBuf {
    directory().join("object-store")
}

/// The virtual environment with a SAML identity provider to sign in with.
pub fn saml() -> PathBuf {
    directory().join("saml")
}

/// The directory whose `node_modules` has node-postgres and Playwright.
pub fn node() -> PathBuf {
    directory().join("node")
}

/// The directory whose `node_modules` has a receiver of OpenTelemetry's logs.
pub fn otlp() -> PathBuf {
    directory().join("otlp")
}

/// The directory whose `node_modules` has MCP's inspector, a client of that protocol.
pub fn mcp() -> PathBuf {
    directory().join("mcp")
}

/// The virtual environment with receivers of what the collector sends: Kafka, mail.
pub fn receivers() -> PathBuf {
    directory().join("receivers")
}

/// What Go has compiled.
pub fn go() -> PathBuf {
    directory().join("go")
}

/// Server programs of another PostgreSQL than the host's.
pub fn fetched_postgres(major: u32) -> PathBuf {
    directory().join(format!("postgres-{major}"))
}

/// Kernels to boot, one directory each.
pub fn kernels() -> PathBuf {
    directory().join("kernels")
}
