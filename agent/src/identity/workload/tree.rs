//! A process and its parents of the same user, with their environments as the kernel shows them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zeroize::Zeroizing;

use super::holder::{Holder, POD, Process};
use crate::identity::ancestors::Stat;
use crate::identity::cgroup;
use crate::identity::process::{Known, TICK_NS, memory};

/// Most processes of a tree that are looked at.
const MAX_LINKS: usize = 32;

/// Most parents that are followed to one that may have handed down its environment.
const MAX_ANCESTORS: usize = 256;

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
    /// How many process namespaces deep it is: 1 on the host itself.
    pub(super) depth: usize,
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
        // The containers of a pod share its tokens, and no namespace of files.
        if let Some(pod) = self.pod() {
            return format!("{POD}{pod}");
        }
        let mounts = self.mounts;
        match container(&self.cgroup, is_of_root) {
            Some(id) => format!("container {id} in mount namespace {mounts}"),
            None => format!("user {} in mount namespace {mounts}", self.account.uid),
        }
    }

    /// The pod's UID, if it runs in one.
    pub(super) fn pod(&self) -> Option<String> {
        pod(&self.cgroup, is_of_root)
    }

    /// Another process tree of the same user that shows what `shown` tells, and that whoever holds this
    /// does not share it with. Reads the environments of all of the user's processes.
    pub(super) fn rival(&self, shown: &Shown, holder: &Holder) -> Option<Holder> {
        let own = |pid: i32| self.links.iter().any(|link| link.process.pid == pid);
        let in_container = self.is_in_container();
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| !own(*pid)).find_map(|pid| {
            let account = Account::of(pid).filter(|account| account.uid == self.account.uid)?;
            // What starts a container hands it its environment, and shows it as well. Anybody can make process
            // namespaces, so that alone being outside of them is nothing.
            if account.depth < self.account.depth && (in_container || self.descends_from(pid)) {
                return None;
            }
            let environment = Zeroizing::new(memory(pid, "environ").ok()?);
            if !environment.split(|byte| *byte == 0).any(|entry| shown.is_in(entry)) {
                return None;
            }
            let known = Known { pid: pid.unsigned_abs(), uid: account.uid, ..Known::default() };
            let tree = Self::of(&known)?;
            let (value, link) = tree.variable(&shown.variable)?;
            let other = tree.holder(link);
            let is_rival = shown.is(value) && !holder.shares_with(&other);
            // What a job has left running beside it takes nothing away from it.
            let left = link.parent.pid <= 1 && tree.cgroup == self.cgroup && !holder.is_left();
            (is_rival && !left).then_some(other)
        })
    }

    /// It is in a container that a runtime of root's has made, and has no process namespace of its own making.
    fn is_in_container(&self) -> bool {
        let made = self.pod().is_some() || container(&self.cgroup, is_of_root).is_some();
        made && is_in_initial_user_namespace(self.pid())
    }

    /// Whether a process has started this one, itself or by others that are still there.
    fn descends_from(&self, pid: i32) -> bool {
        let Some(own) = self.links.first() else { return false };
        let mut below = own.process;
        for _ in 0..MAX_ANCESTORS {
            let is_there = |stat: &Stat| stat.start == below.start;
            let Ok(stat) = Stat::of(below.pid) else { return false };
            let parent = stat.parent;
            if !is_there(&stat) || parent <= 1 {
                return false;
            }
            let Ok(above) = Stat::of(parent) else { return false };
            // While it is a process's parent, before and after, its id is not another's.
            if !Stat::of(below.pid).is_ok_and(|after| is_there(&after) && after.parent == parent) {
                return false;
            }
            if parent == pid {
                return true;
            }
            below = Process { pid: parent, start: above.start };
        }
        false
    }

    /// Who holds what a process of the tree shows.
    pub(super) fn holder(&self, link: &Link) -> Holder {
        Holder::Tree {
            top: link.process,
            parent: link.parent,
            uid: self.account.uid,
            cgroup: self.cgroup.clone(),
        }
    }
}

/// A variable with a token, or with what asks for one.
pub(super) struct Shown {
    pub(super) variable: String,
    pub(super) value: Zeroizing<String>,
}

impl Shown {
    /// Whether this is the same secret.
    fn is(&self, value: &str) -> bool {
        stem(value.trim()) == stem(self.value.trim())
    }

    fn is_in(&self, entry: &[u8]) -> bool {
        let value = entry.strip_prefix(self.variable.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.and_then(|value| std::str::from_utf8(value).ok()).is_some_and(|value| self.is(value))
    }
}

/// A token without its signature, which can be written in more than one way; a text that is none whole.
pub(super) fn stem(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((signed, _)) if signed.contains('.') => signed,
        _ => text,
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
        let depth = numbers("NSpid").map_or(1, |ids| ids.len());
        Some(Self {
            uid: *uids.first()?,
            fs_uid: *uids.get(3)?,
            fs_gid: *gids.get(3)?,
            groups: numbers("Groups")?,
            depth,
        })
    }
}

/// Whether a process is in the user namespace that the host began with. Then a process namespace that it is in is of
/// that one too, so that no user has made it: into one of a user's own (`unshare --user --pid`) come only
/// processes that are in that user namespace or in one below (`setns(2)`, `user_namespaces(7)`), and none of them
/// gets out again.
fn is_in_initial_user_namespace(pid: i32) -> bool {
    let of = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/user")).map(|seen| (seen.dev(), seen.ino()));
    // The agent itself is in it: nobody else may load what it has the kernel run.
    matches!((of(&pid.to_string()), of("self")), (Ok(own), Ok(initial)) if own == initial)
}

