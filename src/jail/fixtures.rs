//! What has to be in the image root for the jail's sake, and is taken out again at its end.
//!
//! With namespaces: directories to mount on, where the image lacks them. Without: the device nodes
//! that no program can do without (a shell's `2>/dev/null` would make a file of it in the image).

use std::io;
use std::path::{Path, PathBuf};

use super::plan::{Plan, Shape, Step};
use crate::os::nodes::{Directory, Stamp};

/// Entries that we made in one directory of the image.
#[derive(Debug)]
struct Additions {
    path: PathBuf,
    directory: Directory,
    made: Vec<Made>,
    /// The directory's times before, and as we left it.
    before: Stamp,
    after: Stamp,
}

#[derive(Debug)]
enum Made {
    Directory(PathBuf),
    Node(PathBuf, u64),
}

/// All that was put in. Dropping it leaves it there; see `take_out`.
#[derive(Debug, Default)]
pub struct Fixtures(Vec<Additions>);

/// Name, major and minor number of character devices (the kernel's devices.txt).
const NODES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

impl Fixtures {
    /// Puts in what the plan needs and the image lacks; nothing, if that fails.
    pub fn put_in(plan: &Plan) -> io::Result<Fixtures> {
        let mut fixtures = Fixtures::default();
        match fixtures.put_into(plan) {
            Ok(()) => Ok(fixtures),
            Err(error) => {
                fixtures.take_out();
                Err(error)
            }
        }
    }

    fn put_into(&mut self, plan: &Plan) -> io::Result<()> {
        let Some(root) = &plan.root else { return Ok(()) };
        let top = Directory::open(root)?;
        match plan.shape {
            Shape::Namespaces => {
                let targets = plan.steps.iter().filter_map(mount_point);
                self.add(root.clone(), top, |directory, made| {
                    for name in targets {
                        if directory.make_directory(&name)? {
                            made.push(Made::Directory(name));
                        }
                    }
                    Ok(())
                })
            }
            Shape::Plain => {
                // A link for `dev` leads nowhere outside; one to nothing means no nodes.
                let Ok(dev) = top.below(Path::new("dev")) else { return Ok(()) };
                self.add(root.join("dev"), dev, |directory, made| {
                    for (name, major, minor) in NODES {
                        let (name, number) = (PathBuf::from(name), libc::makedev(*major, *minor));
                        if directory.make_node(&name, number)? {
                            made.push(Made::Node(name, number));
                        }
                    }
                    Ok(())
                })
            }
        }
    }

    fn add(
        &mut self,
        path: PathBuf,
        directory: Directory,
        make: impl FnOnce(&Directory, &mut Vec<Made>) -> io::Result<()>,
    ) -> io::Result<()> {
        let before = directory.stamp()?;
        let mut made = Vec::new();
        let result = make(&directory, &mut made);
        let after = directory.stamp()?;
        if !made.is_empty() {
            self.0.push(Additions { path, directory, made, before, after });
        }
        // What was made before it failed is known by now, and taken out by the caller.
        result
    }

    /// Takes out what still is as it was made; what is not is returned.
    pub fn take_out(self) -> Vec<PathBuf> {
        self.0.into_iter().flat_map(Additions::take_out).collect()
    }
}

impl Additions {
    fn take_out(self) -> Vec<PathBuf> {
        // Where nobody else added or removed anything, the directory's time is what it was.
        let untouched = self.directory.stamp().is_ok_and(|now| now == self.after);
        let mut left = Vec::new();
        for made in &self.made {
            let (name, gone) = match made {
                Made::Directory(name) => (name, self.directory.remove_directory(name)),
                Made::Node(name, number) => (name, self.directory.remove_node(name, *number)),
            };
            if gone.is_err() {
                left.push(self.path.join(name));
            }
        }
        if untouched && left.is_empty() {
            // Cosmetic: a time that is newer than it need be is no reason to fail.
            let _ = self.directory.restore(&self.before);
        }
        left
    }
}

/// The directory in the image's top that a step mounts on.
fn mount_point(step: &Step) -> Option<PathBuf> {
    let Step::Mount { target, .. } = step else { return None };
    let name = target.strip_prefix("/").ok()?;
    (name.components().count() == 1).then(|| name.to_owned())
}
