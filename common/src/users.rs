//! Users of this host, as `/etc/passwd` lists them (passwd(5)). Directories on the network are not asked: a
//! static program cannot, and a boundary between users must not depend on who answers there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// Who this process acts as.
#[must_use]
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whose a file or folder is; `None` if it cannot be looked at.
#[must_use]
pub fn owner_of(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|found| found.uid())
}

/// The user with this name.
#[must_use]
pub fn by_name(name: &str) -> Option<User> {
    list().into_iter().find(|user| user.name == name)
}

/// What to call a user id: its name, or its number.
#[must_use]
pub fn name_of(uid: u32) -> String {
    list().into_iter().find(|user| user.uid == uid).map_or_else(|| uid.to_string(), |user| user.name)
}

fn list() -> Vec<User> {
    parse(&fs::read_to_string("/etc/passwd").unwrap_or_default())
}

fn parse(text: &str) -> Vec<User> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let _password = fields.next()?;
        Some(User { name, uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_users_are_passed_over() {
        let text = "root:x:0:0:root:/root:/bin/bash\n# no\n:x:7:7::/:/\nbackup:x:34:35:backup:/:/bin/false\nodd:x:one:1::/:/\n";
        let names: Vec<_> = parse(text).into_iter().map(|user| (user.name, user.uid, user.gid)).collect();
        assert_eq!(names, [("root".to_owned(), 0, 0), ("backup".to_owned(), 34, 35)]);
    }
}
