//! Loads the eBPF object, attaches its programs and pins both, or takes over what an earlier agent
//! has pinned.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::MapData,
    programs::{
        CgroupAttachMode, CgroupSock, CgroupSockAddr, FEntry, Iter, Program, ProgramError, RawTracePoint,
        SockOps,
        links::{FdLink, LinkError},
    },
};
use interlock_agent_common::{Features, LAYOUT, Meta, Offsets};

use super::{
    btf::{self, VMLINUX},
    cgroup::Hierarchy,
    error::InterceptError,
    sys,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/interlock-ebpf"));

/// Maps that outlive the agent.
const MAPS: [&str; 30] = [
    "RULES",
    "GENERATION",
    "IDS",
    "META",
    "AGENT",
    "OVERFLOW",
    "CGROUPS_LOST",
    "SWEPT",
    "UIDS",
    "GIDS",
    "EXES",
    "PATHS",
    "RUNS",
    "CGROUPS",
    "CGROUP_PATHS",
    "UNITS",
    "INTERPRETERS",
    "PROCESSES",
    "ARGUMENTS",
    "MARKS",
    "PENDING",
    "STAGED",
    "DESTINATIONS",
    "RESOLVERS",
    "LISTENERS",
    "ORIGINS",
    "FLOWS",
    "HANDSHAKES",
    "COUNTS",
    "EVENTS",
];

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    SockAddr,
    Sock,
    SockOps,
    /// To the raw tracepoint.
    Tracepoint(&'static str),
    /// To the entry of the kernel's function. Without it executables are known less well.
    Function(&'static str),
}

/// The programs, in the order in which they are attached: what others rely on comes first.
const PROGRAMS: [(&str, Kind); 17] = [
    ("process_fork", Kind::Tracepoint("sched_process_fork")),
    ("process_exit", Kind::Tracepoint("sched_process_exit")),
    ("exec_stage", Kind::Function("security_bprm_check")),
    ("process_exec", Kind::Tracepoint("sched_process_exec")),
    ("file_open", Kind::Function("security_file_open")),
    ("cgroup_mkdir", Kind::Tracepoint("cgroup_mkdir")),
    ("cgroup_rmdir", Kind::Tracepoint("cgroup_rmdir")),
    ("cgroup_attach", Kind::Tracepoint("cgroup_attach_task")),
    ("handshake", Kind::SockOps),
    ("getpeername4", Kind::SockAddr),
    ("getpeername6", Kind::SockAddr),
    ("connect4", Kind::SockAddr),
    ("connect6", Kind::SockAddr),
    ("sendmsg4", Kind::SockAddr),
    ("sendmsg6", Kind::SockAddr),
    ("socket_create", Kind::Sock),
    ("sweep", Kind::Function("task")),
];

/// Runs over the processes that are there; attached only while it runs.
const SWEEP: &str = "sweep";

/// Where the pins of one layout stand.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    /// The directory of all layouts.
    pub(super) base: PathBuf,
}

/// Something is there. That a user may not look does not mean that nothing is.
pub(super) fn require(path: &Path) -> Result<(), InterceptError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => InterceptError::NotAttached(path.to_owned()),
            io::ErrorKind::PermissionDenied => InterceptError::NeedsRoot(path.to_owned()),
            _ => InterceptError::Io { what: path.display().to_string(), source: error },
        }),
    }
}

impl Pins {
    pub(super) fn new(base: &Path) -> Self {
        Self { base: base.to_owned() }
    }

    fn layout(&self) -> PathBuf {
        self.base.join(format!("v{LAYOUT}"))
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.layout().join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.layout().join("links")
    }

    /// Opens a pinned map.
    pub(super) fn map(&self, name: &'static str) -> Result<MapData, InterceptError> {
        let path = self.maps().join(name);
        require(&path)?;
        MapData::from_pin(path).map_err(InterceptError::map(name))
    }

