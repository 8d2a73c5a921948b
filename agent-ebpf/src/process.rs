//! Follows processes: fork, exec, exit, and moves between cgroups.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_kernel_str},
    macros::{fentry, raw_tracepoint},
    programs::{FEntryContext, RawTracePointContext},
};
use interlock_agent_common::{
    Counter, FileId, IMAGES_MAX, PROCESS_IMAGES, PROCESS_INTERPRETER, PROCESS_LOGIN, PROCESS_REPORTED,
    PROCESS_UNKNOWN, Process, Stages, TEXT_MAX, fold, seed,
};

use crate::{
    designate::{Hierarchy, Writer, designate, get, interpreter_flag, is_agent, keep, process, see_login},
    event,
    kernel::{Exec, File, Pointer, Task, current},
    maps::{
        AGENT, ARGUMENTS, EXES, MARKS, PENDING, PROCESSES, SCRATCH, STAGED, count, exec_stages_seen, rules,
    },
};

/// A process has forked: the child is what its parent is.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    let _ = fork(Task(ctx.arg::<Pointer>(0)), Task(ctx.arg::<Pointer>(1)));
    0
}

#[inline(always)]
fn fork(parent: Task, child: Task) -> Option<()> {
    let (parent_id, child_id) = (parent.tgid(), child.tgid());
    if parent_id == child_id {
        return None; // a thread
    }
    let rules = rules()?;
    let _ = ARGUMENTS.remove(child_id);
    let _ = MARKS.remove(child_id);
    // SAFETY: integers only.
    let mut new: Process = unsafe { core::mem::zeroed() };
    if !is_agent(parent_id) {
        let known = process(rules, parent, parent_id);
        if known.is_null() {
            new.inherited = rules.descendants;
            new.flags = PROCESS_UNKNOWN;
        } else {
            designate(rules, known, parent, parent_id, Hierarchy::Structure, Writer::Own);
            // SAFETY: a value of the map.
            new = unsafe { *known };
            new.inherited = new.lasting();
            new.swept = 0;
            new.moved = 0;
        }
    }
    new.inherited &= rules.assigned;
    new.flags &= !PROCESS_REPORTED;
    new.start = child.start();
    see_login(&mut new, child);
    keep(child_id, &new);
    Some(())
}

/// One file of an exec is about to be looked at: the script first, then its interpreter.
#[fentry(function = "security_bprm_check")]
pub fn exec_stage(ctx: FEntryContext) -> i32 {
    let exec = Exec(ctx.arg::<Pointer>(0));
    let key = bpf_get_current_pid_tgid();
    let image = exec.file().id();
    if exec.is_first_stage() {
        // SAFETY: integers only.
        let mut stages: Stages = unsafe { core::mem::zeroed() };
        stages.images[0] = image;
        stages.count = 1;
        if PENDING.insert(key, stages, 0).is_err() {
            let _ = PENDING.remove(key);
        }
        return 0;
    }
    if let Some(stages) = PENDING.get_ptr_mut(key) {
        // SAFETY: a value of the map, under the current thread's own key.
        let stages = unsafe { &mut *stages };
        let index = stages.count as usize;
        // While an agent replaces another, both programs are there for a moment.
        if index > 0 && index < IMAGES_MAX && stages.images[(index - 1) % IMAGES_MAX] != image {
            stages.images[index] = image;
            stages.count = index as u32 + 1;
        }
    }
    0
}

/// An exec has succeeded.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let _ = exec(Task(ctx.arg::<Pointer>(0)), ctx.arg::<u32>(1), Exec(ctx.arg::<Pointer>(2)));
    0
}

#[inline(always)]
fn exec(task: Task, old_thread: u32, exec: Exec) -> Option<()> {
    let tgid = task.tgid();
    let key = u64::from(tgid) << 32 | u64::from(old_thread);
    if is_agent(tgid) {
        let _ = PENDING.remove(key);
        return None;
    }
    let rules = rules()?;
    let exec_id = task.exec_id();
    let known = process(rules, task, tgid);
    if known.is_null() {
        let _ = PENDING.remove(key);
        return None;
    }
    // What took the old program in sticks, whatever the new one is. (For a process of before the
    // programs the old one is not known any more.)
    // SAFETY: a value of the map.
    let process = unsafe { &mut *known };
    // SAFETY: a value of the map, copied at once.
    let stages = unsafe { PENDING.get(key) }.copied();
    let _ = PENDING.remove(key);
    if process.exec_id == exec_id && stages.is_none() {
        return None; // the other of two programs, while an agent replaces another
    }
    designate(rules, known, task, tgid, Hierarchy::Structure, Writer::Own);
    see_login(process, task);

    let file = exec.file();
    let mut flags =
        PROCESS_IMAGES | interpreter_flag(file) | process.flags & (PROCESS_REPORTED | PROCESS_LOGIN);
    process.exe = file.id();
    match stages {
        Some(stages) => {
            process.images = stages.images;
            process.stages = stages.count;
        }
        None => {
            process.stages = 1;
            // SAFETY: integers only.
            process.images = unsafe { core::mem::zeroed() };
            process.images[0] = file.id();
            if exec_stages_seen() {
                flags |= PROCESS_UNKNOWN;
            }
            // SAFETY: a value of the map; nobody changes it while this process runs.
            if let Some(staged) = unsafe { STAGED.get(tgid) } {
                for index in 1..IMAGES_MAX {
                    process.images[index] = staged.images[index - 1];
                }
                let _ = STAGED.remove(tgid);
            }
        }
    }
    process.path = hash_text(exec.filename());
    process.exec_id = exec_id;
    process.flags = flags;

    let bits = designate(rules, known, task, tgid, Hierarchy::Structure, Writer::Own);
    if bits != 0 {
        count(Counter::Execs);
        process.flags = flags | PROCESS_REPORTED;
        event::exec(task, tgid, process, bits, exec.filename());
    }
    Some(())
}

