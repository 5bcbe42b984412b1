//! Layers where nothing may be mounted: the image is unpacked, and checkpoints are as cheap.

use std::process::Command;

use serde_json::json;

use super::Bench;
use super::repository::Repository;
use super::support::stand::Objects;

/// `command` without the capability to mount.
fn unprivileged(command: &Command) -> Command {
    let mut plain = Command::new("capsh");
    let script = "exec \"$0\" \"$@\"";
    plain.args(["--drop=cap_sys_admin", "--", "-c", script]);
    plain.arg(command.get_program()).args(command.get_args());
    plain.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    plain
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_applied_to_an_unpacked_image() {
    let bench = Bench::start(Objects::Embedded).await;
    let repository = Repository::make(&bench.path("repository"));
    repository.commit("one.yml", "- shell: \"echo one > /srv/one\"");
    repository.commit("two.yml", "- shell: \"cat /srv/one > /srv/two; rm /srv/one\"");
    let layers = json!([
        {"name": "one", "clone_url": repository.url(), "branch": "main", "playbook": "one.yml"},
        {"name": "two", "clone_url": repository.url(), "branch": "main", "playbook": "two.yml"},
    ]);
    let refused = unprivileged(&bench.command(&layers, &["--workspace", "overlay"]));
    let ran = bench.run(refused).await.failed_with("cannot open the image root");
    let error = ran.result["error"].as_str().unwrap();
    assert!(error.contains("Operation not permitted"), "{error}");

    let ran = bench.run(unprivileged(&bench.command(&layers, &[]))).await.succeeded();
    assert!(ran.log.contains("the image is unpacked instead of mounted"), "{}", ran.log);
    let id = ran.result_id();
    let srv = bench.unpacked(&id).await.join("srv");
    assert_eq!(std::fs::read_to_string(srv.join("two")).unwrap(), "one\n");
    assert!(!srv.join("one").exists());
    let changes = bench.json_of(&id, "changes.json").await;
    let added = changes["added"].as_array().unwrap();
    assert!(added.iter().any(|item| item["path"] == "srv/two"), "{changes}");
    // What ansible leaves in /root/.ansible, and no file that was only unpacked.
    assert!(added.len() < 10 && changes["changed"] == json!([]), "{changes}");
    let rootfs = format!("s3://boot-images/{id}/rootfs");
    let line = ran.log.lines().find(|line| line.contains(&rootfs)).unwrap_or_default();
    assert!(!line.contains("copied=0") && line.contains("copied="), "blocks are reused: {line}");
}
