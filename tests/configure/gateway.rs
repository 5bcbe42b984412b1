//! Layers against a real Ceph gateway: what is published there is what was made here.

use serde_json::json;

use super::Bench;
use super::repository::Repository;
use super::support::stand::Objects;

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_published_to_ceph_and_verified() {
    let bench = Bench::start(Objects::Ceph).await;
    let repository = Repository::make(&bench.path("repository"));
    repository.commit(
        "one.yml",
        "- shell: \"echo one > /srv/one; dd if=/dev/urandom of=/srv/noise bs=1M count=9\"",
    );
    repository.commit("two.yml", "- shell: \"cat /srv/one > /srv/two; rm /srv/noise\"");
    let layers = json!([
        {"name": "one", "clone_url": repository.url(), "branch": "main", "playbook": "one.yml"},
        {"name": "two", "clone_url": repository.url(), "branch": "main", "playbook": "two.yml"},
    ]);
    let ran = bench.configure(&layers, &["--publish-layers"]).await.succeeded();
    let (first, last) = (ran.result["layers"][0]["image_id"].as_str().unwrap(), ran.result_id());
    for id in [first, &last] {
        let verify = bench.stand.command(&["image", "verify", "--format", "json", id]);
        let verified = bench.run(verify).await.succeeded();
        assert_eq!(verified.result["good"], true, "{}", verified.result);
        bench.json_of(id, "changes.json").await;
        bench.json_of(id, "provenance.json").await;
    }
    let rootfs = format!("s3://boot-images/{last}/rootfs");
    assert!(bench.stand.head(&rootfs).await.etag.contains('-'), "sent in parts");
    let copied = |line: &&str| line.contains(&rootfs) && !line.contains("copied=0");
    assert!(ran.log.lines().any(|line| copied(&line)), "copied in the store: {}", ran.log);
    let (tree, before) = (bench.unpacked(&last).await, bench.unpacked(first).await);
    assert_eq!(std::fs::read_to_string(tree.join("srv/two")).unwrap(), "one\n");
    assert!(before.join("srv/noise").is_file() && !tree.join("srv/noise").exists());
}
