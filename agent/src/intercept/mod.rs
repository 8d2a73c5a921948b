//! Loads and attaches the eBPF programs; original destinations; process tracking.
//!
//! [`Interceptor::attach`] puts the programs in place, or takes over those that an earlier agent has
//! left (they outlive it, and refuse what they cannot redirect). [`Interceptor::apply`] tells them whom
//! to take in, [`Interceptor::accept`] hands out the connections that they redirect.
//! `docs/interception.md` explains the whole.

mod alarm;
mod asked;
mod btf;
mod cgroup;
mod compile;
mod error;
mod event;
mod file_id;
mod flow;
mod maps;
mod object;
mod program;
mod selection;
mod status;
mod sys;
mod watch;

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::SystemTime,
};

use aya::maps::{RingBuf, SkStorage};
use interlock_agent_common::{LAYOUT, Meta};
use tokio::{sync::mpsc, task::AbortHandle};

pub(crate) use self::file_id::Resolver;
use self::{
    alarm::Alarm,
    cgroup::Hierarchy,
    compile::{Bits, Compiled},
    flow::Acceptor,
    maps::{Exes, Maps},
    object::{Object, Pins},
    watch::Watch,
};
pub use self::{
    cgroup::cgroup_root,
    error::InterceptError,
    event::{Egressed, Event, RefusalReason},
    flow::{Flow, FlowProcess},
    program::{Program, Programs},
    selection::{Entry, Pattern, Selection},
    status::{InterceptStatus, ProgramStatus},
};
use crate::policy::EntryId;

/// Flows that wait to be served before the listeners' own queues fill.
const FLOWS: usize = 1024;
/// Events that wait before the kernel's buffer fills.
const EVENTS: usize = 4096;
/// Rounds after which a sweep gives up to find each process's descendants; one level a round at worst.
const SWEEPS_MAX: usize = 64;

/// Where to attach and pin.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cgroup v2 directory whose processes can be designated, with all below it.
    pub cgroup: PathBuf,
    /// A directory for this agent's pins, on a BPF file system ([`pin_dir`]).
    pub pins: PathBuf,
}

/// The directory for pins of the agent with this `run:` directory.
///
/// Its name is the path's own, so that two agents never share one: `/run/interlock` has
/// `/sys/fs/bpf/interlock`, any other its whole path with `-` between the parts.
pub fn pin_dir(run: &Path) -> PathBuf {
    let name = run.strip_prefix("/run/interlock");
    let name = if name.is_ok_and(|rest| rest.as_os_str().is_empty()) {
        "interlock".to_owned()
    } else {
        // `.` is not allowed in names there; `-` is doubled so that `a-b` and `a/b` differ.
        let text = run.to_string_lossy().replace('-', "--").replace('.', "-_");
        format!("interlock-{}", text.trim_matches('/').replace('/', "-"))
    };
    Path::new("/sys/fs/bpf").join(name)
}

/// The kernel side, attached and served by this process.
///
/// When it is dropped the programs stay attached: from then on they refuse what they would redirect,
/// until another agent attaches or [`Interceptor::detach`] takes them out.
pub struct Interceptor {
    pins: Pins,
    hierarchy: Hierarchy,
    state: Mutex<State>,
    bits: Arc<RwLock<Bits>>,
    acceptor: Acceptor,
    flows: tokio::sync::Mutex<mpsc::Receiver<Flow>>,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    tasks: Mutex<Vec<AbortHandle>>,
    alarm: Arc<Alarm>,
    /// Held as long as this agent serves.
    _lock: File,
}

struct State {
    object: Object,
    maps: Maps,
    compiled: Compiled,
    exes: Exes,
    /// Where the kernel does not show each stage of an exec.
    watch: Option<Watch>,
    /// A selection was applied since the last refresh.
    recent: bool,
    /// The kernel side knows of this agent.
    live: bool,
}

