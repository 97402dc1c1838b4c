//! Who a process runs as: `user` and `group_add`, resolved as Docker does with the container's `/etc/passwd` and
//! `/etc/group`.

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Ids that a process runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The primary group first.
    pub additional_gids: Vec<u32>,
}

/// Highest id that Docker accepts.
const MAXIMUM: u32 = i32::MAX as u32;

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `user` (`[NAME|UID][:GROUP|GID]`) and the groups of `group_add`.
///
/// A number that the files do not know is taken as it is; a name that they do not know is an error. Without a group the
/// account's own group and all groups that list it count.
pub fn resolve(
    user: &str,
    group_add: &[String],
    passwd: &str,
    group: &str,
) -> Result<User, SpecError> {
    let (account_text, group_text) = user.split_once(':').unwrap_or((user, ""));
    let accounts = || passwd.lines().filter_map(parse_account);
    let groups = || group.lines().filter_map(parse_group);

    let number = number("user", account_text)?;
    let found = accounts().find(|account| match (account_text, number) {
        ("", _) => account.uid == 0,
        (name, number) => account.name == name || Some(account.uid) == number,
    });
    let (uid, mut gid) = match (&found, number) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) if account_text.is_empty() => (0, 0),
        (None, None) => {
            return Err(SpecError::invalid(
                "user",
                user,
                format!("the image's /etc/passwd has no user `{account_text}`"),
            ));
        }
    };

    let mut additional = Vec::new();
    if !group_text.is_empty() {
        gid = group_id("user", user, group_text, groups())?;
    } else if let Some(account) = &found {
        let member = |group: &Group<'_>| group.members.split(',').any(|name| name == account.name);
        additional.extend(groups().filter(member).map(|group| group.gid));
    }
    for entry in group_add {
        additional.push(group_id("group_add", entry, entry, groups())?);
    }

    let mut additional_gids = vec![gid];
    for gid in additional {
        if !additional_gids.contains(&gid) {
            additional_gids.push(gid);
        }
    }
    Ok(User {
        uid,
        gid,
        additional_gids,
    })
}

fn group_id<'a>(
    attribute: &'static str,
    value: &str,
    text: &str,
    mut groups: impl Iterator<Item = Group<'a>>,
) -> Result<u32, SpecError> {
    let number = number(attribute, text)?;
    if let Some(group) = groups.find(|group| group.name == text || Some(group.gid) == number) {
        return Ok(group.gid);
    }
    number.ok_or_else(|| {
        SpecError::invalid(
            attribute,
            value,
            format!("the image's /etc/group has no group `{text}`"),
        )
    })
}

/// The id that `text` writes; `None` if it is a name.
fn number(attribute: &'static str, text: &str) -> Result<Option<u32>, SpecError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAXIMUM => Ok(Some(id)),
        _ => Err(SpecError::invalid(
            attribute,
            text,
            format!("ids go from 0 to {MAXIMUM}"),
        )),
    }
}

fn parse_account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields
        .next()
        .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid })
}

fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields
        .next()
        .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or_default();
    Some(Group { name, gid, members })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbad line\n\
        app:x:1000:1001::/home/app:/bin/sh\n77:x:5:6::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nbin:x:1:root,app\nwheel:x:10:root\napp:x:1001:\n\
        audio:x:29:app\nother:x:30:appendix\n";

    fn ids(user: &str, group_add: &[&str]) -> Result<(u32, u32, Vec<u32>), String> {
        let group_add: Vec<String> = group_add.iter().map(ToString::to_string).collect();
        resolve(user, &group_add, PASSWD, GROUP)
            .map(|user| (user.uid, user.gid, user.additional_gids))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn no_user_is_root_with_its_groups() {
        assert_eq!(ids("", &[]), Ok((0, 0, vec![0, 1, 10])));
        assert_eq!(
            resolve("", &[], "", "")
                .map(|user| user.additional_gids)
                .ok(),
            Some(vec![0])
        );
    }

    #[test]
    fn a_name_or_its_number_brings_group_and_memberships() {
        for user in ["app", "1000"] {
            assert_eq!(ids(user, &[]), Ok((1000, 1001, vec![1001, 1, 29])));
        }
    }

    #[test]
    fn an_unknown_number_has_group_zero() {
        assert_eq!(ids("4242", &[]), Ok((4242, 0, vec![0])));
    }

    #[test]
    fn a_named_group_replaces_the_memberships() {
        assert_eq!(ids("app:audio", &[]), Ok((1000, 29, vec![29])));
        assert_eq!(ids("app:4000", &[]), Ok((1000, 4000, vec![4000])));
        assert_eq!(ids(":audio", &[]), Ok((0, 29, vec![29])));
        assert_eq!(ids("app:", &[]), Ok((1000, 1001, vec![1001, 1, 29])));
    }

    #[test]
    fn a_name_made_of_digits_wins_by_its_place_in_the_file() {
        assert_eq!(ids("77", &[]), Ok((5, 6, vec![6])));
    }

    #[test]
    fn added_groups_are_names_or_numbers() {
        assert_eq!(
            ids("1000:1001", &["audio", "3000", "29"]),
            Ok((1000, 1001, vec![1001, 29, 3000]))
        );
    }

    #[test]
    fn unknown_names_and_too_large_numbers_are_errors() {
        assert_eq!(
            ids("nobody9", &[]).unwrap_err(),
            "user: `nobody9` is not valid: the image's /etc/passwd has no user `nobody9`"
        );
        assert!(
            ids("app:nogroup", &[])
                .unwrap_err()
                .contains("/etc/group has no group `nogroup`")
        );
        assert!(ids("", &["zz"]).unwrap_err().starts_with("group_add: `zz`"));
        assert!(
            ids("4294967296", &[])
                .unwrap_err()
                .contains("ids go from 0 to 2147483647")
        );
        assert!(ids("2147483648", &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(user in ".*", passwd in ".*", group in ".*", add in ".*") {
            let _any = resolve(&user, &[add], &passwd, &group);
        }
    }
}
