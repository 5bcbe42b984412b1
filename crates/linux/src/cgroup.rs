//! The CPU and memory limits of this container, from its control groups.
//!
//! For sizing threads and buffers. Knows cgroup v2, v1 and the hybrid of both, with or
//! without a cgroup namespace.

use std::path::{Path, PathBuf};

/// The processors this process may keep busy: the cgroup's quota, rounded up, but no more than its
/// affinity allows, and at least 1.
pub fn cpus() -> usize {
    let allowed = affinity();
    let quota = Hierarchy::of_this_process().cpu_quota();
    quota.map_or(allowed, |quota| allowed.min(quota.ceil() as usize)).max(1)
}

/// The memory limit in bytes, if there is one.
pub fn memory() -> Option<u64> {
    Hierarchy::of_this_process().memory_limit()
}

/// How often the kernel has killed a process of this group because its memory ran out; `None`
/// where no counter can be read.
pub fn oom_kills() -> Option<u64> {
    Hierarchy::of_this_process().oom_kills()
}

fn affinity() -> usize {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    set.map_or(1, |set| {
        let count = nix::sched::CpuSet::count();
        (0..count).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
    })
}

/// v1 writes "no limit" as the largest page-aligned number; nothing real comes near it.
const NO_LIMIT: u64 = 1 << 60;

/// The cgroup filesystem and this process's place in it.
#[derive(Debug)]
struct Hierarchy {
    /// Where the cgroup filesystems are mounted, `/sys/fs/cgroup`.
    mount: PathBuf,
    /// `/proc/self/cgroup`, lines of `hierarchy:controllers:path`.
    membership: String,
}

impl Hierarchy {
    fn of_this_process() -> Self {
        Self {
            mount: "/sys/fs/cgroup".into(),
            membership: std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        }
    }

    /// Processors' worth of time; the tightest of the group's and its ancestors' limits.
    fn cpu_quota(&self) -> Option<f64> {
        let v2 = self.v2_groups().into_iter().filter_map(|group| {
            let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            ratio(quota, period)
        });
        let v1 = self.v1_groups("cpu").into_iter().filter_map(|group| {
            let read = |file| std::fs::read_to_string(group.join(file)).ok();
            ratio(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
        });
        v2.chain(v1).min_by(f64::total_cmp)
    }

    fn memory_limit(&self) -> Option<u64> {
        let v2 = self.v2_groups().into_iter().map(|group| group.join("memory.max"));
        let v1 =
            self.v1_groups("memory").into_iter().map(|group| group.join("memory.limit_in_bytes"));
        v2.chain(v1)
            .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
            .filter(|limit| *limit < NO_LIMIT)
            .min()
    }

    /// Of the group itself: what happens in an ancestor may be another's doing.
    fn oom_kills(&self) -> Option<u64> {
        let v2 = self.v2_groups().into_iter().map(|group| group.join("memory.events"));
        let v1 = self.v1_groups("memory").into_iter().map(|group| group.join("memory.oom_control"));
        let texts = v2.chain(v1).filter_map(|file| std::fs::read_to_string(file).ok());
        // Both files have a line `oom_kill N`; the deepest group comes last.
        texts
            .filter_map(|text| {
                let mut lines = text.lines();
                lines.find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
            })
            .next_back()
    }

    /// The v2 group and its ancestors. In a hybrid layout v2 is mounted in `unified`.
    fn v2_groups(&self) -> Vec<PathBuf> {
        let path = self.path_of(|controllers| controllers.is_empty());
        let mut groups = lineage(&self.mount, path);
        groups.extend(lineage(&self.mount.join("unified"), path));
        groups
    }

    /// The group of a v1 controller and its ancestors. Controllers mounted together share a
    /// directory (`cpu,cpuacct`).
    fn v1_groups(&self, controller: &str) -> Vec<PathBuf> {
        let path = self.path_of(|names| names.split(',').any(|name| name == controller));
        let Ok(entries) = std::fs::read_dir(&self.mount) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| {
                entry.file_name().to_string_lossy().split(',').any(|name| name == controller)
            })
            .flat_map(|entry| lineage(&entry.path(), path))
            .collect()
    }

