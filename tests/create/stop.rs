//! SIGTERM at every stage of a create job.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGTERM;

use crate::lab::{Recipe, Repository, pod};
use crate::support::{SOON, eventually, free_port};

/// Kubernetes gives a pod 30 seconds between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn while_repositories_are_waited_for() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let pod = pod(&Recipe::new().archive(), &url).await;
    let mut agent = pod.run();
    agent.reaches("waiting_for_repos").await;
    agent.process.signal(SIGTERM);
    let statuses = ["fetching_recipe", "waiting_for_repos", "error"];
    agent.ends(143, &statuses, &["cancelled while waiting for repositories"]).await;
    pod.pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_image_is_built() {
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("touch /in-script; sleep 600 & sleep 600");
    let pod = pod(&recipe.archive(), &repository.url).await;
    let agent = pod.run();
    let script = pod.pod.parent.join("build/image-root/in-script");
    eventually("kiwi runs the script", SOON, async || script.exists().then_some(())).await;
    let asked = Instant::now();
    agent.process.signal(SIGTERM);
    let statuses = ["fetching_recipe", "waiting_for_repos", "building_image", "error"];
    agent.ends(143, &statuses, &["the build was cancelled"]).await;
    assert!(asked.elapsed() < GRACE);
    pod.pod.assert_no_image().await;
    assert!(pod.pod.parent.join("kiwi.log").exists());
    // The host's devices were mounted in there.
    assert!(
        std::fs::read_dir(pod.pod.parent.join("build/image-root/dev/pts"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_user_looks_at_a_failed_build() {
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("exit 1");
    let mut pod = pod(&recipe.archive(), &repository.url).await;
    pod.pod.vars.insert("ENABLE_DEBUG", "True".into());
    pod.pod.vars.insert("SSH_JAIL", "True".into());
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    let seen = pod.pod.stand.key.exec(agent.port, "cat /etc/motd; ls /tmp /image");
    assert!(seen.contains("built by the lab") && seen.contains("config.sh"), "{seen}");
    agent.process.signal(SIGTERM);
    let statuses =
        ["fetching_recipe", "waiting_for_repos", "building_image", "waiting_on_user", "error"];
    agent.ends(143, &statuses, &["cancelled while the user worked", "KiwiScriptFailed"]).await;
    pod.pod.assert_no_image().await;
}
