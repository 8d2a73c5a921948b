//! Which entries of the selection take a process in.

use aya_ebpf::helpers::bpf_get_current_ancestor_cgroup_id;
use interlock_agent_common::{
    CGROUP_LEVELS, Counter, FileId, IMAGES_MAX, PROCESS_IMAGES, PROCESS_INTERPRETER, PROCESS_LOGIN,
    PROCESS_UNKNOWN, Process, Rules,
};

use crate::{
    kernel::{File, Task},
    maps::{
        AGENT, ARGUMENTS, CGROUPS, CGROUPS_LOST, EXES, GIDS, INTERPRETERS, MARKS, OVERFLOW, PATHS, PROCESSES,
        RUNS, UIDS, count,
    },
};

/// How to find the cgroups that a task is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// The task is the current one, and a helper tells (in socket programs).
    Helper,
    /// From the task's structure (in tracing programs, where 5.10 has no helper).
    Structure,
}

/// Whether this process is the live agent.
#[inline(always)]
pub(crate) fn is_agent(tgid: u32) -> bool {
    AGENT.get(0).is_some_and(|agent| agent.tgid == tgid && tgid != 0)
}

/// Which of a process's words a program writes what it finds into: each writer has its own, for the
/// kernels that must do have no atomic operations for programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// What the process itself did: connect, fork, exec.
    Own,
    /// A sweep.
    Sweep,
    /// Whoever moves it to another cgroup, one at a time.
    Mover,
}

/// What is known of a process, or null where nothing can be kept of it (or it has ended).
///
/// A process that is not known was there before the programs were, or did not fit into the map. In
/// the latter case nobody knows any more whose descendant it is, so it is taken to be anyone's.
#[inline(always)]
pub(crate) fn process(rules: &Rules, task: Task, tgid: u32) -> *mut Process {
    let start = task.start();
    if let Some(known) = PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: a value of the map.
        let process = unsafe { &mut *known };
        if process.start == 0 {
            process.start = start;
        }
        if process.start == start {
            if process.flags & PROCESS_IMAGES == 0 {
                set_image(process, task.exe());
            }
            let run = run_of(tgid, start);
            if run != 0 {
                process.run = run;
            }
            return known;
        }
    }
    // SAFETY: integers only.
    let mut process: Process = unsafe { core::mem::zeroed() };
    process.start = start;
    if OVERFLOW.get(0).is_some_and(|overflow| *overflow != 0) {
        process.inherited = rules.descendants;
    }
    set_image(&mut process, task.exe());
    process.run = run_of(tgid, start);
    process.login = task.login();
    keep(tgid, &process);
    if task.live_threads() == 0 {
        // Its end was told of before, or is being told of now: nobody would remove it.
        let _ = PROCESSES.remove(tgid);
        return core::ptr::null_mut();
    }
    PROCESSES.get_ptr_mut(tgid).unwrap_or(core::ptr::null_mut())
}

/// The run that the agent has made a process part of; 0 for none.
#[inline(always)]
fn run_of(tgid: u32, start: u64) -> u64 {
    // SAFETY: user space writes whole values, and a torn one would name no run.
    match unsafe { MARKS.get(tgid) } {
        Some(mark) if mark.start == start => mark.run,
        _ => 0,
    }
}

/// Looks at the login user id: who has set it since it was last looked at. Only root's word counts,
/// for any process may set one where none is set.
#[inline(always)]
pub(crate) fn see_login(process: &mut Process, task: Task) {
    let login = task.login();
    if login != process.login {
        let (uid, _) = task.owner();
        process.login = login;
        process.flags = process.flags & !PROCESS_LOGIN | if uid == 0 { PROCESS_LOGIN } else { 0 };
    }
}

/// Puts a process into the map.
#[inline(always)]
pub(crate) fn keep(tgid: u32, process: &Process) {
    if PROCESSES.insert(tgid, process, 0).is_err() {
        count(Counter::Untracked);
        if let Some(overflow) = OVERFLOW.get_ptr_mut(0) {
            // SAFETY: a value of the map.
            unsafe { *overflow = 1 };
        }
    }
}

/// Takes the executable from the task, when no exec was seen.
#[inline(always)]
fn set_image(process: &mut Process, exe: File) {
    process.images[0] = exe.id();
    process.exe = exe.id();
    process.stages = 1;
    process.flags |= PROCESS_IMAGES | interpreter_flag(exe);
}

#[inline(always)]
pub(crate) fn interpreter_flag(exe: File) -> u32 {
    // SAFETY: only its presence counts.
    if unsafe { INTERPRETERS.get(exe.stem()) }.is_some() { PROCESS_INTERPRETER } else { 0 }
}

