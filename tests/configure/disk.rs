//! A layer that fills the disk: a clear error, the checkpoint stays, and the command goes on when there is
//! room.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::repository::Repository;
use super::support::stand::Objects;
use super::support::tree::run;
use super::{Bench, Ran};

/// A filesystem of its own, in a file.
struct Volume {
    point: PathBuf,
}

impl Volume {
    fn mount(file: &Path, point: &Path, bytes: u64) -> Self {
        std::fs::File::create(file).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir_all(point).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(file));
        run(Command::new("mount").args(["-o", "loop"]).arg(file).arg(point));
        Self { point: point.to_owned() }
    }

    fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.point).unwrap();
        stat.blocks_available() as u64 * stat.fragment_size() as u64
    }

    /// Leaves so many bytes free.
    fn fill_up_to(&self, left: u64) {
        let mut fallocate = Command::new("fallocate");
        run(fallocate.arg("-l").arg((self.free() - left).to_string()).arg(self.ballast()));
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.point.join("ballast")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.point).status();
    }
}

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_the_checkpoint_and_the_command_goes_on_when_there_is_room() {
    let mut bench = Bench::start(Objects::Embedded).await;
    let image = bench.stand.head(&format!("s3://boot-images/{}/rootfs", bench.image)).await.size;
    let volume = Volume::mount(&bench.path("volume"), &bench.path("disk"), 3 * image + 700 * MIB);
    let repository = Repository::make(&bench.path("repository"));
    repository.commit("one.yml", "- shell: \"echo one >> /srv/one\"");
    let noise = |mib: u64| {
        let dd = format!("dd if=/dev/urandom of=/srv/noise bs=1M count={mib}");
        repository.commit("two.yml", &format!("- name: Fill\n  shell: \"{dd}\""));
    };
    noise(1);
    let layers = json!([
        {"name": "one", "clone_url": repository.url(), "branch": "main", "playbook": "one.yml"},
        {"name": "two", "clone_url": repository.url(), "branch": "main", "playbook": "two.yml"},
    ]);
    bench.work_dir = bench.path("disk/work");
    let configure = async || -> Ran { bench.configure(&layers, &[]).await };
    let kept = |ran: Ran| {
        let error = ran.result["error"].as_str().unwrap();
        assert!(error.contains("the checkpoint after layer 0 (one) is kept"), "{error}");
    };

    // The task itself meets the end of the disk.
    volume.fill_up_to(3 * image + 100 * MIB);
    noise(2 * image / MIB);
    kept(configure().await.failed_with("No space left on device"));
    // The task fits, its result does not.
    let free = volume.free();
    noise(150);
    kept(configure().await.failed_with("No space left on device"));
    assert!(volume.free() + MIB > free, "what failed is removed: {} of {free}", volume.free());
    // Not even an attempt.
    volume.make_room();
    volume.fill_up_to(image / 2);
    kept(configure().await.failed_with("needed"));

    volume.make_room();
    noise(20);
    let ran = configure().await.succeeded();
    let srv = bench.unpacked(&ran.result_id()).await.join("srv");
    assert_eq!(std::fs::read_to_string(srv.join("one")).unwrap(), "one\n", "applied once");
    assert_eq!(std::fs::metadata(srv.join("noise")).unwrap().len(), 20 * MIB);
}