impl Interceptor {
    /// Attaches the programs below a cgroup, or takes over those that an earlier agent has pinned, and
    /// begins to listen. What that agent had selected stays in force until [`Interceptor::apply`], which
    /// is also when connections begin to come: until then they are refused.
    ///
    /// If this process is not below the cgroup it moves to its child `interlock-agent`, for the kernel
    /// must see both ends of a redirected connection there.
    ///
    /// Must be called within a tokio runtime, on Linux 5.10 or later, as root.
    ///
    /// # Errors
    /// What is missing, or what the kernel refuses. Nothing new is attached then, what was stays.
    pub fn attach(options: &Options) -> Result<Self, InterceptError> {
        require_host_pids()?;
        let hierarchy = Hierarchy::new(&options.cgroup)?;
        sys::ensure_bpffs(&options.pins)
            .map_err(|error| InterceptError::NoBpffs(options.pins.clone(), error))?;
        let pins = Pins::new(&options.pins);
        let lock = lock(&pins)?;
        hierarchy.enter()?;

        let mut object = Object::load(&pins)?;
        let mut maps = Maps::take(&mut object.ebpf)?;
        let before = maps.meta()?;
        let bits: Bits = maps.bits()?;
        let bits = Arc::new(RwLock::new(bits));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let meta = Meta {
            layout: LAYOUT,
            exec_stages: object.features.exec_stages,
            cgroup: hierarchy.id,
            since: if object.adopted && before.since != 0 { before.since } else { now },
            agent_since: now,
        };

        let origins: SkStorage<_, _> = maps::take(&mut object.ebpf, "FLOWS")?;
        let ring: RingBuf<_> = maps::take(&mut object.ebpf, "EVENTS")?;
        let (flow_sender, flows) = mpsc::channel(FLOWS);
        let (event_sender, events) = mpsc::channel(EVENTS);
        let alarm = Arc::new(Alarm::new(&pins)?);
        let acceptor = Acceptor {
            origins: Arc::new(origins),
            bits: Arc::clone(&bits),
            flows: flow_sender,
            alarm: Arc::clone(&alarm),
        };
        let (listeners, sockets) = flow::listen().map_err(InterceptError::io("cannot listen"))?;
        let mut tasks = acceptor.serve(sockets).map_err(InterceptError::io("cannot listen"))?;
        let ring = event::register(ring).map_err(InterceptError::io("cannot wait for events"))?;
        let pump = event::pump(ring, Arc::clone(&bits), event_sender, Arc::clone(&alarm));
        tasks.push(tokio::spawn(pump).abort_handle());

        maps.write_interpreters()?;
        object.attach(&pins, &hierarchy, before.cgroup == hierarchy.id)?;
        maps.set_meta(meta)?;
        maps.clear_listeners()?;
        maps.set_listeners(netns_of("/proc/thread-self/ns/net")?, listeners)?;

        let watch = match object.features.exec_stages {
            0 => Some(Watch::start(&pins)?),
            _ => None,
        };
        let state = State {
            watch,
            object,
            maps,
            compiled: Compiled::default(),
            exes: Exes::default(),
            recent: false,
            live: false,
        };
        Ok(Self {
            pins,
            hierarchy,
            state: Mutex::new(state),
            bits,
            acceptor,
            flows: tokio::sync::Mutex::new(flows),
            events: Mutex::new(Some(events)),
            tasks: Mutex::new(tasks),
            alarm,
            _lock: lock,
        })
    }

