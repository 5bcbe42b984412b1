//! Layers that are applied, fail, and are gone on with.

use std::fs::read_to_string;

use serde_json::json;

use super::Bench;
use super::repository::Repository;
use super::support::agent;
use super::support::stand::Objects;

const APPEND: &str = r#"- name: Append a line
  shell: "echo {{ inventory_hostname }} {{ cray_cfs_image }} >> /srv/zero""#;

const BREAK: &str = r#"- name: Work before the fault
  shell: "echo half > /srv/half"
- name: Break on purpose
  command: "/bin/false""#;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_layer_is_gone_on_with_and_nothing_is_done_twice() {
    let bench = Bench::start(Objects::Embedded).await;
    let (file, http) =
        (Repository::make(&bench.path("file")), Repository::make(&bench.path("http")));
    file.commit("site.yml", APPEND);
    let commit = http.commit("one.yml", "- shell: \"echo one > /srv/one\"");
    http.commit("one.yml", BREAK);
    let (_server, url) = http.serve().await;
    let two = Repository::make(&bench.path("two"));
    two.commit("two.yml", BREAK);
    let layers = json!([
        {"name": "zero", "clone_url": file.url(), "branch": "main"},
        {"name": "one", "cloneUrl": url, "commit": commit, "playbook": "one.yml"},
        {"name": "two", "clone_url": two.url(), "branch": "main", "playbook": "two.yml"},
    ]);
    let ran = bench.configure(&layers, &["--publish-layers"]).await.failed_with("Break on purpose");
    assert_eq!(ran.result["failed_layer"], json!({"index": 2, "name": "two"}));
    let layer_ids: Vec<_> = ran.result["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["image_id"].clone())
        .collect();
    assert_eq!(layer_ids.len(), 2, "{}", ran.result);

    let fixed = two.commit("two.yml", "- shell: \"test ! -e /srv/half; echo two > /srv/two\"");
    let arguments = ["--publish-layers", "--name", "result", "--from", "two"];
    let ran = bench.configure(&layers, &arguments).await.succeeded();
    assert_eq!(ran.result["layers"][0]["image_id"], layer_ids[0]);
    let id = ran.result_id();
    assert_eq!(ran.result["status"]["artifacts"][0]["image_id"], bench.image.as_str());
    assert_eq!(ran.result["status"]["artifacts"][0]["type"], "ims_customized_image");
    assert_eq!(bench.stand.ims.get(&format!("v3/images/{id}")).await["name"], "result");

    let srv = bench.unpacked(&id).await.join("srv");
    let zero = read_to_string(srv.join("zero")).unwrap();
    assert_eq!(zero.lines().collect::<Vec<_>>(), [format!("{} True", bench.image)]);
    assert_eq!(read_to_string(srv.join("one")).unwrap(), "one\n");
    assert_eq!(read_to_string(srv.join("two")).unwrap(), "two\n");
    assert!(!srv.join("half").exists(), "a failed layer leaves nothing");

    let provenance = bench.json_of(&id, "provenance.json").await;
    assert_eq!(provenance["base_image_id"], bench.image.as_str());
    assert_eq!(provenance["layers"][1]["commit"], commit.as_str());
    assert_eq!(provenance["layers"][2]["commit"], fixed.as_str());
    assert_eq!(provenance["layers"][2]["playbook"], "two.yml");
    let added = provenance["layers"][2]["changes"]["added"].as_array().unwrap();
    assert!(added.iter().any(|item| item["path"] == "srv/two"), "{added:?}");
    assert!(provenance["versions"]["ansible"].as_str().unwrap().contains("ansible"));
    let changes = bench.json_of(&id, "changes.json").await;
    let added = changes["added"].as_array().unwrap();
    for path in ["srv/zero", "srv/one", "srv/two"] {
        assert!(added.iter().any(|item| item["path"] == path), "{path}: {added:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_layer_can_be_completed_by_hand() {
    use super::support::process::Process;
    use super::support::{SOON, eventually};
    let bench = Bench::start(Objects::Embedded).await;
    let repository = Repository::make(&bench.path("repository"));
    repository.commit("site.yml", BREAK);
    let layers = json!([{"name": "a", "clone_url": repository.url(), "branch": "main"}]);
    let command = bench.command(&layers, &["--debug"]);
    let mut process = Process::start(command, bench.stand.dir.path(), "configure");
    let ssh = eventually("the layer is left open", 3 * SOON, async || {
        assert!(process.is_running(), "{}", process.log());
        let log = process.log();
        let start = log.find("ssh -i ")?;
        Some(log[start..].split(';').next().unwrap().to_owned())
    })
    .await;
    let script = format!(
        "{ssh} -o BatchMode=yes 'cat /srv/half; echo fixed > /srv/half; touch /tmp/complete'"
    );
    let output = super::support::tree::run(std::process::Command::new("sh").args(["-c", &script]));
    assert_eq!(output, b"half\n");
    let status = process.wait(3 * SOON).await;
    assert!(status.success(), "{}", process.log());
    let result: serde_json::Value = serde_json::from_str(&process.output()).unwrap();
    let id = result["status"]["artifacts"][0]["result_id"].as_str().unwrap().to_owned();
    let tree = bench.unpacked(&id).await;
    assert_eq!(read_to_string(tree.join("srv/half")).unwrap(), "fixed\n");
    assert!(!tree.join("tmp/complete").exists());
    assert_eq!(bench.json_of(&id, "provenance.json").await["layers"][0]["by_hand"], true);
    bench.assert_clean();
}

#[test]
fn limits_are_exact_and_nothing_is_started_on_bad_input() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.json");
    let layers = json!([{"name": "a", "clone_url": "u", "branch": "b"},
                        {"name": "b", "clone_url": "u", "branch": "b"}]);
    std::fs::write(&file, json!({"layers": layers}).to_string()).unwrap();
    let image = "6d3ab7d6-2a1e-4f0e-9d5f-0f6d5f0f6d5f";
    for (arguments, expected) in [
        (vec!["--limit", "2"], "0 (a), 1 (b)"),
        (vec!["--limit", "0,nope"], "\"nope\""),
        (vec!["--from", "c"], "0 (a), 1 (b)"),
        (vec!["--limit", "0", "--from", "1"], "exclude every layer"),
        (vec!["--group", "all"], "reserved by ansible"),
    ] {
        let output = std::process::Command::new(agent())
            .args(["configure", "--image", image, "--configuration"])
            .arg(&file)
            .args(&arguments)
            .env_clear()
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(expected), "{arguments:?}: {log}");
    }
}
