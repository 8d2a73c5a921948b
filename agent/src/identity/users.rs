//! User and group names, by the host's own name service.

use nix::unistd::{Gid, Group, Uid, User};

/// The name of a user id; empty when the host knows none.
pub fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name).unwrap_or_default()
}

/// The name of a group id; empty when the host knows none.
pub fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name).unwrap_or_default()
}

/// The user id of a name or number; `None` when the host knows no user of this name.
pub fn user_id(name: &str) -> Option<u32> {
    if let Ok(uid) = name.parse() {
        return Some(uid);
    }
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The group id of a name or number; `None` when the host knows no group of this name.
pub fn group_id(name: &str) -> Option<u32> {
    if let Ok(gid) = name.parse() {
        return Some(gid);
    }
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_a_number_stands_for_itself() {
        assert_eq!(user_name(0), "root");
        assert_eq!(group_name(0), "root");
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_id("4242"), Some(4242));
        assert_eq!(user_id("no such user"), None);
        assert_eq!(group_id("no such group"), None);
    }
}
