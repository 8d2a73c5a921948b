//! Compiles the eBPF programs for the kernel, to be embedded in the agent.
//!
//! Two toolchains can do it: a rustc that comes with `core` for the BPF target (Debian's `rustc-web`
//! with `libstd-rust-web-dev-bpf`), or rustup's nightly with `rust-src`, which compiles `core` first.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "interlock-ebpf";
const HINT: &str = "run `cargo xtask setup`, which installs what is missing";

fn main() -> ExitCode {
    match build() {
        Ok(route) => {
            println!("cargo:warning=eBPF programs compiled with {route}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Cargo shows a failed script's standard error as it is.
            eprintln!("error: cannot compile the eBPF programs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<String, String> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().ok_or("the crate has no parent directory")?.to_owned();
    let out = PathBuf::from(variable("OUT_DIR")?);
    for input in ["agent-ebpf", "agent-common", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    for variable in ["BPF_LINKER", "INTERLOCK_BPF_RUSTC"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }

    let linker = linker()?;
    let route = route()?;
    // A directory of its own: the one above is locked by the cargo that runs this.
    let target = out.join("ebpf");
    let mut command = route.command();
    forget_outer_build(&mut command);
    route.configure(&mut command);
    command
        .current_dir(&root)
        .args(["build", "--quiet", "--release", "--package", "interlock-agent-ebpf", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        // The maps' types stand in BTF, which is made from debug information.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf");
    let output = command.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("with {}:\n{}", route.name(), String::from_utf8_lossy(&output.stderr)));
    }
    let object = target.join(TARGET).join("release").join(OBJECT);
    fs::copy(&object, out.join(OBJECT)).map_err(|error| format!("{}: {error}", object.display()))?;
    Ok(route.name())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set"))
}

/// Settings of the build for the host must not reach the one for the kernel.
fn forget_outer_build(command: &mut Command) {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let kept = KEPT.iter().any(|prefix| name.starts_with(prefix));
        let foreign = ["CARGO_", "RUSTC", "RUSTDOC", "CLIPPY_", "RUSTUP_TOOLCHAIN", "DEP_"];
        if !kept && foreign.iter().any(|prefix| name.starts_with(prefix))
            || matches!(
                name,
                "RUSTFLAGS" | "CARGO" | "TARGET" | "HOST" | "OUT_DIR" | "PROFILE" | "OPT_LEVEL" | "DEBUG"
            )
        {
            command.env_remove(name);
        }
    }
}

/// A toolchain that can compile for the kernel.
enum Route {
    /// A compiler that has `core` for the target.
    Prebuilt { rustc: PathBuf },
    /// rustup's nightly, which compiles `core` from `rust-src`.
    Nightly,
}

impl Route {
    fn name(&self) -> String {
        match self {
            Self::Prebuilt { rustc } => format!("{} (prebuilt core for {TARGET})", rustc.display()),
            Self::Nightly => "rustup's nightly toolchain (core from rust-src)".to_owned(),
        }
    }

    fn command(&self) -> Command {
        match self {
            Self::Prebuilt { .. } => Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
        }
    }

    fn configure(&self, command: &mut Command) {
        match self {
            Self::Prebuilt { rustc } => {
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            }
            Self::Nightly => {
                command.env("CARGO_UNSTABLE_BUILD_STD", "core");
            }
        }
    }
}

fn route() -> Result<Route, String> {
    let given = env::var_os("INTERLOCK_BPF_RUSTC").map(PathBuf::from);
    let candidates = [given, Some("/usr/bin/rustc".into()), env::var_os("RUSTC").map(PathBuf::from)];
    for rustc in candidates.into_iter().flatten() {
        if has_core(&rustc) {
            return Ok(Route::Prebuilt { rustc });
        }
    }
    let sysroot = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    if let Ok(sysroot) = sysroot {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
        if sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
            return Ok(Route::Nightly);
        }
    }
    Err(format!("no Rust toolchain for {TARGET} found: {HINT}"))
}

fn has_core(rustc: &Path) -> bool {
    let Ok(output) = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output()
    else {
        return false;
    };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn linker() -> Result<PathBuf, String> {
    if let Some(given) = env::var_os("BPF_LINKER") {
        let given = PathBuf::from(given);
        return if given.is_file() {
            Ok(given)
        } else {
            Err(format!("BPF_LINKER names {}, which is not there", given.display()))
        };
    }
    let home = env::var_os("HOME").map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| home.as_ref().map(|home| home.join(".cache")));
    let mut places: Vec<PathBuf> = cache.into_iter().map(|cache| cache.join("interlock/tools/bin")).collect();
    places.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    places.extend(home.map(|home| home.join(".cargo/bin")));
    places
        .into_iter()
        .map(|place| place.join("bpf-linker"))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("bpf-linker is not installed: {HINT}"))
}
