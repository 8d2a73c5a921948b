//! Reads the kernel's structures, at offsets that the agent found in its type information.
//!
//! A pointer that cannot be read gives zero: what is not known is then decided by the caller.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{bpf_get_current_task, bpf_probe_read_kernel},
};
use interlock_agent_common::FileId;

use crate::maps::offset;

/// A kernel pointer.
pub(crate) type Pointer = *const u8;

#[inline(always)]
fn read<T: Default>(base: Pointer, offset: usize) -> T {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast::<T>()) }.unwrap_or_default()
}

#[inline(always)]
fn pointer(base: Pointer, offset: usize) -> Pointer {
    read::<u64>(base, offset) as Pointer
}

#[inline(always)]
pub(crate) fn current() -> Task {
    // SAFETY: no arguments.
    Task(unsafe { bpf_get_current_task() } as Pointer)
}

/// A `task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) Pointer);

impl Task {
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        read(self.0, offset!(task_tgid))
    }

    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        read(self.0, offset!(task_pid))
    }

    /// When its process was started, in nanoseconds since boot.
    #[inline(always)]
    pub(crate) fn start(self) -> u64 {
        read(pointer(self.0, offset!(task_group_leader)), offset!(task_start_boottime))
    }

    #[inline(always)]
    pub(crate) fn exec_id(self) -> u64 {
        read(self.0, offset!(task_self_exec_id))
    }

    #[inline(always)]
    pub(crate) fn parent(self) -> u32 {
        Task(pointer(self.0, offset!(task_real_parent))).tgid()
    }

    /// Real user and group, as the initial user namespace has them.
    #[inline(always)]
    pub(crate) fn owner(self) -> (u32, u32) {
        let cred = pointer(self.0, offset!(task_cred));
        (read(cred, offset!(cred_uid)), read(cred, offset!(cred_gid)))
    }

    /// The audit login user id; `u32::MAX` where none is set.
    #[inline(always)]
    pub(crate) fn login(self) -> u32 {
        let at = offset!(task_loginuid);
        if at == 0 { u32::MAX } else { read(self.0, at) }
    }

    /// Threads of its process that have not ended.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> u32 {
        read(pointer(self.0, offset!(task_signal)), offset!(signal_live))
    }

    /// Its cgroup in the unified hierarchy.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> Cgroup {
        Cgroup(pointer(pointer(self.0, offset!(task_cgroups)), offset!(css_set_dfl_cgrp)))
    }

    /// The file it executes; null for kernel threads.
    #[inline(always)]
    pub(crate) fn exe(self) -> File {
        let mm = pointer(self.0, offset!(task_mm));
        if mm.is_null() { File(mm) } else { File(pointer(mm, offset!(mm_exe_file))) }
    }

    /// Where its arguments begin and end, in its own memory.
    #[inline(always)]
    pub(crate) fn arguments(self) -> (u64, u64) {
        let mm = pointer(self.0, offset!(task_mm));
        (read(mm, offset!(mm_arg_start)), read(mm, offset!(mm_arg_end)))
    }
}

/// A `struct file`.
#[derive(Clone, Copy)]
pub(crate) struct File(pub(crate) Pointer);

impl File {
    #[inline(always)]
    pub(crate) fn id(self) -> FileId {
        if self.0.is_null() {
            return FileId { ino: 0, dev: 0 };
        }
        let inode = pointer(self.0, offset!(file_inode));
        let sb = pointer(inode, offset!(inode_sb));
        FileId { ino: read(inode, offset!(inode_ino)), dev: u64::from(read::<u32>(sb, offset!(super_dev))) }
    }

    /// Whether it was opened to be executed.
    #[inline(always)]
    pub(crate) fn is_for_exec(self) -> bool {
        const FMODE_EXEC: u32 = 0x20;
        read::<u32>(self.0, offset!(file_flags)) & FMODE_EXEC != 0
    }