/// A file is opened: an interpreter that opens a selected file is taken to run it.
#[fentry(function = "security_file_open")]
pub fn file_open(ctx: FEntryContext) -> i32 {
    let _ = open(File(ctx.arg::<Pointer>(0)));
    0
}

#[inline(always)]
fn open(file: File) -> Option<()> {
    let rules = rules()?;
    if rules.active & !rules.any_exe == 0 {
        return None;
    }
    let image = file.id();
    if get(&EXES, image) == 0 || file.is_for_exec() {
        return None;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if is_agent(tgid) {
        return None;
    }
    let known = process(rules, current(), tgid);
    if known.is_null() {
        return None;
    }
    // SAFETY: a value of the map.
    let process = unsafe { &mut *known };
    if process.flags & PROCESS_INTERPRETER == 0 {
        return None;
    }
    for slot in &mut process.images {
        if *slot == image {
            return None;
        }
        if slot.ino == 0 {
            *slot = FileId { ..image };
            return None;
        }
    }
    process.flags |= PROCESS_UNKNOWN; // no room to say what it runs
    Some(())
}

/// A thread has ended.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    let task = Task(ctx.arg::<Pointer>(0));
    let tgid = task.tgid();
    let _ = PENDING.remove(u64::from(tgid) << 32 | u64::from(task.pid()));
    if task.live_threads() != 0 {
        return 0;
    }
    if is_agent(tgid) {
        // From this moment on what would be redirected is refused.
        if let Some(agent) = AGENT.get_ptr_mut(0) {
            // SAFETY: a value of the map.
            unsafe { (*agent).tgid = 0 };
        }
    }
    if let Some(known) = PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: a value of the map.
        let (flags, start) = unsafe { ((*known).flags, (*known).start) };
        if flags & PROCESS_REPORTED != 0 {
            event::exit(tgid, start);
        }
        let _ = PROCESSES.remove(tgid);
    }
    let _ = ARGUMENTS.remove(tgid);
    let _ = MARKS.remove(tgid);
    let _ = STAGED.remove(tgid);
    0
}

/// A process has been moved to another cgroup: what takes it in there sticks even if it leaves again
/// at once.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub fn cgroup_attach(ctx: RawTracePointContext) -> i32 {
    let task = Task(ctx.arg::<Pointer>(2));
    let tgid = task.tgid();
    if let Some(rules) = rules() {
        // One that has ended can still be moved, but does nothing any more.
        let asked = rules.active & !(rules.any_cgroup & rules.any_unit) != 0;
        if asked && !is_agent(tgid) && task.live_threads() != 0 {
            let known = process(rules, task, tgid);
            designate(rules, known, task, tgid, Hierarchy::Structure, Writer::Mover);
        }
    }
    0
}

/// The hash of a text of the kernel's; 0 when it is empty or too long.
#[inline(always)]
pub(crate) fn hash_text(text: Pointer) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: the scratch is this processor's own; the helper writes at most its size.
    let length = unsafe {
        bpf_probe_read_kernel_str((&raw mut (*scratch).text).cast(), (TEXT_MAX + 1) as u32, text.cast())
    };
    if length <= 1 || length > TEXT_MAX as i64 {
        return 0;
    }
    let length = length as usize - 1;
    let mut state = seed();
    for index in 0..TEXT_MAX.div_ceil(8) {
        if index * 8 >= length {
            break;
        }
        // SAFETY: within the scratch.
        let mut word = unsafe { (*scratch).text[index] };
        let rest = length - index * 8;
        if rest < 8 {
            word &= (1u64 << (rest * 8)) - 1;
        }
        state = fold(state, u64::from_le(word));
    }
    state
}