    fn path_of(&self, wanted: impl Fn(&str) -> bool) -> &str {
        self.membership
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                wanted(controllers).then_some(path)
            })
            .next()
            .unwrap_or("/")
    }
}

/// The directories from `mount` down to `path` in it.
///
/// Without a cgroup namespace the path is the host's and does not exist below the container's
/// mount, which then shows the container's own group at its top: so the top always counts.
fn lineage(mount: &Path, path: &str) -> Vec<PathBuf> {
    let mut directory = mount.to_path_buf();
    let mut groups = vec![directory.clone()];
    for part in path.split('/').filter(|part| !part.is_empty() && *part != "..") {
        directory.push(part);
        groups.push(directory.clone());
    }
    groups
}

/// `max` in v2 and -1 in v1 mean no limit and give `None`.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(membership: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Hierarchy) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mount = dir.path().into();
        (dir, Hierarchy { mount, membership: membership.into() })
    }

    #[test]
    fn v2_in_a_namespace_reads_its_own_top() {
        let files = [("cpu.max", "250000 100000\n"), ("memory.max", "8589934592\n")];
        let (_dir, group) = hierarchy("0::/\n", &files);
        assert_eq!(group.cpu_quota(), Some(2.5));
        assert_eq!(group.memory_limit(), Some(8 << 30));
    }

    #[test]
    fn v2_takes_the_tightest_limit_of_the_ancestors() {
        let files = [
            ("kubepods/cpu.max", "max 100000\n"),
            ("kubepods/pod1/cpu.max", "400000 100000\n"),
            ("kubepods/pod1/memory.max", "1073741824\n"),
            ("kubepods/pod1/c/cpu.max", "800000 100000\n"),
            ("kubepods/pod1/c/memory.max", "max\n"),
        ];
        let (_dir, group) = hierarchy("0::/kubepods/pod1/c\n", &files);
        assert_eq!(group.cpu_quota(), Some(4.0));
        assert_eq!(group.memory_limit(), Some(1 << 30));
    }

    #[test]
    fn v1_with_joint_controllers_and_a_host_path_that_is_not_visible() {
        let files = [
            ("cpu,cpuacct/cpu.cfs_quota_us", "150000\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "2147483648\n"),
            ("cpuset/cpuset.cpus", "0-63\n"),
        ];
        let membership = "5:memory:/kubepods/x\n4:cpu,cpuacct:/kubepods/x\n1:name=systemd:/\n";
        let (_dir, group) = hierarchy(membership, &files);
        assert_eq!(group.cpu_quota(), Some(1.5));
        assert_eq!(group.memory_limit(), Some(2 << 30));
    }

    #[test]
    fn no_limit_in_either_version_is_none() {
        let files = [
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("unified/cpu.max", "max 100000\n"),
        ];
        let (_dir, group) = hierarchy("4:cpu:/\n5:memory:/\n0::/\n", &files);
        assert_eq!(group.cpu_quota(), None);
        assert_eq!(group.memory_limit(), None);
    }

    #[test]
    fn hybrid_takes_v1_limits_beside_an_empty_v2_tree() {
        let files = [
            ("unified/cgroup.procs", ""),
            ("memory/process/a/memory.limit_in_bytes", "1048576\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let (_dir, group) = hierarchy("4:memory:/process/a\n0::/\n", &files);
        assert_eq!(group.memory_limit(), Some(1 << 20));
    }

    #[test]
    fn kills_are_counted_in_the_own_group() {
        let files = [
            ("a/memory.events", "low 0\noom 9\noom_kill 9\n"),
            ("a/b/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ];
        let (_dir, group) = hierarchy("0::/a/b\n", &files);
        assert_eq!(group.oom_kills(), Some(2));
        let files = [("memory/x/memory.oom_control", "under_oom 0\noom_kill 1\n")];
        let (_dir, group) = hierarchy("4:memory:/x\n0::/\n", &files);
        assert_eq!(group.oom_kills(), Some(1));
        let (_dir, group) = hierarchy("0::/\n", &[]);
        assert_eq!(group.oom_kills(), None);
    }

    #[test]
    fn there_is_always_a_processor() {
        assert!(cpus() >= 1);
        let (_dir, group) = hierarchy("", &[("cpu.max", "1000 100000\n")]);
        assert_eq!(group.cpu_quota(), Some(0.01));
    }
}
