//! The environment of a session, built from scratch: the variables that login(1) and sshd set.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::account::Account;

/// With sbin, as root's sessions have it; `/usr/local` first, as sshd is built to do.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The session's variables; of one named twice the later is kept, and the account's cannot be set
/// by a client.
pub fn build(
    account: &Account,
    job: &[(OsString, OsString)],
    session: Vec<(OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let account: [(&str, &OsStr); 4] = [
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("HOME", account.home.as_os_str()),
        ("SHELL", account.shell.as_os_str()),
    ];
    let fixed = account.into_iter().map(|(name, value)| (name.into(), value.to_owned()));
    let path = std::iter::once((OsString::from("PATH"), OsString::from(PATH)));
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    for (name, value) in path.chain(session).chain(job.iter().cloned()).chain(fixed) {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => env.push((name, value)),
        }
    }
    env
}

/// As execve takes it; an entry that cannot be one (a NUL, an empty name, `=` in it) is left out.
pub fn to_strings(env: &[(OsString, OsString)]) -> Vec<CString> {
    let entry = |(name, value): &(OsString, OsString)| {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return None;
        }
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    };
    env.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    #[test]
    fn a_client_may_add_but_not_be_someone_else() {
        let account =
            Account { name: "root".into(), home: "/root".into(), shell: "/bin/bash".into() };
        let job = [pair("IMS_JOB_ID", "1")];
        let client = vec![pair("LANG", "C"), pair("HOME", "/x"), pair("IMS_JOB_ID", "2")];
        let env = build(&account, &job, client);
        for expected in [pair("LANG", "C"), pair("HOME", "/root"), pair("IMS_JOB_ID", "1")] {
            assert!(env.contains(&expected), "{expected:?} in {env:?}");
        }
        assert_eq!(env.iter().filter(|(name, _)| name == "HOME").count(), 1);
        assert!(!env.iter().any(|(name, _)| name == "MAIL"));
    }

    #[test]
    fn impossible_names_are_left_out() {
        let env = [pair("A=B", "x"), pair("", "x"), pair("C", "a\0b"), pair("D", "ok")];
        assert_eq!(to_strings(&env), [c"D=ok".to_owned()]);
    }
}