    /// The letters that its name begins with, at most eight: `python` of `python3.11`.
    #[inline(always)]
    pub(crate) fn stem(self) -> [u8; 8] {
        let mut stem = [0; 8];
        if self.0.is_null() {
            return stem;
        }
        let name = pointer(pointer(self.0, offset!(file_dentry)), offset!(dentry_name));
        let bytes: u64 = read(name, 0);
        for (index, to) in stem.iter_mut().enumerate() {
            let byte = (bytes >> (index * 8)) as u8;
            if !byte.is_ascii_alphabetic() {
                break;
            }
            *to = byte;
        }
        stem
    }
}

/// A `linux_binprm`: an exec under way.
#[derive(Clone, Copy)]
pub(crate) struct Exec(pub(crate) Pointer);

impl Exec {
    #[inline(always)]
    pub(crate) fn file(self) -> File {
        File(pointer(self.0, offset!(bprm_file)))
    }

    /// The path as given to exec.
    #[inline(always)]
    pub(crate) fn filename(self) -> Pointer {
        pointer(self.0, offset!(bprm_filename))
    }

    /// Whether `file` is what was asked for, and not its interpreter.
    #[inline(always)]
    pub(crate) fn is_first_stage(self) -> bool {
        pointer(self.0, offset!(bprm_interp)) == self.filename()
    }
}

/// A `struct cgroup`.
#[derive(Clone, Copy)]
pub(crate) struct Cgroup(pub(crate) Pointer);

impl Cgroup {
    #[inline(always)]
    pub(crate) fn id(self) -> u64 {
        read(pointer(self.0, offset!(cgroup_kn)), offset!(kernfs_id))
    }

    #[inline(always)]
    pub(crate) fn name(self) -> Pointer {
        pointer(pointer(self.0, offset!(cgroup_kn)), offset!(kernfs_name))
    }

    /// Levels below the root.
    #[inline(always)]
    pub(crate) fn level(self) -> u32 {
        read(self.0, offset!(cgroup_level))
    }

    /// Id of the ancestor (or itself) at a level.
    #[inline(always)]
    pub(crate) fn ancestor_id(self, level: u32) -> u64 {
        let cell = read::<u64>(self.0, offset!(cgroup_ancestors) + 8 * level as usize);
        if offset!(cgroup_ancestors_are_pointers) == 0 { cell } else { Cgroup(cell as Pointer).id() }
    }

    /// Whether it is of the unified hierarchy, and not of a version 1 controller's.
    #[inline(always)]
    pub(crate) fn is_unified(self) -> bool {
        read::<u32>(pointer(self.0, offset!(cgroup_root)), offset!(root_hierarchy_id)) == 0
    }
}

/// A socket as the kernel has it. The verifier lets nobody reckon with a socket's pointer; its copy is
/// just a number.
#[inline(always)]
fn sock(socket: *const bpf_sock) -> Pointer {
    let kept = socket;
    // SAFETY: the helper reads from this function's stack.
    unsafe { bpf_probe_read_kernel((&raw const kept).cast::<u64>()) }.unwrap_or_default() as Pointer
}

/// Inode number of a socket's network namespace.
#[inline(always)]
pub(crate) fn netns(socket: *const bpf_sock) -> u32 {
    read(pointer(sock(socket), offset!(sock_net)), offset!(net_inum))
}

/// Whether a socket has IP options or (`v6`) extension headers, by which its packets may go another
/// way than to their destination.
#[inline(always)]
pub(crate) fn is_rerouted(socket: *const bpf_sock, v6: bool) -> bool {
    let sock = sock(socket);
    if !pointer(sock, offset!(inet_options)).is_null() {
        return true;
    }
    let (pinet6, options) = (offset!(inet_pinet6), offset!(ipv6_options));
    if !v6 || pinet6 == 0 || options == 0 {
        return false;
    }
    let own = pointer(sock, pinet6);
    !own.is_null() && !pointer(own, options).is_null()
}
