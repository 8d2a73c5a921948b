//! What the kernel side knows of a process's program, to compare with what /proc tells.
//!
//! Most of what /proc shows is the process's own to change: where its executable seems to be (by a mount
//! in a namespace of its own), which file that is (`prctl(PR_SET_MM)`), its arguments, its login user id
//! where none was set. What stands here was noted by the kernel as it happened.

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use interlock_agent_common::{FileId, PROCESS_LOGIN, PROCESS_UNKNOWN, Process};

use super::{error::InterceptError, object::Pins};

/// A process's program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Program {
    /// When the process was started, in nanoseconds since boot.
    pub start_time_ns: u64,
    /// The kernel's count of its execs: another program in the same process has another.
    pub exec_id: u64,
    /// The executable; of a script, its interpreter. `None` when it could not be kept.
    pub exe: Option<FileId>,
    /// The script (`#!`) that was asked for. `None` when it was none, or the kernel does not show it.
    pub script: Option<FileId>,
    /// The audit login user id, if root has set it.
    pub login: Option<u32>,
}

/// Looks up programs by process id.
#[derive(Debug)]
pub struct Programs(BpfHashMap<MapData, u32, Process>);

impl Programs {
    pub(super) fn open(pins: &Pins) -> Result<Self, InterceptError> {
        BpfHashMap::try_from(Map::HashMap(pins.map("PROCESSES")?))
            .map(Self)
            .map_err(InterceptError::map("PROCESSES"))
    }

    /// The program of a process; `None` when it is not known (any more).
    pub fn of(&self, pid: u32) -> Option<Program> {
        self.0.get(&pid, 0).ok().map(|process| program(&process))
    }
}

fn program(process: &Process) -> Program {
    let known = process.flags & PROCESS_UNKNOWN == 0;
    let file = |id: FileId| (known && id.ino != 0).then_some(id);
    let first = process.images.first().copied().unwrap_or_default();
    Program {
        start_time_ns: process.start,
        exec_id: process.exec_id,
        exe: file(process.exe),
        script: file(first).filter(|_| process.stages > 1),
        login: (process.flags & PROCESS_LOGIN != 0 && process.login != u32::MAX).then_some(process.login),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: FileId = FileId { ino: 1, dev: 9 };
    const SHELL: FileId = FileId { ino: 2, dev: 9 };

    #[test]
    fn only_what_was_seen_is_told() {
        let mut process = Process { exe: SHELL, stages: 1, login: 1000, ..Process::default() };
        process.images = [SHELL, SCRIPT, FileId::default(), FileId::default(), FileId::default(), SHELL];
        // It has opened the script, which does not make it the script's.
        assert_eq!(program(&process), Program { exe: Some(SHELL), ..Program::default() });
        process.images[0] = SCRIPT;
        process.stages = 2;
        process.flags = PROCESS_LOGIN;
        let found = program(&process);
        assert_eq!((found.script, found.login), (Some(SCRIPT), Some(1000)));
        process.flags = PROCESS_UNKNOWN;
        assert_eq!(program(&process), Program::default());
    }
}
