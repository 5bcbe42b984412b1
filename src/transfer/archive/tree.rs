//! The tree that an archive describes, in memory: names, owners, modes, links. Contents are numbers.
//!
//! Later entries replace earlier ones, as when tar unpacks. Symbolic links in the path of an entry
//! are followed, but only inside the root.

use std::collections::BTreeMap;

use super::error::Error;
use crate::transfer::paths::{parts, shown};
use squashfs::format::MAX_NAME;
use squashfs::write::{self, Attributes, Feeder, MAX_DEPTH, Special};

/// Links followed on the way to one entry, as many as Linux follows.
const MAX_LINKS: usize = 40;

type Id = usize;
const ROOT: Id = 0;

#[derive(Debug)]
pub struct Node {
    pub attributes: Attributes,
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Directory(BTreeMap<Box<[u8]>, Id>),
    /// The number of its content.
    File(u32),
    Special(Special),
}

/// A root and all below it.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

/// The directory of an entry and its name there; no name for the root itself.
struct Place {
    parent: Id,
    name: Option<Vec<u8>>,
}

impl Tree {
    pub fn new() -> Self {
        Self { nodes: vec![directory(0)] }
    }

    /// Adds a directory, or gives one that is there its attributes.
    pub fn add_directory(&mut self, path: &[u8], attributes: Attributes) -> Result<(), Error> {
        let Place { parent, name } = self.place(path, attributes.mtime)?;
        let there = name.as_deref().map_or(Some(ROOT), |name| self.child(parent, name));
        match there {
            Some(id) if self.is_directory(id) => self.nodes[id].attributes = attributes,
            _ => {
                let name = name.expect("the root is a directory");
                self.put(parent, name, Node { attributes, kind: Kind::Directory(BTreeMap::new()) });
            }
        }
        Ok(())
    }

    /// Adds a file or special file in the place of what was there.
    pub fn add(&mut self, path: &[u8], node: Node) -> Result<(), Error> {
        let place = self.place(path, node.attributes.mtime)?;
        let name = self.free(path, &place)?;
        self.put(place.parent, name, node);
        Ok(())
    }

    /// Adds another name of what is at `target`.
    pub fn add_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let unknown = || Error::LinkTarget { path: shown(path), target: shown(target) };
        let found = self.find(target)?.filter(|id| !self.is_directory(*id)).ok_or_else(unknown)?;
        let mtime = self.nodes[found].attributes.mtime;
        let place = self.place(path, mtime)?;
        if place.name.as_deref().and_then(|name| self.child(place.parent, name)) == Some(found) {
            return Ok(());
        }
        let name = self.free(path, &place)?;
        self.children_mut(place.parent).insert(name.into(), found);
        Ok(())
    }

    /// Feeds the tree, from the root in the order of the names.
    pub fn feed(mut self, feeder: &mut Feeder) -> Result<(), write::Error> {
        let mut names = vec![0u32; self.nodes.len()];
        self.count(&mut names);
        let mut numbers = vec![None; self.nodes.len()];
        let mut open = vec![self.enter(ROOT, b"", feeder)?];
        while let Some(entries) = open.last_mut() {
            let Some((name, id)) = entries.next() else {
                open.pop();
                feeder.leave()?;
                continue;
            };
            if self.is_directory(id) {
                open.push(self.enter(id, &name, feeder)?);
            } else if let Some(number) = numbers[id] {
                feeder.link(&name, number)?;
            } else {
                numbers[id] = Some(feeder.next_number());
                let attributes = std::mem::take(&mut self.nodes[id].attributes);
                match &self.nodes[id].kind {
                    Kind::File(content) => {
                        feeder.stored(&name, attributes, names[id], *content)?;
                    }
                    Kind::Special(special) => {
                        feeder.special(&name, attributes, names[id], special.clone())?;
                    }
                    Kind::Directory(_) => unreachable!("directories were entered above"),
                }
            }
        }
        Ok(())
    }

    /// How many names each node has in the tree; what was replaced has none.
    fn count(&self, names: &mut [u32]) {
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            if let Kind::Directory(children) = &self.nodes[id].kind {
                for child in children.values() {
                    names[*child] += 1;
                    open.push(*child);
                }
            }
        }
    }

    fn enter(
        &mut self,
        id: Id,
        name: &[u8],
        feeder: &mut Feeder,
    ) -> Result<std::collections::btree_map::IntoIter<Box<[u8]>, Id>, write::Error> {
        feeder.enter(name, std::mem::take(&mut self.nodes[id].attributes))?;
        Ok(std::mem::take(self.children_mut(id)).into_iter())
    }

    /// Finds the directory that an entry goes to, and makes what is missing of it.
    fn place(&mut self, path: &[u8], mtime: u32) -> Result<Place, Error> {
        let mut components = components(path)?;
        let name = components.pop();
        let parent = self.walk(path, components, Some(mtime))?.expect("missing ones are made");
        if !self.is_directory(parent) {
            return Err(Error::NotADirectory { path: shown(path), parent: "its parent".into() });
        }
        Ok(Place { parent, name })
    }

    /// What is at a path, itself, not what it links to.
    fn find(&mut self, path: &[u8]) -> Result<Option<Id>, Error> {
        let mut components = components(path)?;
        let Some(name) = components.pop() else { return Ok(Some(ROOT)) };
        let parent = self.walk(path, components, None)?;
        Ok(parent.filter(|id| self.is_directory(*id)).and_then(|id| self.child(id, &name)))
    }

    /// Goes down, following links; with `make`, missing directories are made with that time.
    fn walk(
        &mut self,
        path: &[u8],
        components: Vec<Vec<u8>>,
        make: Option<u32>,
    ) -> Result<Option<Id>, Error> {
        let mut ahead: Vec<Vec<u8>> = components.into_iter().rev().collect();
        // The directories on the way, for `..` in links.
        let mut way = vec![ROOT];
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let here = *way.last().expect("the root stays");
            if name == b".." {
                way.truncate((way.len() - 1).max(1));
                continue;
            }
            let child = match self.child(here, &name) {
                Some(child) => child,
                None => match make {
                    None => return Ok(None),
                    Some(mtime) => self.put(here, name.clone(), directory(mtime)),
                },
            };
            match &self.nodes[child].kind {
                Kind::Directory(_) => way.push(child),
                Kind::Special(Special::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::LinkLoop { path: shown(path) });
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    ahead.extend(parts(target).rev().map(<[u8]>::to_vec));
                }
                _ => {
                    let parent = shown(&name);
                    return Err(Error::NotADirectory { path: shown(path), parent });
                }
            }
            if way.len() > MAX_DEPTH {
                return Err(Error::TooLarge { path: shown(path), what: "the depth" });
            }
        }
        Ok(way.pop())
    }

    /// Makes room for an entry that is not a directory.
    fn free(&self, path: &[u8], place: &Place) -> Result<Vec<u8>, Error> {
        let full = || Error::FullDirectory { path: shown(path) };
        let name = place.name.clone().ok_or_else(full)?;
        match self.child(place.parent, &name).map(|id| &self.nodes[id].kind) {
            Some(Kind::Directory(children)) if !children.is_empty() => Err(full()),
            _ => Ok(name),
        }
    }

    fn put(&mut self, parent: Id, name: Vec<u8>, node: Node) -> Id {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.children_mut(parent).insert(name.into(), id);
        id
    }

    fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        match &self.nodes[parent].kind {
            Kind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn children_mut(&mut self, id: Id) -> &mut BTreeMap<Box<[u8]>, Id> {
        match &mut self.nodes[id].kind {
            Kind::Directory(children) => children,
            _ => unreachable!("only directories are given children"),
        }
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.nodes[id].kind, Kind::Directory(_))
    }
}

