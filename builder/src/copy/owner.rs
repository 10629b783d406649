//! `--chown`: numbers as they are, names by the image's /etc/passwd and /etc/group.

use super::error::Error;

/// A user and a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What was found for `--chown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The owner to give.
    pub owner: Owner,
    /// A name that the image does not know, for a warning.
    pub unknown: Option<String>,
}

/// Finds what `user[:group]` means. `file` gives the content of a file of the image, by absolute path,
/// and `None` if there is none; it is only asked when a name has to be looked up.
///
/// A number alone is both user and group (`--chown=1` is 1:1); a name alone brings its primary group; a colon with
/// nothing behind it is the group 0. Numbers end at 2147483647: what is larger is an unknown name.
/// BuildKit takes an unknown user for 0:0, and leaves the group as it is for an unknown group; so do we,
/// and say so in [`Resolved::unknown`].
pub fn resolve_owner<E: From<Error>>(
    text: &str,
    file: impl Fn(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<Resolved, E> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let mut resolved = Resolved { owner: Owner::default(), unknown: None };
    if let Some(uid) = id(user) {
        resolved.owner = Owner { uid, gid: uid };
    } else if !user.is_empty() {
        match file("/etc/passwd")?.and_then(|passwd| user_of(&passwd, user)) {
            Some((uid, gid)) => resolved.owner = Owner { uid, gid },
            None => resolved.unknown = Some(user.to_owned()),
        }
    }
    let Some(group) = group else { return Ok(resolved) };
    if let Some(gid) = id(group) {
        resolved.owner.gid = gid;
    } else if group.is_empty() {
        resolved.owner.gid = 0;
    } else {
        match file("/etc/group")?.and_then(|groups| group_of(&groups, group)) {
            Some(gid) => resolved.owner.gid = gid,
            None => resolved.unknown = resolved.unknown.or_else(|| Some(group.to_owned())),
        }
    }
    Ok(resolved)
}

/// Whether `user[:group]` has a name in it that has to be looked up.
pub fn needs_database(text: &str) -> bool {
    text.split(':').take(2).any(|part| !part.is_empty() && id(part).is_none())
}

/// What needs no database: a number, and root, whatever the image calls it.
fn id(text: &str) -> Option<u32> {
    if text == "root" { Some(0) } else { number(text) }
}

/// A decimal id, as user databases have them.
fn number(text: &str) -> Option<u32> {
    text.parse::<i32>().ok().and_then(|id| u32::try_from(id).ok())
}

/// uid and primary gid: `name:password:uid:gid:…`.
fn user_of(passwd: &[u8], name: &str) -> Option<(u32, u32)> {
    let fields = line_of(passwd, name)?;
    Some((field(&fields, 2), field(&fields, 3)))
}

/// gid: `name:password:gid:…`.
fn group_of(groups: &[u8], name: &str) -> Option<u32> {
    Some(field(&line_of(groups, name)?, 2))
}

/// What is missing or no number is 0, as for docker.
fn field(fields: &[&str], at: usize) -> u32 {
    fields.get(at).and_then(|text| number(text)).unwrap_or(0)
}

fn line_of<'a>(file: &'a [u8], name: &str) -> Option<Vec<&'a str>> {
    file.split(|&b| b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(|line| line.trim().split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Result<(u32, u32), String> {
        let file = |path: &str| -> Result<_, Error> {
            Ok(Some(match path {
                "/etc/passwd" => b"root:x:0:0::/root:/bin/sh\nlp:x:7:70::/:/bin/false\nbad:x:y:z\nshort:x:9\n".to_vec(),
                _ => b"adm:x:4:\nmail:x:8:lp\n".to_vec(),
            }))
        };
        let found = resolve_owner(text, file).map_err(|error| error.to_string())?;
        match found.unknown {
            None => Ok((found.owner.uid, found.owner.gid)),
            Some(name) => Err(format!("{name} {}:{}", found.owner.uid, found.owner.gid)),
        }
    }

    #[test]
    fn names_and_numbers() {
        for (text, wanted) in [
            ("1:2", Ok((1, 2))),
            ("1", Ok((1, 1))),
            ("lp", Ok((7, 70))),
            ("lp:adm", Ok((7, 4))),
            ("2:mail", Ok((2, 8))),
            ("lp:3", Ok((7, 3))),
            (":adm", Ok((0, 4))),
            ("nobody", Err("nobody 0:0")),
            ("nobody:4", Err("nobody 0:4")),
            ("lp:nobody", Err("nobody 7:70")),
            ("bad", Ok((0, 0))),
            ("short", Ok((9, 0))),
            ("lp:", Ok((7, 0))),
            ("root", Ok((0, 0))),
            ("lp:root", Ok((7, 0))),
            ("5:", Ok((5, 0))),
            (":", Ok((0, 0))),
            ("2147483647", Ok((2_147_483_647, 2_147_483_647))),
            ("2147483648", Err("2147483648 0:0")),
            ("7:2147483648", Err("2147483648 7:7")),
            ("-1", Err("-1 0:0")),
        ] {
            assert_eq!(find(text), wanted.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn images_without_a_database() {
        let none = |_: &str| -> Result<_, Error> { Ok(None) };
        assert_eq!(resolve_owner("app:app", none).unwrap().owner, Owner { uid: 0, gid: 0 });
    }
}
