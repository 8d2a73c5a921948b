//! The few system calls that no library has, and what the mount table tells.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

#[allow(unsafe_code)]
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are a plain structure, of the size that is passed, as `bpf(2)` has them;
    // what they point to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), std::mem::size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Puts another program in the place of a link's: no connection sees neither or both.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link: i32,
        program: i32,
        flags: u32,
        old_program: u32,
    }
    let mut update =
        Update { link: link.as_raw_fd(), program: program.as_raw_fd(), flags: 0, old_program: 0 };
    bpf(BPF_LINK_UPDATE, &mut update).map(drop)
}

/// Takes a link's program off its cgroup. Without this it goes some time after the last reference to
/// the link has gone. Links of other kinds know nothing of it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Detach {
        link: i32,
    }
    match bpf(BPF_LINK_DETACH, &mut Detach { link: link.as_raw_fd() }) {
        Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error),
        _ => Ok(()),
    }
}

/// Opens what is pinned at a path.
#[allow(unsafe_code)]
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &mut get)?;
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What the kernel tells of a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) program: u32,
}

/// Asks about a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        rest: [u32; 29],
    }
    #[repr(C)]
    struct Ask {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = Info { kind: 0, id: 0, program: 0, rest: [0; 29] };
    let mut ask = Ask {
        fd: link.as_raw_fd() as u32,
        length: std::mem::size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask)?;
    Ok(LinkInfo { id: info.id, program: info.program })
}

/// Waits until every program that runs now has ended: they run as RCU readers, and this waits for all
/// of these. Where the kernel cannot (`nohz_full`), a moment must do.
#[allow(unsafe_code)]
pub(super) fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1; // MEMBARRIER_CMD_GLOBAL
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A fanotify group that is asked before files are opened.
#[allow(unsafe_code)]
pub(super) fn open_watch() -> io::Result<OwnedFd> {
    const FLAGS: u32 = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    const EVENT_FLAGS: i32 = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE;
    // SAFETY: no pointers.
    let fd = unsafe { libc::fanotify_init(FLAGS, EVENT_FLAGS as u32) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks to be asked before the file at a path is opened.
#[allow(unsafe_code)]
pub(super) fn watch_file(watch: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    const MASK: u64 = libc::FAN_OPEN_PERM | libc::FAN_OPEN_EXEC_PERM;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a string that outlives the call.
    let result = unsafe {
        libc::fanotify_mark(watch.as_raw_fd(), libc::FAN_MARK_ADD, MASK, libc::AT_FDCWD, path.as_ptr())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over a descriptor that the kernel has put into an event.
#[allow(unsafe_code)]
pub(super) fn event_file(fd: i32) -> Option<OwnedFd> {
    // SAFETY: the kernel opened it for the reader of the event, who asks once.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Moves the calling thread into another network namespace.
pub(super) fn enter_netns(netns: impl AsFd) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(netns.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))
        .map_err(io::Error::from)
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    /// Device of the file system, as the kernel has it: major << 20 | minor.
    pub(super) device: u64,
    /// The directory of the file system that is mounted.
    pub(super) root: PathBuf,
    pub(super) path: PathBuf,
    pub(super) kind: String,
}

/// The mount table of this process.
pub(super) fn mounts() -> io::Result<Vec<Mount>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(mount).collect())
}

/// Format: proc(5), `/proc/[pid]/mountinfo`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
    let device = major.parse::<u64>().ok()? << 20 | minor.parse::<u64>().ok()?;
    let root = unescape(fields.next()?);
    let path = unescape(fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, device, root, path, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Blanks and the like stand in the table as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Makes sure that a directory for pins can stand at a path, mounting a BPF file system if need be.
pub(super) fn ensure_bpffs(pins: &Path) -> io::Result<()> {
    if on_bpffs(pins)? {
        return Ok(());
    }
    let parent = pins.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    rustix::mount::mount("bpf", parent, "bpf", rustix::mount::MountFlags::empty(), c"mode=0700")?;
    if on_bpffs(pins)? { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn on_bpffs(pins: &Path) -> io::Result<bool> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let mut path = pins;
    loop {
        match rustix::fs::statfs(path) {
            Ok(found) => return Ok(found.f_type == BPF_FS_MAGIC),
            Err(rustix::io::Errno::NOENT) => path = path.parent().unwrap_or(Path::new("/")),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_read() {
        let line = br"41 31 0:38 / /sys/fs/cgroup\040x rw,relatime shared:1 master:2 - cgroup2 cgroup2 rw";
        let found = mount(line).unwrap();
        assert_eq!(found.id, 41);
        assert_eq!(found.device, 38);
        assert_eq!(found.path, Path::new("/sys/fs/cgroup x"));
        assert_eq!(found.kind, "cgroup2");
        assert_eq!(mount(b"41 31 0:38"), None);
        assert_eq!(mount(b""), None);
    }

    #[test]
    fn a_backslash_without_digits_stays() {
        assert_eq!(unescape(br"a\b\134\04"), Path::new(r"a\b\\04"));
    }
}
