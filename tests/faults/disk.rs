//! A volume that is too small, or that the user fills. `IMAGE_ROOT_PARENT` is a small tmpfs.

use std::fs;
use std::process::Command;

use crate::pod::{Pod, Volume};
use crate::support::tree;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_smaller_than_the_image_ends_the_fetch() {
    let pod = Pod::start().await;
    let _volume = Volume::mount(&pod.parent, 6);
    let causes = ["cannot fetch the image", "are free"];
    pod.run().ends(1, &["fetching_image", "error"], &causes).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_for_the_size_of_files_is_an_error_that_names_it() {
    let pod = Pod::start().await;
    let causes = ["cannot fetch the image", "at most 2097152 bytes: RLIMIT_FSIZE"];
    let agent = pod.run_through(&["prlimit", "--fsize=2097152"], &[]);
    agent.ends(1, &["fetching_image", "error"], &causes).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_room_for_the_result_is_found_before_the_user_works() {
    let pod = Pod::start().await;
    let _volume = Volume::mount(&pod.parent, 14);
    let causes = ["cannot open the image root", "for the packed result"];
    pod.run().ends(1, &["fetching_image", "error"], &causes).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_the_user_fills_fails_packing_and_keeps_the_work() {
    let pod = Pod::start().await;
    let _volume = Volume::mount(&pod.parent, 48);
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    fs::write(pod.root().join("etc/motd"), "work of hours\n").unwrap();
    let filler = pod.parent.join("filler");
    tree::run(
        Command::new("sh").args(["-c", "cat /dev/zero > \"$0\" 2>/dev/null; true"]).arg(&filler),
    );
    fs::File::options().write(true).open(&filler).unwrap().set_len(30 << 20).unwrap();
    pod.touch("complete");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];
    agent.ends(1, &statuses, &["cannot pack", "No space left on device"]).await;
    pod.assert_no_image().await;

    fs::remove_file(filler).unwrap();
    pod.package(&[]).ends(0, &["packaging_artifacts", "success"], &[]).await;
    pod.assert_image().await;
}