/// A directory without an entry in the archive so far.
fn directory(mtime: u32) -> Node {
    let attributes = Attributes { mode: 0o755, mtime, ..Attributes::default() };
    Node { attributes, kind: Kind::Directory(BTreeMap::new()) }
}

/// The components of an entry's path; what leads out of the root, or no file can be called, is refused.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let refused = |what| Err(Error::Name { path: shown(path), what });
    if path.contains(&0) {
        return refused("a name with a NUL byte");
    }
    let found: Vec<Vec<u8>> = parts(path).map(<[u8]>::to_vec).collect();
    if found.iter().any(|name| name == b"..") {
        return refused("a path with \"..\"");
    }
    if found.iter().any(|name| name.len() > MAX_NAME) {
        return refused("a name of more than 255 bytes");
    }
    if found.len() >= MAX_DEPTH {
        return refused("a path with too many directories");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: u32) -> Node {
        Node { attributes: Attributes::default(), kind: Kind::File(content) }
    }

    fn symlink(target: &str) -> Node {
        let kind = Kind::Special(Special::Symlink(target.into()));
        Node { attributes: Attributes::default(), kind }
    }

    fn content(tree: &mut Tree, path: &str) -> Option<u32> {
        let id = tree.find(path.as_bytes()).unwrap()?;
        match tree.nodes[id].kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    #[test]
    fn the_last_entry_wins_and_other_names_keep_the_old_one() {
        let mut tree = Tree::new();
        tree.add(b"./a", file(1)).unwrap();
        tree.add_link(b"b", b"/a").unwrap();
        tree.add(b"a", file(2)).unwrap();
        assert_eq!((content(&mut tree, "a"), content(&mut tree, "b")), (Some(2), Some(1)));
        tree.add_link(b"b", b"b").unwrap();
        assert_eq!(content(&mut tree, "b"), Some(1));
    }

    #[test]
    fn links_on_the_way_are_followed_inside_the_root() {
        let mut tree = Tree::new();
        tree.add(b"lib", symlink("usr/lib")).unwrap();
        tree.add(b"up", symlink("../../../etc")).unwrap();
        tree.add_directory(b"usr/lib", Attributes::default()).unwrap();
        tree.add(b"lib/x", file(1)).unwrap();
        tree.add(b"up/passwd", file(2)).unwrap();
        assert_eq!(content(&mut tree, "usr/lib/x"), Some(1));
        assert_eq!(content(&mut tree, "etc/passwd"), Some(2));
        tree.add(b"c1", symlink("c2")).unwrap();
        tree.add(b"c2", symlink("c1")).unwrap();
        assert!(matches!(tree.add(b"c1/x", file(3)), Err(Error::LinkLoop { .. })));
    }

    #[test]
    fn what_leads_out_or_makes_no_sense_is_refused() {
        let mut tree = Tree::new();
        tree.add(b"dir/x", file(1)).unwrap();
        for bad in [&b"../x"[..], b"a/../../x", b"a\0b"] {
            assert!(matches!(tree.add(bad, file(2)), Err(Error::Name { .. })));
        }
        assert!(matches!(tree.add(b"dir", file(2)), Err(Error::FullDirectory { .. })));
        assert!(matches!(tree.add(b"dir/x/y", file(2)), Err(Error::NotADirectory { .. })));
        assert!(matches!(tree.add_link(b"l", b"nothing"), Err(Error::LinkTarget { .. })));
        assert!(matches!(tree.add_link(b"l", b"dir"), Err(Error::LinkTarget { .. })));
    }
}
