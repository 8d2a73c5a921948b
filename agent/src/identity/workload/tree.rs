//! A process and its parents of the same user, with their environments as the kernel shows them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zeroize::Zeroizing;

use super::bind::Process;
use crate::identity::ancestors::Stat;
use crate::identity::cgroup;
use crate::identity::process::{Known, TICK_NS, memory};

/// Most processes of a tree that are looked at.
const MAX_LINKS: usize = 32;

/// A process of the tree.
pub(super) struct Link {
    pub(super) process: Process,
    pub(super) parent: Process,
    environment: Zeroizing<Vec<u8>>,
}

/// Who a process is to the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) fs_uid: u32,
    pub(super) fs_gid: u32,
    pub(super) groups: Vec<u32>,
}

/// A process and what leads up to it.
pub(super) struct Tree {
    /// Nearest first; the process itself is the first.
    pub(super) links: Vec<Link>,
    pub(super) account: Account,
    pub(super) cgroup: String,
    /// The mount namespace, by its inode number.
    pub(super) mounts: u64,
}

impl Tree {
    /// Reads it; `None` when the process has gone.
    pub(super) fn of(known: &Known) -> Option<Self> {
        let pid = i32::try_from(known.pid).ok()?;
        let stat = Stat::of(pid).ok()?;
        if known.start_time_ns != 0 && stat.start != known.start_time_ns / TICK_NS {
            return None;
        }
        let account = Account::of(pid)?;
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned();
        let mounts = fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino();
        let mut links = Vec::new();
        let (mut pid, mut stat) = (pid, stat);
        while links.len() < MAX_LINKS {
            let above = Stat::of(stat.parent).ok();
            let start = above.map_or(0, |above| above.start);
            links.push(Link {
                process: Process { pid, start: stat.start },
                parent: Process { pid: stat.parent, start },
                environment: Zeroizing::new(memory(pid, "environ").unwrap_or_default()),
            });
            let Some(above) = above.filter(|_| stat.parent > 1) else { break };
            // Another user's environment is nothing that this one holds.
            if Account::of(stat.parent).is_none_or(|other| other.uid != account.uid) {
                break;
            }
            (pid, stat) = (stat.parent, above);
        }
        Some(Self { links, account, cgroup, mounts })
    }

    /// The process that it was read of is still the same one.
    pub(super) fn is_still_there(&self) -> bool {
        self.links
            .first()
            .is_some_and(|own| Stat::of(own.process.pid).is_ok_and(|stat| stat.start == own.process.start))
    }

    pub(super) fn pid(&self) -> i32 {
        self.links.first().map_or(0, |own| own.process.pid)
    }

    /// The value that the nearest process with this variable has, and the topmost process that has the same.
    pub(super) fn variable(&self, name: &str) -> Option<(&str, &Link)> {
        let value = self.links.iter().find_map(|link| link.variable(name))?;
        let topmost = self.links.iter().rev().find(|link| link.variable(name) == Some(value))?;
        Some((value, topmost))
    }

    /// What shares files: the pod, else the container, else the mount namespace.
    pub(super) fn container(&self) -> String {
        if let Some(pod) = pod(&self.cgroup) {
            return format!("pod {pod}");
        }
        match cgroup::container(&self.cgroup) {
            "" => format!("user {} in mount namespace {}", self.account.uid, self.mounts),
            id => format!("container {id}"),
        }
    }

    /// The pod's UID, if it runs in one.
    pub(super) fn pod(&self) -> Option<String> {
        pod(&self.cgroup)
    }
}

impl Link {
    fn variable(&self, name: &str) -> Option<&str> {
        // The last entry has no end where the environment is too long to be read whole.
        let whole = self.environment.strip_suffix(&[0])?;
        let value = whole
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
    }
}

impl Account {
    pub(super) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let numbers = |key: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect()
        };
        let (uids, gids) = (numbers("Uid")?, numbers("Gid")?);
        Some(Self {
            uid: *uids.first()?,
            fs_uid: *uids.get(3)?,
            fs_gid: *gids.get(3)?,
            groups: numbers("Groups")?,
        })
    }
}

/// The UID in the name of a pod's cgroup: `kubepods-burstable-pod<UID>.slice`, or `pod<UID>` with cgroupfs.
fn pod(cgroup: &str) -> Option<String> {
    let within = cgroup.contains("kubepods");
    let mut parts = cgroup.split('/').filter(|_| within);
    parts.find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let at = part
            .rfind("pod")
            .filter(|at| part.get(..*at).is_some_and(|front| front.is_empty() || front.ends_with('-')))?;
        let uid = part.get(at + 3..)?.replace('_', "-");
        (uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')).then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(environment: &[u8]) -> Link {
        let process = Process { pid: 2, start: 1 };
        Link { process, parent: process, environment: Zeroizing::new(environment.to_vec()) }
    }

    #[test]
    fn variables_are_found_by_their_whole_name() {
        let cut = link(b"TOKEN=abc");
        assert_eq!(cut.variable("TOKEN"), None, "what has no end is cut off");
        let whole = link(b"XTOKEN=no\0TOKENX=no\0TOKEN=a=b\0TOKEN=c\0EMPTY=\0");
        assert_eq!(whole.variable("TOKEN"), Some("a=b"));
        assert_eq!(whole.variable("EMPTY"), None);
        assert_eq!(whole.variable("TOK"), None);
        assert_eq!(link(b"\0\0").variable("TOKEN"), None);
        assert_eq!(link(b"TOKEN=\xff\0").variable("TOKEN"), None);
    }

    #[test]
    fn accounts_and_pods_are_read() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        let account = Account { uid: 1, fs_uid: 4, fs_gid: 8, groups: vec![9, 10] };
        assert_eq!(Account::parse(status), Some(account));
        assert_eq!(Account::parse("Uid:\t1\n"), None);
        let uid = "0a1b2c3d-0000-1111-2222-333344445555";
        for cgroup in [
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-x.scope",
                uid.replace('-', "_")
            ),
            format!("/kubepods/besteffort/pod{uid}/abc"),
            format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_")),
        ] {
            assert_eq!(pod(&cgroup).as_deref(), Some(uid), "{cgroup}");
        }
        assert_eq!(pod("/user.slice/pod-0a1b2c3d"), None);
        assert_eq!(pod(&format!("/system.slice/pod{uid}")), None);
    }
}
