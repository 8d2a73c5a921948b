//! Which entries take in a process that has not connected.

use std::path::Path;
use std::sync::PoisonError;

use super::{Interceptor, error::InterceptError, flow};
use crate::identity::Subject;
use crate::policy::EntryId;

impl Interceptor {
    /// The entries that would take in a connection of this process, as the kernel side finds at connect().
    /// With `program` it is looked at as if it ran that one: the path counts as it is written.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn entries_of(
        &self,
        subject: &Subject,
        program: Option<&Path>,
    ) -> Result<Vec<EntryId>, InterceptError> {
        let guard = self.state();
        let (compiled, maps) = (&guard.compiled, &guard.maps);
        let rules = &compiled.rules;
        let process = maps.process(subject.pid);
        let mut left = rules.active;
        left &= rules.any_uid | compiled.uids.get(&subject.uid).copied().unwrap_or(0);
        left &= rules.any_gid | compiled.gids.get(&subject.gid).copied().unwrap_or(0);
        left &= rules.any_run
            | match process.as_ref().map(|process| process.run).filter(|run| *run != 0) {
                Some(run) => rules.every_run | compiled.runs.get(&run).copied().unwrap_or(0),
                None => 0,
            };
        let mut exe = match &process {
            Some(process) => maps.by_exe(process, &guard.exes),
            None => u64::MAX,
        };
        if let Some(program) = program {
            exe = compiled.exes.get(program).copied().unwrap_or(0);
        }
        left &= rules.any_exe | exe;
        let (mut path, mut unit) = (0, 0);
        for (cgroup, bits) in &compiled.cgroups {
            let below = subject.cgroup.strip_prefix(cgroup.trim_end_matches('/'));
            if below.is_some_and(|below| below.is_empty() || below.starts_with('/')) {
                path |= bits;
            }
        }
        for name in subject.cgroup.split('/') {
            unit |= compiled.units.get(name).copied().unwrap_or(0);
        }
        left &= rules.any_cgroup | path;
        left &= rules.any_unit | unit;
        let lasting = process.map_or(0, |process| process.lasting());
        let bits = self.bits.read().unwrap_or_else(PoisonError::into_inner);
        Ok(flow::entries(&bits, (left | lasting) & rules.active))
    }
}
