//! The last selection that was in force, kept over restarts of the host.
//!
//! What is pinned in the kernel is gone after a restart. With this file the agent can refuse what is
//! designated before it has opened its recording and read its policies, and when it cannot do either.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::intercept::Selection;

const FILE: &str = "selection.json";

/// Reads what was kept; `None` when there is nothing that can be used.
pub(super) fn load(state: &Path) -> Option<Selection> {
    let path = state.join(FILE);
    match read(&path) {
        Ok(selection) => Some(selection),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the last selection cannot be used");
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Selection> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let found = file.metadata()?;
    if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than the agent's user could have written it"));
    }
    serde_json::from_reader(io::BufReader::new(file)).map_err(io::Error::from)
}

/// Keeps a selection, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub(super) fn save(state: &Path, selection: &Selection) -> io::Result<()> {
    let fresh = state.join("selection.json.new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(selection)?)?;
    file.sync_all()?;
    fs::rename(&fresh, state.join(FILE))
}

/// Entries whose user or group cannot be found now keep the number that they last had: a directory
/// service that does not know a user for a while must not let its processes out.
pub(super) fn keep_numbers(mut selection: Selection, last: Option<&Selection>) -> Selection {
    for entry in selection.entries.iter_mut().filter(|entry| entry.impossible) {
        let known = last.and_then(|last| last.entries.iter().find(|old| old.id == entry.id));
        if let Some(known) = known.filter(|known| !known.impossible) {
            tracing::warn!(
                uid = known.uid,
                gid = known.gid,
                "a user or group of a process entry is not known now: the number that it last had counts"
            );
            entry.uid = known.uid;
            entry.gid = known.gid;
            entry.impossible = false;
        }
    }
    selection
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::Entry;
    use crate::policy::{Egress, EntryId};

    fn entry(id: u8, uid: Option<u32>, impossible: bool) -> Entry {
        Entry {
            id: EntryId([id; 16]),
            uid,
            gid: None,
            exe: None,
            cgroup: None,
            unit: None,
            run: None,
            descendants: true,
            impossible,
            destinations: Vec::new(),
            egress: Egress::Deny,
            resolvers: true,
        }
    }

    #[test]
    fn a_selection_is_kept_and_only_the_agents_own_is_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), None);
        let selection = Selection { entries: vec![entry(1, Some(1000), false)] };
        save(dir.path(), &selection).unwrap();
        save(dir.path(), &selection).unwrap();
        assert_eq!(load(dir.path()), Some(selection));
        let path = dir.path().join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(load(dir.path()), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "{").unwrap();
        assert_eq!(load(dir.path()), None);
    }

    #[test]
    fn a_user_who_is_not_known_now_keeps_his_number() {
        let last = Selection { entries: vec![entry(1, Some(1000), false), entry(2, None, true)] };
        let now =
            Selection { entries: vec![entry(1, None, true), entry(2, None, true), entry(3, None, true)] };
        let kept = keep_numbers(now.clone(), Some(&last));
        assert_eq!(kept.entries[0], entry(1, Some(1000), false));
        assert!(kept.entries[1].impossible && kept.entries[2].impossible);
        assert_eq!(keep_numbers(now.clone(), None), now);
    }
}
