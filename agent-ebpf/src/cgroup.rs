//! Finds selected cgroups among those made while the programs run, before a process can be in them.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use interlock_agent_common::{CgroupBits, Counter};

use crate::{
    designate::get,
    kernel::{Cgroup, Pointer},
    maps::{CGROUP_PATHS, CGROUPS, CGROUPS_LOST, UNITS, count, rules},
    process::hash_text,
};

/// A cgroup is made; nobody can see it yet.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let cgroup = Cgroup(ctx.arg::<Pointer>(0));
    let Some(rules) = rules() else { return 0 };
    if rules.active & !(rules.any_cgroup & rules.any_unit) == 0 || !cgroup.is_unified() {
        return 0;
    }
    let bits = CgroupBits {
        path: get(&CGROUP_PATHS, hash_text(ctx.arg::<Pointer>(1))),
        unit: get(&UNITS, hash_text(cgroup.name())),
    };
    if bits.path | bits.unit != 0 && CGROUPS.insert(cgroup.id(), bits, 0).is_err() {
        // Who is in it cannot be known any more: until the agent has made room everybody is.
        count(Counter::CgroupsLost);
        if let Some(lost) = CGROUPS_LOST.get_ptr_mut(0) {
            // SAFETY: a value of the map; cgroups are made one at a time.
            unsafe { *lost += 1 };
        }
    }
    0
}

/// A cgroup is gone.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    let cgroup = Cgroup(ctx.arg::<Pointer>(0));
    if cgroup.is_unified() {
        let _ = CGROUPS.remove(cgroup.id());
    }
    0
}