/// Whether a cgroup's directory is root's. Users may have made cgroups below their own.
fn is_of_root(cgroup: &str) -> bool {
    fs::symlink_metadata(format!("/sys/fs/cgroup{cgroup}")).is_ok_and(|seen| seen.is_dir() && seen.uid() == 0)
}

/// The outermost part of a cgroup's path that `find` finds something in, if the directory is root's.
fn outermost<'c, T>(
    cgroup: &'c str,
    is_of_root: impl Fn(&str) -> bool,
    find: impl Fn(&'c str) -> Option<T>,
) -> Option<T> {
    let mut end = 0;
    for part in cgroup.split('/') {
        end += part.len();
        if let Some(found) = find(part) {
            return Some(found).filter(|_| cgroup.get(..end).is_some_and(&is_of_root));
        }
        end += 1;
    }
    None
}

/// The container's id, where a runtime of root's names its cgroups so.
fn container(cgroup: &str, is_of_root: impl Fn(&str) -> bool) -> Option<&str> {
    const RUNTIMES: [&str; 6] = [
        "/docker/",
        "/system.slice/docker-",
        "/system.slice/containerd.service/",
        "/machine.slice/libpod-",
        "/kubepods.slice/",
        "/kubepods/",
    ];
    if !RUNTIMES.iter().any(|runtime| cgroup.starts_with(runtime)) {
        return None;
    }
    outermost(cgroup, is_of_root, |part| Some(cgroup::container(part)).filter(|id| !id.is_empty()))
}

/// The UID in the name of a pod's cgroup: `kubepods-burstable-pod<UID>.slice`, or `pod<UID>` with cgroupfs,
/// below the directory that is the kubelet's.
fn pod(cgroup: &str, is_of_root: impl Fn(&str) -> bool) -> Option<String> {
    if !["/kubepods.slice/", "/kubepods/"].iter().any(|kubelet| cgroup.starts_with(kubelet)) {
        return None;
    }
    outermost(cgroup, is_of_root, |part| {
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
        let account = Account { uid: 1, fs_uid: 4, fs_gid: 8, groups: vec![9, 10], depth: 1 };
        assert_eq!(Account::parse(status), Some(account));
        assert_eq!(Account::parse(&format!("{status}NSpid:\t77\t1\n")).unwrap().depth, 2);
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
            assert_eq!(pod(&cgroup, |_| true).as_deref(), Some(uid), "{cgroup}");
            assert_eq!(pod(&cgroup, |_| false), None, "{cgroup}");
        }
        assert_eq!(pod("/user.slice/pod-0a1b2c3d", |_| true), None);
        assert_eq!(pod(&format!("/system.slice/pod{uid}"), |_| true), None);
    }

    /// Users make cgroups of any name below those that are theirs.
    #[test]
    fn names_of_a_users_own_are_no_pods_and_no_containers() {
        let (uid, id) = ("0a1b2c3d-0000-1111-2222-333344445555", "4f".repeat(32));
        let own = "/user.slice/user-1000.slice/user@1000.service";
        for within in [own, "/system.slice/kubepods.service", "/system.slice/runner.service", ""] {
            let made = format!("{within}/x-kubepods/pod{uid}/docker-{id}.scope");
            assert_eq!((pod(&made, |_| true), container(&made, |_| true)), (None, None), "{made}");
        }
        let (other, runtime) = ("5e".repeat(32), format!("/system.slice/docker-{id}.scope"));
        assert_eq!(container(&runtime, |_| true), Some(id.as_str()));
        assert_eq!(container(&format!("{runtime}/docker-{other}.scope"), |_| true), Some(id.as_str()));
        assert_eq!(container(&format!("/kubepods/pod{uid}/{id}"), |_| true), Some(id.as_str()));
        assert_eq!(container(&runtime, |path| path != runtime), None, "the directory is not root's");
        let (real, other) = (format!("/kubepods/pod{uid}"), uid.replace('0', "1"));
        let inner = format!("{real}/{id}/kubepods/pod{other}");
        assert_eq!(pod(&inner, |path| path == real).as_deref(), Some(uid), "what is outermost counts");
        assert!(!is_of_root("/no/such/cgroup") && is_of_root(""));
    }

    #[test]
    fn parents_are_followed_to_the_top() {
        let tree = |pid: u32| Tree::of(&Known { pid, ..Known::default() }).unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let (own, below) = (std::process::id(), child.id());
        assert!(tree(below).descends_from(own.cast_signed()));
        assert!(!tree(own).descends_from(below.cast_signed()), "not the other way");
        assert!(!tree(below).descends_from(below.cast_signed()), "it is not its own parent");
        // A process of that id that was started at another time.
        let mut other = tree(below);
        other.links[0].process.start += 1;
        assert!(!other.descends_from(own.cast_signed()));
        assert!(is_in_initial_user_namespace(below.cast_signed()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_in_initial_user_namespace(i32::MAX));
    }

    #[test]
    fn the_same_secret_is_told_however_it_is_written() {
        let shown = |value: &str| Shown { variable: "T".to_owned(), value: value.to_owned().into() };
        let token = shown("header.claims.signature");
        for same in ["T=header.claims.signature", "T= header.claims.signature\n", "T=header.claims.other"] {
            assert!(token.is_in(same.as_bytes()), "{same}");
        }
        for other in ["T=header.other.signature", "TT=header.claims.signature", "X=header.claims.signature"] {
            assert!(!token.is_in(other.as_bytes()), "{other}");
        }
        assert!(shown("opaque").is("opaque") && !shown("a.b").is("a.c"));
    }
}
