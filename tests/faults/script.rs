//! `CUSTOMIZATION_SCRIPT`: runs once the shell is up, and may end the job itself.

use crate::pod::Pod;
use crate::support::tree;

const SUCCESS: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_the_site_customizes_the_image_whether_users_are_jailed_or_not() {
    for jail in ["True", "False"] {
        let mut pod = Pod::start().await;
        let script = pod.stand.dir.path().join("it's a script");
        let text = format!(
            "#!/bin/sh\necho \"for $IMS_JOB_ID\"\necho scripted >'{}/etc/scripted'\ntouch '{}/complete'\n",
            pod.root().display(),
            pod.parent.display(),
        );
        tree::write(&script, text.as_bytes(), 0o755);
        pod.vars.insert("CUSTOMIZATION_SCRIPT", script.display().to_string());
        pod.vars.insert("SSH_JAIL", jail.into());
        let said = format!("script: for {}", crate::pod::JOB);
        pod.run().ends(0, &SUCCESS, &[&said, "the customization script has ended"]).await;

        let rootfs = pod.stand.dir.path().join("rootfs");
        let object = format!("s3://boot-images/{}/rootfs", pod.result().unwrap());
        std::fs::write(&rootfs, pod.stand.get(&object).await).unwrap();
        let root = pod.stand.dir.path().join("unpacked");
        tree::unsquash(&rootfs, &root);
        assert_eq!(std::fs::read_to_string(root.join("etc/scripted")).unwrap(), "scripted\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_fails_or_hangs_leaves_the_job_to_its_user() {
    for (text, said) in [("exit 3", "exit status: 3"), ("echo on; sleep 600", "script: on")] {
        let mut pod = Pod::start().await;
        let script = pod.stand.dir.path().join("script");
        tree::write(&script, format!("#!/bin/sh\n{text}\n").as_bytes(), 0o755);
        pod.vars.insert("CUSTOMIZATION_SCRIPT", script.display().to_string());
        let agent = pod.run();
        agent.says(said).await;
        pod.touch("complete");
        agent.ends(0, &SUCCESS, &[said]).await;
    }
}
