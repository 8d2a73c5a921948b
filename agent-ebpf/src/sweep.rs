//! Goes over the processes that are there already: those that the selection takes in, and their
//! descendants. The agent runs it after each change of the selection, until it finds nothing new.

use core::ffi::c_void;

use crate::{
    designate::{Hierarchy, Writer, designate, is_agent, process, stick},
    kernel::{Pointer, Task},
    maps::{PROCESSES, SWEPT, rules},
};

/// Called for each thread of the system, and once more with no thread at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn sweep(ctx: *mut c_void) -> i32 {
    // SAFETY: `struct bpf_iter__task` is two pointers: of the iteration, and of the task.
    let task = unsafe { *ctx.cast::<Pointer>().add(1) };
    if !task.is_null() {
        let _ = visit(Task(task));
    }
    0
}

#[inline(always)]
fn visit(task: Task) -> Option<()> {
    let tgid = task.tgid();
    if task.pid() != tgid || is_agent(tgid) || task.live_threads() == 0 || task.exe().0.is_null() {
        return None;
    }
    let rules = rules()?;
    let known = process(rules, task, tgid);
    if known.is_null() {
        return None;
    }
    // SAFETY: a value of the map.
    let process = unsafe { &mut *known };
    // Bits without a meaning go, so that they can be given another.
    for word in [&mut process.inherited, &mut process.swept, &mut process.moved] {
        if *word & !rules.assigned != 0 {
            *word &= rules.assigned;
        }
    }
    let before = process.lasting();
    designate(rules, known, task, tgid, Hierarchy::Structure, Writer::Sweep);
    // SAFETY: read once.
    if let Some(parent) = unsafe { PROCESSES.get(task.parent()) } {
        // SAFETY: a value of the map.
        stick(unsafe { &mut *known }, parent.lasting() & rules.descendants, Writer::Sweep);
    }
    // SAFETY: values of the maps.
    unsafe {
        if (*known).lasting() != before {
            if let Some(changes) = SWEPT.get_ptr_mut(0) {
                *changes += 1;
            }
        }
    }
    Some(())
}
