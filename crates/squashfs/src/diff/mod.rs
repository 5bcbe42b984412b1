//! What differs between two images: added, removed, and changed in content, mode, owner, attributes.
//!
//! Content is compared as it is stored where that suffices, and unpacked only where it does not.

mod content;
mod report;

use std::cmp::Ordering;
use std::path::Path;

pub use report::{Change, Diff, Item, Side, What, kind, one_line};

use super::format::Kind;
use super::read::{Error, Image, Node, Step, Walker};
use super::reuse::Range;
use content::Contents;

/// Compares two images. `known` are ranges of the old image that are the same bytes in the new one, as
/// a reuse pack reports them; what lies there is not read.
pub fn diff(old: &Path, new: &Path, known: &[Range]) -> Result<Diff, Error> {
    let (old, new) = (Image::open(old)?, Image::open(new)?);
    let mut contents = Contents::new(&old, &new, known)?;
    let mut diff = Diff::default();
    let (mut a, mut b) = (nodes(&old), nodes(&new));
    let (mut left, mut right) = (a.next().transpose()?, b.next().transpose()?);
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(diff),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => walk_order(&left.path, &right.path),
        };
        let gone = if order.is_le() { left.take() } else { None };
        let came = if order.is_ge() { right.take() } else { None };
        match (gone, came) {
            (Some(old_node), Some(new_node)) => {
                let change = compare(&old, &new, &old_node, &new_node, &mut contents)?;
                diff.changed.extend(change);
            }
            (Some(node), None) => diff.removed.push(Item::new(&node)),
            (None, Some(node)) => diff.added.push(Item::new(&node)),
            (None, None) => {}
        }
        if order.is_le() {
            left = a.next().transpose()?;
        }
        if order.is_ge() {
            right = b.next().transpose()?;
        }
    }
}

fn nodes(image: &Image) -> impl Iterator<Item = Result<Node, Error>> {
    Walker::new(image).filter_map(|step| match step {
        Ok(Step::Enter(node) | Step::Node(node)) => Some(Ok(node)),
        Ok(Step::Leave) => None,
        Err(error) => Some(Err(error)),
    })
}

/// The order in which walks give paths: component by component.
fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    let components = |path| <[u8]>::split(path, |byte| *byte == b'/');
    // The root's path is empty, which is not one empty component before all others.
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => components(a).cmp(components(b)),
    }
}

fn compare(
    old_image: &Image,
    new_image: &Image,
    old: &Node,
    new: &Node,
    contents: &mut Contents,
) -> Result<Option<Change>, Error> {
    let mut what = Vec::new();
    let (a, b) = (&old.inode, &new.inode);
    if a.kind.type_number() != b.kind.type_number() {
        what.push(What::Type);
    } else if !same_content(&a.kind, &b.kind, contents)? {
        what.push(What::Content);
    }
    // The mode bits of a symlink mean nothing.
    let both_links = matches!((&a.kind, &b.kind), (Kind::Symlink(_), Kind::Symlink(_)));
    if a.mode != b.mode && !both_links {
        what.push(What::Mode);
    }
    let owners = (old_image.owner(a)?, new_image.owner(b)?);
    if owners.0 != owners.1 {
        what.push(What::Owner);
    }
    let mut xattrs = (old_image.xattrs(a)?, new_image.xattrs(b)?);
    xattrs.0.sort_unstable();
    xattrs.1.sort_unstable();
    if xattrs.0 != xattrs.1 {
        what.push(What::Xattrs);
    }
    let sides = || (Side::new(old, owners.0), Side::new(new, owners.1));
    Ok((!what.is_empty()).then(|| Change::new(new, what, sides())))
}

fn same_content(old: &Kind, new: &Kind, contents: &mut Contents) -> Result<bool, Error> {
    Ok(match (old, new) {
        (Kind::File(old), Kind::File(new)) => contents.same(old, new)?,
        (Kind::Symlink(old), Kind::Symlink(new)) => old == new,
        (Kind::BlockDevice(old), Kind::BlockDevice(new))
        | (Kind::CharDevice(old), Kind::CharDevice(new)) => old == new,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::testing::nasty::{make, noise, text};
    use crate::testing::{pack, tool};
    use crate::write::Options;

    fn paths(items: &[Item]) -> Vec<&str> {
        items.iter().map(|it| it.path.as_str()).collect()
    }

    #[test]
    fn each_kind_of_change_is_told() {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        make(&root);
        fs::create_dir(root.join("a-dir")).unwrap();
        fs::write(root.join("a.file"), "x").unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        pack(&root, &old, &Options::default());
        fs::write(root.join("a-dir/new"), "new").unwrap();
        fs::remove_file(root.join("dangling")).unwrap();
        fs::write(root.join("below"), text(99, 131_071)).unwrap();
        let mut long = fs::read(root.join("blocks.noise")).unwrap();
        *long.last_mut().unwrap() ^= 1;
        fs::write(root.join("blocks.noise"), long).unwrap();
        // No mode that a umask gives.
        fs::set_permissions(root.join("exact"), fs::Permissions::from_mode(0o604)).unwrap();
        chown(root.join("above"), Some(7), None).unwrap();
        xattr::set(root.join("empty"), "user.more", b"1").unwrap();
        fs::remove_file(root.join("far")).unwrap();
        symlink("near", root.join("far")).unwrap();
        fs::remove_file(root.join("socket")).unwrap();
        fs::write(root.join("socket"), noise(1, 10)).unwrap();
        fs::set_permissions(root.join("socket"), fs::Permissions::from_mode(0o604)).unwrap();
        pack(&root, &new, &Options::default());
        let found = diff(&old, &new, &[]).unwrap();
        assert_eq!(paths(&found.added), ["a-dir/new"]);
        assert_eq!(paths(&found.removed), ["dangling"]);
        let changed: Vec<_> =
            found.changed.iter().map(|it| (it.path.as_str(), it.what.clone())).collect();
        assert_eq!(
            changed,
            [
                ("above", vec![What::Owner]),
                ("below", vec![What::Content]),
                ("blocks.noise", vec![What::Content]),
                ("empty", vec![What::Xattrs]),
                ("exact", vec![What::Mode]),
                ("far", vec![What::Content]),
                ("socket", vec![What::Type, What::Mode]),
            ]
        );
    }

    #[test]
    fn the_same_tree_in_another_form_does_not_differ() {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        make(&root);
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        pack(&root, &old, &Options::default());
        let paths = [root.to_str().unwrap(), new.to_str().unwrap()];
        let other = ["-comp", "zstd", "-b", "64K", "-always-use-fragments", "-no-progress"];
        tool("mksquashfs", &[&paths[..], &other].concat());
        assert!(diff(&old, &new, &[]).unwrap().is_empty());
        assert!(diff(&old, &old, &[]).unwrap().is_empty());
    }
}
