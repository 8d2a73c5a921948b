//! User and group names, by the host's own name service.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Gid, Group, Uid, User};

/// The name of a user id; `None` when the host knows none.
///
/// # Errors
/// The name service cannot tell.
pub fn user_name(uid: u32) -> io::Result<Option<String>> {
    Ok(User::from_uid(Uid::from_raw(uid))?.map(|user| user.name))
}

/// The name of a group id; `None` when the host knows none.
///
/// # Errors
/// The name service cannot tell.
pub fn group_name(gid: u32) -> io::Result<Option<String>> {
    Ok(Group::from_gid(Gid::from_raw(gid))?.map(|group| group.name))
}

/// The user id of a name or number; `None` when the host knows no user of this name.
///
/// # Errors
/// The name service cannot tell.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(uid) = name.parse() {
        return Ok(Some(uid));
    }
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}

/// The group id of a name or number; `None` when the host knows no group of this name.
///
/// # Errors
/// The name service cannot tell.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// Names that were found, by id: where the name service is away for a while they still hold.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl Names {
    /// A user's name; empty when there is none.
    ///
    /// # Errors
    /// The name service cannot tell, and never did.
    pub(super) fn user(&self, uid: u32) -> io::Result<String> {
        remembered(&self.users, uid, user_name(uid))
    }

    /// A group's name; empty when there is none.
    ///
    /// # Errors
    /// As for [`Names::user`].
    pub(super) fn group(&self, gid: u32) -> io::Result<String> {
        remembered(&self.groups, gid, group_name(gid))
    }
}

fn remembered(
    names: &Mutex<HashMap<u32, String>>,
    id: u32,
    found: io::Result<Option<String>>,
) -> io::Result<String> {
    /// Names that are remembered; when there are more the memory starts afresh.
    const MOST: usize = 4096;
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    match found {
        Ok(Some(name)) => {
            if names.len() >= MOST {
                names.clear();
            }
            names.insert(id, name.clone());
            Ok(name)
        }
        // Some name services say "nobody" when they cannot tell.
        Ok(None) => Ok(names.get(&id).cloned().unwrap_or_default()),
        Err(error) => names.get(&id).cloned().ok_or(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_a_number_stands_for_itself() {
        assert_eq!(user_name(0).unwrap().unwrap(), "root");
        assert_eq!(group_name(0).unwrap().unwrap(), "root");
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(user_id("4242").unwrap(), Some(4242));
        assert_eq!(user_id("no such user").unwrap(), None);
        assert_eq!(group_id("no such group").unwrap(), None);
    }

    #[test]
    fn a_name_holds_while_the_name_service_is_away() {
        let names = Mutex::default();
        let away = || Err(io::Error::other("no answer"));
        assert!(remembered(&names, 1, away()).is_err());
        assert_eq!(remembered(&names, 1, Ok(None)).unwrap(), "");
        assert_eq!(remembered(&names, 1, Ok(Some("deploy".to_owned()))).unwrap(), "deploy");
        assert_eq!(remembered(&names, 1, away()).unwrap(), "deploy");
        assert_eq!(remembered(&names, 1, Ok(None)).unwrap(), "deploy");
        assert!(remembered(&names, 2, away()).is_err());
    }
}
