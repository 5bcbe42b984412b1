//! Create jobs: the pod prepares the recipe, the node builds with the real kiwi.

use crate::host::SecondHost;
use crate::lab::{CreatePod, Recipe, Repository, ca, pod};
use crate::support::tree;

async fn start(recipe: &Recipe) -> (CreatePod, SecondHost) {
    let repository = Repository::serve().await;
    let mut create = pod(&recipe.archive(), &repository.url).await;
    let host = SecondHost::start(&mut create.pod).await;
    host.expose(repository.url.rsplit(':').next().unwrap().parse().unwrap());
    let [option, value] = host.options();
    create.option(format!("{option}={value}"));
    (create, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_becomes_an_image_without_a_kiwi_in_the_pod() {
    let (create, host) = start(&Recipe::new()).await;
    let statuses = [
        "fetching_recipe",
        "waiting_for_repos",
        "building_image",
        "packaging_artifacts",
        "success",
    ];
    create.run().ends(0, &statuses, &["the program was copied to the node"]).await;
    host.is_clean().await;
    let pod = &create.pod;
    pod.assert_image().await;
    let image = pod.result().unwrap();
    let rootfs = pod.stand.dir.path().join("result.sqsh");
    let bytes = pod.stand.get(&format!("s3://boot-images/{image}/rootfs")).await;
    std::fs::write(&rootfs, bytes).unwrap();
    let root = pod.stand.dir.path().join("result");
    tree::unsquash(&rootfs, &root);
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("usr/share/pki/trust/anchors/cray_certificate_authority.crt"), ca());
    assert_eq!(read("etc/motd"), "built by the lab\n", "from the recipe's overlay");
    let log = std::fs::read_to_string(pod.parent.join("kiwi.log")).unwrap();
    assert!(log.contains("Creating system image"), "{log}");
    assert!(!pod.parent.join("build").exists() && !pod.parent.join("recipe").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_can_be_looked_at_and_its_log_is_kept() {
    let recipe = Recipe::new().script("echo the reason >&2; exit 7");
    let (mut create, host) = start(&recipe).await;
    create.pod.vars.insert("ENABLE_DEBUG", "True".into());
    let mut agent = create.run();
    agent.reaches("waiting_on_user").await;
    let pod = &create.pod;
    let parent = pod.parent.display();
    let look = format!("cat {parent}/build/image-root/etc/motd; touch {parent}/complete");
    assert_eq!(pod.stand.key.exec(agent.port, &look), "built by the lab\n");
    let statuses =
        ["fetching_recipe", "waiting_for_repos", "building_image", "waiting_on_user", "error"];
    agent.ends(1, &statuses, &["KiwiScriptFailed: config.sh failed: the reason"]).await;
    host.is_clean().await;
    pod.assert_no_image().await;
    for name in ["kiwi.log", "build_failed"] {
        assert!(pod.parent.join(name).exists(), "{name}");
    }
}
