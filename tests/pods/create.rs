//! Create jobs in every pod that there is for them, with the real kiwi of the builder's image.

use s3_client::Object;

use crate::kube::{Kube, Spec};
use crate::specs;
use crate::support::pod::Pod;
use crate::support::recipe::{self, Recipe, Repository};
use crate::support::ssh::Key;
use crate::support::{SOON, eventually, tree};

const BUILT: [&str; 3] = ["fetching_recipe", "waiting_for_repos", "building_image"];

async fn pod(recipe: &Recipe, repository: &Repository) -> (Pod, Key) {
    let mut pod = recipe::pod(&recipe.archive(), &repository.url).await.pod;
    let id = pod.records.lock().unwrap().artifact.clone();
    let archive = Object::new("ims", format!("recipes/{id}/recipe.tar.gz"));
    let url = pod.stand.store.presign_get(&archive).await.unwrap();
    let md5 = pod.stand.head(&archive.to_string()).await.metadata["md5sum"].clone();
    pod.vars.extend([
        ("DOWNLOAD_URL", url.to_string()),
        ("DOWNLOAD_MD5SUM", md5),
        ("RECIPE_ROOT_PARENT", "/mnt/recipe".into()),
    ]);
    let key = Key::make(pod.stand.dir.path(), "ecdsa");
    (pod, key)
}

fn statuses(more: &[&str]) -> Vec<String> {
    BUILT.iter().chain(more).map(|status| (*status).to_owned()).collect()
}

/// Gives what the containers have said that are still there: not the init containers.
async fn succeeds(spec: Spec, codes: &[(&str, i32)]) -> String {
    let repository = Repository::serve().await;
    let (pod, key) = pod(&Recipe::new(), &repository).await;
    let mut kube = Kube::start(&pod, &key, spec).await;
    kube.reaches(&pod, "success").await;
    kube.ended(codes).await;
    assert_eq!(pod.statuses(), statuses(&["packaging_artifacts", "success"]));
    pod.assert_image().await;
    let image = pod.result().unwrap();
    let file = pod.stand.dir.path().join("result.sqsh");
    std::fs::write(&file, pod.stand.get(&format!("s3://boot-images/{image}/rootfs")).await)
        .unwrap();
    let root = pod.stand.dir.path().join("result");
    tree::unsquash(&file, &root);
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("etc/motd"), "built by the lab\n");
    assert_eq!(read("etc/ssl/ca-bundle.pem"), recipe::ca(), "the CA's package was installed");
    assert_eq!(read("etc/cray/ca/certificate_authority.crt"), recipe::ca());
    assert!(root.join("boot/vmlinuz").metadata().unwrap().len() > 100_000);
    kube.logs()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_container() {
    let said = succeeds(specs::create, &[("agent", 0)]).await;
    assert!(said.contains("the container now trusts the site's CA"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_containers() {
    succeeds(specs::create_three_containers, &[("buildenv-sidecar", 0), ("sshd", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_containers_with_a_look_at_a_failed_build() {
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("echo the reason >&2; exit 7");
    let (mut pod, key) = pod(&recipe, &repository).await;
    pod.vars.insert("ENABLE_DEBUG", "True".into());
    let mut kube = Kube::start(&pod, &key, specs::create_three_containers).await;
    kube.reaches(&pod, "waiting_on_user").await;
    let seen = key.exec(kube.port, "ls /mnt/image; cat /mnt/image/build/image-root/etc/motd");
    for part in ["build_failed", "kiwi.log", "built by the lab"] {
        assert!(seen.contains(part), "{part} is not in {seen}");
    }
    key.exec(kube.port, "touch /mnt/image/complete");
    kube.reaches(&pod, "error").await;
    kube.ended(&[("buildenv-sidecar", 1), ("sshd", 0)]).await;
    assert_eq!(pod.statuses(), statuses(&["waiting_on_user", "error"]));
    let logs = kube.logs();
    let told = "the job failed: the image cannot be built: kiwi failed (exit status: 1): \
                KiwiScriptFailed: config.sh failed: the reason";
    assert!(logs.contains(told), "{logs}");
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_containers_without_one() {
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("exit 7");
    let (pod, key) = pod(&recipe, &repository).await;
    let mut kube = Kube::start(&pod, &key, specs::create_three_containers).await;
    kube.reaches(&pod, "error").await;
    kube.ended(&[("buildenv-sidecar", 1), ("sshd", 0)]).await;
    assert_eq!(pod.statuses(), statuses(&["error"]));
    pod.assert_no_image().await;
}

/// The pod does not come further than this step.
async fn step_fails(recipe: Recipe, statuses: &[&str]) {
    let repository = Repository::serve().await;
    let (pod, key) = pod(&recipe, &repository).await;
    let mut kube = Kube::start(&pod, &key, specs::create_three_containers).await;
    kube.reaches(&pod, "error").await;
    kube.ended(&[]).await;
    assert_eq!(pod.statuses(), statuses);
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_ends_the_job() {
    let recipe = Recipe::new().without("config.xml").without(".ims_recipe_template.yaml");
    step_fails(recipe, &["fetching_recipe", "error"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_stopped_ends_in_error() {
    for spec in [specs::create as Spec, specs::create_three_containers] {
        let repository = Repository::serve().await;
        let recipe = Recipe::new().script("sleep 600 & sleep 600");
        let (pod, key) = pod(&recipe, &repository).await;
        let mut kube = Kube::start(&pod, &key, spec).await;
        kube.reaches(&pod, "building_image").await;
        let bytes = || repository.seen().iter().filter(|path| path.ends_with(".rpm")).count();
        eventually("kiwi installs", SOON, async || (bytes() > 0).then_some(())).await;
        kube.stop();
        kube.reaches(&pod, "error").await;
        kube.ended(&[]).await;
        assert_eq!(pod.statuses(), statuses(&["error"]));
        pod.assert_no_image().await;
    }
}
