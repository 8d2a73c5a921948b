//! Who decides over the control socket, by the kernel's word and the host's own lists of groups.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::person::{Approver, Person};
use crate::identity::users;

/// The person behind process `pid` of user `uid`. `login` is the login user that the kernel side has seen root
/// set for it ([`Reader::login_by_root`]). The caller makes sure that the process is still the one that asks.
///
/// [`Reader::login_by_root`]: crate::identity::Reader::login_by_root
///
/// # Errors
/// The host's name service cannot tell who that is.
pub fn approver(pid: u32, uid: u32, login: Option<u32>) -> io::Result<Approver> {
    let (login_uid, login_session) = (audit(pid, "loginuid")?, audit(pid, "sessionid")?);
    let confirmed = login_uid.is_some() && login_uid == login;
    let person = Person { uid, login_uid, login_session, confirmed };
    let Some(user) = User::from_uid(Uid::from_raw(uid))? else {
        let name = format!("uid {uid}").into();
        return Ok(Approver::on_host(person, name, "".into(), Box::default()));
    };
    let login = match login_uid {
        Some(login) if login != uid => users::user_name(login)?.unwrap_or_else(|| format!("uid {login}")),
        Some(_) => user.name.clone(),
        None => String::new(),
    };
    // What the host's lists say, not what the process has: a group that somebody was taken out of stays with
    // their processes.
    let name = CString::new(user.name.as_str()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut groups = Vec::new();
    for group in getgrouplist(&name, user.gid)? {
        groups.extend(users::group_name(Gid::as_raw(group))?.map(Into::into));
    }
    let (login, login_claimed) = if confirmed { (login, String::new()) } else { (String::new(), login) };
    let by = Approver::on_host(person, user.name.into(), login.into(), groups.into());
    Ok(Approver { login_claimed: login_claimed.into(), ..by })
}

/// An audit id of a process; `None` where none is set, or the kernel has none.
fn audit(pid: u32, name: &str) -> io::Result<Option<u32>> {
    match std::fs::read_to_string(format!("/proc/{pid}/{name}")) {
        Ok(text) => Ok(text.trim().parse().ok().filter(|id| *id != u32::MAX)),
        // A kernel without auditing. A process that has gone is not served.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_only_the_process_claims_is_none() {
        // One that sets its own, where none is set and the kernel has such.
        let script = "echo 4242 > /proc/self/loginuid 2>/dev/null; echo; read x";
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let claimed = audit(child.id(), "loginuid").unwrap();
        for other in [None, Some(4_241)] {
            let by = approver(child.id(), 0, other).unwrap();
            let person = by.person().unwrap();
            assert_eq!((person.login_uid, person.login(), person.session()), (claimed, None, None));
            assert_eq!(&*by.login, "");
            assert_eq!(by.login_claimed.is_empty(), claimed.is_none());
        }
        if claimed.is_some() {
            let by = approver(child.id(), 0, claimed).unwrap();
            assert_eq!(by.person().unwrap().login(), claimed);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