    /// Whether no process is selected: nobody has, since the programs were first attached.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn selects_nothing(&self) -> Result<bool, InterceptError> {
        Ok(self.state().maps.rules()?.active == 0)
    }

    /// Puts a selection into force. Connections are decided by the old one or the new one; in between
    /// by both together, never by less. Processes that are already there are taken in, and what they
    /// have started. From the first time on connections come to [`Interceptor::accept`].
    ///
    /// # Errors
    /// The selection is more than the kernel side can hold, or a map cannot be written. An error before
    /// the switch leaves the old selection in force (and perhaps wider), one after it the new one.
    pub fn apply(&self, selection: &Selection) -> Result<(), InterceptError> {
        self.hold(selection)?;
        let mut state = self.state();
        if !state.live {
            state.maps.set_agent(std::process::id())?;
            state.live = true;
            // Only now: until here they alone have refused what was selected.
            self.pins
                .remove_other_layouts()
                .map_err(InterceptError::io("cannot remove an older layout's pins"))?;
        }
        Ok(())
    }

    /// Puts a selection into force, but does not begin to take connections: they are refused until
    /// [`Interceptor::apply`].
    ///
    /// # Errors
    /// As for [`Interceptor::apply`].
    pub fn hold(&self, selection: &Selection) -> Result<(), InterceptError> {
        let entries = compile::merge(selection)?;
        let mut guard = self.state();
        let state = &mut *guard;
        let old = state.maps.bits()?;
        let (bits, reused) = compile::assign(&old, &entries);
        let compiled = compile::compile(&bits, &entries)?;
        let exes = Exes::resolve(&compiled.exes)?;
        if reused != 0 {
            state.maps.retire(reused)?;
            // Twice: a fork that was under way may have handed one on past the first time.
            state.object.sweep()?;
            state.object.sweep()?;
        }
        if let Some(watch) = &state.watch {
            watch.add(&compiled.exes)?;
        }
        // Names for the bits come before the bits.
        *self.bits.write().unwrap_or_else(PoisonError::into_inner) = bits;
        state.maps.refresh_resolvers()?;
        state.maps.widen(&compiled, &bits, &self.hierarchy, &exes)?;
        // The switch is done: whatever fails from here on, this is the selection.
        state.compiled = compiled;
        state.exes = exes;
        state.recent = true;
        let narrowed = state.maps.narrow(&state.compiled, &state.exes);
        let swept = state.take_in();
        narrowed.and(swept)
    }

    /// Refuses from now on what would be redirected, for as long as this agent lives.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn refuse(&self) -> Result<(), InterceptError> {
        self.state().maps.set_agent(0)
    }

    /// Says whether connections can be recorded. While they cannot, those are refused that the kernel
    /// side would let go and report (`egress: record`).
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn set_recording(&self, works: bool) -> Result<(), InterceptError> {
        self.state().maps.set_unrecorded(!works)
    }

    /// What the kernel side knows of processes' programs.
    ///
    /// # Errors
    /// The map cannot be opened.
    pub fn programs(&self) -> Result<Programs, InterceptError> {
        Programs::open(&self.pins)
    }

    /// Returns when a part of this has failed that cannot be done without. Connections that would be
    /// redirected are refused by then; the agent should end.
    pub async fn failed(&self) {
        self.alarm.raised().await;
    }

    /// Looks again at what changes outside: the files behind selected executables, the host's name
    /// servers, and after a new selection once more at the cgroups. To be called about every second.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn refresh(&self) -> Result<(), InterceptError> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.maps.refresh_resolvers()?;
        let exes = Exes::resolve(&state.compiled.exes)?;
        if let Some(watch) = &state.watch {
            watch.add(&state.compiled.exes)?;
        }
        if exes != state.exes || !state.compiled.exes.is_empty() {
            state.maps.refresh_files(state.compiled.rules.active, &exes)?;
            state.exes = exes;
        }
        if std::mem::take(&mut state.recent) {
            // A cgroup that was being made while the selection changed.
            state.maps.find_cgroups(&state.compiled, &self.hierarchy)?;
        }
        state.maps.make_room(&state.compiled, &self.hierarchy)?;
        if state.maps.can_track_again()? {
            // First all that are there, which are still taken in; then no more.
            state.sweep()?;
            state.maps.end_overflow()?;
        }
        Ok(())
    }

    /// The next redirected connection. Cancel safe.
    ///
    /// Pends for ever once the listeners are gone, which they are only when this is dropped.
    pub async fn accept(&self) -> Flow {
        match self.flows.lock().await.recv().await {
            Some(flow) => flow,
            None => std::future::pending().await,
        }
    }

    /// The kernel side's reports. The first call gets them, later ones nothing. As long as nobody
    /// takes them the kernel side drops and counts what does not fit.
    pub fn events(&self) -> Option<mpsc::Receiver<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes a process, and with it what it starts, part of the run `name`, as `interlock run` needs
    /// it. It is moved below the attached cgroup (to `interlock-run`) unless it is there. Returns the
    /// entries that ask for this run.
    ///
    /// The process must not fork or exec meanwhile: it waits until this returns.
    ///
    /// # Errors
    /// The name is too long, the process is gone or cannot be moved.
    pub fn designate_run(&self, pid: u32, name: &str) -> Result<Vec<EntryId>, InterceptError> {
        let run = compile::hash(name)?;
        self.hierarchy.take_in(pid)?;
        let mut guard = self.state();
        let state = &mut *guard;
        if state.maps.start_of(pid).is_none() {
            // It was there before the programs.
            state.object.sweep()?;
        }
        let start = state.maps.start_of(pid).ok_or(InterceptError::Gone(pid))?;
        state.maps.set_run(pid, start, run)?;
        let rules = &state.compiled.rules;
        let mask = state.compiled.runs.get(&run).copied().unwrap_or(0) | rules.every_run;
        let bits = self.bits.read().unwrap_or_else(PoisonError::into_inner);
        Ok(flow::entries(&bits, mask))
    }

    /// Listens in another network namespace too (`/proc/PID/ns/net`): connections made there are
    /// redirected from now on, and refused without. [`FlowProcess::netns`] tells which one a flow
    /// comes from; to reach its original destination may need that namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or its loopback interface is down.
    pub fn listen_in(&self, netns: OwnedFd) -> Result<u32, InterceptError> {
        let failed = || InterceptError::io("cannot listen in another network namespace");
        let inode = File::from(netns.try_clone().map_err(failed())?).metadata().map_err(failed())?.ino();
        let (listeners, sockets) = flow::listen_in(netns).map_err(failed())?;
        let handles = self.acceptor.serve(sockets).map_err(failed())?;
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(handles);
        let inode = inode as u32;
        self.state().maps.set_listeners(inode, listeners)?;
        Ok(inode)
    }

    /// What is attached, and what it has done.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn status(&self) -> Result<InterceptStatus, InterceptError> {
        status::read(&self.pins.base)
    }

    /// The same from the pins alone, with or without a live agent.
    ///
    /// # Errors
    /// [`InterceptError::NotAttached`], [`InterceptError::NeedsRoot`], or a map cannot be read.
    pub fn status_of(pins: &Path) -> Result<InterceptStatus, InterceptError> {
        status::read(pins)
    }

    /// Takes everything out: programs, maps, and the cgroups that were made, as far as nobody is in
    /// them. Works without a live agent; a live one stops redirecting.
    ///
    /// # Errors
    /// [`InterceptError::NotAttached`], [`InterceptError::NeedsRoot`], or a pin cannot be removed.
    pub fn detach(pins: &Path) -> Result<(), InterceptError> {
        object::require(pins)?;
        let attached = status::read(pins).map(|status| status.cgroup).unwrap_or_default();
        Pins::new(pins)
            .remove_all()
            .map_err(InterceptError::io(format!("cannot remove {}", pins.display())))?;
        if !attached.is_empty() {
            Hierarchy::clean(Path::new(&attached));
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes in what is there already, and what runs a selected script.
    fn take_in(&mut self) -> Result<(), InterceptError> {
        self.sweep()?;
        if self.exes.files.is_empty() {
            return Ok(());
        }
        // Only now it is known who is an interpreter.
        let found = self.maps.find_scripts(&self.exes);
        self.sweep()?;
        found
    }

    /// Designates what is there already, until a round finds nothing new: descendants of descendants
    /// may come before their ancestors.
    fn sweep(&mut self) -> Result<(), InterceptError> {
        for _ in 0..SWEEPS_MAX {
            let before = self.maps.swept()?;
            self.object.sweep()?;
            if self.maps.swept()? == before {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        // Nobody accepts any more: refuse in the kernel rather than let connections wait. The kernel
        // side does the same by itself when the process ends.
        if let Err(error) = self.state().maps.set_agent(0) {
            tracing::warn!("{error}");
        }
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// The kernel side tells processes by the ids of the initial namespace.
fn require_host_pids() -> Result<(), InterceptError> {
    /// Inode number of the initial PID namespace, fixed in the kernel (`PROC_PID_INIT_INO`).
    const INITIAL: u64 = 0xeffffffc;
    let path = "/proc/self/ns/pid";
    let inode = fs::metadata(path).map_err(InterceptError::io(path))?.ino();
    if inode == INITIAL { Ok(()) } else { Err(InterceptError::PidNamespace) }
}

fn netns_of(path: &str) -> Result<u32, InterceptError> {
    fs::metadata(path).map(|found| found.ino() as u32).map_err(InterceptError::io(path))
}

/// One agent at a time for a set of pins. Their directory is root's alone: whoever could open it could
/// hold the lock, and whoever could write to it could put programs of his own there.
fn lock(pins: &Pins) -> Result<File, InterceptError> {
    let failed =
        |error: io::Error| InterceptError::Io { what: pins.base.display().to_string(), source: error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&pins.base).map_err(failed)?;
    let lock = File::from(
        rustix::fs::open(
            &pins.base,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|error| failed(error.into()))?,
    );
    let found = lock.metadata().map_err(failed)?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(InterceptError::Exposed(pins.base.clone()));
    }
    if found.mode() & 0o077 != 0 {
        lock.set_permissions(fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(InterceptError::Busy(pins.base.clone())),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_named_by_the_run_directory() {
        assert_eq!(pin_dir(Path::new("/run/interlock")), Path::new("/sys/fs/bpf/interlock"));
        assert_eq!(pin_dir(Path::new("/run/interlock/")), Path::new("/sys/fs/bpf/interlock"));
        let names: std::collections::HashSet<_> = [
            "/run/interlock",
            "/run/interlock/b",
            "/run/interlock-b",
            "/tmp/x.y/run",
            "/tmp/x-y/run",
            "/run/interlock.b",
        ]
        .iter()
        .map(|run| pin_dir(Path::new(run)))
        .collect();
        assert_eq!(names.len(), 6);
        assert!(names.iter().all(|name| !name.to_string_lossy().contains('.')));
    }
}
