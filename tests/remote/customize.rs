//! Customize jobs, from the pod's environment to the registered image.

use std::process::Command;

use serde_json::Value;

use crate::host::SecondHost;
use crate::pod::Pod;
use crate::support::tree;

const SUCCESS: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// The result, unpacked.
async fn unpacked(pod: &Pod) -> std::path::PathBuf {
    let image = pod.result().unwrap();
    let rootfs = pod.stand.dir.path().join(format!("{image}.sqsh"));
    let bytes = pod.stand.get(&format!("s3://boot-images/{image}/rootfs")).await;
    std::fs::write(&rootfs, bytes).unwrap();
    let root = rootfs.with_extension("root");
    tree::unsquash(&rootfs, &root);
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_user_works_on_the_node_and_the_pod_publishes() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let mut agent = pod.run_through(&[], &host.options());
    agent.reaches("waiting_on_user").await;
    let place =
        pod.stand.key.exec(agent.port, "echo $IMS_JOB_ID $REMOTE_BUILD_NODE; pwd; ls /boot");
    assert!(place.contains(&host.address()), "{place}");

    let noise = pod.stand.dir.path().join("noise");
    std::fs::write(&noise, tree::noise(20 << 20, 7)).unwrap();
    let mut scp = Command::new("scp");
    scp.args(pod.stand.key.options()).args(["-P", &agent.port.to_string()]);
    tree::run(scp.arg(&noise).arg("root@127.0.0.1:/noise"));
    pod.stand.key.exec(agent.port, "echo changed > /etc/motd; rm /usr/lib/empty");
    pod.stand.key.exec(agent.port, "touch /tmp/complete");
    agent
        .ends(
            0,
            &SUCCESS,
            &[
                "the program was copied to the node",
                "packed with the built-in \
            engine",
            ],
        )
        .await;
    host.is_clean().await;

    pod.assert_image().await;
    let root = unpacked(&pod).await;
    assert_eq!(std::fs::read_to_string(root.join("etc/motd")).unwrap(), "changed\n");
    assert!(!root.join("usr/lib/empty").exists() && !root.join("tmp/complete").exists());
    assert_eq!(std::fs::read(root.join("noise")).unwrap(), std::fs::read(&noise).unwrap());
    let image = pod.result().unwrap();
    let changes = pod.stand.get(&format!("s3://boot-images/{image}/changes.json")).await;
    let changes: Value = serde_json::from_slice(&changes).unwrap();
    assert!(changes["base"]["path"].as_str().unwrap().ends_with("/rootfs"), "{changes}");
    assert_eq!(changes["removed"][0]["path"], "usr/lib/empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_outside_the_image_finds_the_paths_of_a_pod_and_no_secret() {
    let mut pod = Pod::start().await;
    pod.vars.insert("SSH_JAIL", "False".into());
    let script = pod.stand.dir.path().join("site script");
    tree::write(&script, b"#!/bin/sh\necho the script runs\n", 0o755);
    pod.vars.insert("CUSTOMIZATION_SCRIPT", script.display().to_string());
    let host = SecondHost::start(&mut pod).await;
    let mut agent = pod.run_through(&[], &host.options());
    agent.reaches("waiting_on_user").await;
    agent.says("script: the script runs").await;
    let parent = pod.parent.display().to_string();
    let seen = pod.stand.key.exec(
        agent.port,
        &format!(
            "cat {parent}/image-root/etc/motd; \
        ls -A {parent}; ls -lA /tmp/ims_*/inbox/host_keys /tmp/ims_*/image/.ims-job-agent; \
        tr '\\0' '\\n' < /proc/self/environ; cat /tmp/ims_*/inbox/*; true"
        ),
    );
    assert!(seen.contains("image-root"), "{seen}");
    for secret in ["test-secret", "PRIVATE KEY", "S3_"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
    pod.stand
        .key
        .exec(agent.port, &format!("mkdir {parent}/image-root/made; touch {parent}/complete"));
    agent.ends(0, &SUCCESS, &[]).await;
    host.is_clean().await;
    assert!(unpacked(&pod).await.join("made").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_job_finds_the_program_and_sweeps_what_a_dead_one_left() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    host.run("mkdir /tmp/ims_dead /tmp/ims_other; touch /tmp/ims_dead/lock /tmp/ims_dead/x");
    for round in 0..2 {
        let mut agent = pod.run_through(&[], &host.options());
        agent.reaches("waiting_on_user").await;
        assert_eq!(agent.process.log().contains("the program was copied"), round == 0);
        assert!(!host.run("ls /tmp").contains("ims_dead"));
        pod.stand.key.exec(agent.port, "touch /tmp/failed");
        let statuses = ["fetching_image", "waiting_on_user", "error"];
        agent.ends(3, &statuses, &["the user gave up"]).await;
        pod.renew_job();
    }
    // Not one of ours.
    host.run("rmdir /tmp/ims_other");
    host.is_clean().await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_published_is_kept_in_the_pod() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let mut agent = pod.run_through(&[], &host.options());
    agent.reaches("waiting_on_user").await;
    pod.records.lock().unwrap().refuse = Some(("customized", 422));
    pod.stand.key.exec(agent.port, "touch /tmp/complete");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];
    agent.ends(1, &statuses, &["cannot publish the image", "image import"]).await;
    for name in ["out.sqsh", "kernel", "initrd"] {
        assert!(pod.parent.join(".ims-job-agent").join(name).is_file(), "{name}");
    }
    host.is_clean().await;
    pod.assert_no_image().await;
}