    /// The links: names and what the kernel says of each.
    pub(super) fn list_links(&self) -> Vec<(String, sys::LinkInfo)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.links()).into_iter().flatten().flatten() {
            let info = sys::open_pin(&entry.path()).and_then(|link| sys::link_info(link.as_fd()));
            if let Ok(info) = info {
                found.push((entry.file_name().to_string_lossy().into_owned(), info));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Removes the pins of other layouts than this one, links first: with the last link gone a
    /// program runs no more.
    pub(super) fn remove_other_layouts(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.base)?.flatten() {
            if entry.path() != self.layout() {
                remove_layout(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.base)? {
            remove_layout(&entry?.path())?;
        }
        fs::remove_dir(&self.base)
    }
}

fn remove_layout(layout: &Path) -> io::Result<()> {
    for part in ["links", "maps"] {
        let directory = layout.join(part);
        match fs::read_dir(&directory) {
            Ok(entries) => {
                for entry in entries {
                    let pin = entry?.path();
                    if part == "links" {
                        // Else it would go on for a while after its pin is gone.
                        sys::detach_link(sys::open_pin(&pin)?.as_fd())?;
                    }
                    fs::remove_file(pin)?;
                }
                fs::remove_dir(&directory)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::remove_dir(layout)
}

/// The loaded object.
pub(super) struct Object {
    pub(super) ebpf: Ebpf,
    pub(super) features: Features,
    pub(super) adopted: bool,
}

impl Object {
    /// Loads the programs, with the maps that are pinned, or new ones.
    pub(super) fn load(pins: &Pins) -> Result<Self, InterceptError> {
        let make = |path: PathBuf| {
            fs::create_dir_all(&path).map_err(InterceptError::io(format!("cannot make {}", path.display())))
        };
        make(pins.maps())?;
        make(pins.links())?;
        let adopted = fs::read_dir(pins.links()).is_ok_and(|mut links| links.next().is_some());

        let offsets = kernel_offsets()?;
        let btf = aya::Btf::from_sys_fs()
            .map_err(|error| InterceptError::Btf { path: VMLINUX, reason: error.to_string() })?;
        // Tracing programs that attach to functions may be unknown to the kernel or the processor's
        // architecture: then the object is loaded again without them.
        let full = Features { set_retval: set_retval_works(), exec_stages: 1 };
        let mut ebpf = load(pins, &offsets, &full)?;
        let mut features = full;
        if let Err(error) = load_function_programs(&mut ebpf, &btf) {
            tracing::warn!(
                "this kernel does not show each stage of an exec ({error}): selected executables are watched by the agent"
            );
            features.exec_stages = 0;
            ebpf = load(pins, &offsets, &features)?;
        }
        let mut object = Self { ebpf, features, adopted };
        object.load_programs(&btf)?;
        Ok(object)
    }

    fn load_programs(&mut self, btf: &aya::Btf) -> Result<(), InterceptError> {
        for (name, kind) in PROGRAMS {
            let program = self
                .ebpf
                .program_mut(name)
                .ok_or(InterceptError::Program { name, source: "it is not in the object".into() })?;
            let loaded = match kind {
                Kind::SockAddr => as_kind::<CgroupSockAddr>(program).and_then(CgroupSockAddr::load),
                Kind::Sock => as_kind::<CgroupSock>(program).and_then(CgroupSock::load),
                Kind::SockOps => as_kind::<SockOps>(program).and_then(SockOps::load),
                Kind::Tracepoint(_) => as_kind::<RawTracePoint>(program).and_then(RawTracePoint::load),
                Kind::Function(task) if name == SWEEP => {
                    as_kind::<Iter>(program).and_then(|program| program.load(task, btf))
                }
                Kind::Function(_) => Ok(()),
            };
            loaded.map_err(InterceptError::program(name))?;
        }
        Ok(())
    }

    /// Attaches the programs, or puts them in the place of those that are.
    pub(super) fn attach(
        &mut self,
        pins: &Pins,
        hierarchy: &Hierarchy,
        same_cgroup: bool,
    ) -> Result<(), InterceptError> {
        let cgroup = File::open(&hierarchy.attached)
            .map_err(InterceptError::io(hierarchy.attached.display().to_string()))?;
        for (name, kind) in PROGRAMS {
            if name == SWEEP || (matches!(kind, Kind::Function(_)) && self.features.exec_stages == 0) {
                continue;
            }
            let Some(program) = self.ebpf.program_mut(name) else { continue };
            let pin = pins.links().join(name);
            let in_cgroup = matches!(kind, Kind::SockAddr | Kind::Sock | Kind::SockOps);
            if in_cgroup && same_cgroup && pin.exists() {
                let replaced = sys::open_pin(&pin).and_then(|link| {
                    let program = program.fd().map_err(io::Error::other)?.as_fd().try_clone_to_owned()?;
                    sys::update_link(link.as_fd(), program.as_fd())
                });
                match replaced {
                    Ok(()) => continue,
                    Err(error) => tracing::debug!("link of {name} cannot be updated: {error}"),
                }
            }
            let link = link(program, kind, &cgroup).map_err(InterceptError::program(name))?;
            // The old program goes when its pin is replaced: for a moment both are there, never none.
            let fresh = pins.links().join(format!("{name}_new"));
            let _ = fs::remove_file(&fresh); // of an agent that died right here
            link.pin(&fresh).map_err(InterceptError::program(name))?;
            fs::rename(&fresh, &pin).map_err(InterceptError::io(format!("cannot pin {}", pin.display())))?;
        }
        if self.features.exec_stages == 0 {
            for (name, _) in PROGRAMS.iter().filter(|(_, kind)| matches!(kind, Kind::Function(_))) {
                let _ = fs::remove_file(pins.links().join(name));
            }
        }
        Ok(())
    }

    /// Goes over all processes once.
    pub(super) fn sweep(&mut self) -> Result<(), InterceptError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| InterceptError::Program {
            name: SWEEP,
            source,
        };
        let program = self.ebpf.program_mut(SWEEP).ok_or_else(|| failed("it is not in the object".into()))?;
        let program: &mut Iter = as_kind(program).map_err(InterceptError::program(SWEEP))?;
        let mut run = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            let link = program.attach()?;
            let mut output = program.take_link(link)?.into_file()?;
            io::copy(&mut output.by_ref(), &mut io::sink())?;
            Ok(())
        };
        run().map_err(failed)
    }
}

fn as_kind<'a, P>(program: &'a mut Program) -> Result<&'a mut P, ProgramError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    program.try_into()
}

fn load(pins: &Pins, offsets: &Offsets, features: &Features) -> Result<Ebpf, InterceptError> {
    let mut loader = EbpfLoader::new();
    loader.override_global("OFFSETS", offsets, true).override_global("FEATURES", features, true);
    for name in MAPS {
        loader.map_pin_path(name, pins.maps().join(name));
    }
    loader.load(OBJECT).map_err(|error| InterceptError::Load(Box::new(error)))
}

fn load_function_programs(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<(), InterceptError> {
    for (name, kind) in PROGRAMS {
        if let (Kind::Function(function), false) = (kind, name == SWEEP) {
            let Some(program) = ebpf.program_mut(name) else { continue };
            let program: &mut FEntry = as_kind(program).map_err(InterceptError::program(name))?;
            program.load(function, btf).map_err(InterceptError::program(name))?;
            // Some architectures load it, but cannot attach it.
            let link = program.attach().map_err(InterceptError::program(name))?;
            program.detach(link).map_err(InterceptError::program(name))?;
        }
    }
    Ok(())
}

fn link(
    program: &mut Program,
    kind: Kind,
    cgroup: &File,
) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    // Attached by link, so that several agents' programs stand side by side.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let wrong = |error: LinkError| Box::<dyn std::error::Error + Send + Sync>::from(error);
    match kind {
        Kind::SockAddr => {
            let program: &mut CgroupSockAddr = as_kind(program)?;
            let link = program.attach(cgroup, MODE)?;
            program.take_link(link)?.try_into().map_err(wrong)
        }
        Kind::Sock => {
            let program: &mut CgroupSock = as_kind(program)?;
            let link = program.attach(cgroup, MODE)?;
            program.take_link(link)?.try_into().map_err(wrong)
        }
        Kind::SockOps => {
            let program: &mut SockOps = as_kind(program)?;
            let link = program.attach(cgroup, MODE)?;
            program.take_link(link)?.try_into().map_err(wrong)
        }
        Kind::Tracepoint(name) => {
            let program: &mut RawTracePoint = as_kind(program)?;
            let link = program.attach(name)?;
            Ok(program.take_link(link)?.into())
        }
        Kind::Function(_) => {
            let program: &mut FEntry = as_kind(program)?;
            let link = program.attach()?;
            Ok(program.take_link(link)?.into())
        }
    }
}

fn kernel_offsets() -> Result<Offsets, InterceptError> {
    let wrong = |reason| InterceptError::Btf { path: VMLINUX, reason };
    let data = fs::read(VMLINUX).map_err(|error| wrong(error.to_string()))?;
    let types = btf::Btf::parse(&data).map_err(|error| wrong(error.to_string()))?;
    btf::offsets(&types).map_err(|error| wrong(error.to_string()))
}

fn set_retval_works() -> u32 {
    use aya::{
        programs::ProgramType,
        sys::{BpfHelper, is_helper_supported},
    };
    u32::from(
        is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false),
    )
}

/// Reads what is kept about the pinned set.
pub(super) fn meta(pins: &Pins) -> Result<Meta, InterceptError> {
    let map = aya::maps::Array::<_, Meta>::try_from(aya::maps::Map::Array(pins.map("META")?))
        .map_err(InterceptError::map("META"))?;
    map.get(&0, 0).map_err(InterceptError::map("META"))
}
