//! Reports to user space.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id,
    generated::{bpf_probe_read_kernel_str, bpf_probe_read_user},
};
use interlock_agent_common::{
    ARGV_MAX, ConnectEvent, Counter, ExecEvent, ExitEvent, FILENAME_MAX, FileId, Kind, Origin, Process,
    Reason,
};

use crate::{
    kernel::{Pointer, Task},
    maps::{EVENTS, EVENTS_SIZE, count},
};

/// Bytes of the buffer that reports of what was refused may fill. The rest is for what is let go: a
/// process that is refused a thousand times must not keep others from being recorded.
const REFUSALS: u64 = EVENTS_SIZE as u64 / 2;

/// Reports a decision on a connection, datagram or socket. `false` when there is no room: one that is
/// to be recorded must not go its way then.
#[inline(always)]
pub(crate) fn connection(kind: Kind, reason: Reason, origin: &Origin, protocol: u32) -> bool {
    const WAITING: u64 = 0; // BPF_RB_AVAIL_DATA
    if kind as u32 != Kind::EgressRecorded as u32 && EVENTS.query(WAITING) > REFUSALS {
        count(Counter::EventsLost);
        return false;
    }
    let Some(mut entry) = EVENTS.reserve::<ConnectEvent>(0) else {
        count(Counter::EventsLost);
        return false;
    };
    entry.write(ConnectEvent {
        kind: kind as u32,
        reason: reason as u32,
        address: origin.address,
        port: origin.port,
        protocol,
        tgid: origin.tgid,
        uid: origin.uid,
        gid: origin.gid,
        netns: origin.netns,
        start: origin.start,
        cgroup: origin.cgroup,
        bits: origin.bits,
        exec_id: origin.exec_id,
    });
    entry.submit(0);
    true
}

/// Reports that the current process has begun a program.
#[inline(always)]
pub(crate) fn exec(task: Task, tgid: u32, process: &Process, bits: u64, filename: Pointer) {
    let Some(mut entry) = EVENTS.reserve::<ExecEvent>(0) else {
        count(Counter::EventsLost);
        return;
    };
    let event = entry.as_mut_ptr();
    let (uid, gid) = task.owner();
    let (begin, end) = task.arguments();
    let mut length = end.wrapping_sub(begin);
    if length > ARGV_MAX as u64 {
        length = ARGV_MAX as u64;
    }
    // SAFETY: all fields of the entry are written, each within its bounds; the helpers check addresses.
    unsafe {
        (*event).kind = Kind::Exec as u32;
        (*event).tgid = tgid;
        (*event).start = process.start;
        (*event).exec_id = process.exec_id;
        (*event).exe = process.exe;
        (*event).script = if process.stages > 1 { process.images[0] } else { FileId { ino: 0, dev: 0 } };
        (*event).parent = task.parent();
        (*event).uid = uid;
        (*event).gid = gid;
        (*event).cgroup = bpf_get_current_cgroup_id();
        (*event).bits = bits;
        let name = (&raw mut (*event).filename).cast::<core::ffi::c_void>();
        if bpf_probe_read_kernel_str(name, FILENAME_MAX as u32, filename.cast()) < 0 {
            (*event).filename[0] = 0;
        }
        let argv = (&raw mut (*event).argv).cast::<core::ffi::c_void>();
        if bpf_probe_read_user(argv, length as u32, begin as *const _) != 0 {
            length = 0;
        }
        (*event).argv_len = length as u32;
    }
    entry.submit(0);
}

/// Reports that a process has ended.
#[inline(always)]
pub(crate) fn exit(tgid: u32, start: u64) {
    let Some(mut entry) = EVENTS.reserve::<ExitEvent>(0) else {
        count(Counter::EventsLost);
        return;
    };
    entry.write(ExitEvent { kind: Kind::Exit as u32, tgid, start });
    entry.submit(0);
}