/// Every entry that takes a process in now. Those that also take in descendants stick to it.
#[inline(always)]
pub(crate) fn designate(
    rules: &Rules,
    process: *mut Process,
    task: Task,
    tgid: u32,
    hierarchy: Hierarchy,
    writer: Writer,
) -> u64 {
    if process.is_null() {
        // Not even one's own entry fits: the map is full.
        return (rules.descendants | matching(rules, None, task, tgid, hierarchy)) & rules.active;
    }
    // SAFETY: a value of the map.
    let process = unsafe { &mut *process };
    let bits = matching(rules, Some(process), task, tgid, hierarchy);
    let mut lasting = bits & rules.descendants;
    if cgroups_lost() {
        // That it is in the cgroup is only feared: it is to hold as long as the fear does.
        lasting &= rules.any_cgroup & rules.any_unit;
    }
    stick(process, lasting, writer);
    (process.lasting() | bits) & rules.active
}

/// Makes entries stick to a process.
#[inline(always)]
pub(crate) fn stick(process: &mut Process, lasting: u64, writer: Writer) {
    if lasting & !process.lasting() == 0 {
        return;
    }
    match writer {
        Writer::Own => process.inherited |= lasting,
        Writer::Sweep => process.swept |= lasting,
        Writer::Mover => process.moved |= lasting,
    }
}

#[inline(always)]
fn cgroups_lost() -> bool {
    CGROUPS_LOST.get(0).is_some_and(|lost| *lost != 0)
}

#[inline(always)]
fn matching(rules: &Rules, process: Option<&Process>, task: Task, tgid: u32, hierarchy: Hierarchy) -> u64 {
    // Entries that have held so far; where none is left that asks the next question, it is not asked.
    let mut left = rules.active;
    if left & !(rules.any_uid & rules.any_gid) != 0 {
        let (uid, gid) = task.owner();
        left &= rules.any_uid | get(&UIDS, uid);
        left &= rules.any_gid | get(&GIDS, gid);
    }
    if left & !rules.any_run != 0 {
        let run = match process {
            Some(process) if process.run != 0 => rules.every_run | get(&RUNS, process.run),
            _ => 0,
        };
        left &= rules.any_run | run;
    }
    if left & !rules.any_exe != 0 {
        left &= rules.any_exe | process.map_or(u64::MAX, |process| by_exe(process, tgid));
    }
    if left & !(rules.any_cgroup & rules.any_unit) != 0 {
        let (path, unit) = by_cgroup(task, hierarchy);
        left &= rules.any_cgroup | path;
        left &= rules.any_unit | unit;
    }
    left
}

#[inline(always)]
fn by_exe(process: &Process, tgid: u32) -> u64 {
    if process.flags & PROCESS_UNKNOWN != 0 {
        return u64::MAX;
    }
    let mut bits = 0;
    for index in 0..IMAGES_MAX {
        let image = process.images[index];
        if image.ino == 0 {
            break;
        }
        bits |= get(&EXES, image);
    }
    if process.path != 0 {
        bits |= get(&PATHS, process.path);
    }
    // SAFETY: read once, and a torn value matches no file.
    if let Some(argument) = unsafe { ARGUMENTS.get(tgid) } {
        if argument.exec_id == process.exec_id {
            bits |= get(&EXES, FileId { ..argument.script });
        }
    }
    bits
}

#[inline(always)]
fn by_cgroup(task: Task, hierarchy: Hierarchy) -> (u64, u64) {
    if cgroups_lost() {
        return (u64::MAX, u64::MAX);
    }
    let mut path = 0;
    let mut unit = 0;
    let cgroup = task.cgroup();
    let level = if hierarchy == Hierarchy::Structure { cgroup.level() } else { 0 };
    for index in 0..CGROUP_LEVELS {
        let id = match hierarchy {
            // SAFETY: the helper takes any level.
            Hierarchy::Helper => unsafe { bpf_get_current_ancestor_cgroup_id(index as i32) },
            Hierarchy::Structure if index > level => 0,
            Hierarchy::Structure => cgroup.ancestor_id(index),
        };
        if id == 0 {
            break;
        }
        // SAFETY: read once; user space writes whole values.
        if let Some(bits) = unsafe { CGROUPS.get(id) } {
            path |= bits.path;
            unit |= bits.unit;
        }
    }
    (path, unit)
}

#[inline(always)]
pub(crate) fn get<K>(map: &aya_ebpf::maps::HashMap<K, u64>, key: K) -> u64 {
    // SAFETY: an aligned word, read once.
    unsafe { map.get(key) }.copied().unwrap_or(0)
}
